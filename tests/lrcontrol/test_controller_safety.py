"""Runs that go wrong: rollback, losses that are not numbers, kills at any step, several processes."""

import math
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_controller import data, model, run, small
from test_controller_parity import exact_loss, random_agent

from lrcontrol.controller import LRController
from lrcontrol.controller_safety import Rollback, Watch
from lrcontrol.envs import InputError
from lrcontrol.envs.features import LossHistory


def flat(net):
    return torch.cat([p.detach().reshape(-1) for p in net.parameters()])


def test_a_loss_that_is_no_number_changes_nothing_and_is_recorded_once():
    net, opt = small()
    controller = LRController(opt, "bandit")
    run(net, opt, controller, 5)
    before = controller.state_dict()
    with pytest.warns(UserWarning, match="the loss is nan at step 5"):
        controller.step(math.nan)
    controller.step(math.inf)
    assert [controller.lr] == before["memory"]["lr"]
    assert controller.state_dict()["memory"] | {"agent": 0} == before["memory"] | {"agent": 0}
    assert [(event["step"], event["kind"]) for event in controller.events] == [(5, "not finite"), (6, "not finite")]


@pytest.mark.parametrize("base", ["sgd", "momentum", "adamw"])
def test_a_rollback_puts_model_and_optimizer_back_and_lowers_the_rate(base):
    net = model()
    opt = {
        "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
        "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
        "adamw": lambda p: torch.optim.AdamW(p, lr=0.1),
    }[base](net.parameters())
    controller = LRController(opt, "constant", rollback=Rollback(every=4))
    run(net, opt, controller, 4)
    good, state = flat(net), {k: dict(v) for k, v in enumerate(opt.state_dict()["state"].values())}
    state = {k: {n: torch.as_tensor(x).clone() for n, x in v.items() if x is not None} for k, v in state.items()}
    run(net, opt, controller, 3, first=4)
    size = sum(p.numel() * 4 for p in net.parameters())
    expected = {"sgd": size, "momentum": 2 * size, "adamw": 3 * size + 4 * 4}[base]
    assert controller.rollback_bytes == expected
    run(net, opt, controller, 1, first=7, on_loss=lambda step, loss: loss * math.nan)
    assert torch.equal(flat(net), good)  # the step after the rollback had no gradient
    for kept, entries in zip(state.values(), opt.state_dict()["state"].values(), strict=True):
        assert all(torch.equal(torch.as_tensor(entries[name]), value) for name, value in kept.items())
    (event,) = controller.events
    assert (event["step"], event["kind"], event["restored_step"], event["lr"]) == (7, "not finite", 4, 0.05)
    run(net, opt, controller, 1, first=8, on_loss=lambda step, loss: loss * math.nan)
    assert controller.lr == 0.025
    assert all(loss < 1.0 for loss in run(net, opt, controller, 30, first=9))


def test_the_copy_holds_the_running_statistics_of_a_module():
    net = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2))
    opt = torch.optim.SGD(net.parameters(), lr=0.1)
    controller = LRController(opt, "constant", rollback=Rollback(module=net))
    x, y = data()
    loss = exact_loss(net(x), y)
    loss.backward()
    controller.step(loss)
    mean = net[1].running_mean.clone()
    net(x * math.nan)
    controller.step(math.nan)
    assert torch.equal(net[1].running_mean, mean)


def test_a_copy_of_what_is_no_number_is_not_kept_where_the_loss_is_told_after_the_step():
    """One bad gradient under a loss that was fine: the call after the step is the one that would copy its damage."""
    net, opt = small()
    controller = LRController(opt, "constant", rollback=Rollback(every=5))
    x, y = data()
    for step in range(30):
        opt.zero_grad()
        loss = exact_loss(net(x), y)
        loss.backward()
        if step == 10:
            net[0].weight.grad.fill_(math.nan)
        opt.step()
        controller.step(loss)
    assert [(event["step"], event["restored_step"]) for event in controller.events] == [(11, 5)]
    assert math.isfinite(float(loss.detach()))
    assert controller.lr == 0.05


def test_a_copy_is_loaded_with_the_module_whose_buffers_it_holds():
    net = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2))
    opt = torch.optim.SGD(net.parameters(), lr=0.1)
    rules = {"with": Rollback(module=net), "without": True}
    controllers = {name: LRController(opt, "constant", rollback=rule) for name, rule in rules.items()}
    x, y = data()
    exact_loss(net(x), y).backward()
    for controller in controllers.values():
        controller.step(1.0)
    for name, other in (("with", "without"), ("without", "with")):
        fresh = LRController(opt, "constant", rollback=rules[name])
        with pytest.raises(InputError, match="another module's buffers"):
            fresh.load_state_dict(controllers[other].state_dict())
        assert fresh.step_count == 0
        fresh.load_state_dict(controllers[name].state_dict())
        fresh.step(math.nan)
        assert fresh.events[0]["restored_step"] == 0


def test_a_copy_of_fewer_parameters_than_there_are_now_is_not_gone_back_to():
    net, opt = small()
    controller = LRController(opt, "constant", rollback=True)
    run(net, opt, controller, 3)
    opt.param_groups[0]["params"].append(torch.nn.Parameter(torch.zeros(2)))
    controller.step(math.nan)
    assert controller.events[0]["restored_step"] is None
    controller.step(0.5)
    controller.step(math.nan)
    assert controller.events[1]["restored_step"] == 4


def test_a_rate_that_is_far_too_high_is_brought_down():
    finals = []
    for rollback in (False, True):
        net, opt = small(lr=1000.0)
        controller = LRController(opt, "constant", rollback=rollback)
        losses = run(net, opt, controller, 100)
        finals.append(sum(losses[-5:]) / 5)
    assert controller.events[0]["kind"] == "spike"
    assert controller.lr < 100.0
    assert finals[1] < 0.5 < 5.0 < finals[0]


def test_spikes_and_drifts_are_told_from_noise():
    rules, noise = Rollback(window=20), random.Random(0)

    def play(losses):
        watch, history = Watch(), LossHistory(losses[0])
        for step, loss in enumerate(losses):
            before = history.fast
            kind = watch.judge(rules, loss, before, losses[0])
            if kind:
                return kind, step
            history.add(loss)
            watch.add(rules, loss, before, history)
        return None

    calm = [2.3 * math.exp(-step / 50) * noise.lognormvariate(0.0, 0.5) + 0.01 for step in range(400)]
    assert play(calm) is None
    assert play([*calm[:100], 10.0]) == ("spike", 100)
    assert play([*calm[:100], -math.inf]) == ("not finite", 100)
    assert play([1.0, 1.1, 5.0]) == ("spike", 2)
    assert play([*calm, 0.3]) is None  # a hard minibatch where there is almost no loss left
    language = [3.0 + 7.8 * math.exp(-step / 30) + noise.gauss(0.0, 0.05) for step in range(300)]
    assert play(language) is None
    assert play([*language, 6.0]) == ("spike", 300)
    drift = [*calm[:200], *(calm[200] + 0.005 * step for step in range(300))]
    kind, step = play(drift)
    assert kind == "drift"
    assert step > 220


@pytest.mark.parametrize(
    "arguments",
    [{"every": 0}, {"factor": 1.0}, {"spike": 0.0}, {"window": 0}, {"every": "5"}, {"factor": "x"}, {"module": "m"}],
)
def test_limits_that_cannot_be_used_are_named(arguments):
    (name,) = arguments
    with pytest.raises(InputError, match=f"rollback: {name}"):
        Rollback(**arguments)


def test_a_first_loss_that_is_no_number_has_nothing_to_go_back_to():
    net, opt = small()
    controller = LRController(opt, "bandit", rollback=True)
    before = flat(net)
    run(net, opt, controller, 1, on_loss=lambda step, loss: loss * math.nan)
    assert torch.equal(flat(net), before)
    assert controller.events[0]["restored_step"] is None
    run(net, opt, controller, 5, first=1)
    assert torch.isfinite(flat(net)).all()


# ---- chaos


def chaos(step, loss):
    """Return a loss that is not a number at some steps, and no gradient at some others."""
    return loss * {3: math.nan, 17: math.inf, 18: math.nan}.get(step, 0.0 if step % 11 == 5 else 1.0)


@pytest.mark.parametrize("agent", ["hillclimb:factor=1.5,momentum=true", "bandit:highest=0.3", "trained"])
def test_fifty_kills_at_random_steps_among_bad_losses_lose_nothing(agent, tmp_path):
    steps = 60

    def make():
        net = model()
        opt = torch.optim.AdamW(net.parameters(), lr=0.02)
        chosen = random_agent(units=4) if agent == "trained" else agent
        return net, opt, LRController(opt, chosen, total_steps=steps, rollback=Rollback(every=7, window=20))

    net, opt, controller = make()
    expected = run(net, opt, controller, steps, on_loss=chaos)
    assert torch.isfinite(flat(net)).all()
    assert len(controller.events) >= 3
    final, events, lr = flat(net), controller.events, controller.lr
    draw = random.Random(1)
    kills = sorted(draw.sample(range(1, steps), 50))
    losses, path = [], tmp_path / "state.pt"
    for begin, end in zip([0, *kills], [*kills, steps], strict=True):
        net, opt, controller = make()  # a new process has nothing else
        if begin:
            parts = torch.load(path, weights_only=True)
            for part, state in zip((net, opt, controller), parts, strict=True):
                part.load_state_dict(state)
        losses += run(net, opt, controller, end - begin, first=begin, on_loss=chaos)
        torch.save([net.state_dict(), opt.state_dict(), controller.state_dict()], path)
    assert repr(losses) == repr(expected)
    assert torch.equal(flat(net), final)
    assert repr(controller.events) == repr(events)
    assert controller.lr == lr
    assert len(controller.record) == steps


# ---- several processes

WORKER = """
import gc
import sys
import torch
import torch.distributed as dist
from test_controller import data, model
from test_controller_parity import exact_loss, random_agent
from lrcontrol.controller import LRController

rank = int(sys.argv[1])
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{sys.argv[2]}", rank=rank, world_size=2)
def train(agent):
    net = torch.nn.parallel.DistributedDataParallel(model())
    opt = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    controller = LRController(opt, agent, total_steps=12, rollback=True)
    for step in range(12):
        x, y = data(2 * step + rank)
        opt.zero_grad()
        loss = exact_loss(net(x), y) * (float("nan") if step == 8 and rank == 1 else 1.0)
        loss.backward()
        controller.step(loss, closure=lambda: exact_loss(net(x), y))
        opt.step()
    print(controller.record["lr"], controller.record["loss"], [e["step"] for e in controller.events])
    print(sum(p.double().sum().item() for p in net.parameters()))

for agent in ("hillclimb:factor=1.5", "bandit:highest=0.3", random_agent(units=4)):
    train(agent)
gc.collect()  # models in a cycle would keep the group's threads beyond its end, and the process would abort
dist.barrier()
dist.destroy_process_group()
"""


def test_all_processes_decide_the_same(tmp_path):
    here = Path(__file__).parent
    code = f"import sys; sys.path[:0] = [{str(here)!r}, {str(here.parent)!r}]\n" + WORKER
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(rank), str(tmp_path / "store")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs[0][1] + outputs[1][1]
    assert outputs[0][0] == outputs[1][0]
    assert outputs[0][0].count("[8]") == 3
