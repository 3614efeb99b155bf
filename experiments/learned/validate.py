"""Holds agents against the schedule that is best on each validation task, the held-out tasks of the training families.

python -m experiments.learned.validate learned schedule:kind=one-cycle,start=0.3
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tyro

from experiments.tables import write
from lrcontrol.agents import make_agent
from lrcontrol.envs.distributions import find_tasks
from lrcontrol.envs.random_synthetic import KINDS
from lrcontrol.envs.settings import Settings
from lrcontrol.envs.task import Task
from lrcontrol.rollouts import final_measures, roll_out, settings_for

HERE = Path(__file__).parent
GRIDS = {"adamw": np.geomspace(3e-4, 1.0, 8), "sgd": np.geomspace(1e-2, 30.0, 8)}
SCHEDULES = ("schedule:kind=linear", "schedule:kind=one-cycle")
SEED = 2_500_000_000


@dataclass(frozen=True)
class Options:
    """Geometric mean, over validation tasks, of an agent's final loss over the best of sixteen tuned schedules."""

    agents: tyro.conf.Positional[tuple[str, ...]]
    """Whom to hold against it."""

    tasks: int = 24
    """Validation tasks, digits and synthetic ones in turn."""

    out: Path = field(default=HERE / "validation.csv")
    """Where the table goes."""


def final_losses(agent: str, task: Task, optimizer: str, rates: list[float]) -> np.ndarray:
    """Return the final training loss (rates,) of one run for each rate."""
    chosen = make_agent(agent)
    settings = settings_for(Settings.make({"task": task, "optimizer": optimizer, "momentum": 0.9}), chosen)
    return final_measures(roll_out(chosen, settings, rates, 1, SEED, "cpu"))["train_loss"]


def main(options: Options) -> int:
    """Run everything; four minutes for the schedules and half a minute for an agent on one core."""
    tasks = find_tasks(("random-digits", "random-synthetic"))
    rows = []
    for optimizer, grid in GRIDS.items():
        drawn = [tasks.instance(index, held_out=True) for index in range(options.tasks)]
        tuned = [min(final_losses(kind, task, optimizer, grid.tolist()).min() for kind in SCHEDULES) for task in drawn]
        for agent in options.agents:
            losses = np.array([final_losses(agent, task, optimizer, [1e-3])[0] for task in drawn])
            logs = np.log(losses / np.array(tuned))
            row = {"optimizer": optimizer, "agent": agent, "ratio": np.exp(logs.mean()), "worst": np.exp(logs.max())}
            row["digits"] = np.exp(logs[0::2].mean())
            for number, kind in enumerate(KINDS):  # in turn, digits between them
                row[kind] = np.exp(logs[1 + 2 * number :: 2 * len(KINDS)].mean())
            rows.append({k: round(float(v), 3) if not isinstance(v, str) else v for k, v in row.items()})
    write(options.out, rows)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Options)))
