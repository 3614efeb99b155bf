"""What an agent sees and does in one's own loop is what it saw and did in the environment, number by number."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from reference import initial_module, minibatches

import lrcontrol
from lrcontrol.agents import TrainedAgent, make_agent
from lrcontrol.agents.network import Network
from lrcontrol.controller import LRController
from lrcontrol.envs import DEFAULT_FEATURES, Schedule, Settings, World, make_task, mlp
from lrcontrol.envs.seeding import run_seeds
from lrcontrol.rollouts import settings_for

STEPS, SEED, BETA, DECAY = 200, 3, 0.9, 0.01
MULTIPLIERS = (0.5, 0.9, 1.0, 1.1, 1.5)


def random_agent(units=0, momentum=False, seed=0, **needs):
    """Return a trained agent's shape with random weights: what matters is that everything it reads moves it."""
    rng = np.random.default_rng(seed)
    discrete = needs.get("multipliers") is not None
    sizes = tuple(len(MULTIPLIERS) if discrete else 1 for _ in range(2 if momentum else 1))
    shapes = {"layers.0.weight": (16, units or 14), "layers.0.bias": (16,), "layers.1.weight": (sum(sizes), 16)}
    if units:
        shapes |= {"lstm.weight_ih": (4 * units, 14), "lstm.weight_hh": (4 * units, units), "lstm.bias": (4 * units,)}
    tensors = {name: (0.3 * rng.normal(size=shape)).astype(np.float32) for name, shape in shapes.items()}
    defaults = {
        "hyperparameters": ("lr", "momentum") if momentum else ("lr",),
        "multipliers": None,
        "max_factor": 1.3,
        "form": "recursive",
        "base_schedule": Schedule(),
        "interval": 1,
        "features": DEFAULT_FEATURES,
    }
    head = "argmax" if discrete else "tanh"
    return TrainedAgent("random", defaults | needs, Network(tensors, "tanh", head, sizes), "none", {})


def exact_loss(outputs, y):
    """Return the mean over the minibatch in float64, as the engine takes it."""
    return F.cross_entropy(outputs, y, reduction="none").double().mean()


def make_optimizer(name, params, lr, decay=0.0, beta=BETA):
    if name == "adamw":
        return torch.optim.AdamW(params, lr=lr, betas=(beta, 0.999), weight_decay=decay)
    return torch.optim.SGD(params, lr=lr, momentum=beta, dampening=beta)


def roll_out(agent, optimizer, lr0, **settings):
    """Return observations, actions and the trace of the environment."""
    base = Settings(optimizer=optimizer, steps=STEPS, momentum=BETA, **settings)
    world = World(settings_for(base, agent), 1, device="cpu", record=True)
    observation = world.reset([run_seeds(SEED)], lr0)
    state, start, over = None, np.array([True]), False
    observations, actions = [], []
    while not over:
        action, state = agent.predict(observation, state, start, deterministic=True)
        observations.append(observation[0])
        actions.append(np.asarray(action).reshape(-1))
        observation, _, over = world.step(action)
        start = np.array([False])
    return np.array(observations), np.array(actions), world.trace


def plain_loop(agent, optimizer, lr0, decay=0.0, task="digits-mlp", **arguments):
    """Return observations, actions and the record of a plain loop with the controller in it."""
    task, seeds = make_task(task), run_seeds(SEED)
    model = initial_module(task, seeds)
    opt = make_optimizer(optimizer, model.parameters(), lr0, decay)
    controller = LRController(opt, agent, total_steps=STEPS, **arguments)
    observations, actions = [], []
    for (x, y), _ in zip(minibatches(task, seeds), range(STEPS), strict=False):
        opt.zero_grad()
        loss = exact_loss(model(x), y)
        loss.backward()
        controller._decider.observation = {}
        controller.step(loss, closure=lambda x=x, y=y: exact_loss(model(x), y))
        if controller.observation:
            observations.append(list(controller.observation.values()))
            actions.append(controller.last_action)
        opt.step()
    return np.array(observations), np.array(actions), controller.record


LIMIT = {"sgd": 0.5, "adamw": 3e-3}  # of rates: above, 1e-7 of rounding grows to 1e-5 within 200 steps, see below
CASES = {
    "hillclimb": "hillclimb",
    "hillclimb-2": "hillclimb:factor=2",
    "hillclimb-momentum": "hillclimb:factor=1.5,momentum=true,every=3",
    "bandit": "bandit:highest=0.03",
    "bandit-linucb": "bandit:policy=linucb,highest=0.03",
    "bandit-multipliers": "bandit:arms=multipliers,momentum=true",
    "cosine": "schedule:kind=cosine",
    "trained": random_agent(),
    "trained-lstm": random_agent(units=8),
    "trained-discrete": random_agent(momentum=True, multipliers=MULTIPLIERS, interval=4),
    "trained-start": random_agent(seed=1, start=(1e-3, 1e-3), base_schedule=Schedule("one-cycle"), max_factor=1.05),
    "trained-short": random_agent(seed=2, max_relative_step=2e-4, interval=3),
    "trained-short-anchored": random_agent(
        momentum=True, form="anchored", base_schedule=Schedule("one-cycle"), max_relative_step=2e-4
    ),
    "trained-untold": random_agent(knows_budget=False, base_schedule=Schedule("one-cycle")),
    "trained-anchored": random_agent(momentum=True, form="anchored", base_schedule=Schedule("one-cycle")),
}


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("case", CASES)
def test_free_runs_of_environment_and_plain_loop_are_alike_for_200_steps(case, optimizer, monkeypatch):
    if (case, optimizer) == ("hillclimb-momentum", "adamw"):  # whose first step is the same with any momentum: a tie,
        monkeypatch.setenv("LRCONTROL_COMPILED", "0")  # which rounding decides, so that it has to be torch's twice
    agent, lr0 = make_agent(CASES[case]), {"sgd": 0.1, "adamw": 1e-3}[optimizer]
    low, high = 1e-9, 0.1 if "bandit" in case else LIMIT[optimizer]
    decay = DECAY if optimizer == "adamw" else 0.0
    seen, done, trace = roll_out(agent, optimizer, lr0, weight_decay=decay, lr_limits=(low, high))
    observations, actions, record = plain_loop(agent, optimizer, lr0, decay, min_lr=low, max_lr=high)
    np.testing.assert_allclose(actions, done, rtol=0.0, atol=1e-5)
    for name in ("loss", "lr", "momentum"):
        np.testing.assert_allclose(record[name], trace[name][:, 0], rtol=1e-5, atol=1e-9, err_msg=name)
    # A slope is a difference of two losses over log f: where f = 1.01, 2e-7 of the losses (found) is 2e-5 of it.
    slack = 5e-5 if case == "hillclimb" else 1e-5
    np.testing.assert_allclose(observations, seen, rtol=slack, atol=slack)


@pytest.fixture
def double_digits():
    """Give ``digits-mlp`` in double precision, in which everything is that is made until the test ends."""
    task = make_task("digits-mlp")
    inputs, labels = task.train
    torch.set_default_dtype(torch.float64)
    yield replace(task, train=(inputs.double(), labels), test=None)
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("case", ["hillclimb", "hillclimb-2", "bandit-linucb", "trained-lstm", "learned"])
def test_in_double_precision_free_runs_are_alike_at_any_rate_and_slopes_too(case, optimizer, double_digits):
    """What is left in single precision is its rounding: 1e-16 grows as fast as 1e-7, and ends where nobody sees it."""
    agent, lr0 = make_agent(CASES.get(case, case)), {"sgd": 0.1, "adamw": 1e-3}[optimizer]
    seen, done, trace = roll_out(agent, optimizer, lr0, task=double_digits)
    observations, actions, record = plain_loop(agent, optimizer, lr0, task=double_digits)
    np.testing.assert_allclose(actions, done, rtol=0.0, atol=1e-6)
    for name in ("loss", "lr", "momentum"):
        np.testing.assert_allclose(record[name], trace[name][:, 0], rtol=1e-6, atol=1e-12, err_msg=name)
    np.testing.assert_allclose(observations, seen, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_deep_network_and_the_steps_between_decisions_are_seen_alike(optimizer, double_digits):
    deep = replace(double_digits, model=partial(mlp, 64, *(8,) * 6, 10))
    learned = make_agent("learned")
    agent = replace(learned, needs={**learned.needs, "interval": 4})
    seen, done, _ = roll_out(agent, optimizer, 0.1, task=deep)
    observations, actions, _ = plain_loop(agent, optimizer, 0.1, task=deep)
    assert seen[:, agent.needs["features"].index("log_depth")] == pytest.approx(np.log10(7.0 / 3.0))
    early = slice(20)  # decisions, 80 steps: the policy answers in single precision, whose rounding grows here
    np.testing.assert_allclose(actions[early], done[early], rtol=0.0, atol=1e-6)
    np.testing.assert_allclose(observations[early], seen[early], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("case", ["hillclimb-2", "hillclimb-momentum", "bandit", "trained-lstm", "trained-discrete"])
def test_each_of_200_steps_is_alike_also_where_rounding_grows(case, optimizer):
    """The controller's loop is put where the engine stands before every step, so that no difference can grow."""
    agent, lr0 = make_agent(CASES[case]), {"sgd": 0.1, "adamw": 1e-3}[optimizer]
    base = Settings(optimizer=optimizer, steps=STEPS, momentum=BETA)
    world = World(settings_for(base, agent), 1, device="cpu")
    engine, task = world.engine, world.task
    observation = world.reset([run_seeds(SEED)], lr0)
    model = initial_module(task, run_seeds(SEED))
    opt = make_optimizer(optimizer, model.parameters(), lr0)
    controller = LRController(opt, agent, total_steps=STEPS)
    state, start, ties = None, np.array([True]), 0
    for step in range(STEPS):
        copy_engine(engine, model, opt)
        x, y = (part[0].clone() for part in engine.minibatch)
        decides = step % world.settings.interval == 0
        if decides:
            action, state = agent.predict(observation, state, start, deterministic=True)
            start = np.array([False])
        controller.step(float(engine.losses[0]), closure=lambda x=x, y=y: exact_loss(model(x), y))
        if decides:
            found = list(controller.observation.values())
            # a slope is a difference of two float32 losses over a small one: its last digits are rounding
            atol = 3e-5 if world._probes else 1e-5
            np.testing.assert_allclose(found, observation[0], rtol=1e-5, atol=atol, err_msg=str(step))
            action = np.asarray(action).reshape(-1)
            if world._probes:  # AdamW's first step is the same with any momentum: rounding says which sign a 0 has
                tied = (np.array(found) > 0.0) != (observation[0] > 0.0)
                action, ties = np.where(tied, controller.last_action, action), ties + tied.sum()
            np.testing.assert_allclose(controller.last_action, action, rtol=0.0, atol=1e-5)
            factors = world.settings.factors(action, world.rows)
            world._apply(factors)
        world._train(factors[:, 0])
        observation = world._observe()
        assert controller.lr == pytest.approx(float(world.lr[0]), rel=1e-5)
        assert controller.momentum == pytest.approx(float(world.momentum[0]), rel=1e-6)
        memory = controller._decider.memory  # the last thing that could drift
        memory.level, memory.lr = world.lr.tolist(), world.lr.tolist()
        controller._decider.write()
        opt.step()
        found = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
        torch.testing.assert_close(found, engine.params[0], rtol=1e-5, atol=2e-6 * max(1.0, float(world.lr[0])))
    assert ties <= 2


def copy_engine(engine, model, opt):
    """Put a module and its optimizer where row 0 of the engine stands."""
    optimizer, step = engine.optimizer, engine.step_count
    rows = {"grad": engine.gradient, "param": engine.params}
    memory = optimizer.memory(step)
    if memory is not None:
        rows["memory"] = memory
        rows["squares"] = getattr(optimizer, "squares", memory)
    views = {name: engine.layout.views(row) for name, row in rows.items()}
    proposed = engine._proposed
    with torch.no_grad():
        for name, param in model.named_parameters():
            param.copy_(views["param"][name][0])
            gradient = views["grad"][name][0].clone()
            param.grad = gradient
            state = opt.state[param]
            if "memory" in views and "momentum_buffer" in state:
                state["momentum_buffer"].copy_(views["memory"][name][0])
            elif "memory" in views:
                mean, square = views["memory"][name][0], views["squares"][name][0]
                if isinstance(proposed, float):  # what is kept is already this step's where it has been proposed
                    mean = (mean - (1.0 - proposed) * gradient) / proposed
                if proposed is not None:
                    square = (square - 0.001 * gradient.square()) / 0.999
                state["exp_avg"].copy_(mean)
                state["exp_avg_sq"].copy_(square)


def test_rounding_alone_explains_why_a_rate_at_the_edge_of_stability_is_not_compared_freely():
    """Two engines that differ in one bit part as fast as engine and plain loop do: 200 steps cannot be compared."""
    agent = make_agent("hillclimb:factor=2")
    _, _, trace = roll_out(agent, "sgd", 0.1)
    _, _, nudged = roll_out(agent, "sgd", 0.1 * (1.0 + 1e-7))
    _, _, record = plain_loop(agent, "sgd", 0.1)
    engines = np.abs(nudged["loss"] / trace["loss"] - 1.0)[:, 0]
    loop = np.abs(np.array(record["loss"]) / trace["loss"][:, 0] - 1.0)
    assert loop[:30].max() < 1e-5
    assert engines.max() > 0.01
    assert np.argmax(loop > 1e-5) > 0.4 * np.argmax(engines > 1e-5)


def test_a_really_trained_agent_is_alike_too(tmp_path):
    folder = tmp_path / "agent"
    lrcontrol.train("quadratic:steps=10", "ppo", out=folder, timesteps=160, num_envs=4, evaluations=1)
    agent = make_agent(folder)
    seen, done, trace = roll_out(agent, "sgd", 0.01, lr_limits=(1e-9, 0.5))
    observations, actions, record = plain_loop(folder, "sgd", 0.01, min_lr=1e-9, max_lr=0.5)
    np.testing.assert_allclose(observations, seen, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(actions, done, rtol=0.0, atol=1e-5)
    np.testing.assert_allclose(record["loss"], trace["loss"][:, 0], rtol=1e-5)
