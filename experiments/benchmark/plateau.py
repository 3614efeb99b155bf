"""Chooses a working setting of ``plateau`` on tasks that the benchmark does not report.

python -m experiments.benchmark.plateau
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

import lrcontrol
from experiments.tables import rounded, write
from lrcontrol.envs.distributions import find_tasks

HERE = Path(__file__).parent
RATES = {"sgd": np.geomspace(0.03, 10.0, 6), "adamw": np.geomspace(1e-3, 0.3, 6)}
CASES = ((0, 10, 10), (1, 10, 10), (1, 20, 5), (3, 20, 2), (0, 50, 1))  # patience, window, every


@dataclass(frozen=True)
class Options:
    """Geometric mean, over validation tasks, of each setting's loss at its best rate over the best constant's."""

    tasks: int = 8
    """Validation tasks of random-digits and random-synthetic in turn."""

    out: Path = HERE / "plateau.csv"
    """Where the table goes."""


def main(options: Options) -> int:
    """Run everything: a few minutes of one core."""
    settings = [
        f"plateau:factor={factor},patience={patience},window={window},every={every}"
        for factor, (patience, window, every) in itertools.product((0.1, 0.3, 0.5, 0.7), CASES)
    ]
    tasks, logs = find_tasks(("random-digits", "random-synthetic")), {name: [] for name in settings}
    for optimizer, index in itertools.product(RATES, range(options.tasks)):
        task, rates = tasks.instance(index, held_out=True), RATES[optimizer].tolist()
        found = lrcontrol.evaluate(
            task, ["constant", *settings], lr0=rates, runs=1, optimizer=optimizer, momentum=0.9, traces=False
        )
        losses = {agent: found.by_start(agent).min() for agent in found.agents}
        for asked, agent in zip(settings, found.agents[1:], strict=True):  # tables leave out what is the default
            logs[asked].append((optimizer, np.log(losses[agent] / losses["constant"])))
    rows = []
    for name, ratios in logs.items():
        row = {"agent": name, "both": float(np.exp(np.mean([log for _, log in ratios])))}
        row |= {o: float(np.exp(np.mean([log for optimizer, log in ratios if optimizer == o]))) for o in RATES}
        rows.append(rounded(row))
    write(options.out, sorted(rows, key=lambda row: row["both"]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Options)))
