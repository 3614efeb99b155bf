"""The rewards: what an environment step pays, always from training losses alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from lrcontrol.envs.features import Array, safe_log


def _negative_loss(losses: Array, before: Array) -> Array:
    return np.asarray(-losses.mean(axis=0))


def _negative_log_loss(losses: Array, before: Array) -> Array:
    return np.asarray(-safe_log(losses).mean(axis=0))


def _log_loss_change(losses: Array, before: Array) -> Array:
    return safe_log(before) - safe_log(losses[-1])


# From the losses (interval, R) after each training step of a decision and the loss (R,) before it. All are capped at
# the worst loss, ten times the first, which a frozen replica is paid at every step that is left.
REWARDS: dict[str, Callable[[Array, Array], Array]] = {
    "loss": _negative_loss,
    "log-loss": _negative_log_loss,
    "log-loss-change": _log_loss_change,
}


def worst_loss(first: Array) -> Array:
    """Return the loss (R,) at which rewards are capped: ten times the first one, at least 1e-12 above it."""
    return np.maximum(10.0 * np.abs(first), first + 1e-12)
