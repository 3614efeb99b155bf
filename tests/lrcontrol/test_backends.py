"""Studies on clusters: real Dask and Ray workers on this machine, one of them killed at work, and the same bytes."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cloudpickle
import pytest

import lrcontrol
from lrcontrol.backends import Pool
from lrcontrol.cell_store import JOURNAL
from lrcontrol.cells import run_packed
from lrcontrol.envs import InputError
from lrcontrol.evaluate_cli import main

STUDY = {"lr0": [0.01, 0.1], "runs": 2, "steps": 5, "block": 1}
AGENTS = ["constant", "hillclimb:factor=2", "bandit", "learned"]
# Ray takes half a minute to begin and end; that two of its workers give the same bytes is among the quick tests.
BY_MODULE = [("dask", "distributed"), pytest.param("ray", "ray", marks=pytest.mark.slow)]
FILES = ("runs.csv", "summary.csv", "traces.parquet", "manifest.json", "figures/lr.png")


class Slow:
    """An agent that takes its time and, once, its worker down: the first to find the flag removes it and dies."""

    needs = {"multipliers": (1.0,), "features": ("log_loss",)}  # noqa: RUF012

    def __init__(self, flag, name):
        self.flag, self.name = flag, name

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        time.sleep(0.05)
        with contextlib.suppress(FileNotFoundError):
            self.flag.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return (observation[:, 0] * 0).astype(int), state


def bytes_of(folder):
    return {name: (folder / name).read_bytes() for name in FILES} | {
        path.name: path.read_bytes() for path in (folder / "cells").iterdir()
    }


@pytest.fixture
def travelling():
    """Let what is defined in this file be sent as it is: workers do not find the file."""
    here = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(here)
    yield
    cloudpickle.unregister_pickle_by_value(here)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone") / "out"
    lrcontrol.evaluate("digits-mlp", AGENTS, out=folder, **STUDY)
    return bytes_of(folder)


@pytest.mark.parametrize("backend", ["local", "dask", "ray"])
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
def test_two_workers_of_any_backend_give_the_bytes_of_one_process(backend, alone, tmp_path):
    if backend != "local":
        pytest.importorskip({"dask": "distributed", "ray": "ray"}[backend])
    lrcontrol.evaluate("digits-mlp", AGENTS, out=tmp_path / "out", pool=Pool(backend, 2), **STUDY)
    assert bytes_of(tmp_path / "out") == alone


CLUSTERS = {
    "dask": """
import distributed
if __name__ == "__main__":
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        print("address", cluster.scheduler_address, flush=True)
        input()
""",
    "ray": """
import ray
ray.init(num_cpus=2, include_dashboard=False)
print("address", ray.get_runtime_context().gcs_address, flush=True)
input()
""",
}


@contextlib.contextmanager
def running(backend, folder):
    """Yield the address of a cluster of another process; it ends with that process's standard input."""
    script = folder / "cluster.py"
    script.write_text(CLUSTERS[backend])
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, str(script)], cwd=folder, **pipes) as process:
        try:
            yield next(line.split()[1] for line in process.stdout if line.startswith("address "))
        finally:
            process.stdin.close()


@pytest.mark.parametrize(("backend", "module"), BY_MODULE)
def test_a_cluster_that_runs_is_reached_by_its_address(backend, module, alone, tmp_path):
    pytest.importorskip(module)
    program = "import test_backends as t; from lrcontrol.backends import Pool; import lrcontrol, sys\n"
    program += "pool = Pool(sys.argv[1], address=sys.argv[2])\n"
    program += "lrcontrol.evaluate('digits-mlp', t.AGENTS, out=sys.argv[3], pool=pool, **t.STUDY)\n"
    with running(backend, tmp_path) as address:
        words = [sys.executable, "-c", program, backend, address, str(tmp_path / "out")]
        token = {"RAY_AUTH_MODE": "token"}  # newer versions of Ray ask for the one that the head has written
        subprocess.run(words, check=True, cwd=Path(__file__).parent, env=os.environ | token, timeout=300)
    assert bytes_of(tmp_path / "out") == alone


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL here")
@pytest.mark.parametrize(("backend", "module"), BY_MODULE)
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_worker_of_a_cluster_that_dies_at_work_is_made_good(backend, module, tmp_path, travelling):
    pytest.importorskip(module)
    flag = tmp_path / "flag"
    agents = [Slow(flag, "slow"), Slow(flag, "slower")]
    lrcontrol.evaluate("digits-mlp", agents, out=tmp_path / "whole", **STUDY)
    flag.touch()
    lrcontrol.evaluate("digits-mlp", agents, out=tmp_path / "killed", pool=Pool(backend, 2), **STUDY)
    assert not flag.exists()  # a worker has found it
    assert bytes_of(tmp_path / "killed") == bytes_of(tmp_path / "whole")


def test_a_task_from_a_file_travels_to_workers_that_have_no_such_file(tmp_path, capsys):
    file = tmp_path / "parabola.py"
    file.write_text(
        "import lrcontrol, torch\n"
        "from lrcontrol.envs import mlp\n"
        "x = torch.linspace(-1, 1, 32)[:, None]\n"
        "def model():\n    return mlp(1, 8, 1)\n"
        "def loss(outputs, targets):\n    return (outputs - targets).square().mean()\n"
        "task = lrcontrol.Task(model=model, train=(x, x**2), batch_size=8, steps=5, loss=loss, name='parabola')\n"
    )
    words = [
        "--task",
        f"{file}:task",
        "--agents",
        "constant",
        "hillclimb",
        "--lr0",
        "0.1",
        "--runs",
        "2",
        "--block",
        "1",
    ]
    for workers in ("1", "2"):
        assert main([*words, "--workers", workers, "--out", str(tmp_path / workers)]) == 0
    assert bytes_of(tmp_path / "1") == bytes_of(tmp_path / "2")


def test_what_cannot_be_unpacked_is_a_failure_not_a_crash():
    finished = run_packed(b"no pickle")
    assert finished.content is None
    assert finished.error.startswith("UnpicklingError")


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL here")
def test_a_local_worker_that_dies_is_one_line_and_what_was_done_is_kept(tmp_path):
    flag = tmp_path / "flag"
    flag.touch()
    agents = ["constant", Slow(flag, "slow")]
    with pytest.raises(InputError, match="a worker died"):
        lrcontrol.evaluate("digits-mlp", agents, out=tmp_path / "out", pool=Pool("local", 2), **STUDY)
    assert (tmp_path / "out" / JOURNAL).exists()
    lrcontrol.evaluate("digits-mlp", agents, out=tmp_path / "out", pool=Pool("local", 2), **STUDY)
    lrcontrol.evaluate("digits-mlp", agents, out=tmp_path / "whole", **STUDY)
    assert bytes_of(tmp_path / "out") == bytes_of(tmp_path / "whole")


def test_a_scheduler_that_does_not_answer_is_one_line(monkeypatch):
    module = pytest.importorskip("distributed")

    def refuse(*arguments, **others):
        raise OSError("timed out")

    monkeypatch.setattr(module, "Client", refuse)
    with pytest.raises(InputError, match="no Dask scheduler answers at tcp://nowhere:1"):
        lrcontrol.evaluate(agents=["constant"], steps=1, runs=1, pool=Pool("dask", address="tcp://nowhere:1"))


def test_an_extra_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"pip install 'lrcontrol\[distributed\]'"):
        Pool("ray")
