"""The controller that comes with the package: what it promises, near what it was trained on and further away."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import needs_mnist

import lrcontrol
from experiments.learned import stretch
from lrcontrol.agents import make_agent
from lrcontrol.agents.learned import FOLDERS
from lrcontrol.envs.compiled import is_wanted
from lrcontrol.envs.seeding import run_seeds

AGENTS = {"learned": True, "learned:momentum=false": False}  # and whether they move the momentum


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("agent", AGENTS)
def test_it_does_not_look_at_the_initial_rate_and_ends_below_the_best_constant(agent, optimizer):
    starts = [1e-6, 1e-2, 10.0]
    arguments = {"optimizer": optimizer, "momentum": 0.9, "runs": 3}
    learned = lrcontrol.evaluate("digits-mlp", [agent], lr0=starts, **arguments)
    constant = lrcontrol.evaluate("digits-mlp", ["constant"], lr0=np.geomspace(1e-3, 10, 9).tolist(), **arguments)
    losses = learned.by_start(agent)
    assert np.array_equal(losses, np.broadcast_to(losses[:1], losses.shape))
    assert losses.mean() < constant.by_start("constant").mean(axis=1).min()
    passes = learned.of_agent(agent).to_pylist()[0]
    assert passes["forward_passes"] == passes["backward_passes"] == 200


@pytest.mark.parametrize(("optimizer", "rates"), [("sgd", [1.0, 3.0, 10.0]), ("adamw", [0.01, 0.03, 0.1])])
@pytest.mark.parametrize("agent", AGENTS)
def test_in_runs_six_times_as_long_as_in_training_no_run_is_behind_the_best_constant(agent, optimizer, rates):
    arguments = {"optimizer": optimizer, "momentum": 0.9, "runs": 4, "steps": 3000}
    learned = lrcontrol.evaluate("digits-mlp", [agent], lr0=[1e-3], **arguments).by_start(agent)
    constant = lrcontrol.evaluate("digits-mlp", ["constant"], lr0=rates, **arguments).by_start("constant")
    assert learned.max() < 0.5 * constant.mean(axis=1).min()


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("interval", [3, 5])
def test_decisions_that_are_few_throw_hardly_a_run_off_that_learns_by_heart(interval):
    """At each of these intervals two of these four runs ended at 0.01 to 0.8 while the term for them was not there.

    Of forty runs at an interval of 5 two still do with compiled steps, one of these four among them, none with torch's.
    """
    often = make_agent("learned")
    seldom = replace(often, name="seldom", needs={**often.needs, "interval": interval})
    arguments = {"optimizer": "adamw", "momentum": 0.9, "runs": 4, "steps": 1000, "traces": False}
    losses = lrcontrol.evaluate("digits-mlp", [seldom], lr0=[1e-3], **arguments).by_start("seldom")
    assert (losses < 5e-3).sum() >= (3 if is_wanted() and interval == 5 else 4)


@pytest.mark.parametrize(("optimizer", "rates"), [("sgd", [0.3, 1.0, 3.0]), ("adamw", [1e-3, 3e-3, 1e-2])])
def test_on_ten_layers_it_ends_below_the_best_constant(optimizer, rates):
    """The rates are the best of experiments/learned/stretch.csv and its neighbours."""
    task = stretch.task(hidden=(32,) * 10)
    arguments = {"optimizer": optimizer, "momentum": 0.9, "runs": 3, "traces": False}
    learned = lrcontrol.evaluate(task, ["learned"], lr0=[1e-3], **arguments).by_start("learned")
    constant = lrcontrol.evaluate(task, ["constant"], lr0=rates, **arguments).by_start("constant")
    assert learned.mean() < constant.mean(axis=1).min()


@needs_mnist
def test_on_mnist_it_ends_below_what_schedules_reach_when_they_are_tuned():
    """The best constant rate ends at 0.120, one-cycle at 0.109, the agent at 0.104 (experiments/learned)."""
    results = lrcontrol.evaluate("mnist-mlp", ["learned"], lr0=[1e-7], runs=2, optimizer="adamw")
    assert results.by_start("learned").mean() <= 0.109


@pytest.mark.parametrize("agent", AGENTS)
def test_it_comes_as_weights_and_json_alone_and_is_small(agent):
    folder = FOLDERS[AGENTS[agent]]
    files = sorted(path.name for path in folder.iterdir())
    assert files == ["agent.json", "policy.safetensors"]
    assert sum((folder / name).stat().st_size for name in files) < 1_000_000
    assert make_agent(agent) is make_agent(agent)
    assert make_agent(agent).name == agent
    assert make_agent(agent).needs["hyperparameters"] == (("lr", "momentum") if AGENTS[agent] else ("lr",))


def loop(optimizer, total_steps=200, interval=None, agent="learned"):
    """Return the mean loss over the last 20 of 200 steps of a plain loop with a controller."""
    torch.manual_seed(0)
    x = torch.randn(512, 12)
    y = torch.sin(x @ torch.randn(12, 3)) + 0.1 * torch.randn(512, 3)
    model = torch.nn.Sequential(torch.nn.Linear(12, 32), torch.nn.Tanh(), torch.nn.Linear(32, 3))
    opt = optimizer(model.parameters())
    with warnings.catch_warnings(action="ignore"):  # of rates that explode, and of the budget that is not known
        controller = lrcontrol.LRController(opt, agent, total_steps=total_steps, interval=interval)
    losses = []
    for _ in range(200):
        rows = torch.randint(512, (64,))
        loss = torch.nn.functional.mse_loss(model(x[rows]), y[rows])
        opt.zero_grad()
        loss.backward()
        controller.step(loss)
        opt.step()
        losses.append(loss.item())
    return np.mean(losses[-20:])


OPTIMIZERS = {
    "sgd": lambda params, lr: torch.optim.SGD(params, lr, momentum=0.9),
    "adamw": lambda params, lr: torch.optim.AdamW(params, lr),
}


def make(name, lr):
    return lambda params: OPTIMIZERS[name](params, lr)


def best_constant(name):
    return min(loop(make(name, lr), agent="constant") for lr in (0.01, 0.03, 0.1, 0.3))


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("agent", AGENTS)
def test_in_ones_own_loop_it_trains_from_any_rate_with_and_without_a_budget(agent, name):
    constant = best_constant(name)
    assert loop(make(name, 1e-6), agent=agent) == loop(make(name, 10.0), agent=agent)
    assert loop(make(name, 1e-6), interval=5, agent=agent) < 1.15 * constant
    assert loop(make(name, 1e-6), total_steps=None, agent=agent) < 1.1 * constant


behind = pytest.mark.xfail(strict=True, reason="1.14 times: with SGD it is behind on this regression")
CASES = [
    ("learned", "sgd"),
    ("learned", "adamw"),
    pytest.param("learned:momentum=false", "sgd", marks=behind),
    ("learned:momentum=false", "adamw"),
]


@pytest.mark.parametrize(("agent", "name"), CASES)
def test_in_ones_own_loop_it_ends_at_the_best_constant(agent, name):
    assert loop(make(name, 1e-6), agent=agent) < 1.02 * best_constant(name)


@pytest.mark.parametrize("make_optimizer", [torch.optim.Adagrad, torch.optim.Adadelta])
def test_where_there_is_no_momentum_the_agent_that_moves_the_rate_alone_takes_its_place(make_optimizer):
    opt = make_optimizer([torch.zeros(2, requires_grad=True)])
    assert lrcontrol.LRController(opt, total_steps=10).agent is make_agent("learned:momentum=false")


def test_it_can_be_asked_to_leave_the_momentum_alone():
    opt = torch.optim.SGD([torch.zeros(2, requires_grad=True)], lr=1.0, momentum=0.5)
    assert lrcontrol.LRController(opt, total_steps=10).agent is make_agent("learned")
    alone = lrcontrol.LRController(opt, total_steps=10, hyperparameters=("lr",))
    assert alone.agent is make_agent("learned:momentum=false")


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_distilled_lines_say_nearly_what_the_agent_does(optimizer):
    learned, distilled = make_agent("learned"), make_agent("distilled")
    same = ("base_schedule", "start", "max_factor", "hyperparameters", "features")
    assert {name: learned.needs[name] for name in same} == {name: distilled.needs[name] for name in same}
    settings = {"task": "digits-mlp", "optimizer": optimizer}
    world = lrcontrol.envs.World(lrcontrol.envs.Settings.make(settings | dict(learned.needs)), 1, device="cpu")
    observation, over, answers = world.reset([run_seeds(3)]), False, []
    while not over:
        action = learned.predict(observation)[0]
        answers.append([action[0], distilled.predict(observation)[0][0]])
        observation, _, over = world.step(action)
    for moved in range(2):
        assert np.corrcoef(np.array(answers)[:, :, moved].T)[0, 1] > 0.9


@needs_mnist
def test_in_the_proposals_own_setting_most_runs_end_well():
    """Ten runs of plain SGD on pixels of 0 to 255: eight of ten at 80 % was the aim, and 75 % on average."""
    results = lrcontrol.evaluate("mnist-mlp-raw", ["learned"], lr0=[1e-4], runs=10)
    accuracies = results.by_start(results.agents[0], "train_accuracy")[0]
    assert (accuracies >= 0.8).sum() >= 9
    assert accuracies.mean() > 0.88
