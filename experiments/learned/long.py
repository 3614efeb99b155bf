"""Final loss of ``learned`` and of schedules in runs much longer than those of its training.

Digits are known by heart by then, and rates that go with the gradient run away.

python -m experiments.learned.long
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

import lrcontrol
from experiments.tables import rounded, write

HERE = Path(__file__).parent
RATES = {"sgd": [1.0, 3.0, 10.0], "adamw": [0.01, 0.03, 0.1]}
SEED = 100


@dataclass(frozen=True)
class Options:
    """Geometric mean and worst of the final training loss on digits-mlp; three minutes."""

    agents: tyro.conf.Positional[tuple[str, ...]] = ("learned", "learned:momentum=false", "distilled")
    """Who is run from one rate; the schedules beside them are at their best of three."""

    steps: tuple[int, ...] = (1000, 3000, 10_000)
    """Training steps; those of the searches were 80 to 500."""

    runs: int = 12
    """Runs of each agent; the schedules have four."""

    out: Path = HERE / "long.csv"
    """Where the table goes."""


def main(options: Options) -> int:
    """Run everything and write the table."""
    rows = []
    for steps in options.steps:
        for optimizer, rates in RATES.items():
            same: dict[str, Any] = {"steps": steps, "optimizer": optimizer, "momentum": 0.9, "seed": SEED}
            for agent in (*options.agents, "constant", "schedule:kind=one-cycle"):
                mine = agent in options.agents
                where = {"lr0": rates[:1], "runs": options.runs} if mine else {"lr0": rates, "runs": 4}
                results = lrcontrol.evaluate("digits-mlp", [agent], traces=False, **where, **same)
                losses = results.by_start(results.agents[0])
                best = int(np.log(losses).mean(axis=1).argmin())
                row: dict[str, Any] = {"steps": steps, "optimizer": optimizer, "agent": agent}
                row |= {"lr0": "any" if mine else rates[best], "mean": float(np.exp(np.log(losses[best]).mean()))}
                rows.append(rounded(row | {"worst": float(losses[best].max())}))
    write(options.out, rows)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Options)))
