"""Which replicas are worked on together: as many as a cache can hold while several passes go over them."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

NUMBERS = 1 << 21  # in a block, of all kinds: parameters, activations, minibatches


@dataclass(frozen=True)
class Block:
    """Some rows, the streams they draw from, and the same rows in smaller parts."""

    rows: slice
    streams: slice
    parts: tuple[slice, ...]


def take(buffer: Tensor, rows: slice) -> Tensor:
    """Return some rows of a buffer; all of them without the microsecond or two that a slice takes."""
    return buffer if rows.stop - rows.start == buffer.shape[0] else buffer[rows]


def _split(start: int, stop: int, most: int) -> list[slice]:
    """Return the fewest slices of at most ``most`` rows, as equal as can be."""
    count = -(-(stop - start) // most)
    edges = [start + (stop - start) * i // count for i in range(count + 1)]
    return [slice(low, high) for low, high in itertools.pairwise(edges)]


def make_blocks(rows: int, streams: int, row_numbers: int, width: int, device: torch.device) -> list[Block]:
    """Return the blocks, in order: whole streams, or parts of one.

    Args:
        rows: R; row = stream · K + k.
        streams: S, dividing R.
        row_numbers: what a row needs in memory while its loss and gradient are worked out.
        width: parameters of a row.
        device: a GPU takes as much at once as goes into a quarter of its free memory.
    """
    numbers = NUMBERS
    if device.type == "cuda":
        numbers = torch.cuda.mem_get_info(device)[0] // (4 * torch.get_default_dtype().itemsize)
    replicas, most = rows // streams, max(2, numbers // row_numbers)
    if replicas <= most:
        whole = _split(0, streams, most // replicas)
        pairs = [(slice(part.start * replicas, part.stop * replicas), part) for part in whole]
    else:
        starts = [(stream, stream * replicas) for stream in range(streams)]
        pairs = [(part, slice(s, s + 1)) for s, first in starts for part in _split(first, first + replicas, most)]
    fine = max(2, numbers // (2 * width))
    return [Block(part, owners, tuple(_split(part.start, part.stop, fine))) for part, owners in pairs]
