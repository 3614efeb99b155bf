"""Does the hill-climber decide alike with one extra forward pass for two? Two ways of saving one, and what they decide.

    python -m experiments.speed.single_probe

With two passes, trial steps with the rate and with the rate times a factor are compared on the present minibatch. Both
ways of saving one take the first of the two losses from the next training step, whose loss is that of the step with the
rate itself, on the next minibatch. "Mixed" compares it with the trial on the present minibatch; "late" puts the trial's
parameters on the next minibatch too, and so decides one step later. Agreement is the share of decisions alike, along
runs that the two passes control; 0.5 is what a coin gives. Writes single_probe.csv.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import lrcontrol
from experiments.tables import write
from lrcontrol.cli import run_command
from lrcontrol.envs.engine import Engine
from lrcontrol.envs.seeding import run_seeds

HERE = Path(__file__).parent
TASKS = ("digits-mlp", "mnist-mlp")
STARTS = (1e-3, 0.1, 1.0)
Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Options:
    """Compare one probe with two."""

    factors: tuple[float, ...] = (1.01, 2.0)
    """Of the hill-climber."""
    runs: int = 5
    """Runs from every start."""
    out: Path = HERE
    """Folder for the table."""


class Climb:
    """Runs of a task under a hill-climber along plain SGD, every decision known by all three ways."""

    def __init__(self, task: str, runs: int) -> None:
        self.task = lrcontrol.make_task(task)
        self.rows = runs * len(STARTS)
        self.engine = Engine(self.task, "sgd", self.rows, runs)
        self.engine.reset([run_seeds(row // len(STARTS)) for row in range(self.rows)])
        self.rates: Array = np.tile(STARTS, runs)

    def step(self, factor: float, decide: Callable[[dict[str, Array]], Array]) -> dict[str, Array]:
        """Take a step, let ``decide`` move the rates, and return whether each way would raise them, (R,) each."""
        engine = self.engine
        losses = engine.probe(self.rates, factor, 0.0)
        trial = engine.params - torch.from_numpy(factor * self.rates).float()[:, None] * engine.gradient
        engine.step(self.rates, 0.0)
        x, y = engine.minibatch
        late = engine.model.losses(trial, x, y).numpy()
        ways = {"two": losses[:, 1] < losses[:, 0], "mixed": losses[:, 1] < engine.losses, "late": late < engine.losses}
        self.rates = np.clip(self.rates * np.where(decide(ways), factor, 1.0 / factor), 1e-12, 1e6)
        return ways


def main(options: Options) -> int:
    rows = []
    for task in TASKS:
        for factor in options.factors:
            row: dict[str, Any] = {"task": task, "factor": factor}
            for way in ("two", "late", "mixed"):
                climb = Climb(task, options.runs)
                seen = [climb.step(factor, lambda ways, way=way: ways[way]) for _ in range(climb.task.steps)]
                if way == "two":
                    for other in ("late", "mixed"):
                        row[f"agreement_{other}"] = round(float(np.mean([w["two"] == w[other] for w in seen])), 3)
                final = climb.engine.evaluate(climb.task.train)[0].reshape(-1, len(STARTS))
                row[f"final_loss_{way}"] = " ".join(f"{loss:.3g}" for loss in final.mean(axis=0))
            rows.append(row)
    write(options.out / "single_probe.csv", rows)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(Options, main, "python -m experiments.speed.single_probe", None))
