"""From cells to results: tables in their order, and the files of a folder."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lrcontrol.cell_store import cannot_write, write_whole
from lrcontrol.cells import Cell, Job, Outcome
from lrcontrol.cli import file_name
from lrcontrol.results import Results, csv_bytes, run_table, summarise, trace_table

if TYPE_CHECKING:
    import pyarrow as pa

Find = Callable[[Cell], Outcome | None]


def in_memory(groups: Iterator[list[Job]], find: Find, manifest: dict[str, Any]) -> Results | None:
    """Return the results of the groups' cells that are found, None where there are none."""
    import pyarrow as pa

    tables = list(_tables(groups, find))
    if not tables:
        return None
    runs = pa.concat_tables([runs for runs, _ in tables])
    return Results(summarise(runs), runs, pa.concat_tables([traces for _, traces in tables]), manifest)


def write_folder(
    groups: Iterator[list[Job]], find: Find, manifest: dict[str, Any], folder: Path, alone: bool
) -> Results | None:
    """Write summary.csv, runs.csv, traces.parquet and figures/, each whole, and return the results.

    Never more than the cells of one agent are in memory, but for the table of runs. The figures of each task with each
    optimizer stand in folders of their own, unless the study is of one ``alone``.

    Raises:
        InputError: a file cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    kept: list[pa.Table] = []
    new, writer = folder / ".traces.parquet.new", None
    try:
        for runs, traces in _tables(groups, find):
            kept.append(runs)
            writer = writer or pq.ParquetWriter(new, traces.schema, compression="zstd")
            writer.write_table(traces)
        if writer is None:
            return None
        writer.close()
        new.replace(folder / "traces.parquet")
    except OSError as error:
        new.unlink(missing_ok=True)
        raise cannot_write(folder / "traces.parquet", error) from error
    runs = pa.concat_tables(kept)
    write_whole(folder / "runs.csv", csv_bytes(runs))
    summary = summarise(runs)
    write_whole(folder / "summary.csv", csv_bytes(summary))
    traces = pq.read_table(folder / "traces.parquet", memory_map=os.name == "posix")
    results = Results(summary, runs, traces, manifest)
    _write_figures(results, folder / "figures", alone)
    return results


def _write_figures(results: Results, folder: Path, alone: bool) -> None:
    from lrcontrol.figures import figures

    for task, optimizer in results.pairs:
        part = folder if alone else folder / file_name(task, optimizer)
        try:
            part.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(part, error) from error
        for name, figure in figures(results.of(task, optimizer)):
            content = io.BytesIO()
            figure.savefig(content, dpi=115)
            write_whole(part / f"{name}.png", content.getvalue())


def _tables(groups: Iterator[list[Job]], find: Find) -> Iterator[tuple[pa.Table, pa.Table]]:
    """Yield the rows of runs.csv and of traces.parquet of each group, without those of cells that are not found."""
    for jobs in groups:
        found = [(job.cell, outcome) for job in jobs if (outcome := find(job.cell)) is not None]
        if found:
            cell, starts = found[0][0], len(found[0][0].lr0)
            runs = [number for cell, _ in found for number in range(cell.first, cell.first + cell.runs)]
            final = _joined([outcome.final for _, outcome in found], starts)
            traces = _joined([outcome.traces for _, outcome in found], starts)
            yield run_table(cell, runs, final, jobs[0].seed), trace_table(cell, runs, traces)


def _joined(parts: Sequence[dict[str, NDArray[Any]]], starts: int) -> dict[str, NDArray[Any]]:
    """Return blocks of runs side by side, (starts · runs, …) each, sorted by start and then run."""

    def join(name: str) -> NDArray[Any]:
        whole = np.concatenate([part[name].reshape(starts, -1, *part[name].shape[1:]) for part in parts], axis=1)
        return whole.reshape(-1, *whole.shape[2:])

    return {name: join(name) for name in parts[0]}
