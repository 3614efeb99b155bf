"""The Gymnasium environments: the checkers, scalar against vector, seeding, and no trace in any global state."""

import doctest
import random
import warnings

import gymnasium
import numpy as np
import pytest
import torch
from conftest import ALL_TASKS, BUNDLED
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import lrcontrol.envs.gym
from lrcontrol.envs import TASKS, InputError

ID = "lrcontrol/Training-v0"
STEPS = {"mnist-cnn": 3, "mnist-autoencoder": 3, "shakespeare-gpt": 1}
VARIANTS = {
    "default": {},
    "discrete": {"multipliers": (0.5, 1.0, 2.0)},
    "momentum": {"hyperparameters": ("lr", "momentum"), "optimizer": "adamw"},
    "discrete-momentum": {"hyperparameters": ("lr", "momentum"), "multipliers": (0.8, 1.25)},
    "anchored": {"form": "anchored", "base_schedule": lrcontrol.envs.Schedule("cosine"), "interval": 4},
    "absolute": {"form": "absolute", "multipliers": (0.01, 0.1, 1.0)},
    "probing-momentum": {
        "hyperparameters": ("lr", "momentum"),
        "multipliers": (0.8, 1.25),
        "features": ("probe_slope", "probe_momentum_slope"),
    },
    "probing-gradient": {"features": ("probe_slope",), "probe_direction": "gradient", "optimizer": "adamw"},
    "validation": {"reward": "validation-loss", "reward_scale": 0.5},
    "probing": {"features": ("log_loss", "probe_slope", "probe_change"), "reward": "log-loss-change"},
}
# Gymnasium asks for an explicit render mode of environments that draw nothing.
ALLOWED_WARNINGS = ("No render modes was declared in the environment",)


def make(task="digits-mlp", **settings):
    return gymnasium.make(ID, task=task, **settings)


def rollout(env, seed, actions, options=None):
    observation, _ = env.reset(seed=seed, options=options)
    trace = [observation]
    for action in actions:
        observation, reward, terminated, _, info = env.step(action)
        trace += [observation, reward, info["lr"], info["momentum"], info["loss"]]
        if terminated:
            break
    return trace


def random_actions(env, count, seed=0):
    env.action_space.seed(seed)
    return [env.action_space.sample() for _ in range(count)]


def same(a, b):
    return len(a) == len(b) and all(np.array_equal(x, y, equal_nan=True) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("name", ["Training", *TASKS])
def test_every_task_has_an_id(name):
    spec = gymnasium.spec(f"lrcontrol/{name}-v0")
    assert spec.kwargs == ({} if name == "Training" else {"task": name})


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("task", BUNDLED)
def test_gymnasiums_checker_passes(task, variant):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(make(task, steps=12, **VARIANTS[variant]).unwrapped)
    unexpected = [str(w.message) for w in caught if not any(text in str(w.message) for text in ALLOWED_WARNINGS)]
    assert unexpected == []


@pytest.mark.parametrize("variant", VARIANTS)
def test_stable_baselines3s_checker_passes(variant):
    from stable_baselines3.common.env_checker import check_env as check_sb3

    check_sb3(make(steps=12, **VARIANTS[variant]), warn=True)


@pytest.mark.parametrize("task", ALL_TASKS)
def test_row_i_of_the_vector_environment_is_the_single_one_seeded_with_i_more(task):
    steps = STEPS.get(task, 12)
    vector = gymnasium.make_vec(ID, 3, vectorization_mode="vector_entry_point", task=task, steps=steps)
    observations, infos = vector.reset(seed=5)
    singles = [make(task, steps=steps) for _ in range(3)]
    for row, env in enumerate(singles):
        observation, info = env.reset(seed=5 + row)
        np.testing.assert_array_equal(observation, observations[row])
        assert info["lr"] == infos["lr"][row]
    for _ in range(steps - 1):
        actions = vector.action_space.sample()
        observations, rewards, terminated, _, infos = vector.step(actions)
        for row, env in enumerate(singles):
            observation, reward, over, _, info = env.step(actions[row])
            np.testing.assert_array_equal(observation, observations[row])
            # The mean over 784 outputs a row is summed in another order; all else is equal to the last bit.
            slack = 1e-12 if task == "mnist-autoencoder" else 0.0
            assert (reward, info["loss"]) == pytest.approx((rewards[row], infos["loss"][row]), rel=slack, abs=0.0)
            assert over == terminated[row]


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_agree_between_single_and_vector_through_gymnasiums_own_vector_env(variant):
    """SyncVectorEnv over single environments is what ours must equal, autoreset and infos included."""
    settings = {"steps": 8, **VARIANTS[variant]}
    ours = gymnasium.make_vec(ID, 3, vectorization_mode="vector_entry_point", **settings)
    theirs = SyncVectorEnv([lambda: make(**settings)] * 3, autoreset_mode=AutoresetMode.SAME_STEP)
    assert ours.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    a, b = ours.reset(seed=11), theirs.reset(seed=11)
    np.testing.assert_array_equal(a[0], b[0])
    ours.action_space.seed(0)
    for _ in range(20):  # crosses the end of an episode
        actions = ours.action_space.sample()
        a, b = ours.step(actions), theirs.step(actions)
        for mine, other in zip(a[:4], b[:4], strict=True):
            np.testing.assert_array_equal(mine, other)
        assert_same_infos(a[4], b[4])


def assert_same_infos(ours, theirs):
    assert set(ours) == set(theirs)
    for key, value in theirs.items():
        if isinstance(value, dict):
            assert_same_infos(ours[key], value)
        elif value.dtype == object:
            np.testing.assert_array_equal(np.stack(ours[key]), np.stack(value))
        else:
            np.testing.assert_array_equal(ours[key], value)


@pytest.mark.parametrize("task", BUNDLED)
def test_resetting_twice_with_one_seed_gives_one_run(task):
    resets_twice(make(task, steps=10))


def test_so_it_does_where_the_gradient_is_asked_for_only_then():
    """Along which probes go; the difference of two losses tells its last bits."""
    resets_twice(make(steps=10, **VARIANTS["probing-gradient"]))


def resets_twice(env):
    actions = random_actions(env, 10)
    assert same(rollout(env, 7, actions), rollout(env, 7, actions))
    assert not same(rollout(env, 7, actions), rollout(env, 8, actions))


def test_resets_without_a_seed_count_up_episodes_and_can_be_had_again():
    env = make(steps=5)
    first = [env.reset(seed=7)[0], env.reset()[0], env.reset()[0]]
    again = [env.reset(seed=7)[0], env.reset()[0], env.reset()[0]]
    assert same(first, again)
    assert not np.array_equal(first[0], first[1])
    assert not np.array_equal(first[1], first[2])


def test_two_environments_in_one_process_do_not_touch_each_other():
    env = make(steps=10)
    actions = random_actions(env, 10)
    alone = rollout(env, 3, actions)
    other = make(steps=10)
    other.reset(seed=4)
    observation, _ = env.reset(seed=3)
    trace = [observation]
    for action in actions:
        other.step(action)
        observation, reward, _, _, info = env.step(action)
        trace += [observation, reward, info["lr"], info["momentum"], info["loss"]]
    assert same(alone, trace)


def test_no_global_generator_is_read_or_moved():
    def state():
        return torch.get_rng_state().tolist(), repr(np.random.get_state()), random.getstate()  # noqa: NPY002 (see below)

    env = make(steps=4)
    before = state()
    traces = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002 (the legacy global state is what must not matter)
        traces.append(rollout(env, 3, [np.zeros(1, np.float32)] * 4))
    assert same(*traces)
    torch.manual_seed(9)
    before = state()
    rollout(make(steps=4), 3, [np.zeros(1, np.float32)] * 4)
    assert state() == before


def test_the_initial_rate_is_drawn_log_uniformly_from_the_declared_range():
    env = gymnasium.make_vec(ID, 512, vectorization_mode="vector_entry_point", lr0_range=(1e-4, 1.0), task="quadratic")
    logs = np.log10(env.reset(seed=0)[1]["lr"])
    assert logs.min() >= -4.0
    assert logs.max() <= 0.0
    counts = np.histogram(logs, bins=4, range=(-4.0, 0.0))[0]
    assert counts.min() > 512 / 4 * 0.7
    env.reset(seed=0, options={"lr0": 0.5})
    np.testing.assert_array_equal(env.reset(options={"lr0": 0.5})[1]["lr"], np.full(512, 0.5))


def test_streams_share_minibatches_and_initialisation_stays_a_rows_own():
    env = gymnasium.make_vec(ID, 4, vectorization_mode="vector_entry_point", streams=1, steps=6)
    env.reset(seed=5, options={"lr0": 0.1})
    alone = make(steps=6)
    alone.reset(seed=5, options={"lr0": 0.1})
    for _ in range(5):
        losses = env.step(np.zeros((4, 1), np.float32))[4]["loss"]
        loss = alone.step(np.zeros(1, np.float32))[4]["loss"]
        assert losses[0] == pytest.approx(loss, rel=1e-6)
    assert len(set(losses)) == 4
    with pytest.raises(InputError, match="does not divide"):
        gymnasium.make_vec(ID, 4, vectorization_mode="vector_entry_point", streams=3)


def test_a_vector_environment_takes_one_action_for_each_and_its_seed():
    env = lrcontrol.envs.gym.TrainingVectorEnv(3, task="quadratic", steps=5)
    draws = []
    for _ in range(2):
        env.reset(seed=3)
        draws.append(env.np_random.random())
    assert draws[0] == draws[1]
    with pytest.raises(InputError, match=r"actions of shape \(4, 1\) are not one for each of 3 environments"):
        env.step(np.zeros((4, 1), np.float32))


def test_an_unknown_setting_or_option_suggests_the_nearest():
    with pytest.raises(InputError, match="did you mean 'interval'"):
        make(intervall=2)
    with pytest.raises(InputError, match="did you mean 'lr0'"):
        make().reset(options={"lr": 0.1})


def test_the_docstrings_examples_run():
    assert doctest.testmod(lrcontrol.envs.gym).failed == 0
    assert doctest.testmod(lrcontrol.envs.gym).attempted > 0


def test_the_docstring_lists_the_default_features():
    for number, name in enumerate(lrcontrol.envs.DEFAULT_FEATURES):
        assert f"| {number} | {name} |" in lrcontrol.envs.TrainingEnv.__doc__
