"""Where cells are run: in this process, on this machine's cores, on a Dask or a Ray cluster."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from lrcontrol.cells import Cell, Finished, Job, run_job, run_packed
from lrcontrol.envs.errors import InputError, unknown
from lrcontrol.rollouts import Progress

BACKENDS = ("local", "dask", "ray")
WAITING = 4  # cells that Ray is given for each of its cores, so that there is always a next one


@dataclass(frozen=True)
class Pool:
    """Who works, and how many.

    Args:
        backend: ``"local"``, ``"dask"`` or ``"ray"``; the latter two are in the extra ``distributed``.
        workers: how many, one torch thread each; None is one for each core here, and all there are of a cluster. A Dask
            cluster that is running has the workers it has.
        address: of a running cluster, such as ``tcp://host:8786`` (Dask), ``host:6379`` or ``ray://host:10001`` (Ray,
            on a node of the cluster or from outside); None starts one here.

    Raises:
        InputError: a backend that is not known or not installed, no positive number of workers, an address of nothing.
    """

    backend: str = "local"
    workers: int | None = None
    address: str | None = None

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS:
            raise unknown("backend", self.backend, BACKENDS)
        if self.workers is not None and self.workers < 1:
            raise InputError(f"workers {self.workers} is not positive")
        if self.address is not None and self.backend == "local":
            raise InputError(f"address {self.address!r} is of a cluster: add --backend dask or --backend ray")
        if self.backend != "local":
            _module(self.backend, "distributed" if self.backend == "dask" else "ray")

    @property
    def count(self) -> int:
        """The number of local workers."""
        if self.workers is not None:
            return self.workers
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

    @property
    def stays_here(self) -> bool:
        """Whether cells are run one after another in this process."""
        return self.backend == "local" and self.count == 1

    def run(self, jobs: Sequence[Job], progress: Progress | None = None) -> Iterator[tuple[Cell, Finished]]:
        """Run all jobs and yield each as soon as it is done, in whatever order that is.

        Args:
            jobs: what to run.
            progress: told of training steps, where cells are run in this process.

        Raises:
            InputError: workers died, or the cluster cannot be reached.
        """
        if self.stays_here or not jobs:
            for job in jobs:
                yield job.cell, run_job(job, progress)
        elif self.backend == "dask":
            yield from self._on_dask(jobs)
        elif self.backend == "ray":
            yield from self._on_ray(jobs)
        else:
            yield from self._through_joblib(jobs)

    def _on_dask(self, jobs: Sequence[Job]) -> Iterator[tuple[Cell, Finished]]:
        """Submit all jobs to the scheduler, whatever workers come and go meanwhile.

        Joblib's backend for Dask counts the workers once, when it begins: those of an adaptive cluster that come later
        would get nothing, and where there is one at first it runs everything in the calling process.
        """
        module = _module("dask", "distributed")
        with self._dask() as client, _deaths_told(self.backend):
            futures = {client.submit(run_packed, job.pack(), pure=False): job.cell for job in jobs}
            for future in module.as_completed(list(futures)):
                yield futures[future], future.result()
                future.release()

    def _on_ray(self, jobs: Sequence[Job]) -> Iterator[tuple[Cell, Finished]]:
        """Keep Ray's cores busy; what a dying worker was at Ray starts again, three times at most.

        Joblib's backend for Ray hands results over only when all are there, and loses them with the first death.
        """
        ray = _module("ray", "ray")
        with self._ray(), _deaths_told(self.backend):
            task, left = ray.remote(num_cpus=1)(run_packed), list(reversed(jobs))
            at_work: dict[Any, Cell] = {}
            while left or at_work:
                limit = self.workers or WAITING * int(ray.cluster_resources().get("CPU", 1))
                while left and len(at_work) < limit:
                    job = left.pop()
                    at_work[task.remote(job.pack())] = job.cell
                (done,), _ = ray.wait(list(at_work), num_returns=1)
                yield at_work.pop(done), ray.get(done)

    def _through_joblib(self, jobs: Sequence[Job]) -> Iterator[tuple[Cell, Finished]]:
        from joblib import Parallel, delayed, parallel_config

        with (
            parallel_config("loky", n_jobs=self.count, inner_max_num_threads=1),
            Parallel(batch_size=1, return_as="generator_unordered") as parallel,
            _deaths_told(self.backend),
        ):
            for number, finished in parallel(delayed(_numbered)(n, job.pack()) for n, job in enumerate(jobs)):
                yield jobs[number].cell, finished

    @contextlib.contextmanager
    def _dask(self) -> Iterator[Any]:
        module = _module("dask", "distributed")
        with contextlib.ExitStack() as stack:
            where = self.address
            if where is None:
                cluster = module.LocalCluster(n_workers=self.count, threads_per_worker=1, dashboard_address=None)
                where = stack.enter_context(cluster)
            try:
                client = module.Client(where, timeout="30s")
            except (OSError, ValueError) as error:
                raise InputError(f"no Dask scheduler answers at {where}: {error}") from error
            yield stack.enter_context(client)

    @contextlib.contextmanager
    def _ray(self) -> Iterator[None]:
        ray = _module("ray", "ray")
        cpus = self.count if self.address is None else None
        try:
            dashboard = False if self.address is None else None
            ray.init(self.address, num_cpus=cpus, include_dashboard=dashboard, logging_level=logging.ERROR)
        except (ConnectionError, ValueError, RuntimeError) as error:
            last = str(error).strip().splitlines()[-1:] or [type(error).__name__]  # some hold a whole traceback
            raise InputError(
                f"no Ray cluster answers at {self.address}: {last[0]}; where it asks for a token, RAY_AUTH_MODE=token "
                f"and that token have to be set"
            ) from error
        try:
            yield
        finally:
            ray.shutdown()


def _numbered(number: int, packed: bytes) -> tuple[int, Finished]:
    return number, run_packed(packed)


def _module(backend: str, name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(f"backend {backend!r} is not installed: pip install 'lrcontrol[distributed]'") from error


@contextlib.contextmanager
def _deaths_told(backend: str) -> Iterator[None]:
    """Turn the death of workers that nothing can make good into a line that says what to do."""
    from joblib.externals.loky.process_executor import BrokenProcessPool

    deaths: tuple[type[BaseException], ...] = (BrokenProcessPool,)
    if backend == "dask":
        deaths += (_module("dask", "distributed").KilledWorker,)
    elif backend == "ray":
        deaths += (_module("ray", "ray.exceptions").RayError,)
    try:
        yield
    except deaths as error:
        raise InputError(
            f"a worker died, for want of memory perhaps ({type(error).__name__}): what was done is kept; the same "
            f"command goes on from there, with fewer --workers if memory is short"
        ) from error
