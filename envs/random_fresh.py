"""``random-fresh``: digits moved about, so that few are seen twice, in larger minibatches, drawn for each index."""

from __future__ import annotations

import functools

from lrcontrol.envs.models import mlp, scaled
from lrcontrol.envs.random_images import moved_digits
from lrcontrol.envs.random_synthetic import fitting
from lrcontrol.envs.seeding import draw_task, log_uniform
from lrcontrol.envs.task import Task

ENTROPY = 20_261_128  # of all instances; changing it changes every one of them
ACTIVATIONS = ("relu", "relu", "tanh", "elu", "gelu")


def random_fresh(index: int = 0, held_out: bool = False) -> Task:
    """Return instance ``index`` ≥ 0; held-out instances are drawn apart.

    Two of three are digits to be told apart, the third digits through a bottleneck. Each is moved by up to a pixel, its
    grey times 0.5 to 1.5, with noise, 8,192 to 32,768 of them; inputs times 0.4 to 3.3, for a sixth of the classifiers
    times 10 to 255, as pixels are that nobody has scaled. One to three hidden layers of 8 to 64 units, ReLU, tanh, ELU
    or GELU, the auto-encoder's middle 2 to 16; initial weights times 0.7 to 1.7; minibatches of 64 to 1,024; 100 to 400
    steps.

    Raises:
        InputError: a negative index.
    """
    random, name = draw_task("random-fresh", ENTROPY, index, held_out)
    bottleneck, raw = index % 3 == 2, random.random() < 1 / 6
    images, labels = moved_digits(random, round(log_uniform(random, 8192, 32768)), shifts=3)
    inputs = images.flatten(1)
    inputs = inputs * (log_uniform(random, 10, 255) if raw and not bottleneck else log_uniform(random, 0.4, 3.3))
    widths = [round(log_uniform(random, 8, 64)) for _ in range(int(random.integers(1, 4)))]
    if bottleneck:
        outer = widths[:-1]
        widths = [*outer, round(log_uniform(random, 2, 16)), *outer[::-1]]
    targets = inputs if bottleneck else labels
    outputs, loss = fitting(targets)
    activation = ACTIVATIONS[random.integers(len(ACTIVATIONS))]
    network = functools.partial(mlp, inputs.shape[1], *widths, outputs, activation=activation)
    return Task(
        name=name,
        model=functools.partial(scaled, network, log_uniform(random, 0.7, 1.7)),
        train=(inputs, targets),
        loss=loss,
        batch_size=round(log_uniform(random, 64, 1024)),
        steps=round(log_uniform(random, 100, 400)),
    )
