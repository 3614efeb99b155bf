"""Trial steps: what the loss on the present minibatch would be after a step with one rate or another."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import SupportsFloat, TypeAlias

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from lrcontrol.controller_measures import gradient_of
from lrcontrol.controller_packs import flat, floating
from lrcontrol.controller_rehearsal import same_randomness
from lrcontrol.envs.errors import InputError

Closure: TypeAlias = Callable[[], SupportsFloat]
Trial: TypeAlias = tuple[float, list[tuple[Tensor, Tensor]]]
"""A rate, and the parameters with their updates."""


def loss_value(loss: object, device: Callable[[], torch.device]) -> float:
    """Return a loss as a float, the mean over the processes where torch.distributed is initialised.

    Args:
        loss: a number, or a tensor or array of one, on any device.
        device: tells where tensors of a process group on an accelerator have to be.

    Raises:
        InputError: it is not one number.
    """
    try:
        if isinstance(loss, (Tensor, np.ndarray)) and math.prod(loss.shape) == 1:
            number = float(loss.item())
        else:
            number = float(loss)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError):
        shape = f" of shape {tuple(loss.shape)}" if isinstance(loss, Tensor | np.ndarray) else ""
        kind = f"{type(loss).__name__}{shape}"
        raise InputError(f"the loss is a {kind}: give one number, the mean over the minibatch") from None
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        where = torch.device("cpu") if dist.get_backend() == "gloo" else device()
        total = torch.tensor(number, dtype=torch.float64, device=where)
        dist.all_reduce(total)
        number = total.item() / dist.get_world_size()
    return number


@torch.no_grad()
def try_steps(trials: list[Trial], closure: Closure, device: Callable[[], torch.device]) -> list[float]:
    """Return the losses after trial steps θ − rate · u; parameters are put back bit for bit, gradients as they were.

    All trials draw the same random numbers (dropout masks), and the generators are left as they were. The trials cost
    a copy of the parameters, and whatever memory the updates take.

    Args:
        trials: each moves the same parameters.
        closure: returns the loss on the present minibatch; called once for each trial, without gradients.
        device: tells that of the parameters.

    Raises:
        InputError: the closure returns something other than one number, or calls ``backward``.
    """
    kept = [(param, param.detach().clone()) for param, _ in trials[0][1]]
    gradients = [param.grad for param, _ in kept]
    losses = []
    try:
        for rate, pairs in trials:
            for (param, value), (_, update) in zip(kept, pairs, strict=True):
                torch.sub(value, update, alpha=rate, out=param)
            with same_randomness(device()):
                losses.append(loss_value(_called(closure), device))
    finally:
        for (param, value), gradient in zip(kept, gradients, strict=True):
            param.copy_(value)
            param.grad = gradient  # which a closure that begins with zero_grad takes away
    return losses


def _called(closure: Closure) -> SupportsFloat:
    try:
        return closure()
    except RuntimeError as error:
        if "does not require grad" not in str(error):
            raise
        raise InputError(
            "the closure calls backward(), but is called without gradients: let it return the loss and do no more"
        ) from error


RESOLUTION = 4.0 * 2.0**-23  # what a mean in float32 can tell, relative to the loss


def told_apart(loss: float, losses: list[float], trials: list[Trial], uphill: frozenset[int]) -> list[float]:
    """Return the trials' losses, where float32 cannot tell them from the first replaced by first-order estimates.

    A step too small to be seen in the loss would read as a tie otherwise, and a rate that is far too low as one that is
    not to be raised. Losses in float64, as the environment's are, are left as they are.

    Args:
        loss: before any step.
        losses: after each trial step.
        trials: the trials.
        uphill: ids of the parameters whose gradients are climbed: they are those of what is lowered, times −1.
    """
    first = losses[0]
    limit = RESOLUTION * abs(first)
    unseen = [abs(first - other) <= limit for other in losses[1:]]
    if not any(unseen) or not all(float(np.float32(value)) == value for value in losses):
        return losses
    estimates = [loss - rate * _descent(pairs, uphill) for rate, pairs in trials]
    shifts = [estimate - estimates[0] for estimate in estimates[1:]]
    return [first, *(first + s if u else v for s, u, v in zip(shifts, unseen, losses[1:], strict=True))]


def _descent(pairs: list[tuple[Tensor, Tensor]], uphill: frozenset[int]) -> float:
    """Return g · u, g that of what is lowered."""
    total = 0.0
    for param, update in pairs:
        grad = gradient_of(param)
        if grad is not None:
            product = float(torch.linalg.vecdot(floating(flat(grad)), floating(flat(update))))
            total += -product if id(param) in uphill else product
    return total


def probe_measures(losses: list[float], factor: float) -> dict[str, float]:
    """Return the measures that features of a probe are made from."""
    names = ("probe_loss", "probe_loss_more", "probe_loss_momentum")
    return dict(zip(names, losses, strict=False)) | {"probe_factor": factor if losses else math.nan}
