"""Steps that are recorded and replayed, and the engine on a GPU against the engine on the CPU."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import ALL_TASKS
from reference import OPTIMIZERS
from torch import nn

from lrcontrol.envs import Engine, make_task
from lrcontrol.envs.engine import MEASURES
from lrcontrol.envs.seeding import run_seeds

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def engine_of(device, task, name, streams=None, measures=MEASURES):
    optimizer, beta, decay, smoothing = OPTIMIZERS[name]
    return Engine(
        *(task, optimizer, 4, streams),
        uses_momentum=beta > 0.0,
        weight_decay=decay,
        smoothing=smoothing,
        measures=measures,
        device=torch.device(device),
        compiled=False,
    )


def run_with(engine, name, moving_momentum=False, lost=(), steps=40, seed=0):
    """Return all losses (steps, 4) and measures (steps, M, 4) of a run whose rates move, ``lost`` rows thrown off."""
    optimizer, beta, _, _ = OPTIMIZERS[name]
    per_stream = 4 // engine.streams
    engine.reset([run_seeds(seed + row // per_stream) for row in range(4)])
    losses, measures = [engine.losses], [np.stack(list(engine.measures.values()))]
    for step in range(steps):
        lr = np.full(4, 0.02 if optimizer == "adamw" else 0.3) * (1.0 + 0.3 * np.sin(step))
        if step == steps // 2:
            lr[list(lost)] = np.inf
        momentum = np.full(4, beta * (1.0 + 0.05 * np.sin(step))) if moving_momentum else beta
        engine.step(lr, momentum, measure=step % 3 < 2)
        losses.append(engine.losses)
        if engine.measures:
            measures.append(np.stack(list(engine.measures.values())))
    return np.stack(losses), np.stack(measures)


class Recording:
    """Stands in for CUDA graphs on the CPU: what was done the second time under a key is what is done from then on."""

    def __init__(self, optimizer):
        self.optimizer, self.seen, self.kept, self.replayed = optimizer, set(), {}, 0

    def run(self, key, work):
        if key not in self.seen:
            self.seen.add(key)
            return work()
        clock = getattr(self.optimizer, "_clock_step", None)
        if key not in self.kept:
            self.kept[key] = work, clock
        work, recorded = self.kept[key]
        self.replayed += 1
        if clock is not None:  # Python's number at the time, and the tensor's now
            self.optimizer._clock_step = recorded
        table = work()
        if clock is not None:
            self.optimizer._clock_step = clock
        return table


@pytest.mark.parametrize("lost", [(), (1, 2)], ids=["all alive", "two lost"])
@pytest.mark.parametrize("streams", [4, 1, 2])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_are_told_apart_as_far_as_a_recording_needs_it(name, streams, lost):
    task = make_task("digits-mlp")
    plain, recorded = (engine_of("cpu", task, name, streams) for _ in range(2))
    recorded._graphs = Recording(getattr(recorded.optimizer, "inner", recorded.optimizer))
    for seed in (0, 7):  # a second run with what the first has recorded
        expected, found = (run_with(engine, name, lost=lost, seed=seed) for engine in (plain, recorded))
        np.testing.assert_array_equal(found[0], expected[0])
        np.testing.assert_array_equal(found[1], expected[1])
        np.testing.assert_array_equal(recorded.params.numpy(), plain.params.numpy())
    assert recorded._graphs.replayed > 40
    assert np.isnan(found[0][-1]).sum() == len(lost)


@needs_cuda
@pytest.mark.parametrize("moving_momentum", [False, True])
@pytest.mark.parametrize("streams", [4, 1, 2])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_cuda_agrees_with_the_cpu(name, streams, moving_momentum):
    engines = [engine_of(device, make_task("digits-mlp"), name, streams) for device in ("cpu", "cuda")]
    for seed in (0, 7):
        cpu, cuda = (run_with(engine, name, moving_momentum, seed=seed) for engine in engines)
        np.testing.assert_allclose(cuda[0], cpu[0], rtol=2e-3)
        np.testing.assert_allclose(cuda[1], cpu[1], rtol=2e-2, atol=1e-5)
    assert engines[1]._graphs.is_possible
    assert any(engines[1]._graphs._recorded.values()) != moving_momentum


@needs_cuda
@pytest.mark.parametrize("task", [name for name in ALL_TASKS if name != "digits-mlp"])
def test_cuda_agrees_with_the_cpu_on_other_tasks(task, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    engines = [engine_of(device, make_task(task), "adamw") for device in ("cpu", "cuda")]
    cpu, cuda = (run_with(engine, "adamw", steps=6)[0] for engine in engines)
    np.testing.assert_allclose(cuda, cpu, rtol=1e-2)


@needs_cuda
@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_cuda_freezes_what_is_lost_and_nothing_else(name):
    task = make_task("digits-mlp")
    kept, some_lost = (run_with(engine_of("cuda", task, name), name, lost=lost)[0] for lost in ((), (1, 2)))
    assert np.isnan(some_lost[-1, 1:3]).all()
    np.testing.assert_array_equal(some_lost[:, [0, 3]], kept[:, [0, 3]])


class Shifted(nn.Linear):
    """Makes a tensor of a number in its forward pass, which a CUDA graph cannot hold."""

    def forward(self, x):
        return super().forward(x) + torch.tensor([0.5], device=x.device)


@needs_cuda
def test_cuda_does_without_a_graph_what_cannot_be_one():
    task = replace(make_task("digits-mlp"), model=lambda: nn.Sequential(Shifted(64, 10)))
    cpu, cuda = (engine_of(device, task, "adamw") for device in ("cpu", "cuda"))
    expected = run_with(cpu, "adamw")[0]
    with pytest.warns(UserWarning, match="cannot be recorded as a CUDA graph"):
        found = run_with(cuda, "adamw")[0]
    assert not cuda._graphs.is_possible
    np.testing.assert_allclose(found, expected, rtol=2e-3)


@needs_cuda
def test_cuda_takes_as_many_replicas_at_once_as_memory_holds(monkeypatch):
    task = make_task("digits-mlp")
    whole = engine_of("cuda", task, "adamw")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (16 * 20_000, 0))  # two rows of digits
    parted = engine_of("cuda", task, "adamw")
    assert (len(whole._blocks), len(parted._blocks)) == (1, 2)
    np.testing.assert_allclose(run_with(parted, "adamw")[0], run_with(whole, "adamw")[0], rtol=1e-4)
