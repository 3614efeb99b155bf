"""Optimizers that choose their own step size, run in a plain loop on the runs of an evaluation and in its tables."""

from __future__ import annotations

import importlib
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer

from lrcontrol.envs.engine import pick_device
from lrcontrol.envs.errors import InputError
from lrcontrol.envs.minibatches import Minibatches
from lrcontrol.envs.seeding import build_module, run_seeds
from lrcontrol.envs.spec import build
from lrcontrol.envs.task import Data, Task
from lrcontrol.rollouts import Progress, settled
from lrcontrol.tuning_free import COCOB, DoG

CHUNK = 1000  # rows of a data set that are evaluated at once


@dataclass(frozen=True)
class Peer:
    """An optimizer of somebody else's in our tables.

    Args:
        name: what tables call it.
        make: builds it for parameters, a value of its knob, and the number of steps.
        knob: what the initial rate of a run is put in for: its learning rate, its first guess of the distance to the
            solution (d0, reps_rel); None, and every run is the same whatever the initial rate.
    """

    name: str
    make: Callable[[list[Tensor], float | None], Optimizer]
    knob: str | None


def _package(module: str, name: str) -> Any:
    try:
        return getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise InputError(f"{name} is in {module}, which is not installed: pip install 'lrcontrol[peers]'") from error


def _kept(name: str, module: str, title: str, knob: str, knobbed: bool, **arguments: Any) -> Peer:
    kind = _package(module, title)

    def make(params: list[Tensor], value: float | None) -> Optimizer:
        optimizer: Optimizer = kind(params, **arguments, **({} if value is None else {knob: value}))
        return optimizer

    return Peer(name + (":knob=true" if knobbed else ""), make, knob if knobbed else None)


def dog(knob: bool = False) -> Peer:
    """DoG with averaged iterates; its knob is reps_rel, 1e-6 by default."""
    return Peer(
        "dog:knob=true" if knob else "dog",
        lambda params, value: DoG(params) if value is None else DoG(params, value),
        "reps_rel" if knob else None,
    )


def cocob() -> Peer:
    """COCOB; it has no knob."""
    return Peer("cocob", lambda params, value: COCOB(params), None)


def prodigy(knob: bool = False) -> Peer:
    """Prodigy (Mishchenko and Defazio 2023) of prodigyopt; its knob is d0, 1e-6 by default."""
    return _kept("prodigy", "prodigyopt", "Prodigy", "d0", knob)


def dadapt_sgd(knob: bool = False) -> Peer:
    """D-Adaptation (Defazio and Mishchenko 2023) for SGD of pytorch-optimizer; its knob is d0, 1e-6 by default."""
    return _kept("dadapt-sgd", "pytorch_optimizer", "DAdaptSGD", "d0", knob, momentum=0.9)


def dadapt_adam(knob: bool = False) -> Peer:
    """D-Adaptation for Adam of pytorch-optimizer; its knob is d0, 1e-6 by default."""
    return _kept("dadapt-adam", "pytorch_optimizer", "DAdaptAdam", "d0", knob)


def schedulefree_sgd(knob: bool = False) -> Peer:
    """Schedule-Free SGD (Defazio et al. 2024) of schedulefree; its knob is the rate, 1 by default."""
    return _kept("schedulefree-sgd", "schedulefree", "SGDScheduleFree", "lr", knob)


def schedulefree_adamw(knob: bool = False) -> Peer:
    """Schedule-Free AdamW of schedulefree; its knob is the rate, 0.0025 by default."""
    return _kept("schedulefree-adamw", "schedulefree", "AdamWScheduleFree", "lr", knob)


def adamw(knob: bool = False) -> Peer:
    """AdamW as torch gives it; its knob is the rate, 0.001 by default."""
    return _kept("adamw", "torch.optim", "AdamW", "lr", knob)


def nadamw(knob: bool = False) -> Peer:
    """NAdam with decoupled weight decay as torch gives it; its knob is the rate, 0.002 by default."""
    return _kept("nadamw", "torch.optim", "NAdam", "lr", knob, decoupled_weight_decay=True)


PEERS: dict[str, Callable[..., Peer]] = {
    "dog": dog,
    "cocob": cocob,
    "prodigy": prodigy,
    "dadapt-sgd": dadapt_sgd,
    "dadapt-adam": dadapt_adam,
    "schedulefree-sgd": schedulefree_sgd,
    "schedulefree-adamw": schedulefree_adamw,
    "adamw": adamw,
    "nadamw": nadamw,
}


def find_peer(text: object) -> Peer | None:
    """Return the peer of a spelling ``name`` or ``name:knob=true``, None where it is not one of ``PEERS``.

    Raises:
        InputError: its package is not installed, or a key that it does not have.
    """
    if isinstance(text, Peer):
        return text
    known = isinstance(text, str) and text.partition(":")[0] in PEERS
    return build(str(text), PEERS, "peer") if known else None


def run_peer(
    peer: Peer,
    task: Task,
    rates: Sequence[float],
    runs: int,
    steps: int,
    seed: int,
    device: str,
    progress: Progress | None,
) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    """Train ``runs`` runs for each rate, in a plain loop, on the initial parameters and minibatches of an evaluation.

    Without a knob the runs of one rate stand for all rates.

    Returns:
        Final measures (rates · runs,), sorted by rate and then run, and traces (rates · runs, steps).
    """
    different = [*rates] if peer.knob else [None]
    data = {split: part for split, part in (("train", task.train), ("test", task.test)) if part is not None}
    found: list[_Run] = []
    for value, run in itertools.product(different, range(runs)):
        done = len(found) * steps

        def report(step: int, done: int = done) -> None:
            if progress is not None:
                progress(peer.name, (done + step) // (len(different) * runs), steps)

        found.append(_train(peer, task, data, value, steps, seed + run, pick_device(device), report))
    copies = len(rates) // len(different)
    measured = {split: tuple(np.array([run.measured[split] for run in found]).T) for split in data}
    final = settled(measured, np.array([run.broken for run in found]), np.array([run.first for run in found]))
    traces = {name: np.stack([run.trace[name] for run in found]) for name in found[0].trace}
    return (
        {name: np.tile(values, copies) for name, values in final.items()},
        {name: np.tile(values, (copies, 1)) for name, values in traces.items()},
    )


class _Run(NamedTuple):
    """What came of one run: loss and accuracy by data set, whether its loss broke, its first loss, its steps."""

    measured: dict[str, tuple[float, float]]
    broken: bool
    first: float
    trace: dict[str, NDArray[Any]]


def _train(
    peer: Peer,
    task: Task,
    data: dict[str, Data],
    value: float | None,
    steps: int,
    seed: int,
    device: torch.device,
    report: Callable[[int], None],
) -> _Run:
    """Train one run; once a loss is not finite nothing moves any more, as in the engine."""
    seeds = run_seeds(seed)
    module = build_module(task.model, seeds.init).to(device)
    minibatches = Minibatches(task, device)
    minibatches.reset([seeds.data])
    optimizer = peer.make(list(module.parameters()), value)
    trace = {name: np.full(steps, np.nan) for name in ("loss", "lr", "momentum")}
    _mode(optimizer, "train")
    first = math.nan
    for step in range(steps + 1):
        x, y = (part[0] for part in minibatches.batch(slice(0, 1)))
        optimizer.zero_grad()
        loss = task.loss(module(x), y)
        now = float(loss.detach())
        first = now if step == 0 else first
        if step == steps or not math.isfinite(now):
            break
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        group = optimizer.param_groups[0]
        trace["loss"][step] = now
        trace["lr"][step] = float(group.get("lr", math.nan)) * float(group.get("d", 1.0))
        minibatches.advance()
        if step % 50 == 0:
            report(step)
    _mode(optimizer, "eval")
    measured = {split: _measure(module, task, part, device) for split, part in data.items()}
    return _Run(measured, not math.isfinite(now), first, trace)


def _mode(optimizer: Optimizer, name: str) -> None:
    """Call ``optimizer.train()`` or ``eval()`` where it has one: averaging optimizers evaluate other weights."""
    change = getattr(optimizer, name, None)
    if callable(change):
        change()


@torch.no_grad()
def _measure(module: nn.Module, task: Task, data: Data, device: torch.device) -> tuple[float, float]:
    total = correct = 0.0
    for first in range(0, len(data[0]), CHUNK):
        x, y = (part[first : first + CHUNK].to(device) for part in data)
        outputs = module(x)
        total += len(x) * float(task.loss(outputs, y))
        if task.classifies:
            correct += int((outputs.argmax(dim=-1) == y).sum())
    return total / len(data[0]), correct / len(data[0]) if task.classifies else math.nan
