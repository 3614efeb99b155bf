"""The agents by name. A new agent is one file and one line here; the contract tests find it by themselves."""

from __future__ import annotations

from collections.abc import Callable

from lrcontrol.agents.base import Agent
from lrcontrol.agents.hillclimb import HillClimb
from lrcontrol.agents.schedule import constant, schedule
from lrcontrol.envs.spec import build

AGENTS: dict[str, Callable[..., Agent]] = {
    "constant": constant,
    "schedule": schedule,
    "hillclimb": HillClimb,
}


def make_agent(agent: str | Agent) -> Agent:
    """Return the agent that ``name`` or ``name:key=value,…`` spells; an Agent is returned as it is.

    Raises:
        InputError: no such name or key (the nearest is suggested), or a value that cannot be used.
    """
    return build(agent, AGENTS, "agent") if isinstance(agent, str) else agent
