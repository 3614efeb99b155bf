"""``bandit``: learns inside the run which multiplier, or which rate, has lately lowered the loss most."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lrcontrol.agents.bandit_policies import POLICIES, Array, Index, Policy, Statistics, check_constants
from lrcontrol.agents.base import Observation, State, as_array, choose_rows, spelling
from lrcontrol.agents.noise import Keys, run_keys, uniforms
from lrcontrol.envs.errors import InputError, unknown

ARMS = ("multipliers", "rates")
JOINTS = ("independent", "product")
MULTIPLIERS = (0.5, 0.8, 1.0, 1.25, 2.0)
RATES = tuple(10.0 ** (half / 2.0) for half in range(-8, 1))  # times ``highest``
CONSTANTS = ("discount", "window", "exploration", "share", "prior")
FOR_MULTIPLIERS = {"discount": 0.95, "window": 20, "exploration": 0.7}
CONTEXT = ("log_loss", "loss_vs_fast", "fast_vs_slow", "budget_left", "log_lr")


class Memory(NamedTuple):
    """What is remembered of R runs with H bandits each; the last two are the policy's ``Statistics``.

    ``step`` (R,) counts decisions, ``key`` (R,) starts the run's random numbers, ``observation`` (R, F) and ``arm``
    (R, H) are the last decision's.
    """

    step: NDArray[np.int64]
    key: Keys
    observation: NDArray[np.float32]
    arm: Index
    tries: Array
    gains: Array


@dataclass(frozen=True)
class Bandit:
    """Chooses among multipliers of the learning rate, or among rates, by what each has brought in this very run.

    An arm's reward is the fall of the log loss from its decision to the next, divided by ``scale`` and clipped to
    −1..1; each loss is its own minibatch's, so rewards are noisy. Exploring is how a bandit learns, so
    ``deterministic`` changes nothing: the same run (same first observation) under the same ``seed`` always gets the
    same choices. A run whose loss stopped being finite reads a log loss of 0, as every feature does, which pays its
    last arm a false but bounded reward; in the environment such a run is frozen and nothing that it chooses counts.

    What the policies reach with rates is in ``experiments/agents``. With multipliers they do no better than a constant
    rate: what a small rate brings is far below the noise of the minibatches, and the rate wanders.

    Args:
        policy: ``ducb``, discounted UCB; ``swucb``, sliding-window UCB; ``dts``, discounted Thompson sampling;
            ``exp3s``, Exp3.S; or ``linucb``, LinUCB over the features ``CONTEXT``
            (``lrcontrol.agents.bandit_policies``).
        arms: ``multipliers``, the rate is multiplied by one of ``MULTIPLIERS``; or ``rates``, it becomes one of
            nine half-decades up to ``highest``, whatever it was.
        highest: the highest of the rates. Every rate is tried, and one that is far too high can spoil a network for
            good, so AdamW wants 0.1 or less.
        every: training steps from one decision to the next.
        momentum: whether 1 − β is multiplied too, by one of the same multipliers.
        joint: with momentum, ``independent``, a bandit for each that sees the common reward; or ``product``, one bandit
            whose arms are all pairs.
        scale: the fall of the log loss that counts as a reward of 1.
        discount, window, exploration, share, prior: constants of the policies that have them; None is the policy's
            default, or for multipliers, whose worth changes as the rate does, that of ``FOR_MULTIPLIERS``.
        seed: of the agent's random choices.

    Raises:
        InputError: a value that cannot be used.
    """

    policy: str = "ducb"
    arms: str = "rates"
    highest: float = 1.0
    every: int = 3
    momentum: bool = False
    joint: str = "independent"
    scale: float = 0.3
    discount: float | None = None
    window: int | None = None
    exploration: float | None = None
    share: float | None = None
    prior: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for key, known in (("policy", POLICIES), ("arms", ARMS), ("joint", JOINTS)):
            if getattr(self, key) not in known:
                raise unknown(f"{key} of bandit", getattr(self, key), known)
        if self.every < 1:
            raise InputError(f"bandit: every {self.every} is not positive")
        if not (self.scale > 0.0 and math.isfinite(self.scale)):
            raise InputError(f"bandit: scale {self.scale:g} is not above 0")
        if not (self.highest > 0.0 and math.isfinite(self.highest)):
            raise InputError(f"bandit: highest {self.highest:g} is not above 0")
        if self.highest != 1.0 and self.arms != "rates":
            raise InputError(f"bandit: highest={self.highest:g} does nothing unless arms=rates")
        if self.momentum and self.arms == "rates":
            raise InputError("bandit: arms=rates cannot set momentum, which no rate is; use arms=multipliers")
        if self.joint != "independent" and not self.momentum:
            raise InputError(f"bandit: joint={self.joint} does nothing without momentum=true")
        for key in self._given:
            if key not in self._taken:
                raise InputError(f"bandit: policy {self.policy!r} has no {key}, it has {', '.join(self._taken)}")
        check_constants(self.policy, self._given)

    @property
    def _given(self) -> dict[str, float]:
        return {key: value for key in CONSTANTS if (value := getattr(self, key)) is not None}

    @property
    def _taken(self) -> list[str]:
        return list(inspect.signature(POLICIES[self.policy]).parameters)

    @property
    def learner(self) -> Policy:
        """The policy with its constants."""
        usual = FOR_MULTIPLIERS if self.arms == "multipliers" and self.policy != "exp3s" else {}
        return POLICIES[self.policy](**{key: usual[key] for key in usual if key in self._taken} | self._given)

    @property
    def name(self) -> str:
        """See Agent."""
        return spelling("bandit", self)

    @property
    def needs(self) -> Mapping[str, Any]:
        """See Agent."""
        return {
            "multipliers": self._values,
            "form": "absolute" if self.arms == "rates" else "recursive",
            "hyperparameters": ("lr", "momentum") if self.momentum else ("lr",),
            "interval": self.every,
            "features": CONTEXT if self.policy == "linucb" else ("log_loss",),
        }

    @property
    def _values(self) -> tuple[float, ...]:
        return tuple(self.highest * rate for rate in RATES) if self.arms == "rates" else MULTIPLIERS

    @property
    def _shape(self) -> tuple[int, int]:
        """H and K: bandits in each run and arms of each."""
        arms = len(self._values)
        if not self.momentum:
            return 1, arms
        return (1, arms**2) if self.joint == "product" else (2, arms)

    def predict(
        self,
        observation: Observation,
        state: State = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[Any], State]:
        """See Agent; the state is a Memory, of one run for a single observation (F,).

        Raises:
            InputError: a state of another number of runs.
        """
        seen = as_array(observation)
        rows = np.atleast_2d(seen)
        memory = self._remember(rows, state, episode_start)
        heads, arms = self._shape
        draws = uniforms(memory.key, memory.step, heads * arms).reshape(-1, heads, arms)
        past = Statistics(memory.tries, memory.gains)
        memory = memory._replace(
            step=memory.step + 1, observation=rows.copy(), arm=self.learner.select(past, rows.astype(np.float64), draws)
        )
        action = self._action(memory.arm)
        return (action if seen.ndim > 1 else action[0]), memory

    def _remember(self, rows: NDArray[np.float32], state: State, episode_start: NDArray[np.bool_] | None) -> Memory:
        """Return the memory with the last arm's reward taken in, begun anew where a run begins."""
        fresh = self._fresh(rows)
        if state is None:
            return fresh
        memory = Memory(*state)
        if len(memory.step) != len(rows):
            raise InputError(f"bandit: a state of {len(memory.step)} runs came with observations of {len(rows)}")
        learned = self._learn(memory, rows)
        if episode_start is None:
            return learned
        begins = np.broadcast_to(episode_start, len(rows))
        return Memory(*(choose_rows(begins, getattr(fresh, name), getattr(learned, name)) for name in Memory._fields))

    def _fresh(self, rows: NDArray[np.float32]) -> Memory:
        heads, arms = self._shape
        runs, features = rows.shape
        nothing = np.zeros((runs, heads), dtype=np.int64)
        start = self.learner.start(runs, heads, arms, features)
        return Memory(np.zeros(runs, dtype=np.int64), run_keys(self.seed, rows), rows, nothing, *start)

    def _learn(self, memory: Memory, rows: NDArray[np.float32]) -> Memory:
        fall = memory.observation[:, 0].astype(np.float64) - rows[:, 0]
        reward = np.clip(fall / self.scale, -1.0, 1.0)
        past = Statistics(memory.tries, memory.gains)
        now = self.learner.update(past, memory.observation.astype(np.float64), memory.arm, reward)
        return memory._replace(tries=now.tries, gains=now.gains)

    def _action(self, arm: Index) -> Index:
        """Return what the environment takes, (R,) or (R, 2), for arms (R, H)."""
        if not self.momentum:
            return arm[:, 0]
        if self.joint == "independent":
            return arm
        return np.stack(np.divmod(arm[:, 0], len(self._values)), axis=1)
