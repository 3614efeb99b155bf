"""Agents that train really learn: a small honest version in every run, the published one on request (-m slow)."""

import numpy as np
import pytest

import lrcontrol

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
