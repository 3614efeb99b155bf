"""``constant`` and ``schedule``: learning rates that were decided before the run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrcontrol.agents.base import Observation, State, as_array
from lrcontrol.envs.errors import InputError
from lrcontrol.envs.schedules import Schedule


@dataclass(frozen=True)
class ScheduleAgent:
    """Holds on to a base schedule: its environment is anchored there and its one action multiplies by 1.

    Args:
        name: what tables call it.
        schedule: a multiplier of the initial rate.
        start: the initial rate in natural units (``lrcontrol.envs.features.natural_rate``); None is lr0.

    Raises:
        InputError: a start that is not positive.
    """

    name: str
    schedule: Schedule
    start: float | None = None

    def __post_init__(self) -> None:
        if self.start is not None and not 0.0 < self.start < math.inf:
            raise InputError(f"schedule {self.schedule.kind!r}: start {self.start:g} is not positive")

    @property
    def needs(self) -> Mapping[str, Any]:
        """See Agent."""
        return {
            "form": "anchored",
            "base_schedule": self.schedule,
            "start": None if self.start is None else (self.start, self.start),
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


def schedule(
    kind: str = "cosine",
    warmup: float | None = None,
    end: float = 0.0,
    gamma: float = 0.1,
    start: float | None = None,
    decay: float = 0.2,
) -> ScheduleAgent:
    """Return the agent that follows ``lrcontrol.envs.Schedule`` from the initial learning rate, or from ``start``."""
    chosen = Schedule(kind, warmup, end, gamma, decay)
    defaults = {"warmup": None, "end": 0.0, "gamma": 0.1, "start": None, "decay": 0.2}
    keys = {"warmup": warmup, "end": end, "gamma": gamma, "start": start, "decay": decay}
    given = [f"kind={kind}", *(f"{key}={value}" for key, value in keys.items() if value != defaults[key])]
    return ScheduleAgent("schedule:" + ",".join(given), chosen, start)
