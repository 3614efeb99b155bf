"""Equal compute and equal tuning against closed forms and worked-out examples."""

import itertools
import math

import numpy as np
import pytest

from lrcontrol.budgets import expected_minimum, loss_at_compute, passes, runs_to_pay_off, smoothed, trials_to_match
from lrcontrol.envs import InputError


def test_a_backward_pass_counts_as_two():
    assert passes(30, 10) == 50


def test_smoothing_is_the_mean_of_the_last_losses():
    assert smoothed([4.0, 2.0, 0.0, 1.0], window=2).tolist() == [4.0, 3.0, 1.0, 0.5]
    values = np.random.default_rng(0).normal(size=(3, 50))
    assert smoothed(values)[:, 30] == pytest.approx(values[:, 11:31].mean(axis=1))


def test_a_budget_buys_steps_in_proportion_to_their_cost():
    losses = np.arange(100.0, 0.0, -1.0)  # after n steps the mean of the last 20 is 100 - (n - 1) + 9.5
    assert loss_at_compute(losses, cost=300, budget=300) == pytest.approx(10.5)
    assert loss_at_compute(losses, cost=500, budget=300) == pytest.approx(100 - 59 + 9.5)  # 60 steps
    assert loss_at_compute(losses, cost=300, budget=9000) == pytest.approx(10.5)
    assert loss_at_compute(losses, cost=300, budget=9) == pytest.approx(99.0)  # three steps are all there is
    for done in range(1, 101):
        assert loss_at_compute(losses, 300, 3.0 * done) == pytest.approx(smoothed(losses)[done - 1])
    with pytest.raises(InputError, match="less than one"):
        loss_at_compute(losses, cost=300, budget=2)


def test_the_expected_minimum_is_that_of_all_draws():
    values = [3.0, 1.0, 7.0]
    for draws in (1, 2, 3, 4):
        every = [min(drawn) for drawn in itertools.product(values, repeat=draws)]
        assert expected_minimum(values, draws) == pytest.approx(np.mean(every))


def test_trials_are_the_fewest_that_are_expected_to_do():
    # best of n of {0, 1}: 2^-n is at or below 0.1 from n = 4 on
    assert trials_to_match(0.1, [0.0, 1.0]) == 4
    assert trials_to_match(0.125, [0.0, 1.0]) == 3
    assert trials_to_match(0.5, [0.0, 1.0]) == 1
    assert trials_to_match(1e-9, [0.0, 1.0]) == 30
    assert trials_to_match(0.0, [0.0, 1.0]) == math.inf
    assert trials_to_match(-1.0, [0.0, 1.0]) == math.inf
    for losses in np.random.default_rng(0).uniform(size=(200, 9, 5)):  # the rival is its own match, rounded either way
        assert trials_to_match(float(losses.mean()), losses.mean(axis=1)) == 1
    starts = np.random.default_rng(1).uniform(size=9)
    trials = trials_to_match(starts.min() + 0.01, starts)
    assert expected_minimum(starts, trials) <= starts.min() + 0.01 < expected_minimum(starts, trials - 1)


def test_a_training_is_paid_back_by_the_trials_it_saves():
    assert runs_to_pay_off(1000.0, 10.0, 5.0) == 25  # each run saves four of ten passes
    assert runs_to_pay_off(1001.0, 10.0, 5.0) == 26
    assert runs_to_pay_off(1000.0, 10.0, 1.0) == math.inf
    assert math.isnan(runs_to_pay_off(1000.0, 10.0, math.inf))
    assert math.isnan(runs_to_pay_off(1000.0, 10.0, math.nan))
    assert runs_to_pay_off(0.0, 10.0, 1.0) == 0
    with pytest.raises(InputError, match="positive"):
        runs_to_pay_off(1.0, 0.0, 2.0)
