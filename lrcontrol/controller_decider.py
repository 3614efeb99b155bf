"""Asks the agent: from losses, gradients and trial steps to the rate and momentum in force."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lrcontrol.agents import Agent
from lrcontrol.controller_decisions import Budget
from lrcontrol.controller_measures import Measurer
from lrcontrol.controller_probe import Closure, probe_measures, told_apart, try_steps
from lrcontrol.controller_rates import Rates
from lrcontrol.controller_state import Memory, to_array
from lrcontrol.envs.features import UNIT_MEASURES, LossHistory, Moment, measures_of, natural_rate, observe
from lrcontrol.envs.settings import Settings


class Decider:
    """One agent on one run, in the order of ``World``: what is observed at step t, and what the action then does.

    Args:
        agent: who acts.
        settings: those of the agent's environment.
        budget: the length of the run.
        rates: of the optimizer.
        sample: see ``Measurer``.

    Attributes:
        memory: all that changes and a rollback takes back.
        step_count: training steps so far.
        scale: what rollbacks have multiplied anchored and absolute rates by.
    """

    def __init__(
        self, agent: Agent, settings: Settings, budget: Budget, rates: Rates, sample: int | None = None
    ) -> None:
        self.agent, self.settings, self.budget, self.rates = agent, settings, budget, rates
        self.moves_momentum = "momentum" in settings.hyperparameters
        self.wanted = measures_of(settings.features) | (UNIT_MEASURES if settings.start else frozenset())
        self.probes = any(name.startswith("probe_") for name in self.wanted)
        self.measurer = Measurer(rates, "grad_dot_memory" in self.wanted, sample)
        settings.check_lr0(rates.lr)
        self.lr0, self.momentum0, self.scale = rates.lr, rates.momentum or 0.0, 1.0
        self.memory = Memory(self.lr0, self.momentum0, self.lr0, factors=[1.0] * len(settings.hyperparameters))
        self.step_count = self.next_decision = self.forward_passes = 0
        self.observation: dict[str, float] = {}
        self.last_action: NDArray[Any] | None = None
        if settings.form != "absolute":
            self.set_rate()
            self.write()

    @property
    def momentum(self) -> float:
        """The momentum in force, 0 where there is none."""
        return self.memory.momentum if self.moves_momentum else self.rates.momentum or 0.0

    @property
    def device(self) -> torch.device:
        """Where the first parameter is."""
        return next((param.device for group in self.rates.groups for param in group["params"]), torch.device("cpu"))

    def take_in_changes(self, warned: bool) -> bool:
        """Go on from what something else has written into the groups since; return whether it did, saying so once."""
        lr = self.memory.lr
        self.rates.adopt_new_groups(lr)
        if self.rates.holds(lr):
            return False
        found = self.rates.lr
        if not warned:
            warnings.warn(
                f"something else wrote the learning rate: {found:g} is in force where {lr:g} was due. Is there another "
                f"scheduler? The controller goes on from {found:g}",
                stacklevel=3,
            )
        if found > 0.0:
            self.memory.level *= found / lr
            self.memory.lr = found
        return True

    def add(self, loss: float) -> float:
        """Take in the loss of this step; return the fast average before it."""
        history = self.memory.history
        if history is None:
            self.memory.history = LossHistory(to_array(loss))
            return loss
        before = float(history.fast[0])
        history.add(to_array(loss))
        return before

    def act(self, loss: float, closure: Closure | None) -> None:
        """Ask the agent where a decision is due, and set the rate of the step to come."""
        if self.step_count >= self.next_decision:
            self._apply(self._ask(loss, closure))
            self.next_decision = self.step_count + self.settings.interval
        self.set_rate()

    def _ask(self, loss: float, closure: Closure | None) -> NDArray[Any]:
        memory, settings = self.memory, self.settings
        assert memory.history is not None
        measures = self.measurer.measure(self.wanted)
        if closure is not None and self.probes:
            measures |= self._probe(loss, closure)
        step, steps = self.budget.moment(self.step_count)
        measured = {name: to_array(value) for name, value in measures.items()}
        if memory.starts and settings.start is not None:
            self._start(settings.start, natural_rate(to_array(loss), measured)[0])
        level = memory.level / self.lr0 if settings.form == "recursive" else memory.factors[0]
        state = (to_array(loss), to_array(memory.lr), to_array(self.momentum), to_array(level))
        now = Moment(*state, step, steps, measured)
        observation = observe(settings.features, now, memory.history)
        start = np.array([memory.starts])
        action, memory.agent = self.agent.predict(observation, memory.agent, start, deterministic=True)
        memory.starts = False
        self.last_action = np.asarray(action).reshape(-1)
        self.observation = dict(zip(settings.features, observation[0].tolist(), strict=True))
        return self.last_action

    def _start(self, limits: tuple[float, float], unit: float) -> None:
        """Begin at the middle of the agent's starting range, whatever the rate was, unless there is no telling it."""
        if not math.isnan(unit):
            self.lr0 = self.memory.level = self.clip(unit * math.sqrt(limits[0] * limits[1]) / self.rates.gain)
            self.set_rate()

    def _probe(self, loss: float, closure: Closure) -> dict[str, float]:
        settings, measurer = self.settings, self.measurer
        rate = self._anchor() if settings.form == "anchored" else self.memory.lr
        pairs = measurer.gradients() if settings.probe_direction == "gradient" else measurer.updates()
        trials = [(rate, pairs), (settings.probe_factor * rate, pairs)]
        if "probe_loss_momentum" in self.wanted:
            low, high = settings.momentum_limits
            other = float(np.clip(1.0 - settings.probe_factor * (1.0 - self.momentum), low, high))
            trials.append((rate, measurer.updates(other)))
        self.forward_passes += len(trials)
        losses = told_apart(loss, try_steps(trials, closure, self.device), trials)
        return probe_measures(losses, settings.probe_factor)

    def _apply(self, action: NDArray[Any]) -> None:
        memory, form = self.memory, self.settings.form
        memory.factors = self.settings.factors(action, 1)[0].tolist()
        if form == "recursive":
            memory.level = self.clip(memory.level * memory.factors[0])
        if self.moves_momentum:
            base = {"recursive": 1.0 - memory.momentum, "anchored": 1.0 - self.momentum0, "absolute": 1.0}[form]
            low, high = self.settings.momentum_limits
            memory.momentum = float(np.clip(1.0 - base * memory.factors[-1], low, high))

    def _anchor(self) -> float:
        """Return what an anchored or absolute action multiplies at this step."""
        start = self.lr0 if self.settings.form == "anchored" else 1.0
        return self.scale * start * self.budget.multiplier(self.settings.base_schedule, self.step_count)

    def clip(self, lr: float) -> float:
        """Return the rate within its limits."""
        return float(np.clip(lr, *self.settings.lr_limits))

    def set_rate(self) -> None:
        """Work out the rate of this step from the last decision and the schedule."""
        memory = self.memory
        if self.settings.form == "recursive":
            memory.lr = self.clip(memory.level * self.budget.multiplier(self.settings.base_schedule, self.step_count))
        else:
            memory.lr = self.clip(self._anchor() * memory.factors[0])

    def write(self) -> None:
        """Put rate and momentum in force."""
        self.rates.write(self.memory.lr, self.memory.momentum if self.moves_momentum else None)
