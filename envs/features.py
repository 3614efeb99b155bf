"""What an agent observes: named, scale-free features, computed in one place for the environment and for deployment."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic

import numpy as np
from numpy.typing import NDArray

from lrcontrol.envs.errors import InputError, unknown
from lrcontrol.envs.values import TINY, Array, Values, greater, lesser, log10, over, root, safe_log

LIMIT = 10.0  # features are clipped to ±LIMIT; NaN, as of a run that has diverged, reads 0
FAST, SLOW = 0.2, 0.03  # weights of the newest loss in the running averages
EARLY = 30  # training steps after which a run has found its feet, and unscaled inputs have lost their first losses
SHALLOW, DEEP = 3, 12  # weight matrices, between which depth counts: deeper networks that learn have skip connections
FALLEN = -4.5  # logs: a loss of a ninetieth of the first, where runs as long as those in training hardly get
VERSION = 1  # raised whenever a feature changes its meaning; trained agents record it


@dataclass(slots=True)
class Moment(Generic[Values]):
    """All that features are made from, at one moment: arrays (R,), a row for each replica, or numbers for one run.

    ``level`` is what decisions have made of the rate so far: a multiple of ``begin``, its first value, schedule aside.
    ``adaptive`` says that the optimizer scales each parameter's step by itself, as Adam does and SGD does not.
    ``matrices`` is the number of weight matrices, of parameters of two dimensions or more,
    ``interval`` that of training steps from one decision to the next.
    ``measures`` holds what has to be measured on the parameters and gradients, and only what was asked for.
    """

    loss: Values
    lr: Values
    momentum: Values
    begin: Values
    level: Values
    step: int
    steps: int
    adaptive: bool
    matrices: int = 1
    interval: int = 1
    measures: Mapping[str, Values] = field(default_factory=dict)


class LossHistory(Generic[Values]):
    """The losses so far: last, averages, best, first and early; to be told each training step's loss.

    Losses are arrays (R,), which are not to be changed afterwards, or numbers.
    """

    first: Values
    last: Values
    previous: Values
    fast: Values
    slow: Values
    best: Values
    early: Values

    def __init__(self, loss: Values) -> None:
        self.first = self.last = self.previous = self.fast = self.slow = self.best = self.early = loss
        self.seen = 0  # training steps
        self._logs: dict[str, Values] = {}

    def add(self, loss: Values) -> None:
        """Take in the loss of the next training step."""
        self._logs = {}
        self.previous, self.last = self.last, loss
        self.fast = FAST * loss + (1.0 - FAST) * self.fast
        self.slow = SLOW * loss + (1.0 - SLOW) * self.slow
        self.best = lesser(self.best, self.fast)
        self.seen += 1
        if self.seen <= EARLY:
            self.early = self.fast

    def log(self, name: str) -> Values:
        """Return the ``safe_log`` of ``last``, ``fast`` or another, taken once for all features."""
        if name not in self._logs:
            self._logs[name] = safe_log(getattr(self, name))
        return self._logs[name]


@dataclass(frozen=True, slots=True)
class Feature:
    """One number for each replica: what it says, how it is computed, and which measures it needs."""

    description: str
    compute: Callable[[Moment[Any], LossHistory[Any]], Any]
    measures: tuple[str, ...] = ()


def _grad_cosine(now: Moment[Values], _: LossHistory[Values]) -> Values:
    measures = now.measures
    return over(measures["grad_dot_memory"], root(measures["grad_sq"] * measures["memory_sq"]))


def _next_to_loss(now: Moment[Values], change: Values) -> Values:
    """Return log10 of a change of the loss, or of a square, over the loss."""
    return log10(change / greater(now.loss, TINY))


def _next_to_parameters(now: Moment[Values], rate: Values) -> Values:
    """Return log10 of the step's length at a rate over that of the parameters."""
    return log10(rate * root(over(now.measures["update_sq"], now.measures["param_sq"])))


def _far_below(_: Moment[Values], past: LossHistory[Values]) -> Values:
    return lesser(past.log("fast") - past.log("first") - FALLEN, 0.0)


def _slope(measures: Mapping[str, Values], trial: str) -> Values:
    same, more = measures["probe_loss"], measures[trial]
    return (same - more) / (greater(abs(same), TINY) * safe_log(measures["probe_factor"]))


def _probe_slope(now: Moment[Values], _: LossHistory[Values]) -> Values:
    return _slope(now.measures, "probe_loss_more")


def _probe_momentum_slope(now: Moment[Values], _: LossHistory[Values]) -> Values:
    return _slope(now.measures, "probe_loss_momentum")


FEATURES: dict[str, Feature] = {
    "log_loss": Feature("log L", lambda now, past: past.log("last")),
    "loss_change": Feature("log of L over its last value", lambda now, past: past.log("last") - past.log("previous")),
    "loss_vs_fast": Feature("log of L over its fast average", lambda now, past: past.log("last") - past.log("fast")),
    "fast_vs_slow": Feature(
        "log of the fast over the slow average", lambda now, past: past.log("fast") - past.log("slow")
    ),
    "fast_vs_best": Feature(
        "log of the fast average over its best", lambda now, past: past.log("fast") - past.log("best")
    ),
    "above_best": Feature(
        "fast_vs_best, at most 1: what has run away counts no more than that",
        lambda now, past: lesser(past.log("fast") - past.log("best"), 1.0),
    ),
    "fast_vs_first": Feature(
        "log of the fast average over the first loss", lambda now, past: past.log("fast") - past.log("first")
    ),
    "below_first": Feature(
        f"fast_vs_first, at least {FALLEN}: what has fallen below a ninetieth counts as that",
        lambda now, past: greater(past.log("fast") - past.log("first"), FALLEN),
    ),
    "below_early": Feature(
        f"log of the fast average over what it was after {EARLY} training steps, at least {FALLEN}; 0 until then",
        lambda now, past: greater(past.log("fast") - past.log("early"), FALLEN),
    ),
    "far_below_first": Feature(
        f"fast_vs_first less below_first: by how much it is below {FALLEN}, else 0",
        _far_below,
    ),
    "far_below_spaced": Feature(
        "far_below_first times log10 of the training steps from one decision to the next; 0 with one at each step",
        lambda now, past: math.log10(now.interval) * _far_below(now, past),
    ),
    "grad_cosine": Feature(
        "cosine of g and the momentum buffer v (the last gradient without momentum)",
        _grad_cosine,
        ("grad_sq", "grad_dot_memory", "memory_sq"),
    ),
    "predicted_decrease": Feature(
        "log10(lr g·u / L)",
        lambda now, past: _next_to_loss(now, now.lr * now.measures["grad_dot_update"]),
        ("grad_dot_update",),
    ),
    "possible_decrease": Feature(
        "log10(lr ‖g‖ ‖u‖ / L): what the loss would fall by, next to itself, were u to point straight down",
        lambda now, past: _next_to_loss(now, now.lr * root(now.measures["grad_sq"] * now.measures["update_sq"])),
        ("grad_sq", "update_sq"),
    ),
    "relative_step": Feature(
        "log10(lr ‖u‖ / ‖θ‖)",
        lambda now, past: _next_to_parameters(now, now.lr),
        ("update_sq", "param_sq"),
    ),
    "relative_peak": Feature(
        "log10(lr ‖u‖ / ‖θ‖) with the rate as it were if the schedule were at its peak",
        lambda now, past: _next_to_parameters(now, now.begin * now.level),
        ("update_sq", "param_sq"),
    ),
    "grad_sq_over_loss": Feature(
        "log10(‖g‖² / L)",
        lambda now, past: _next_to_loss(now, now.measures["grad_sq"]),
        ("grad_sq",),
    ),
    "budget_left": Feature("share of the training steps left", lambda now, past: 1.0 - now.step / now.steps),
    "log_steps_left": Feature("log10(1 + steps left)", lambda now, past: math.log10(1.0 + now.steps - now.step)),
    "log_lr": Feature("log10 lr", lambda now, past: log10(now.lr)),
    "log_level": Feature(
        "log10 of what decisions have multiplied the rate by since it began", lambda now, past: log10(now.level)
    ),
    "adaptive": Feature(
        "1 under AdamW and others that scale each parameter's step, 0 under SGD",
        lambda now, past: float(now.adaptive),
    ),
    "log_depth": Feature(
        f"log10 of a third of the number of weight matrices, which counts as {SHALLOW} at least and {DEEP} at most",
        lambda now, past: math.log10(min(max(now.matrices, SHALLOW), DEEP) / SHALLOW),
    ),
    "log_one_minus_momentum": Feature("log10(1 − β)", lambda now, past: log10(1.0 - now.momentum)),
    "probe_slope": Feature(
        "(L(lr) − L(f·lr)) / (L(lr) log f) on one minibatch: positive if a higher rate is better; two forward passes",
        _probe_slope,
        ("probe_loss", "probe_loss_more", "probe_factor"),
    ),
    "probe_momentum_slope": Feature(
        "the same for 1 − β: positive if a momentum of 1 − f · (1 − β) is better; one forward pass more",
        _probe_momentum_slope,
        ("probe_loss", "probe_loss_momentum", "probe_factor"),
    ),
    "probe_change": Feature(
        "log of L(lr) over L, on the same minibatch; two forward passes, shared with probe_slope",
        lambda now, past: safe_log(now.measures["probe_loss"]) - past.log("last"),
        ("probe_loss",),
    ),
}

OF_LOG_LOSS = (  # which take a loss below 0 for one of next to nothing
    *("log_loss", "loss_change", "loss_vs_fast", "fast_vs_slow", "fast_vs_best", "above_best", "fast_vs_first"),
    *("below_first", "below_early", "far_below_first", "far_below_spaced", "predicted_decrease", "possible_decrease"),
    *("grad_sq_over_loss", "probe_change"),
)
BOUNDED = ("above_best", "below_first", "below_early", "far_below_first", "far_below_spaced")
# Not among the default ones: they came after the first trained agents.
LATER = (*BOUNDED, "log_level", "possible_decrease", "relative_peak", "adaptive", "log_depth")
DEFAULT_FEATURES = tuple(name for name in FEATURES if not name.startswith("probe_") and name not in LATER)


STEP_MEASURES = frozenset({"param_sq", "update_sq"})
UNIT_MEASURES = STEP_MEASURES | {"grad_dot_update"}


def highest_rate(relative_step: float, measures: Mapping[str, Values]) -> Values:
    """Return the rate at which lr ‖u‖ is ``relative_step`` times ‖θ‖; inf where one of them is 0 or not finite."""
    param_sq, update_sq = measures["param_sq"], measures["update_sq"]
    if isinstance(param_sq, float):
        rate = relative_step * root(over(param_sq, update_sq))
        return rate if 0.0 < rate < math.inf else math.inf
    with np.errstate(all="ignore"):
        rates = relative_step * np.sqrt(param_sq / update_sq)
    return np.where(np.isfinite(rates) & (rates > 0.0), rates, np.inf)


def natural_rate(loss: Array, measures: dict[str, Array]) -> Array:
    """Return a rate (R,) that is to be expected from the first gradient: sqrt(‖θ‖ / ‖u‖ · L / (g · u)).

    It is the geometric mean of two rates that need no scale: of the step that is as long as the parameters, as in LARS
    (You, Gitman and Ginsburg 2017, eq. 6, with their η = 1), and of Polyak's (1987, section 5.3.2), which would bring a
    straight line to zero. Where one cannot be had, as with parameters that are all zero, it is the other; where neither
    can, NaN.
    """
    with np.errstate(all="ignore"):
        as_long = np.sqrt(measures["param_sq"] / measures["update_sq"])
        to_zero = loss / measures["grad_dot_update"]
        both = np.sqrt(as_long * to_zero)
    rate = np.full_like(loss, np.nan)
    for found in (to_zero, as_long, both):
        rate = np.where(np.isfinite(found) & (found > 0.0), found, rate)
    return rate


def measures_of(features: Sequence[str]) -> frozenset[str]:
    """Return the measures that the named features need.

    Raises:
        InputError: an unknown name, a name given twice, or none at all.
    """
    for name in features:
        if name not in FEATURES:
            raise unknown("feature", name, FEATURES)
    if not features or len(set(features)) < len(features):
        raise InputError(f"features {tuple(features)} must name at least one feature, and none twice")
    return frozenset(measure for name in features for measure in FEATURES[name].measures)


def observe(features: Sequence[str], now: Moment[Values], past: LossHistory[Values]) -> NDArray[np.float32]:
    """Return the observation (R, len(features)), each feature clipped to ±10, NaN as 0; R is 1 for numbers."""
    if isinstance(now.loss, float):
        return np.array([[_clipped(FEATURES[name].compute(now, past)) for name in features]], dtype=np.float32)
    stacked = np.empty((len(now.loss), len(features)))
    with np.errstate(all="ignore"):
        for column, name in enumerate(features):
            stacked[:, column] = FEATURES[name].compute(now, past)
    stacked[np.isnan(stacked)] = 0.0
    return np.minimum(np.maximum(stacked, -LIMIT), LIMIT).astype(np.float32)


def _clipped(value: Any) -> float:
    """Return what ``observe`` makes of one number."""
    value = float(value)
    return 0.0 if value != value else min(max(value, -LIMIT), LIMIT)
