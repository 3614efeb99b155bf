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
from lrcontrol.controller_measures import MEASURES, Measurer, Measures
from lrcontrol.controller_probe import Closure, probe_measures, told_apart, try_steps
from lrcontrol.controller_rates import Rates, put
from lrcontrol.controller_state import Memory, chosen
from lrcontrol.envs.budget import Budget
from lrcontrol.envs.errors import InputError
from lrcontrol.envs.features import (
    OF_LOG_LOSS,
    LossHistory,
    Moment,
    highest_rate,
    natural_rate,
    observe,
)
from lrcontrol.envs.settings import Settings


class Decider:
    """One agent on one run, in the order of ``World``: what is observed at step t, and what the action then does.

    All that is decided is in lists, a plain number for each of the R rows of ``Rates``, of which there is one unless
    each group has its own. They share the loss; what is measured is of a row's own parameters.

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
        lr0, momentum0: where the rows began.
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
        self.measured = self.wanted & MEASURES
        self.measurer = Measurer(rates, "grad_dot_memory" in self.wanted, sample)
        for lr in rates.lr0 if settings.start is None else ():  # who finds a start does not begin there
            settings.check_lr0(lr)
        self.lr0, self.momentum0, self.scale = list(rates.lr0), rates.momentum, 1.0
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
        return self.memory.lr[self.rates.row]

    @property
    def momentum(self) -> list[float]:
        """The momentum in force, 0 where there is none."""
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
        made = self.rates.adopt_new_groups(self._unscheduled())
        if made:
            momentum = self.rates.momentum[-len(made) :]
            self.memory.grow(made, momentum)
            self.lr0, self.momentum0 = self.lr0 + made, self.momentum0 + momentum
        self.rates.due += self.rates.of_groups(self.memory.lr)[known:]
        for group, due in list(zip(self.rates.groups, self.rates.due, strict=True))[known:]:
            put(group, {"lr": due})
        return True

    def _unscheduled(self) -> float:
        """Return the reference's rate without the schedule on top of it, which a later group's is a share of."""
        memory, form, row = self.memory, self.settings.form, self.rates.row
        cut = self.cut()[row]
        if form == "recursive" or (form == "absolute" and memory.starts[row]):
            return cut * memory.level[row]
        return cut * self.scale * (self.lr0[row] if form == "anchored" else 1.0) * memory.factors[row][0]

    def take_in_changes(self, warned: bool) -> bool:
        """Go on from what something else has written into the groups since; return whether it did, saying so once.

        Rows go on from what their leaders have; a group that was given another rate has another ratio from here.
        """
        memory, rates = self.memory, self.rates
        changed = self._take_in_momenta(warned)
        written = rates.written()
        if not written:
            return changed
        cut = self.cut()
        for number, found in sorted(written.items(), key=lambda entry: entry[0] not in rates.leaders):
            due, row, leads = rates.due[number], rates.rows[number], number in rates.leaders
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
                rates.ratios[number] = found / memory.lr[row]
            if taken:
                rates.due[number] = found  # once, also where this step fails before it writes
        return True

    def _take_in_momenta(self, warned: bool) -> bool:
        """Do so for momenta, which are a row's leader's in all its groups."""
        rates, written = self.rates, self.rates.written_momenta()
        low, high = self.settings.momentum_limits
        for number, found in written.items():
            taken = number in rates.leaders and self.settings.form == "recursive"
            if not warned:
                warnings.warn(
                    f"something else wrote the momentum: {found:g} is in force where {rates.held[number]:g} was due. "
                    f"Is there another scheduler? The controller {'goes on from there' if taken else 'puts it back'}",
                    stacklevel=4,
                )
                warned = True
            if taken:
                self.memory.momentum[rates.rows[number]] = min(max(found, low), high)
                rates.held[number] = found
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
            self.memory.history = LossHistory(loss)
            return loss
        before = history.fast
        history.add(loss)
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

    def _decide(self, loss: float, closure: Closure | None) -> list[Measures] | None:
        """Ask the agent about all rows, and do what it says on those with a gradient, or on the one if it needs none.

        Return what was measured, None if the agent was not asked.
        """
        memory, settings, measurer = self.memory, self.settings, self.measurer
        measures = measurer.measure(self.measured)
        if self.sees_gradient:  # one of 0 says nothing
            rows = [measured["grad_sq"] != 0.0 and math.isfinite(measured["grad_sq"]) for measured in measures]
        else:
            rows = measurer.has_gradient() if len(measures) > 1 else [True]
        if not any(rows):
            self._say_blind(measures)
            return None
        observation = self._observe(loss, measures, rows, closure)
        action, state = self.agent.predict(observation, memory.agent, np.array(memory.starts), deterministic=True)
        memory.agent = chosen(rows, state, memory.agent)
        memory.starts = [starts and not decided for starts, decided in zip(memory.starts, rows, strict=True)]
        actions = settings.in_rows(np.asarray(action), len(rows))
        self.last_action = actions[self.rates.row]
        self.observation = dict(zip(settings.features, observation[self.rates.row].tolist(), strict=True))
        self._apply([[settings.factor(value) for value in values] for values in actions.tolist()], rows)
        return measures

    def _say_blind(self, measures: list[Measures]) -> None:
        """Warn, once, of an agent that needs gradients and has seen none, or none but 0, from the beginning."""
        there = any(self.measurer.has_gradient())
        zero = all(measured.get("grad_sq") == 0.0 for measured in measures) and all(self.memory.starts)
        if self.blind or not self.sees_gradient or (there and not zero):
            return
        self.blind = True
        warnings.warn(
            f"no parameter has a gradient{' other than 0' if there else ''}, so agent {self.agent.name!r} cannot tell "
            f"what to do and leaves the rate as it is: call controller.step(loss) after backward() and before "
            f"zero_grad()",
            stacklevel=5,
        )

    def _observe(
        self, loss: float, measures: list[Measures], rows: list[bool], closure: Closure | None
    ) -> NDArray[np.float32]:
        memory, settings = self.memory, self.settings
        assert memory.history is not None
        if closure is not None and self.probes:
            measures[0] |= self._probe(loss, closure)
        if settings.start is not None and any(memory.starts):
            self._start(settings.start, loss, measures, rows)
        step, steps = self.budget.moment(self.step_count)
        matrices = self.rates.matrices if "log_depth" in settings.features else 1
        found = []
        for row, measured in enumerate(measures):
            recursive = settings.form == "recursive"
            now = Moment(
                loss=loss,
                lr=memory.lr[row],
                momentum=self.momentum[row],
                begin=self.lr0[row],
                level=memory.level[row] / self.lr0[row] if recursive else memory.factors[row][0],
                step=step,
                steps=steps,
                adaptive=self.measurer.adaptive,
                matrices=matrices,
                interval=settings.interval,
                measures=measured,
            )
            found.append(observe(settings.features, now, memory.history))
        return np.concatenate(found) if len(found) > 1 else found[0]

    def _start(self, limits: tuple[float, float], loss: float, measures: list[Measures], rows: list[bool]) -> None:
        """Begin at the middle of the agent's starting range, whatever the rate was, unless there is no telling it."""
        memory, middle = self.memory, math.sqrt(limits[0] * limits[1])
        for row, gain in enumerate(self.rates.gain):
            if not (rows[row] and memory.starts[row]):
                continue
            measured = {name: np.array([value]) for name, value in measures[row].items()}
            unit = float(natural_rate(np.array([loss]), measured)[0])
            if not math.isnan(unit):
                self.lr0[row] = memory.level[row] = self.clip(unit * middle / gain)
        self.set_rate()

    def _probe(self, loss: float, closure: Closure) -> Measures:
        settings, measurer = self.settings, self.measurer
        rate = self._anchor(self.step_count)[0] if settings.form == "anchored" else self.lr
        pairs = measurer.gradients() if settings.probe_direction == "gradient" else measurer.updates()
        trials = [(rate, pairs), (settings.probe_factor * rate, pairs)]
        if "probe_loss_momentum" in self.wanted:
            low, high = settings.momentum_limits
            other = min(max(1.0 - settings.probe_factor * (1.0 - self.momentum[0]), low), high)
            trials.append((rate, measurer.updates(other)))
        self.forward_passes += len(trials)
        losses = told_apart(loss, try_steps(trials, closure, self.device), trials, self.measurer.uphill())
        return probe_measures(losses, settings.probe_factor)

    def _apply(self, factors: list[list[float]], rows: list[bool]) -> None:
        """Let the H factors for each row of a decision move level and momentum of the flagged rows."""
        memory, form = self.memory, self.settings.form
        low, high = self.settings.momentum_limits
        for row in range(len(rows)):
            if not rows[row]:
                continue
            memory.factors[row] = factors[row]
            if form == "recursive":
                memory.level[row] = self.clip(memory.level[row] * factors[row][0])
            if self.moves_momentum:
                bases = {"recursive": 1.0 - memory.momentum[row], "anchored": 1.0 - self.momentum0[row]}
                memory.momentum[row] = min(max(1.0 - bases.get(form, 1.0) * factors[row][-1], low), high)

    def _anchor(self, step: int) -> list[float]:
        """Return what an anchored or absolute action multiplies at a step, for each row."""
        multiplier = self.scale * self.budget.multiplier(self.settings.base_schedule, step)
        return [multiplier * (lr0 if self.settings.form == "anchored" else 1.0) for lr0 in self.lr0]

    def clip(self, lr: float) -> float:
        """Return the rate within its limits."""
        low, high = self.settings.lr_limits
        return min(max(lr, low), high)

    def _due(self, step: int) -> list[float]:
        """Return the rates that the decisions so far and the schedule make at a step, within their limits."""
        memory = self.memory
        if self.settings.form == "recursive":
            multiplier = self.budget.multiplier(self.settings.base_schedule, step)
            return [self.clip(level * multiplier) for level in memory.level]
        return [self.clip(base * mine[0]) for base, mine in zip(self._anchor(step), memory.factors, strict=True)]

    def set_rate(self, measures: list[Measures] | None = None) -> None:
        """Work out the rates of this step; where it was measured, it is no longer than the longest step."""
        memory, longest = self.memory, self.settings.max_relative_step
        due = self._due(self.step_count)
        if measures and longest is not None:
            highest = (highest_rate(longest, measured) for measured in measures)
            due = [self.clip(min(rate, most)) for rate, most in zip(due, highest, strict=True)]
        if self.settings.form == "absolute":
            rows = zip(memory.starts, memory.lr, due, strict=True)
            due = [old if starts else new for starts, old, new in rows]
        memory.lr = due

    def cut(self) -> list[float]:
        """Return the last step's rates over what was due: below 1 where that would have been too long a step."""
        memory = self.memory
        if self.settings.max_relative_step is None:
            return [1.0] * len(memory.lr)
        due = self._due(max(self.step_count - 1, 0))
        rows = zip(memory.lr, due, memory.starts, strict=True)
        return [lr / base if lr < base and not starts else 1.0 for lr, base, starts in rows]

    def write(self) -> None:
        """Put rates and momentum in force."""
        self.rates.write(self.memory.lr, self.memory.momentum if self.moves_momentum else None)
