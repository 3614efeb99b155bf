"""One agent against the others, run by run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lrcontrol.budgets import passes
from lrcontrol.envs.errors import InputError, unknown
from lrcontrol.envs.values import TINY
from lrcontrol.results import MEASURES, Results
from lrcontrol.statistics import (
    holm,
    interquartile_mean,
    paired_difference,
    probability_of_improvement,
    signed_rank_p,
)

if TYPE_CHECKING:
    import pyarrow as pa


def compare(results: Results, baseline: str, measure: str = "train_loss", level: float = 0.95) -> pa.Table:
    """Return a row for each other agent: how its final losses stand to the baseline's, paired by run.

    A run's score is the mean over the initial rates of the logarithm of its loss, so that neither one exploded rate nor
    the rates where nothing can be won decide alone; differences of scores are ratios of losses.

    Args:
        results: of an evaluation of one task with one optimizer, with two runs or more.
        baseline: the agent that the others are held against.
        measure: ``train_loss`` or ``test_loss``.
        level: of the intervals.

    Returns:
        Columns: agent, runs, starts; ratio, ratio_low, ratio_high, geometric mean of loss over the baseline's with its
        bootstrap interval, below 1 where the agent is better; probability_of_improvement, over pairs of runs with one
        initial rate; p, of Wilcoxon's signed-rank test of the scores, two-sided, and p_holm, corrected for the number
        of agents; interquartile_mean, of all losses; worst_start, the highest mean loss of an initial rate; diverged;
        passes, forward and backward, in units of the baseline's, a backward pass counted as two forward ones. Where a
        loss is below 0 there is no ratio, NaN, and a run's score is the mean of its losses.

    Raises:
        InputError: an agent or a measure that is not there, no other agent, one run alone, or several tasks or
            optimizers.
    """
    import pyarrow as pa

    if baseline not in results.agents:
        raise unknown("baseline", baseline, results.agents)
    if measure not in MEASURES or not measure.endswith("loss"):
        raise unknown("measure", measure, [name for name in MEASURES if name.endswith("loss")])
    if len(results.pairs) > 1:
        raise InputError(
            f"the results are of {len(results.pairs)} pairs of task and optimizer: compare those of one, as in "
            f"compare(results.of{results.pairs[0]}, {baseline!r}); standings holds them against each other together"
        )
    others = [agent for agent in results.agents if agent != baseline]
    if not others:
        raise InputError(f"there is no agent to compare with {baseline}: evaluate two or more")
    if results.manifest["config"]["runs"] < 2:
        raise InputError("one run alone cannot be compared: use two runs or more, ten if you can")
    if np.isnan(results.runs[measure].to_numpy()).all():
        raise InputError(f"there is no {measure} in these results: the task has no test data")
    for agent in results.agents:
        if np.isnan(results.by_start(agent, measure)).any():
            raise InputError(f"agent {agent!r} lacks runs, a cell of it having failed: evaluate again, or without it")
    theirs, base_cost = results.by_start(baseline, measure), _passes(results, baseline)
    rows: list[dict[str, Any]] = []
    for agent in others:
        mine = results.by_start(agent, measure)
        if min(mine.min(), theirs.min()) < 0.0:
            scores, base, ratio = mine.mean(axis=0), theirs.mean(axis=0), np.full(3, np.nan)
        else:
            scores, base = (np.log(np.maximum(losses, TINY)).mean(axis=0) for losses in (mine, theirs))
            ratio = np.exp(paired_difference(scores, base, level))
        row: dict[str, Any] = {"agent": agent, "runs": mine.shape[1], "starts": mine.shape[0]}
        row |= dict(zip(("ratio", "ratio_low", "ratio_high"), map(float, ratio), strict=True))
        row["probability_of_improvement"] = probability_of_improvement(mine.ravel(), theirs.ravel())
        row["p"] = signed_rank_p(scores, base)
        row["interquartile_mean"] = interquartile_mean(mine)
        row["worst_start"] = float(mine.mean(axis=1).max())
        row["diverged"] = sum(part["diverged"] for part in results.of_agent(agent).to_pylist())
        rows.append(row | {"passes": _passes(results, agent) / base_cost})
    for row, corrected in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["p_holm"] = corrected
    return pa.Table.from_pylist(rows)


def _passes(results: Results, agent: str) -> float:
    rows = results.of_agent(agent).to_pylist()
    return sum(passes(row["forward_passes"], row["backward_passes"]) for row in rows) / len(rows)
