"""A cell: one agent on one task with one optimizer, a block of runs from all initial rates. It is run whole or not."""

from __future__ import annotations

import hashlib
import io
import pickle
import time
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import cloudpickle
import numpy as np
import torch
from numpy.typing import NDArray

from lrcontrol.agents import Agent
from lrcontrol.envs.compiled import is_wanted, telling
from lrcontrol.envs.registry import make_task
from lrcontrol.envs.settings import Settings
from lrcontrol.envs.task import Task
from lrcontrol.peers import Peer
from lrcontrol.rollouts import Assignment, Progress, roll_out, settings_for, trained


@dataclass(frozen=True)
class Cell:
    """What a cell is of; two cells that are equal hold the same numbers.

    Args:
        task, optimizer, agent: their names.
        lr0: all initial rates.
        first: the number of its first run; run i has the seed of the evaluation plus i.
        runs: how many.
    """

    task: str
    optimizer: str
    agent: str
    lr0: tuple[float, ...]
    first: int
    runs: int


@dataclass(frozen=True)
class Job:
    """A cell and all that is needed to run it, on this machine or another.

    That includes torch's default type, and whether training steps are compiled.
    """

    cell: Cell
    task: str | Task
    agent: Agent | Peer
    settings: Mapping[str, Any]
    seed: int
    device: str
    traces: bool = True
    dtype: torch.dtype = field(default_factory=torch.get_default_dtype)
    compiled: bool = field(default_factory=is_wanted)

    def pack(self) -> bytes:
        """Return it as bytes, functions that are defined in a script or a notebook included."""
        packed: bytes = cloudpickle.dumps(self)
        return packed


@dataclass(frozen=True)
class Outcome:
    """What a cell found.

    Attributes:
        final: the columns of runs.csv that are measured, (L · N,) each, L rates and N runs, sorted by rate, then run.
        traces: loss, lr and momentum at each step, (L · N, steps); or nothing, where they were not to be kept.
    """

    final: dict[str, NDArray[Any]]
    traces: dict[str, NDArray[np.float64]]

    def to_bytes(self) -> bytes:
        """Return a line with the SHA-256 of what follows, and a numpy archive; the same numbers are the same bytes."""
        buffer = io.BytesIO()
        parts = {"final": self.final, "traces": self.traces}
        arrays: dict[str, Any] = {f"{part}/{name}": v for part, held in parts.items() for name, v in held.items()}
        np.savez_compressed(buffer, **arrays)
        body = buffer.getvalue()
        return hashlib.sha256(body).hexdigest().encode() + b"\n" + body

    @classmethod
    def from_bytes(cls, content: bytes) -> Outcome | None:
        """Return what ``to_bytes`` wrote, None where it is damaged."""
        digest, _, body = content.partition(b"\n")
        if hashlib.sha256(body).hexdigest().encode() != digest:
            return None
        parts: dict[str, dict[str, NDArray[Any]]] = {"final": {}, "traces": {}}
        try:
            with np.load(io.BytesIO(body), allow_pickle=False) as archive:
                for key in archive.files:
                    part, _, name = key.partition("/")
                    parts[part][name] = archive[key]
        except (ValueError, KeyError, zipfile.BadZipFile):
            return None
        return cls(**parts)


@dataclass(frozen=True)
class Finished:
    """What a worker says of a cell: its bytes, or what went wrong; and the seconds it took."""

    content: bytes | None
    error: str | None
    seconds: float


def run_packed(packed: bytes) -> Finished:
    """Run a job that ``Job.pack`` made; nothing but an interruption is raised."""
    began = time.perf_counter()
    try:
        job = pickle.loads(packed)
    except Exception as problem:  # a worker may lack what the job is made of
        return Finished(None, f"{type(problem).__name__}: {problem}", time.perf_counter() - began)
    return run_job(job)


def run_job(job: Job, progress: Progress | None = None) -> Finished:
    """Run a cell on one torch thread, so that its numbers do not depend on how many there are."""
    began, threads, dtype = time.perf_counter(), torch.get_num_threads(), torch.get_default_dtype()
    content = error = None
    torch.set_num_threads(1)
    torch.set_default_dtype(job.dtype)
    try:
        with telling(job.compiled):
            content = _run(job, progress).to_bytes()
    except Exception as problem:  # whatever it is, the other cells go on
        error = f"{type(problem).__name__}: {problem}"
    finally:
        torch.set_num_threads(threads)
        torch.set_default_dtype(dtype)
    return Finished(content, error, time.perf_counter() - began)


def _run(job: Job, progress: Progress | None) -> Outcome:
    cell, rates, seed = job.cell, list(job.cell.lr0), job.seed + job.cell.first
    base = Settings.make({**job.settings, "task": make_task(job.task), "optimizer": cell.optimizer})
    if isinstance(job.agent, Peer):
        found = job.agent.run(Assignment(base, rates, cell.runs, seed, job.device, progress))
    else:
        settings = settings_for(base, job.agent)
        world = roll_out(job.agent, settings, rates, cell.runs, seed, job.device, progress, record=True)
        order = np.arange(world.rows).reshape(cell.runs, len(rates)).T.ravel()  # a run's rates are together there
        found = trained(world, order)
    passes = {name: np.full(len(rates) * cell.runs, value) for name, value in found.passes.items()}
    return Outcome(found.final | passes, found.traces if job.traces else {})
