"""Randomness: separate streams for initialisation, data order and exploration, all from one seed."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.random import SeedSequence
from torch import nn

from lrcontrol.envs.errors import InputError


class RunSeeds(NamedTuple):
    """The seeds of one run; runs of equal seed and episode have equal streams under every agent and initial rate.

    ``task`` is the index of the task where that is drawn from a distribution.
    """

    init: int
    data: SeedSequence
    exploration: SeedSequence
    task: int


def check_seed(seed: int) -> None:
    """Raise InputError unless ``seed`` is in 0..2³² − 1, what every generator in use takes."""
    if not 0 <= seed < 1 << 32:
        raise InputError(f"seed {seed} is not in 0..{(1 << 32) - 1}")


def run_seeds(seed: int, episode: int = 0) -> RunSeeds:
    """Return the seeds of episode ``episode`` (counted from 0 at the last seeded reset) of a run seeded ``seed``."""
    init, data, exploration, task = SeedSequence(seed, spawn_key=(episode,)).spawn(4)
    first, index = (int(stream.generate_state(1, np.uint64)[0] >> 1) for stream in (init, task))
    return RunSeeds(first, data, exploration, index)


def log_uniform(random: np.random.Generator, low: float, high: float) -> float:
    """Return a draw from low..high that is uniform in logarithm."""
    return float(np.exp(random.uniform(np.log(low), np.log(high))))


def draw_task(name: str, entropy: int, index: int, held_out: bool) -> tuple[np.random.Generator, str]:
    """Return the randomness of instance ``index`` of a distribution of tasks, and what that task is called.

    Args:
        name: the distribution's.
        entropy: of all its instances; another number is another distribution.
        index: 0 or more.
        held_out: of the split that is never trained on.

    Raises:
        InputError: a negative index.
    """
    if index < 0:
        raise InputError(f"{name}: index {index} is negative")
    random = np.random.default_rng(SeedSequence(entropy, spawn_key=(int(held_out), index)))
    return random, f"{name}:index={index}{',held_out=true' if held_out else ''}"


def build_module(model: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Return ``model()`` initialised from ``seed``; torch's global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        module = model()
    if not isinstance(module, nn.Module):
        raise InputError(f"model must return a torch.nn.Module, not a {type(module).__name__}")
    return module
