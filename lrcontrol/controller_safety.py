"""Safety: notices a loss that is not finite or has run away, and takes model and optimizer back to before it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lrcontrol.controller_rates import unwrapped
from lrcontrol.envs.errors import InputError
from lrcontrol.envs.features import LossHistory

SPREAD = 0.03  # weight of the newest deviation of the loss from its fast average
DEVIATIONS = 8.0  # that many mean deviations above the fast average is no noise of the minibatches
WARM_UP, EARLY = 10, 3.0  # of so many first losses only one above so many times the first is a spike


@dataclass(frozen=True)
class Rollback:
    """When to go back, and to what.

    A loss is a spike if it is above its fast average by 8 mean deviations from it, and by ``spike`` of the first loss;
    it drifts if its fast average has been above its best by half of both for ``window`` steps. The share of the first
    loss keeps the single hard minibatch of a run that has almost no loss left from being taken for a spike.

    Args:
        every: steps from one copy of the last good state to the next. The copy, parameters and the optimizer's state,
            stays on their device: with SGD as much memory as the parameters, with momentum twice, with Adam three times
            as much. It is part of ``state_dict`` too.
        factor: what the rate is multiplied by when going back, below 1.
        spike: how far above its fast average a loss may be, as a share of the first loss, above 0.
        window: steps that the fast average may stay above its best.
        module: a module whose buffers (running statistics) are copied and put back too.

    Raises:
        InputError: a value that cannot be used.
    """

    every: int = 50
    factor: float = 0.5
    spike: float = 0.2
    window: int = 100
    module: nn.Module | None = None

    def __post_init__(self) -> None:
        for name, kind in (("every", Integral), ("window", Integral), ("factor", Real), ("spike", Real)):
            if not isinstance(value := getattr(self, name), kind):
                raise InputError(f"rollback: {name} {value!r} is no {'whole ' * (kind is Integral)}number")
        for name in ("every", "window"):
            if getattr(self, name) < 1:
                raise InputError(f"rollback: {name} {getattr(self, name)} is not positive")
        if self.module is not None and not isinstance(self.module, nn.Module):
            raise InputError(f"rollback: module {self.module!r} is no torch.nn.Module, whose buffers could be copied")
        if not 0.0 < self.factor < 1.0:
            raise InputError(f"rollback: factor {self.factor} is not between 0 and 1")
        if not 0.0 < self.spike < math.inf:
            raise InputError(f"rollback: spike {self.spike} is not above 0")


@dataclass
class Watch:
    """What it takes to tell noise from running away; plain numbers, all of them part of the controller's state."""

    spread: float = 0.0
    seen: int = 0
    drifting: int = 0

    def judge(self, rules: Rollback, loss: float, fast: float, first: float) -> str | None:
        """Return ``not finite``, ``spike`` or ``drift``, or None for a loss as it should be.

        Args:
            rules: the limits.
            loss: the newest, which ``fast`` does not hold yet.
            fast: its fast running average before.
            first: the first loss of the run.
        """
        if not math.isfinite(loss):
            return "not finite"
        if self.seen < WARM_UP:
            return "spike" if self.seen and loss > first + (EARLY - 1.0) * abs(first) else None
        if loss > fast + max(DEVIATIONS * self.spread, rules.spike * abs(first)):
            return "spike"
        return "drift" if self.drifting >= rules.window else None

    def add(self, rules: Rollback, loss: float, fast_before: float, past: LossHistory[float]) -> None:
        """Take in a loss that passed, the fast average before it, and the history with it."""
        deviation = abs(loss - fast_before)
        self.spread = deviation if self.seen < 2 else SPREAD * deviation + (1.0 - SPREAD) * self.spread
        self.seen += 1
        above = past.fast > past.best + 0.5 * max(DEVIATIONS * self.spread, rules.spike * abs(past.first))
        self.drifting = self.drifting + 1 if above else 0


class Snapshot:
    """A copy of parameters, buffers and the optimizer's state.

    Args:
        params: in the order of the optimizer's groups.
        optimizer: whose state of them is copied.
        module: whose buffers are copied, or None.
    """

    def __init__(self, params: Sequence[Tensor], optimizer: Optimizer, module: nn.Module | None) -> None:
        states = unwrapped(optimizer).state
        self.params = [param.detach().clone() for param in params]
        self.buffers = [] if module is None else [buffer.detach().clone() for buffer in module.buffers()]
        self.states = [copied(states.get(param, {})) for param in params]

    @property
    def bytes(self) -> int:
        """The memory that the copy takes."""
        values = [*self.params, *self.buffers, *(value for state in self.states for value in state.values())]
        return sum(tensor.nbytes for value in values for tensor in _tensors(value))

    def fits(self, params: Sequence[Tensor]) -> bool:
        """Return whether it is of these parameters, to which some may have been added since."""
        return _shapes(self.params) == _shapes(params)

    @torch.no_grad()
    def restore(self, params: Sequence[Tensor], optimizer: Optimizer, module: nn.Module | None) -> None:
        """Put everything back, in place."""
        states = unwrapped(optimizer).state
        for param, value, state in zip(params, self.params, self.states, strict=True):
            param.copy_(value)
            if state:
                _put_back(states[param], state)
            else:
                states.pop(param, None)
        for buffer, value in zip([] if module is None else module.buffers(), self.buffers, strict=True):
            buffer.copy_(value)

    def state_dict(self) -> dict[str, Any]:
        """Return the copy as lists and dictionaries of tensors; not copied again."""
        return {"params": self.params, "buffers": self.buffers, "states": self.states}

    @classmethod
    def from_state_dict(cls, state: dict[str, Any], params: Sequence[Tensor], module: nn.Module | None) -> Snapshot:
        """Return the snapshot of a ``state_dict``, on the devices of the parameters.

        Raises:
            InputError: it is of other parameters, or of other buffers than the module's.
        """
        if _shapes(state["params"]) != _shapes(params):
            raise InputError("the rollback state is of a model with other parameters: load it with the model it is of")
        if _shapes(state["buffers"]) != _shapes([] if module is None else module.buffers()):
            raise InputError("the rollback state is of another module's buffers: give Rollback(module=…) what it is of")
        made = cls.__new__(cls)
        made.params = [value.to(param.device, copy=True) for value, param in zip(state["params"], params, strict=True)]
        made.buffers = [value.clone() for value in state["buffers"]]
        made.states = [copied(entries) for entries in state["states"]]
        return made


def _shapes(tensors: Iterable[Tensor]) -> list[tuple[int, ...]]:
    return [tuple(tensor.shape) for tensor in tensors]


def all_finite(tensors: Sequence[Tensor]) -> bool:
    """Return whether all numbers are finite; the host waits once for each device."""
    found: dict[torch.device, list[Tensor]] = {}
    for tensor in tensors:
        found.setdefault(tensor.device, []).append(torch.isfinite(tensor.detach()).all())
    return all(bool(torch.stack(answers).all()) for answers in found.values())


def copied(state: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of an optimizer's state of a parameter, or of a group's values."""
    return {name: _cloned(value) for name, value in state.items()}


def _cloned(value: Any) -> Any:
    """Return a copy of a tensor, or of a list of them, as LBFGS keeps, or a pair, as betas are."""
    if isinstance(value, (list, tuple)):
        return type(value)(_cloned(entry) for entry in value)
    return value.detach().clone() if isinstance(value, Tensor) else value


def _tensors(value: Any) -> list[Tensor]:
    """Return the tensor, or those of a list."""
    if isinstance(value, list):
        return [tensor for entry in value for tensor in _tensors(entry)]
    return [value] if isinstance(value, Tensor) else []


def _put_back(now: dict[str, Any], kept: dict[str, Any]) -> None:
    for name in [name for name in now if name not in kept]:
        del now[name]
    for name, value in kept.items():
        present = now.get(name)
        if isinstance(value, Tensor) and isinstance(present, Tensor) and present.shape == value.shape:
            present.copy_(value)
        else:
            now[name] = _cloned(value)
