"""Paired statistics against closed forms."""

import numpy as np
import pytest
from scipy.stats import t

from lrcontrol.envs import InputError
from lrcontrol.statistics import holm, lowest_holm_p, paired_difference, signed_rank_p


def test_the_interval_is_near_students_for_normal_differences():
    random = np.random.default_rng(0)
    b = random.normal(5.0, 100.0, 200)  # far apart between runs: only pairing finds the difference
    a = b + random.normal(1.0, 2.0, 200)
    mean, low, high = paired_difference(a, b)
    half = t.ppf(0.975, 199) * (a - b).std(ddof=1) / np.sqrt(200)
    assert mean == pytest.approx((a - b).mean())
    assert (low, high) == pytest.approx((mean - half, mean + half), abs=0.06)


def test_it_covers_the_truth_as_often_as_it_says():
    random = np.random.default_rng(1)
    covered = []
    for trial in range(150):
        a, b = random.normal(0.3, 1.0, 40), np.zeros(40)
        _, low, high = paired_difference(a, b, level=0.9, seed=trial)
        covered.append(low <= 0.3 <= high)
    assert 0.82 <= np.mean(covered) <= 0.96


def test_equal_differences_and_seeds():
    assert paired_difference([2.0, 3.0], [1.0, 2.0]) == (1.0, 1.0, 1.0)
    a, b = [1.0, 2.0, 4.0, 8.0], [0.0, 0.5, 1.0, 1.5]
    assert paired_difference(a, b, seed=1) == paired_difference(a, b, seed=1)


@pytest.mark.parametrize(("runs", "tests"), [(5, 1), (5, 3), (8, 2), (2, 4)])
def test_no_corrected_p_is_below_that_of_runs_that_all_agree(runs, tests):
    a = np.arange(1.0, runs + 1.0)
    assert min(holm([signed_rank_p(a, 3.0 * a)] * tests)) == pytest.approx(lowest_holm_p(runs, tests))


@pytest.mark.parametrize(("a", "b"), [([1.0], [2.0]), ([1.0, 2.0], [1.0]), ([[1.0, 2.0]], [[1.0, 2.0]])])
def test_what_is_not_paired_is_refused(a, b):
    with pytest.raises(InputError, match="two rows of one length"):
        paired_difference(a, b)
