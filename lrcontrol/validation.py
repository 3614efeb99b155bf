"""What trained agents are chosen by: final training losses on runs and tasks that training never sees."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from lrcontrol.agents import Agent
from lrcontrol.envs.distributions import Fixed, Mixture, TaskDistribution
from lrcontrol.envs.settings import Settings
from lrcontrol.envs.values import safe_log
from lrcontrol.rollouts import final_measures, roll_out, settings_for

STARTS, TASKS, RUNS = 8, 6, 3
LR0_RANGE = (1e-6, 1.0)  # where the settings say nothing
FIRST_SEED = 2_000_000_000  # evaluation counts up from 0, training from FIRST_SEED / 2


@dataclass(frozen=True)
class Score:
    """How an agent did on the validation runs; lower is better.

    Attributes:
        score: half the mean, half the maximum over the initial rates of the log final training loss, averaged over
            tasks: an agent that is good from most starts and fails from one is not a good one.
        mean_loss, worst_loss: geometric means over tasks of the loss averaged over starts, and at the worst start.
    """

    score: float
    mean_loss: float
    worst_loss: float


class Validation:
    """Validation runs: from ``STARTS`` rates over the range; on a fixed task new runs of it, else held-out tasks.

    Args:
        tasks: what is trained on.
        variants: settings of the environments, their ``lr0_range`` the lowest and highest initial rate.
        seed: of the training; its validation runs are its own.
    """

    def __init__(self, tasks: TaskDistribution, variants: Sequence[Settings], seed: int) -> None:
        count = 1 if isinstance(tasks, Fixed) else TASKS * (len(tasks.members) if isinstance(tasks, Mixture) else 1)
        self._tasks = [tasks.instance(index, held_out=True) for index in range(count)]
        self._variants = variants
        self._runs = RUNS if count == 1 else 1
        self._seed = FIRST_SEED + 1000 * seed

    @property
    def names(self) -> list[str]:
        """The tasks' names."""
        return [task.name for task in self._tasks]

    def measure(self, agent: Agent) -> Score:
        """Return the score of an agent of the settings."""
        losses = []
        for variant, (number, task) in itertools.product(self._variants, enumerate(self._tasks)):
            settings = settings_for(replace(variant, task=task), agent)
            rates = [float(rate) for rate in np.geomspace(*(variant.lr0_range or LR0_RANGE), STARTS)]
            if settings.start is not None:  # then every rate is the same start
                rates = rates[:1]
            world = roll_out(agent, settings, rates, self._runs, self._seed + number, "cpu")
            loss = final_measures(world)["train_loss"].reshape(self._runs, -1).mean(axis=0)
            losses.append(np.broadcast_to(loss, STARTS))
        logs = safe_log(np.stack(losses))
        score = float((0.5 * logs.mean(axis=1) + 0.5 * logs.max(axis=1)).mean())
        mean = float(np.exp(safe_log(np.exp(logs).mean(axis=1)).mean()))
        return Score(score, mean, float(np.exp(logs.max(axis=1).mean())))
