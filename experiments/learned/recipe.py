"""Makes ``learned`` from nothing: two lines found by evolution, momentum given to each, both merged.

    python -m experiments.learned.recipe

Every search goes on where it was stopped. Two hours of two cores, by the times of its parts; the agent ends in
results/learned/learned.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from experiments.learned import evolve, merge
from experiments.learned.ablations import BASES, SAME
from lrcontrol.agents.trained import TrainedAgent

Leg = tuple[int, int, float]  # generations in all, tasks for each, the widest search
LINE: tuple[Leg, ...] = ((40, 8, 0.3), (120, 8, 0.3), (160, 16, 0.1))
MOMENTUM: tuple[Leg, ...] = (
    (80, 8, 0.1),
    (140, 16, 0.1),
)  # the last legs see more, for a search ends in noise


@dataclass(frozen=True)
class Options:
    """Search for the lines, then for lines that move the momentum too and begin at these, and merge them."""

    folder: Path = Path("results/learned")
    """Where the searches are, and the agent."""

    workers: int = 2
    """Processes."""


def begin_at(line: TrainedAgent) -> dict[str, float]:
    """Return the weights of a line's rate, by feature, and its bias, as ``evolve`` takes them to begin with."""
    weight, bias = (line.network.tensors[f"layers.0.{kind}"][0] for kind in ("weight", "bias"))
    named = dict(zip(line.needs["features"], weight.tolist(), strict=True)) | {"bias": float(bias)}
    return {name: round(value, 3) for name, value in named.items()}


def search(optimizer: str, options: Options) -> Path:
    """Search for one optimizer's policy, or go on; return its folder."""
    base, line = BASES[optimizer], options.folder / f"{optimizer}-line"
    shared = {"optimizers": (optimizer,), "workers": options.workers} | SAME
    for generations, tasks, widest in LINE:
        leg = {"generations": generations, "tasks": tasks, "widest": widest}
        evolve.main(evolve.Options(line, **shared | base | leg))
    out = options.folder / optimizer
    both = {
        "features": (*base["features"], "log_one_minus_momentum"),
        "begin": begin_at(TrainedAgent.load(line)),
        "hyperparameters": ("lr", "momentum"),
        "sigma": 0.05,
        "seed": 1,  # and other tasks
    }
    for generations, tasks, widest in MOMENTUM:
        leg = {"generations": generations, "tasks": tasks, "widest": widest}
        evolve.main(evolve.Options(out, **shared | both | leg))
    return out


def main(options: Options) -> int:
    """Search and merge."""
    sgd, adamw = (search(optimizer, options) for optimizer in BASES)
    return merge.main(merge.Options(sgd, adamw, options.folder / "learned"))


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Options)))
