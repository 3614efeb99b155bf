"""Paired statistics of runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from lrcontrol.envs.errors import InputError

NOTABLE = 0.05


class PairedDifference(NamedTuple):
    """The mean of a − b over pairs and the interval that holds it at the level asked for."""

    mean: float
    low: float
    high: float


def paired_difference(a: ArrayLike, b: ArrayLike, level: float = 0.95, seed: int = 0) -> PairedDifference:
    """Return the mean difference of paired runs with its bootstrap interval.

    Args:
        a: (n,), n ≥ 2; entry i is of run i.
        b: (n,); entry i is of the same run.
        level: of the interval, in (0, 1).
        seed: of the resampling, 10,000 times.

    The interval is the bias-corrected and accelerated one (Efron 1987, JASA 82, section 3) of scipy.stats.bootstrap;
    the mean itself where all differences are equal.

    Raises:
        InputError: not two rows of one length.
    """
    from scipy.stats import bootstrap

    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.ndim != 1 or first.shape != second.shape or len(first) < 2:
        raise InputError(f"paired runs of shapes {first.shape} and {second.shape}: two rows of one length are needed")
    difference = first - second
    mean = float(difference.mean())
    if np.ptp(difference) <= 1e-12 * max(abs(mean), 1e-300):
        return PairedDifference(mean, mean, mean)
    random = np.random.default_rng(seed)
    found = bootstrap((difference,), np.mean, n_resamples=10_000, confidence_level=level, method="BCa", rng=random)
    return PairedDifference(mean, float(found.confidence_interval.low), float(found.confidence_interval.high))


def interquartile_mean(values: ArrayLike) -> float:
    """Return the mean of the middle half of the values, of any shape (Agarwal et al. 2021, section 4.3)."""
    from scipy.stats import trim_mean

    return float(trim_mean(np.asarray(values, dtype=np.float64), 0.25, axis=None))


def probability_of_improvement(a: ArrayLike, b: ArrayLike) -> float:
    """Return the share of pairs in which a is below b, a tie counting half.

    Agarwal et al. (2021, section 4.3) compare every run with every other; here the pairs are what belongs together.

    Args:
        a: (n,), losses.
        b: (n,), entry i of the same run and start.
    """
    first, second = np.asarray(a), np.asarray(b)
    return float(np.mean((first < second) + 0.5 * (first == second)))


def signed_rank_p(a: ArrayLike, b: ArrayLike) -> float:
    """Return p of the two-sided signed-rank test (Wilcoxon 1945) of paired runs, 1 where all of them are equal."""
    from scipy.stats import wilcoxon

    return 1.0 if np.array_equal(a, b) else float(wilcoxon(a, b).pvalue)


def lowest_holm_p(runs: int, tests: int) -> float:
    """Return the lowest that ``holm`` can make of ``tests`` times ``signed_rank_p``, each at least 2 / 2^runs."""
    return min(1.0, tests * 2.0 ** (1 - runs))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values corrected for their number, in the order given (Holm 1979, Scand. J. Statist. 6, p. 65)."""
    order = np.argsort(p_values, kind="stable")
    factors = len(p_values) - np.arange(len(p_values))
    stepped = np.maximum.accumulate(np.asarray(p_values, dtype=np.float64)[order] * factors)
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(stepped, 1.0)
    return [float(value) for value in corrected]
