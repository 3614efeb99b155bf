"""The bandit policies: what each remembers of its arms, how it chooses one, and how it takes in a reward.

A policy is three pure functions on ``Statistics``, vectorised over R runs and H bandits in each (two where the learning
rate and the momentum have one each), with K arms. Rewards lie in −1..1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from lrcontrol.envs.errors import InputError

Array = NDArray[np.float64]
Index = NDArray[np.int64]


class Statistics(NamedTuple):
    """What a policy remembers of its arms; each policy says what the two hold."""

    tries: Array
    gains: Array


class Policy(Protocol):
    """A bandit: ``start``, ``select`` and ``update``, none of which changes what it is given."""

    def start(self, rows: int, heads: int, arms: int, features: int) -> Statistics:
        """Return the statistics of R = ``rows`` runs with H = ``heads`` bandits each, before any reward."""

    def select(self, past: Statistics, context: Array, uniforms: Array) -> Index:
        """Return arms (R, H) at the observations (R, F); numbers in 0..1 (R, H, K) decide what is random."""

    def update(self, past: Statistics, context: Array, arm: Index, reward: Array) -> Statistics:
        """Return the statistics after ``arm`` (R, H), chosen at ``context`` (R, F), brought ``reward`` (R,)."""


def chosen(arm: Index, arms: int) -> Array:
    """Return 1 at each chosen arm and 0 at the others: (…,) to (…, arms)."""
    return np.equal(arm[..., None], np.arange(arms)).astype(np.float64)


def highest(score: Array, uniforms: Array) -> Index:
    """Return the arm of the highest score (…, K), the largest uniform deciding between equals."""
    best = score == score.max(axis=-1, keepdims=True)
    return np.asarray(np.where(best, uniforms, -1.0).argmax(axis=-1))


def upper_bound(tries: Array, gains: Array, exploration: float) -> Array:
    """Return mean + exploration · sqrt(log Σ tries / tries), infinite for an arm without tries: (…, K)."""
    tried = tries > 0.0
    divisor = np.where(tried, tries, 1.0)
    log_total = np.log(np.maximum(tries.sum(axis=-1, keepdims=True), 1.0))
    bound: Array = gains / divisor + exploration * np.sqrt(log_total / divisor)
    bound[~tried] = np.inf
    return bound


@dataclass(frozen=True)
class DiscountedUCB:
    """D-UCB (Garivier and Moulines 2011, algorithm D-UCB).

    ``tries`` (R, H, K) is N_t(γ, i) and ``gains`` Σ_s γ^(t−s) X_s 1{I_s = i}.

    Args:
        discount: γ, what a step takes from the weight of everything before it, in 0..1.
        exploration: the paper's 2 B √ξ, at least 0.
    """

    discount: float = 0.99
    exploration: float = 0.02

    def start(self, rows: int, heads: int, arms: int, features: int) -> Statistics:
        """See Policy."""
        return Statistics(np.zeros((rows, heads, arms)), np.zeros((rows, heads, arms)))

    def select(self, past: Statistics, context: Array, uniforms: Array) -> Index:
        """See Policy: the highest upper bound, an arm never tried before all others."""
        return highest(upper_bound(past.tries, past.gains, self.exploration), uniforms)

    def update(self, past: Statistics, context: Array, arm: Index, reward: Array) -> Statistics:
        """See Policy."""
        pulls = chosen(arm, past.tries.shape[-1])
        return Statistics(
            self.discount * past.tries + pulls, self.discount * past.gains + pulls * reward[:, None, None]
        )


@dataclass(frozen=True)
class SlidingWindowUCB:
    """SW-UCB (Garivier and Moulines 2011, algorithm SW-UCB).

    ``tries`` and ``gains`` (R, H, W, K) hold the last W steps, the newest first: 1 and the reward at the chosen arm.

    Args:
        window: τ = W, the decisions that count, at least 1.
        exploration: the paper's B √ξ, at least 0.
    """

    window: int = 80
    exploration: float = 0.02

    def start(self, rows: int, heads: int, arms: int, features: int) -> Statistics:
        """See Policy."""
        shape = (rows, heads, self.window, arms)
        return Statistics(np.zeros(shape), np.zeros(shape))

    def select(self, past: Statistics, context: Array, uniforms: Array) -> Index:
        """See Policy: the highest upper bound, an arm that is not in the window before all others."""
        return highest(upper_bound(past.tries.sum(axis=-2), past.gains.sum(axis=-2), self.exploration), uniforms)

    def update(self, past: Statistics, context: Array, arm: Index, reward: Array) -> Statistics:
        """See Policy: the oldest step leaves the window."""
        pulls = chosen(arm, past.tries.shape[-1])[:, :, None, :]
        gain = pulls * reward[:, None, None, None]
        return Statistics(
            np.concatenate([pulls, past.tries[:, :, :-1]], axis=2),
            np.concatenate([gain, past.gains[:, :, :-1]], axis=2),
        )


@dataclass(frozen=True)
class DiscountedThompson(DiscountedUCB):
    """Thompson sampling with discounted Gaussian posteriors, the Gaussian form of dTS (Raj and Kalyani 2017).

    An arm's mean reward has the prior N(0, prior²) and rewards scatter about it by N(0, exploration²). As in the paper
    the evidence fades and the prior does not: from N and S, discounted as in D-UCB, the posterior has precision
    1 / prior² + N / exploration² and mean S / exploration² / precision. The arm of the highest draw is chosen.

    Args:
        discount: γ, what a step takes from the weight of all evidence before it, in 0..1.
        exploration: the assumed standard deviation of a reward, above 0.
        prior: the standard deviation of the prior, above 0.
    """

    discount: float = 0.99
    exploration: float = 0.05
    prior: float = 0.5

    def select(self, past: Statistics, context: Array, uniforms: Array) -> Index:
        """See Policy: the highest of one draw for each arm."""
        from scipy.special import ndtri

        precision = self.prior**-2 + past.tries / self.exploration**2
        mean = past.gains / self.exploration**2 / precision
        return highest(mean + np.asarray(ndtri(uniforms)) / np.sqrt(precision), uniforms)


@dataclass(frozen=True)
class Exp3S:
    """Exp3.S (Auer, Cesa-Bianchi, Freund and Schapire 2002, algorithm Exp3.S); rewards x = (1 + r) / 2 in 0..1.

    ``gains`` (R, H, K) are the weights w, scaled to a sum of 1, which changes no probability; ``tries`` are the
    probabilities p = (1 − γ) w / Σ w + γ / K that they give the arms.

    Args:
        exploration: γ, the share of choices made at random, above 0 and at most 1.
        share: α, the share of the weights that a step deals out evenly (times e), which keeps every arm alive; at
            least 0, where 0 is Exp3.
    """

    exploration: float = 0.2
    share: float = 0.001

    def start(self, rows: int, heads: int, arms: int, features: int) -> Statistics:
        """See Policy."""
        even = np.full((rows, heads, arms), 1.0 / arms)
        return Statistics(even, even.copy())

    def select(self, past: Statistics, context: Array, uniforms: Array) -> Index:
        """See Policy: an arm drawn from the probabilities."""
        below = past.tries.cumsum(axis=-1)[..., :-1] <= uniforms[..., :1]
        return np.asarray(below.sum(axis=-1))

    def update(self, past: Statistics, context: Array, arm: Index, reward: Array) -> Statistics:
        """See Policy."""
        arms = past.tries.shape[-1]
        estimate = chosen(arm, arms) * (0.5 + 0.5 * reward)[:, None, None] / past.tries
        weights = past.gains * np.exp(self.exploration * estimate / arms) + math.e * self.share / arms
        weights = weights / weights.sum(axis=-1, keepdims=True)
        return Statistics((1.0 - self.exploration) * weights + self.exploration / arms, weights)


@dataclass(frozen=True)
class LinUCB:
    """LinUCB with disjoint models over the observation (Li, Chu, Langford and Schapire 2010, algorithm 1), discounted.

    ``tries`` (R, H, K, d, d) are the matrices A_a and ``gains`` (R, H, K, d) the vectors b_a, with d = F + 1: the
    observation x and a constant 1. A step multiplies every arm's A − I and b by the discount, then adds x xᵀ and r x
    for the chosen one: the regulariser stays and the evidence fades, the weighted least squares of D-LinUCB (Russac,
    Vernade and Cappé 2019) under algorithm 1's bound. A discount of 1 is algorithm 1.

    Args:
        discount: what a step takes from the weight of everything before it, in 0..1.
        exploration: α, the width of the bound, at least 0.
    """

    discount: float = 0.99
    exploration: float = 0.02

    def start(self, rows: int, heads: int, arms: int, features: int) -> Statistics:
        """See Policy."""
        size = features + 1
        identity = np.broadcast_to(np.eye(size), (rows, heads, arms, size, size)).copy()
        return Statistics(identity, np.zeros((rows, heads, arms, size)))

    def select(self, past: Statistics, context: Array, uniforms: Array) -> Index:
        """See Policy: the highest θ·x + α sqrt(xᵀ A⁻¹ x)."""
        x = with_bias(context)[:, None, None, :]
        inverse_x = np.linalg.solve(past.tries, np.broadcast_to(x, past.gains.shape)[..., None])[..., 0]
        width = np.sqrt(np.maximum((inverse_x * x).sum(axis=-1), 0.0))
        return highest((inverse_x * past.gains).sum(axis=-1) + self.exploration * width, uniforms)

    def update(self, past: Statistics, context: Array, arm: Index, reward: Array) -> Statistics:
        """See Policy."""
        x = with_bias(context)[:, None, None, :]
        pulls = chosen(arm, past.gains.shape[2])[..., None]
        kept, identity = self.discount, np.eye(x.shape[-1])
        design = kept * past.tries + (1.0 - kept) * identity + pulls[..., None] * x[..., :, None] * x[..., None, :]
        return Statistics(design, kept * past.gains + pulls * reward[:, None, None, None] * x)


def with_bias(context: Array) -> Array:
    """Return the observations (R, F) with a column of ones: (R, F + 1)."""
    return np.concatenate([context, np.ones((len(context), 1))], axis=1)


POLICIES: dict[str, type[Policy]] = {
    "ducb": DiscountedUCB,
    "swucb": SlidingWindowUCB,
    "dts": DiscountedThompson,
    "exp3s": Exp3S,
    "linucb": LinUCB,
}


def check_constants(name: str, constants: dict[str, float]) -> None:
    """Raise InputError for a constant outside its range, by the name of the policy that was to have it."""
    least = {"window": 1.0, "share": 0.0, "exploration": 0.0, "discount": 0.0, "prior": 0.0}
    most = {"discount": 1.0, "share": 1.0} | ({"exploration": 1.0} if name == "exp3s" else {})
    positive = {"discount", "prior"} | ({"exploration"} if name in ("dts", "exp3s") else set())
    for key, value in constants.items():
        low, high = least[key], most.get(key, math.inf)
        if not (low <= value <= high and math.isfinite(value)) or (key in positive and value**2 == 0.0):
            above = "above" if key in positive else "at least"
            limit = f" and at most {high:g}" if math.isfinite(high) else ""
            raise InputError(f"bandit: {key} {value:g} of policy {name!r} must be {above} {low:g}{limit}")
