"""Measures the gradients, the memory and the update of a torch optimizer, as the environment's engine does its rows."""

from __future__ import annotations

import math
import warnings
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from lrcontrol.controller_packs import Pack, Slot, flat_size, packs
from lrcontrol.controller_rates import Rates
from lrcontrol.controller_rehearsal import can_rehearse, rehearse, rehearse_pack
from lrcontrol.controller_updates import MEMORIES, kind_of, sgd_weights, update_of, with_momentum

Measures: TypeAlias = dict[str, float]
MEASURES = frozenset({"grad_sq", "grad_dot_memory", "memory_sq", "grad_dot_update", "update_sq", "param_sq"})
MOVES = frozenset({"grad_dot_update", "update_sq"})
PRODUCTS = {
    "grad_sq": ("grad", "grad"),
    "memory_sq": ("memory", "memory"),
    "param_sq": ("param", "param"),
    "grad_dot_memory": ("grad", "memory"),
}
STATES = {"sgd": ("momentum_buffer",), "adam": ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")}


class Part(NamedTuple):
    """The products that were taken over a pack, by the names of the measures that they are.

    ``weights`` (a, b) say that the update is a · memory + b · gradient, else it is ``factor`` times what was taken.
    """

    row: int
    weight: float
    weights: tuple[float, float] | None
    factor: float
    scalars: dict[str, Tensor]

    def measures(self, found: Measures) -> Measures:
        """Return the measures that the fetched products make, before weighting."""
        if self.weights is None:
            if self.factor != 1.0:
                found["grad_dot_update"] *= self.factor
                found["update_sq"] *= self.factor**2
            return found
        (old, new), grad_sq = self.weights, found["grad_sq"]
        if old == 0.0:
            return found | {"grad_dot_update": grad_sq * new, "update_sq": grad_sq * new**2}
        dot = found["grad_dot_memory"]
        found["grad_dot_update"] = dot * old + grad_sq * new
        found["update_sq"] = found["memory_sq"] * old**2 + dot * (2.0 * old * new) + grad_sq * new**2
        return found


class Measurer:
    """Looks at an optimizer's parameters, gradients and state without changing them.

    Args:
        rates: of the optimizer.
        keeps_gradient: keep a copy of each step's gradient where the optimizer has no momentum buffer, which is the
            memory then. It costs as much memory as the parameters.
        sample: about how many numbers of each tensor kind to read, where there are more; None is all.

    Attributes:
        rehearses: whether the coming step is to be seen in a rehearsal, as far as that can be; once it failed, no more.
        adaptive: whether the optimizer scales each parameter's step by itself: all do but SGD, ASGD and their like.
        last_gradient: the copies, by the parameters' numbers; empty where none are kept.
    """

    def __init__(self, rates: Rates, keeps_gradient: bool, sample: int | None = None) -> None:
        self.rates, self.keeps_gradient, self.sample = rates, keeps_gradient, sample
        self.kind = kind_of(rates.inner)
        self.rehearses = self.kind == "unknown"
        self.adaptive = not isinstance(rates.inner, (torch.optim.SGD, torch.optim.ASGD))
        self.last_gradient: list[Tensor | None] = []
        self._said = False

    def params(self) -> list[Tensor]:
        """Return all parameters, in the order of the groups."""
        return [param for group in self.rates.groups for param in group["params"]]

    def uphill(self) -> frozenset[int]:
        """Return the ids of the parameters that an optimizer with ``maximize`` moves along their gradients."""
        return frozenset(id(param) for group in self.rates.groups if group.get("maximize") for param in group["params"])

    def slots(self, momentum: float | None = None, moves: bool = False) -> list[Slot]:
        """Return the parameters that have a gradient, under the present momentum or another one.

        With ``moves`` the updates are to be told from what they hold.
        """
        seen = self._rehearsed(momentum) if moves and self.rehearses else {}
        states: dict[Tensor, dict[str, Any]] = self.rates.inner.state
        needed = (*STATES.get(self.kind, MEMORIES), "step")
        found, number = [], -1
        for group, ratio, row in zip(self.rates.groups, self.rates.ratios, self.rates.rows, strict=True):
            shown = group if momentum is None else with_momentum(group, momentum)
            if uphill := bool(group.get("maximize")):  # what is lowered is the negative of what has these gradients
                shown = shown | {"maximize": False}
            for param in group["params"]:
                number += 1
                grad = gradient_of(param)
                if grad is None:
                    continue
                entries = states.get(param, {})
                names = entries if self.kind == "elementwise" else needed
                tensors = {"param": param.detach(), "grad": -grad if uphill else grad}
                tensors |= {name: dense(v) for name in names if isinstance(v := entries.get(name), Tensor)}
                memory = next(filter(tensors.__contains__, MEMORIES), None)
                if memory is None and number < len(self.last_gradient):
                    last = self.last_gradient[number]
                    if last is not None:
                        memory, tensors["memory"] = "memory", -last if uphill else last
                if param in seen:
                    tensors["update"] = seen[param]
                found.append(Slot(param, tensors, memory, shown, ratio, row, flat_size(grad)))
        if self.kind in ("adam", "elementwise"):
            _number_steps(found)
        return found

    def _rehearsed(self, momentum: float | None) -> dict[Tensor, Tensor]:
        """Return the updates, or nothing where there are none or they cannot be seen."""
        optimizer = self.rates.inner
        if not any(self.has_gradient()):
            return {}
        if not can_rehearse(optimizer):
            self._say_inner(optimizer)
            return {}
        try:
            return rehearse(self.rates, momentum)
        except Exception as error:  # of a third party's step, and nothing is changed
            self.rehearses = False
            warnings.warn(
                f"a step of {type(optimizer).__name__} that was to be taken back failed ({error!r}): from now on the "
                f"gradient stands in for what it steps along",
                stacklevel=7,
            )
            return {}

    def _say_inner(self, optimizer: torch.optim.Optimizer) -> None:
        """Warn, once, of a wrapper whose step cannot be seen, where the optimizer inside could be."""
        inside = next((value for value in vars(optimizer).values() if isinstance(value, torch.optim.Optimizer)), None)
        if inside is None or self._said:
            return
        self._said = True
        warnings.warn(
            f"{type(optimizer).__name__} keeps {type(inside).__name__} inside, so what it steps along cannot be seen, "
            f"and the gradient stands in for it: give the controller the optimizer inside",
            stacklevel=8,
        )

    def remember_gradient(self) -> None:
        """Copy the gradient of the step that is being taken, where the optimizer itself will keep nothing of it."""
        if not self.keeps_gradient:
            return
        entries = self.rates.inner.state
        params = self.params()
        states = (entries[param] for param in params if param in entries)
        has_buffer = self.kind == "adam" or any(name in state for state in states for name in MEMORIES)
        if has_buffer or (self.kind == "sgd" and any(self.rates.momentum)):
            self.last_gradient = []
            return
        old = self.last_gradient + [None] * (len(params) - len(self.last_gradient))
        self.last_gradient = [_copied(gradient_of(p), into) for p, into in zip(params, old, strict=True)]

    def has_gradient(self) -> list[bool]:
        """Return for each row whether it has a gradient."""
        found = [False] * self.rates.count
        for group, row in zip(self.rates.groups, self.rates.rows, strict=True):
            found[row] = found[row] or any(param.grad is not None for param in group["params"])
        return found

    def measure(self, wanted: frozenset[str]) -> list[Measures]:
        """Return for each row the measures that are wanted, some of ``MEASURES``, over the row's parameters.

        They are NaN where no parameter has a gradient, and those of the memory where there is none yet. The host waits
        once for each device.
        """
        if not wanted:
            return [{} for _ in range(self.rates.count)]
        slots = self.slots(moves=bool(wanted & MOVES))
        every = 1 if self.sample is None else max(1, sum(slot.size for slot in slots) // self.sample)
        parts = [self._reduce(pack, wanted) for pack in packs(slots, every)]
        totals: list[Measures] = [{} for _ in range(self.rates.count)]
        for part, values in zip(parts, _fetched([part.scalars for part in parts]), strict=True):
            total = totals[part.row]
            for name, value in part.measures(values).items():
                total[name] = total.get(name, 0.0) + part.weight * value
        return [{name: total.get(name, math.nan) for name in wanted} for total in totals]

    def _reduce(self, pack: Pack, wanted: frozenset[str]) -> Part:
        """Return products over a pack, loading what they take at once."""
        moves = bool(wanted & MOVES)
        weights = self._weights(pack) if moves else None
        remembers = "grad_dot_memory" in wanted or (weights is not None and weights[0] != 0.0)
        names = ["grad_sq"] if moves or "grad_sq" in wanted or remembers else []
        names += ["memory_sq", "grad_dot_memory"] if remembers and "memory" in pack else []
        names += ["param_sq"] if "param_sq" in wanted else []
        parts, by_hand = [part for name in names for part in PRODUCTS[name]], moves and weights is None
        pack.load([*parts, "update", *STATES.get(self.kind, ())] if by_hand else parts)
        scalars = {name: torch.dot(pack[a], pack[b]) for name, (a, b) in ((name, PRODUCTS[name]) for name in names)}
        factor = 1.0
        if by_hand:
            update, factor = self._update(pack)
            scalars["grad_dot_update"], scalars["update_sq"] = (
                torch.dot(pack["grad"], update),
                torch.dot(update, update),
            )
        return Part(pack.first.row, pack.weight, weights, factor, scalars)

    def _update(self, pack: Pack) -> tuple[Tensor, float]:
        """Return (w, c) with u = c · w for a pack."""
        if self.kind == "elementwise":
            return rehearse_pack(type(self.rates.inner), pack), 1.0
        return update_of(self.kind, pack)

    def _weights(self, pack: Pack) -> tuple[float, float] | None:
        """Return (a, b) where u = a · memory + b · g, whose measures then need no further pass, else None."""
        if self.kind == "unknown":
            return None if "update" in pack else (0.0, pack.first.ratio)
        if self.kind != "sgd" or pack.group["weight_decay"]:
            return None
        old, new = sgd_weights(pack)
        return pack.first.ratio * old, pack.first.ratio * new

    @torch.no_grad()
    def updates(self, momentum: float | None = None) -> list[tuple[Tensor, Tensor]]:
        """Return (parameter, u), u in the parameter's shape and float32 or better, for all that have a gradient."""
        slots = self.slots(momentum, moves=True)
        rows: dict[int, Tensor] = {}
        for pack in packs(slots):
            update, factor = self._update(pack)
            for slot, start, part in pack.spread(update):
                row = rows.setdefault(id(slot), update.new_empty(slot.size))
                torch.mul(part, factor, out=row[start : start + len(part)])
        return [(slot.param, _shaped(rows[id(slot)], slot.param)) for slot in slots if id(slot) in rows]

    def gradients(self) -> list[tuple[Tensor, Tensor]]:
        """Return (parameter, g · its group's ratio) for all that have a gradient, −g where that is climbed."""
        return [(slot.param, slot.tensors["grad"] * slot.ratio) for slot in self.slots()]


def gradient_of(param: Tensor) -> Tensor | None:
    """Return the gradient, a sparse one as a dense tensor, or None."""
    grad = param.grad
    return None if grad is None else dense(grad)


def dense(value: Tensor) -> Tensor:
    """Return a tensor without history, a sparse one as a dense one."""
    value = value.detach() if value.requires_grad else value
    return value.to_dense() if value.is_sparse else value


def _fetched(parts: list[dict[str, Tensor]]) -> list[Measures]:
    """Return the scalars as numbers; all of an accelerator come at once."""
    waiting: dict[torch.device, list[Tensor]] = {}
    for scalars in parts:
        for scalar in scalars.values():
            if not scalar.is_cpu:
                waiting.setdefault(scalar.device, []).append(scalar)
    come = {device: iter(torch.stack(found).tolist()) for device, found in waiting.items()}
    return [
        {name: scalar.item() if scalar.is_cpu else next(come[scalar.device]) for name, scalar in scalars.items()}
        for scalars in parts
    ]


def _shaped(row: Tensor, param: Tensor) -> Tensor:
    if param.is_complex():
        return torch.view_as_complex(row.view(*param.shape, 2))
    return row.view(param.shape)


def _number_steps(slots: list[Slot]) -> None:
    """Put in the numbers of the steps to come; those kept on an accelerator are fetched together."""
    known = [(slot, slot.tensors["step"]) for slot in slots if "step" in slot.tensors]
    if all(step.is_cpu for _, step in known):
        values = [step.item() for _, step in known]
    else:
        values = torch.stack([step.reshape(()).to(known[0][1].device) for _, step in known]).tolist()
    for (slot, _), value in zip(known, values, strict=True):
        slot.step = value + 1.0


def _copied(new: Tensor | None, into: Tensor | None) -> Tensor | None:
    if new is None or into is None or into.shape != new.shape:
        return None if new is None else new.clone()
    return into.copy_(new)
