"""The order in which runs see the data: one permutation for each stream and epoch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.random import SeedSequence
from torch import Tensor

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
        self._order: Tensor | None = None
        self._step = 0

    def reset(self, seeds: Sequence[SeedSequence]) -> None:
        """Start S = len(seeds) streams anew."""
        self._generators = [np.random.Generator(np.random.PCG64(seed)) for seed in seeds]
        self._step = 0

    def draw(self) -> tuple[Tensor, Tensor]:
        """Return the next minibatch of each stream: inputs (S, B, …) and targets (S, B, …)."""
        batch = self._step % self.per_epoch
        first = batch * self.batch_size
        self._step += 1
        streams = len(self._generators)
        if not self.shuffle:
            window = slice(first, first + self.batch_size)
            x, y = self.inputs[window], self.targets[window]
            return x.expand(streams, *x.shape), y.expand(streams, *y.shape)
        if batch == 0:
            rows = len(self.inputs)
            order = np.stack([generator.permutation(rows) for generator in self._generators])
            self._order = torch.from_numpy(order).to(self.inputs.device)
        assert self._order is not None
        index = self._order[:, first : first + self.batch_size]
        return self._gather(self.inputs, index), self._gather(self.targets, index)

    @staticmethod
    def _gather(data: Tensor, index: Tensor) -> Tensor:
        return data.index_select(0, index.reshape(-1)).view(*index.shape, *data.shape[1:])
