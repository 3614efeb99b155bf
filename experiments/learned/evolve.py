"""Finds a policy by evolution: CMA-ES over the weights of a small network, all candidates on the same drawn tasks.

    python -m experiments.learned.evolve --out results/learned/recursive

Every candidate of a generation trains from the same initial parameters on the same minibatches, so that they differ in
nothing but the policy; the next generation gets new tasks. Started again it goes on from the last tenth generation.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from joblib import Parallel, delayed

from lrcontrol.agents.network import Network
from lrcontrol.agents.trained import NEEDS, TrainedAgent
from lrcontrol.envs.distributions import find_tasks
from lrcontrol.envs.seeding import run_seeds
from lrcontrol.envs.settings import Settings
from lrcontrol.envs.world import World
from lrcontrol.evaluation import final_measures

FEATURES = (
    "loss_change",
    "loss_vs_fast",
    "fast_vs_slow",
    "fast_vs_best",
    "fast_vs_first",
    "grad_cosine",
    "predicted_decrease",
    "relative_step",
    "budget_left",
    "log_steps_left",
)
CLIP = 0.5  # of a log loss against the generation's median: no single task decides
PENALTY, SIGMA = 5e-4, 0.3  # on the squared weights, and the widest search: a policy of hard switches has no scale
GAIN = 1.5  # of relative_step, at most, in a policy to begin with
MOMENTA = {"sgd": (0.9, 0.9, 0.9, 0.95, 0.0), "adamw": (0.9, 0.9, 0.9, 0.95, 0.8)}  # to begin with
FIRST_SEED = 1_500_000_000


@dataclass(frozen=True)
class Shape:
    """A network of F features, ``hidden`` tanh units or none, and one output; K candidates' weights are (K, size)."""

    inputs: int
    hidden: int
    outputs: int = 1

    @property
    def size(self) -> int:
        """The number of weights."""
        if not self.hidden:
            return self.outputs * (self.inputs + 1)
        return self.hidden * (self.inputs + 1) + self.outputs * (self.hidden + 1)

    def split(self, weights: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return each layer's weight (K, out, in) and bias (K, out)."""
        layers, at = [], 0
        sizes = [self.inputs, self.hidden, self.outputs] if self.hidden else [self.inputs, self.outputs]
        for inputs, outputs in itertools.pairwise(sizes):
            weight = weights[:, at : at + inputs * outputs].reshape(-1, outputs, inputs)
            at += inputs * outputs
            layers.append((weight, weights[:, at : at + outputs]))
            at += outputs
        return layers

    def act(self, weights: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Return the actions (K, outputs) of candidates (K, size) on observations (K, F), a row each."""
        layers = self.split(weights)
        for number, (weight, bias) in enumerate(layers):
            x = np.einsum("koi,ki->ko", weight, x) + bias
            if number < len(layers) - 1:
                x = np.tanh(x)
        return np.clip(x, -1.0, 1.0)


def rollout(weights: np.ndarray, shape: Shape, scale: np.ndarray, number: int, settings: dict, collect: bool = False):
    """Return the final log losses (K,) of candidates on the task and run of a number; with ``collect`` observations."""
    torch.set_num_threads(1)
    optimizers = settings["optimizers"]
    index = number // len(optimizers)
    task = find_tasks("random-synthetic" if index % settings["digits"] else "random-digits").instance(index)
    optimizer = optimizers[number % len(optimizers)]
    random = np.random.default_rng(FIRST_SEED + number)
    momentum = float(random.choice(MOMENTA[optimizer]))
    fields = {**settings["fields"], "task": task, "optimizer": optimizer, "momentum": momentum}
    world = World(Settings.make(fields), len(weights), 1, "cpu")
    observation = world.reset([run_seeds(FIRST_SEED + number)] * len(weights), 1e-3)
    off = np.exp(random.uniform(-1.0, 1.0) * np.log(settings["spread"]))
    world.level, world.lr0, world.lr = world.level * off, world.lr0 * off, world.lr * off
    observation = world._observe()
    over, seen = False, []
    while not over:
        if collect:
            seen.append(observation)
        action = shape.act(weights, (observation - scale[0]) / scale[1])
        observation, _, over = world.step(action)
    loss = np.log(np.maximum(final_measures(world)["train_loss"], 1e-6))
    return (loss, np.concatenate(seen)) if collect else loss


def main() -> None:
    """Evolve, with a line for each tenth generation."""
    from cmaes import CMA

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--optimizers", nargs="+", default=["sgd", "adamw"])
    parser.add_argument("--form", default="recursive")
    parser.add_argument("--schedule", default="one-cycle")
    parser.add_argument("--max-factor", type=float, default=2.0)
    parser.add_argument("--start", type=float, default=0.3)
    parser.add_argument("--spread", type=float, default=3.0, help="the start is off by up to this factor")
    parser.add_argument("--features", nargs="+", default=list(FEATURES))
    parser.add_argument("--hyperparameters", nargs="+", default=["lr"])
    parser.add_argument("--hidden", type=int, default=0)
    parser.add_argument("--population", type=int, default=48)
    parser.add_argument("--tasks", type=int, default=8)
    parser.add_argument("--generations", type=int, default=100)
    parser.add_argument("--sigma", type=float, default=0.1)
    parser.add_argument("--digits", type=int, default=2, help="every so many tasks one of random-digits")
    parser.add_argument("--interval", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--init", type=Path, help="folder of a linear policy to begin with")
    options = parser.parse_args()
    fields = {
        "form": options.form,
        "base_schedule": options.schedule,
        "max_factor": options.max_factor,
        "start": (options.start, options.start),
        "features": tuple(options.features),
        "hyperparameters": tuple(options.hyperparameters),
        "interval": options.interval,
    }
    settings = {name: getattr(options, name) for name in ("optimizers", "spread", "digits")} | {"fields": fields}
    shape = Shape(len(options.features), options.hidden, len(options.hyperparameters))
    options.out.mkdir(parents=True, exist_ok=True)
    state = options.out / "state.json"
    first = 10_000_000 * options.seed
    if state.exists():
        saved = json.loads(state.read_text())
        scale, mean = np.array(saved["scale"]), np.array(saved["mean"])
        sigma, covariance, done, seconds = (
            saved["sigma"],
            np.array(saved["covariance"]),
            saved["done"],
            saved["seconds"],
        )
    else:
        plain = np.concatenate(
            [rollout(np.zeros((1, shape.size)), shape, np.array([0.0, 1.0]), first + 9_000_000 + n, settings, True)[1]
             for n in range(16)]
        )  # fmt: skip
        scale = np.stack([plain.mean(axis=0), plain.std(axis=0) + 0.1])
        mean, sigma, covariance, done, seconds = np.zeros(shape.size), options.sigma, np.eye(shape.size), 0, 0.0
        if options.hidden:
            count = shape.hidden * shape.inputs
            mean[:count] = np.random.default_rng(options.seed).normal(0.0, shape.inputs**-0.5, count)
        if options.init is not None:
            begin_with(options.init, mean, scale, shape, options.features)
    evolution = CMA(
        mean=mean, sigma=sigma, cov=covariance, population_size=options.population, seed=options.seed + 1000 * done
    )
    began = time.perf_counter() - seconds
    with Parallel(options.workers) as parallel:
        while done < options.generations:
            candidates = np.array([evolution.ask() for _ in range(options.population)])
            with_mean = np.concatenate([candidates, evolution._mean[None], np.zeros((1, shape.size))])
            numbers = [first + done * options.tasks + n for n in range(options.tasks)]
            losses = np.array(
                parallel(delayed(rollout)(with_mean, shape, scale, number, settings) for number in numbers)
            )
            relative = np.clip(losses - np.median(losses, axis=1, keepdims=True), -CLIP, CLIP)
            values = relative.mean(axis=0)[: len(candidates)] + PENALTY * np.square(candidates).sum(axis=1)
            evolution.tell([(c, float(v)) for c, v in zip(candidates, values, strict=True)])
            evolution._sigma = min(evolution._sigma, SIGMA)
            done += 1
            gain = float(np.clip(losses[:, -2] - losses[:, -1], -3, 3).mean())
            seconds = time.perf_counter() - began
            with (options.out / "progress.csv").open("a") as file:
                file.write(f"{done},{seconds:.1f},{gain:.5f},{evolution._sigma:.5f}\n")
            if done % 10 == 0 or done == options.generations:
                saved = {"scale": scale.tolist(), "mean": evolution._mean.tolist(), "sigma": evolution._sigma}
                saved |= {"covariance": evolution._C.tolist(), "done": done, "seconds": seconds}
                state.write_text(json.dumps(saved))
                save(options.out, shape, scale, evolution._mean, fields, vars(options), seconds)
                rows = np.loadtxt(options.out / "progress.csv", delimiter=",", ndmin=2)[-10:, 2]
                print(f"{done} generations, {seconds:.0f} s: {rows.mean():+.3f} against holding", flush=True)


def begin_with(folder: Path, mean: np.ndarray, scale: np.ndarray, shape: Shape, features: list[str]) -> None:
    """Let the first hidden unit be half the output of a linear policy, over the features that it shares."""
    saved = json.loads((folder / "state.json").read_text())
    names = json.loads((folder / "agent.json").read_text())["needs"]["features"]
    old = dict(zip(names, np.array(saved["mean"])[: len(names)], strict=True))
    spread = dict(zip(names, np.array(saved["scale"])[1], strict=True))
    centre = dict(zip(names, np.array(saved["scale"])[0], strict=True))
    bias = saved["mean"][len(names)]
    gain = min(1.0, GAIN / max(abs(old["relative_step"] / spread["relative_step"]), 1e-9))
    old, bias = {name: gain * value for name, value in old.items()}, gain * bias
    weights = np.array([old.get(name, 0.0) * scale[1, i] / spread.get(name, 1.0) for i, name in enumerate(features)])
    bias += sum(
        old[name] * (scale[0, i] - centre[name]) / spread[name] for i, name in enumerate(features) if name in old
    )
    at = shape.hidden * shape.inputs
    mean[: shape.inputs], mean[at], mean[at + shape.hidden] = 0.5 * weights, 0.5 * bias, 2.0


def save(
    out: Path, shape: Shape, scale: np.ndarray, mean: np.ndarray, fields: dict, options: dict, seconds: float
) -> None:
    """Write the agent of the distribution's mean, the scaling of the features folded into its first layer."""
    tensors = {}
    for number, (weight, bias) in enumerate(shape.split(mean[None])):
        weight, bias = weight[0], bias[0]
        if number == 0:
            weight = weight / scale[1]
            bias = bias - weight @ scale[0]
        tensors[f"layers.{number}.weight"] = weight.astype(np.float32)
        tensors[f"layers.{number}.bias"] = bias.astype(np.float32)
    settings = Settings.make(fields)
    needs = {name: getattr(settings, name) for name in NEEDS}
    training = {name: value if isinstance(value, int | float | list) else str(value) for name, value in options.items()}
    network = Network(tensors, "tanh", "clip", (1,) * shape.outputs)
    TrainedAgent(str(out), needs, network, "CMA-ES", training | {"seconds": round(seconds)}).save(out)


if __name__ == "__main__":
    main()
