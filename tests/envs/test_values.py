"""One number is treated as an array of one is: numpy is the reference, and what it says of NaN, 0 and infinity."""

import itertools
import math

import numpy as np
import pytest

from lrcontrol.envs import FEATURES, InputError, Settings
from lrcontrol.envs.features import LossHistory, Moment, highest_rate, observe
from lrcontrol.envs.values import greater, lesser, log10, over, root, safe_log

NUMBERS = (0.0, -0.0, 1e-300, 1e-31, 1e-13, 0.3, 1.0, 7.0, 1e300, -2.0, math.inf, -math.inf, math.nan)
ALONE = {
    safe_log: lambda x: np.log(np.maximum(x, 1e-12)),
    log10: lambda x: np.log10(np.maximum(x, 1e-30)),
    root: np.sqrt,
}
PAIRS = {over: np.divide, lesser: np.minimum, greater: np.maximum}


def same(number, array):
    assert isinstance(number, float)
    np.testing.assert_allclose(number, array, rtol=1e-15)


@pytest.mark.parametrize("function", ALONE, ids=lambda function: function.__name__)
def test_one_number(function):
    with np.errstate(all="ignore"):
        for x in NUMBERS:
            expected = ALONE[function](np.array([x]))[0]
            same(function(x), expected)
            np.testing.assert_array_equal(function(np.array([x])), expected)


@pytest.mark.parametrize("function", PAIRS, ids=lambda function: function.__name__)
def test_two_numbers(function):
    with np.errstate(all="ignore"):
        for a, b in itertools.product(NUMBERS, NUMBERS):
            expected = PAIRS[function](np.array([a]), np.array([b]))[0]
            same(function(a, b), expected)
            np.testing.assert_array_equal(function(np.array([a]), np.array([b])), expected)


def moments(rng, wrong):
    """Return the same moment and losses in numbers and in arrays of one; some are 0, negative or not finite."""

    def draw():
        wrongs = [0.0, -1.0, math.nan, math.inf, 1e-40]
        return float(rng.choice(wrongs) if rng.random() < wrong else np.exp(rng.normal()))

    measures = {name: draw() for feature in FEATURES.values() for name in feature.measures} | {"probe_factor": 1.01}
    values = {name: draw() for name in ("loss", "lr", "momentum", "begin", "level")}
    rest = {"step": int(rng.integers(50)), "steps": 50, "adaptive": True, "matrices": 7, "interval": 3}
    losses = [float(np.exp(rng.normal())) for _ in range(int(rng.integers(1, 40)))]
    for make in (float, lambda value: np.array([value])):
        history = LossHistory(make(losses[0]))
        for loss in losses[1:]:
            history.add(make(loss))
        given = {name: make(value) for name, value in values.items()}
        yield Moment(**given, **rest, measures={name: make(value) for name, value in measures.items()}), history


@pytest.mark.parametrize("wrong", [0.0, 0.3])
def test_a_run_by_itself_observes_what_a_replica_does(wrong):
    rng, names = np.random.default_rng(0), tuple(FEATURES)
    for _ in range(200):
        (number, past), (array, history) = moments(rng, wrong)
        found = observe(names, number, past)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, observe(names, array, history), rtol=3e-7, atol=1e-12)
        np.testing.assert_allclose(highest_rate(0.3, number.measures), highest_rate(0.3, array.measures)[0], rtol=1e-15)


@pytest.mark.parametrize("wrong", [-1.0, 3.0, 0.5, math.nan, math.inf])
def test_a_number_of_an_action_is_the_factor_that_it_is_among_others(wrong):
    box, few = Settings(hyperparameters=("lr", "momentum"), max_factor=3.0), Settings(multipliers=(0.5, 1.0, 1.01))
    for value in (-2.0, -1.0, -0.3, 0.0, 0.7, 1.0, 5.0):
        expected = box.factors(np.array([[value, 0.0]] * 2), 2)[1, 0]
        assert box.factor(value) == pytest.approx(expected, rel=1e-15)
    for index in (0, 1, 2):
        assert few.factor(index) == few.factor(float(index)) == few.factors(np.array([index]), 1)[0, 0]
    with pytest.raises(InputError, match=rf"action {wrong} is not a whole number in 0\.\.2"):
        few.factor(wrong)
    if not math.isfinite(wrong):
        with pytest.raises(InputError, match=f"action {wrong} is not finite"):
            box.factor(wrong)
