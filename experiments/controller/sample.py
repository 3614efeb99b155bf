"""How far what a controller measures on a sample is from what it would measure on all parameters.

    python -m experiments.controller.sample

The models of a million parameters of overhead.py, the perceptron on MNIST, the convolutions on Fashion-MNIST: two runs
of 24 steps, the first two of which do not count. Writes sample.csv beside this file: means of the absolute logarithm of
squares on the sample over those on all parameters, and of how far the gradient's cosines with memory and update are
off. A minute on one core.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from torch import Tensor

from experiments.controller.overhead import MODELS
from experiments.tables import rounded, write
from lrcontrol.controller_measures import MEASURES, Measurer, Measures
from lrcontrol.controller_rates import Rates
from lrcontrol.envs import make_task

HERE = Path(__file__).parent
OPTIMIZERS = {
    "sgd": lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9, dampening=0.9),
    "adamw": lambda params: torch.optim.AdamW(params, lr=1e-3),
}
SAMPLES = (10_000, 20_000, 60_000)
SQUARES = ("grad_sq", "memory_sq", "update_sq", "param_sq")
SETTLED = 2  # steps until there is a memory


def minibatches(model: str, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield inputs and classes, as the model takes them."""
    inputs, targets = make_task("mnist-mlp" if model == "1M" else "fashion-mnist-mlp").train
    order = np.random.default_rng(seed)
    while True:
        rows = torch.from_numpy(order.integers(len(inputs), size=256 if model == "1M" else 32))
        images = inputs[rows].float()
        if model != "1M":
            images = F.pad(images.view(-1, 1, 28, 28), (2, 2, 2, 2)).expand(-1, 3, -1, -1).contiguous()
        yield images, targets[rows].long()


def deviations(found: Measures, whole: Measures) -> dict[str, float]:
    """Return what is off, by name."""
    off = {name: abs(math.log(found[name] / whole[name])) for name in SQUARES}
    for other in ("memory", "update"):
        cosines = [m[f"grad_dot_{other}"] / math.sqrt(m["grad_sq"] * m[f"{other}_sq"]) for m in (found, whole)]
        off[f"cosine_{other}"] = abs(cosines[0] - cosines[1])
    return off


def run(model: str, optimizer: str, seed: int, steps: int) -> dict[int, list[dict[str, float]]]:
    """Return by size of the sample what is off at each step."""
    torch.manual_seed(seed)
    net, data = MODELS[model]()[0], minibatches(model, seed)
    its = OPTIMIZERS[optimizer](net.parameters())
    measurers = {size: Measurer(Rates(its), False, size) for size in (*SAMPLES, None)}
    off: dict[int, list[dict[str, float]]] = {size: [] for size in SAMPLES}
    for step in range(steps):
        inputs, targets = next(data)
        its.zero_grad()
        F.cross_entropy(net(inputs), targets).backward()
        (whole,) = measurers[None].measure(MEASURES)
        for size in SAMPLES if step >= SETTLED else ():
            (found,) = measurers[size].measure(MEASURES)
            off[size].append(deviations(found, whole))
        its.step()
    return off


def main(runs: int = 2, steps: int = 24, out: Path = HERE / "sample.csv") -> None:
    """Measure the samples of both models with both optimizers.

    Args:
        runs: for each.
        steps: of a run.
        out: the table.
    """
    rows: list[dict[str, Any]] = []
    for model in ("1M", "1M CNN"):
        for optimizer in OPTIMIZERS:
            found = [run(model, optimizer, seed, steps) for seed in range(runs)]
            for size in SAMPLES:
                off = [entry for its in found for entry in its[size]]
                means = {name: float(np.mean([entry[name] for entry in off])) for name in off[0]}
                rows.append(rounded({"model": model, "optimizer": optimizer, "sample": size, **means}))
    write(out, rows)


if __name__ == "__main__":
    tyro.cli(main)
