"""Carries out a rollback on a controlled run: judges each loss, keeps the last good state, goes back to it."""

from __future__ import annotations

import math
import warnings
from typing import Any

from lrcontrol.controller_decider import Decider
from lrcontrol.controller_safety import Rollback, Snapshot, all_finite
from lrcontrol.controller_state import Memory


class Guard:
    """Keeps losses that are no numbers from what the agent sees and, with rules, goes back to the last good state.

    Args:
        decider: the run.
        rules: when to go back; None leaves bad losses out and does no more.

    Attributes:
        events: dictionaries of step, kind, loss, lr_before, restored_step (None if there was no going back) and lr.
        snapshot: (step, copy, the decider's memory) of the last good state, or None.
    """

    def __init__(self, decider: Decider, rules: Rollback | None) -> None:
        self.decider, self.rules = decider, rules
        self.events: list[dict[str, Any]] = []
        self.snapshot: tuple[int, Snapshot, dict[str, Any]] | None = None

    def judge(self, loss: float) -> str | None:
        """Return what is wrong with a loss, or None."""
        memory = self.decider.memory
        if self.rules is None or memory.history is None:
            return None if math.isfinite(loss) else "not finite"
        history = memory.history
        return memory.watch.judge(self.rules, loss, history.fast, history.first)

    def passed(self, loss: float, fast_before: float) -> None:
        """Take in a loss that was as it should be."""
        history = self.decider.memory.history
        if self.rules is not None and history is not None:
            self.decider.memory.watch.add(self.rules, loss, fast_before, history)

    def keep(self) -> None:
        """Copy the present state if it is good and the last copy is old.

        Parameters have to be finite: of theirs the loss says nothing yet where ``step`` follows the optimizer's.
        """
        decider, rules = self.decider, self.rules
        if rules is None or decider.memory.watch.drifting:
            return
        due = self.snapshot is None or decider.step_count - self.snapshot[0] >= rules.every
        if due and all_finite(params := decider.measurer.params()):
            copy = Snapshot(params, decider.rates.optimizer, rules.module)
            self.snapshot = decider.step_count, copy, decider.memory.to_dict()

    def handle(self, kind: str, loss: float) -> None:
        """Record what went wrong, and go back and lower the rate where that was asked for and can be done."""
        decider = self.decider
        event = {"step": decider.step_count, "kind": kind, "loss": loss, "lr_before": decider.lr}
        event["restored_step"] = None
        if self.rules is not None:
            event["restored_step"] = self._go_back(self.rules)
        elif not self.events:
            warnings.warn(
                f"the loss is {loss} at step {decider.step_count}: it is left out and the rate stays, but a step of "
                f"the optimizer on its gradient may spoil the parameters: skip that, or make the controller with "
                f"rollback=True, which goes back to the last good state",
                stacklevel=3,
            )
        self.events.append({**event, "lr": decider.lr})

    def _go_back(self, rules: Rollback) -> int | None:
        """Return the step gone back to; the gradients, which are of no use any more, are dropped in any case."""
        decider, params = self.decider, self.decider.measurer.params()
        for param in params:
            param.grad = None
        if self.snapshot is None or not self.snapshot[1].fits(params):
            self.snapshot = None
            return None
        step, copy, memory = self.snapshot
        copy.restore(params, decider.rates.optimizer, rules.module)
        cut, factor = decider.cut(), float(rules.factor)
        rows = zip(decider.memory.level, cut, memory["level"], strict=True)
        memory["level"] = [decider.clip(min(level * by, saved) * factor) for level, by, saved in rows]
        decider.memory = Memory.from_dict(memory)  # and the next time, from these levels
        decider.scale *= factor * min(cut)
        decider.measurer.last_gradient = []
        decider.set_rate()
        return step

    def state_dict(self) -> dict[str, Any]:
        """Return events and snapshot."""
        snapshot = None
        if self.snapshot is not None:
            step, copy, memory = self.snapshot
            snapshot = {"step": step, "memory": dict(memory), **copy.state_dict()}
        return {"events": [dict(event) for event in self.events], "snapshot": snapshot}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take events and, with rules, the snapshot of ``state_dict``."""
        found, snapshot = state["snapshot"], None
        if self.rules is not None and found is not None:
            copy = Snapshot.from_state_dict(found, self.decider.measurer.params(), self.rules.module)
            snapshot = found["step"], copy, dict(found["memory"])
        self.events, self.snapshot = [dict(event) for event in state["events"]], snapshot
