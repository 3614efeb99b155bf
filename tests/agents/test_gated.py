"""Two agents in one: what each would do alone, under its own kind of optimizer."""

import itertools

import numpy as np
import pytest

from experiments.learned.merge import corrected
from lrcontrol.agents import TrainedAgent, make_agent
from lrcontrol.agents.gated import add, merge
from lrcontrol.agents.network import Network
from lrcontrol.envs import InputError

NEEDS = {name: value for name, value in make_agent("learned").needs.items() if name != "features"}


def agent(features, units, seed, outputs=1, **needs):
    """Return a network of random weights, or a line where it has no units, on some features."""
    rng = np.random.default_rng(seed)
    sizes = [len(features), units, outputs] if units else [len(features), outputs]
    tensors = {}
    for number, (before, after) in enumerate(itertools.pairwise(sizes)):
        tensors[f"layers.{number}.weight"] = (0.5 * rng.normal(size=(after, before))).astype(np.float32)
        tensors[f"layers.{number}.bias"] = (0.1 * rng.normal(size=after)).astype(np.float32)
    return TrainedAgent(
        "made up", NEEDS | needs | {"features": features}, Network(tensors, "tanh", "clip", (1,) * outputs), "", {}
    )


@pytest.mark.parametrize("units", [(0, 0), (0, 8), (6, 0), (5, 3)])
@pytest.mark.parametrize("spread", [1.0, 3.0, 30.0])  # of what is seen, held to −10..10
@pytest.mark.parametrize("outputs", [1, 2])
def test_each_answers_as_it_would_alone(units, spread, outputs):
    sgd = agent(("relative_peak", "grad_cosine"), units[0], 1, outputs)
    adaptive = agent(("grad_cosine", "loss_change", "relative_step"), units[1], 2, outputs)
    both = merge(sgd, adaptive)
    names = both.needs["features"]
    assert names == ("relative_peak", "grad_cosine", "loss_change", "relative_step", "adaptive")
    x = np.clip(np.random.default_rng(3).normal(size=(500, 5)) * spread, -10, 10).astype(np.float32)
    for kind, alone in enumerate((sgd, adaptive)):
        x[:, -1] = kind
        wanted = alone.predict(x[:, [names.index(name) for name in alone.needs["features"]]])[0]
        assert len(np.unique(wanted)) > 10
        np.testing.assert_allclose(both.predict(x)[0], wanted, atol=5e-4)


def test_agents_that_decide_otherwise_cannot_be_one():
    with pytest.raises(InputError, match="different settings"):
        merge(agent(("grad_cosine",), 0, 1), agent(("grad_cosine",), 0, 1, interval=2))


@pytest.mark.parametrize("units", [(8, 0), (0, 0), (5, 3)])
@pytest.mark.parametrize("outputs", [(1, 2), (2, 2), (1, 1)])
def test_a_sum_answers_what_both_answer_together_and_is_cut_once(units, outputs):
    names = ("grad_cosine", "loss_change", "relative_step")
    base, correction = agent(names[1:], units[0], 1, outputs[0]), agent(names, units[1], 2, outputs[1])
    total = add(base, correction)
    assert (total.needs, total.name) == (correction.needs, correction.name)
    x = np.random.default_rng(3).normal(size=(500, 3)).astype(np.float32)
    expected = correction.network.outputs(x)[0].copy()
    expected[:, : outputs[0]] += base.network.outputs(x[:, 1:])[0]
    assert all(units) or (np.abs(expected) > 1.0).any()
    np.testing.assert_allclose(total.predict(x)[0], np.clip(expected, -1.0, 1.0), atol=1e-3)


@pytest.mark.parametrize("units", [0, 5])
@pytest.mark.parametrize("outputs", [1, 2])
def test_terms_are_added_to_what_an_agent_answers_for_the_rate(units, outputs):
    alone = agent(("fast_vs_best", "log_level"), units, 1, outputs)
    both = corrected(alone, {"far_below_first": 0.25, "log_depth": -1.5})
    assert both.needs["features"] == ("above_best", "log_level", "far_below_first", "log_depth")
    random = np.random.default_rng(0)
    added = np.column_stack([-random.uniform(0.0, 5.5, 50), random.uniform(0.0, 0.6, 50)])
    x = np.column_stack([random.normal(size=(50, 2)), added]).astype(np.float32)
    found, expected = both.network.outputs(x)[0], alone.network.outputs(x[:, :2])[0].copy()
    expected[:, 0] += 0.25 * x[:, 2] - 1.5 * x[:, 3]
    np.testing.assert_allclose(found, expected, atol=1e-3)
