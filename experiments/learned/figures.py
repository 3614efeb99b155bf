"""Draws what the learned agent reaches and what it has learned, from the result folders of ``heldout``.

python -m experiments.learned.figures
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import tyro
from matplotlib.axes import Axes

import lrcontrol
from experiments.learned.candidates import Watched
from experiments.learned.heldout import CLIMBERS, TASKS, before, place
from lrcontrol.agents import Agent, TrainedAgent, make_agent
from lrcontrol.agents.distilled import ADAPTIVE, SGD
from lrcontrol.envs.distributions import find_tasks
from lrcontrol.envs.schedules import Schedule
from lrcontrol.envs.settings import Settings
from lrcontrol.rollouts import roll_out, settings_for

HERE = Path(__file__).parent
SOURCES = ("random-digits", "random-synthetic")
STARTS = (1e-6, 1e-3, 1.0)
FELT = ("grad_cosine", "relative_step", "budget_left")
READ = {"sgd": SGD, "adamw": ADAPTIVE}  # the features that each half of the agent reads, for each of its actions


@dataclass(frozen=True)
class Options:
    """The figures of the learned agent."""

    folder: Path = Path("results/learned/heldout")
    """Where ``heldout`` has left its result folders."""


def load(folder: Path, task: str, optimizer: str, agent: str) -> lrcontrol.Results | None:
    """Return an agent's results, or without their traces those of runs.parquet; None where there are none."""
    path = place(folder, task, optimizer, agent)
    if (path / "manifest.json").exists():
        return lrcontrol.Results.load(path)
    return before(HERE / "runs.parquet", task, optimizer, agent)


def mean_losses(results: lrcontrol.Results) -> tuple[list[float], np.ndarray]:
    """Return the initial rates and the mean final training losses."""
    rates = sorted(set(results.summary["lr0"].to_pylist()))
    return rates, results.by_start(results.agents[0]).mean(axis=1)


def by_start(options: Options) -> None:
    """Draw final loss against the initial rate on MNIST, AdamW and SGD."""
    figure, panels = plt.subplots(1, 2, figsize=(9.5, 3.6), sharey=True, layout="constrained")
    for panel, optimizer in zip(panels, ("adamw", "sgd"), strict=True):
        for agent, label in (("constant", "constant"), ("schedule:kind=one-cycle", "one-cycle to that peak")):
            found = load(options.folder, "mnist-mlp", optimizer, agent)
            if found is not None:
                panel.plot(*mean_losses(found), marker="o", markersize=3, label=label)
        found = load(options.folder, "mnist-mlp", optimizer, "learned")
        if found is not None:
            rates, losses = mean_losses(found)
            panel.plot(rates, losses, linewidth=2.5, color="black", label="learned")
        for agent in ("cocob", "prodigy", "dog"):
            found = load(options.folder, "mnist-mlp", "adamw", agent)
            if found is not None:
                panel.axhline(mean_losses(found)[1][0], linestyle=":", linewidth=1, color="grey")
                panel.annotate(agent, (1.2e-6, mean_losses(found)[1][0]), fontsize=7, va="bottom")
        panel.set(xscale="log", yscale="log", xlabel="initial learning rate", ylim=(0.08, 3.0))
        panel.set_title(f"MNIST, 784-20-10, {optimizer}", fontsize=10)
    panels[0].set_ylabel("final training loss, mean of ten runs")
    panels[0].legend(frameon=False, fontsize=8)
    figure.savefig(HERE / "by_start.png", dpi=130)


def schedules(options: Options) -> None:
    """Draw the rates taken on the held-out tasks beside the tuned one-cycle's, and the momenta below them."""
    size = (3.0 * len(TASKS), 8.8)
    figure, panels = plt.subplots(4, len(TASKS), figsize=size, layout="constrained", squeeze=False, sharex="col")
    for row, (optimizer, column) in enumerate(itertools.product(("adamw", "sgd"), ("lr", "momentum"))):
        for panel, task in zip(panels[row], TASKS, strict=True):
            found = load(options.folder, task, optimizer, "learned")
            if found is None or not len(found.traces):
                panel.set_visible(False)
                continue
            for run in range(min(3, found.manifest["config"]["runs"])):
                values = _trace(found, mean_losses(found)[0][0], run, column)
                panel.plot(values, color="black", linewidth=0.9, alpha=0.8, label="learned" if run == 0 else None)
            _tuned(panel, options.folder, task, optimizer, len(values), column)
            panel.set(**({"yscale": "log"} if column == "lr" else {"ylim": (0.0, 1.0)}))
            panel.set_title(f"{task}, {optimizer}" if column == "lr" else "", fontsize=8)
        panels[row][0].set_ylabel("learning rate" if column == "lr" else "momentum")
    panels[0][0].legend(frameon=False, fontsize=7)
    figure.savefig(HERE / "schedules.png", dpi=110)


def from_starts(options: Options) -> None:
    """Draw the rates that agent and hill-climber take on MNIST from three starts, and the tuned one-cycle."""
    figure, panels = plt.subplots(1, 2, figsize=(9.5, 3.6), layout="constrained")
    for panel, optimizer in zip(panels, ("adamw", "sgd"), strict=True):
        out, drawn = options.folder.parent / "from_starts" / optimizer, {CLIMBERS[0]: "tab:blue", "learned": "black"}
        if not (out / "runs.csv").exists():
            lrcontrol.evaluate("mnist-mlp", list(drawn), lr0=STARTS, runs=1, optimizer=optimizer, momentum=0.9, out=out)
        found = lrcontrol.Results.load(out)
        for agent, colour in drawn.items():
            for start, style in zip(STARTS, ("-", "--", ":"), strict=True):
                rates = _trace(found.of_runs([agent], [0]), start, 0, "lr")
                panel.plot(rates, color=colour, linestyle=style, linewidth=1.2, label=f"{agent}, from {start:g}")
        _tuned(panel, options.folder, "mnist-mlp", optimizer, len(rates), "lr")
        panel.set(yscale="log", xlabel="training step", title=f"MNIST, 784-20-10, {optimizer}")
    panels[0].set_ylabel("learning rate")
    panels[0].legend(frameon=False, fontsize=7)
    figure.savefig(HERE / "from_starts.png", dpi=120)


def _tuned(panel: Axes, folder: Path, task: str, optimizer: str, steps: int, column: str) -> None:
    """Draw the one-cycle that is best on a task, where there is one."""
    tuned = load(folder, task, optimizer, "schedule:kind=one-cycle")
    if tuned is not None:
        rates, losses = mean_losses(tuned)
        shape = [Schedule("one-cycle")(step, steps) for step in range(steps)]
        drawn = rates[int(losses.argmin())] * np.array(shape) if column == "lr" else np.full(steps, 0.9)
        panel.plot(drawn, color="tab:orange", linewidth=0.9, label="one-cycle, tuned")


def _trace(results: lrcontrol.Results, rate: float, run: int, column: str) -> np.ndarray:
    import pyarrow.compute as pc

    rows = results.traces.filter((pc.field("lr0") == rate) & (pc.field("run") == run))
    return np.array(rows[column].to_pylist())


def actions() -> None:
    """Draw with AdamW both actions against the features that move them most, the others at their middle."""
    agent = make_agent("learned")
    names = list(agent.needs["features"])
    middle = np.median(observations(agent, "adamw"), axis=0)
    shown: tuple[tuple[str, tuple[float, float], str, tuple[float, float]], ...] = (
        ("log_level", (-1.0, 1.5), "relative_step", (-4.5, 0.5)),
        ("fast_vs_slow", (-1.0, 0.6), "relative_step", (-4.5, 0.5)),
        ("grad_cosine", (-0.5, 0.9), "relative_step", (-4.5, 0.5)),
        ("log_level", (-1.0, 1.5), "log_one_minus_momentum", (-2.0, 0.0)),
    )
    figure, panels = plt.subplots(1, len(shown), figsize=(13.5, 3.2), layout="constrained")
    for panel, (across, xlim, up, ylim) in zip(panels, shown, strict=True):
        x, y = np.linspace(*xlim, 60), np.linspace(*ylim, 60)
        grid = np.tile(middle, (3600, 1))
        grid[:, names.index(across)], grid[:, names.index(up)] = np.tile(x, 60), np.repeat(y, 60)
        moved = int(up == "log_one_minus_momentum")
        drawn = agent.predict(grid.astype(np.float32))[0][:, moved].reshape(60, 60)
        image = panel.pcolormesh(x, y, drawn, cmap="RdBu_r", vmin=-1, vmax=1)
        panel.set(xlabel=across, ylabel=up, title=("learning rate", "1 − momentum")[moved])
    figure.colorbar(image, ax=panels, label="log2 of the multiplier")
    figure.savefig(HERE / "actions.png", dpi=120)


def moves() -> None:
    """Draw by how much rates are moved at a step, on average, where a feature is so: the agent's and others'."""
    names = {"learned": "black", CLIMBERS[0]: "tab:blue", "schedule:kind=one-cycle,start=0.3": "tab:orange"}
    figure, panels = plt.subplots(2, len(FELT), figsize=(11.0, 5.6), layout="constrained", sharey=True)
    for row, optimizer in zip(panels, ("adamw", "sgd"), strict=True):
        for name, colour in names.items():
            moved = moves_of(name, optimizer)
            for panel, feature, x in zip(row, FELT, moved[:, :-1].T, strict=True):
                parts = np.array_split(moved[np.argsort(x)], 20)
                means = np.array([part.mean(axis=0) for part in parts])
                panel.plot(means[:, FELT.index(feature)], means[:, -1], color=colour, label=name.split(",")[0])
                panel.set(xlabel=feature, title=optimizer)
                panel.axhline(0.0, color="grey", linewidth=0.5)
        row[0].set_ylabel("log2 of rate over the last, mean")
    panels[0][0].legend(frameon=False, fontsize=7)
    figure.savefig(HERE / "moves.png", dpi=120)


class Wider(Watched):
    """An agent, and what it was shown: more features than it reads."""

    def __init__(self, agent: Agent, more: tuple[str, ...]) -> None:
        super().__init__(agent)
        reads = settings_for(Settings.make({}), agent).features
        self.count, self.needs = len(reads), {**agent.needs, "features": tuple(dict.fromkeys((*reads, *more)))}

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> Any:
        """Return the agent's actions."""
        self.seen.append(observation)
        return self.agent.predict(observation[:, : self.count], state, episode_start, deterministic)


def moves_of(name: str, optimizer: str) -> np.ndarray:
    """Return features and log2 of the rate over that of the step before, (steps of sixteen tasks, F + 1)."""
    agent, tasks, rows = Wider(make_agent(name), FELT), find_tasks(SOURCES), []
    columns = [agent.needs["features"].index(feature) for feature in FELT]
    for index in range(16):
        agent.seen.clear()
        fields = {"task": tasks.instance(index), "optimizer": optimizer, "momentum": 0.9}
        world = roll_out(agent, settings_for(Settings.make(fields), agent), [1e-2], 1, index, "cpu", record=True)
        moved = np.diff(np.log2(world.trace["lr"][:, 0]))
        rows.append(np.column_stack([np.concatenate(agent.seen)[1:, columns], moved]))
    found = np.concatenate(rows)
    return np.asarray(found[np.isfinite(found).all(axis=1)])


def observations(agent: Agent, optimizer: str) -> np.ndarray:
    """Return what the agent sees on sixteen tasks of its training with an optimizer, (rows, F)."""
    tasks, watched = find_tasks(SOURCES), Watched(agent)
    for index in range(16):
        fields = {"task": tasks.instance(index), "optimizer": optimizer, "momentum": 0.9}
        roll_out(watched, settings_for(Settings.make(fields), agent), [1e-3], 1, index, "cpu")
    return np.concatenate(watched.seen)


def line(agent: TrainedAgent, optimizer: str, moved: str) -> str:
    """Return how much of an action's variance its best line in what it reads explains, and that line."""
    x = observations(agent, optimizer)
    action = agent.predict(x)[0][:, agent.needs["hyperparameters"].index(moved)].astype(np.float64)
    names = [name for name in READ[optimizer][moved] if name != "bias"]
    columns = [list(agent.needs["features"]).index(name) for name in names]
    design = np.column_stack([x[:, columns].astype(np.float64), np.ones(len(x))])
    exact = optimizer == "sgd" or moved == "momentum"
    rows = np.abs(action) < 1.0 if exact else np.ones(len(x), bool)  # of a line, what is cut off tells nothing
    weights = np.linalg.lstsq(design[rows], action[rows], rcond=None)[0]
    explained = 1.0 - np.var(action - np.clip(design @ weights, -1, 1)) / np.var(action)
    terms = " ".join(f"{weight:+.3f} {name}" for weight, name in zip(weights, [*names, "1"], strict=True))
    return f"{optimizer}, {moved}: a line explains {explained:.3f} of the action: {terms}"


def main(options: Options) -> int:
    """Draw everything and print the lines."""
    by_start(options)
    schedules(options)
    from_starts(options)
    actions()
    moves()
    agent = make_agent("learned")
    assert isinstance(agent, TrainedAgent)
    for optimizer, lines in READ.items():
        for moved in lines:
            print(line(agent, optimizer, moved))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Options)))
