"""A controller's memory as tensors, numbers, strings, lists and dictionaries: they load under ``weights_only=True``."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lrcontrol.agents import Agent, TrainedAgent
from lrcontrol.agents.base import State, choose_rows
from lrcontrol.controller_safety import Watch
from lrcontrol.envs.errors import InputError
from lrcontrol.envs.features import LossHistory
from lrcontrol.envs.settings import Settings

HISTORY = ("first", "last", "previous", "fast", "slow", "best", "early")
ROWS = ("lr", "momentum", "level", "factors", "starts")
MUST_MATCH = ("features", "hyperparameters", "form", "interval", "multipliers", "max_factor", "max_relative_step")


@dataclass
class Memory:
    """What a rollback takes back: all that was learned from the losses, and the values in force, one for each row.

    Args:
        lr, momentum: the values in force, R of them.
        level: what a recursive action multiplies, R; lr without the schedule on top of it.
        factors: the last decision's multipliers, R times H, which an anchored rate keeps to between decisions.
        starts: for which of R rows the agent has yet to decide for the first time.
        agent: the agent's own state.
        history: of the losses, which all rows share, None before the first.
        watch: over the losses.
    """

    lr: list[float]
    momentum: list[float]
    level: list[float]
    factors: list[list[float]]
    starts: list[bool]
    agent: State = None
    history: LossHistory[float] | None = None
    watch: Watch = field(default_factory=Watch)

    @classmethod
    def begin(cls, lr: Sequence[float], momentum: Sequence[float], hyperparameters: int) -> Memory:
        """Return that of rows about to start at R rates and momenta."""
        factors = [[1.0] * hyperparameters for _ in lr]
        return cls(list(lr), list(momentum), list(lr), factors, [True] * len(lr))

    def grow(self, lr: Sequence[float], momentum: Sequence[float]) -> None:
        """Append rows that start at rates and momenta; what the agent's state holds of them does not count."""
        new = Memory.begin(lr, momentum, len(self.factors[0]))
        if self.agent is not None:
            _check_rows(self.agent, len(self.lr))
            self.agent = _rebuilt(self.agent, [np.concatenate([part, *[part[-1:]] * len(lr)]) for part in self.agent])
        for name in ROWS:
            getattr(self, name).extend(getattr(new, name))

    def to_dict(self) -> dict[str, Any]:
        """Return a copy that shares nothing with this memory."""
        history = None
        if self.history is not None:
            history = {name: getattr(self.history, name) for name in (*HISTORY, "seen")}
        agent = None if self.agent is None else [_to_tensor(value) for value in self.agent]
        rows = {name: copy.deepcopy(getattr(self, name)) for name in ROWS}
        watch = {"spread": self.watch.spread, "seen": self.watch.seen, "drifting": self.watch.drifting}
        return {**rows, "history": history, "agent": agent, "watch": watch}

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> Memory:
        """Return the memory of ``to_dict``."""
        history = None
        if state["history"] is not None:
            history = LossHistory(0.0)
            for name in (*HISTORY, "seen"):
                setattr(history, name, state["history"][name])
        agent = None if state["agent"] is None else tuple(value.cpu().numpy().copy() for value in state["agent"])
        rows = {name: copy.deepcopy(state[name]) for name in ROWS}
        return cls(**rows, agent=agent, history=history, watch=Watch(**state["watch"]))


def chosen(rows: Sequence[bool], new: State, old: State) -> State:
    """Return an agent's state: ``new`` in the flagged of R rows, ``old`` in the others, if there is an old one."""
    if new is None or old is None or all(rows):
        return new
    _check_rows(new, len(rows))
    flags = np.array(rows)
    return _rebuilt(new, [choose_rows(flags, after, before) for after, before in zip(new, old, strict=True)])


def _check_rows(state: tuple[NDArray[Any], ...], count: int) -> None:
    shapes = [np.shape(part) for part in state]
    if any(not shape or shape[0] != count for shape in shapes):
        raise InputError(
            f"an agent's state for {count} parameter groups has shapes {shapes}, not a row for each: use one that "
            f"keeps its state in rows, or leave per_group out"
        )


def _rebuilt(state: tuple[NDArray[Any], ...], parts: list[NDArray[Any]]) -> tuple[NDArray[Any], ...]:
    """Return the parts in the tuple type of an agent's state, named or plain."""
    return type(state)(*parts) if hasattr(state, "_fields") else tuple(parts)


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


def name_of(agent: Agent) -> str | None:
    """Return what a saved state knows an agent by; None for a folder's, which may have been moved."""
    return None if isinstance(agent, TrainedAgent) else agent.name


def check_agent(state: dict[str, Any], agent: Agent) -> None:
    """Raise InputError where a saved state holds what another agent has learned in the run."""
    name = name_of(agent)
    if state["memory"]["agent"] is not None and state.get("agent", name) != name:
        saved = state["agent"] or "a trained agent"
        raise InputError(
            f"the saved state is of {saved}, not of agent {agent.name!r}: make the controller with that one"
        )


def check_match(state: dict[str, Any], agent: Agent, settings: Settings) -> None:
    """Raise InputError where a saved state is of a controller of another kind."""
    saved, found = state.get("agent") or "a trained agent", state["settings"]
    for name, value in describe(settings).items():
        if found.get(name) != value:
            raise InputError(
                f"the saved state is of a controller of {saved} with {name} {found.get(name)}, and this one of "
                f"{agent.name!r} has {value}: make it with the same agent and arguments"
            )
