"""What a controlled run did: kept, written as a file, replayed as a plain schedule, logged and drawn."""

from __future__ import annotations

import csv
import json
import math
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from lrcontrol.controller_rates import Rates, gain_of, moved, put
from lrcontrol.envs.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = ("step", "loss", "lr", "momentum")
FORMAT = 1


def _of_group(number: int) -> str:
    return f"lr_{number}"


class Record:
    """The training steps of a run: step, loss, lr and momentum, 32 bytes a step; NaN for what there was not.

    Where parameter groups are decided on one by one, also ``lr_0``, ``lr_1`` and so on: each group's rate.
    """

    def __init__(self) -> None:
        self._columns = {name: array("d") for name in COLUMNS}

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of what is kept."""
        return tuple(self._columns)

    def __len__(self) -> int:
        return len(self._columns["step"])

    def __getitem__(self, column: str) -> list[float]:
        return self._columns[column].tolist()

    def add(self, *row: float, groups: Sequence[float] = ()) -> None:
        """Append a row, in the order of ``COLUMNS``, and all groups' rates; one that is new has NaN until then."""
        for number in range(len(self._columns) - len(COLUMNS), len(groups)):
            self._columns[_of_group(number)] = array("d", [math.nan] * len(self))
        for column, value in zip(self._columns.values(), (*row, *groups), strict=True):
            column.append(value)

    def to_tensor(self) -> Tensor:
        """Return all rows (N, 4), float64; with G groups' rates (N, 4 + G)."""
        return torch.tensor([list(column) for column in self._columns.values()], dtype=torch.float64).T.contiguous()

    @classmethod
    def from_tensor(cls, rows: Tensor) -> Record:
        """Return the record of rows (N, 4), or (N, 4 + G)."""
        record = cls()
        names = (*COLUMNS, *(_of_group(number) for number in range(rows.shape[1] - len(COLUMNS))))
        for name, values in zip(names, rows.double().cpu().T.tolist(), strict=True):
            record._columns[name] = array("d", values)
        return record

    def write_csv(self, path: str | Path) -> None:
        """Write a line for each step, numbers in full, in a folder that is made if need be."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with Path(path).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(self.columns)
            for row in zip(*self._columns.values(), strict=True):
                writer.writerow([int(row[0]), *(repr(value) for value in row[1:])])

    def write_tensorboard(self, writer: Any, prefix: str = "lrcontrol/", start: int = 0) -> None:
        """Give the steps from ``start`` on to a ``SummaryWriter``, or anything with its ``add_scalar``."""
        for step, *values in list(zip(*self._columns.values(), strict=True))[start:]:
            for name, value in zip(self.columns[1:], values, strict=True):
                if math.isfinite(value):
                    writer.add_scalar(prefix + name, value, int(step))

    def figure(self, path: str | Path | None = None) -> Figure:
        """Return the figure of loss, lr and momentum over the steps, and write it where a path is given."""
        return plot_record({name: self[name] for name in self.columns}, path)


def plot_record(source: str | Path | Mapping[str, Sequence[float]], path: str | Path | None = None) -> Figure:
    """Return the figure of a recorded run: its columns, or the file of them (``.csv`` or a saved schedule).

    Raises:
        InputError: the file cannot be read.
    """
    from matplotlib.figure import Figure

    columns = read_schedule(source) if isinstance(source, str | Path) else source
    has_momentum = any(math.isfinite(value) for value in columns["momentum"])
    shown = ["loss", "lr"] + (["momentum"] if has_momentum else [])
    figure = Figure(figsize=(7.0, 1.0 + 1.8 * len(shown)), layout="constrained")
    panels = figure.subplots(len(shown), 1, sharex=True)
    for panel, name in zip(panels, shown, strict=True):
        lines = _groups_of(columns) if name == "lr" else []
        for line in lines or [name]:
            panel.plot(columns["step"], columns[line], linewidth=1.0, label=f"group {line[3:]}" if lines else None)
        if lines:
            panel.legend(fontsize="small")
        panel.set_ylabel({"loss": "minibatch loss", "lr": "learning rate", "momentum": "momentum"}[name])
        panel.grid(alpha=0.3)
        if name != "momentum" and min(columns[name], default=0.0) > 0.0:
            panel.set_yscale("log")
    panels[-1].set_xlabel("training step")
    if path is not None:
        figure.savefig(path, dpi=120)
    return figure


def save_schedule(record: Record, path: str | Path) -> None:
    """Write the schedule that a run took: ``.csv`` as a table, anything else as JSON."""
    if Path(path).suffix == ".csv":
        record.write_csv(path)
        return
    columns = {name: [v if math.isfinite(v) else None for v in record[name]] for name in record.columns}  # no NaN there
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps({"format": FORMAT, **columns}, allow_nan=False) + "\n", encoding="utf-8")


def _groups_of(columns: Iterable[str]) -> list[str]:
    """Return the names of the groups' rates, in their order."""
    return sorted((name for name in columns if name.startswith("lr_")), key=lambda name: int(name[3:]))


def read_schedule(path: str | Path) -> dict[str, list[float]]:
    """Return the columns of a file of ``save_schedule``.

    Raises:
        InputError: there is no such file, or it holds something else.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"there is no schedule {str(path)!r}: controller.save_schedule(path) writes one")
    try:
        if path.suffix == ".csv":
            with path.open(newline="", encoding="utf-8") as file:
                reader = csv.DictReader(file)
                rows, there = list(reader), reader.fieldnames or ()
            names = (*COLUMNS, *_groups_of(there))
            return {name: [float(row[name]) for row in rows] for name in names}
        found = json.loads(path.read_text(encoding="utf-8"))
        names = (*COLUMNS, *_groups_of(found))
        return {name: [float("nan") if v is None else float(v) for v in found[name]] for name in names}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{str(path)!r} is no recorded schedule ({type(error).__name__}: {error})") from error


def replay_schedule(optimizer: Optimizer, path: str | Path) -> LambdaLR:
    """Return a ``LambdaLR`` that takes the rates of a recorded run; call its ``step`` after ``optimizer.step``.

    The reference group (the first with a rate) gets the recorded rates, the others keep their ratio to it; where the
    groups were decided on one by one each gets its own, a group that was added later the first it had until then. After
    the last recorded step the last rate holds. Where the momentum was moved, all groups get that of the reference too.

    Raises:
        InputError: the file cannot be read or is empty, is of another number of groups, or a group has no rate.
    """
    columns = read_schedule(path)
    if not columns["lr"]:
        raise InputError(f"the schedule {str(path)!r} holds no steps")
    # What LambdaLR multiplies: where a scheduler was there before, as after a resume, not the rate in force.
    starts = [float(group.get("initial_lr", group["lr"])) for group in optimizer.param_groups]
    start, own = starts[Rates(optimizer).reference], _groups_of(columns)
    momenta = [beta for beta in columns["momentum"] if math.isfinite(beta)]
    made = partial(_WithMomentum, momenta) if len(set(momenta)) > 1 else LambdaLR
    if not own:
        return made(optimizer, _multiples(columns["lr"], start))
    if len(own) != len(optimizer.param_groups):
        raise InputError(
            f"the schedule {str(path)!r} is of {len(own)} parameter groups, and the optimizer has "
            f"{len(optimizer.param_groups)}"
        )
    return made(optimizer, [_multiples(columns[name], lr) for name, lr in zip(own, starts, strict=True)])


class _WithMomentum(LambdaLR):
    """A ``LambdaLR`` that puts a recorded momentum in force too."""

    def __init__(self, momenta: list[float], optimizer: Optimizer, multiples: Any) -> None:
        self.momenta, self.gains = momenta, [gain_of(group) for group in optimizer.param_groups]
        super().__init__(optimizer, multiples)

    def step(self, epoch: int | None = None) -> None:
        """Put the next step's rate and momentum in force."""
        super().step(epoch)
        momentum = self.momenta[min(self.last_epoch, len(self.momenta) - 1)]
        for group, gain in zip(self.optimizer.param_groups, self.gains, strict=True):
            put(group, moved(group, momentum, gain))


def _multiples(rates: Sequence[float], start: float) -> Callable[[int], float]:
    """Return the multiple of ``start`` that each step's rate is, where either is known; a rate of 0 stays."""
    first = next((rate for rate in rates if math.isfinite(rate)), start)
    known = [rate if math.isfinite(rate) else first for rate in rates]
    return lambda step: known[min(step, len(known) - 1)] / start if start else 1.0
