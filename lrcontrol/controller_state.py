"""A controller's memory as tensors, numbers, strings, lists and dictionaries: they load under ``weights_only=True``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lrcontrol.agents.base import State
from lrcontrol.controller_safety import Watch
from lrcontrol.envs.errors import InputError
from lrcontrol.envs.features import LossHistory
from lrcontrol.envs.settings import Settings

HISTORY = ("first", "last", "previous", "fast", "slow", "best")
MUST_MATCH = ("features", "hyperparameters", "form", "interval", "multipliers", "max_factor")


@dataclass
class Memory:
    """What a rollback takes back: all that was learned from the losses, and the values in force.

    Args:
        lr, momentum: the values in force.
        level: what a recursive action multiplies; lr without the schedule on top of it.
        history: of the losses, None before the first.
        agent: the agent's own state.
        starts: whether the agent has yet to decide for the first time.
        factors: the last decision's multipliers, which an anchored rate keeps to between decisions.
        watch: over the losses.
    """

    lr: float
    momentum: float
    level: float
    history: LossHistory | None = None
    agent: State = None
    starts: bool = True
    factors: list[float] = field(default_factory=list)
    watch: Watch = field(default_factory=Watch)

    def to_dict(self) -> dict[str, Any]:
        """Return a copy that shares nothing with this memory."""
        history = None
        if self.history is not None:
            history = {name: float(getattr(self.history, name)[0]) for name in HISTORY}
        agent = None if self.agent is None else [_to_tensor(value) for value in self.agent]
        numbers = {name: getattr(self, name) for name in ("lr", "momentum", "level", "starts")}
        watch = {"spread": self.watch.spread, "seen": self.watch.seen, "drifting": self.watch.drifting}
        return {**numbers, "history": history, "agent": agent, "factors": list(self.factors), "watch": watch}

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> Memory:
        """Return the memory of ``to_dict``."""
        history = None
        if state["history"] is not None:
            history = LossHistory(np.zeros(1))
            for name in HISTORY:
                setattr(history, name, np.array([state["history"][name]], dtype=np.float64))
        agent = None if state["agent"] is None else tuple(value.cpu().numpy().copy() for value in state["agent"])
        numbers = {name: state[name] for name in ("lr", "momentum", "level", "starts")}
        return cls(
            **numbers, history=history, agent=agent, factors=list(state["factors"]), watch=Watch(**state["watch"])
        )


def _to_tensor(value: object) -> Tensor:
    try:
        return torch.from_numpy(np.array(value))
    except TypeError:
        raise InputError(
            f"an agent's state holds a {type(value).__name__}, which cannot be saved: keep it in arrays of numbers"
        ) from None


def describe(settings: Settings) -> dict[str, Any]:
    """Return what has to be alike in the controller that saves a state and the one that loads it."""
    found = {name: getattr(settings, name) for name in MUST_MATCH}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}


def check_match(found: dict[str, Any], settings: Settings) -> None:
    """Raise InputError where a saved state is of a controller of another kind."""
    for name, value in describe(settings).items():
        if found.get(name) != value:
            raise InputError(
                f"the saved state is of a controller with {name} {found.get(name)}, and this one has {value}: make it "
                f"with the same agent and arguments"
            )


def to_array(value: float) -> NDArray[np.float64]:
    """Return one number as the row of one run (1,)."""
    return np.array([value], dtype=np.float64)
