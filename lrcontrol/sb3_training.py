"""The part of a training that Stable-Baselines3 does: model, environments, and what happens after each rollout."""

from __future__ import annotations

import copy
import datetime
import io
import json
import time
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecMonitor

from lrcontrol.agents.trained import TrainedAgent
from lrcontrol.algorithms import ANNEALED, HOLDING
from lrcontrol.envs.compiled import Threads
from lrcontrol.envs.errors import InputError
from lrcontrol.envs.gym import TrainingVectorEnv
from lrcontrol.envs.sb3 import SB3VecEnv
from lrcontrol.export import export
from lrcontrol.figures import learning_curve
from lrcontrol.policy_tanh import quicken
from lrcontrol.provenance import provenance
from lrcontrol.training import Plan, Report
from lrcontrol.training_folder import COLUMNS, STATE, Progress, TrainingFolder
from lrcontrol.validation import FIRST_SEED, Score, Validation

MODEL, VARIABLES = "model.zip", "pytorch_variables.pth"
SECONDS = 1.0  # between two rows of the learning curve, at least


def learn(
    plan: Plan,
    folder: TrainingFolder,
    done: Progress,
    timesteps: int,
    every: int,
    tensorboard: bool,
    report: Report | None,
    device: str = "cpu",
) -> None:
    """Train from where ``done`` is to ``timesteps``, with a validation and a checkpoint every so many of them."""
    env = make_vec_env(plan, device)
    model = make_model(plan, env, folder.path / "tensorboard" if tensorboard else None, device)
    overcount = plan.num_envs if plan.algorithm.overcounts else 1
    newest = folder.checkpoints.newest()
    if newest is not None:
        restore(model, newest, done.timesteps, overcount)
    seed_envs(env, plan, done.resumes)
    watch = _Watch(plan, folder, done, timesteps, every, report)
    callbacks: list[BaseCallback] = [RolloutThreads(), watch]  # validation, when a rollout has ended, with all threads
    try:
        try:
            model.learn((timesteps - done.timesteps) * overcount, callback=callbacks, reset_num_timesteps=False)
        finally:
            Threads.give_back()
    except KeyboardInterrupt:
        if hasattr(watch, "model"):  # which it is given once the environments have begun
            watch.checkpoint()
        raise
    watch.checkpoint()


def make_vec_env(plan: Plan, device: str = "cpu") -> VecMonitor:
    """Return the environments."""
    share = len(plan.variants)
    count, groups = plan.num_envs // share, max(1, plan.groups // share)
    streams = None if plan.streams is None else plan.streams // share
    env = SB3VecEnv(
        *(
            TrainingVectorEnv(count, groups=groups, streams=streams, device=device, **vars(settings))
            for settings in plan.variants
        )
    )
    return VecMonitor(env, info_keywords=("loss", "diverged"))


def seed_envs(env: VecMonitor, plan: Plan, resumes: int) -> None:
    """Give the environments seeds that no evaluation has, others each time a training is taken up.

    After the model is made: Stable-Baselines3 seeds the environments of a model with the model's own seed.
    """
    env.seed(FIRST_SEED // 2 + 1_000_000 * (plan.seed % 500) + 10_000 * (resumes % 100))


def make_model(plan: Plan, env: VecMonitor, tensorboard: Path | None, device: str = "cpu") -> BaseAlgorithm:
    """Return a fresh model of the plan's algorithm."""
    parameters = copy.deepcopy(dict(plan.parameters))  # Stable-Baselines3 writes into policy_kwargs
    if {"batch_size", "n_steps", "n_epochs"} <= set(parameters):  # minibatches of one size, whatever num_envs is
        collected = parameters["n_steps"] * plan.num_envs
        parts = max(1, round(collected / parameters["batch_size"]))
        while collected % parts:
            parts += 1
        parameters["batch_size"] = collected // parts
    if (end := parameters.pop(ANNEALED, None)) is not None:
        parameters["learning_rate"] = LinearSchedule(parameters["learning_rate"], end, 1.0)
    hold = parameters.pop(HOLDING, 0.0)
    log = None if tensorboard is None else str(tensorboard)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "You are trying to run")  # it on a GPU, where the environments are, too
            model: BaseAlgorithm = plan.algorithm.load_class()(
                plan.algorithm.policy, env, seed=plan.seed, device=device, verbose=0, tensorboard_log=log, **parameters
            )
    except (AssertionError, TypeError, ValueError) as error:
        raise InputError(f"{plan.algorithm.title} cannot be made with {parameters}: {error}") from error
    quicken(model.policy)
    if hold:
        _prefer_holding(model, plan, hold)
    export(model, plan.settings, plan.algo, {})  # what could not be saved as an agent is said before it is trained
    return model


def _prefer_holding(model: BaseAlgorithm, plan: Plan, bias: float) -> None:
    multipliers = plan.settings.multipliers or ()
    layer: Any = getattr(model.policy, "action_net", None)
    if 1.0 not in multipliers or getattr(layer, "bias", None) is None:
        raise InputError(f"{HOLDING} is for policies that choose among multipliers, 1 among them, which this is not")
    with torch.no_grad():
        layer.bias[multipliers.index(1.0) :: len(multipliers)] += bias


def restore(model: BaseAlgorithm, checkpoint: Path, timesteps: int, overcount: int = 1) -> None:
    """Put a checkpoint's weights and optimizers into a fresh model; nothing is unpickled.

    A replay buffer is not kept: it is filled anew.
    """
    path = checkpoint / "last" / MODEL
    model.set_parameters(str(path), device=model.device)
    with zipfile.ZipFile(path) as archive:
        if VARIABLES in archive.namelist():  # what is learned beside the networks: the entropy coefficient of SAC
            found = torch.load(io.BytesIO(archive.read(VARIABLES)), map_location=model.device, weights_only=True)
            for name, value in (found or {}).items():
                getattr(model, name).data = value.data
    model.num_timesteps = timesteps * overcount
    if hasattr(model, "weights"):  # ARS keeps its policy as a vector beside it
        model.weights = torch.nn.utils.parameters_to_vector(model.policy.parameters()).detach()


class RolloutThreads(BaseCallback):
    """While a rollout is collected, leaves the cores to training steps that are compiled: a policy needs one thread."""

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        env = self.training_env.unwrapped
        if isinstance(env, SB3VecEnv) and all(world.is_compiled for part in env.envs for world in part.worlds):
            Threads.set_apart()

    def _on_rollout_end(self) -> None:
        Threads.give_back()


class _Watch(BaseCallback):
    """After each rollout: a row of the learning curve; now and then a validation and a checkpoint."""

    def __init__(
        self, plan: Plan, folder: TrainingFolder, done: Progress, timesteps: int, every: int, report: Report | None
    ) -> None:
        super().__init__()
        self.plan, self.folder, self.done, self.total, self.every, self.report = (
            *(plan, folder, done, timesteps, every, report),
        )
        self.validation = Validation(plan.tasks, plan.variants, plan.seed)
        self.began, self.before = time.perf_counter(), done.seconds
        self.started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self.provenance = provenance()
        self.next = (done.timesteps // every + 1) * every
        self.logged = self.began

    @property
    def steps(self) -> int:
        """The environment steps so far."""
        return self.num_timesteps // (self.plan.num_envs if self.plan.algorithm.overcounts else 1)

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        if self.steps >= min(self.next, self.total):
            self.checkpoint()
            self.next = (self.steps // self.every + 1) * self.every
        elif time.perf_counter() - self.logged > SECONDS:
            self._log(None)

    def _log(self, score: Score | None) -> None:
        self.done.timesteps, self.logged = self.steps, time.perf_counter()
        self.done.seconds = round(self.before + time.perf_counter() - self.began, 1)
        row = self._row(score)
        self.done.rows.append(row)
        self.folder.log(row)
        if self.report is not None:
            self.report(self.steps, self.total, row)

    def _row(self, score: Score | None) -> dict[str, Any]:
        episodes: list[Mapping[str, Any]] = list(self.model.ep_info_buffer or [])
        row: dict[str, Any] = dict.fromkeys(COLUMNS, "")
        row |= {"timesteps": self.steps, "seconds": self.done.seconds, "episodes": len(episodes)}
        if episodes and "loss" in episodes[0]:
            losses = np.array([episode["loss"] for episode in episodes])
            row["return_mean"] = round(float(np.mean([episode["r"] for episode in episodes])), 4)
            row["loss_mean"] = round(float(np.exp(np.nanmean(np.log(np.maximum(losses, 1e-12))))), 5)
            row["diverged"] = int(sum(bool(episode["diverged"]) for episode in episodes))
        if score is not None:
            row |= {name: round(value, 5) for name, value in asdict(score).items()}
        return row

    def checkpoint(self) -> None:
        """Validate the present agent, write everything, and show the best and the last agent in the folder."""
        agent = export(self.model, self.plan.settings, str(self.folder.path), {})
        score = self.validation.measure(agent)
        self._log(score)
        better = score.score < self.done.best
        if better:
            self.done.best = score.score
        agent = replace(agent, training=self._training(score))
        self.folder.checkpoints.write(self.steps, lambda new: self._fill(new, agent, better))
        self.folder.publish()
        title = f"{self.plan.algo} on {self.plan.tasks.name}, {self.plan.optimizers}"
        learning_curve(self.done.rows, title).savefig(self.folder.path / "progress.png", dpi=110)

    def _training(self, score: Score) -> dict[str, Any]:
        return {
            **self.plan.config,
            "timesteps": self.steps,
            "seconds": self.done.seconds,
            "resumes": self.done.resumes,
            "device": self.model.device.type,
            "validated_on": self.validation.names,
            "validation": asdict(score),
            "started": self.started,
            **self.provenance,
        }

    def _fill(self, new: Path, agent: TrainedAgent, better: bool) -> None:
        agent.save(new / "last")
        self.model.save(new / "last" / MODEL)
        newest = self.folder.checkpoints.newest()
        source = new / "last" if better or newest is None else newest / "best"
        (new / "best").mkdir()
        for path in source.iterdir():
            (new / "best" / path.name).write_bytes(path.read_bytes())
        (new / STATE).write_text(json.dumps(asdict(self.done)) + "\n", encoding="utf-8")
