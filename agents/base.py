"""The one shape of everything that acts: Stable-Baselines3's ``PolicyPredictor``, and what it needs to be shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Observation: TypeAlias = NDArray[np.float32] | dict[str, NDArray[Any]]
State: TypeAlias = tuple[NDArray[Any], ...] | None


class Agent(Protocol):
    """Chooses actions for a batch of training runs.

    ``needs`` are the fields of ``lrcontrol.envs.Settings`` that its environment must have; ``name`` is what tables call
    it. Memory travels in ``state`` and is reset where ``episode_start`` is true, so that one agent can serve any number
    of runs at once.
    """

    @property
    def name(self) -> str:
        """What tables call it: its spelling in the registry, for agents that have one."""

    @property
    def needs(self) -> Mapping[str, Any]:
        """Settings of its environment: interval, multipliers or box, hyperparameters, features."""

    def predict(
        self,
        observation: Observation,
        state: State = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[Any], State]:
        """Return (actions, state) for observations (R, F), or one action for one observation (F,)."""


def as_array(observation: Observation) -> NDArray[np.float32]:
    """Return the observation as the array that our environments give; SB3's shape also allows dictionaries.

    Raises:
        TypeError: it is a dictionary.
    """
    if isinstance(observation, dict):
        raise TypeError("the environments of lrcontrol observe arrays, not dictionaries")
    return observation
