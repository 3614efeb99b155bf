"""Reproduces the proposal's four tables and two figures on MNIST, and takes them apart.

    python experiments/proposal/reproduce.py            everything, into experiments/proposal/
    python experiments/proposal/reproduce.py --help     fewer runs, another folder

Needs the package installed and MNIST (downloaded once, or found in LRCONTROL_DATA). Seeds 0 to 9.
"""

from __future__ import annotations

import csv
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

import lrcontrol
from lrcontrol.backends import Pool
from lrcontrol.cli import run_command
from lrcontrol.figures import over_steps

HERE = Path(__file__).parent
RATES = [float(f"{rate:.6g}") for rate in 10.0 ** -np.linspace(5.0, 2.0, 10)]
TABLES = {
    "constant": "constant",
    "hillclimb_1pct_every_1": "hillclimb",
    "hillclimb_1pct_every_10": "hillclimb:every=10",
    "hillclimb_10pct_every_10": "hillclimb:factor=1.1,every=10",
}
FROM_ZERO = lrcontrol.Smoothing(rate=0.02, start="zero")
WARM_UP = "schedule:kind=warm-up,warmup=50"
DECOMPOSITION: list[tuple[str, str, Any]] = [
    ("constant, no smoothing", "constant", None),
    ("constant, 50-step linear warm-up, no smoothing", WARM_UP, None),
    ("constant, smoothing started at 0 with 0.02 for 0.1", "constant", FROM_ZERO),
    ("±1 % every step, no smoothing", "hillclimb", None),
    ("±1 % every step, smoothing started at 0 with 0.02 for 0.1", "hillclimb", FROM_ZERO),
]


@dataclass(frozen=True)
class Options:
    """Reproduce the proposal's tables and figures on MNIST, and take them apart.

    Ten runs, seeds 0 to 9, in minutes; what it writes is explained in experiments/proposal/README.md.
    """

    out: Path = HERE
    """Folder for tables and figures."""
    runs: int = 10
    """Runs in a cell; the published tables have 10."""
    workers: int | None = None
    """Processes that train, one thread each; default: one for each core. The numbers do not depend on it."""
    parts: tuple[Literal["tables", "decomposition", "to-zero"], ...] = ("tables", "decomposition", "to-zero")
    """What to compute; the decomposition computes the tables as well."""


def evaluate(agents: list[str], options: Options, **settings: Any) -> lrcontrol.Results:
    arguments: dict[str, Any] = {"task": "mnist-mlp-raw", "lr0": RATES, "runs": options.runs} | settings
    return lrcontrol.evaluate(agents=agents, pool=Pool(workers=options.workers), **arguments)


def compare(results: lrcontrol.Results) -> list[dict[str, Any]]:
    """Return a row for each published cell: published, ours, and the difference in published standard deviations."""
    with (HERE / "published.csv").open(newline="", encoding="utf-8") as file:
        published = list(csv.DictReader(file))
    ours = {(row["agent"], round(np.log10(row["lr0"]), 2)): row for row in results.summary.to_pylist()}
    rows = []
    for cell in published:
        row = ours[TABLES[cell["table"]], round(np.log10(RATES[len(rows) % 10]), 2)]
        assert abs(row["lr0"] - float(cell["lr0"])) < 1e-6
        compared: dict[str, Any] = {"table": cell["table"], "lr0": row["lr0"]}
        for measure, digits in (("accuracy", 3), ("loss", 2)):
            mean, std = float(cell[f"{measure}_mean"]), float(cell[f"{measure}_std"])
            mine, mine_std = row[f"train_{measure}_mean"], row[f"train_{measure}_std"]
            compared |= {
                f"{measure}_published": mean,
                f"{measure}_published_std": std,
                f"{measure}": round(mine, 4),
                f"{measure}_std": round(mine_std, 4),
                # A published 0.0 is anything below half of its last digit.
                f"{measure}_difference_in_std": round((mine - mean) / max(std, 0.5 * 10.0**-digits), 2),
            }
        rows.append(compared)
    return rows


def print_comparison(rows: list[dict[str, Any]], console: Console) -> dict[str, Any]:
    """Print the four tables beside the published ones and return what they come to."""
    facts: dict[str, Any] = {}
    for name in TABLES:
        mine = [row for row in rows if row["table"] == name]
        table = Table(title=f"{name}: training accuracy in %, loss; published | ours | difference in published std")
        for column in ("lr0", "accuracy", "ours", "diff", "loss", "ours", "diff"):
            table.add_column(column, justify="right")
        for row in mine:
            table.add_row(
                f"{row['lr0']:.2g}",
                f"{100 * row['accuracy_published']:.1f} ± {100 * row['accuracy_published_std']:.1f}",
                f"{100 * row['accuracy']:.1f} ± {100 * row['accuracy_std']:.1f}",
                f"{row['accuracy_difference_in_std']:+.1f}",
                f"{row['loss_published']:.2f} ± {row['loss_published_std']:.2f}",
                f"{row['loss']:.2f} ± {row['loss_std']:.2f}",
                f"{row['loss_difference_in_std']:+.1f}",
            )
        console.print(table)
        best = {key: max(mine, key=lambda row, key=key: row[key]) for key in ("accuracy_published", "accuracy")}
        facts[name] = {
            "peak_lr0_published": best["accuracy_published"]["lr0"],
            "peak_lr0": best["accuracy"]["lr0"],
            "peak_published": best["accuracy_published"]["accuracy_published"],
            "peak": best["accuracy"]["accuracy"],
            "mean_published": round(float(np.mean([row["accuracy_published"] for row in mine])), 4),
            "mean": round(float(np.mean([row["accuracy"] for row in mine])), 4),
        }
    within = sum(abs(row["accuracy_difference_in_std"]) <= 1.5 for row in rows)
    facts["accuracies_within_1.5_published_std"] = f"{within} of {len(rows)}"
    console.print(f"accuracies within 1.5 published standard deviations: {within} of {len(rows)}")
    return facts


def decompose(options: Options, smoothed: lrcontrol.Results) -> list[dict[str, Any]]:
    """Return a row for each variant: best accuracy, mean over the ten rates, and how many rates reach 80 %."""
    variants = [
        (f"{name.replace('_', ' ')}, the proposal's smoothing", smoothed.of_agent(agent))
        for name, agent in TABLES.items()
    ]
    for name, agent, smoothing in DECOMPOSITION:
        variants.append((name, evaluate([agent], options, smoothing=smoothing).summary))
    rows = []
    for name, summary in variants:
        accuracy = 100.0 * np.array(summary["train_accuracy_mean"].to_pylist())
        rows.append(
            {
                "variant": name,
                "best": round(float(accuracy.max()), 1),
                "best_lr0": summary["lr0"].to_pylist()[int(accuracy.argmax())],
                "mean": round(float(accuracy.mean()), 1),
                "rates_at_80": int((accuracy >= 80.0).sum()),
                "worst": round(float(accuracy.min()), 1),
            }
        )
    return rows


def to_zero(options: Options) -> tuple[list[dict[str, Any]], Figure]:
    """Follow the hill-climber's rate to a minimum: on quadratics with and without noise, and on digits, far longer."""
    problems = [
        ("quadratic:conditioning=10,steps=2000", 2000),
        ("quadratic:conditioning=10,noise=0.3,steps=2000", 2000),
        ("digits-mlp", 5000),
    ]
    figure = Figure(figsize=(11.0, 3.4), layout="constrained")
    rows = []
    for axes, (task, steps) in zip(figure.subplots(1, 3), problems, strict=True):
        results = lrcontrol.evaluate(
            task, ["hillclimb", "hillclimb:factor=1.1"], lr0=[0.1], runs=options.runs, steps=steps
        )
        for agent in results.agents:
            mine = results.traces.filter(np.array(results.traces["agent"].to_pylist()) == agent)
            lr, loss = (mine[name].to_numpy().reshape(options.runs, steps) for name in ("lr", "loss"))
            axes.plot(np.exp(np.log(lr).mean(axis=0)), label=agent, linewidth=1.0)
            at = {share: float(np.exp(np.log(lr[:, int(share * steps) - 1]).mean())) for share in (0.1, 0.25, 0.5, 1.0)}
            rows.append(
                {
                    "task": task,
                    "agent": agent,
                    "steps": steps,
                    **{f"lr_at_{int(100 * share)}_percent": float(f"{rate:.3g}") for share, rate in at.items()},
                    "last_loss": float(f"{loss[:, -10:].mean():.3g}"),
                }
            )
        name, _, keys = task.partition(":")
        axes.set(yscale="log", xlabel="training step")
        axes.set_title(f"{name}\n{keys}", fontsize="small")
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("learning rate (geometric mean)")
    figure.axes[-1].legend(fontsize="small")
    return rows, figure


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def print_rows(rows: list[dict[str, Any]], console: Console) -> None:
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    console.print(table)


def main(options: Options) -> int:
    console = Console(width=120)
    if options.runs < 2:
        raise lrcontrol.InputError(f"runs {options.runs}: a standard deviation needs 2 at least")
    lrcontrol.make_task("mnist-mlp-raw")  # without its data there is nothing to do
    figures = options.out / "figures"
    try:
        figures.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise lrcontrol.InputError(f"cannot write to {options.out}: {error.strerror}; choose another --out") from error
    path = options.out / "report.json"
    report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"seconds": {}}
    report["runs"] = options.runs
    began = time.perf_counter()
    if {"tables", "decomposition"} & set(options.parts):
        results = evaluate(list(TABLES.values()), options)
        rows = compare(results)
        write_csv(options.out / "comparison.csv", rows)
        report["tables"] = print_comparison(rows, console)
        for column in ("loss", "lr"):
            over_steps(results, column).savefig(figures / f"{column}.png", dpi=100)
        report["seconds"]["tables"] = round(time.perf_counter() - began, 1)
    if "decomposition" in options.parts:
        rows = decompose(options, results)
        write_csv(options.out / "decomposition.csv", rows)
        print_rows(rows, console)
        report["seconds"]["with decomposition"] = round(time.perf_counter() - began, 1)
    if "to-zero" in options.parts:
        rows, figure = to_zero(options)
        write_csv(options.out / "to_zero.csv", rows)
        figure.savefig(figures / "to_zero.png", dpi=100)
        print_rows(rows, console)
    done = "all" if len(options.parts) == 3 else " and ".join(options.parts)
    report["seconds"][done] = round(time.perf_counter() - began, 1)
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    console.print(f"{report['seconds']} s; written to {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(Options, main, "python experiments/proposal/reproduce.py", None))
