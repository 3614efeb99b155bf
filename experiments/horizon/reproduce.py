"""What the reward and its horizon do: PPO on digits-mlp under every reward, and under discounts from greedy to far.

    python -m experiments.horizon.reproduce

Every training has 600,000 environment steps and one seed; evaluation has runs 0 to 9. A discount γ looks about
1 / (1 − γ) steps ahead: γ = 0 is greedy, the reward of the next step alone. Trainings go into results/horizon and are
not done twice.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from matplotlib.figure import Figure

import lrcontrol
from experiments.tables import cost, write
from experiments.trainings import run_all

HERE = Path(__file__).parent
STARTS = [1e-6, 1e-4, 1e-2, 1.0, 30.0]
RUNS = 10
# Scales at which returns over 200 steps are of order 1, and for two of them the raw reward as well.
REWARDS = {
    "loss": (1.0, 0.02),
    "log-loss": (1.0, 0.05),
    "log-loss-change": (2.0,),
    "fast-loss-change": (2.0,),
    "validation-loss": (1.0,),
}
DISCOUNTS = (0.0, 0.5, 0.9, 0.99, 0.999)
SEEDS = 1


@dataclass(frozen=True)
class Options:
    """Compare rewards and discounts."""

    work: Path = Path("results/horizon")
    """Where the trained agents go."""
    timesteps: int = 600_000
    """Of each training."""


def plans(options: Options) -> dict[str, dict[str, object]]:
    """Return the trainings by name: reward, scale, discount, seed."""
    found: dict[str, dict[str, object]] = {}
    cases = [(reward, scale, 0.999) for reward, scales in REWARDS.items() for scale in scales]
    cases += [("log-loss-change", 2.0, discount) for discount in DISCOUNTS[:-1]]
    for reward, scale, discount in cases:
        for seed in range(SEEDS):
            facts = {"reward": reward, "reward_scale": scale, "gamma": discount, "seed": seed}
            found[f"{reward}-{scale:g}-{discount:g}-{seed}"] = facts
    return found


def main(options: Options) -> int:
    began = time.perf_counter()
    cases = plans(options)
    commands = {
        name: [
            *("--timesteps", str(options.timesteps), "--reward", str(facts["reward"]), "--evaluations", "5"),
            *("--reward-scale", str(facts["reward_scale"]), "--seed", str(facts["seed"])),
            *("--set", f"gamma={facts['gamma']}"),
        ]
        for name, facts in cases.items()
    }
    folders = run_all(commands, options.work)
    last = {name: str(folder / "last") for name, folder in folders.items()}  # not the best: what the reward leads to
    results = lrcontrol.evaluate(agents=[*last.values(), "constant"], lr0=STARTS, runs=RUNS)
    rows = []
    for name, facts in cases.items():
        losses = results.by_start(last[name]).mean(axis=1)
        rates = results.traces.filter(np.array(results.traces["agent"].to_pylist()) == last[name])["lr"].to_numpy()
        middle = rates.reshape(-1, 200)[:, 40:160]
        row = dict(facts) | {"mean": losses.mean(), "worst_start": losses.max(), "lr": np.exp(np.log(middle).mean())}
        rows.append({k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in row.items()} | cost(folders[name]))
    write(HERE / "horizon.csv", rows)
    draw(rows).savefig(HERE / "horizon.png", dpi=110)
    print(f"{time.perf_counter() - began:.0f} s")
    return 0


def draw(rows: list[dict[str, object]]) -> Figure:
    """Return final loss and typical learning rate against the discount, and the loss of every reward."""
    figure = Figure(figsize=(11.0, 3.4), layout="constrained")
    losses, rates, rewards = figure.subplots(1, 3)
    by_discount = [row for row in rows if row["reward"] == "log-loss-change"]
    places = [DISCOUNTS.index(float(str(row["gamma"]))) for row in by_discount]
    for axes, key, label in ((losses, "mean", "final training loss"), (rates, "lr", "learning rate, steps 40 to 160")):
        axes.plot(places, [row[key] for row in by_discount], "o")
        axes.set(xlabel="discount γ, reward log-loss-change", ylabel=label, ylim=(0.0, None))
        axes.set_xticks(range(len(DISCOUNTS)), [f"{discount:g}" for discount in DISCOUNTS])
        axes.grid(alpha=0.3)
    far = [row for row in rows if row["gamma"] == DISCOUNTS[-1]]
    names = list(dict.fromkeys(f"{row['reward']} × {row['reward_scale']:g}" for row in far))
    places = [names.index(f"{row['reward']} × {row['reward_scale']:g}") for row in far]
    rewards.plot([row["mean"] for row in far], places, "o")
    rewards.set_yticks(range(len(names)), names)
    rewards.set(xlabel="final training loss", xlim=(0.0, None), title="reward, at γ = 0.999")
    rewards.grid(alpha=0.3)
    return figure


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
