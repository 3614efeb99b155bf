"""A study: all that an evaluation is to find out, divided into cells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from lrcontrol.agents import AGENTS, Agent, make_agent
from lrcontrol.cells import Cell, Job
from lrcontrol.digests import digest_of_agent, digest_of_task
from lrcontrol.driving import ends_of
from lrcontrol.envs.engine import pick_device
from lrcontrol.envs.errors import InputError
from lrcontrol.envs.functional import StackedModule
from lrcontrol.envs.registry import make_task
from lrcontrol.envs.seeding import check_seed, run_seeds
from lrcontrol.envs.settings import Settings
from lrcontrol.envs.task import Task
from lrcontrol.envs.world import World
from lrcontrol.peers import PEERS, Peer, find_peer
from lrcontrol.population import Population
from lrcontrol.random_search import RandomSearch
from lrcontrol.replay import Replay
from lrcontrol.rollouts import settings_for

GRID_PER_DECADE = 2
MOST_RATES = 10_000  # of a grid


def lr0_grid(low: float, high: float, count: int) -> list[float]:
    """Return ``count`` rates evenly spaced in logarithm from ``low`` to ``high``, to six digits.

    Raises:
        InputError: not 0 < low < high, or fewer than two points.
    """
    if not 0.0 < low < high < np.inf:
        raise InputError(f"lr0 grid from {low:g} to {high:g}: write 0 < low < high")
    if not 2 <= count <= MOST_RATES:
        raise InputError(f"lr0 grid of {count} rates: at least 2 are needed, and {MOST_RATES:,} at most")
    return [float(f"{value:.6g}") for value in np.geomspace(low, high, count)]


@dataclass(frozen=True)
class Study:
    """What is compared with what; arguments as of ``lrcontrol.evaluate``.

    Raises:
        InputError: an argument that cannot be used: all that can be known before the first training step.
    """

    tasks: tuple[str | Task, ...]
    agents: tuple[Agent | Peer, ...]
    optimizers: tuple[str, ...]
    lr0: tuple[float, ...] | None
    runs: int
    steps: int | None
    seed: int
    device: str
    block: int
    settings: Mapping[str, Any]
    traces: bool = True

    def __post_init__(self) -> None:
        for name in ("runs", "block"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} {getattr(self, name)} is not positive")
        check_seed(self.seed)
        pick_device(self.device)
        _check_names("task", [task.name for task in self._tasks])
        _check_names("agent", [agent.name for agent in self.agents])
        _check_names("optimizer", self.optimizers)
        for task in self._tasks:
            for optimizer in self.optimizers:
                self._check_pair(task, optimizer)

    @cached_property
    def _tasks(self) -> list[Task]:
        return [make_task(task) for task in self.tasks]

    def _check_pair(self, task: Task, optimizer: str) -> None:
        base = Settings.make({**self.settings, "task": task, "optimizer": optimizer, "steps": self.steps})
        for agent in self.agents:
            if isinstance(agent, RandomSearch | Population):
                ends_of(task, base, agent.low, agent.high)
            elif not isinstance(agent, Peer):
                settings_for(base, agent)
        rates = self.rates(task, optimizer)
        if not rates or len(set(rates)) < len(rates):
            raise InputError(f"initial learning rates {list(rates)}: give at least one, and none twice")
        for rate in rates:
            base.check_lr0(rate)
        alone = World(base, 1, device=self.device)  # what is wrong with the task's model and data is said here
        if isinstance(alone.engine.model, StackedModule):
            self._check_stack(task, base, list(rates[:2]))

    def _check_stack(self, task: Task, base: Settings, rates: list[float]) -> None:
        """Raise InputError where runs from several rates, side by side as in a cell, cannot take their first step."""
        runs = min(2, self.block, self.runs)
        world = World(base, runs * len(rates), runs, device=self.device)
        try:
            world.reset([run_seeds(self.seed + run) for run in range(runs) for _ in rates], rates * runs)
        except InputError:
            raise
        except Exception as error:  # of torch.vmap, where model and loss hold what it cannot stack
            reason = str(error).splitlines()[0]
            raise InputError(
                f"task {task.name!r}: model and loss run alone, but not as a stack of replicas "
                f"({type(error).__name__}: {reason}): use layers without recurrence, and write the loss in torch's "
                f"elementary functions, as lambda o, t: (o - t).square().mean()"
            ) from error

    def rates(self, task: Task, optimizer: str) -> tuple[float, ...]:
        """Return the initial rates: the given ones, or half-decades over the task's range for the optimizer."""
        if self.lr0 is not None:
            return self.lr0
        low, high = task.lr0_range.get(optimizer, (1e-6, 1.0))
        return tuple(lr0_grid(low, high, max(2, round(GRID_PER_DECADE * np.log10(high / low)) + 1)))

    @property
    def config(self) -> dict[str, Any]:
        """All that decides the numbers, for a manifest."""
        return {
            "tasks": [task if isinstance(task, str) else task.name for task in self.tasks],
            "optimizers": list(self.optimizers),
            "agents": [agent.name for agent in self.agents],
            "lr0": None if self.lr0 is None else list(self.lr0),
            "runs": self.runs,
            "steps": self.steps,
            "seed": self.seed,
            "device": self.device,
            "block": self.block,
            "traces": self.traces,
            "contents": self._contents(),
            "settings": {name: str(value) for name, value in self.settings.items()},
        } | ({} if (kept := torch.get_default_dtype()) == torch.float32 else {"dtype": str(kept)})

    def _contents(self) -> dict[str, str]:
        """Return a digest of each task of one's own and each trained agent, which their names do not tell apart."""
        own = {task.name: digest_of_task(task) for task in self.tasks if isinstance(task, Task)}
        trained = {agent.name: digest_of_agent(agent) for agent in self.agents}
        return own | {name: digest for name, digest in trained.items() if digest is not None}

    @property
    def command(self) -> list[str] | None:
        """The command line that gives these numbers; None where they came of objects or settings that it lacks."""
        spelled = [task if isinstance(task, str) else task.spelling for task in self.tasks]
        config, words = self.config | {"tasks": spelled}, ["python", "-m", "lrcontrol.evaluate"]
        if None in spelled or not config["settings"].keys() <= {"momentum"}:
            return None
        for option, name in (("task", "tasks"), ("agents", "agents"), ("optimizer", "optimizers"), ("lr0", "lr0")):
            if config[name] is not None:
                words += [f"--{option}", *map(str, config[name])]
        for name in ("runs", "steps", "seed", "device", "block"):
            if config[name] is not None:
                words += [f"--{name}", str(config[name])]
        words += [] if self.traces else ["--no-traces"]
        given = {name: value for name, value in config["settings"].items() if value != "None"}
        return words + [word for name, value in given.items() for word in (f"--{name}", value)]

    def groups(self) -> Iterator[list[Job]]:
        """Yield the cells of each agent on each task with each optimizer, in the order of the tables."""
        for spelled, task in zip(self.tasks, self._tasks, strict=True):
            for optimizer in self.optimizers:
                for agent in self.agents:
                    block = self.runs if isinstance(agent, Replay) else self.block  # it is a mean over all runs
                    yield [self._job(spelled, task, optimizer, agent, at, block) for at in range(0, self.runs, block)]

    def _job(self, spelled: str | Task, task: Task, optimizer: str, agent: Agent | Peer, first: int, block: int) -> Job:
        runs = min(block, self.runs - first)
        cell = Cell(task.name, optimizer, agent.name, self.rates(task, optimizer), first, runs)
        settings = {**self.settings, "steps": self.steps}
        return Job(cell, spelled, agent, settings, self.seed, self.device, self.traces)

    @property
    def training_steps(self) -> int:
        """How many training steps all cells take together."""
        jobs = [job for group in self.groups() for job in group]
        steps = {task.name: self.steps or task.steps for task in self._tasks}
        return sum(len(job.cell.lr0) * job.cell.runs * steps[job.cell.task] for job in jobs)


def find_agents(agents: Sequence[str | Agent | Peer]) -> tuple[Agent | Peer, ...]:
    """Return the agents and peers that spellings stand for; a name that is neither's is held against those of both."""
    if isinstance(agents, str):
        raise InputError(f"agents {agents!r} is one name and no list of them: write [{agents!r}]")
    return tuple(find_peer(agent) or make_agent(agent, {**AGENTS, **PEERS}) for agent in agents)  # type: ignore[arg-type,dict-item]


def _check_names(kind: str, names: Sequence[str]) -> None:
    if not names:
        raise InputError(f"no {kind}s given: name at least one")
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{kind} {name!r} is given {names.count(name)} times")
