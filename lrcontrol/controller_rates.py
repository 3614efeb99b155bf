"""Reads and writes the learning rate and the momentum of a torch optimizer's parameter groups."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from lrcontrol.envs.errors import InputError
from lrcontrol.envs.features import Array

Group = dict[str, Any]

LEAST_MOMENTUM = 1e-8  # torch's SGD does not touch its buffer where momentum is 0, and would keep a stale one


def unwrapped(optimizer: Optimizer) -> Optimizer:
    """Return the optimizer inside the wrappers of Accelerate and Lightning, which keep it as ``optimizer``."""
    inner = getattr(optimizer, "optimizer", None)
    return unwrapped(inner) if isinstance(inner, Optimizer) and inner is not optimizer else optimizer


def check_groups(optimizer: Any) -> None:
    """Raise InputError for what is no optimizer or has a parameter group without a usable learning rate."""
    if not isinstance(optimizer, Optimizer):
        raise InputError(f"a {type(optimizer).__name__} is no torch.optim.Optimizer: give the one that steps the model")
    name = type(unwrapped(optimizer)).__name__
    for number, group in enumerate(optimizer.param_groups):
        if "lr" not in group:
            raise InputError(
                f"parameter group {number} of {name} has no 'lr', so there is nothing to control: give an optimizer "
                f"that keeps its learning rate there, as those of torch do"
            )
        rate = float(group["lr"])
        if not (rate >= 0.0 and math.isfinite(rate)):
            raise InputError(f"parameter group {number} of {name} has lr {rate:g}: start it at a positive number")


def read_momentum(group: Group) -> float | None:
    """Return ``momentum`` or β1 of a group, None where it has neither."""
    if "momentum" in group:
        return float(group["momentum"])
    return float(group["betas"][0]) if "betas" in group else None


class Rates:
    """The rows (R,) that an agent decides on, and the groups that follow each in proportion.

    There is one row, led by the reference, which is the first group that has a rate; or, with ``per_group``, one for
    each group. A group without a rate stays without one.

    Args:
        optimizer: its groups are read anew each time: ``Optimizer.load_state_dict`` replaces them.
        per_group: see above.

    Attributes:
        rows: each group's row.
        leaders: the group that each row's rate is that of.
        ratios: each group's rate over that of its row; a group that is added later keeps the ratio that it has then.
        dampened: whether a group's dampening equalled its momentum, and so moves with it.
        lr0: the rows' rates at first (R,).
    """

    def __init__(self, optimizer: Optimizer, per_group: bool = False) -> None:
        check_groups(optimizer)
        self.optimizer, self.per_group = optimizer, per_group
        rates = [float(group["lr"]) for group in optimizer.param_groups]
        self.reference = next((number for number, rate in enumerate(rates) if rate > 0.0), -1)
        if self.reference < 0:
            raise InputError(f"all parameter groups have lr 0: a multiple of it is 0 too; start {_name(self)} above 0")
        self.rows: list[int] = []
        self.leaders: list[int] = [] if per_group else [self.reference]
        self.ratios: list[float] = []
        self.dampened: list[bool] = []
        start = self.adopt_new_groups(rates[self.reference])
        self.lr0 = np.array(start if per_group else [rates[self.reference]])

    @property
    def groups(self) -> list[Group]:
        """The groups as they are now."""
        return self.optimizer.param_groups

    @property
    def count(self) -> int:
        """The number of rows R."""
        return len(self.leaders)

    @property
    def row(self) -> int:
        """The row of the reference."""
        return self.rows[self.reference]

    @property
    def has_momentum(self) -> bool:
        """Whether the reference has a momentum."""
        return read_momentum(self.groups[self.reference]) is not None

    @property
    def momentum(self) -> Array:
        """The momentum in force of the rows (R,), 0 where there is none."""
        return np.array([read_momentum(self.groups[number]) or 0.0 for number in self.leaders])

    @property
    def gain(self) -> Array:
        """How many times a steady gradient ends up in an SGD step (R,): (1 − dampening) / (1 − β), 1 for all others."""
        return np.array([_gain(self.groups[number]) for number in self.leaders])

    def adopt_new_groups(self, lr: float) -> list[float]:
        """Take in groups that were added since, at the reference rate ``lr``; return the rates of new rows."""
        made = []
        for number in range(len(self.ratios), len(self.groups)):
            group, base = self.groups[number], lr
            rate = float(group["lr"])
            if self.per_group:
                self.leaders.append(number)
                made.append(base := rate or lr)
            self.rows.append(len(self.leaders) - 1)
            self.ratios.append(rate / base)
            self.dampened.append(_is_dampened(group))
        return made

    def check_sizes(self, rows: int, groups: int) -> None:
        """Raise InputError unless a saved state of so many rows and groups is one of this optimizer."""
        if (rows, groups) != (self.count, len(self.ratios)):
            raise InputError(
                f"the saved state is of {groups} parameter groups with {rows} rates decided on, and this controller "
                f"has {len(self.ratios)} with {self.count}: make it with the same groups and per_group"
            )

    def of_groups(self, lr: Array) -> list[float]:
        """Return the rates of all groups where those of the rows are ``lr`` (R,)."""
        return [rate * ratio for rate, ratio in zip(lr[self.rows].tolist(), self.ratios, strict=True)]

    def written(self, lr: Array) -> dict[int, float]:
        """Return the rates that are not ``lr`` (R,), by row, as far as their type says; never waits for a device."""
        found = {}
        for row, number in enumerate(self.leaders):
            value, due = self.groups[number]["lr"], float(lr[row]) * self.ratios[number]
            if isinstance(value, Tensor):
                if value.device.type == "cpu" and bool(value != torch.tensor(due, dtype=value.dtype)):
                    found[row] = float(value)
            elif float(value) != due:
                found[row] = float(value)
        return found

    def write(self, lr: Array, momentum: Array | None = None) -> None:
        """Put the rows' rates (R,), and the momentum (R,) where one is given, in force in all groups."""
        rates, momenta = lr.tolist(), None if momentum is None else momentum.tolist()
        for group, row, ratio, dampened in zip(self.groups, self.rows, self.ratios, self.dampened, strict=True):
            _put(group, "lr", rates[row] * ratio)
            if momenta is not None:
                _put_momentum(group, momenta[row], dampened)


def _put_momentum(group: Group, momentum: float, dampened: bool) -> None:
    if "momentum" in group:
        _put(group, "momentum", max(momentum, LEAST_MOMENTUM))
        if dampened:
            _put(group, "dampening", max(momentum, LEAST_MOMENTUM))
    elif "betas" in group:
        first, *others = group["betas"]
        if isinstance(first, Tensor):
            first.fill_(momentum)
        else:
            group["betas"] = (momentum, *others)


def _gain(group: Group) -> float:
    momentum = read_momentum(group)
    if "dampening" not in group or not momentum:
        return 1.0
    return (1.0 - float(group["dampening"])) / (1.0 - momentum)


def _name(rates: Rates) -> str:
    return type(unwrapped(rates.optimizer)).__name__


def _is_dampened(group: Group) -> bool:
    return "dampening" in group and "momentum" in group and float(group["dampening"]) == float(group["momentum"])


def _put(group: Group, key: str, value: float) -> None:
    if isinstance(group[key], Tensor):
        group[key].fill_(value)
    else:
        group[key] = value
