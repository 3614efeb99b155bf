"""The base optimizers over stacked parameters: what direction to step in; the learning rate is the caller's."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lrcontrol.envs.blocks import take
from lrcontrol.envs.layout import Layout
from lrcontrol.envs.task import Smoothing

Momentum = float | NDArray[np.float64]
ALIGNED = 64  # bytes of a cache line


class BaseOptimizer(Protocol):
    """θ ← θ − lr · u_t, worked out for some of the rows at a time; t, the ``step``, counts from 0.

    A momentum that is one float is the same at every step, and its update may be asked for only once; where momenta are
    an array (R,), u_t may be proposed again for others until the step is committed.
    """

    def reset(self) -> None:
        """Forget everything: the next step is the first."""

    def set_clock(self, step: int) -> None:
        """Take in the step at hand in the device's memory, where a CUDA graph reads it."""

    def gradient(self, step: int) -> Tensor:
        """Return where g_t is to be written, (R, P)."""

    def update(self, step: int) -> Tensor:
        """Return where u_t stands once it is proposed, (R, P)."""

    def memory(self, step: int) -> Tensor | None:
        """Return the momentum buffer before step t (R, P), to be read before u_t is proposed; None at the start."""

    def propose(self, rows: slice, step: int, params: Tensor, momentum: Momentum) -> None:
        """Work out u_t of the rows from g_t, the parameters (R, P) and the momentum."""

    def commit(self, rows: slice, step: int, momentum: Momentum) -> None:
        """Keep the memory behind u_t: the rows are taking the step."""

    def buffers(self) -> list[Tensor]:
        """Return all that it keeps of the replicas, (R, …) each, none of it twice."""


def column(values: NDArray[np.float64], like: Tensor) -> Tensor:
    """Return the values (R,) as a column (R, 1) of the device and type of ``like``."""
    return torch.from_numpy(values).to(like.device, like.dtype)[:, None]


def _average(new: Tensor, old: Tensor, keep: Momentum, out: Tensor) -> Tensor:
    """Write keep · old + (1 − keep) · new into ``out``, ``keep`` a number or one for each row."""
    if isinstance(keep, float):
        return torch.lerp(new, old, keep, out=out)
    weight = column(keep, new)
    return torch.mul(old, weight, out=out).add_(new * (1.0 - weight))


def _of(rows: slice, momentum: Momentum) -> Momentum:
    return momentum if isinstance(momentum, float) else momentum[rows]


def blank(like: Tensor) -> Tensor:
    """Return zeros of the shape, type and device of ``like``, which on the CPU take no memory until they are written.

    They begin with a cache line, as torch's do: a row is worked on alike wherever it stands.
    """
    if like.device.type != "cpu" or like.dtype not in (torch.float32, torch.float64):
        return torch.zeros_like(like)
    numbers = np.zeros(like.numel() + ALIGNED // like.element_size(), dtype=like.numpy().dtype)
    first = -numbers.ctypes.data % ALIGNED // like.element_size()
    return torch.from_numpy(numbers[first : first + like.numel()]).view(like.shape)


class SGD:
    """v ← β v + (1 − β) g, u = v, starting from v = g: torch's SGD with dampening equal to momentum.

    In this form lr keeps its scale whatever β is. Without momentum u = g, and the memory is the last gradient.
    """

    def __init__(self, like: Tensor, uses_momentum: bool) -> None:
        two = torch.zeros_like(like), torch.zeros_like(like)  # this step's and the last one's, taking turns
        self.uses_momentum = uses_momentum
        self._gradients, self._updates = two, two
        if uses_momentum:
            self._gradients = (blank(like),) * 2  # compiled steps do not write it

    def reset(self) -> None:
        """See BaseOptimizer: the first step reads no memory."""

    def set_clock(self, step: int) -> None:
        """See BaseOptimizer: a step is like any other."""

    def gradient(self, step: int) -> Tensor:
        """See BaseOptimizer."""
        return self._gradients[step % 2]

    def update(self, step: int) -> Tensor:
        """See BaseOptimizer."""
        return self._updates[step % 2]

    def memory(self, step: int) -> Tensor | None:
        """See BaseOptimizer."""
        return self._updates[(step - 1) % 2] if step else None

    def propose(self, rows: slice, step: int, params: Tensor, momentum: Momentum) -> None:
        """See BaseOptimizer."""
        gradient, update, memory = self.gradient(step), self.update(step), self.memory(step)
        if memory is None and update is not gradient:
            update[rows] = gradient[rows]
        elif memory is not None and update is not gradient:
            _average(gradient[rows], memory[rows], _of(rows, momentum), out=update[rows])

    def commit(self, rows: slice, step: int, momentum: Momentum) -> None:
        """See BaseOptimizer: what was proposed becomes the memory by itself."""

    def buffers(self) -> list[Tensor]:
        """See BaseOptimizer; without momentum the gradients are the updates."""
        return list({id(buffer): buffer for buffer in (*self._gradients, *self._updates)}.values())


class AdamW:
    """AdamW (Loshchilov and Hutter 2019, algorithm 2, with torch's decay by lr · weight_decay); β1 is its momentum."""

    def __init__(self, like: Tensor, weight_decay: float = 0.0, beta2: float = 0.999, epsilon: float = 1e-8) -> None:
        self.weight_decay, self.beta2, self.epsilon = weight_decay, beta2, epsilon
        self._gradient, self._update = blank(like), torch.zeros_like(like)  # compiled steps do not write the first
        self.means, self.squares = torch.zeros_like(like), torch.zeros_like(like)
        self._squared = [-1] * len(like)  # the step whose gradient a row has squared last: β2 does not move
        # Steps taken after that one; of the type that torch's kernels read whatever the parameters are.
        self._clock, self._clock_step = torch.ones((), dtype=torch.float32, device=like.device), 0

    def reset(self) -> None:
        """See BaseOptimizer."""
        for buffer in (self._update, self.means, self.squares):
            buffer.zero_()
        self._squared = [-1] * len(self._squared)

    def set_clock(self, step: int) -> None:
        """See BaseOptimizer."""
        self._clock_step = step
        self._clock.fill_(step + 1.0)

    def gradient(self, step: int) -> Tensor:
        """See BaseOptimizer."""
        return self._gradient

    def update(self, step: int) -> Tensor:
        """See BaseOptimizer."""
        return self._update

    def memory(self, step: int) -> Tensor | None:
        """See BaseOptimizer."""
        return self.means if step else None

    def propose(self, rows: slice, step: int, params: Tensor, momentum: Momentum) -> None:
        """See BaseOptimizer."""
        g, m, v, u = (take(part, rows) for part in (self._gradient, self.means, self.squares, self._update))
        if isinstance(momentum, float):
            self._fused(g, m, v, u, step, momentum)
        else:
            if self._squared[rows.start] < step:
                v.mul_(self.beta2).addcmul_(g, g, value=1.0 - self.beta2)
                self._squared[rows.start] = step
            beta1 = momentum[rows]
            torch.div(v, 1.0 - self.beta2 ** (step + 1), out=u).sqrt_().add_(self.epsilon)
            torch.div(_average(g, m, beta1, out=torch.empty_like(g)), u, out=u)
            u.div_(column(1.0 - beta1 ** (step + 1), u))
        if self.weight_decay:
            u.add_(params[rows], alpha=self.weight_decay)

    def _fused(self, g: Tensor, m: Tensor, v: Tensor, u: Tensor, step: int, beta1: float) -> None:
        """Let torch's one-pass kernel decay u to nothing and take a step of rate −1 from there, which is the new u.

        The kernel itself, since ``torch.optim.adamw.adamw`` around it takes as long again where there is one replica.
        """
        taken = self._clock + float(step - self._clock_step)
        torch._fused_adamw_(
            [u],
            [g],
            [m],
            [v],
            [],
            [taken],
            amsgrad=False,
            maximize=False,
            beta1=beta1,
            beta2=self.beta2,
            lr=-1.0,
            weight_decay=-1.0,
            eps=self.epsilon,
        )

    def commit(self, rows: slice, step: int, momentum: Momentum) -> None:
        """See BaseOptimizer."""
        if not isinstance(momentum, float):  # the fused kernel has done so already
            _average(self._gradient[rows], self.means[rows], momentum[rows], out=self.means[rows])

    def take_in(self, step: int) -> None:
        """Take in that u_t and the squares behind it were written for all rows by somebody else."""
        self._squared = [step] * len(self._squared)

    def buffers(self) -> list[Tensor]:
        """See BaseOptimizer."""
        return [self._gradient, self._update, self.means, self.squares]


class Smoothed:
    """The proposal's smoothing of the gradient's size around another optimizer: it is given g · E / N for g."""

    def __init__(self, inner: BaseOptimizer, smoothing: Smoothing, layout: Layout, like: Tensor) -> None:
        self.inner, self.smoothing, self.layout = inner, smoothing, layout
        self._gradient = torch.zeros_like(like)
        self._size, self._next = torch.zeros(2, len(like), dtype=like.dtype, device=like.device)

    def reset(self) -> None:
        """See BaseOptimizer."""
        self._size.zero_()
        self.inner.reset()

    def set_clock(self, step: int) -> None:
        """See BaseOptimizer."""
        self.inner.set_clock(step)

    def gradient(self, step: int) -> Tensor:
        """See BaseOptimizer."""
        return self._gradient

    def update(self, step: int) -> Tensor:
        """See BaseOptimizer."""
        return self.inner.update(step)

    def memory(self, step: int) -> Tensor | None:
        """See BaseOptimizer."""
        return self.inner.memory(step)

    def propose(self, rows: slice, step: int, params: Tensor, momentum: Momentum) -> None:
        """See BaseOptimizer."""
        gradient = self._gradient[rows]
        tensors = self.layout.views(gradient).values()
        size = torch.stack([torch.linalg.vector_norm(view.flatten(1), dim=1) for view in tensors]).sum(dim=0)
        before = size if step == 0 and self.smoothing.start == "first" else self._size[rows]
        smooth = self.smoothing.rate * size + (1.0 - self.smoothing.rate) * before
        scale = torch.where(size > 0.0, smooth / size, torch.zeros_like(size))
        self._next[rows] = smooth
        torch.mul(gradient, scale[:, None], out=self.inner.gradient(step)[rows])
        self.inner.propose(rows, step, params, momentum)

    def commit(self, rows: slice, step: int, momentum: Momentum) -> None:
        """See BaseOptimizer."""
        self._size[rows] = self._next[rows]
        self.inner.commit(rows, step, momentum)

    def buffers(self) -> list[Tensor]:
        """See BaseOptimizer."""
        return [self._gradient, self._size, self._next, *self.inner.buffers()]


OPTIMIZERS = ("sgd", "adamw")


def make_optimizer(
    name: str, uses_momentum: bool, weight_decay: float, smoothing: Smoothing | None, layout: Layout, like: Tensor
) -> BaseOptimizer:
    """Return an optimizer, of one of the names in ``OPTIMIZERS``, for parameters of the shape of ``like``."""
    inner: BaseOptimizer = AdamW(like, weight_decay) if name == "adamw" else SGD(like, uses_momentum)
    return inner if smoothing is None else Smoothed(inner, smoothing, layout, like)
