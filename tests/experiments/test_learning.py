"""Agents that train really learn: a small honest version in every run, the published one on request (-m slow)."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import lrcontrol
from experiments.learned import ablations, evolve, merge, recipe, terms
from experiments.learned.ars import RandomSearch
from experiments.learned.candidates import Candidates, Shape
from lrcontrol.agents import make_agent
from lrcontrol.envs import InputError

STARTS = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0]


def means(results, agent):
    return np.array(results.of_agent(agent)["train_loss_mean"].to_pylist())


def test_ppo_learns_in_seconds_to_raise_low_rates(tmp_path):
    """Runs of 50 steps from 1e-3 to 1: a constant rate ends at 2.31, 2.28, 1.88, 0.31; the first loss is 2.3."""
    agent = lrcontrol.train(
        "digits-mlp",
        out=tmp_path / "ppo",
        timesteps=110_000,
        num_envs=128,
        evaluations=1,
        steps=50,
        lr0_range=(1e-3, 1.0),
        parameters={"n_steps": 50, "batch_size": 1600, "learning_rate_end": 1e-3},
    )
    results = lrcontrol.evaluate(agents=[agent, "constant"], lr0=[*STARTS[3:6], 1.0], runs=3, steps=50)
    learned, constant = means(results, agent.name), means(results, "constant")
    assert constant[:3].min() > 1.7
    assert learned.max() < 0.75
    assert learned.max() < 1.3 * learned.min()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_ppo_is_flat_over_seven_decades_after_three_million_steps(tmp_path, seed):
    agent = lrcontrol.train("digits-mlp", out=tmp_path / "ppo", seed=seed)
    learned = means(lrcontrol.evaluate(agents=[agent], lr0=STARTS, runs=10), agent.name)
    assert learned.mean() <= 0.115
    assert learned.max() <= 1.1 * learned.min()


def test_evolution_writes_the_policy_that_it_scored_and_goes_on_where_it_was(tmp_path):
    """A linear policy over three features; the second ten generations after a stop."""
    few = {"population": 4, "tasks": 1, "workers": 1, "optimizers": ("sgd",)}
    options = evolve.Options(out=tmp_path, features=("fast_vs_slow", "relative_step", "budget_left"), **few)
    for generations in (10, 20):
        evolve.main(replace(options, generations=generations))
    rows = np.loadtxt(tmp_path / "progress.csv", delimiter=",")
    assert rows[:, 0].tolist() == list(range(1, 21))
    assert len(json.loads((tmp_path / "state.json").read_text())["recent"]) == 2
    agent = make_agent(tmp_path)
    assert agent.needs["start"] == (0.3, 0.3)
    # What the file's first layer answers on raw features is what evolution scored on standardised ones.
    saved = json.loads((tmp_path / "state.json").read_text())
    shape, scale = Shape(3, 0), np.array(saved["scale"])
    weights, x = np.mean(saved["recent"], axis=0)[None], np.array([[0.1, -1.0, 0.5]])
    expected = shape.act(weights, (x - scale[0]) / scale[1])
    assert agent.predict(x.astype(np.float32))[0] == pytest.approx(expected, rel=1e-4)


def test_losses_are_cut_and_stretched_so_that_every_task_counts_alike():
    """Medians 0, quartiles 0.1 and 0.01 apart either way: stretched, both tasks' middle halves are 0.2 wide."""
    near, far = np.array([-0.2, -0.1, 0.0, 0.1, 9.0]), np.array([-0.02, -0.01, 0.0, 0.01, 0.9])
    losses = np.stack([near - 3.0, far + 1.0])
    np.testing.assert_allclose(evolve.scores(losses, False), [[-0.2, -0.1, 0.0, 0.1, 1.5], [*far[:4], 0.9]])
    np.testing.assert_allclose(evolve.scores(losses, True), [[-0.2, -0.1, 0.0, 0.1, 1.5]] * 2)
    np.testing.assert_allclose(evolve.scores(np.array([0.001 * near]), True), [0.01 * near])  # and no further


def test_a_search_begins_as_the_policy_that_it_is_given_also_where_momentum_moves_too():
    """Over features as they are, output 0 answers with the weights of ``begin`` and output 1 holds."""
    names, begin = ("fast_vs_slow", "relative_step"), {"relative_step": -2.0, "bias": 0.25}
    for moved in (("lr",), ("lr", "momentum")):
        few = {"optimizers": ("sgd",), "sources": ("random-digits",), "hyperparameters": moved}
        options = evolve.Options(out=Path(), features=names, begin=begin, **few)
        search = evolve.Search.begin(options)
        scale, x = np.array(search.scale), np.array([[0.3, -0.1], [0.0, 0.4]])
        answers = options.shape.act(np.array([search.mean] * 2), (x - scale[0]) / scale[1])
        np.testing.assert_allclose(answers[:, 0], [0.45, -0.55], rtol=1e-9)
        np.testing.assert_allclose(answers[:, 1:], 0.0)
        if "momentum" in moved:
            second = {"momentum:fast_vs_slow": 1.0, "momentum:bias": 0.05}
            search = evolve.Search.begin(replace(options, begin=begin | second))
            answers = options.shape.act(np.array([search.mean] * 2), (x - scale[0]) / scale[1])
            np.testing.assert_allclose(answers, [[0.45, 0.35], [-0.55, 0.05]], rtol=1e-9)


def test_a_search_for_what_to_add_scores_the_sum_and_writes_it(tmp_path):
    """Candidates that add nothing act as the base does, and what is written acts as a candidate of its weights."""
    few = {"population": 4, "tasks": 1, "workers": 1, "optimizers": ("sgd",), "generations": 10}
    names = ("relative_step", "fast_vs_slow")
    evolve.main(evolve.Options(tmp_path / "base", features=names[:1], begin={"relative_step": -1.0}, **few))
    moved = {"features": names, "hyperparameters": ("lr", "momentum"), "base": tmp_path / "base"}
    options = evolve.Options(tmp_path / "sum", **few, **moved)
    evolve.main(options)
    base, found = make_agent(tmp_path / "base"), make_agent(tmp_path / "sum")
    x = np.random.default_rng(0).uniform(-1.0, 1.0, (20, 2)).astype(np.float32)
    saved = json.loads((tmp_path / "sum" / "state.json").read_text())
    shape, scale = options.shape, np.array(saved["scale"])
    for mean, expected in ((np.mean(saved["recent"], axis=0), found.predict(x)[0]), (np.zeros(shape.size), None)):
        candidates = Candidates(np.tile(mean, (20, 1)), shape, scale, names, options.base)
        answers = candidates.predict(x)[0]
        if expected is None:
            expected = np.pad(base.predict(x[:, :1])[0], ((0, 0), (0, 1)))
        np.testing.assert_allclose(answers, expected, atol=1e-3)
    assert np.abs(found.predict(x)[0][:, 1]).max() > 0.01


def test_a_policy_of_two_frames_answers_to_what_it_was_shown_last_as_well():
    """The first weight is the newest observation's; before there are two, the first stands for both."""
    weights, scale = np.array([[0.5, -0.25, 0.1]]), np.array([[0.0], [1.0]])
    candidates = Candidates(weights, Shape(2, 0), scale, ("relative_step",))
    state = None
    for seen, expected in ((0.4, 0.2), (1.0, 0.5), (0.0, -0.15)):  # 0.1 + 0.5 x − 0.25 x of the step before
        action, state = candidates.predict(np.array([[seen]]), state)
        np.testing.assert_allclose(action, [[expected]])


def test_a_search_with_two_frames_goes_on_and_acts_as_its_mean(tmp_path):
    few = {"population": 4, "tasks": 1, "workers": 1, "optimizers": ("sgd",), "sources": ("random-digits",)}
    options = evolve.Options(tmp_path, features=("relative_step", "budget_left"), frames=2, generations=10, **few)
    evolve.main(options)
    saved = json.loads((tmp_path / "state.json").read_text())
    assert len(saved["mean"]) == 5
    agent = evolve.remembering(options)
    first, second = np.array([[-1.0, 1.0]]), np.array([[-2.0, 0.9]])
    _, state = agent.predict(first)
    scale, weights = np.array(saved["scale"]), np.mean(saved["recent"], axis=0)
    expected = weights[4] + weights[:2] @ ((second - scale[0]) / scale[1])[0]
    expected += weights[2:4] @ ((first - scale[0]) / scale[1])[0]
    np.testing.assert_allclose(agent.predict(second, state)[0], [[np.clip(expected, -1.0, 1.0)]])


def test_random_search_steps_as_the_paper_says_and_finds_a_minimum():
    """Algorithm 1, V1-t: the half of the directions whose better end is best, over the spread of what they gave."""
    search = RandomSearch(np.array([1.0, -2.0, 0.5]), 0.1, step_size=0.02, population_size=8, seed=0)
    points = [search.ask() for _ in range(8)]
    values = [float(np.square(point).sum()) for point in points]
    pairs = [(values[i], values[i + 1], (points[i] - search._mean) / 0.1) for i in range(0, 8, 2)]
    used = sorted(pairs, key=lambda pair: min(pair[:2]))[:2]
    spread = np.std([value for pair in used for value in pair[:2]])
    expected = search._mean + 0.02 / (2 * spread) * sum((minus - plus) * way for plus, minus, way in used)
    search.tell(list(zip(points, values, strict=True)))
    np.testing.assert_allclose(search._mean, expected)
    for _ in range(400):
        points = [search.ask() for _ in range(8)]
        search.tell([(point, float(np.square(point).sum())) for point in points])
    assert np.linalg.norm(search._mean) < 0.1


def test_the_recipe_ends_in_an_agent_that_is_both_of_its_searches_and_each_begins_at_another(tmp_path, monkeypatch):
    full, few = evolve.main, {"generations": 10, "population": 4, "tasks": 1, "sources": ("random-digits",)}
    seen = []
    monkeypatch.setattr(evolve, "main", lambda options: seen.append(options) or full(replace(options, **few)))
    recipe.main(recipe.Options(tmp_path, workers=1))
    assert [options.generations for options in seen] == [40, 120, 160, 80, 140, 160, 400, recipe.ADDED["generations"]]
    begun = {options.out.name: options.begin for options in seen}
    line, lines = make_agent(tmp_path / "sgd-line"), make_agent(tmp_path / "sgd-lines")
    weights = dict(zip(line.needs["features"], line.network.tensors["layers.0.weight"][0], strict=True))
    bias = line.network.tensors["layers.0.bias"][0]
    assert begun["sgd-lines"] == pytest.approx(weights | {"bias": bias}, abs=6e-4)
    rate, momentum = lines.network.tensors["layers.0.weight"]
    assert lines.needs["features"].index("fast_vs_first") == 7
    assert begun["sgd"]["below_early"] == pytest.approx(rate[7], abs=6e-4)
    assert begun["sgd"]["momentum:relative_peak"] == pytest.approx(momentum[0], abs=6e-4)
    assert begun["sgd"]["momentum:bias"] == pytest.approx(lines.network.tensors["layers.0.bias"][1], abs=6e-4)
    assert len(begun["sgd"]) == 22
    assert "random-raw" in next(options.sources for options in seen if options.out.name == "sgd")
    assert seen[-1].base == tmp_path / "network"
    both = make_agent(tmp_path / "learned")
    names = both.needs["features"]
    x = np.random.default_rng(0).uniform(-0.5, 0.5, (200, len(names))).astype(np.float32)
    x[:, [names.index(term) for term in merge.TERMS]] = 0.0
    bounded = {"fast_vs_best": "above_best", "fast_vs_first": "below_first"}
    for number, name in enumerate(("sgd", "adamw")):
        alone = make_agent(tmp_path / name)
        x[:, names.index("adaptive")] = number
        columns = [names.index(bounded.get(feature, feature)) for feature in alone.needs["features"]]
        expected = alone.predict(x[:, columns])[0]
        assert expected.shape == (200, 2)
        np.testing.assert_allclose(both.predict(x)[0], expected, atol=2e-3)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_term_that_was_put_in_by_hand_can_be_weighed_otherwise(optimizer):
    agent, shipped = make_agent("learned"), {"sgd": -1.2, "adamw": -1.5}[optimizer]
    names = agent.needs["features"]
    x = np.random.default_rng(0).uniform(-0.2, 0.2, (200, len(names))).astype(np.float32)
    x[:, names.index("adaptive")] = optimizer != "sgd"
    answers = {weight: terms.reweighed("log_depth", weight, optimizer).network.outputs(x)[0] for weight in (-2.0, 0.0)}
    expected = agent.network.outputs(x)[0].copy()
    for weight, found in answers.items():
        moved = expected.copy()
        moved[:, 0] += (weight - shipped) * x[:, names.index("log_depth")]
        np.testing.assert_allclose(found, moved, atol=2e-3, err_msg=str(weight))


def test_a_term_that_has_no_weight_cannot_be_given_another():
    with pytest.raises(InputError, match=r"far_below_spaced.*no weight with sgd"):
        terms.reweighed("far_below_spaced", 0.5, "sgd")


def test_every_ablation_is_a_search_that_can_begin():
    for optimizer, base in ablations.BASES.items():
        for name, change in ablations.ABLATIONS.items():
            options = evolve.Options(out=Path(name), **(ablations.SAME | base | change(base)))
            assert set(options.begin) - {"bias"} <= set(options.features), (optimizer, name)
            assert not (options.begin and options.hidden), (optimizer, name)


def test_an_ablation_changes_what_it_says():
    for optimizer, base in ablations.BASES.items():
        names = ablations.changing(base)
        assert ("peak-for-step" in names) == ("without-predicted_decrease" in names) == (optimizer == "adamw")
        assert ("without-possible_decrease" in names) == (optimizer == "sgd")
    base = ablations.BASES["adamw"]
    swapped = ablations.ABLATIONS["peak-for-step"](base)
    assert set(base["features"]) ^ set(swapped["features"]) == {"relative_step", "relative_peak"}
    assert swapped["begin"]["relative_peak"] == base["begin"]["relative_step"]
