"""The one shape of everything that acts: Stable-Baselines3's ``PolicyPredictor``, and what it needs to be shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Observation: TypeAlias = NDArray[np.float32] | dict[str, NDArray[Any]]
State: TypeAlias = tuple[NDArray[Any], ...] | None


class PolicyPredictor(Protocol):
    """What Stable-Baselines3 calls by this name: everything that has its ``predict``."""

    def predict(
        self,
        observation: Observation,
        state: State = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[Any], State]:
        """Return (actions, state) for observations (R, F), or one action for one observation (F,)."""


@runtime_checkable
class Agent(PolicyPredictor, Protocol):
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


def as_array(observation: Observation) -> NDArray[np.float32]:
    """Return the observation as the array that our environments give; SB3's shape also allows dictionaries.

    Raises:
        TypeError: it is a dictionary.
    """
    if isinstance(observation, dict):
        raise TypeError("the environments of lrcontrol observe arrays, not dictionaries")
    return observation


def choose_rows(rows: NDArray[np.bool_], new: NDArray[Any], old: NDArray[Any]) -> NDArray[Any]:
    """Return ``new`` in the flagged rows (R,) and ``old`` in the others, (R, …) each."""
    return np.where(rows.reshape(-1, *[1] * (new.ndim - 1)), new, old)


def spelling(name: str, agent: DataclassInstance) -> str:
    """Return ``name:key=value,…`` with the fields of ``agent`` that differ from their defaults."""
    values = {field.name: getattr(agent, field.name) for field in fields(agent)}
    given = [f"{f.name}={_spelled(values[f.name])}" for f in fields(agent) if values[f.name] != f.default]
    return name + (":" + ",".join(given) if given else "")


def _spelled(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    short = f"{value:g}" if isinstance(value, float) else str(value)
    return short if not isinstance(value, float) or float(short) == value else repr(value)
