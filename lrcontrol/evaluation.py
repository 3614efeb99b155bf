"""Compares agents over initial learning rates and runs: the function behind ``python -m lrcontrol.evaluate``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lrcontrol.agents import Agent
from lrcontrol.assembly import in_memory, write_folder
from lrcontrol.backends import Pool
from lrcontrol.cell_store import CellStore
from lrcontrol.cells import Cell, Finished, Job, Outcome
from lrcontrol.envs.task import Task
from lrcontrol.peers import Peer
from lrcontrol.provenance import code_digest, provenance
from lrcontrol.results import Results
from lrcontrol.rollouts import Progress
from lrcontrol.study import Study, find_agents

DEFAULT_AGENTS = (
    "constant",
    "schedule:kind=cosine",
    "schedule:kind=one-cycle",
    "hillclimb",
    "hillclimb:factor=1.1",
    "hillclimb:factor=2",
    "learned",
)

DEFAULT_BLOCK = 5
SMALL = 20_000  # training steps; starting workers would take longer

CellProgress = Callable[[int, int], None]
"""Told how many cells are done, of how many."""


class Interrupted(KeyboardInterrupt):
    """An evaluation was interrupted after ``done`` of ``cells``.

    ``results`` holds what was finished, or None where that is nothing or stays in a folder.
    """

    def __init__(self, results: Results | None, done: int, cells: int) -> None:
        super().__init__("evaluation interrupted")
        self.results, self.done, self.cells = results, done, cells


def evaluate(
    task: str | Task | Sequence[str | Task] = "digits-mlp",
    agents: Sequence[str | Agent | Peer] = DEFAULT_AGENTS,
    *,
    lr0: Sequence[float] | None = None,
    runs: int = 5,
    steps: int | None = None,
    optimizer: str | Sequence[str] = "sgd",
    seed: int = 0,
    device: str = "auto",
    out: str | Path | None = None,
    overwrite: bool = False,
    block: int = DEFAULT_BLOCK,
    traces: bool = True,
    pool: Pool | None = None,
    progress: Progress | None = None,
    cell_progress: CellProgress | None = None,
    **settings: Any,
) -> Results:
    """Train with every agent from every initial rate, several runs each, and return what came of it.

    Run i of every agent and rate has the initial parameters and the minibatches of seed ``seed + i``, so that
    comparisons are paired. Losses and accuracies are of the whole training and test set after the last step.

    The work is done in cells: one agent on one task with one optimizer, ``block`` runs from all rates. A cell that
    fails does not stop the others: it is listed in the manifest's ``failures``, and its runs are missing. With ``out``
    each cell is kept as soon as it is done; the same call goes on where another was interrupted or killed, runs again
    what failed or was damaged, and ends with the same bytes, whatever the workers.

    Args:
        task: a Task, or its spelling ``name:key=value,…``; or several.
        agents: Agents, or their spellings ``name:key=value,…``; also ``lrcontrol.peers.PEERS``, who run their own
            training; the optimizers among them look at neither ``optimizer`` nor ``settings``.
        lr0: initial learning rates; default half-decades over the task's range for the optimizer.
        runs: runs for each agent and rate.
        steps: training steps in a run; None is the task's budget.
        optimizer: ``"sgd"`` or ``"adamw"``, or both.
        seed: of the first run.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        out: folder for the results; new, empty, or begun by the same call.
        overwrite: replace the results that ``out`` holds.
        block: runs in a cell; the last digits of a loss can depend on it.
        traces: keep every step's loss, lr and momentum; without them a large study is small, and has fewer pictures.
        pool: who runs the cells; None runs them here, one after another.
        progress: called as training proceeds, where cells are run here.
        cell_progress: called whenever a cell is done.
        settings: further fields of ``Settings`` for every agent, such as ``momentum`` or ``smoothing``; what an agent
            needs comes first.

    Raises:
        InputError: an argument that cannot be used, a folder that cannot be written, or dead workers.
        Interrupted: on Ctrl-C.
        AllFailedError: not one cell could be run.
    """
    study = Study(
        tasks=(task,) if isinstance(task, (str, Task)) else tuple(task),
        agents=find_agents(agents),
        optimizers=(optimizer,) if isinstance(optimizer, str) else tuple(optimizer),
        lr0=None if lr0 is None else tuple(lr0),
        runs=runs,
        steps=steps,
        seed=seed,
        device=device,
        block=block,
        settings=settings,
        traces=traces,
    )
    manifest = {"config": study.config, "seeds": [seed + run for run in range(runs)], **provenance()}
    manifest["machine"]["torch_threads"] = 1  # of every cell, whoever runs it
    manifest |= {"command": study.command, "code": code_digest()}
    store = None if out is None else CellStore(Path(out), manifest, overwrite)
    try:
        return _Work(study, store, manifest, cell_progress).finish(pool or Pool(workers=1), progress)
    finally:
        if store is not None:
            store.close()


class AllFailedError(RuntimeError):
    """Not one cell could be run; ``failures`` as in a manifest."""

    def __init__(self, failures: list[dict[str, Any]]) -> None:
        super().__init__(f"every cell failed, the first with {failures[0]['error']}")
        self.failures = failures


class _Work:
    """The cells of a study: which are done, which failed."""

    def __init__(
        self, study: Study, store: CellStore | None, manifest: dict[str, Any], cell_progress: CellProgress | None
    ) -> None:
        self.study, self.store, self.manifest, self.cell_progress = study, store, manifest, cell_progress
        self.held: dict[Cell, Outcome] = {}
        self.failures: dict[Cell, str] = {}
        self.jobs = [job for group in study.groups() for job in group]
        self.done = 0

    def find(self, cell: Cell) -> Outcome | None:
        """Return what a cell found, None where there is nothing."""
        return self.held.get(cell) if self.store is None else self.store.read(cell)

    def finish(self, pool: Pool, progress: Progress | None) -> Results:
        """Run what is missing, put everything together, and return it."""
        if pool.backend == "local" and pool.workers is None and self.study.training_steps < SMALL:
            pool = Pool(workers=1)
        missing = [job for job in self.jobs if self.find(job.cell) is None]
        self.done = len(self.jobs) - len(missing)
        self._tell()
        if self.store is not None:
            work = {"done": self.done, "cells": len(self.jobs), "backend": pool.backend, "workers": pool.count}
            self.store.note("begin", **work, argv=sys.argv[1:])
        try:
            self._run(missing, pool, progress)
            return self._complete()
        except KeyboardInterrupt:
            raise Interrupted(self._finished_groups(), self.done, len(self.jobs)) from None

    def _run(self, missing: list[Job], pool: Pool, progress: Progress | None) -> None:
        for cell, finished in pool.run(missing, progress):
            self._keep(cell, finished)
            self.done += 1
            self._tell()

    def _tell(self) -> None:
        if self.cell_progress is not None:
            self.cell_progress(self.done, len(self.jobs))

    def _keep(self, cell: Cell, finished: Finished) -> None:
        if finished.content is None:
            self.failures[cell] = str(finished.error)
        elif self.store is not None:
            self.store.write(cell, finished.content)
        elif (outcome := Outcome.from_bytes(finished.content)) is not None:
            self.held[cell] = outcome
        if self.store is not None:
            facts = {"task": cell.task, "optimizer": cell.optimizer, "agent": cell.agent, "first_run": cell.first}
            self.store.note("cell", **facts, seconds=round(finished.seconds, 2), error=finished.error)

    def _complete(self) -> Results:
        if self.store is None:
            results = in_memory(self.study.groups(), self._found, self.manifest)
        else:
            alone = len(self.study.tasks) * len(self.study.optimizers) == 1
            results = write_folder(self.study.groups(), self._found, self.manifest, self.store.folder, alone)
        failures = [
            {"task": c.task, "optimizer": c.optimizer, "agent": c.agent, "runs": [c.first, c.first + c.runs - 1]}
            | {"error": error}
            for c, error in self.failures.items()
        ]
        failures.sort(key=str)
        manifest = self.manifest | {"complete": not failures, "failures": failures}
        if self.store is not None:
            self.store.write_manifest(not failures, failures)
            self.store.note("end", failures=len(failures))
        if results is None:
            raise AllFailedError(failures)
        return replace(results, manifest=manifest)

    def _found(self, cell: Cell) -> Outcome | None:
        """Return what a cell found; where that is nothing now, it is a failure."""
        outcome = self.find(cell)
        if outcome is None:
            self.failures.setdefault(cell, "its file cannot be read")
        return outcome

    def _finished_groups(self) -> Results | None:
        """Return the results of the agents all of whose cells are done; those of a folder stay there."""
        if self.store is not None:
            return None
        whole = (group for group in self.study.groups() if all(self.find(job.cell) is not None for job in group))
        return in_memory(whole, self.find, self.manifest | {"complete": False, "failures": []})
