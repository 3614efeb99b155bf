"""Lays the parameters of an optimizer end to end, with their gradients and state, so that few kernels measure them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lrcontrol.controller_rates import Group

# Numbers worked on at once, which a cache holds together, and below which a parameter is laid together with others.
SIZES_CPU, SIZES_OTHER = (1 << 18, 1 << 14), (1 << 24, 1 << 20)
# Where only a sample is taken: rows and columns of a weight differ, so many short chunks tell more than few long ones;
# and small parameters, the last layer's above all, have the largest gradients, so those are taken whole.
CHUNK, WHOLE = 32, 1 << 13
PARTS = ("grad", "param", "memory", "update")


@dataclass(slots=True)
class Slot:
    """A parameter that has a gradient, all that its step is made from, and the step's number, from 1, for Adam.

    The update is there where it was seen in a rehearsal; ``size`` is the number of real numbers.
    """

    param: Tensor
    grad: Tensor
    group: Group
    ratio: float
    state: dict[str, Any]
    memory: Tensor | None
    row: int = 0
    step: float = 1.0
    update: Tensor | None = None
    size: int = field(init=False)

    def __post_init__(self) -> None:
        self.size = flat_size(self.grad)

    def part(self, name: str) -> Tensor:
        """Return one of ``PARTS`` or an entry of the optimizer's state."""
        if name == "param":
            return self.param.detach()
        found: Tensor = getattr(self, name) if name in PARTS else self.state[name]
        return found


class Piece(NamedTuple):
    """The numbers ``start`` to ``stop`` of a slot; or, with ``every`` above 1, one chunk in so many of all of them."""

    slot: Slot
    start: int
    stop: int
    every: int = 1

    def take(self, tensor: Tensor) -> Tensor:
        """Return a view of them in a tensor of the slot's shape, (N,), or (chunks, ``CHUNK``)."""
        total = self.stop - self.start
        if self.every == 1:
            return flat(tensor)[self.start : self.stop]
        chunks = max(1, round(total / (self.every * CHUNK)))
        if tensor.is_contiguous() and not tensor.is_complex():
            return tensor.as_strided((chunks, CHUNK), (total // chunks, 1))
        return flat(tensor).unfold(0, CHUNK, total // chunks)[:chunks]


class Pack:
    """Pieces of parameters that share group, state and device, laid end to end: flat tensors of one length.

    Args:
        pieces: at least one.
    """

    def __init__(self, pieces: list[Piece]) -> None:
        self.pieces, self.first = pieces, pieces[0].slot
        self._rows: dict[str, Tensor] = {}

    @property
    def group(self) -> Group:
        """The parameters' group."""
        return self.first.group

    @property
    def laid_out(self) -> bool:
        """Whether what is loaded are copies, and not the tensors themselves."""
        return len(self.pieces) > 1 or self.pieces[0].every > 1

    @property
    def weight(self) -> float:
        """What sums over the pieces are multiplied by, where they stand for more than themselves."""
        if self.pieces[0].every == 1:
            return 1.0
        return sum(piece.stop - piece.start for piece in self.pieces) / self["grad"].numel()

    def __contains__(self, name: str) -> bool:
        return name in self.first.state or (name in PARTS and getattr(self.first, name) is not None)

    def __getitem__(self, name: str) -> Tensor:
        """Return one of ``PARTS`` or an entry of the optimizer's state, (N,), in float32 or better."""
        if self._key(name) not in self._rows:
            self.load([name])
        return self._rows[self._key(name)]

    def load(self, names: Sequence[str]) -> None:
        """Lay out all of them that there are, in one call, which takes less time than one by one."""
        keys = list(dict.fromkeys(self._key(name) for name in names if name in self))
        tensors = [piece.slot.part(key) for key in keys for piece in self.pieces]
        piece = self.pieces[0]
        if not self.laid_out:
            self._rows |= {key: floating(piece.take(tensor)) for key, tensor in zip(keys, tensors, strict=True)}
        elif keys:
            if piece.every == 1 and not any(tensor.is_complex() for tensor in tensors):
                whole = torch._utils._flatten_dense_tensors(tensors)  # type: ignore[no-untyped-call]
            else:
                whole = torch.cat([p.take(tensor) for p, tensor in zip(self.pieces * len(keys), tensors, strict=True)])
            self._rows |= zip(keys, floating(whole).view(-1).chunk(len(keys)), strict=True)

    def _key(self, name: str) -> str:
        """Return the name under which it is kept: the memory is an entry of the optimizer's state, too."""
        first = self.first
        return "memory" if first.memory is not None and first.state.get(name) is first.memory else name


def packs(slots: Sequence[Slot], every: int = 1) -> Iterator[Pack]:
    """Yield the slots in packs.

    Large parameters are cut, which copies nothing; small ones are laid together, so that kernels are few. With
    ``every`` k above 1 about one chunk in k is taken of large parameters.
    """
    waiting: dict[Any, list[Piece]] = {}
    numbers: dict[Any, int] = {}
    least = max(WHOLE, every * CHUNK)
    for slot in slots:
        device, total = slot.grad.device, slot.size
        size, small = SIZES_CPU if device.type == "cpu" else SIZES_OTHER
        sampled = every > 1 and total >= least
        if total >= small and not sampled:
            for start in range(0, total, size):
                yield Pack([Piece(slot, start, min(total, start + size))])
            continue
        key = id(slot.group), slot.step, slot.memory is None, device, tuple(slot.state), sampled
        piece = Piece(slot, 0, total, every if sampled else 1)
        count = total // piece.every
        if numbers.get(key, 0) + count > size and key in waiting:
            yield Pack(waiting.pop(key))
            numbers[key] = 0
        numbers[key] = numbers.get(key, 0) + count
        waiting.setdefault(key, []).append(piece)
    for pieces in waiting.values():
        yield Pack(pieces)


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
