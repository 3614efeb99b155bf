"""Lays the parameters of an optimizer end to end, with their gradients and state, so that few kernels measure them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lrcontrol.controller_rates import Group

# Numbers worked on at once, which a cache holds together, and below which a parameter is laid together with others.
SIZES_CPU, SIZES_OTHER = (1 << 18, 1 << 14), (1 << 24, 1 << 20)
# Where only a sample is taken: rows and columns of a weight differ, so many short chunks tell more than few long ones;
# and small parameters, the last layer's above all, have the largest gradients, so those are taken whole.
CHUNK, WHOLE = 32, 1 << 13
PARTS = ("param", "grad", "memory", "update")  # what a slot's tensors hold beside the optimizer's state


@dataclass(slots=True)
class Slot:
    """A parameter that has a gradient, and all that its step is made from.

    Args:
        param: the parameter.
        tensors: ``param`` and ``grad``, entries of the optimizer's state by their names, ``memory`` where that is none
            of them, and ``update`` where it was seen in a rehearsal.
        memory: the name that the memory has in ``tensors``; None where there is none.
        group, ratio, row: the parameter's group, and what ``Rates`` says of it.
        size: how many real numbers it is.
        step: the number of the step to come, from 1, for Adam.
    """

    param: Tensor
    tensors: dict[str, Tensor]
    memory: str | None
    group: Group
    ratio: float
    row: int
    size: int
    step: float = 1.0


class Pack:
    """Parameters that share group, state and device, laid end to end: flat tensors of one length.

    Args:
        slots: at least one.
        every: k above 1 takes about one chunk in k of all of them.
        cut: which numbers, from the first to before the last, where it is not all of the only slot.
    """

    def __init__(self, slots: list[Slot], every: int = 1, cut: tuple[int, int] | None = None) -> None:
        self.slots, self.every, self.cut, self.first = slots, every, cut, slots[0]
        self._rows: dict[str, Tensor] = {}

    @property
    def group(self) -> Group:
        """The parameters' group."""
        return self.first.group

    @property
    def laid_out(self) -> bool:
        """Whether what is loaded is a copy for certain, which may be written over."""
        return len(self.slots) > 1 or self.every > 1

    @property
    def weight(self) -> float:
        """What sums are multiplied by, where what is taken stands for more than itself."""
        return 1.0 if self.every == 1 else sum(slot.size for slot in self.slots) / self["grad"].numel()

    def __contains__(self, name: str) -> bool:
        return self._key(name) in self.first.tensors

    def __getitem__(self, name: str) -> Tensor:
        """Return what a slot has under the name, or as its memory, of all slots, (N,), in float32 or better."""
        key = self._key(name)
        if key not in self._rows:
            self.load([name])
        return self._rows[key]

    def _key(self, name: str) -> str:
        return self.first.memory or name if name == "memory" else name

    def load(self, names: Sequence[str]) -> None:
        """Lay out all of them that there are, in one call, which takes less time than one by one."""
        keys = list(dict.fromkeys(self._key(name) for name in names if name in self))
        tensors = [slot.tensors[key] for key in keys for slot in self.slots]
        if not keys:
            return
        if not self.laid_out:
            rows = [flat(tensor)[slice(*self.cut) if self.cut else slice(None)] for tensor in tensors]
        elif self.every > 1:
            counts = [max(1, round(slot.size / (self.every * CHUNK))) for slot in self.slots] * len(keys)
            rows = list(torch.cat(list(map(_chunks, tensors, counts))).view(-1).chunk(len(keys)))
        elif any(tensor.is_complex() for tensor in tensors):
            rows = list(torch.cat([flat(tensor) for tensor in tensors]).chunk(len(keys)))
        else:
            rows = list(torch._utils._flatten_dense_tensors(tensors).chunk(len(keys)))  # type: ignore[no-untyped-call]
        self._rows |= {key: floating(row) for key, row in zip(keys, rows, strict=True)}

    def spread(self, row: Tensor) -> Iterator[tuple[Slot, int, Tensor]]:
        """Yield each slot with its part of a row (N,), which begins at that number of the slot."""
        if self.cut is not None:
            yield self.first, self.cut[0], row
            return
        parts = row.split_with_sizes([slot.size for slot in self.slots])
        for slot, part in zip(self.slots, parts, strict=True):
            yield slot, 0, part


def packs(slots: Sequence[Slot], every: int = 1) -> Iterator[Pack]:
    """Yield the slots in packs.

    Large parameters are cut, which copies nothing; small ones are laid together, so that kernels are few. With
    ``every`` k above 1 about one chunk in k is taken of large parameters.
    """
    waiting: dict[Any, list[Slot]] = {}
    numbers: dict[Any, int] = {}
    least = max(WHOLE, every * CHUNK)
    for slot in slots:
        grad, total = slot.tensors["grad"], slot.size
        size, small = SIZES_CPU if grad.is_cpu else SIZES_OTHER
        step = every if every > 1 and total >= least else 1
        if total >= small and step == 1:
            for start in range(0, total, size):
                yield Pack([slot], cut=(start, min(total, start + size)))
            continue
        key = id(slot.group), slot.step, slot.memory, grad.device, tuple(slot.tensors), step
        count = numbers.get(key, 0)
        if count + total // step > size and key in waiting:
            yield Pack(waiting.pop(key), step)
            count = 0
        numbers[key] = count + total // step
        waiting.setdefault(key, []).append(slot)
    for (*_, step), found in waiting.items():
        yield Pack(found, step)


def _chunks(tensor: Tensor, count: int) -> Tensor:
    """Return a view of so many chunks of a tensor's numbers, evenly spread, (count, ``CHUNK``)."""
    if tensor.is_contiguous() and not tensor.is_complex():
        return tensor.as_strided((count, CHUNK), (tensor.numel() // count, 1))
    row = flat(tensor)
    return row.unfold(0, CHUNK, len(row) // count)[:count]


def flat(tensor: Tensor) -> Tensor:
    """Return the real numbers of a tensor in one row; a view where that is possible."""
    real = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    return real.detach().reshape(-1)


def flat_size(tensor: Tensor) -> int:
    """Return how many real numbers a tensor holds."""
    return tensor.numel() * (2 if tensor.is_complex() else 1)


def floating(row: Tensor) -> Tensor:
    """Return the numbers in float32 or better."""
    return row if row.dtype in (torch.float32, torch.float64) else row.float()
