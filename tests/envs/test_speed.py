"""A guard on ratios measured in one sitting: the batched environment against the loop everybody writes."""

import numpy as np
import pytest
import torch

from experiments.speed.measure import Env, Plain, rate_of
from lrcontrol.envs import make_task


@pytest.fixture
def one_thread():
    """Time on one thread: on more, whatever else the machine does moves the plain loop and the environment apart."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("rows", "streams", "least"),
    [(None, None, 0.4), (256, None, 8.0), (256, 1, 10.0)],
    ids=["single", "own-minibatches", "shared-minibatch"],
)
def test_an_environment_keeps_its_distance_to_a_plain_loop(one_thread, rows, streams, least):
    """Seen, beside other work or not: 0.58 to 0.71, 11.4 to 14.4 and 14.6 to 17.4 times the plain loop.

    Observations and rewards are included. What is twice as slow falls below.
    """
    task = make_task("digits-mlp")
    contenders = Plain(task, "sgd", "cpu"), Env(task, "sgd", "cpu", rows, streams)
    for contender in contenders:
        contender.step()
    ratios = []
    for _ in range(5):
        plain, env = (rate_of(contender, 0.15) for contender in contenders)
        ratios.append(env / plain)
    assert np.median(ratios) > least
