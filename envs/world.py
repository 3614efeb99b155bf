"""The world: an engine controlled by actions, with observations and rewards; every environment is one of these."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lrcontrol.envs.engine import Engine, pick_device
from lrcontrol.envs.errors import InputError
from lrcontrol.envs.features import Array, LossHistory, Moment, measures_of, observe
from lrcontrol.envs.optimizers import Momentum
from lrcontrol.envs.reductions import row_dot, row_square
from lrcontrol.envs.registry import make_task
from lrcontrol.envs.rewards import REWARDS, worst_loss
from lrcontrol.envs.seeding import RunSeeds
from lrcontrol.envs.settings import Settings

Observation = NDArray[np.float32]
PROBES = 2  # forward passes that one probing decision costs


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
        trace: loss, lr and momentum, (steps, R) each, where recording; NaN losses once a replica is frozen.
        forward_passes, backward_passes: what the run has cost each replica so far, as its training loop counts: one of
            each for every training step, and two forward passes more for every probing decision.
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
        self.task = make_task(settings.task)
        self.steps = settings.steps or self.task.steps
        self.lr0_range = settings.lr0_range or self.task.lr0_range.get(settings.optimizer, (1e-6, 1.0))
        self._controls_momentum = "momentum" in settings.hyperparameters
        self._measures = measures_of(settings.features)
        self._probes = any(name.startswith("probe_") for name in self._measures)
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
            device=pick_device(device),
        )

    def reset(self, seeds: Sequence[RunSeeds], lr0: float | Sequence[float] | Array | None = None) -> Observation:
        """Start all replicas anew and return their observations (R, F).

        Args:
            seeds: one for each row.
            lr0: initial learning rate, one or (R,); None draws each log-uniformly from ``lr0_range``.

        Raises:
            InputError: an initial rate outside lr_limits, or a first loss that is not finite.
        """
        if lr0 is None:
            low, high = np.log(self.lr0_range)
            lr0 = [float(np.exp(np.random.default_rng(seed.exploration).uniform(low, high))) for seed in seeds]
        self.lr0: Array = np.broadcast_to(np.asarray(lr0, dtype=np.float64), (self.rows,)).copy()
        for value in self.lr0:
            self.settings.check_lr0(float(value))
        self.engine.reset(seeds)
        self.lr = self.lr0.copy()
        self.momentum: Array = np.full(self.rows, self.settings.initial_momentum)
        self.worst = worst_loss(self.engine.losses)
        self.last_loss: Array = self.engine.losses.copy()
        self.history = LossHistory(self.engine.losses)
        self.forward_passes = self.backward_passes = 0
        if self.settings.form == "anchored":
            self._anchor(np.ones(self.rows))
        if self.record:
            shape = (self.steps, self.rows)
            self.trace = {name: np.full(shape, np.nan) for name in ("loss", "lr", "momentum")}
        return self._observe()

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
        factors = self._factors(np.asarray(action))
        if self.settings.form == "recursive":
            self._set(self.lr * factors[:, 0], (1.0 - self.momentum) * factors[:, -1])
        elif self._controls_momentum:
            self._set(self.lr, (1.0 - self.settings.initial_momentum) * factors[:, 1])
        before = self._capped(self.last_loss)
        losses = [self._train(factors[:, 0]) for _ in range(min(self.settings.interval, self.steps - self.step_count))]
        reward = REWARDS[self.settings.reward](np.stack(losses), before)
        return self._observe(), reward, self.step_count >= self.steps

    def _factors(self, action: NDArray[np.generic]) -> Array:
        """Return the multipliers (R, H) that an action stands for."""
        settings = self.settings
        action = action.reshape(self.rows, len(settings.hyperparameters))
        if settings.multipliers is None:
            if not np.isfinite(action.astype(np.float64)).all():
                raise InputError("an action is not finite")
            return np.asarray(settings.max_factor ** np.clip(action.astype(np.float64), -1.0, 1.0))
        index = action.astype(np.int64)
        if ((index < 0) | (index >= len(settings.multipliers))).any():
            raise InputError(f"an action is not in 0..{len(settings.multipliers) - 1}")
        return np.asarray(settings.multipliers)[index]

    def _set(self, lr: Array, one_minus_momentum: Array) -> None:
        """Put new values in force, clipped, in the replicas that are not frozen."""
        alive = self.engine.alive
        self.lr = np.where(alive, np.clip(lr, *self.settings.lr_limits), self.lr)
        if self._controls_momentum:
            low, high = self.settings.momentum_limits
            momentum = np.where(alive, np.clip(1.0 - one_minus_momentum, low, high), self.momentum)
            if not np.array_equal(momentum, self.momentum):
                self.momentum, self.engine.update = momentum, None

    def _anchor(self, factor: Array) -> None:
        base = self.settings.base_schedule(self.step_count, self.steps)
        self._set(self.lr0 * base * factor, 1.0 - self.momentum)

    def _train(self, factor: Array) -> Array:
        """Take one training step and return the capped losses (R,) after it."""
        if self.settings.form == "anchored":
            self._anchor(factor)
        if self.record:
            row = self.step_count
            self.trace["loss"][row] = self.engine.losses
            self.trace["lr"][row], self.trace["momentum"][row] = self.lr, self.momentum
        self.engine.step(self.lr, self._momentum())
        self.forward_passes += 1
        self.backward_passes += 1
        self.last_loss = np.where(self.engine.alive, self.engine.losses, np.inf)
        self.history.add(self.engine.losses)
        return self._capped(self.last_loss)

    def _momentum(self) -> Momentum:
        return self.momentum if self._controls_momentum else self.settings.initial_momentum

    def _capped(self, losses: Array) -> Array:
        return np.minimum(losses, self.worst)

    def _observe(self) -> Observation:
        now = Moment(self.engine.losses, self.lr, self.momentum, self.step_count, self.steps, self._measure())
        return observe(self.settings.features, now, self.history)

    def _measure(self) -> dict[str, Array]:
        """Return the measures that the features need; at the end of the episode a probe would decide nothing."""
        wanted, engine = self._measures, self.engine
        measures: dict[str, Array] = {}
        if not wanted:
            return measures
        needs_update = {"grad_dot_update", "update_sq"} & wanted or (self._probes and not self._along_gradient)
        if needs_update and engine.update is None:
            engine.propose(self._momentum())
        gradient, update, memory = engine.gradient, engine.update, engine.optimizer.memory
        if "grad_sq" in wanted:
            measures["grad_sq"] = row_square(gradient)
        if "grad_dot_memory" in wanted:
            nothing = np.full(self.rows, np.nan)
            measures["grad_dot_memory"] = nothing if memory is None else row_dot(gradient, memory)
            measures["memory_sq"] = nothing if memory is None else row_square(memory)
        if update is not None and update is gradient and "grad_sq" in wanted:
            measures["grad_dot_update"] = measures["update_sq"] = measures["grad_sq"]
        elif update is not None and needs_update:
            measures["grad_dot_update"], measures["update_sq"] = row_dot(gradient, update), row_square(update)
        if "param_sq" in wanted:
            measures["param_sq"] = row_square(engine.params)
        if self._probes:
            measures |= self._probe()
        return measures

    def _probe(self) -> dict[str, Array]:
        factor = self.settings.probe_factor
        same = more = np.full(self.rows, np.nan)
        if self.step_count < self.steps:
            lr = self.lr
            if self.settings.form == "anchored":
                lr = self.lr0 * self.settings.base_schedule(self.step_count, self.steps)
            same, more = self.engine.probe(lr, factor, self._along_gradient)
            self.forward_passes += PROBES
        return {"probe_loss": same, "probe_loss_more": more, "probe_factor": np.full(self.rows, factor)}
