"""``random-digits``: scikit-learn's digits under a network, scaling, minibatch and budget drawn for each index."""

from __future__ import annotations

import functools

from lrcontrol.envs.digits import digits
from lrcontrol.envs.models import mlp, scaled
from lrcontrol.envs.seeding import draw_task, log_uniform
from lrcontrol.envs.task import Task

ENTROPY = 20_250_117  # of all instances; changing it changes every one of them
ACTIVATIONS = ("tanh", "relu", "elu")


def random_digits(index: int = 0, held_out: bool = False) -> Task:
    """Return instance ``index`` ≥ 0 of digits under a random model; held-out instances are drawn apart.

    One or two hidden layers of 8 to 48 units, tanh, ReLU or ELU, initial weights times 0.5 to 2, minibatches of 16 to
    256, inputs times 0.4 to 3.3 and plus 0 to 0.5, 80 to 500 steps; sizes and scales are uniform in logarithm.

    Raises:
        InputError: a negative index.
    """
    random, name = draw_task("random-digits", ENTROPY, index, held_out)

    def between(low: float, high: float) -> float:
        return log_uniform(random, low, high)

    widths = [round(between(8, 48)) for _ in range(int(random.integers(1, 3)))]
    activation = ACTIVATIONS[random.integers(len(ACTIVATIONS))]
    gain, batch_size, steps = between(0.5, 2.0), round(between(16, 256)), round(between(80, 500))
    scale, shift = between(0.4, 3.3), float(random.uniform(0.0, 0.5))
    (inputs, targets), test = digits()
    return Task(
        name=name,
        model=functools.partial(scaled, functools.partial(mlp, 64, *widths, 10, activation=activation), gain),
        train=(inputs * scale + shift, targets),
        test=(test[0] * scale + shift, test[1]),
        batch_size=batch_size,
        steps=steps,
    )
