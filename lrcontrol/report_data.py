"""What the page draws, small enough to travel inside it: quantiles over runs, binned over steps, packed."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrcontrol.aggregates import performance_profile, ratios_to_best
from lrcontrol.arrays import Losses, Traces, losses_by_pair, traces_by_agent
from lrcontrol.envs.values import TINY
from lrcontrol.results import Results
from lrcontrol.standings import Standings

Array = NDArray[np.float64]
QUANTILES = (0.1, 0.5, 0.9)
TAUS = np.round([1.0, *(1.0 + np.geomspace(1e-3, 99.0, 80))], 5)  # half of them below 1.3, where agents part
LOWEST, HIGHEST, MISSING = -14.0, 14.0, 65535
BYTES_FOR_TRACES, FEWEST, MOST = 2_200_000, 24, 160
SHOWN_AT_FIRST = 7


def page_data(results: Results, standings: Standings) -> dict[str, Any]:
    """Return what the page's script reads, of JSON's types only.

    Args:
        results: of one evaluation or several.
        standings: theirs.

    Returns:
        agents, by rank; pairs, each with what is drawn of it by an agent's number; pool, the packed series that traces
        refer to by number, so that equal ones are kept once; bins, the ends of their bins by number of steps; taus.
    """
    agents = [row["agent"] for row in standings.overall.to_pylist()]
    number = {agent: index for index, agent in enumerate(agents)}
    losses = losses_by_pair(results)
    packed = Packed(_points(results))
    ratios = [dict(zip(pair.agents, ratios_to_best(pair.values), strict=True)) for pair in losses]
    costs = {(row["task"], row["optimizer"], row["agent"]): row for row in standings.rows.to_pylist()}
    pairs = []
    for pair, to_best in zip(losses, ratios, strict=True):
        part = results.of(pair.task, pair.optimizer)
        traces = traces_by_agent(part)
        drawn = {
            number[agent]: {
                "passes": costs[pair.task, pair.optimizer, agent]["passes"],
                "final": _final(part, agent),
                "profile": _profile(agent, [pair], [to_best]),
                "trace": packed.traces(traces[agent]) if agent in traces else None,
            }
            for agent in pair.agents
        }
        budget = costs[pair.task, pair.optimizer, pair.agents[0]]["budget"]
        pairs.append({"task": pair.task, "optimizer": pair.optimizer, "budget": budget, "agents": drawn})
    profiles = {number[name]: _profile(name, losses, ratios) for name in agents}
    return {
        "agents": agents,
        "baseline": number[standings.baseline],
        "shown": SHOWN_AT_FIRST,
        "pairs": pairs,
        "profiles": profiles,
        "taus": TAUS.tolist(),
        "pool": list(packed.pool),
        "bins": packed.bins,
        "range": [LOWEST, HIGHEST],
    }


def _points(results: Results) -> int:
    """Return into how many points a trace is cut, so that all of them stay within their share of the page."""
    series = 2 * len(QUANTILES) * results.summary.num_rows
    return int(np.clip(BYTES_FOR_TRACES * 3 / 8 / series, FEWEST, MOST))


def _rounded(values: Array) -> list[float | None]:
    return [float(f"{value:.4g}") if np.isfinite(value) else None for value in np.asarray(values).tolist()]


def _final(part: Results, agent: str) -> dict[str, Any]:
    """Return an agent's final losses by start: its rates, and the quantiles over runs."""
    found: dict[float, list[float]] = {}
    for row in part.runs.select(["agent", "lr0", "train_loss"]).to_pylist():
        if row["agent"] == agent:
            found.setdefault(row["lr0"], []).append(max(row["train_loss"], TINY))
    rates = sorted(found)
    low, middle, high = np.array([np.quantile(found[rate], QUANTILES) for rate in rates]).T
    return {"lr0": rates, "low": _rounded(low), "middle": _rounded(middle), "high": _rounded(high)}


def _profile(agent: str, losses: list[Losses], ratios: list[dict[str, Array]]) -> dict[str, Any]:
    mine = [(pair.group, found[agent]) for pair, found in zip(losses, ratios, strict=True) if agent in found]
    profile = performance_profile([ratio for _, ratio in mine], TAUS, groups=[group for group, _ in mine])
    return {name: _rounded(values) for name, values in profile._asdict().items()}


class Packed:
    """Series of positive numbers as sixteen bits each, evenly in logarithm: 28 decades to 0.1 %."""

    def __init__(self, points: int) -> None:
        self.points = points
        self.pool: dict[str, int] = {}
        self.bins: dict[int, list[int]] = {}

    def traces(self, traces: Traces) -> dict[str, Any]:
        """Return an agent's traces: steps, rates, and for loss and lr the numbers of [low, middle, high] by start.

        A bin's loss is the geometric mean of its steps', its lr that of its last step; the first is one step.
        """
        steps = traces.loss.shape[-1]
        ends = np.unique(np.rint(np.linspace(1, steps, min(self.points, steps))).astype(int))
        self.bins[steps] = ends.tolist()
        starts = np.concatenate([[0], ends[:-1]])
        logs = np.log(np.maximum(traces.loss, TINY))
        loss = np.exp(np.add.reduceat(logs, starts, axis=-1) / (ends - starts))
        found = {"loss": loss, "lr": traces.lr[..., ends - 1]}
        return {"steps": steps, "lr0": list(traces.rates)} | {
            name: [self._numbers(start) for start in values] for name, values in found.items()
        }

    def _numbers(self, runs: Array) -> list[int]:
        return [self._number(series) for series in np.quantile(runs, QUANTILES, axis=0)]

    def _number(self, series: Array) -> int:
        text = pack(series)
        return self.pool.setdefault(text, len(self.pool))


def pack(series: Array) -> str:
    """Return a series in base64, beyond 1e-14 and 1e14 as those; what is not positive and finite is missing."""
    shown = np.isfinite(series) & (series > 0.0)
    logs = np.log10(np.where(shown, series, 1.0)).clip(LOWEST, HIGHEST)
    levels = np.rint((logs - LOWEST) / (HIGHEST - LOWEST) * (MISSING - 1))
    return base64.b64encode(np.where(shown, levels, MISSING).astype("<u2").tobytes()).decode()


def unpack(text: str) -> Array:
    """Return what ``pack`` was given, to 0.1 %, NaN where it is missing; the page's script does the same."""
    levels = np.frombuffer(base64.b64decode(text), "<u2").astype(np.float64)
    return np.where(levels == MISSING, np.nan, 10.0 ** (LOWEST + levels / (MISSING - 1) * (HIGHEST - LOWEST)))
