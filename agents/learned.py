"""``learned``: the trained controller that comes with the package."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

from lrcontrol.agents.trained import TrainedAgent

POLICIES = Path(__file__).parent / "policies"
FOLDERS = {False: POLICIES / "learned", True: POLICIES / "learned_momentum"}


@functools.cache
def learned(momentum: bool = False) -> TrainedAgent:
    """Return the agent that was trained by ``experiments/learned`` on small made-up tasks.

    It is two policies in one, one for SGD, one for AdamW and all others that scale each parameter's step. It does not
    look at the initial learning rate, needs no extra forward pass, and wants to know the budget.

    Args:
        momentum: move the momentum as well; another policy, which began its training at one that does not.
    """
    name = "learned:momentum=true" if momentum else "learned"
    return replace(TrainedAgent.load(FOLDERS[momentum]), name=name)
