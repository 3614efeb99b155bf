"""Measures the gradients, the memory and the update of a torch optimizer, as the environment's engine does its rows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from lrcontrol.controller_rates import Rates, unwrapped
from lrcontrol.controller_updates import MEMORIES, Pack, Slot, kind_of, packs, sgd_weights, update_of, with_momentum

MEASURES = frozenset({"grad_sq", "grad_dot_memory", "memory_sq", "grad_dot_update", "update_sq", "param_sq"})
STATES = {"sgd": ("momentum_buffer",), "adam": ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"), "unknown": ()}


class Measurer:
    """Looks at an optimizer's parameters, gradients and state without changing them.

    Args:
        rates: of the optimizer.
        keeps_gradient: keep a copy of each step's gradient where the optimizer has no momentum buffer, which is the
            memory then. It costs as much memory as the parameters.
        sample: about how many numbers of each tensor kind to read, where there are more; None is all.

    Attributes:
        last_gradient: the copies, by the parameters' numbers; empty where none are kept.
    """

    def __init__(self, rates: Rates, keeps_gradient: bool, sample: int | None = None) -> None:
        self.rates, self.keeps_gradient, self.sample = rates, keeps_gradient, sample
        self.kind = kind_of(unwrapped(rates.optimizer))
        self.last_gradient: list[Tensor | None] = []

    def params(self) -> list[Tensor]:
        """Return all parameters, in the order of the groups."""
        return [param for group in self.rates.groups for param in group["params"]]

    def slots(self, momentum: float | None = None) -> list[Slot]:
        """Return the parameters that have a gradient, under the present momentum or another one."""
        states: dict[Tensor, dict[str, Any]] = unwrapped(self.rates.optimizer).state
        found, number = [], -1
        for group, ratio in zip(self.rates.groups, self.rates.ratios, strict=True):
            shown = group if momentum is None else with_momentum(group, momentum)
            for param in group["params"]:
                number += 1
                grad = gradient_of(param)
                if grad is None:
                    continue
                state = states.get(param, {})
                memory = next((state[name] for name in MEMORIES if isinstance(state.get(name), Tensor)), None)
                if memory is None and number < len(self.last_gradient):
                    memory = self.last_gradient[number]
                state = {name: value for name, value in state.items() if isinstance(value, Tensor)}
                found.append(Slot(param, grad, shown, ratio, state, memory))
        if self.kind == "adam":
            _number_steps(found)
        return found

    def remember_gradient(self) -> None:
        """Copy the gradient of the step that is being taken, where the optimizer itself will keep nothing of it."""
        if not self.keeps_gradient:
            return
        states = unwrapped(self.rates.optimizer).state.values()
        has_buffer = self.kind == "adam" or (self.kind == "sgd" and bool(self.rates.momentum))
        if has_buffer or any(name in state for state in states for name in MEMORIES):
            self.last_gradient = []
            return
        params = self.params()
        old = self.last_gradient + [None] * (len(params) - len(self.last_gradient))
        self.last_gradient = [_copied(gradient_of(p), into) for p, into in zip(params, old, strict=True)]

    @torch.no_grad()
    def measure(self, wanted: frozenset[str]) -> dict[str, float]:
        """Return those of ``MEASURES`` that are wanted, over all parameters; the host waits once for each device.

        They are NaN where no parameter has a gradient, and those of the memory where there is none yet.
        """
        wanted &= MEASURES
        if not wanted:
            return {}
        totals: dict[tuple[str, torch.device], Tensor] = {}
        slots = self.slots()
        every = 1 if self.sample is None else max(1, sum(slot.grad.numel() for slot in slots) // self.sample)
        for pack in packs(slots, STATES[self.kind], every):
            for name, value in self._measure_pack(pack, wanted):
                key = name, value.device
                if key in totals:
                    totals[key].add_(value, alpha=pack.weight)
                else:
                    totals[key] = value.double() * pack.weight
        found = dict.fromkeys(wanted, math.nan)
        for device in {device for _, device in totals}:
            names = [name for name, where in totals if where == device]
            for name, value in zip(names, torch.stack([totals[n, device] for n in names]).tolist(), strict=True):
                if name in wanted:
                    found[name] = value if math.isnan(found[name]) else found[name] + value
        return found

    def _measure_pack(self, pack: Pack, wanted: frozenset[str]) -> Iterator[tuple[str, Tensor]]:
        grad, memory = pack.grad, pack.memory
        moves = bool({"grad_dot_update", "update_sq"} & wanted)
        weights = self._weights(pack) if moves else None
        if weights is not None or "grad_sq" in wanted:
            grad_sq = _square(grad)
            yield "grad_sq", grad_sq
        if memory is not None and ("grad_dot_memory" in wanted or weights is not None):
            grad_dot, memory_sq = torch.dot(grad, memory), _square(memory)
            yield from (("grad_dot_memory", grad_dot), ("memory_sq", memory_sq))
        if "param_sq" in wanted:
            yield "param_sq", _square(pack.param)
        if weights is not None and weights[0] == 0.0:
            new = weights[1]
            yield from (("grad_dot_update", grad_sq * new), ("update_sq", grad_sq * new**2))
        elif weights is not None:
            old, new = weights
            yield "grad_dot_update", grad_dot * old + grad_sq * new
            yield "update_sq", memory_sq * old**2 + grad_dot * (2.0 * old * new) + grad_sq * new**2
        elif moves:
            update, factor = update_of(self.kind, pack)
            yield "grad_dot_update", torch.dot(grad, update) * factor
            yield "update_sq", _square(update) * factor**2

    def _weights(self, pack: Pack) -> tuple[float, float] | None:
        """Return (a, b) where u = a · memory + b · g, whose measures then need no further pass, else None."""
        if self.kind == "unknown":
            return 0.0, pack.ratio
        if self.kind != "sgd" or pack.group["weight_decay"] or pack.group["maximize"]:
            return None
        old, new = sgd_weights(pack)
        return pack.ratio * old, pack.ratio * new

    @torch.no_grad()
    def updates(self, momentum: float | None = None) -> list[tuple[Tensor, Tensor]]:
        """Return (parameter, u), u in the parameter's shape and float32 or better, for all that have a gradient."""
        slots = self.slots(momentum)
        rows: dict[int, Tensor] = {}
        for pack in packs(slots, STATES[self.kind]):
            (update, factor), at = update_of(self.kind, pack), 0
            for slot, start, stop in pack.slices:
                row = rows.setdefault(id(slot), update.new_empty(flat_size(slot.grad)))
                torch.mul(update[at : at + stop - start], factor, out=row[start:stop])
                at += stop - start
        return [(slot.param, _shaped(rows[id(slot)], slot.param)) for slot in slots if id(slot) in rows]

    def gradients(self) -> list[tuple[Tensor, Tensor]]:
        """Return (parameter, g · its group's ratio) for all that have a gradient."""
        return [(slot.param, slot.grad * slot.ratio) for slot in self.slots()]


def gradient_of(param: Tensor) -> Tensor | None:
    """Return the gradient, a sparse one as a dense tensor, or None."""
    if param.grad is None:
        return None
    return param.grad.detach().to_dense() if param.grad.is_sparse else param.grad.detach()


def _square(row: Tensor) -> Tensor:
    """Return the squared norm; the norm is the fastest of the reductions."""
    norm: Tensor = torch.linalg.vector_norm(row)
    return norm.square()


def flat_size(tensor: Tensor) -> int:
    """Return how many real numbers a tensor holds."""
    return tensor.numel() * (2 if tensor.is_complex() else 1)


def _shaped(row: Tensor, param: Tensor) -> Tensor:
    if param.is_complex():
        return torch.view_as_complex(row.view(*param.shape, 2))
    return row.view(param.shape)


def _number_steps(slots: list[Slot]) -> None:
    """Put in the numbers of the steps to come; those kept on an accelerator are fetched together."""
    known = [(slot, slot.state["step"]) for slot in slots if "step" in slot.state]
    if any(step.device.type != "cpu" for _, step in known):
        values = torch.stack([step.reshape(()).to(known[0][1].device) for _, step in known]).tolist()
    else:
        values = [float(step) for _, step in known]
    for (slot, _), value in zip(known, values, strict=True):
        slot.step = value + 1.0


def _copied(new: Tensor | None, into: Tensor | None) -> Tensor | None:
    if new is None or into is None or into.shape != new.shape:
        return None if new is None else new.clone()
    return into.copy_(new)
