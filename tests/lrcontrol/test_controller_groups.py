"""Each parameter group decided on by itself: what it sees is its own, and one group alone is the ordinary case."""

import math

import numpy as np
import pytest
import torch
from test_controller import data, model
from test_controller_parity import MULTIPLIERS, exact_loss, random_agent
from torch import nn

from lrcontrol.agents import TrainedAgent
from lrcontrol.agents.network import Network
from lrcontrol.agents.schedule import ScheduleAgent
from lrcontrol.controller import LRController
from lrcontrol.controller_record import plot_record, read_schedule, replay_schedule
from lrcontrol.envs import InputError, Schedule

AGENTS = {
    "trained": random_agent(),
    "lstm-momentum": random_agent(units=8, momentum=True, multipliers=MULTIPLIERS, interval=2),
    "anchored": random_agent(form="anchored", base_schedule=Schedule("one-cycle")),
    "learned": "learned",
    "bandit": "bandit:highest=0.1",
    "linucb": "bandit:policy=linucb,arms=multipliers,momentum=true",
    "cosine": "schedule:kind=cosine",
}
OPTIMIZERS = {
    "sgd": lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9, dampening=0.9),
    "adamw": lambda groups: torch.optim.AdamW(groups, lr=0.01),
}


def to_relative_step(target=1e-3):
    """Return an agent that multiplies the rate by 2 for each power of ten that lr ‖u‖ / ‖θ‖ is short of the target."""
    tensors = {"layers.0.weight": -np.ones((1, 1), np.float32), "layers.0.bias": np.float32([math.log10(target)])}
    needs = {"hyperparameters": ("lr",), "multipliers": None, "max_factor": 2.0, "form": "recursive", "interval": 1}
    needs |= {"base_schedule": Schedule(), "features": ("relative_step",)}
    return TrainedAgent("to a relative step", needs, Network(tensors, "tanh", "clip", (1,)), "none", {})


def two_layers(lrs=(0.1, 0.02)):
    net = model()
    return net, [{"params": list(net[i].parameters()), "lr": lr} for i, lr in zip((0, 2), lrs, strict=True)]


def run(net, opt, controllers, steps, first=0):
    """Train on minibatches that depend on the step alone; return the rates of the groups at each step."""
    rates = []
    for step in range(first, first + steps):
        x, y = data(step)
        opt.zero_grad()
        loss = exact_loss(net(x), y)
        loss.backward()
        for controller in controllers:
            controller.step(loss)
        opt.step()
        rates.append([group["lr"] for group in opt.param_groups])
    return rates


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("agent", AGENTS)
def test_each_group_is_decided_on_as_if_it_had_the_optimizer_and_the_agent_to_itself(agent, optimizer):
    net, groups = two_layers()
    opt = OPTIMIZERS[optimizer](groups)
    together = run(net, opt, [LRController(opt, AGENTS[agent], total_steps=12, per_group=True)], 12)
    net, groups = two_layers()
    apart = [OPTIMIZERS[optimizer]([group]) for group in groups]
    controllers = [LRController(opt, AGENTS[agent], total_steps=12) for opt in apart]
    for step in range(12):
        x, y = data(step)
        net.zero_grad()
        loss = exact_loss(net(x), y)
        loss.backward()
        for opt, controller in zip(apart, controllers, strict=True):
            controller.step(loss)
            opt.step()
        assert [opt.param_groups[0]["lr"] for opt in apart] == together[step]


@pytest.mark.parametrize("agent", AGENTS)
def test_with_one_group_it_is_the_ordinary_controller_bit_for_bit(agent):
    def rates(**arguments):
        net = model()
        opt = OPTIMIZERS["sgd"](net.parameters())
        return run(net, opt, [LRController(opt, AGENTS[agent], total_steps=12, **arguments)], 12)

    assert rates(per_group=True) == rates()


def test_a_groups_rate_moves_on_its_own_gradient_and_parameters():
    first, second = nn.Parameter(torch.tensor([3.0, 4.0])), nn.Parameter(torch.tensor([1.0]))
    opt = torch.optim.SGD([{"params": [first]}, {"params": [second], "lr": 1e-2}], lr=1e-3)
    controller = LRController(opt, to_relative_step(), per_group=True)
    first.grad, second.grad = torch.tensor([0.5, 0.0]), torch.tensor([0.01])
    controller.step(1.0)
    # lr ‖g‖ / ‖θ‖ is 1e-3 · 0.5 / 5 = 1e-4, one power of ten short of 1e-3; and 1e-2 · 0.01 / 1 = 1e-4
    assert controller.get_last_lr() == pytest.approx([2e-3, 2e-2], rel=1e-6)
    second.grad = torch.tensor([1.0])
    controller.step(1.0)  # 2e-2 · 1 / 1 is 1.3 powers of ten too far, and one is the most that an action says
    assert controller.get_last_lr() == pytest.approx([2e-3 * 2.0 ** -math.log10(0.2), 1e-2], rel=1e-6)
    assert controller.lr == controller.record["lr"][-1] == controller.get_last_lr()[0]
    assert controller.observation["relative_step"] == pytest.approx(math.log10(2e-4))


def test_an_agent_with_a_start_finds_each_groups_own():
    torch.manual_seed(0)
    params = [nn.Parameter(torch.randn(4)), nn.Parameter(10.0 * torch.randn(3))]
    opt = torch.optim.SGD([{"params": [p]} for p in params], lr=1.0)
    controller = LRController(opt, ScheduleAgent("hold", Schedule(), start=0.1), per_group=True)
    params[0].grad = torch.full((4,), 0.5)
    controller.step(2.0)
    expected = [0.1 * math.sqrt(float(params[0].detach().norm()) / 1.0 * 2.0 / 1.0), 1.0]
    assert controller.get_last_lr() == pytest.approx(expected)  # the other waits for its first gradient
    params[1].grad = torch.tensor([0.0, 3.0, 4.0])
    controller.step(2.0)
    expected[1] = 0.1 * math.sqrt(float(params[1].detach().norm()) / 5.0 * 2.0 / 25.0)
    assert controller.get_last_lr() == pytest.approx(expected)


@pytest.mark.parametrize("agent", ["trained", "lstm-momentum", "bandit", "linucb"])
def test_a_group_without_gradients_is_left_as_it_is(agent):
    net, groups = two_layers()
    opt = OPTIMIZERS["sgd"](groups)
    controller = LRController(opt, AGENTS[agent], total_steps=12, per_group=True)
    run(net, opt, [controller], 4)
    memory = controller._decider.memory
    before = [part[1].copy() for part in memory.agent or ()]
    kept, moved = opt.param_groups[1]["lr"], []
    for _ in range(6):
        for param in net.parameters():
            param.grad = torch.ones_like(param) if param.shape[0] == 16 else None
        controller.step(0.5)
        assert opt.param_groups[1]["lr"] == kept
        moved.append(opt.param_groups[0]["lr"])
    assert len(set(moved)) > 1
    for part, old in zip(controller._decider.memory.agent or (), before, strict=True):
        np.testing.assert_array_equal(part[1], old)


@pytest.mark.parametrize("agent", AGENTS)
def test_it_resumes_bit_for_bit_also_with_a_group_added_on_the_way(agent, tmp_path):
    def make(groups_now):
        net, groups = two_layers()
        opt = OPTIMIZERS["adamw"](groups[:groups_now])
        return net, groups, opt, LRController(opt, AGENTS[agent], total_steps=20, per_group=True, rollback=True)

    net, groups, opt, controller = make(1)
    run(net, opt, [controller], 5)
    opt.add_param_group(groups[1])
    rates = run(net, opt, [controller], 10, first=5)
    assert rates[0][0] != rates[0][1]

    net, groups, opt, controller = make(1)
    run(net, opt, [controller], 5)
    opt.add_param_group(groups[1])
    assert run(net, opt, [controller], 3, first=5) == rates[:3]
    torch.save([net.state_dict(), opt.state_dict(), controller.state_dict()], tmp_path / "state.pt")
    net, _, opt, controller = make(2)
    for part, state in zip((net, opt, controller), torch.load(tmp_path / "state.pt", weights_only=True), strict=True):
        part.load_state_dict(state)
    assert run(net, opt, [controller], 7, first=8) == rates[3:]


def test_a_group_that_is_added_begins_at_its_own_rate():
    first, second = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    opt = torch.optim.SGD([first], lr=1e-4)
    controller = LRController(opt, to_relative_step(), per_group=True)
    first.grad, second.grad = torch.ones(1), torch.ones(1)
    controller.step(1.0)
    opt.add_param_group({"params": [second], "lr": 0.1})
    controller.step(1.0)
    assert controller.get_last_lr()[1] == pytest.approx(0.05)


@pytest.mark.parametrize("per_group", [False, True])
def test_a_rollback_lowers_all_rates_and_does_not_go_back_to_before_a_group_was_there(per_group):
    net, groups = two_layers()
    opt = OPTIMIZERS["sgd"](groups[:1])
    controller = LRController(opt, "learned", total_steps=40, per_group=per_group, rollback=True)
    run(net, opt, [controller], 5)
    opt.add_param_group(groups[1])
    before = run(net, opt, [controller], 1, first=5)[-1]
    controller.step(math.nan)
    assert controller.events[-1]["restored_step"] == 5
    schedule = controller._decider.budget.multiplier
    ratio = 0.5 * schedule(Schedule("one-cycle"), 6) / schedule(Schedule("one-cycle"), 5)
    assert controller.get_last_lr() == pytest.approx([ratio * lr for lr in before])


def test_limits_hold_for_each_and_a_rate_of_zero_stays():
    params = [nn.Parameter(torch.full((1,), value)) for value in (1.0, 1e3, 1.0)]
    rates = [torch.tensor(1e-3, dtype=torch.float64), 1e-3, 0.0]
    opt = torch.optim.SGD([{"params": [p], "lr": lr} for p, lr in zip(params, rates, strict=True)], lr=0.1)
    controller = LRController(opt, to_relative_step(1e-4), per_group=True, min_lr=8e-4, max_lr=1.2e-3)
    for _ in range(3):
        for param in params:
            param.grad = torch.ones(1)
        controller.step(1.0)
    assert controller.get_last_lr() == [8e-4, 1.2e-3, 0.0]
    assert opt.param_groups[0]["lr"] is rates[0]


def test_what_another_scheduler_writes_into_one_group_is_taken_in_for_that_one():
    params = [nn.Parameter(torch.ones(1)) for _ in range(2)]
    opt = torch.optim.SGD([{"params": [p]} for p in params], lr=1e-3)
    controller = LRController(opt, to_relative_step(), per_group=True)
    for param in params:
        param.grad = torch.ones(1)
    controller.step(1.0)
    opt.param_groups[1]["lr"] = 1e-2
    with pytest.warns(UserWarning, match=r"0\.01 is in force where 0\.001 was due"):
        controller.step(1.0)
    assert controller.get_last_lr() == pytest.approx([1e-3, 5e-3])


def test_a_rate_that_is_written_into_a_group_that_follows_is_its_ratio_from_then_on():
    params = [nn.Parameter(torch.ones(1)) for _ in range(3)]
    opt = torch.optim.SGD([{"params": [p]} for p in params], lr=1e-3)
    controller = LRController(opt, "constant", base_schedule="linear", total_steps=4)

    def step(*rates):
        for group, rate in zip(opt.param_groups, rates, strict=False):
            group["lr"] = rate
        controller.step(1.0)
        return controller.get_last_lr()

    assert step() == pytest.approx([1e-3] * 3)
    with pytest.warns(UserWarning, match=r"0\.0001 is in force where 0\.001 was due.* goes on from 0\.0001"):
        assert step(1e-3, 1e-4, 0.0) == pytest.approx([7.5e-4, 7.5e-5, 0.0])
    assert step() == pytest.approx([5e-4, 5e-5, 0.0])
    # the leader's is put back, since its schedule says what it is; what stood still is half of it from here
    assert step(1e-3, 5e-5, 2.5e-4) == pytest.approx([2.5e-4, 2.5e-5, 1.25e-4])
    assert controller.state_dict()["ratios"] == pytest.approx([1.0, 0.1, 0.5])


@pytest.mark.parametrize("agent", ["learned", "schedule:kind=one-cycle", "constant"])
def test_a_group_that_is_added_at_the_default_rate_follows_as_if_it_had_been_there(agent):
    """And one that comes at a rate of its own is that share of the rate in force, the schedule aside."""
    net = model()
    opt = torch.optim.SGD(net[0].parameters(), lr=1e-3, momentum=0.9, dampening=0.9)
    controller = LRController(opt, agent, total_steps=20)
    run(net, opt, [controller], 3)
    opt.add_param_group({"params": net[2].parameters()})
    run(net, opt, [controller], 3, first=3)
    assert controller.get_last_lr() == pytest.approx([controller.lr] * 2)
    begun = controller._decider.memory.level[0] if agent == "learned" else 1e-3
    opt.add_param_group({"params": [nn.Parameter(torch.zeros(1))], "lr": 0.1 * begun})
    run(net, opt, [controller], 1, first=6)
    assert controller.get_last_lr()[2] == pytest.approx(0.1 * controller.lr)


@pytest.mark.parametrize("suffix", ["json", "csv"])
def test_each_groups_schedule_is_kept_through_a_resume_and_replays(tmp_path, suffix):
    """The groups' rates of a run that was stopped and resumed, and to which a group was added, drive a plain one."""
    net, groups = two_layers()
    opt = OPTIMIZERS["adamw"](groups[:1])
    controller = LRController(opt, to_relative_step(), total_steps=12, per_group=True)
    taken = run(net, opt, [controller], 4)
    opt.add_param_group(groups[1])
    taken += run(net, opt, [controller], 4, first=4)
    second = LRController(opt, to_relative_step(), total_steps=12, per_group=True)
    second.load_state_dict(controller.state_dict())
    taken += run(net, opt, [second], 4, first=8)
    path = tmp_path / f"run.{suffix}"
    second.save_schedule(path)
    columns = read_schedule(path)
    assert columns["lr_0"] == columns["lr"] == [rates[0] for rates in taken]
    assert np.isnan(columns["lr_1"][:4]).all()
    assert columns["lr_1"][4:] == [rates[1] for rates in taken[4:]]
    assert len({rates[0] / rates[1] for rates in taken[4:]}) > 1  # no one schedule would do
    assert len(plot_record(path).axes[1].lines) == 2
    net, groups = two_layers((0.3, 0.7))
    opt = OPTIMIZERS["adamw"](groups)
    scheduler, replayed = replay_schedule(opt, path), []
    for _ in range(14):
        replayed.append([group["lr"] for group in opt.param_groups])
        opt.step()
        scheduler.step()
    due = [[rates[0], (rates[1:] or taken[4][1:])[0]] for rates in [*taken, taken[-1], taken[-1]]]
    np.testing.assert_allclose(replayed, due, rtol=1e-12)
    with pytest.raises(InputError, match="is of 2 parameter groups, and the optimizer has 1"):
        replay_schedule(OPTIMIZERS["adamw"](groups[:1]), path)


def test_what_cannot_be_done_by_group_is_refused_with_the_way_out():
    _, groups = two_layers()
    opt = OPTIMIZERS["sgd"](groups)
    with pytest.raises(InputError, match="leave per_group out, or choose an agent without trials"):
        LRController(opt, "hillclimb", per_group=True)
    controller = LRController(opt, "bandit", per_group=True)
    with pytest.raises(InputError, match="2 parameter groups with 2 rates"):
        LRController(opt, "bandit").load_state_dict(controller.state_dict())

    class Shared:
        name, needs = "shared", {"features": ("log_loss",), "multipliers": (1.0,)}

        def predict(self, observation, state=None, episode_start=None, deterministic=False):
            return np.zeros(len(observation), dtype=np.int64), (np.zeros((1, len(observation))),)

    controller = LRController(opt, Shared(), per_group=True)
    for step in range(2):
        groups[0]["params"][0].grad = torch.ones_like(groups[0]["params"][0])
        if step:
            with pytest.raises(InputError, match="not a row for each"):
                controller.step(1.0)
        else:
            controller.step(1.0)
