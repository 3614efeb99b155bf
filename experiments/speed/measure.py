"""Training steps a second: the environments against a plain torch loop, against other ways, and against the machine.

    python -m experiments.speed.measure                 the whole table, on the CPU
    python -m experiments.speed.measure --device cuda   on a GPU
    python -m experiments.speed.measure --cases digits-mlp --replicas 1 256

One process, one sitting: every contender of a case is timed in turn, round after round, and the medians are kept, so
that whatever else the machine does falls on all alike. Environments come twice where numba is installed, with compiled
steps and with torch's. The unit is a training step of one replica: forward, backward,
optimizer, and in the environments observation and reward as well. Writes speed.csv, speed.json and speed.png, on a GPU
speed-cuda.csv and so on.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from gymnasium.vector import SyncVectorEnv
from matplotlib.figure import Figure
from torch import nn

import lrcontrol
from experiments.tables import write
from lrcontrol.cli import run_command
from lrcontrol.envs import Task, TrainingEnv, TrainingVectorEnv, mlp
from lrcontrol.envs.compiled import VARIABLE, is_wanted
from lrcontrol.envs.engine import pick_device
from lrcontrol.envs.seeding import build_module

HERE = Path(__file__).parent
LR = 1e-3
MULTIPLIERS = (0.5, 1.0, 2.0)


def peer() -> Task:
    """Return the task of the nearest peer's environment: 784-64-10 on MNIST, minibatches of 32."""
    task = lrcontrol.make_task("mnist-mlp")
    return Task(name="784-64-10", model=lambda: mlp(784, 64, 10), train=task.train, batch_size=32, steps=600)


CASES: dict[str, tuple[str, Callable[[], Task]]] = {
    "digits-mlp": ("sgd", lambda: lrcontrol.make_task("digits-mlp")),
    "mnist-mlp": ("sgd", lambda: lrcontrol.make_task("mnist-mlp")),
    "784-64-10": ("adamw", peer),
    "mnist-cnn": ("sgd", lambda: lrcontrol.make_task("mnist-cnn")),
}
MOST_OWN = 1024  # replicas with minibatches of their own: drawing their orders is the CPU's work
MOST_CONVOLVED = {"cpu": 64, "cuda": 1024}  # replicas of the convolutional network


@dataclass(frozen=True)
class Options:
    """Measure training steps a second.

    Every contender of a case is timed in turn, round after round; medians are reported.
    """

    cases: tuple[str, ...] = tuple(CASES)
    """Which tasks."""
    replicas: tuple[int, ...] = (1, 16, 64, 256, 1024)
    """Sizes of the vector environment."""
    rounds: int = 5
    """Repetitions."""
    seconds: float = 0.6
    """Length of one timing, about."""
    device: Literal["cpu", "cuda"] = "cpu"
    """cpu or cuda."""
    out: Path = HERE
    """Folder for table and figure."""


class Plain:
    """The loop everybody writes: one module, one torch optimizer, tensors in memory, minibatches by index."""

    def __init__(self, task: Task, optimizer: str, device: str) -> None:
        self.inputs, self.targets = (part.to(device) for part in task.train)
        self.module, self.loss, self.batch = build_module(task.model, 0).to(device), task.loss, task.batch_size
        kinds = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}
        self.optimizer = kinds[optimizer](self.module.parameters(), lr=LR)
        self.order = torch.randperm(len(self.inputs)).to(device)
        self.at = 0

    def step(self) -> int:
        """Take a step and return how many training steps that was."""
        if self.at + self.batch > len(self.order):
            self.order, self.at = torch.randperm(len(self.order)).to(self.order.device), 0
        rows = self.order[self.at : self.at + self.batch]
        self.at += self.batch
        self.optimizer.zero_grad()
        loss = self.loss(self.module(self.inputs[rows]), self.targets[rows])
        loss.backward()
        self.optimizer.step()
        loss.item()
        return 1


@contextmanager
def steps(compiled: bool) -> Iterator[None]:
    """Make environments with compiled training steps, or with torch's."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = str(int(compiled))
    try:
        yield
    finally:
        del os.environ[VARIABLE]
        if before is not None:
            os.environ[VARIABLE] = before


def ways(device: str) -> dict[str, bool]:
    """Return whether to compile steps by what is put behind a contender's name: both ways where there are two."""
    return {"": True, ", torch": False} if device == "cpu" and is_wanted() else {"": False}


class Env:
    """An environment of ours, single or vectorised, under actions that hold the rate."""

    def __init__(
        self, task: Task, optimizer: str, device: str, rows: int | None, streams: int | None, compiled: bool
    ) -> None:
        settings: dict[str, Any] = {"task": task, "optimizer": optimizer, "multipliers": MULTIPLIERS, "device": device}
        self.rows = rows or 1
        with steps(compiled):
            self.env: Any = TrainingEnv(**settings)
            if rows is not None:
                self.env = TrainingVectorEnv(rows, streams=streams, **settings)
        self.action = 1 if rows is None else np.ones(rows, dtype=int)
        self.env.reset(seed=0, options={"lr0": LR})

    def step(self) -> int:
        """Take a step of every replica; resets fall where they fall."""
        over = self.env.step(self.action)[2]
        if isinstance(over, bool) and over:
            self.env.reset(options={"lr0": LR})
        return self.rows


class Sync:
    """Gymnasium's SyncVectorEnv over single environments."""

    def __init__(self, task: Task, optimizer: str, rows: int, compiled: bool) -> None:
        make = lambda: TrainingEnv(task=task, optimizer=optimizer, multipliers=MULTIPLIERS, device="cpu")  # noqa: E731
        with steps(compiled):
            self.env, self.rows = SyncVectorEnv([make] * rows), rows
        self.env.reset(seed=0)

    def step(self) -> int:
        """Take a step of every environment."""
        self.env.step(np.ones(self.rows, dtype=int))
        return self.rows


class Subprocess:
    """Stable-Baselines3's SubprocVecEnv over single environments, one thread each."""

    def __init__(self, case: str, rows: int, compiled: bool) -> None:
        from stable_baselines3.common.vec_env import SubprocVecEnv

        self.env, self.rows = SubprocVecEnv([_Single(case, compiled)] * rows), rows
        self.env.reset()

    def step(self) -> int:
        """Take a step of every environment."""
        self.env.step(np.ones(self.rows, dtype=int))
        return self.rows

    def close(self) -> None:
        """End the processes."""
        self.env.close()


@dataclass(frozen=True)
class _Single:
    """Makes one environment in a process of its own."""

    case: str
    compiled: bool

    def __call__(self) -> TrainingEnv:
        torch.set_num_threads(1)
        optimizer, task = CASES[self.case]
        with steps(self.compiled):
            return TrainingEnv(task=task(), optimizer=optimizer, multipliers=MULTIPLIERS, device="cpu")


def flops(task: Task) -> float | None:
    """Return the multiplications and additions of one training step's matrix products, None for convolutions."""
    total, first = 0.0, True
    for part in build_module(task.model, 0).modules():
        if isinstance(part, nn.Linear):
            products = 2 if first else 3  # forward, weights' gradient, and but for the first layer the inputs'
            total += products * 2.0 * task.batch_size * part.in_features * part.out_features
            first = False
        elif isinstance(part, nn.Conv2d):
            return None
    return total


def suffix_of(device: str) -> str:
    """Return what the names of a device's tables and figures end with."""
    return "" if device == "cpu" else f"-{device}"


def gemm_rate(device: str) -> float:
    """Return the machine's rate of large float32 matrix products, in operations a second."""
    size = 2048 if device == "cpu" else 8192
    a, b = torch.randn(2, size, size, device=device)
    rates = []
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(3):
            a @ b
        if device == "cuda":
            torch.cuda.synchronize()
        rates.append(3 * 2.0 * size**3 / (time.perf_counter() - began))
    return float(np.median(rates))


def rate_of(contender: Any, seconds: float) -> float:
    """Return training steps a second over about so many seconds."""
    done, began = 0, time.perf_counter()
    while (now := time.perf_counter()) - began < seconds:
        done += contender.step()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        now = time.perf_counter()
    return done / (now - began)


def contenders(case: str, options: Options) -> dict[str, Callable[[], Any]]:
    """Return what is timed in one case, by name."""
    optimizer, make = CASES[case]
    task = make()
    found: dict[str, Callable[[], Any]] = {"plain loop": lambda: Plain(task, optimizer, options.device)}
    for behind, compiled in ways(options.device).items():
        found[f"scalar env{behind}"] = lambda c=compiled: Env(task, optimizer, options.device, None, None, c)
        for rows in options.replicas:
            streams = {"own minibatches": None, "shared minibatch": 1} if rows > 1 else {"own minibatches": None}
            for label, count in streams.items():
                most = MOST_OWN if count is None else sys.maxsize
                if rows <= min(most, MOST_CONVOLVED[options.device] if case == "mnist-cnn" else sys.maxsize):
                    found[f"vector env, {rows}, {label}{behind}"] = lambda r=rows, s=count, c=compiled: Env(
                        task, optimizer, options.device, r, s, c
                    )
        if (
            options.device == "cpu" and not behind
        ):  # sixteen more processes would need more memory than many machines have
            found["SyncVectorEnv, 16"] = lambda c=compiled: Sync(task, optimizer, 16, c)
            found["SubprocVecEnv, 16"] = lambda c=compiled: Subprocess(case, 16, c)
        if case == "mnist-cnn":
            break  # convolutions are torch's either way
    if options.device == "cuda":
        found["plain loop, CPU"] = lambda: Plain(task, optimizer, "cpu")
    return found


def measure(case: str, options: Options, rate: float) -> list[dict[str, Any]]:
    """Return a row for each contender of a case."""
    made: dict[str, Any] = {}
    for name, make in contenders(case, options).items():
        made[name] = make()
        made[name].step()
    rates: dict[str, list[float]] = {name: [] for name in made}
    for _ in range(options.rounds):
        for name, contender in made.items():
            rates[name].append(rate_of(contender, options.seconds))
    for contender in made.values():
        if hasattr(contender, "close"):
            contender.close()
    work = flops(CASES[case][1]())
    plain = np.array(rates["plain loop"])
    rows = []
    for name, values in rates.items():
        median = float(np.median(values))
        row: dict[str, Any] = {"case": case, "contender": name, "steps_per_second": round(median, 1)}
        row["against_plain_loop"] = round(float(np.median(np.array(values) / plain)), 2)
        row["share_of_gemm_limit"] = "" if work is None else round(median * work / rate, 3)
        rows.append(row)
    return rows


def draw(rows: list[dict[str, Any]], device: str) -> Figure:
    """Return steps a second against replicas, a panel for each case."""
    cases = list(dict.fromkeys(row["case"] for row in rows))
    figure = Figure(figsize=(3.6 * len(cases), 3.6), layout="constrained")
    for axes, case in zip(np.atleast_1d(figure.subplots(1, len(cases))), cases, strict=True):
        mine = {row["contender"]: row["steps_per_second"] for row in rows if row["case"] == case}
        for number, behind in enumerate(ways(device)):
            for color, label in enumerate(("own minibatches", "shared minibatch")):
                end = label + behind
                found = {
                    int(n.split(", ")[1]): v for n, v in mine.items() if n.startswith("vector") and n.endswith(end)
                }
                style = {"marker": "os"[number], "color": f"C{color}", "alpha": 1.0 - 0.5 * number}
                axes.plot(list(found), list(found.values()), label=f"vector env, {end}", **style)
        for name, style in (("plain loop", "-"), ("scalar env", "--"), ("SubprocVecEnv, 16", ":")):
            if name in mine:
                axes.axhline(mine[name], linestyle=style, color="black", linewidth=1.0, label=name)
        axes.set(title=case, xscale="log", yscale="log", xlabel="replicas")
        axes.set_ylim(min(mine.values()) / 2.0, 2.0 * max(mine.values()))
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel(f"training steps a second, {device}")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize="small")
    return figure


def main(options: Options) -> int:
    began = time.perf_counter()
    rate = gemm_rate(pick_device(options.device).type)
    rows = [row for case in options.cases for row in measure(case, options, rate)]
    suffix = suffix_of(options.device)
    write(options.out / f"speed{suffix}.csv", rows)
    draw(rows, options.device).savefig(options.out / f"speed{suffix}.png", dpi=110)
    machine = {
        "device": torch.cuda.get_device_name() if options.device == "cuda" else platform.machine(),
        "threads": torch.get_num_threads(),
        "gemm_gflops": round(rate / 1e9, 1),
        "torch": torch.__version__,
        "seconds": round(time.perf_counter() - began, 1),
    }
    (options.out / f"speed{suffix}.json").write_text(json.dumps(machine, indent=1) + "\n", encoding="utf-8")
    print(machine)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(Options, main, "python -m experiments.speed.measure", None))
