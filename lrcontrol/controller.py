"""``LRController``: an agent on the optimizer of anyone's own training loop."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, SupportsFloat

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from lrcontrol.agents import Agent
from lrcontrol.agents.base import PolicyPredictor
from lrcontrol.controller_decider import Decider
from lrcontrol.controller_decisions import find_agent, make_settings, moves_momentum
from lrcontrol.controller_guard import Guard
from lrcontrol.controller_probe import Closure, loss_value
from lrcontrol.controller_rates import Rates
from lrcontrol.controller_record import Record, save_schedule
from lrcontrol.controller_safety import Rollback
from lrcontrol.controller_state import Memory, check_agent, check_match, describe, name_of
from lrcontrol.envs.budget import Budget
from lrcontrol.envs.errors import InputError
from lrcontrol.envs.schedules import Schedule

FORMAT = 3
NUMBERS = ("step_count", "next_decision", "forward_passes", "scale")
STARTS = ("lr0", "momentum0")
PARTS = (
    *("settings", "numbers", "ratios", "gains", "memory"),
    *("last_gradient", "observation", "last_action", "record", "guard"),
)
SILENT = 10  # calls without a loss, of those at the beginning, until a warning says so


class LRController(ReduceLROnPlateau):
    """Lets an agent set the learning rate, and the momentum if it moves that, of any torch optimizer.

    Call ``step(loss)`` after ``backward()`` and clipping and before ``optimizer.step()``. The agent then sees what it
    sees in the environment: this minibatch's loss and gradient, the optimizer's memory, the rate in force. Called after
    ``optimizer.step()`` instead, it works with a lag of one step. Gradients that are accumulated count once: one call
    for each step of the optimizer, with the mean loss. Gradients that a ``GradScaler`` has scaled must be unscaled
    first (``scaler.unscale_(optimizer)``). Gradients that are all 0 decide nothing. Where torch.distributed is
    initialised the loss is averaged over the processes, so all of them have to call, and all decide the same.

    It is a ``ReduceLROnPlateau`` for the frameworks that ask for one, and uses nothing of it.

    Args:
        optimizer: any ``torch.optim.Optimizer`` whose groups have an ``lr``, the starting rate; groups keep their
            ratios, unless ``per_group``; one that is given another rate later goes on from that, and at 0 stands still,
            but for the first. Momentum is the groups' ``momentum`` (``dampening`` moves with it, so that lr keeps its
            scale) or ``betas[0]``.
        agent: a spelling (``"hillclimb:factor=2"``), the folder of a trained agent, or an agent.
        hyperparameters: ``("lr",)`` or ``("lr", "momentum")``; None is what the agent moves, as far as the optimizer
            has it. For the rate alone ``learned:momentum=false`` takes the place of ``learned``.
        interval: steps from one decision to the next; None is the agent's own.
        total_steps: the optimizer steps that there will be, for agents that see the budget and for schedules. Without
            it such an agent is told at every step that 100 more are left, up to the 400th of 500, where it is said to
            stay (``lrcontrol.envs.budget``).
        min_lr, max_lr: limits of the reference group's rate, the first that has one, or of each group's own; default
            1e-12 and 1e6.
        base_schedule: instead of the agent's own: what an anchored agent is bound to; for one that multiplies the rate
            from where it stands, a schedule that multiplies the rate on top of that, such as a warm-up.
        rollback: go back to the last good state when the loss is not finite or has run away, and lower the rate: True,
            or a ``Rollback`` with the limits. It costs a copy of the parameters and of the optimizer's state
            (``rollback_bytes``). Without it a loss that is not finite is left out of what the agent sees, and
            the optimizer's step on it is yours to skip.
        record: keep step, loss, lr and momentum of every step, 32 bytes each; with ``per_group`` each group's lr too.
        sample: about how many parameters to measure, evenly spread in short chunks, where there are more; of small
            ones all are measured. A decision then costs about the same however large the model is, and what is seen of
            gradients is an estimate: squares are off by 1 to 3 % for a perceptron of a million parameters, by 7 to 18 %
            for a convolutional network of that size. None measures all.
        per_group: the agent decides for each parameter group by itself, from the common loss and that group's own
            gradients, updates and parameters. A group without gradients is left as it is, and so is one whose rate is
            0. An agent that reads the loss alone decides the same for all. Not for agents that probe.

    Attributes:
        agent: the agent.
        record: a ``Record`` of the steps so far.

    Raises:
        InputError: an argument cannot be used; the message says which and the way out.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        agent: str | Path | Agent | PolicyPredictor = "learned",
        *,
        hyperparameters: Sequence[str] | None = None,
        interval: int | None = None,
        total_steps: int | None = None,
        min_lr: float | None = None,
        max_lr: float | None = None,
        base_schedule: Schedule | str | None = None,
        rollback: bool | Rollback = False,
        record: bool = True,
        sample: int | None = 20_000,
        per_group: bool = False,
    ) -> None:
        if sample is not None and not (isinstance(sample, Integral) and sample > 0):
            raise InputError(f"sample {sample!r} is no number of parameters above 0: give one, or None for all")
        if not isinstance(rollback, bool | Rollback):
            raise InputError(f"rollback {rollback!r} is neither True, False nor a lrcontrol.Rollback(…) with limits")
        if not isinstance(per_group, bool):
            raise InputError(f"per_group {per_group!r} is neither True nor False")
        rates = Rates(optimizer, per_group)
        super().__init__(optimizer)
        self.agent = find_agent(agent, hyperparameters, rates)
        schedule = Schedule(base_schedule) if isinstance(base_schedule, str) else base_schedule
        settings = make_settings(self.agent, interval, total_steps, min_lr, max_lr, schedule)
        moved = moves_momentum(self.agent, hyperparameters, rates)
        if per_group and any(name.startswith("probe_") for name in settings.features):
            raise InputError(
                f"agent {self.agent.name!r} compares trial steps, two closures for each parameter group: leave "
                f"per_group out, or choose an agent without trials, such as 'learned'"
            )
        budget = Budget(settings.steps if settings.knows_budget else None)
        self._decider = Decider(self.agent, settings, budget, rates, sample, moved)
        rules = rollback if isinstance(rollback, Rollback) else Rollback() if rollback else None
        self._guard = Guard(self._decider, rules)
        self.record, self._records, self._warned = Record(), record, False
        self._skipped = 0

    @property
    def probes(self) -> bool:
        """Whether ``step`` needs a closure."""
        return self._decider.probes

    @property
    def lr(self) -> float:
        """The reference group's rate in force, before rounding to the type that the optimizer keeps it in."""
        return self._decider.lr

    @property
    def momentum(self) -> float:
        """The reference group's momentum or β1 in force; 0 where there is none."""
        return self._decider.momentum[self._decider.rates.row]

    @property
    def step_count(self) -> int:
        """The training steps so far."""
        return self._decider.step_count

    @property
    def observation(self) -> dict[str, float]:
        """The last decision's features by name; empty before the first."""
        return self._decider.observation

    @property
    def last_action(self) -> NDArray[Any] | None:
        """What the agent answered last (H,), None before the first decision."""
        return self._decider.last_action

    @property
    def forward_passes(self) -> int:
        """The closures that probes have called so far."""
        return self._decider.forward_passes

    @property
    def events(self) -> list[dict[str, Any]]:
        """What went wrong: step, kind, loss, lr_before, restored_step and lr of each."""
        return self._guard.events

    @property
    def rollback_bytes(self) -> int:
        """The memory that the copy for a rollback takes now."""
        return 0 if self._guard.snapshot is None else self._guard.snapshot[1].bytes

    def get_last_lr(self) -> list[float | Tensor]:
        """Return the rates of all groups in force, also before the first step."""
        return [float(group["lr"]) for group in self.optimizer.param_groups]

    def logs(self) -> dict[str, float]:
        """Return what is worth logging at every step: rate, momentum and the last decision's features."""
        return {"lr": self.lr, "momentum": self.momentum, **self.observation}

    def step(  # type: ignore[override]
        self, metrics: SupportsFloat | None = None, epoch: int | None = None, *, closure: Closure | None = None
    ) -> None:
        """Take in the loss of the step that is about to be taken, and put its rate in force.

        Args:
            metrics: the loss, the mean over the minibatch: a number, or a tensor or array of one. None does nothing; a
                warning says so after ten calls without any loss.
            epoch: not used.
            closure: for agents that probe: returns the loss on the same minibatch, called without gradients while the
                parameters are moved; they are put back bit for bit.

        Raises:
            InputError: the loss is not one number, or the agent probes and there is no closure.
        """
        if metrics is None:
            self._skip()
            return
        decider, guard = self._decider, self._guard
        if closure is not None and not callable(closure):
            raise InputError(
                f"closure {closure!r} is no function: give one that returns the loss on the same minibatch"
            )
        if self.probes and closure is None:
            raise InputError(
                f"agent {self.agent.name!r} compares trial steps: call controller.step(loss, closure=closure), where "
                f"closure() returns the loss on the same minibatch; or choose an agent without trials, such as 'bandit'"
            )
        loss = loss_value(metrics, decider.device)
        if decider.adopt_new_groups():
            guard.snapshot = None  # which knows nothing of them
        self._warned |= decider.take_in_changes(self._warned)
        verdict = guard.judge(loss)
        if verdict is None:
            guard.passed(loss, decider.add(loss))
            decider.act(loss, closure)
            guard.keep()
        else:
            guard.handle(verdict, loss)
        decider.write()
        if decider.step_count + 1 >= decider.next_decision:
            decider.measurer.remember_gradient()
        if self._records:
            rates, momentum = decider.rates, self.momentum if decider.rates.has_momentum else math.nan
            groups = rates.of_groups(decider.memory.lr) if rates.per_group else ()
            self.record.add(decider.step_count, loss, decider.lr, momentum, groups=groups)
        decider.step_count += 1

    def _skip(self) -> None:
        """Count a call without a loss, and say what is missing where there has never been one."""
        self._skipped += 1
        if self._skipped == SILENT and not self._decider.step_count:
            warnings.warn(
                f"controller.step() was called {SILENT} times without a loss and has done nothing: call "
                f"controller.step(loss) after backward() and before optimizer.step()",
                stacklevel=3,
            )

    def save_schedule(self, path: str | Path) -> None:
        """Write the schedule that the run took, ``.csv`` or JSON, in a folder that is made if need be.

        ``replay_schedule`` takes it.
        """
        save_schedule(self.record, path)

    def state_dict(self) -> dict[str, Any]:
        """Return everything that goes on, in tensors, numbers, strings, lists and dictionaries."""
        decider = self._decider
        return {
            "format": FORMAT,
            "settings": describe(decider.settings),
            "agent": name_of(self.agent),
            "per_group": decider.rates.per_group,
            "numbers": {name: getattr(decider, name) for name in NUMBERS}
            | {name: list(getattr(decider, name)) for name in STARTS},
            "ratios": list(decider.rates.ratios),
            "gains": list(decider.rates.gains),
            "default_ratio": decider.rates.default_ratio,
            "memory": decider.memory.to_dict(),
            "last_gradient": [None if g is None else g.clone() for g in decider.measurer.last_gradient],
            "observation": dict(self.observation),
            "last_action": None if self.last_action is None else torch.from_numpy(self.last_action.copy()),
            "record": self.record.to_tensor(),
            "guard": self._guard.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where the controller that gave ``state_dict`` stood; its rate and momentum are put in force.

        Raises:
            InputError: it is the state of something else, or of a controller of another kind.
        """
        known = isinstance(state_dict, dict) and state_dict.get("format") == FORMAT
        if not known or (missing := [name for name in PARTS if name not in state_dict]):
            lacks = f" (it lacks {', '.join(missing)})" if known else ""
            raise InputError(
                f"this is no state of an LRController of this version{lacks}: give what its state_dict() returned"
            )
        decider = self._decider
        check_match(state_dict, self.agent, decider.settings)
        check_agent(state_dict, self.agent)
        sizes = len(state_dict["memory"]["lr"]), len(state_dict["ratios"])
        decider.adopt_new_groups()
        decider.rates.check_sizes(*sizes, state_dict.get("per_group", decider.rates.per_group))
        self._guard.load_state_dict(state_dict["guard"])
        for name in NUMBERS:
            setattr(decider, name, state_dict["numbers"][name])
        for name in STARTS:
            setattr(decider, name, list(state_dict["numbers"][name]))
        decider.rates.ratios, decider.rates.gains = list(state_dict["ratios"]), list(state_dict["gains"])
        decider.rates.default_ratio = state_dict.get("default_ratio", decider.rates.default_ratio)
        decider.memory = Memory.from_dict(state_dict["memory"])
        pairs = zip(state_dict["last_gradient"], decider.measurer.params(), strict=False)
        decider.measurer.last_gradient = [None if g is None else g.to(p.device, copy=True) for g, p in pairs]
        decider.observation = dict(state_dict["observation"])
        action = state_dict["last_action"]
        decider.last_action = None if action is None else action.cpu().numpy().copy()
        self.record = Record.from_tensor(state_dict["record"])
        decider.write()
