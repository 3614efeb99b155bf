"""Fixtures for all tests: which tasks can be had here, and results written where nobody else looks."""

import importlib.util
import os
from pathlib import Path

import pytest

from lrcontrol.envs.data import MD5

BUNDLED = ("digits-mlp", "quadratic:noise=0.1")
FETCHED = {
    "mnist-mlp": "mnist",
    "mnist-mlp-raw": "mnist",
    "mnist-cnn": "mnist",
    "fashion-mnist-mlp": "fashion_mnist",
    "fashion-mnist-deep": "fashion_mnist",
    "mnist-autoencoder": "mnist",
    "shakespeare-gpt": "tinyshakespeare",
}


def have(dataset: str) -> bool:
    folder = os.environ.get("LRCONTROL_DATA")
    return bool(folder) and all(Path(folder, dataset, name).is_file() for name in MD5[dataset])


def fetched(task: str):
    """Return the task as a test parameter that skips where its data set is not at hand: tests never download."""
    reason = f"{FETCHED[task]} is not in LRCONTROL_DATA"
    return pytest.param(task, marks=pytest.mark.skipif(not have(FETCHED[task]), reason=reason))


ALL_TASKS = [*BUNDLED, *(fetched(task) for task in FETCHED)]
needs_mnist = pytest.mark.skipif(not have("mnist"), reason="mnist is not in LRCONTROL_DATA")


@pytest.fixture(params=["compiled", "torch"])
def either_way(request, monkeypatch):
    """Run a test twice, with compiled training steps and with torch's."""
    if request.param == "compiled" and importlib.util.find_spec("numba") is None:
        pytest.skip("numba is not installed")
    monkeypatch.setenv("LRCONTROL_COMPILED", str(int(request.param == "compiled")))
