"""The base optimizers over stacked parameters: what direction to step in; the learning rate is the caller's."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lrcontrol.envs.layout import Layout
from lrcontrol.envs.reductions import row_blocks
from lrcontrol.envs.task import Smoothing


class BaseOptimizer(Protocol):
    """θ ← θ − lr · u, where u is proposed from the gradient and becomes memory only when the step is taken."""

    @property
    def memory(self) -> Tensor | None:
        """The momentum buffer before this step (R, P), or None where there is none yet."""

    def propose(self, params: Tensor, gradient: Tensor, momentum: Momentum) -> Tensor:
        """Return u (R, P) for the gradient (R, P) and the momentum, one number or (R,); may be asked again."""

    def commit(self) -> None:
        """Keep the memory behind the last proposal: the step is being taken."""


Momentum = float | NDArray[np.float64]


def column(values: NDArray[np.float64], like: Tensor) -> Tensor:
    """Return the values (R,) as a column (R, 1) of the device and type of ``like``."""
    return torch.from_numpy(values).to(like.device, like.dtype)[:, None]


def _average(new: Tensor, old: Tensor, keep: Momentum, out: Tensor) -> Tensor:
    """Write keep · old + (1 − keep) · new into ``out``, ``keep`` a number or one for each row."""
    if isinstance(keep, float):
        return torch.lerp(new, old, keep, out=out)
    weight = column(keep, new)
    return torch.mul(old, weight, out=out).add_(new * (1.0 - weight))


class SGD:
    """v ← β v + (1 − β) g, u = v, starting from v = g: torch's SGD with dampening equal to momentum.

    In this form lr keeps its scale whatever β is. Without momentum u = g, and the memory is the last gradient, which
    the caller must not overwrite before the next step is taken.
    """

    def __init__(self, uses_momentum: bool) -> None:
        self.uses_momentum = uses_momentum
        self.memory: Tensor | None = None
        self._next: Tensor | None = None

    def propose(self, params: Tensor, gradient: Tensor, momentum: Momentum) -> Tensor:
        """See BaseOptimizer."""
        if not self.uses_momentum or self.memory is None:
            self._next = gradient
        else:
            self._next = _average(gradient, self.memory, momentum, out=torch.empty_like(gradient))
        return self._next

    def commit(self) -> None:
        """See BaseOptimizer."""
        self.memory = self._next


class AdamW:
    """AdamW (Loshchilov and Hutter 2019, algorithm 2, with torch's decay by lr · weight_decay); β1 is its momentum."""

    def __init__(self, weight_decay: float = 0.0, beta2: float = 0.999, epsilon: float = 1e-8) -> None:
        self.weight_decay, self.beta2, self.epsilon = weight_decay, beta2, epsilon
        self.memory: Tensor | None = None
        self._next: Tensor | None = None
        self._squares: Tensor | None = None
        self._update: Tensor | None = None
        self._step, self._squares_step = 0, 0

    def propose(self, params: Tensor, gradient: Tensor, momentum: Momentum) -> Tensor:
        """See BaseOptimizer."""
        if self.memory is None or self._squares is None or self._next is None or self._update is None:
            self.memory, self._squares = torch.zeros_like(gradient), torch.zeros_like(gradient)
            self._next, self._update = torch.empty_like(gradient), torch.empty_like(gradient)
        step = self._step + 1
        fresh, self._squares_step = self._squares_step < step, step  # β2 does not move: squared once for each gradient
        for rows in row_blocks(gradient):
            g, u, squares = gradient[rows], self._update[rows], self._squares[rows]
            beta1 = momentum if isinstance(momentum, float) else momentum[rows]
            if fresh:
                squares.mul_(self.beta2).addcmul_(g, g, value=1.0 - self.beta2)
            torch.div(squares, 1.0 - self.beta2**step, out=u).sqrt_().add_(self.epsilon)
            first = _average(g, self.memory[rows], beta1, out=self._next[rows])
            torch.div(first, u, out=u)
            correction = 1.0 - beta1**step
            u.div_(correction if isinstance(correction, float) else column(correction, u))
            if self.weight_decay:
                u.add_(params[rows], alpha=self.weight_decay)
        return self._update

    def commit(self) -> None:
        """See BaseOptimizer."""
        self.memory, self._next = self._next, self.memory
        self._step += 1


class Smoothed:
    """The proposal's smoothing of the gradient's size around another optimizer: it is given g · E / N for g."""

    def __init__(self, inner: BaseOptimizer, smoothing: Smoothing, layout: Layout) -> None:
        self.inner, self.smoothing, self.layout = inner, smoothing, layout
        self._size: Tensor | None = None
        self._next: Tensor | None = None

    @property
    def memory(self) -> Tensor | None:
        """The inner optimizer's momentum buffer."""
        return self.inner.memory

    def propose(self, params: Tensor, gradient: Tensor, momentum: Momentum) -> Tensor:
        """See BaseOptimizer."""
        tensors = self.layout.views(gradient).values()
        size = torch.stack([torch.linalg.vector_norm(view.flatten(1), dim=1) for view in tensors]).sum(dim=0)
        before = self._size
        if before is None:
            before = size if self.smoothing.start == "first" else torch.zeros_like(size)
        self._next = self.smoothing.rate * size + (1.0 - self.smoothing.rate) * before
        scale = torch.where(size > 0.0, self._next / size, torch.zeros_like(size))
        return self.inner.propose(params, gradient * scale[:, None], momentum)

    def commit(self) -> None:
        """See BaseOptimizer."""
        self._size = self._next
        self.inner.commit()


OPTIMIZERS = ("sgd", "adamw")


def make_optimizer(
    name: str, uses_momentum: bool, weight_decay: float, smoothing: Smoothing | None, layout: Layout
) -> BaseOptimizer:
    """Return a fresh optimizer of one of the names in ``OPTIMIZERS``."""
    inner: BaseOptimizer = AdamW(weight_decay) if name == "adamw" else SGD(uses_momentum)
    return inner if smoothing is None else Smoothed(inner, smoothing, layout)
