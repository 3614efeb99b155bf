"""Sums over each replica's parameters, the same for one replica as for that replica among others."""

from __future__ import annotations

import torch
from torch import Tensor

from lrcontrol.envs.blocks import take

SQUARES, DOTS = ("grad_sq", "memory_sq", "param_sq", "update_sq"), ("grad_dot_memory", "grad_dot_update")
MEASURES = (*SQUARES, *DOTS)


def row_dot(a: Tensor, b: Tensor, scratch: Tensor) -> Tensor:
    """Return the dot products of the rows of a and b (R, P), (R,); ``scratch`` holds at least (R, P)."""
    return _row_sum(torch.mul(a, b, out=take(scratch, slice(0, a.shape[0]))))


def _row_sum(rows: Tensor) -> Tensor:
    if rows.shape[0] == 1:  # a lone row would be summed by several threads, in another order
        return rows.expand(2, -1).sum(dim=1)[:1]
    return rows.sum(dim=1)


def row_norm(a: Tensor) -> Tensor:
    """Return the norms of the rows of a (R, P), (R,)."""
    norms: Tensor = torch.linalg.vector_norm(a, dim=1)
    return norms
