"""A guard on ratios measured in one sitting: the batched environment against the loop everybody writes."""

import numpy as np
import pytest
import torch

from experiments.speed.measure import Env, Plain, rate_of, steps
from experiments.speed.sweep import Variant
from lrcontrol.envs import Task, make_task, mlp

ROWS = {"single": (None, None), "own-minibatches": (256, None), "shared-minibatch": (256, 1)}
# Seen, beside other work or not, in times the plain loop: 0.54 to 0.71, 9.8 to 14.4 and 14.2 to 17.4 by torch's steps,
# 1.8 to 2.1, 15.8 to 22.8 and 22.9 to 28.1 by compiled ones.
LEAST = {
    ("torch", "single"): 0.4,
    ("torch", "own-minibatches"): 8.0,
    ("torch", "shared-minibatch"): 10.0,
    ("compiled", "single"): 1.2,
    ("compiled", "own-minibatches"): 12.0,
    ("compiled", "shared-minibatch"): 15.0,
}

LEAST_WIDE = {None: 3.7, 1: 4.2}  # by streams; 4.7 to 6.4 and 5.5 to 6.0 were seen


@pytest.fixture
def one_thread():
    """Time on one thread: on more, whatever else the machine does moves the plain loop and the environment apart."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def times_as_fast(one, other):
    """Return how many times as many steps a second the other takes, the median of five in turn."""
    for contender in (one, other):
        contender.step()
    return np.median([rate_of(other, 0.15) / rate_of(one, 0.15) for _ in range(5)])


@pytest.mark.parametrize("way", ["compiled", "torch"])
@pytest.mark.parametrize("kind", ["single", "own-minibatches", "shared-minibatch"])
def test_an_environment_keeps_its_distance_to_a_plain_loop(one_thread, kind, way):
    """Observations and rewards are included. What is twice as slow as what was seen falls below."""
    if way == "compiled":
        pytest.importorskip("numba", reason="numba is not installed")
    rows, streams = ROWS[kind]
    task = make_task("digits-mlp")
    contenders = Plain(task, "sgd", "cpu"), Env(task, "sgd", "cpu", rows, streams, way == "compiled")
    assert times_as_fast(*contenders) > LEAST[way, kind]


def wide() -> Task:
    """Return 784-64-10 on inputs that are 0 where MNIST's images usually are: towards their borders."""
    random = np.random.default_rng(0)
    pixels = random.random((20_000, 28, 28), dtype=np.float32) * (random.random((20_000, 28, 28)) < 0.4)
    pixels[:, :4] = pixels[:, 24:] = pixels[:, :, :4] = pixels[:, :, 24:] = 0.0
    labels = torch.from_numpy(random.integers(0, 10, 20_000))
    data = torch.from_numpy(pixels.reshape(-1, 784)), labels
    return Task(name="wide", model=lambda: mlp(784, 64, 10), train=data, batch_size=32, steps=600)


@pytest.mark.parametrize("streams", LEAST_WIDE)
def test_so_does_a_wide_network_whose_steps_are_compiled(one_thread, streams):
    pytest.importorskip("numba", reason="numba is not installed")
    task = wide()
    contenders = Plain(task, "adamw", "cpu"), Env(task, "adamw", "cpu", 64, streams, True)
    assert times_as_fast(*contenders) > LEAST_WIDE[streams]


def test_probes_cost_as_much_as_a_step_again(one_thread):
    """Two forward passes are two thirds of a step's products, and with all else about as long: 2.0 was seen."""
    pytest.importorskip("numba", reason="numba is not installed")
    task = make_task("digits-mlp")
    with steps(True):
        plain, probing = (Variant(task, "cpu", features=(feature,)) for feature in ("loss_change", "probe_slope"))
    assert times_as_fast(probing, plain) < 2.7
