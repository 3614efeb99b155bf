"""The figures: final loss against the initial rate, loss and rate over the steps, and a training's learning curve."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lrcontrol.results import Results, steps_of

MANY = 20  # curves, beyond which their legend stands beside the axes
STYLES = ("-", "--", ":", "-.")

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def figures(results: Results) -> Iterator[tuple[str, Figure]]:
    """Yield the figures of the results of one task with one optimizer, by name: final_loss; loss and lr from traces."""
    yield "final_loss", final_loss(results)
    for column in ("loss", "lr") if len(results.traces) else ():
        yield column, over_steps(results, column)


def _title(results: Results) -> str:
    [(task, optimizer)] = results.pairs
    return f"{task}, {optimizer}, {steps_of(results)} steps, {results.manifest['config']['runs']} runs"


def final_loss(results: Results) -> Figure:
    """Return the picture of this field: final training loss against initial rate, a curve per agent.

    The line is the mean over the runs, the band goes from the best to the worst run.
    """
    from matplotlib.figure import Figure

    many = len(results.agents) > MANY
    figure = Figure(figsize=(11.0, 0.2 * len(results.agents)) if many else (8.0, 4.6), layout="constrained")
    axes = figure.subplots()
    runs = results.runs.to_pylist()
    for number, agent in enumerate(results.agents):
        by_rate: dict[float, list[float]] = {}
        for row in runs:
            if row["agent"] == agent:
                by_rate.setdefault(row["lr0"], []).append(row["train_loss"])
        rates = sorted(by_rate)
        losses = [np.array(by_rate[rate]) for rate in rates]
        look: dict[str, Any] = {
            "marker": "o",
            "markersize": 3.5,
            "linestyle": STYLES[number // 10 % len(STYLES)],
            "label": agent,
        }
        (line,) = axes.plot(rates, [values.mean() for values in losses], **look)
        axes.fill_between(
            rates, [v.min() for v in losses], [v.max() for v in losses], color=line.get_color(), alpha=0.15, linewidth=0
        )
    _logarithmic(axes, "x")
    _logarithmic(axes, "y")
    axes.set(xlabel="initial learning rate", ylabel="final training loss", title=_title(results))
    axes.grid(alpha=0.3)
    if many:
        figure.legend(fontsize="x-small", loc="outside right upper")
    else:
        axes.legend(fontsize="small")
    return figure


def _logarithmic(axes: Axes, axis: str) -> None:
    """Make an axis logarithmic if it shows positive numbers only."""
    shown = [np.asarray(line.get_xdata() if axis == "x" else line.get_ydata(), dtype=float) for line in axes.lines]
    if shown and min(float(np.nanmin(values, initial=np.inf)) for values in shown) > 0.0:
        axes.set(**{f"{axis}scale": "log"})


def over_steps(results: Results, column: str) -> Figure:
    """Return ``column`` ("loss" or "lr") of the traces over the training steps, a panel per agent, a line per lr0.

    The line is the mean over the runs that are not frozen.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    names, rates = results.agents, sorted(set(results.summary["lr0"].to_pylist()))
    columns = 2 if len(names) == 4 else min(3, len(names))
    rows = math.ceil(len(names) / columns)
    figure = Figure(figsize=(1.0 + 3.4 * columns, 0.6 + 2.7 * rows), layout="constrained")
    panels: NDArray[Any] = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    colors = ScalarMappable(LogNorm(min(rates), max(rates) * (1.0 + 1e-9)), "viridis")
    means = _mean_over_runs(results, column)
    for panel, name in zip(panels.flat, names, strict=False):
        for rate in rates:
            panel.plot(means[name, rate], color=colors.to_rgba(np.array(rate)), linewidth=1.0)
        panel.set_title(name, fontsize="medium")
        panel.grid(alpha=0.3)
    for panel in panels.flat[len(names) :]:
        panel.set_axis_off()
    every = [line for panel in panels.flat for line in panel.lines]
    if all(np.nanmin(line.get_ydata(), initial=np.inf) > 0.0 for line in every):
        panels[0, 0].set_yscale("log")
    figure.supxlabel("training step")
    figure.supylabel({"loss": "minibatch loss", "lr": "learning rate"}[column])
    figure.suptitle(_title(results))
    figure.colorbar(colors, ax=panels, label="initial learning rate")
    return figure


def _mean_over_runs(results: Results, column: str) -> dict[tuple[str, float], NDArray[np.float64]]:
    """Return the mean over runs at each step, by agent and rate; NaN where all runs are frozen."""
    steps, values, at = steps_of(results), results.traces[column].to_numpy(), 0
    means: dict[tuple[str, float], NDArray[np.float64]] = {}
    for row in results.summary.to_pylist():
        size = row["runs"] * steps
        part = values[at : at + size].reshape(row["runs"], steps)
        at += size
        present = np.isfinite(part)
        count, total = present.sum(axis=0), np.where(present, part, 0.0).sum(axis=0)
        means[row["agent"], row["lr0"]] = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return means


def learning_curve(rows: Sequence[Mapping[str, Any]], title: str) -> Figure:
    """Return the learning curve of a training: validation losses and mean return over environment steps.

    Args:
        rows: those of progress.csv, validations and others; empty texts where nothing was measured.
        title: of the figure.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 3.4), layout="constrained")
    losses, returns = figure.subplots(1, 2)
    for name, label in (("mean_loss", "mean over starts"), ("worst_loss", "worst start")):
        shown = [(float(row["timesteps"]), float(row[name])) for row in rows if row[name] != ""]
        losses.plot([x for x, _ in shown], [y for _, y in shown], marker="o", markersize=3.0, label=label)
    losses.set(ylabel="final training loss on validation runs")
    _logarithmic(losses, "y")
    losses.legend(fontsize="small")
    shown = [(float(row["timesteps"]), float(row["return_mean"])) for row in rows if row["return_mean"] != ""]
    returns.plot([x for x, _ in shown], [y for _, y in shown])
    returns.set(ylabel="mean return of the last 100 episodes")
    for axes in (losses, returns):
        axes.set(xlabel="environment steps")
        axes.grid(alpha=0.3)
    figure.suptitle(title)
    return figure
