"""Holds ``learned`` against tuned schedules at ten times the horizon, minibatch, width and depth of its training.

python -m experiments.learned.stretch
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

import lrcontrol
from experiments.tables import rounded, write
from lrcontrol.envs import mlp
from lrcontrol.statistics import paired_difference
from lrcontrol.study import lr0_grid

HERE = Path(__file__).parent
# The longest horizon, minibatch and width in training are 500 steps, 256 rows and 64 units; networks have 3 hidden
# layers at most, but for those of random-deep, which have 4 to 12.
CASES: dict[str, dict[str, Any]] = {
    "as in training": {},
    "5,000 steps": {"steps": 5000},
    "minibatches of 2,560": {"batch_size": 2560},
    "640 units": {"hidden": (640,)},
    "30 layers": {"hidden": (32,) * 30},
    "10 layers": {"hidden": (32,) * 10},
}
GRIDS = {"adamw": lr0_grid(1e-4, 1.0, 9), "sgd": lr0_grid(1e-2, 100.0, 9)}
RIVALS = ("constant", "schedule:kind=one-cycle")


@dataclass(frozen=True)
class Options:
    """Ratio of the final training loss of an agent to schedules at their best of nine rates; five minutes."""

    agent: str = "learned"
    """Who is held against them."""

    runs: int = 3
    """Runs, the same for all."""

    out: Path = HERE / "stretch.csv"
    """Where the table goes."""


def clusters() -> tuple[torch.Tensor, torch.Tensor]:
    """Return 16,384 rows of 64 numbers around three centres for each of ten classes, a tenth of the labels wrong."""
    random = torch.Generator().manual_seed(0)
    which = torch.randint(30, (16384,), generator=random)
    inputs = torch.randn(30, 64, generator=random)[which] + torch.randn(16384, 64, generator=random)
    wrong = torch.rand(16384, generator=random) < 0.1
    return inputs, torch.where(wrong, torch.randint(10, (16384,), generator=random), which % 10)


def task(hidden: tuple[int, ...] = (32,), batch_size: int = 64, steps: int = 300) -> lrcontrol.Task:
    """Return the clusters under a network of ELU layers."""
    model = partial(mlp, 64, *hidden, 10, activation="elu")
    return lrcontrol.Task(name="clusters", model=model, train=clusters(), batch_size=batch_size, steps=steps)


def main(options: Options) -> int:
    """Run everything and write the table."""
    rows = []
    for case, changed in CASES.items():
        for optimizer, grid in GRIDS.items():
            given: dict[str, Any] = {"runs": options.runs, "optimizer": optimizer, "momentum": 0.9}
            mine = lrcontrol.evaluate(task(**changed), [options.agent], lr0=[1e-3], **given)
            losses = mine.by_start(options.agent)[0]
            row: dict[str, Any] = {"case": case, "optimizer": optimizer, "loss": losses.mean(), "worst": losses.max()}
            tuned = lrcontrol.evaluate(task(**changed), RIVALS, lr0=grid, **given)
            for name, rival in zip(("constant", "one-cycle"), RIVALS, strict=True):
                theirs = tuned.by_start(rival)
                best = int(theirs.mean(axis=1).argmin())
                ratio = np.exp(paired_difference(np.log(losses), np.log(theirs[best])))
                row |= {name: theirs[best].mean(), f"{name}_lr0": grid[best]}
                row |= dict(zip((f"{name}_ratio", f"{name}_low", f"{name}_high"), ratio, strict=True))
            rows.append(rounded(row))
            print(case, optimizer, flush=True)
    write(options.out, rows)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Options)))
