"""The command line of ``python -m lrcontrol.evaluate``."""

from __future__ import annotations

import datetime
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.progress import Progress, TaskID

from lrcontrol.agent_list import agent_tables
from lrcontrol.backends import Pool
from lrcontrol.cell_store import write_whole
from lrcontrol.cli import INTERRUPTED, default_folder, file_name, progress_bars, report_failures, run_command
from lrcontrol.comparison import compare
from lrcontrol.custom import load_task
from lrcontrol.envs.errors import InputError
from lrcontrol.evaluation import DEFAULT_AGENTS, DEFAULT_BLOCK, AllFailedError, Interrupted, evaluate
from lrcontrol.results import Results, csv_bytes
from lrcontrol.study import find_agents, lr0_grid
from lrcontrol.tables import agent_table, comparison_table, grid_table


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """Compare learning-rate controllers over initial learning rates and seeds.

    Trains with every agent from every initial rate, several runs each, all agents on the same initialisations and
    minibatches; prints tables and writes csv files, traces and figures into a folder.

    Examples:
      python -m lrcontrol.evaluate
      python -m lrcontrol.evaluate --task mnist-mlp --optimizer adamw --agents constant hillclimb:factor=2
      python -m lrcontrol.evaluate --agents help
      python -m lrcontrol.evaluate --task my_file.py:my_task --lr0-grid 1e-4 1 9 --runs 10
    """

    task: tuple[str, ...] = ("digits-mlp",)
    """What is trained, one or more: quadratic, digits-mlp, mnist-mlp, mnist-mlp-raw, fashion-mnist-mlp,
    fashion-mnist-deep, mnist-cnn, mnist-autoencoder or shakespeare-gpt, with keys as in
    quadratic:conditioning=100,noise=0.1; or your own, a Task in a file: path/to/file.py:name."""

    agents: tuple[str, ...] = DEFAULT_AGENTS
    """Who controls the rate, as name or name:key=value,…; --agents help lists all with their keys and defaults.

    Agents: learned, distilled, blind, constant, schedule, plateau, greedy, hillclimb, bandit, random, or the folder of
    a trained one.

    Rivals, which run their own training: the optimizers dog, cocob, prodigy, dadapt-sgd, dadapt-adam, schedulefree-sgd,
    schedulefree-adamw, adamw, nadamw, hypergradient-sgd, hypergradient-adam, sps and armijo, at their defaults, or with
    knob=true at the initial rate; random-search and pbt; replay, as in replay:of=hillclimb:factor=2."""

    lr0: Annotated[tuple[float, ...] | None, tyro.conf.arg(metavar="V [V ...]")] = None
    """Initial learning rates, one or more. Default: a grid of half-decades over the task's range."""

    lr0_grid: Annotated[tuple[float, float, int] | None, tyro.conf.arg(metavar="LOW HIGH N")] = None
    """Instead of --lr0: N initial rates from LOW to HIGH, evenly spaced in logarithm."""

    runs: int = 5
    """Runs for each agent and initial rate; run i has the seed SEED + i under every agent."""

    steps: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Training steps in a run. Default: the task's budget."""

    optimizer: tuple[Literal["sgd", "adamw"], ...] = ("sgd",)
    """The optimizer whose learning rate is controlled, or both."""

    momentum: Annotated[float | None, tyro.conf.arg(metavar="FLOAT")] = None
    """Momentum of sgd (default 0) or β1 of adamw (default 0.9)."""

    seed: int = 0
    """Seed of the first run."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto takes CUDA where there is one."""

    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder for the results. Default: results/ and a name made of time, task and optimizer. What is done is kept
    there: the same command with the same folder goes on where another was interrupted or killed."""

    overwrite: bool = False
    """Replace the results that --out holds."""

    block: int = DEFAULT_BLOCK
    """Runs in a cell, the unit of work that is done whole or not; the last digits of a loss can depend on it."""

    traces: bool = True
    """Keep every step's loss, rate and momentum: about 2 kB for a run of 400 steps."""

    workers: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Cells run at once, on one torch thread each. Default: one for each core, or 1 where the study is small. The
    numbers do not depend on it."""

    backend: Literal["local", "dask", "ray"] = "local"
    """Where cells are run: on this machine, or on a Dask or Ray cluster (pip install 'lrcontrol[distributed]').
    A ray:// address is that of a client server on the Ray head: ray start --head --ray-client-server-port 10001."""

    address: Annotated[str | None, tyro.conf.arg(metavar="URL")] = None
    """The cluster's scheduler, as in tcp://host:8786 (Dask), host:6379 or ray://host:10001 (Ray). Default: a
    cluster on this machine."""

    baseline: Annotated[str | None, tyro.conf.arg(metavar="AGENT")] = None
    """Hold all other agents against this one, paired by run, with intervals and tests; writes comparison.csv too."""


def run_evaluate(options: EvaluateOptions) -> int:
    """Run one evaluation, print its tables and write its folder, or list the agents; returns the exit code."""
    if options.agents == ("help",):
        for part in agent_tables():
            Console().print(part, highlight=False)
        return 0
    if options.lr0 is not None and options.lr0_grid is not None:
        raise InputError("give --lr0 or --lr0-grid, not both")
    baseline = None if options.baseline is None else _check_baseline(options, options.baseline)
    tasks = [load_task(text) if ".py:" in text or text.endswith(".py") else text for text in options.task]
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    names = [task if isinstance(task, str) else task.name for task in tasks]
    out = options.out or default_folder("results", now, "+".join(names), "+".join(options.optimizer))
    began = time.perf_counter()
    with progress_bars() as bars:
        shown = Bars(bars)
        try:
            results = evaluate(
                tasks,
                options.agents,
                lr0=options.lr0 if options.lr0_grid is None else lr0_grid(*options.lr0_grid),
                runs=options.runs,
                steps=options.steps,
                optimizer=options.optimizer,
                seed=options.seed,
                device=options.device,
                out=out,
                overwrite=options.overwrite,
                block=options.block,
                traces=options.traces,
                pool=Pool(options.backend, options.workers, options.address),
                progress=shown.agent,
                cell_progress=shown.cells,
                momentum=options.momentum,
            )
        except Interrupted as interrupted:
            bars.stop()
            return _report_interrupted(interrupted, out)
        except AllFailedError as failed:
            bars.stop()
            return report_failures(failed.failures)
    console = Console()
    for pair in results.pairs:
        _print(results.of(*pair), console, baseline, out, alone=len(options.task) * len(options.optimizer) == 1)
    seconds = time.perf_counter() - began
    console.print(f"[dim]{seconds:.1f} s; results in[/dim] {out}", soft_wrap=True, highlight=False)
    console.print(f"[dim]as a page: python -m lrcontrol.report[/dim] {out}", soft_wrap=True, highlight=False)
    return report_failures(results.manifest["failures"])


class Bars:
    """A bar for the cells and, where they are run in this process, one for each agent's training steps."""

    def __init__(self, bars: Progress) -> None:
        self.bars = bars
        self.numbers: dict[str, TaskID] = {}

    def agent(self, agent: str, step: int, steps: int) -> None:
        """Take in the training steps of an agent's cell."""
        self._show(agent, step, steps)

    def cells(self, done: int, cells: int) -> None:
        """Take in how many cells are done."""
        self._show("cells", done, cells)

    def _show(self, name: str, done: int, total: int) -> None:
        if name not in self.numbers:
            self.numbers[name] = self.bars.add_task(name, total=total)
        self.bars.update(self.numbers[name], completed=done, total=total)


def _check_baseline(options: EvaluateOptions, baseline: str) -> str:
    """Return the name of the baseline, or raise InputError, before anything is trained, where it cannot be one."""
    (name, *names) = (agent.name for agent in find_agents((baseline, *options.agents)))
    if name not in names:
        raise InputError(f"--baseline {baseline} is not among --agents: add it there")
    if options.runs < 2 or len(names) < 2:
        raise InputError(f"--baseline {baseline} needs another agent beside it, and --runs 2 or more")
    return name


def _print(results: Results, console: Console, baseline: str | None, out: Path, alone: bool) -> None:
    """Print the tables of a task with an optimizer, those of each agent where there is no other task or optimizer."""
    if alone:
        for agent in results.agents:
            console.print(agent_table(results, agent))
    console.print(grid_table(results))
    if baseline is not None:
        try:
            compared = compare(results, baseline)
        except InputError as error:  # a cell has failed
            console.print(f"not compared: {error}", highlight=False)
            return
        console.print(comparison_table(compared, baseline))
        [(task, optimizer)] = results.pairs
        name = "comparison.csv" if alone else f"comparison-{file_name(task, optimizer)}.csv"
        write_whole(out / name, csv_bytes(compared))


def _report_interrupted(interrupted: Interrupted, out: Path) -> int:
    print(
        f"interrupted: {interrupted.done} of {interrupted.cells} cells are done and kept; the same command with "
        f"--out {out} does the others",
        file=sys.stderr,
    )
    return INTERRUPTED


def main(arguments: Sequence[str] | None = None) -> int:
    """Evaluate as the command line says; see ``run_command`` for the exit code."""
    return run_command(EvaluateOptions, run_evaluate, "python -m lrcontrol.evaluate", arguments)
