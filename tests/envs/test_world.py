"""What an agent sees, does and is paid, computed by hand beside the world."""

import functools
from dataclasses import replace

import numpy as np
import pytest
import torch
from reference import flat, train

from lrcontrol.envs import FEATURES, InputError, Schedule, Settings, Task, World, make_task, mlp
from lrcontrol.envs.features import LossHistory, Moment, highest_rate, natural_rate, observe
from lrcontrol.envs.seeding import run_seeds

pytestmark = pytest.mark.usefixtures("either_way")


def play(settings, actions, lr0=0.1, rows=1, seeds=None):
    world = World(settings, rows, record=True, device="cpu")
    observations = [world.reset(seeds or [run_seeds(row) for row in range(rows)], lr0)]
    rewards = []
    for action in actions:
        observation, reward, over = world.step(np.asarray(action))
        observations.append(observation)
        rewards.append(reward)
    return world, np.array(observations), np.array(rewards), over


def test_features_are_what_they_say_computed_from_a_plain_run():
    names = tuple(name for name in FEATURES if name != "probe_momentum_slope")  # for which momentum must be controlled
    settings = Settings(features=names, optimizer="sgd", momentum=0.9, probe_factor=1.5, steps=20)
    world, observations, _, _ = play(settings, np.zeros((12, 1, 1)), lr0=0.2)
    steps = list(train(world.task, run_seeds(0), "sgd", lambda t: 0.2, lambda t: 0.9, 12))
    fast = slow = best = first = previous = steps[0].loss
    velocity = None
    for t, step in enumerate(steps):
        loss, g = step.loss, step.gradient.double()
        if t:
            fast, slow = 0.2 * loss + 0.8 * fast, 0.03 * loss + 0.97 * slow
            best = min(best, fast)
        u = g if velocity is None else 0.9 * velocity + 0.1 * g
        theta = step.params.double()
        expected = {
            "log_loss": np.log(loss),
            "loss_change": np.log(loss / previous),
            "loss_vs_fast": np.log(loss / fast),
            "fast_vs_slow": np.log(fast / slow),
            "fast_vs_best": np.log(fast / best),
            "above_best": np.log(fast / best),
            "fast_vs_first": np.log(fast / first),
            "below_first": np.log(fast / first),
            "below_early": 0.0,
            "far_below_first": 0.0,
            "far_below_spaced": 0.0,
            "grad_cosine": 0.0 if velocity is None else float(g @ velocity / g.norm() / velocity.norm()),
            "predicted_decrease": np.log10(max(0.2 * float(g @ u) / loss, 1e-30)),
            "possible_decrease": np.log10(0.2 * float(g.norm() * u.norm()) / loss),
            "relative_step": np.log10(0.2 * float(u.norm() / theta.norm())),
            "relative_peak": np.log10(0.2 * float(u.norm() / theta.norm())),
            "log_level": 0.0,
            "adaptive": 0.0,
            "log_depth": 0.0,
            "grad_sq_over_loss": np.log10(float(g @ g) / loss),
            "budget_left": 1.0 - t / 20,
            "log_steps_left": np.log10(21.0 - t),
            "log_lr": np.log10(0.2),
            "log_one_minus_momentum": -1.0,
        }
        found = dict(zip(names, observations[t, 0], strict=True))
        for name, value in expected.items():
            assert found[name] == pytest.approx(np.clip(value, -10, 10), rel=2e-3, abs=2e-4), (t, name)
        velocity, previous = u, loss


def test_averages_with_a_bound_stop_where_the_others_go_on():
    history = LossHistory(np.array([1.0, 1.0, 1.0]))
    for _ in range(40):
        history.add(np.array([1e-3, 0.5, 0.1]))
    fallen = np.array([1e-3, 0.5, 0.1]) + np.array([0.999, 0.5, 0.9]) * 0.8**40
    names = ("fast_vs_best", "above_best", "fast_vs_first", "below_first", "far_below_first")
    one = np.ones(3)
    moment = Moment(one, one, one, one, one, 40, 100, adaptive=False)
    first = observe(names, moment, history)
    np.testing.assert_allclose(first[:, :2], 0.0)
    np.testing.assert_allclose(first[:, 2], np.log(fallen), rtol=1e-6)
    np.testing.assert_allclose(first[:, 3], [-4.5, np.log(fallen[1]), np.log(fallen[2])], rtol=1e-6)
    np.testing.assert_allclose(first[:, 4], [np.log(fallen[0]) + 4.5, 0.0, 0.0], rtol=1e-6)
    history.add(np.array([9.0, 0.6, 9.0]))
    risen = 0.2 * np.array([9.0, 0.6, 9.0]) + 0.8 * fallen
    second = observe(names, moment, history)
    np.testing.assert_allclose(second[:, 0], np.log(risen / fallen), rtol=1e-6)
    np.testing.assert_allclose(second[:, 1], [1.0, np.log(risen[1] / fallen[1]), 1.0], rtol=1e-6)


@pytest.mark.parametrize(("interval", "expected"), [(1, 0.0), (2, -0.3010), (10, -1.0), (100, -2.0)])
def test_how_far_the_loss_has_fallen_counts_more_the_fewer_decisions_there_are(interval, expected):
    history, one = LossHistory(np.array([np.exp(5.5)])), np.ones(1)
    history.fast = one
    moment = Moment(one, one, one, one, one, 40, 100, adaptive=True, interval=interval)
    found = observe(("far_below_first", "far_below_spaced"), moment, history)
    np.testing.assert_allclose(found, [[-1.0, expected]], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("hidden", "expected"),
    [(1, 0.0), (2, 0.0), (3, np.log10(4 / 3)), (8, np.log10(3.0)), (11, np.log10(4.0)), (20, np.log10(4.0))],
)
def test_depth_is_the_number_of_weight_matrices_from_three_to_twelve(hidden, expected):
    task = replace(make_task("digits-mlp"), model=functools.partial(mlp, 64, *(4,) * hidden, 10))
    world = World(Settings(task=task, features=("log_depth",), steps=2), 2, device="cpu")
    np.testing.assert_allclose(world.reset([run_seeds(0), run_seeds(1)], 0.1), [[expected]] * 2, rtol=1e-6)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_step_is_no_longer_than_a_share_of_the_parameters_and_what_actions_multiply_stays(optimizer):
    """A rate of 5, doubled, would be a step of many lengths; the step after a decision is one of a hundredth."""
    names = ("relative_step", "log_lr", "log_level")
    limits = {"max_relative_step": 0.01, "interval": 2, "max_factor": 2.0, "weight_decay": 0.0}
    settings = Settings(features=names, optimizer=optimizer, momentum=0.9, steps=6, **limits)
    world = World(settings, 2, record=True, device="cpu")
    observation = world.reset([run_seeds(0), run_seeds(1)], [5.0, 1e-4])
    before = world.engine.params.clone()
    unit = 10.0 ** (observation[:, 0] - observation[:, 1])  # ‖u‖ / ‖θ‖ of the step to come
    world._train(np.ones(2), world._highest())
    moved = (world.engine.params - before).norm(dim=1) / before.norm(dim=1)
    np.testing.assert_allclose(moved, [0.01, 1e-4 * unit[1]], rtol=2e-3)
    np.testing.assert_allclose(world.trace["lr"][0], [0.01 / unit[0], 1e-4], rtol=1e-4)
    world.reset([run_seeds(0), run_seeds(1)], [5.0, 1e-4])
    observation, _, _ = world.step(np.ones((2, 1)))
    np.testing.assert_allclose(world.trace["lr"][:2], [[0.01 / unit[0], 2e-4], [10.0, 2e-4]], rtol=1e-4)
    np.testing.assert_allclose(observation[:, 2], np.log10(2.0), rtol=1e-5)


@pytest.mark.parametrize("value", [0.0, -1.0, np.inf, np.nan, "far"])
def test_a_longest_step_that_is_none_is_refused(value):
    with pytest.raises(InputError, match="max_relative_step"):
        Settings(max_relative_step=value)


def test_where_parameters_or_update_are_zero_a_step_has_no_limit():
    measures = {"param_sq": np.array([0.0, 4.0, 4.0, 4.0]), "update_sq": np.array([1.0, 0.0, 1.0, np.nan])}
    np.testing.assert_array_equal(highest_rate(0.3, measures), [np.inf, np.inf, 0.6, np.inf])


def test_what_is_below_early_counts_from_the_thirtieth_step():
    """A loss of 40 that is 2 at once, and falls by a hundredth a step from there: what it was at first says nothing."""
    history, fast, at_thirty = LossHistory(np.array([40.0])), 40.0, 0.0
    for step in range(1, 61):
        loss = 2.0 * 0.99**step
        history.add(np.array([loss]))
        fast = 0.2 * loss + 0.8 * fast
        at_thirty = fast if step == 30 else at_thirty
        one = np.ones(1)
        found = observe(("below_early",), Moment(one, one, one, one, one, step, 100, adaptive=False), history)
        expected = np.log(fast / at_thirty) if step > 30 else 0.0
        assert found[0, 0] == pytest.approx(expected, rel=1e-5, abs=1e-7), step
    assert found[0, 0] < -0.3


def test_relative_peak_leaves_the_schedule_out_of_the_step():
    names, lr0 = ("relative_peak", "relative_step", "log_lr", "log_level", "adaptive"), 0.02
    schedule = Schedule("one-cycle")
    settings = Settings(features=names, optimizer="adamw", base_schedule=schedule, max_factor=2.0, steps=20)
    _, observations, _, _ = play(settings, np.full((9, 1, 1), 0.5), lr0=lr0)
    peak, step, log_lr, log_level, adaptive = observations[:, 0].T.astype(np.float64)
    decided = 0.5 * np.log10(2.0) * np.arange(10)  # half of a doubling at each step
    np.testing.assert_allclose(log_level, decided, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(peak - step, np.log10(lr0) + decided - log_lr, rtol=1e-4, atol=1e-6)
    assert (peak - step)[1] == pytest.approx(-np.log10(schedule(0, 20)), rel=1e-4)
    assert (adaptive == 1.0).all()


def test_probe_features_compare_two_trial_steps_on_the_present_minibatch():
    settings = Settings(features=("probe_slope", "probe_change"), probe_factor=1.5, steps=5)
    world = World(settings, 1, device="cpu")
    (slope, change) = world.reset([run_seeds(0)], 0.3)[0]
    module = world.task.model()
    start = world.engine.params[0].clone()

    def loss_at(rate):
        torch.nn.utils.vector_to_parameters(start - rate * world.engine.gradient[0], module.parameters())
        return world.task.loss(module(world.engine.minibatch[0][0]), world.engine.minibatch[1][0]).item()

    same, more, now = loss_at(0.3), loss_at(0.45), loss_at(0.0)
    assert slope == pytest.approx((same - more) / (same * np.log(1.5)), rel=1e-3)
    assert change == pytest.approx(np.log(same / now), rel=1e-3)


def test_rewards_by_hand():
    losses = [
        step.loss for step in train(make_task("digits-mlp"), run_seeds(0), "sgd", lambda t: 0.5, lambda t: 0.0, 6)
    ]
    expected = {
        "loss": [-np.mean(losses[1:4]), -np.mean(losses[4:7])],
        "log-loss": [-np.mean(np.log(losses[1:4])), -np.mean(np.log(losses[4:7]))],
        "log-loss-change": [np.log(losses[0] / losses[3]), np.log(losses[3] / losses[6])],
    }
    for reward, values in expected.items():
        _, _, found, _ = play(Settings(reward=reward, interval=3, steps=20), np.zeros((2, 1, 1)), lr0=0.5)
        np.testing.assert_allclose(found[:, 0], values, rtol=1e-4)


@pytest.mark.parametrize("reward", ["loss", "log-loss", "log-loss-change"])
def test_a_run_that_breaks_is_paid_the_worst_to_the_end_and_never_gains_by_it(reward):
    settings = Settings(reward=reward, steps=20, lr_limits=(1e-12, 1e39))
    world, _, rewards, over = play(settings, np.zeros((20, 2, 1)), lr0=[0.1, 3e38], rows=2, seeds=[run_seeds(0)] * 2)
    assert over
    assert world.diverged.tolist() == [False, True]
    worst = 10.0 * world.trace["loss"][0, 1]
    last = {"loss": -worst, "log-loss": -np.log(worst), "log-loss-change": 0.0}[reward]
    np.testing.assert_allclose(rewards[5:, 1], last, rtol=1e-6)
    if reward == "log-loss-change":
        assert rewards[:, 1].sum() == pytest.approx(-np.log(10.0))
    assert rewards[:, 1].sum() < rewards[:, 0].sum()
    assert np.isnan(world.trace["loss"][-1, 1])
    assert world.trace["lr"][-1, 1] == 3e38


def test_absolute_actions_are_the_rates_themselves():
    settings = Settings(
        form="absolute", hyperparameters=("lr", "momentum"), multipliers=(0.01, 0.3), steps=9, optimizer="sgd"
    )
    world, _, _, _ = play(settings, [[[1, 0]], [[0, 1]], [[0, 0]]], lr0=5.0)
    np.testing.assert_allclose(world.trace["lr"][:3, 0], [0.3, 0.01, 0.01])
    np.testing.assert_allclose(world.trace["momentum"][:3, 0], [0.99, 0.7, 0.99])
    scheduled = Settings(form="absolute", base_schedule=Schedule("cosine"), max_factor=2.0, steps=8)
    world, _, _, _ = play(scheduled, [[[1.0]]] * 8, lr0=5.0)
    np.testing.assert_allclose(world.trace["lr"][:, 0], 1.0 + np.cos(np.pi * np.arange(8) / 8))


def test_the_validation_reward_is_paid_at_the_end_from_rows_that_are_not_trained_on():
    task = make_task("digits-mlp")
    settings = Settings(task=task, reward="validation-loss", validation_share=0.25, steps=4, reward_scale=2.0)
    _, _, rewards, over = play(settings, [[[0.0]]] * 4, lr0=0.5)
    assert over
    assert rewards[:3].tolist() == [[0.0]] * 3
    left, held = task.hold_out(0.25)
    assert (len(left.train[0]), len(held[0])) == (1078, 359)
    everything = torch.cat([left.train[0], held[0]])
    torch.testing.assert_close(everything.sum(dim=0), task.train[0].sum(dim=0))
    assert len(torch.unique(torch.cat([everything, task.train[0]]), dim=0)) == len(torch.unique(task.train[0], dim=0))
    module = task.model()
    final = [*train(left, run_seeds(0), "sgd", lambda t: 0.5, lambda t: 0.0, 4)][-1].params
    torch.nn.utils.vector_to_parameters(final, module.parameters())
    expected = -2.0 * np.log(task.loss(module(held[0]), held[1]).item())
    assert rewards[3, 0] == pytest.approx(expected, rel=1e-4)
    with pytest.raises(InputError, match="cannot be held out"):
        World(Settings(task="quadratic", reward="validation-loss"), 1, device="cpu")


def test_the_two_changes_telescope_to_the_last_loss_over_the_first_and_a_frozen_replica_loses_a_decade():
    for reward in ("log-loss-change", "fast-loss-change"):
        settings = Settings(reward=reward, steps=6, interval=2, reward_scale=0.5, lr_limits=(1e-12, 1e39))
        world, _, rewards, _ = play(settings, [[[0.0]] * 2] * 3, lr0=[0.5, 3e38], rows=2, seeds=[run_seeds(0)] * 2)
        losses = [s.loss for s in train(world.task, run_seeds(0), "sgd", lambda t: 0.5, lambda t: 0.0, 6)]
        fast = losses[0]
        for loss in losses[1:]:
            fast = 0.2 * loss + 0.8 * fast
        last = losses[-1] if reward == "log-loss-change" else fast
        assert rewards[:, 0].sum() == pytest.approx(0.5 * np.log(losses[0] / last), rel=1e-4)
        assert rewards[:, 1].sum() == pytest.approx(-0.5 * np.log(10.0), rel=1e-6)


def test_recursive_actions_multiply_and_limits_clip():
    settings = Settings(max_factor=4.0, steps=9, lr_limits=(1e-3, 1.0))
    world, _, _, _ = play(settings, [[[1.0]], [[-0.5]], [[0.0]], [[1.0]], [[1.0]]], lr0=0.1)
    np.testing.assert_allclose(world.trace["lr"][:5, 0], [0.4, 0.2, 0.2, 0.8, 1.0])


def test_momentum_moves_through_one_minus_beta():
    settings = Settings(hyperparameters=("lr", "momentum"), multipliers=(0.5, 1.0, 2.0), steps=9, momentum=0.9)
    world, _, _, _ = play(settings, [[[1, 0]], [[2, 0]], [[0, 2]]], lr0=0.1)
    np.testing.assert_allclose(world.trace["lr"][:3, 0], [0.1, 0.2, 0.1])
    np.testing.assert_allclose(world.trace["momentum"][:3, 0], [0.95, 0.975, 0.95])


@pytest.mark.parametrize(("optimizer", "momentum"), [("sgd", 0.0), ("adamw", 0.9)])
def test_momentum_begins_where_it_does_for_everyone_else(optimizer, momentum):
    for moved in (("lr",), ("lr", "momentum")):
        assert Settings(optimizer=optimizer, hyperparameters=moved).initial_momentum == momentum


def test_anchored_actions_multiply_the_base_schedule_and_leave_no_trace():
    settings = Settings(form="anchored", base_schedule=Schedule("cosine"), max_factor=2.0, steps=8, interval=2)
    world, _, _, over = play(settings, [[[1.0]], [[-1.0]], [[0.0]], [[0.0]]], lr0=0.1)
    base = 0.1 * 0.5 * (1.0 + np.cos(np.pi * np.arange(8) / 8))
    np.testing.assert_allclose(world.trace["lr"][:, 0], base * [2, 2, 0.5, 0.5, 1, 1, 1, 1])
    assert over


def test_an_interval_that_does_not_divide_the_budget_ends_with_it():
    world, _, _, over = play(Settings(interval=4, steps=10), np.zeros((3, 1, 1)))
    assert over
    assert world.step_count == 10
    with pytest.raises(InputError, match="call reset"):
        world.step(np.zeros((1, 1)))


def test_observations_stay_within_their_space_whatever_happens():
    settings = Settings(
        features=tuple(FEATURES), steps=30, lr_limits=(1e-12, 1e39), momentum=0.5, hyperparameters=("lr", "momentum")
    )
    rates = [1e-12, 1.0, 1e6, 1e38]
    _, observations, _, _ = play(settings, np.zeros((30, 4, 2)), lr0=rates, rows=4)
    assert np.isfinite(observations).all()
    assert np.abs(observations).max() <= 10.0
    assert observations.dtype == np.float32


def test_the_test_set_changes_nothing_that_an_agent_sees_or_is_paid():
    digits = make_task("digits-mlp")

    def same_but(test):
        task = Task(name="t", model=lambda: mlp(64, 20, 10), train=digits.train, test=test, batch_size=64, steps=9)
        return play(Settings(task=task), np.zeros((9, 1, 1)))[1:3]

    for a, b in zip(same_but(digits.test), same_but(None), strict=True):
        np.testing.assert_array_equal(a, b)


def test_actions_outside_their_space_are_refused():
    discrete = World(Settings(multipliers=(0.5, 2.0), steps=3), 1, device="cpu")
    discrete.reset([run_seeds(0)], 0.1)
    for action in (-1, 2, 0.7, "1"):
        with pytest.raises(InputError, match=r"not a whole number in 0\.\.1"):
            discrete.step(np.array([action]))
    continuous = World(Settings(steps=3), 1, device="cpu")
    continuous.reset([run_seeds(0)], 0.1)
    with pytest.raises(InputError, match="not finite"):
        continuous.step(np.array([[np.nan]]))
    with pytest.raises(InputError, match=r"actions of shape \(2, 1\) are not \(1, 1\)"):
        continuous.step(np.zeros((2, 1)))


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"optimizer": "adam"}, "did you mean 'adamw'"),
        ({"features": ("los",)}, "unknown feature 'los'"),
        ({"features": ()}, "at least one feature"),
        ({"reward": "los"}, "did you mean 'loss'"),
        ({"hyperparameters": ("momentum",)}, "hyperparameters"),
        ({"multipliers": (0.0, 1.0)}, "multipliers"),
        ({"max_factor": 1.0}, "max_factor 1.0"),
        ({"interval": 0}, "interval 0"),
        ({"steps": 0}, "steps 0"),
        ({"probe_factor": 1.0}, "probe_factor 1.0"),
        ({"momentum": 1.0}, "momentum 1.0"),
        ({"lr0_range": (-0.1, 1.0)}, "learning rate -0.1"),
        ({"lr_limits": (1.0, 0.1)}, "lr_limits"),
        ({"momentum_limits": (0.5, 1.0)}, "momentum_limits"),
        ({"weight_decay": -1.0}, "weight_decay -1.0"),
        ({"probe_direction": "up"}, "probe_direction"),
        ({"form": "relative"}, "unknown form 'relative'"),
        ({"reward_scale": 0.0}, "reward_scale 0.0"),
        ({"start": (1.0, 0.1)}, "start .* is not 0 < low <= high"),
        ({"validation_share": 1.0}, "validation_share 1.0"),
        ({"features": ("probe_momentum_slope",)}, "needs hyperparameters"),
    ],
)
def test_settings_that_cannot_be_used_are_named(settings, complaint):
    with pytest.raises(InputError, match=complaint):
        Settings(**settings)


@pytest.mark.parametrize("rate", [-0.1, 0.0, float("nan"), float("inf")])
def test_an_initial_rate_that_cannot_be_used_is_named(rate):
    with pytest.raises(InputError, match="initial learning rate"):
        World(Settings(), 1, device="cpu").reset([run_seeds(0)], rate)


def test_parameters_of_row_and_reference_start_alike():
    world = World(Settings(), 2, device="cpu")
    world.reset([run_seeds(4), run_seeds(5)], 0.1)
    expected = [next(train(world.task, run_seeds(s), "sgd", lambda t: 0.1, lambda t: 0.0, 0)).params for s in (4, 5)]
    assert torch.equal(world.engine.params, torch.stack(expected))
    assert not torch.equal(expected[0], expected[1])
    assert flat([expected[0]]).shape == (1510,)


def test_a_recursive_rate_may_follow_a_schedule():
    settings = Settings(base_schedule=Schedule("linear"), max_factor=2.0, steps=8, interval=2)
    world, _, _, _ = play(settings, [[[1.0]], [[1.0]], [[-1.0]], [[0.0]]], lr0=0.1)
    assert world.trace["lr"][:, 0] == pytest.approx(
        [0.2 * 1, 0.2 * 7 / 8, 0.4 * 6 / 8, 0.4 * 5 / 8, 0.1, 0.075, 0.05, 0.025]
    )


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_start_in_natural_units_does_not_look_at_the_initial_rate(optimizer):
    settings = Settings(optimizer=optimizer, start=(0.3, 0.3), steps=5)
    worlds = [play(settings, np.zeros((5, 1, 1)), lr0=lr0)[0] for lr0 in (1e-6, 10.0)]
    assert np.array_equal(worlds[0].trace["lr"], worlds[1].trace["lr"])
    step = next(train(worlds[0].task, run_seeds(0), "sgd", lambda t: 0.0, lambda t: 0.0, 1))
    g, theta = step.gradient.double(), step.params.double()
    u = g / (g.abs() + 1e-8) if optimizer == "adamw" else g
    unit = float(theta.norm() / u.norm() * step.loss / (g @ u)) ** 0.5
    assert worlds[0].trace["lr"][:, 0] == pytest.approx(0.3 * unit, rel=1e-4)


def test_a_range_of_starts_is_drawn_from_log_uniformly_and_seeded():
    settings = Settings(task="quadratic", start=(1e-2, 1e2), steps=5)
    world = play(settings, np.zeros((1, 400, 1)), rows=400)[0]
    again = play(settings, np.zeros((1, 400, 1)), rows=400)[0]
    assert np.array_equal(world.lr0, again.lr0)
    fixed = play(Settings(task="quadratic", start=(1.0, 1.0), steps=5), np.zeros((1, 400, 1)), rows=400)[0]
    drawn = np.log10(world.lr0 / fixed.lr0)
    assert np.quantile(drawn, [0.0, 0.25, 0.5, 0.75, 1.0]) == pytest.approx([-2, -1, 0, 1, 2], abs=0.3)


def test_where_the_first_gradient_tells_nothing_the_initial_rate_stays():
    nan, one = np.array([np.nan]), np.array([1.0])
    zeros = {"param_sq": np.zeros(1), "update_sq": one, "grad_dot_update": np.array([4.0])}
    assert natural_rate(np.array([2.0]), zeros) == pytest.approx(0.5)  # Polyak's alone: L / g·u
    flat_loss = {"param_sq": np.array([9.0]), "update_sq": one, "grad_dot_update": np.zeros(1)}
    assert natural_rate(one, flat_loss) == pytest.approx(3.0)  # as long as the parameters
    assert np.isnan(natural_rate(one, dict.fromkeys(zeros, nan)))
    flat = Task(
        model=lambda: torch.nn.Linear(2, 1),
        train=(torch.zeros(8, 2), torch.zeros(8, 1)),
        batch_size=4,
        steps=3,
        loss=lambda outputs, targets: 0.0 * outputs.sum(),
    )
    assert play(Settings(task=flat, start=(1.0, 1.0)), np.zeros((1, 1, 1)), lr0=0.25)[0].lr0 == 0.25
