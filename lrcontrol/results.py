"""The results of an evaluation: three tables, a manifest, figures; written as one folder or not at all."""

from __future__ import annotations

import csv
import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lrcontrol.envs.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

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

    @classmethod
    def from_runs(
        cls,
        runs: Sequence[dict[str, list[Any]]],
        traces: Sequence[dict[str, NDArray[Any]]],
        manifest: dict[str, Any],
    ) -> Results:
        """Return the results of the agents whose rows are given by column, one dictionary for each agent."""
        import pyarrow as pa

        run_table = pa.table({name: [value for part in runs for value in part[name]] for name in RUN_COLUMNS})
        trace_table = pa.concat_tables([_trace_table(part) for part in traces])
        return cls(_summary(run_table), run_table, trace_table, manifest)

    @property
    def agents(self) -> list[str]:
        """The agents' names, in the order they were given."""
        return list(dict.fromkeys(self.summary["agent"].to_pylist()))

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Tasks with optimizers, in the order they were given."""
        columns = (self.summary[name].to_pylist() for name in ("task", "optimizer"))
        return list(dict.fromkeys(zip(*columns, strict=True)))

    def of(self, task: str, optimizer: str) -> Results:
        """Return the results of one task with one optimizer."""
        import pyarrow.compute as pc

        part = (pc.field("task") == task) & (pc.field("optimizer") == optimizer)
        summary, runs, traces = (table.filter(part) for table in (self.summary, self.runs, self.traces))
        return Results(summary, runs, traces, self.manifest)

    def of_agent(self, agent: str) -> pa.Table:
        """Return the rows of ``summary`` of one agent."""
        import pyarrow.compute as pc

        return self.summary.filter(pc.field("agent") == agent)

    def by_start(self, agent: str, measure: str = "train_loss") -> NDArray[np.float64]:
        """Return a measure at the end of an agent's runs, (starts, runs), initial rates and runs in rising order."""
        found = {(row["lr0"], row["run"]): row[measure] for row in self.runs.to_pylist() if row["agent"] == agent}
        rates, runs = (sorted({key[part] for key in found}) for part in (0, 1))
        return np.array([[found[rate, run] for run in runs] for rate in rates], dtype=np.float64)

    @classmethod
    def load(cls, folder: str | Path) -> Results:
        """Return the results that ``save`` wrote.

        Raises:
            InputError: the folder does not hold them.
        """
        import pyarrow as pa
        import pyarrow.csv
        import pyarrow.parquet as pq

        folder = Path(folder)
        types = dict.fromkeys(MEASURES, pa.float64()) | {"lr0": pa.float64(), "agent": pa.string()}
        options = pa.csv.ConvertOptions(column_types=types, null_values=[])
        try:
            runs = pa.csv.read_csv(folder / "runs.csv", convert_options=options)
            traces = pq.read_table(folder / "traces.parquet")
            manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        except (OSError, pa.ArrowInvalid, json.JSONDecodeError) as error:
            raise InputError(f"{folder} does not hold the results of an evaluation: {error}") from error
        return cls(_summary(runs), runs, traces, manifest)

    def save(self, folder: Path, overwrite: bool = False) -> None:
        """Write summary.csv, runs.csv, traces.parquet, manifest.json and figures/ as ``folder``, whole or not at all.

        Raises:
            InputError: the folder cannot be written, or holds something already.
        """
        import pyarrow.parquet as pq

        from lrcontrol.figures import save_figures

        folder = reserve_folder(folder, overwrite)
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        except OSError as error:
            raise InputError(f"cannot write to {folder.parent}: {error.strerror}; choose another --out") from error
        try:
            write_csv(temporary / "summary.csv", self.summary)
            write_csv(temporary / "runs.csv", self.runs)
            pq.write_table(self.traces, temporary / "traces.parquet", compression="zstd")
            (temporary / "manifest.json").write_text(json.dumps(self.manifest, indent=1) + "\n", encoding="utf-8")
            save_figures(self, temporary / "figures")
            temporary.chmod(0o755)
            if folder.exists():
                shutil.rmtree(folder)
            temporary.rename(folder)
        except OSError as error:
            raise InputError(f"cannot write {folder}: {error.strerror or error}; choose another --out") from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def reserve_folder(folder: Path, overwrite: bool = False) -> Path:
    """Return the folder if results can be written there: it is new, empty, or results that may be replaced.

    Nothing is left there: the work that is to fill it may still fail.

    Raises:
        InputError: it cannot be written, or what it holds would be lost.
    """
    try:
        if folder.is_dir() and any(folder.iterdir()):
            if not overwrite:
                raise InputError(f"{folder} is not empty: choose another --out, or add --overwrite to replace it")
            if not (folder / "manifest.json").is_file():
                raise InputError(
                    f"{folder} holds no results of an evaluation, so it is not replaced: choose another --out"
                )
        there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
        if not there.is_dir():
            raise InputError(f"{there} is a file: give a folder as --out")
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=there.parent if there == folder else there):
            pass
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error.strerror}; choose another --out") from error
    return folder


def _trace_table(columns: dict[str, NDArray[Any]]) -> pa.Table:
    import pyarrow as pa

    table = pa.table(columns)
    for name in ("task", "optimizer", "agent"):
        table = table.set_column(table.schema.get_field_index(name), name, table[name].cast(pa.string()))
    return table


def _summary(runs: pa.Table) -> pa.Table:
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
    return summary | {name: group[0][name] for name in PASSES}


def write_csv(path: Path, table: pa.Table) -> None:
    """Write a table as csv, floats with all their digits."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(table.column_names)
        writer.writerows(row.values() for row in table.to_pylist())
