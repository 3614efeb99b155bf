"""Rivals that run their own training, in the tables of an evaluation: the registry, and the optimizers of others."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from torch import Tensor
from torch.optim import Optimizer

from lrcontrol.envs.errors import InputError
from lrcontrol.envs.spec import build
from lrcontrol.hypergradient import HypergradientAdam, HypergradientSGD
from lrcontrol.line_search import SPS, Armijo
from lrcontrol.peer_runs import OptimizerPeer
from lrcontrol.population import Population
from lrcontrol.random_search import RandomSearch
from lrcontrol.replay import replay
from lrcontrol.rollouts import Assignment, Trained
from lrcontrol.tuning_free import COCOB, DoG


@runtime_checkable
class Peer(Protocol):
    """A rival of the agents that runs its own training instead of acting in an environment."""

    @property
    def name(self) -> str:
        """What tables call it: its spelling in the registry, for peers that have one."""

    def run(self, given: Assignment) -> Trained:
        """Train what is given, and return what came of it."""


def _package(module: str, name: str) -> Any:
    try:
        return getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise InputError(f"{name} is in {module}, which is not installed: pip install 'lrcontrol[peers]'") from error


def _kept(name: str, module: str, title: str, knob: str, knobbed: bool, **arguments: Any) -> OptimizerPeer:
    kind = _package(module, title)

    def make(params: list[Tensor], value: float | None, per_epoch: int) -> Optimizer:
        optimizer: Optimizer = kind(params, **arguments, **({} if value is None else {knob: value}))
        return optimizer

    return OptimizerPeer(name + (":knob=true" if knobbed else ""), make, knob if knobbed else None)


def _own(
    name: str,
    kind: Callable[..., Optimizer],
    knob: str,
    knobbed: bool,
    asks: tuple[str, ...] = (),
    additive: bool = False,
) -> OptimizerPeer:
    """Return the peer of an optimizer of this package; those that ask for the loss also need the epoch's length."""

    def make(params: list[Tensor], value: float | None, per_epoch: int) -> Optimizer:
        keys: dict[str, Any] = {} if value is None else {knob: value}
        keys |= {"per_epoch": per_epoch} if asks else {}
        return kind(params, **keys, **({"additive": True} if additive else {}))

    given = [f"{key}=true" for key, value in (("knob", knobbed), ("additive", additive)) if value]
    return OptimizerPeer(":".join([name, *([",".join(given)] if given else [])]), make, knob if knobbed else None, asks)


def dog(knob: bool = False) -> OptimizerPeer:
    """DoG with averaged iterates; its knob is reps_rel, 1e-6 by default."""
    return _own("dog", DoG, "reps_rel", knob)


def cocob() -> OptimizerPeer:
    """COCOB; it has no knob."""
    return OptimizerPeer("cocob", lambda params, value, per_epoch: COCOB(params), None)


def hypergradient_sgd(knob: bool = False, additive: bool = False) -> OptimizerPeer:
    """Hypergradient descent on SGD's rate, multiplicative or as first published; its knob is the rate, 0.001."""
    return _own("hypergradient-sgd", HypergradientSGD, "lr", knob, additive=additive)


def hypergradient_adam(knob: bool = False, additive: bool = False) -> OptimizerPeer:
    """Hypergradient descent on Adam's rate, multiplicative or as first published; its knob is the rate, 0.001."""
    return _own("hypergradient-adam", HypergradientAdam, "lr", knob, additive=additive)


def sps(knob: bool = False) -> OptimizerPeer:
    """Stochastic Polyak steps; the knob is the rate that the first step grows from, 1 by default."""
    return _own("sps", SPS, "lr", knob, ("loss",))


def armijo(knob: bool = False) -> OptimizerPeer:
    """Stochastic Armijo line search; the knob is the rate that the first step grows from, 1 by default."""
    return _own("armijo", Armijo, "lr", knob, ("loss", "closure"))


def prodigy(knob: bool = False) -> OptimizerPeer:
    """Prodigy (Mishchenko and Defazio 2023) of prodigyopt; its knob is d0, 1e-6 by default."""
    return _kept("prodigy", "prodigyopt", "Prodigy", "d0", knob)


def dadapt_sgd(knob: bool = False) -> OptimizerPeer:
    """D-Adaptation (Defazio and Mishchenko 2023) for SGD of pytorch-optimizer; its knob is d0, 1e-6 by default."""
    return _kept("dadapt-sgd", "pytorch_optimizer", "DAdaptSGD", "d0", knob, momentum=0.9)


def dadapt_adam(knob: bool = False) -> OptimizerPeer:
    """D-Adaptation for Adam of pytorch-optimizer; its knob is d0, 1e-6 by default."""
    return _kept("dadapt-adam", "pytorch_optimizer", "DAdaptAdam", "d0", knob)


def schedulefree_sgd(knob: bool = False) -> OptimizerPeer:
    """Schedule-Free SGD (Defazio et al. 2024) of schedulefree; its knob is the rate, 1 by default."""
    return _kept("schedulefree-sgd", "schedulefree", "SGDScheduleFree", "lr", knob)


def schedulefree_adamw(knob: bool = False) -> OptimizerPeer:
    """Schedule-Free AdamW of schedulefree; its knob is the rate, 0.0025 by default."""
    return _kept("schedulefree-adamw", "schedulefree", "AdamWScheduleFree", "lr", knob)


def adamw(knob: bool = False) -> OptimizerPeer:
    """AdamW as torch gives it; its knob is the rate, 0.001 by default."""
    return _kept("adamw", "torch.optim", "AdamW", "lr", knob)


def nadamw(knob: bool = False) -> OptimizerPeer:
    """NAdam with decoupled weight decay as torch gives it; its knob is the rate, 0.002 by default."""
    return _kept("nadamw", "torch.optim", "NAdam", "lr", knob, decoupled_weight_decay=True)


PEERS: dict[str, Callable[..., Peer]] = {
    "dog": dog,
    "cocob": cocob,
    "hypergradient-sgd": hypergradient_sgd,
    "hypergradient-adam": hypergradient_adam,
    "sps": sps,
    "armijo": armijo,
    "prodigy": prodigy,
    "dadapt-sgd": dadapt_sgd,
    "dadapt-adam": dadapt_adam,
    "schedulefree-sgd": schedulefree_sgd,
    "schedulefree-adamw": schedulefree_adamw,
    "adamw": adamw,
    "nadamw": nadamw,
    "random-search": RandomSearch,
    "pbt": Population,
    "replay": replay,
}


def find_peer(text: object) -> Peer | None:
    """Return the peer of a spelling ``name`` or ``name:key=value,…``, None where it is not one of ``PEERS``.

    Raises:
        InputError: its package is not installed, or a key that it does not have.
    """
    if isinstance(text, Peer):
        return text
    known = isinstance(text, str) and text.partition(":")[0] in PEERS
    return build(str(text), PEERS, "peer") if known else None
