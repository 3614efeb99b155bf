"""The command line of ``python -m lrcontrol.report``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from lrcontrol.cli import report_failures, run_command
from lrcontrol.envs.errors import InputError
from lrcontrol.report_html import page_of, write_text
from lrcontrol.report_study import combine, load_all
from lrcontrol.report_text import brief, latex_page, markdown_page
from lrcontrol.standings import standings
from lrcontrol.tables import standings_tables


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Show results of lrcontrol.evaluate as one page: tables with intervals, curves, costs, and how they were made.

    The page is a single file that needs no network. Several folders are shown side by side: an agent that two of them
    hold on the same task is then called "agent [folder]", and the page says what differs in how they were made.
    Where cells have failed the exit code is 1; what is there is reported all the same.

    Examples:
      python -m lrcontrol.report results/mine
      python -m lrcontrol.report results/before results/after --out compared.html
      python -m lrcontrol.report results/mine --baseline constant --markdown table.md --latex table.tex
    """

    folders: Annotated[
        tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER [FOLDER ...]", help_behavior_hint="")
    ]
    """Folders that lrcontrol.evaluate wrote, one or more."""

    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """The page; it is replaced if it is there. Default: report.html in the first folder."""

    baseline: Annotated[str | None, tyro.conf.arg(metavar="AGENT")] = None
    """Hold all other agents against this one. Default: schedule:kind=cosine, else constant, else the first."""

    markdown: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Write the table of all tasks, optimizers and agents, and what it does not prove, as Markdown too."""

    latex: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Write the most important of its columns as LaTeX too, for the packages booktabs and graphicx."""


def run_report(options: ReportOptions) -> int:
    """Print the standings and write what was asked for; returns the exit code."""
    if not options.folders:
        raise InputError("no results to report: give one folder or more")
    study = combine(load_all(options.folders), options.baseline)
    found = standings(study.results, study.baseline)
    out = options.out or options.folders[0] / "report.html"
    write_text(out, page_of(study, found))
    if options.markdown is not None:
        write_text(options.markdown, markdown_page(study, found))
    if options.latex is not None:
        write_text(options.latex, latex_page(study, found))
    console = Console()
    for table in standings_tables(found):
        console.print(table)
    for line in brief(study, found):
        console.print(line, style="dim", markup=False, highlight=False)
    console.print(f"[dim]the page is[/dim] {out}", soft_wrap=True, highlight=False)
    return report_failures(study.results.failures)


def main(arguments: Sequence[str] | None = None) -> int:
    """Report as the command line says; see ``run_command`` for the exit code."""
    return run_command(ReportOptions, run_report, "python -m lrcontrol.report", arguments)
