"""``hillclimb``: the proposal's rule. if a slightly higher rate would have been better, raise it, else lower it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrcontrol.agents.base import Observation, State, as_array
from lrcontrol.envs.errors import InputError, unknown

PROBES = ("task", "update", "gradient")


@dataclass(frozen=True)
class HillClimb:
    """Raises the learning rate by ``factor`` where a trial step with the higher rate ends lower, else lowers it.

    Both trial steps start from the present parameters and use the present minibatch, so a decision costs two forward
    passes. Ties lower the rate, and so does a loss that is not a number.

    Args:
        factor: what the rate is multiplied or divided by, above 1.
        every: training steps from one decision to the next.
        probe: what the trial steps go along: the optimizer's own ``update``, the raw ``gradient``, or ``task``, the
            task's default.

    Raises:
        InputError: a value that cannot be used.
    """

    factor: float = 1.01
    every: int = 1
    probe: str = "task"

    def __post_init__(self) -> None:
        if not (self.factor > 1.0 and math.isfinite(self.factor)):
            raise InputError(f"hillclimb: factor {self.factor:g} is not above 1")
        if self.every < 1:
            raise InputError(f"hillclimb: every {self.every} is not positive")
        if self.probe not in PROBES:
            raise unknown("probe of hillclimb", self.probe, PROBES)

    @property
    def name(self) -> str:
        """See Agent."""
        given = [
            f"{field.name}={value:g}" if isinstance(value, float) else f"{field.name}={value}"
            for field in fields(self)
            if (value := getattr(self, field.name)) != field.default
        ]
        return "hillclimb" + (":" + ",".join(given) if given else "")

    @property
    def needs(self) -> Mapping[str, Any]:
        """See Agent."""
        return {
            "multipliers": (1.0 / self.factor, self.factor),
            "interval": self.every,
            "features": ("probe_slope",),
            "probe_factor": self.factor,
            "probe_direction": None if self.probe == "task" else self.probe,
        }

    def predict(
        self,
        observation: Observation,
        state: State = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[Any], State]:
        """See Agent; the slope of the probe is all it observes."""
        return (as_array(observation)[..., 0] > 0.0).astype(np.int64), state
