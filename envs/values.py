"""Arithmetic for arrays (R,), a row for each replica, and for the plain numbers of a single run.

numpy takes ten times as long as ``math`` for one number, and more where a training step has just been through the
caches. So a number stays one, and what is made of it is what numpy would say: NaN stays NaN, a division by 0 is
infinite or NaN, the root of what is below 0 NaN. For arrays numpy's warnings are the caller's to silence.
"""

from __future__ import annotations

import math
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]
Values = TypeVar("Values", NDArray[np.float64], float)

TINY = 1e-12  # losses below it read as it
LEAST = 1e-30  # and all else


def safe_log(values: Values) -> Values:
    """Return the natural logarithm, values below 1e-12 read as 1e-12 and NaN kept."""
    if isinstance(values, float):
        return math.log(values if values > TINY or values != values else TINY)
    return np.log(np.maximum(values, TINY))


def log10(values: Values) -> Values:
    """Return the decimal logarithm, values below 1e-30 read as 1e-30 and NaN kept."""
    if isinstance(values, float):
        return math.log10(values if values > LEAST or values != values else LEAST)
    return np.log10(np.maximum(values, LEAST))


def root(values: Values) -> Values:
    """Return the square root."""
    if isinstance(values, float):
        return math.sqrt(values) if values >= 0.0 else math.nan
    return np.sqrt(values)


def over(values: Values, by: Values) -> Values:
    """Return values / by."""
    if isinstance(by, float) and by == 0.0:
        return values * math.copysign(math.inf, by)
    return values / by


def lesser(a: Values, b: Values | float) -> Values:
    """Return the lesser of two, NaN where one is."""
    if isinstance(a, float) and isinstance(b, float):
        return a if a <= b or a != a else b
    return np.minimum(a, b)


def greater(a: Values, b: Values | float) -> Values:
    """Return the greater of two, NaN where one is."""
    if isinstance(a, float) and isinstance(b, float):
        return a if a >= b or a != a else b
    return np.maximum(a, b)
