"""The distributions beyond digits and made-up data: convolutions, quadratics, and networks of many layers."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import lrcontrol
from lrcontrol.envs import InputError
from lrcontrol.envs.random_deep import random_deep
from lrcontrol.envs.random_fresh import random_fresh
from lrcontrol.envs.random_images import Patches, random_images
from lrcontrol.envs.random_quadratic import Line, random_quadratic
from lrcontrol.envs.random_raw import random_raw
from lrcontrol.envs.seeding import build_module


@pytest.mark.parametrize(("kernel", "stride"), [(2, 1), (3, 1), (3, 2)])
def test_patches_are_a_convolution(kernel, stride):
    torch.manual_seed(0)
    layer, x = Patches(5, 7, kernel, stride), torch.randn(4, 5, 8, 8)
    weight = layer.linear.weight.view(7, 5, kernel, kernel)
    torch.testing.assert_close(layer(x), F.conv2d(x, weight, layer.linear.bias, stride))


def test_random_images_are_digits_under_every_kind_of_small_convolutional_network():
    tasks = [random_images(index) for index in range(60)]
    modules = [list(build_module(task.model, 0).layers) for task in tasks]
    assert {sum(isinstance(part, Patches) for part in module) for module in modules} == {1, 2}
    assert {sum(isinstance(part, nn.Linear) for part in module) for module in modules} == {1, 2}
    kinds = {type(part) for module in modules for part in module}
    assert kinds == {Patches, nn.ReLU, nn.ELU, nn.GELU, nn.Tanh, nn.MaxPool2d, nn.Flatten, nn.Linear}
    for task in tasks:
        images, labels = task.train
        assert images.shape[1:] == (1, 8, 8)
        assert 1024 <= len(images) == len(labels) <= 16384
        assert 8 <= task.batch_size <= 64
        assert 80 <= task.steps <= 300


def test_random_deep_networks_have_many_layers_and_half_of_them_norms():
    tasks = [random_deep(index) for index in range(60)]
    modules = [build_module(task.model, 0) for task in tasks]
    layers = [[part for part in module if isinstance(part, nn.Linear)] for module in modules]
    hidden = [len(found) - 1 for found in layers]
    assert (min(hidden), max(hidden)) == (4, 12)
    assert all(12 <= found[0].out_features <= 48 for found in layers)
    norms = [sum(isinstance(part, nn.LayerNorm) for part in module) for module in modules]
    assert all(count in (0, of) for count, of in zip(norms, hidden, strict=True))
    assert 15 < sum(count > 0 for count in norms) < 45
    assert not any(isinstance(module[-1], nn.LayerNorm) for module in modules)


def test_random_fresh_holds_digits_that_are_hardly_seen_twice_and_some_whose_pixels_nobody_scaled():
    tasks = [random_fresh(index) for index in range(60)]
    raw = 0
    for index, task in enumerate(tasks):
        inputs, targets = task.train
        assert 8192 <= len(inputs) == len(targets) <= 32768
        assert inputs.unique(dim=0).shape == inputs.shape
        assert 64 <= task.batch_size <= 1024
        assert 100 <= task.steps <= 400
        widths = [part.out_features for part in build_module(task.model, 0) if isinstance(part, nn.Linear)]
        if index % 3 == 2:
            assert torch.equal(inputs, targets)
            assert min(widths) == widths[len(widths) // 2 - 1] <= 16 or len(widths) == 2
            assert widths[-1] == 64
        else:
            assert widths[-1] == 10
            assert 2 <= len(widths) <= 4
            raw += bool(inputs.std() > 10.0)
    assert 1 <= raw <= 14


def test_random_raw_holds_pixels_and_measurements_of_tens_and_a_first_loss_above_that_of_guessing():
    tasks = [random_raw(index) for index in range(60)]
    losses, smoothed, deep = [], 0, 0
    for index, task in enumerate(tasks):
        inputs, targets = task.train
        assert inputs.min() == 0.0
        assert 10.0 < inputs.std() < 1000.0
        assert 16 <= task.batch_size <= 1024
        assert 100 <= task.steps <= 600
        module = build_module(task.model, 0)
        widths = [part.out_features for part in module if isinstance(part, nn.Linear)]
        assert all(8 <= width <= 64 for width in widths[:-1])
        assert widths[-1] == int(targets.max()) + 1
        assert widths[-1] == 10 or index % 3 == 2
        smoothed += task.smoothing is not None
        deep += len(widths) == 3
        losses.append(task.loss(module(inputs), targets).item() / np.log(widths[-1]))
    assert np.median(losses) > 2.0
    assert max(losses) > 10.0
    assert 15 < smoothed < 45
    assert 8 < deep < 34


def test_random_quadratic_is_one_of_a_power_law_spectrum():
    for index in range(20):
        task = random_quadratic(index)
        inputs, targets = task.train
        theta = build_module(task.model, 0).theta
        dimension = len(theta)
        assert 4 <= dimension <= 128
        values = np.linalg.eigvalsh(np.cov(inputs.numpy().T))[::-1]
        slope = np.polyfit(np.log(np.arange(1, dimension + 1)), np.log(values), 1)[0]
        assert -2.6 < slope < 0.01  # eigenvalues of a sample spread a little more than those they are drawn from
        best = torch.linalg.lstsq(inputs, targets).solution
        gap = (inputs @ (theta.detach() - best)).square().mean()  # what the loss exceeds its minimum by, exactly
        line = Line(dimension, 1.0)
        line.theta = theta
        excess = task.loss(line(inputs), targets) - task.loss(inputs @ best, targets)
        torch.testing.assert_close(excess, gap, rtol=1e-2, atol=1e-6)


@pytest.mark.parametrize("draw", [random_images, random_deep, random_fresh, random_raw, random_quadratic])
def test_each_can_be_trained_and_refuses_a_negative_index(draw):
    with pytest.raises(InputError, match="index -1 is negative"):
        draw(-1)
    for index in range(4):
        task, agent = draw(index), "schedule:kind=one-cycle"
        results = lrcontrol.evaluate(task, [agent], lr0=[0.01, 0.1], runs=1, steps=80, optimizer="adamw")
        first = results.traces["loss"].to_pylist()[0]
        assert results.by_start(agent).min() < 0.95 * first, task.name
