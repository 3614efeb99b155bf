"""The kinds of training that ``kinds`` tries: models, data and losses of many sorts, all small."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import lrcontrol
from lrcontrol.envs import mlp

Data = tuple[Tensor, Tensor]
Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]


def cross_entropy(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean loss of a classifier, of single predictions or of sequences of them (B, T, classes)."""
    return F.cross_entropy(model(inputs).flatten(0, -2), targets.flatten())


def squares(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean squared error."""
    return F.mse_loss(model(inputs).reshape(targets.shape), targets)


@dataclass(frozen=True)
class Kind:
    """A kind of training.

    Args:
        model: makes it, anew for each run.
        data: inputs (N, ...) and targets (N, ...).
        loss: of a model on a minibatch.
        batch_size: rows of a minibatch.
        steps: of a run.
        begin: log10 of the constant that is tried first, by optimizer.
    """

    model: Callable[[], nn.Module]
    data: Data
    loss: Loss = cross_entropy
    batch_size: int = 64
    steps: int = 300
    begin: Mapping[str, float] = field(default_factory=lambda: {"adamw": -2.5, "sgd": -1.5})


class Residual(nn.Module):
    """Adds what some layers make of an input to it."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the input and what the layers make of it, together."""
        return inputs + self.layers(inputs)


class Recurrent(nn.Module):
    """Characters (B, T) through an embedding, an LSTM or a GRU, and a linear layer."""

    def __init__(self, cell: type[nn.LSTM] | type[nn.GRU], letters: int, width: int) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(letters, width), nn.Linear(width, letters)
        self.cell = cell(width, width, batch_first=True)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the logits of the next character (B, T, letters)."""
        return self.head(self.cell(self.embedding(inputs))[0])


class Patches(nn.Module):
    """A small vision transformer: images (B, 784) in 16 patches."""

    def __init__(self, width: int = 64, blocks: int = 2) -> None:
        super().__init__()
        self.cut = nn.Conv2d(1, width, 7, 7)
        self.place = nn.Parameter(0.02 * torch.randn(16, width))
        block = nn.TransformerEncoderLayer(width, 4, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(block, blocks, enable_nested_tensor=False)
        self.head = nn.Linear(width, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits (B, 10)."""
        images = inputs.reshape(-1, 1, 28, 28)
        return self.head(self.blocks(self.cut(images).flatten(2).mT + self.place).mean(dim=1))


class Variational(nn.Module):
    """A variational auto-encoder of images (B, 784); returns logits, mean and log variance."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 32))
        self.decoder = nn.Sequential(nn.Linear(16, 128), nn.ReLU(), nn.Linear(128, 784))

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits (B, 784), and the code's mean and log variance, (B, 16) each."""
        mean, log_variance = self.encoder(inputs).chunk(2, dim=1)
        code = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        return self.decoder(code), mean, log_variance


def evidence(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """Return the negative evidence lower bound of a variational auto-encoder, in nats for each image."""
    logits, mean, log_variance = model(inputs)
    likely = F.binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(dim=1)
    return (likely - 0.5 * (1.0 + log_variance - mean**2 - log_variance.exp()).sum(dim=1)).mean()


class Factors(nn.Module):
    """Ratings of pairs (user, item) as products of their factors."""

    def __init__(self, users: int, items: int, rank: int) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(users, rank), nn.Embedding(items, rank)
        for table in (self.users, self.items):
            nn.init.normal_(table.weight, std=0.1)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return ratings (B,) of pairs (B, 2)."""
        return (self.users(inputs[:, 0]) * self.items(inputs[:, 1])).sum(dim=1)


class Sine(nn.Module):
    """A sine of some frequency, for fields of coordinates (Sitzmann et al. 2020)."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the sines."""
        return torch.sin(5.0 * inputs)


class LowRank(nn.Module):
    """A frozen linear layer and a trained correction of low rank that begins at zero (Hu et al. 2022)."""

    def __init__(self, frozen: nn.Linear, rank: int = 4) -> None:
        super().__init__()
        self.frozen = frozen.requires_grad_(False)
        self.down = nn.Linear(frozen.in_features, rank, bias=False)
        self.up = nn.Linear(rank, frozen.out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return what the frozen layer and the correction make of the input together."""
        return self.frozen(inputs) + self.up(self.down(inputs))


def zeros(*sizes: int) -> nn.Module:
    """Return a linear model that begins at zero."""
    model = nn.Linear(*sizes)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    return model


def convolutions(classes: int = 10, norm: bool = True) -> nn.Sequential:
    """Return a small residual network of convolutions for images (B, 1, 14, 14), batch-normalised or not."""

    def conv(before: int, after: int, stride: int = 1) -> list[nn.Module]:
        extra = [nn.BatchNorm2d(after)] if norm else []
        return [nn.Conv2d(before, after, 3, stride, 1, bias=not norm), *extra, nn.ReLU()]

    blocks = [Residual(*conv(width, width), *conv(width, width)) for width in (16, 32)]
    first, second = conv(1, 16, 2), conv(16, 32, 2)
    return nn.Sequential(
        *first, blocks[0], *second, blocks[1], nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, classes)
    )


def trained(model: nn.Module, data: Data, loss: Loss, steps: int) -> nn.Module:
    """Return a model after so many steps of AdamW at 2e-3, brought down linearly: what a fine-tuning begins with."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 2e-3 * (1.0 - step / steps)
        rows = torch.randint(len(data[0]), (64,))
        optimizer.zero_grad()
        loss(model, data[0][rows], data[1][rows]).backward()
        optimizer.step()
    return model


@functools.cache
def before(name: str) -> nn.Module:
    """Return a model that was trained beforehand, on something else than what it is fine-tuned on."""
    torch.manual_seed(1000)
    if name == "mlp":
        return trained(mlp(784, 128, 128, 10, activation="relu"), flat("mnist"), cross_entropy, 1000)
    return trained(convolutions(), images("mnist"), cross_entropy, 400)


def new_head(model: nn.Sequential) -> nn.Sequential:
    """Return a copy of a network with a last layer that knows nothing."""
    model = copy.deepcopy(model)
    model[-1].reset_parameters()  # type: ignore[operator]
    return model


def low_rank(model: nn.Sequential) -> nn.Sequential:
    """Return a copy of a network with corrections of low rank on its linear layers."""
    return nn.Sequential(*(LowRank(layer) if isinstance(layer, nn.Linear) else layer for layer in copy.deepcopy(model)))


@functools.cache
def flat(name: str) -> Data:
    """Return 10,000 images (N, 784) and labels of MNIST or Fashion-MNIST."""
    inputs, targets = lrcontrol.make_task({"mnist": "mnist-mlp", "fashion": "fashion-mnist-mlp"}[name]).train
    return inputs[:10_000].flatten(1).contiguous(), targets[:10_000]


def images(name: str) -> Data:
    """Return the same as images (N, 1, 14, 14), means of two by two pixels."""
    inputs, targets = flat(name)
    return F.avg_pool2d(inputs.reshape(-1, 1, 28, 28), 2), targets


def rotated(data: Data) -> Data:
    """Return images (N, 784) turned by a quarter."""
    return data[0].reshape(-1, 28, 28).rot90(1, (1, 2)).reshape(-1, 784).contiguous(), data[1]


def letters() -> Data:
    """Return rows of 32 characters and those that follow each."""
    inputs, targets = lrcontrol.make_task("shakespeare-gpt").train
    return inputs[:20_000, :32].contiguous(), targets[:20_000, :32].contiguous()


def ratings() -> Data:
    """Return 30,000 noisy ratings of 500 users and 300 items, from factors of rank 5."""
    draw = torch.Generator().manual_seed(0)
    users, items = torch.randn(500, 5, generator=draw), torch.randn(300, 5, generator=draw)
    pairs = torch.stack([torch.randint(n, (30_000,), generator=draw) for n in (500, 300)], dim=1)
    exact = (users[pairs[:, 0]] * items[pairs[:, 1]]).sum(dim=1)
    return pairs, exact + 0.5 * torch.randn(len(pairs), generator=draw)


def prices() -> Data:
    """Return 10,000 rows of a regression (Friedman 1991, his first) whose targets are in thousands."""
    draw = torch.Generator().manual_seed(0)
    x = torch.rand(10_000, 10, generator=draw)
    exact = 10.0 * torch.sin(math.pi * x[:, 0] * x[:, 1]) + 20.0 * (x[:, 2] - 0.5) ** 2 + 10.0 * x[:, 3] + 5.0 * x[:, 4]
    return x, 1000.0 * (exact + torch.randn(len(x), generator=draw))


def picture() -> Data:
    """Return the pixels of an image, their coordinates in [−1, 1] and their values."""
    row, column = torch.meshgrid(torch.linspace(-1, 1, 28), torch.linspace(-1, 1, 28), indexing="ij")
    return torch.stack([row.flatten(), column.flatten()], dim=1), flat("fashion")[0][7]


def sine() -> Data:
    """Return 2,000 values of a smooth function of three numbers, without noise."""
    draw = torch.Generator().manual_seed(0)
    x = torch.rand(2_000, 3, generator=draw) * 2.0 - 1.0
    return x, torch.sin(3.0 * x[:, 0]) * x[:, 1] + x[:, 2] ** 2


def wrong_labels(data: Data) -> Data:
    """Return data, half of whose labels are drawn anew."""
    draw = torch.Generator().manual_seed(0)
    drawn = torch.randint(10, data[1].shape, generator=draw)
    return data[0], torch.where(torch.rand(data[1].shape, generator=draw) < 0.5, drawn, data[1])


def vae() -> Kind:
    """Return an auto-encoder whose loss is in nats for each image, hundreds at first."""
    inputs = flat("mnist")[0].clamp(0.0, 1.0)
    return Kind(Variational, (inputs, inputs), evidence)


KINDS: dict[str, Callable[[], Kind]] = {
    "logistic regression from zero": lambda: Kind(lambda: zeros(784, 10), flat("fashion")),
    "residual convolutions, BatchNorm": lambda: Kind(convolutions, images("fashion")),
    "residual convolutions, no norm": lambda: Kind(lambda: convolutions(norm=False), images("fashion")),
    "vision transformer": lambda: Kind(Patches, flat("mnist"), batch_size=32),
    "lstm": lambda: Kind(lambda: Recurrent(nn.LSTM, 65, 96), letters(), batch_size=32),
    "gru": lambda: Kind(lambda: Recurrent(nn.GRU, 65, 96), letters(), batch_size=32),
    "variational auto-encoder": vae,
    "matrix factors": lambda: Kind(lambda: Factors(500, 300, 8), ratings(), squares, 256, 500),
    "regression in thousands": lambda: Kind(
        lambda: mlp(10, 64, 64, 1, activation="relu"), prices(), squares, 64, 500, {"adamw": -1.0, "sgd": -6.5}
    ),
    "function without noise": lambda: Kind(lambda: mlp(3, 64, 64, 1), sine(), squares, 64, 1000),
    "picture by sines": lambda: Kind(
        lambda: nn.Sequential(nn.Linear(2, 64), Sine(), nn.Linear(64, 64), Sine(), nn.Linear(64, 1)), picture(), squares
    ),
    "twenty residual blocks, LayerNorm": lambda: Kind(
        lambda: nn.Sequential(
            nn.Linear(784, 64),
            *(Residual(nn.LayerNorm(64), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64)) for _ in range(20)),
            nn.Linear(64, 10),
        ),
        flat("fashion"),
    ),
    "half of the labels wrong": lambda: Kind(lambda: mlp(784, 64, 10, activation="relu"), wrong_labels(flat("mnist"))),
    "minibatches of four": lambda: Kind(
        lambda: mlp(784, 64, 10, activation="relu"), flat("mnist"), batch_size=4, steps=1000
    ),
    "thirty steps": lambda: Kind(lambda: mlp(784, 64, 10, activation="relu"), flat("mnist"), batch_size=256, steps=30),
    "fine-tuning, all of it": lambda: Kind(lambda: copy.deepcopy(before("mlp")), rotated(flat("mnist"))),
    "fine-tuning, more of the same": lambda: Kind(lambda: copy.deepcopy(before("mlp")), flat("mnist")),
    "fine-tuning, new last layer": lambda: Kind(lambda: new_head(before("cnn")), images("fashion")),  # type: ignore[arg-type]
    "fine-tuning by low rank": lambda: Kind(lambda: low_rank(before("mlp")), rotated(flat("mnist"))),  # type: ignore[arg-type]
}
