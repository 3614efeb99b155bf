"""``replay``: an agent's mean schedule without the agent, to tell what its looking at each run is worth."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from lrcontrol.agents import Agent, make_agent
from lrcontrol.driving import action, driven
from lrcontrol.envs.values import Array
from lrcontrol.envs.world import World
from lrcontrol.rollouts import Assignment, Trained, roll_out, settings_for, trained


@dataclass(frozen=True)
class Replay:
    """Records an agent on all runs from all rates, then lets every run follow the mean of what it did, blindly.

    At each step the rate is the geometric mean of the agent's over its runs that did not diverge (ended with a finite
    loss not above their first; over all where none did), the momentum, where the agent moves it, the arithmetic mean.
    The runs replayed are the recorded ones, so the schedule has seen them. A run costs its recording and its replay.

    Args:
        agent: whose schedule is replayed.
    """

    agent: Agent

    @property
    def name(self) -> str:
        """See Peer."""
        return f"replay:of={self.agent.name}"

    def run(self, given: Assignment) -> Trained:
        """See Peer; the runs of one rate stand for all, since none looks at its own."""

        def report(_: str, step: int, steps: int, before: int = 0) -> None:
            given.tell(self.name, (before + step) // 2)

        runs, seed, device, steps = given.runs, given.seed, given.device, given.steps
        settings = settings_for(given.base, self.agent)
        recorded = roll_out(self.agent, settings, given.rates, runs, seed, device, report, record=True)
        sequence = mean_schedule(recorded)[:, : len(settings.hyperparameters)]
        once = replace(settings, interval=1)
        world = driven(once, given.task, runs, 1, seed, device, np.full(runs, sequence[0, 0]))
        for values in sequence:
            world.step(np.tile(action(values), (runs, 1)))
            report("", world.step_count, steps, before=steps)
        final, traces, passes = trained(world, np.arange(runs))
        passes["forward_passes"] += recorded.forward_passes
        passes["backward_passes"] += recorded.backward_passes
        return Trained(final, traces, passes).repeated(len(given.rates))


def mean_schedule(world: World) -> Array:
    """Return for each step the mean rate and the mean of 1 − β, (steps, 2), over the rows that did not diverge."""
    good = world.engine.alive & (world.engine.losses <= world.history.first)
    kept = good if good.any() else np.ones(world.rows, dtype=bool)
    lr = np.exp(np.log(world.trace["lr"][:, kept]).mean(axis=1))
    return np.stack([lr, 1.0 - world.trace["momentum"][:, kept].mean(axis=1)], axis=1)


def replay(of: str = "learned") -> Replay:
    """Return the replay of an agent, spelled or a folder: every run follows the mean of what it did, blindly."""
    return Replay(make_agent(of))
