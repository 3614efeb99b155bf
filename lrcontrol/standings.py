"""Where every agent stands: a row for each task, optimizer and agent, and a row for each agent over all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lrcontrol.aggregates import Array, Estimate, log_area, mean_over_tasks, middle_mean, ranks
from lrcontrol.arrays import Losses, Traces, losses_by_pair, traces_by_agent
from lrcontrol.budgets import loss_at_compute, passes, trials_to_match
from lrcontrol.columns import FAILED
from lrcontrol.envs.errors import InputError, unknown
from lrcontrol.envs.values import TINY
from lrcontrol.results import PASSES, Results
from lrcontrol.statistics import holm, probability_of_improvement, signed_rank_p

if TYPE_CHECKING:
    import pyarrow as pa

USUAL_BASELINES = ("schedule:kind=cosine", "constant")
NAN = float("nan")


@dataclass(frozen=True)
class Standings:
    """What ``standings`` found.

    Attributes:
        rows: for each task, optimizer and agent. Columns: task, optimizer, agent; starts, runs, those that all agents
            of the pair have; rank, the mean over starts and runs of its rank among the pair's agents; ratio, the
            interquartile mean of its loss over the baseline's on the same start and run; area, exp of the mean log loss
            over the decades of lr0; difference, the mean of its loss less the baseline's; improves, the share of starts
            and runs where it is lower, a tie counting half; p, of Wilcoxon's signed-rank test of the runs' mean log
            losses, and p_holm, that corrected for the number of agents; best_loss at best_lr0 and worst_loss at
            worst_lr0, means over runs; diverged and diverged_share of its runs; forward_passes, backward_passes and
            passes of a run, means over its runs, a backward pass counted as two; cost, passes over the baseline's;
            budget, the passes of the pair's cheapest agent; budget_loss, the geometric mean over starts and runs of the
            minibatch loss when they are spent, and budget_ratio to the baseline's; trials, the random-search trials
            until the baseline's best is expected to be at the agent's mean loss over starts. rank, ratio, area and
            difference also with _low and _high. NaN where the baseline was not run, or no traces were kept.
        overall: for each agent. Columns: agent; pairs, how many it has; rank, the mean over pairs; ratio, the
            interquartile mean over all pairs, starts and runs; both with _low and _high; diverged_share; cost, the
            geometric mean over pairs. Sorted by rank.
        baseline: the agent that the others are held against.
        left_out: task, optimizer and agent where an agent has no start and run in common with the others.
        cut: whether runs were left out because some agent lacks them.
        failed: task, optimizer and agent where every cell of an agent failed.
    """

    rows: pa.Table
    overall: pa.Table
    baseline: str
    left_out: tuple[tuple[str, str, str], ...] = ()
    cut: bool = False
    failed: tuple[tuple[str, str, str], ...] = ()

    def listed(self) -> list[dict[str, Any]]:
        """Return the rows of tables, each pair's by rank; last those that failed there, names and ``failed`` only."""
        rows = self.rows.to_pylist()
        names = ("task", "optimizer", "agent")
        rows += [dict(zip(names, cell, strict=True)) | {FAILED: True} for cell in self.failed]
        pairs = list(dict.fromkeys((row["task"], row["optimizer"]) for row in rows))
        return sorted(rows, key=lambda row: (pairs.index((row["task"], row["optimizer"])), row.get("rank", np.inf)))

    def overall_listed(self) -> list[dict[str, Any]]:
        """Return the rows over all pairs; last the agents that failed wherever they were run."""
        rows = self.overall.to_pylist()
        there = {row["agent"] for row in rows}
        failed = dict.fromkeys(agent for _, _, agent in self.failed if agent not in there)
        return [*rows, *({"agent": agent, FAILED: True} for agent in failed)]


def usual_baseline(results: Results) -> str:
    """Return the agent that others are held against unless told: the cosine schedule, the constant, or the first."""
    return next((name for name in USUAL_BASELINES if name in results.agents), results.agents[0])


def standings(results: Results, baseline: str | None = None, seed: int = 0) -> Standings:
    """Return where every agent stands on every task with every optimizer, and over all of them.

    Args:
        results: of an evaluation.
        baseline: the agent that others are held against; None is that of ``usual_baseline``.
        seed: of the bootstrap, 2,000 times over the runs of each pair.

    Raises:
        InputError: a baseline that is not there, or has no start and run in common with the other agents.
    """
    import pyarrow as pa

    chosen = usual_baseline(results) if baseline is None else baseline
    if chosen not in results.agents:
        if chosen in {agent for _, _, agent in results.failed}:
            raise InputError(f"baseline {chosen} has no results, all its cells having failed: choose another")
        raise unknown("baseline", chosen, results.agents)
    grounds = losses_by_pair(results)
    if not any(chosen in losses.agents for losses in grounds):
        raise InputError(f"baseline {chosen} has no initial rate and run in common with other agents: choose another")
    pairs = [_Pair.make(results, losses, chosen) for losses in grounds]
    rows = [row for pair in pairs for row in pair.rows(seed)]
    agents = {agent: [pair for pair in pairs if agent in pair.losses.agents] for agent in results.agents}
    overall = [_overall(agent, mine, seed) for agent, mine in agents.items() if mine]
    overall.sort(key=lambda row: row["rank"])
    left_out = tuple((part.task, part.optimizer, agent) for part in grounds for agent in part.left_out)
    cut = any(part.cut for part in grounds)
    failed = tuple(results.failed)
    return Standings(pa.Table.from_pylist(rows), pa.Table.from_pylist(overall), chosen, left_out, cut, failed)


def _with_ends(name: str, estimate: Estimate) -> dict[str, float]:
    return dict(zip((name, f"{name}_low", f"{name}_high"), estimate, strict=True))


@dataclass(frozen=True)
class _Pair:
    losses: Losses
    ranks: Array
    baseline: str | None  # None where it was not run on this pair
    summary: dict[str, list[dict[str, Any]]]
    traces: dict[str, Traces]
    passes: dict[str, dict[str, float]]  # means over an agent's runs: a line search takes more of them in some

    @classmethod
    def make(cls, results: Results, losses: Losses, baseline: str) -> _Pair:
        part = results.of(losses.task, losses.optimizer)
        if losses.cut or losses.left_out:
            part = part.of_runs(losses.agents, losses.runs, losses.rates)
        summary = {agent: part.of_agent(agent).to_pylist() for agent in losses.agents}
        there = baseline if baseline in losses.agents else None
        means = part.runs.group_by("agent").aggregate([(name, "mean") for name in PASSES]).to_pylist()
        spent = {row["agent"]: {name: row[f"{name}_mean"] for name in PASSES} for row in means}
        return cls(losses, ranks(losses.values), there, summary, traces_by_agent(part), spent)

    def ranks_of(self, agent: str) -> Array:
        return np.asarray(self.ranks[self.losses.agents.index(agent)])

    def ratios_of(self, agent: str) -> Array | None:
        if self.baseline is None:
            return None
        mine, base = self.losses.of(agent), self.losses.of(self.baseline)
        return np.asarray(np.maximum(mine, TINY) / np.maximum(base, TINY))

    def passes_of(self, agent: str) -> float:
        return passes(*(self.passes[agent][name] for name in PASSES))

    @property
    def budget(self) -> float:
        return min(map(self.passes_of, self.losses.agents))

    def diverged(self, agent: str) -> tuple[int, int]:
        rows = self.summary[agent]
        return sum(row["diverged"] for row in rows), sum(row["runs"] for row in rows)

    def cost(self, agent: str) -> float:
        return NAN if self.baseline is None else self.passes_of(agent) / self.passes_of(self.baseline)

    def budget_loss(self, agent: str | None) -> float:
        if agent not in self.traces:
            return NAN
        losses, cost = self.traces[agent].loss, self.passes_of(agent)
        if self.budget * losses.shape[-1] < cost:  # not one step of it is to be had for that
            return NAN
        reached = loss_at_compute(losses, cost, self.budget)
        return float(np.exp(np.log(np.maximum(reached, TINY)).mean()))

    def rows(self, seed: int) -> list[dict[str, Any]]:
        """Return a row for each agent, the p of those that were tested corrected for their number."""
        rows = [self.row(agent, seed) for agent in self.losses.agents]
        tested = [row for row in rows if np.isfinite(row["p"])]
        for row, corrected in zip(tested, holm([row["p"] for row in tested]), strict=True):
            row["p_holm"] = corrected
        return rows

    def row(self, agent: str, seed: int) -> dict[str, Any]:
        losses, ratios = self.losses, self.ratios_of(agent)
        row: dict[str, Any] = {"task": losses.task, "optimizer": losses.optimizer, "agent": agent}
        row |= {"starts": len(losses.rates), "runs": len(losses.runs)}
        row |= _with_ends("rank", mean_over_tasks([self.ranks_of(agent)], seed=seed))
        row |= _with_ends("ratio", Estimate(NAN, NAN, NAN) if ratios is None else middle_mean([ratios], seed=seed))
        area = mean_over_tasks([log_area(losses.rates, losses.of(agent))[None]], seed=seed)
        row |= _with_ends("area", Estimate(*map(float, np.exp(area))))
        return row | self._paired(agent, seed) | self._starts(agent) | self._costs(agent)

    def _paired(self, agent: str, seed: int) -> dict[str, Any]:
        """Return how the agent's losses stand to the baseline's, paired by start and run; p as of ``compare``."""
        row: dict[str, Any] = _with_ends("difference", Estimate(NAN, NAN, NAN))
        row |= {"improves": NAN, "p": NAN, "p_holm": NAN}
        if self.baseline in (None, agent):
            return row
        mine, base = self.losses.of(agent), self.losses.of(str(self.baseline))
        row |= _with_ends("difference", mean_over_tasks([mine - base], seed=seed))
        row["improves"] = probability_of_improvement(mine.ravel(), base.ravel())
        scores, theirs = (np.log(np.maximum(losses, TINY)).mean(axis=0) for losses in (mine, base))
        if len(scores) > 1:
            row["p"] = signed_rank_p(scores, theirs)
        return row

    def _starts(self, agent: str) -> dict[str, Any]:
        means, rates = self.losses.of(agent).mean(axis=1), self.losses.rates
        best, worst = int(means.argmin()), int(means.argmax())
        lost, runs = self.diverged(agent)
        return {
            "best_loss": float(means[best]),
            "best_lr0": rates[best],
            "worst_loss": float(means[worst]),
            "worst_lr0": rates[worst],
            "diverged": lost,
            "diverged_share": lost / runs,
        }

    def _costs(self, agent: str) -> dict[str, Any]:
        reached = self.budget_loss(agent)
        rival = None if self.baseline is None else self.losses.of(self.baseline).mean(axis=1)
        return self.passes[agent] | {
            "passes": self.passes_of(agent),
            "cost": self.cost(agent),
            "budget": self.budget,
            "budget_loss": reached,
            "budget_ratio": reached / self.budget_loss(self.baseline),
            "trials": NAN if rival is None else trials_to_match(float(self.losses.of(agent).mean()), rival),
        }


def _overall(agent: str, pairs: list[_Pair], seed: int) -> dict[str, Any]:
    ratios = [ratio for pair in pairs if (ratio := pair.ratios_of(agent)) is not None]
    middle = Estimate(NAN, NAN, NAN)
    if ratios:
        groups = [pair.losses.group for pair in pairs if pair.baseline is not None]
        middle = middle_mean(ratios, seed=seed, groups=groups)
    lost = np.array([pair.diverged(agent) for pair in pairs])
    costs = np.array([cost for pair in pairs if np.isfinite(cost := pair.cost(agent))])
    row: dict[str, Any] = {"agent": agent, "pairs": len(pairs)}
    groups = [pair.losses.group for pair in pairs]
    ranked = mean_over_tasks([pair.ranks_of(agent) for pair in pairs], seed=seed, groups=groups)
    row |= _with_ends("rank", ranked) | _with_ends("ratio", middle)
    row["diverged_share"] = float(lost[:, 0].sum() / lost[:, 1].sum())
    return row | {"cost": float(np.exp(np.log(costs).mean())) if len(costs) else NAN}
