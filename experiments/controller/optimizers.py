"""What ``learned`` makes of optimizers that it was not trained with: digits, a small network, a plain loop.

    python -m experiments.controller.optimizers

Writes optimizers.csv beside this file: the mean of the final training losses, from a rate of 1e-6, over that of the
best of ten constant rates. Five minutes on one core.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.tables import rounded, write
from lrcontrol import LRController
from lrcontrol.envs.digits import digits
from lrcontrol.envs.task import Data

HERE = Path(__file__).parent
RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0)
AGENTS = ("learned", "learned:momentum=false")


class Lion(torch.optim.Optimizer):
    """Steps along the sign of its memory (Chen et al. 2023, algorithm 2); torch has none."""

    def __init__(self, params: Iterable[Tensor], lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.99)) -> None:
        super().__init__(params, {"lr": lr, "betas": betas})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """Take a step."""
        for group in self.param_groups:
            for param in group["params"]:
                memory = self.state[param].setdefault("exp_avg", torch.zeros_like(param))
                first, second = group["betas"]
                param.sub_(group["lr"] * torch.lerp(param.grad, memory, first).sign())
                memory.lerp_(param.grad, 1.0 - second)


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "SGD": torch.optim.SGD,
    "SGD, momentum 0.9, Nesterov": partial(torch.optim.SGD, momentum=0.9, nesterov=True),
    "ASGD": torch.optim.ASGD,
    "Adam": torch.optim.Adam,
    "NAdam": torch.optim.NAdam,
    "RAdam": torch.optim.RAdam,
    "Adamax": torch.optim.Adamax,
    "RMSprop": torch.optim.RMSprop,
    "RMSprop, momentum 0.9": partial(torch.optim.RMSprop, momentum=0.9),
    "Adagrad": torch.optim.Adagrad,
    "Adadelta": torch.optim.Adadelta,
    "Adafactor": torch.optim.Adafactor,
    "Muon": torch.optim.Muon,
    "Lion": Lion,
}


@dataclass(frozen=True)
class Options:
    """Hold ``learned`` against the best constant rate under many optimizers."""

    runs: int = 3
    """Runs, the same for all."""

    steps: int = 300
    """Training steps."""


def final_loss(
    make: Callable[..., torch.optim.Optimizer], agent: str, lr: float, seed: int, steps: int, data: Data
) -> float:
    """Return the loss on all of the data at the end of a run of a 64-32-10 network without biases, which Muon has not.

    Args:
        make: makes the optimizer, of parameters and ``lr``.
        agent: of the controller on it.
        lr: to begin with.
        seed: of initial parameters and minibatches.
        steps: of the run.
        data: digits (N, 64) and their labels (N,).
    """
    images, labels = data
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(64, 32, bias=False), nn.ReLU(), nn.Linear(32, 10, bias=False))
    optimizer = make(model.parameters(), lr=lr)
    controller = LRController(optimizer, agent, total_steps=steps)
    for _ in range(steps):
        rows = torch.randint(len(images), (64,))
        loss = F.cross_entropy(model(images[rows]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        controller.step(loss)
        optimizer.step()
    with torch.no_grad():
        return F.cross_entropy(model(images), labels).nan_to_num(nan=10.0).clamp(max=10.0).item()


def main(options: Options) -> int:
    """Run everything and write the table."""
    rows, (data, _) = [], digits()
    for name, make in OPTIMIZERS.items():
        runs = [(seed, options.steps, data) for seed in range(options.runs)]
        constant = {lr: np.mean([final_loss(make, "constant", lr, *run) for run in runs]) for lr in RATES}
        best = min(constant, key=lambda lr: float(constant[lr]))
        row: dict[str, Any] = {"optimizer": name, "best_constant": best, "constant": float(constant[best])}
        for agent in AGENTS:
            losses = [final_loss(make, agent, 1e-6, *run) for run in runs]
            row |= {agent: float(np.mean(losses)), f"{agent} worst": float(max(losses))}
            row[f"{agent} ratio"] = float(np.mean(losses) / constant[best])
        rows.append(rounded(row))
        print(name, row, flush=True)
    write(HERE / "optimizers.csv", rows)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Options)))
