"""A guard on ratios measured in one sitting: the batched environment against the loop everybody writes."""

import numpy as np
import pytest
import torch

from experiments.speed.measure import Env, Plain, rate_of
from lrcontrol.envs import make_task

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


@pytest.fixture
def one_thread():
    """Time on one thread: on more, whatever else the machine does moves the plain loop and the environment apart."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("way", ["compiled", "torch"])
@pytest.mark.parametrize("kind", ["single", "own-minibatches", "shared-minibatch"])
def test_an_environment_keeps_its_distance_to_a_plain_loop(one_thread, kind, way):
    """Observations and rewards are included. What is twice as slow as what was seen falls below."""
    if way == "compiled":
        pytest.importorskip("numba", reason="numba is not installed")
    rows, streams = ROWS[kind]
    task = make_task("digits-mlp")
    contenders = Plain(task, "sgd", "cpu"), Env(task, "sgd", "cpu", rows, streams, way == "compiled")
    for contender in contenders:
        contender.step()
    ratios = []
    for _ in range(5):
        plain, env = (rate_of(contender, 0.15) for contender in contenders)
        ratios.append(env / plain)
    assert np.median(ratios) > LEAST[way, kind]
