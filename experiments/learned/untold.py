"""The held-out tasks again with ``learned`` not told how many steps there are.

python -m experiments.learned.untold

Writes untold.csv: mean final losses, and training losses over those of the same runs when told and of the best
constant's, which are in runs.parquet. Four minutes on one core.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tyro

import lrcontrol
from experiments.learned.heldout import ENDS, GRIDS, HERE, TASKS, at_best, before
from experiments.tables import rounded, write_beside

RUNS = 3  # or as many as there were


def row_of(task: str, optimizer: str) -> dict[str, Any]:
    """Return the losses on one task."""
    runs = min(RUNS, TASKS[task])
    found = lrcontrol.evaluate(
        task, ["learned"], lr0=ENDS[:1], runs=runs, optimizer=optimizer, momentum=0.9, knows_budget=False
    )
    row: dict[str, Any] = {"optimizer": optimizer, "task": task, "runs": runs}
    for measure in ("train_loss", "test_loss"):
        untold = at_best(found, measure)
        row[measure] = float(untold.mean())
        for name, agent in (("told", "learned"), ("constant", "constant")):
            if (there := before(HERE / "runs.parquet", task, optimizer, agent)) is not None:
                row[f"{measure}_over_{name}"] = float((untold / at_best(there, measure)[:runs]).mean())
    return rounded(row)


def main(optimizers: tuple[str, ...] = tuple(GRIDS), out: Path = HERE / "untold.csv") -> None:
    """Run them all; rows of other optimizers stay."""
    rows = [row_of(task, optimizer) for optimizer in optimizers for task in TASKS]
    write_beside(out, rows, ("optimizer",))


if __name__ == "__main__":
    tyro.cli(main)
