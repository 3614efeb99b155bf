"""Studies in cells: kept as they are done, resumed byte for byte, damage found, failures told, any backend alike."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO

import lrcontrol
from lrcontrol.agents import make_agent
from lrcontrol.backends import Pool
from lrcontrol.cell_store import CellStore, read_journal, write_whole
from lrcontrol.cells import Cell, Job, Outcome, run_job, run_packed
from lrcontrol.digests import digest_of_agent, digest_of_task
from lrcontrol.envs import InputError, TrainingVectorEnv, mlp
from lrcontrol.envs.sb3 import SB3VecEnv
from lrcontrol.evaluate_cli import main
from lrcontrol.replay import Replay
from lrcontrol.results import TRACE_COLUMNS

STUDY = {"lr0": [0.01, 0.1], "runs": 3, "steps": 5, "block": 2, "optimizer": ("sgd", "adamw")}
AGENTS = ["constant", "hillclimb:factor=2", "learned"]


class Failing:
    """An agent that fails where a run's first loss is one of those it does not like."""

    name = "failing"
    needs = {"multipliers": (1.0,), "features": ("log_loss",)}  # noqa: RUF012

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        if len(observation) == 2:  # the second block holds one run from two rates
            raise RuntimeError("no more")
        return np.zeros(len(observation), dtype=np.int64), state


def content(folder):
    """Return the bytes of a folder's files by name, but for the journal, which tells when things were done."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "journal.jsonl")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study") / "out"
    lrcontrol.evaluate("digits-mlp", AGENTS, out=folder, **STUDY)
    return folder


def test_a_block_of_runs_is_what_it_is_alone():
    """Cells of two runs and of one give the losses that one cell of three gives, to rounding."""
    whole, parts = (lrcontrol.evaluate(agents=AGENTS, **STUDY | {"block": block}) for block in (3, 2))
    assert whole.pairs == parts.pairs == [("digits-mlp", "sgd"), ("digits-mlp", "adamw")]
    for name in ("task", "optimizer", "agent", "lr0", "run", "seed"):
        assert whole.runs[name].to_pylist() == parts.runs[name].to_pylist()
    for name in ("train_loss", "test_accuracy", "forward_passes"):
        np.testing.assert_allclose(whole.runs[name], parts.runs[name], rtol=1e-3)
    for name in ("run", "step"):
        assert whole.traces[name].to_pylist() == parts.traces[name].to_pylist()
    np.testing.assert_allclose(whole.traces["lr"], parts.traces["lr"], rtol=1e-6)
    part = parts.of("digits-mlp", "adamw")
    assert set(part.runs["optimizer"].to_pylist()) == set(part.traces["optimizer"].to_pylist()) == {"adamw"}
    assert part.by_start("constant").shape == (2, 3)


def test_cells_travel_as_bytes_and_a_changed_byte_is_found():
    job = Job(Cell("digits-mlp", "sgd", "constant", (0.1,), 0, 1), "digits-mlp", *_rest())
    finished = run_packed(job.pack())
    assert finished.error is None
    outcome = Outcome.from_bytes(finished.content)
    assert outcome.final["train_loss"].shape == (1,)
    assert outcome.traces["loss"].shape == (1, 3)
    assert outcome.to_bytes() == finished.content == run_job(job).content
    for at in (0, 70, len(finished.content) // 2, len(finished.content) - 1):
        damaged = bytearray(finished.content)
        damaged[at] ^= 1
        assert Outcome.from_bytes(bytes(damaged)) is None
    assert Outcome.from_bytes(b"") is None


def _rest():
    return lrcontrol.agents.make_agent("constant"), {"steps": 3}, 0, "cpu"


def test_what_is_missing_or_damaged_is_run_again_and_nothing_else(uninterrupted, tmp_path):
    wanted = content(uninterrupted)
    cells = sorted(name for name in wanted if name.startswith("cells"))
    assert len(cells) == 2 * 3 * 2
    done = []
    for name, change in ((cells[3], lambda b: b[:-1]), (cells[5], lambda b: b[:40] + b"?" + b[41:]), (cells[7], None)):
        path = uninterrupted / name
        path.write_bytes(change(path.read_bytes())) if change else path.unlink()
    (uninterrupted / "runs.csv").write_text("nonsense")
    (uninterrupted / "figures").joinpath("digits-mlp-sgd", "lr.png").unlink()
    progress = lambda finished, cells: done.append((finished, cells))  # noqa: E731
    lrcontrol.evaluate("digits-mlp", AGENTS, out=uninterrupted, cell_progress=progress, **STUDY)
    assert done == [(9, 12), (10, 12), (11, 12), (12, 12)]
    assert content(uninterrupted) == wanted


@pytest.mark.parametrize("workers", [2])
def test_local_workers_give_the_same_bytes(workers, uninterrupted, tmp_path):
    lrcontrol.evaluate("digits-mlp", AGENTS, out=tmp_path / "out", pool=Pool("local", workers), **STUDY)
    assert content(tmp_path / "out") == content(uninterrupted)


def test_without_traces_the_numbers_are_the_same_and_the_cells_small(uninterrupted, tmp_path):
    results = lrcontrol.evaluate("digits-mlp", AGENTS, out=tmp_path / "out", traces=False, **STUDY)
    assert (tmp_path / "out" / "runs.csv").read_bytes() == (uninterrupted / "runs.csv").read_bytes()
    assert results.traces.num_rows == 0
    assert results.traces.column_names == list(TRACE_COLUMNS)
    figures = sorted(path.name for path in (tmp_path / "out" / "figures" / "digits-mlp-sgd").iterdir())
    assert figures == ["final_loss.png"]
    assert "--no-traces" in results.manifest["command"]


def test_a_cell_that_fails_is_told_and_does_not_stop_the_others(tmp_path, capsys):
    study = STUDY | {"optimizer": "sgd"}
    results = lrcontrol.evaluate(agents=["constant", Failing()], out=tmp_path / "out", **study)
    (failure,) = results.manifest["failures"]
    assert failure == {
        "task": "digits-mlp",
        "optimizer": "sgd",
        "agent": "failing",
        "runs": [2, 2],
        "error": "RuntimeError: no more",
    }
    assert results.manifest["complete"] is False
    assert {row["run"] for row in results.runs.to_pylist() if row["agent"] == "failing"} == {0, 1}
    assert np.isnan(results.by_start("failing")).tolist() == [[False, False, True]] * 2
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["failures"] == [failure]
    with pytest.raises(InputError, match="'failing' lacks runs"):
        lrcontrol.compare(results, "failing")
    with pytest.raises(RuntimeError, match="every cell failed"):
        lrcontrol.evaluate(agents=[Failing()], **study | {"runs": 1})


def test_a_failure_is_in_the_exit_code(tmp_path, capsys, monkeypatch):
    def fail(*arguments, **others):
        raise MemoryError("too little")

    monkeypatch.setattr("lrcontrol.peer_runs.OptimizerPeer.run", fail)
    quick = ["--agents", "constant", "dog", "--steps", "2", "--runs", "1", "--lr0", "0.1", "--out", str(tmp_path / "o")]
    assert main(quick) == 1
    captured = capsys.readouterr()
    assert captured.err == "failed: digits-mlp, sgd, dog, runs 0 to 0: MemoryError: too little\n"
    assert "constant" in captured.out
    assert main([*quick[:1], *quick[2:-1], str(tmp_path / "none")]) == 1  # dog alone: there is no table
    assert capsys.readouterr() == ("", "failed: digits-mlp, sgd, dog, runs 0 to 0: MemoryError: too little\n")
    monkeypatch.undo()
    assert main(quick) == 0  # what failed is tried again
    assert "dog" in capsys.readouterr().out


def test_a_full_disk_loses_nothing(tmp_path):
    """A file size limit stands for the full disk: writing beyond it fails in the same place."""
    resource = pytest.importorskip("resource")
    path = tmp_path / "file"
    write_whole(path, b"old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        with pytest.raises(InputError, match="what was done is kept"):
            write_whole(path, b"n" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert path.read_bytes() == b"old"
    study = {"lr0": [0.1], "runs": 1, "steps": 400}
    lrcontrol.evaluate(agents=["constant"], out=tmp_path / "out", **study)
    whole = content(tmp_path / "out")
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, before[1]))  # cell, traces and figures are larger
        with pytest.raises(InputError, match="cannot write"):
            lrcontrol.evaluate(agents=["constant"], out=tmp_path / "out", **study)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert content(tmp_path / "out") == whole
    shutil.rmtree(tmp_path / "out")
    assert [found.name for found in tmp_path.iterdir()] == ["file"]


def test_another_study_is_refused_with_the_difference(tmp_path):
    CellStore(tmp_path / "out", {"config": {"runs": 3, "lr0": [1.0]}, "python": "3"}).close()
    CellStore(tmp_path / "out", {"config": {"runs": 3, "lr0": [1.0]}, "python": "3"}).close()
    with pytest.raises(InputError, match=r"config.lr0 is \[1.0\] there and \[2.0\] here; python is 3 there and 4 here"):
        CellStore(tmp_path / "out", {"config": {"runs": 3, "lr0": [2.0]}, "python": "4"})


def test_what_repeats_the_configuration_is_no_difference_of_its_own(tmp_path):
    began = {"command": ["python", "--task", "here/mine.py:task"], "seeds": [0, 1], "config": {"runs": 2}}
    CellStore(tmp_path / "out", began).close()
    store = CellStore(tmp_path / "out", began | {"command": ["python", "--task", "mine.py:task"]})
    assert store.manifest["command"] == began["command"]  # the bytes stay those of the first
    store.close()
    with pytest.raises(InputError, match=r"another study \(config.runs is 2 there and 3 here\): choose"):
        CellStore(tmp_path / "out", {"command": ["python"], "seeds": [0, 1, 2], "config": {"runs": 3}})


def test_a_folder_is_one_commands_at_a_time(tmp_path):
    """The other command is a process: it takes the folder, is killed, and the folder is free."""
    code = (
        "import sys, time; from pathlib import Path; from lrcontrol.cell_store import CellStore\n"
        "store = CellStore(Path(sys.argv[1]), {}); print('mine', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "mine\n"
        for overwrite in (False, True):
            with pytest.raises(InputError, match="another command is at work in"):
                CellStore(tmp_path / "out", {}, overwrite)
        other.kill()
    CellStore(tmp_path / "out", {}, overwrite=True).close()
    assert CellStore(tmp_path / "out", {}).manifest == {"commit": None, "command": None}


def parabola(scale):
    x = torch.linspace(-1, 1, 32)[:, None]
    model = lambda: mlp(1, 4, 1)  # noqa: E731
    return lrcontrol.Task(
        name="parabola", model=model, train=(scale * x, x**2), batch_size=8, steps=3, loss=torch.nn.functional.mse_loss
    )


def test_a_task_of_the_same_name_with_other_data_is_another_study(tmp_path):
    arguments = {"lr0": [0.1], "runs": 1, "out": tmp_path / "out"}
    lrcontrol.evaluate(parabola(1.0), ["constant"], **arguments)
    lrcontrol.evaluate(parabola(1.0), ["constant"], **arguments)
    with pytest.raises(InputError, match=r"another study \(config.contents.parabola is"):
        lrcontrol.evaluate(parabola(2.0), ["constant"], **arguments)
    for other in (
        replace(parabola(1.0), loss=lambda outputs, targets: (outputs - targets).abs().mean()),
        replace(parabola(1.0), model=lambda: mlp(1, 4, 1, activation="relu")),
        replace(parabola(1.0), lr0_range={"sgd": (0.1, 1.0)}),  # which the default grid is made of
    ):
        assert digest_of_task(other) != digest_of_task(parabola(1.0))


def test_a_trained_agent_is_known_by_its_weights_and_needs_in_whatever_order_they_are_read():
    agent = make_agent("learned")
    backwards = replace(agent.network, tensors=dict(reversed(agent.network.tensors.items())))
    wanted = digest_of_agent(agent)
    assert digest_of_agent(replace(agent, network=backwards)) == wanted
    assert digest_of_agent(Replay(agent)) == wanted
    halved = replace(agent.network, tensors={name: tensor / 2 for name, tensor in agent.network.tensors.items()})
    others = [replace(agent, network=halved), replace(agent, needs={**agent.needs, "max_factor": 3.0})]
    assert len({wanted, *map(digest_of_agent, others), digest_of_agent(Replay(others[0]))}) == 3
    assert digest_of_agent(make_agent("hillclimb")) is None


@dataclass
class Halving:
    """Multiplies the rate by ``by`` at every step, which its name does not say."""

    by: float
    name: str = "halving"

    @property
    def needs(self):
        return {"multipliers": (self.by,)}

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        return np.zeros(len(observation), dtype=np.int64), state


def test_an_object_of_the_same_name_that_holds_something_else_is_another_study(tmp_path):
    arguments = {"lr0": [0.1], "runs": 1, "steps": 2, "out": tmp_path / "out"}
    first = lrcontrol.evaluate("digits-mlp", [Halving(0.5)], **arguments)
    again = lrcontrol.evaluate("digits-mlp", [Halving(0.5)], **arguments)
    assert again.runs == first.runs
    with pytest.raises(InputError, match=r"another study \(config.contents.halving is"):
        lrcontrol.evaluate("digits-mlp", [Halving(0.25)], **arguments)


def test_a_model_in_memory_is_known_by_its_weights():
    env = SB3VecEnv(TrainingVectorEnv(2, task="digits-mlp", steps=4))
    models = [PPO("MlpPolicy", env, seed=seed, n_steps=4, batch_size=8) for seed in (0, 1, 0)]
    first, other, same = (digest_of_agent(make_agent(model)) for model in models)
    assert first == same
    assert first != other


def test_workers_keep_numbers_in_torchs_default_type():
    """A job that was made in double precision gives the same bytes where single precision is the default."""
    task = replace(parabola(1.0), train=tuple(part.double() for part in parabola(1.0).train))
    torch.set_default_dtype(torch.float64)
    try:
        job = Job(Cell("parabola", "sgd", "constant", (0.1,), 0, 1), task, make_agent("constant"), {}, 0, "cpu").pack()
        here = run_packed(job).content
    finally:
        torch.set_default_dtype(torch.float32)
    assert run_packed(job).content == here
    assert torch.get_default_dtype() == torch.float32
    loss = Outcome.from_bytes(here).final["train_loss"]
    assert loss != loss.astype(np.float32)


def test_a_worker_compiles_training_steps_or_not_as_whoever_sent_the_job(monkeypatch):
    pytest.importorskip("numba", reason="numba is not installed")
    cell, rest, found = Cell("digits-mlp", "sgd", "constant", (0.1,), 0, 1), _rest(), {}
    for there in "01":
        monkeypatch.setenv("LRCONTROL_COMPILED", there)
        job = Job(cell, "digits-mlp", *rest).pack()
        for here in "01":
            monkeypatch.setenv("LRCONTROL_COMPILED", here)
            found[there, here] = run_packed(job).content
    assert found["0", "0"] == found["0", "1"]
    assert found["1", "0"] == found["1", "1"]
    assert found["0", "0"] != found["1", "1"]  # to the last bit


def test_a_folder_that_only_looks_like_a_study_is_never_replaced(tmp_path):
    (tmp_path / "manifest.json").write_text('{"name": "web app"}')
    (tmp_path / "thesis.txt").write_text("years")
    for overwrite in (False, True):
        with pytest.raises(InputError, match="is not of an evaluation: choose another --out"):
            CellStore(tmp_path, {"config": {}}, overwrite)
        (tmp_path / "manifest.json").write_text("[")
        with pytest.raises(InputError, match=r"is damaged .*choose another --out$"):
            CellStore(tmp_path, {"config": {}}, overwrite)
        (tmp_path / "manifest.json").write_text('{"name": "web app"}')
    assert (tmp_path / "thesis.txt").read_text() == "years"


def test_a_journal_is_read_past_a_line_that_was_cut_short(tmp_path):
    store = CellStore(tmp_path, {})
    store.note("begin")
    with (tmp_path / "journal.jsonl").open("a") as file:
        file.write('\n{"time": "20')
    store.note("end", cells=3)
    assert [event["event"] for event in read_journal(tmp_path)] == ["begin", "end"]
    assert list(read_journal(tmp_path))[1]["cells"] == 3


def test_cells_of_another_study_are_not_taken_for_ones_own(tmp_path):
    """As a folder would be left if it lost its manifest: a cell says itself what it is of."""
    cell = Cell("t", "sgd", "a", (1.0,), 0, 1)
    outcome = Outcome({"train_loss": np.ones(1)}, {})
    store = CellStore(tmp_path / "out", {"config": {"steps": 5}})
    store.write(cell, outcome.to_bytes())
    assert store.read(cell).final["train_loss"] == 1.0
    store.close()
    (tmp_path / "out" / "manifest.json").unlink()
    assert CellStore(tmp_path / "out", {"config": {"steps": 50}}).read(cell) is None


def test_another_commit_of_the_same_code_goes_on_and_other_code_does_not(tmp_path):
    CellStore(tmp_path / "out", {"commit": "a", "code": "1"}).close()
    store = CellStore(tmp_path / "out", {"commit": "b", "code": "1"})
    assert store.write_manifest(complete=True)["commit"] == "a"
    store.close()
    with pytest.raises(InputError, match="code is 1 there and 2 here"):
        CellStore(tmp_path / "out", {"commit": "a", "code": "2"})


def test_a_cell_that_is_lost_before_the_end_is_a_failure(tmp_path, monkeypatch):
    read = CellStore.read
    lost = lambda store, cell: None if cell.first else read(store, cell)  # noqa: E731
    monkeypatch.setattr(CellStore, "read", lost)
    results = lrcontrol.evaluate(agents=["constant"], out=tmp_path / "out", **STUDY | {"optimizer": "sgd"})
    assert [failure["error"] for failure in results.manifest["failures"]] == ["its file cannot be read"]
    assert results.manifest["complete"] is False


def test_names_of_files_are_apart_where_names_of_agents_are(tmp_path):
    store = CellStore(tmp_path / "out", {})
    cells = [Cell("t", "sgd", agent, (1.0,), 0, 1) for agent in ("a:b", "a_b", "a/b", "x" * 300, "x" * 301)]
    names = {store.path(cell).name for cell in cells}
    assert len(names) == 5
    assert max(map(len, names)) < 150


BAD = [
    ({"backend": "slurm"}, "unknown backend 'slurm'"),
    ({"workers": 0}, "workers 0 is not positive"),
    ({"address": "tcp://host:1"}, "add --backend dask"),
]


@pytest.mark.parametrize(("arguments", "complaint"), BAD)
def test_bad_pools_are_refused(arguments, complaint):
    with pytest.raises(InputError, match=complaint):
        Pool(**arguments)


def command(folder):
    words = [sys.executable, "-m", "lrcontrol.evaluate", "--agents", *AGENTS, "--optimizer", "sgd", "adamw"]
    words += ["--lr0", "0.01", "0.1", "--runs", "3", "--steps", "5", "--block", "2", "--workers", "1"]
    return [*words, "--out", str(folder)]


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="there are no process groups here")
def test_a_study_that_is_killed_ends_with_the_same_bytes(tmp_path):
    """Killed once as soon as two cells are kept, then resumed; experiments/kills does this a hundred times."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run(command(whole), check=True, stdout=subprocess.DEVNULL)
    process = subprocess.Popen(command(killed), start_new_session=True, stdout=subprocess.DEVNULL)
    while process.poll() is None and len(list(killed.glob("cells/*.cell"))) < 2:
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert 2 <= len(list(killed.glob("cells/*.cell"))) < 12
    assert not (killed / "runs.csv").exists()
    subprocess.run(command(killed), check=True, stdout=subprocess.DEVNULL)
    assert content(killed) == content(whole)
