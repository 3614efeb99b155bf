"""The registered tasks' networks."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import nn

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU, "elu": nn.ELU, "gelu": nn.GELU}


def mlp(*sizes: int, activation: str = "tanh", normalised: bool = False) -> nn.Sequential:
    """Return fully connected layers of the given sizes, input first, with the activation between them.

    Where they are to be normalised, a layer norm stands before each activation.
    """
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        norms = [nn.LayerNorm(outputs)] if normalised else []
        layers += [nn.Linear(inputs, outputs), *norms, ACTIVATIONS[activation]()]
    return nn.Sequential(*layers[: -2 if normalised else -1])


def scaled(build: Callable[[], nn.Module], gain: float) -> nn.Module:
    """Return a network with its initial weights, not its biases, multiplied by ``gain``."""
    network = build()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("weight"):
                parameter.mul_(gain)
    return network
