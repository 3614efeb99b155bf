"""``hillclimb``: the proposal's rule. if a slightly higher rate would have been better, raise it, else lower it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrcontrol.agents.base import Observation, State, as_array, spelling
from lrcontrol.envs.errors import InputError, unknown

PROBES = ("task", "update", "gradient")


@dataclass(frozen=True)
class HillClimb:
    """Raises the learning rate by ``factor`` where a trial step with the higher rate ends lower, else lowers it.

    Both trial steps start from the present parameters and use the present minibatch, so a decision costs two forward
    passes. Ties lower the rate, and so does a loss that is not a number. With ``momentum``, 1 − β is moved by the same
    rule in the same decision, by a third trial step along the update of the other momentum: three forward passes.

    Args:
        factor: what the rate is multiplied or divided by, above 1.
        every: training steps from one decision to the next.
        probe: what the trial steps go along: the optimizer's own ``update``, the raw ``gradient``, or ``task``, the
            task's default.
        momentum: move the momentum as well.

    Raises:
        InputError: a value that cannot be used.
    """

    factor: float = 1.01
    every: int = 1
    probe: str = "task"
    momentum: bool = False

    def __post_init__(self) -> None:
        if not (self.factor > 1.0 and math.isfinite(self.factor)):
            raise InputError(f"hillclimb: factor {self.factor:g} is not above 1")
        if self.every < 1:
            raise InputError(f"hillclimb: every {self.every} is not positive")
        if self.probe not in PROBES:
            raise unknown("probe of hillclimb", self.probe, PROBES)
        if self.momentum and self.probe == "gradient":
            raise InputError("hillclimb: the raw gradient does not depend on momentum: use probe=update")

    @property
    def name(self) -> str:
        """See Agent."""
        return spelling("hillclimb", self)

    @property
    def needs(self) -> Mapping[str, Any]:
        """See Agent."""
        return {
            "multipliers": (1.0 / self.factor, self.factor),
            "interval": self.every,
            "hyperparameters": ("lr", "momentum") if self.momentum else ("lr",),
            "features": ("probe_slope", "probe_momentum_slope") if self.momentum else ("probe_slope",),
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
        """See Agent; the slopes of the probe are all it observes."""
        higher = (as_array(observation) > 0.0).astype(np.int64)
        return higher if self.momentum else higher[..., 0], state
