"""What PPO gains in speed, and loses in learning, with fewer epochs, smaller networks and shared minibatches.

    python -m experiments.speed.epochs                      everything: three hours on two cores
    python -m experiments.speed.epochs --parts speed        steps a second alone, two minutes
    python -m experiments.speed.epochs --parts learning     three seeds of each variant on digits-mlp
    python -m experiments.speed.epochs --parts unseen       eight seeds of two on random-digits, run on other tasks

256 environments, plain SGD; all but what a variant names is the default of lrcontrol.train, which is the first variant.
Trained into results/epochs and not done twice, then evaluated from the starts of experiments/agents. Writes
epochs_speed.csv, epochs.csv and epochs_unseen.csv.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import DummyVecEnv

import lrcontrol
from experiments.agents.reproduce import RUNS, STARTS
from experiments.speed.measure import steps, ways
from experiments.speed.training import SETTINGS, Timed, against, in_turn
from experiments.tables import describe, write
from experiments.trainings import run_all
from lrcontrol.cli import run_command
from lrcontrol.envs import DEFAULT_FEATURES, TrainingEnv, TrainingVectorEnv
from lrcontrol.envs.sb3 import SB3VecEnv

HERE = Path(__file__).parent
SMALL = {"policy_kwargs": {"net_arch": [32, 32]}}
SIX: dict[str, Any] = {"n_epochs": 6, "batch_size": 6400, "learning_rate": 1e-3}
FAST: dict[str, Any] = {"n_epochs": 2, "batch_size": 2048, "learning_rate": 1.5e-3}
VARIANTS: dict[str, dict[str, Any]] = {
    "6 epochs of 6,400": SIX,
    "3 epochs of 6,400": SIX | {"n_epochs": 3},
    "3 epochs of 3,200": SIX | {"n_epochs": 3, "batch_size": 3200},
    "2 epochs of 2,048": SIX | {"n_epochs": 2, "batch_size": 2048},
    "2 epochs of 2,048, rate 0.0015": FAST,
    "4 epochs of 6,400, networks of 32": SIX | {"n_epochs": 4} | SMALL,
    "3 epochs of 6,400, networks of 32": SIX | {"n_epochs": 3} | SMALL,
    "6 epochs of 6,400, 32 streams": SIX | {"streams": 32},
    "2 epochs of 2,048, rate 0.0015, 32 streams": FAST | {"streams": 32},
    "2 epochs of 2,048, rate 0.0015, 8 streams": FAST | {"streams": 8},
}
COMPARED = ("6 epochs of 6,400", "2 epochs of 2,048, rate 0.0015, 32 streams")
SEEDS, UNSEEN_SEEDS = 3, 8


@dataclass(frozen=True)
class Options:
    """Compare PPO's epochs."""

    parts: tuple[str, ...] = ("speed", "learning", "unseen")
    """What to do."""
    rounds: int = 5
    """Rollouts with their updates, each timed; one more comes first and is not."""
    work: Path = Path("results/epochs")
    """Where the trained agents go."""
    out: Path = HERE
    """Folder for the tables."""


def speed(options: Options) -> None:
    """Time rollouts with their updates, all variants in turn."""
    made: dict[str, Timed] = {}
    for name, given in VARIANTS.items():
        changed = {key: value for key, value in given.items() if key != "streams"}
        env = TrainingVectorEnv(256, streams=given.get("streams"), device="cpu", **SETTINGS)
        made[name] = Timed(SB3VecEnv(env), 200, "cpu", **changed)
    for behind, compiled in ways("cpu").items():
        with steps(compiled):
            single = DummyVecEnv([lambda: TrainingEnv(device="cpu", **SETTINGS) for _ in range(8)])
        made[f"DummyVecEnv, 8{behind}"] = Timed(single, 200, "cpu")
    found = in_turn(made, options.rounds)
    rows = [
        {
            "variant": name,
            "steps_per_second": round(float(np.median([seen["steps_per_second"] for seen in rounds]))),
            **{f"against {other}": against(rounds, found[other]) for other in found if other.startswith("Dummy")},
            "update": round(float(np.median([seen["update"] for seen in rounds])), 3),
        }
        for name, rounds in found.items()
    ]
    write(options.out / "epochs_speed.csv", rows)


def _words(variant: dict[str, Any], seed: int) -> list[str]:
    """Return the arguments of lrcontrol.train that make a variant; more settings may follow."""
    shared = ["--streams", str(variant["streams"])] if "streams" in variant else []
    extra = [f"{key}={value!r}" for key, value in variant.items() if key != "streams"]
    return [*shared, "--seed", str(seed), "--set", *extra]


def learning(options: Options) -> None:
    """Train every variant and write the final losses of its agents."""
    trainings: dict[str, list[str]] = {}
    owners: dict[str, str] = {}
    for number, (name, changed) in enumerate(VARIANTS.items()):
        for seed in range(SEEDS):
            trainings[f"{number}-{seed}"], owners[f"{number}-{seed}"] = _words(changed, seed), name
    folders = run_all(trainings, options.work)
    agents = [str(folder) for folder in folders.values()]
    results = lrcontrol.evaluate(agents=[*agents, "constant"], lr0=STARTS, runs=RUNS)
    rows = []
    for folder, agent in zip(folders, results.agents, strict=False):
        seen = describe(results, agent)
        kept = {key: seen[key] for key in ("mean", "worst_start", "worst_run", "diverged")}
        rows.append({"variant": owners[folder], "seed": folder[-1]} | kept)
    write(options.out / "epochs.csv", rows)
    for name in VARIANTS:
        means = [row["mean"] for row in rows if row["variant"] == name]
        print(f"{name}: geometric mean {np.exp(np.mean(np.log(means))):.4f}")


def unseen(options: Options) -> None:
    """Train two variants on random-digits, and run them on digits and both MNISTs."""
    features = tuple(name for name in DEFAULT_FEATURES if name not in ("log_lr", "log_one_minus_momentum"))
    words = ["--task", "random-digits", "--timesteps", "4000000"]
    trainings = {
        f"random-{number}-{seed}": [*words, *_words(VARIANTS[name], seed), f"features={features}"]
        for seed in range(UNSEEN_SEEDS)
        for number, name in enumerate(COMPARED)
    }
    folders = run_all(trainings, options.work)
    agents, rows = [str(folder) for folder in folders.values()], []
    for task in ("digits-mlp", "mnist-mlp", "fashion-mnist-mlp"):
        results = lrcontrol.evaluate(task, agents, lr0=STARTS, runs=RUNS if task == "digits-mlp" else 3)
        for folder, agent in zip(folders, results.agents, strict=True):
            means = results.by_start(agent).mean(axis=1)
            row = {"task": task, "variant": COMPARED[int(folder[-3])], "seed": folder[-1]}
            rows.append(row | {"mean": f"{means.mean():.4g}", "worst_start": f"{means.max():.4g}"})
    write(options.out / "epochs_unseen.csv", rows)


def main(options: Options) -> int:
    known = {"speed": speed, "learning": learning, "unseen": unseen}
    for part in options.parts:
        known[part](options)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(Options, main, "python -m experiments.speed.epochs", None))
