"""What the tables of the experiments have in common."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np

import lrcontrol
from lrcontrol.statistics import paired_difference


def describe(results: lrcontrol.Results, agent: str, rival: str = "constant") -> dict[str, Any]:
    """Return a row: loss by start, over all starts, and the paired difference to a rival."""
    losses, theirs = results.by_start(agent), results.by_start(rival)
    means = losses.mean(axis=1)
    row: dict[str, Any] = {"agent": agent, "mean": means.mean(), "best_start": means.min(), "worst_start": means.max()}
    row |= {"worst_over_best": means.max() / means.min(), "worst_run": losses.max()}
    diverged = [r["diverged"] for r in results.runs.to_pylist() if r["agent"] == agent]
    row["diverged"] = f"{sum(diverged)} of {len(diverged)}"
    if agent != rival:
        plain = paired_difference(theirs.mean(axis=0), losses.mean(axis=0))
        logs = paired_difference(np.log(theirs).mean(axis=0), np.log(losses).mean(axis=0))
        row |= {"gain": plain.mean, "gain_low": plain.low, "gain_high": plain.high}
        row |= {"log_gain": logs.mean, "log_gain_low": logs.low, "log_gain_high": logs.high}
    rates = sorted(set(results.summary["lr0"].to_pylist()))
    row |= {f"{rate:g}": mean for rate, mean in zip(rates, means, strict=True)}
    return rounded(row)


def rounded(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row with four digits."""
    return {key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in row.items()}


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows as csv, into a folder that is made if need be, and print them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    for row in rows:
        print(*(row.get(key, "") for key in columns), flush=True)


def write_beside(path: Path, rows: list[dict[str, Any]], keys: tuple[str, ...]) -> None:
    """Write rows to a table whose rows with other values of ``keys`` than theirs stay."""
    mine = {tuple(row[key] for key in keys) for row in rows}
    write(path, [*(row for row in read(path) if tuple(row[key] for key in keys) not in mine), *rows])


def read(path: Path) -> list[dict[str, str]]:
    """Return the rows of a csv, none where there is no file."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def cost(folder: Path) -> dict[str, Any]:
    """Return what a training took, and where its best agent was found."""
    last = read(folder / "progress.csv")[-1]
    training = json.loads((folder / "agent.json").read_text(encoding="utf-8"))["training"]
    done = {"timesteps": int(last["timesteps"]), "seconds": float(last["seconds"])}
    return done | {"best_at": training["timesteps"], "validation": round(training["validation"]["mean_loss"], 4)}
