"""Which way a torch optimizer is about to step, from its state and the gradients, without stepping.

The update u is what the optimizer will step along, divided by the reference rate, θ ← θ − lr · u:

- SGD: u = v, its momentum buffer after the step, v ← β v + (1 − dampening) g, or g where there is no momentum; with
  Nesterov g + β v. Only with ``dampening`` equal to ``momentum``, the environment's form, does lr keep its scale
  whatever β is.
- Adam and AdamW: the bias-corrected m / (sqrt(s) + ε), AMSGrad and either kind of weight decay included.
- Any other optimizer, and subclasses of these, which may step otherwise: u = g, their true update being unknown.

A group with a rate of its own enters u with the ratio of that rate to the reference.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

from lrcontrol.controller_rates import LEAST_MOMENTUM, Group, read_momentum

# Numbers worked on at once, which a cache holds together, and below which a parameter is laid together with others.
SIZES_CPU, SIZES_OTHER = (1 << 18, 1 << 14), (1 << 24, 1 << 20)
CHUNK = 1 << 11  # numbers that stand together where only a sample is taken
MEMORIES = ("momentum_buffer", "exp_avg")


@dataclass
class Slot:
    """A parameter that has a gradient, all that its step is made from, and the step's number, from 1, for Adam."""

    param: Tensor
    grad: Tensor
    group: Group
    ratio: float
    state: dict[str, Any]
    memory: Tensor | None
    step: float = 1.0


@dataclass
class Pack:
    """Slices of parameters that share group, state and device, laid end to end: flat tensors of one length.

    ``weight`` is what sums over them are multiplied by, where they stand for more than themselves.
    """

    group: Group
    ratio: float
    step: float
    grad: Tensor
    param: Tensor
    memory: Tensor | None
    state: dict[str, Tensor]
    slices: list[tuple[Slot, int, int]]
    weight: float = 1.0


def kind_of(optimizer: Optimizer) -> str:
    """Return ``sgd``, ``adam`` or ``unknown``: which update is known."""
    kinds: dict[type[Optimizer], str] = {SGD: "sgd", Adam: "adam", AdamW: "adam"}
    return kinds.get(type(optimizer), "unknown")


def packs(slots: Sequence[Slot], needs: Sequence[str], every: int = 1) -> Iterator[Pack]:
    """Yield the slots in packs, with the entries of the optimizer's state named in ``needs`` where they are there.

    Large parameters are cut, which copies nothing; small ones are laid together, so that kernels are few. With
    ``every`` k above 1 only one chunk of ``CHUNK`` numbers in k is taken of parameters of at least k chunks.
    """
    waiting: list[tuple[Slot, int, int]] = []
    numbers, key = 0, None
    for slot in slots:
        size, small = SIZES_CPU if slot.grad.device.type == "cpu" else SIZES_OTHER
        total = slot.grad.numel() * (2 if slot.grad.is_complex() else 1)
        if every > 1 and total >= every * CHUNK:
            yield _sample(slot, needs, every, total)
            continue
        if total >= small:
            for start in range(0, total, size):
                yield _pack([(slot, start, min(total, start + size))], needs)
            continue
        there = [name for name in needs if name in slot.state]
        other = (id(slot.group), slot.step, slot.memory is None, slot.grad.device, there)
        if waiting and (other != key or numbers + total > size):
            yield _pack(waiting, needs)
            waiting, numbers = [], 0
        key, numbers = other, numbers + total
        waiting.append((slot, 0, total))
    if waiting:
        yield _pack(waiting, needs)


def _pack(slices: list[tuple[Slot, int, int]], needs: Sequence[str]) -> Pack:
    first = slices[0][0]

    def join(tensors: list[Tensor]) -> Tensor:
        if len(slices) == 1:
            return flat(tensors[0])[slices[0][1] : slices[0][2]]
        return torch.cat([flat(tensor) for tensor in tensors])

    memories = [slot.memory for slot, _, _ in slices if slot.memory is not None]
    return Pack(
        first.group,
        first.ratio,
        first.step,
        grad=join([slot.grad for slot, _, _ in slices]),
        param=join([slot.param for slot, _, _ in slices]),
        memory=join(memories) if memories else None,
        state={name: join([slot.state[name] for slot, _, _ in slices]) for name in needs if name in first.state},
        slices=slices,
    )


def _sample(slot: Slot, needs: Sequence[str], every: int, total: int) -> Pack:
    """Return evenly spaced chunks of one parameter as a pack."""
    stride = every * CHUNK
    rows = total // stride

    def take(tensor: Tensor) -> Tensor:
        return flat(tensor)[: rows * stride].view(rows, stride)[:, :CHUNK].reshape(-1)

    state = {name: take(slot.state[name]) for name in needs if name in slot.state}
    memory = None if slot.memory is None else take(slot.memory)
    weight = total / (rows * CHUNK)
    return Pack(slot.group, slot.ratio, slot.step, take(slot.grad), take(slot.param), memory, state, [], weight)


def flat(tensor: Tensor) -> Tensor:
    """Return the numbers in one row, in float32 or better; a view where that is possible."""
    real = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    row = real.detach().reshape(-1)
    return row if row.dtype in (torch.float32, torch.float64) else row.float()


def sgd_weights(pack: Pack) -> tuple[float, float]:
    """Return (a, b) of SGD's u = a · v + b · g, v being the buffer before the step."""
    momentum = float(pack.group["momentum"])
    nesterov = bool(pack.group["nesterov"])
    if momentum == 0.0:
        return 0.0, 1.0
    if "momentum_buffer" not in pack.state:
        return 0.0, 1.0 + momentum if nesterov else 1.0
    new = 1.0 - float(pack.group["dampening"])
    return (momentum * momentum, 1.0 + momentum * new) if nesterov else (momentum, new)


def update_of(kind: str, pack: Pack) -> tuple[Tensor, float]:
    """Return (w, c) with u = c · w for a pack; w may be the gradient itself."""
    if kind == "unknown":
        return pack.grad, pack.ratio
    grad = -pack.grad if pack.group["maximize"] else pack.grad
    decay = float(pack.group["weight_decay"])
    decoupled = bool(pack.group.get("decoupled_weight_decay", False))
    if decay and not decoupled:
        grad = grad.add(pack.param, alpha=decay)
    update, factor = _sgd(pack, grad) if kind == "sgd" else _adam(pack, grad)
    if decay and decoupled:
        update = update.add_(pack.param, alpha=decay / factor)
    return update, factor * pack.ratio


def _sgd(pack: Pack, grad: Tensor) -> tuple[Tensor, float]:
    old, new = sgd_weights(pack)
    if old == 0.0:
        return grad, new
    return torch.mul(pack.state["momentum_buffer"], old).add_(grad, alpha=new), 1.0


def _adam(pack: Pack, grad: Tensor) -> tuple[Tensor, float]:
    beta1, beta2 = (float(beta) for beta in pack.group["betas"])
    unbias = 1.0 / (1.0 - beta2**pack.step)
    if "exp_avg" in pack.state:
        first = torch.lerp(pack.state["exp_avg"], grad, 1.0 - beta1)
        root = torch.mul(pack.state["exp_avg_sq"], beta2 * unbias)
        root.addcmul_(grad, grad, value=(1.0 - beta2) * unbias)
    else:
        first = grad * (1.0 - beta1)
        root = (grad * grad).mul_((1.0 - beta2) * unbias)
    if pack.group["amsgrad"] and "max_exp_avg_sq" in pack.state:
        torch.maximum(root, pack.state["max_exp_avg_sq"] * unbias, out=root)
    root.sqrt_().add_(float(pack.group["eps"]))
    return first.div_(root), 1.0 / (1.0 - beta1**pack.step)


def with_momentum(group: Group, momentum: float) -> Group:
    """Return a copy of a group with another momentum, and dampening where the two are equal."""
    if "momentum" in group:
        momentum = max(momentum, LEAST_MOMENTUM)  # as Rates writes it
        dampened = "dampening" in group and float(group["dampening"]) == read_momentum(group)
        return {**group, "momentum": momentum} | ({"dampening": momentum} if dampened else {})
    return {**group, "betas": (momentum, *group["betas"][1:])} if "betas" in group else group
