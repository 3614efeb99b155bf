"""The order in which runs see the data: one permutation for each stream and epoch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.random import SeedSequence
from numpy.typing import NDArray
from torch import Tensor

from lrcontrol.envs.blocks import take
from lrcontrol.envs.task import Task


class Minibatches:
    """Draws the minibatches of S streams, a new order for each epoch, or the file's order if the task is not shuffled.

    Args:
        task: whose training data are drawn.
        device: where the data are kept and the minibatches come out.
    """

    def __init__(self, task: Task, device: torch.device) -> None:
        self.inputs, self.targets = (part.to(device) for part in task.train)
        self.batch_size = task.batch_size
        self.per_epoch = len(self.inputs) // task.batch_size
        self.shuffle = task.shuffle and len(self.inputs) > 1
        self._generators: list[np.random.Generator] = []
        self._kind = np.uint16 if len(self.inputs) <= 1 << 16 else np.int64  # orders are the largest thing kept here
        self._order: NDArray[np.unsignedinteger | np.signedinteger] = np.zeros((0, 0), self._kind)
        self._shown: Tensor | None = None  # the orders on a GPU
        self._index: Tensor | None = None  # and this step's minibatches of them there, (S, B)
        self._gathered: tuple[Tensor, Tensor] | None = None
        self._window: slice | None = None
        self._memory: list[Tensor | None] = [None, None]
        self._first, self._step = 0, -1

    def reset(self, seeds: Sequence[SeedSequence]) -> None:
        """Start S = len(seeds) streams anew, at their first minibatch."""
        self._generators = [np.random.Generator(np.random.PCG64(seed)) for seed in seeds]
        if self.shuffle and len(self._order) != len(seeds):
            self._order = np.empty((len(seeds), len(self.inputs)), self._kind)
            if self.inputs.is_cuda:
                self._index = torch.zeros(len(seeds), self.batch_size, dtype=torch.int64, device=self.inputs.device)
        self._step = -1
        self.advance()

    def advance(self) -> None:
        """Go on to the next minibatch of every stream."""
        self._step += 1
        self.forget()
        batch = self._step % self.per_epoch
        self._first = batch * self.batch_size
        if self.shuffle and batch == 0:
            for row, generator in enumerate(self._generators):
                self._order[row] = generator.permutation(len(self.inputs))
        if self._index is not None:
            if batch == 0:
                self._shown = torch.from_numpy(self._order).to(self._index.device)
            assert self._shown is not None
            self._index.copy_(self._shown[:, self._first : self._first + self.batch_size])

    def forget(self) -> None:
        """Gather the present minibatches anew when they are asked for next."""
        self._window, self._gathered = None, None

    def batch(self, streams: slice) -> tuple[Tensor, Tensor]:
        """Return the present minibatches of some of the S streams: inputs (S, B, …) and targets (S, B, …).

        They last until the next call.
        """
        if self._window == streams and self._gathered is not None:
            return self._gathered
        if not self.shuffle:
            count = len(self._generators[streams])
            window = slice(self._first, self._first + self.batch_size)
            x, y = self.inputs[window], self.targets[window]
            return x.expand(count, *x.shape), y.expand(count, *y.shape)
        index, self._window = self._rows(streams), streams
        self._gathered = self._gather(self.inputs, index, 0), self._gather(self.targets, index, 1)
        return self._gathered

    def all(self) -> tuple[Tensor, Tensor]:
        """Return the present minibatches of all streams in memory of their own."""
        streams = slice(0, len(self._generators))
        if not self.shuffle:
            x, y = self.batch(streams)
            return x.clone(), y.clone()
        index = self._rows(streams)
        return self.inputs[index], self.targets[index]

    def index(self) -> NDArray[np.int64]:
        """Return which rows of the data the present minibatches of all streams are, (S, B), on the CPU."""
        window = slice(self._first, self._first + self.batch_size)
        if not self.shuffle:
            return np.tile(np.arange(window.start, window.stop), (len(self._generators), 1))
        return self._order[:, window].astype(np.int64)

    def _rows(self, streams: slice) -> Tensor:
        """Return which rows of the data the present minibatches of some streams are, (S, B)."""
        if self._index is not None:
            return self._index[streams]
        window = slice(self._first, self._first + self.batch_size)
        return torch.from_numpy(self._order[streams, window].astype(np.int64))

    def _gather(self, data: Tensor, index: Tensor, place: int) -> Tensor:
        """Return the rows of the index (S, B) in memory that the next call takes again."""
        count, buffer = index.numel(), self._memory[place]
        if buffer is None or buffer.shape[0] < count:
            buffer = self._memory[place] = data.new_empty((count, *data.shape[1:]))
        rows = take(buffer, slice(0, count))
        torch.index_select(data, 0, index.reshape(-1), out=rows)
        return rows.view(*index.shape, *data.shape[1:])
