"""Trains and compares agents: five seeds of PPO, a transfer to MNIST, and every algorithm and bandit in one table.

    python -m experiments.agents.reproduce                     everything
    python -m experiments.agents.reproduce --parts seeds       PPO on digits-mlp, five seeds
    python -m experiments.agents.reproduce --parts constants   constant rates between those of the grid
    python -m experiments.agents.reproduce --parts transfer    PPO on random-digits, run untouched on both MNISTs
    python -m experiments.agents.reproduce --parts algorithms  every algorithm at its defaults, every bandit

Trainings go into results/agents and are not done twice; interrupted ones go on. Evaluation has runs 0 to 9, which
neither training nor validation sees. Needs the extra rl, and for the transfer MNIST and Fashion-MNIST.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path

import tyro

import lrcontrol
from experiments.tables import cost, describe, write
from experiments.trainings import run_all
from lrcontrol.algorithms import ALGORITHMS
from lrcontrol.envs import DEFAULT_FEATURES
from lrcontrol.figures import final_loss

HERE = Path(__file__).parent
STARTS = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0]
RUNS = 10
BANDITS = [f"bandit:policy={policy}" for policy in ("ducb", "swucb", "dts", "exp3s", "linucb")]
BANDITS = [text.replace(":policy=ducb", "") for text in BANDITS]
OTHERS = ["constant", "hillclimb", "hillclimb:factor=2"]
BUDGET = {
    "ppo": 3_000_000,
    "a2c": 1_000_000,
    "trpo": 1_000_000,
    "recurrent-ppo": 1_000_000,
    "ars": 1_000_000,
    "dqn": 400_000,
    "sac": 200_000,
    "td3": 200_000,
    "tqc": 120_000,
}
SEEDS = 5


@dataclass(frozen=True)
class Options:
    """Train and compare agents."""

    parts: tuple[str, ...] = ("seeds", "constants", "transfer", "algorithms")
    """What to do."""
    work: Path = Path("results/agents")
    """Where the trained agents go."""


def seeds(options: Options) -> None:
    """Train five seeds of PPO on digits-mlp: reliable, not lucky."""
    command = ["--algo", "ppo", "--task", "digits-mlp", "--timesteps", "3000000"]
    folders = run_all({f"ppo-digits-{seed}": [*command, "--seed", str(seed)] for seed in range(SEEDS)}, options.work)
    agents = [str(folder) for folder in folders.values()]
    results = lrcontrol.evaluate(agents=[*agents, "constant", "hillclimb:factor=2"], lr0=STARTS, runs=RUNS)
    rows = [describe(results, agent) for agent in results.agents]
    for row, (name, folder) in zip(rows, folders.items(), strict=False):
        row["agent"] = name
        row |= cost(folder)
    write(HERE / "seeds.csv", rows)
    final_loss(results).savefig(HERE / "seeds.png", dpi=110)


def transfer(options: Options) -> None:
    """Train PPO on random-digits alone and run it untouched on MNIST and Fashion-MNIST, 600 steps."""
    features = tuple(name for name in DEFAULT_FEATURES if name not in ("log_lr", "log_one_minus_momentum"))
    command = ["--algo", "ppo", "--task", "random-digits", "--timesteps", "4000000", "--set", f"features={features}"]
    folders = run_all({f"ppo-random-{seed}": [*command, "--seed", str(seed)] for seed in range(2)}, options.work)
    agents = [str(folder) for folder in folders.values()]
    for task in ("mnist-mlp", "fashion-mnist-mlp", "digits-mlp"):
        results = lrcontrol.evaluate(task, [*agents, "constant"], lr0=STARTS, runs=RUNS if task == "digits-mlp" else 3)
        rows = [describe(results, agent) for agent in results.agents]
        best = rows[-1]["best_start"]
        for row, (name, folder) in zip(rows, folders.items(), strict=False):
            row["agent"] = name
            row |= cost(folder)
        for row in rows:
            row["worst_over_best_constant"] = float(f"{row['worst_start'] / best:.4g}")
        write(HERE / f"transfer-{task}.csv", rows)
        final_loss(results).savefig(HERE / f"transfer-{task}.png", dpi=110)


def constants(options: Options) -> None:
    """Look for the best constant rate on digits-mlp more closely than the grid of the starts does."""
    results = lrcontrol.evaluate(agents=["constant"], lr0=[0.5, 0.7, 1.0, 1.4, 2.0, 2.8], runs=RUNS)
    names = ("lr0", "train_loss_mean", "train_loss_std", "diverged")
    write(HERE / "constants.csv", [{name: row[name] for name in names} for row in results.summary.to_pylist()])


def algorithms(options: Options) -> None:
    """Train every algorithm at its defaults; compare with every bandit and with what they have to beat."""
    trainings = {
        f"{algo}-digits-0": ["--algo", algo, "--timesteps", str(BUDGET.get(algo, 300_000)), "--seed", "0"]
        for algo in ALGORITHMS
    }
    folders = run_all(trainings, options.work)
    found = {name: folder for name, folder in folders.items() if (folder / "agent.json").is_file()}
    agents = [str(folder) for folder in found.values()]
    results = lrcontrol.evaluate(agents=[*agents, *BANDITS, *OTHERS], lr0=STARTS, runs=RUNS)
    rows = [describe(results, agent) for agent in results.agents]
    for row, (name, folder) in zip(rows, found.items(), strict=False):
        row["agent"] = name
        row |= cost(folder)
    write(HERE / "algorithms.csv", sorted(rows, key=lambda row: row["mean"]))
    final_loss(results).savefig(HERE / "algorithms.png", dpi=110)


def main(options: Options) -> int:
    parts = {"seeds": seeds, "constants": constants, "transfer": transfer, "algorithms": algorithms}
    for name in options.parts:
        began = time.perf_counter()
        parts[name](options)
        print(f"{name}: {time.perf_counter() - began:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
