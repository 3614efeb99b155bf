"""Results as arrays: an agent's final losses and traces by start and run, for statistics and pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrcontrol.envs.errors import InputError
from lrcontrol.results import Results

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Losses:
    """Final losses of one task with one optimizer, on the starts and runs that all its agents have.

    Attributes:
        task: its name.
        optimizer: its name.
        agents: A names.
        rates: (L,), initial rates in rising order.
        runs: R numbers, rising.
        values: (A, L, R).
        left_out: agents that have no start and run in common with the others.
        cut: whether an agent has starts or runs that are not among these.
    """

    task: str
    optimizer: str
    agents: tuple[str, ...]
    rates: tuple[float, ...]
    runs: tuple[int, ...]
    values: Array
    left_out: tuple[str, ...] = ()
    cut: bool = False

    @property
    def group(self) -> tuple[str, tuple[int, ...]]:
        """What it has in common with the same task under the other optimizer: initialisations and minibatches."""
        return self.task, self.runs

    def of(self, agent: str) -> Array:
        """Return an agent's losses, (L, R)."""
        return np.asarray(self.values[self.agents.index(agent)])


Cells = dict[tuple[float, int], float]


def losses_by_pair(results: Results, measure: str = "train_loss") -> list[Losses]:
    """Return the final losses of every task with every optimizer, in the order of ``Results.pairs``.

    Where runs are missing, agents are compared on the starts and runs that all of them have; one that would leave
    nothing to compare on is left out, those with the fewest runs first.

    Raises:
        InputError: no agent has a run from each of its initial rates.
    """
    names = ("task", "optimizer", "agent", "lr0", "run", measure)
    found: dict[tuple[str, str], dict[str, Cells]] = {}
    for task, optimizer, agent, rate, run, value in zip(*(results.runs[n].to_pylist() for n in names), strict=True):
        found.setdefault((task, optimizer), {}).setdefault(agent, {})[rate, run] = value
    return [_on_common_ground(*pair, agents) for pair, agents in found.items()]


def _on_common_ground(task: str, optimizer: str, agents: dict[str, Cells]) -> Losses:
    kept: list[str] = []
    for agent in sorted(agents, key=lambda name: -len(agents[name])):
        if _common([agents[name] for name in (*kept, agent)]) is not None:
            kept.append(agent)
    if not kept:
        raise InputError(f"{task}, {optimizer}: no agent has all its runs from all its initial rates; evaluate again")
    there = tuple(agent for agent in agents if agent in kept)
    rates, runs = _common([agents[name] for name in there]) or ([], [])
    values = [[[agents[name][rate, run] for run in runs] for rate in rates] for name in there]
    left_out = tuple(agent for agent in agents if agent not in kept)
    cut = any(len(agents[name]) > len(rates) * len(runs) for name in there)
    return Losses(task, optimizer, there, tuple(rates), tuple(runs), np.array(values, dtype=np.float64), left_out, cut)


def _common(parts: list[Cells]) -> tuple[list[float], list[int]] | None:
    """Return the rates and runs that all have, None where they are none or not every run is there for every rate."""
    rates = sorted(set.intersection(*({rate for rate, _ in part} for part in parts)))
    runs = sorted(set.intersection(*({run for _, run in part} for part in parts)))
    whole = all((rate, run) in part for part in parts for rate in rates for run in runs)
    return (rates, runs) if rates and runs and whole else None


@dataclass(frozen=True)
class Traces:
    """An agent's minibatch losses and rates over the steps, (L, R, steps) each; ``rates`` (L,) rising.

    A run that was frozen goes on with the loss it is reported with at its end.
    """

    rates: tuple[float, ...]
    loss: Array
    lr: Array


def traces_by_agent(part: Results) -> dict[str, Traces]:
    """Return the traces of one task with one optimizer by agent; none where none were kept.

    Raises:
        InputError: an agent whose rows are not those of every start, run and step.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    names = pc.unique(part.traces["agent"]).cast(pa.string())
    numbers = pc.index_in(part.traces["agent"].cast(pa.string()), value_set=names).to_numpy()
    columns = {name: part.traces[name].to_numpy() for name in ("lr0", "run", "step", "loss", "lr")}
    ends: dict[str, dict[tuple[float, int], float]] = {}
    for row in part.runs.select(["agent", "lr0", "run", "train_loss"]).to_pylist():
        ends.setdefault(row["agent"], {})[row["lr0"], row["run"]] = row["train_loss"]
    found = {}
    for number, agent in enumerate(names.to_pylist()):
        rows = np.flatnonzero(numbers == number)
        found[agent] = _traces(agent, {name: values[rows] for name, values in columns.items()}, ends[agent])
    return found


def _traces(agent: str, columns: dict[str, NDArray[Any]], ends: dict[tuple[float, int], float]) -> Traces:
    rate, run, step = (columns[name] for name in ("lr0", "run", "step"))
    rates, runs = np.unique(rate).tolist(), np.unique(run).tolist()
    shape = (len(rates), len(runs), int(step.max()) + 1)
    if len(step) != np.prod(shape):
        raise InputError(f"the traces of {agent} have {len(step)} rows, not starts × runs × steps = {shape}")
    order = np.lexsort((step, run, rate))
    loss, lr = (columns[name][order].reshape(shape).astype(np.float64) for name in ("loss", "lr"))
    at_the_end = np.array([[ends[start, number] for number in runs] for start in rates])
    return Traces(tuple(rates), np.where(np.isfinite(loss), loss, at_the_end[..., None]), lr)
