"""Random numbers by counting: a run's draws depend on its key and the counters alone, not on what stands beside it.

A generator object would have to advance, so that a run's draws depended on the runs before it in the batch and a second
evaluation differed from the first. Here the n-th number of a stream is a hash of the stream's key and n.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.uint64]

GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def run_keys(seed: int, observation: NDArray[np.float32]) -> Keys:
    """Return the keys (R,) of runs from an agent's seed and their first observations (R, F).

    Runs that begin with the same observation have the same key: they are the same run to an agent that sees no more.
    """
    words = (observation + np.float32(0.0)).view(np.uint32).astype(np.uint64)  # + 0 makes one zero of −0 and 0
    keys = _mix(np.full(len(observation), seed % 2**64, dtype=np.uint64))
    for word in words.T:
        keys = _mix(keys + GOLDEN ^ word)
    return keys


def uniforms(keys: Keys, step: NDArray[np.int64], count: int) -> NDArray[np.float64]:
    """Return ``count`` numbers of the open interval 0..1, (R, count), for draw ``step`` (R,) of the runs ``keys`` (R,).

    They are outputs ``step · count`` and following of SplitMix64 (Steele, Lea and Flood 2014) started at the
    run's key; 52 bits each, centred, so that neither 0 nor 1 occurs.
    """
    counter = step.astype(np.uint64)[:, None] * np.uint64(count) + np.arange(1, count + 1, dtype=np.uint64)
    bits = _mix(np.asarray(keys[:, None] + GOLDEN * counter, dtype=np.uint64)) >> np.uint64(12)
    return (bits.astype(np.float64) + 0.5) * 2.0**-52


def _mix(z: Keys) -> Keys:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
