"""Makes the agent that is shipped of two: one for SGD, and one for optimizers that scale each parameter's step.

Four things are put in by hand.

- How far the loss is above its best and below its first was in most searches without a bound. What is shipped reads the
  features that have one, and lowers the rate by a term of its own, a brake, where the loss is far below the first, so
  that runs longer than those of the training do not run away; runs that are not have the same rates as without.
- Where steps lie between decisions the brake is stronger; with SGD it need not be.
- The more weight matrices a network has, from four to twelve, the lower the rate: what it computes is changed by the
  relative change of each of its layers, one upon the other, as in the deep relative trust of Bernstein, Vahdat, Yue and
  Liu (2020).
- The step right after a decision is no longer than three tenths of the parameters: a loss that explodes within a step
  or two, as with targets in thousands, is faster than decisions, which move the rate by 2 at most.

    python -m experiments.learned.merge results/learned/sgd results/learned/adamw --out results/learned/learned
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tyro

from lrcontrol.agents.gated import SCALE, merge
from lrcontrol.agents.network import Network
from lrcontrol.agents.trained import TrainedAgent

BOUNDED = {"fast_vs_best": "above_best", "fast_vs_first": "below_first"}
TERMS = {"far_below_first": "brake", "log_depth": "depth", "far_below_spaced": "spaced"}  # and their options


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

    sgd_depth: float = -1.2
    """What is added to log2 of the rate's multiplier for ten times as many weight matrices as three, with SGD."""

    adaptive_depth: float = -1.5
    """The same with the others."""

    max_relative_step: float = 0.3
    """The longest step right after a decision, next to the parameters."""

    sgd_spaced: float = 0.0
    """By how much the brake is stronger where ten training steps lie between decisions, with SGD."""

    adaptive_spaced: float = 0.5
    """The same with the others."""


def corrected(agent: TrainedAgent, terms: Mapping[str, float]) -> TrainedAgent:
    """Return the agent with features that have a bound, and weights of others added to its first output.

    Args:
        agent: a line, or a network of one layer of tanh units.
        terms: by feature, of those that it does not see.
    """
    features = (*(BOUNDED.get(name, name) for name in agent.needs["features"]), *terms)
    tensors, weights = dict(agent.network.tensors), np.array([*terms.values()])
    first = np.pad(tensors["layers.0.weight"], ((0, 0), (0, len(terms))))
    if agent.network.depth == 1:
        first[0, -len(terms) :] = weights
    else:  # by a unit more, which is all but a line
        unit = np.zeros((1, len(features)))
        unit[0, -len(terms) :] = weights / SCALE
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
    halves = {}
    for kind in ("sgd", "adaptive"):
        terms = {name: getattr(options, f"{kind}_{option}") for name, option in TERMS.items()}
        half = corrected(TrainedAgent.load(getattr(options, kind)), terms)
        halves[kind] = replace(half, needs={**half.needs, "max_relative_step": options.max_relative_step})
    merge(**halves).save(options.out)
    for kind, half in halves.items():
        if half.network.depth == 1:
            print(kind, *formulas(half), sep="\n  ")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Options)))
