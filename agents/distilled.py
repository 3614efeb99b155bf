"""``distilled``: what the learned network does, as one line that can be read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrcontrol.agents.base import Observation, State, as_array
from lrcontrol.envs.schedules import Schedule

# The least-squares line through the actions of ``learned`` on tasks it was trained on, rounded; it is printed by
# experiments/learned/figures.py. Read: the step relative to the parameters is driven towards a length that grows with
# the agreement of gradients and with the budget left, and shrinks when the loss is above its best or rising.
BIAS = -1.87
WEIGHTS = {
    "loss_change": 0.09,
    "loss_vs_fast": 0.28,
    "fast_vs_slow": -0.45,
    "fast_vs_best": -1.03,
    "fast_vs_first": 0.20,
    "grad_cosine": 0.31,
    "predicted_decrease": 0.10,
    "relative_step": -1.17,
    "budget_left": 0.37,
}


@dataclass(frozen=True)
class Distilled:
    """Multiplies the rate by 2 to the power of a linear function of nine features, held to −1..1.

    Schedule and start are those of ``learned``; the initial rate is not looked at.
    """

    @property
    def name(self) -> str:
        """See Agent."""
        return "distilled"

    @property
    def needs(self) -> Mapping[str, Any]:
        """See Agent."""
        return {
            "max_factor": 2.0,
            "base_schedule": Schedule("one-cycle"),
            "start": (0.3, 0.3),
            "features": tuple(WEIGHTS),
        }

    def predict(
        self,
        observation: Observation,
        state: State = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[Any], State]:
        """See Agent."""
        seen = as_array(observation).astype(np.float64)
        action = BIAS + (seen * np.array(list(WEIGHTS.values()))).sum(axis=-1, keepdims=True)
        return np.clip(action, -1.0, 1.0).astype(np.float32), state
