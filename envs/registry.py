"""The tasks and distributions of tasks by name. A new one is one file and one line here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from lrcontrol.envs import (
    digits,
    images,
    quadratic,
    random_deep,
    random_digits,
    random_fresh,
    random_images,
    random_quadratic,
    random_raw,
    random_synthetic,
    text,
)
from lrcontrol.envs.spec import build
from lrcontrol.envs.task import Task

DISTRIBUTIONS: dict[str, Callable[[int, bool], Task]] = {
    "random-digits": random_digits.random_digits,
    "random-synthetic": random_synthetic.random_synthetic,
    "random-deep": random_deep.random_deep,
    "random-images": random_images.random_images,
    "random-fresh": random_fresh.random_fresh,
    "random-raw": random_raw.random_raw,
    "random-quadratic": random_quadratic.random_quadratic,
}

TASKS: dict[str, Callable[..., Task]] = {
    "digits-mlp": digits.digits_mlp,
    "quadratic": quadratic.quadratic,
    "mnist-mlp": images.mnist_mlp,
    "mnist-mlp-raw": images.mnist_mlp_raw,
    "fashion-mnist-mlp": images.fashion_mnist_mlp,
    "fashion-mnist-deep": images.fashion_mnist_deep,
    "mnist-cnn": images.mnist_cnn,
    "mnist-autoencoder": images.mnist_autoencoder,
    "shakespeare-gpt": text.shakespeare_gpt,
    **DISTRIBUTIONS,  # each instance is a task: random-digits:index=7
}


def make_task(task: str | Task) -> Task:
    """Return the task that ``name`` or ``name:key=value,…`` spells, called so; a Task is returned as it is.

    Raises:
        InputError: no such name or key (the nearest is suggested), or the data set cannot be had.
    """
    if isinstance(task, Task):
        return task
    made = build(task, TASKS, "task")
    return made if ":" in made.name else replace(made, name=task)  # what differs in its keys is another task
