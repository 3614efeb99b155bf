"""Steps an optimizer whose formula is not known here and takes the step back, to see which way it is about to go.

One that steps each number by itself is stepped on a copy of those that are measured, which costs little; any other,
with all that it has, which costs as much as its step and more.
"""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Optimizer

from lrcontrol.controller_packs import Pack
from lrcontrol.controller_rates import Rates, moved, put, unwrapped
from lrcontrol.controller_safety import copied, put_back

# Rates to step with: 1, at which least is rounded away; or small, as true ones are, for what may not be linear in it.
FINE, COARSE = 1e-3, 1.0
ELEMENTWISE: tuple[type[Optimizer], ...] = (
    *(torch.optim.RMSprop, torch.optim.NAdam, torch.optim.RAdam, torch.optim.Adamax),
    *(torch.optim.Adagrad, torch.optim.Adadelta),
)
OWN_RATES = (torch.optim.ASGD, torch.optim.Rprop)  # which step with rates that they keep in their state
HOOKS = ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")
PLAIN = (bool, int, float, str, type(None))


def can_rehearse(optimizer: Optimizer) -> bool:
    """Return whether all that a step changes is known: parameters, groups, state, and plain numbers besides.

    Those that call a closure themselves, as LBFGS does, those that keep anything else, such as an optimizer inside, and
    those that do not step with the rate in their groups are not stepped.
    """
    optimizer = unwrapped(optimizer)
    if isinstance(optimizer, OWN_RATES):
        return False
    closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    needs_closure = closure is not None and closure.default is inspect.Parameter.empty
    return not needs_closure and all(isinstance(value, PLAIN) for value in _own(optimizer).values())


@torch.no_grad()
def rehearse_pack(make: type[Optimizer], pack: Pack) -> Tensor:
    """Return u (N,) of a pack, from a step of an optimizer of its own.

    Args:
        make: the optimizer's class, one of ``ELEMENTWISE``.
        pack: with all state that there is; what is not of a parameter's shape is the same for all of its pieces.
    """
    first, param = pack.first, torch.nn.Parameter(pack["param"].clone())
    param.grad = pack["grad"].clone()
    alone = make([param], lr=COARSE)  # type: ignore[call-arg]
    (group,) = alone.param_groups
    group |= {name: value for name, value in pack.group.items() if name != "params"}
    group |= {"lr": COARSE * first.ratio, "foreach": False, "fused": None}
    if first.state:
        alone.state[param] = {
            name: (pack[name] if value.shape == first.param.shape else value).clone()
            for name, value in first.state.items()
        }
    before = param.detach().clone()
    alone.step()
    return (before - param.detach()).div_(COARSE)


@torch.no_grad()
def rehearse(rates: Rates, momentum: float | None = None) -> dict[Tensor, Tensor]:
    """Return u of each parameter that has a gradient: it is to become θ − lr · u, lr being the reference's rate.

    A step is taken with copies of the gradients, and parameters, state and groups are put back as they were, bit for
    bit. That costs a step, and for its time as much memory again as parameters, gradients and state.

    Args:
        rates: of an optimizer that ``can_rehearse``.
        momentum: that it is to step with, if it is not the present one.
    """
    params = [param for group in rates.groups for param in group["params"] if param.grad is not None]
    coarse = any(param.dtype in (torch.float16, torch.bfloat16) for param in params)
    rate = COARSE if coarse else FINE
    optimizer = unwrapped(rates.optimizer)
    device = params[0].device if params else torch.device("cpu")
    with _undone(optimizer, params) as before, same_randomness(device):
        for group, ratio, gain in zip(rates.groups, rates.ratios, rates.gains, strict=True):
            put(group, {"lr": rate * ratio} | ({} if momentum is None else moved(group, momentum, gain)))
        type(optimizer).step(optimizer)
        updates = [(old - param).div_(rate) for old, param in zip(before, params, strict=True)]
    return dict(zip(params, updates, strict=True))


@contextmanager
def same_randomness(device: torch.device) -> Iterator[None]:
    """Leave the random generators as they are."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        yield


@contextmanager
def _undone(optimizer: Optimizer, params: list[Tensor]) -> Iterator[list[Tensor]]:
    """Put parameters, gradients, state, groups and plain attributes back at the end, in place where they are tensors.

    Gives copies of the parameters.
    """
    values = [param.detach().clone() for param in params]
    grads = [param.grad for param in params]
    states = {key: copied(state) for key, state in optimizer.state.items()}
    groups = [({**group}, copied({**group, "params": None})) for group in optimizer.param_groups]
    own = _own(optimizer)
    hooks = {name: getattr(optimizer, name) for name in HOOKS}
    try:
        vars(optimizer).update({name: OrderedDict() for name in HOOKS})
        for param in params:
            param.grad = None if param.grad is None else param.grad.clone()
        yield values
    finally:
        for param, value, grad in zip(params, values, grads, strict=True):
            param.copy_(value)
            param.grad = grad
        for key in [key for key in optimizer.state if key not in states]:
            del optimizer.state[key]
        for key, kept in states.items():
            put_back(optimizer.state[key], kept)
        for group, (was, copies) in zip(optimizer.param_groups, groups, strict=True):
            group.clear()
            group.update(was)
            for name, copy in copies.items():
                _refill(group[name], copy)
        vars(optimizer).update(own | hooks)


def _refill(value: Any, copy: Any) -> None:
    """Give a tensor, or those in a pair or list, the numbers of a copy."""
    if isinstance(value, Tensor):
        value.copy_(copy)
    elif isinstance(copy, (list, tuple)):
        for entry, kept in zip(value, copy, strict=True):
            _refill(entry, kept)


def _own(optimizer: Optimizer) -> dict[str, Any]:
    """Return the attributes that torch gives neither to every optimizer nor, as the scheduler's wrapped step, later."""
    usual = {"step", *vars(SGD([torch.zeros(1)], lr=1.0))}
    return {name: value for name, value in vars(optimizer).items() if name not in usual}
