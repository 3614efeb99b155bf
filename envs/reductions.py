"""Sums over each replica's parameters, the same for one replica as for that replica among others."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from lrcontrol.envs.features import Array

BLOCK = 1 << 18  # numbers in a block of rows: what several passes over it can keep in a cache


def row_blocks(rows: Tensor) -> Iterator[slice]:
    """Return slices of the rows (R, P), at least two rows each where there are two, small enough to stay in a cache."""
    count = len(rows) if rows.device.type != "cpu" else max(2, BLOCK // max(rows.shape[1], 1))
    starts = list(range(0, len(rows), count))
    if len(starts) > 1 and len(rows) - starts[-1] == 1:
        starts.pop()
    for start, stop in zip(starts, [*starts[1:], len(rows)], strict=True):
        yield slice(start, stop)


def row_dot(a: Tensor, b: Tensor) -> Array:
    """Return the dot products of the rows of a and b (R, P), as float64 (R,)."""
    if len(a) == 1:  # a lone row would be summed by several threads, in another order
        a, b = a.expand(2, -1), b.expand(2, -1)
        return np.asarray(torch.linalg.vecdot(a, b)[:1].double().cpu().numpy())
    parts = [torch.linalg.vecdot(a[rows], b[rows]) for rows in row_blocks(a)]
    return np.asarray(torch.cat(parts).double().cpu().numpy())


def row_square(a: Tensor) -> Array:
    """Return the squared norms of the rows of a (R, P), as float64 (R,)."""
    return np.asarray(torch.linalg.vector_norm(a, dim=1).double().square().cpu().numpy())
