"""``random-deep``: made-up problems under networks of four to twelve hidden layers, drawn for each index."""

from __future__ import annotations

import functools

from lrcontrol.envs.models import mlp, scaled
from lrcontrol.envs.random_synthetic import clusters, fitting, functions
from lrcontrol.envs.seeding import draw_task, log_uniform
from lrcontrol.envs.task import Task

ENTROPY = 20_261_127  # of all instances; changing it changes every one of them
ACTIVATIONS = ("relu", "tanh", "elu", "gelu")


def random_deep(index: int = 0, held_out: bool = False) -> Task:
    """Return instance ``index`` ≥ 0: clusters or functions in turn; held-out instances are drawn apart.

    The data are those of ``random-synthetic``. Four to twelve hidden layers of one width, 12 to 48, half of the
    networks with a layer norm before each activation; initial weights as PyTorch draws them, times 1 to 2.4 where
    nothing is normalised, so that signals die out or last; minibatches of 16 to 128; 80 to 300 steps.

    Raises:
        InputError: a negative index.
    """
    random, name = draw_task("random-deep", ENTROPY, index, held_out)
    (inputs, targets), _ = (clusters, functions)[index % 2](random)
    outputs, loss = fitting(targets)
    width, layers = round(log_uniform(random, 12, 48)), round(log_uniform(random, 4, 12))
    normalised, activation = bool(random.random() < 0.5), ACTIVATIONS[random.integers(len(ACTIVATIONS))]
    sizes = (inputs.shape[1], *(width,) * layers, outputs)
    network = functools.partial(mlp, *sizes, activation=activation, normalised=normalised)
    gain = log_uniform(random, 0.7, 1.4) if normalised else log_uniform(random, 1.0, 2.4)
    return Task(
        name=name,
        model=functools.partial(scaled, network, gain),
        train=(inputs, targets),
        loss=loss,
        batch_size=round(log_uniform(random, 16, 128)),
        steps=round(log_uniform(random, 80, 300)),
    )
