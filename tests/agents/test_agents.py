"""One table of all agents times the properties that every agent has, and each agent by hand."""

import gymnasium
import numpy as np
import pytest
import torch

from lrcontrol.agents import AGENTS, HillClimb, make_agent
from lrcontrol.envs import InputError, Settings, World
from lrcontrol.envs.gym import spaces
from lrcontrol.envs.seeding import run_seeds

SPELLINGS = {
    "constant": ["constant"],
    "schedule": [
        *(f"schedule:kind={kind}" for kind in ("warm-up", "cosine", "one-cycle", "step", "inverse-sqrt", "wsd")),
        "schedule:kind=warm-up,warmup=5.0",
        "schedule:kind=cosine,warmup=0.25,end=0.1",
        "schedule:kind=cosine,warmup=0.05",
        "schedule:kind=wsd,warmup=0.1,decay=0.3",
    ],
    "plateau": ["plateau", "plateau:factor=0.5,patience=1,window=3,every=2"],
    "greedy": ["greedy", "greedy:factor=0.9,patience=1,window=5"],
    "random": ["random", "random:factor=1.5,every=3,seed=7"],
    "hillclimb": [
        "hillclimb",
        "hillclimb:factor=2,every=3",
        "hillclimb:factor=1.1,probe=gradient",
        "hillclimb:momentum=true",
    ],
    "bandit": [
        "bandit",
        *(f"bandit:policy={p}" for p in ("swucb", "dts", "exp3s", "linucb")),
        "bandit:arms=multipliers,every=2,exploration=0.5,seed=7",
        "bandit:highest=0.1",
        "bandit:arms=multipliers,momentum=true",
        "bandit:policy=linucb,arms=multipliers,momentum=true,joint=product",
    ],
}
EVERY = [pytest.param(name, text, id=text) for name in AGENTS for text in SPELLINGS.get(name, [name])]


def world_for(agent, rows, **settings):
    world = World(Settings.make({"steps": 12, **agent.needs, **settings}), rows, device="cpu", record=True)
    return world, world.reset([run_seeds(row) for row in range(rows)], 0.1)


def play(agent, rows, **settings):
    world, observation = world_for(agent, rows, **settings)
    state, start, over = None, np.ones(rows, dtype=bool), False
    while not over:
        action, state = agent.predict(observation, state, start, deterministic=True)
        observation, _, over = world.step(action)
        start = np.zeros(rows, dtype=bool)
    return world.trace


@pytest.mark.parametrize(("name", "text"), EVERY)
def test_its_name_is_a_spelling_of_itself(name, text):
    agent = make_agent(text)
    assert agent.name == text
    assert agent.name.split(":")[0] == name
    assert make_agent(agent.name).needs == agent.needs


@pytest.mark.parametrize(("name", "text"), EVERY)
def test_its_actions_are_in_the_space_it_asked_for_batched_or_not(name, text):
    agent = make_agent(text)
    _, observation = world_for(agent, 5)
    observation_space, action_space = spaces(Settings.make(agent.needs))
    assert observation_space.contains(observation[0])
    batched, _ = agent.predict(observation, None, np.ones(5, dtype=bool), deterministic=True)
    assert len(batched) == 5
    for row in range(5):
        single, _ = agent.predict(observation[row], None, np.ones(1, dtype=bool), deterministic=True)
        assert action_space.contains(single)
        np.testing.assert_array_equal(single, batched[row])


@pytest.mark.parametrize(("name", "text"), EVERY)
def test_a_run_does_not_depend_on_the_runs_beside_it_and_comes_back(name, text):
    agent = make_agent(text)
    many, again, one = play(agent, 4), play(agent, 4), play(agent, 1)
    for column in many:
        np.testing.assert_array_equal(many[column], again[column])
        np.testing.assert_array_equal(many[column][:, :1], one[column])


@pytest.mark.parametrize(("name", "text"), EVERY)
def test_it_reads_no_global_generator(name, text):
    agent = make_agent(text)
    traces = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002 (the legacy global state is what must not matter)
        traces.append(play(agent, 2)["lr"])
    np.testing.assert_array_equal(*traces)


@pytest.mark.parametrize(("name", "text"), EVERY)
def test_stable_baselines3_can_evaluate_it(name, text):
    from stable_baselines3.common.evaluation import evaluate_policy

    agent = make_agent(text)
    env = gymnasium.make("lrcontrol/Training-v0", steps=6, **agent.needs)
    with pytest.warns(UserWarning, match="Monitor"):
        mean, _ = evaluate_policy(agent, env, n_eval_episodes=2)
    assert -6 * 30.0 < mean < 0.0


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("hilclimb", "did you mean 'hillclimb'"),
        ("hillclimb:facto=2", "did you mean 'factor'"),
        ("hillclimb:factor=1", "factor 1 is not above 1"),
        ("hillclimb:factor=two", "not a number"),
        ("hillclimb:every=0", "every 0"),
        ("hillclimb:probe=loss", "unknown probe"),
        ("hillclimb:probe=gradient,momentum=true", "use probe=update"),
        ("hillclimb:momentum=yes", "write true or false"),
        ("random:factor=1", "factor 1 is not above 1"),
        ("random:every=0", "every 0"),
        ("runs/none", "there is no such folder"),
        ("schedule:kind=sawtooth", "unknown schedule"),
        ("constant:factor=2", "takes no keys"),
    ],
)
def test_spellings_that_cannot_be_used_say_why(text, complaint):
    with pytest.raises(InputError, match=complaint):
        make_agent(text)


def test_random_multiplies_by_what_nothing_but_its_own_draws_decides():
    rates = play(make_agent("random:factor=4"), 40)["lr"]
    moves = np.diff(np.log(np.concatenate([np.full((1, 40), 0.1), rates])), axis=0) / np.log(4.0)
    assert np.abs(moves).max() <= 1.0 + 1e-9
    assert abs(moves.mean()) < 4.0 / np.sqrt(3.0 * moves.size)  # uniform in -1..1: mean 0, variance 1/3
    assert moves.var() == pytest.approx(1.0 / 3.0, rel=0.15)
    assert len(np.unique(moves[0].round(9))) == 40
    other = play(make_agent("random:factor=4,seed=1"), 40)["lr"]
    assert (other != rates).all()


def test_random_holds_between_its_draws():
    rates = play(make_agent("random:every=5"), 1)["lr"][:, 0]
    assert [len(set(rates[first : first + 5])) for first in (0, 5, 10)] == [1, 1, 1]
    assert len(set(rates)) == 3


@pytest.mark.parametrize(("slope", "action"), [(0.5, 1), (1e-30, 1), (0.0, 0), (-0.5, 0)])
def test_hillclimb_raises_only_if_higher_is_strictly_better(slope, action):
    found, state = HillClimb().predict(np.array([slope], np.float32))
    assert (found, state) == (action, None)


def test_hillclimb_follows_the_rule_written_out_by_hand():
    """The proposal's rule with a plain module: trial steps with lr and 1.1 lr on the same minibatch, then the step."""
    from reference import initial_module, minibatches

    trace = play(HillClimb(factor=1.1), 1)
    task = World(Settings(), 1, device="cpu").task
    module, data = initial_module(task, run_seeds(0)), minibatches(task, run_seeds(0))
    lr, rates = 0.1, []
    for _ in range(12):
        x, y = next(data)
        start = [p.detach().clone() for p in module.parameters()]
        gradients = torch.autograd.grad(task.loss(module(x), y), list(module.parameters()))

        def loss_at(rate):
            with torch.no_grad():
                for p, before, g in zip(module.parameters(), start, gradients, strict=True):  # noqa: B023
                    p.copy_(before - rate * g)
                return task.loss(module(x), y).item()  # noqa: B023

        lr = lr * 1.1 if loss_at(1.1 * lr) < loss_at(lr) else lr / 1.1
        loss_at(lr)
        rates.append(lr)
    np.testing.assert_allclose(trace["lr"][:, 0], rates, rtol=1e-9)


def test_hillclimb_moves_momentum_by_the_same_rule_from_the_same_step():
    """With a plain module: the step along v(β) with lr, along v(β) with 1.1 lr, and along v(β') with lr."""
    from reference import initial_module, minibatches

    trace = play(HillClimb(factor=1.1, momentum=True), 1, momentum=0.9)
    task = World(Settings(), 1, device="cpu").task
    module, data = initial_module(task, run_seeds(0)), minibatches(task, run_seeds(0))
    lr, beta, velocity = 0.1, 0.9, None
    for step in range(12):
        x, y = next(data)
        start = [p.detach().clone() for p in module.parameters()]
        gradients = torch.autograd.grad(task.loss(module(x), y), list(module.parameters()))
        before = gradients if velocity is None else velocity

        def loss_at(rate, keep):
            with torch.no_grad():
                for p, origin, v, g in zip(module.parameters(), start, before, gradients, strict=True):  # noqa: B023
                    p.copy_(origin - rate * (keep * v + (1.0 - keep) * g))
                return task.loss(module(x), y).item()  # noqa: B023

        here = loss_at(lr, beta)
        other = 1.0 - 1.1 * (1.0 - beta)
        rises, lowers_momentum = loss_at(1.1 * lr, beta) < here, loss_at(lr, other) < here
        lr = lr * 1.1 if rises else lr / 1.1
        beta = min(other if lowers_momentum else 1.0 - (1.0 - beta) / 1.1, 0.999)
        assert trace["lr"][step, 0] == pytest.approx(lr, rel=1e-6)
        assert trace["momentum"][step, 0] == pytest.approx(beta, rel=1e-6)
        loss_at(lr, beta)
        velocity = [beta * v + (1.0 - beta) * g for v, g in zip(before, gradients, strict=True)]
    assert len({round(float(beta), 6) for beta in trace["momentum"][:, 0]}) > 3


def test_a_decision_costs_two_forward_passes_and_with_momentum_three():
    for agent, forwards in ((HillClimb(), 12 + 24), (HillClimb(momentum=True), 12 + 36), (HillClimb(every=4), 12 + 6)):
        world, observation = world_for(agent, 1)
        over = False
        while not over:
            observation, _, over = world.step(agent.predict(observation)[0])
        assert (world.forward_passes, world.backward_passes) == (forwards, 12)


def test_hillclimb_decides_every_so_many_steps():
    rates = play(HillClimb(factor=2.0, every=5), 1)["lr"][:, 0]
    assert [len(set(rates[first : first + 5])) for first in (0, 5, 10)] == [1, 1, 1]
    assert set(np.abs(np.log2(rates[[5, 10]] / rates[[0, 5]])).round(6)) == {1.0}
