"""Digests of what a study's names do not tell apart: tasks of one's own and trained agents."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from lrcontrol.agents.trained import TrainedAgent
from lrcontrol.envs.seeding import build_module
from lrcontrol.envs.task import Task
from lrcontrol.replay import Replay


def digest_of_agent(agent: object) -> str | None:
    """Return a digest of a trained agent's weights and needs, or of the one that is replayed; None of any other."""
    if isinstance(agent, Replay):
        return digest_of_agent(agent.agent)
    if not isinstance(agent, TrainedAgent):
        return None
    network, names = agent.network, sorted(agent.network.tensors)  # a file of weights is read in any order
    facts = (names, network.activation, network.head, network.sizes, sorted(agent.needs.items()))
    return _digest((network.tensors[name] for name in names), *facts)


def digest_of_task(task: Task) -> str:
    """Return a digest of data, budget, and of the model as it is initialised from seed 0.

    The model's layers, and loss and gradient on the first rows to four digits, stand for what the model and the loss
    do: two machines, or two numbers of threads, round differently.
    """
    module = build_module(task.model, 0)
    parameters = list(module.parameters())
    x, y = (part[: task.batch_size] for part in task.train)
    loss = task.loss(module(x), y)
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    norms = [0.0 if gradient is None else gradient.norm().item() for gradient in gradients]
    numbers = [f"{number:.4g}" for number in (loss.item(), *norms)]
    facts = (task.batch_size, task.steps, task.shuffle, task.smoothing, task.probe_direction, str(module), numbers)
    return _digest([*task.train, *(task.test or ()), *(parameter.detach() for parameter in parameters)], *facts)


def _digest(tensors: Iterable[Any], *facts: object) -> str:
    digest = hashlib.sha256(repr(facts).encode())
    for tensor in tensors:
        digest.update(np.ascontiguousarray(tensor).tobytes())
    return digest.hexdigest()[:16]
