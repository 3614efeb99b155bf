"""What the Gymnasium environments are made of: groups of runs that share a task, and the seeds of runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lrcontrol.envs.distributions import Fixed, find_tasks
from lrcontrol.envs.errors import InputError
from lrcontrol.envs.seeding import RunSeeds, run_seeds
from lrcontrol.envs.settings import Settings
from lrcontrol.envs.world import Observation, World


class Group:
    """R runs that share a task, start together and end together; a task that is drawn is drawn at every start.

    Args:
        settings: their task may be a distribution.
        rows: R.
        streams: distinct minibatch streams, dividing R; default one for each row.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
    """

    def __init__(self, settings: Settings, rows: int, streams: int | None, device: str) -> None:
        self._settings, self._rows, self._streams, self._device = settings, rows, streams, device
        self._tasks = find_tasks(settings.task)
        self.world = self._make(0)

    def _make(self, index: int) -> World:
        settings = replace(self._settings, task=self._tasks.instance(index))
        return World(settings, self._rows, self._streams, self._device)

    def start(self, seeds: Sequence[RunSeeds], lr0: Any) -> Observation:
        """Start the runs anew, on the task that the first of the seeds draws, and return the observations (R, F)."""
        if not isinstance(self._tasks, Fixed):
            self.world = self._make(seeds[0].task)
        return self.world.reset(seeds, lr0)


class EpisodeSeeds:
    """The seeds of N runs: row i of a reset with seed s has s + i; further episodes of a row count up."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self._numbers: list[int] | None = None
        self._episodes = [0] * rows

    def start(self, seed: int | Sequence[int] | None) -> list[RunSeeds]:
        """Take in the seed of a reset, or none to go on counting, and return the seeds of all rows."""
        if seed is None and self._numbers is not None:
            return self.next(slice(0, self.rows))
        if seed is None:
            seed = int(np.random.SeedSequence().generate_state(1)[0])
        self._numbers = [seed + row for row in range(self.rows)] if isinstance(seed, int | np.integer) else list(seed)
        if len(self._numbers) != self.rows:
            raise InputError(f"{len(self._numbers)} seeds for {self.rows} environments")
        self._episodes = [0] * self.rows
        return [run_seeds(number) for number in self._numbers]

    def next(self, rows: slice) -> list[RunSeeds]:
        """Return the seeds of the next episode of some rows."""
        assert self._numbers is not None
        for row in range(self.rows)[rows]:
            self._episodes[row] += 1
        return [run_seeds(self._numbers[row], self._episodes[row]) for row in range(self.rows)[rows]]
