"""Statistics over several tasks, initial rates and runs at once: profiles, ranks, areas, middle means of ratios."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lrcontrol.envs.errors import InputError
from lrcontrol.envs.values import TINY

Array = NDArray[np.float64]
RESAMPLES = 2_000


class Estimate(NamedTuple):
    """A number and the interval that holds it at the level asked for; NaN ends where one run is all there is."""

    value: float
    low: float
    high: float


def over_runs(
    samples: Sequence[Array],
    statistic: Callable[[list[Array]], Any],
    level: float = 0.95,
    seed: int = 0,
    groups: Sequence[Hashable] | None = None,
) -> Estimate:
    """Return a statistic of several tasks with its bootstrap interval: runs are resampled, each task's by themselves.

    Resampling within each task is the stratified bootstrap of Agarwal et al. (2021, section 4.2); the interval is the
    bias-corrected and accelerated one (Efron 1987, JASA 82, section 3) of ``scipy.stats.bootstrap``, or that of plain
    percentiles where its corrections cannot be had.

    Args:
        samples: (units, runs) for each task; a run stays whole, so that what is in one row of it stays paired.
        statistic: of a list of (units, B, runs), one for each task; (B,).
        level: of the interval, in (0, 1).
        seed: of the resampling.
        groups: of each task; those of one group have the same runs, such as one task under two optimizers, and are
            resampled together. None, and each is by itself.
    """
    from scipy.stats import bootstrap

    labels = list(range(len(samples))) if groups is None else list(groups)
    runs = {label: sample.shape[1] for label, sample in zip(labels, samples, strict=True)}
    value = float(statistic([sample[:, None, :] for sample in samples])[0])
    if any(sample.shape[1] == 1 for sample in samples):  # nothing to resample there
        return Estimate(value, float("nan"), float("nan"))
    if all(np.ptp(sample, axis=1).max() <= 1e-12 * np.abs(sample).max() for sample in samples):
        return Estimate(value, value, value)

    def of_numbers(*numbers: NDArray[np.int64], axis: int = -1) -> Any:
        drawn = dict(zip(runs, numbers, strict=True))
        taken = [sample[:, np.atleast_2d(drawn[label])] for label, sample in zip(labels, samples, strict=True)]
        found = statistic(taken)
        return found if numbers[0].ndim > 1 else found[0]

    numbers = [np.arange(count) for count in runs.values()]
    random = np.random.default_rng(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the corrections are degenerate: percentiles take over below
        found = bootstrap(
            numbers,
            of_numbers,
            vectorized=True,
            n_resamples=RESAMPLES,
            confidence_level=level,
            method="BCa",
            rng=random,
        )
    low, high = found.confidence_interval
    if not np.isfinite([low, high]).all():
        low, high = np.quantile(found.bootstrap_distribution, [0.5 - level / 2, 0.5 + level / 2])
    return Estimate(value, float(low), float(high))


def _mean_of_means(samples: list[Array]) -> Any:
    return np.mean([sample.mean(axis=(0, -1)) for sample in samples], axis=0)


def _middle_mean(samples: list[Array]) -> Any:
    from scipy.stats import trim_mean

    together = [np.moveaxis(sample, 1, 0).reshape(sample.shape[1], -1) for sample in samples]
    return trim_mean(np.concatenate(together, axis=1), 0.25, axis=1)


def mean_over_tasks(
    samples: Sequence[ArrayLike], level: float = 0.95, seed: int = 0, groups: Sequence[Hashable] | None = None
) -> Estimate:
    """Return the mean over tasks of the mean over units and runs, with its interval; arguments as of ``over_runs``."""
    return over_runs([np.asarray(sample, dtype=np.float64) for sample in samples], _mean_of_means, level, seed, groups)


def middle_mean(
    samples: Sequence[ArrayLike], level: float = 0.95, seed: int = 0, groups: Sequence[Hashable] | None = None
) -> Estimate:
    """Return the interquartile mean over all tasks, units and runs together, with its interval.

    The mean of the middle half of all values (Agarwal et al. 2021, section 4.3): neither one exploded start nor the
    starts where nothing can be won decide alone.

    Args:
        samples: (units, runs) for each task.
        level: of the interval.
        seed: of the resampling.
        groups: as of ``over_runs``.
    """
    return over_runs([np.asarray(sample, dtype=np.float64) for sample in samples], _middle_mean, level, seed, groups)


def ranks(losses: ArrayLike) -> Array:
    """Return the rank of each agent among all on the same start and run: 1 is the lowest loss, ties share their mean.

    Args:
        losses: (agents, starts, runs).

    Returns:
        (agents, starts, runs), in [1, agents].
    """
    from scipy.stats import rankdata

    return np.asarray(rankdata(np.asarray(losses, dtype=np.float64), axis=0), dtype=np.float64)


def ratios_to_best(losses: ArrayLike) -> Array:
    """Return loss ratios to the lowest loss that any agent reaches on a task in the same run, from whichever start.

    The performance ratio of Dolan and Moré (2002, Math. Program. 91, section 2), a problem being a task and a run: all
    are at least 1, and an agent is at 1 from every start only if it is the best there is from every start.

    Args:
        losses: (agents, starts, runs), of one task.

    Returns:
        (agents, starts, runs).
    """
    positive = np.maximum(np.asarray(losses, dtype=np.float64), TINY)
    return np.asarray(positive / positive.min(axis=(0, 1)))


class Profile(NamedTuple):
    """The share of starts and runs whose ratio is at most τ, (T,), and a pointwise bootstrap band, (T,) each."""

    share: Array
    low: Array
    high: Array


def performance_profile(
    ratios: Sequence[ArrayLike],
    taus: ArrayLike,
    level: float = 0.95,
    seed: int = 0,
    groups: Sequence[Hashable] | None = None,
) -> Profile:
    """Return an agent's performance profile over tasks (Agarwal et al. 2021, section 4.3; Dolan and Moré 2002).

    Every task counts alike, whatever its number of starts and runs. The band is the percentile bootstrap's over
    runs, each task's resampled by themselves; NaN where each task has one run.

    Args:
        ratios: (starts, runs) for each task, such as an agent's of ``ratios_to_best``.
        taus: (T,), where the profile is read.
        level: of the band.
        seed: of the resampling.
        groups: as of ``over_runs``.
    """
    random, at = np.random.default_rng(seed), np.asarray(taus, dtype=np.float64)
    shares, drawn = [], []
    counts: dict[Hashable, NDArray[np.int64]] = {}  # how often each resampling takes each run
    for label, ratio in zip(range(len(ratios)) if groups is None else groups, ratios, strict=True):
        reached = (np.asarray(ratio)[..., None] <= at).mean(axis=0)  # (runs, T)
        runs = len(reached)
        shares.append(reached.mean(axis=0))
        if label not in counts:
            counts[label] = random.multinomial(runs, [1.0 / runs] * runs, RESAMPLES)
        drawn.append(counts[label] @ reached / runs)
    share = np.mean(shares, axis=0)
    if all(np.shape(ratio)[1] == 1 for ratio in ratios):
        return Profile(share, np.full_like(share, np.nan), np.full_like(share, np.nan))
    low, high = np.quantile(np.mean(drawn, axis=0), [0.5 - level / 2, 0.5 + level / 2], axis=0)
    return Profile(share, low, high)


def log_area(rates: ArrayLike, losses: ArrayLike) -> Array:
    """Return the mean of log loss over the decades of the initial rate: the area under the curve by its width.

    The trapezoid rule in log10 lr0, divided by the number of decades; its exponential is in units of the loss. Unlike a
    mean over starts it does not change when the grid is refined in one place.

    Args:
        rates: (starts,), positive and rising.
        losses: (starts, …); a loss below 1e-12 counts as that.

    Returns:
        (…); the log loss itself where there is one start.

    Raises:
        InputError: rates that are not positive and rising.
    """
    decades = np.log10(np.asarray(rates, dtype=np.float64))
    logs = np.log(np.maximum(np.asarray(losses, dtype=np.float64), TINY))
    if not (np.isfinite(decades).all() and (np.diff(decades) > 0).all()):
        raise InputError(
            f"initial rates {np.asarray(rates).tolist()}: positive and rising ones have an area under them"
        )
    if len(decades) == 1:
        return np.asarray(logs[0])
    return np.asarray(np.trapezoid(logs, decades, axis=0) / (decades[-1] - decades[0]))
