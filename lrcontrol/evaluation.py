"""Compares agents over initial learning rates and runs: the function behind ``python -m lrcontrol.evaluate``."""

from __future__ import annotations

import datetime
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrcontrol.agents import Agent, make_agent
from lrcontrol.envs.errors import InputError
from lrcontrol.envs.registry import make_task
from lrcontrol.envs.seeding import check_seed
from lrcontrol.envs.settings import Settings
from lrcontrol.envs.task import Task
from lrcontrol.envs.world import World
from lrcontrol.peers import Peer, find_peer
from lrcontrol.provenance import provenance
from lrcontrol.results import RUN_COLUMNS, TRACE_COLUMNS, Results, reserve_folder
from lrcontrol.rollouts import Progress, roll_out, settings_for, settled

DEFAULT_AGENTS = (
    "constant",
    "schedule:kind=cosine",
    "schedule:kind=one-cycle",
    "hillclimb",
    "hillclimb:factor=1.1",
    "hillclimb:factor=2",
    "learned",
)
GRID_PER_DECADE = 2


class Interrupted(KeyboardInterrupt):
    """An evaluation was interrupted; ``results`` holds the agents that were finished, or None."""

    def __init__(self, results: Results | None) -> None:
        super().__init__("evaluation interrupted")
        self.results = results


def lr0_grid(low: float, high: float, count: int) -> list[float]:
    """Return ``count`` rates evenly spaced in logarithm from ``low`` to ``high``, to six digits.

    Raises:
        InputError: not 0 < low < high, or fewer than two points.
    """
    if not 0.0 < low < high < np.inf:
        raise InputError(f"lr0 grid from {low:g} to {high:g}: write 0 < low < high")
    if count < 2:
        raise InputError(f"lr0 grid of {count} rates: at least 2 are needed")
    return [float(f"{value:.6g}") for value in np.geomspace(low, high, count)]


def evaluate(
    task: str | Task = "digits-mlp",
    agents: Sequence[str | Agent | Peer] = DEFAULT_AGENTS,
    *,
    lr0: Sequence[float] | None = None,
    runs: int = 5,
    steps: int | None = None,
    optimizer: str = "sgd",
    seed: int = 0,
    device: str = "auto",
    out: str | Path | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    **settings: Any,
) -> Results:
    """Train with every agent from every initial learning rate, several runs each, and return what came of it.

    Run i of every agent and rate has the initial parameters and the minibatches of seed ``seed + i``, so that
    comparisons are paired. Losses and accuracies are of the whole training and test set after the last step.

    Args:
        task: a Task, or its spelling ``name:key=value,…``.
        agents: Agents, or their spellings ``name:key=value,…``; also ``lrcontrol.peers.PEERS``, which are optimizers of
            their own and look at neither ``optimizer`` nor ``settings``.
        lr0: initial learning rates; default half-decades over the task's range for the optimizer.
        runs: runs for each agent and rate.
        steps: training steps in a run; None is the task's budget.
        optimizer: ``"sgd"`` or ``"adamw"``.
        seed: of the first run.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        out: folder to write the results into; it must be new or empty unless ``overwrite``.
        overwrite: replace the results that ``out`` holds.
        progress: called as training proceeds.
        settings: further fields of ``Settings`` for every agent, such as ``momentum`` or ``smoothing``; what an agent
            needs comes first.

    Raises:
        InputError: an argument that cannot be used.
        Interrupted: on Ctrl-C; what was finished is in its ``results``, and written where ``out`` is given.
    """
    if runs < 1:
        raise InputError(f"runs {runs} is not positive")
    check_seed(seed)
    problem = make_task(task)
    chosen = _agents(agents)
    base = Settings.make({"task": problem, "optimizer": optimizer, "steps": steps} | settings)
    for agent in chosen:
        if not isinstance(agent, Peer):
            settings_for(base, agent)  # what cannot be used is said before anything runs
    rates = list(lr0) if lr0 is not None else _default_grid(problem, optimizer)
    if not rates or len(set(rates)) < len(rates):
        raise InputError(f"initial learning rates {rates}: give at least one, and none twice")
    for rate in rates:
        base.check_lr0(rate)
    folder = None if out is None else reserve_folder(Path(out), overwrite)
    config = {
        "task": problem.name if isinstance(task, Task) else task,
        "agents": [agent.name for agent in chosen],
        "lr0": rates,
        "runs": runs,
        "steps": base.steps or problem.steps,
        "optimizer": optimizer,
        "seed": seed,
        "device": device,
        "settings": {name: str(value) for name, value in settings.items()},
    }
    began, done, complete = time.perf_counter(), [], True
    started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    try:
        for agent in chosen:
            done.append(_run_agent(agent, base, rates, runs, seed, device, progress))
    except KeyboardInterrupt:
        complete = False
    if not done:
        raise Interrupted(None)
    manifest = {
        "config": config,
        "seeds": [seed + run for run in range(runs)],
        "started": started,
        "seconds": round(time.perf_counter() - began, 1),
        "complete": complete,
        **provenance(),
    }
    results = Results.from_runs([table for table, _ in done], [trace for _, trace in done], manifest)
    if folder is not None:
        results.save(folder, overwrite)
    if not complete:
        raise Interrupted(results)
    return results


def _agents(agents: Sequence[str | Agent | Peer]) -> list[Agent | Peer]:
    chosen = [find_peer(agent) or make_agent(agent) for agent in agents]  # type: ignore[arg-type]
    names = [agent.name for agent in chosen]
    if not chosen:
        raise InputError("no agents given: name at least one")
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"agent {name!r} is given {names.count(name)} times")
    return chosen


def _default_grid(task: Task, optimizer: str) -> list[float]:
    low, high = task.lr0_range.get(optimizer, (1e-6, 1.0))
    return lr0_grid(low, high, max(2, round(GRID_PER_DECADE * np.log10(high / low)) + 1))


def _run_agent(
    agent: Agent | Peer,
    base: Settings,
    rates: list[float],
    runs: int,
    seed: int,
    device: str,
    progress: Progress | None,
) -> tuple[dict[str, list[Any]], dict[str, NDArray[Any]]]:
    """Return an agent's rows of runs.csv and of traces.parquet, by column, sorted by rate and then run."""
    task = make_task(base.task)  # type: ignore[arg-type]
    rows, steps = len(rates) * runs, base.steps or task.steps
    if isinstance(agent, Peer):
        final, traces, passes = agent.run(task, base, rates, runs, steps, seed, device, progress)
    else:
        world = roll_out(agent, settings_for(base, agent), rates, runs, seed, device, progress, record=True)
        order = np.arange(rows).reshape(runs, len(rates)).T.ravel()  # the engine keeps a run's rates together
        final = {name: values[order] for name, values in final_measures(world).items()}
        traces = {name: values.T[order] for name, values in world.trace.items()}
        passes = {"forward_passes": world.forward_passes, "backward_passes": world.backward_passes}
    labels = {"task": task.name, "optimizer": base.optimizer, "agent": agent.name}
    columns: dict[str, Any] = {name: [value] * rows for name, value in labels.items()}
    columns |= {"lr0": np.repeat(rates, runs).tolist(), "run": np.tile(np.arange(runs), len(rates)).tolist()}
    columns["seed"] = [seed + run for run in columns["run"]]
    columns |= {name: values.tolist() for name, values in final.items()}
    columns |= {name: [value] * rows for name, value in passes.items()}
    trace = {name: np.repeat(np.array(columns[name]), steps) for name in (*labels, "lr0", "run")}
    trace["step"] = np.tile(np.arange(steps), rows)
    trace |= {name: values.ravel() for name, values in traces.items()}
    return {name: columns[name] for name in RUN_COLUMNS}, {name: trace[name] for name in TRACE_COLUMNS}


def final_measures(world: World) -> dict[str, NDArray[Any]]:
    """Return loss and accuracy on both data sets, and which runs diverged, (R,) each, as ``settled`` has them."""
    data = {"train": world.task.train, "test": world.task.test}
    measured = {split: world.engine.evaluate(part) for split, part in data.items() if part is not None}
    return settled(measured, world.diverged, world.history.first)
