"""Polyak steps and the Armijo search against a slow reference on one flat vector, and on quadratics in closed form."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from lrcontrol.envs import InputError
from lrcontrol.line_search import SPS, Armijo

CURVATURES = np.array([1.0, 2.0, 3.0, 4.0])
START = np.array([1.0, -0.5, 2.0, 0.25])


def loss_of(weights, step):
    """A quadratic whose minimum moves, so that every minibatch has another; its lowest loss is 0."""
    return 0.5 * float(np.sum(CURVATURES * (weights - np.sin(3.0 * step + np.arange(4))) ** 2))


def gradient_of(weights, step):
    return CURVATURES * (weights - np.sin(3.0 * step + np.arange(4)))


def walk(make, steps, searches, loss_of=loss_of, gradient_of=gradient_of, start=START):
    """Return the weights after each step, the rates, and how often each step asked for the loss."""
    parts = [nn.Parameter(torch.tensor(half.copy())) for half in np.array_split(start, 2)]
    optimizer = make(parts)
    points, rates, trials = [], [], []

    def weights():
        return np.concatenate([p.detach().numpy() for p in parts])

    for step in range(steps):
        trials.append(0)

        def closure():
            trials[-1] += 1
            return loss_of(weights(), step)  # noqa: B023

        for part, grad in zip(parts, np.array_split(gradient_of(weights(), step), 2), strict=True):
            part.grad = torch.tensor(grad)
        optimizer.step(*([closure] if searches else []), loss=loss_of(weights(), step))
        points.append(weights())
        rates.append(optimizer.param_groups[0]["lr"])
    return np.array(points), np.array(rates), trials


def test_polyak_steps_are_the_papers_rule_step_by_step():
    points, rates, _ = walk(lambda params: SPS(params, per_epoch=5, lr=0.01), 60, searches=False)
    weights, bound, held = START, 0.01, 0
    for step in range(60):
        bound *= 2.0 ** (1.0 / 5.0)
        g = gradient_of(weights, step)
        polyak = loss_of(weights, step) / (0.5 * np.dot(g, g))
        held += polyak > bound
        bound = min(polyak, bound)
        weights = weights - bound * g
        assert rates[step] == pytest.approx(bound, rel=1e-9)
        assert points[step] == pytest.approx(weights, rel=1e-9)
    assert 10 < held < 50  # both halves of the minimum have decided


def test_with_c_of_one_half_a_polyak_step_is_newtons_on_one_dimension():
    """L = h x² / 2 and g = h x give L / (c g²) = 1/h for c = 1/2."""
    points, rates, _ = walk(
        lambda params: SPS(params, per_epoch=1),
        1,
        searches=False,
        loss_of=lambda w, t: 0.5 * 8.0 * float(w @ w),
        gradient_of=lambda w, t: 8.0 * w,
        start=np.array([3.0, 0.0]),
    )
    assert rates[0] == pytest.approx(1.0 / 8.0)
    assert points[0] == pytest.approx(np.zeros(2), abs=1e-15)


def test_a_polyak_rate_grows_by_gamma_in_an_epoch_where_the_loss_lets_it():
    high = {"loss_of": lambda w, t: 1e9, "gradient_of": lambda w, t: np.ones(4)}
    _, rates, _ = walk(lambda params: SPS(params, per_epoch=7, gamma=3.0), 14, searches=False, **high)
    assert rates[[6, 13]] == pytest.approx([3.0, 9.0])
    flat = {"loss_of": lambda w, t: -1.0, "gradient_of": lambda w, t: np.ones(4)}
    assert walk(lambda params: SPS(params, per_epoch=7), 2, searches=False, **flat)[1].tolist() == [0.0, 0.0]


def test_at_a_stationary_point_nothing_moves_and_nothing_breaks():
    still = {"loss_of": lambda w, t: 1.0, "gradient_of": lambda w, t: np.zeros(4)}
    for kind in (SPS, Armijo):
        points, _, trials = walk(lambda params: kind(params, per_epoch=3), 2, kind is Armijo, **still)  # noqa: B023
        assert points.tolist() == [START.tolist()] * 2
    assert trials == [1, 1]


def test_the_line_search_is_the_papers_rule_step_by_step():
    points, rates, trials = walk(lambda params: Armijo(params, per_epoch=5), 40, searches=True)
    weights, rate = START, 1.0
    for step in range(40):
        g, here = gradient_of(weights, step), loss_of(weights, step)
        candidates = rate * 2.0**0.2 * 0.9 ** np.arange(100)
        good = [loss_of(weights - eta * g, step) <= here - 0.1 * eta * np.dot(g, g) for eta in candidates]
        rate = candidates[good.index(True)]
        weights = weights - rate * g
        assert trials[step] == good.index(True) + 1
        assert rates[step] == pytest.approx(rate, rel=1e-9)
        assert points[step] == pytest.approx(weights, rel=1e-9)
    assert len(set(trials)) > 2


@pytest.mark.parametrize("c", [0.1, 0.5])
def test_on_a_quadratic_it_accepts_the_first_rate_below_its_closed_form(c):
    """For L = h ‖w‖² / 2 the test holds exactly for η ≤ 2 (1 − c) / h."""
    _, rates, trials = walk(
        lambda params: Armijo(params, per_epoch=1, gamma=1.0, c=c),
        1,
        searches=True,
        loss_of=lambda w, t: 0.5 * 8.0 * float(w @ w),
        gradient_of=lambda w, t: 8.0 * w,
    )
    shrinks = math.ceil(math.log(2.0 * (1.0 - c) / 8.0) / math.log(0.9))
    assert (rates[0], trials[0]) == (pytest.approx(0.9**shrinks), shrinks + 1)


def test_a_trial_that_is_no_number_is_refused_and_the_search_ends():
    broken = {"loss_of": lambda w, t: math.nan if np.any(w != START) else 1.0, "gradient_of": lambda w, t: np.ones(4)}
    _, rates, trials = walk(lambda params: Armijo(params, per_epoch=1, gamma=1.0), 1, searches=True, **broken)
    assert (rates[0], trials[0]) == (pytest.approx(0.9**99), 100)


@pytest.mark.parametrize(
    ("kind", "keys", "complaint"),
    [
        (SPS, {"lr": 0.0}, "sps: lr 0"),
        (SPS, {"gamma": 0.5}, "gamma 0.5 1 or more"),
        (SPS, {"per_epoch": 0}, "per_epoch 0"),
        (Armijo, {"shrink": 1.0}, "shrink 1 is not between"),
        (Armijo, {"c": 1.0}, "c 1 is not below 1"),
    ],
)
def test_constants_that_cannot_be_used_are_named(kind, keys, complaint):
    with pytest.raises(InputError, match=complaint):
        kind([nn.Parameter(torch.zeros(1))], **{"per_epoch": 1, **keys})
