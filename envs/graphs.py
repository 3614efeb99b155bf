"""CUDA graphs: the kernels of a step, launched at once instead of one by one."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor


class Graphs:
    """Replays what was done before under the same key: the same kernels on the same memory.

    The first time the work is done as it is, and libraries set themselves up; the second time it is recorded. What it
    reads has to stand where it stood, what it returns is overwritten the next time, and numbers that are Python's are
    those of the recording: keys have to tell apart what they do.
    """

    def __init__(self) -> None:
        self._recorded: dict[Hashable, tuple[torch.cuda.CUDAGraph, Tensor] | None] = {}

    def run(self, key: Hashable, work: Callable[[], Tensor]) -> Tensor:
        """Return what ``work`` returns, on the current CUDA device."""
        if key not in self._recorded:
            self._recorded[key] = None
            return work()
        found = self._recorded[key]
        if found is None:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool()):
                result = work()
            found = self._recorded[key] = graph, result
        found[0].replay()
        return found[1]

    def _pool(self) -> Any:
        """Return the memory of the recordings so far: none of them needs it while another is replayed."""
        return next((found[0].pool() for found in self._recorded.values() if found is not None), None)
