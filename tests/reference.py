"""The plain, slow, obvious training run that the engine is held to: one module, one torch optimizer, one loop."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from lrcontrol.envs import Smoothing, Task
from lrcontrol.envs.seeding import RunSeeds

# Optimizer, momentum, weight decay and smoothing.
OPTIMIZERS = {
    "sgd": ("sgd", 0.0, 0.0, None),
    "sgd-momentum": ("sgd", 0.9, 0.0, None),
    "adamw": ("adamw", 0.9, 0.0, None),
    "adamw-decay": ("adamw", 0.9, 0.1, None),
    "smoothed": ("sgd", 0.0, 0.0, Smoothing()),
    "smoothed-from-zero": ("sgd", 0.9, 0.0, Smoothing(0.02, "zero")),
}


class Step(NamedTuple):
    loss: float
    gradient: Tensor
    params: Tensor


def minibatches(task: Task, seeds: RunSeeds) -> Iterator[tuple[Tensor, Tensor]]:
    inputs, targets = task.train
    generator = np.random.Generator(np.random.PCG64(seeds.data))
    while True:
        order = np.arange(len(inputs))
        if task.shuffle and len(inputs) > 1:
            order = generator.permutation(len(inputs))
        for first in range(0, len(inputs) - task.batch_size + 1, task.batch_size):
            rows = torch.from_numpy(order[first : first + task.batch_size])
            yield inputs[rows], targets[rows]


def initial_module(task: Task, seeds: RunSeeds) -> nn.Module:
    state = torch.get_rng_state()
    torch.manual_seed(seeds.init)
    module = task.model()
    torch.set_rng_state(state)
    return module


def flat(tensors) -> Tensor:
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])


def train(
    task: Task,
    seeds: RunSeeds,
    optimizer: str,
    lr: Callable[[int], float],
    momentum: Callable[[int], float],
    steps: int,
    weight_decay: float = 0.0,
    smoothing: Smoothing | None = None,
) -> Iterator[Step]:
    """Yield loss, gradient and parameters before each step, and once more at the end: steps + 1 items."""
    module = initial_module(task, seeds)
    params = list(module.parameters())
    if optimizer == "adamw":
        opt = torch.optim.AdamW(params, lr=1.0, betas=(momentum(0), 0.999), weight_decay=weight_decay)
    else:
        opt = torch.optim.SGD(params, lr=1.0, momentum=momentum(0), dampening=momentum(0))
    data = minibatches(task, seeds)
    size = None
    for step in range(steps + 1):
        x, y = next(data)
        opt.zero_grad()
        loss = task.loss(module(x), y)
        loss.backward()
        yield Step(loss.item(), flat(p.grad for p in params), flat(params))
        if smoothing is not None:
            norm = sum(p.grad.norm().item() for p in params)
            if size is None:
                size = norm if smoothing.start == "first" else 0.0
            size = smoothing.rate * norm + (1.0 - smoothing.rate) * size
            for p in params:
                p.grad *= size / norm
        group = opt.param_groups[0]
        group["lr"] = lr(step)
        if optimizer == "adamw":
            group["betas"] = (momentum(step), 0.999)
        else:
            group["momentum"] = group["dampening"] = momentum(step)
        opt.step()
