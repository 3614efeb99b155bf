"""``pbt``: population based training of the rate, which searches and adapts at once and pays for every member."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lrcontrol.agents.base import spelling
from lrcontrol.driving import action, check_range, draw_rates, driven
from lrcontrol.envs.errors import InputError
from lrcontrol.envs.seeding import run_seeds
from lrcontrol.envs.values import Array
from lrcontrol.envs.world import World
from lrcontrol.rollouts import Assignment, Trained, trained


@dataclass(frozen=True)
class Population:
    """Trains a population of replicas; now and then the worst go on from where the best are, with another rate.

    Population based training (Jaderberg et al. 2017, arXiv 1711.09846) of the rate, on the evaluation's optimizer, with
    truncation selection: every so many steps each member of the worst quarter takes over parameters, optimizer state
    and rate of a random one of the best quarter, the rate times 0.8 or 1.25. Members of a run begin with the same
    parameters, see the same minibatches, and are judged by their mean minibatch loss since the last selection, so is
    the one that is reported at the end: no extra passes, and no test data. What is reported of it is its lineage, back
    through those it was copied from. It does not look at initial rates, and costs all of its members.

    Args:
        population: members.
        every: steps from one selection to the next; None is a tenth of the run.
        low, high: ends of the range that the first rates are drawn from, log-uniformly; None are the task's for the
            optimizer.

    Raises:
        InputError: a value that cannot be used.
    """

    population: int = 8
    every: int | None = None
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        if self.population < 2:
            raise InputError(f"pbt: population {self.population} is below 2")
        if self.every is not None and self.every < 1:
            raise InputError(f"pbt: every {self.every} is not positive")
        check_range("pbt", self.low, self.high)

    @property
    def name(self) -> str:
        """See Peer."""
        return spelling("pbt", self)

    def run(self, given: Assignment) -> Trained:
        """See Peer; the draws of a run depend on its own seed alone."""
        task, base, members, runs = given.task, given.base, self.population, given.runs
        seeds = range(given.seed, given.seed + runs)
        values = np.array([draw_rates(task, base, self.low, self.high, members, seed) for seed in seeds])
        randoms = [np.random.default_rng(run_seeds(seed).exploration.spawn(1)[0]) for seed in seeds]
        settings = replace(base, hyperparameters=("lr",), interval=self.every or max(given.steps // 10, 1))
        world = driven(settings, task, runs, members, given.seed, given.device, values.ravel())
        while True:
            begin = world.step_count
            over = world.step(action(values.ravel()))[2]
            scores = recent_losses(world, begin).reshape(runs, members)
            given.tell(self.name, world.step_count)
            if over:
                break
            chosen = [select(one, row, random) for one, row, random in zip(values, scores, randoms, strict=True)]
            sources = np.array([parents for parents, _ in chosen])
            values = np.clip(np.array([moved for _, moved in chosen]), *base.lr_limits)
            copy_rows(world, (sources + members * np.arange(runs)[:, None]).ravel())
        best = members * np.arange(runs) + scores.argmin(axis=1)
        final, traces, passes = trained(world, best)
        passes = {name: members * count for name, count in passes.items()}
        return Trained(final, traces, passes).repeated(len(given.rates))


def recent_losses(world: World, begin: int) -> Array:
    """Return the mean minibatch loss (R,) after the steps since step ``begin``, infinite where one was no number."""
    losses = np.concatenate([world.trace["loss"][begin + 1 : world.step_count], world.engine.losses[None]])
    return np.asarray(np.nan_to_num(losses.mean(axis=0), nan=np.inf))


def select(rates: Array, scores: Array, random: np.random.Generator) -> tuple[NDArray[np.int64], Array]:
    """Return for each member of a run whom it goes on from, itself or one of the best quarter, and its next rate.

    Args:
        rates: of the members, (M,).
        scores: of the members, (M,), the lower the better.
        random: draws twice for each of the worst quarter, whatever comes out.
    """
    count = max(len(rates) // 4, 1)
    order = np.argsort(scores, kind="stable")
    parents, after = np.arange(len(rates)), rates.copy()
    for member in order[-count:]:
        parents[member] = order[random.integers(count)]
        after[member] = rates[parents[member]] * (0.8, 1.25)[random.integers(2)]
    return parents, after


def copy_rows(world: World, sources: NDArray[np.int64]) -> None:
    """Make every row go on from the row that ``sources`` (R,) names for it, with its record."""
    world.engine.copy(sources)
    for column in world.trace.values():
        column[:] = column[:, sources]
