"""The report as text: the table of all tasks and agents in Markdown and LaTeX, with what it does not prove."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from lrcontrol.columns import (
    AGENT,
    BEST,
    COST,
    DIVERGED,
    HEADLINE,
    OPTIMIZER,
    P_HOLM,
    RANK,
    RATIO,
    TASK,
    WORST,
    Column,
    Row,
)
from lrcontrol.report_study import ReportStudy
from lrcontrol.report_words import Words, caveats, lede
from lrcontrol.standings import Standings

PAPER = (TASK, OPTIMIZER, AGENT, RANK, RATIO, P_HOLM, BEST, WORST, DIVERGED, COST)  # what fits onto a page
MARKS = "\\`*_[]<>|#&"
NOTES = "What this does not prove"


def markdown_page(study: ReportStudy, found: Standings) -> str:
    """Return what is shown, what that does not prove, and the table, as Markdown."""
    items = [f"- **{text}**" if words.strong else f"- {text}" for words, text in _all(study, found, in_markdown)]
    head = [in_markdown(lede(study, found)), "", f"{NOTES}:", "", *items, ""]
    return "\n".join(head) + "\n" + markdown_table(found.listed())


def latex_page(study: ReportStudy, found: Standings) -> str:
    """Return the narrower table as LaTeX, what it does not prove in small letters below it."""
    caption = f"Final training loss against {found.baseline}, intervals at 95 % over runs."
    notes = [rf"\textbf{{{text}}}" if words.strong else text for words, text in _all(study, found, in_latex)]
    notes = [in_latex(lede(study, found)), rf"\emph{{{NOTES}.}}", *notes]
    return latex_table(found.listed(), PAPER, caption, "\n".join(notes))


def _all(study: ReportStudy, found: Standings, written: Callable[[Words], str]) -> list[tuple[Words, str]]:
    return [(words, written(words)) for words in caveats(study, found)]


def in_markdown(words: Words) -> str:
    """Return words as Markdown, names as code."""
    return words.written(_escaped, lambda name: _in_markdown(AGENT, name))


def _escaped(text: str) -> str:
    return "".join(f"\\{letter}" if letter in MARKS else letter for letter in text)


def markdown_table(rows: Sequence[Row], columns: Sequence[Column] = HEADLINE) -> str:
    """Return rows as a Markdown table, numbers to the right; what would end a cell is escaped."""
    lines = ["| " + " | ".join(column.title for column in columns) + " |"]
    lines.append("|" + "|".join("---" if column.is_text else "---:" for column in columns) + "|")
    for row in rows:
        cells = (_in_markdown(column, column.cell(row)) for column in columns)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _in_markdown(column: Column, text: str) -> str:
    if not column.is_text:
        return text
    plain = text.replace("\n", " ")
    if "`" in plain:  # a code span cannot hold its own mark
        return _escaped(plain)
    return "`" + plain.replace("|", "\\|") + "`"


LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "∞": r"$\infty$", "–": "--"}
LATEX |= {letter: f"\\{letter}" for letter in "&%$#_{}"} | {"<": r"\textless{}", ">": r"\textgreater{}", "\n": " "}
SHRUNK = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"  # never made larger


def latex_escaped(text: str) -> str:
    """Return text that LaTeX prints as it stands."""
    return "".join(LATEX.get(letter, letter) for letter in text)


def in_latex(words: Words) -> str:
    """Return words as LaTeX, names in typewriter letters."""
    return words.written(latex_escaped, lambda name: rf"\texttt{{{latex_escaped(name)}}}")


def latex_table(rows: Sequence[Row], columns: Sequence[Column] = PAPER, caption: str = "", notes: str = "") -> str:
    """Return rows as a LaTeX table for booktabs and graphicx, no wider than the text, names and numbers escaped.

    Args:
        rows: of standings.
        columns: of the table.
        caption: plain text, escaped here.
        notes: LaTeX, set below the table in small letters.
    """
    form = "".join("l" if column.is_text else "r" for column in columns)
    lines = [r"% needs \usepackage{booktabs,graphicx}", r"\begin{table}", r"\centering"]
    lines += [rf"\caption{{{latex_escaped(caption)}}}"] if caption else []
    lines += [SHRUNK, rf"\begin{{tabular}}{{{form}}}", r"\toprule"]
    lines.append(" & ".join(latex_escaped(column.title) for column in columns) + r" \\")
    lines.append(r"\midrule")
    lines += [" & ".join(_in_latex(column, column.cell(row)) for column in columns) + r" \\" for row in rows]
    lines += [r"\bottomrule", r"\end{tabular}}"]
    lines += (
        [r"\par\smallskip", r"\begin{minipage}{\linewidth}\footnotesize", notes, r"\end{minipage}"] if notes else []
    )
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def _in_latex(column: Column, text: str) -> str:
    escaped = latex_escaped(text)
    if not column.is_text:
        escaped = re.sub(r"([\d.]+)e([+-]\d+)", _power, escaped)
    # a row that began with [ would be read as the space that \\ may ask for
    return f"{{{escaped}}}" if escaped.startswith("[") else escaped


def _power(found: re.Match[str]) -> str:
    factor = "" if found[1] == "1" else rf"{found[1]}\cdot "
    return f"${factor}10^{{{int(found[2])}}}$"


def brief(study: ReportStudy, found: Standings) -> list[str]:
    """Return what a terminal says: a line for each thing that is missing, and one for what else is not proved."""
    told = caveats(study, found)
    lines = [words.written(str, str) for words in told if words.strong]
    return [*lines, f"{NOTES.lower()}: " + "; ".join(words.brief for words in told if words.brief)]
