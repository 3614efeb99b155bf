"""Trains an agent of Stable-Baselines3 on the environment: the function behind ``python -m lrcontrol.train``."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lrcontrol.agents.trained import TrainedAgent
from lrcontrol.algorithms import DISCRETE, Algorithm, find_algorithm
from lrcontrol.digests import digest_of_task
from lrcontrol.envs.distributions import Fixed, Mixture, TaskDistribution, find_tasks
from lrcontrol.envs.engine import pick_device
from lrcontrol.envs.errors import InputError
from lrcontrol.envs.registry import TASKS
from lrcontrol.envs.seeding import check_seed
from lrcontrol.envs.settings import Settings
from lrcontrol.envs.spec import split_spec
from lrcontrol.envs.task import Task
from lrcontrol.training_folder import TrainingFolder

MULTIPLIERS = (0.1, 0.5, 0.8, 0.95, 1.0, 1.05, 1.25, 2.0, 4.0)
DEFAULTS: Mapping[str, Any] = {"reward": "fast-loss-change", "reward_scale": 2.0, "max_factor": 4.0}
LR0_RANGE = {"sgd": (1e-6, 30.0), "adamw": (1e-7, 3.0)}
GROUPS = 8  # tasks side by side, where they are drawn

Report = Callable[[int, int, Mapping[str, Any]], None]
"""Told after every rollout: environment steps done, steps to do in all, and the newest row of progress.csv."""


@dataclass(frozen=True)
class Plan:
    """A training, all defaults filled in."""

    algo: str
    algorithm: Algorithm
    tasks: TaskDistribution
    variants: tuple[Settings, ...]
    action: str
    num_envs: int
    groups: int
    streams: int | None
    seed: int
    parameters: Mapping[str, Any]
    given: Mapping[str, Any]

    @property
    def settings(self) -> Settings:
        """What the variants have in common; they differ in the optimizer."""
        return self.variants[0]

    @property
    def optimizers(self) -> str:
        """The names of the optimizers."""
        return "+".join(settings.optimizer for settings in self.variants)

    @property
    def config(self) -> dict[str, Any]:
        """What makes two trainings the same, as JSON takes it."""
        return {
            "task": self.tasks.name,
            "algo": self.algo,
            "optimizer": self.optimizers,
            "hyperparameters": list(self.settings.hyperparameters),
            "action": self.action,
            "num_envs": self.num_envs,
            "groups": self.groups,
            "seed": self.seed,
            "parameters": {name: _plain(value) for name, value in self.parameters.items()},
            "settings": {name: _plain(value) for name, value in self.given.items()},
            **({} if self.streams is None else {"streams": self.streams}),
            **({"contents": own} if (own := _contents(self.tasks)) else {}),
        }


def _contents(tasks: TaskDistribution) -> dict[str, str]:
    """Return a digest of each task of one's own, which its name does not tell from what it was before."""
    if isinstance(tasks, Mixture):
        return {name: digest for member in tasks.members for name, digest in _contents(member).items()}
    if not isinstance(tasks, Fixed) or split_spec(tasks.name)[0] in TASKS:
        return {}
    return {tasks.name: digest_of_task(tasks.task)}


def _plain(value: Any) -> Any:
    """Return what JSON takes and says the same in another process: numbers of numpy as numbers, code by its name."""
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, Mapping):
        return {str(name): _plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if callable(value):
        return f"{value.__module__}.{getattr(value, '__qualname__', type(value).__qualname__)}"
    return value if isinstance(value, int | float | str | None) else repr(value)


def make_plan(
    task: str | Task | TaskDistribution | Sequence[str | Task | TaskDistribution],
    algo: str,
    optimizer: str | Sequence[str],
    hyperparameters: Sequence[str],
    num_envs: int | None,
    groups: int | None,
    seed: int,
    action: str | None,
    parameters: Mapping[str, Any],
    settings: Mapping[str, Any],
    streams: int | None = None,
) -> Plan:
    """Return the plan of a training; arguments and errors are those of ``train``."""
    check_seed(seed)
    tasks = find_tasks(tuple(task) if isinstance(task, Sequence) and not isinstance(task, str) else task)
    algorithm = find_algorithm(algo)
    kind = algorithm.action_kind(tuple(hyperparameters), action)
    algorithm.check_parameters(parameters)
    optimizers = (optimizer,) if isinstance(optimizer, str) else tuple(optimizer)
    if not optimizers:
        raise InputError("no optimizer given: name at least one")
    ranges = {name: LR0_RANGE.get(name) for name in optimizers}
    own_range = {"lr0_range": ranges[optimizers[0]]} if len(optimizers) == 1 else {}
    given = {**DEFAULTS, **own_range, **algorithm.settings, **settings}
    if kind == DISCRETE:
        if given.setdefault("multipliers", MULTIPLIERS) is None:
            raise InputError("discrete actions choose among multipliers, and multipliers is None: leave it out")
    elif given.get("multipliers") is not None:
        raise InputError(f"multipliers are for discrete actions, and {algo} is to take box actions: set max_factor")
    fields = {"hyperparameters": tuple(hyperparameters), "task": tasks} | given
    count = algorithm.num_envs if num_envs is None else num_envs
    if groups is None:
        groups = 1 if isinstance(tasks, Fixed) or count % GROUPS else GROUPS
    if groups < 1:
        raise InputError(f"groups {groups} is not positive")
    if groups > 1 and groups % len(optimizers):
        raise InputError(f"{groups} groups cannot be shared by {len(optimizers)} optimizers: choose another number")
    if count % len(optimizers):
        raise InputError(f"{count} environments cannot be shared by {len(optimizers)} optimizers: choose num_envs")
    least = len(optimizers) * max(1, groups // len(optimizers))  # one for each group of each optimizer
    if streams is not None and (streams < 1 or count % streams or streams % least):
        raise InputError(f"streams {streams} is no multiple of {least} that divides the {count} environments")
    return Plan(
        algo=algo,
        algorithm=algorithm,
        tasks=tasks,
        variants=tuple(Settings.make({"optimizer": name, "lr0_range": ranges[name]} | fields) for name in optimizers),
        action=kind,
        num_envs=count,
        groups=groups,
        streams=streams,
        seed=seed,
        parameters={**algorithm.parameters, **parameters},
        given=given,
    )


def train(
    task: str | Task | TaskDistribution | Sequence[str | Task | TaskDistribution] = "digits-mlp",
    algo: str = "ppo",
    *,
    out: str | Path,
    optimizer: str | Sequence[str] = "sgd",
    hyperparameters: Sequence[str] = ("lr",),
    timesteps: int = 3_000_000,
    num_envs: int | None = None,
    groups: int | None = None,
    streams: int | None = None,
    seed: int = 0,
    action: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    evaluations: int = 20,
    tensorboard: bool = False,
    device: str = "cpu",
    progress: Report | None = None,
    say: Callable[[str], None] = lambda text: None,
    **settings: Any,
) -> TrainedAgent:
    """Train an agent and return the one that was best on validation runs; it is in ``out``, the last in ``out/last``.

    A folder that holds the same training, cut off or shorter, is continued from its last checkpoint. Every environment
    has its own initial parameters, minibatches and initial rates; validation has runs, and for distributions tasks,
    that training never sees, and ``lrcontrol.evaluate`` others again.

    Args:
        task: a task, a distribution of tasks, or several of them in turn.
        algo: a name in ``lrcontrol.algorithms.ALGORITHMS``.
        out: folder to write into.
        optimizer: ``"sgd"`` or ``"adamw"``, or both, each in an equal share of the environments.
        hyperparameters: what the agent moves, ``("lr",)`` or ``("lr", "momentum")``; with SGD the
            momentum begins at 0 unless the settings say otherwise.
        timesteps: environment steps, summed over the environments.
        num_envs: environments stepped at once; default the algorithm's.
        groups: groups of environments, each with a task of its own; default 1 on a fixed task, else 8.
        streams: orders of the data over all environments; those that share one see the same minibatches, which is
            faster. Default one for each.
        seed: of initial weights, exploration and environments, 0 or more; environments are the same again every 500.
        action: ``"discrete"`` or ``"box"``; default what the algorithm prefers.
        parameters: arguments of the algorithm's class, over its defaults here.
        evaluations: validations, each with a checkpoint, over the whole training.
        tensorboard: write TensorBoard's files into ``out/tensorboard``.
        device: of environments and networks, ``"cpu"``, ``"cuda"``, which is for hundreds of environments or more, or
            ``"auto"`` for the latter where it is.
        progress: called after every rollout.
        say: called with what a user should know, such as where a training was taken up again.
        settings: further fields of ``Settings``, such as ``reward``, ``reward_scale``, ``interval`` or ``lr0_range``.

    Raises:
        InputError: an argument that cannot be used, or a folder that holds another training.
        KeyboardInterrupt: on Ctrl-C, after a checkpoint was written.
    """
    if timesteps < 1 or evaluations < 1:
        raise InputError(f"timesteps {timesteps} and evaluations {evaluations} must be positive")
    if tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise InputError("TensorBoard is not installed: pip install 'lrcontrol[rl]', or train without --tensorboard")
    chosen = pick_device(device).type
    plan = make_plan(
        task, algo, optimizer, hyperparameters, num_envs, groups, seed, action, parameters or {}, settings, streams
    )
    folder = TrainingFolder(Path(out), plan.config)
    try:
        done = folder.take_up(say)
        if done.timesteps < timesteps:
            from lrcontrol.sb3_training import learn

            every = max(1, timesteps // evaluations)
            learn(plan, folder, done, timesteps, every, tensorboard, progress, chosen)
    finally:
        folder.close()
    return TrainedAgent.load(out)
