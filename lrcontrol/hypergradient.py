"""Hypergradient descent: optimizers that move their rate along the derivative of the loss by that rate.

SGD-HD and Adam-HD of Baydin et al. 2018 (arXiv 1703.04782), in the additive form of their algorithms and in the
multiplicative one they derive beside it; the authors' code is not packaged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.optim import Optimizer

from lrcontrol.envs.errors import InputError


class HypergradientSGD(Optimizer):
    """SGD-HD: α ← α + β g_t·u_{t−1} or α ← α (1 + β cos(g_t, u_{t−1})), then θ ← θ − α u_t, here with u = g.

    Products are over all parameters. The additive α can fall below 0 and would then climb the loss: it is held at 0,
    which the authors do not do, and from there it can rise again. The multiplicative one stays positive for β < 1.

    Args:
        params: what is trained; one learning rate for all.
        lr: the initial rate, 0.001 in the paper's experiments.
        additive: the form; the multiplicative one knows no scale of the gradient.
        beta: how fast the rate moves; None is 0.02 for the multiplicative form, and for the additive one 0.001, the
            paper's for SGD on small networks.

    Raises:
        InputError: a rate or a beta that is not positive, or a multiplicative beta of 1 or more.
    """

    additive_beta = 1e-3

    def __init__(
        self, params: Iterable[Tensor], lr: float = 1e-3, additive: bool = False, beta: float | None = None
    ) -> None:
        chosen = beta if beta is not None else self.additive_beta if additive else 0.02
        if not 0.0 < lr < math.inf:
            raise InputError(f"hypergradient: initial rate {lr:g} is not positive")
        if not 0.0 < chosen < (math.inf if additive else 1.0):
            raise InputError(f"hypergradient: beta {chosen:g} is not positive, or 1 or more without additive=true")
        super().__init__(params, {"lr": lr, "additive": additive, "beta": chosen})
        self._params = [p for group in self.param_groups for p in group["params"]]
        self._before: list[Tensor] | None = None
        self._steps = 0

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Move the rate, then the parameters, by the gradients that are there."""
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in self._params]
        rate: float = self.param_groups[0]["lr"]
        if self._before is not None:
            rate = self._moved(rate, grads, self._before)
        self._steps += 1
        self._before = self._direction(grads)
        for param, direction in zip(self._params, self._before, strict=True):
            param.sub_(direction, alpha=rate)
        for group in self.param_groups:
            group["lr"] = rate

    def _moved(self, rate: float, grads: list[Tensor], before: list[Tensor]) -> float:
        beta, product = self.param_groups[0]["beta"], _dot(grads, before)
        if self.param_groups[0]["additive"]:
            return float(max(rate + beta * product, 0.0))
        sizes = math.sqrt(_dot(grads, grads) * _dot(before, before))
        return float(rate * (1.0 + beta * product / sizes)) if sizes > 0.0 else rate

    def _direction(self, grads: list[Tensor]) -> list[Tensor]:
        """Return u_t, tensors that nothing else writes to."""
        return [grad.clone() for grad in grads]


class HypergradientAdam(HypergradientSGD):
    """Adam-HD: the same with Adam's u = m̂ / (sqrt(v̂) + 1e-8), decay rates 0.9 and 0.999.

    Its additive beta is 1e-7 unless given, the paper's for small networks.
    """

    additive_beta = 1e-7

    def _direction(self, grads: list[Tensor]) -> list[Tensor]:
        """Return u_t."""
        found = []
        for param, grad in zip(self._params, grads, strict=True):
            state = self.state[param]
            if not state:
                state["mean"], state["square"] = torch.zeros_like(param), torch.zeros_like(param)
            state["mean"].lerp_(grad, 0.1)
            state["square"].mul_(0.999).addcmul_(grad, grad, value=0.001)
            mean, square = state["mean"] / (1.0 - 0.9**self._steps), state["square"] / (1.0 - 0.999**self._steps)
            found.append(mean / (square.sqrt() + 1e-8))
        return found


def _dot(left: list[Tensor], right: list[Tensor]) -> float:
    return sum(float((a.double() * b.double()).sum()) for a, b in zip(left, right, strict=True))
