"""``random-quadratic``: least squares whose spectrum, noise and start are drawn for each index."""

from __future__ import annotations

import functools

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from lrcontrol.envs.seeding import draw_task, log_uniform
from lrcontrol.envs.task import Task

ENTROPY = 20_261_126  # of all instances; changing it changes every one of them


class Line(nn.Module):
    """Parameters θ (dimension,), drawn from N(0, size²); inputs (B, dimension) to (B,)."""

    def __init__(self, dimension: int, size: float) -> None:
        super().__init__()
        self.theta = nn.Parameter(size * torch.randn(dimension))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return x θ."""
        return x @ self.theta


def random_quadratic(index: int = 0, held_out: bool = False) -> Task:
    """Return instance ``index`` ≥ 0 of a noisy quadratic; held-out instances are drawn apart.

    The loss is the mean of (xθ − y)² with y = xθ* + noise. The rows x are normal with a covariance of eigenvalues
    j^−a, 0 ≤ a ≤ 2, along directions drawn at random, so that the Hessian's spectrum is twice that; 4 to 128
    dimensions, noise of 1 to 100 % of the targets' size, scale 0.1 to 10, a start 0.1 to 10 times as long as θ*; 1,024
    to 8,192 rows, minibatches of 8 to 128, 80 to 500 steps.

    Raises:
        InputError: a negative index.
    """
    random, name = draw_task("random-quadratic", ENTROPY, index, held_out)
    dimension, rows = round(log_uniform(random, 4, 128)), round(log_uniform(random, 1024, 8192))
    spectrum = np.arange(1.0, dimension + 1.0) ** -random.uniform(0.0, 2.0)
    directions = np.linalg.qr(random.standard_normal((dimension, dimension)))[0]
    inputs = random.standard_normal((rows, dimension)) * np.sqrt(spectrum) @ directions.T
    inputs *= log_uniform(random, 0.1, 10.0)
    targets = inputs @ random.standard_normal(dimension)
    targets += log_uniform(random, 0.01, 1.0) * targets.std() * random.standard_normal(rows)
    return Task(
        name=name,
        model=functools.partial(Line, dimension, log_uniform(random, 0.1, 10.0)),
        train=(torch.from_numpy(inputs.astype(np.float32)), torch.from_numpy(targets.astype(np.float32))),
        loss=F.mse_loss,
        batch_size=round(log_uniform(random, 8, 128)),
        steps=round(log_uniform(random, 80, 500)),
    )
