"""The report: one page that holds its tables, its data, its style and its script, and asks the network for nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from lrcontrol.columns import COSTS, FAILED, HEADLINE, OVERALL, PAIRS
from lrcontrol.envs.errors import InputError
from lrcontrol.report_data import page_data
from lrcontrol.report_study import ReportStudy, combine, differing, facts, rerun
from lrcontrol.report_tables import Rows, code, facts_table, interval_table, meanings, plain_table, standings_table
from lrcontrol.report_words import Words, caveats, counted, lede
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
    rows, overall = found.listed(), found.overall_listed()
    data = json.dumps(page_data(study.results, found), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    parts = {
        "title": escape(f"{counted(len(overall), 'agent')} on {', '.join(dict.fromkeys(r['task'] for r in rows))}"),
        "lede": _html(lede(study, found)),
        "caveats": "".join(f"<li>{_html(words)}</li>" for words in caveats(study, found)),
        "overall": _overall(overall, len(study.results.pairs), found.baseline),
        "headline": standings_table(rows, HEADLINE[2:], found.baseline, "Each task with each optimizer"),
        "costs": standings_table(
            [row for row in rows if FAILED not in row], COSTS[2:], found.baseline, "Cost of a run"
        ),
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
    whole = all(row.get("pairs", pairs) == pairs for row in rows)
    columns = [column for column in OVERALL if column is not PAIRS] if whole else OVERALL
    caption = "All tasks and optimizers together, whatever is filtered" if pairs > 1 else "Rank and ratio"
    return interval_table(rows, columns, baseline, caption)


def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


def _html(words: Words) -> str:
    text = words.written(escape, code)
    return f"<strong>{text}</strong>" if words.strong else text


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
