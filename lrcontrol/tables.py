"""The tables that an evaluation prints: the proposal's for each agent, then one line per agent over the whole grid."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

from lrcontrol.arrays import losses_by_pair
from lrcontrol.columns import FAILED, OVERALL, TERMINAL, Column
from lrcontrol.results import Results, steps_of
from lrcontrol.standings import Standings
from lrcontrol.statistics import NOTABLE, lowest_holm_p

if TYPE_CHECKING:
    import pyarrow as pa


def _with_std(row: dict[str, Any], measure: str, scale: float = 1.0, digits: int = 3) -> str:
    mean, std = scale * row[f"{measure}_mean"], scale * row[f"{measure}_std"]
    return f"{mean:.{digits}f}" if np.isnan(std) else f"{mean:.{digits}f} ± {std:.{digits}f}"


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))


def agent_table(results: Results, agent: str) -> Table:
    """Return the proposal's table of one agent: final training accuracy and loss, mean ± std over the runs, by lr0."""
    rows = results.of_agent(agent).to_pylist()
    accurate = not np.isnan(rows[0]["train_accuracy_mean"])
    table = _table(agent)
    table.add_column("lr0", justify="right")
    if accurate:
        table.add_column("accuracy %", justify="right")
    table.add_column("loss", justify="right")
    table.add_column("diverged", justify="right")
    for row in rows:
        accuracy = [_with_std(row, "train_accuracy", 100.0, 1)] if accurate else []
        lost = f"{row['diverged']} of {row['runs']}" if row["diverged"] else ""
        table.add_row(f"{row['lr0']:.3g}", *accuracy, _with_std(row, "train_loss"), lost)
    return table


def grid_table(results: Results) -> Table:
    """Return one line per agent over the whole grid of initial rates, by final training loss.

    Where cells failed, all lines are over the runs that all agents have; an agent without any has a line that says so.
    """
    [(task, optimizer)] = results.pairs
    rates, runs = set(results.summary["lr0"].to_pylist()), results.manifest["config"]["runs"]
    steps, failures, missing = steps_of(results), results.failures, {agent: FAILED for _, _, agent in results.failed}
    if failures:
        [common] = losses_by_pair(results)
        missing |= dict.fromkeys(common.left_out, "left out")
        results, runs = results.of_runs(common.agents, common.runs), len(common.runs)
    title = (
        f"{task}, {optimizer}, {steps} steps: final training loss over "
        f"{len(rates)} initial rates from {min(rates):g} to {max(rates):g}, {runs} runs each"
    )
    table = _table(title)
    table.add_column("agent", no_wrap=True)
    for name in ("best", "at lr0", "mean", "worst\nstart", "diverged", "extra\nforwards"):
        table.add_column(name, justify="right", no_wrap=True)
    for agent in results.agents:
        rows = results.of_agent(agent).to_pylist()
        losses = np.array([row["train_loss_mean"] for row in rows])
        best = int(losses.argmin())
        table.add_row(
            agent,
            f"{losses[best]:.3f}",
            f"{rows[best]['lr0']:.3g}",
            f"{losses.mean():.3f}",
            f"{losses.max():.3f}",
            f"{sum(row['diverged'] for row in rows)} of {sum(row['runs'] for row in rows)}",
            f"{rows[0]['forward_passes'] - rows[0]['backward_passes']:.0f}",
        )
    for agent, why in missing.items():
        table.add_row(agent, why)
    if failures:
        failed = (f"{part['agent']}, runs {part['runs'][0]} to {part['runs'][-1]}" for part in failures)
        table.caption = f"failed: {'; '.join(failed)}. The lines above are over the runs that all of their agents have"
    return table


def comparison_table(compared: pa.Table, baseline: str) -> Table:
    """Return what ``lrcontrol.compare`` found, a line for each agent."""
    rows = compared.to_pylist()
    runs, floor = rows[0]["runs"], lowest_holm_p(rows[0]["runs"], len(rows))
    table = _table(
        f"against {baseline}, paired by run: geometric mean of loss / loss over the grid. One task at equal steps, "
        f"{runs} runs: it proves nothing about other tasks, about test loss, or at equal cost"
        + (f"; no p can be below {floor:.3g} here: look at the intervals" if floor > NOTABLE else "")
    )
    table.add_column("agent", no_wrap=True)
    for name in ("ratio", "95 % interval", "improves", "p (Holm)", "IQM", "cost"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        interval = f"{row['ratio_low']:.3g} to {row['ratio_high']:.3g}"
        cells = (f"{row['ratio']:.3g}", interval, f"{row['probability_of_improvement']:.0%}", f"{row['p_holm']:.2g}")
        table.add_row(row["agent"], *cells, f"{row['interquartile_mean']:.3g}", f"{row['passes']:.3g}×")
    return table


def standings_tables(found: Standings) -> list[Table]:
    """Return the standings: agents over all pairs where there are several, then on each task with each optimizer."""
    against = f"against {found.baseline}, 95 % intervals over runs"
    tables = []
    if len(set(zip(*(found.rows[name].to_pylist() for name in ("task", "optimizer")), strict=True))) > 1:
        tables.append(
            _of_columns(f"final training loss on all tasks and optimizers\n{against}", OVERALL, found.overall_listed())
        )
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in found.listed():
        groups.setdefault((row["task"], row["optimizer"]), []).append(row)
    for (task, optimizer), rows in groups.items():
        over = "" if FAILED in rows[0] else f", initial rates {rows[0]['starts']}, runs {rows[0]['runs']}"
        title = f"final training loss on {task} with {optimizer}{over}\n{against}"
        tables.append(_of_columns(title, TERMINAL, rows))
    return tables


def _of_columns(title: str, columns: tuple[Column, ...], rows: list[dict[str, Any]]) -> Table:
    table = _table(title)
    for column in columns:
        table.add_column(
            column.title, justify="left" if column.is_text else "right", no_wrap=not column.is_text, overflow="fold"
        )
    for row in rows:
        table.add_row(*(Text(column.cell(row)) for column in columns))
    return table
