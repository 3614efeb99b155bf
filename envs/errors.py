"""The one error that a user's input can cause, and the nearest name to a misspelled one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Input that cannot be used; the message names the bad value and the way out.

    The command line prints it as one line and exits with code 2; Python code sees a ``ValueError``.
    """


def unknown(what: str, value: str, known: Iterable[str]) -> InputError:
    """Return the error for a name that is not among ``known``, suggesting the nearest one."""
    names = list(known)
    near = difflib.get_close_matches(value, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return InputError(f"unknown {what} {value!r}: {hint}known are {', '.join(names)}")
