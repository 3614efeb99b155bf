"""Random search, population based training and replays: against plain loops, and what they cost."""

import copy
import math

import numpy as np
import pytest
import torch
from reference import initial_module, minibatches

import lrcontrol
from lrcontrol.agents.network import Network
from lrcontrol.agents.trained import TrainedAgent
from lrcontrol.envs import InputError, Settings, make_task
from lrcontrol.envs.seeding import run_seeds
from lrcontrol.peers import Peer, find_peer
from lrcontrol.population import Population, select
from lrcontrol.random_search import RandomSearch
from lrcontrol.rollouts import Assignment


def rows_of(results, agent):
    return results.runs.filter(results.runs["agent"].to_numpy() == agent).to_pylist()


def traces_of(results, column, steps):
    return np.array(results.traces[column].to_pylist()).reshape(-1, steps)


def drawn(seed, low, high, count):
    """The rates of a run: log-uniform, from the third of the four streams that its seed spawns."""
    stream = np.random.SeedSequence(seed, spawn_key=(0,)).spawn(4)[2]
    return np.exp(np.random.default_rng(stream).uniform(math.log(low), math.log(high), count))


def test_random_search_is_the_best_of_constant_runs_and_costs_all_of_them():
    arguments = {"optimizer": "adamw", "momentum": 0.8, "steps": 30}
    name = "random-search:trials=5,low=0.0001,high=0.1"
    results = lrcontrol.evaluate("digits-mlp", [name], lr0=[1e-3, 1e-1], runs=2, seed=3, **arguments)
    for run in range(2):
        rates = drawn(3 + run, 1e-4, 0.1, 5)
        constants = lrcontrol.evaluate("digits-mlp", ["constant"], lr0=rates, runs=1, seed=3 + run, **arguments)
        losses = constants.by_start("constant")[:, 0]  # sorted by rate
        assert results.by_start(name)[:, run] == pytest.approx([losses.min()] * 2, rel=1e-5)
        best = np.sort(rates)[losses.argmin()]
        assert traces_of(results, "lr", 30)[[run, 2 + run]] == pytest.approx(best, rel=1e-9)
    rows = rows_of(results, name)
    data = make_task("digits-mlp")
    choosing = math.ceil(len(data.train[0]) / data.batch_size)
    assert {row["forward_passes"] for row in rows} == {5 * (30 + choosing)}
    assert {row["backward_passes"] for row in rows} == {5 * 30}


def test_random_search_over_a_schedule_follows_it_and_never_chooses_a_run_that_diverged():
    name = "random-search:trials=6,kind=cosine,low=0.1,high=100"
    results = lrcontrol.evaluate("quadratic:conditioning=2", [name], lr0=[0.1], runs=2, steps=20)
    assert max(max(drawn(seed, 0.1, 100.0, 6)) for seed in (0, 1)) > 20.0  # some must diverge: they are above 2/L = 2
    assert [row["diverged"] for row in rows_of(results, name)] == [0, 0]
    lr = traces_of(results, "lr", 20)
    assert lr / lr[:, :1] == pytest.approx(np.tile(0.5 * (1.0 + np.cos(np.pi * np.arange(20) / 20)), (2, 1)))


def slow_population(task, optimizer, beta, seed, members, every, steps, low, high):
    """Whole modules and torch optimizers, copied whole; the selection is ``select``, which has its own test."""
    seeds = run_seeds(seed)
    rates = drawn(seed, low, high, members)
    random = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0,)).spawn(4)[2].spawn(1)[0])
    parts, data, batch, histories = [], minibatches(task, seeds), None, [[] for _ in range(members)]

    def make(module):
        if optimizer == "adamw":
            return torch.optim.AdamW(module.parameters(), betas=(beta, 0.999), weight_decay=0.0)
        return torch.optim.SGD(module.parameters(), momentum=beta, dampening=beta)

    for _ in range(members):
        module = initial_module(task, seeds)
        parts.append((module, make(module)))
    batch, recent = next(data), [[] for _ in range(members)]
    for step in range(steps):
        following = next(data)
        for member, (module, opt) in enumerate(parts):
            opt.param_groups[0]["lr"] = rates[member]
            opt.zero_grad()
            loss = task.loss(module(batch[0]), batch[1])
            loss.backward()
            histories[member].append((loss.item(), rates[member]))
            opt.step()
            with torch.no_grad():
                recent[member].append(task.loss(module(following[0]), following[1]).item())
        batch = following
        if (step + 1) % every == 0 and step + 1 < steps:
            scores = np.nan_to_num(np.mean(recent, axis=1), nan=np.inf)
            parents, rates = select(rates, scores, random)
            before = [(copy.deepcopy(m.state_dict()), copy.deepcopy(o.state_dict())) for m, o in parts]
            for (module, opt), parent in zip(parts, parents, strict=True):
                module.load_state_dict(before[parent][0])
                opt.load_state_dict(copy.deepcopy(before[parent][1]))
            histories = [list(histories[parent]) for parent in parents]
            recent = [[] for _ in range(members)]
    return np.array(histories[int(np.argmin(np.mean(recent, axis=1)))])


@pytest.mark.parametrize(("optimizer", "beta"), [("sgd", 0.0), ("sgd", 0.9), ("adamw", 0.9)])
def test_a_population_does_what_copies_of_modules_and_optimizers_do(optimizer, beta):
    scale = 0.1 if optimizer == "adamw" else 1.0
    agent = Population(population=4, every=5, low=0.01 * scale, high=1.0 * scale)
    results = lrcontrol.evaluate(
        "digits-mlp", [agent], lr0=[0.1], runs=2, steps=28, optimizer=optimizer, momentum=beta, seed=4
    )
    loss, lr = (traces_of(results, column, 28) for column in ("loss", "lr"))
    for run in range(2):
        task = make_task("digits-mlp")
        expected = slow_population(task, optimizer, beta, 4 + run, 4, 5, 28, 0.01 * scale, scale)
        assert lr[run] == pytest.approx(expected[:, 1], rel=1e-9)
        assert loss[run] == pytest.approx(expected[:, 0], rel=1e-3)
    assert any(len(set(row)) > 1 for row in lr.round(9))  # the lineage has changed its rate
    assert {row["forward_passes"] for row in rows_of(results, agent.name)} == {4 * 28}
    assert {row["backward_passes"] for row in rows_of(results, agent.name)} == {4 * 28}


def test_selection_by_hand():
    rates, scores = np.arange(1.0, 9.0), np.array([5.0, 1.0, np.inf, 3.0, 2.0, 9.0, 4.0, 6.0])
    seen = set()
    for seed in range(40):
        parents, after = select(rates, scores, np.random.default_rng(seed))
        kept = [0, 1, 3, 4, 6, 7]
        assert parents[kept].tolist() == kept
        assert after[kept].tolist() == rates[kept].tolist()
        for member in (2, 5):  # the worst two take over from the best two, members 1 and 4 of rates 2 and 5
            assert parents[member] in (1, 4)
            seen.add((int(parents[member]), round(float(after[member]), 9)))
    assert seen == {(1, 1.6), (1, 2.5), (4, 4.0), (4, 6.25)}
    parents, _ = select(np.ones(2), np.array([1.0, 0.0]), np.random.default_rng(0))
    assert parents.tolist() == [1, 1]


def test_members_that_explode_are_replaced_and_the_population_lives():
    agent = Population(population=8, every=4, low=0.1, high=1e6)
    results = lrcontrol.evaluate("quadratic", [agent], lr0=[0.1], runs=1, steps=60)
    assert (drawn(0, 0.1, 1e6, 8) > 2.0).sum() > 3  # above 2/L: most of them
    row = rows_of(results, agent.name)[0]
    assert row["diverged"] == 0
    assert row["train_loss"] < 0.1 * traces_of(results, "loss", 60)[0, 0]


def test_selections_are_ten_to_a_run_unless_told_otherwise():
    results = lrcontrol.evaluate("digits-mlp", ["pbt:population=2"], lr0=[0.1], runs=8, steps=40)
    lr = traces_of(results, "lr", 40)
    changes = np.flatnonzero((lr[:, 1:] != lr[:, :-1]).any(axis=0)) + 1
    assert len(changes) > 3
    assert (changes % 4 == 0).all()


@pytest.mark.parametrize("agent", [RandomSearch(trials=3), Population(population=3, every=3)])
def test_a_run_depends_on_its_own_seed_alone(agent):
    arguments = {"lr0": [0.1], "steps": 12, "momentum": 0.9}
    both = lrcontrol.evaluate("digits-mlp", [agent], runs=2, seed=5, **arguments)
    second = lrcontrol.evaluate("digits-mlp", [agent], runs=1, seed=6, **arguments)
    assert traces_of(both, "lr", 12)[1].tolist() == traces_of(second, "lr", 12)[0].tolist()
    assert both.by_start(agent.name)[0, 1] == pytest.approx(second.by_start(agent.name)[0, 0], rel=1e-5)
    np.random.seed(3)  # noqa: NPY002 (the legacy global state is what must not matter)
    torch.manual_seed(3)
    again = lrcontrol.evaluate("digits-mlp", [agent], runs=2, seed=5, **arguments)
    assert again.by_start(agent.name).tolist() == both.by_start(agent.name).tolist()


def test_a_replay_of_constants_is_their_geometric_mean_without_those_that_diverged():
    arguments = {"runs": 2, "steps": 25, "seed": 2}
    replayed = lrcontrol.evaluate("quadratic", ["replay:of=constant"], lr0=[0.01, 0.25, 100.0], **arguments)
    mean = lrcontrol.evaluate("quadratic", ["constant"], lr0=[0.05], **arguments)
    assert traces_of(replayed, "lr", 25) == pytest.approx(0.05, rel=1e-9)
    for losses in replayed.by_start("replay:of=constant"):
        assert losses == pytest.approx(mean.by_start("constant")[0], rel=1e-5)
    assert {row["forward_passes"] for row in rows_of(replayed, "replay:of=constant")} == {50}


def test_a_replay_is_the_same_for_every_run_and_costs_what_was_recorded_too():
    name = "hillclimb:factor=2,momentum=true"
    results = lrcontrol.evaluate("digits-mlp", [name, "replay:of=" + name], lr0=[1e-2, 1.0], runs=2, steps=15)
    lr, momentum = (traces_of(results, column, 15) for column in ("lr", "momentum"))
    assert lr[4:] == pytest.approx(np.tile(np.exp(np.log(lr[:4]).mean(axis=0)), (4, 1)), rel=1e-9)
    assert momentum[4:] == pytest.approx(np.tile(momentum[:4].mean(axis=0), (4, 1)), rel=1e-9)
    assert len({tuple(row) for row in lr[:4].tolist()}) > 1
    assert len({tuple(row) for row in traces_of(results, "loss", 15)[4:].tolist()}) == 2  # the two runs are two
    for agent, passes in ((name, (60, 15)), ("replay:of=" + name, (75, 30))):
        assert {(r["forward_passes"], r["backward_passes"]) for r in rows_of(results, agent)} == {passes}


def test_a_replay_records_all_runs_however_they_are_cut_into_cells():
    arguments = {"lr0": [1e-2, 1.0], "runs": 3, "steps": 8}
    cut, whole = (
        lrcontrol.evaluate("digits-mlp", ["replay:of=hillclimb:factor=2"], block=block, **arguments) for block in (1, 3)
    )
    assert traces_of(cut, "lr", 8).tolist() == traces_of(whole, "lr", 8).tolist()
    assert len({tuple(row) for row in traces_of(cut, "lr", 8).tolist()}) == 1


def test_where_every_run_diverges_all_of_them_are_replayed():
    results = lrcontrol.evaluate("quadratic", ["replay:of=constant"], lr0=[10.0, 1000.0], runs=1, steps=10)
    assert traces_of(results, "lr", 10)[0, 0] == pytest.approx(100.0)
    assert [row["diverged"] for row in rows_of(results, "replay:of=constant")] == [1, 1]


def test_a_trained_agent_that_sees_only_the_time_is_an_agent_like_any_other(tmp_path):
    """Its rates are a schedule: multipliers 2 ** clip(budget left), the same from every start and for every run."""
    needs = {
        "hyperparameters": ("lr",),
        "multipliers": None,
        "max_factor": 2.0,
        "form": "anchored",
        "base_schedule": lrcontrol.Schedule(),
        "start": None,
        "interval": 1,
        "features": ("budget_left", "log_steps_left"),
    }
    tensors = {"layers.0.weight": np.array([[1.0, 0.0]], np.float32), "layers.0.bias": np.zeros(1, np.float32)}
    blind = TrainedAgent("blind", needs, Network(tensors, "tanh", "clip", (1,)), "by hand", {})
    blind.save(tmp_path / "blind")
    results = lrcontrol.evaluate("digits-mlp", [str(tmp_path / "blind")], lr0=[0.01, 0.1], runs=2, steps=10)
    lr = traces_of(results, "lr", 10)
    assert lr / np.array([[0.01], [0.01], [0.1], [0.1]]) == pytest.approx(
        np.tile(2.0 ** (1.0 - np.arange(10) / 10), (4, 1)), rel=1e-6
    )


@pytest.mark.parametrize(
    "text",
    [
        "random-search",
        "random-search:trials=3,kind=cosine,low=0.001",
        "pbt",
        "pbt:population=4,every=7,low=0.001,high=2.5",
        "replay:of=learned",
        "replay:of=hillclimb:factor=2,every=3",
        "replay:of=schedule:kind=cosine,warmup=0.05",
        "hypergradient-sgd:knob=true,additive=true",
        "hypergradient-adam:additive=true",
        "armijo:knob=true",
    ],
)
def test_its_name_is_a_spelling_of_itself(text):
    peer = find_peer(text)
    assert isinstance(peer, Peer)
    assert peer.name == text
    assert find_peer(peer) is peer


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("random-search:trials=0", "trials 0 is not positive"),
        ("random-search:kind=cosin", "did you mean 'cosine'"),
        ("random-search:low=1,high=0.1", "write 0 < low < high"),
        ("pbt:population=1", "population 1 is below 2"),
        ("pbt:every=0", "every 0 is not positive"),
        ("pbt:low=0", "write 0 < low < high"),
        ("pbt:member=3", "unknown key of peer 'pbt'"),
        ("replay:of=hilclimb", "did you mean 'hillclimb'"),
        ("replay:of=hillclimb:facto=2,every=3", "did you mean 'factor'"),
        ("armijo:additive=true", "unknown key of peer 'armijo'"),
    ],
)
def test_spellings_that_cannot_be_used_say_why(text, complaint):
    with pytest.raises(InputError, match=complaint):
        find_peer(text)


def test_a_range_that_only_the_task_makes_empty_is_refused_when_it_is_known():
    base = Settings(task="digits-mlp", steps=3)
    with pytest.raises(InputError, match="write 0 < low < high"):
        find_peer("pbt:low=100").run(Assignment(base, [0.1], 1))
    with pytest.raises(InputError, match="lr_limits"):
        find_peer("random-search:high=1e9").run(Assignment(base, [0.1], 1))
