"""``random-raw``: pixels and measurements that nobody has scaled, and a first loss of tens, drawn for each index."""

from __future__ import annotations

import functools

import torch

from lrcontrol.envs.models import mlp, scaled
from lrcontrol.envs.random_images import moved_digits
from lrcontrol.envs.random_synthetic import clusters, fitting
from lrcontrol.envs.seeding import draw_task, log_uniform
from lrcontrol.envs.task import Smoothing, Task

ENTROPY = 20_261_129  # of all instances; changing it changes every one of them
ACTIVATIONS = ("relu", "relu", "relu", "tanh", "elu", "gelu")


def random_raw(index: int = 0, held_out: bool = False) -> Task:
    """Return instance ``index`` ≥ 0; held-out instances are drawn apart.

    Two of three are digits of 0 to 30 up to 0 to 255, moved by up to a pixel, their grey times 0.5 to 1.5, with noise,
    1,024 to 32,768 of them; the third the clusters of ``random-synthetic``, times 10 to 100, those below 0 read as 0.
    One hidden layer of 8 to 64 units, for a third of them two, half of the networks ReLU, others tanh, ELU or GELU;
    initial weights times 0.7 to 1.4; minibatches of 16 to 1,024; 100 to 600 steps. Half of the tasks smooth the
    gradient's size as the proposal does.

    Raises:
        InputError: a negative index.
    """
    random, name = draw_task("random-raw", ENTROPY, index, held_out)
    if index % 3 == 2:
        (inputs, labels), _ = clusters(random)
        inputs = torch.relu(inputs) * log_uniform(random, 10, 100)
    else:
        images, labels = moved_digits(random, round(log_uniform(random, 1024, 32768)), shifts=3)
        inputs = torch.relu(images.flatten(1)) * log_uniform(random, 30, 255)
    widths = [round(log_uniform(random, 8, 64)) for _ in range(1 + (random.random() < 1 / 3))]
    activation = ACTIVATIONS[random.integers(len(ACTIVATIONS))]
    network = functools.partial(mlp, inputs.shape[1], *widths, fitting(labels)[0], activation=activation)
    return Task(
        name=name,
        model=functools.partial(scaled, network, log_uniform(random, 0.7, 1.4)),
        train=(inputs, labels),
        batch_size=round(log_uniform(random, 16, 1024)),
        steps=round(log_uniform(random, 100, 600)),
        smoothing=Smoothing(rate=0.1, start="first") if random.random() < 0.5 else None,
    )
