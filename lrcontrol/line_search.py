"""Steps whose size is found from the minibatch's loss: stochastic Polyak steps and a stochastic line search."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.optim import Optimizer

from lrcontrol.envs.errors import InputError

MOST_TRIALS = 100  # 0.9 ** 100 is 2.7e-5: what has not been accepted by then is lost in rounding


class _SGD(Optimizer):
    """Plain SGD whose rate is chosen anew each step; it may grow by ``gamma`` in an epoch."""

    def __init__(self, params: Iterable[Tensor], per_epoch: int, lr: float, c: float, gamma: float) -> None:
        kind = type(self).__name__.lower()
        if per_epoch < 1:
            raise InputError(f"{kind}: per_epoch {per_epoch} is not positive")
        if not (0.0 < lr < math.inf and 0.0 < c < math.inf and 1.0 <= gamma < math.inf):
            raise InputError(f"{kind}: lr {lr:g} and c {c:g} must be positive, and gamma {gamma:g} 1 or more")
        super().__init__(params, {"lr": lr, "c": c})
        self._growth = gamma ** (1.0 / per_epoch)
        self._params = [p for group in self.param_groups for p in group["params"]]

    def _gradients(self) -> tuple[list[Tensor], float]:
        """Return the gradients that are there and the square of their common norm."""
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in self._params]
        return grads, sum(float(grad.double().square().sum()) for grad in grads)

    def _move(self, starts: list[Tensor], grads: list[Tensor], rate: float) -> None:
        for param, start, grad in zip(self._params, starts, grads, strict=True):
            param.copy_(start - rate * grad)
        for group in self.param_groups:
            group["lr"] = rate


class SPS(_SGD):
    """Stochastic Polyak steps, SPS_max (Loizou et al. 2021, arXiv 2002.10542) with its smoothed bound.

    θ ← θ − η_t g_t, η_t = min(L_t / (c ‖g_t‖²), γ^{1/n} η_{t−1}), n minibatches in an epoch, the lowest possible loss
    being 0. A loss below 0 takes no step.

    Args:
        params: what is trained; one learning rate for all.
        per_epoch: n.
        lr: η before the first step.
        c: the larger, the smaller the steps; on a quadratic of one dimension 0.5 goes to the minimum at once.
        gamma: γ, by how much the rate may grow in an epoch.

    Raises:
        InputError: a value that cannot be used.
    """

    def __init__(
        self, params: Iterable[Tensor], per_epoch: int, lr: float = 1.0, c: float = 0.5, gamma: float = 2.0
    ) -> None:
        super().__init__(params, per_epoch, lr, c, gamma)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None, *, loss: float) -> None:  # type: ignore[override]
        """Take a step along the gradients that are there, ``loss`` being what they are the gradients of."""
        grads, square = self._gradients()
        group = self.param_groups[0]
        rate = self._growth * group["lr"]
        if square > 0.0:
            rate = min(max(loss, 0.0) / (group["c"] * square), rate)
        self._move(self._params, grads, rate)


class Armijo(_SGD):
    """Stochastic line search, SLS (Vaswani et al. 2019, arXiv 1905.09997): backtracks until the minibatch agrees.

    η starts at γ^{1/n} η_{t−1}, n minibatches in an epoch, and is multiplied by ``shrink`` until
    L(θ − η g) ≤ L(θ) − c η ‖g‖², each trial costing a forward pass; the hundredth is taken as it is.

    Args:
        params: what is trained; one learning rate for all.
        per_epoch: n.
        lr: η before the first step.
        c: share of the decrease promised by the gradient that is asked for, below 1.
        shrink: between 0 and 1.
        gamma: γ, by how much the rate may grow in an epoch.

    Raises:
        InputError: a value that cannot be used.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        per_epoch: int,
        lr: float = 1.0,
        c: float = 0.1,
        shrink: float = 0.9,
        gamma: float = 2.0,
    ) -> None:
        if not (0.0 < shrink < 1.0 and c < 1.0):
            raise InputError(f"armijo: shrink {shrink:g} is not between 0 and 1, or c {c:g} is not below 1")
        super().__init__(params, per_epoch, lr, c, gamma)
        self._shrink = shrink

    @torch.no_grad()
    def step(self, closure: Callable[[], float], *, loss: float) -> None:  # type: ignore[override]
        """Take a step along the gradients that are there.

        Args:
            closure: returns the minibatch's loss at the parameters as they stand, without a backward pass.
            loss: what it was before.
        """
        grads, square = self._gradients()
        starts = [p.clone() for p in self._params]
        rate, promised = self._growth * self.param_groups[0]["lr"], self.param_groups[0]["c"] * square
        for trial in range(MOST_TRIALS):
            rate *= 1.0 if trial == 0 else self._shrink
            self._move(starts, grads, rate)
            if closure() <= loss - rate * promised:  # not so where it is no number
                break
