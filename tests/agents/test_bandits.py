"""The bandits: by hand, on problems with a known answer, against river, and end to end."""

import math

import numpy as np
import pytest
from scipy.special import ndtri

from lrcontrol import evaluate
from lrcontrol.agents import Bandit, make_agent
from lrcontrol.agents.bandit import CONTEXT, MULTIPLIERS, RATES, Memory
from lrcontrol.agents.bandit_policies import (
    POLICIES,
    DiscountedThompson,
    DiscountedUCB,
    Exp3S,
    LinUCB,
    SlidingWindowUCB,
    Statistics,
)
from lrcontrol.agents.noise import run_keys, uniforms
from lrcontrol.envs import InputError, Settings, World
from lrcontrol.envs.seeding import run_seeds

NOTHING = np.zeros((1, 0))  # the context of policies that read none
DRAWS = np.array([[[0.3, 0.7, 0.5]]])


def statistics(tries, gains):
    return Statistics(np.array([[tries]], dtype=float), np.array([[gains]], dtype=float))


def pulled(*arms):
    return np.array([arms])


# By hand, one step each: R = 1 run, H = 1 bandit, K = 3 arms.


def test_discounted_ucb_by_hand():
    policy = DiscountedUCB(discount=0.9, exploration=0.5)
    past = policy.update(statistics([2.0, 1.0, 4.0], [1.0, 0.5, -2.0]), NOTHING, pulled(1), np.array([0.25]))
    tries, gains = [0.9 * 2.0, 0.9 * 1.0 + 1.0, 0.9 * 4.0], [0.9 * 1.0, 0.9 * 0.5 + 0.25, 0.9 * -2.0]
    np.testing.assert_allclose(past.tries[0, 0], tries, rtol=1e-15)
    np.testing.assert_allclose(past.gains[0, 0], gains, rtol=1e-15)
    index = [s / n + 0.5 * math.sqrt(math.log(sum(tries)) / n) for n, s in zip(tries, gains, strict=True)]
    assert policy.select(past, NOTHING, DRAWS)[0, 0] == np.argmax(index) == 0


def test_an_arm_that_was_never_tried_comes_first_and_equals_are_drawn():
    policy = DiscountedUCB()
    assert policy.select(statistics([1.0, 0.0, 1.0], [1.0, 0.0, 1.0]), NOTHING, DRAWS)[0, 0] == 1
    assert policy.select(statistics([0.0, 1.0, 0.0], [0.0, 9.0, 0.0]), NOTHING, DRAWS)[0, 0] == 2
    assert policy.select(statistics([1.0, 1.0, 1.0], [0.0, 0.0, 0.0]), NOTHING, DRAWS)[0, 0] == 1


def test_sliding_window_ucb_by_hand():
    policy = SlidingWindowUCB(window=4, exploration=0.5)
    past = policy.start(1, 1, 3, 0)
    for arm, reward in [(0, 0.9), (0, 0.2), (1, 0.5), (2, -0.1), (1, 0.25)]:
        past = policy.update(past, NOTHING, pulled(arm), np.array([reward]))
    assert past.tries[0, 0].tolist() == [[0, 1, 0], [0, 0, 1], [0, 1, 0], [1, 0, 0]]  # the first 0.9 has left
    assert past.gains[0, 0].tolist() == [[0, 0.25, 0], [0, 0, -0.1], [0, 0.5, 0], [0.2, 0, 0]]
    bonus = 0.5 * math.sqrt(math.log(4))
    index = [0.2 + bonus, (0.5 + 0.25) / 2 + bonus / math.sqrt(2), -0.1 + bonus]
    assert policy.select(past, NOTHING, DRAWS)[0, 0] == np.argmax(index) == 1


def test_discounted_thompson_by_hand():
    policy = DiscountedThompson(discount=0.8, exploration=0.5, prior=2.0)
    past = policy.update(statistics([2.0, 1.0, 0.0], [1.0, 0.5, 0.0]), NOTHING, pulled(2), np.array([-0.4]))
    tries, gains = [1.6, 0.8, 1.0], [0.8, 0.4, -0.4]
    np.testing.assert_allclose(past.tries[0, 0], tries, rtol=1e-15)
    np.testing.assert_allclose(past.gains[0, 0], gains, rtol=1e-15)
    drawn = []
    for n, s, u in zip(tries, gains, [0.3, 0.7, 0.5], strict=True):
        precision = 1 / 4 + n / 0.25
        drawn.append(s / 0.25 / precision + ndtri(u) / math.sqrt(precision))
    assert policy.select(past, NOTHING, DRAWS)[0, 0] == np.argmax(drawn) == 1


def test_thompson_draws_from_the_posterior_it_states():
    rows = 20_000
    policy = DiscountedThompson(exploration=0.5, prior=2.0)
    past = Statistics(np.tile([[[3.0, 2.0]]], (rows, 1, 1)), np.tile([[[0.9, 0.9]]], (rows, 1, 1)))
    draws = np.random.default_rng(0).random((rows, 1, 2))
    share = policy.select(past, np.zeros((rows, 0)), draws).mean()
    (m0, v0), (m1, v1) = ((s / 0.25 / p, 1 / p) for n, s in [(3, 0.9), (2, 0.9)] for p in [1 / 4 + n / 0.25])
    expected = 0.5 * (1 + math.erf((m1 - m0) / math.sqrt(2 * (v0 + v1))))
    assert share == pytest.approx(expected, abs=4 * 0.5 / math.sqrt(rows))


def test_exp3s_by_hand():
    policy = Exp3S(exploration=0.3, share=0.06)
    weights = [0.5, 0.3, 0.2]
    p = [0.7 * w + 0.1 for w in weights]
    past = policy.update(statistics(p, weights), NOTHING, pulled(1), np.array([0.5]))
    raw = [w + math.e * 0.06 / 3 for w in weights]
    raw[1] = 0.3 * math.exp(0.3 * (0.75 / p[1]) / 3) + math.e * 0.06 / 3  # a reward of 0.5 in -1..1 is 0.75 in 0..1
    np.testing.assert_allclose(past.gains[0, 0], [w / sum(raw) for w in raw], rtol=1e-14)
    np.testing.assert_allclose(past.tries[0, 0], [0.7 * w / sum(raw) + 0.1 for w in raw], rtol=1e-14)
    edges = np.cumsum(past.tries[0, 0])
    for uniform, arm in [(edges[0] - 1e-9, 0), (edges[0] + 1e-9, 1), (edges[1] + 1e-9, 2), (1 - 1e-16, 2)]:
        assert policy.select(past, NOTHING, np.full((1, 1, 3), uniform))[0, 0] == arm


def test_linucb_by_hand():
    """One feature and the bias, two arms: the 2 by 2 inverse written out."""
    policy = LinUCB(discount=0.9, exploration=0.5)
    start = policy.start(1, 1, 2, 1)
    past = policy.update(start, np.array([[2.0]]), pulled(1), np.array([0.4]))
    np.testing.assert_allclose(past.tries[0, 0, 0], [[1.0, 0.0], [0.0, 1.0]], atol=1e-15)
    np.testing.assert_allclose(past.tries[0, 0, 1], [[5.0, 2.0], [2.0, 2.0]], rtol=1e-15)
    np.testing.assert_allclose(past.gains[0, 0], [[0.0, 0.0], [0.8, 0.4]], rtol=1e-15)
    later = policy.update(past, np.array([[0.0]]), pulled(0), np.array([-1.0]))
    np.testing.assert_allclose(later.tries[0, 0, 1], [[0.9 * 5 + 0.1, 1.8], [1.8, 0.9 * 2 + 0.1]], rtol=1e-15)
    np.testing.assert_allclose(later.gains[0, 0], [[0.0, -1.0], [0.72, 0.36]], rtol=1e-15)
    for x in (-3.0, -0.2, 0.1, 3.0):
        index = [0.5 * math.sqrt(x * x + 1)]
        inverse = [[2 / 6, -2 / 6], [-2 / 6, 5 / 6]]
        theta = [inverse[0][0] * 0.8 + inverse[0][1] * 0.4, inverse[1][0] * 0.8 + inverse[1][1] * 0.4]
        width = inverse[0][0] * x * x + 2 * inverse[0][1] * x + inverse[1][1]
        index.append(theta[0] * x + theta[1] + 0.5 * math.sqrt(width))
        assert policy.select(past, np.array([[x]]), DRAWS[..., :2])[0, 0] == np.argmax(index)


# Problems with a known answer. Chance is 1/3.


def play(policy, means, noise, contexts=None, seed=0):
    """Play means (R, T, K) with Gaussian noise and return how often each run chose its best arm: (R,)."""
    rows, steps, arms = means.shape
    contexts = np.zeros((rows, steps, 0)) if contexts is None else contexts
    rng = np.random.default_rng(seed)
    past, hits = policy.start(rows, 1, arms, contexts.shape[-1]), np.zeros(rows)
    for t in range(steps):
        arm = policy.select(past, contexts[:, t], rng.random((rows, 1, arms)))
        mean = means[np.arange(rows), t, arm[:, 0]]
        hits += mean == means[:, t].max(axis=-1)
        reward = np.clip(mean + noise * rng.standard_normal(rows), -1.0, 1.0)
        past = policy.update(past, contexts[:, t], arm, reward)
    return hits / steps


GAP = 0.5


def switching(rows=40):
    """The best of three arms, drawn for each run, changes at steps 200 and 400 of 600: GAP / 2 against −GAP / 2."""
    rng = np.random.default_rng(1)
    best = np.stack([rng.permutation(3) for _ in range(rows)])
    return GAP * (np.repeat(best, 200, axis=1)[..., None] == np.arange(3)) - GAP / 2


@pytest.mark.parametrize(
    ("policy", "least", "worst"),
    [
        (DiscountedUCB(discount=0.95, exploration=GAP), 0.7, 0.65),
        (SlidingWindowUCB(window=50, exploration=GAP), 0.75, 0.65),
        (DiscountedThompson(discount=0.97, exploration=GAP, prior=GAP), 0.7, 0.6),
        (Exp3S(exploration=0.3, share=0.003), 0.43, 1 / 3),
    ],
    ids=["ducb", "swucb", "dts", "exp3s"],
)
def test_it_follows_the_best_arm_when_that_changes(policy, least, worst):
    """Noise as large as the gap; the mean of 40 runs, and the worst of them, above chance."""
    rate = play(policy, switching(), noise=GAP)
    assert rate.mean() > least
    assert rate.min() > worst


def test_without_forgetting_the_change_is_missed():
    forgetful = play(DiscountedUCB(discount=0.97, exploration=GAP / 2), switching(), noise=GAP)
    stationary = play(DiscountedUCB(discount=1.0, exploration=GAP / 2), switching(), noise=GAP)
    assert (forgetful - stationary).mean() > 0.2


def test_linucb_reads_the_context_that_decides_which_arm_is_best():
    """The means are 0.4 x, 0 and −0.4 x: the sign of x says which arm is best, and no arm is best on average."""
    x = np.random.default_rng(2).uniform(-1, 1, (20, 300, 1))
    means = x * np.array([0.4, 0.0, -0.4])
    assert play(LinUCB(discount=0.99, exploration=0.3), means, 0.2, x).mean() > 0.8
    assert play(DiscountedUCB(discount=0.99, exploration=0.3), means, 0.2, x).mean() < 0.6


# Against river, where it has the same policy.


def test_ucb_chooses_as_river_does():
    bandit = pytest.importorskip("river.bandit")
    theirs, ours = bandit.UCB(delta=0.4, burn_in=1, seed=0), DiscountedUCB(1.0, 0.4 * math.sqrt(2.0))
    rng, past, arms = np.random.default_rng(0), ours.start(1, 1, 3, 0), []
    for _ in range(300):
        draws = np.array([[[0.9, 0.5, 0.1]]])  # river tries new arms in their order
        arm = int(ours.select(past, NOTHING, draws)[0, 0])
        assert theirs.pull([0, 1, 2]) == arm
        reward = float(np.clip([0.1, 0.3, 0.2][arm] + 0.3 * rng.standard_normal(), -1, 1))
        theirs.update(arm, reward)
        past = ours.update(past, NOTHING, pulled(arm), np.array([reward]))
        arms.append(arm)
    assert set(arms[3:]) == {0, 1, 2}


def test_linucb_has_the_posterior_mean_of_river():
    bandit = pytest.importorskip("river.bandit")
    theirs, ours = bandit.LinUCBDisjoint(alpha=1.0, beta=1.0, seed=0), LinUCB(discount=1.0)
    rng, past = np.random.default_rng(0), ours.start(1, 1, 2, 2)
    for _ in range(60):
        x, arm, reward = rng.standard_normal((1, 2)), int(rng.integers(2)), float(rng.uniform(-1, 1))
        context = {"first": x[0, 0], "second": x[0, 1], "bias": 1.0}
        theirs.update(arm, context, reward)
        past = ours.update(past, x, pulled(arm), np.array([reward]))
        theta = np.linalg.solve(past.tries[0, 0, arm], past.gains[0, 0, arm])
        predicted = theirs._bayes_lin_regs[arm].predict_one(context)
        assert theta @ [*x[0], 1.0] == pytest.approx(predicted, rel=1e-9, abs=1e-12)


def test_exp3_has_the_probabilities_of_river():
    bandit = pytest.importorskip("river.bandit")
    theirs, ours = bandit.Exp3(gamma=0.3, seed=0), Exp3S(exploration=0.3, share=0.0)
    rng, past, tried = np.random.default_rng(0), ours.start(1, 1, 3, 0), []
    for _ in range(200):
        arm = theirs.pull([0, 1, 2])
        np.testing.assert_allclose(past.tries[0, 0], list(theirs._probabilities.values()), rtol=1e-9)
        reward = float(np.clip([0.2, 0.8, 0.5][arm] + 0.1 * rng.standard_normal(), 0.0, 1.0))
        theirs.update(arm, reward)
        past = ours.update(past, NOTHING, pulled(arm), np.array([2.0 * reward - 1.0]))  # theirs are in 0..1
        tried.append(arm)
    assert np.mean(np.array(tried[100:]) == 1) > 0.6  # the best of three


# The agent.


def seen(agent, *losses):
    """Observations (R, F) whose log loss is as given and whose other features are 0.1."""
    width = len(agent.needs["features"])
    rows = np.full((len(losses), width), 0.1, dtype=np.float32)
    rows[:, 0] = losses
    return rows


AGENTS = [Bandit(policy=policy) for policy in POLICIES] + [
    Bandit(policy=policy, arms="multipliers", momentum=True, joint=joint)
    for policy, joint in [("ducb", "independent"), ("linucb", "product")]
]
each_agent = pytest.mark.parametrize("agent", AGENTS, ids=lambda agent: agent.name)


def test_the_reward_is_the_fall_of_the_log_loss_scaled_and_clipped():
    agent = Bandit(scale=0.5)
    _, state = agent.predict(seen(agent, 1.0, 1.0, 1.0))
    _, state = agent.predict(seen(agent, 0.8, 1.1, 9.0), state)
    memory = Memory(*state)
    np.testing.assert_allclose(memory.gains.sum(axis=(1, 2)), [0.4, -0.2, -1.0], rtol=1e-6)
    assert memory.step.tolist() == [2, 2, 2]
    assert memory.tries.sum(axis=(1, 2)).tolist() == [1.0, 1.0, 1.0]


@each_agent
def test_a_state_is_left_as_it_was_and_only_the_runs_that_begin_are_reset(agent):
    state, rng = None, np.random.default_rng(0)
    for _ in range(30):
        _, state = agent.predict(seen(agent, *rng.normal(size=3)), state)
    before = [array.copy() for array in state]
    rows, begins = seen(agent, *rng.normal(size=3)), np.array([False, True, False])
    action, after = agent.predict(rows, state, begins)
    for old, array in zip(before, state, strict=True):
        np.testing.assert_array_equal(old, array)
    kept_action, kept = agent.predict(rows, state, np.zeros(3, dtype=bool))
    fresh_action, fresh = agent.predict(rows, None, np.ones(3, dtype=bool))
    for row, (wanted_action, wanted) in enumerate([(kept_action, kept), (fresh_action, fresh), (kept_action, kept)]):
        np.testing.assert_array_equal(action[row], wanted_action[row])
        for array, expected in zip(after, wanted, strict=True):
            np.testing.assert_array_equal(array[row], expected[row])


@each_agent
def test_a_run_alone_and_unbatched_chooses_what_it_chooses_among_others(agent):
    rng, batched, alone = np.random.default_rng(0), None, None
    for _ in range(60):
        rows = seen(agent, *rng.normal(size=3))
        actions, batched = agent.predict(rows, batched)
        action, alone = agent.predict(rows[1], alone)
        np.testing.assert_array_equal(action, actions[1])
    for array, single in zip(batched, alone, strict=True):
        np.testing.assert_array_equal(array[1:2], single)


@each_agent
def test_extreme_losses_leave_every_number_finite(agent):
    state, rng = None, np.random.default_rng(0)
    for t in range(400):
        losses = [10.0 * (-1) ** t, 0.0, rng.choice([-10.0, 0.0, 10.0])]
        action, state = agent.predict(seen(agent, *losses), state)
        assert all(np.isfinite(array).all() for array in state)
    assert len(action) == 3


def test_a_run_that_diverges_is_survived():
    agent = Bandit(policy="linucb", arms="multipliers")
    world = World(Settings.make({"steps": 30, "task": "quadratic", **agent.needs}), 2, device="cpu")
    observation, state, over = world.reset([run_seeds(0), run_seeds(1)], [1e5, 0.01]), None, False
    while not over:
        action, state = agent.predict(observation, state)
        observation, _, over = world.step(action)
    assert world.diverged.tolist() == [True, False]
    assert all(np.isfinite(array).all() for array in state)


def test_its_actions_are_the_arms():
    pair = Bandit(arms="multipliers", momentum=True, joint="product")
    assert pair.needs["hyperparameters"] == ("lr", "momentum")
    action, state = pair.predict(seen(pair, 0.5, 0.7))
    np.testing.assert_array_equal(
        action, np.stack([Memory(*state).arm[:, 0] // 5, Memory(*state).arm[:, 0] % 5], axis=1)
    )
    both = Bandit(arms="multipliers", momentum=True)
    action, state = both.predict(seen(both, 0.5, 0.7))
    np.testing.assert_array_equal(action, Memory(*state).arm)
    assert (both.needs["multipliers"], Bandit().needs["multipliers"]) == (MULTIPLIERS, RATES)
    assert max(Bandit(highest=0.1).needs["multipliers"]) == 0.1
    assert Bandit(policy="linucb").needs["features"] == CONTEXT


def test_two_seeds_explore_differently():
    rows = seen(Bandit(), *np.linspace(0.1, 2.0, 30))
    first, second = (Bandit(policy="exp3s", seed=seed).predict(rows)[0] for seed in (0, 1))
    assert (first != second).any()


def test_a_state_of_other_runs_is_refused():
    agent = Bandit()
    _, state = agent.predict(seen(agent, 1.0, 2.0))
    with pytest.raises(InputError, match="a state of 2 runs came with observations of 3"):
        agent.predict(seen(agent, 1.0, 2.0, 3.0), state)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("policy=ucb", "did you mean 'ducb'"),
        ("arms=rate", "did you mean 'rates'"),
        ("arms=multipliers,momentum=true,joint=produkt", "did you mean 'product'"),
        ("every=0", "every 0 is not positive"),
        ("scale=0", "scale 0 is not above 0"),
        ("highest=0", "highest 0 is not above 0"),
        ("arms=multipliers,highest=2", "does nothing unless arms=rates"),
        ("momentum=true", "use arms=multipliers"),
        ("momentum=yes", "write true or false"),
        ("joint=product", "does nothing without momentum=true"),
        ("window=9", "'ducb' has no window, it has discount, exploration"),
        ("policy=exp3s,discount=0.9", "'exp3s' has no discount, it has exploration, share"),
        ("discount=1.5", "discount 1.5 of policy 'ducb' must be above 0 and at most 1"),
        ("policy=swucb,window=0", "window 0 of policy 'swucb' must be at least 1"),
        ("policy=exp3s,exploration=0", "must be above 0 and at most 1"),
        ("policy=dts,exploration=1e-200", "must be above 0"),
        ("policy=dts,prior=nan", "prior nan"),
        ("exploration=-1", "must be at least 0"),
    ],
)
def test_spellings_that_cannot_be_used_say_why(text, complaint):
    with pytest.raises(InputError, match=complaint):
        make_agent("bandit:" + text)


# The random numbers.


def test_uniforms_are_even_and_of_no_order():
    keys = run_keys(0, np.arange(50, dtype=np.float32)[:, None])
    drawn = np.stack([uniforms(keys, np.full(50, step), 4) for step in range(200)])
    assert 0.0 < drawn.min() < drawn.max() < 1.0
    assert np.unique(drawn).size == drawn.size
    counts = np.histogram(drawn, bins=20, range=(0, 1))[0]
    assert ((counts - 2000.0) ** 2 / 2000.0).sum() < 43.8  # chi squared, 19 degrees of freedom, p = 0.001
    for shifted in (drawn[1:], drawn[:, 1:], drawn[..., 1:]):
        other = drawn[tuple(slice(size) for size in shifted.shape)]
        assert abs(np.corrcoef(shifted.ravel(), other.ravel())[0, 1]) < 0.02


def test_splitmix64_gives_its_published_first_outputs():
    """Seed 0 gives e220a8397b1dcdaf, 6e789e6aa1b965f4, 06c45d188009454f."""
    drawn = uniforms(np.zeros(1, dtype=np.uint64), np.zeros(1, dtype=np.int64), 3)[0]
    expected = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert drawn.tolist() == [((value >> 12) + 0.5) / 2**52 for value in expected]


# End to end.


def test_two_bandits_beat_the_constant_rate_over_the_grid():
    rates, runs = [1e-6, 1e-4, 1e-2, 1.0, 30.0], 3
    results = evaluate(
        "digits-mlp", ["constant", "bandit", "bandit:policy=dts"], lr0=rates, runs=runs, steps=200, device="cpu"
    )
    losses = np.array(results.runs["train_loss"].to_pylist()).reshape(3, len(rates), runs)
    constant, *bandits = np.minimum(losses, math.log(10))  # no worse than knowing nothing
    for bandit in bandits:
        assert bandit.mean() < 0.2 * constant.mean()
        assert ((constant - bandit).mean(axis=0) > 1.0).all()  # in every paired run
        np.testing.assert_array_equal(bandit, bandit[:1].repeat(len(rates), axis=0))  # its rates are its own
