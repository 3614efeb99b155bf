"""The engine against the plain reference, step by step, and what replicas may not do to each other."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import ALL_TASKS, BUNDLED
from reference import OPTIMIZERS, train
from torch import nn

from lrcontrol.envs import Engine, InputError, Task, blocks, make_task, mlp
from lrcontrol.envs.functional import StackedModule
from lrcontrol.envs.mlp import StackedMLP
from lrcontrol.envs.optimizers import blank
from lrcontrol.envs.seeding import build_module, run_seeds

pytestmark = pytest.mark.usefixtures("either_way")

# Few where a step is dear, or where a ReLU at its edge turns rounding into another gradient.
STEPS = {"mnist-cnn": 4, "mnist-autoencoder": 6, "shakespeare-gpt": 2, "fashion-mnist-deep": 6}
RATES = {
    "digits-mlp": 0.3,
    "quadratic:noise=0.1": 0.5,
    "mnist-mlp": 0.3,
    "fashion-mnist-mlp": 0.3,
    "mnist-mlp-raw": 1e-4,
    "mnist-cnn": 0.1,
    "fashion-mnist-deep": 0.1,
    "shakespeare-gpt": 0.1,
}


def changing(value: float):
    """A rate that moves at every step, so that one applied a step late or early is seen."""
    return lambda step: value * (1.0 + 0.3 * np.sin(step))


def compare_with_reference(task, name, streams, moving_momentum=False, steps=30):
    optimizer, beta, decay, smoothing = OPTIMIZERS[name]
    rate = RATES.get(task.name, 0.3) * (0.02 if optimizer == "adamw" else 1.0)
    lr = changing(rate)

    def momentum(step):
        return 1.0 - (1.0 - beta) * (1.0 + 0.5 * np.sin(step)) if moving_momentum else beta

    rows = 4
    engine = Engine(task, optimizer, rows, streams, uses_momentum=beta > 0.0, weight_decay=decay, smoothing=smoothing)
    per_stream = rows // engine.streams
    seeds = [run_seeds(row // per_stream) for row in range(rows)]
    engine.reset(seeds)
    factors = np.arange(1, rows + 1) / rows  # each row its own rate
    references = [
        train(task, seed, optimizer, lambda t, f=f: f * lr(t), momentum, steps, decay, smoothing)
        for seed, f in zip(seeds, factors, strict=True)
    ]
    for step, expected in enumerate(zip(*references, strict=True)):
        np.testing.assert_allclose(engine.losses, [e.loss for e in expected], rtol=2e-4, atol=1e-7)
        torch.testing.assert_close(engine.params, torch.stack([e.params for e in expected]), rtol=1e-3, atol=2e-5)
        scale = max(float(e.gradient.norm()) for e in expected)
        torch.testing.assert_close(
            engine.gradient, torch.stack([e.gradient for e in expected]), rtol=1e-2, atol=1e-4 * scale
        )
        if step < steps:
            engine.step(factors * lr(step), np.full(rows, momentum(step)) if moving_momentum else momentum(step))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("task", ALL_TASKS)
def test_engine_matches_the_plain_reference_step_by_step(task, optimizer):
    problem = make_task(task)
    compare_with_reference(problem, optimizer, streams=None, steps=STEPS.get(task, 30))


@pytest.mark.parametrize("streams", [1, 2])
@pytest.mark.parametrize("task", BUNDLED)
def test_replicas_that_share_minibatches_match_it_too(task, streams):
    compare_with_reference(make_task(task), "sgd-momentum", streams)


@pytest.mark.parametrize("optimizer", ["sgd-momentum", "adamw"])
def test_momentum_that_moves_matches_it_too(optimizer):
    compare_with_reference(make_task("digits-mlp"), optimizer, None, moving_momentum=True)


class Residual(nn.Module):
    """A module that is no nn.Sequential, so that only the general path can run it."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(64, 64), nn.Linear(64, 10)
        self.norm = nn.LayerNorm(64)

    def forward(self, x):
        return self.last(self.norm(x + torch.tanh(self.first(x))))


@pytest.mark.parametrize("streams", [None, 2])
def test_general_modules_match_it_too(streams):
    digits = make_task("digits-mlp")
    task = Task(name="residual", model=Residual, train=digits.train, batch_size=32, steps=30)
    assert isinstance(Engine(task, "sgd", 1).model, StackedModule)
    compare_with_reference(task, "adamw", streams)


def test_deep_relu_networks_take_the_fast_path_and_match():
    digits = make_task("digits-mlp")
    model = lambda: mlp(64, 24, 18, 10, activation="relu")  # noqa: E731
    task = Task(name="deep", model=model, train=digits.train, batch_size=32, steps=30)
    assert isinstance(Engine(task, "sgd", 1).model, StackedMLP)
    for streams in (None, 2):
        compare_with_reference(task, "sgd-momentum", streams)


def test_regression_takes_the_fast_path_and_matches():
    x = torch.linspace(-1.0, 1.0, 96).reshape(-1, 1)
    y = torch.cat([torch.sin(3.0 * x), torch.cos(3.0 * x)], dim=1)
    task = Task(name="sine", model=lambda: mlp(1, 16, 2), train=(x, y), batch_size=24, steps=30, loss=F.mse_loss)
    assert isinstance(Engine(task, "sgd", 1).model, StackedMLP)
    for streams in (None, 2):
        compare_with_reference(task, "sgd", streams)


@pytest.mark.parametrize("task", BUNDLED)
def test_evaluation_over_a_data_set_is_the_modules_own_loss_and_accuracy(task):
    problem = make_task(task)
    engine = Engine(problem, "sgd", 3)
    engine.reset([run_seeds(row) for row in range(3)])
    loss, accuracy = engine.evaluate(problem.train)
    for row in range(3):
        module = problem.model()
        nn.utils.vector_to_parameters(engine.params[row], module.parameters())
        with torch.no_grad():
            outputs = module(problem.train[0])
        assert loss[row] == pytest.approx(problem.loss(outputs, problem.train[1]).item(), rel=1e-5)
        if problem.classifies:
            expected = (outputs.argmax(1) == problem.train[1]).double().mean().item()
            assert accuracy[row] == pytest.approx(expected, abs=1e-12)
        else:
            assert np.isnan(accuracy[row])


def test_probe_is_the_loss_after_a_trial_step_on_the_same_minibatch():
    task = make_task("digits-mlp")
    engine = Engine(task, "adamw", 2, uses_momentum=True)
    engine.reset([run_seeds(0), run_seeds(1)])
    update = engine.propose(0.9).clone()
    lr, factor = np.array([0.01, 0.1]), 1.5
    for along_gradient, direction in ((True, engine.gradient.clone()), (False, update)):
        found = engine.probe(lr, factor, 0.9, along_gradient)
        for row in range(2):
            for trial, rate in enumerate((lr[row], factor * lr[row])):
                module = task.model()
                nn.utils.vector_to_parameters(engine.params[row] - rate * direction[row], module.parameters())
                expected = task.loss(module(engine.minibatch[0][row]), engine.minibatch[1][row]).item()
                assert found[row, trial] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_probe_of_another_momentum_goes_along_its_update_and_leaves_the_step_as_it_was(optimizer):
    task, seeds, lr = make_task("digits-mlp"), [run_seeds(0), run_seeds(1)], np.array([0.3, 0.5])
    betas, others = np.array([0.9, 0.5]), np.array([0.8, 0.0])
    probed, plain, calm = (Engine(task, optimizer, 2, uses_momentum=True) for _ in range(3))
    for engine in (probed, plain, calm):
        engine.reset(seeds)
        engine.step(lr, betas)
        engine.propose(betas)
    found = probed.probe(lr, 1.5, betas, other=others)
    assert found.shape == (2, 3)
    other = plain.propose(others).clone()
    for row in range(2):
        module = task.model()
        nn.utils.vector_to_parameters(plain.params[row] - lr[row] * other[row], module.parameters())
        expected = task.loss(module(plain.minibatch[0][row]), plain.minibatch[1][row]).item()
        assert found[row, 2] == pytest.approx(expected, rel=1e-5)
        assert abs(found[row, 2] / found[row, 0] - 1.0) > 1e-6  # the present momentum's step ends elsewhere
    plain.propose(betas)
    for engine in (probed, plain, calm):
        engine.step(lr, betas)
        engine.step(lr, betas)
    assert torch.equal(probed.params, calm.params)
    if plain.compiled:  # where torch has proposed what compiled code had
        torch.testing.assert_close(plain.params, calm.params, rtol=1e-4, atol=1e-6)
    else:
        assert torch.equal(plain.params, calm.params)


@pytest.mark.parametrize("streams", [None, 1])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_replica_that_leaves_the_finite_numbers_changes_nothing_in_its_neighbours(optimizer, streams):
    task = make_task("digits-mlp")
    seeds = [run_seeds(0)] * 3

    def run(rates, steps=12):
        engine = Engine(task, optimizer, 3, streams, uses_momentum=True)
        engine.reset(seeds)
        losses = [engine.losses.copy()]
        for _ in range(steps):
            engine.step(np.array(rates), 0.5)
            losses.append(engine.losses.copy())
        return engine, np.array(losses)

    healthy, calm = run([0.01, 0.02, 0.03])
    broken, wild = run([0.01, 3e38, 0.03])
    assert healthy.alive.tolist() == [True, True, True]
    assert broken.alive.tolist() == [True, False, True]
    assert np.isnan(wild[-1, 1])
    np.testing.assert_array_equal(calm[:, [0, 2]], wild[:, [0, 2]])
    assert torch.equal(healthy.params[[0, 2]], broken.params[[0, 2]])
    frozen = broken.params[1].clone()
    broken.step(np.array([0.01, 0.01, 0.03]), 0.5)
    assert torch.equal(frozen, broken.params[1]) or torch.equal(frozen.isnan(), broken.params[1].isnan())


def quadratic_loss_after(rate: float, steps: int = 200) -> float:
    engine = Engine(make_task("quadratic:conditioning=10"), "sgd", 1)
    engine.reset([run_seeds(3)])
    for _ in range(steps):
        engine.step(np.array([rate]), 0.0)
    return float(engine.losses[0])


def test_quadratic_converges_at_the_known_rate_and_best_at_two_over_l_plus_mu():
    """L = 1, μ = 0.1: the slowest mode contracts by max(|1 − rate|, |1 − rate/10|), least at 2/(L + μ) = 20/11."""
    best = 2.0 / 1.1
    worse = [quadratic_loss_after(best * factor, 40) for factor in (0.8, 0.9, 1.05, 1.09)]
    assert quadratic_loss_after(best, 40) < min(worse)  # the wrong rates fail
    engine = Engine(make_task("quadratic:conditioning=10,dimension=2"), "sgd", 1)
    engine.reset([run_seeds(3)])
    start = engine.params[0].double().clone()
    for _ in range(10):
        engine.step(np.array([best]), 0.0)
    contraction = torch.tensor([1.0 - best, 1.0 - 0.1 * best], dtype=torch.float64) ** 10
    torch.testing.assert_close(engine.params[0].double(), start * contraction, rtol=1e-4, atol=1e-8)


def test_quadratic_diverges_above_two_over_l_and_not_below():
    first = quadratic_loss_after(1.0, 0)
    assert quadratic_loss_after(1.98) < 1e-1 * first
    assert quadratic_loss_after(2.02) > 10.0 * first


def test_noise_on_the_quadratic_leaves_its_minimum_at_zero():
    task = make_task("quadratic:noise=0.5,dimension=4")
    torch.testing.assert_close(task.train[0].mean(dim=0), torch.zeros(4), atol=1e-6, rtol=0.0)
    floor = 0.5 * (task.train[0] ** 2 * torch.logspace(0.0, -1.0, 4)).sum(dim=1).mean()
    engine = Engine(task, "sgd", 1)
    engine.reset([run_seeds(0)])
    engine.params.zero_()
    assert engine.evaluate(task.train)[0][0] == pytest.approx(float(floor), rel=1e-5)


def test_what_is_measured_on_a_whole_data_set_does_not_depend_on_how_many_replicas_there_are():
    """Also with a norm over the rows that are evaluated together, which are the same thousand for one and for many."""
    random = torch.Generator().manual_seed(0)
    x = torch.randn(1500, 4, generator=random)
    y = (x[:, 0] > 0).long()
    norm = lambda: nn.BatchNorm1d(8, track_running_stats=False)  # noqa: E731
    model = lambda: nn.Sequential(nn.Linear(4, 8), norm(), nn.Linear(8, 2))  # noqa: E731
    task = Task(model=model, train=(x, y), batch_size=50, steps=5)
    found = []
    for rows in (1, 150):
        engine = Engine(task, "sgd", rows, streams=1)
        engine.reset([run_seeds(3)] * rows)
        found.append(engine.evaluate(task.train)[0])
    assert set(found[1]) == set(found[0])
    module = build_module(model, run_seeds(3).init)
    expected = [1000 * F.cross_entropy(module(x[:1000]), y[:1000]), 500 * F.cross_entropy(module(x[1000:]), y[1000:])]
    assert found[0][0] == pytest.approx(float(sum(expected).detach()) / 1500, rel=1e-6)


class Noisy(nn.Linear):
    """A layer with dropout that no module tells of."""

    def forward(self, x):
        return F.dropout(super().forward(x), 0.5, self.training)


def test_the_first_loss_must_be_finite():
    data = torch.ones(8, 4), torch.full((8, 2), -1.0)
    loss = lambda outputs, targets: (targets + 0.0 * outputs).log().mean()  # noqa: E731
    task = Task(name="log of -1", model=lambda: mlp(4, 2), train=data, batch_size=4, steps=5, loss=loss)
    with pytest.raises(InputError, match="before the first step is not finite"):
        Engine(task, "sgd", 1).reset([run_seeds(0)])


@pytest.mark.parametrize(
    ("module", "complaint"),
    [
        (lambda: nn.Sequential(nn.Linear(64, 10), nn.BatchNorm1d(10)), "running statistics"),
        (lambda: nn.Sequential(nn.Linear(64, 10), nn.Dropout(0.5)), "is random"),
        (lambda: nn.Sequential(nn.Linear(64, 10).double()), "torch.float32, which"),
        (lambda: nn.Flatten(), "no parameters"),
        (
            lambda: nn.Sequential(nn.Linear(64, 8).requires_grad_(False), nn.Linear(8, 10)),
            "'0.weight' does not require",
        ),
        (lambda: Noisy(64, 10), "draws random numbers"),
    ],
)
def test_modules_that_replicas_cannot_share_are_refused(module, complaint):
    task = Task(name="mine", model=module, train=make_task("digits-mlp").train, batch_size=8, steps=5)
    with pytest.raises(InputError, match=complaint):
        Engine(task, "sgd", 1)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("sizes", [(784, 64, 10), (300, 100, 10)])
def test_a_replica_alone_is_what_it_is_among_others_however_products_are_kept(sizes, threads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(64, sizes[0], generator=generator), torch.arange(64) % 10
    task = Task(model=lambda: mlp(*sizes), train=data, batch_size=32, steps=9)
    many, one = Engine(task, "adamw", 3), Engine(task, "adamw", 1)
    many.reset([run_seeds(seed) for seed in (0, 1, 2)])
    one.reset([run_seeds(1)])
    for _ in range(5):
        many.step(np.full(3, 1e-3), 0.9)
        one.step(np.full(1, 1e-3), 0.9)
    assert torch.equal(many.params[1], one.params[0])


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_copied_row_goes_on_as_the_row_that_it_was_copied_from(optimizer):
    name, beta, decay, smoothing = OPTIMIZERS[optimizer]
    engine = Engine(
        make_task("digits-mlp"), name, 4, 2, uses_momentum=beta > 0.0, weight_decay=decay, smoothing=smoothing
    )
    engine.reset([run_seeds(row // 2) for row in range(4)])
    scale = 0.01 if name == "adamw" else 0.3
    for _ in range(5):
        engine.step(scale * np.array([1.0, 0.5, 0.25, 2.0]), beta)
    kept = engine.params.clone()
    engine.copy(np.array([0, 0, 3, 3]))
    torch.testing.assert_close(engine.params, kept[[0, 0, 3, 3]], rtol=0.0, atol=0.0)
    for _ in range(5):
        engine.step(np.full(4, scale), beta)
        assert engine.losses[[0, 2]].tolist() == engine.losses[[1, 3]].tolist()
    assert torch.equal(engine.params[[0, 2]], engine.params[[1, 3]])
    assert not torch.equal(engine.params[0], engine.params[2])


def test_a_frozen_row_lives_again_as_the_copy_of_another():
    engine = Engine(make_task("quadratic"), "sgd", 2, 1)
    engine.reset([run_seeds(0)] * 2)
    for _ in range(10):
        engine.step(np.array([0.1, 1e30]), 0.0)
    assert engine.alive.tolist() == [True, False]
    engine.copy(np.array([0, 0]))
    engine.step(np.array([0.1, 0.1]), 0.0)
    assert engine.alive.tolist() == [True, True]
    assert engine.losses[0] == engine.losses[1]


def test_blocks_of_unequal_size_take_no_new_memory_and_change_nothing(monkeypatch):
    task = replace(make_task("digits-mlp"), model=lambda: mlp(64, 300, 10), batch_size=16)
    seeds = [run_seeds(0)] * 7
    whole = Engine(task, "adamw", 7, streams=1)
    monkeypatch.setattr(blocks, "NUMBERS", 3 * whole.model.row_numbers(task, False, whole.device))
    parted = Engine(task, "adamw", 7, streams=1)
    assert [block.rows.stop - block.rows.start for block in parted._blocks] == [2, 2, 3]
    for engine in (whole, parted):
        engine.reset(seeds, 0.9)
        engine.step(np.geomspace(1e-4, 1e-2, 7), 0.9)
    sizes, empty = [0], torch.empty
    monkeypatch.setattr(torch, "empty", lambda *shape, **of: sizes.append(np.prod(shape)) or empty(*shape, **of))
    for _ in range(3):
        for engine in (whole, parted):
            engine.step(np.geomspace(1e-4, 1e-2, 7), 0.9)
    assert max(sizes) < 2 * 300 * 64
    np.testing.assert_allclose(parted.losses, whole.losses, rtol=1e-6)
    assert len(set(whole.losses)) == 7


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_memory_that_may_not_be_needed_is_zeros_that_begin_with_a_cache_line(dtype):
    for shape in ((1, 16), (3, 48), (1000, 4096)):
        found = blank(torch.ones(shape, dtype=dtype))
        assert found.shape == shape
        assert found.dtype == dtype
        assert found.is_contiguous()
        assert found.data_ptr() % 64 == 0
        assert not found.any()
