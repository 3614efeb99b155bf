"""``plateau`` and ``greedy`` against the schedulers whose rules they follow, loss by loss."""

import numpy as np
import pytest
import torch

from lrcontrol.agents import make_agent
from lrcontrol.envs import InputError


def losses(seed, steps=300):
    """Falling, noisy, then flat: new bests come in runs and fail to come for long."""
    random = np.random.default_rng(seed)
    level = np.exp(-np.minimum(np.arange(steps), 150) / 40.0) + 0.05
    return level * np.exp(random.normal(0.0, 0.02, steps))


def rates(agent, columns, lr0):
    """Return the rates (steps, R) that an agent takes on given losses (steps, R)."""
    multipliers = np.array(agent.needs["multipliers"])
    lr, state, start, found = np.full(columns.shape[1], lr0), None, np.ones(columns.shape[1], dtype=bool), []
    for row in columns:
        seen = np.log(row)[:, None].astype(np.float32)
        action, state = agent.predict(seen, state, start, deterministic=True)
        start = np.zeros(len(row), dtype=bool)
        lr = lr * multipliers[action]
        found.append(lr)
    return np.array(found)


def scheduled(make, values, lr0):
    """Return the rates that a scheduler takes on the same losses, as float32 logarithms have them."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr0)
    scheduler, found = make(optimizer), []
    for value in values:
        scheduler.step(float(np.exp(np.float64(np.float32(np.log(value))))))
        found.append(optimizer.param_groups[0]["lr"])
    return np.array(found)


@pytest.mark.parametrize("window", [1, 20])
@pytest.mark.parametrize(("factor", "patience"), [(0.95, 10), (0.9, 1)])
def test_greedy_is_the_scheduler_of_transformers_where_its_limits_are_wide(window, factor, patience):
    greedy = pytest.importorskip("transformers.optimization").GreedyLR
    limits = {"min_lr": 0.0, "max_lr": 1e9, "eps": 0.0}

    def make(optimizer):
        smooth = {"smooth": True, "window_size": window} if window > 1 else {}
        return greedy(optimizer, factor=factor, patience=patience, **limits, **smooth)

    columns = np.stack([losses(seed) for seed in range(3)], axis=1)
    found = rates(make_agent(f"greedy:factor={factor},patience={patience},window={window}"), columns, 0.1)
    for run in range(3):
        np.testing.assert_allclose(found[:, run], scheduled(make, columns[:, run], 0.1), rtol=1e-9)
    if patience == 1:
        moves = np.diff(found, axis=0)
        assert (moves > 0.0).any()
        assert (moves < 0.0).any()


def test_plateau_is_torchs_scheduler():
    columns = np.stack([losses(seed) for seed in range(3)], axis=1)
    found = rates(make_agent("plateau:factor=0.5,patience=4"), columns, 0.1)
    for run in range(3):
        expected = scheduled(
            lambda optimizer: torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=4, eps=0.0),
            columns[:, run],
            0.1,
        )
        np.testing.assert_allclose(found[:, run], expected, rtol=1e-9)
    assert len(np.unique(found[:, 0])) > 3


def test_a_new_episode_forgets_the_old_one_in_its_row_alone():
    agent, value = make_agent("plateau:patience=1"), np.zeros((2, 1), dtype=np.float32)
    state, actions = None, []
    for start in ([True, True], [False, False], [False, True], [False, False], [False, False]):
        action, state = agent.predict(value, state, np.array(start))
        actions.append(action.tolist())
    # a first loss is a best; the second decision in a row without a new one lowers the rate
    assert actions == [[1, 1], [1, 1], [0, 1], [1, 1], [0, 0]]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("greedy:factor=1.5", "factor 1.5"),
        ("plateau:patience=-1", "patience -1"),
        ("greedy:threshold=-1", "threshold -1"),
    ],
)
def test_values_that_cannot_be_used_are_named(text, complaint):
    with pytest.raises(InputError, match=complaint):
        make_agent(text)
