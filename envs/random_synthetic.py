"""``random-synthetic``: small made-up problems, drawn for each index: classes, functions, tokens, images, sentences."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.random import Generator
from torch import Tensor

from lrcontrol.envs.digits import digits
from lrcontrol.envs.models import mlp, scaled
from lrcontrol.envs.random_digits import ACTIVATIONS
from lrcontrol.envs.seeding import draw_task, log_uniform
from lrcontrol.envs.task import Data, Loss, Task
from lrcontrol.envs.text import GPT, next_token_loss

ENTROPY = 20_261_124  # of all instances; changing it changes every one of them


def random_synthetic(index: int = 0, held_out: bool = False) -> Task:
    """Return instance ``index`` ≥ 0 of a made-up problem under a random network; held-out instances are drawn apart.

    In turn: clusters to be told apart, with wrong labels among them; a random network's outputs with noise on top;
    the next token of a Markov chain whose tokens are as unequal as words; digits through a bottleneck; sentences of
    such a chain of second order under a transformer. Networks have none to three hidden layers of 8 to 64 units, the
    bottleneck's one, three or five, down to 2; initial weights times 0.5 to 2; 1,024 to 32,768 rows (512 to 4,096
    sentences, all 1,437 digits), so that some are seen many times and some not once;
    minibatches of 8 to 256 rows, of 4 to 16 sentences; 80 to 500 steps.

    Raises:
        InputError: a negative index.
    """
    random, name = draw_task("random-synthetic", ENTROPY, index, held_out)
    kind = list(KINDS)[index % len(KINDS)]
    steps, gain = round(log_uniform(random, 80, 500)), log_uniform(random, 0.5, 2.0)
    if kind == "sentences":
        data, build = _sentences(random)
        model = functools.partial(scaled, build, gain)
        batch_size = round(log_uniform(random, 4, 16))
        return Task(name=name, model=model, train=data, loss=next_token_loss, batch_size=batch_size, steps=steps)
    data, middle = KINDS[kind](random)
    inputs, targets = data
    outputs, loss = fitting(targets)
    activation = ACTIVATIONS[random.integers(len(ACTIVATIONS))]
    network = functools.partial(mlp, inputs.shape[1], *middle, outputs, activation=activation)
    return Task(
        name=name,
        model=functools.partial(scaled, network, gain),
        train=data,
        loss=loss,
        batch_size=round(log_uniform(random, 8, 256)),
        steps=steps,
    )


def fitting(targets: Tensor) -> tuple[int, Loss]:
    """Return how many outputs fit targets, classes (N,) or numbers (N, outputs), and their loss."""
    if targets.ndim == 1:
        return int(targets.max()) + 1, F.cross_entropy
    return targets.shape[1], F.mse_loss


def _rows(random: Generator) -> int:
    return round(log_uniform(random, 1024, 32768))


def _widths(random: Generator, layers: int) -> tuple[int, ...]:
    return tuple(round(log_uniform(random, 8, 64)) for _ in range(layers))


def _normal(random: Generator, *shape: int) -> Tensor:
    return torch.from_numpy(random.standard_normal(shape, dtype=np.float32))


def clusters(random: Generator) -> tuple[Data, tuple[int, ...]]:
    """Return rows around two to four centres for each class, up to a fifth of the labels drawn anew."""
    classes, dimension = int(random.integers(2, 13)), round(log_uniform(random, 4, 64))
    centres = classes * int(random.integers(2, 5))
    rows = _rows(random)
    which = torch.from_numpy(random.integers(centres, size=rows))
    spread = log_uniform(random, 0.3, 1.5)
    inputs = _normal(random, centres, dimension)[which] + spread * _normal(random, rows, dimension)
    scales = torch.exp(_normal(random, dimension) * random.uniform(0.0, 1.0))  # some inputs speak louder than others
    labels = which % classes
    wrong = torch.from_numpy(random.random(rows) < random.uniform(0.0, 0.2))
    labels = torch.where(wrong, torch.from_numpy(random.integers(classes, size=rows)), labels)
    inputs = inputs * scales * log_uniform(random, 0.3, 3.0) + float(random.uniform(0.0, 0.5))
    return (inputs, labels), _widths(random, int(random.integers(0, 4)))


def functions(random: Generator) -> tuple[Data, tuple[int, ...]]:
    """Return what a random network makes of normal inputs, standardised, with noise of 5 to 50 % of its size."""
    dimension, outputs = round(log_uniform(random, 2, 64)), round(log_uniform(random, 1, 16))
    hidden, rows = round(log_uniform(random, 4, 64)), _rows(random)
    inputs = _normal(random, rows, dimension)
    inside = torch.tanh(inputs @ _normal(random, dimension, hidden) * (random.uniform(0.5, 2.0) / dimension**0.5))
    targets = inside @ _normal(random, hidden, outputs)
    targets = (targets - targets.mean(dim=0)) / targets.std(dim=0)
    targets = targets + log_uniform(random, 0.05, 0.5) * _normal(random, rows, outputs)
    scale = log_uniform(random, 0.3, 3.0)
    return (inputs * log_uniform(random, 0.3, 3.0), targets * scale), _widths(random, int(random.integers(1, 4)))


def _tokens(random: Generator) -> tuple[Data, tuple[int, ...]]:
    """Return one to three tokens, one-hot side by side, and the next, of a Markov chain of 8 to 40 tokens."""
    tokens, context = round(log_uniform(random, 8, 40)), int(random.integers(1, 4))
    windows = _chain(random, tokens, _rows(random), context + 1, order=1)
    inputs = F.one_hot(windows[:, :-1], tokens).flatten(1).float()
    return (inputs, windows[:, -1].contiguous()), _widths(random, int(random.integers(0, 3)))


def _chain(random: Generator, tokens: int, rows: int, length: int, order: int) -> Tensor:
    """Return pieces (rows, length) of a Markov chain in which some tokens are as frequent as some words."""
    frequency = (1.0 + np.arange(tokens)) ** -random.uniform(0.5, 1.2)
    chain = frequency * random.gamma(log_uniform(random, 0.1, 1.0), size=(*(tokens,) * order, tokens)) + 1e-6
    cumulative = np.cumsum(chain / chain.sum(axis=-1, keepdims=True), axis=-1)
    pieces = np.zeros((rows, order + length), dtype=np.int64)
    pieces[:, :order] = random.choice(tokens, p=frequency / frequency.sum(), size=(rows, order))
    for at in range(order, order + length):
        before = tuple(pieces[:, at - back] for back in range(order, 0, -1))
        drawn = (cumulative[before] < random.random((rows, 1))).sum(axis=1)
        pieces[:, at] = np.minimum(drawn, tokens - 1)
    return torch.from_numpy(pieces[:, order:].copy())


def _sentences(random: Generator) -> tuple[Data, Callable[[], GPT]]:
    """Return sentences (rows, length) and the same one token on, and a narrow transformer of one block, or two."""
    tokens, length = round(log_uniform(random, 12, 48)), round(log_uniform(random, 6, 16))
    pieces = _chain(random, tokens, round(log_uniform(random, 512, 4096)), length + 1, order=2)
    width, blocks = 8 * int(random.integers(1, 4)), 1 + int(random.random() < 0.25)
    build = functools.partial(GPT, tokens, length, width, 2, blocks)
    return (pieces[:, :-1].contiguous(), pieces[:, 1:].contiguous()), build


def _bottleneck(random: Generator) -> tuple[Data, tuple[int, ...]]:
    """Return digits as inputs and targets, and the widths of an auto-encoder of one, three or five hidden layers."""
    inputs = digits()[0][0] * log_uniform(random, 0.4, 3.3)
    outer, code = _widths(random, int(random.integers(0, 3))), round(log_uniform(random, 2, 16))
    return (inputs, inputs), (*outer, code, *outer[::-1])


KINDS: dict[str, Callable[[Generator], tuple[Data, Any]]] = {
    "clusters": clusters,
    "functions": functions,
    "tokens": _tokens,
    "bottleneck": _bottleneck,
    "sentences": _sentences,
}
