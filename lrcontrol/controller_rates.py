"""Reads and writes the learning rate and the momentum of a torch optimizer's parameter groups."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lrcontrol.envs.errors import InputError

Group = dict[str, Any]

LEAST_MOMENTUM = 1e-8  # torch's SGD does not touch its buffer where momentum is 0, and would keep a stale one


def unwrapped(optimizer: Optimizer) -> Optimizer:
    """Return the optimizer inside wrappers that keep it as ``optimizer``, as Accelerate's, or ``base_optimizer``."""
    for name in ("optimizer", "base_optimizer"):
        inner = getattr(optimizer, name, None)
        if isinstance(inner, Optimizer) and inner is not optimizer:
            return unwrapped(inner)
    return optimizer


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
    """Return ``momentum`` or β1 of a group, None where it has neither.

    RMSprop's momentum of 0 is none: it has no buffer then, and would miss it.
    """
    kept = _kept_momentum(group)
    return None if kept is None or ("alpha" in group and not kept) else float(kept)


def _kept_momentum(group: Group) -> Any:
    """Return what a group has for a momentum, a number or a tensor, None where there is none."""
    return group["momentum"] if "momentum" in group else group["betas"][0] if "betas" in group else None


class Rates:
    """The R rows that an agent decides on, and the groups that follow each in proportion.

    There is one row, led by the reference, which is the first group that has a rate; or, with ``per_group``, one for
    each group. A group without a rate stays without one.

    Args:
        optimizer: its groups are read anew each time: ``Optimizer.load_state_dict`` replaces them.
        per_group: see above.

    Attributes:
        inner: the optimizer inside wrappers.
        rows: each group's row.
        leaders: the group that each row's rate is that of.
        ratios: each group's rate over that of its row; a group that is added later keeps the ratio that it has then, or
            has ``default_ratio``, if it comes at the optimizer's default rate.
        default_ratio: the default rate over the reference's at first.
        gains: each group's ``gain``, which its dampening keeps when its momentum moves; None without dampening.
        lr0: the rows' rates at first.
        due: the rates that the groups were given last.
        held: the momenta that they were given last; None for a group that has none, or keeps it in a tensor, which
            may have to be waited for; empty where none are moved.
    """

    def __init__(self, optimizer: Optimizer, per_group: bool = False) -> None:
        check_groups(optimizer)
        self.optimizer, self.inner, self.per_group = optimizer, unwrapped(optimizer), per_group
        rates = [float(group["lr"]) for group in optimizer.param_groups]
        self.reference = next((number for number, rate in enumerate(rates) if rate > 0.0), -1)
        if self.reference < 0:
            raise InputError(f"all parameter groups have lr 0: a multiple of it is 0 too; start {_name(self)} above 0")
        self.rows: list[int] = []
        self.leaders: list[int] = [] if per_group else [self.reference]
        self.ratios: list[float] = []
        self.gains: list[float | None] = []
        self.default_ratio = self._default_rate() / rates[self.reference]
        start = self.adopt_new_groups(rates[self.reference])
        self.lr0 = start if per_group else [rates[self.reference]]
        self.due, self.held = rates, list[float | None]()

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
    def matrices(self) -> int:
        """How many of the parameters of all groups have two dimensions or more and are not frozen."""
        return sum(param.ndim > 1 and param.requires_grad for group in self.groups for param in group["params"])

    @property
    def has_momentum(self) -> bool:
        """Whether the reference has a momentum."""
        return read_momentum(self.groups[self.reference]) is not None

    @property
    def momentum(self) -> list[float]:
        """The momentum in force of the rows, 0 where there is none."""
        return [read_momentum(self.groups[number]) or 0.0 for number in self.leaders]

    @property
    def gain(self) -> list[float]:
        """How many times a steady gradient ends up in a row's SGD step: (1 − dampening) / (1 − β), 1 for all others."""
        return [self.gains[number] or 1.0 for number in self.leaders]

    def _default_rate(self) -> float:
        """Return the rate of groups that are given none, NaN where there is none to tell."""
        rate = getattr(self.inner, "defaults", {}).get("lr")
        return math.nan if rate is None else float(rate)

    def adopt_new_groups(self, lr: float) -> list[float]:
        """Take in groups that were added since, at the reference rate ``lr``; return the rates of new rows."""
        made, default = [], self._default_rate()
        separate([*self.groups, getattr(self.inner, "defaults", {})])  # which later groups begin with
        for number in range(len(self.ratios), len(self.groups)):
            group, base = self.groups[number], lr
            rate = float(group["lr"])
            if self.per_group:
                self.leaders.append(number)
                made.append(base := rate or lr)
            self.rows.append(len(self.leaders) - 1)
            follows = rate == default and not self.per_group
            self.ratios.append(self.default_ratio if follows else rate / base)
            self.gains.append(gain_of(group))
        return made

    def check_sizes(self, rows: int, groups: int, per_group: bool) -> None:
        """Raise InputError unless a saved state of so many rows and groups is one of this optimizer."""
        if (rows, groups, per_group) != (self.count, len(self.ratios), self.per_group):
            raise InputError(
                f"the saved state is of {groups} parameter groups with {rows} rates decided on, and this controller "
                f"has {len(self.ratios)} with {self.count}: make it with the same groups and per_group"
            )

    def of_groups(self, lr: Sequence[float]) -> list[float]:
        """Return the rates of all groups where those of the rows are ``lr``."""
        return [lr[row] * ratio for row, ratio in zip(self.rows, self.ratios, strict=True)]

    def written(self) -> dict[int, float]:
        """Return by group the rates that are not ``due``, as far as their type says; never waits for a device."""
        found = {}
        for number, (group, due) in enumerate(zip(self.groups, self.due, strict=True)):
            value = group["lr"]
            if value is due:
                continue
            if isinstance(value, Tensor):
                if value.device.type == "cpu" and bool(value != torch.tensor(due, dtype=value.dtype)):
                    found[number] = float(value)
            elif float(value) != due:
                found[number] = float(value)
        return found

    def written_momenta(self) -> dict[int, float]:
        """Return by group the momenta that are not ``held``."""
        found = {}
        for number, held in enumerate(self.held):
            group = self.groups[number]
            if held is None or _kept_momentum(group) is held:
                continue
            momentum = read_momentum(group)
            if momentum is not None and momentum != held:
                found[number] = momentum
        return found

    def write(self, lr: Sequence[float], momentum: Sequence[float] | None = None) -> None:
        """Put the rows' rates, and their momenta where they are given, in force in all groups."""
        separate(self.groups)  # anew: a loaded state may share again
        self.due = self.of_groups(lr)
        for group, due, row, gain in zip(self.groups, self.due, self.rows, self.gains, strict=True):
            put(group, {"lr": due})
            if momentum is not None:
                put(group, moved(group, momentum[row], gain))
        kept = [] if momentum is None else [_kept_momentum(group) for group in self.groups]
        self.held = [None if isinstance(value, Tensor) else value for value in kept]


def moved(group: Group, momentum: float, gain: float | None) -> dict[str, Any]:
    """Return what a group has under another momentum: β1, or momentum and the dampening that keeps the gain.

    A group that has none stays without.
    """
    if read_momentum(group) is None:
        return {}
    if "momentum" in group:
        momentum = max(momentum, LEAST_MOMENTUM)
        return {"momentum": momentum} | ({} if gain is None else {"dampening": 1.0 - gain * (1.0 - momentum)})
    return {"betas": (momentum, *group["betas"][1:])}


def gain_of(group: Group) -> float | None:
    """Return (1 − dampening) / (1 − β), how many times a steady gradient ends up in a step; None without dampening.

    Where β is 0 torch has no buffer to dampen, and where it is 1 there is no end to it: 1 then.
    """
    momentum = read_momentum(group)
    if "dampening" not in group or momentum is None:
        return None
    return (1.0 - float(group["dampening"])) / (1.0 - momentum) if 0.0 < momentum < 1.0 else 1.0


def separate(groups: Iterable[Group]) -> None:
    """Give each group tensors of its own for rate and betas; torch gives all the one that the optimizer was made with.

    The first to have a tensor keeps it.
    """
    seen: set[int] = set()

    def own(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        value = value.clone() if id(value) in seen else value
        seen.add(id(value))
        return value

    for group in groups:
        if isinstance(group.get("lr"), Tensor):
            group["lr"] = own(group["lr"])
        if any(isinstance(beta, Tensor) for beta in group.get("betas", ())):
            group["betas"] = tuple(own(beta) for beta in group["betas"])


def _name(rates: Rates) -> str:
    return type(rates.inner).__name__


def put(group: Group, values: Mapping[str, Any]) -> None:
    """Put values in force in a group, in place where they are tensors."""
    for name, value in values.items():
        if name == "betas" and isinstance(group[name][0], Tensor):
            group[name][0].fill_(value[0])
        elif isinstance(group[name], Tensor):
            group[name].fill_(value)
        else:
            group[name] = value
