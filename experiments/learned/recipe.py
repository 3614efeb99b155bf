"""Makes ``learned`` from nothing: for each optimizer a policy of the rate, then one of both, and merges the two.

    python -m experiments.learned.recipe

Every search goes on where it was stopped. Five hours, about half of them of two cores, by the times of its parts; the
agent ends in results/learned/learned.
"""

from __future__ import annotations

from collections.abc import Mapping
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
RAW: Leg = (160, 10, 0.06)  # the same lines gone on with, inputs that nobody has scaled among the tasks
NETWORK = 400  # generations
SEEN_LATER = {"fast_vs_best": "above_best", "fast_vs_first": "below_early"}  # the last search's, by those before
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


def begin_at(lines: TrainedAgent, other_features: Mapping[str, str] | None = None) -> dict[str, float]:
    """Return the weights of lines, by feature, and their biases, as ``evolve`` takes them to begin with.

    Args:
        lines: moves the rate, or that and the momentum.
        other_features: features that take the place of some of theirs, by these.
    """
    weights, biases = (lines.network.tensors[f"layers.0.{kind}"] for kind in ("weight", "bias"))
    names = [(other_features or {}).get(name, name) for name in lines.needs["features"]]
    named = {
        prefix + name: value
        for prefix, row, bias in zip(("", "momentum:"), weights.tolist(), biases.tolist(), strict=False)
        for name, value in zip((*names, "bias"), (*row, bias), strict=True)
    }
    return {name: round(value, 3) for name, value in named.items()}


def sgd(options: Options) -> Path:
    """Search for a line that moves the rate, then for two that move both, each begun at the last; return the folder."""
    base = BASES["sgd"]
    line, both, out = (options.folder / name for name in ("sgd-line", "sgd-lines", "sgd"))
    shared = {"optimizers": ("sgd",), "workers": options.workers} | SAME | base

    def search(folder: Path, legs: tuple[Leg, ...], **changed: Any) -> TrainedAgent:
        for generations, tasks, widest in legs:
            leg = {"generations": generations, "tasks": tasks, "widest": widest}
            evolve.main(evolve.Options(folder, **shared | changed | leg))
        return TrainedAgent.load(folder)

    moved: dict[str, Any] = {
        "features": (*base["features"], "log_one_minus_momentum"),
        "hyperparameters": ("lr", "momentum"),
        "sigma": 0.05,
        "seed": 1,  # and other tasks
    }
    begin = begin_at(search(line, LINE))
    begin = begin_at(search(both, MOMENTUM, **moved, begin=begin), SEEN_LATER)
    moved |= {"features": tuple(SEEN_LATER.get(name, name) for name in moved["features"]), "sigma": 0.03, "seed": 4}
    search(out, (RAW,), **moved, begin=begin, sources=(*SAME["sources"], "random-raw"))
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
