"""One agent over a grid of initial rates and runs, from the first step to the last."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lrcontrol.agents import Agent
from lrcontrol.envs.distributions import find_tasks
from lrcontrol.envs.rewards import worst_loss
from lrcontrol.envs.seeding import run_seeds
from lrcontrol.envs.settings import Settings
from lrcontrol.envs.task import Task
from lrcontrol.envs.values import Array
from lrcontrol.envs.world import World

Progress = Callable[[str, int, int], None]
"""Told an agent's name, its training steps so far, and its budget."""


@dataclass(frozen=True)
class Assignment:
    """What somebody who trains by themselves is to train: ``runs`` runs from every rate, run i with seed ``seed + i``.

    Args:
        base: the evaluation's settings: task, steps, optimizer and momentum.
        rates: the initial rates.
        runs: runs for each rate.
        seed: of the first run.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        progress: called as training proceeds.
    """

    base: Settings
    rates: Sequence[float]
    runs: int
    seed: int = 0
    device: str = "auto"
    progress: Progress | None = None

    @cached_property
    def task(self) -> Task:
        """What is trained."""
        return find_tasks(self.base.task).instance(0)

    @property
    def steps(self) -> int:
        """Training steps in a run."""
        return self.base.steps or self.task.steps

    def tell(self, name: str, step: int) -> None:
        """Report the training steps so far."""
        if self.progress is not None:
            self.progress(name, step, self.steps)


class Trained(NamedTuple):
    """What came of rates · runs runs, sorted by rate and then run.

    Attributes:
        final: the columns that ``settled`` makes, (rates · runs,) each.
        traces: loss, lr and momentum before each step, (rates · runs, steps) each, NaN where there is none.
        passes: ``forward_passes`` and ``backward_passes`` that one run has cost, all of what it took to get it.
    """

    final: dict[str, NDArray[Any]]
    traces: dict[str, NDArray[Any]]
    passes: dict[str, int]

    def repeated(self, copies: int) -> Trained:
        """Return the runs ``copies`` times over: those of one rate stand for all, which each paid for them."""
        return Trained(
            {name: np.tile(values, copies) for name, values in self.final.items()},
            {name: np.tile(values, (copies, 1)) for name, values in self.traces.items()},
            self.passes,
        )

    def best(self, column: str) -> Trained:
        """Return the one run whose final ``column`` is lowest."""
        row = int(np.argmin(self.final[column]))
        return Trained(
            {name: values[row : row + 1] for name, values in self.final.items()},
            {name: values[row : row + 1] for name, values in self.traces.items()},
            self.passes,
        )


def joined(parts: Sequence[Trained], passes: dict[str, int]) -> Trained:
    """Return the runs of all parts, one after another, and what each of them cost."""
    return Trained(
        {name: np.concatenate([part.final[name] for part in parts]) for name in parts[0].final},
        {name: np.concatenate([part.traces[name] for part in parts]) for name in parts[0].traces},
        passes,
    )


def settings_for(base: Settings, agent: Agent) -> Settings:
    """Return the settings with what the agent needs put in.

    Raises:
        InputError: an agent needs what there is not, or cannot be.
    """
    Settings.make(agent.needs)  # an unknown name among them is the agent's mistake: say so
    return replace(base, **agent.needs)


def roll_out(
    agent: Agent,
    settings: Settings,
    rates: Sequence[float],
    runs: int,
    seed: int,
    device: str = "auto",
    progress: Progress | None = None,
    record: bool = False,
) -> World:
    """Train ``runs`` runs from every rate to the end and return their world; row = run · len(rates) + rate.

    Run i has the initial parameters and the minibatches of seed ``seed + i`` from every rate.
    """
    rows, task = runs * len(rates), find_tasks(settings.task).instance(0)
    world = World(settings, rows, runs if task.shuffle else 1, device, record)
    observation = world.reset([run_seeds(seed + run) for run in range(runs) for _ in rates], np.tile(rates, runs))
    state, start, over = None, np.ones(rows, dtype=bool), False
    while not over:
        action, state = agent.predict(observation, state, start, deterministic=True)
        observation, _, over = world.step(action)
        start = np.zeros(rows, dtype=bool)
        if progress is not None:
            progress(agent.name, world.step_count, world.steps)
    return world


def trained(world: World, rows: NDArray[np.int64]) -> Trained:
    """Return what came of some rows of a world that recorded, at what one row of it cost."""
    return Trained(
        {name: values[rows] for name, values in final_measures(world).items()},
        {name: values.T[rows] for name, values in world.trace.items()},
        {"forward_passes": world.forward_passes, "backward_passes": world.backward_passes},
    )


def final_measures(world: World) -> dict[str, NDArray[Any]]:
    """Return loss and accuracy on both data sets, and which runs diverged, (R,) each, as ``settled`` has them."""
    data = {"train": world.task.train, "test": world.task.test}
    measured = {split: world.engine.evaluate(part) for split, part in data.items() if part is not None}
    return settled(measured, world.diverged, world.history.first)


def settled(
    measured: Mapping[str, tuple[Array, Array]], broken: NDArray[np.bool_], first: Array
) -> dict[str, NDArray[Any]]:
    """Return the columns of a table of runs: loss and accuracy by data set, and which runs diverged, (R,) each.

    A run that broke, or ends with a loss that is not finite, is reported with the worst loss, and with accuracy 0; no
    run is reported with a loss above that, so that none is better for having broken.

    Args:
        measured: loss and accuracy (R,) by ``"train"`` and, where there is one, ``"test"``.
        broken: (R,), runs whose training loss was not finite at some step.
        first: (R,), the first training loss, of one minibatch.
    """
    final: dict[str, NDArray[Any]] = {}
    for split in ("train", "test"):
        loss, accuracy = np.full((2, len(first)), np.nan)
        if split in measured:
            loss, accuracy = measured[split]
            lost = ~np.isfinite(loss) | broken
            worst = worst_loss(first)
            loss = np.where(lost, worst, np.minimum(loss, worst))
            accuracy = np.where(lost & np.isfinite(accuracy), 0.0, accuracy)
        final |= {f"{split}_loss": loss, f"{split}_accuracy": accuracy}
    final["diverged"] = (broken | (final["train_loss"] > first)).astype(int)
    return final
