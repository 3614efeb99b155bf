"""What is trained: a model, a loss, data, a batch size and a budget."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lrcontrol.envs.errors import InputError

Data = tuple[Tensor, Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Smoothing:
    """The proposal's smoothing of the gradient's size (``experiments/proposal``): step = lr · E · g / N.

    N is the sum over the parameter tensors of their gradients' norms and E ← rate · N + (1 − rate) · E.

    Args:
        rate: weight of the newest N, in (0, 1].
        start: E before the first step: ``"first"``, the first N as in the proposal, or ``"zero"``.
    """

    rate: float = 0.1
    start: Literal["first", "zero"] = "first"

    def __post_init__(self) -> None:
        if not 0.0 < self.rate <= 1.0:
            raise InputError(f"smoothing rate {self.rate} is not in (0, 1]")
        if self.start not in ("first", "zero"):
            raise InputError(f"smoothing start {self.start!r} is neither 'first' nor 'zero'")


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """A training problem.

    Args:
        model: builds a fresh ``nn.Module`` with its initial parameters; called once for each seed. Its forward must be
            functional: no dropout, no running statistics.
        train: inputs (N, …) and targets (N, …); a minibatch is a set of rows of both.
        batch_size: rows in a minibatch; the last, smaller minibatch of an epoch is dropped.
        steps: optimizer steps in a run, the budget.
        name: what tables and files call it.
        loss: ``loss(model(inputs), targets)``, the mean over the minibatch as a scalar.
        test: inputs and targets that are only ever reported: never observed, rewarded or selected on.
        shuffle: draw a new order of the rows for each epoch and run; else the order of the file, the same for all runs.
        lr0_range: initial learning rates, lowest and highest, by optimizer: where an environment draws from, and the
            ends of the default grid of an evaluation.
        smoothing: smoothing of the gradient's size that this task uses unless told otherwise.
        probe_direction: what the hill-climber's probe steps along unless told otherwise: the optimizer's own
            ``"update"`` or the raw ``"gradient"``.
        spelling: ``file.py:name`` where it was loaded from there, so that a command line can name it again.

    Raises:
        InputError: an argument cannot be used; the message says which and why.
    """

    model: Callable[[], nn.Module]
    train: Data
    batch_size: int
    steps: int
    name: str = "custom"
    loss: Loss = F.cross_entropy
    test: Data | None = None
    shuffle: bool = True
    lr0_range: dict[str, tuple[float, float]] = field(
        default_factory=lambda: {"sgd": (1e-6, 10.0), "adamw": (1e-7, 1.0)}
    )
    smoothing: Smoothing | None = None
    probe_direction: Literal["update", "gradient"] = "update"
    spelling: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.model, nn.Module) or not callable(self.model):
            raise InputError(
                f"task {self.name!r}: model must be a function that builds a fresh module (write "
                f"model=lambda: {type(self.model).__name__}(...)), so that every run gets its own initial parameters"
            )
        _check_data(self.name, "train", self.train)
        if self.test is not None:
            _check_data(self.name, "test", self.test)
        rows = len(self.train[0])
        if not 1 <= self.batch_size <= rows:
            raise InputError(f"task {self.name!r}: batch_size {self.batch_size} is not in 1..{rows}, the rows of train")
        if self.steps < 1:
            raise InputError(f"task {self.name!r}: steps {self.steps} is not positive")
        for optimizer, (low, high) in self.lr0_range.items():
            if not (0.0 < low <= high and math.isfinite(high)):
                raise InputError(f"task {self.name!r}: lr0_range[{optimizer!r}] = {(low, high)} is not 0 < low <= high")
        if self.probe_direction not in ("update", "gradient"):
            raise InputError(f"task {self.name!r}: probe_direction {self.probe_direction!r} is not update or gradient")

    def hold_out(self, share: float) -> tuple[Task, Data]:
        """Return the task without a share of its training rows, and those rows; the choice is part of the task.

        Raises:
            InputError: what is left, or held out, is less than one minibatch or one row.
        """
        rows = len(self.train[0])
        order = torch.randperm(rows, generator=torch.Generator().manual_seed(0))
        held, left = order[: int(share * rows)].sort().values, order[int(share * rows) :].sort().values
        if len(held) < 1 or len(left) < self.batch_size:
            raise InputError(
                f"task {self.name!r}: of {rows} training rows a share of {share:g} cannot be held out with minibatches "
                f"of {self.batch_size}: choose another validation_share, or another reward"
            )
        inputs, targets = self.train
        return replace(self, train=(inputs[left], targets[left])), (inputs[held], targets[held])

    @property
    def classifies(self) -> bool:
        """Whether accuracy means something: cross-entropy against class numbers."""
        is_cross_entropy = self.loss is F.cross_entropy or isinstance(self.loss, nn.CrossEntropyLoss)
        return is_cross_entropy and self.train[1].dtype == torch.int64 and self.train[1].ndim == 1


def _check_data(name: str, split: str, data: Data) -> None:
    if len(data) != 2 or not all(isinstance(part, Tensor) for part in data):
        raise InputError(f"task {name!r}: {split} must be a pair of tensors (inputs, targets)")
    inputs, targets = data
    if len(inputs) != len(targets) or len(inputs) == 0:
        raise InputError(f"task {name!r}: {split} has {len(inputs)} inputs and {len(targets)} targets")
    for kind, part in (("inputs", inputs), ("targets", targets)):
        if part.is_floating_point() and not bool(torch.isfinite(part.sum(dtype=torch.float64))):
            bad = (~torch.isfinite(part.reshape(len(part), -1))).any(dim=1).nonzero()[:, 0]
            if len(bad):
                raise InputError(
                    f"task {name!r}: {len(bad)} of {len(part)} rows of the {split} {kind} hold NaN or infinite "
                    f"values, first at row {int(bad[0])}: clean the data first"
                )
