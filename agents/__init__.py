"""Who acts: constant rates and schedules, and the hill-climber."""

from lrcontrol.agents.base import Agent
from lrcontrol.agents.hillclimb import HillClimb
from lrcontrol.agents.registry import AGENTS, make_agent
from lrcontrol.agents.schedule import ScheduleAgent

__all__ = ["AGENTS", "Agent", "HillClimb", "ScheduleAgent", "make_agent"]
