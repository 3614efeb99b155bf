"""What ``learned`` loses by deciding only at every second, third, fifth or tenth training step.

python -m experiments.learned.intervals
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tyro

import lrcontrol
from experiments.learned import stretch
from experiments.tables import rounded, write
from lrcontrol.agents import make_agent

HERE = Path(__file__).parent
INTERVALS = (1, 2, 3, 5, 10)
CASES = (("clusters", 1000), ("clusters", 5000), ("digits-mlp", 1000), ("digits-mlp", 3000), ("mnist-mlp", 600))


@dataclass(frozen=True)
class Options:
    """Geometric mean of the final training loss over that with a decision at each step; four minutes on one core."""

    runs: int = 4
    """Runs, the same for all."""

    out: Path = HERE / "intervals.csv"
    """Where the table goes."""


def main(options: Options) -> int:
    """Run everything and write the table."""
    rows, agent = [], make_agent("learned")
    for task, steps in CASES:
        for optimizer in ("adamw", "sgd"):
            row: dict[str, Any] = {"task": task, "steps": steps, "optimizer": optimizer}
            logs = []
            for interval in INTERVALS:
                spaced = replace(agent, name="learned", needs={**agent.needs, "interval": interval})
                same: dict[str, Any] = {"optimizer": optimizer, "momentum": 0.9, "runs": options.runs, "steps": steps}
                trained = stretch.task() if task == "clusters" else task
                results = lrcontrol.evaluate(trained, [spaced], lr0=[1e-3], traces=False, **same)
                logs.append(np.log(results.by_start("learned")[0]))
                row[f"every_{interval}"] = float(np.exp((logs[-1] - logs[0]).mean()))
            rows.append(rounded(row))
    write(options.out, rows)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Options)))
