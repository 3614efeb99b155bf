"""Finds a policy by evolution: CMA-ES over the weights of a small network, all candidates on the same drawn tasks.

    python -m experiments.learned.evolve --out results/learned/recursive

Every candidate of a generation trains from the same initial parameters on the same minibatches, so that they differ in
nothing but the policy; the next generation gets new tasks. The agent is the average of the distribution's mean over its
last five tenth generations. Started again it goes on from the last of these.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from joblib import Parallel, delayed

from experiments.learned.ars import RandomSearch
from experiments.learned.candidates import Candidates, Shape, Watched
from lrcontrol.agents.gated import add
from lrcontrol.agents.network import Network
from lrcontrol.agents.trained import TrainedAgent, needs_of
from lrcontrol.envs.distributions import find_tasks
from lrcontrol.envs.rewards import worst_loss
from lrcontrol.envs.settings import Settings
from lrcontrol.envs.task import Task
from lrcontrol.envs.text import next_token_loss
from lrcontrol.envs.values import safe_log
from lrcontrol.rollouts import final_measures, roll_out

FEATURES = (
    "loss_change",
    "loss_vs_fast",
    "fast_vs_slow",
    "fast_vs_best",
    "fast_vs_first",
    "grad_cosine",
    "predicted_decrease",
    "relative_step",
    "log_level",
    "budget_left",
)
CLIP = (-0.5, 1.5)  # of a log loss against the generation's median: no single task decides, and a blow-up counts
TYPICAL, LEAST = 0.2, 0.02  # the spread that each task's log losses are stretched to, and how small one may be before
AVERAGED = 5
PENALTY = 5e-4  # on the squared weights: a policy of hard switches has no scale
GAIN = 1.5  # of relative_step, at most, in a policy to begin with
MOMENTA = {"sgd": (0.9, 0.9, 0.9, 0.95, 0.0), "adamw": (0.9, 0.9, 0.9, 0.95, 0.8)}  # to begin with
FIRST_SEED = 1_500_000_000
ELSEWHERE = ("out", "init", "base", "workers")  # options that say nothing without the machine


def draw(index: int, optimizer: str, sources: tuple[str, ...]) -> Task:
    """Return the task of an index, of one source after the other; no transformer with SGD: nobody trains one so."""
    task = find_tasks(sources).instance(index)
    if optimizer == "adamw" or task.loss is not next_token_loss:
        return task
    return draw(index + len(sources), optimizer, sources)


def rollout(weights: np.ndarray, scale: np.ndarray, number: int, options: Options, collect: bool = False) -> Any:
    """Return the final log losses (K,) of candidates on the task and run of a number; with ``collect`` observations."""
    torch.set_num_threads(1)
    optimizer, index = options.optimizers[number % len(options.optimizers)], number // len(options.optimizers)
    task = draw(index, optimizer, options.sources)
    random = np.random.default_rng(FIRST_SEED + number)
    momentum = float(random.choice(MOMENTA[optimizer]))
    off = float(np.exp(random.uniform(-1.0, 1.0) * np.log(options.spread)))
    fields = options.fields | {"task": task, "optimizer": optimizer, "momentum": momentum}
    settings = Settings.make(fields | {"start": (off * options.start,) * 2})
    candidates = Watched(Candidates(weights, options.shape, scale, options.features, options.base))
    over_all = options.objective == "mean"
    world = roll_out(candidates, settings, [1.0] * len(weights), 1, FIRST_SEED + number, "cpu", record=over_all)
    if over_all:
        worst = worst_loss(world.history.first)
        losses = np.where(np.isfinite(world.trace["loss"]), np.minimum(world.trace["loss"], worst), worst)
        loss = safe_log(losses).mean(axis=0)
    else:
        loss = np.log(np.maximum(final_measures(world)["train_loss"], 1e-6))
    return (loss, np.concatenate(candidates.seen)) if collect else loss


@dataclass(frozen=True)
class Options:
    """Evolve a policy; with a line for each tenth generation."""

    out: Path
    """Folder of the agent and of all that is needed to go on."""

    optimizers: tuple[str, ...] = ("sgd", "adamw")
    """Which base optimizers, in turn."""

    form: str = "recursive"
    """recursive or anchored."""

    schedule: str = "one-cycle"
    """What multiplies the rate."""

    max_factor: float = 2.0
    """The largest multiplier of a decision."""

    start: float = 0.3
    """Initial rate in natural units."""

    spread: float = 3.0
    """In training the start is off by up to this factor."""

    features: tuple[str, ...] = FEATURES
    """What the policy sees."""

    hyperparameters: tuple[str, ...] = ("lr",)
    """lr, or lr momentum."""

    objective: str = "final"
    """final: the log of the final training loss; mean: the log loss of a minibatch, over all steps."""

    stretched: bool = False
    """Let every task count alike: half of a generation's log losses, the middle ones, are made to lie within 0.2."""

    hidden: int = 0
    """Hidden units; 0 is a linear policy."""

    population: int = 48
    """Candidates in a generation."""

    tasks: int = 8
    """Tasks for a generation."""

    sources: tuple[str, ...] = ("random-digits", "random-synthetic")
    """Distributions of tasks, in turn."""

    generations: int = 100
    """In all."""

    sigma: float = 0.1
    """Width of the first generation."""

    widest: float = 0.3
    """The widest search, again for want of a scale."""

    interval: int = 1
    """Training steps for a decision."""

    frames: int = 1
    """How many observations a policy sees, the last ones; one that remembers any is kept in state.json alone."""

    algorithm: Literal["cma-es", "ars"] = "cma-es"
    """How it searches: CMA-ES, or augmented random search."""

    step_size: float = 0.1
    """Of augmented random search."""

    seed: int = 0
    """Of everything."""

    workers: int = 2
    """Processes."""

    init: Path | None = None
    """Folder of a linear policy to begin with."""

    base: Path | None = None
    """Folder of an agent that sees no more than these features: the search is for what to add to its answers."""

    begin: dict[str, float] = field(default_factory=dict)
    """Weights of a linear policy to begin with, by feature, and its bias: relative_peak -1 bias -1.5; those of a second
    output, the momentum's, as momentum:relative_peak 0.2 momentum:bias -0.3."""

    @property
    def shape(self) -> Shape:
        """The policy's."""
        return Shape(self.frames * len(self.features), self.hidden, len(self.hyperparameters))

    @property
    def fields(self) -> dict[str, Any]:
        """The settings of the worlds."""
        names = ("form", "max_factor", "features", "hyperparameters", "interval")
        own = {"base_schedule": self.schedule, "start": (self.start, self.start)}
        return {name: getattr(self, name) for name in names} | own

    @property
    def first(self) -> int:
        """The number of the first task."""
        return 10_000_000 * self.seed


@dataclass
class Search:
    """Where a search is: all that goes into its file."""

    scale: list[list[float]]
    mean: list[float]
    sigma: float
    covariance: list[list[float]]
    done: int = 0
    seconds: float = 0.0
    recent: list[list[float]] = field(default_factory=list)

    @classmethod
    def begin(cls, options: Options) -> Search:
        """Return a search around holding, or around a linear policy; features are scaled as holding shows them."""
        shape, plain = options.shape, np.array([0.0, 1.0])
        numbers = [options.first + 9_000_000 + n for n in range(16)]
        seen = [rollout(np.zeros((1, shape.size)), plain, number, options, collect=True)[1] for number in numbers]
        together = np.concatenate(seen)
        scale, mean = np.stack([together.mean(axis=0), together.std(axis=0) + 0.1]), np.zeros(shape.size)
        if options.hidden:
            count = shape.hidden * shape.inputs
            mean[:count] = np.random.default_rng(options.seed).normal(0.0, shape.inputs**-0.5, count)
        for spelled, value in options.begin.items():
            if options.hidden:
                raise ValueError("begin is for a policy without hidden units")
            output, _, name = spelled.rpartition(":")
            row = options.hyperparameters.index(output or "lr")
            bias = shape.outputs * shape.inputs + row
            if name == "bias":
                mean[bias] += value
            else:
                i = options.features.index(name)
                mean[row * shape.inputs + i] += value * scale[1, i]
                mean[bias] += value * scale[0, i]
        if options.init is not None:
            begin_with(options.init, mean, scale, shape, options.features)
        return cls(scale.tolist(), mean.tolist(), options.sigma, np.eye(shape.size).tolist())


def main(options: Options) -> int:
    """Evolve to the last generation."""
    options.out.mkdir(parents=True, exist_ok=True)
    state, curve, shape = options.out / "state.json", options.out / "progress.csv", options.shape
    search = Search(**json.loads(state.read_text())) if state.exists() else Search.begin(options)
    scale, evolution = np.array(search.scale), searching(search, options)
    began, gains = time.perf_counter() - search.seconds, []
    with Parallel(options.workers) as parallel:
        while search.done < options.generations:
            candidates = np.array([evolution.ask() for _ in range(options.population)])
            all_of_them = np.concatenate([candidates, evolution._mean[None], np.zeros((1, shape.size))])
            numbers = [options.first + search.done * options.tasks + n for n in range(options.tasks)]
            losses = np.array(parallel(delayed(rollout)(all_of_them, scale, n, options) for n in numbers))
            relative = scores(losses, options.stretched).mean(axis=0)
            values = relative[: len(candidates)] + PENALTY * np.square(candidates).sum(axis=1)
            evolution.tell([(c, float(v)) for c, v in zip(candidates, values, strict=True)])
            evolution._sigma = min(evolution._sigma, options.widest)
            search.done, search.seconds = search.done + 1, time.perf_counter() - began
            gains.append(float(np.clip(losses[:, -2] - losses[:, -1], -3.0, 3.0).mean()))
            with curve.open("a", encoding="utf-8") as file:
                file.write(f"{search.done},{search.seconds:.1f},{gains[-1]:.5f},{evolution._sigma:.5f}\n")
            if search.done % 10 == 0:
                search.mean, search.sigma = evolution._mean.tolist(), evolution._sigma
                search.covariance = evolution._C.tolist()
                search.recent = [*search.recent, search.mean][-AVERAGED:]
                new = state.with_suffix(".new")
                new.write_text(json.dumps(asdict(search)))
                new.replace(state)
                save(options, search)
                gain = np.mean(gains[-10:])
                print(f"{search.done} generations, {search.seconds:.0f} s: {gain:+.3f} against holding", flush=True)
    return 0


def searching(search: Search, options: Options) -> Any:
    """Return what asks for candidates and is told what they are worth, where the search stands."""
    from cmaes import CMA

    given: dict[str, Any] = {"population_size": options.population, "seed": options.seed + 1000 * search.done}
    if options.algorithm == "ars":
        return RandomSearch(np.array(search.mean), search.sigma, step_size=options.step_size, **given)
    return CMA(np.array(search.mean), search.sigma, cov=np.array(search.covariance), **given)


def scores(losses: np.ndarray, stretched: bool) -> np.ndarray:
    """Return how far log losses (tasks, K) are from their task's median, cut, and stretched to a like spread before."""
    apart = losses - np.median(losses, axis=1, keepdims=True)
    if stretched:
        low, high = np.quantile(losses, (0.25, 0.75), axis=1)
        apart *= TYPICAL / np.maximum(high - low, LEAST)[:, None]
    return np.clip(apart, *CLIP)


def begin_with(folder: Path, mean: np.ndarray, scale: np.ndarray, shape: Shape, features: tuple[str, ...]) -> None:
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


def remembering(options: Options) -> Candidates:
    """Return the policy of the averaged means as an agent, for those that no folder holds: with more than a frame."""
    search = Search(**json.loads((options.out / "state.json").read_text()))
    needs, weights = needs_of(Settings.make(options.fields)), np.mean(search.recent, axis=0)[None]
    return Candidates(weights, options.shape, np.array(search.scale), options.features, options.base, needs)


def save(options: Options, search: Search) -> None:
    """Write the agent of the averaged means, the scaling of the features folded into its first layer."""
    if options.frames > 1:
        return
    shape, scale = options.shape, np.array(search.scale)
    tensors = {}
    for number, (weights, biases) in enumerate(shape.split(np.mean(search.recent, axis=0)[None])):
        weight, bias = weights[0], biases[0]
        if number == 0:
            weight = weight / scale[1]
            bias = bias - weight @ scale[0]
        tensors[f"layers.{number}.weight"] = weight.astype(np.float32)
        tensors[f"layers.{number}.bias"] = bias.astype(np.float32)
    needs = needs_of(Settings.make(options.fields))
    training = {name: value for name, value in asdict(options).items() if name not in ELSEWHERE}
    training |= {"generations": search.done, "seconds": round(search.seconds)}
    network = Network(tensors, "tanh", "clip", (1,) * shape.outputs)
    algorithm = options.algorithm.upper()
    if options.base is None:
        agent = TrainedAgent(options.out.name, needs, network, algorithm, training)
    else:
        base = TrainedAgent.load(options.base)
        agent = add(base, TrainedAgent(options.out.name, needs, network, algorithm, training | {"base": base.training}))
    agent.save(options.out)


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Options)))
