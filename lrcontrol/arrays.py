"""Results as arrays: an agent's final losses and traces by start and run, for statistics and pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lrcontrol.envs.errors import InputError
from lrcontrol.results import Results

if TYPE_CHECKING:
    import pyarrow as pa

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
    """

    task: str
    optimizer: str
    agents: tuple[str, ...]
    rates: tuple[float, ...]
    runs: tuple[int, ...]
    values: Array

    def of(self, agent: str) -> Array:
        """Return an agent's losses, (L, R)."""
        return np.asarray(self.values[self.agents.index(agent)])


def losses_by_pair(results: Results, measure: str = "train_loss") -> list[Losses]:
    """Return the final losses of every task with every optimizer, in the order of ``Results.pairs``.

    Raises:
        InputError: agents of a pair that have no start or no run in common.
    """
    names = ("task", "optimizer", "agent", "lr0", "run", measure)
    found: dict[tuple[str, str], dict[str, dict[tuple[float, int], float]]] = {}
    for task, optimizer, agent, rate, run, value in zip(*(results.runs[n].to_pylist() for n in names), strict=True):
        found.setdefault((task, optimizer), {}).setdefault(agent, {})[rate, run] = value
    return [_on_common_ground(*pair, agents) for pair, agents in found.items()]


def _on_common_ground(task: str, optimizer: str, agents: dict[str, dict[tuple[float, int], float]]) -> Losses:
    rates = sorted(set.intersection(*({rate for rate, _ in cells} for cells in agents.values())))
    runs = sorted(set.intersection(*({run for _, run in cells} for cells in agents.values())))
    cells = [(rate, run) for rate in rates for run in runs]
    if not cells or not all(cell in mine for mine in agents.values() for cell in cells):
        raise InputError(
            f"the agents on {task} with {optimizer} ({', '.join(agents)}) have no initial rates and runs in common: "
            "evaluate them on one --lr0 grid"
        )
    values = np.array([[mine[cell] for cell in cells] for mine in agents.values()], dtype=np.float64)
    shape = (len(agents), len(rates), len(runs))
    return Losses(task, optimizer, tuple(agents), tuple(rates), tuple(runs), values.reshape(shape))


@dataclass(frozen=True)
class Traces:
    """An agent's minibatch losses and rates over the steps, (L, R, steps) each; ``rates`` (L,) rising.

    A run that was frozen goes on with the loss it is reported with at its end.
    """

    rates: tuple[float, ...]
    loss: Array
    lr: Array


def traces_by_agent(part: Results) -> dict[str, Traces]:
    """Return the traces of one task with one optimizer by agent; none where none were kept."""
    import pyarrow.compute as pc

    traced = pc.unique(part.traces["agent"]).to_pylist()
    return {
        agent: _traces(part.traces.filter(pc.field("agent") == agent), part.runs.filter(pc.field("agent") == agent))
        for agent in part.agents
        if agent in traced
    }


def _traces(table: pa.Table, runs: pa.Table) -> Traces:
    rate, run, step, loss, lr = (table[name].to_numpy() for name in ("lr0", "run", "step", "loss", "lr"))
    order = np.lexsort((step, run, rate))
    rates = np.unique(rate)
    shape = (len(rates), len(np.unique(run)), int(step.max()) + 1)
    if len(order) != np.prod(shape):
        raise InputError(f"{len(order)} rows of traces are not those of starts × runs × steps = {shape}")
    ends = {(row["lr0"], row["run"]): row["train_loss"] for row in runs.to_pylist()}
    at_the_end = np.array([[ends[start, number] for number in np.unique(run)] for start in rates])
    values = loss[order].reshape(shape).astype(np.float64)
    values = np.where(np.isfinite(values), values, at_the_end[..., None])
    return Traces(tuple(rates.tolist()), values, lr[order].reshape(shape).astype(np.float64))
