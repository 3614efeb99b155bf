"""Makes the agent that is shipped of two: one for SGD, and one for optimizers that scale each parameter's step.

How far the loss is above its best and below its first was in most searches without a bound. What is shipped reads the
features that have one, and lowers the rate by a term of its own where the loss is far below the first, so that runs
longer than those of the training do not run away; runs that are not have the same rates as without.

    python -m experiments.learned.merge results/learned/sgd results/learned/adamw --out results/learned/learned
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tyro

from lrcontrol.agents.gated import SCALE, merge
from lrcontrol.agents.network import Network
from lrcontrol.agents.trained import TrainedAgent

BOUNDED = {"fast_vs_best": "above_best", "fast_vs_first": "below_first"}
BRAKE = "far_below_first"


@dataclass(frozen=True)
class Options:
    """Merge two agents whose settings are the same but for the features they see."""

    sgd: tyro.conf.Positional[Path]
    """Folder of the agent for SGD."""

    adaptive: tyro.conf.Positional[Path]
    """Folder of the agent for the others."""

    out: Path
    """Folder of the agent that is both."""

    sgd_brake: float = 0.5
    """What log2 of the rate's multiplier is lowered by for each log that the loss has fallen too far, with SGD."""

    adaptive_brake: float = 0.25
    """The same with the others."""


def braked(agent: TrainedAgent, weight: float) -> TrainedAgent:
    """Return the agent with features that have a bound, and ``weight`` times ``BRAKE`` added to its first output."""
    features = (*(BOUNDED.get(name, name) for name in agent.needs["features"]), BRAKE)
    tensors = dict(agent.network.tensors)
    first = np.pad(tensors["layers.0.weight"], ((0, 0), (0, 1)))
    if agent.network.depth == 1:
        first[0, -1] = weight
    else:  # by a unit more, which is all but a line
        unit = np.zeros((1, len(features)))
        unit[0, -1] = weight / SCALE
        first = np.concatenate([first, unit])
        tensors["layers.0.bias"] = np.append(tensors["layers.0.bias"], np.float32(0.0))
        more = np.zeros((sum(agent.network.sizes), 1), np.float32)
        more[0] = SCALE
        tensors["layers.1.weight"] = np.append(tensors["layers.1.weight"], more, axis=1)
    tensors["layers.0.weight"] = first.astype(np.float32)
    network = Network(tensors, agent.network.activation, agent.network.head, agent.network.sizes)
    return replace(agent, needs={**agent.needs, "features": features}, network=network)


def formulas(agent: TrainedAgent) -> list[str]:
    """Return what a line answers, an output each."""
    names = agent.needs["features"]
    weights, biases = (agent.network.tensors[f"layers.0.{kind}"] for kind in ("weight", "bias"))
    terms = (" ".join(f"{w:+.3f} {name}" for w, name in zip(row, names, strict=True)) for row in weights)
    return [f"log2 m = {bias:+.3f} {row}" for bias, row in zip(biases, terms, strict=True)]


def main(options: Options) -> int:
    """Merge, save, and print what the lines among the two say."""
    brakes = {"sgd": options.sgd_brake, "adaptive": options.adaptive_brake}
    halves = {kind: braked(TrainedAgent.load(getattr(options, kind)), by) for kind, by in brakes.items()}
    merge(**halves).save(options.out)
    for kind, half in halves.items():
        if half.network.depth == 1:
            print(kind, *formulas(half), sep="\n  ")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Options)))
