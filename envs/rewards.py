"""The rewards: what an environment step pays, always from training data alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lrcontrol.envs.values import Array, safe_log

VALIDATION = "validation-loss"


@dataclass(frozen=True)
class Stretch:
    """What one decision led to, all that a reward is made from; every loss is capped at the worst loss.

    Attributes:
        losses: (interval, R), the minibatch losses after each training step of the decision.
        before: (R,), the minibatch loss at the decision.
        fast_before, fast_after: (R,), the fast average of the losses at the decision and at the next.
        validation: (R,), the loss on the held-out training rows at the end of the episode; None before, and for every
            other reward.
    """

    losses: Array
    before: Array
    fast_before: Array
    fast_after: Array
    validation: Array | None = None


def _negative_loss(it: Stretch) -> Array:
    return np.asarray(-it.losses.mean(axis=0))


def _negative_log_loss(it: Stretch) -> Array:
    return np.asarray(-safe_log(it.losses).mean(axis=0))


def _log_loss_change(it: Stretch) -> Array:
    return np.asarray(safe_log(it.before) - safe_log(it.losses[-1]))


def _fast_loss_change(it: Stretch) -> Array:
    return safe_log(it.fast_before) - safe_log(it.fast_after)


def _validation_loss(it: Stretch) -> Array:
    return np.zeros_like(it.before) if it.validation is None else -safe_log(it.validation)


# The two changes telescope: their sum over an episode is the log of the first loss over the last one. A frozen replica
# is at the worst loss, ten times its first, for every step that is left.
REWARDS: dict[str, Callable[[Stretch], Array]] = {
    "loss": _negative_loss,
    "log-loss": _negative_log_loss,
    "log-loss-change": _log_loss_change,
    "fast-loss-change": _fast_loss_change,
    VALIDATION: _validation_loss,
}


def worst_loss(first: Array) -> Array:
    """Return the loss (R,) at which rewards are capped: ten times the first one, at least 1e-12 above it."""
    return np.maximum(10.0 * np.abs(first), first + 1e-12)
