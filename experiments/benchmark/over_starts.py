"""``learned`` against everybody from six initial rates, over all tasks, optimizers, rates and runs at once.

    python -m experiments.benchmark.over_starts

Made of the runs.parquet beside the pages, in a few seconds; writes over_starts.csv. Of each rival's runs the ratio of
``learned``'s final training loss to theirs is taken, paired by task, optimizer and run: its interquartile mean (Agarwal
et al. 2021, section 4.3), and its geometric mean with all six pairs of task and optimizer weighing alike. Intervals
resample runs within each task. ``learned`` ends alike from any rate.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from experiments.benchmark.run import BOTH, HERE, LEARNED, RUNS, TASKS, losses_of_learned, runs_of
from experiments.tables import rounded, write
from lrcontrol.aggregates import Array, mean_over_tasks, middle_mean


def ratios(out: Path = HERE) -> dict[str, dict[tuple[str, str], Array]]:
    """Return by rival, task and optimizer the ratios (rates, runs) of ``learned``'s final training loss to theirs."""
    found: dict[str, dict[tuple[str, str], Array]] = {}
    for task, optimizer in itertools.product(TASKS, BOTH):
        learned = losses_of_learned(task, optimizer, out)
        for rival, rates in runs_of(out / task / "starts" / RUNS, task, optimizer).items():
            if learned is not None and rival not in LEARNED:
                found.setdefault(rival, {})[task, optimizer] = learned / np.array([*rates.values()])
    return found


def row_of(rival: str, ratios: dict[tuple[str, str], Array]) -> dict[str, Any]:
    """Return a rival's row; runs whose cells failed count for nothing."""
    there = {pair: values[:, ~np.isnan(values).any(axis=0)] for pair, values in ratios.items()}
    tasks = [task for task, _ in there]
    middle = middle_mean([*there.values()], groups=tasks)
    alike = np.exp(mean_over_tasks([np.log(values) for values in there.values()], groups=tasks))
    row: dict[str, Any] = {"rival": rival, "pairs": len(there)}
    for name, ratio in (("ratio", middle), ("ratio_alike", alike)):
        row |= dict(zip((name, f"{name}_low", f"{name}_high"), map(float, ratio), strict=True))
    return rounded(row | {"lower_in": float(np.mean(np.concatenate([r.ravel() for r in there.values()]) < 1.0))})


def main(out: Path = HERE / "over_starts.csv") -> None:
    """Write a row for each rival, the nearest first."""
    rows = [row_of(rival, found) for rival, found in ratios().items()]
    write(out, sorted(rows, key=lambda row: -float(row["ratio"])))


if __name__ == "__main__":
    tyro.cli(main)
