"""Environment steps a second of PPO, end to end: our batched environment against Stable-Baselines3's DummyVecEnv.

    python -m experiments.speed.training
    python -m experiments.speed.training --device cuda --num-envs 256 4096

digits-mlp, plain SGD, the defaults of lrcontrol.train; rounds of whole rollouts and updates, the two in turn, medians.
Says where the time goes: environment, update, and the rest of a rollout (policy, buffer). On the CPU with compiled
training steps and with torch's, where numba is installed. Writes training.csv,
or training-cuda.csv.
"""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

from experiments.speed.measure import steps, suffix_of, ways
from experiments.tables import write
from lrcontrol.algorithms import ALGORITHMS, ANNEALED
from lrcontrol.cli import run_command
from lrcontrol.envs import TrainingEnv, TrainingVectorEnv
from lrcontrol.envs.engine import pick_device
from lrcontrol.envs.sb3 import SB3VecEnv
from lrcontrol.policy_tanh import quicken
from lrcontrol.sb3_training import RolloutThreads
from lrcontrol.training import DEFAULTS, MULTIPLIERS

HERE = Path(__file__).parent
SETTINGS: dict[str, Any] = {"task": "digits-mlp", "multipliers": MULTIPLIERS} | dict(DEFAULTS)


@dataclass(frozen=True)
class Options:
    """Time PPO end to end."""

    num_envs: tuple[int, ...] = (256,)
    """Sizes of the batched environment."""
    dummies: int = 8
    """Single environments in DummyVecEnv."""
    rounds: int = 3
    """Rollouts with their updates, each timed; one more comes first and is not."""
    device: Literal["cpu", "cuda"] = "cpu"
    """cpu or cuda: of the batched environment and its networks; DummyVecEnv's are on the CPU."""
    out: Path = HERE
    """Folder for the table."""


class Timed:
    """PPO, some of its parameters changed, with a clock on its environment and on its update."""

    def __init__(self, env: Any, n_steps: int, device: str, **changed: Any) -> None:
        parameters = {name: value for name, value in ALGORITHMS["ppo"].parameters.items() if name != ANNEALED}
        parameters |= copy.deepcopy(changed)  # Stable-Baselines3 writes into policy_kwargs
        collected = n_steps * env.num_envs
        parameters |= {"n_steps": n_steps, "batch_size": min(parameters["batch_size"], collected)}
        self.seconds = {"environment": 0.0, "update": 0.0, "all": 0.0}
        self.collected = collected
        self.model = PPO("MlpPolicy", VecMonitor(env), seed=0, device=device, **parameters)
        quicken(self.model.policy)
        env.step_wait = self._clocked("environment", env.step_wait)
        self.model.train = self._clocked("update", self.model.train)  # type: ignore[method-assign]

    def _clocked(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            began = time.perf_counter()
            result = function(*arguments)
            self.seconds[name] += time.perf_counter() - began
            return result

        return run

    def round(self) -> dict[str, float]:
        """Collect one rollout and learn from it; return steps a second and the shares of the time."""
        self.seconds = dict.fromkeys(self.seconds, 0.0)
        self._clocked("all", self.model.learn)(self.collected, RolloutThreads())
        spent = self.seconds["all"]
        shares = {name: self.seconds[name] / spent for name in ("environment", "update")}
        return {"steps_per_second": self.collected / spent} | shares | {"rest": 1.0 - sum(shares.values())}


def in_turn(contenders: dict[str, Timed], rounds: int) -> dict[str, list[dict[str, float]]]:
    """Return the rounds of each contender, all of them in turn; one more comes first and does not count."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, contender in contenders.items():
            seen = contender.round()
            if number:
                found[name].append(seen)
    return found


def against(rounds: list[dict[str, float]], others: list[dict[str, float]]) -> float:
    """Return how many times as fast as others' some rounds were, the median of those next to each other."""
    ratios = [a["steps_per_second"] / b["steps_per_second"] for a, b in zip(rounds, others, strict=True)]
    return round(float(np.median(ratios)), 1)


def main(options: Options) -> int:
    device = pick_device(options.device).type
    contenders: dict[str, Timed] = {}
    for behind, compiled in ways(device).items():
        with steps(compiled):
            for rows in options.num_envs:
                env = SB3VecEnv(TrainingVectorEnv(rows, device=device, **SETTINGS))
                contenders[f"batched environment, {rows}{behind}"] = Timed(env, n_steps=200, device=device)
    for behind, compiled in ways("cpu").items():
        with steps(compiled):
            single = DummyVecEnv([lambda: TrainingEnv(device="cpu", **SETTINGS) for _ in range(options.dummies)])
        contenders[f"DummyVecEnv, {options.dummies}{behind}"] = Timed(single, n_steps=200, device="cpu")
    found = in_turn(contenders, options.rounds)
    rows = []
    for name, rounds in found.items():
        medians = {key: float(np.median([seen[key] for seen in rounds])) for key in rounds[0]}
        rates = {"steps_per_second": round(medians.pop("steps_per_second"))}
        rows.append({"contender": name, "threads": torch.get_num_threads()} | rates | _rounded(medians))
    for name, rounds in found.items():
        if name.startswith("DummyVecEnv"):
            for row, others in zip(rows, found.values(), strict=True):
                row[f"against {name}"] = against(others, rounds)
    write(options.out / f"training{suffix_of(device)}.csv", rows)
    return 0


def _rounded(shares: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in shares.items()}


if __name__ == "__main__":
    sys.exit(run_command(Options, main, "python -m experiments.speed.training", None))
