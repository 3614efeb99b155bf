"""``quadratic``: a problem with known answers, its conditioning and noise as parameters."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lrcontrol.envs.errors import InputError
from lrcontrol.envs.task import Task

SAMPLES = 1024  # minima among which minibatches are drawn when there is noise
BATCH_SIZE = 16


class Quadratic(nn.Module):
    """Parameters θ (dimension,), drawn from a standard normal; for minima x (B, dimension) gives √h · (θ − x)."""

    curvature: Tensor

    def __init__(self, curvature: Tensor) -> None:
        super().__init__()
        self.register_buffer("curvature", curvature)
        self.theta = nn.Parameter(torch.randn(len(curvature)))

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, dimension), whose half squared row sums are the samples' losses."""
        return self.curvature.sqrt() * (self.theta - x)


def half_squared_norm(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return ½ ‖outputs − targets‖² averaged over the rows; the targets are zero."""
    return 0.5 * (outputs - targets).square().sum(dim=-1).mean()


def quadratic(dimension: int = 10, conditioning: float = 10.0, noise: float = 0.0, steps: int = 200) -> Task:
    """Return the task L(θ; x) = ½ Σ h_j (θ_j − x_j)², curvatures h log-spaced from μ = 1/conditioning to L = 1.

    Without noise every x is zero, the best constant rate of gradient descent is 2/(L + μ), and it diverges above 2/L
    (Polyak 1987, Introduction to Optimization, section 1.4). With noise the minima x are 1,024 fixed draws from
    N(0, noise²), centred so that the whole problem's minimum stays at zero, in minibatches of 16.

    Raises:
        InputError: dimension < 1, conditioning < 1, or noise < 0.
    """
    if dimension < 1:
        raise InputError(f"quadratic: dimension {dimension} is not positive")
    if not 1.0 <= conditioning < math.inf:
        raise InputError(f"quadratic: conditioning {conditioning} is not a number of 1 or more")
    if not 0.0 <= noise < math.inf:
        raise InputError(f"quadratic: noise {noise} is not a number of 0 or more")
    curvature = torch.logspace(0.0, -1.0, dimension, base=conditioning)
    if noise > 0.0:
        minima = noise * torch.randn(SAMPLES, dimension, generator=torch.Generator().manual_seed(0))
        minima -= minima.mean(dim=0)
    else:
        minima = torch.zeros(1, dimension)
    return Task(
        name="quadratic",
        model=lambda: Quadratic(curvature),
        loss=half_squared_norm,
        train=(minima, torch.zeros_like(minima)),
        batch_size=min(BATCH_SIZE, len(minima)),
        steps=steps,
    )
