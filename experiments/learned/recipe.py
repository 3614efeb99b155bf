"""Makes ``learned`` from nothing: for each optimizer a policy of the rate, then one of the momentum, both merged.

    python -m experiments.learned.recipe

Every search goes on where it was stopped. Four hours, most of them of two cores, by the times of its parts; the agent
ends in results/learned/learned.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from experiments.learned import evolve, merge
from experiments.learned.ablations import BASES, SAME
from lrcontrol.agents.trained import TrainedAgent

Leg = tuple[int, int, float]  # generations in all, tasks for each, the widest search
LINE: tuple[Leg, ...] = ((40, 8, 0.3), (120, 8, 0.3), (160, 16, 0.1))
MOMENTUM: tuple[Leg, ...] = ((80, 8, 0.1), (140, 16, 0.1))  # the last legs see more, for a search ends in noise
NETWORK = 400  # generations
# What is added to the network, and moves the momentum: all that it sees and the momentum, tasks of every kind.
ADDED: dict[str, Any] = {
    "optimizers": ("adamw",),
    "features": (*evolve.FEATURES, "log_one_minus_momentum"),
    "hyperparameters": ("lr", "momentum"),
    "sources": ("random-synthetic", "random-images", "random-deep", "random-digits", "random-fresh", "random-deep"),
    "stretched": True,
    "population": 24,
    "tasks": 24,
    "sigma": 0.05,
    "widest": 0.1,
    "seed": 3,
    "generations": 80,
}


@dataclass(frozen=True)
class Options:
    """Search for policies of the rate, then for what moves the momentum too and begins at these, and merge them."""

    folder: Path = Path("results/learned")
    """Where the searches are, and the agent."""

    workers: int = 2
    """Processes."""


def begin_at(line: TrainedAgent) -> dict[str, float]:
    """Return the weights of a line's rate, by feature, and its bias, as ``evolve`` takes them to begin with."""
    weight, bias = (line.network.tensors[f"layers.0.{kind}"][0] for kind in ("weight", "bias"))
    named = dict(zip(line.needs["features"], weight.tolist(), strict=True)) | {"bias": float(bias)}
    return {name: round(value, 3) for name, value in named.items()}


def sgd(options: Options) -> Path:
    """Search for a line that moves the rate, then for two, begun at it, that move both; return their folder."""
    base, line, out = BASES["sgd"], options.folder / "sgd-line", options.folder / "sgd"
    shared = {"optimizers": ("sgd",), "workers": options.workers} | SAME
    for generations, tasks, widest in LINE:
        leg = {"generations": generations, "tasks": tasks, "widest": widest}
        evolve.main(evolve.Options(line, **shared | base | leg))
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


def adamw(options: Options) -> Path:
    """Search for a network that moves the rate, then for lines to add to it that move both; return the sum's folder."""
    network, out = options.folder / "network", options.folder / "adamw"
    evolve.main(evolve.Options(network, hidden=8, generations=NETWORK, workers=options.workers))
    evolve.main(evolve.Options(out, base=network, workers=options.workers, **ADDED))
    return out


def main(options: Options) -> int:
    """Search and merge."""
    return merge.main(merge.Options(sgd(options), adamw(options), options.folder / "learned"))


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Options)))
