"""How the terms that merge.py puts into ``learned`` by hand were weighed: its final losses with other weights.

python -m experiments.learned.terms
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tyro

import lrcontrol
from experiments.learned import merge, stretch
from experiments.learned.validate import drawn, final_losses
from experiments.tables import rounded, write_beside
from lrcontrol.agents.learned import learned
from lrcontrol.agents.network import Network
from lrcontrol.agents.trained import TrainedAgent
from lrcontrol.envs.distributions import find_tasks
from lrcontrol.envs.errors import InputError
from lrcontrol.envs.task import Task
from lrcontrol.envs.text import next_token_loss

HERE = Path(__file__).parent
DEPTHS = (0.0, -0.5, -1.0, -1.2, -1.5, -2.0)
SPACED = (0.0, 0.25, 0.5, 1.0)
INTERVALS = (2, 3, 5, 10)
DEEP = "random-deep"
SENTENCES = "sentences"  # of random-synthetic, under transformers


@dataclass(frozen=True)
class Options:
    """Other weights for the number of weight matrices, and for the brake between decisions; 25 minutes of one core."""

    optimizers: tuple[str, ...] = ("adamw", "sgd")
    """Which base optimizers; the second term is there with AdamW alone."""

    tasks: int = 16
    """Validation tasks of each distribution; of random-deep half as many again, of sentences half."""

    runs: int = 10
    """Runs on digits, for the second term; on networks of ten layers four."""

    steps: tuple[int, ...] = (1000, 3000)
    """Of those."""

    depth: Path = HERE / "depth.csv"
    """Where the table of the first term goes."""

    spaced: Path = HERE / "spaced.csv"
    """Where that of the second goes."""


def reweighed(feature: str, weight: float, optimizer: str) -> TrainedAgent:
    """Return ``learned`` with another weight of a feature that merge.py put in, under one base optimizer.

    Raises:
        InputError: it was put in with no weight there.
    """
    agent, half = learned(), "sgd" if optimizer == "sgd" else "adaptive"
    shipped = getattr(merge.Options, f"{half}_{merge.TERMS[feature]}")
    if not shipped:
        raise InputError(f"feature {feature!r} has no weight with {optimizer}, so it cannot be given another one")
    tensors = {name: tensor.copy() for name, tensor in agent.network.tensors.items()}
    tensors["layers.0.weight"][:, agent.needs["features"].index(feature)] *= weight / shipped
    network = Network(tensors, agent.network.activation, agent.network.head, agent.network.sizes)
    return replace(agent, name=f"{weight:g}", network=network)


def tasks_of(source: str, optimizer: str, tasks: int) -> Iterator[Task]:
    """Yield validation tasks of a distribution, or those of random-synthetic that are sentences."""
    if source != SENTENCES:
        return drawn(source, optimizer, 3 * tasks // 2 if source == DEEP else tasks)
    found = (find_tasks("random-synthetic").instance(index, held_out=True) for index in itertools.count())
    return itertools.islice((task for task in found if task.loss is next_token_loss), tasks // 2)


def depths(optimizer: str, options: Options) -> list[dict[str, Any]]:
    """Return a row for each weight: losses over those with none, by distribution, and on networks of ten layers."""
    agents = [reweighed("log_depth", weight, optimizer) for weight in DEPTHS]
    rows: list[dict[str, Any]] = [{"optimizer": optimizer, "weight": weight} for weight in DEPTHS]
    sources = [DEEP, "random-fresh", "random-synthetic", "random-images"]
    sources += [SENTENCES] if optimizer == "adamw" else []  # nobody trains a transformer with SGD
    for source in sources:
        losses = np.log(
            [
                [final_losses(agent, task, optimizer, task.steps, [1e-3])[0] for agent in agents]
                for task in tasks_of(source, optimizer, options.tasks)
            ]
        )
        without = losses[:, [DEPTHS.index(0.0)]]
        for row, ratios in zip(rows, (losses - without).T, strict=True):
            row |= {source: float(np.exp(ratios.mean())), f"{source} worst": float(np.exp(ratios.max()))}
        print(optimizer, source, flush=True)
    given: dict[str, Any] = {"lr0": [1e-3], "runs": 4, "optimizer": optimizer, "momentum": 0.9, "traces": False}
    found = lrcontrol.evaluate(stretch.task(**stretch.CASES["10 layers"]), agents, **given)
    return [rounded(row | {"10 layers": found.by_start(a.name).mean()}) for row, a in zip(rows, agents, strict=True)]


def spaced(options: Options) -> list[dict[str, Any]]:
    """Return a row for each weight, interval and number of steps: losses on digits-mlp with AdamW."""
    rows = []
    for steps, interval in itertools.product(options.steps, INTERVALS):
        agents = [reweighed("far_below_spaced", weight, "adamw") for weight in SPACED]
        agents = [replace(agent, needs={**agent.needs, "interval": interval}) for agent in agents]
        given: dict[str, Any] = {"lr0": [1e-3], "runs": options.runs, "optimizer": "adamw", "momentum": 0.9}
        found = lrcontrol.evaluate("digits-mlp", agents, steps=steps, traces=False, **given)
        for weight, agent in zip(SPACED, agents, strict=True):
            losses = found.by_start(agent.name)[0]
            row = {"steps": steps, "interval": interval, "weight": weight}
            rows.append(rounded(row | {"mean": float(np.exp(np.log(losses).mean())), "worst": float(losses.max())}))
    return rows


def main(options: Options) -> int:
    """Write both tables."""
    for optimizer in options.optimizers:
        write_beside(options.depth, depths(optimizer, options), ("optimizer",))
    if "adamw" in options.optimizers:
        write_beside(options.spaced, spaced(options), ("steps",))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Options)))
