"""The tables of the page, in HTML, so that they are there without a script; every text in them is escaped."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from lrcontrol.columns import Column

Rows = Sequence[Mapping[str, Any]]
WIDTH, HEIGHT = 112, 18
ROOM, LITTLE = 3, 1.05


def code(text: str) -> str:
    """Return a name as code."""
    return f"<code>{escape(text)}</code>"


def standings_table(rows: Rows, columns: Sequence[Column], baseline: str, caption: str) -> str:
    """Return rows of standings, a group for each task with each optimizer; rows and groups say so for the filters."""
    groups: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        groups.setdefault((row["task"], row["optimizer"]), []).append(_row(row, _cells(row, columns), baseline))
    bodies = []
    for (task, optimizer), lines in groups.items():
        title = (
            f'<tr class="group"><th scope="rowgroup" colspan="{len(columns)}">{code(task)}, {code(optimizer)}</th></tr>'
        )
        bodies.append(f"<tbody{_facts({'task': task, 'optimizer': optimizer})}>{title}{''.join(lines)}</tbody>")
    return _table(_heads(columns), bodies, caption)


def interval_table(rows: Rows, columns: Sequence[Column], baseline: str, caption: str) -> str:
    """Return the agents over all pairs, rank and ratio drawn as dots with their intervals too."""
    names, rest = columns[:3], columns[3:]
    scales = {"rank": _Scale(rows, "rank", logarithmic=False), "ratio": _Scale(rows, "ratio", logarithmic=True)}
    heads = _heads(names[:1]) + "".join(
        _heads([column]) + f'<th scope="col" class="dots"><span class="quiet">{scales[column.key].title}</span></th>'
        for column in names[1:]
    )
    body = []
    for row in rows:
        cells = _cells(row, names[:1])
        for column in names[1:]:
            cells += _cells(row, [column]) + f'<td class="dots">{scales[column.key].drawn(row)}</td>'
        body.append(_row(row, cells + _cells(row, rest), baseline))
    return _table(heads + _heads(rest), _body(body), caption)


def plain_table(heads: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> str:
    """Return a table of texts."""
    head = "".join(f'<th scope="col" class="text">{escape(title)}</th>' for title in heads)
    body = ["<tr>" + "".join(f'<td class="text">{escape(cell)}</td>' for cell in row) + "</tr>" for row in rows]
    return _table(head, _body(body), caption)


def facts_table(facts: Mapping[str, str], caption: str) -> str:
    """Return names and values, folded away."""
    body = [
        f'<tr><th scope="row">{escape(key)}</th><td class="text">{escape(value)}</td></tr>'
        for key, value in facts.items()
    ]
    return f"<details><summary>{escape(caption)}</summary>{_table('', _body(body), caption)}</details>"


def meanings(columns: Sequence[Column]) -> str:
    """Return what the columns say, as a list of definitions."""
    told = [f"<div><dt>{escape(c.title)}</dt><dd>{escape(c.meaning)}</dd></div>" for c in columns if c.meaning]
    return f"<dl>{''.join(told)}</dl>"


def _body(rows: Sequence[str]) -> list[str]:
    return [f"<tbody>{''.join(rows)}</tbody>"]


def _table(head: str, bodies: Sequence[str], caption: str) -> str:
    top = f"<thead><tr>{head}</tr></thead>" if head else ""
    label = escape(caption)
    inside = f"<table><caption><span>{label}</span></caption>{top}{''.join(bodies)}</table>"
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{label}">{inside}</div>'


def _heads(columns: Sequence[Column]) -> str:
    return "".join(
        f'<th scope="col" data-sort class="{_kind(c)}" title="{escape(c.meaning)}">{escape(c.title)}</th>'
        for c in columns
    )


def _kind(column: Column) -> str:
    return f"text {column.key}" if column.is_text else "number"


def _cells(row: Mapping[str, Any], columns: Sequence[Column]) -> str:
    cells = []
    for column in columns:
        shown = code(column.cell(row)) if column.is_text else _with_quiet_interval(column.cell(row))
        tag = 'th scope="row"' if column.key == "agent" else "td"
        value = f' data-value="{_sortable(row.get(column.key, math.nan))}"'
        cells.append(f'<{tag} class="{_kind(column)}"{value}>{shown}</{tag.split()[0]}>')
    return "".join(cells)


def _sortable(value: Any) -> str:
    return escape(value) if isinstance(value, str) else "" if math.isnan(value) else repr(float(value))


def _with_quiet_interval(text: str) -> str:
    for mark in (" [", " @ "):
        value, found, rest = text.partition(mark)
        if found:
            return f'{escape(value)}<span class="quiet">{escape(found + rest)}</span>'
    return escape(text)


def _row(row: Mapping[str, Any], cells: str, baseline: str) -> str:
    facts = _facts({key: row[key] for key in ("task", "optimizer", "agent") if key in row})
    marked = ' class="baseline"' if row["agent"] == baseline else ""
    return f"<tr{facts}{marked}>{cells}</tr>"


def _facts(names: Mapping[str, str]) -> str:
    return "".join(f' data-{key}="{escape(name)}"' for key, name in names.items())


class _Scale:
    """A small axis that the intervals of one column share.

    A logarithmic one is at most ``ROOM`` times as long as what the better three quarters of the rows need: one agent
    that explodes would leave no width to the intervals of the rest. What lies beyond is an arrow at its end.
    """

    def __init__(self, rows: Rows, key: str, logarithmic: bool) -> None:
        ends = [[row.get(name, math.nan) for name in (key, f"{key}_low", f"{key}_high")] for row in rows]
        usable = [[value for value in row if math.isfinite(value) and (value > 0 or not logarithmic)] for row in ends]
        kept = [row for row in usable if row] or [[1.0]]
        tops = sorted(max(row) for row in kept)
        self.key, self.logarithmic = key, logarithmic
        self.low = min(1.0, *(min(row) for row in kept))
        enough = max(LITTLE, tops[(3 * len(tops) - 1) // 4]) / self.low if logarithmic else 1.0
        self.high = max(1.0, *(top for top in tops if not logarithmic or top / self.low <= enough**ROOM))
        beyond = ", ▸ beyond" if tops[-1] > self.high else ""
        self.title = f"{self.low:.2g} to {self.high:.2g}{', log' if logarithmic else ''}{beyond}"

    def place(self, value: float) -> float:
        ends = (self.low, self.high, min(value, self.high))
        low, high, at = (math.log(v) if self.logarithmic else v for v in ends)
        return 5 + (WIDTH - 10) * ((at - low) / (high - low) if high > low else 0.5)

    def drawn(self, row: Mapping[str, Any]) -> str:
        value, low, high = (row.get(name, math.nan) for name in (self.key, f"{self.key}_low", f"{self.key}_high"))
        if not math.isfinite(value):
            return ""
        middle, one = HEIGHT / 2, self.place(1.0)
        line = f'<path class="one" d="M{one:.1f} 0V{HEIGHT}"/>'
        if math.isfinite(low):
            line += f'<path class="span" d="M{self.place(low):.1f} {middle:g}H{self.place(high):.1f}"/>'
        dot = f'<circle cx="{self.place(value):.1f}" cy="{middle:g}" r="3.5"/>' if value <= self.high else ""
        if value > self.high or high > self.high:
            dot += f'<path class="beyond" d="M{WIDTH - 7} {middle - 4:g}v8l6 -4Z"/>'
        return f'<svg width="{WIDTH}" height="{HEIGHT}" aria-hidden="true">{line}{dot}</svg>'
