"""Who acts: constant rates and schedules, the hill-climber, bandits, and trained agents."""

from lrcontrol.agents.bandit import Bandit
from lrcontrol.agents.base import Agent
from lrcontrol.agents.hillclimb import HillClimb
from lrcontrol.agents.registry import AGENTS, make_agent
from lrcontrol.agents.sb3_model import SB3Agent
from lrcontrol.agents.schedule import ScheduleAgent
from lrcontrol.agents.trained import TrainedAgent

__all__ = ["AGENTS", "Agent", "Bandit", "HillClimb", "SB3Agent", "ScheduleAgent", "TrainedAgent", "make_agent"]
