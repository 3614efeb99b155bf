"""Compares ``learned`` on tasks that it was neither trained nor selected on with schedules and with tuning-free rivals.

    python -m experiments.learned.heldout                  # all tasks
    python -m experiments.learned.heldout --optimizers sgd # the others' rows stay as they are
    python -m experiments.learned.heldout --agent learned:momentum=false --suffix _rate
    python -m experiments.learned.heldout --anew learned distilled --anew_on mnist-autoencoder shakespeare-gpt

Each agent on each task and optimizer is a result folder below ``results/learned/heldout``; what is there is not done
again. The tables are written from all that is there: heldout.csv task by task, overall.csv over the tasks, runs.parquet
with what every run ended with.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tyro

import lrcontrol
from experiments.tables import rounded, write_beside
from lrcontrol.aggregates import mean_over_tasks, middle_mean
from lrcontrol.statistics import paired_difference
from lrcontrol.study import lr0_grid

HERE = Path(__file__).parent
DECADES, HALVES = lr0_grid(1e-6, 10.0, 8), lr0_grid(1e-6, 10.0, 15)
HIGH = lr0_grid(1e-2, 100.0, 9)
NARROW, FIVE = lr0_grid(1e-4, 1.0, 9), lr0_grid(1e-3, 1e-1, 5)  # for the tasks that two cores can hardly carry
TASKS = {
    "mnist-mlp": 10,
    "fashion-mnist-deep": 10,
    "mnist-autoencoder": 3,
    "mnist-cnn": 2,
    "shakespeare-gpt": 2,
}  # runs, but for those of
TEN = ("learned", "distilled", "blind", "replay:of=learned")  # which are cheap: there is no rate to be tuned
# The grids of the schedules. Nobody trains a transformer with SGD.
GRIDS: dict[str, dict[str, list[float]]] = {
    "adamw": {
        "mnist-mlp": HALVES,
        "fashion-mnist-deep": HALVES,
        "mnist-autoencoder": NARROW,
        "mnist-cnn": FIVE,
        "shakespeare-gpt": lr0_grid(1e-4, 1e-1, 7),
    },
    "sgd": {
        "mnist-mlp": HIGH,
        "fashion-mnist-deep": HIGH,
        "mnist-autoencoder": HIGH,
        "mnist-cnn": lr0_grid(1e-2, 10.0, 7),
    },
}
# Of one-cycle in natural units, best on the training tasks: the state-blind control.
STARTS = {"sgd": 0.1, "adamw": 0.3}
ENDS = [1e-6, 10.0]  # initial rates, as far apart as the grids go, for what does not look at them
RIVALS = ("dog", "cocob", "prodigy", "dadapt-sgd", "dadapt-adam", "schedulefree-sgd", "schedulefree-adamw", "nadamw")
CLIMBERS = ("hillclimb:factor=2", "greedy")
AT = ", momentum "  # what comes between an agent and the momentum it is run at, where that is not 0.9
TUNED = ("schedule:kind=one-cycle", *(f"schedule:kind=one-cycle{AT}{beta}" for beta in (0.5, 0.7)))


@dataclass(frozen=True)
class Options:
    """Held-out tasks, one result folder for each agent, then the tables."""

    tasks: tuple[str, ...] = tuple(TASKS)
    """Which tasks."""

    optimizers: tuple[str, ...] = ("adamw", "sgd")
    """Which base optimizers; SGD with momentum 0.9."""

    agents: tuple[str, ...] = field(default=())
    """Only these, of those that are compared."""

    agent: str = "learned"
    """The agent in question."""

    folder: Path = Path("results/learned/heldout")
    """Where the result folders are."""

    anew: tuple[str, ...] = ()
    """Run only these; the runs of all others are those that runs.parquet has."""

    anew_on: tuple[str, ...] = tuple(TASKS)
    """And these on no other tasks than these."""

    suffix: str = ""
    """Of the tables' names, for another agent's."""

    run: bool = True
    """Run what is missing; with --no-run the table is made of what is there."""


def plan(task: str, optimizer: str, agent: str) -> dict[str, list[float]]:
    """Return the initial rates of every agent on a task."""
    grid = GRIDS[optimizer].get(task, [])
    natural = f"schedule:kind=one-cycle,start={STARTS[optimizer]:g}"
    once = (natural, "learned", "learned:momentum=false", "distilled", "blind", f"replay:of={agent}")
    agents = {agent: ENDS} | {name: ENDS[:1] for name in once if name != agent}
    if grid:
        agents |= {"constant": grid} | dict.fromkeys(TUNED if optimizer == "sgd" else TUNED[:1], grid)
    if task in ("mnist-mlp", "fashion-mnist-deep"):
        agents |= dict.fromkeys(CLIMBERS, DECADES)
    return agents | dict.fromkeys(RIVALS, ENDS[:1])


def place(folder: Path, task: str, optimizer: str, agent: str) -> Path:
    """Return the result folder of an agent on a task; rivals are the same under every base optimizer."""
    return folder / task / ("peers" if agent in RIVALS else optimizer) / agent.replace(":", "_").replace("/", "_")


def results_of(task: str, optimizer: str, agent: str, rates: list[float], options: Options) -> lrcontrol.Results | None:
    """Return an agent's results on a task, run now if they are not there; None if they are not to be run."""
    if options.anew and not (agent in options.anew and task in options.anew_on):
        return before(HERE / f"runs{options.suffix}.parquet", task, optimizer, agent)
    out = place(options.folder, task, optimizer, agent)
    if not (out / "runs.csv").exists():
        if not options.run:
            return None
        spelled, _, momentum = agent.partition(AT)
        runs = 10 if agent in TEN else TASKS[task]
        arguments: dict[str, Any] = {"lr0": rates, "runs": runs, "optimizer": optimizer}
        lrcontrol.evaluate(task, [spelled], out=out, momentum=float(momentum or 0.9), **arguments)
        print(f"{task}, {optimizer}, {agent}", flush=True)
    return lrcontrol.Results.load(out)


def before(path: Path, task: str, optimizer: str, agent: str) -> lrcontrol.Results | None:
    """Return what a file of runs has of an agent on a task; None if it has nothing."""
    import pyarrow.parquet as pq

    runs = pq.read_table(path, filters=[("task", "=", task), ("optimizer", "=", optimizer), ("agent", "=", agent)])
    return lrcontrol.Results(runs, runs, runs.slice(0, 0), {}) if len(runs) else None


def found(task: str, optimizer: str, options: Options) -> dict[str, lrcontrol.Results]:
    """Return the results on a task of all agents that are there."""
    there = {
        name: results_of(task, optimizer, name, where, options)
        for name, where in plan(task, optimizer, options.agent).items()
        if not options.agents or name in options.agents
    }
    return {name: results for name, results in there.items() if results is not None}


def at_best(results: lrcontrol.Results, measure: str = "train_loss") -> np.ndarray:
    """Return the runs (R,) from the initial rate where the mean training loss is lowest."""
    agent = results.agents[0]
    best = results.by_start(agent).mean(axis=1).argmin()
    return np.asarray(results.by_start(agent, measure)[best])


def shared_runs(ours: lrcontrol.Results, theirs: lrcontrol.Results, measure: str) -> np.ndarray:
    """Return two agents' losses at their best rates (2, R), of the first R runs, which both have."""
    losses = [at_best(results, measure) for results in (ours, theirs)]
    return np.array([values[: min(map(len, losses))] for values in losses])


def compare(task: str, optimizer: str, results: dict[str, lrcontrol.Results], options: Options) -> list[dict[str, Any]]:
    """Return a row for each agent: loss at its best and worst start, and the learned agent's over it, paired by run."""
    rates = plan(task, optimizer, options.agent)
    rows = []
    for name, its in results.items():
        losses = its.by_start(its.agents[0])
        means = losses.mean(axis=1)
        row: dict[str, Any] = {"task": task, "optimizer": optimizer, "agent": name, "runs": losses.shape[1]}
        row |= {"best_start": rates[name][means.argmin()] if len(means) > 2 else "any"}
        row |= {"train": means.min(), "worst_start": means.max(), "worst_run": losses.max()}
        row |= {measure: at_best(its, measure).mean() for measure in ("test_loss", "test_accuracy")}
        row["diverged"] = sum(run["diverged"] for run in its.runs.to_pylist())
        if name != options.agent and options.agent in results:
            for measure in ("train_loss", "test_loss"):
                ratio = np.exp(paired_difference(*np.log(shared_runs(results[options.agent], its, measure))))
                row |= dict(zip((f"{measure}_ratio", f"{measure}_low", f"{measure}_high"), ratio, strict=True))
        rows.append(rounded(row))
    return rows


def over_all(optimizer: str, results: dict[str, dict[str, lrcontrol.Results]], agent: str) -> list[dict[str, Any]]:
    """Return for each other agent the mean of the learned agent's loss over its, on the same task and run.

    Interquartile over the runs of all tasks together, and geometric with all tasks weighing alike.
    """
    rows = []
    for other in dict.fromkeys(name for there in results.values() for name in there if name != agent):
        shared = [there for there in results.values() if {agent, other} <= set(there)]
        row: dict[str, Any] = {"optimizer": optimizer, "agent": other, "tasks": len(shared)}
        for measure in ("train_loss", "test_loss") if shared else ():
            ratios = [np.divide(*shared_runs(there[agent], there[other], measure)) for there in shared]
            middle = middle_mean([values[None] for values in ratios])
            alike = np.exp(mean_over_tasks([np.log(values)[None] for values in ratios]))
            for name, ratio in ((measure, middle), (f"{measure}_tasks", alike)):
                row |= dict(zip((name, f"{name}_low", f"{name}_high"), map(float, ratio), strict=True))
        rows.append(rounded(row))
    return rows


def runs_of(task: str, optimizer: str, results: dict[str, lrcontrol.Results]) -> Iterator[dict[str, Any]]:
    """Yield what every run of all agents ended with."""
    for name, its in results.items():
        for run in its.runs.to_pylist():
            row = {"task": task, "optimizer": optimizer, "agent": name, "lr0": run["lr0"], "run": run["run"]}
            yield row | {measure: run[measure] for measure in ("train_loss", "test_loss", "test_accuracy", "diverged")}


def main(options: Options) -> int:
    """Run what is missing and write heldout.csv, overall.csv and runs.parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows, summary, runs = [], [], []
    for optimizer in options.optimizers:
        results = {task: found(task, optimizer, options) for task in options.tasks}
        for task, there in results.items():
            rows += compare(task, optimizer, there, options)
            runs += runs_of(task, optimizer, there)
        summary += over_all(optimizer, results, options.agent)
    write_beside(HERE / f"heldout{options.suffix}.csv", rows, ("optimizer",))
    write_beside(HERE / f"overall{options.suffix}.csv", summary, ("optimizer",))
    path = HERE / f"runs{options.suffix}.parquet"
    kept = pq.read_table(path).to_pylist() if path.exists() else []
    before = [row for row in kept if row["optimizer"] not in options.optimizers]
    pq.write_table(pa.Table.from_pylist([*before, *runs]), path, compression="zstd")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Options)))
