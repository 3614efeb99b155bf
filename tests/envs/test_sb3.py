"""The adapter to Stable-Baselines3: what its VecEnv promises, held against its own DummyVecEnv over single runs."""

import gymnasium
import numpy as np
import pytest
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize

from lrcontrol.agents import HillClimb, make_agent
from lrcontrol.envs import InputError, TrainingVectorEnv
from lrcontrol.envs.sb3 import SB3VecEnv

SETTINGS = {"steps": 6, "multipliers": (0.5, 1.0, 2.0)}


def adapted(count=3, **settings):
    return SB3VecEnv(TrainingVectorEnv(count, **{**SETTINGS, **settings}))


def test_it_is_what_dummy_vec_env_is_over_single_environments():
    ours = adapted()
    theirs = DummyVecEnv([lambda: gymnasium.make("lrcontrol/Training-v0", **SETTINGS)] * 3)
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    for env in (ours, theirs):
        env.seed(4)
    np.testing.assert_array_equal(ours.reset(), theirs.reset())
    random = np.random.default_rng(0)
    for _ in range(15):  # two ends of episodes
        actions = random.integers(3, size=3)
        mine, other = ours.step(actions), theirs.step(actions)
        for a, b in zip(mine[:3], other[:3], strict=True):
            np.testing.assert_array_equal(a, b)
            assert a.dtype == b.dtype
        for a, b in zip(mine[3], other[3], strict=True):
            assert set(a) | {"TimeLimit.truncated"} == set(b)
            for key, value in a.items():
                np.testing.assert_array_equal(value, b[key])


def test_options_hold_for_one_reset_as_in_dummy_vec_env():
    ours = adapted(lr0_range=(1e-3, 1e-3))
    theirs = DummyVecEnv([lambda: gymnasium.make("lrcontrol/Training-v0", **SETTINGS, lr0_range=(1e-3, 1e-3))] * 3)
    rates = []
    for env in (ours, theirs):
        for options in ([{"lr0": 0.1 * (row + 1)} for row in range(3)], {"lr0": 0.5}, None):
            if options:
                env.set_options(options)
            env.reset()
            rates.append([info["lr"] for info in env.reset_infos])
    assert rates[:3] == rates[3:] == [pytest.approx(wanted) for wanted in ([0.1, 0.2, 0.3], [0.5] * 3, [1e-3] * 3)]
    ours.set_options([{"lr0": 0.1}, {}, {}])
    with pytest.raises(InputError, match="give them to all"):
        ours.reset()
    ours.set_options({"lr": 0.1})
    with pytest.raises(InputError, match="did you mean 'lr0'"):
        ours.reset()


def test_what_it_returned_stays_as_it_was():
    env = adapted()
    kept = [env.reset()]
    copies = [kept[0].copy()]
    for _ in range(8):
        observation, reward, done, infos = env.step(np.zeros(3, int))
        for value in (observation, reward, done, *[info.get("terminal_observation") for info in infos]):
            if value is not None:
                kept.append(value)
                copies.append(value.copy())
    for value, copy in zip(kept, copies, strict=True):
        np.testing.assert_array_equal(value, copy)


def test_the_last_observation_of_an_episode_is_not_the_first_of_the_next():
    env = adapted()
    env.seed(0)
    first = env.reset()
    for _ in range(6):
        observation, _, done, infos = env.step(np.ones(3, int))
    assert done.all()
    for row in range(3):
        assert not np.array_equal(infos[row]["terminal_observation"], observation[row])
        assert infos[row]["terminal_observation"][10] == 0.0  # the budget that is left
        assert observation[row, 10] == first[row, 10] == 1.0
        assert infos[row]["TimeLimit.truncated"] is False


def test_vec_monitor_counts_episodes():
    env = VecMonitor(adapted(reward="log-loss-change"), info_keywords=("loss",))
    env.reset()
    total = np.zeros(3)
    for _ in range(6):
        _, reward, _, infos = env.step(np.ones(3, int))
        total += reward
    for row, info in enumerate(infos):
        assert info["episode"]["l"] == 6
        assert info["episode"]["r"] == pytest.approx(total[row], abs=1e-5)
        assert info["episode"]["loss"] == info["loss"] > 0.0


def test_attributes_and_methods_reach_the_environment():
    env = adapted()
    assert env.get_attr("num_envs") == [3, 3, 3]
    assert env.get_attr("num_envs", [0]) == [3]
    env.set_attr("label", "x")
    assert env.get_attr("label", 1) == ["x"]
    assert env.env_method("reset", seed=1, indices=0)[0][0].shape == (3, 14)
    assert env.env_is_wrapped(VecMonitor) == [False] * 3
    assert len(env.reset_infos) == 3
    env.close()


@pytest.mark.parametrize("text", ["constant", "hillclimb:factor=2", "hillclimb:factor=2,momentum=true"])
def test_evaluate_policy_runs_our_agents_on_many_environments(text):
    agent = make_agent(text)
    env = VecMonitor(SB3VecEnv(TrainingVectorEnv(4, **{"steps": 6, **agent.needs})))
    env.seed(0)
    returns, lengths = evaluate_policy(agent, env, n_eval_episodes=8, return_episode_rewards=True)
    assert lengths == [6] * 8
    assert all(-6 * 30.0 < value < 0.0 for value in returns)


def test_training_on_it_with_plain_stable_baselines3_changes_the_policy():
    from stable_baselines3 import PPO

    env = VecMonitor(adapted(8))
    model = PPO("MlpPolicy", env, n_steps=12, batch_size=48, n_epochs=2, seed=0, device="cpu")
    before = [parameter.clone() for parameter in model.policy.parameters()]
    model.learn(96)
    assert any(not bool((a == b).all()) for a, b in zip(before, model.policy.parameters(), strict=True))
    assert len(model.ep_info_buffer) == 16
    agent = make_agent(model)
    assert agent.needs["multipliers"] == (0.5, 1.0, 2.0)
    assert HillClimb().needs["multipliers"] != agent.needs["multipliers"]


def test_a_model_that_reads_normalised_observations_is_refused():
    from stable_baselines3 import A2C

    env = SB3VecEnv(TrainingVectorEnv(2, task="quadratic", steps=5, multipliers=(0.5, 1.0, 2.0)))
    assert make_agent(A2C("MlpPolicy", env, device="cpu")).name == "a2c"
    with pytest.raises(InputError, match="VecNormalize"):
        make_agent(A2C("MlpPolicy", VecNormalize(env), device="cpu"))


def test_environments_side_by_side_are_each_what_they_are_alone():
    settings = {"task": "quadratic", "steps": 5, "multipliers": (0.5, 1.0, 2.0), "start": (0.1, 10.0)}
    names = ("sgd", "adamw")
    both = SB3VecEnv(*(TrainingVectorEnv(3, optimizer=name, **settings) for name in names))
    alone = [SB3VecEnv(TrainingVectorEnv(3, optimizer=name, **settings)) for name in names]
    both.seed(7)
    for number, env in enumerate(alone):
        env.seed(7 + 3 * number)
    np.testing.assert_array_equal(both.reset(), np.concatenate([env.reset() for env in alone]))
    actions = np.array([0, 1, 2, 2, 1, 0])
    for _ in range(6):  # crosses the end of an episode
        found = both.step(actions)
        parts = [env.step(actions[3 * number : 3 * number + 3]) for number, env in enumerate(alone)]
        for place in range(3):
            np.testing.assert_array_equal(found[place], np.concatenate([part[place] for part in parts]))
        assert [info["lr"] for info in found[3]] == [info["lr"] for part in parts for info in part[3]]
    optimizers = [settings.optimizer for settings in both.get_attr("settings")]
    assert optimizers == ["sgd"] * 3 + ["adamw"] * 3
