"""The experiment on what a sample of the parameters measures."""

import math

import pytest
from conftest import needs_mnist

from experiments.controller import sample


def test_what_is_off_is_in_logs_of_squares_and_in_cosines():
    whole = {"grad_sq": 4.0, "memory_sq": 9.0, "update_sq": 1.0, "param_sq": 2.0}
    whole |= {"grad_dot_memory": 3.0, "grad_dot_update": -1.0}
    found = whole | {"grad_sq": 1.0, "param_sq": 2.2, "grad_dot_memory": 2.4}
    off = sample.deviations(found, whole)
    logs = {"grad_sq": math.log(4.0), "memory_sq": 0.0, "update_sq": 0.0, "param_sq": math.log(1.1)}
    assert off == pytest.approx(logs | {"cosine_memory": 0.8 - 0.5, "cosine_update": 0.5})


@needs_mnist
def test_the_larger_the_sample_the_nearer_it_is():
    off = sample.run("1M", "sgd", seed=0, steps=12)
    means = [sum(entry["update_sq"] for entry in off[size]) / len(off[size]) for size in sample.SAMPLES]
    assert means[2] < means[0] < 0.2
    assert all(entry["param_sq"] < 0.05 for entry in off[20_000])
