"""What agents cost, and how they stand when each has the same to spend: compute, or runs to tune with."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lrcontrol.envs.errors import InputError

Array = NDArray[np.float64]
WINDOW = 20


def passes(forward: float, backward: float) -> float:
    """Return what a run cost in forward passes, a backward pass counted as two (Kaplan et al. 2020, section 2.1)."""
    return forward + 2.0 * backward


def smoothed(losses: ArrayLike, window: int = WINDOW) -> Array:
    """Return the mean of the last ``window`` losses at each step, of fewer at the beginning; (…, steps) to the same."""
    sums = np.cumsum(np.asarray(losses, dtype=np.float64), axis=-1)
    count = np.minimum(np.arange(1, sums.shape[-1] + 1), window)
    earlier = np.zeros_like(sums)
    earlier[..., window:] = sums[..., :-window]
    return np.asarray((sums - earlier) / count)


def loss_at_compute(losses: ArrayLike, cost: float, budget: float, window: int = WINDOW) -> Array:
    """Return the training loss that runs have reached when they have spent a budget.

    A run's passes are spread evenly over its steps; its loss is the mean over the last ``window`` minibatches.

    Args:
        losses: (…, steps), of the minibatches.
        cost: passes of a whole run.
        budget: passes; what is left of it when the run ends stays unspent.
        window: steps.

    Returns:
        (…).

    Raises:
        InputError: a budget below one step's cost.
    """
    values = np.asarray(losses, dtype=np.float64)
    steps = values.shape[-1]
    taken = min(steps, math.floor(budget / cost * steps * (1.0 + 1e-12)))
    if taken < 1:
        raise InputError(f"a budget of {budget:g} passes is less than one of {steps} steps of {cost:g} passes")
    return np.asarray(values[..., max(0, taken - window) : taken].mean(axis=-1))


def expected_minimum(values: ArrayLike, draws: int) -> float:
    """Return the expected minimum of n draws with replacement from the values.

    With x₁ ≤ … ≤ x_k, the minimum is at least xᵢ with probability ((k − i + 1) / k)ⁿ, so that it is
    E = Σᵢ xᵢ [((k − i + 1) / k)ⁿ − ((k − i) / k)ⁿ], the order statistic that Dodge et al. (2019, section 3.1) report
    for random search, turned from a maximum into a minimum.

    Args:
        values: (k,).
        draws: n ≥ 1.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    k = len(ordered)
    above = (np.arange(k, -1, -1) / k) ** float(draws)
    return float(ordered @ (above[:-1] - above[1:]))


def trials_to_match(loss: float, starts: ArrayLike) -> float:
    """Return how many random-search trials a rival needs until its best is expected to be as low as a loss.

    Its trials draw the initial rate, log-uniformly, from a grid it was evaluated on; the best of n is expected at
    ``expected_minimum(starts, n)``, which falls with n to the lowest of the grid.

    Args:
        loss: final training loss to reach.
        starts: (k,), the rival's mean final loss from each initial rate.

    Returns:
        n ≥ 1, whole; infinite if its best start does not get there, NaN if a loss is.
    """
    values = np.asarray(starts, dtype=np.float64)
    if math.isnan(loss) or np.isnan(values).any():
        return math.nan
    loss += 1e-12 * abs(loss)  # for the mean of the starts itself, in other last bits
    if expected_minimum(values, 1) <= loss:
        return 1.0
    if values.min() >= loss:
        return math.inf
    low, high = 1, 2
    while expected_minimum(values, high) > loss:
        low, high = high, 2 * high
        if high > 2**60:  # apart by less than floating point can tell
            return math.inf
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if expected_minimum(values, middle) > loss else (low, middle)
    return float(high)


def runs_to_pay_off(training_passes: float, run_passes: float, trials: float) -> float:
    """Return after how many runs a trained agent has paid for its training.

    Each of them saves the trials − 1 runs that its rival would have been tuned with.

    Args:
        training_passes: that training the agent took.
        run_passes: of one run of the rival.
        trials: that the rival needs, of ``trials_to_match``.

    Returns:
        A whole number; infinite where a run saves nothing, NaN where ``trials`` is, or infinite: what no tuning gives
        has no price in runs.

    Raises:
        InputError: passes that are negative, or no passes in a run.
    """
    if training_passes < 0.0 or run_passes <= 0.0:
        raise InputError(f"{training_passes:g} passes of training and {run_passes:g} of a run: give positive numbers")
    if training_passes == 0.0:
        return 0.0
    if trials <= 1.0:
        return math.inf
    if not math.isfinite(trials):
        return math.nan
    return float(max(1, math.ceil(training_passes / ((trials - 1.0) * run_passes))))
