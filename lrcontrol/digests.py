"""Digests of what a study's names do not tell apart: tasks of one's own and trained agents."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from lrcontrol.agents import make_agent
from lrcontrol.agents.sb3_model import SB3Agent
from lrcontrol.agents.trained import TrainedAgent
from lrcontrol.envs.errors import InputError
from lrcontrol.envs.functional import check_functional, check_task
from lrcontrol.envs.seeding import build_module
from lrcontrol.envs.task import Task
from lrcontrol.peers import Peer
from lrcontrol.replay import Replay


def digest_of_agent(agent: object) -> str | None:
    """Return a digest of an agent's weights and needs, or of the one that is replayed; None where its name says all.

    That is so of agents that are spelled. Of an object of one's own it is one of all that it holds.
    """
    if isinstance(agent, Replay):
        return digest_of_agent(agent.agent)
    if isinstance(agent, SB3Agent):
        weights: Any = getattr(agent.model, "get_parameters", dict)()
        policy = sorted(weights.get("policy", {}).items())
        return _digest((value.cpu() for _, value in policy), [name for name, _ in policy], sorted(agent.needs.items()))
    if not isinstance(agent, TrainedAgent):
        return None if _is_spelled(agent) else _digest_of_state(agent)
    network, names = agent.network, sorted(agent.network.tensors)  # a file of weights is read in any order
    facts = (names, network.activation, network.head, network.sizes, sorted(agent.needs.items()))
    return _digest((network.tensors[name] for name in names), *facts)


def _is_spelled(agent: Any) -> bool:
    """Return whether it is what its name spells."""
    if isinstance(agent, Peer):
        return type(agent).__module__.startswith("lrcontrol.")
    try:
        return bool(make_agent(agent.name) == agent)
    except InputError:
        return False


def _digest_of_state(agent: object) -> str | None:
    """Return a digest of an object's attributes, None where they cannot be told."""
    try:
        return hashlib.sha256(pickle.dumps(sorted(vars(agent).items()))).hexdigest()[:16]
    except (TypeError, AttributeError, pickle.PicklingError):
        return None


def digest_of_task(task: Task) -> str:
    """Return a digest of data, budget, and of the model as it is initialised from seed 0.

    The model's layers, and loss and gradient on the first rows to four digits, stand for what the model and the loss
    do: two machines, or two numbers of threads, round differently.

    Raises:
        InputError: the model or the loss is not one that can be trained here.
    """
    module = build_module(task.model, 0)
    check_functional(module, task)
    check_task(module, task)
    parameters = list(module.parameters())
    x, y = (part[: task.batch_size] for part in task.train)
    loss = task.loss(module(x), y)
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    norms = [0.0 if gradient is None else gradient.norm().item() for gradient in gradients]
    numbers = [f"{number:.4g}" for number in (loss.item(), *norms)]
    facts = (task.batch_size, task.steps, task.shuffle, task.smoothing, task.probe_direction, str(module), numbers)
    ranges = sorted(task.lr0_range.items())
    tensors = [*task.train, *(task.test or ()), *(parameter.detach() for parameter in parameters)]
    return _digest(tensors, *facts, ranges)


def _digest(tensors: Iterable[Any], *facts: object) -> str:
    digest = hashlib.sha256(repr(facts).encode())
    for tensor in tensors:
        digest.update(np.ascontiguousarray(tensor).tobytes())
    return digest.hexdigest()[:16]
