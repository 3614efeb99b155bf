"""``digits-mlp``: scikit-learn's bundled 8 × 8 digits, the default task; it needs no download."""

from __future__ import annotations

import functools

import numpy as np
import torch

from lrcontrol.envs.models import mlp
from lrcontrol.envs.task import Data, Task

TRAIN_ROWS = 1437  # four fifths of the 1,797


@functools.cache
def digits() -> tuple[Data, Data]:
    """Return (train, test): inputs (1437, 64) and (360, 64) in 0..1, labels; the split is part of the task."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    inputs = torch.from_numpy((images[order] / 16.0).astype(np.float32))
    targets = torch.from_numpy(labels[order].astype(np.int64))
    return (inputs[:TRAIN_ROWS], targets[:TRAIN_ROWS]), (inputs[TRAIN_ROWS:], targets[TRAIN_ROWS:])


def digits_mlp() -> Task:
    """Return the task: 64-20-10 tanh, inputs in 0..1, minibatches of 64, 200 steps, 360 images held out as test."""
    train, test = digits()
    return Task(
        name="digits-mlp",
        model=lambda: mlp(64, 20, 10),
        train=train,
        test=test,
        batch_size=64,
        steps=200,
    )
