"""``random-images``: digits, moved about and with noise, under small convolutional networks drawn for each index."""

from __future__ import annotations

import functools

import numpy as np
import torch
import torch.nn.functional as F
from numpy.random import Generator
from torch import Tensor, nn

from lrcontrol.envs.digits import digits
from lrcontrol.envs.models import ACTIVATIONS, scaled
from lrcontrol.envs.seeding import draw_task, log_uniform
from lrcontrol.envs.task import Data, Task

ENTROPY = 20_261_125  # of all instances; changing it changes every one of them
SIZE = 8  # pixels a side


class Patches(nn.Module):
    """A convolution as a linear layer on patches, (B, C, H, W) to (B, C', H', W'): copies are worked out at once."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.linear, self.kernel, self.stride = nn.Linear(inputs * kernel**2, outputs), kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution of x."""
        patches = x.unfold(-2, self.kernel, self.stride).unfold(-2, self.kernel, self.stride)
        out: Tensor = self.linear(patches.movedim(-5, -3).flatten(-3)).movedim(-1, -3)
        return out


class Convolutional(nn.Module):
    """One or two convolutions, pooled, or the second with stride 2, and one or two linear layers."""

    def __init__(self, channels: tuple[int, ...], kernel: int, pooled: bool, hidden: int, activation: str) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs, side = 1, SIZE
        for number, outputs in enumerate(channels):
            stride = 2 if number and not pooled else 1
            layers += [Patches(inputs, outputs, kernel, stride), ACTIVATIONS[activation]()]
            inputs, side = outputs, (side - kernel) // stride + 1
        if pooled:
            layers.append(nn.MaxPool2d(2))
            side //= 2
        layers.append(nn.Flatten(-3))
        width = inputs * side**2
        if hidden:
            layers += [nn.Linear(width, hidden), ACTIVATIONS[activation]()]
        self.layers = nn.Sequential(*layers, nn.Linear(hidden or width, 10))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, 10) of images (B, 1, 8, 8)."""
        out: Tensor = self.layers(x)
        return out


def random_images(index: int = 0, held_out: bool = False) -> Task:
    """Return instance ``index`` ≥ 0; held-out instances are drawn apart.

    One or two convolutions of 4 to 12 channels, 2 × 2 or 3 × 3 pixels, ReLU, ELU, GELU or tanh, with and without the
    maximum over 2 × 2 pixels, and a hidden linear layer of 16 to 64 units; initial weights times 0.7 to 1.7; 1,024 to
    16,384 images, each a digit, in three of ten tasks moved by up to a pixel, its grey times 0.5 to 1.5, with noise,
    times 0.4 to 3.3; minibatches of 8 to 64; 80 to 300 steps.

    Raises:
        InputError: a negative index.
    """
    random, name = draw_task("random-images", ENTROPY, index, held_out)
    channels = tuple(round(log_uniform(random, 4, 12)) for _ in range(int(random.integers(1, 3))))
    kernel, pooled = int(random.integers(2, 4)), bool(random.random() < 0.5)
    hidden = round(log_uniform(random, 16, 64)) if random.random() < 0.5 else 0
    activation = ("relu", "relu", "elu", "gelu", "tanh")[random.integers(5)]
    network = functools.partial(Convolutional, channels, kernel, pooled, hidden, activation)
    return Task(
        name=name,
        model=functools.partial(scaled, network, log_uniform(random, 0.7, 1.7)),
        train=_images(random),
        batch_size=round(log_uniform(random, 8, 64)),
        steps=round(log_uniform(random, 80, 300)),
    )


def _images(random: Generator) -> Data:
    rows, shifts = round(log_uniform(random, 1024, 16384)), 3 if random.random() < 0.3 else 1
    images, labels = moved_digits(random, rows, shifts)
    return (images * log_uniform(random, 0.4, 3.3)).unsqueeze(1).contiguous(), labels


def moved_digits(random: Generator, rows: int, shifts: int) -> Data:
    """Return digits (rows, 8, 8), moved to one of shifts² places, their grey changed, with noise, and their labels."""
    (inputs, labels), _ = digits()
    which = torch.from_numpy(random.integers(len(inputs), size=rows))
    padded = F.pad(inputs[which].view(-1, SIZE, SIZE), (shifts // 2,) * 4)
    down, right = (torch.from_numpy(random.integers(shifts, size=rows)).view(-1, 1, 1) for _ in range(2))
    pixels = torch.arange(SIZE)
    moved = padded[torch.arange(rows).view(-1, 1, 1), down + pixels.view(1, -1, 1), right + pixels.view(1, 1, -1)]
    grey = torch.from_numpy(random.uniform(0.5, 1.5, size=(rows, 1, 1)).astype(np.float32))
    noise = torch.from_numpy(random.standard_normal((rows, SIZE, SIZE), dtype=np.float32))
    return moved * grey + random.uniform(0.0, 0.2) * noise, labels[which]
