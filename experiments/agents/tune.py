"""Finds the defaults of lrcontrol/algorithms.py: a small random search for each algorithm, by validation score.

    python -m experiments.agents.tune                    every algorithm
    python -m experiments.agents.tune --algos a2c sac    some
    python -m experiments.agents.tune --seed 1 --trials 4 --work results/tuning1    another search

Every trial is a training on digits-mlp; its validation runs are neither those of training nor those of evaluation.
Writes tuning.csv, a row for each trial: its parameters, its score, its time; rows of other searches stay.
"""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from experiments.trainings import run_all

HERE = Path(__file__).parent
ON_POLICY = {"timesteps": 500_000}
OFF_POLICY = {"timesteps": 120_000}
GAMMA = (0.98, 0.99, 0.997, 0.999)
RATE = (3e-4, 1e-3, 3e-3)
SPACES: dict[str, dict[str, tuple[Any, ...]]] = {
    "a2c": {
        "n_steps": (10, 20, 50),
        "learning_rate": (7e-4, 2e-3, 5e-3),
        "gamma": GAMMA,
        "ent_coef": (0.0, 0.002, 0.01),
    },
    "trpo": {"target_kl": (0.01, 0.03, 0.06), "gamma": GAMMA, "n_steps": (50, 100), "n_critic_updates": (5, 10)},
    "recurrent-ppo": {"learning_rate": RATE, "gamma": GAMMA, "n_epochs": (3, 6), "n_steps": (50, 100)},
    "dqn": {
        "learning_rate": RATE,
        "gamma": GAMMA,
        "gradient_steps": (1, 2, 4),
        "target_update_interval": (30, 100, 300),
    },
    "qrdqn": {
        "learning_rate": RATE,
        "gamma": GAMMA,
        "gradient_steps": (1, 2),
        "target_update_interval": (30, 100, 300),
    },
    "sac": {"learning_rate": RATE, "gamma": GAMMA, "ent_coef": ("'auto'", 0.003, 0.01), "max_factor": (4.0, 10.0)},
    "td3": {"learning_rate": RATE, "gamma": GAMMA, "policy_delay": (2, 4), "max_factor": (4.0, 10.0)},
    "tqc": {"learning_rate": RATE, "gamma": GAMMA, "ent_coef": ("'auto'", 0.003, 0.01), "max_factor": (4.0, 10.0)},
    "ars": {"learning_rate": (0.02, 0.05, 0.1, 0.3), "delta_std": (0.03, 0.1, 0.3), "n_top": (8, 16)},
    "ppo": {"learning_rate": RATE, "gamma": GAMMA, "n_epochs": (4, 6, 10), "ent_coef": (0.0, 0.002, 0.01)},
}


@dataclass(frozen=True)
class Options:
    """Search the parameters of algorithms."""

    algos: tuple[str, ...] = tuple(SPACES)
    """Which."""
    trials: int = 2
    """Trials for each; the first has the present defaults."""
    seed: int = 0
    """Of the search; trial i is trained with seed 100 + i."""
    work: Path = Path("results/tuning")
    """Where the trainings go; another folder for another seed."""


def draw(algo: str, trial: int, seed: int) -> dict[str, Any]:
    """Return the parameters of a trial, none for the first."""
    if trial == 0:
        return {}
    random = np.random.default_rng([seed, list(SPACES).index(algo), trial])
    return {name: values[random.integers(len(values))] for name, values in SPACES[algo].items()}


def keep_others(path: Path, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows and those of other searches that the file holds, the best of an algorithm first."""
    mine = {(row["algo"], int(row["seed"]), int(row["trial"])) for row in rows}
    if path.is_file():
        with path.open(newline="", encoding="utf-8") as file:
            before = list(csv.DictReader(file))
        rows = rows + [row for row in before if (row["algo"], int(row["seed"]), int(row["trial"])) not in mine]
    return sorted(rows, key=lambda row: (row["algo"], float(row["score"])))


def main(options: Options) -> int:
    trainings, drawn = {}, {}
    for trial in range(options.trials):
        for algo in options.algos:
            name = f"{algo}-{trial}"
            drawn[name] = draw(algo, trial, options.seed)
            budget = OFF_POLICY if algo in ("dqn", "qrdqn", "sac", "td3", "tqc") else ON_POLICY
            arguments = ["--algo", algo, "--timesteps", str(budget["timesteps"]), "--seed", str(100 + trial)]
            pairs = [f"{key}={value}" for key, value in drawn[name].items()]
            trainings[name] = [*arguments, "--evaluations", "5", *(["--set", *pairs] if pairs else [])]
    folders = run_all(trainings, options.work)
    rows = []
    for name, folder in folders.items():
        if (folder / "agent.json").is_file():
            training = json.loads((folder / "agent.json").read_text(encoding="utf-8"))["training"]
            last = list(csv.DictReader((folder / "progress.csv").open(encoding="utf-8")))[-1]
            score, seconds = training["validation"], float(last["seconds"])
            rows.append(
                {
                    "algo": name.rsplit("-", 1)[0],
                    "seed": options.seed,
                    "trial": int(name.rsplit("-", 1)[1]),
                    "score": round(score["score"], 4),
                    "mean_loss": round(score["mean_loss"], 4),
                    "worst_loss": round(score["worst_loss"], 4),
                    "timesteps": int(last["timesteps"]),
                    "seconds": seconds,
                    "parameters": json.dumps(drawn[name]),
                }
            )
    rows = keep_others(HERE / "tuning.csv", rows)
    with (HERE / "tuning.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    for row in rows:
        print(*row.values())
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
