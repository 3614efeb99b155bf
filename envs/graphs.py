"""CUDA graphs: the kernels of a step, launched at once instead of one by one."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable

import torch
from torch import Tensor


class Graphs:
    """Replays what was done before under the same key: the same kernels on the same memory.

    The first time the work is done as it is, and libraries set themselves up; the second time it is recorded. What it
    reads has to stand where it stood, what it returns is overwritten the next time, and numbers that are Python's are
    those of the recording: keys have to tell apart what they do. Work that cannot be recorded, such as that of a module
    that makes tensors of numbers on its way, is done as it is for good, and a warning says so.

    Args:
        device: what the work runs on.

    Attributes:
        is_possible: whether nothing has failed to be recorded yet.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._recorded: dict[Hashable, tuple[torch.cuda.CUDAGraph, Tensor] | None] = {}
        self.is_possible = True

    def run(self, key: Hashable, work: Callable[[], Tensor]) -> Tensor:
        """Return what ``work`` returns, which runs on the device."""
        with torch.cuda.device(self._device):
            return self._run(key, work)

    def _run(self, key: Hashable, work: Callable[[], Tensor]) -> Tensor:
        if not self.is_possible or key not in self._recorded:
            self._recorded[key] = None
            return work()
        found = self._recorded[key]
        if found is None:
            found = self._recorded[key] = self._record(work)
        if found is None:
            return work()
        found[0].replay()
        return found[1]

    def _record(self, work: Callable[[], Tensor]) -> tuple[torch.cuda.CUDAGraph, Tensor] | None:
        pool = next((found[0].pool() for found in self._recorded.values() if found is not None), None)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=pool):  # one memory for all: none needs it while another is replayed
                result = work()
        except RuntimeError as error:
            self.is_possible = False
            reason = str(error).partition("\n")[0]
            warnings.warn(
                f"a training step cannot be recorded as a CUDA graph ({reason}): it is launched piece by piece, which "
                f"is slower for small models",
                stacklevel=2,
            )
            return None
        return graph, result
