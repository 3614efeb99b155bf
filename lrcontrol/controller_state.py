"""A controller's memory as tensors, numbers, strings, lists and dictionaries: they load under ``weights_only=True``."""

from __future__ import annotations

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
from lrcontrol.envs.features import Array, LossHistory
from lrcontrol.envs.settings import Settings

HISTORY = ("first", "last", "previous", "fast", "slow", "best", "early")
ROWS = ("lr", "momentum", "level", "factors", "starts")
MUST_MATCH = ("features", "hyperparameters", "form", "interval", "multipliers", "max_factor", "max_relative_step")


@dataclass
class Memory:
    """What a rollback takes back: all that was learned from the losses, and the values in force, a row for each (R,).

    Args:
        lr, momentum: the values in force (R,).
        level: what a recursive action multiplies (R,); lr without the schedule on top of it.
        factors: the last decision's multipliers (R, H), which an anchored rate keeps to between decisions.
        starts: where the agent has yet to decide for the first time (R,).
        agent: the agent's own state.
        history: of the losses, which all rows share, None before the first.
        watch: over the losses.
    """

    lr: Array
    momentum: Array
    level: Array
    factors: Array
    starts: NDArray[np.bool_]
    agent: State = None
    history: LossHistory | None = None
    watch: Watch = field(default_factory=Watch)

    @classmethod
    def begin(cls, lr: Array, momentum: Array, hyperparameters: int) -> Memory:
        """Return that of rows about to start at rates and momenta (R,)."""
        starts = np.ones(len(lr), dtype=np.bool_)
        return cls(lr.copy(), momentum.copy(), lr.copy(), np.ones((len(lr), hyperparameters)), starts)

    def grow(self, lr: Array, momentum: Array) -> None:
        """Append rows that start at rates and momenta (N,); what the agent's state holds of them does not count."""
        new = Memory.begin(lr, momentum, self.factors.shape[1])
        for name in ROWS:
            setattr(self, name, np.concatenate([getattr(self, name), getattr(new, name)]))
        if self.agent is not None:
            _check_rows(self.agent, len(self.lr) - len(lr))
            self.agent = _rebuilt(self.agent, [np.concatenate([part, *[part[-1:]] * len(lr)]) for part in self.agent])

    def to_dict(self) -> dict[str, Any]:
        """Return a copy that shares nothing with this memory."""
        history = None
        if self.history is not None:
            history = {name: float(getattr(self.history, name)[0]) for name in HISTORY}
            history |= {"seen": self.history.seen}
        agent = None if self.agent is None else [_to_tensor(value) for value in self.agent]
        rows = {name: getattr(self, name).tolist() for name in ROWS}
        watch = {"spread": self.watch.spread, "seen": self.watch.seen, "drifting": self.watch.drifting}
        return {**rows, "history": history, "agent": agent, "watch": watch}

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> Memory:
        """Return the memory of ``to_dict``."""
        history = None
        if state["history"] is not None:
            history = LossHistory(np.zeros(1))
            for name in HISTORY:
                setattr(history, name, np.array([state["history"][name]], dtype=np.float64))
            history.seen = state["history"]["seen"]
        agent = None if state["agent"] is None else tuple(value.cpu().numpy().copy() for value in state["agent"])
        rows = {name: np.array(state[name]) for name in ROWS}
        return cls(**rows, agent=agent, history=history, watch=Watch(**state["watch"]))


def chosen(rows: NDArray[np.bool_], new: State, old: State) -> State:
    """Return an agent's state: ``new`` in the flagged rows (R,), ``old`` in the others, if there is an old one."""
    if new is None or old is None or rows.all():
        return new
    _check_rows(new, len(rows))
    return _rebuilt(new, [choose_rows(rows, after, before) for after, before in zip(new, old, strict=True)])


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


def check_match(found: dict[str, Any], settings: Settings) -> None:
    """Raise InputError where a saved state is of a controller of another kind."""
    for name, value in describe(settings).items():
        if found.get(name) != value:
            raise InputError(
                f"the saved state is of a controller with {name} {found.get(name)}, and this one has {value}: make it "
                f"with the same agent and arguments"
            )
