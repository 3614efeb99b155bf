"""The image tasks: MLPs on MNIST and Fashion-MNIST, the proposal's own, a small CNN and an auto-encoder."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from lrcontrol.envs.data import load_images
from lrcontrol.envs.models import mlp
from lrcontrol.envs.task import Data, Smoothing, Task


def _flat(data: Data, divisor: float) -> Data:
    images, labels = data
    return images.flatten(1).float().div_(divisor), labels


def _channel(data: Data) -> Data:
    images, labels = data
    return images[:, None].float().div_(255.0), labels


def mnist_mlp() -> Task:
    """Return the task: MNIST, 784-20-10 tanh, inputs in 0..1, minibatches of 1,000, 600 steps."""
    train, test = load_images("mnist")
    return Task(
        name="mnist-mlp",
        model=lambda: mlp(784, 20, 10),
        train=_flat(train, 255.0),
        test=_flat(test, 255.0),
        batch_size=1000,
        steps=600,
    )


def fashion_mnist_mlp() -> Task:
    """Return the task: Fashion-MNIST, otherwise as ``mnist-mlp``."""
    train, test = load_images("fashion_mnist")
    return Task(
        name="fashion-mnist-mlp",
        model=lambda: mlp(784, 20, 10),
        train=_flat(train, 255.0),
        test=_flat(test, 255.0),
        batch_size=1000,
        steps=600,
    )


def fashion_mnist_deep() -> Task:
    """Return the task: Fashion-MNIST, 784-64-64-10 ReLU, inputs in 0..1, minibatches of 128, 600 steps."""
    train, test = load_images("fashion_mnist")
    return Task(
        name="fashion-mnist-deep",
        model=lambda: mlp(784, 64, 64, 10, activation="relu"),
        train=_flat(train, 255.0),
        test=_flat(test, 255.0),
        batch_size=128,
        steps=600,
    )


def mnist_autoencoder() -> Task:
    """Return the task: MNIST through 784-128-32-128-784 tanh, mean squared error, minibatches of 128, 500 steps."""
    train, test = (_flat(data, 255.0)[0] for data in load_images("mnist"))
    return Task(
        name="mnist-autoencoder",
        model=lambda: mlp(784, 128, 32, 128, 784),
        loss=F.mse_loss,
        train=(train, train),
        test=(test, test),
        batch_size=128,
        steps=500,
    )


def mnist_mlp_raw() -> Task:
    """Return the proposal's setting: inputs 0..255, 784-20-10 ReLU, file order, 10 epochs of 60 minibatches.

    Its smoothing of the gradient's size and its probe along the raw gradient are this task's defaults.
    """
    train, test = load_images("mnist")
    return Task(
        name="mnist-mlp-raw",
        model=lambda: mlp(784, 20, 10, activation="relu"),
        train=_flat(train, 1.0),
        test=_flat(test, 1.0),
        batch_size=1000,
        steps=600,
        shuffle=False,
        lr0_range={"sgd": (1e-8, 1e-2), "adamw": (1e-7, 1.0)},
        smoothing=Smoothing(rate=0.1, start="first"),
        probe_direction="gradient",
    )


class _Pool(nn.Module):
    """Max pooling over 2 × 2 windows, in a form that stacks over replicas."""

    def forward(self, x: Tensor) -> Tensor:
        *rest, height, width = x.shape
        return x.reshape(*rest, height // 2, 2, width // 2, 2).amax(dim=(-3, -1))


def mnist_cnn() -> Task:
    """Return the task: MNIST, two 3 × 3 convolutions of 8 and 16 channels, minibatches of 128, 400 steps."""
    train, test = load_images("mnist")
    return Task(
        name="mnist-cnn",
        model=lambda: nn.Sequential(
            *(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), _Pool()),
            *(nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), _Pool()),
            *(nn.Flatten(-3), nn.Linear(16 * 7 * 7, 10)),
        ),
        train=_channel(train),
        test=_channel(test),
        batch_size=128,
        steps=400,
    )
