"""Distributions of tasks: from an index to a task, the same whatever was drawn before, training and held-out apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from lrcontrol.envs.errors import InputError
from lrcontrol.envs.registry import DISTRIBUTIONS, make_task
from lrcontrol.envs.task import Task


class TaskDistribution(Protocol):
    """Tasks by index, in two disjoint splits."""

    @property
    def name(self) -> str:
        """What tables and files call it."""

    def instance(self, index: int, held_out: bool = False) -> Task:
        """Return the task of an index ≥ 0; the held-out ones are never trained on."""


TaskSource: TypeAlias = "str | Task | TaskDistribution | tuple[str | Task | TaskDistribution, ...]"


@dataclass(frozen=True)
class Random:
    """A distribution given by a function of index and split."""

    name: str
    draw: Callable[[int, bool], Task]

    def instance(self, index: int, held_out: bool = False) -> Task:
        """See TaskDistribution."""
        return self.draw(index, held_out)


@dataclass(frozen=True)
class Fixed:
    """One task under every index; what is held out of it is runs, not tasks."""

    task: Task

    @property
    def name(self) -> str:
        """The task's name."""
        return self.task.name

    def instance(self, index: int, held_out: bool = False) -> Task:
        """See TaskDistribution."""
        return self.task


@dataclass(frozen=True)
class Mixture:
    """Several distributions in turn: index i is instance i // n of member i modulo n."""

    members: tuple[TaskDistribution, ...]

    @property
    def name(self) -> str:
        """The members' names."""
        return "+".join(member.name for member in self.members)

    def instance(self, index: int, held_out: bool = False) -> Task:
        """See TaskDistribution."""
        return self.members[index % len(self.members)].instance(index // len(self.members), held_out)


def find_tasks(source: TaskSource) -> TaskDistribution:
    """Return the distribution that a name, a task, a distribution, or several of them in a tuple stand for.

    Raises:
        InputError: an unknown name, or none at all.
    """
    if isinstance(source, tuple):
        if not source:
            raise InputError("no task given: name at least one")
        members = tuple(find_tasks(member) for member in source)
        return members[0] if len(members) == 1 else Mixture(members)
    if isinstance(source, str):
        if source in DISTRIBUTIONS:
            return Random(source, DISTRIBUTIONS[source])
        return Fixed(make_task(source))
    return Fixed(source) if isinstance(source, Task) else source
