"""Hypergradient descent against a slow reference on one flat vector, and where its rate must go on a quadratic."""

import numpy as np
import pytest
import torch
from torch import nn

from lrcontrol.envs import InputError
from lrcontrol.hypergradient import HypergradientAdam, HypergradientSGD

CURVATURES = np.array([1.0, 2.0, 3.0, 4.0])
START = np.array([1.0, -0.5, 2.0, 0.25])


def gradient(weights, step):
    return CURVATURES * weights - np.sin(3.0 * step + np.arange(4))


def walk(make, steps, gradient=gradient, start=START):
    """Return the weights after each step, and the rates; two parameters, so that norms have to span both."""
    parts = [nn.Parameter(torch.tensor(half.copy())) for half in np.split(start, 2)]
    optimizer = make(parts)
    points, rates = [], []
    for step in range(steps):
        flat = np.concatenate([p.detach().numpy() for p in parts])
        for part, grad in zip(parts, np.split(gradient(flat, step), 2), strict=True):
            part.grad = torch.tensor(grad)
        optimizer.step()
        points.append(np.concatenate([p.detach().numpy() for p in parts]))
        rates.append(optimizer.param_groups[0]["lr"])
    return np.array(points), np.array(rates)


def slow(rate, beta, additive, adam, steps):
    """The rule, with the whole past kept and every average written out as its sum."""
    weights, grads, directions, points, rates = START, [], [], [], []
    for t in range(steps):
        grads.append(gradient(weights, t))
        if directions:
            product = sum(g * u for g, u in zip(grads[-1], directions[-1], strict=True))
            cosine = product / np.linalg.norm(grads[-1]) / np.linalg.norm(directions[-1])
            rate = max(0.0, rate + beta * product) if additive else rate + rate * beta * cosine
        direction = grads[-1]
        if adam:
            mean = sum(0.1 * 0.9 ** (t - i) * g for i, g in enumerate(grads)) / (1 - 0.9 ** (t + 1))
            square = sum(0.001 * 0.999 ** (t - i) * g**2 for i, g in enumerate(grads)) / (1 - 0.999 ** (t + 1))
            direction = mean / (np.sqrt(square) + 1e-8)
        directions.append(direction)
        weights = weights - rate * direction
        points.append(weights)
        rates.append(rate)
    return np.array(points), np.array(rates)


@pytest.mark.parametrize(("kind", "adam"), [(HypergradientSGD, False), (HypergradientAdam, True)])
@pytest.mark.parametrize(("additive", "beta"), [(True, 0.01), (False, 0.3)])
def test_it_is_the_papers_rule_step_by_step(kind, adam, additive, beta):
    points, rates = walk(lambda params: kind(params, 0.05, additive, beta), 30)
    expected = slow(0.05, beta, additive, adam, 30)
    assert points == pytest.approx(expected[0], rel=1e-9)
    assert rates == pytest.approx(expected[1], rel=1e-9)
    assert rates[0] == 0.05  # there is no gradient to compare the first one with
    assert len(set(rates)) > 10


def test_by_default_it_has_the_papers_constants():
    def constants(optimizer):
        return tuple(optimizer.param_groups[0][name] for name in ("lr", "additive", "beta"))

    weights = [nn.Parameter(torch.zeros(1))]
    assert constants(HypergradientSGD(weights)) == (1e-3, False, 0.02)
    assert constants(HypergradientSGD(weights, additive=True)) == (1e-3, True, 1e-3)
    assert constants(HypergradientAdam(weights, additive=True)) == (1e-3, True, 1e-7)


def test_on_a_straight_slope_the_multiplicative_rate_grows_geometrically():
    _, rates = walk(lambda params: HypergradientSGD(params, 1e-3, beta=0.02), 50, lambda w, t: np.ones(4))
    assert rates == pytest.approx(1e-3 * 1.02 ** np.arange(50))


def test_an_additive_rate_that_would_be_negative_is_zero_and_comes_back():
    slopes = [1.0, -1.0, -1.0, -1.0]
    points, rates = walk(
        lambda params: HypergradientSGD(params, 0.1, True, 0.05), 4, lambda w, t: np.full(4, slopes[t])
    )
    assert rates == pytest.approx([0.1, 0.0, 0.2, 0.4])  # the product of two such gradients is 4 or -4
    assert points[:, 0] - START[0] == pytest.approx([-0.1, -0.1, 0.1, 0.5])


def test_without_a_gradient_the_multiplicative_rate_stays():
    _, rates = walk(lambda params: HypergradientSGD(params, 0.1), 3, lambda w, t: np.zeros(4))
    assert rates.tolist() == [0.1] * 3


@pytest.mark.parametrize(
    ("keys", "complaint"),
    [
        ({"lr": 0.0}, "initial rate 0"),
        ({"beta": 1.0}, "beta 1 is"),
        ({"beta": -1.0, "additive": True}, "beta -1"),
    ],
)
def test_constants_that_cannot_be_used_are_named(keys, complaint):
    with pytest.raises(InputError, match=complaint):
        HypergradientSGD([nn.Parameter(torch.zeros(1))], **keys)
