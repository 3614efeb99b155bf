"""The columns of the tables of standings, one definition for terminal, page, Markdown and LaTeX."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]
NOTHING, FAILED = "–", "failed"


def number(value: float, digits: int = 3) -> str:
    """Return a number to some significant digits, an infinite one as ∞, a missing one as a dash."""
    if math.isnan(value):
        return NOTHING
    if math.isinf(value):
        return "∞"
    return f"{value:#.{digits}g}".rstrip(".") if 1e-3 <= abs(value) < 10**digits else f"{value:.{digits}g}"


def with_interval(row: Row, name: str, digits: int = 3) -> str:
    """Return a value and the interval of its _low and _high, [a, b] left out where there is none."""
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    if math.isnan(low):
        return number(row[name], digits)
    return f"{number(row[name], digits)} [{number(low, digits)}, {number(high, digits)}]"


@dataclass(frozen=True)
class Column:
    """A column: its title, what it shows of a row, what that means, and by which of the row's values it is sorted."""

    title: str
    show: Callable[[Row], str]
    meaning: str
    key: str

    @property
    def is_text(self) -> bool:
        """Whether it holds names, which stand to the left."""
        return self.key in ("task", "optimizer", "agent")

    def cell(self, row: Row) -> str:
        """Return what it shows of a row; of one with ``failed``, which has names only, that for its rank."""
        if self.is_text or FAILED not in row:
            return self.show(row)
        return FAILED if self.key == "rank" else NOTHING


def _name(key: str) -> Column:
    return Column(key, lambda row: str(row[key]), "", key)


def _share(row: Row) -> str:
    return f"{row['diverged_share']:.0%}" if row["diverged_share"] else "0"


TASK, OPTIMIZER, AGENT = (_name(key) for key in ("task", "optimizer", "agent"))
RANK = Column(
    "rank",
    lambda row: with_interval(row, "rank"),
    "mean rank among the agents on the same start and run, 1 is best",
    "rank",
)
RATIO = Column(
    "ratio",
    lambda row: with_interval(row, "ratio"),
    "final training loss over the baseline's on the same start and run, interquartile mean; below 1 is better",
    "ratio",
)
DIVERGED = Column("diverged", _share, "share of runs that ended not finite or above their first loss", "diverged_share")
COST = Column(
    "cost", lambda row: number(row["cost"]), "passes of a run over the baseline's, backward counted as two", "cost"
)
PAIRS = Column("pairs", lambda row: str(row["pairs"]), "tasks with optimizers that it was run on", "pairs")
AREA = Column(
    "area",
    lambda row: with_interval(row, "area"),
    "exp of the mean log final training loss over the decades of the initial rate",
    "area",
)
DIFFERENCE = Column(
    "difference",
    lambda row: with_interval(row, "difference"),
    "final training loss less the baseline's on the same start and run, mean; an exploded start weighs most",
    "difference",
)
IMPROVES = Column(
    "improves",
    lambda row: NOTHING if math.isnan(row["improves"]) else f"{row['improves']:.0%}",
    "share of starts and runs on which it ends lower than the baseline; a tie counts half",
    "improves",
)
P_HOLM = Column(
    "p (Holm)",
    lambda row: number(row["p_holm"], 2),
    "Wilcoxon's signed-rank test of the runs' mean log losses against the baseline's, corrected for many agents",
    "p_holm",
)
BEST = Column(
    "best",
    lambda row: f"{number(row['best_loss'])} @ {row['best_lr0']:g}",
    "mean final training loss from the best initial rate of the grid: known only after trying all of them",
    "best_loss",
)
WORST = Column(
    "worst start",
    lambda row: f"{number(row['worst_loss'])} @ {row['worst_lr0']:g}",
    "mean final training loss from the worst initial rate of the grid",
    "worst_loss",
)
TRIALS = Column(
    "trials",
    lambda row: f"{row['trials']:.0f}" if math.isfinite(row["trials"]) else number(row["trials"]),
    "random-search trials over the grid until the baseline's best is expected at the agent's mean loss over starts",
    "trials",
)
AT_BUDGET = Column(
    "at equal compute",
    lambda row: number(row["budget_ratio"]),
    "minibatch training loss over the baseline's when both have spent the passes of the pair's cheapest agent",
    "budget_ratio",
)
BUDGET_LOSS = Column(
    "loss then",
    lambda row: number(row["budget_loss"]),
    "that minibatch loss, geometric mean over starts and runs",
    "budget_loss",
)
FORWARD = Column(
    "forward", lambda row: f"{row['forward_passes']:.0f}", "forward passes of a run, mean", "forward_passes"
)
BACKWARD = Column(
    "backward", lambda row: f"{row['backward_passes']:.0f}", "backward passes of a run, mean", "backward_passes"
)
PASSES = Column("passes", lambda row: f"{row['passes']:.0f}", "forward + 2 · backward", "passes")
BUDGET = Column("budget", lambda row: f"{row['budget']:.0f}", "passes of the pair's cheapest agent", "budget")

OVERALL = (AGENT, RANK, RATIO, DIVERGED, COST, PAIRS)
HEADLINE = (
    TASK,
    OPTIMIZER,
    AGENT,
    RANK,
    RATIO,
    IMPROVES,
    P_HOLM,
    AREA,
    BEST,
    WORST,
    DIVERGED,
    COST,
    AT_BUDGET,
    TRIALS,
    DIFFERENCE,
)
COSTS = (TASK, OPTIMIZER, AGENT, FORWARD, BACKWARD, PASSES, COST, BUDGET, BUDGET_LOSS, AT_BUDGET, TRIALS)


def _brief(column: Column, show: Callable[[Row], str], title: str = "") -> Column:
    return Column(title or column.title, show, column.meaning, column.key)


# what fits into the eighty columns of a terminal
TERMINAL = (
    AGENT,
    _brief(RANK, lambda row: number(row["rank"])),
    _brief(RATIO, lambda row: with_interval(row, "ratio", 2)),
    _brief(WORST, lambda row: number(row["worst_loss"]), "worst\nstart"),
    DIVERGED,
    COST,
    TRIALS,
)
