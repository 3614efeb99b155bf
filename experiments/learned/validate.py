"""Holds agents against the schedule that is best on each validation task, the held-out tasks of the training families.

python -m experiments.learned.validate learned schedule:kind=one-cycle,start=0.3
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from experiments.tables import rounded, write_beside
from lrcontrol.agents import Agent, make_agent
from lrcontrol.envs.distributions import find_tasks
from lrcontrol.envs.settings import Settings
from lrcontrol.envs.task import Task
from lrcontrol.envs.text import next_token_loss
from lrcontrol.rollouts import final_measures, roll_out, settings_for

HERE = Path(__file__).parent
GRIDS = {"adamw": np.geomspace(3e-4, 1.0, 8), "sgd": np.geomspace(1e-2, 30.0, 8)}
SCHEDULES = ("schedule:kind=linear", "schedule:kind=one-cycle")
SEED = 2_500_000_000
LEAST = 1e-6  # losses below it count as it


@dataclass(frozen=True)
class Options:
    """Geometric mean, over validation tasks, of an agent's final loss over the best of sixteen tuned schedules."""

    agents: tyro.conf.Positional[tuple[str, ...]]
    """Whom to hold against it."""

    tasks: int = 16
    """Validation tasks of each distribution."""

    sources: tuple[str, ...] = ("random-digits", "random-synthetic", "random-images", "random-deep")
    """The distributions."""

    optimizers: tuple[str, ...] = tuple(GRIDS)
    """Under which optimizers; no transformer under SGD."""

    momenta: tuple[float, ...] = (0.9,)
    """Of the schedules; of all of them the best counts. Agents begin at 0.9."""

    longer: int = 1
    """How many times as many steps as the tasks ask for."""

    knows_budget: bool = True
    """Whether agents are told how many steps there are; of those that are not the table says so."""

    out: Path = field(default=HERE / "validation.csv")
    """Where the table goes; rows of other agents and optimizers stay."""


def drawn(source: str, optimizer: str, tasks: int) -> Iterator[Task]:
    """Yield the first held-out tasks of a distribution."""
    found = (find_tasks(source).instance(index, held_out=True) for index in itertools.count())
    kept = (task for task in found if optimizer == "adamw" or task.loss is not next_token_loss)
    yield from itertools.islice(kept, tasks)


def final_losses(
    agent: str | Agent,
    task: Task,
    optimizer: str,
    steps: int,
    rates: list[float],
    momentum: float = 0.9,
    told: bool = True,
) -> np.ndarray:
    """Return the final training loss (rates,) of one run for each rate."""
    chosen = make_agent(agent)
    given = {"task": task, "optimizer": optimizer, "momentum": momentum, "steps": steps, "knows_budget": told}
    settings = settings_for(Settings.make(given), chosen)
    return np.maximum(final_measures(roll_out(chosen, settings, rates, 1, SEED, "cpu"))["train_loss"], LEAST)


def hold(agents: Mapping[str, str | Agent], options: Options) -> None:
    """Write the rows of agents, by what the table calls them, those of ``options`` aside."""
    rows = []
    for optimizer in options.optimizers:
        grid = GRIDS[optimizer].tolist()
        logs: dict[str, dict[str, list[float]]] = {name: {} for name in agents}
        for source in options.sources:
            for task in drawn(source, optimizer, options.tasks):
                steps = options.longer * task.steps
                each = itertools.product(SCHEDULES, options.momenta)
                tuned = min(final_losses(kind, task, optimizer, steps, grid, beta).min() for kind, beta in each)
                for name, of in logs.items():
                    loss = final_losses(agents[name], task, optimizer, steps, [1e-3], told=options.knows_budget)[0]
                    of.setdefault(source, []).append(float(np.log(loss / tuned)))
        for name, of in logs.items():
            together = np.concatenate(list(of.values()))
            row: dict[str, Any] = {"optimizer": optimizer, "agent": name, "ratio": float(np.exp(together.mean()))}
            row |= {"worst": float(np.exp(together.max()))} | {k: float(np.exp(np.mean(v))) for k, v in of.items()}
            rows.append(rounded(row))
    write_beside(options.out, rows, ("optimizer", "agent"))


def main(options: Options) -> int:
    """Run everything; four minutes for the schedules of an optimizer and one for an agent, on one core."""
    told = "" if options.knows_budget else ", no total_steps"
    hold({Path(agent).name + told: agent for agent in options.agents}, options)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Options)))
