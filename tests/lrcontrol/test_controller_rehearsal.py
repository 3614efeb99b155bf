"""Optimizers whose formula is not known here: their step is seen beforehand, and nothing is left of that."""

import copy
import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from experiments.controller.optimizers import Lion, final_loss
from lrcontrol import LRController
from lrcontrol.controller_measures import Measurer
from lrcontrol.controller_rates import Rates
from lrcontrol.controller_rehearsal import ELEMENTWISE, can_rehearse, rehearse


class Busy(Lion):
    """One that counts, and clears its gradients, of no use to anyone else, it thinks."""

    def __init__(self, params):
        super().__init__(params)
        self.count = 0

    def step(self, closure=None):
        self.count += 1
        super().step()
        for group in self.param_groups:
            group["steps"] = group.get("steps", 0) + 1
            for param in group["params"]:
                param.grad.zero_()


class Noisy(Lion):
    """One that draws random numbers."""

    def step(self, closure=None):
        for group in self.param_groups:
            for param in group["params"]:
                param.grad.add_(torch.randn_like(param))
        super().step()


class Nested(torch.optim.SGD):
    """One that keeps another optimizer, which would be stepped for good."""

    def __init__(self, params, lr):
        super().__init__(params, lr)
        self.inside = torch.optim.SGD(params, lr)


MAKERS = {
    "rmsprop": lambda params: torch.optim.RMSprop(params, lr=0.1, alpha=0.9, momentum=0.5),
    "nadam": lambda params: torch.optim.NAdam(params, lr=0.1),
    "adamax": lambda params: torch.optim.Adamax(params, lr=0.1),
    "adagrad": lambda params: torch.optim.Adagrad(params, lr=0.1),
    "tensor": lambda params: torch.optim.NAdam(params, lr=torch.tensor(0.1)),
    "muon": lambda params: torch.optim.Muon(params, lr=0.1),
    "lion": Lion,
    "busy": Busy,
    "noisy": Noisy,
}


def prepared(make, steps=2):
    """Return an optimizer of a matrix after some steps, with a gradient for the next."""
    random = torch.Generator().manual_seed(0)
    param = nn.Parameter(torch.randn(3, 4, generator=random))
    opt = make([param])
    for number in range(steps + 1):
        param.grad = torch.randn(3, 4, generator=random)
        if number < steps:
            opt.step()
    return opt, param


def everything(opt):
    groups = [{name: value for name, value in group.items() if name != "params"} for group in opt.param_groups]
    state = {number: dict(opt.state[param]) for number, param in enumerate(opt.param_groups[0]["params"])}
    own = getattr(opt, "count", None)
    (param,) = opt.param_groups[0]["params"]
    return copy.deepcopy([groups, state, own, param.detach(), param.grad, torch.random.get_rng_state()])


def same(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("name", MAKERS)
def test_it_sees_the_step_that_is_then_taken_and_leaves_nothing_behind(name, steps):
    opt, param = prepared(MAKERS[name], steps)
    calls = []
    opt.register_step_pre_hook(lambda *_: calls.append("before"))
    torch.optim.lr_scheduler.LambdaLR(opt, lambda step: 1.0)  # which puts a step of its own into the optimizer
    assert can_rehearse(opt)
    before, kept, gradient, lr = everything(opt), param.detach().clone(), param.grad, opt.param_groups[0]["lr"]
    update = rehearse(Rates(opt))[param]
    assert same(everything(opt), before)
    assert not calls
    assert param.grad is gradient
    assert opt.param_groups[0]["lr"] is lr
    opt.step()
    np.testing.assert_allclose(update, (kept - param.detach()) / float(lr), atol=2e-3)


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("make", ELEMENTWISE)
def test_those_that_step_each_number_by_itself_are_seen_on_a_copy(make, steps, monkeypatch):
    """Without a full rehearsal; weight decay and the ratio of a second group are in it, and pieces of the first one."""
    random = torch.Generator().manual_seed(0)
    params = [nn.Parameter(torch.randn(size, generator=random)) for size in ((40, 30), (7,))]
    opt = make([{"params": params[:1]}, {"params": params[1:], "lr": 0.02}], lr=0.1, weight_decay=0.01)
    for number in range(steps + 1):
        for param in params:
            param.grad = torch.randn(param.shape, generator=random)
        if number < steps:
            opt.step()
    monkeypatch.delattr("lrcontrol.controller_measures.rehearse")
    monkeypatch.setattr("lrcontrol.controller_packs.SIZES_CPU", (500, 100))
    measurer, kept = Measurer(Rates(opt), keeps_gradient=False), [param.detach().clone() for param in params]
    state = copy.deepcopy([dict(opt.state[param]) for param in params])
    found = dict(measurer.updates())
    (measured,) = measurer.measure(frozenset({"update_sq", "grad_dot_update"}))
    assert same([dict(opt.state[param]) for param in params], state)
    assert same([param.detach() for param in params], kept)
    grads = [param.grad.clone() for param in params]
    opt.step()
    expected = [(old - param.detach()) / 0.1 for old, param in zip(kept, params, strict=True)]
    for param, update in zip(params, expected, strict=True):
        np.testing.assert_allclose(found[param], update, atol=1e-3 * float(update.abs().max()))
    total = sum(float((update**2).sum()) for update in expected)
    assert measured["update_sq"] == pytest.approx(total, rel=1e-3)
    dots = sum(float((update * grad).sum()) for update, grad in zip(expected, grads, strict=True))
    assert measured["grad_dot_update"] == pytest.approx(dots, rel=1e-2)


def test_updates_of_a_pack_are_those_of_the_closed_form_and_scale_with_the_groups_ratios():
    """Adagrad's first step is along g / (|g| + ε), the sign; the second group's rate is a tenth of the first's."""
    params = [nn.Parameter(torch.ones(5)), nn.Parameter(torch.full((7,), 2.0))]
    opt = torch.optim.Adagrad([{"params": params[:1], "lr": 1.0}, {"params": params[1:], "lr": 0.1}])
    for param in params:
        param.grad = torch.linspace(-1.0, 1.0, param.numel()) + 0.05
    (measured,) = Measurer(Rates(opt), keeps_gradient=False).measure(frozenset({"grad_dot_update", "update_sq"}))
    sizes = [param.grad.abs().sum().item() for param in params]
    assert measured["update_sq"] == pytest.approx(5 + 7 * 0.01, rel=1e-3)
    assert measured["grad_dot_update"] == pytest.approx(sizes[0] + 0.1 * sizes[1], rel=1e-3)


def test_another_momentum_is_rehearsed_and_the_present_one_stays():
    opt, param = prepared(Lion)
    betas = opt.param_groups[0]["betas"]
    memory = opt.state[param]["exp_avg"]
    for beta in (0.0, 0.999):
        update = rehearse(Rates(opt), beta)[param]
        np.testing.assert_allclose(update, torch.sign(beta * memory + (1 - beta) * param.grad), atol=1e-3)
    assert opt.param_groups[0]["betas"] is betas


def test_a_step_that_fails_leaves_nothing_behind_either():
    class Failing(Busy):
        def step(self, closure=None):
            super().step()
            raise RuntimeError("no more memory")

    opt, _ = prepared(Failing, steps=0)
    before = everything(opt)
    with pytest.raises(RuntimeError, match="no more memory"):
        rehearse(Rates(opt))
    assert same(everything(opt), before)


def test_what_cannot_be_taken_back_is_not_stepped():
    params = [nn.Parameter(torch.ones(3))]
    for make in (torch.optim.LBFGS, torch.optim.ASGD, torch.optim.Rprop):
        assert not can_rehearse(make(params))
    opt = Nested(params, 0.1)
    assert not can_rehearse(opt)
    params[0].grad = torch.tensor([3.0, 0.0, 4.0])
    measurer = Measurer(Rates(opt), keeps_gradient=False)
    with pytest.warns(UserWarning, match="Nested keeps SGD inside"):
        (measured,) = measurer.measure(frozenset({"update_sq"}))
    assert measured["update_sq"] == pytest.approx(25.0)  # the gradient stands in
    assert measurer.measure(frozenset({"update_sq"})) == [measured]  # and once is enough


@pytest.mark.parametrize("where", ["state", "group", "nothing's state", "a value's step"])
def test_a_third_partys_with_what_cannot_be_copied_goes_on_as_it_would_alone(where):
    class Hoarder(torch.optim.SGD):
        def step(self, closure=None, **more):
            for group in self.param_groups:
                if where == "state":
                    self.state[group["params"][0]].setdefault("seen", {"count": 0})["count"] += 1
                elif where == "group":
                    group.setdefault("seen", []).append(1)
                elif where == "nothing's state":
                    self.state["seen"] = torch.zeros(1)
            super().step()

    class Asking(torch.optim.SGD):
        def step(self, loss):
            super().step()

    opt, param = prepared(lambda params: (Asking if "value" in where else Hoarder)(params, lr=0.1), steps=0)
    if where == "group":
        opt.param_groups[0]["seen"] = []
    controller = LRController(opt, "learned", total_steps=10)
    for _ in range(3):
        controller.step(1.0)
        opt.step(1.0) if "value" in where else opt.step()
    if where == "state":
        assert opt.state[param]["seen"] == {"count": 3}
    if where == "group":
        assert opt.param_groups[0]["seen"] == [1, 1, 1]


def test_where_a_rehearsal_fails_the_gradient_stands_in_from_then_on():
    class Failing(torch.optim.SGD):
        def step(self, closure=None):
            raise RuntimeError("give me a closure")

    opt, param = prepared(lambda params: Failing(params, lr=0.1), steps=0)
    measurer = Measurer(Rates(opt), keeps_gradient=False)
    with pytest.warns(UserWarning, match="give me a closure"):
        (measured,) = measurer.measure(frozenset({"update_sq"}))
    assert measured["update_sq"] == pytest.approx(float(param.grad.square().sum()), rel=1e-5)
    assert measurer.measure(frozenset({"update_sq"})) == [measured]


@pytest.mark.parametrize("make", ELEMENTWISE)
def test_parameters_that_are_one_number_stand_beside_vectors(make):
    for order in (1, -1):
        params = [nn.Parameter(torch.tensor(2.0)), nn.Parameter(torch.ones(3))][::order]
        opt = make(params, lr=0.1)
        for _ in range(2):
            for param in params:
                param.grad = torch.full_like(param, 0.5)
            opt.step()
        found, kept = Measurer(Rates(opt), False).updates(), [param.detach().clone() for param in params]
        opt.step()
        for (_, update), old, param in zip(found, kept, params, strict=True):
            np.testing.assert_allclose(update, (old - param.detach()) / 0.1, rtol=1e-2)


def test_small_steps_are_not_rounded_away_and_adafactor_steps_as_short_as_ever():
    class Mine(torch.optim.SGD):
        pass

    opt, param = prepared(lambda params: Mine(params, lr=1e-3), steps=0)
    param.grad.mul_(1e-4)
    np.testing.assert_allclose(rehearse(Rates(opt))[param], param.grad, rtol=0.02, atol=1e-6)
    opt, param = prepared(lambda params: torch.optim.Adafactor(params, lr=1e-3), steps=100)
    kept, update = param.detach().clone(), rehearse(Rates(opt))[param]
    opt.step()
    np.testing.assert_allclose(update, (kept - param.detach()) / 1e-3, atol=1e-2 * float(update.abs().max()))
    assert not can_rehearse(torch.optim.Adafactor([nn.Parameter(torch.ones(3, 3, dtype=torch.bfloat16))]))


@pytest.mark.parametrize("make", [torch.optim.RMSprop, torch.optim.NAdam, torch.optim.Adamax, torch.optim.Muon, Lion])
def test_the_learned_agent_trains_with_optimizers_it_has_never_seen(make):
    """With the gradient in the place of their steps it started them at rates that left them at guessing, 2.3."""
    digits = load_digits()
    data = torch.tensor(digits.data / 16.0, dtype=torch.float32), torch.tensor(digits.target)
    constant = min(final_loss(make, "constant", lr, 0, 200, data) for lr in (1e-3, 3e-3, 1e-2, 3e-2))
    assert final_loss(make, "learned", 1e-6, 0, 200, data) < 1.6 * constant


@pytest.mark.parametrize("wrong", ["a step that fails", "an optimizer inside", "a loss that is no number"])
def test_a_warning_points_at_the_line_that_called_the_controller(wrong):
    class Failing(torch.optim.SGD):
        def step(self, closure=None):
            raise RuntimeError("give me a closure")

    makes = {"a step that fails": Failing, "an optimizer inside": Nested}
    opt, _ = prepared(lambda params: makes.get(wrong, torch.optim.SGD)(params, lr=0.1), steps=0)
    controller = LRController(opt, "learned", total_steps=10)
    with pytest.warns(UserWarning, match="closure|keeps SGD inside|left out") as caught:
        controller.step(math.nan if "loss" in wrong else 1.0)
    assert [warning.filename for warning in caught] == [__file__]
