"""Steps an optimizer whose formula is not known here and takes the step back, to see which way it is about to go.

One that steps each number by itself is stepped on a copy of those that are measured, which costs little; any other,
with all that it has, which costs as much as its step and more.
"""

from __future__ import annotations

import functools
import inspect
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Optimizer

from lrcontrol.controller_packs import PARTS, Pack
from lrcontrol.controller_rates import Rates, moved, put, unwrapped
from lrcontrol.controller_safety import Snapshot, copied

RATE = 1.0  # to step with: least of a step is rounded away then; all but Adafactor's are as long as the rate says
ADAFACTOR_RATE = 1e-3  # its step is min(lr, 1 / √t) long
ELEMENTWISE: tuple[type[Optimizer], ...] = (
    *(torch.optim.RMSprop, torch.optim.NAdam, torch.optim.RAdam, torch.optim.Adamax),
    *(torch.optim.Adagrad, torch.optim.Adadelta),
)
SHARED = ("step", "mu_product")  # entries of their state that are not of a parameter's shape
OWN_RATES = (torch.optim.ASGD, torch.optim.Rprop)  # which step with rates that they keep in their state
HOOKS = ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")
PLAIN = (bool, int, float, str, type(None))


def can_rehearse(optimizer: Optimizer) -> bool:
    """Return whether all that a step may change can be put back.

    That is parameters, and in state, groups and attributes of the optimizer's own numbers, tensors and tuples of them.
    Not stepped are those that keep anything else, such as an optimizer inside; those whose step must be given
    something, as LBFGS's a closure; and those that do not step with the rate in their groups.
    """
    optimizer = unwrapped(optimizer)
    given = list(inspect.signature(type(optimizer).step).parameters.values())[1:]
    needs = any(p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in given)
    if needs or isinstance(optimizer, OWN_RATES) or _coarse(optimizer):
        return False
    params = {param for group in optimizer.param_groups for param in group["params"]}
    groups = [value for group in optimizer.param_groups for name, value in group.items() if name != "params"]
    states = [value for state in optimizer.state.values() if isinstance(state, dict) for value in state.values()]
    own = all(isinstance(value, PLAIN) for value in _own(optimizer).values())
    return own and params.issuperset(optimizer.state) and all(map(_restorable, (*groups, *states)))


def _restorable(value: Any) -> bool:
    return isinstance(value, (Tensor, *PLAIN)) or (isinstance(value, tuple) and all(map(_restorable, value)))


def _coarse(optimizer: Optimizer) -> bool:
    """Return whether it is Adafactor on numbers of 16 bits, which do not tell a step of its rate."""
    short = (torch.float16, torch.bfloat16)
    params = [param for group in optimizer.param_groups for param in group["params"]]
    return isinstance(optimizer, torch.optim.Adafactor) and any(param.dtype in short for param in params)


@torch.no_grad()
def rehearse_pack(make: type[Optimizer], pack: Pack) -> Tensor:
    """Return u (N,) of a pack, from a step of an optimizer of its own.

    Args:
        make: the optimizer's class, one of ``ELEMENTWISE``.
        pack: with all state that there is; what is not of a parameter's shape is the same for all of its pieces.
    """
    first, param = pack.first, torch.nn.Parameter(pack["param"].clone())
    param.grad = pack["grad"].clone()
    alone = make([param], lr=RATE)  # type: ignore[call-arg]
    (group,) = alone.param_groups
    group |= {name: value for name, value in pack.group.items() if name != "params"}
    group |= {"lr": RATE * first.ratio, "foreach": False, "fused": None, "differentiable": False}
    state = {name: value for name, value in first.tensors.items() if name not in PARTS}
    if state:
        alone.state[param] = {name: (value if name in SHARED else pack[name]).clone() for name, value in state.items()}
    before = param.detach().clone()
    alone.step()
    return (before - param.detach()).div_(RATE)


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
    optimizer = rates.inner
    rate = ADAFACTOR_RATE if isinstance(optimizer, torch.optim.Adafactor) else RATE
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
    kept, known = Snapshot(params, optimizer, None), set(optimizer.state)
    grads = [param.grad for param in params]
    groups = [({**group}, copied({**group, "params": None})) for group in optimizer.param_groups]
    own = _own(optimizer) | {name: getattr(optimizer, name) for name in HOOKS}
    try:
        vars(optimizer).update({name: OrderedDict() for name in HOOKS})
        for param in params:
            param.grad = None if param.grad is None else param.grad.clone()
        yield kept.params
    finally:
        kept.restore(params, optimizer, None)
        for param, grad in zip(params, grads, strict=True):
            param.grad = grad
        for key in set(optimizer.state) - known:
            del optimizer.state[key]
        for group, (was, copies) in zip(optimizer.param_groups, groups, strict=True):
            group.clear()
            group.update(was)
            for name, copy in copies.items():
                _refill(group[name], copy)
        vars(optimizer).update(own)


def _refill(value: Any, copy: Any) -> None:
    """Give a tensor, or those in a tuple, the numbers of a copy."""
    if isinstance(value, Tensor):
        value.copy_(copy)
    elif isinstance(copy, tuple):
        for entry, kept in zip(value, copy, strict=True):
            _refill(entry, kept)


def _own(optimizer: Optimizer) -> dict[str, Any]:
    """Return the attributes that torch gives neither to every optimizer nor, as the scheduler's wrapped step, later."""
    return {name: value for name, value in vars(optimizer).items() if name not in _usual()}


@functools.cache
def _usual() -> frozenset[str]:
    return frozenset({"step", *vars(SGD([torch.zeros(1)], lr=1.0))})
