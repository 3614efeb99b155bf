"""The world: an engine controlled by actions, with observations and rewards; every environment is one of these."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lrcontrol.envs.budget import Budget
from lrcontrol.envs.distributions import Fixed, find_tasks
from lrcontrol.envs.engine import Engine, pick_device
from lrcontrol.envs.errors import InputError
from lrcontrol.envs.features import LossHistory, Moment, highest_rate, natural_rate, observe
from lrcontrol.envs.optimizers import Momentum
from lrcontrol.envs.rewards import REWARDS, VALIDATION, Stretch, worst_loss
from lrcontrol.envs.seeding import RunSeeds, log_uniform
from lrcontrol.envs.settings import Settings
from lrcontrol.envs.task import Data
from lrcontrol.envs.values import Array

Observation = NDArray[np.float32]


class World:
    """R replicas of a training run, controlled together; all share the budget and end together.

    Args:
        settings: what is trained, seen, done and paid.
        rows: R.
        streams: distinct minibatch streams, dividing R; default one for each row.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        record: keep every training step's loss, lr and momentum in ``trace``.

    Attributes:
        lr, momentum: (R,), float64, the values in force.
        level: (R,), float64, p of the recursive form: the rate before ``base_schedule`` multiplies it.
        trace: loss, lr and momentum, (steps, R) each, where recording; NaN losses once a replica is frozen.
        forward_passes, backward_passes: what the run has cost each replica so far, as its training loop counts: one of
            each for every training step, and two or three forward passes more for every probing decision.
    """

    def __init__(
        self,
        settings: Settings,
        rows: int = 1,
        streams: int | None = None,
        device: str = "auto",
        record: bool = False,
    ) -> None:
        self.settings, self.rows, self.record = settings, rows, record
        tasks = find_tasks(settings.task)
        if not isinstance(tasks, Fixed):
            raise InputError(f"{tasks.name!r} is a distribution of tasks: choose one of its instances")
        self.task = tasks.task
        self._validation: Data | None = None
        if settings.reward == VALIDATION:
            self.task, self._validation = self.task.hold_out(settings.validation_share)
        self.steps = settings.steps or self.task.steps
        self._budget = Budget(self.steps if settings.knows_budget else None)
        self.lr0_range = settings.lr0_range or self.task.lr0_range.get(settings.optimizer, (1e-6, 1.0))
        self._controls_momentum = "momentum" in settings.hyperparameters
        self._measures = settings.measures
        self._probes = any(name.startswith("probe_") for name in self._measures)
        self._probes_momentum = "probe_loss_momentum" in self._measures
        self._along_gradient = (settings.probe_direction or self.task.probe_direction) == "gradient"
        smoothing = self.task.smoothing if settings.smoothing == "task" else settings.smoothing
        self.engine = Engine(
            self.task,
            settings.optimizer,
            rows,
            streams,
            uses_momentum=self._controls_momentum or settings.initial_momentum > 0.0,
            weight_decay=settings.weight_decay,
            smoothing=smoothing,
            measures=self._measures,
            device=pick_device(device),
        )

    def reset(self, seeds: Sequence[RunSeeds], lr0: float | Sequence[float] | Array | None = None) -> Observation:
        """Start all replicas anew and return their observations (R, F).

        Args:
            seeds: one for each row.
            lr0: initial learning rate, one or (R,); None draws each log-uniformly from ``lr0_range``. Settings with a
                ``start`` do not look at it.

        Raises:
            InputError: an initial rate outside lr_limits, or a first loss that is not finite.
        """
        if lr0 is None:
            lr0 = self._draw(self.lr0_range, seeds)
        self.lr0: Array = np.broadcast_to(np.asarray(lr0, dtype=np.float64), (self.rows,)).copy()
        for value in self.lr0:
            self.settings.check_lr0(float(value))
        self.momentum: Array = np.full(self.rows, self.settings.initial_momentum)
        self.engine.reset(seeds, self._momentum())
        if self.settings.start is not None:
            drawn = self._draw(self.settings.start, seeds) * natural_rate(self.engine.losses, self.engine.measures)
            self.lr0 = np.clip(np.where(np.isnan(drawn), self.lr0, drawn), *self.settings.lr_limits)
        self.lr, self.level, self._factor = self.lr0.copy(), self.lr0.copy(), np.ones(self.rows)
        self.worst = worst_loss(self.engine.losses)
        self.last_loss: Array = self.engine.losses.copy()
        self.history = LossHistory(self.engine.losses.copy())
        self.forward_passes = self.backward_passes = 0
        if self.settings.form != "absolute":
            self._follow(np.ones(self.rows))
        if self.record:
            shape = (self.steps, self.rows)
            self.trace = {name: np.full(shape, np.nan) for name in ("loss", "lr", "momentum")}
        return self._observe()

    @staticmethod
    def _draw(limits: tuple[float, float], seeds: Sequence[RunSeeds]) -> Array:
        """Return a rate (R,) for each seed, log-uniform between the limits."""
        return np.array([log_uniform(np.random.default_rng(seed.exploration), *limits) for seed in seeds])

    @property
    def is_compiled(self) -> bool:
        """Whether forward and backward passes are all compiled, so that torch needs no threads beside them."""
        return self.engine.compiled and not self._probes_momentum

    @property
    def step_count(self) -> int:
        """Training steps taken since the reset."""
        return self.engine.step_count

    @property
    def diverged(self) -> NDArray[np.bool_]:
        """Which replicas are frozen, a loss of theirs not having been finite: (R,)."""
        return ~self.engine.alive

    def step(self, action: NDArray[np.generic]) -> tuple[Observation, Array, bool]:
        """Apply the action, train until the next decision, and return (observations, rewards (R,), whether it is over).

        Args:
            action: (R, H) for H hyperparameters, (R,) where H = 1: indices into the multipliers, or numbers in −1..1.

        Raises:
            InputError: an action outside its space.
        """
        if self.step_count >= self.steps:
            raise InputError("the episode is over: call reset")
        factors = self.settings.factors(np.asarray(action), self.rows)
        self._apply(factors)
        before, fast_before = self._capped(self.last_loss), self._capped(self.history.fast)
        left = min(self.settings.interval, self.steps - self.step_count)
        highest = self._highest()
        losses = [
            self._train(factors[:, 0], highest if number == left else None, measure=number == 1)
            for number in range(left, 0, -1)
        ]
        over = self.step_count >= self.steps
        fast_after = self._capped(self.history.fast)
        stretch = Stretch(np.stack(losses), before, fast_before, fast_after, self._validate() if over else None)
        return self._observe(), self.settings.reward_scale * REWARDS[self.settings.reward](stretch), over

    def _apply(self, factors: Array) -> None:
        """Let the factors (R, H) of a decision move the level and the momentum."""
        if self.settings.form == "recursive":
            self.level = self._kept(self.level * factors[:, 0], self.level, self.settings.lr_limits)
        if self._controls_momentum:
            initial = self.settings.initial_momentum
            origins: dict[str, Array | float] = {"recursive": self.momentum, "anchored": initial, "absolute": 0.0}
            momentum = 1.0 - (1.0 - origins[self.settings.form]) * factors[:, 1]
            self.momentum = self._kept(momentum, self.momentum, self.settings.momentum_limits)

    def _kept(self, new: Array, old: Array, limits: tuple[float, float]) -> Array:
        """Return the new values (R,), clipped to their limits, and the old ones where replicas are frozen."""
        return np.where(self.engine.alive, np.minimum(np.maximum(new, limits[0]), limits[1]), old)

    def _highest(self) -> Array | None:
        """Return the highest rates (R,) of the training step to come, None where there is no limit."""
        longest = self.settings.max_relative_step
        return None if longest is None else highest_rate(longest, self.engine.measures)

    def _follow(self, factor: Array, highest: Array | None = None) -> None:
        """Put the rate of this training step in force, at most ``highest``; ``factor`` (R,) is the last decision's."""
        rate = self.level * self._scheduled() if self.settings.form == "recursive" else self._anchored_rate() * factor
        rate = rate if highest is None else np.minimum(rate, highest)
        self.lr, self._factor = self._kept(rate, self.lr, self.settings.lr_limits), factor

    def _scheduled(self) -> float:
        return self._budget.multiplier(self.settings.base_schedule, self.step_count)

    def _anchored_rate(self) -> Array:
        """Return what the multipliers of the forms other than recursive multiply."""
        start = self.lr0 if self.settings.form == "anchored" else np.ones(self.rows)
        return start * self._scheduled()

    def _train(self, factor: Array, highest: Array | None = None, measure: bool = True) -> Array:
        """Take one training step and return the capped losses (R,) after it, measuring for an observation or not."""
        self._follow(factor, highest)
        if self.record:
            row = self.step_count
            self.trace["loss"][row] = self.engine.losses
            self.trace["lr"][row], self.trace["momentum"][row] = self.lr, self.momentum
        self.engine.step(self.lr, self._momentum(), measure)
        self.forward_passes += 1
        self.backward_passes += 1
        self.last_loss = np.where(self.engine.alive, self.engine.losses, np.inf)
        self.history.add(self.engine.losses.copy())
        return self._capped(self.last_loss)

    def _momentum(self) -> Momentum:
        return self.momentum if self._controls_momentum else self.settings.initial_momentum

    def _capped(self, losses: Array) -> Array:
        return np.fmin(losses, self.worst)  # of a frozen replica, whose losses are not numbers, the worst

    def _validate(self) -> Array | None:
        """Return the capped losses (R,) on the training rows held out, or None where none are."""
        if self._validation is None:
            return None
        return self._capped(np.where(self.engine.alive, self.engine.evaluate(self._validation)[0], np.nan))

    def _observe(self) -> Observation:
        level = self.level / self.lr0 if self.settings.form == "recursive" else self._factor
        step, steps = self._budget.moment(self.step_count)
        now = Moment(
            loss=self.engine.losses,
            lr=self.lr,
            momentum=self.momentum,
            begin=self.lr0,
            level=level,
            step=step,
            steps=steps,
            adaptive=self.settings.optimizer != "sgd",
            matrices=self.engine.layout.matrices,
            interval=self.settings.interval,
            measures=self._measure(),
        )
        return observe(self.settings.features, now, self.history)

    def _measure(self) -> dict[str, Array]:
        """Return the measures that the features need; at the end of the episode a probe would decide nothing."""
        return self.engine.measures | self._probe() if self._probes else self.engine.measures

    def _probe(self) -> dict[str, Array]:
        factor = self.settings.probe_factor
        losses = np.full((self.rows, 3 if self._probes_momentum else 2), np.nan)
        if self.step_count < self.steps:
            lr = self._anchored_rate() if self.settings.form == "anchored" else self.lr
            other = None
            if self._probes_momentum:
                other = np.clip(1.0 - factor * (1.0 - self.momentum), *self.settings.momentum_limits)
            losses = self.engine.probe(lr, factor, self._momentum(), self._along_gradient, other)
            self.forward_passes += losses.shape[1]
        names = ("probe_loss", "probe_loss_more", "probe_loss_momentum")
        return dict(zip(names, losses.T, strict=False)) | {"probe_factor": np.full(self.rows, factor)}
