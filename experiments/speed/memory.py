"""Memory of the batched environment for each replica, against what the replicas themselves need.

    python -m experiments.speed.memory                 on the CPU
    python -m experiments.speed.memory --device cuda   on a GPU, of its own memory

Every size runs in a process of its own, for some steps; the peak of its resident memory counts, on a GPU that of what
torch has allocated there. What a replica takes is the slope between two sizes, so that libraries and data do not count.
Needs: parameters, optimizer state, gradient, and one set of activations (every layer's output for one minibatch). Linux
and macOS. Writes memory.csv, or memory-cuda.csv.
"""

from __future__ import annotations

import itertools
import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from experiments.speed.measure import CASES, suffix_of
from experiments.tables import write
from lrcontrol.cli import run_command
from lrcontrol.envs import TrainingVectorEnv
from lrcontrol.envs.engine import pick_device
from lrcontrol.envs.seeding import build_module

HERE = Path(__file__).parent
SIZES = {"digits-mlp": (1024, 4096, 8192), "784-64-10": (512, 1024, 2048), "mnist-mlp": (2048, 4096, 8192)}
STATE = {"sgd": 0, "adamw": 2}
UNIT = 1 if sys.platform == "darwin" else 1024


@dataclass(frozen=True)
class Options:
    """Measure memory for each replica."""

    cases: tuple[str, ...] = tuple(SIZES)
    """Which tasks."""
    device: Literal["cpu", "cuda"] = "cpu"
    """cpu or cuda."""
    out: Path = HERE
    """Folder for the table."""


def used(device: str) -> int:
    """Return the most bytes so far: of this process's resident memory, or that it took of the GPU's."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * UNIT


def peak(case: str, rows: int, device: str) -> tuple[int, int]:
    """Return the bytes that are in use before the environment is made, and at the most."""
    optimizer, make = CASES[case]
    task = make()
    before = used(device)
    streams = 1 if case == "mnist-mlp" else None
    env = TrainingVectorEnv(rows, streams=streams, task=task, optimizer=optimizer, device=device)
    env.reset(seed=0, options={"lr0": 1e-3})
    for _ in range(5):
        env.step(np.zeros(rows, dtype=int))
    return before, used(device)


def needs(case: str) -> int:
    """Return the bytes that a replica cannot do without."""
    optimizer, make = CASES[case]
    task = make()
    module = build_module(task.model, 0)
    parameters = sum(part.numel() for part in module.parameters())
    activations = task.batch_size * sum(part.out_features for part in module.modules() if isinstance(part, nn.Linear))
    return 4 * ((2 + STATE[optimizer]) * parameters + activations)


def main(options: Options) -> int:
    pick_device(options.device)
    rows = []
    for case in options.cases:
        peaks: dict[int, list[int]] = {}
        for size in SIZES[case]:
            code = f"from experiments.speed.memory import peak; print(*peak({case!r}, {size}, {options.device!r}))"
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
            peaks[size] = [int(word) for word in done.stdout.split()]
        sizes = list(peaks)
        row: dict[str, Any] = {"case": case}
        for low, high in itertools.pairwise(sizes):
            slope = (peaks[high][1] - peaks[low][1]) / (high - low)
            row |= {f"bytes_per_replica_{low}_to_{high}": round(slope), "sizes": " ".join(map(str, sizes))}
        slope = (peaks[sizes[-1]][1] - peaks[sizes[0]][1]) / (sizes[-1] - sizes[0])
        row |= {"bytes_per_replica": round(slope), "needs": needs(case), "ratio": round(slope / needs(case), 2)}
        row["mib_above_import"] = " ".join(f"{(most - before) / 2**20:.0f}" for before, most in peaks.values())
        rows.append(row)
    write(options.out / f"memory{suffix_of(options.device)}.csv", rows)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(Options, main, "python -m experiments.speed.memory", None))
