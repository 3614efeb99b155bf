"""The agents by name. A new agent is one file and one line here; the contract tests find it by themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from lrcontrol.agents.bandit import Bandit
from lrcontrol.agents.base import Agent, PolicyPredictor
from lrcontrol.agents.blind import blind
from lrcontrol.agents.distilled import distilled
from lrcontrol.agents.hillclimb import HillClimb
from lrcontrol.agents.learned import learned
from lrcontrol.agents.patience import Greedy, Plateau
from lrcontrol.agents.random_walk import RandomWalk
from lrcontrol.agents.sb3_model import SB3Agent
from lrcontrol.agents.schedule import constant, schedule
from lrcontrol.agents.trained import TrainedAgent
from lrcontrol.envs.errors import InputError
from lrcontrol.envs.spec import build

AGENTS: dict[str, Callable[..., Agent]] = {
    "constant": constant,
    "schedule": schedule,
    "plateau": Plateau,
    "greedy": Greedy,
    "hillclimb": HillClimb,
    "bandit": Bandit,
    "random": RandomWalk,
    "learned": learned,
    "distilled": distilled,
    "blind": blind,
}


def make_agent(
    agent: str | Path | Agent | PolicyPredictor, registry: Mapping[str, Callable[..., Agent]] = AGENTS
) -> Agent:
    """Return an agent: that of a spelling ``name`` or ``name:key=value,…``, or of the folder of a trained one.

    An Agent is returned as it is, and a model of Stable-Baselines3 that was trained on one of our environments wrapped.

    Args:
        agent: the above.
        registry: what makes agents, by name.

    Raises:
        InputError: no such name, key (the nearest is suggested) or folder, or a value that cannot be used.
    """
    if isinstance(agent, str | Path):
        path = Path(agent).expanduser()
        if path.is_dir() and str(agent) not in registry:
            return TrainedAgent.load(agent)
        if path.suffix == ".zip":
            raise InputError(
                f"{str(agent)!r}: a zip of Stable-Baselines3 can run code when it is loaded; give the folder of an "
                f"agent, or load the zip yourself in Python and give the model"
            )
        if len(path.parts) > 1 and ":" not in str(agent):
            raise InputError(f"agent {str(agent)!r}: there is no such folder")
        return build(str(agent), registry, "agent")
    return agent if isinstance(agent, Agent) else SB3Agent.of(agent)
