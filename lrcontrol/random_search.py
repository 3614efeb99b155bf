"""``random-search``: what the same compute buys without any control, the best of several runs with rates by chance."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from lrcontrol.agents.base import spelling
from lrcontrol.agents.schedule import schedule
from lrcontrol.driving import check_range, draw_rates
from lrcontrol.envs.errors import InputError
from lrcontrol.rollouts import Assignment, Trained, joined, roll_out, settings_for, trained


@dataclass(frozen=True)
class RandomSearch:
    """Trains ``trials`` times with log-uniform rates and keeps the run whose final training loss is lowest.

    Random search (Bergstra and Bengio 2012) over the rate of a constant or a schedule, on the evaluation's optimizer.
    It does not look at initial rates. It costs all of its trials, and for each a pass over the training set to choose
    by; the test set chooses nothing.

    Args:
        trials: how many.
        kind: of the schedule, as ``lrcontrol.envs.Schedule`` has it.
        low, high: ends of the range of rates; None are the task's for the optimizer.

    Raises:
        InputError: a value that cannot be used.
    """

    trials: int = 8
    kind: str = "constant"
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        if self.trials < 1:
            raise InputError(f"random-search: trials {self.trials} is not positive")
        check_range("random-search", self.low, self.high)
        schedule(self.kind)

    @property
    def name(self) -> str:
        """See Peer."""
        return spelling("random-search", self)

    def run(self, given: Assignment) -> Trained:
        """See Peer; the draws of a run depend on its own seed alone."""
        task, base, steps = given.task, given.base, given.steps
        agent, found = schedule(self.kind), []
        for run in range(given.runs):

            def report(_: str, step: int, steps: int, run: int = run) -> None:
                given.tell(self.name, (run * steps + step) // given.runs)

            seed = given.seed + run
            drawn = draw_rates(task, base, self.low, self.high, self.trials, seed).tolist()
            world = roll_out(agent, settings_for(base, agent), drawn, 1, seed, given.device, report, record=True)
            found.append(trained(world, np.arange(self.trials)).best("train_loss"))
        choosing = math.ceil(len(task.train[0]) / task.batch_size)
        passes = {"forward_passes": self.trials * (steps + choosing), "backward_passes": self.trials * steps}
        return joined(found, passes).repeated(len(given.rates))
