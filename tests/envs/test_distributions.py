"""Tasks drawn by index: the same whatever came before, splits apart, and groups of runs that share a task."""

import itertools

import gymnasium
import numpy as np
import pytest
import torch
from reference import initial_module, minibatches
from torch import nn

import lrcontrol
from lrcontrol.envs import InputError, Settings, Task, TrainingVectorEnv, World, make_task, mlp
from lrcontrol.envs.distributions import find_tasks
from lrcontrol.envs.random_digits import random_digits
from lrcontrol.envs.random_synthetic import KINDS, random_synthetic
from lrcontrol.envs.registry import DISTRIBUTIONS
from lrcontrol.envs.seeding import build_module, run_seeds
from lrcontrol.envs.text import next_token_loss

ID = "lrcontrol/Training-v0"


def facts(task):
    module = build_module(task.model, 0)
    shapes = [tuple(p.shape) for p in module.parameters()]
    kinds = [type(part).__name__ for part in module.children()]
    return (
        task.name,
        shapes,
        kinds,
        task.batch_size,
        task.steps,
        float(task.train[0].sum()),
        next(module.parameters()).sum().item(),
    )


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_an_index_is_one_task_whatever_came_before(name):
    tasks = find_tasks(name)
    forward = [facts(tasks.instance(index)) for index in range(6)]
    backward = [facts(tasks.instance(index)) for index in reversed(range(6))]
    assert forward == backward[::-1]
    assert len({str(fact[1:]) for fact in forward}) == 6


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_held_out_tasks_are_others_and_each_is_a_task_of_the_registry(name):
    tasks = find_tasks(name)
    train, held = tasks.instance(3), tasks.instance(3, held_out=True)
    assert facts(train)[1:] != facts(held)[1:]
    for task in (train, held):
        assert facts(make_task(task.name)) == facts(task)


def test_random_digits_stays_within_what_it_declares_and_covers_it():
    tasks = [random_digits(index) for index in range(200)]
    modules = [build_module(task.model, 0) for task in tasks]
    layers = [[part.out_features for part in module if isinstance(part, nn.Linear)][:-1] for module in modules]
    assert {len(widths) for widths in layers} == {1, 2}
    assert 8 <= min(min(widths) for widths in layers) < 11 < 40 < max(max(widths) for widths in layers) <= 48
    assert {type(part) for module in modules for part in module} == {nn.Linear, nn.Tanh, nn.ReLU, nn.ELU}
    batches, steps = [task.batch_size for task in tasks], [task.steps for task in tasks]
    assert 16 <= min(batches) < 20 < 200 < max(batches) <= 256
    assert 80 <= min(steps) < 100 < 400 < max(steps) <= 500
    scales = [float(task.train[0].max() - task.train[0].min()) for task in tasks]
    assert 0.4 <= min(scales) < 0.6 < 2.5 < max(scales) <= 3.3001
    gains = [module[0].weight.abs().max().item() * 8.0 for module in modules]  # PyTorch draws from ±1/√64
    assert 0.49 <= min(gains) < 0.7 < 1.5 < max(gains) <= 2.0
    shifts = [float(task.train[0].min()) for task in tasks]
    assert 0.0 <= min(shifts) < 0.1 < 0.4 < max(shifts) <= 0.5
    with pytest.raises(InputError, match="index -1"):
        random_digits(-1)


def test_several_names_take_turns_and_a_single_one_is_itself():
    mixture = find_tasks(("digits-mlp", "random-digits"))
    assert mixture.name == "digits-mlp+random-digits"
    assert [mixture.instance(index).name for index in range(4)] == [
        *("digits-mlp", "random-digits:index=0", "digits-mlp", "random-digits:index=1")
    ]
    assert mixture.instance(3, held_out=True).name == "random-digits:index=1,held_out=true"
    assert find_tasks(("digits-mlp",)).name == "digits-mlp"
    with pytest.raises(InputError, match="no task given"):
        find_tasks(())
    with pytest.raises(InputError, match="did you mean 'random-digits'"):
        find_tasks("randon-digits")


def test_a_world_wants_one_task():
    with pytest.raises(InputError, match="is a distribution of tasks"):
        World(Settings(task="random-digits"), 1, device="cpu")


def test_each_episode_draws_its_task_from_the_seed_alone():
    env = gymnasium.make(ID, task="random-digits").unwrapped

    def three(seed):
        names = []
        for number in range(3):
            env.reset(seed=seed if number == 0 else None)
            names.append(env.world.task.name)
        return names

    first = three(5)
    assert len(set(first)) == 3
    assert three(6) != first
    assert three(5) == first
    assert first[0] == f"random-digits:index={run_seeds(5).task}"


@pytest.mark.parametrize("task", ["random-digits", "digits-mlp", ("digits-mlp", "quadratic:steps=40")])
def test_groups_of_one_are_the_single_environments_through_resets(task):
    vector = TrainingVectorEnv(3, groups=3, task=task, interval=20)
    singles = [gymnasium.make(ID, task=task, interval=20) for _ in range(3)]
    observation, _ = vector.reset(seed=9)
    for row, env in enumerate(singles):
        np.testing.assert_array_equal(env.reset(seed=9 + row)[0], observation[row])
    vector.action_space.seed(0)
    ended = 0
    for _ in range(30):
        actions = vector.action_space.sample()
        observation, reward, terminated, _, infos = vector.step(actions)
        for row, env in enumerate(singles):
            single, paid, over, _, info = env.step(actions[row])
            assert (paid, over) == (reward[row], terminated[row])
            if over:
                ended += 1
                np.testing.assert_array_equal(infos["final_obs"][row], single)
                assert infos["final_info"]["loss"][row] == info["loss"]
                assert infos["_final_info"][row]
                single, info = env.reset()
            elif "final_obs" in infos:
                assert infos["final_obs"][row] is None
            np.testing.assert_array_equal(observation[row], single)
            assert infos["lr"][row] == info["lr"]
    assert ended >= 3


def test_runs_of_a_group_share_a_task_and_groups_do_not():
    env = TrainingVectorEnv(6, groups=3, streams=3, task="random-digits")
    env.reset(seed=0)
    names = [world.task.name for world in env.worlds]
    assert len(set(names)) == 3
    assert [world.rows for world in env.worlds] == [2, 2, 2]
    assert [world.engine.streams for world in env.worlds] == [1, 1, 1]
    with pytest.raises(InputError, match="groups 4 does not divide"):
        TrainingVectorEnv(6, groups=4)
    with pytest.raises(InputError, match="not into 3 groups"):
        TrainingVectorEnv(6, groups=3, streams=2)


def test_initial_rates_go_to_their_rows():
    env = TrainingVectorEnv(4, groups=2, task="quadratic")
    rates = [0.1, 0.2, 0.3, 0.4]
    assert env.reset(seed=0, options={"lr0": rates})[1]["lr"].tolist() == rates
    assert env.reset(options={"lr0": 0.5})[1]["lr"].tolist() == [0.5] * 4


def test_elu_takes_the_fast_path_unless_its_alpha_is_its_own():
    from lrcontrol.envs.mlp import plain_layers

    digits = make_task("digits-mlp")
    for alpha, fast in ((1.0, True), (0.5, False)):
        module = nn.Sequential(nn.Linear(64, 8), nn.ELU(alpha), nn.Linear(8, 10))
        task = Task(name="elu", model=lambda: mlp(64, 8, 10), train=digits.train, batch_size=8, steps=4)
        assert (plain_layers(module, task) is not None) == fast


class Tenfold(nn.Sequential):
    def forward(self, x):
        return 10.0 * super().forward(x)


def hooked():
    module = mlp(64, 8, 10)
    module[0].register_forward_hook(lambda part, x, y: 0.5 * y)
    return module


def repeated():
    part, activation = nn.Linear(64, 64), nn.Tanh()
    return nn.Sequential(part, activation, part, activation, nn.Linear(64, 10))


def tied():
    module = mlp(64, 64, 64, 10)
    module[2].weight = module[0].weight
    return module


def reparametrised():
    module = mlp(64, 8, 10)
    nn.utils.parametrizations.weight_norm(module[0])
    return module


@pytest.mark.parametrize("build", [lambda: Tenfold(*mlp(64, 8, 10)), hooked, repeated, tied, reparametrised])
def test_a_sequence_of_layers_that_is_more_than_that_is_trained_as_it_was_written(build):
    """Five constant steps, against the module itself in a loop of torch's."""
    task = Task(name="own", model=build, train=make_task("digits-mlp").train, batch_size=32, steps=5)
    found = lrcontrol.evaluate(task, ["constant"], lr0=[0.1], runs=1).traces["loss"].to_pylist()
    module, expected = initial_module(task, run_seeds(0)), []
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    for _, (x, y) in zip(range(5), minibatches(task, run_seeds(0)), strict=False):
        loss = task.loss(module(x), y)
        expected.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_random_synthetic_has_five_kinds_of_problems_and_each_can_be_trained():
    tasks = [random_synthetic(index) for index in range(100)]
    for kind, task in zip(itertools.cycle(KINDS), tasks, strict=False):
        inputs, targets = task.train
        assert 80 <= task.steps <= 500
        assert kind == "bottleneck" or 500 <= len(inputs) <= 32768
        if kind == "sentences":
            assert torch.equal(inputs[:, 1:], targets[:, :-1])
            assert 4 <= task.batch_size <= 16
            continue
        layers = [part for part in build_module(task.model, 0) if isinstance(part, nn.Linear)]
        assert layers[0].in_features == inputs.shape[1]
        assert 8 <= task.batch_size <= 256
        if kind in ("clusters", "tokens"):
            assert targets.dtype == torch.int64
            assert layers[-1].out_features > int(targets.max())
        else:
            assert targets.shape == (len(inputs), layers[-1].out_features)
        if kind == "tokens":
            assert set(inputs.sum(dim=1).tolist()) <= {1.0, 2.0, 3.0}  # a one for each token of the context
        if kind == "bottleneck":
            assert torch.equal(inputs, targets)
            assert min(layer.out_features for layer in layers) <= 16
    for task in tasks[:10]:
        results = lrcontrol.evaluate(task, ["schedule:kind=one-cycle"], lr0=[0.03], runs=1, steps=80, optimizer="adamw")
        losses = results.traces["loss"].to_pylist()
        learnt = 0.97 if task.loss is next_token_loss else 0.9  # of narrow transformers little in 80 steps
        assert results.by_start("schedule:kind=one-cycle")[0, 0] < learnt * losses[0], task.name
