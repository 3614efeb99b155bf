"""What the command lines share: options from a dataclass; errors as one line and exit code 2, 130 when interrupted."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from lrcontrol.envs.errors import InputError

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130
Options = TypeVar("Options")


def run_command(
    options: type[Options], run: Callable[[Options], int], program: str, arguments: Sequence[str] | None
) -> int:
    """Parse the command line into ``options``, run it, and return the exit code.

    Args:
        options: a dataclass whose fields and docstrings are the options and their help.
        run: does the work and returns its exit code.
        program: what the help calls it.
        arguments: the command line; None is that of this process.
    """
    parsed = tyro.cli(options, args=arguments, prog=program, description=inspect.getdoc(options))
    try:
        return run(parsed)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt as interrupted:
        print(str(interrupted) or "interrupted: nothing is written", file=sys.stderr)
        return INTERRUPTED


def report_failures(failures: list[dict[str, Any]]) -> int:
    """Name the cells that failed, as in a manifest, on standard error; returns the exit code."""
    for failure in failures:
        first, last = failure["runs"]
        where = f"{failure['task']}, {failure['optimizer']}, {failure['agent']}, runs {first} to {last}"
        print(f"failed: {where}: {failure['error']}", file=sys.stderr)
    return FAILED if failures else 0


def progress_bars(*columns: TextColumn) -> Bars:
    """Return progress bars on standard error, shown only on a terminal and gone when done."""
    terminal = Console(stderr=True)
    shown = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), *columns, TimeRemainingColumn())
    return Bars(*shown, console=terminal, transient=True, disable=not terminal.is_terminal)


def default_folder(parent: str, now: str, *parts: str) -> Path:
    """Return parent/now-part-part, letters that do not belong into a file's name replaced."""
    return Path(parent, f"{now}-{file_name(*parts)}")


def file_name(*parts: str) -> str:
    """Return part-part, letters that do not belong into a file's name replaced."""
    return "".join(letter if letter.isalnum() or letter in "-_.=+" else "_" for letter in "-".join(parts))
