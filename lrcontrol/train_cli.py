"""The command line of ``python -m lrcontrol.train``."""

from __future__ import annotations

import ast
import datetime
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.progress import TextColumn

from lrcontrol.checkpoints import Checkpoints
from lrcontrol.cli import default_folder, progress_bars, run_command
from lrcontrol.custom import load_task
from lrcontrol.envs.errors import InputError
from lrcontrol.envs.registry import DISTRIBUTIONS
from lrcontrol.envs.settings import Settings
from lrcontrol.training import train

HYPERPARAMETERS = {"lr": ("lr",), "lr,momentum": ("lr", "momentum")}


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Train a learning-rate controller with Stable-Baselines3.

    Every episode is a training run from a random initial rate. The agent that is best on validation runs is kept in the
    folder, ready for `python -m lrcontrol.evaluate --agents FOLDER`; the last one is in FOLDER/last. The same command
    again continues a training that was cut off, from its last checkpoint.

    Examples:
      python -m lrcontrol.train
      python -m lrcontrol.train --task random-digits --optimizer adamw --hyperparameters lr,momentum
      python -m lrcontrol.train --algo sac --timesteps 300000 --out runs/sac
    """

    algo: str = "ppo"
    """ppo, a2c, dqn, sac or td3; with the extra rl also recurrent-ppo, trpo, qrdqn, tqc or ars."""

    task: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME [NAME ...]")] = ("digits-mlp",)
    """What is trained: tasks as in lrcontrol.evaluate, or random-digits, drawn anew for each episode; several in
    turn."""

    optimizer: tuple[Literal["sgd", "adamw"], ...] = ("sgd",)
    """The optimizer whose learning rate is controlled; both, for one agent that drives either."""

    hyperparameters: Literal["lr", "lr,momentum"] = "lr"
    """What the agent moves."""

    timesteps: int = 3_000_000
    """Environment steps, summed over the environments."""

    num_envs: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Environments stepped at once. Default: the algorithm's, 256 or 64."""

    groups: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Groups of environments, each with a task of its own. Default: 1 on one task, 8 where tasks are drawn."""

    streams: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Orders of the data: environments that share one see the same minibatches, which is faster. Default: one each."""

    seed: int = 0
    """Seed of the network, of exploration and of the environments."""

    action: Annotated[Literal["discrete", "box"] | None, tyro.conf.arg(metavar="{discrete,box}")] = None
    """Kind of action. Default: what the algorithm takes, discrete if both."""

    reward: str = "fast-loss-change"
    """loss, log-loss, log-loss-change, fast-loss-change or validation-loss (see lrcontrol.envs.TrainingEnv)."""

    reward_scale: float = 2.0
    """Every reward is multiplied by it."""

    lr0_range: Annotated[tuple[float, float] | None, tyro.conf.arg(metavar="LOW HIGH")] = None
    """Initial rates, drawn log-uniformly. Default: 1e-6 30 for sgd, 1e-7 3 for adamw."""

    set: Annotated[tuple[str, ...], tyro.conf.arg(metavar="KEY=VALUE")] = field(default=())
    """Anything else: arguments of the algorithm's class (n_steps=100 gamma=0.99) or settings of the environment
    (interval=5 form=anchored)."""

    evaluations: int = 20
    """Validations over the whole training, each with a checkpoint."""

    tensorboard: bool = False
    """Write TensorBoard's files into OUT/tensorboard (needs the extra rl)."""

    device: Literal["cpu", "cuda", "auto"] = "cpu"
    """Of environments and networks; cuda is for hundreds of environments (--num-envs) or more."""

    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder for the agent. Default: runs/ and a name made of time, algorithm and task."""


OPTIONS = TrainOptions.__dataclass_fields__.keys() - {"reward", "reward_scale", "lr0_range"}  # which settings are too


def read_extras(pairs: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return (settings of the environment, arguments of the algorithm) from ``key=value`` texts.

    Raises:
        InputError: a text without ``=``, or of what has an option of its own.
    """
    settings: dict[str, Any] = {}
    parameters: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key or not text:
            raise InputError(f"cannot read {pair!r}: write --set KEY=VALUE")
        if key in OPTIONS:
            raise InputError(f"--set {key}={text}: say it by --{key.replace('_', '-')}")
        try:
            value = ast.literal_eval(text)
        except (ValueError, TypeError, SyntaxError):
            value = text
        (settings if key in Settings.__dataclass_fields__ else parameters)[key] = value
    return settings, parameters


def run_train(options: TrainOptions) -> int:
    """Run one training, with its progress; returns the exit code."""
    settings, parameters = read_extras(options.set)
    settings = {"reward": options.reward, "reward_scale": options.reward_scale} | settings
    if options.lr0_range is not None:
        settings["lr0_range"] = options.lr0_range
    tasks = [name if name in DISTRIBUTIONS else load_task(name) for name in options.task]
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    out = options.out or default_folder("runs", now, options.algo, "+".join(options.task), "+".join(options.optimizer))
    console = Console()
    signal.signal(signal.SIGTERM, _interrupt)
    with progress_bars(TextColumn("{task.fields[numbers]}")) as bars:
        bar = bars.add_task(options.algo, total=options.timesteps, numbers="")

        def progress(done: int, total: int, row: Mapping[str, Any]) -> None:
            bars.update(bar, completed=min(done, total), total=total, numbers=_numbers(row))
            if row["score"] != "":
                bars.console.print(
                    f"{done:>11,} timesteps, {row['seconds']:>6} s: return {row['return_mean']}, validation loss "
                    f"{row['mean_loss']:.4f}, at the worst start {row['worst_loss']:.4f}",
                    highlight=False,
                    soft_wrap=True,
                )

        try:
            agent = train(
                tasks,
                options.algo,
                out=out,
                optimizer=options.optimizer,
                hyperparameters=HYPERPARAMETERS[options.hyperparameters],
                timesteps=options.timesteps,
                num_envs=options.num_envs,
                groups=options.groups,
                streams=options.streams,
                seed=options.seed,
                action=options.action,
                parameters=parameters,
                evaluations=options.evaluations,
                tensorboard=options.tensorboard,
                device=options.device,
                progress=progress,
                say=lambda text: bars.console.print(text, highlight=False, soft_wrap=True),
                **settings,
            )
        except KeyboardInterrupt as error:
            kept = Checkpoints(Path(out)).newest() is not None
            what, then = ("a checkpoint", "goes on") if kept else ("no checkpoint yet", "begins anew")
            raise KeyboardInterrupt(f"interrupted: {out} holds {what}; the same command {then}") from error
    best = agent.training["validation"]
    console.print(
        f"best on validation: loss {best['mean_loss']:.4f}, at the worst start {best['worst_loss']:.4f}, after "
        f"{agent.training['timesteps']:,} timesteps; compare it with\n  python -m lrcontrol.evaluate --agents {out} "
        f"constant hillclimb:factor=2",
        soft_wrap=True,
        highlight=False,
    )
    return 0


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _numbers(row: Mapping[str, Any]) -> str:
    return f"return {row['return_mean']}, final loss {row['loss_mean']}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Train as the command line says; see ``run_command`` for the exit code."""
    return run_command(TrainOptions, run_train, "python -m lrcontrol.train", arguments)


if __name__ == "__main__":
    sys.exit(main())
