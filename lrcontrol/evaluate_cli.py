"""The command line of ``python -m lrcontrol.evaluate``."""

from __future__ import annotations

import datetime
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from lrcontrol.agents import make_agent
from lrcontrol.cli import INTERRUPTED, default_folder, progress_bars, run_command
from lrcontrol.comparison import compare
from lrcontrol.custom import load_task
from lrcontrol.envs.errors import InputError
from lrcontrol.evaluation import DEFAULT_AGENTS, Interrupted, evaluate, lr0_grid
from lrcontrol.results import Results, write_csv
from lrcontrol.tables import agent_table, comparison_table, grid_table


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """Compare learning-rate controllers over initial learning rates and seeds.

    Trains with every agent from every initial rate, several runs each, all agents on the same initialisations and
    minibatches; prints tables and writes csv files, traces and figures into a folder.

    Examples:
      python -m lrcontrol.evaluate
      python -m lrcontrol.evaluate --task mnist-mlp --optimizer adamw --agents constant hillclimb:factor=2
      python -m lrcontrol.evaluate --task my_file.py:my_task --lr0-grid 1e-4 1 9 --runs 10
    """

    task: str = "digits-mlp"
    """What is trained: quadratic, digits-mlp, mnist-mlp, mnist-mlp-raw, fashion-mnist-mlp, fashion-mnist-deep,
    mnist-cnn, mnist-autoencoder or shakespeare-gpt, with keys as in quadratic:conditioning=100,noise=0.1; or your own,
    a Task in a file: path/to/file.py:name."""

    agents: tuple[str, ...] = DEFAULT_AGENTS
    """Who controls the rate, as name:key=value,…: learned; distilled; constant; schedule with kind (warm-up, cosine,
    linear, one-cycle, step, inverse-sqrt, wsd), warmup, end, gamma, start, decay; plateau and greedy with factor,
    patience, threshold, window, every; hillclimb with factor, every, probe, momentum; bandit with policy, arms, every,
    momentum and more; random, which moves the rate by chance, with factor, every, seed; the folder of a trained agent.
    Or who runs its own training: the optimizers dog, cocob, prodigy, dadapt-sgd, dadapt-adam, schedulefree-sgd,
    schedulefree-adamw, adamw, nadamw, hypergradient-sgd and hypergradient-adam (these two with additive), sps (Polyak
    steps) and armijo (a line search), all but cocob with knob; random-search, the best of trials runs with rates by
    chance, with trials, kind, low, high; pbt, population based training, with population, every, low, high; replay,
    another agent's mean schedule followed blindly, with of, as in replay:of=hillclimb:factor=2."""

    lr0: Annotated[tuple[float, ...] | None, tyro.conf.arg(metavar="V [V ...]")] = None
    """Initial learning rates, one or more. Default: a grid of half-decades over the task's range."""

    lr0_grid: Annotated[tuple[float, float, int] | None, tyro.conf.arg(metavar="LOW HIGH N")] = None
    """Instead of --lr0: N initial rates from LOW to HIGH, evenly spaced in logarithm."""

    runs: int = 5
    """Runs for each agent and initial rate; run i has the seed SEED + i under every agent."""

    steps: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Training steps in a run. Default: the task's budget."""

    optimizer: Literal["sgd", "adamw"] = "sgd"
    """The optimizer whose learning rate is controlled."""

    momentum: Annotated[float | None, tyro.conf.arg(metavar="FLOAT")] = None
    """Momentum of sgd (default 0) or β1 of adamw (default 0.9)."""

    seed: int = 0
    """Seed of the first run."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto takes CUDA where there is one."""

    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder for the results, new or empty. Default: results/ and a name made of time, task and optimizer."""

    overwrite: bool = False
    """Replace the results that --out holds."""

    baseline: Annotated[str | None, tyro.conf.arg(metavar="AGENT")] = None
    """Hold all other agents against this one, paired by run, with intervals and tests; writes comparison.csv too."""


def run_evaluate(options: EvaluateOptions) -> int:
    """Run one evaluation, print its tables and write its folder; returns the exit code."""
    if options.lr0 is not None and options.lr0_grid is not None:
        raise InputError("give --lr0 or --lr0-grid, not both")
    baseline = None if options.baseline is None else _check_baseline(options, options.baseline)
    rates = options.lr0 if options.lr0_grid is None else lr0_grid(*options.lr0_grid)
    task = load_task(options.task)
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    out = options.out or default_folder("results", now, task.name, options.optimizer)
    console = Console()
    with progress_bars() as bars:
        numbers = {}

        def progress(agent: str, step: int, steps: int) -> None:
            if agent not in numbers:
                numbers[agent] = bars.add_task(agent, total=steps)
            bars.update(numbers[agent], completed=step)

        try:
            results = evaluate(
                task,
                options.agents,
                lr0=rates,
                runs=options.runs,
                steps=options.steps,
                optimizer=options.optimizer,
                seed=options.seed,
                device=options.device,
                out=out,
                overwrite=options.overwrite,
                progress=progress,
                momentum=options.momentum,
            )
        except Interrupted as interrupted:
            bars.stop()
            return _report_interrupted(interrupted.results, out)
    _print(results, console)
    if baseline is not None:
        compared = compare(results, baseline)
        console.print(comparison_table(compared, baseline))
        write_csv(out / "comparison.csv", compared)
    console.print(f"[dim]{results.manifest['seconds']} s; results in[/dim] {out}", soft_wrap=True, highlight=False)
    return 0


def _check_baseline(options: EvaluateOptions, baseline: str) -> str:
    """Return the name of the baseline, or raise InputError, before anything is trained, where it cannot be one."""
    name, names = make_agent(baseline).name, [make_agent(agent).name for agent in options.agents]
    if name not in names:
        raise InputError(f"--baseline {baseline} is not among --agents: add it there")
    if options.runs < 2 or len(names) < 2:
        raise InputError(f"--baseline {baseline} needs another agent beside it, and --runs 2 or more")
    return name


def _print(results: Results, console: Console) -> None:
    for agent in results.agents:
        console.print(agent_table(results, agent))
    console.print(grid_table(results))


def _report_interrupted(results: Results | None, out: Path) -> int:
    if results is None:
        print("interrupted before the first agent was done: nothing is written", file=sys.stderr)
    else:
        done = ", ".join(results.agents)
        print(f"interrupted: the agents that were done ({done}) are in {out}", file=sys.stderr)
    return INTERRUPTED


def main(arguments: Sequence[str] | None = None) -> int:
    """Evaluate as the command line says; see ``run_command`` for the exit code."""
    return run_command(EvaluateOptions, run_evaluate, "python -m lrcontrol.evaluate", arguments)
