"""The results of an evaluation: three tables and a manifest."""

from __future__ import annotations

import csv
import io
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lrcontrol.envs.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

    from lrcontrol.cells import Cell

MEASURES = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")
LABELS = ("task", "optimizer", "agent", "lr0")
PASSES = ("forward_passes", "backward_passes")
RUN_COLUMNS = (*LABELS, "run", "seed", "diverged", *MEASURES, *PASSES)
SUMMARY_COLUMNS = (*LABELS, "runs", "diverged", *(f"{m}_{s}" for m in MEASURES for s in ("mean", "std")), *PASSES)
TRACE_COLUMNS = ("task", "optimizer", "agent", "lr0", "run", "step", "loss", "lr", "momentum")


@dataclass(frozen=True)
class Results:
    """What an evaluation found.

    Attributes:
        summary: a row for each agent and initial rate: mean and sample standard deviation over the runs, how many
            diverged (ended not finite, or above their first loss), passes of one run.
        runs: a row for each run, for paired statistics.
        traces: a row for each training step, in the order of ``runs``: the minibatch loss before the step, and
            the lr and momentum it was taken with; NaN losses once a run is frozen.
        manifest: configuration, command, versions, commit, seeds, device.
    """

    summary: pa.Table
    runs: pa.Table
    traces: pa.Table
    manifest: dict[str, Any]

    @property
    def agents(self) -> list[str]:
        """The agents' names, in the order they were given."""
        return list(dict.fromkeys(self.summary["agent"].to_pylist()))

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Tasks with optimizers, in the order they were given."""
        columns = (self.summary[name].to_pylist() for name in ("task", "optimizer"))
        return list(dict.fromkeys(zip(*columns, strict=True)))

    @property
    def failures(self) -> list[dict[str, Any]]:
        """The cells that failed, as in a manifest."""
        return list(self.manifest.get("failures") or [])

    @property
    def failed(self) -> list[tuple[str, str, str]]:
        """Task, optimizer and agent where every cell of the agent failed, so that it has no row."""
        there = set(zip(*(self.summary[name].to_pylist() for name in LABELS[:3]), strict=True))
        told = dict.fromkeys(tuple(one[name] for name in LABELS[:3]) for one in self.failures)
        return [(task, optimizer, agent) for task, optimizer, agent in told if (task, optimizer, agent) not in there]

    def of(self, task: str, optimizer: str) -> Results:
        """Return the results of one task with one optimizer, and of its failures."""
        import pyarrow.compute as pc

        part = (pc.field("task") == task) & (pc.field("optimizer") == optimizer)
        summary, runs, traces = (table.filter(part) for table in (self.summary, self.runs, self.traces))
        failures = [one for one in self.failures if (one["task"], one["optimizer"]) == (task, optimizer)]
        return Results(summary, runs, traces, self.manifest | ({"failures": failures} if self.failures else {}))

    def of_runs(self, agents: Sequence[str], runs: Sequence[int], rates: Sequence[float] | None = None) -> Results:
        """Return the results of some agents on some runs, from some initial rates or all."""
        import pyarrow.compute as pc

        part = pc.field("agent").isin(list(agents)) & pc.field("run").isin(list(runs))
        part = part if rates is None else part & pc.field("lr0").isin(list(rates))
        kept = self.runs.filter(part)
        return Results(summarise(kept), kept, self.traces.filter(part), self.manifest)

    def of_agent(self, agent: str) -> pa.Table:
        """Return the rows of ``summary`` of one agent."""
        import pyarrow.compute as pc

        return self.summary.filter(pc.field("agent") == agent)

    def by_start(self, agent: str, measure: str = "train_loss") -> NDArray[np.float64]:
        """Return a measure at the end of an agent's runs, (starts, runs), initial rates and runs in rising order.

        NaN where a run is missing, its cell having failed.
        """
        rows = self.runs.to_pylist()
        rates, runs = (sorted({row[name] for row in rows}) for name in ("lr0", "run"))
        found = {(row["lr0"], row["run"]): row[measure] for row in rows if row["agent"] == agent}
        nothing = float("nan")
        return np.array([[found.get((rate, run), nothing) for run in runs] for rate in rates], dtype=np.float64)

    @classmethod
    def load(cls, folder: str | Path) -> Results:
        """Return the results that ``save`` wrote.

        Raises:
            InputError: the folder does not hold them, or not yet.
        """
        import pyarrow as pa
        import pyarrow.csv
        import pyarrow.parquet as pq

        folder = Path(folder)
        types = dict.fromkeys(MEASURES, pa.float64()) | {"lr0": pa.float64()}
        types |= dict.fromkeys(("task", "optimizer", "agent"), pa.string())
        options = pa.csv.ConvertOptions(column_types=types, null_values=[])
        try:
            runs = pa.csv.read_csv(folder / "runs.csv", convert_options=options)
            traces = pq.read_table(folder / "traces.parquet")
            manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
            for table, columns in ((runs, RUN_COLUMNS), (traces, TRACE_COLUMNS)):
                if missing := [name for name in columns if name not in table.column_names]:
                    raise ValueError(f"a table has no column {missing[0]!r}")
            if not isinstance(manifest, dict):
                raise ValueError("manifest.json holds no object")
        except (OSError, ValueError) as error:  # ValueError is that of pyarrow, json and utf-8, too
            raise _cannot_load(folder, error) from error
        return cls(summarise(runs), runs, traces, manifest)


def _cannot_load(folder: Path, error: Exception) -> InputError:
    """Return what is to be said of a folder that has no results: whose they would have been, where it is known."""
    try:
        begun = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        begun = {}
    if not isinstance(begun, dict) or "complete" not in begun or (folder / "runs.csv").exists():
        return InputError(f"{folder} does not hold the results of an evaluation: {error}")
    failures = begun.get("failures")
    so_far = f"every cell failed, the first with {failures[0]['error']}" if failures else "it is not finished"
    command = shlex.join([*begun["command"], "--out", str(folder)]) if begun.get("command") else "with its --out"
    return InputError(
        f"{folder}: an evaluation was begun here, and {so_far}; give the same evaluate command again, and it does what "
        f"is missing: {command}"
    )


def run_table(cell: Cell, runs: Sequence[int], final: Mapping[str, NDArray[Any]], seed: int) -> pa.Table:
    """Return the rows of runs.csv of some runs of an agent, sorted by rate and then run.

    Args:
        cell: one of those that the runs are of.
        runs: their N numbers.
        final: (L · N,) each, L rates and N runs, sorted so.
        seed: of run 0.
    """
    import pyarrow as pa

    number = np.tile(np.asarray(runs, dtype=np.int64), len(cell.lr0))
    columns: dict[str, Any] = _labels(cell, len(number)) | {"lr0": np.repeat(cell.lr0, len(runs)), "run": number}
    columns |= {"seed": number + seed, **final}
    return pa.table({name: columns[name] for name in RUN_COLUMNS})


def trace_table(cell: Cell, runs: Sequence[int], traces: Mapping[str, NDArray[Any]]) -> pa.Table:
    """Return the rows of traces.parquet of the same runs, from (L · N, steps) each; none where nothing was kept."""
    import pyarrow as pa

    values = traces or dict.fromkeys(("loss", "lr", "momentum"), np.zeros((len(cell.lr0) * len(runs), 0)))
    rows, steps = values["loss"].shape
    columns: dict[str, Any] = _labels(cell, rows * steps)
    columns["lr0"] = np.repeat(cell.lr0, len(runs) * steps)
    columns["run"] = np.repeat(np.tile(np.asarray(runs, dtype=np.int64), len(cell.lr0)), steps)
    columns["step"] = np.tile(np.arange(steps), rows)
    columns |= {name: part.ravel() for name, part in values.items()}
    return pa.table({name: columns[name] for name in TRACE_COLUMNS})


def _labels(cell: Cell, rows: int) -> dict[str, Any]:
    import pyarrow as pa

    return {name: pa.array([getattr(cell, name)] * rows, pa.string()) for name in ("task", "optimizer", "agent")}


def summarise(runs: pa.Table) -> pa.Table:
    """Return the summary of a table of runs."""
    import pyarrow as pa

    rows = runs.to_pylist()
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in LABELS), []).append(row)
    return pa.Table.from_pylist([_summarise(key, group) for key, group in groups.items()])


def _summarise(key: tuple[Any, ...], group: list[dict[str, Any]]) -> dict[str, Any]:
    summary: dict[str, Any] = dict(zip(LABELS, key, strict=True))
    summary |= {"runs": len(group), "diverged": sum(row["diverged"] for row in group)}
    for measure in MEASURES:
        values = np.array([row[measure] for row in group])
        summary[f"{measure}_mean"] = float(values.mean())
        summary[f"{measure}_std"] = float(values.std(ddof=1)) if len(values) > 1 else float("nan")
    for name in PASSES:  # those of a line search differ from run to run
        passes = sum(row[name] for row in group) / len(group)
        summary[name] = int(passes) if passes == int(passes) else passes
    return summary


def steps_of(results: Results) -> int:
    """Return the training steps of a run of one task with one optimizer."""
    if len(results.traces):
        return len(results.traces) // len(results.runs)
    return int(min(results.summary["backward_passes"].to_pylist()))


def csv_bytes(table: pa.Table) -> bytes:
    """Return a table as csv, floats with all their digits."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.column_names)
    writer.writerows(row.values() for row in table.to_pylist())
    return text.getvalue().encode()
