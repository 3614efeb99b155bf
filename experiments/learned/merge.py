"""Makes the agent that is shipped of two: one for SGD, and one for optimizers that scale each parameter's step.

How far the loss is above its best and below its first was in training without a bound; what is shipped reads the
features that have one, so that long runs do not run away.

python -m experiments.learned.merge results/learned/sgd results/learned/network --out lrcontrol/agents/policies/learned
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import tyro

from lrcontrol.agents.gated import merge
from lrcontrol.agents.trained import TrainedAgent

BOUNDED = {"fast_vs_best": "above_best", "fast_vs_first": "below_first"}


@dataclass(frozen=True)
class Options:
    """Merge two agents whose settings are the same but for the features they see."""

    sgd: tyro.conf.Positional[Path]
    """Folder of the agent for SGD."""

    adaptive: tyro.conf.Positional[Path]
    """Folder of the agent for the others."""

    out: Path
    """Folder of the agent that is both."""


def bounded(folder: Path) -> TrainedAgent:
    """Return the agent of a folder, reading the features that have a bound."""
    agent = TrainedAgent.load(folder)
    features = tuple(BOUNDED.get(name, name) for name in agent.needs["features"])
    return replace(agent, needs={**agent.needs, "features": features})


def main(options: Options) -> int:
    """Merge and save."""
    merge(bounded(options.sgd), bounded(options.adaptive)).save(options.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Options)))
