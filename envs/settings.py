"""The settings of an environment: one frozen dataclass, checked where it is made."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lrcontrol.envs.distributions import TaskSource
from lrcontrol.envs.errors import InputError, unknown
from lrcontrol.envs.features import DEFAULT_FEATURES, STEP_MEASURES, UNIT_MEASURES, measures_of
from lrcontrol.envs.optimizers import OPTIMIZERS
from lrcontrol.envs.rewards import REWARDS
from lrcontrol.envs.schedules import Schedule
from lrcontrol.envs.task import Smoothing
from lrcontrol.envs.values import Array

HOLD = Schedule("constant")
FORMS = ("recursive", "anchored", "absolute")


KINDS: tuple[tuple[type, str, tuple[str, ...]], ...] = (
    (str, "a name", ("optimizer", "form", "reward")),
    (Real, "a number", ("max_factor", "probe_factor", "reward_scale", "validation_share")),
    (Real, "a number", ("max_relative_step", "weight_decay", "momentum")),
    (Integral, "a whole number", ("interval", "steps")),
    (bool, "true or false", ("knows_budget",)),
    (Schedule, "a schedule", ("base_schedule",)),
)
MAY_BE_NONE = ("momentum", "steps", "max_relative_step")
PAIRS = ("lr0_range", "start", "lr_limits", "momentum_limits")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is trained, and what an agent sees, does and is paid.

    Args:
        task: a Task, or its spelling ``name:key=value,…``; or a TaskDistribution, its name, or several of all these in
            a tuple, from which an environment draws a task for each episode.
        optimizer: ``"sgd"`` or ``"adamw"``.
        hyperparameters: what the action moves, ``("lr",)`` or ``("lr", "momentum")``, one dimension each.
        multipliers: the discrete actions, as multipliers; None makes the action a Box(−1, 1).
        max_factor: a continuous action a multiplies by max_factor ** a.
        form: ``"recursive"``, lr = base_schedule · p with p ← p · m, from lr0; ``"anchored"``, lr = lr0 ·
            base_schedule · m; or ``"absolute"``, lr = base_schedule · m, whatever lr0 is. For momentum β, the same with
            1 − β for lr and no schedule.
        base_schedule: a function of the training step that multiplies the rate; by default 1.
        interval: training steps from one decision to the next.
        steps: training steps in an episode; None is the task's budget.
        knows_budget: whether agents and ``base_schedule`` are told how many training steps there are; without, they are
            told what ``lrcontrol.envs.budget.Budget`` says.
        features: the observation, by name (``lrcontrol.envs.features.FEATURES``).
        probe_factor: f of the probe features: they compare a step with lr and one with f · lr.
        probe_direction: ``"update"`` or ``"gradient"``; None is the task's.
        reward: ``"loss"``, ``"log-loss"``, ``"log-loss-change"``, ``"fast-loss-change"`` or ``"validation-loss"``.
        reward_scale: every reward is multiplied by it. A value function learns from returns of order 1, and rewards of
            order 1 at each of hundreds of steps make returns of hundreds.
        validation_share: share of the training rows that ``"validation-loss"`` takes away from training to pay by.
        lr0_range: where initial rates are drawn from, log-uniformly; None is the task's range for the optimizer.
        start: a range, in natural units (``lrcontrol.envs.features.natural_rate``), from which the initial rate is
            drawn log-uniformly, whatever lr0 is; None starts from lr0.
        momentum: initial β; None is 0.9 for AdamW and 0 for SGD, whether an agent moves it or not.
        lr_limits, momentum_limits: lowest and highest values; whatever an action asks for is clipped to them.
        max_relative_step: the longest step lr ‖u‖ next to the parameters' length ‖θ‖, at the one training step right
            after each decision, u being what was observed, under the momentum before it: the rate of that step is
            lowered, and what the actions multiply stays; None is no limit.
        weight_decay: AdamW's.
        smoothing: of the gradient's size: ``"task"`` for the task's own, None for none, or a Smoothing.

    Raises:
        InputError: a value that cannot be used.
    """

    task: TaskSource = "digits-mlp"
    optimizer: str = "sgd"
    hyperparameters: tuple[str, ...] = ("lr",)
    multipliers: tuple[float, ...] | None = None
    max_factor: float = 2.0
    form: Literal["recursive", "anchored", "absolute"] = "recursive"
    base_schedule: Schedule = HOLD
    interval: int = 1
    steps: int | None = None
    knows_budget: bool = True
    features: tuple[str, ...] = DEFAULT_FEATURES
    probe_factor: float = 1.01
    probe_direction: Literal["update", "gradient"] | None = None
    reward: str = "loss"
    reward_scale: float = 1.0
    validation_share: float = 0.2
    lr0_range: tuple[float, float] | None = None
    start: tuple[float, float] | None = None
    momentum: float | None = None
    lr_limits: tuple[float, float] = (1e-12, 1e6)
    momentum_limits: tuple[float, float] = (0.0, 0.999)
    max_relative_step: float | None = None
    weight_decay: float = 0.0
    smoothing: Smoothing | Literal["task"] | None = "task"

    def __post_init__(self) -> None:
        self._check_kinds()
        self._check_names()
        self._check_actions()
        if self.interval < 1:
            raise InputError(f"interval {self.interval} is not positive")
        if self.steps is not None and self.steps < 1:
            raise InputError(f"steps {self.steps} is not positive")
        if not (self.probe_factor > 0.0 and self.probe_factor != 1.0 and math.isfinite(self.probe_factor)):
            raise InputError(f"probe_factor {self.probe_factor} must be positive and not 1")
        if not (self.reward_scale > 0.0 and math.isfinite(self.reward_scale)):
            raise InputError(f"reward_scale {self.reward_scale} is not positive")
        if not 0.0 < self.validation_share < 1.0:
            raise InputError(f"validation_share {self.validation_share} is not in (0, 1)")
        if not self.weight_decay >= 0.0:
            raise InputError(f"weight_decay {self.weight_decay} is negative")
        if self.max_relative_step is not None and not 0.0 < self.max_relative_step < math.inf:
            raise InputError(f"max_relative_step {self.max_relative_step} is not positive")
        low, high = self.lr_limits
        if not 0.0 < low < high < math.inf:
            raise InputError(f"lr_limits {self.lr_limits} are not 0 < low < high")
        low, high = self.momentum_limits
        if not 0.0 <= low < high < 1.0:
            raise InputError(f"momentum_limits {self.momentum_limits} are not 0 <= low < high < 1")
        if self.momentum is not None and not low <= self.momentum <= high:
            raise InputError(f"momentum {self.momentum} is not within momentum_limits {self.momentum_limits}")
        if self.start is not None and not 0.0 < self.start[0] <= self.start[1] < math.inf:
            raise InputError(f"start {self.start} is not 0 < low <= high")
        if self.lr0_range is not None:
            for lr0 in self.lr0_range:
                self.check_lr0(lr0)
            if self.lr0_range[0] > self.lr0_range[1]:
                raise InputError(f"lr0_range {self.lr0_range} is not low <= high")

    def _check_kinds(self) -> None:
        """Raise InputError for what is not even of the type that it should be: settings come from command lines too."""
        for kind, what, names in KINDS:
            for name in names:
                value = getattr(self, name)
                if not (isinstance(value, kind) or (value is None and name in MAY_BE_NONE)):
                    raise InputError(f"{name} {value!r} is not {what}")
        for name in PAIRS:
            value = getattr(self, name)
            if value is not None and not (_numbers(value) and len(value) == 2):
                raise InputError(f"{name} {value!r} is not a pair of numbers (low, high)")
        if self.multipliers is not None and not _numbers(self.multipliers):
            raise InputError(f"multipliers {self.multipliers!r} are not a tuple of numbers")
        if not (isinstance(self.features, tuple | list) and all(isinstance(name, str) for name in self.features)):
            raise InputError(f"features {self.features!r} are not a tuple of names, such as ('log_loss', 'log_lr')")
        if not (self.smoothing is None or self.smoothing == "task" or isinstance(self.smoothing, Smoothing)):
            raise InputError(f"smoothing {self.smoothing!r} is not 'task', None or a Smoothing")

    def _check_names(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            raise unknown("optimizer", self.optimizer, OPTIMIZERS)
        if self.reward not in REWARDS:
            raise unknown("reward", self.reward, REWARDS)
        if self.form not in FORMS:
            raise unknown("form", self.form, FORMS)
        if self.probe_direction not in (None, "update", "gradient"):
            raise unknown("probe_direction", str(self.probe_direction), ("update", "gradient"))
        if self.hyperparameters not in (("lr",), ("lr", "momentum")):
            raise InputError(f'hyperparameters {self.hyperparameters} must be ("lr",) or ("lr", "momentum")')
        measures_of(self.features)
        if "probe_momentum_slope" in self.features and "momentum" not in self.hyperparameters:
            raise InputError('feature \'probe_momentum_slope\' needs hyperparameters=("lr", "momentum")')

    def _check_actions(self) -> None:
        if self.multipliers is not None and not (
            self.multipliers and all(m > 0.0 and math.isfinite(m) for m in self.multipliers)
        ):
            raise InputError(f"multipliers {self.multipliers} must be positive numbers, at least one")
        if not (self.max_factor > 1.0 and math.isfinite(self.max_factor)):
            raise InputError(f"max_factor {self.max_factor} is not above 1")

    def check_lr0(self, lr0: float) -> None:
        """Raise InputError unless ``lr0`` is an initial learning rate that can be used."""
        low, high = self.lr_limits
        if not low <= lr0 <= high:
            raise InputError(f"initial learning rate {lr0:g} is not within {low:g}..{high:g} (lr_limits)")

    def in_rows(self, action: NDArray[np.generic], rows: int) -> NDArray[np.generic]:
        """Return an action (R, H), or for H = 1 (R,), as (R, H).

        Raises:
            InputError: it is of another size.
        """
        if action.size != rows * len(self.hyperparameters):
            raise InputError(f"actions of shape {action.shape} are not {(rows, len(self.hyperparameters))}")
        return action.reshape(rows, len(self.hyperparameters))

    def factors(self, action: NDArray[np.generic], rows: int) -> Array:
        """Return the multipliers (R, H) that an action stands for, (R, H) or, for H = 1, (R,).

        Raises:
            InputError: it is outside the action space.
        """
        action = self.in_rows(action, rows)
        if self.multipliers is None:
            powers = action.astype(np.float64)
            if not np.isfinite(powers).all():
                raise InputError("an action is not finite")
            return np.asarray(self.max_factor ** np.minimum(np.maximum(powers, -1.0), 1.0))
        index = action.astype(np.int64)
        if ((index < 0) | (index >= len(self.multipliers)) | (index != action)).any():
            raise InputError(f"an action is not a whole number in 0..{len(self.multipliers) - 1}")
        return np.asarray(self.multipliers)[index]

    def factor(self, action: float) -> float:
        """Return the multiplier that one number of an action stands for, as ``factors`` does for arrays of them.

        Raises:
            InputError: it is outside the action space.
        """
        if self.multipliers is None:
            if not math.isfinite(action):
                raise InputError(f"action {action} is not finite")
            return float(self.max_factor ** min(max(action, -1.0), 1.0))
        if action not in range(len(self.multipliers)):
            raise InputError(f"action {action} is not a whole number in 0..{len(self.multipliers) - 1}")
        return self.multipliers[int(action)]

    @property
    def measures(self) -> frozenset[str]:
        """What has to be measured for the features, the start and the longest step."""
        start = UNIT_MEASURES if self.start is not None else frozenset()
        step = STEP_MEASURES if self.max_relative_step is not None else frozenset()
        return measures_of(self.features) | start | step

    @property
    def initial_momentum(self) -> float:
        """β before the first decision."""
        if self.momentum is not None:
            return self.momentum
        return 0.9 if self.optimizer == "adamw" else 0.0

    @classmethod
    def make(cls, arguments: Mapping[str, Any]) -> Settings:
        """Return settings from keyword arguments: sequences as tuples, numpy's numbers as Python's, schedules by kind.

        Raises:
            InputError: an unknown name (the nearest is suggested) or a value that cannot be used.
        """
        names = [field.name for field in fields(cls)]
        for name in arguments:
            if name not in names:
                raise unknown("setting", name, names)
        values: dict[str, Any] = {name: _python(value) for name, value in arguments.items()}
        if isinstance(kind := values.get("base_schedule"), str):
            values["base_schedule"] = Schedule(kind)
        return cls(**values)


def _python(value: Any) -> Any:
    """Return lists as tuples, and what numpy has of numbers as Python's own, which JSON takes."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    return tuple(_python(entry) for entry in value) if isinstance(value, list | tuple) else value


def _numbers(values: object) -> bool:
    """Return whether it is a tuple or list of numbers."""
    return isinstance(values, tuple | list) and all(isinstance(value, Real) for value in values)
