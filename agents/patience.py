"""``plateau`` and ``greedy``: rules that count how often the loss was, or was not, the best so far.

They read the feature ``log_loss``, which ends at ±10: below a loss of 4.5e-5 nothing is an improvement any more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lrcontrol.agents.base import Observation, State, as_array, choose_rows, spelling
from lrcontrol.envs.errors import InputError

Array = NDArray[np.float64]


class Counts(NamedTuple):
    """The memory of R runs: best smoothed loss, decisions in a row that beat it or did not, and the last losses."""

    best: Array
    better: Array
    worse: Array
    recent: Array


@dataclass(frozen=True)
class _Patient:
    factor: float
    patience: int
    threshold: float
    window: int
    every: int

    def __post_init__(self) -> None:
        kind = type(self).__name__.lower()
        if not 0.0 < self.factor < 1.0:
            raise InputError(f"{kind}: factor {self.factor:g} is not between 0 and 1")
        if self.patience < 0 or self.window < 1 or self.every < 1:
            raise InputError(
                f"{kind}: patience {self.patience}, window {self.window} or every {self.every} is too small"
            )
        if not (self.threshold >= 0.0 and math.isfinite(self.threshold)):
            raise InputError(f"{kind}: threshold {self.threshold:g} is negative or not finite")

    @property
    def name(self) -> str:
        """See Agent."""
        return spelling(type(self).__name__.lower(), self)

    @property
    def needs(self) -> Mapping[str, Any]:
        """See Agent."""
        return {"multipliers": (self.factor, 1.0, 1.0 / self.factor), "interval": self.every, "features": ("log_loss",)}

    def _bar(self, best: Array) -> Array:
        """Return what a loss has to be below to beat the best."""
        raise NotImplementedError

    def _raises(self, better: Array) -> NDArray[np.bool_]:
        """Return where so many decisions in a row that beat the best raise the rate."""
        raise NotImplementedError

    def predict(
        self,
        observation: Observation,
        state: State = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[Any], State]:
        """See Agent; the state is a Counts, of one run for a single observation (F,)."""
        seen = as_array(observation)
        loss = np.exp(np.atleast_2d(seen)[:, 0].astype(np.float64))
        counts = self._remember(len(loss), state, episode_start)
        recent = np.concatenate([counts.recent[:, 1:], loss[:, None]], axis=1)
        smooth = np.nanmean(recent, axis=1)
        beats = smooth < self._bar(counts.best)
        best = np.where(beats, smooth, counts.best)
        better, worse = (np.where(hit, count + 1.0, 0.0) for hit, count in ((beats, counts[1]), (~beats, counts[2])))
        higher, lower = self._raises(better), worse > self.patience
        action = np.where(higher, 2, np.where(lower, 0, 1))
        after = Counts(best, np.where(higher, 0.0, better), np.where(lower, 0.0, worse), recent)
        return (action if seen.ndim > 1 else action[0]), after

    def _remember(self, rows: int, state: State, episode_start: NDArray[np.bool_] | None) -> Counts:
        fresh = Counts(np.full(rows, np.inf), np.zeros(rows), np.zeros(rows), np.full((rows, self.window), np.nan))
        if state is None:
            return fresh
        if len(state[0]) != rows:
            raise InputError(f"{self.name}: a state of {len(state[0])} runs came with observations of {rows}")
        if episode_start is None:
            return Counts(*state)
        begins = np.broadcast_to(episode_start, rows)
        return Counts(*(choose_rows(begins, new, old) for new, old in zip(fresh, state, strict=True)))


@dataclass(frozen=True)
class Plateau(_Patient):
    """Lowers the rate when the loss has not been a new best for a while: the rule of torch's ReduceLROnPlateau.

    It watches the minibatch loss, since nothing else is to be had without cost.

    Args:
        factor: what the rate is multiplied by, between 0 and 1.
        patience: decisions without a new best that are borne.
        threshold: share of the best by which a loss has to be below it.
        window: the loss is averaged over so many decisions.
        every: training steps from one decision to the next.

    Raises:
        InputError: a value that cannot be used.
    """

    factor: float = 0.1
    patience: int = 10
    threshold: float = 1e-4
    window: int = 1
    every: int = 1

    def _bar(self, best: Array) -> Array:
        return best * (1.0 - self.threshold)

    def _raises(self, better: Array) -> NDArray[np.bool_]:
        return np.zeros(len(better), dtype=np.bool_)


@dataclass(frozen=True)
class Greedy(_Patient):
    """Raises the rate after a run of new bests and lowers it after a run without: GreedyLR (arXiv 2512.14527, 2025).

    The rule, the factor, the patience and the threshold are those of transformers' scheduler of that name. Its limits
    of 1e-3 and 1, its restart after 500 decisions at the lower one, and its leaving out of changes below 1e-8 are not
    taken over: limits are the environment's.

    Args:
        factor: what the rate is multiplied or divided by, between 0 and 1.
        patience: decisions in a row with or without a new best that are let pass.
        threshold: by how much a loss has to be below the best.
        window: the loss is averaged over so many decisions; ``smooth`` there means 50.
        every: training steps from one decision to the next.

    Raises:
        InputError: a value that cannot be used.
    """

    factor: float = 0.95
    patience: int = 10
    threshold: float = 1e-6
    window: int = 1
    every: int = 1

    def _bar(self, best: Array) -> Array:
        return best - self.threshold

    def _raises(self, better: Array) -> NDArray[np.bool_]:
        return np.asarray(better > self.patience)
