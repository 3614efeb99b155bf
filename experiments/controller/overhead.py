"""What a controller adds to a training step: one loop with and without it, in one run.

    python experiments/controller/overhead.py [--steps 60] [--threads 1]

Writes overhead.csv beside this file, where rows of other models, optimizers and agents stay. Five minutes on one core.
It is one model in one place of memory, and of each two steps one, which is drawn, has the controller. What that takes
more than the other is a median over groups of ten pairs, so that decisions every ten steps count in full. What the
controller's own step takes is timed as well (``inside``): noise touches that less, but it leaves out what the rest of
the step loses, or gains, by finding other things in the caches.
"""

import argparse
import csv
import random
import statistics
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from lrcontrol.agents import TrainedAgent
from lrcontrol.agents.network import Network
from lrcontrol.controller import LRController
from lrcontrol.envs import DEFAULT_FEATURES, Schedule
from lrcontrol.envs.models import mlp
from lrcontrol.envs.text import GPT


def perceptron(*sizes):
    """Return a model of so many units, a minibatch of 256 inputs, and their classes."""
    return mlp(*sizes, activation="relu"), torch.randn(256, sizes[0]), torch.randint(10, (256,))


def convolutional():
    """Return four convolutions with 0.96 M parameters, 64 images of 32 × 32 pixels, and their classes."""
    channels = ((3, 64), (64, 128), (128, 256), (256, 256))
    layers = [part for a, b in channels for part in (nn.Conv2d(a, b, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))]
    model = nn.Sequential(*layers[:-1], nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 10))
    return model, torch.randn(64, 3, 32, 32), torch.randint(10, (64,))


def transformer():
    """Return four blocks with 1.03 M parameters, and 32 × 64 characters with those that follow."""
    model = GPT(tokens=65, context=64, width=144, heads=4, blocks=4)
    return model, torch.randint(65, (32, 64)), torch.randint(65, (32, 64))


MODELS = {
    "1.5k": lambda: perceptron(64, 20, 10),
    "1M": lambda: perceptron(784, 690, 690, 10),
    "1M CNN": convolutional,
    "1M GPT": transformer,
    "10M": lambda: perceptron(784, 2800, 2750, 10),
}
OPTIMIZERS = {
    "sgd": lambda params: torch.optim.SGD(params, lr=1e-5, momentum=0.9, dampening=0.9),
    "adamw": lambda params: torch.optim.AdamW(params, lr=1e-5),
    "rmsprop": lambda params: torch.optim.RMSprop(params, lr=1e-5),
    "nadam": lambda params: torch.optim.NAdam(params, lr=1e-5),
    "adafactor": lambda params: torch.optim.Adafactor(params, lr=1e-5),
}
HERE = Path(__file__).parent


def trained(interval):
    """Return an agent of the size that training makes: two layers of 64 over all the features."""
    rng = np.random.default_rng(0)
    sizes = (len(DEFAULT_FEATURES), 64, 64, 1)
    tensors = {f"layers.{i}.weight": 0.01 * rng.normal(size=(sizes[i + 1], sizes[i])) for i in range(3)}
    network = Network({k: v.astype(np.float32) for k, v in tensors.items()}, "tanh", "clip", (1,))
    needs = {"hyperparameters": ("lr",), "multipliers": None, "max_factor": 1.0001, "form": "recursive"}
    needs |= {"base_schedule": Schedule(), "interval": interval, "features": DEFAULT_FEATURES}
    return TrainedAgent(f"trained, interval {interval}", needs, network, "none", {})


AGENTS = {
    "learned": lambda: "learned",
    "trained, interval 1": lambda: trained(1),
    "trained, interval 10": lambda: trained(10),
    "trained, sampled": lambda: trained(1),
    "bandit": lambda: "bandit:highest=1e-6",
    "hillclimb": lambda: "hillclimb",
    "hillclimb:every=10": lambda: "hillclimb:every=10",
}


class Loop:
    """One model in training, with a controller and without.

    Attributes:
        inside: seconds that the controller's step took, for each step with it.
    """

    def __init__(self, model, optimizer, agent):
        self.inside = []
        torch.manual_seed(0)
        self.model, self.x, self.y = MODELS[model]()
        self.optimizer = OPTIMIZERS[optimizer](self.model.parameters())
        limits = {"max_lr": 1e-5}  # the data are noise, and a run that diverges decides nothing
        limits |= {} if "sample" in agent or agent == "learned" else {"sample": None}
        self.controller = LRController(self.optimizer, AGENTS[agent](), total_steps=10**6, **limits)

    def loss(self):
        """Return the loss on the minibatch."""
        return F.cross_entropy(self.model(self.x).flatten(0, -2), self.y.flatten())

    def seconds(self, controlled):
        """Return the duration of one training step, with the controller or without."""
        begin = time.perf_counter()
        self.optimizer.zero_grad()
        loss = self.loss()
        loss.backward()
        if controlled:
            before = time.perf_counter()
            self.controller.step(loss, closure=self.loss)
            self.inside.append(time.perf_counter() - before)
        self.optimizer.step()
        return time.perf_counter() - begin


def grouped(times):
    """Return the median of the means of ten steps each."""
    return statistics.median(statistics.mean(times[i : i + 10]) for i in range(0, len(times), 10))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--optimizers", nargs="+", default=["sgd", "adamw"])
    parser.add_argument("--agents", nargs="+", default=list(AGENTS))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    for model in options.models:
        for optimizer in options.optimizers:
            for agent in options.agents:
                loop, order = Loop(model, optimizer, agent), random.Random(0)
                pairs = []
                for _ in range(options.steps + 5):
                    first = order.random() < 0.5
                    taken = {controlled: loop.seconds(controlled) for controlled in (first, not first)}
                    pairs.append((taken[False], taken[True]))
                pairs = pairs[5:]
                without, added = grouped([pair[0] for pair in pairs]), grouped([b - a for a, b in pairs])
                inside = grouped(loop.inside[5:])
                row = [model, optimizer, agent, options.threads, len(loop.x)]
                row += [f"{1e3 * value:.3f}" for value in (without, added, inside)]
                rows.append([*row, *(f"{value / without:.4f}" for value in (added, inside))])
                print(*rows[-1], sep="\t", flush=True)
    new = {tuple(row[:3]) for row in rows}
    write([row for row in read() if tuple(row[:3]) not in new] + rows)


def read():
    """Return the rows of overhead.csv as it is, without its head."""
    with (HERE / "overhead.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))[1:]


def write(rows):
    """Write overhead.csv, small models first."""
    names = [
        "model",
        "optimizer",
        "agent",
        "threads",
        "batch",
        "step_ms",
        "added_ms",
        "inside_ms",
        "share",
        "inside_share",
    ]
    with (HERE / "overhead.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([names, *sorted(rows, key=lambda row: list(MODELS).index(row[0]))])


if __name__ == "__main__":
    main()
