"""A training script with a hopeless learning rate, and the same script with a controller: what is left of the loss.

    python experiments/controller/newcomer.py [--steps 300] [--runs 3]

Digits of scikit-learn, 64-32-10 ReLU, minibatches of 64. The well-tuned constant is the best of half-decades from 1e-6
to 10. Writes newcomer.csv beside this file; the last column is the final loss over that of the constant.
"""

import argparse
import csv
import statistics
from pathlib import Path

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

from lrcontrol.controller import LRController

HERE = Path(__file__).parent
digits = load_digits()
X, Y = torch.tensor(digits.data / 16.0, dtype=torch.float32), torch.tensor(digits.target)
OPTIMIZERS = {
    "sgd": lambda params, lr: torch.optim.SGD(params, lr=lr, momentum=0.9, dampening=0.9),
    "adamw": lambda params, lr: torch.optim.AdamW(params, lr=lr),
}
AGENTS = {
    "hillclimb:factor=2": {},
    "hillclimb:factor=1.2": {},
    "hillclimb:factor=2, rollback": {"rollback": True},
    "bandit": {},
    "bandit:highest=0.1": {},
}


def train(optimizer, lr, steps, seed, agent=None):
    """Return the loss over all digits after training; infinite where it is no number."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    opt = OPTIMIZERS[optimizer](model.parameters(), lr)
    controller = agent and LRController(opt, agent.split(", ")[0], **AGENTS[agent])
    for _ in range(steps):
        rows = torch.randint(len(X), (64,))
        loss = F.cross_entropy(model(X[rows]), Y[rows])
        opt.zero_grad()
        loss.backward()
        if controller:
            controller.step(loss, closure=lambda rows=rows: F.cross_entropy(model(X[rows]), Y[rows]))
        opt.step()
    with torch.no_grad():
        final = F.cross_entropy(model(X), Y).item()
    return final if final < 1e9 else float("inf")


def mean(optimizer, lr, options, agent=None):
    return statistics.mean(train(optimizer, lr, options.steps, seed, agent) for seed in range(options.runs))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for optimizer in OPTIMIZERS:
        grid = {10.0 ** (half / 2.0): 0.0 for half in range(-12, 3)}
        tuned, best = min((mean(optimizer, lr, options), lr) for lr in grid)
        rows.append([optimizer, "constant", f"{best:g}", f"{tuned:.5f}", "1.00"])
        print(*rows[-1], sep="\t", flush=True)
        for agent in (None, *AGENTS):
            for lr in (1e-6, 10.0):
                loss = mean(optimizer, lr, options, agent)
                rows.append([optimizer, agent or "constant", f"{lr:g}", f"{loss:.5f}", f"{loss / tuned:.2f}"])
                print(*rows[-1], sep="\t", flush=True)
    with (HERE / "newcomer.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["optimizer", "agent", "lr0", "loss", "ratio"], *rows])


if __name__ == "__main__":
    main()
