"""Ablations of the search for SGD's half of ``learned``: one thing changed at a time, all else and the seed the same.

    python -m experiments.learned.ablations [nothing-changed without-log_level ...]

Each is a search of forty generations, made by ``evolve``, which goes on where it was stopped; then all of them are held
against the tuned schedules of held-out tasks, as ``validate`` does, in ablations.csv, where rows of others stay.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tyro

import lrcontrol
from experiments.learned import evolve, validate
from lrcontrol.envs.errors import unknown

HERE = Path(__file__).parent
FEATURES = (
    "relative_peak",
    "fast_vs_best",
    "grad_cosine",
    "log_level",
    "loss_vs_fast",
    "fast_vs_slow",
    "possible_decrease",
    "fast_vs_first",
    "budget_left",
)
BEGIN = {"relative_peak": -1.0, "bias": -1.55, "grad_cosine": 0.5, "fast_vs_best": -1.0, "log_level": -0.5}
AVERAGES = ("fast_vs_best", "loss_vs_fast", "fast_vs_slow", "fast_vs_first")
SOURCES = ("random-synthetic", "random-images", "random-deep", "random-digits")

PPO = "ppo"
SAME = {"features": FEATURES, "begin": BEGIN, "sources": SOURCES, "optimizers": ("sgd",), "population": 24}


def without(*names: str) -> dict[str, Any]:
    """Return what leaves features out."""
    begin = {name: value for name, value in BEGIN.items() if name not in names}
    return {"features": tuple(name for name in FEATURES if name not in names), "begin": begin}


ABLATIONS: dict[str, dict[str, Any]] = {
    "nothing-changed": {},
    "without-log_level": without("log_level"),
    "without-grad_cosine": without("grad_cosine"),
    "without-averages": without(*AVERAGES),
    "momentum-too": {"hyperparameters": ("lr", "momentum")},
    "begun-at-one-cycle": {"begin": {}},
    "mean-loss": {"objective": "mean"},
    "no-schedule": {"schedule": "constant"},
    "anchored": {"form": "anchored", "max_factor": 10.0, **without("log_level"), "begin": {}},
    "digits-and-synthetic": {"sources": ("random-synthetic", "random-digits")},
    "eight-units": {"hidden": 8, "begin": {}},
    "every-fifth-step": {"interval": 5},
    "without-possible_decrease": without("possible_decrease"),
    "without-budget_left": without("budget_left"),
}


@dataclass(frozen=True)
class Options:
    """Search with one thing changed at a time, and hold what is found against tuned schedules."""

    names: tyro.conf.Positional[tuple[str, ...]] = (*ABLATIONS, PPO)
    """Which of them."""

    generations: int = 40
    """Of each search."""

    workers: int = 2
    """Processes."""

    folder: Path = Path("results/learned/ablations")
    """Where the searches are."""

    out: Path = field(default=HERE / "ablations.csv")
    """Where the table goes."""


def search(name: str, options: Options) -> None:
    """Search for one of them, or go on with it.

    Raises:
        InputError: there is no such ablation.
    """
    if name not in (*ABLATIONS, PPO):
        raise unknown("ablation", name, (*ABLATIONS, PPO))
    if name == PPO:
        learn(options.folder / name)
        return
    mine = {"out": options.folder / name, "generations": options.generations, "workers": options.workers}
    print(name, flush=True)
    evolve.main(evolve.Options(**{**SAME, **mine, **ABLATIONS[name]}))


def learn(out: Path) -> None:
    """Let PPO train a network on the same features and tasks, paid for each fall of the log loss."""
    given: dict[str, Any] = {"base_schedule": "one-cycle", "start": (0.3, 0.3), "momentum": 0.9, "features": FEATURES}
    given |= {"reward": "log-loss-change", "optimizer": "sgd", "action": "box"}
    lrcontrol.train(SOURCES, "ppo", out=out, timesteps=1_000_000, num_envs=256, groups=32, evaluations=10, **given)


def main(options: Options) -> int:
    """Search, then validate: seven minutes each on two cores, and one more each."""
    for name in options.names:
        search(name, options)
    found = ("learned", *(str(options.folder / name) for name in options.names))
    return validate.main(validate.Options(found, optimizers=("sgd",), out=options.out))


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Options)))
