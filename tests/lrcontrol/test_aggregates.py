"""Statistics over tasks, starts and runs against worked-out numbers, scipy and closed forms."""

import numpy as np
import pytest
from scipy.stats import binom, bootstrap, t, trim_mean

from lrcontrol.aggregates import log_area, mean_over_tasks, middle_mean, performance_profile, ranks, ratios_to_best
from lrcontrol.envs import InputError


def test_ranks_by_hand_with_ties_averaged():
    losses = np.array([[[1.0, 5.0]], [[2.0, 5.0]], [[3.0, 4.0]]])  # three agents, one start, two runs
    assert ranks(losses).tolist() == [[[1.0, 2.5]], [[2.0, 2.5]], [[3.0, 1.0]]]


def test_a_mean_over_tasks_weighs_tasks_alike_and_its_interval_is_near_students():
    random = np.random.default_rng(0)
    one = random.normal(1.0, 1.0, (1, 60))
    value, low, high = mean_over_tasks([one])
    half = t.ppf(0.975, 59) * one.std(ddof=1) / np.sqrt(60)
    assert value == pytest.approx(one.mean())
    assert (low, high) == pytest.approx((one.mean() - half, one.mean() + half), abs=0.05)
    many = random.normal(3.0, 1.0, (10, 20))
    assert mean_over_tasks([one, many]).value == pytest.approx((one.mean() + many.mean()) / 2)


def test_what_is_paired_within_a_run_stays_together():
    run = np.random.default_rng(1).normal(0.0, 10.0, 12)
    value, low, high = mean_over_tasks([np.stack([run, 4.0 - run])])  # the two starts cancel in every run
    assert (value, low, high) == pytest.approx((2.0, 2.0, 2.0))


def test_tasks_of_one_group_take_the_same_runs():
    """Twice the same numbers tell no more than once; taken for two tasks they would seem to, by the root of two."""
    run = np.random.default_rng(1).normal(0.0, 10.0, (1, 40))
    once, twice, apart = (
        mean_over_tasks(runs, groups=g) for runs, g in (([run], None), ([run] * 2, "aa"), ([run] * 2, "ab"))
    )
    assert twice == once
    assert (once.high - once.low) / (apart.high - apart.low) == pytest.approx(2**0.5, rel=0.05)
    ratios, taus = np.abs(run), [5.0]
    assert performance_profile([ratios] * 2, taus, groups="aa") == performance_profile([ratios], taus)
    assert performance_profile([ratios] * 2, taus).high < performance_profile([ratios], taus).high


def test_the_middle_mean_and_its_interval_are_scipys():
    values = np.random.default_rng(2).lognormal(0.0, 1.0, (1, 40))
    value, low, high = middle_mean([values])
    assert value == pytest.approx(np.sort(values[0])[10:30].mean())
    theirs = bootstrap(
        (values[0],), lambda x, axis: trim_mean(x, 0.25, axis=axis), n_resamples=9_999, rng=np.random.default_rng(5)
    ).confidence_interval
    assert (low, high) == pytest.approx(tuple(theirs), abs=0.06)
    assert middle_mean([[[1.0, 2.0]], [[3.0, 99.0]]]).value == 2.5


def test_intervals_where_nothing_varies_or_one_run_is_there():
    assert middle_mean([np.full((3, 5), 0.5)]) == (0.5, 0.5, 0.5)
    value, low, high = mean_over_tasks([[[2.0], [4.0]]])
    assert value == 3.0
    assert np.isnan([low, high]).all()
    assert middle_mean([[[1.0, 2.0, 4.0]]], seed=3) == middle_mean([[[1.0, 2.0, 4.0]]], seed=3)


def test_ratios_are_to_the_best_agent_and_start_of_the_same_run():
    losses = np.array([[[2.0, 9.0], [1.0, 3.0]], [[4.0, 6.0], [8.0, 12.0]]])
    assert ratios_to_best(losses).tolist() == [[[2.0, 3.0], [1.0, 1.0]], [[4.0, 2.0], [8.0, 4.0]]]


def test_a_profile_by_hand_tasks_weighed_alike():
    share, low, high = performance_profile([[[1.0, 3.0]], [[2.0, 2.0], [5.0, 1.0]]], [1.0, 2.0, 10.0])
    assert share.tolist() == [(0.5 + 0.25) / 2, (0.5 + 0.75) / 2, 1.0]
    assert (low <= share).all()
    assert (high >= share).all()
    assert (low[-1], high[-1]) == (1.0, 1.0)


def test_the_band_of_a_profile_is_the_binomials():
    ratios = np.where(np.arange(40) < 12, 1.0, 3.0)[None]
    _, low, high = performance_profile([ratios], [2.0])
    assert (low[0], high[0]) == pytest.approx(tuple(binom.ppf([0.025, 0.975], 40, 0.3) / 40), abs=0.026)


def test_the_area_is_the_mean_log_over_decades():
    assert log_area([1e-3, 1e-1], [1.0, np.e**2]) == pytest.approx(1.0)
    # a power law lr^p has the mean log loss of its middle, however the grid lies
    rates = np.array([1e-4, 3e-4, 1e-2, 0.5, 1.0])
    assert np.exp(log_area(rates, rates**0.7)) == pytest.approx((1e-2) ** 0.7)
    two_runs = log_area([0.1, 1.0, 10.0], np.array([[1.0, 2.0], [1.0, 2.0], [1.0, 2.0]]))
    assert two_runs == pytest.approx([0.0, np.log(2.0)])
    assert log_area([0.1], [3.0]) == pytest.approx(np.log(3.0))
    with pytest.raises(InputError, match="positive and rising"):
        log_area([1.0, 0.1], [1.0, 1.0])
