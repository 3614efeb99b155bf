"""What comes of the proposal's setting, and what goes on inside: hidden units that no image reaches, and the rate.

python -m experiments.learned.raw

Writes raw.csv: training accuracies of ten runs of each agent from three momenta. Prints, for ten runs of each agent at
some steps, how many of the 20 units are above 0 on fewer than one in a thousand of 5,000 images, and the rate over the
first step's. Five minutes on one core.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

import lrcontrol
from experiments.tables import rounded, write
from lrcontrol.agents import make_agent
from lrcontrol.envs.seeding import run_seeds
from lrcontrol.envs.settings import Settings
from lrcontrol.envs.world import World
from lrcontrol.rollouts import settings_for

MOMENTA = (0.0, 0.5, 0.9)
RUNS, IMAGES, SHOWN = 10, 5000, (30, 50, 120, 300, 600)


def silent(world: World) -> list[int]:
    """Return how many hidden units of each run hardly any image reaches."""
    engine, images = world.engine, world.task.train[0][:IMAGES]
    views = engine.layout.views(engine.params)
    hidden = torch.einsum("rhd,nd->rnh", views["0.weight"], images) + views["0.bias"][:, None]
    return [int(count) for count in ((hidden > 0.0).float().mean(dim=1) < 1e-3).sum(dim=1)]


def accuracies() -> None:
    """Write how many runs end at 80 % or more, the mean and the worst."""
    rows = []
    for momentum in MOMENTA:
        agents = ["learned", "distilled", "learned:momentum=false"]
        found = lrcontrol.evaluate("mnist-mlp-raw", agents, lr0=[1e-4], runs=RUNS, momentum=momentum)
        for agent in found.agents:
            ends = found.by_start(agent, "train_accuracy")[0]
            row = {"momentum": momentum, "agent": agent, "runs": RUNS, "at_80_percent": int((ends >= 0.8).sum())}
            rows.append(rounded(row | {"mean": float(ends.mean()), "worst": float(ends.min())}))
    write(Path(__file__).parent / "raw.csv", rows)


def main() -> None:
    """Run them all, and two of them again to look inside."""
    accuracies()
    for name in ("learned", "learned:momentum=false"):
        agent = make_agent(name)
        world = World(settings_for(Settings.make({"task": "mnist-mlp-raw", "optimizer": "sgd"}), agent), RUNS)
        observation = world.reset([run_seeds(run) for run in range(RUNS)], 1e-4)
        state, start, over, first = None, np.ones(RUNS, dtype=bool), False, None
        for step in range(1, world.steps + 1):
            action, state = agent.predict(observation, state, start, deterministic=True)
            observation, _, over = world.step(action)
            start, first = np.zeros(RUNS, dtype=bool), world.lr if first is None else first
            if step in SHOWN:
                print(f"{name}, step {step}: silent units {silent(world)}, rate {np.round(world.lr / first).tolist()}")
        assert over


if __name__ == "__main__":
    main()
