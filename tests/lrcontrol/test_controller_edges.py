"""What training loops do now and then: gradients that overflow, shared tensors, sparse state, losses below zero."""

import math
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from test_controller import data, model, run, small
from torch import nn

from lrcontrol.controller import LRController
from lrcontrol.controller_measures import Measurer
from lrcontrol.controller_rates import Rates
from lrcontrol.controller_safety import Rollback
from lrcontrol.envs import InputError, Schedule


def overflowing(lr, spoiled, per_group=False):
    """Return the controller of ten steps of ``learned``, the gradients of some of them (or of one layer) infinite."""
    net = model()
    groups = [{"params": net[0].parameters()}, {"params": net[2].parameters()}]
    opt = torch.optim.AdamW(groups, lr=lr)
    controller = LRController(opt, "learned", total_steps=10, per_group=per_group)
    for step in range(10):
        x, y = data(step)
        opt.zero_grad()
        loss = nn.functional.cross_entropy(net(x), y)
        loss.backward()
        if step in spoiled:
            next(net[2].parameters()).grad.view(-1)[0] = math.inf
        controller.step(loss)
        if step not in spoiled:  # as a gradient scaler does it
            opt.step()
    return controller


def test_a_gradient_that_overflows_is_no_decision_and_the_start_is_found_at_the_next():
    low, high = (overflowing(lr, spoiled={0, 1, 5}) for lr in (1e-6, 1.0))
    assert max(low.record["lr"][:2]) < 1e-6  # the given rate, in the schedule's warm-up
    assert low.record["lr"][2:] == high.record["lr"][2:]
    assert low.observation == high.observation
    levels = np.array(low.record["lr"]) / [low._decider.settings.base_schedule(step, 10) for step in range(10)]
    assert levels[5] == pytest.approx(levels[4], rel=1e-12)  # the schedule goes on, the agent waits
    assert levels[4] != pytest.approx(levels[3], rel=1e-6)


def test_where_groups_are_decided_on_one_by_one_the_others_go_on():
    whole, half = (overflowing(1e-3, spoiled, per_group=True).record for spoiled in ((), {0}))
    assert half["lr"][0] == whole["lr"][0]  # the first layer's own start
    assert half["lr_1"][0] != whole["lr_1"][0]


def test_groups_that_share_a_tensor_for_their_rate_get_one_each():
    net, shared = model(), torch.tensor(1e-2)
    parts = [{"params": net[0].parameters()}, {"params": net[2].parameters()}]
    opt = torch.optim.Adam(parts, lr=shared)
    controller = LRController(opt, "learned", total_steps=20, per_group=True)
    with warnings.catch_warnings(action="error"):
        run(net, opt, controller, 10)
    last = [controller.record[name][-1] for name in ("lr_0", "lr_1")]
    assert last[0] != pytest.approx(last[1], rel=1e-3)
    assert controller.get_last_lr() == pytest.approx(last, rel=1e-6)
    assert opt.param_groups[0]["lr"] is shared
    opt.add_param_group({"params": [nn.Parameter(torch.zeros(2))]})
    assert float(opt.param_groups[2]["lr"]) == pytest.approx(1e-2)


@pytest.mark.parametrize("agent", ["learned", "hillclimb:factor=2"])
def test_sparse_gradients_and_their_momentum_buffer_are_read_as_dense_ones(agent):
    rates = []
    for sparse in (False, True):
        torch.manual_seed(0)
        table = nn.Embedding(100, 16, sparse=sparse)
        opt = torch.optim.SGD(table.parameters(), lr=0.1, momentum=0.9)
        controller = LRController(opt, agent, total_steps=20)
        for step in range(6):
            rows = torch.randint(100, (16,), generator=torch.Generator().manual_seed(step))
            opt.zero_grad()
            loss = (table(rows) - 1.0).square().mean()
            loss.backward()
            controller.step(loss, closure=lambda rows=rows, table=table: (table(rows) - 1.0).square().mean())
            opt.step()
        rates.append(controller.record["lr"])
    assert rates[0] == pytest.approx(rates[1], rel=1e-4)


def test_a_rollback_of_an_optimizer_that_keeps_lists_puts_those_back_too():
    net = model()
    opt = torch.optim.LBFGS(net.parameters(), lr=0.1, max_iter=2)
    controller = LRController(opt, "constant", rollback=Rollback(every=4))
    kept = None
    for step in range(8):
        x, y = data(step)

        def closure(x=x, y=y):
            opt.zero_grad()
            loss = nn.functional.cross_entropy(net(x), y)
            loss.backward()
            return loss

        loss = closure()
        controller.step(loss * math.nan if step == 7 else loss)
        if step == 4:
            kept = [entry.clone() for entry in opt.state_dict()["state"][0]["old_dirs"]]
        if step < 7:
            opt.step(closure)
    found = opt.state_dict()["state"][0]["old_dirs"]
    assert len(found) == len(kept) > 0
    assert all(torch.equal(now, then) for now, then in zip(found, kept, strict=True))
    sizes = sum(2 * entry.nbytes for entry in kept)  # the directions and as many steps
    assert controller.rollback_bytes > sizes + sum(p.nbytes for p in net.parameters())


def test_a_loss_that_falls_below_zero_is_warned_of_once_where_the_agent_sees_its_logarithm():
    net, opt = small(momentum=0.9)
    controller = LRController(opt, "learned", total_steps=10)
    with pytest.warns(UserWarning, match=r"below 0, -0\.5"):
        run(net, opt, controller, 3, on_loss=lambda step, loss: loss if step < 2 else loss * 0.0 - 0.5)
    with warnings.catch_warnings(action="error"):
        run(net, opt, controller, 1, on_loss=lambda step, loss: loss * 0.0 - 0.5)
        blind = LRController(opt, "constant")
        run(net, opt, blind, 3, on_loss=lambda step, loss: loss if step < 2 else loss * 0.0 - 0.5)
    net, opt = small(momentum=0.9)
    from_the_start = LRController(opt, "learned", total_steps=10)
    with pytest.warns(UserWarning, match=r"below 0, -[0-9.]+, and"):
        run(net, opt, from_the_start, 1, on_loss=lambda step, loss: loss - 5.0)


def test_a_group_that_stood_still_is_trained_from_the_rate_that_is_written_into_it():
    net = model()
    opt = torch.optim.SGD([{"params": net[0].parameters()}, {"params": net[2].parameters(), "lr": 0.0}], lr=0.1)
    controller = LRController(opt, "constant", per_group=True)
    run(net, opt, controller, 1)
    opt.param_groups[1]["lr"] = 0.05
    with pytest.warns(UserWarning, match=r"0\.05 is in force where 0 was due.* goes on from 0\.05"):
        run(net, opt, controller, 2, first=1)
    assert controller.get_last_lr() == pytest.approx([0.1, 0.05])
    opt.param_groups[0]["lr"] = 0.0
    controller._warned = False
    with pytest.warns(UserWarning, match=r"0 is in force where 0\.1 was due.* puts 0\.1 back"):
        run(net, opt, controller, 1, first=3)
    assert controller.get_last_lr() == pytest.approx([0.1, 0.05])


def test_a_group_without_momentum_stays_without_when_the_others_is_moved():
    net = model()
    parts = [{"params": net[0].parameters(), "momentum": 0.9}, {"params": net[2].parameters()}]
    opt = torch.optim.RMSprop(parts, lr=0.01)
    controller = LRController(opt, "hillclimb:factor=1.5,momentum=true")
    run(net, opt, controller, 3)
    assert opt.param_groups[0]["momentum"] != 0.9
    assert opt.param_groups[1]["momentum"] == 0
    assert Rates(opt).has_momentum


class Halving:
    """Leaves the rate, and halves 1 − β: at each step, or what it was at first."""

    name = "halving"

    def __init__(self, form):
        both = {"hyperparameters": ("lr", "momentum"), "features": ("log_loss",), "max_factor": 2.0}
        self.needs = {**both, "form": form, "multipliers": None}

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        return np.array([[0.0, -1.0]]), None


@pytest.mark.parametrize(("form", "then"), [("recursive", 0.75), ("anchored", 0.95)])
@pytest.mark.parametrize("make", [partial(torch.optim.SGD, momentum=0.9), torch.optim.AdamW])
def test_a_momentum_that_something_else_writes_is_gone_on_from_or_put_back_with_a_warning(make, form, then):
    """0.5 is written, and half of 1 − 0.5 goes on; where 1 − β is bound to the first 0.1 it is half of that as ever."""
    (param,) = params = [nn.Parameter(torch.ones(2))]
    opt = make(params, lr=0.1)
    controller = LRController(opt, Halving(form))
    for _ in range(2):
        param.grad = torch.ones(2)
        controller.step(1.0)
    due = {"recursive": 0.975, "anchored": 0.95}[form]
    assert controller.momentum == pytest.approx(due)
    opt.param_groups[0] |= {"betas": (0.5, 0.999)} if "betas" in opt.param_groups[0] else {"momentum": 0.5}
    does = "goes on from there" if form == "recursive" else "puts it back"
    with pytest.warns(UserWarning, match=rf"momentum: 0\.5 is in force where {due} was due.* The controller {does}"):
        controller.step(1.0)
    assert controller.momentum == pytest.approx(then)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        controller.step(1.0)  # which has written it itself


def test_what_something_else_writes_is_taken_in_once_also_where_the_step_fails():
    def fails():
        raise MemoryError

    net, opt = small()
    opt.param_groups[0]["momentum"] = 0.9
    controller = LRController(opt, "hillclimb:momentum=true")
    run(net, opt, controller, 2)
    before, momentum = controller.lr, controller.momentum
    opt.param_groups[0]["lr"], opt.param_groups[0]["momentum"] = before / 10.0, 0.5
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(3):
            with pytest.raises(MemoryError):
                controller.step(1.0, closure=fails)
        run(net, opt, controller, 1, first=2)
    assert controller.lr == pytest.approx(before / 10.0, rel=0.02)
    assert 0.49 < controller.momentum < 0.51 < momentum


@pytest.mark.parametrize("answer", [np.zeros((1, 3)), np.zeros((1, 0)), np.zeros((2, 1))])
def test_an_agent_that_answers_another_number_of_values_is_told_so(answer):
    class Wrong:
        name, needs = "wrong", {"features": ("log_loss",)}

        def predict(self, observation, state=None, episode_start=None, deterministic=False):
            return answer, None

    _, opt = small()
    controller = LRController(opt, Wrong())
    with pytest.raises(
        InputError, match=rf"actions of shape \({answer.shape[0]}, {answer.shape[1]}\) are not \(1, 1\)"
    ):
        controller.step(1.0)


def test_what_cannot_be_used_is_named():
    _, opt = small()
    controller = LRController(opt, "bandit")
    state = controller.state_dict()
    with pytest.raises(InputError, match=r"of bandit with form absolute, and this one of 'greedy' has"):
        LRController(opt, "greedy").load_state_dict(state)
    del state["memory"], state["guard"]
    with pytest.raises(InputError, match=r"it lacks memory, guard"):
        controller.load_state_dict(state)
    with pytest.raises(InputError, match=r"closure 3 is no function"):
        controller.step(1.0, closure=3)
    with pytest.raises(InputError, match=r"total_steps True is no whole number"):
        LRController(opt, total_steps=True)


def test_what_adam_is_about_to_do_does_not_depend_on_torchs_defaults():
    """Step 259 is 260 in bfloat16, and tensors of no device have no numbers."""
    params = [nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2))]
    opt = torch.optim.Adam(params, lr=0.1)
    for param in params:
        param.grad = torch.full_like(param, 0.5)
        opt.state[param] = {"step": torch.tensor(258.0), "exp_avg": param.grad * 0.1, "exp_avg_sq": param.grad * 0.1}
    measurer = Measurer(Rates(opt), False)
    expected = measurer.measure(frozenset({"update_sq"}))
    first, second = 0.9 * 0.05 + 0.1 * 0.5, 0.999 * 0.05 + 0.001 * 0.25
    update = (first / (1.0 - 0.9**259)) / math.sqrt(second / (1.0 - 0.999**259))
    assert expected[0]["update_sq"] == pytest.approx(5.0 * update**2, rel=1e-5)
    try:
        torch.set_default_dtype(torch.bfloat16)
        torch.set_default_device("meta")
        assert measurer.measure(frozenset({"update_sq"})) == expected
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)


def test_a_parameter_that_is_not_finite_does_not_spoil_what_adam_does_to_others_unless_it_decays():
    params = [nn.Parameter(torch.tensor([1.0, -math.inf])), nn.Parameter(torch.ones(2))]
    opt = torch.optim.Adam(params, lr=0.1)
    for _ in range(2):
        for param in params:
            param.grad = torch.ones_like(param)
        (measured,) = Measurer(Rates(opt), False).measure(frozenset({"update_sq"}))
        assert measured["update_sq"] == pytest.approx(4.0, rel=1e-4)  # of gradients that stay, Adam makes steps of 1
        opt.step()


def test_numbers_of_numpy_as_arguments_do_not_keep_the_state_from_being_loaded(tmp_path):
    net, opt = small()
    rules = Rollback(factor=np.float64(0.5), every=2)
    schedule = Schedule("linear", end=np.float32(0.5))
    controller = LRController(
        opt, "constant", interval=np.int64(2), rollback=rules, base_schedule=schedule, total_steps=np.int64(9)
    )
    run(net, opt, controller, 5, on_loss=lambda step, loss: loss * (math.nan if step == 3 else 1.0))
    torch.save(controller.state_dict(), tmp_path / "state.pt")
    assert torch.load(tmp_path / "state.pt", weights_only=True)["numbers"]["scale"] == 0.5
    assert type(opt.param_groups[0]["lr"]) is float
