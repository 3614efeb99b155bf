"""Optimizers that choose their own step size, run in a plain loop on the runs of an evaluation."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer

from lrcontrol.envs.engine import EVALUATED, pick_device
from lrcontrol.envs.minibatches import Minibatches
from lrcontrol.envs.seeding import build_module, run_seeds
from lrcontrol.envs.task import Data, Task
from lrcontrol.rollouts import Assignment, Trained, settled


@dataclass(frozen=True)
class OptimizerPeer:
    """An optimizer of somebody else's in our tables.

    Args:
        name: what tables call it.
        make: builds it for parameters, a value of its knob, and the number of minibatches in an epoch.
        knob: what the initial rate of a run is put in for: its learning rate, its first guess of the distance to the
            solution (d0, reps_rel); None, and every run is the same whatever the initial rate.
        asks: keywords that its ``step`` has to be given: ``loss``, the minibatch's, and ``closure``, which works it out
            again, without a backward pass, and costs a forward pass each time.
    """

    name: str
    make: Callable[[list[Tensor], float | None, int], Optimizer]
    knob: str | None
    asks: tuple[str, ...] = ()

    def run(self, given: Assignment) -> Trained:
        """See Peer; in a plain loop, whatever the optimizer and momentum of the evaluation.

        Without a knob the runs of one rate stand for all rates. Passes are those of one run, and where runs differ
        their mean, rounded.
        """
        task, steps, device = given.task, given.steps, pick_device(given.device)
        different = [*given.rates] if self.knob else [None]
        data = {split: part for split, part in (("train", task.train), ("test", task.test)) if part is not None}
        found: list[_Run] = []
        for value, run in itertools.product(different, range(given.runs)):
            done = len(found) * steps

            def report(step: int, done: int = done) -> None:
                given.tell(self.name, (done + step) // (len(different) * given.runs))

            found.append(_train(self, task, data, value, steps, given.seed + run, device, report))
        measured = {split: tuple(np.array([run.measured[split] for run in found]).T) for split in data}
        final = settled(measured, np.array([run.broken for run in found]), np.array([run.first for run in found]))
        traces = {name: np.stack([run.trace[name] for run in found]) for name in found[0].trace}
        trials = round(float(np.mean([run.trials for run in found])))
        passes = {"forward_passes": steps + trials, "backward_passes": steps}
        return Trained(final, traces, passes).repeated(len(given.rates) // len(different))


class _Run(NamedTuple):
    """What came of one run: loss and accuracy by data set, whether its loss broke, its first loss, steps, trials."""

    measured: Mapping[str, tuple[float, float]]
    broken: bool
    first: float
    trace: dict[str, NDArray[Any]]
    trials: int


class _Trials:
    """The minibatch's loss at the parameters as they stand, as often as it is called; counts the calls."""

    def __init__(self, module: nn.Module, task: Task) -> None:
        self.module, self.task, self.count = module, task, 0
        self.minibatch: Data | None = None

    @torch.no_grad()
    def __call__(self) -> float:
        assert self.minibatch is not None
        self.count += 1
        return float(self.task.loss(self.module(self.minibatch[0]), self.minibatch[1]))


def _train(
    peer: OptimizerPeer,
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
    optimizer, trials = peer.make(list(module.parameters()), value, minibatches.per_epoch), _Trials(module, task)
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
        trials.minibatch = x, y
        offered: dict[str, Any] = {"loss": now, "closure": trials}
        optimizer.step(**{name: offered[name] for name in peer.asks})
        group = optimizer.param_groups[0]
        trace["loss"][step] = now
        trace["lr"][step] = float(group.get("lr", math.nan)) * float(group.get("d", 1.0))
        minibatches.advance()
        if step % 50 == 0:
            report(step)
    _mode(optimizer, "eval")
    measured = {split: _measure(module, task, part, device) for split, part in data.items()}
    return _Run(measured, not math.isfinite(now), first, trace, trials.count)


def _mode(optimizer: Optimizer, name: str) -> None:
    """Call ``optimizer.train()`` or ``eval()`` where it has one: averaging optimizers evaluate other weights."""
    change = getattr(optimizer, name, None)
    if callable(change):
        change()


@torch.no_grad()
def _measure(module: nn.Module, task: Task, data: Data, device: torch.device) -> tuple[float, float]:
    total = correct = 0.0
    for first in range(0, len(data[0]), EVALUATED):
        x, y = (part[first : first + EVALUATED].to(device) for part in data)
        outputs = module(x)
        total += len(x) * float(task.loss(outputs, y))
        if task.classifies:
            correct += int((outputs.argmax(dim=-1) == y).sum())
    return total / len(data[0]), correct / len(data[0]) if task.classifies else math.nan
