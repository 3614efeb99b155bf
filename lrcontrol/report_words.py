"""What a report says in words, whatever it is written in: what it shows, and what that does not prove."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lrcontrol.columns import number
from lrcontrol.peers import PEERS
from lrcontrol.report_study import ReportStudy
from lrcontrol.standings import Standings
from lrcontrol.statistics import NOTABLE, lowest_holm_p

Rows = Sequence[Mapping[str, Any]]
SEARCHES, REPLAY = ("random-search", "pbt"), "replay"


@dataclass(frozen=True)
class Words:
    """A sentence or two.

    Args:
        text: with {} where a name stands.
        names: of agents, tasks and columns, in the order of their places.
        strong: whether it says that something is missing.
        brief: what a terminal shows of it; a strong one is shown whole.
    """

    text: str
    names: tuple[str, ...] = ()
    strong: bool = False
    brief: str = ""

    def written(self, plain: Callable[[str], str], name: Callable[[str], str]) -> str:
        """Return it with its text and its names each escaped or marked in their own way."""
        first, *others = self.text.split("{}")
        return plain(first) + "".join(name(n) + plain(t) for n, t in zip(self.names, others, strict=True))


def lede(study: ReportStudy, found: Standings) -> Words:
    """Return what is shown."""
    rows = found.rows.to_pylist()
    starts, runs = (_span({row[name] for row in rows}) for name in ("starts", "runs"))
    pairs, several = counted(len(study.results.pairs), "pair"), len(study.manifests) > 1
    return Words(
        f"{pairs} of task and optimizer, {starts} initial rates, {runs} paired runs each. Others are held against {{}}."
        + (f" Results: {_places(study.manifests)}." if several else ""),
        (found.baseline, *(study.manifests if several else ())),
    )


def caveats(study: ReportStudy, found: Standings) -> list[Words]:
    """Return what the tables do not prove: first what is missing from them, then what follows from what is there."""
    rows = found.rows.to_pylist()
    return [*_missing(study, found), *_of_all(study, rows), *_of_some(study, rows)]


def counted(count: int, what: str) -> str:
    """Return a number and what there are of it."""
    return f"{count} {what}" + ("" if count == 1 else "s")


def _span(values: set[int]) -> str:
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low} to {high}"


def _places(names: Any) -> str:
    return ", ".join("{}" for _ in names)


def _given(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that are not left to their defaults, as a command line says None."""
    return {name: value for name, value in config.get("settings", {}).items() if value != "None"}


def _unlike(manifests: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return by what the runs of results that share a task and an optimizer differ, apart from agents and rates."""
    found: dict[str, None] = {}
    for one, other in itertools.combinations([manifest.get("config", {}) for manifest in manifests], 2):
        tasks, optimizers = ({*one.get(name, ())} & {*other.get(name, ())} for name in ("tasks", "optimizers"))
        if not tasks or not optimizers:
            continue
        found |= {name: None for name in ("seed", "steps") if one.get(name) != other.get(name)}
        found |= {"settings": None} if _given(one) != _given(other) else {}
        own, others = (config.get("contents", {}) for config in (one, other))
        if any(own.get(task) != others.get(task) for task in tasks):
            found["what a task of the same name is"] = None
    return list(found)


def _missing(study: ReportStudy, found: Standings) -> Iterator[Words]:
    failures = study.results.failures
    if failures:
        cells: dict[tuple[str, str, str], list[str]] = {}
        for failure in failures:
            runs = f"{failure['runs'][0]} to {failure['runs'][-1]}"
            cells.setdefault((failure["agent"], failure["task"], failure["optimizer"]), []).append(runs)
        whole = {(agent, task, optimizer) for task, optimizer, agent in study.results.failed}
        each = (
            "{} on {}, {}, " + ("all runs" if cell in whole else f"runs {', '.join(runs)}")
            for cell, runs in cells.items()
        )
        told = f"{counted(len(failures), 'cell')} failed, and their runs are missing here: {'; '.join(each)}."
        yield Words(told, tuple(name for cell in cells for name in cell), strong=True)
    if any(manifest.get("complete") is False and not manifest.get("failures") for manifest in study.manifests.values()):
        yield Words("An evaluation was interrupted: what it did not get to is missing here.", strong=True)
    unlike = _unlike(study.manifests.values())
    if unlike:
        yield Words(
            f"The results differ in {' and '.join(unlike)}: their runs are no pairs, and ratios and intervals between "
            f"them compare different trainings.",
            strong=True,
        )
    if any(loss < 0.0 for loss in study.results.runs["train_loss"].to_pylist()):
        yield Words(
            "Some losses are below 0: whatever is of logarithms here, as ratios, areas and intervals are, counts them "
            "as 1e-12 and means nothing.",
            strong=True,
        )
    if found.cut:
        yield Words(
            "Some agents lack runs or initial rates that others have: the tables are over those that all agents of a "
            "task and optimizer have.",
            strong=True,
        )
    if found.left_out:
        each = ("{} on {}, {}" for _ in found.left_out)
        names = tuple(name for task, optimizer, agent in found.left_out for name in (agent, task, optimizer))
        told = f"Left out, having no initial rate and run in common with the others: {'; '.join(each)}."
        yield Words(told, names, strong=True)


def _of_all(study: ReportStudy, rows: Rows) -> Iterator[Words]:
    runs, pairs = {row["runs"] for row in rows}, counted(len(study.results.pairs), "pair")
    yield Words(
        "Every number here is of training loss. Test data selected nothing, neither agents nor initial rates, and "
        "nothing here is said about generalisation.",
        brief="training loss, not generalisation",
    )
    yield Words(
        f"Intervals are at 95 % over {_span(runs)} runs of the same {pairs} of task and optimizer: they hold for these "
        "tasks, not for others." + (" So few runs make them narrower than they should be." if min(runs) < 10 else ""),
        brief=f"intervals over {_span(runs)} runs of these tasks, not of others",
    )
    yield from _of_tests(rows)
    yield Words("The mean rank depends on who else is in the table.", brief="ranks depend on who else is in the table")
    yield Words(
        "{} is the best of its grid, found with as many trainings as the grid has rates. To hold an agent's one "
        "training against it, read {}.",
        ("best", "trials"),
    )
    yield Words(
        "Compute is counted in passes, not in seconds, a backward pass as two, evenly over an agent's steps, also "
        "where it makes several trainings or searches. At equal compute an agent is stopped when the cheapest one is "
        "done; one that plans for its number of steps would have planned otherwise."
    )
    yield Words(
        "All runs of one result were made with one version of everything; another processor rounds differently."
    )


def _of_tests(rows: Rows) -> Iterator[Words]:
    """Say where so few runs and so many agents are compared that no p can be low, whatever the losses."""
    tests: dict[tuple[str, str, int], int] = {}
    for row in rows:
        pair = row["task"], row["optimizer"], row["runs"]
        tests[pair] = tests.get(pair, 0) + (row["p"] == row["p"])  # NaN where it was not tested
    floors = {pair: lowest_holm_p(pair[2], count) for pair, count in tests.items() if count}
    high = [pair for pair, floor in floors.items() if floor > NOTABLE]
    if high:
        where = "" if len(high) == len(tests) else f" on {len(high)} of the {len(tests)} pairs of task and optimizer"
        runs, count = _span({pair[2] for pair in high}), _span({tests[pair] for pair in high})
        floor = number(min(floors[pair] for pair in high))
        yield Words(
            f"With {runs} runs and {count} agents against the baseline no p after Holm can fall below {floor}{where}: "
            "look at the intervals."
        )


def _of_some(study: ReportStudy, rows: Rows) -> Iterator[Words]:
    agents = {agent: agent.partition(" [")[0].partition(":")[0] for agent in study.results.agents}  # its kind
    if any(":knob=true" in agent for agent in agents):
        yield Words(
            "The initial rate of an agent with {} is put in for that optimizer's own knob, which is not always a "
            "learning rate: it is d0 for prodigy and dadapt, reps_rel for dog.",
            ("knob=true",),
        )
    if searches := tuple(agent for agent, kind in agents.items() if kind in SEARCHES):
        yield Words(
            f"The curve of {_places(searches)} is that of the run chosen at its end; before it nobody knows which that "
            "is, so that at equal compute it is shown too well.",
            searches,
        )
    peers = (agent for agent, kind in agents.items() if kind in PEERS and kind not in (*SEARCHES, REPLAY))
    own = tuple(agent for agent in peers if "knob=true" not in agent)  # with it the rates of the base optimizer count
    tasks = {row["task"] for row in rows}
    if own and len({(row["task"], row["optimizer"]) for row in rows}) > len(tasks):
        yield Words(
            f"{_places(own)}: an optimizer of one's own does not look at the base optimizer, has the same rows under "
            "each of them, and counts for each.",
            own,
        )
    if replays := tuple(agent for agent, kind in agents.items() if kind == REPLAY):
        yield Words(
            f"{_places(replays)}: a replay follows the mean of what its agent did on these very runs, so that it has "
            "seen them; the others have not.",
            replays,
            brief="a replay has seen these very runs",
        )
