"""Compares everything in the box on three data sets with two optimizers, and a convolutional network in part.

    python -m experiments.benchmark.run

Killed at any moment and started again, it goes on where it was. Tables and pictures are made of what there is with
``--no-run``: pages of the studies' cells, best.csv and payoff.csv of the runs.parquet beside the pages.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import lrcontrol
from experiments.tables import read, rounded, write
from lrcontrol.agents.learned import FOLDERS
from lrcontrol.agents.trained import TrainedAgent
from lrcontrol.aggregates import Array
from lrcontrol.backends import Pool
from lrcontrol.budgets import runs_to_pay_off, trials_to_match
from lrcontrol.cell_store import read_journal
from lrcontrol.cli import progress_bars, run_command
from lrcontrol.figures import final_loss
from lrcontrol.report_html import page_of, write_text
from lrcontrol.report_study import combine
from lrcontrol.standings import standings
from lrcontrol.statistics import holm, paired_difference, signed_rank_p

HERE = Path(__file__).parent
TASKS = ("digits-mlp", "mnist-mlp", "fashion-mnist-mlp")
BOTH = ("sgd", "adamw")
STARTS = [1e-6, 1e-4, 1e-2, 0.1, 1.0, 10.0]
FINE = {  # half-decades around what is best
    "sgd": [float(f"{rate:.3g}") for rate in np.geomspace(1e-2, 100.0, 9)],
    "adamw": [float(f"{rate:.3g}") for rate in np.geomspace(1e-4, 1.0, 9)],
}
SCHEDULES = (
    *("constant", "schedule:kind=cosine,warmup=0.05", "schedule:kind=one-cycle"),
    *("schedule:kind=linear", "schedule:kind=step", "schedule:kind=wsd"),
)
PLATEAU = "plateau:factor=0.5,patience=1,window=20,every=5"  # chosen by plateau.py
PATIENT = ("plateau", "plateau:patience=0,window=50", "greedy", "greedy:factor=0.95,patience=1,window=20")
TUNED = {"tuned": SCHEDULES, "patient": PATIENT, "plateau": (PLATEAU,)}  # from the fine rates
CONTROLLERS = (
    *PATIENT,
    *("hillclimb", "hillclimb:factor=2", "bandit", "random", "schedule:kind=one-cycle,start=0.3"),
)
LEARNED = ("learned", "distilled", "blind", "replay:of=learned")
OPTIMIZERS = (
    *("adamw", "nadamw", "dog", "cocob", "prodigy", "dadapt-sgd", "dadapt-adam", "schedulefree-sgd"),
    *("schedulefree-adamw", "hypergradient-sgd", "hypergradient-sgd:additive=true", "hypergradient-adam"),
    *("hypergradient-adam:additive=true", "sps", "armijo"),
)
KNOBS = tuple(f"{name}:knob=true" for name in OPTIMIZERS if name != "cocob" and ":" not in name)
RUNS = "runs.parquet"
RUN_COLUMNS = ("task", "optimizer", "agent", "lr0", "run", "diverged")
RUN_MEASURES = ("train_loss", "test_loss", "test_accuracy")
TRAINING_CORES = 2  # that the training of ``learned`` kept busy
HALVES = {"sgd": "sgd", "adamw": "adaptive"}  # of ``learned``
SEARCHES = ("random-search:trials=8,kind=cosine", "pbt")
PUBLISHED_AGENTS = (
    *("constant", "schedule:kind=one-cycle", "prodigy", "dog", "adamw", "schedulefree-adamw:knob=true"),
    *("cocob", "nadamw", "schedulefree-sgd", "sps", "armijo"),
)
EVERYBODY = (*SCHEDULES, *CONTROLLERS, *OPTIMIZERS, *SEARCHES)
ALL: dict[str, Any] = {"optimizer": BOTH, "lr0": STARTS, "runs": 10}
CNN: dict[str, Any] = {"task": "mnist-cnn", "optimizer": "adamw", "lr0": [1e-3, 1e-2, 0.1], "runs": 2, "block": 1}


def studies_of(task: str) -> dict[str, dict[str, Any]]:
    """Return the studies of a task: rates of schedules and knobs on a grid, everything from six starts, the learned."""
    found: dict[str, dict[str, Any]] = {}
    for (name, agents), optimizer in itertools.product(TUNED.items(), BOTH):
        study = {"task": task, "agents": agents, "runs": 10, "optimizer": optimizer, "lr0": FINE[optimizer]}
        found[f"{task}/{name}-{optimizer}"] = study
    return found | {
        f"{task}/plateau": ALL | {"task": task, "agents": (PLATEAU,)},
        f"{task}/knobs": {"task": task, "agents": KNOBS, "optimizer": "adamw", "lr0": STARTS, "runs": 10},
        f"{task}/starts": ALL | {"task": task, "agents": EVERYBODY},
        f"{task}/learned": ALL | {"task": task, "agents": LEARNED},
    }


STUDIES: dict[str, dict[str, Any]] = {
    "published/adamw": {
        **{"task": "mnist-mlp", "agents": PUBLISHED_AGENTS, "optimizer": "adamw", "lr0": [0.01, 0.03, 0.1], "runs": 3}
    },
    "published/sgd": {
        **{"task": "mnist-mlp", "agents": SCHEDULES, "optimizer": "sgd", "lr0": [10.0], "runs": 3},
    },
    **{name: study for task in TASKS for name, study in studies_of(task).items()},
    "mnist-cnn/starts": CNN | {"agents": EVERYBODY},
    "mnist-cnn/plateau": CNN | {"agents": (PLATEAU,)},
    "mnist-cnn/learned": CNN | {"agents": LEARNED},
}
# What is shown together, and what it is held against. What is learned is a study of its own: run anew when it changes.
COSINE = "schedule:kind=cosine,warmup=0.05"
PAGES = {
    **{f"{task}/starts": ((f"{task}/starts", f"{task}/plateau", f"{task}/learned"), COSINE) for task in TASKS},
    "mnist-cnn/starts": (("mnist-cnn/starts", "mnist-cnn/plateau", "mnist-cnn/learned"), "schedule:kind=one-cycle"),
    **{
        f"{task}/tuned": (tuple(f"{task}/{name}-{optimizer}" for name in TUNED for optimizer in BOTH), COSINE)
        for task in TASKS
    },
    **{f"{task}/knobs": ((f"{task}/knobs",), "adamw:knob=true") for task in TASKS},
    **{f"{task}/learned": ((f"{task}/learned",), "replay:of=learned") for task in TASKS},
}
# Rivals at their best rate, in families whose p are corrected together: with more in one, none could be below 0.05.
FAMILIES = {"schedules": "tuned", "knobs": "knobs", "others": "starts"}  # and the page whose runs they are
# Final training loss on mnist-mlp measured elsewhere with the rivals' own packages: study, agent, lr0, loss.
PUBLISHED = (
    ("published/adamw", "schedule:kind=one-cycle", 0.03, 0.107),
    ("published/sgd", "schedule:kind=one-cycle", 10.0, 0.110),  # without dampening the rate is 1
    ("published/adamw", "constant", 0.01, 0.114),
    ("published/adamw", "prodigy", 0.01, 0.162),
    ("published/adamw", "dog", 0.01, 0.165),
    ("published/adamw", "adamw", 0.01, 0.283),
    ("published/adamw", "schedulefree-adamw:knob=true", 0.1, 0.089),
    ("published/adamw", "cocob", 0.01, 0.125),
    ("published/adamw", "nadamw", 0.01, 0.208),
    ("published/adamw", "schedulefree-sgd", 0.01, 0.195),
    ("published/adamw", "sps", 0.01, 0.157),
    ("published/adamw", "armijo", 0.01, 0.172),
)


@dataclass(frozen=True)
class Options:
    """Run what is missing of the studies, and write the tables, figures and pages."""

    studies: tuple[str, ...] = tuple(STUDIES)
    """Which of them."""

    folder: Path = Path("results/benchmark")
    """Where cells are kept."""

    out: Path = HERE
    """Where tables and pages go."""

    run: bool = True
    """Run what is missing; with --no-run only the tables are made."""

    workers: int | None = None
    """Cells at once; None is one for each core."""

    runs: int | None = None
    """Another number of runs, to try it out."""

    steps: int | None = None
    """Other steps of a run, to try it out."""


def run(name: str, options: Options) -> None:
    """Run what is missing of a study."""
    study: dict[str, Any] = STUDIES[name] | {"steps": options.steps, "momentum": 0.9}
    if options.runs is not None:
        study["runs"] = options.runs
    with progress_bars() as bars:
        bar = bars.add_task(name)

        def show(done: int, cells: int) -> None:
            bars.update(bar, completed=done, total=cells)

        lrcontrol.evaluate(out=options.folder / name, pool=Pool(workers=options.workers), cell_progress=show, **study)


def cost(name: str, options: Options) -> dict[str, Any]:
    """Return what a study cost: its cells' seconds on one core each."""
    folder = options.folder / name
    seconds = sum(cell_seconds(folder))
    runs = lrcontrol.Results.load(folder).runs.num_rows
    return {"study": name, "runs": runs, "core_minutes": round(seconds / 60.0, 1), "failed": len(failures(folder))}


def show(page: str, names: list[str], baseline: str, options: Options) -> None:
    """Write the runs, the standings, the page and the pictures of some studies together."""
    out, loaded = options.out / page, {name: lrcontrol.Results.load(options.folder / name) for name in names}
    study = combine(loaded, baseline)
    found = standings(study.results, study.baseline)
    out.mkdir(parents=True, exist_ok=True)
    write(out / "standings.csv", [rounded(row) for row in found.rows.to_pylist()])
    write(out / "overall.csv", [rounded(row) for row in found.overall.to_pylist()])
    write_text(out / "report.html", page_of(study, found))
    write_runs(out / RUNS, study.results)
    for task, optimizer in study.results.pairs:
        final_loss(study.results.of(task, optimizer)).savefig(out / f"{task}-{optimizer}.png", dpi=100)


def write_runs(path: Path, results: lrcontrol.Results) -> None:
    """Write what every run ended with, in single precision: all that the tables are made of but the traces."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = results.runs.select([*RUN_COLUMNS, *RUN_MEASURES])
    for name in RUN_MEASURES:
        table = table.set_column(table.schema.get_field_index(name), name, table[name].cast(pa.float32()))
    pq.write_table(table, path, compression="zstd")


@functools.cache
def runs_of(path: Path, task: str, optimizer: str) -> dict[str, dict[float, Array]]:
    """Return the final training losses (runs,) of a page by agent and initial rate; nothing where there is no page.

    A page of one optimizer, at which none of its agents looks, stands for both.
    """
    import pyarrow.parquet as pq

    if not path.exists():
        return {}
    rows = [row for row in pq.read_table(path).to_pylist() if row["task"] == task]
    rows = [row for row in rows if row["optimizer"] == optimizer] or rows
    losses: dict[str, dict[float, dict[int, float]]] = {}
    for row in rows:
        losses.setdefault(row["agent"], {}).setdefault(row["lr0"], {})[row["run"]] = row["train_loss"]
    return {
        agent: {rate: np.array([runs[run] for run in sorted(runs)]) for rate, runs in sorted(rates.items())}
        for agent, rates in losses.items()
    }


def losses_of_learned(task: str, optimizer: str, out: Path) -> Array | None:
    """Return the final training losses (runs,) of ``learned``, which does not look at the initial rate."""
    found = runs_of(out / task / "learned" / RUNS, task, optimizer).get("learned")
    return None if found is None else np.mean(list(found.values()), axis=0)


def best(task: str, out: Path) -> list[dict[str, Any]]:
    """Return how ``learned`` stands to every rival at the rate that was best for it on these very runs, paired by run.

    The ratio of losses is the geometric mean over runs with its BCa interval; p is Wilcoxon's, corrected (Holm) within
    the family.
    """
    rows: list[dict[str, Any]] = []
    for optimizer in BOTH:
        learned = losses_of_learned(task, optimizer, out)
        rivals: set[str] = {*LEARNED}
        for family, page in FAMILIES.items() if learned is not None else ():
            rates = runs_of(out / task / page / RUNS, task, optimizer)
            found = [rival for rival in at_best(rates) if rival["rival"] not in rivals]
            rivals |= {row["rival"] for row in found}
            compared = [{"task": task, "optimizer": optimizer, "family": family, **held(row, learned)} for row in found]
            corrected = holm([row["p"] for row in compared])
            rows += [rounded(row | {"p_holm": p}) for row, p in zip(compared, corrected, strict=True)]
    return rows


def at_best(agents: dict[str, dict[float, Array]]) -> Iterator[dict[str, Any]]:
    """Yield each agent with its best rate and its losses (runs,) there; one whose cells failed is left out."""
    for agent, rates in agents.items():
        if not any(np.isnan(losses).any() for losses in rates.values()):
            rate = min(rates, key=lambda rate: float(rates[rate].mean()))
            yield {"rival": agent, "lr0": rate, "losses": rates[rate]}


def held(rival: dict[str, Any], learned: Array) -> dict[str, Any]:
    """Return the row of a rival: means, the ratio of ``learned``'s losses (runs,) to its own, and p."""
    losses = rival["losses"]
    row = {"rival": rival["rival"], "lr0": rival["lr0"], "loss": float(losses.mean()), "learned": float(learned.mean())}
    logs = paired_difference(np.log(learned), np.log(losses))
    row |= dict(zip(("ratio", "ratio_low", "ratio_high"), map(float, np.exp(logs)), strict=True))
    return row | {"p": signed_rank_p(learned, losses)}


def failures(folder: Path) -> list[dict[str, Any]]:
    """Return the cells of a study that failed."""
    found: list[dict[str, Any]] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["failures"]
    return found


def payoff(options: Options) -> list[dict[str, Any]]:
    """Return what ``learned`` saves: trials of a tuned schedule that it takes to match it, and runs that pay for it.

    The seconds of a run are those of the table that is there, where the study's cells are not.
    """
    # One begins at the other, with SGD by way of a search that was before it.
    trained, rows = [TrainedAgent.load(folder).training for folder in FOLDERS.values()], []
    before = {(row["task"], row["optimizer"], row["rival"]): row for row in read(options.out / "payoff.csv")}
    for task, optimizer in itertools.product(TASKS, BOTH):
        learned, folder = losses_of_learned(task, optimizer, options.out), options.folder / task / f"tuned-{optimizer}"
        tuned = runs_of(options.out / task / "tuned" / RUNS, task, optimizer)
        for rival in SCHEDULES[:3] if tuned and learned is not None else ():
            starts = np.array([losses.mean() for losses in tuned[rival].values()])
            loss = float(learned.mean())
            there = (folder / "runs.csv").exists()
            seconds = (
                run_seconds(folder, rival) if there else float(before[task, optimizer, rival]["core_seconds_a_run"])
            )
            searches = [half[HALVES[optimizer]] for half in trained]
            spent = sum(search["seconds"] + search.get("before", {"seconds": 0})["seconds"] for search in searches)
            trials = trials_to_match(loss, starts)
            row = {"task": task, "optimizer": optimizer, "rival": rival, "learned": loss, "rival_best": starts.min()}
            row |= {"trials_to_match": trials, "core_seconds_a_run": seconds}
            row["runs_to_pay_off"] = runs_to_pay_off(spent * TRAINING_CORES, seconds, trials)
            rows.append(rounded({name: v if isinstance(v, str) else float(v) for name, v in row.items()}))
    return rows


def cell_seconds(folder: Path, agent: str | None = None) -> list[float]:
    """Return the seconds that each cell of a study, or of one agent in it, took on a core."""
    names = ("task", "optimizer", "agent", "first_run")
    cells = [event for event in read_journal(folder) if event["event"] == "cell" and not event["error"]]
    last = {tuple(event[name] for name in names): event for event in cells if agent in (None, event["agent"])}
    return [event["seconds"] for event in last.values()]


def run_seconds(folder: Path, agent: str) -> float:
    """Return the seconds of one run of an agent on a core, by its cells' median: a worker's first holds the imports."""
    seconds, runs = cell_seconds(folder, agent), lrcontrol.Results.load(folder).runs["agent"].to_pylist().count(agent)
    return float(np.median(seconds)) * len(seconds) / runs


def published(options: Options) -> list[dict[str, Any]]:
    """Return a row for each figure measured elsewhere: ours beside it."""
    rows = []
    for name, agent, rate, loss in PUBLISHED:
        summary = lrcontrol.Results.load(options.folder / name).of_agent(agent).to_pylist()
        (ours,) = (row["train_loss_mean"] for row in summary if row["lr0"] == rate)
        rows.append({"agent": agent, "lr0": rate, "elsewhere": loss, "here": round(ours, 4), "ratio": ours / loss})
    return [rounded(row) for row in rows]


def main(options: Options) -> int:
    """Run, then write what can be written of what is there; the rest of the tables and pages stays as it is."""
    for name in options.studies:
        if options.run:
            run(name, options)
    options.out.mkdir(parents=True, exist_ok=True)
    there = [name for name in STUDIES if (options.folder / name / "runs.csv").exists()]
    costs = {row["study"]: row for row in read(options.out / "cost.csv")} | {n: cost(n, options) for n in there}
    write(options.out / "cost.csv", [costs[name] for name in STUDIES if name in costs])
    for page, (names, baseline) in PAGES.items():
        if set(names) <= set(there):
            show(page, list(names), baseline, options)
    if {"published/adamw", "published/sgd"} <= set(there):
        write(options.out / "published.csv", published(options))
    if rows := [row for task in TASKS for row in best(task, options.out)]:
        write(options.out / "best.csv", rows)
    if rows := payoff(options):
        write(options.out / "payoff.csv", rows)
    return 1 if any(failures(options.folder / name) for name in there) else 0


if __name__ == "__main__":
    raise SystemExit(run_command(Options, main, "python -m experiments.benchmark.run", None))
