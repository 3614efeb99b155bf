"""Compiled training steps: their functions against numpy in double precision, and they against the other ones."""

import copy
import importlib
import itertools
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lrcontrol.envs import Engine, InputError, Smoothing, Task, compiled, make_task
from lrcontrol.envs.reductions import MEASURES
from lrcontrol.envs.seeding import run_seeds

kernels = pytest.importorskip("lrcontrol.envs.kernels", reason="numba is not installed")
ROWS = 6
OPTIMIZERS = {"sgd": ("sgd", 0.0, 0.0), "sgd-momentum": ("sgd", 0.9, 0.0), "adamw": ("adamw", 0.9, 0.1)}


def test_exponentials_and_activations_are_those_of_numpy_in_double_precision():
    x = np.concatenate([np.linspace(-30.0, 30.0, 60_001), np.geomspace(1e-30, 1.0, 1001)]).astype(np.float32)
    exact = x.astype(np.float64)
    found = x.copy()
    kernels.exponentiate(found)
    np.testing.assert_allclose(found, np.exp(exact), rtol=2e-7)
    for kind, expected in (
        (kernels.TANH, np.tanh(exact)),
        (kernels.RELU, np.maximum(exact, 0.0)),
        (kernels.ELU, np.where(exact < 0.0, np.expm1(exact), exact)),
        (kernels.NONE, exact),
    ):
        found = x.copy()
        kernels.activate(kind, found, np.float32(0.0))
        np.testing.assert_allclose(found, expected, rtol=4e-7)
        assert np.abs(found).max() <= np.abs(expected).max()
    shifted = np.full(3, 0.25, dtype=np.float32)
    kernels.activate(kernels.TANH, shifted, np.float32(0.5))
    np.testing.assert_allclose(shifted, np.tanh(0.75), rtol=4e-7)


def test_logarithms_are_those_of_numpy_and_of_what_is_no_number_itself():
    for x in [1.0, 1.0 + 1e-15, 1.3, 1.5, 2.0, 2.718281828, 9.99, 1e10, 1e300, np.inf]:
        np.testing.assert_allclose(kernels.logarithm(x), np.log(x), rtol=3e-16)
    assert np.isnan(kernels.logarithm(np.nan))


HASHED = """
import hashlib, numpy as np, torch
from lrcontrol.envs import Engine, Task, make_task, mlp
from lrcontrol.envs.reductions import MEASURES
from lrcontrol.envs.seeding import run_seeds
data = torch.randn(500, 256, generator=torch.Generator().manual_seed(0)), torch.arange(500) % 10
data[0][:, 100:180] = 0.0
wide = Task(name="wide", model=lambda: mlp(256, 8, 10), train=data, batch_size=32, steps=100)
seen = hashlib.sha256()
for task in (make_task("digits-mlp"), wide):
    engine = Engine(task, "adamw", 4, compiled=True, measures=MEASURES)
    engine.reset([run_seeds(row) for row in range(4)], 0.9)
    for _ in range(30):
        engine.step(np.full(4, 1e-2), 0.9)
        losses = engine.probe(np.full(4, 1e-2), 1.01, 0.9)
        for array in (engine.params.numpy(), engine.losses, losses, *engine.measures.values()):
            seen.update(np.ascontiguousarray(array).tobytes())
print(seen.hexdigest())
"""


def test_code_that_was_compiled_and_code_that_came_from_disk_give_the_same_bytes(tmp_path):
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    first, second = (
        subprocess.run([sys.executable, "-c", HASHED], env=environment, capture_output=True, text=True, timeout=300)
        for _ in range(2)
    )
    assert first.stdout == second.stdout != ""
    assert first.stderr.count("compiling training steps") == first.stderr.count("compiling probes") == 2
    assert second.stderr == ""


def test_what_is_no_number_stays_none():
    for kind in (kernels.NONE, kernels.TANH, kernels.RELU, kernels.ELU):
        values = np.array([np.nan, np.inf, -np.inf], dtype=np.float32)
        kernels.activate(kind, values, np.float32(0.0))
        limits = {kernels.TANH: (1.0, -1.0), kernels.RELU: (np.inf, 0.0), kernels.ELU: (np.inf, -1.0)}
        np.testing.assert_array_equal(values, [np.nan, *limits.get(kind, (np.inf, -np.inf))])
    values = np.array([np.nan, -1000.0], dtype=np.float32)
    kernels.exponentiate(values)
    assert np.isnan(values[0])
    assert 0.0 <= values[1] < 1e-37


def network(*sizes, activation=nn.Tanh):
    def make():
        parts = [[nn.Linear(*pair), activation()] for pair in itertools.pairwise(sizes)]
        return nn.Sequential(*[part for pair in parts for part in pair][:-1])

    return make


def problems():
    """Widths and minibatches that no tile of four fits, and one of each activation, loss and order."""
    x, y = make_task("digits-mlp").train
    values = torch.stack([x.sum(dim=1), x[:, 20] * x[:, 30], y.float()], dim=1)
    deep = {"train": (x, y), "batch_size": 23, "steps": 100}
    yield Task(name="tanh", model=network(64, 13, 7, 10), **deep)
    yield Task(name="relu", model=network(64, 13, 7, 10, activation=nn.ReLU), **deep)
    yield Task(name="elu", model=network(64, 13, 7, 10, activation=nn.ELU), **deep)
    yield Task(name="no layer between", model=network(64, 10), **deep)
    yield Task(name="in order", model=network(64, 9, 10), train=(x, y), batch_size=17, steps=100, shuffle=False)
    yield Task(name="one at a time", model=network(64, 3, 10), train=(x, y), batch_size=1, steps=100)
    yield Task(name="values", model=network(64, 5, 3), train=(x, values), batch_size=10, steps=100, loss=F.mse_loss)
    sparse = torch.zeros(len(x), 300)  # blank columns at both ends, and two of three between
    sparse[:, 30:222:3] = x
    yield Task(name="wide and sparse", model=network(300, 13, 7, 10), **deep | {"train": (sparse, y)})
    mixed = torch.where((torch.arange(len(x)) % 2 == 0)[:, None], sparse, sparse.roll(1, 1) + 1.0)
    yield Task(name="wide, one at a time", model=network(300, 3, 10), train=(mixed, y), batch_size=1, steps=100)
    yield Task(name="wide", model=network(301, 6, 10), **deep | {"train": (x.repeat(1, 5)[:, :301], y)})
    yield Task(name="linear", model=network(64, 3), train=(x, values), batch_size=10, steps=100, loss=F.mse_loss)


PROBLEMS = {problem.name: problem for problem in problems()}


def engines(problem, optimizer, streams=None, ways=(False, True), rows=ROWS, moves=False):
    name, momentum, decay = OPTIMIZERS[optimizer]
    for way in ways:
        engine = Engine(
            *(problem, name, rows, streams),
            uses_momentum=momentum > 0.0,
            weight_decay=decay,
            measures=MEASURES,
            compiled=way,
        )
        assert engine.compiled is way
        engine.reset([run_seeds(row) for row in range(rows)], np.full(rows, momentum) if moves else momentum)
        yield engine


@pytest.mark.parametrize("moves", [False, True], ids=["one-momentum", "moving-momentum"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("problem", PROBLEMS)
def test_steps_and_measures_are_those_of_torch(problem, optimizer, moves):
    if moves and optimizer == "sgd":
        pytest.skip("there is no momentum to move")
    rng = np.random.default_rng(0)
    for streams in (ROWS, 2):
        plain, fast = engines(PROBLEMS[problem], optimizer, streams, moves=moves)
        momentum = OPTIMIZERS[optimizer][1]
        for step in range(12):
            np.testing.assert_allclose(fast.losses, plain.losses, rtol=3e-6)
            compared = [(fast.params, plain.params)]
            if streams == 2 or step == 11:  # else it is not kept
                compared.append((fast.gradient, plain.gradient))
            for found, expected in compared:
                assert float((found - expected).norm()) < 3e-6 * float(expected.norm())
            assert fast.measures.keys() == plain.measures.keys()
            for name, expected in plain.measures.items():
                if name.startswith("grad_dot"):
                    other = "update_sq" if name.endswith("update") else "memory_sq"
                    scale = np.sqrt(plain.measures["grad_sq"] * plain.measures[other])
                    np.testing.assert_allclose(fast.measures[name] / scale, expected / scale, atol=3e-6)
                else:
                    np.testing.assert_allclose(fast.measures[name], expected, rtol=1e-5)
            rates = 10.0 ** rng.uniform(-4.0, -2.0, ROWS)
            if moves:
                momentum = rng.uniform(0.5, 0.95, ROWS)
            for engine in (plain, fast):
                engine.step(rates, momentum, measure=step % 3 != 1)


@pytest.mark.parametrize("streams", [ROWS, 2])
@pytest.mark.parametrize("problem", PROBLEMS)
def test_probes_tell_as_small_differences_as_float32_can(problem, streams):
    """Against networks in double precision: a hill-climber of 1 % decides by the difference of two losses."""
    (engine,) = engines(PROBLEMS[problem], "sgd-momentum", streams, ways=(True,))
    rates = np.geomspace(1e-3, 0.3, ROWS)
    for _ in range(3):
        engine.step(rates, 0.9)
        found = engine.probe(rates, 1.01, 0.9)
        (x, y), update = engine.minibatch, engine.propose(0.9).double()
        x, y = (x.double(), y.double() if y.is_floating_point() else y)
        trials = [engine.params.double() - factor * torch.from_numpy(rates)[:, None] * update for factor in (1.0, 1.01)]
        exact = np.empty((ROWS, 2))
        for row, number in itertools.product(range(ROWS), range(2)):
            stream = row // (ROWS // streams)
            exact[row, number] = engine.model.losses(
                trials[number][row : row + 1], x[stream : stream + 1], y[stream : stream + 1]
            )
        scale = np.maximum(1.0, exact)
        np.testing.assert_allclose(found / scale, exact / scale, atol=5e-7)
        np.testing.assert_allclose(np.diff(found) / scale[:, :1], np.diff(exact) / scale[:, :1], atol=5e-7)


@pytest.mark.parametrize("moves", [False, True], ids=["one-momentum", "moving-momentum"])
@pytest.mark.parametrize("optimizer", ["sgd-momentum", "adamw"])
def test_a_probe_between_steps_changes_nothing(optimizer, moves):
    calm, probed = engines(PROBLEMS["tanh"], optimizer, ways=(True, True), moves=moves)
    (plain,) = engines(PROBLEMS["tanh"], optimizer, ways=(False,), moves=moves)
    momentum, other = OPTIMIZERS[optimizer][1], np.full(ROWS, 0.8) if moves else None
    for step in range(4):
        if moves:
            momentum = np.linspace(0.5, 0.9, ROWS) + 0.01 * (step // 2)
        found, expected = (engine.probe(np.full(ROWS, 1e-2), 2.0, momentum, False, other) for engine in (probed, plain))
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        calm.propose(momentum)
        for engine in (calm, probed, plain):
            engine.step(np.full(ROWS, 1e-2), momentum)
        assert torch.equal(calm.params, probed.params)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_what_is_measured_changes_nothing(optimizer):
    name, momentum, decay = OPTIMIZERS[optimizer]
    found = []
    for measures in ((), ("grad_sq",), MEASURES):
        engine = Engine(
            *(PROBLEMS["tanh"], name, ROWS),
            uses_momentum=momentum > 0.0,
            weight_decay=decay,
            measures=measures,
            compiled=True,
        )
        engine.reset([run_seeds(row) for row in range(ROWS)], momentum)
        for step in range(5):
            engine.step(np.full(ROWS, 1e-2), momentum, measure=step % 2 == 0)
        found.append(engine.params.clone())
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_gradient_that_is_asked_for_changes_nothing(optimizer):
    calm, asked = engines(PROBLEMS["wide and sparse"], optimizer, ways=(True, True))
    momentum, rates = OPTIMIZERS[optimizer][1], np.full(ROWS, 1e-2)
    for step in range(6):
        for engine in (calm, asked):
            engine.step(rates, momentum)
        if step == 2:
            before = asked.gradient.clone()
    assert torch.equal(calm.params, asked.params)
    found, again = asked.gradient.clone(), calm.gradient
    assert not torch.equal(found, before)
    assert torch.equal(found, again)  # whether it was kept or worked out afterwards
    trials = [calm.params - rate * again for rate in (1e-2, 2e-2)]
    expected = [calm.model.losses(trial, *calm.minibatch) for trial in trials]
    np.testing.assert_allclose(calm.probe(rates, 2.0, momentum, True), torch.stack(expected, dim=1), rtol=1e-6)


def test_columns_of_zeros_are_found():
    """By their bits: −0 and what is no number count as used."""
    rng = np.random.default_rng(0)
    inputs = np.zeros((3, 256), np.float32)
    inputs[1, 17], inputs[2, 200] = np.nan, -0.0
    found = np.empty(65, np.uint32)
    assert kernels._find_blocks(inputs, np.arange(3), np.empty(256, np.uint32), found) == 4
    assert {16, 200} < set(found[:4])
    for width, share in ((256, 0.02), (300, 0.01), (320, 0.9), (301, 0.01), (256, 0.0)):
        inputs = np.where(rng.random((40, width)) < share, rng.standard_normal((40, width)), 0.0).astype(np.float32)
        index, seen, found = rng.permutation(40)[:9], np.empty(width, np.uint32), np.empty(width // 4 + 1, np.uint32)
        count = kernels._find_blocks(inputs, index, seen, found)
        if width % 4 or share in (0.0, 0.9):
            assert count == 0
            continue
        used = inputs[index].reshape(9, -1, 4).any(axis=(0, 2))
        assert count == -(-used.sum() // 4) * 4
        assert set(4 * np.flatnonzero(used)) <= set(found[:count])
        assert len(set(found[:count])) == count
        assert (found[:count] % 4 == 0).all()
        row, packed, back = rng.standard_normal(width).astype(np.float32), *np.empty((2, width), np.float32)
        kernels._pack(row, found[:count], packed)
        kernels._unpack(packed, found[:count], back)
        kept = np.isin(np.arange(width) // 4 * 4, found[:count])
        np.testing.assert_array_equal(back, np.where(kept, row, 0.0))


def test_momenta_that_are_written_over_are_seen():
    """And one number that becomes another, which AdamW has taken in already, is refused."""
    fresh, same = engines(PROBLEMS["tanh"], "adamw", ways=(True, True), moves=True)
    kept = np.zeros(ROWS)
    for momentum in np.random.default_rng(0).uniform(0.5, 0.95, (5, ROWS)):
        kept[:] = momentum
        fresh.step(np.full(ROWS, 1e-2), momentum)
        same.step(np.full(ROWS, 1e-2), kept)
    assert torch.equal(fresh.params, same.params)
    (engine,) = engines(PROBLEMS["tanh"], "adamw", ways=(True,))
    with pytest.raises(InputError, match=r"momentum 0.8 after 0.9: one that changes has to be an array"):
        engine.step(np.full(ROWS, 1e-2), 0.8)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_copy_trains_its_own_parameters(optimizer):
    (engine,) = engines(PROBLEMS["tanh"], optimizer, ways=(True,))
    twin, before = copy.deepcopy(engine), engine.params.clone()
    twin.step(np.full(ROWS, 1e-2), OPTIMIZERS[optimizer][1])
    assert torch.equal(engine.params, before)
    engine.step(np.full(ROWS, 1e-2), OPTIMIZERS[optimizer][1])
    assert torch.equal(engine.params, twin.params)
    assert not torch.equal(engine.params, before)


@pytest.mark.parametrize("problem", ["relu", "wide and sparse", "wide, one at a time"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_replica_is_the_same_alone_and_among_others_on_any_number_of_threads(optimizer, problem, monkeypatch):
    monkeypatch.setattr(compiled, "WORTH", 1)
    before, found = torch.get_num_threads(), []
    for threads, rows in ((1, 1), (1, 7), (2, 7), (3, 7)):
        torch.set_num_threads(threads)
        (engine,) = engines(PROBLEMS[problem], optimizer, ways=(True,), rows=rows)
        momentum = OPTIMIZERS[optimizer][1]
        for step in range(8):
            engine.step(np.full(rows, 1e-2 * (1 + step)), momentum)
        probes = engine.probe(np.full(rows, 0.1), 2.0, momentum)
        found.append((engine.params.clone(), np.column_stack([engine.losses, probes])))
    torch.set_num_threads(before)
    for params, losses in found:
        assert torch.equal(params, found[1][0][: len(params)])
        np.testing.assert_array_equal(losses, found[1][1][: len(losses)])


def test_copies_go_on_like_what_they_were_copied_from():
    (engine,) = engines(PROBLEMS["tanh"], "adamw", 1, ways=(True,))
    for _ in range(3):
        engine.step(np.geomspace(1e-4, 1e-1, ROWS), 0.9)
    engine.copy(np.array([0, 0, 2, 2, 4, 4]))
    for _ in range(3):
        engine.step(np.full(ROWS, 1e-2), 0.9)
    assert torch.equal(engine.params[::2], engine.params[1::2])


def test_a_replica_that_leaves_the_numbers_freezes_and_the_others_go_on():
    (alone,) = engines(PROBLEMS["values"], "sgd", ways=(True,))
    (engine,) = engines(PROBLEMS["values"], "sgd", ways=(True,))
    rates = np.full(ROWS, 1e-3)
    for step in range(6):
        alone.step(rates, 0.0)
        engine.step(np.where(np.arange(ROWS) == 2, 1e30, rates), 0.0)
        if step == 2:
            kept = engine.params[2].clone()
            assert engine.alive.tolist() == [True, True, False, True, True, True]
    assert np.isnan(engine.losses[2])
    torch.testing.assert_close(engine.params[2], kept, rtol=0.0, atol=0.0, equal_nan=True)
    others = [0, 1, 3, 4, 5]
    assert torch.equal(engine.params[others], alone.params[others])


def test_what_the_compiled_code_is_not_made_for_is_left_to_torch():
    x, y = make_task("digits-mlp").train
    normed = lambda: nn.Sequential(nn.Linear(64, 8), nn.LayerNorm(8), nn.Linear(8, 10))  # noqa: E731
    assert Engine(PROBLEMS["tanh"], "sgd", 1, compiled=True).compiled
    general = Task(name="general", model=normed, train=(x, y), batch_size=32, steps=10)
    assert not Engine(general, "sgd", 1, compiled=True).compiled
    halves = Task(
        name="halves", model=network(64, 1), train=(x, x[:, :1].half()), batch_size=32, steps=10, loss=F.mse_loss
    )
    assert not Engine(halves, "sgd", 1, compiled=True).compiled
    smoothed = make_task("digits-mlp")
    assert not Engine(smoothed, "sgd", 1, smoothing=Smoothing(0.1), compiled=True).compiled
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        double = Task(name="double", model=network(64, 8, 10), train=(x.double(), y), batch_size=32, steps=10)
        assert not Engine(double, "sgd", 1, compiled=True).compiled
    finally:
        torch.set_default_dtype(before)


def test_the_environment_variable_decides(monkeypatch):
    task = PROBLEMS["tanh"]
    for value, expected in (("0", False), ("1", True), ("", True)):
        monkeypatch.setenv("LRCONTROL_COMPILED", value)
        assert Engine(task, "sgd", 1).compiled is expected
    monkeypatch.setenv("LRCONTROL_COMPILED", "no")
    with pytest.raises(InputError, match="LRCONTROL_COMPILED=no: 1 compiles"):
        Engine(task, "sgd", 1)


def test_without_numba_torch_takes_the_steps_unless_compiled_ones_are_asked_for(monkeypatch):
    monkeypatch.setattr(compiled, "_failure", lambda: "it is not installed")
    assert not Engine(PROBLEMS["tanh"], "sgd", 1).compiled
    monkeypatch.setenv("LRCONTROL_COMPILED", "1")
    with pytest.raises(InputError, match=r"it is not installed.*pip install 'lrcontrol\[fast\]', or set LRCONTROL_COM"):
        Engine(PROBLEMS["tanh"], "sgd", 1)
    with compiled.telling(False):
        assert not Engine(PROBLEMS["tanh"], "sgd", 1).compiled


def test_a_numba_that_does_not_fit_is_said_and_left(monkeypatch):
    def fail(name):
        raise ImportError("Numba needs NumPy 2.4 or less")

    monkeypatch.delenv("LRCONTROL_COMPILED", raising=False)
    monkeypatch.setattr(importlib, "import_module", fail)
    compiled._failure.cache_clear()
    try:
        with pytest.warns(UserWarning, match="not compiled: Numba needs NumPy"):
            assert not compiled.is_wanted()
        compiled._failure.cache_clear()
        monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
        assert compiled._failure() == "NUMBA_DISABLE_JIT is set"
    finally:
        compiled._failure.cache_clear()


FORKED = """
import os, numpy as np, torch
from lrcontrol.envs import Engine, compiled, make_task
from lrcontrol.envs.seeding import run_seeds
torch.set_num_threads(2)
compiled.WORTH = 1
engine = Engine(make_task("digits-mlp"), "sgd", 8, compiled=True)
engine.reset([run_seeds(row) for row in range(8)])
engine.step(np.full(8, 0.1), 0.0)
child = os.fork()
engine.step(np.full(8, 0.1), 0.0)
os.write(1, f"{engine.losses.tolist()}{os.linesep}".encode())  # at once, lest the two lines mix
if child:
    raise SystemExit(os.waitpid(child, 0)[1])
os._exit(0)
"""


def test_a_cache_that_cannot_be_used_is_named(monkeypatch):
    class Broken:
        stats = kernels.train_narrow.stats

        def __call__(self, *arguments):
            raise OSError("No space left on device")

    monkeypatch.setattr(kernels, "train_narrow", Broken())
    with pytest.raises(InputError, match=r"cannot use its cache in .*: No space left on device.*NUMBA_CACHE_DIR"):
        next(engines(PROBLEMS["tanh"], "sgd", ways=(True,)))


ENDING = """
import threading, time, numpy as np, torch
from lrcontrol.envs import Engine, compiled, make_task
from lrcontrol.envs.seeding import run_seeds
torch.set_num_threads(2)
compiled.WORTH = 1
engine = Engine(make_task("digits-mlp"), "sgd", 8, compiled=True)
engine.reset([run_seeds(row) for row in range(8)])
def work():
    for _ in range(20):
        time.sleep(0.02)
        engine.step(np.full(8, 0.1), 0.0)
    print("done")
threading.Thread(target=work).start()
"""


def test_a_training_in_a_thread_goes_on_while_python_ends():
    done = subprocess.run([sys.executable, "-c", ENDING], capture_output=True, text=True, timeout=120)
    assert done.stdout == "done\n", done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_process_has_threads_of_its_own():
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first == second
