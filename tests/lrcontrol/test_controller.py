"""The controller on torch optimizers: what it reads and writes, how it resumes, records, and what it refuses."""

import csv
import json
import math
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from test_controller_parity import MULTIPLIERS, exact_loss, random_agent
from torch import nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from experiments.controller.optimizers import Lion
from lrcontrol.agents import make_agent
from lrcontrol.agents.schedule import ScheduleAgent
from lrcontrol.agents.trained import needs_of
from lrcontrol.controller import LRController
from lrcontrol.controller_measures import Measurer
from lrcontrol.controller_rates import Rates
from lrcontrol.controller_record import plot_record, read_schedule, replay_schedule
from lrcontrol.controller_safety import Rollback
from lrcontrol.envs import InputError, Schedule, Settings

ALL_MEASURES = frozenset({"grad_sq", "grad_dot_memory", "memory_sq", "grad_dot_update", "update_sq", "param_sq"})


def data(seed=0, rows=64):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 8, generator=generator)
    return x, (x.sum(dim=1) > 0).long()


def model(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 2))


def run(net, opt, controller, steps, first=0, on_loss=lambda step, loss: loss):
    """Train on minibatches that depend on the step alone."""
    losses = []
    for step in range(first, first + steps):
        x, y = data(step)
        opt.zero_grad()
        loss = on_loss(step, exact_loss(net(x), y))
        loss.backward()
        controller.step(loss, closure=lambda x=x, y=y: exact_loss(net(x), y))
        opt.step()
        losses.append(float(loss.detach()))
    return losses


def small(lr=0.1, **arguments):
    net = model()
    opt = torch.optim.SGD(net.parameters(), lr=lr, **arguments)
    return net, opt


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "sgd-momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, dampening=0.9),
    "sgd-torch": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "sgd-nesterov": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "sgd-decay": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.5, dampening=0.1, weight_decay=0.1),
    "sgd-maximize": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, maximize=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "adam-l2": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.1),
    "adam-amsgrad": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True, eps=1e-3),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "adamw-single": lambda p: torch.optim.AdamW(p, lr=0.01, foreach=False, maximize=True),
}
CLIMBED = {
    "sgd": lambda p, **climb: torch.optim.SGD(p, lr=0.01, **climb),
    "sgd-momentum": lambda p, **climb: torch.optim.SGD(p, lr=0.01, momentum=0.9, dampening=0.9, **climb),
    "adamw": lambda p, **climb: torch.optim.AdamW(p, lr=1e-3, **climb),
    "rmsprop": lambda p, **climb: torch.optim.RMSprop(p, lr=1e-3, **climb),
    "nadam": lambda p, **climb: torch.optim.NAdam(p, lr=1e-3, **climb),
}
UNKNOWN = {
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01),
    "rmsprop-momentum": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.9),
    "nadam": lambda p: torch.optim.NAdam(p, lr=0.01),
    "radam": lambda p: torch.optim.RAdam(p, lr=0.01),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.01),
    "lion": lambda p: Lion(p, lr=0.01),
    "muon": lambda p: torch.optim.Muon([q for q in p if q.ndim == 2], lr=0.01),
}


@pytest.mark.parametrize("agent", ["learned", "learned:momentum=false", "hillclimb:factor=1.5"])
@pytest.mark.parametrize("name", CLIMBED)
def test_climbing_the_negative_loss_is_the_same_run_as_lowering_the_loss(name, agent):
    """The loss that ``step`` is told is the one to be lowered, either way."""
    rates = []
    for sign in (1.0, -1.0):
        net = model()
        opt = CLIMBED[name](net.parameters(), maximize=sign < 0.0)
        controller = LRController(opt, agent, total_steps=12)
        for step in range(12):
            x, y = data(step)
            opt.zero_grad()
            loss = exact_loss(net(x), y)
            (sign * loss).backward()
            controller.step(loss.detach(), closure=lambda x=x, y=y, net=net: exact_loss(net(x), y))
            opt.step()
        rates.append([*controller.record["lr"]])
    assert rates[0] == pytest.approx(rates[1], rel=1e-6)
    assert len(set(rates[0])) > 6


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_update_is_what_the_optimizer_then_steps_along(name):
    net = model()
    opt = OPTIMIZERS[name](net.parameters())
    measurer = Measurer(Rates(opt), True)
    for step in range(6):
        x, y = data(step)
        opt.zero_grad()
        exact_loss(net(x), y).backward()
        (measures,) = measurer.measure(ALL_MEASURES)
        expected = torch.cat([update.reshape(-1) for _, update in measurer.updates()]).double()
        before = torch.cat([p.detach().reshape(-1) for p in net.parameters()]).double()
        g = torch.cat([p.grad.reshape(-1) for p in net.parameters()]).double()
        g = -g if opt.param_groups[0]["maximize"] else g  # the gradient of what is lowered
        measurer.remember_gradient()
        opt.step()
        after = torch.cat([p.detach().reshape(-1) for p in net.parameters()]).double()
        moved = (before - after) / opt.param_groups[0]["lr"]
        torch.testing.assert_close(expected, moved, rtol=1e-3, atol=2e-5 * float(moved.abs().max()))
        assert measures["update_sq"] == pytest.approx(float(expected @ expected), rel=1e-5)
        assert measures["grad_dot_update"] == pytest.approx(float(g @ expected), rel=1e-4, abs=1e-7)
        assert measures["grad_sq"] == pytest.approx(float(g @ g), rel=1e-5)
        assert measures["param_sq"] == pytest.approx(float(before @ before), rel=1e-5)
        assert math.isnan(measures["memory_sq"]) == (step == 0)
    assert bool(measurer.last_gradient) == (name == "sgd")


@pytest.mark.parametrize("name", [*OPTIMIZERS, *UNKNOWN])
@pytest.mark.parametrize("agent", ["hillclimb:factor=1.5", "trained"])
def test_every_optimizer_can_be_controlled(name, agent):
    net = model()
    opt = (OPTIMIZERS | UNKNOWN)[name](list(net.parameters()))
    start = opt.param_groups[0]["lr"]
    controller = LRController(opt, random_agent() if agent == "trained" else agent, total_steps=20)
    run(net, opt, controller, 8)
    assert opt.param_groups[0]["lr"] == controller.lr != start
    assert all(math.isfinite(value) for value in controller.observation.values())


def test_large_and_small_parameters_are_measured_whole_and_sparse_or_missing_gradients_do_not_matter():
    embedding = nn.Embedding(40_000, 8, sparse=True)
    unused, big = nn.Parameter(torch.ones(3)), nn.Parameter(torch.full((300_000,), 0.5))
    opt = torch.optim.SGD([{"params": [*embedding.parameters(), unused]}, {"params": [big], "lr": 0.3}], lr=0.1)
    loss = embedding(torch.tensor([1, 1, 7])).sum() + big.sum()
    loss.backward()
    (measures,) = Measurer(Rates(opt), False).measure(ALL_MEASURES)
    g = torch.cat([embedding.weight.grad.to_dense().reshape(-1), big.grad]).double()
    assert measures["grad_sq"] == pytest.approx(float(g @ g), rel=1e-6)
    assert measures["grad_dot_update"] == pytest.approx(float(g[:320_000] @ g[:320_000]) + 3.0 * 300_000, rel=1e-6)
    controller = LRController(opt, random_agent(), total_steps=5)
    controller.step(loss)
    opt.step()
    assert controller.get_last_lr()[1] == pytest.approx(3.0 * controller.get_last_lr()[0])


@pytest.mark.parametrize("name", ["sgd", "sgd-momentum", "adamw"])
def test_a_sample_of_a_large_model_measures_about_the_same(name):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(8, 1000), nn.Tanh(), nn.Linear(1000, 600), nn.Tanh(), nn.Linear(600, 2))
    opt = OPTIMIZERS[name](net.parameters())
    whole, sampled = Measurer(Rates(opt), True), Measurer(Rates(opt), True, sample=20_000)
    for step in range(3):
        x, y = data(step)
        opt.zero_grad()
        exact_loss(net(x), y).backward()
        (expected,), (found,) = whole.measure(ALL_MEASURES), sampled.measure(ALL_MEASURES)
        whole.remember_gradient()
        sampled.remember_gradient()
        opt.step()
    for measure in ("grad_sq", "update_sq", "param_sq", "memory_sq"):
        assert found[measure] == pytest.approx(expected[measure], rel=0.1)
    assert found["grad_dot_update"] == pytest.approx(expected["grad_dot_update"], rel=0.2)
    _, opt = small()
    with pytest.raises(InputError, match="sample 0"):
        LRController(opt, sample=0)


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("agent", ["learned", "hillclimb:factor=2", "schedule:kind=cosine,start=0.1", "trained"])
def test_without_a_gradient_nothing_is_decided_until_there_is_one(agent, zeros):
    """Whoever calls after ``zero_grad`` is told so; the next call with a gradient decides as if it were the first."""
    rates = []
    for calls in (1, 0):
        net, opt = small()
        controller = LRController(opt, random_agent() if agent == "trained" else agent, total_steps=5)
        for param in net.parameters():
            param.grad = torch.zeros_like(param) if zeros else None
        if calls:
            other = " other than 0" if zeros else ""
            with pytest.warns(UserWarning, match=rf"no parameter has a gradient{other}, so.* before zero_grad"):
                controller.step(1.0, closure=lambda: 1.0)
            assert controller.observation == {}
            assert controller.last_action is None
            controller.step(1.0, closure=lambda: 1.0)  # once is enough
            controller._decider.step_count, controller._decider.memory.history = 0, None
        run(net, opt, controller, 3)
        rates.append(controller.lr)
    assert rates[0] == rates[1]


def test_gradients_are_there_again_after_a_closure_that_begins_with_zero_grad():
    net, opt = small()
    controller = LRController(opt, "hillclimb:factor=2")
    x, y = data(0)
    nn.functional.cross_entropy(net(x), y).backward()
    before = [param.grad.clone() for param in net.parameters()]

    def closure():
        opt.zero_grad()
        return nn.functional.cross_entropy(net(x), y)

    controller.step(2.0, closure=closure)
    for param, gradient in zip(net.parameters(), before, strict=True):
        assert torch.equal(param.grad, gradient)
    with pytest.raises(InputError, match=r"closure calls backward\(\)"):
        controller.step(2.0, closure=lambda: nn.functional.cross_entropy(net(x), y).backward())


@pytest.mark.parametrize(
    "loss",
    [0.5, torch.tensor(0.5), torch.tensor([0.5]), np.float32(0.5), np.array(0.5), np.array([0.5]), np.array([[0.5]])],
)
def test_a_loss_is_any_one_number(loss):
    _, opt = small()
    controller = LRController(opt, "bandit")
    controller.step(loss)
    assert controller.record["loss"] == [0.5]


@pytest.mark.parametrize(
    ("agent", "per_group"),
    [("learned", False), ("learned", True), ("trained", False), ("trained", True), ("hillclimb:factor=2", False)],
)
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_minibatches_whose_gradient_is_zero_decide_nothing(agent, optimizer, per_group):
    """Margins that are met, say: the rate stands, but for the schedule on top, and goes on from there."""
    agent = random_agent() if agent == "trained" else agent
    net, _ = small()
    opt = optimizer([{"params": [param]} for param in net.parameters()], lr=0.1)
    controller = LRController(opt, agent, total_steps=50, per_group=per_group)
    run(net, opt, controller, 5)
    level, momentum, seen = [*controller._decider.memory.level], controller.momentum, controller.observation
    for _ in range(10):
        for param in net.parameters():
            param.grad = torch.zeros_like(param)
        controller.step(0.0, closure=lambda: 0.0)
        assert controller._decider.memory.level == level
        assert controller.momentum == momentum
        assert controller.observation == seen
    assert controller.step_count == 15
    run(net, opt, controller, 1)
    assert controller.observation != seen


@pytest.mark.parametrize("loss", [torch.ones(2), np.ones((1, 2)), "high", [1.0, 2.0]])
def test_what_is_no_one_number_is_refused(loss):
    _, opt = small()
    shape = f" of shape {re.escape(str(tuple(loss.shape)))}" if hasattr(loss, "shape") else ""
    with pytest.raises(InputError, match=rf"the loss is a \w+{shape}: give one number"):
        LRController(opt, "bandit").step(loss)


def test_whoever_never_gives_a_loss_is_told_so_once():
    _, opt = small()
    controller = LRController(opt, total_steps=20)
    for _ in range(9):
        controller.step()
    with pytest.warns(UserWarning, match="10 times without a loss"):
        controller.step()
    controller.step()
    _, opt = small()
    controller = LRController(opt, "constant")
    controller.step(1.0)
    for _ in range(20):  # as a framework may that steps its schedulers itself
        controller.step()


class Outer(torch.optim.Optimizer):
    """A wrapper, such as those of sharpness-aware minimisation, which keeps an optimizer under some name."""

    def __init__(self, params, inner, name):
        super().__init__(params, {"lr": inner.param_groups[0]["lr"]})
        setattr(self, name, inner)
        self.param_groups = inner.param_groups

    def step(self, closure=None):
        return next(value for value in vars(self).values() if isinstance(value, torch.optim.Optimizer)).step()


def test_a_wrapper_is_seen_through_or_warned_of():
    rates = []
    for name in (None, "optimizer", "base_optimizer", "kept"):
        net, _ = small()
        inner = torch.optim.AdamW(net.parameters(), lr=0.1)
        opt = inner if name is None else Outer(net.parameters(), inner, name)
        controller = LRController(opt, total_steps=20)
        if name == "kept":
            with pytest.warns(UserWarning, match="Outer keeps AdamW inside"):
                run(net, opt, controller, 1)
        run(net, opt, controller, 5)
        rates.append(controller.lr)
    assert rates[0] == rates[1] == rates[2] != rates[3]


def test_it_is_a_scheduler_that_does_nothing_without_a_loss():
    _, opt = small()
    controller = LRController(opt, "hillclimb")
    assert isinstance(controller, ReduceLROnPlateau)
    assert isinstance(controller, LRScheduler)
    controller.step()
    controller.step(None)
    assert controller.get_last_lr() == [0.1] == [opt.param_groups[0]["lr"]]
    assert controller.step_count == 0


def test_the_action_sets_the_rate_of_the_step_to_come_and_the_interval_is_kept():
    net, opt = small()
    controller = LRController(opt, "hillclimb:factor=2", interval=3)
    run(net, opt, controller, 9)
    rates = controller.record["lr"]
    assert rates[0] in (0.05, 0.2)
    assert rates[0] == rates[1] == rates[2] != rates[3] == rates[4] == rates[5] != rates[6]
    assert controller.forward_passes == 6
    assert set(controller.logs()) == {"lr", "momentum", "probe_slope"}


def test_groups_keep_their_ratios_and_tensors_are_written_in_place():
    net = model()
    first, second = torch.tensor(0.1), torch.tensor(0.02)
    groups = [{"params": net[0].parameters(), "lr": first}, {"params": net[2].parameters(), "lr": second}]
    opt = torch.optim.AdamW(groups)
    controller = LRController(opt, "hillclimb:factor=2", max_lr=0.5)
    run(net, opt, controller, 5)
    assert opt.param_groups[0]["lr"] is first
    assert opt.param_groups[1]["lr"] is second
    assert float(first) == pytest.approx(controller.lr)
    assert float(second) == pytest.approx(0.2 * float(first))
    added = nn.Parameter(torch.zeros(2))
    opt.add_param_group({"params": [added], "lr": torch.tensor(3.0 * controller.lr)})
    run(net, opt, controller, 2)
    assert controller.get_last_lr()[2] == pytest.approx(3.0 * controller.lr)


def test_limits_hold():
    net, opt = small()
    controller = LRController(opt, "bandit:arms=multipliers,every=1", min_lr=0.08, max_lr=0.12)
    run(net, opt, controller, 30)
    rates = controller.record["lr"]
    assert min(rates) == 0.08
    assert max(rates) == 0.12


@pytest.mark.parametrize(("momentum", "dampening"), [(0.9, 0.9), (0.9, 0.0), (0.5, 0.1), (0.0, 0.0)])
def test_momentum_is_moved_and_a_steady_gradient_ends_up_in_the_step_as_often_as_before(momentum, dampening):
    net, opt = small(momentum=momentum, dampening=dampening)
    controller = LRController(opt, "hillclimb:factor=1.5", hyperparameters=("lr", "momentum"))
    run(net, opt, controller, 3)
    group = opt.param_groups[0]
    assert group["momentum"] == pytest.approx(controller.momentum) != momentum
    parameter, torch_rule = torch.nn.Parameter(torch.zeros(1)), torch.optim.SGD
    sums = []
    for beta, damped in ((momentum, dampening), (group["momentum"], group["dampening"])):
        other = torch_rule([parameter], lr=0.0, momentum=beta, dampening=damped)
        for _ in range(400):
            parameter.grad = torch.ones(1)
            other.step()
        buffer = other.state[parameter].get("momentum_buffer")
        sums.append(1.0 if buffer is None else float(buffer))
    assert sums[1] == pytest.approx(sums[0], rel=1e-4)
    assert controller.forward_passes == 9


def test_a_schedule_multiplies_a_recursive_rate_and_replaces_an_anchored_agents():
    net, opt = small()
    warm = LRController(opt, "bandit:arms=multipliers,seed=1", base_schedule=Schedule("warm-up", warmup=4))
    assert warm.get_last_lr() == pytest.approx([0.025])
    run(net, opt, warm, 6)
    net, opt = small()
    bare = LRController(opt, "bandit:arms=multipliers,seed=1")
    run(net, opt, bare, 3)
    assert warm.record["lr"][:3] == pytest.approx(np.multiply(bare.record["lr"], (0.25, 0.5, 0.75)))
    net, opt = small()
    anchored = LRController(opt, "constant", base_schedule="cosine", total_steps=10)
    with pytest.warns(UserWarning, match="step 11 of 10: agent 'constant' was told that the run ends here") as said:
        run(net, opt, anchored, 12)
    assert len(said) == 1
    expected = [0.05 * (1.0 + math.cos(math.pi * min(t, 9) / 10)) for t in range(12)]
    assert anchored.record["lr"] == pytest.approx(expected)


def test_without_total_steps_a_hundred_more_are_said_to_be_left_and_it_is_said_that_they_are():
    net, opt = small()
    with pytest.warns(UserWarning, match="100 more are left, up to the 400th of 500"):
        controller = LRController(opt, random_agent())
    for step, share in enumerate((1.0, 100 / 101, 100 / 102)):
        run(net, opt, controller, 1, step)
        assert controller.observation["budget_left"] == pytest.approx(share)
    with pytest.raises(InputError, match="give total_steps"):
        LRController(opt, "schedule:kind=cosine")


def test_an_agent_that_was_never_told_the_number_of_steps_is_not_told_it_here():
    net, opt = small()
    controller = LRController(opt, random_agent(knows_budget=False), total_steps=10)  # where a warning is an error
    run(net, opt, controller, 12)
    assert controller.observation["budget_left"] == pytest.approx(100 / 111)
    for given in ({}, {"total_steps": 10}):
        with pytest.raises(InputError, match="'cosine' depends on the length, which agent 'random' is never told"):
            LRController(opt, random_agent(knows_budget=False), base_schedule="cosine", **given)
    LRController(opt, random_agent(knows_budget=False), base_schedule=Schedule("inverse-sqrt", warmup=5))


def test_the_settings_of_a_training_that_are_not_the_defaults_are_kept_in_the_agents_folder(tmp_path):
    trained_with = Settings(knows_budget=False, lr_limits=(1e-3, 0.5), max_factor=1.3)
    needs = needs_of(trained_with)
    assert needs["knows_budget"] is False
    assert not {"knows_budget", "lr_limits"} & needs_of(Settings()).keys()
    random_agent(**needs).save(tmp_path)
    assert make_agent(str(tmp_path)).needs == needs


def test_an_agent_that_does_not_count_on_the_budget_may_go_on_past_it():
    net, opt = small()
    controller = LRController(opt, "hillclimb:factor=2", total_steps=2)
    run(net, opt, controller, 4)  # where a warning is an error
    assert len(set(controller.record["lr"])) == 4


def test_a_limit_above_the_rate_it_was_made_with_holds_for_an_agent_that_finds_its_start():
    net, opt = small(lr=1e-6)
    controller = LRController(opt, "learned", total_steps=20, min_lr=1e-3)
    run(net, opt, controller, 20)
    assert min(controller.record["lr"]) == 1e-3 < max(controller.record["lr"])


def test_an_optimizer_that_lost_a_group_is_named():
    first, second = model(), model(1)
    opt = torch.optim.SGD([{"params": first.parameters()}, {"params": second.parameters()}], lr=0.1)
    controller = LRController(opt, "constant")
    controller.step(1.0)
    opt.param_groups.pop()
    with pytest.raises(InputError, match="1 of its 2 parameter groups left"):
        controller.step(1.0)


def test_another_scheduler_that_undoes_the_controller_is_noticed():
    net, opt = small()
    other = torch.optim.lr_scheduler.LambdaLR(opt, lambda step: 1.0)
    controller = LRController(opt, "hillclimb")
    run(net, opt, controller, 1)
    other.step()
    with pytest.warns(UserWarning, match="another scheduler"):
        run(net, opt, controller, 1, first=1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("agent", ["hillclimb:factor=2", "trained"])
def test_parameters_of_other_types_are_controlled_too(dtype, agent):
    net = model().to(dtype)
    opt = torch.optim.AdamW(net.parameters(), lr=0.01)
    controller = LRController(opt, random_agent() if agent == "trained" else agent, total_steps=5)
    for step in range(3):
        x, y = data(step)
        opt.zero_grad()
        loss = nn.functional.cross_entropy(net(x.to(dtype)).float(), y)
        loss.backward()
        controller.step(loss, closure=lambda x=x, y=y: nn.functional.cross_entropy(net(x.to(dtype)).float(), y))
        opt.step()
    assert controller.lr != 0.01


def test_a_probe_leaves_parameters_and_random_state_as_they_were():
    net = nn.Sequential(nn.Linear(8, 16), nn.Dropout(0.5), nn.Linear(16, 2))
    opt = torch.optim.AdamW(net.parameters(), lr=0.01)
    controller = LRController(opt, "hillclimb:factor=2,momentum=true")
    x, y = data()
    seen = []

    def closure():
        seen.append(float(exact_loss(net(x), y)))
        return seen[-1]

    for _ in range(2):
        opt.zero_grad()
        loss = exact_loss(net(x), y)
        loss.backward()
        before = [p.detach().clone() for p in net.parameters()]
        state = torch.get_rng_state()
        controller.step(loss, closure=closure)
        assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
        assert torch.equal(state, torch.get_rng_state())
        opt.step()
    controller = LRController(torch.optim.SGD(net.parameters(), lr=1e-12), "hillclimb:factor=1.0001")
    exact_loss(net(x), y).backward()
    controller.step(1.0, closure=closure)
    assert seen[-1] == seen[-2]  # the same dropout masks, and steps too small to see

    def broken():
        raise RuntimeError("out of memory")

    before = [p.detach().clone() for p in net.parameters()]
    with pytest.raises(RuntimeError, match="out of memory"):
        controller.step(1.0, closure=broken)
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))


@pytest.mark.parametrize("agent", ["hillclimb:factor=2", "hillclimb:factor=2,momentum=true"])
def test_a_rate_whose_steps_float32_cannot_see_is_raised_all_the_same(agent):
    net, opt = small(lr=1e-9, momentum=0.9, dampening=0.9)
    controller = LRController(opt, agent)
    for step in range(60):
        x, y = data(step)
        opt.zero_grad()
        loss = nn.functional.cross_entropy(net(x), y)
        loss.backward()
        controller.step(loss, closure=lambda x=x, y=y: nn.functional.cross_entropy(net(x), y))
        opt.step()
    assert controller.record["lr"][:8] == pytest.approx([2e-9 * 2.0**step for step in range(8)])
    assert controller.lr > 0.01


def test_called_after_the_step_it_lags_by_one():
    net, opt = small()
    controller = LRController(opt, "bandit:arms=multipliers")
    for step in range(4):
        x, y = data(step)
        opt.zero_grad()
        loss = exact_loss(net(x), y)
        loss.backward()
        opt.step()
        controller.step(loss)
    assert controller.record["loss"][-1] == float(loss.detach())


def test_scaled_gradients_are_unscaled_first():
    net, opt = small()
    plain, other = small()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    scaled, bare = (LRController(o, random_agent(), total_steps=9) for o in (opt, other))
    for step in range(4):
        x, y = data(step)
        opt.zero_grad()
        with torch.autocast("cpu", enabled=False):
            loss = exact_loss(net(x), y)
        scaler.scale(loss).backward()
        scaler.unscale_(opt)
        torch.nn.utils.clip_grad_norm_(net.parameters(), 100.0)
        scaled.step(loss)
        scaler.step(opt)
        scaler.update()
        run(plain, other, bare, 1, first=step)
    assert scaled.record["lr"] == pytest.approx(bare.record["lr"], rel=1e-6)


def test_accumulated_gradients_and_bfloat16_autocast():
    net, opt = small()
    controller = LRController(opt, random_agent(), total_steps=9)
    for step in range(3):
        opt.zero_grad()
        losses = []
        for part in range(4):
            x, y = data(4 * step + part)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = torch.nn.functional.cross_entropy(net(x), y)
            (loss / 4).backward()
            losses.append(loss.detach())
        controller.step(torch.stack(losses).mean())
        opt.step()
    assert controller.step_count == 3


# ---- resume


AGENTS = {
    "hillclimb": "hillclimb:factor=1.3",
    "hillclimb-momentum": "hillclimb:factor=1.3,momentum=true,every=2",
    "bandit": "bandit:highest=0.3",
    "bandit-linucb": "bandit:policy=linucb,highest=0.3",
    "trained": random_agent(interval=2),
    "trained-lstm": random_agent(units=8, momentum=True, multipliers=MULTIPLIERS),
    "cosine": "schedule:kind=cosine",
}
BASES = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, dampening=0.9),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01),
}


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("agent", AGENTS)
def test_stop_save_load_continue_equals_never_having_stopped_bit_for_bit(agent, base, tmp_path):
    def make():
        net = model()
        opt = BASES[base](net.parameters())
        return net, opt, LRController(opt, AGENTS[agent], total_steps=40, rollback=True)

    if base == "sgd" and "momentum" in make_agent(AGENTS[agent]).needs.get("hyperparameters", ()):
        base = "momentum"
    net, opt, controller = make()
    losses = run(net, opt, controller, 30)
    net, opt, controller = make()
    run(net, opt, controller, 13)
    torch.save([net.state_dict(), opt.state_dict(), controller.state_dict()], tmp_path / "state.pt")
    net, opt, controller = make()
    run(net, opt, controller, 2)  # whatever was before does not matter
    for part, state in zip((net, opt, controller), torch.load(tmp_path / "state.pt", weights_only=True), strict=True):
        part.load_state_dict(state)
    assert len(controller.record) == controller.step_count == 13
    assert run(net, opt, controller, 17, first=13) == losses[13:]
    whole, optimizer, straight = make()
    assert run(whole, optimizer, straight, 30) == losses
    assert straight.record["lr"] == controller.record["lr"]
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), net.parameters(), strict=True))


def test_a_state_of_another_controller_is_refused():
    _, opt = small()
    state = LRController(opt, "hillclimb").state_dict()
    with pytest.raises(InputError, match="with features"):
        LRController(opt, "bandit").load_state_dict(state)
    with pytest.raises(InputError, match="no state of an LRController"):
        LRController(opt, "bandit").load_state_dict({"factor": 0.1})
    with pytest.raises(InputError, match="no state of an LRController"):
        LRController(opt, "bandit").load_state_dict(None)
    controller = LRController(opt, "bandit")
    controller.step(1.0)
    with pytest.raises(InputError, match="saved state is of bandit, not of agent 'bandit:policy=exp3s'"):
        LRController(opt, "bandit:policy=exp3s").load_state_dict(controller.state_dict())
    grouped = LRController(opt, "bandit", per_group=True)
    with pytest.raises(InputError, match="the same groups and per_group"):
        grouped.load_state_dict(controller.state_dict())
    assert grouped.step_count == 0
    cosine = LRController(opt, "schedule:kind=cosine", total_steps=9)
    LRController(opt, "schedule:kind=linear", total_steps=9).load_state_dict(cosine.state_dict())  # nothing was learned


# ---- record and replay


@pytest.mark.parametrize("suffix", ["json", "csv"])
@pytest.mark.parametrize("moved", [("lr",), ("lr", "momentum")])
def test_a_recorded_run_replays_as_a_lambdalr(suffix, moved, tmp_path):
    net, opt = small(momentum=0.9)
    controller = LRController(opt, "hillclimb:factor=1.3", hyperparameters=moved)
    losses = run(net, opt, controller, 12)
    controller.save_schedule(tmp_path / f"run.{suffix}")
    net, opt = small(momentum=0.9)
    schedule = replay_schedule(opt, tmp_path / f"run.{suffix}")
    assert isinstance(schedule, torch.optim.lr_scheduler.LambdaLR)
    again = []
    for step in range(12):
        x, y = data(step)
        opt.zero_grad()
        loss = exact_loss(net(x), y)
        loss.backward()
        opt.step()
        schedule.step()
        again.append(float(loss.detach()))
    assert again == pytest.approx(losses, rel=1e-6)
    assert opt.param_groups[0]["lr"] == pytest.approx(controller.lr)
    columns = read_schedule(tmp_path / f"run.{suffix}")
    assert columns["loss"] == losses
    assert (set(columns["momentum"]) == {0.9}) == (moved == ("lr",))
    assert opt.param_groups[0]["momentum"] == pytest.approx(controller.momentum)


@pytest.mark.parametrize("moved", [("lr",), ("lr", "momentum")])
def test_a_replay_goes_on_where_it_was_stopped_whichever_is_loaded_first(moved, tmp_path):
    net, opt = small(momentum=0.9)
    controller = LRController(opt, "hillclimb:factor=1.3", hyperparameters=moved)
    run(net, opt, controller, 12)
    controller.save_schedule(tmp_path / "run.json")
    due = read_schedule(tmp_path / "run.json")["lr"]
    for optimizer_first in (False, True):
        _, opt = small(momentum=0.9)
        schedule = replay_schedule(opt, tmp_path / "run.json")
        for _ in range(5):
            opt.step()
            schedule.step()
        states = opt.state_dict(), schedule.state_dict()
        _, opt = small(momentum=0.9)
        if optimizer_first:
            opt.load_state_dict(states[0])
        schedule = replay_schedule(opt, tmp_path / "run.json")
        opt.load_state_dict(states[0])
        schedule.load_state_dict(states[1])
        opt.step()
        schedule.step()
        assert opt.param_groups[0]["lr"] == pytest.approx(due[6])


def test_what_is_no_schedule_is_refused(tmp_path):
    _, opt = small()
    (tmp_path / "list.json").write_text("[1]")
    with pytest.raises(InputError, match="no recorded"):
        replay_schedule(opt, tmp_path / "list.json")
    (tmp_path / "a.json").write_text("{}")
    (tmp_path / "b.json").write_text(json.dumps({"step": [], "loss": [], "lr": [], "momentum": []}))
    for name, complaint in (("a.json", "no recorded"), ("b.json", "no steps"), ("c.json", "there is no schedule")):
        with pytest.raises(InputError, match=complaint):
            replay_schedule(opt, tmp_path / name)


def test_a_run_is_drawn_and_logged_in_one_call(tmp_path):
    net, opt = small(momentum=0.9)
    controller = LRController(opt, "bandit")
    run(net, opt, controller, 5, on_loss=lambda step, loss: loss)
    figure = controller.record.figure(tmp_path / "run.png")
    assert [axes.get_ylabel() for axes in figure.axes] == ["minibatch loss", "learning rate", "momentum"]
    assert (tmp_path / "run.png").stat().st_size > 5000
    controller.record.write_csv(tmp_path / "run.csv")
    with (tmp_path / "run.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["0", "1", "2", "3", "4"]
    assert len(plot_record(tmp_path / "run.csv").axes) == 3
    calls = []

    class Writer:
        def add_scalar(self, *arguments):
            calls.append(arguments)

    controller.record.write_tensorboard(Writer(), start=3)
    assert [(name, step) for name, _, step in calls[:3]] == [
        ("lrcontrol/loss", 3),
        ("lrcontrol/lr", 3),
        ("lrcontrol/momentum", 3),
    ]


# ---- what is refused


def test_groups_without_a_rate_are_named_with_their_optimizer():
    class Strange(torch.optim.Optimizer):
        def __init__(self, params):
            super().__init__(params, {"step_size": 0.1})

    with pytest.raises(InputError, match="parameter group 0 of Strange has no 'lr'"):
        LRController(Strange(model().parameters()))
    with pytest.raises(InputError, match=r"a list is no torch\.optim"):
        LRController([])
    net = model()
    with pytest.raises(InputError, match="all parameter groups have lr 0"):
        LRController(torch.optim.SGD(net.parameters(), lr=0.0))


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"agent": "hilclimb"}, "did you mean 'hillclimb'"),
        ({"interval": 0}, "interval 0"),
        ({"min_lr": 1.0, "max_lr": 0.1}, "min_lr 1 is not below max_lr 0.1"),
        ({"min_lr": "low"}, "min_lr 'low' is no number"),
        ({"max_lr": -1}, "max_lr -1 is no number above 0"),
        ({"sample": "all"}, "sample 'all'"),
        ({"rollback": {"every": 10}}, "neither True, False nor"),
        ({"rollback": Rollback}, "neither True, False nor"),
        ({"per_group": "no"}, "per_group 'no'"),
        ({"hyperparameters": "lr"}, "hyperparameters 'lr' are neither"),
        ({"hyperparameters": 1}, "hyperparameters 1 are neither"),
        ({"total_steps": 1.5}, "total_steps 1.5"),
        ({"min_lr": 1.0}, "not within 1"),
        ({"total_steps": 0}, "steps 0"),
        ({"base_schedule": "cosin"}, "did you mean 'cosine'"),
        ({"base_schedule": "cosine"}, "give total_steps"),
        ({"agent": "constant", "hyperparameters": ("lr", "momentum")}, "moves"),
        ({"agent": "bandit", "hyperparameters": ("lr", "momentum")}, "arms=rates"),
    ],
)
def test_arguments_that_cannot_be_used_are_named(arguments, complaint):
    _, opt = small()
    with pytest.raises(InputError, match=complaint):
        LRController(opt, **{"agent": "hillclimb"} | arguments)


class Both:
    """Doubles the rate and 1 − β at every decision."""

    name, needs = "both", {"hyperparameters": ["lr", "momentum"], "features": ["grad_cosine"]}

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        return np.ones((len(observation), 2), np.float32), state


def test_who_moves_both_moves_both_unless_told_otherwise():
    for momentum, after in ((0.9, 0.6), (1.0, 0.998)):  # torch takes 1 as well, and the first decision 0.999, the limit
        net, opt = small(momentum=momentum)
        controller = LRController(opt, Both())
        run(net, opt, controller, 2)
        assert opt.param_groups[0]["momentum"] == pytest.approx(after)
        assert controller.lr == pytest.approx(0.4)


def test_who_moves_both_may_be_asked_for_the_rate_alone():
    for agent in ("hillclimb:factor=1.5,momentum=true", Both()):
        net, opt = small(momentum=0.9)
        controller = LRController(opt, agent, hyperparameters=("lr",))
        run(net, opt, controller, 3)
        assert opt.param_groups[0]["momentum"] == controller.momentum == 0.9
        assert opt.param_groups[0]["dampening"] == 0.0
        assert controller.lr != 0.1


@pytest.mark.parametrize("optimizer", [torch.optim.Adagrad, torch.optim.RMSprop])
def test_a_trained_agent_moves_the_rate_alone_where_there_is_no_momentum(optimizer):
    net = model()
    opt = optimizer(net.parameters(), lr=0.1)
    controller = LRController(opt, Both())
    run(net, opt, controller, 3)
    assert controller.lr == pytest.approx(0.8)
    with pytest.raises(InputError, match="neither 'momentum' nor 'betas'"):
        LRController(opt, Both(), hyperparameters=("lr", "momentum"))


def test_a_momentum_that_is_not_there_is_named():
    net = model()
    with pytest.raises(InputError, match="neither 'momentum' nor 'betas'"):
        LRController(torch.optim.Adagrad(net.parameters()), "hillclimb:momentum=true")


def test_a_probing_agent_without_a_closure_is_told_the_way_out():
    _, opt = small()
    with pytest.raises(InputError, match=r"controller\.step\(loss, closure=closure\)"):
        LRController(opt, "hillclimb").step(1.0)


def test_stable_baselines3_is_not_needed_to_apply_a_trained_agent(tmp_path):
    random_agent().save(tmp_path / "agent")
    code = (
        "import sys, torch\n"
        "for name in ('gymnasium', 'stable_baselines3', 'sb3_contrib', 'matplotlib', 'scipy'):\n"
        "    sys.modules[name] = None\n"
        "from lrcontrol.controller import LRController\n"
        "opt = torch.optim.SGD([torch.nn.Parameter(torch.ones(3))], lr=0.1)\n"
        f"c = LRController(opt, {str(tmp_path / 'agent')!r}, total_steps=9)\n"
        "c.step(1.0); print(c.get_last_lr())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("[0.")


def test_a_compiled_model_is_controlled_like_another():
    torch._dynamo.reset()
    net, opt = small()
    compiled = torch.compile(net, backend="eager")
    controller = LRController(opt, "hillclimb:factor=2")
    losses = run(compiled, opt, controller, 4)
    plain, other = small()
    assert losses == run(plain, other, LRController(other, "hillclimb:factor=2"), 4)


def test_an_agent_with_a_start_does_not_look_at_the_rate_and_reckons_with_undampened_momentum():
    """torch's own SGD with momentum adds up gradients: at 0.9 its steps grow to ten times the first."""
    agent = ScheduleAgent("hold", Schedule(), start=0.1)

    def first_rate(lr, dampening):
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 2)
        opt = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, dampening=dampening)
        controller = LRController(opt, agent)
        loss = model(torch.ones(4, 3)).square().mean()
        loss.backward()
        controller.step(loss)
        grads = torch.cat([p.grad.flatten() for p in model.parameters()]).double()
        theta = torch.cat([p.detach().flatten() for p in model.parameters()]).double()
        unit = float(theta.norm() / grads.norm() * loss.detach().double() / grads.square().sum()) ** 0.5
        return opt.param_groups[0]["lr"] / unit

    assert first_rate(1e-6, 0.9) == pytest.approx(0.1, rel=1e-4)
    assert first_rate(10.0, 0.9) == pytest.approx(0.1, rel=1e-4)
    assert first_rate(1.0, 0.0) == pytest.approx(0.01, rel=1e-4)


def test_without_a_gradient_the_start_is_the_rate_that_was_given():
    model = torch.nn.Linear(3, 2)
    opt = torch.optim.SGD(model.parameters(), lr=0.25)
    with pytest.warns(UserWarning, match="no parameter has a gradient"):
        LRController(opt, ScheduleAgent("hold", Schedule(), start=0.1)).step(1.0)
    assert opt.param_groups[0]["lr"] == 0.25


class Holding:
    """Leaves the rate as it is, as ``constant`` does, with other needs."""

    name = "holding"

    def __init__(self, **needs):
        self.needs = {**make_agent("constant").needs, "form": "recursive", **needs}

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        return np.zeros(len(observation), np.int64), None


def cut_run(interval=1, form="recursive", **arguments):
    """Return a controller, its optimizer and what takes a step: a rate of 5, cut to 0.02 on a parameter of length 2."""
    param = torch.nn.Parameter(torch.tensor([2.0, 0.0]))
    opt = torch.optim.SGD([param], lr=5.0)
    controller = LRController(opt, Holding(max_relative_step=0.01, interval=interval, form=form), **arguments)

    def step(loss=1.0, slope=1.0):
        param.grad = torch.tensor([slope, 0.0])
        controller.step(loss)
        return opt.param_groups[0]["lr"]

    return controller, opt, step


def test_the_step_after_a_decision_is_a_share_of_the_parameters_and_the_next_is_what_was_due():
    controller, _, step = cut_run(interval=2)
    assert [step() for _ in range(4)] == pytest.approx([0.02, 5.0, 0.02, 5.0])
    assert controller.record["lr"] == pytest.approx([0.02, 5.0, 0.02, 5.0])


@pytest.mark.parametrize("form", ["recursive", "anchored"])
@pytest.mark.parametrize("interval", [1, 5])
def test_a_rollback_lowers_the_rate_that_was_in_force_also_where_it_was_cut(interval, form):
    controller, _, step = cut_run(interval, form, rollback=True)
    assert step() == pytest.approx(0.02)
    lowered = step(float("nan"))
    assert controller.events[0]["lr_before"] == pytest.approx(0.02)
    assert lowered == controller.events[0]["lr"] == pytest.approx(0.01)
    assert step() == pytest.approx(0.01)


def test_a_rate_that_is_written_after_a_cut_is_gone_on_from():
    _, opt, step = cut_run(interval=3)
    step()
    opt.param_groups[0]["lr"] = 0.002
    with pytest.warns(UserWarning, match=r"goes on from 0\.002"):
        assert step() == pytest.approx(0.002)
    assert [step(), step()] == pytest.approx([0.002, 0.002])


@pytest.mark.parametrize("form", ["recursive", "anchored"])
def test_a_group_that_is_added_after_a_cut_keeps_its_ratio_to_what_is_in_force(form):
    _, opt, step = cut_run(3, form)
    step()
    opt.add_param_group({"params": [torch.nn.Parameter(torch.ones(2))], "lr": 0.5 * opt.param_groups[0]["lr"]})
    for _ in range(4):
        step()
        assert opt.param_groups[1]["lr"] == pytest.approx(0.5 * opt.param_groups[0]["lr"])


def test_a_state_goes_on_after_a_cut_and_one_without_a_limit_is_refused():
    controller, opt, step = cut_run(interval=3)
    step()
    saved = controller.state_dict()
    other, other_opt, other_step = cut_run(interval=3)
    other.load_state_dict(saved)
    for run in (opt, other_opt):
        run.param_groups[0]["lr"] = 0.004
    with pytest.warns(UserWarning, match="goes on from"):
        assert step() == other_step() == pytest.approx(0.004)
    free = LRController(torch.optim.SGD([torch.zeros(2, requires_grad=True)], lr=5.0), Holding(interval=3))
    with pytest.raises(InputError, match="max_relative_step"):
        free.load_state_dict(saved)


def test_depth_is_the_number_of_weight_matrices_that_are_trained():
    layers = torch.nn.Sequential(*(torch.nn.Linear(4, 4) for _ in range(12)))
    for layer in layers[:7]:
        layer.requires_grad_(False)
    opt = torch.optim.SGD(layers.parameters(), lr=0.1)
    controller = LRController(opt, "learned", total_steps=10)

    def depth():
        opt.zero_grad()
        loss = layers(torch.ones(3, 4)).square().mean()
        loss.backward()
        controller.step(loss)
        return controller.observation["log_depth"]

    assert depth() == pytest.approx(np.log10(5 / 3), rel=1e-6)
    layers[6].requires_grad_(True)
    assert depth() == pytest.approx(np.log10(6 / 3), rel=1e-6)
    opt.add_param_group({"params": [torch.nn.Parameter(torch.ones(2, 2)), torch.nn.Parameter(torch.ones(2))]})
    assert depth() == pytest.approx(np.log10(7 / 3), rel=1e-6)
