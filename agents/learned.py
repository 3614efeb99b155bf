"""``learned``: the trained controller that comes with the package."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

from lrcontrol.agents.base import Agent
from lrcontrol.agents.trained import TrainedAgent

POLICIES = Path(__file__).parent / "policies"
FOLDERS = {True: POLICIES / "learned", False: POLICIES / "learned_rate"}


def learned(momentum: bool = True) -> TrainedAgent:
    """Return the agent that was trained by ``experiments/learned`` on small made-up tasks.

    It is two policies in one, one for SGD, one for AdamW and all others that scale each parameter's step. It does not
    look at the initial learning rate, needs no extra forward pass, and wants to know the budget.

    Args:
        momentum: move the momentum as well; without, another agent, for a momentum that stays what it is.
    """
    return _loaded(momentum)


@functools.cache
def _loaded(momentum: bool) -> TrainedAgent:
    name = "learned" if momentum else "learned:momentum=false"
    return replace(TrainedAgent.load(FOLDERS[momentum]), name=name)


def for_rate_alone(agent: Agent) -> Agent:
    """Return who takes an agent's place where the momentum cannot be moved or is not to be; for most, the agent."""
    return learned(momentum=False) if agent is learned() else agent
