"""Randomness: separate streams for initialisation, data order and exploration, all from one seed."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.random import SeedSequence
from torch import nn


class RunSeeds(NamedTuple):
    """The seeds of one run; runs of equal seed and episode have equal streams under every agent and initial rate."""

    init: int
    data: SeedSequence
    exploration: SeedSequence


def run_seeds(seed: int, episode: int = 0) -> RunSeeds:
    """Return the seeds of episode ``episode`` (counted from 0 at the last seeded reset) of a run seeded ``seed``."""
    init, data, exploration = SeedSequence(seed, spawn_key=(episode,)).spawn(3)
    return RunSeeds(int(init.generate_state(1, np.uint64)[0] >> 1), data, exploration)


def build_module(model: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Return ``model()`` initialised from ``seed``; torch's global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return model()
