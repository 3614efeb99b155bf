"""The report: one page that holds its tables, its data, its style and its script, and asks the network for nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from lrcontrol.columns import COSTS, HEADLINE, OVERALL, PAIRS
from lrcontrol.envs.errors import InputError
from lrcontrol.report_data import page_data
from lrcontrol.report_study import ReportStudy, combine, differing, facts, rerun
from lrcontrol.report_tables import Rows, code, facts_table, interval_table, meanings, plain_table, standings_table
from lrcontrol.results import Results
from lrcontrol.standings import Standings, standings

ASSETS = resources.files("lrcontrol") / "report_assets"
IN_SCRIPT = {ord("<"): "\\u003c", ord(">"): "\\u003e", ord("&"): "\\u0026", 0x2028: "\\u2028", 0x2029: "\\u2029"}


def write_report(results_by_name: Mapping[str, Results], path: str | Path, baseline: str | None = None) -> None:
    """Write a page that shows results, one or several side by side; the same results make the same bytes.

    Args:
        results_by_name: the names tell agents apart that several results have.
        path: of the page, replaced if it is there.
        baseline: the agent that others are held against; None is that of ``usual_baseline``.

    Raises:
        InputError: a baseline that is not there, results that cannot be compared, or a path that cannot be written.
    """
    study = combine(results_by_name, baseline)
    write_text(Path(path), page_of(study, standings(study.results, study.baseline)))


def write_text(path: Path, text: str) -> None:
    """Write a text file, its folder made where it is missing.

    Raises:
        InputError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}; choose another file") from error


def page_of(study: ReportStudy, found: Standings) -> str:
    """Return the page of results and their standings."""
    rows, overall = found.rows.to_pylist(), found.overall.to_pylist()
    data = json.dumps(page_data(study.results, found), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    ordered = sorted(rows, key=lambda row: (study.results.pairs.index((row["task"], row["optimizer"])), row["rank"]))
    parts = {
        "title": escape(f"{_counted(len(overall), 'agent')} on {', '.join(dict.fromkeys(r['task'] for r in rows))}"),
        "lede": _lede(study, found, rows),
        "caveats": "".join(f"<li>{text}</li>" for text in _caveats(study, found, rows)),
        "overall": _overall(overall, len(study.results.pairs), found.baseline),
        "headline": standings_table(ordered, HEADLINE[2:], found.baseline, "Each task with each optimizer"),
        "costs": standings_table(ordered, COSTS[2:], found.baseline, "Cost of a run"),
        "meanings": meanings(HEADLINE),
        "cost_meanings": meanings(COSTS[3:]),
        "failures": _failures(study),
        "made": _made(study),
        "data": data.translate(IN_SCRIPT),
        "style": _asset("page.css"),
        "script": _asset("chart.js") + _asset("page.js"),
    }
    return Template(_asset("page.html")).substitute(parts)


def _overall(rows: Rows, pairs: int, baseline: str) -> str:
    """Return the table over all pairs; how many an agent has is left out where all have all."""
    columns = OVERALL if any(row["pairs"] < pairs for row in rows) else [c for c in OVERALL if c is not PAIRS]
    caption = "All tasks and optimizers together, whatever is filtered" if pairs > 1 else "Rank and ratio"
    return interval_table(rows, columns, baseline, caption)


def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" + ("" if count == 1 else "s")


def _lede(study: ReportStudy, found: Standings, rows: Rows) -> str:
    runs, starts = {row["runs"] for row in rows}, {row["starts"] for row in rows}
    cells = (
        f"{_counted(len(study.results.pairs), 'pair')} of task and optimizer, {_span(starts)} initial rates, "
        f"{_span(runs)} paired runs each. Others are held against {code(found.baseline)}."
    )
    several = len(study.manifests) > 1
    return cells + (f" Results: {', '.join(code(name) for name in study.manifests)}." if several else "")


def _span(values: set[int]) -> str:
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low} to {high}"


def _caveats(study: ReportStudy, found: Standings, rows: Rows) -> list[str]:
    agents, pairs, runs = study.results.agents, len(study.results.pairs), min(row["runs"] for row in rows)
    told = [
        "Every number here is of training loss. Test data selected nothing, neither agents nor initial rates, and "
        "nothing here is said about generalisation.",
        f"Intervals are at 95 % over {_span({row['runs'] for row in rows})} runs of the same {_counted(pairs, 'pair')} "
        "of task and optimizer: they hold for these tasks, not for others."
        + (" So few runs make them narrower than they should be." if runs < 10 else ""),
        "<em>best</em> is the best of its grid, found with as many trainings as the grid has rates. To hold an agent's "
        "one training against it, read <em>trials</em>.",
        "Compute is counted in passes, not in seconds, a backward pass as two, evenly over an agent's steps, also "
        "where it makes several trainings or searches. At equal compute an agent is stopped "
        "when the cheapest one is done; one that plans for its number of steps would have planned otherwise.",
        "All runs of one result were made with one version of everything; another processor rounds differently.",
    ]
    if any(":knob=true" in agent for agent in agents):
        told.append(
            "The initial rate of an agent with <code>knob=true</code> is put in for that optimizer's own knob, which "
            "is not always a learning rate: it is d0 for prodigy and dadapt, reps_rel for dog."
        )
    if searches := [agent for agent in agents if agent.partition(":")[0] in ("random-search", "pbt")]:
        told.append(
            f"The curve of {', '.join(map(code, searches))} is that of the run chosen at its end; before it nobody "
            "knows which that is, so that at equal compute it is shown too well."
        )
    if any(manifest.get("complete") is False for manifest in study.manifests.values()):
        told.append("<strong>An evaluation was interrupted: what it did not get to is missing here.</strong>")
    if found.cut:
        told.append(
            "<strong>Some agents lack runs or initial rates that others have</strong>: the tables are over those that "
            "all agents of a task and optimizer have; the curves show all."
        )
    if found.left_out:
        names = "; ".join(
            f"{code(agent)} on {code(task)}, {code(optimizer)}" for task, optimizer, agent in found.left_out
        )
        told.append(f"<strong>Left out</strong>, having no initial rate and run in common with the others: {names}.")
    if any(manifest.get("failures") for manifest in study.manifests.values()):
        told.append('<strong>Some runs failed</strong> and are in no table: see <a href="#failures">Failures</a>.')
    return told


def _failures(study: ReportStudy) -> str:
    rows = [
        [_plain(failure.get(key, "")) for key in ("task", "optimizer", "agent", "runs", "error")] + [name]
        for name, manifest in study.manifests.items()
        for failure in manifest.get("failures") or []
    ]
    if not rows:
        return "<p>No run failed.</p>"
    return plain_table(["task", "optimizer", "agent", "runs", "error", "result"], rows, "Runs that failed")


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _made(study: ReportStudy) -> str:
    parts = []
    if len(study.manifests) > 1:
        different = [[key, *values] for key, values in differing(study.manifests).items()]
        heads = ["", *study.manifests]
        parts.append(
            plain_table(heads, different, "What differs between the results")
            if different
            else "<p>Nothing differs in how these results were made.</p>"
        )
    for name, manifest in study.manifests.items():
        parts.append(f"<h3>{escape(name)}</h3>{_again(manifest)}")
        parts.append(facts_table(facts(manifest), f"How {name} was made"))
    return "".join(parts)


def _again(manifest: Mapping[str, Any]) -> str:
    return (
        "<p>To make it again, from the commit and with the versions below:</p>"
        f'<pre tabindex="0"><code>{escape(rerun(manifest))}</code></pre>'
    )
