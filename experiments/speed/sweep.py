"""What a training step costs as minibatch, width, number of replicas and probes grow, all on digits.

    python -m experiments.speed.sweep                 on the CPU
    python -m experiments.speed.sweep --device cuda   on a GPU

The batched environment on 64-20-10, minibatches of 64, 256 replicas, plain SGD; one thing is changed at a time, and the
variants are timed in turn, round after round. Writes sweep.csv and sweep.png, or sweep-cuda.csv and
sweep-cuda.png: microseconds for each replica's step.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.figure import Figure

import lrcontrol
from experiments.speed.measure import MULTIPLIERS, rate_of, suffix_of
from experiments.tables import write
from lrcontrol.cli import run_command
from lrcontrol.envs import DEFAULT_FEATURES, Task, TrainingVectorEnv, mlp
from lrcontrol.envs.engine import pick_device

HERE = Path(__file__).parent
ROWS = 256
PROBES = {"no probe": (), "probe": ("probe_slope",)}


@dataclass(frozen=True)
class Options:
    """Time variants of one case."""

    rounds: int = 5
    """Repetitions."""
    seconds: float = 0.4
    """Length of one timing, about."""
    device: Literal["cpu", "cuda"] = "cpu"
    """cpu or cuda."""
    out: Path = HERE
    """Folder for table and figure."""


class Variant:
    """The batched environment on one task, under actions that hold the rate."""

    def __init__(self, task: Task, device: str, rows: int = ROWS, features: tuple[str, ...] = DEFAULT_FEATURES) -> None:
        self.env = TrainingVectorEnv(rows, task=task, multipliers=MULTIPLIERS, features=features, device=device)
        self.rows, self.action = rows, np.ones(rows, dtype=int)
        self.env.reset(seed=0, options={"lr0": 1e-3})
        self.step()

    def step(self) -> int:
        """Take a step of every replica."""
        self.env.step(self.action)
        return self.rows


def variants(device: str) -> dict[tuple[str, str], Callable[[], Variant]]:
    """Return what is timed, by what is changed and to what."""
    task = lrcontrol.make_task("digits-mlp")
    found: dict[tuple[str, str], Callable[[], Variant]] = {}
    for batch in (16, 64, 256, 1024):
        found["minibatch", str(batch)] = lambda batch=batch: Variant(replace(task, batch_size=batch), device)
    for width in (10, 20, 40, 80, 160):
        wider = replace(task, model=lambda width=width: mlp(64, width, 10))
        found["width", str(width)] = lambda wider=wider: Variant(wider, device)
    for rows in (1, 4, 16, 64, 256, 1024):
        found["replicas", str(rows)] = lambda rows=rows: Variant(task, device, rows)
    for name, extra in PROBES.items():
        found["decision", name] = lambda extra=extra: Variant(task, device, features=(*DEFAULT_FEATURES, *extra))
    return found


def main(options: Options) -> int:
    made = {key: make() for key, make in variants(pick_device(options.device).type).items()}
    rates: dict[tuple[str, str], list[float]] = {key: [] for key in made}
    for _ in range(options.rounds):
        for key, variant in made.items():
            rates[key].append(rate_of(variant, options.seconds))
    rows: list[dict[str, Any]] = [
        {"changed": changed, "to": to, "microseconds": round(1e6 / float(np.median(values)), 2)}
        for (changed, to), values in rates.items()
    ]
    suffix = suffix_of(options.device)
    write(options.out / f"sweep{suffix}.csv", rows)
    figure = Figure(figsize=(9.0, 3.0), layout="constrained")
    for axes, changed in zip(figure.subplots(1, 3, sharey=True), ("minibatch", "width", "replicas"), strict=True):
        mine = [row for row in rows if row["changed"] == changed]
        axes.plot([int(row["to"]) for row in mine], [row["microseconds"] for row in mine], marker="o")
        axes.set(xlabel=changed, xscale="log", yscale="log")
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("µs for a replica's step")
    figure.savefig(options.out / f"sweep{suffix}.png", dpi=110)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(Options, main, "python -m experiments.speed.sweep", None))
