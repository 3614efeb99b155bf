"""``constant`` and ``schedule``: learning rates that were decided before the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrcontrol.agents.base import Observation, State, as_array
from lrcontrol.envs.schedules import Schedule


@dataclass(frozen=True)
class ScheduleAgent:
    """Holds on to a base schedule: its environment is anchored there and its one action multiplies by 1."""

    name: str
    schedule: Schedule

    @property
    def needs(self) -> Mapping[str, Any]:
        """See Agent."""
        return {
            "form": "anchored",
            "base_schedule": self.schedule,
            "multipliers": (1.0,),
            "features": ("budget_left",),
        }

    def predict(
        self,
        observation: Observation,
        state: State = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[Any], State]:
        """See Agent."""
        return np.zeros(as_array(observation).shape[:-1], dtype=np.int64), state


def constant() -> ScheduleAgent:
    """Return the agent that keeps the initial learning rate."""
    return ScheduleAgent("constant", Schedule())


def schedule(kind: str = "cosine", warmup: float | None = None, end: float = 0.0, gamma: float = 0.1) -> ScheduleAgent:
    """Return the agent that follows ``lrcontrol.envs.Schedule`` from the initial learning rate."""
    chosen = Schedule(kind, warmup, end, gamma)
    keys = {"kind": kind, "warmup": warmup, "end": end, "gamma": gamma}
    given = [f"{key}={value}" for key, value in keys.items() if key == "kind" or value != getattr(Schedule, key)]
    return ScheduleAgent("schedule:" + ",".join(given), chosen)
