"""Worlds whose rates are put in from outside, step by step or stretch by stretch, and their ranges of rates."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from lrcontrol.envs.errors import InputError
from lrcontrol.envs.schedules import Schedule
from lrcontrol.envs.seeding import log_uniform, run_seeds
from lrcontrol.envs.settings import Settings
from lrcontrol.envs.task import Task
from lrcontrol.envs.values import Array
from lrcontrol.envs.world import World

SPAN = 1e12  # rates from 1/SPAN to SPAN are actions in −1..1


def driven(settings: Settings, task: Task, runs: int, members: int, seed: int, device: str, rates: Array) -> World:
    """Return a world, reset and recording, of ``members`` rows for each run, that ``action`` drives.

    Args:
        settings: with the interval at which actions are to come.
        task: that of the settings.
        runs: run i has the initial parameters and the minibatches of seed ``seed + i``.
        members: rows of a run; row = run · members + member.
        seed: of the first run.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        rates: before the first action, (runs · members,).
    """
    settings = replace(
        settings,
        form="absolute",
        base_schedule=Schedule(),
        multipliers=None,
        max_factor=SPAN,
        features=("budget_left",),
        start=None,
    )
    world = World(settings, runs * members, runs if task.shuffle else 1, device, record=True)
    world.reset([run_seeds(seed + run) for run in range(runs) for _ in range(members)], rates)
    return world


def action(values: Array) -> NDArray[np.float64]:
    """Return what makes ``driven`` take these values: rates, and 1 − β in further columns where momentum is moved."""
    return np.asarray(np.log(values) / math.log(SPAN))


def check_range(kind: str, low: float | None, high: float | None) -> None:
    """Raise InputError where the ends of a range of rates, so far as they are given, are none."""
    given = [end for end in (low, high) if end is not None]
    if not all(0.0 < end < math.inf for end in given) or given != sorted(set(given)):
        raise InputError(f"{kind}: low {low} and high {high} are no range of rates: write 0 < low < high")


def ends_of(task: Task, base: Settings, low: float | None, high: float | None) -> tuple[float, float]:
    """Return a range of rates; ends not given are the task's for the optimizer.

    Raises:
        InputError: the range is none, or not within the settings' limits of the rate.
    """
    lowest, highest = task.lr0_range.get(base.optimizer, (1e-6, 1.0))
    ends = lowest if low is None else low, highest if high is None else high
    check_range("range of rates", *ends)
    for end in ends:
        base.check_lr0(end)
    return ends


def draw_rates(task: Task, base: Settings, low: float | None, high: float | None, count: int, seed: int) -> Array:
    """Return ``count`` log-uniform rates of the run seeded ``seed``, within ``ends_of`` the range."""
    ends = ends_of(task, base, low, high)
    random = np.random.default_rng(run_seeds(seed).exploration)
    return np.array([log_uniform(random, *ends) for _ in range(count)])
