"""Makes the agent that is shipped of two: one for SGD, and one for optimizers that scale each parameter's step.

python -m experiments.learned.merge results/learned/sgd results/learned/network --out lrcontrol/agents/policies/learned
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from lrcontrol.agents.gated import merge
from lrcontrol.agents.trained import TrainedAgent


@dataclass(frozen=True)
class Options:
    """Merge two agents whose settings are the same but for the features they see."""

    sgd: tyro.conf.Positional[Path]
    """Folder of the agent for SGD."""

    adaptive: tyro.conf.Positional[Path]
    """Folder of the agent for the others."""

    out: Path
    """Folder of the agent that is both."""


def main(options: Options) -> int:
    """Merge and save."""
    merge(TrainedAgent.load(options.sgd), TrainedAgent.load(options.adaptive)).save(options.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Options)))
