"""Ablations of the search for a line, for SGD or AdamW: one thing changed at a time, all else and the seed the same.

    python -m experiments.learned.ablations [nothing-changed without-log_level ...] [--optimizer adamw]

Each is a search of forty generations, made by ``evolve``, which goes on where it was stopped; then all of them are held
against the tuned schedules of held-out tasks, as ``validate`` does, in ablations.csv, where rows of others stay.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import tyro

import lrcontrol
from experiments.learned import evolve, validate
from lrcontrol.agents import Agent
from lrcontrol.envs.errors import unknown

HERE = Path(__file__).parent
AVERAGES = ("fast_vs_best", "loss_vs_fast", "fast_vs_slow", "fast_vs_first")
SHARED = ("fast_vs_best", "grad_cosine", "log_level", "loss_vs_fast", "fast_vs_slow")
BEGIN = {"grad_cosine": 0.5, "fast_vs_best": -1.0, "log_level": -0.5}
SAME = {"sources": ("random-synthetic", "random-images", "random-deep", "random-digits"), "population": 24}
BASES: dict[str, dict[str, Any]] = {
    "sgd": {
        "features": ("relative_peak", *SHARED, "possible_decrease", "fast_vs_first", "budget_left"),
        "begin": {"relative_peak": -1.0, "bias": -1.55} | BEGIN,
    },
    "adamw": {
        "features": ("relative_step", *SHARED, "predicted_decrease", "fast_vs_first", "budget_left"),
        "begin": {"relative_step": -1.0, "bias": -1.7} | BEGIN,
    },
}
LEARNERS = ("ppo", "recurrent-ppo")  # instead of a search; the second has a memory of 32 units

Base = dict[str, Any]


def without(*names: str) -> Callable[[Base], Base]:
    """Return what leaves features out."""
    return lambda base: {
        "features": tuple(name for name in base["features"] if name not in names),
        "begin": {name: value for name, value in base["begin"].items() if name not in names},
    }


def instead(old: str, new: str) -> Callable[[Base], Base]:
    """Return what puts one feature in another's place."""
    return lambda base: {
        "features": tuple(new if name == old else name for name in base["features"]),
        "begin": {new if name == old else name: value for name, value in base["begin"].items()},
    }


ABLATIONS: dict[str, Callable[[Base], Base]] = {
    "nothing-changed": lambda _: {},
    "without-log_level": without("log_level"),
    "without-grad_cosine": without("grad_cosine"),
    "without-averages": without(*AVERAGES),
    "without-possible_decrease": without("possible_decrease"),
    "without-predicted_decrease": without("predicted_decrease"),
    "without-budget_left": without("budget_left"),
    "peak-for-step": instead("relative_step", "relative_peak"),
    "momentum-too": lambda _: {"hyperparameters": ("lr", "momentum")},
    "begun-at-one-cycle": lambda _: {"begin": {}},
    # To first order a longer last step had been better where g · v > 0, which is the hill-climber's question.
    "begun-at-climbing": lambda _: {"begin": {"grad_cosine": 1.0}},
    "mean-loss": lambda _: {"objective": "mean"},
    "no-schedule": lambda _: {"schedule": "constant"},
    "anchored": lambda base: {"form": "anchored", "max_factor": 10.0, **without("log_level")(base), "begin": {}},
    "digits-and-synthetic": lambda _: {"sources": ("random-synthetic", "random-digits")},
    "eight-units": lambda _: {"hidden": 8, "begin": {}},
    "every-fifth-step": lambda _: {"interval": 5},
    "four-frames": lambda _: {"frames": 4},
    "random-search-0.03": lambda _: {"algorithm": "ars", "step_size": 0.03},
    "random-search-0.1": lambda _: {"algorithm": "ars", "step_size": 0.1},
    "random-search-0.3": lambda _: {"algorithm": "ars", "step_size": 0.3},
}


@dataclass(frozen=True)
class Options:
    """Search with one thing changed at a time, and hold what is found against tuned schedules."""

    names: tyro.conf.Positional[tuple[str, ...]] = ()
    """Which of them; none is all that change something for the optimizer."""

    optimizer: Literal["sgd", "adamw"] = "sgd"
    """Whose line is searched for."""

    generations: int = 40
    """Of each search."""

    workers: int = 2
    """Processes."""

    folder: Path = Path("results/learned/ablations")
    """Where the searches are."""

    out: Path = field(default=HERE / "ablations.csv")
    """Where the table goes."""


def changing(base: Base) -> list[str]:
    """Return the names of those that change something, and of the one that is not to."""
    made = {name: change(base) for name, change in ABLATIONS.items()}
    return [name for name, values in made.items() if not values or any(base.get(k) != v for k, v in values.items())]


def search(name: str, options: Options) -> str | Agent:
    """Search for one of them, or go on with it, and return what it has found: its folder, or an agent that none holds.

    Raises:
        InputError: there is no such ablation.
    """
    if name not in (*ABLATIONS, *LEARNERS):
        raise unknown("ablation", name, (*ABLATIONS, *LEARNERS))
    base, out = BASES[options.optimizer], options.folder / options.optimizer / name
    if name in LEARNERS:
        learn(name, out, base["features"], options.optimizer)
        return str(out)
    mine = {"out": out, "generations": options.generations, "workers": options.workers}
    print(name, flush=True)
    given = evolve.Options(optimizers=(options.optimizer,), **{**SAME, **base, **mine, **ABLATIONS[name](base)})
    evolve.main(given)
    return evolve.remembering(given) if given.frames > 1 else str(out)


def learn(algo: str, out: Path, features: tuple[str, ...], optimizer: str) -> None:
    """Let an algorithm train a network on the same features and tasks, paid for each fall of the log loss."""
    given: dict[str, Any] = {"base_schedule": "one-cycle", "start": (0.3, 0.3), "momentum": 0.9, "features": features}
    given |= {"reward": "log-loss-change", "optimizer": optimizer, "action": "box"}
    lrcontrol.train(
        SAME["sources"], algo, out=out, timesteps=1_000_000, num_envs=256, groups=32, evaluations=10, **given
    )


def main(options: Options) -> int:
    """Search, then validate: seven minutes each on two cores, and one more each."""
    names = options.names or (*changing(BASES[options.optimizer]), *LEARNERS)
    found = {name: search(name, options) for name in names}
    shipped = "learned:momentum=false"
    given = validate.Options((), optimizers=(options.optimizer,), out=options.out)
    validate.hold({shipped: shipped, **found}, given)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Options)))
