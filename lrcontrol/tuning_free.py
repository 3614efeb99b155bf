"""DoG and COCOB, optimizers that need no learning rate, after their papers; what packages there were are dormant."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class DoG(Optimizer):
    """Distance over gradients (Ivgi, Hinder and Carmon 2023, equations 1 and 2), with their averaged iterates.

    θ ← θ − η_t g_t, η_t = r̄_t / sqrt(Σ_{i ≤ t} ‖g_i‖² + 1e-8), r̄_t = max(r_ε, max_{i ≤ t} ‖θ_i − θ_0‖), norms over
    all parameters, r_ε = reps_rel (1 + ‖θ_0‖). ``eval()`` puts the polynomial-decay average of the iterates (section
    4.1 there, γ = 8) in the parameters' place, ``train()`` the last iterate.

    Args:
        params: what is trained; one learning rate for all.
        reps_rel: the first step's length relative to the parameters'.
    """

    def __init__(self, params: Iterable[Tensor], reps_rel: float = 1e-6) -> None:
        super().__init__(params, {"lr": 1.0, "reps_rel": reps_rel})
        self._params = [p for group in self.param_groups for p in group["params"]]
        self._start = [p.detach().clone() for p in self._params]
        self._average = [p.detach().clone() for p in self._params]
        self._farthest = reps_rel * (1.0 + _norm(self._start))
        self._squares, self._steps, self._averaged = 0.0, 0, False

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Take a step along the gradients that are there."""
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in self._params]
        self._farthest = max(self._farthest, _norm([p - s for p, s in zip(self._params, self._start, strict=True)]))
        self._squares += _norm(grads) ** 2
        rate = self._farthest / math.sqrt(self._squares + 1e-8)
        self._steps += 1
        weight = 9.0 / (self._steps + 8.0)
        for param, grad, average in zip(self._params, grads, self._average, strict=True):
            param.sub_(grad, alpha=rate)
            average.lerp_(param, weight)
        for group in self.param_groups:
            group["lr"] = rate

    def train(self) -> None:
        """Put the last iterate in place."""
        self._swap(False)

    def eval(self) -> None:
        """Put the average in place."""
        self._swap(True)

    @torch.no_grad()
    def _swap(self, averaged: bool) -> None:
        if averaged is not self._averaged:
            for param, other in zip(self._params, self._average, strict=True):
                kept = param.clone()
                param.copy_(other)
                other.copy_(kept)
            self._averaged = averaged


class COCOB(Optimizer):
    """Continuous coin betting (Orabona and Tommasi 2017, algorithm 2, COCOB-Backprop), each weight a bettor of its own.

    Args:
        params: what is trained.
        alpha: how cautious the first bets are; 100 is the paper's.
    """

    def __init__(self, params: Iterable[Tensor], alpha: float = 100.0) -> None:
        super().__init__(params, {"alpha": alpha})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Take a step along the gradients that are there."""
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None:
                    self._bet(param, -param.grad, group["alpha"], self.state[param])

    @staticmethod
    def _bet(param: Tensor, gain: Tensor, alpha: float, state: dict[str, Any]) -> None:
        if not state:
            state["start"] = param.clone()
            state["largest"] = torch.full_like(param, 1e-8)
            state["total"], state["sum"], state["reward"] = (torch.zeros_like(param) for _ in range(3))
        start, largest, total = state["start"], state["largest"], state["total"]
        torch.maximum(largest, gain.abs(), out=largest)
        total.add_(gain.abs())
        state["reward"].add_((param - start) * gain).clamp_(min=0.0)
        state["sum"].add_(gain)
        share = state["sum"] / (largest * torch.maximum(total + largest, alpha * largest))
        param.copy_(start + share * (largest + state["reward"]))


def _norm(tensors: list[Tensor]) -> float:
    return math.sqrt(sum(float(t.double().square().sum()) for t in tensors))
