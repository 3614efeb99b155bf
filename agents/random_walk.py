"""``random``: a control that looks at nothing; an agent that is no better has not learned from what it sees."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrcontrol.agents.base import Observation, State, as_array, choose_rows, spelling
from lrcontrol.agents.noise import run_keys, uniforms
from lrcontrol.envs.errors import InputError


@dataclass(frozen=True)
class RandomWalk:
    """Multiplies the rate by factor ** u, u uniform in −1..1, whatever happens and whether or not asked for chance.

    A run's draws depend on the seed and on its first loss, so runs of different initial parameters walk differently.

    Args:
        factor: the largest multiplier.
        every: training steps from one draw to the next.
        seed: of the draws.

    Raises:
        InputError: a factor of 1 or less, or every < 1.
    """

    factor: float = 2.0
    every: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if not (self.factor > 1.0 and math.isfinite(self.factor)):
            raise InputError(f"random: factor {self.factor:g} is not above 1")
        if self.every < 1:
            raise InputError(f"random: every {self.every} is not positive")

    @property
    def name(self) -> str:
        """See Agent."""
        return spelling("random", self)

    @property
    def needs(self) -> Mapping[str, Any]:
        """See Agent."""
        return {"max_factor": self.factor, "interval": self.every, "features": ("log_loss",)}

    def predict(
        self,
        observation: Observation,
        state: State = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[Any], State]:
        """See Agent; the state is the runs' keys and their draws so far, (R,) each."""
        seen = as_array(observation)
        fresh = run_keys(self.seed, np.atleast_2d(seen)), np.zeros(len(np.atleast_2d(seen)), dtype=np.int64)
        keys, step = fresh if state is None else state
        if len(keys) != len(fresh[0]):
            raise InputError(f"{self.name}: a state of {len(keys)} runs came with observations of {len(fresh[0])}")
        if state is not None and episode_start is not None:
            begins = np.broadcast_to(episode_start, len(keys))
            keys, step = (choose_rows(begins, new, old) for new, old in zip(fresh, state, strict=True))
        action = (2.0 * uniforms(keys, step, 1) - 1.0).astype(np.float32)
        return (action if seen.ndim > 1 else action[0]), (keys, step + 1)
