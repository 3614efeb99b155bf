"""Other people's optimizers in our tables: DoG and COCOB against slow references, and the pairing of their runs."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import lrcontrol
from lrcontrol.envs import InputError
from lrcontrol.peers import PEERS, find_peer
from lrcontrol.rollouts import Assignment
from lrcontrol.tuning_free import COCOB, DoG


def gradients(weights, step):
    """Return the gradient of a noisy quadratic, weight by weight, from its step number alone."""
    return [(i + 1.0) * w - math.sin(3.0 * step + i) for i, w in enumerate(weights)]


def walk(make, start, steps):
    parts = [
        nn.Parameter(torch.tensor(start[:2], dtype=torch.float64)),
        nn.Parameter(torch.tensor(start[2:], dtype=torch.float64)),
    ]
    optimizer = make(parts)
    seen = []
    for step in range(steps):
        flat = torch.cat([p.detach() for p in parts]).tolist()
        grads = torch.tensor(gradients(flat, step), dtype=torch.float64)
        parts[0].grad, parts[1].grad = grads[:2], grads[2:]
        optimizer.step()
        seen.append(torch.cat([p.detach() for p in parts]).tolist())
    return optimizer, parts, np.array(seen)


START = [1.0, -0.5, 2.0, 0.25]


def test_dog_is_the_papers_rule_step_by_step():
    weights, squares, farthest = list(START), 0.0, 1e-3 * (1.0 + math.hypot(*START))
    points, rates = [], []
    for step in range(30):
        g = gradients(weights, step)
        farthest = max(farthest, math.dist(weights, START))
        squares += sum(x * x for x in g)
        rates.append(farthest / math.sqrt(squares + 1e-8))
        weights = [w - rates[-1] * x for w, x in zip(weights, g, strict=True)]
        points.append(weights)
    optimizer, parts, seen = walk(lambda params: DoG(params, reps_rel=1e-3), START, 30)
    assert seen == pytest.approx(np.array(points), rel=1e-12)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(rates[-1], rel=1e-12)
    # The average of polynomial decay weighs iterate t as the product formula says, and the weights sum to 1.
    weights = np.ones(30)
    for t in range(30):
        weights[:t] *= 1.0 - 9.0 / (t + 9.0)
        weights[t] = 9.0 / (t + 9.0)
    assert weights.sum() == pytest.approx(1.0)
    optimizer.eval()
    optimizer.eval()
    assert torch.cat([p.detach() for p in parts]).tolist() == pytest.approx(weights @ np.array(points), rel=1e-9)
    optimizer.train()
    assert torch.cat([p.detach() for p in parts]).tolist() == seen[-1].tolist()


def test_cocob_bets_each_weight_by_itself():
    points = []
    weights = list(START)
    largest, total, sums, reward = [1e-8] * 4, [0.0] * 4, [0.0] * 4, [0.0] * 4
    for step in range(30):
        for i, g in enumerate(gradients(list(weights), step)):
            gain = -g
            largest[i] = max(largest[i], abs(gain))
            total[i] += abs(gain)
            reward[i] = max(reward[i] + (weights[i] - START[i]) * gain, 0.0)
            sums[i] += gain
            beta = sums[i] / (largest[i] * max(total[i] + largest[i], 100.0 * largest[i]))
            weights[i] = START[i] + beta * (largest[i] + reward[i])
        points.append(list(weights))
    assert walk(COCOB, START, 30)[2] == pytest.approx(np.array(points), rel=1e-12)


def test_a_peers_runs_are_paired_with_those_of_the_agents():
    arguments = {"optimizer": "adamw", "lr0": [1e-3], "runs": 2, "steps": 30, "seed": 5}
    results = lrcontrol.evaluate("digits-mlp", ["constant", "adamw"], weight_decay=0.01, **arguments)
    ours, theirs = (results.by_start(agent, "train_loss") for agent in ("constant", "adamw"))
    assert theirs == pytest.approx(ours, rel=1e-4)
    assert len(set(theirs[0])) == 2


def test_a_knob_is_the_initial_rate_and_without_one_every_start_is_the_same():
    results = lrcontrol.evaluate("digits-mlp", ["dog", "dog:knob=true", "cocob"], lr0=[1e-6, 1e-1], runs=2, steps=20)
    losses = {agent: results.by_start(agent, "train_loss") for agent in results.agents}
    assert np.array_equal(*losses["dog"])
    assert losses["dog"][0] == pytest.approx(losses["dog:knob=true"][0])  # 1e-6 is its default
    assert (losses["dog:knob=true"][1] < losses["dog:knob=true"][0]).all()
    assert np.array_equal(*losses["cocob"])
    assert results.of_agent("dog").to_pylist()[0]["forward_passes"] == 20


def test_a_peer_that_explodes_is_in_the_table_as_that():
    results = lrcontrol.evaluate("digits-mlp", ["adamw:knob=true"], lr0=[1e6], runs=1, steps=20)
    assert results.of_agent("adamw:knob=true").to_pylist()[0]["diverged"] == 1


@pytest.mark.parametrize("name", PEERS)
def test_every_peer_trains_where_its_package_is(name):
    results = lrcontrol.evaluate("quadratic:noise=0.1", [name], lr0=[1e-3], runs=1)
    losses = results.traces["loss"].to_pylist()
    assert results.of_agent(results.agents[0]).to_pylist()[0]["train_loss_mean"] < 0.7 * losses[0]


def test_a_key_that_a_peer_does_not_have_is_refused():
    with pytest.raises(InputError, match="takes no keys"):
        find_peer("cocob:knob=true")


@pytest.mark.parametrize("name", ["armijo", "sps", "dog"])
def test_every_forward_pass_of_a_peer_is_counted(name):
    """All calls of the loss but the look at the minibatch after the last step, and the evaluation of both sets."""
    data = lrcontrol.make_task("digits-mlp")
    calls = []

    def loss(outputs, targets):
        calls.append(torch.is_grad_enabled())
        return nn.functional.cross_entropy(outputs, targets)

    task = lrcontrol.Task(model=data.model, train=data.train, batch_size=64, steps=20, loss=loss)
    passes = find_peer(name).run(Assignment(lrcontrol.Settings(task=task, steps=20), [0.1], 1)).passes
    evaluations = math.ceil(len(data.train[0]) / 1000)
    assert passes == {"forward_passes": len(calls) - 1 - evaluations, "backward_passes": calls.count(True) - 1}
    assert (passes["forward_passes"] > 20) is (name == "armijo")


def test_passes_that_differ_between_runs_are_their_mean():
    base = lrcontrol.Settings(task="digits-mlp", steps=20)
    forwards = [
        find_peer("armijo").run(Assignment(base, [0.1], runs, seed)).passes["forward_passes"]
        for runs, seed in ((2, 0), (1, 0), (1, 1))
    ]
    assert forwards[0] == round((forwards[1] + forwards[2]) / 2)


def test_polyak_steps_from_a_far_too_high_rate_come_down_and_hypergradients_do_not():
    agents = ["sps:knob=true", "armijo:knob=true", "hypergradient-sgd:knob=true"]
    results = lrcontrol.evaluate("quadratic", agents, lr0=[1e6], runs=1, steps=50)
    polyak, armijo, exploded = (results.of_agent(agent).to_pylist()[0] for agent in agents)
    first = results.traces["loss"].to_pylist()[0]
    assert max(polyak["train_loss_mean"], armijo["train_loss_mean"]) < 0.01 * first
    assert [row["diverged"] for row in (polyak, armijo, exploded)] == [0, 0, 1]
    assert exploded["train_loss_mean"] == pytest.approx(10.0 * first)
