"""The learning rate alone against learning rate and momentum: hill-climber, bandit and PPO, on three tasks, ten runs.

    python -m experiments.momentum.reproduce

SGD with momentum 0.9 at the start, in both cases; the initial rates are the same. "Equal steps" compares runs of equal
length; "equal cost" gives the agent whose decisions cost fewer forward passes the steps that the other's passes would
pay, a backward pass counted as two forward ones. PPO is trained on random-digits alone, as long in both cases.
Trainings go into results/momentum and are not done twice. Needs MNIST and Fashion-MNIST.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

import lrcontrol
from experiments.tables import cost, write
from experiments.trainings import run_all
from lrcontrol.envs import DEFAULT_FEATURES
from lrcontrol.statistics import paired_difference

HERE = Path(__file__).parent
STARTS = [1e-5, 1e-3, 0.1, 1.0, 10.0]
TASKS = {"digits-mlp": 200, "mnist-mlp": 600, "fashion-mnist-mlp": 600}
FEATURES = tuple(name for name in DEFAULT_FEATURES if name != "log_lr")  # an absolute rate does not transfer
COST = {"hillclimb": (5.0, 6.0), "bandit": (3.0, 3.0), "ppo": (3.0, 3.0)}  # forward passes a step: alone, with momentum
AGENTS = {
    "hillclimb": ("hillclimb:factor=2", "hillclimb:factor=2,momentum=true"),
    "bandit": ("bandit:arms=multipliers", "bandit:arms=multipliers,momentum=true,joint=product"),
}


@dataclass(frozen=True)
class Options:
    """Compare the learning rate alone with learning rate and momentum."""

    work: Path = Path("results/momentum")
    """Where the trained agents go."""
    timesteps: int = 2_000_000
    """Of each of the two trainings of PPO."""
    runs: int = 10
    """Paired runs."""


def train(options: Options) -> tuple[str, str]:
    """Return the folders of the two agents of PPO."""
    common = ["--task", "random-digits", "--timesteps", str(options.timesteps)]
    common += ["--set", "momentum=0.9", f"features={FEATURES}"]
    two = {
        "ppo-lr": [*common, "--hyperparameters", "lr"],
        "ppo-lr-momentum": [*common, "--hyperparameters", "lr,momentum"],
    }
    folders = run_all(two, options.work)
    for name, folder in folders.items():
        print(name, cost(folder))
    return str(folders["ppo-lr"]), str(folders["ppo-lr-momentum"])


def compare(task: str, kind: str, agents: tuple[str, str], options: Options) -> list[dict[str, Any]]:
    """Return the rows of one task and kind of agent, at equal steps and at equal cost."""
    rows = []
    alone_cost, both_cost = COST[kind]
    longer = round(TASKS[task] * both_cost / alone_cost)
    for basis, steps in {"equal steps": TASKS[task], "equal cost": longer}.items():
        if basis == "equal cost" and longer == TASKS[task]:
            rows.append(rows[-1] | {"basis": basis})
            continue
        first, second = (
            lrcontrol.evaluate(task, [agent], lr0=STARTS, runs=options.runs, steps=length, momentum=0.9)
            for agent, length in zip(agents, (steps, TASKS[task]), strict=True)
        )
        alone, both = first.by_start(agents[0]), second.by_start(agents[1])
        logs = paired_difference(np.log(both).mean(axis=0), np.log(alone).mean(axis=0))
        ratio = {name: float(np.exp(value)) for name, value in logs._asdict().items()}
        row: dict[str, Any] = {"task": task, "agent": kind, "basis": basis, "steps_alone": steps}
        row |= {"alone": alone.mean(), "with_momentum": both.mean(), "worst_alone": alone.mean(axis=1).max()}
        row |= {"worst_with_momentum": both.mean(axis=1).max(), "ratio": ratio["mean"]}
        row |= {"ratio_low": ratio["low"], "ratio_high": ratio["high"]}
        rows.append({key: float(f"{v:.4g}") if isinstance(v, float) else v for key, v in row.items()})
    return rows


def main(options: Options) -> int:
    began = time.perf_counter()
    agents = AGENTS | {"ppo": train(options)}
    rows = [row for task in TASKS for kind, pair in agents.items() for row in compare(task, kind, pair, options)]
    write(HERE / "momentum.csv", rows)
    print(f"{time.perf_counter() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
