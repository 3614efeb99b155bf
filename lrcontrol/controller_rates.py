"""Reads and writes the learning rate and the momentum of a torch optimizer's parameter groups."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from lrcontrol.envs.errors import InputError

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
    """The rate of the first group that has one, the reference, and those of the others in proportion.

    Args:
        optimizer: its groups are read anew each time: ``Optimizer.load_state_dict`` replaces them.

    Attributes:
        ratios: each group's rate over the reference; a group that is added later keeps the ratio that it has then.
        dampened: whether a group's dampening equalled its momentum, and so moves with it.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        check_groups(optimizer)
        self.optimizer = optimizer
        rates = [float(group["lr"]) for group in optimizer.param_groups]
        self.reference = next((number for number, rate in enumerate(rates) if rate > 0.0), -1)
        if self.reference < 0:
            raise InputError(f"all parameter groups have lr 0: a multiple of it is 0 too; start {_name(self)} above 0")
        self.ratios = [rate / rates[self.reference] for rate in rates]
        self.dampened = [_is_dampened(group) for group in optimizer.param_groups]

    @property
    def groups(self) -> list[Group]:
        """The groups as they are now."""
        return self.optimizer.param_groups

    @property
    def lr(self) -> float:
        """The reference group's rate in force."""
        return float(self.groups[self.reference]["lr"])

    @property
    def momentum(self) -> float | None:
        """The momentum in force of the reference group, None where it has none."""
        return read_momentum(self.groups[self.reference])

    @property
    def gain(self) -> float:
        """How many times a steady gradient ends up in an SGD step: (1 − dampening) / (1 − β), 1 for all others."""
        group = self.groups[self.reference]
        if "dampening" not in group or not self.momentum:
            return 1.0
        return (1.0 - float(group["dampening"])) / (1.0 - self.momentum)

    def adopt_new_groups(self, lr: float) -> None:
        """Take in groups that were added since, at the reference rate ``lr``."""
        for group in self.groups[len(self.ratios) :]:
            self.ratios.append(float(group["lr"]) / lr)
            self.dampened.append(_is_dampened(group))

    def holds(self, lr: float) -> bool:
        """Return whether the reference rate is ``lr``, as far as its type can say; not asked where that would sync."""
        value = self.groups[self.reference]["lr"]
        if isinstance(value, Tensor):
            return value.device.type != "cpu" or bool(value == torch.tensor(lr, dtype=value.dtype))
        return float(value) == lr

    def write(self, lr: float, momentum: float | None = None) -> None:
        """Put the reference rate, and the momentum where one is given, in force in all groups."""
        for group, ratio, dampened in zip(self.groups, self.ratios, self.dampened, strict=True):
            _put(group, "lr", lr * ratio)
            if momentum is None:
                continue
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


def _name(rates: Rates) -> str:
    return type(unwrapped(rates.optimizer)).__name__


def _is_dampened(group: Group) -> bool:
    return "dampening" in group and "momentum" in group and float(group["dampening"]) == float(group["momentum"])


def _put(group: Group, key: str, value: float) -> None:
    if isinstance(group[key], Tensor):
        group[key].fill_(value)
    else:
        group[key] = value
