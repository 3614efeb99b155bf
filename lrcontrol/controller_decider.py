"""Asks the agent: from losses, gradients and trial steps to the rate and momentum in force."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lrcontrol.agents import Agent
from lrcontrol.controller_decisions import budget_features
from lrcontrol.controller_measures import MEASURES, Measurer
from lrcontrol.controller_probe import Closure, probe_measures, told_apart, try_steps
from lrcontrol.controller_rates import Rates, put
from lrcontrol.controller_state import Memory, chosen
from lrcontrol.envs.budget import Budget
from lrcontrol.envs.errors import InputError
from lrcontrol.envs.features import (
    OF_LOG_LOSS,
    Array,
    LossHistory,
    Moment,
    highest_rate,
    natural_rate,
    observe,
)
from lrcontrol.envs.settings import Settings


class Decider:
    """One agent on one run, in the order of ``World``: what is observed at step t, and what the action then does.

    All that is decided is (R,), as in ``World``: the rows of ``Rates``, of which there is one unless each group has
    its own. They share the loss; what is measured is of a row's own parameters.

    Args:
        agent: who acts.
        settings: those of the agent's environment.
        budget: the length of the run.
        rates: of the optimizer.
        sample: see ``Measurer``.
        moves_momentum: whether the second of an agent's actions counts.

    Attributes:
        memory: all that changes and a rollback takes back.
        step_count: training steps so far.
        scale: what rollbacks have multiplied anchored and absolute rates by.
        lr0, momentum0: where the rows began (R,).
        observation, last_action: of the reference's row.
        below_zero, blind: whether a loss below 0, and gradients that there are none of, were warned of.
    """

    def __init__(
        self,
        agent: Agent,
        settings: Settings,
        budget: Budget,
        rates: Rates,
        sample: int | None = None,
        moves_momentum: bool = False,
    ) -> None:
        self.agent, self.settings, self.budget, self.rates = agent, settings, budget, rates
        self.moves_momentum = moves_momentum
        self.wanted = settings.measures
        self.counts_on_budget = settings.base_schedule.needs_total or bool(budget_features(settings))
        self.probes = any(name.startswith("probe_") for name in self.wanted)
        self.sees_gradient = self.probes or bool(self.wanted & MEASURES)
        self.wanted |= {"grad_sq"} if self.sees_gradient else frozenset()
        self.measurer = Measurer(rates, "grad_dot_memory" in self.wanted, sample)
        for lr in rates.lr0.tolist() if settings.start is None else ():  # who finds a start does not begin there
            settings.check_lr0(lr)
        self.lr0, self.momentum0, self.scale = rates.lr0, rates.momentum, 1.0
        self.memory = Memory.begin(self.lr0, self.momentum0, len(settings.hyperparameters))
        self.step_count = self.next_decision = self.forward_passes = 0
        self.below_zero = self.blind = False
        self.observation: dict[str, float] = {}
        self.last_action: NDArray[Any] | None = None
        self.set_rate()
        self.write()

    @property
    def lr(self) -> float:
        """The reference's rate in force."""
        return float(self.memory.lr[self.rates.row])

    @property
    def momentum(self) -> Array:
        """The momentum in force (R,), 0 where there is none."""
        return self.memory.momentum if self.moves_momentum else self.rates.momentum

    def device(self) -> torch.device:
        """Return where the first parameter is."""
        return next((param.device for group in self.rates.groups for param in group["params"]), torch.device("cpu"))

    def adopt_new_groups(self) -> bool:
        """Take in groups that were added since; return whether there were any."""
        known, there = len(self.rates.ratios), len(self.rates.groups)
        if known == there:
            return False
        if known > there:
            raise InputError(
                f"the optimizer has {there} of its {known} parameter groups left: a controller goes on with groups "
                f"that are added and not without some; make a new one"
            )
        made = np.array(self.rates.adopt_new_groups(self._unscheduled()))
        if len(made):
            momentum = self.rates.momentum[-len(made) :]
            self.memory.grow(made, momentum)
            self.lr0, self.momentum0 = np.append(self.lr0, made), np.append(self.momentum0, momentum)
        due = self.rates.of_groups(self.memory.lr)
        for group, rate in list(zip(self.rates.groups, due, strict=True))[known:]:
            put(group, {"lr": rate})
        return True

    def _unscheduled(self) -> float:
        """Return the reference's rate without the schedule on top of it, which a later group's is a share of."""
        memory, form, row = self.memory, self.settings.form, self.rates.row
        cut = float(self.cut()[row])
        if form == "recursive" or (form == "absolute" and memory.starts[row]):
            return cut * float(memory.level[row])
        return cut * float(self.scale * (self.lr0[row] if form == "anchored" else 1.0) * memory.factors[row, 0])

    def take_in_changes(self, warned: bool) -> bool:
        """Go on from what something else has written into the groups since; return whether it did, saying so once.

        Rows go on from what their leaders have; a group that was given another rate has another ratio from here.
        """
        memory, rates = self.memory, self.rates
        all_due = rates.of_groups(memory.lr)
        written = rates.written(all_due)
        cut = self.cut() if written else np.ones_like(memory.lr)
        for number, found in sorted(written.items(), key=lambda entry: entry[0] not in rates.leaders):
            due, row, leads = all_due[number], rates.rows[number], number in rates.leaders
            goes_on = self.settings.form == "recursive" or due == 0.0  # else the rate is decided anew at every step
            taken = (found > 0.0 and goes_on) if leads else found >= 0.0
            if not warned:
                does = f"goes on from {found:g}" if taken else f"puts {due:g} back"
                warnings.warn(
                    f"something else wrote the learning rate: {found:g} is in force where {due:g} was due. Is there "
                    f"another scheduler? The controller {does}",
                    stacklevel=3,
                )
                warned = True
            if taken and leads and due > 0.0:
                memory.level[row] *= cut[row] * found / due
                memory.lr[row] = found
            elif taken:
                rates.ratios[number] = found / float(memory.lr[row])
        return bool(written)

    def add(self, loss: float) -> float:
        """Take in the loss of this step; return the fast average before it."""
        if loss < 0.0 and not self.below_zero and set(OF_LOG_LOSS) & set(self.settings.features):
            self.below_zero = True
            warnings.warn(
                f"the loss is below 0, {loss:g}, and agent {self.agent.name!r} sees logarithms of it, which "
                f"end there: give step() the loss plus a constant, the least that keeps it above 0, or choose another "
                f"agent",
                stacklevel=3,
            )
        history = self.memory.history
        if history is None:
            self.memory.history = LossHistory(np.array([loss]))
            return loss
        before = float(history.fast[0])
        history.add(np.array([loss]))
        return before

    def act(self, loss: float, closure: Closure | None) -> None:
        """Ask the agent where a decision is due, and set the rate of the step to come.

        A decision that looks at gradients stays due where there are none, where all of them are 0, as of a margin loss
        that is met, or where one is not finite, as when a gradient scaler has gone too far.
        """
        if self.step_count == self.budget.total and self.counts_on_budget:
            warnings.warn(
                f"step {self.step_count + 1} of {self.budget.total}: agent {self.agent.name!r} was told that the run "
                f"ends here, and goes on as at its end; give the total_steps that there are",
                stacklevel=3,
            )
        measures = self._decide(loss, closure) if self.step_count >= self.next_decision else None
        if measures is not None:
            self.next_decision = self.step_count + self.settings.interval
        self.set_rate(measures)

    def _decide(self, loss: float, closure: Closure | None) -> dict[str, Array] | None:
        """Ask the agent about all rows, and do what it says on those with a gradient, or on the one if it needs none.

        Return what was measured, None if the agent was not asked.
        """
        memory, settings, row = self.memory, self.settings, self.rates.row
        looks = self.rates.count > 1 or self.sees_gradient
        rows = self.measurer.has_gradient() if looks else np.ones(1, dtype=np.bool_)
        measures = self.measurer.measure(self.wanted) if rows.any() else {}
        zero = self._zero(measures)
        if self.sees_gradient and not self.blind and (not rows.any() or (zero.all() and memory.starts.all())):
            self.blind = True
            warnings.warn(
                f"no parameter has a gradient{' other than 0' if rows.any() else ''}, so agent {self.agent.name!r} "
                f"cannot tell what to do and leaves the rate as it is: call controller.step(loss) after backward() and "
                f"before zero_grad()",
                stacklevel=4,
            )
        rows &= ~(zero | self._spoiled(measures))
        if not rows.any():
            return None
        observation = self._observe(loss, measures, rows, closure)
        action, state = self.agent.predict(observation, memory.agent, memory.starts, deterministic=True)
        memory.agent = chosen(rows, state, memory.agent)
        memory.starts = memory.starts & ~rows
        action = np.asarray(action).reshape(self.rates.count, -1)
        self.last_action = action[row]
        self.observation = dict(zip(settings.features, observation[row].tolist(), strict=True))
        self._apply(settings.factors(action, self.rates.count), rows)
        return measures

    def _zero(self, measures: dict[str, Array]) -> NDArray[np.bool_]:
        """Return which rows (R,) have a gradient of 0, as far as anything was measured of it: it says nothing."""
        if "grad_sq" not in measures:
            return np.zeros(self.rates.count, dtype=np.bool_)
        return np.asarray(measures["grad_sq"] == 0.0)

    def _spoiled(self, measures: dict[str, Array]) -> NDArray[np.bool_]:
        """Return which rows (R,) have a gradient that is not finite, as far as anything was measured of it."""
        if "grad_sq" not in measures:
            return np.zeros(self.rates.count, dtype=np.bool_)
        unknown = ~np.isfinite(measures["grad_sq"])
        return unknown & self.measurer.has_gradient() if unknown.any() else unknown

    def _observe(
        self, loss: float, measures: dict[str, Array], rows: NDArray[np.bool_], closure: Closure | None
    ) -> NDArray[np.float32]:
        memory, settings = self.memory, self.settings
        assert memory.history is not None
        losses = np.full(self.rates.count, loss)
        if closure is not None and self.probes:
            measures |= self._probe(loss, closure)
        if settings.start is not None and memory.starts.any():
            self._start(settings.start, natural_rate(losses, measures), memory.starts & rows)
        level = memory.level / self.lr0 if settings.form == "recursive" else memory.factors[:, 0]
        step, steps = self.budget.moment(self.step_count)
        now = Moment(
            loss=losses,
            lr=memory.lr,
            momentum=self.momentum,
            begin=self.lr0,
            level=level,
            step=step,
            steps=steps,
            adaptive=self.measurer.adaptive,
            matrices=self.rates.matrices,
            interval=settings.interval,
            measures=measures,
        )
        return observe(settings.features, now, memory.history)

    def _start(self, limits: tuple[float, float], unit: Array, rows: NDArray[np.bool_]) -> None:
        """Begin at the middle of the agent's starting range, whatever the rate was, unless there is no telling it."""
        rows = rows & ~np.isnan(unit)
        begin = self.clip(unit * math.sqrt(limits[0] * limits[1]) / self.rates.gain)
        self.lr0, self.memory.level = (np.where(rows, begin, old) for old in (self.lr0, self.memory.level))
        self.set_rate()

    def _probe(self, loss: float, closure: Closure) -> dict[str, Array]:
        settings, measurer = self.settings, self.measurer
        rate = float(self._anchor(self.step_count)[0]) if settings.form == "anchored" else self.lr
        pairs = measurer.gradients() if settings.probe_direction == "gradient" else measurer.updates()
        trials = [(rate, pairs), (settings.probe_factor * rate, pairs)]
        if "probe_loss_momentum" in self.wanted:
            low, high = settings.momentum_limits
            other = float(np.clip(1.0 - settings.probe_factor * (1.0 - self.momentum[0]), low, high))
            trials.append((rate, measurer.updates(other)))
        self.forward_passes += len(trials)
        losses = told_apart(loss, try_steps(trials, closure, self.device), trials, self.measurer.uphill())
        return {name: np.array([value]) for name, value in probe_measures(losses, settings.probe_factor).items()}

    def _apply(self, factors: Array, rows: NDArray[np.bool_]) -> None:
        """Let the factors (R, H) of a decision move level and momentum of the flagged rows (R,)."""
        memory, form = self.memory, self.settings.form
        memory.factors = np.where(rows[:, None], factors, memory.factors)
        if form == "recursive":
            memory.level = np.where(rows, self.clip(memory.level * factors[:, 0]), memory.level)
        if self.moves_momentum:
            bases: dict[str, Array | float] = {"recursive": 1.0 - memory.momentum, "anchored": 1.0 - self.momentum0}
            low, high = self.settings.momentum_limits
            moved = np.minimum(np.maximum(1.0 - bases.get(form, 1.0) * factors[:, -1], low), high)
            memory.momentum = np.where(rows, moved, memory.momentum)

    def _anchor(self, step: int) -> Array:
        """Return what an anchored or absolute action multiplies at a step (R,)."""
        start = self.lr0 if self.settings.form == "anchored" else np.ones_like(self.lr0)
        return self.scale * start * self.budget.multiplier(self.settings.base_schedule, step)

    def clip(self, lr: Array) -> Array:
        """Return the rates within their limits."""
        low, high = self.settings.lr_limits
        return np.minimum(np.maximum(lr, low), high)

    def _due(self, step: int) -> Array:
        """Return the rates (R,) that the decisions so far and the schedule make at a step, within their limits."""
        memory = self.memory
        if self.settings.form == "recursive":
            return self.clip(memory.level * self.budget.multiplier(self.settings.base_schedule, step))
        return self.clip(self._anchor(step) * memory.factors[:, 0])

    def set_rate(self, measures: dict[str, Array] | None = None) -> None:
        """Work out the rates of this step; where it was measured, it is no longer than the longest step."""
        memory, longest = self.memory, self.settings.max_relative_step
        due = self._due(self.step_count)
        if measures and longest is not None:
            due = self.clip(np.minimum(due, highest_rate(longest, measures)))
        memory.lr = np.where(memory.starts, memory.lr, due) if self.settings.form == "absolute" else due

    def cut(self) -> Array:
        """Return the last step's rates over what was due (R,): below 1 where that would have been too long a step."""
        memory = self.memory
        if self.settings.max_relative_step is None:
            return np.ones_like(memory.lr)
        due = self._due(max(self.step_count - 1, 0))
        return np.where((memory.lr < due) & ~memory.starts, memory.lr / due, 1.0)

    def write(self) -> None:
        """Put rates and momentum in force."""
        self.rates.write(self.memory.lr, self.memory.momentum if self.moves_momentum else None)
