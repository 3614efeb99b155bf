"""The length of a run as agents and schedules are told it, whether anybody knows it or not."""

from __future__ import annotations

from dataclasses import dataclass

from lrcontrol.envs.schedules import Schedule

LEFT = 100  # steps that are left, it is said, where nobody knows how many are
UNTIL = 400  # the step after which it is said that the run stands still


@dataclass(frozen=True)
class Budget:
    """The training steps that there will be.

    Args:
        total: their number; None where nobody knows. Then it is said at each step that 100 more are left, up to the
            400th of 500, where the run is said to stay: a schedule warms up and comes down, to what it has with a fifth
            of the run to go, and not to its end.
    """

    total: int | None

    def moment(self, step: int) -> tuple[int, int]:
        """Return (step, steps) as agents are told them; what goes on past its end stands at its end."""
        if self.total is None:
            step = min(step, UNTIL)
            return step, step + LEFT
        return min(step, self.total), self.total

    def multiplier(self, schedule: Schedule, step: int) -> float:
        """Return a schedule's multiplier at a step; past the end of the budget, the last."""
        if self.total is None and not schedule.needs_total:
            return float(schedule(step, step + 1))
        step, total = self.moment(step)
        return float(schedule(min(step, total - 1), total))
