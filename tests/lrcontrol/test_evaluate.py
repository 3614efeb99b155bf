"""``python -m lrcontrol.evaluate`` and ``lrcontrol.evaluate``: what they compute, write, refuse and survive."""

import csv
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from conftest import needs_mnist
from reference import train

import lrcontrol
from lrcontrol.agents import AGENTS
from lrcontrol.envs import InputError, make_task
from lrcontrol.envs.seeding import run_seeds
from lrcontrol.evaluate_cli import main
from lrcontrol.evaluation import DEFAULT_AGENTS, Interrupted
from lrcontrol.peers import PEERS
from lrcontrol.rollouts import settled
from lrcontrol.study import lr0_grid

SUMMARY = [
    *("task", "optimizer", "agent", "lr0", "runs", "diverged"),
    *("train_loss_mean", "train_loss_std", "train_accuracy_mean", "train_accuracy_std"),
    *("test_loss_mean", "test_loss_std", "test_accuracy_mean", "test_accuracy_std"),
    *("forward_passes", "backward_passes"),
]
TRACES = ["task", "optimizer", "agent", "lr0", "run", "step", "loss", "lr", "momentum"]
QUICK = ["--steps", "6", "--runs", "2", "--lr0", "0.01", "0.1", "1"]


def run_main(*arguments):
    return main(arguments=[str(argument) for argument in arguments])


def rows_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_result_is_a_folder_with_everything_in_it(tmp_path, capsys):
    out = tmp_path / "new" / "result"
    assert run_main(*QUICK, "--agents", "constant", "hillclimb:factor=2,every=2", "--seed", "3", "--out", out) == 0
    printed = capsys.readouterr().out
    for text in ("constant", "hillclimb:factor=2,every=2", "accuracy %", "worst", "extra", str(out)):
        assert text in printed
    summary, runs = rows_of(out / "summary.csv"), rows_of(out / "runs.csv")
    assert list(summary[0]) == SUMMARY
    assert len(summary) == 2 * 3
    assert len(runs) == 2 * 3 * 2
    assert [row["seed"] for row in runs[:2]] == ["3", "4"]
    assert (summary[0]["forward_passes"], summary[0]["backward_passes"]) == ("6", "6")
    assert (summary[3]["forward_passes"], summary[3]["backward_passes"]) == ("12", "6")  # three decisions, two each
    traces = pq.read_table(out / "traces.parquet")
    assert traces.column_names == TRACES
    assert traces.num_rows == 2 * 3 * 2 * 6
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["complete"] is True
    assert manifest["config"]["agents"] == ["constant", "hillclimb:factor=2,every=2"]
    assert manifest["seeds"] == [3, 4]
    assert {"command", "commit", "versions", "machine", "lrcontrol"} <= set(manifest)
    assert manifest["command"][:5] == ["python", "-m", "lrcontrol.evaluate", "--task", "digits-mlp"]
    assert sorted(path.name for path in (out / "figures").iterdir()) == ["final_loss.png", "loss.png", "lr.png"]
    assert [path.name for path in out.parent.iterdir()] == ["result"]


def test_numbers_are_those_of_a_plain_training_run(tmp_path):
    """Final loss and accuracy on both sets, and the trace, from one nn.Module and torch.optim."""
    results = lrcontrol.evaluate("digits-mlp", ["constant"], lr0=[0.5, 0.05], runs=2, steps=30, seed=4)
    task = make_task("digits-mlp")
    by_run = {(row["lr0"], row["run"]): row for row in results.runs.to_pylist()}
    traces = results.traces.to_pylist()
    assert len(by_run) == 4
    for (lr0, run), row in by_run.items():
        steps = list(train(task, run_seeds(4 + run), "sgd", lambda t, lr=lr0: lr, lambda t: 0.0, 30))
        module = task.model()
        torch.nn.utils.vector_to_parameters(steps[-1].params, module.parameters())
        for split, (x, y) in (("train", task.train), ("test", task.test)):
            outputs = module(x).detach()
            assert row[f"{split}_loss"] == pytest.approx(task.loss(outputs, y).item(), rel=1e-4)
            assert row[f"{split}_accuracy"] == pytest.approx((outputs.argmax(1) == y).double().mean().item(), abs=3e-3)
        mine = [r["loss"] for r in traces if (r["lr0"], r["run"]) == (lr0, run)]
        np.testing.assert_allclose(mine, [step.loss for step in steps[:30]], rtol=1e-4)
    summary = results.summary.to_pylist()[0]
    losses = [by_run[0.5, run]["train_loss"] for run in range(2)]
    assert summary["train_loss_mean"] == pytest.approx(sum(losses) / 2)
    assert summary["train_loss_std"] == pytest.approx(abs(losses[0] - losses[1]) / 2**0.5)


def test_runs_are_paired_over_agents_and_rates():
    results = lrcontrol.evaluate(agents=["constant", "hillclimb:factor=2"], lr0=[1e-3, 1e-2], runs=3, steps=3)
    first = [row for row in results.traces.to_pylist() if row["step"] == 0]
    by_run = {run: {row["loss"] for row in first if row["run"] == run} for run in range(3)}
    for losses in by_run.values():  # one product over all rates rounds as each alone to seven digits
        assert max(losses) == pytest.approx(min(losses), rel=1e-6)
    assert len({round(min(losses), 4) for losses in by_run.values()}) == 3


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_one_command_and_seed_give_the_same_bytes(tmp_path, optimizer, capsys):
    for name in ("a", "b"):
        command = [*QUICK, "--optimizer", optimizer, "--agents", "constant", "hillclimb", "--out", tmp_path / name]
        assert run_main(*command) == 0
    for file in ("summary.csv", "runs.csv"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert run_main(*command[:-1], tmp_path / "c", "--seed", "1") == 0
    assert (tmp_path / "a" / "runs.csv").read_bytes() != (tmp_path / "c" / "runs.csv").read_bytes()


def test_a_run_that_diverges_is_counted_and_reported_with_the_worst_loss():
    results = lrcontrol.evaluate("quadratic", ["constant"], lr0=[0.5, 3.0, 1e5], runs=2)
    good, growing, lost = results.summary.to_pylist()
    assert [row["diverged"] for row in (good, growing, lost)] == [0, 2, 2]
    assert good["train_loss_mean"] < 1e-3
    first = [row["loss"] for row in results.traces.to_pylist() if row["lr0"] == 1e5 and row["step"] == 0]
    assert lost["train_loss_mean"] == pytest.approx(10.0 * np.mean(first))
    assert np.isnan(good["train_accuracy_mean"])


def test_no_run_is_better_for_having_broken():
    """Runs that end at 1, at 500 and at NaN, and one that broke on the way: all started from 2."""
    losses, accuracies = np.array([1.0, 500.0, np.nan, 0.5]), np.full(4, 0.3)
    final = settled({"train": (losses, accuracies)}, np.array([False, False, False, True]), np.full(4, 2.0))
    assert final["train_loss"].tolist() == [1.0, 20.0, 20.0, 20.0]
    assert final["train_accuracy"].tolist() == [0.3, 0.3, 0.0, 0.0]
    assert final["diverged"].tolist() == [0, 1, 1, 1]


def test_what_cannot_be_stacked_is_said_before_the_work():
    x = torch.randn(32, 4, generator=torch.Generator().manual_seed(0))
    model = lambda: torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.GELU(), torch.nn.Linear(3, 1))  # noqa: E731
    task = lrcontrol.Task(model=model, train=(x, x[:, :1]), batch_size=8, steps=2, loss=torch.nn.MSELoss())
    same = replace(task, loss=lambda outputs, targets: (outputs - targets).square().mean())
    arguments = {"lr0": [0.01, 0.1], "runs": 2}
    ended = [lrcontrol.evaluate(one, ["constant"], **arguments).by_start("constant") for one in (task, same)]
    np.testing.assert_allclose(*ended, rtol=1e-6)
    with pytest.raises(InputError, match=r"not as a stack of replicas.* in torch's elementary functions"):
        lrcontrol.evaluate(replace(task, loss=torch.nn.HuberLoss()), ["constant"], **arguments)


def test_hyperparameter_settings_reach_every_agent():
    results = lrcontrol.evaluate(agents=["constant"], lr0=[0.1], runs=1, steps=2, momentum=0.7)
    assert results.traces["momentum"].to_pylist() == [0.7, 0.7]


def test_the_default_grid_spans_six_decades():
    results = lrcontrol.evaluate(agents=["constant"], runs=1, steps=1)
    rates = results.summary["lr0"].to_pylist()
    assert rates[-1] / rates[0] >= 1e6
    assert len(rates) >= 13
    assert lr0_grid(1e-4, 1.0, 5) == [1e-4, 1e-3, 1e-2, 0.1, 1.0]
    assert {name.split(":")[0] for name in DEFAULT_AGENTS} == {"constant", "schedule", "hillclimb", "learned"}


BAD = [
    (["--lr0", "-0.1"], "initial learning rate -0.1 is not within"),
    (["--lr0", "nan"], "initial learning rate nan"),
    (["--lr0", "0.1", "0.1"], "none twice"),
    (["--lr0-grid", "1", "0.1", "3"], "0 < low < high"),
    (["--lr0-grid", "0.1", "1", "1"], "at least 2"),
    (["--lr0-grid", "0.1", "1", "100000000000"], "10,000 at most"),
    (["--agents", "constant", "random-search:low=5000000,high=1e9"], "5e+06 is not within"),
    (["--agents", "constant", "pbt:low=1e-30"], "1e-30 is not within"),
    (["--lr0", "0.1", "--lr0-grid", "0.1", "1", "3"], "not both"),
    (["--task", "digit-mlp"], "did you mean 'digits-mlp'"),
    (["--task", "nowhere.py:mine"], "there is no file 'nowhere.py'"),
    (["--agents", "hilclimb"], "did you mean 'hillclimb'"),
    (["--agents", "prodgy"], "did you mean 'prodigy'"),
    (["--agents", "dogg:knob=true"], "did you mean 'dog'"),
    (["--agents", "random-serch"], "did you mean 'random-search'"),
    (["--agents", "constant", "constant"], "given 2 times"),
    (["--runs", "0"], "runs 0"),
    (["--steps", "0"], "steps 0"),
    (["--seed", "-1"], "seed -1"),
    (["--momentum", "1.5"], "momentum 1.5"),
]


@pytest.mark.parametrize(("arguments", "complaint"), BAD)
def test_bad_input_is_one_line_and_exit_code_two_and_leaves_nothing(arguments, complaint, tmp_path, capsys):
    assert run_main(*arguments, "--out", tmp_path / "out") == 2
    captured = capsys.readouterr()
    assert complaint in captured.err
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert list(tmp_path.iterdir()) == []


def test_help_names_every_agent_and_its_keys(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    assert run_main("--agents", "help", "--out", tmp_path / "out") == 0
    listed = capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(SystemExit, match="0"):
        run_main("--help")
    helped = capsys.readouterr().out
    for name in (*AGENTS, *PEERS):
        assert re.search(rf"^ *{name} ", listed, re.M)
        assert re.search(rf"\b{name}\b", helped)
    for text in (
        "factor=1.01; every=1; probe=task (or update, gradient)",
        "kind=cosine (or constant, warm-up,",
        "knob=false",
    ):
        assert text in listed
    assert "d0, 1e-6 by default" in listed
    assert "knob=true puts the initial rate in for the optimizer's own knob" in listed
    assert "ray start --head --ray-client-server-port 10001" in " ".join(re.sub("[│\n]", " ", helped).split())


def test_words_the_parser_does_not_know_are_exit_code_two_too(capsys):
    for arguments in (["--optimizer", "adam"], ["--runs", "many"], ["--rnus", "3"]):
        with pytest.raises(SystemExit) as stopped:
            run_main(*arguments)
        assert stopped.value.code == 2
        assert "Traceback" not in capsys.readouterr().err


def test_results_are_never_overwritten_unasked(tmp_path, capsys):
    command = [*QUICK, "--agents", "constant", "--out", tmp_path / "out"]
    assert run_main(*command) == 0
    before = (tmp_path / "out" / "runs.csv").read_bytes()
    assert run_main(*command, "--seed", "7") == 2
    assert "holds another study (config.seed is 0 there and 7 here): choose" in capsys.readouterr().err
    assert (tmp_path / "out" / "runs.csv").read_bytes() == before
    assert run_main(*command, "--seed", "7", "--overwrite") == 0
    assert (tmp_path / "out" / "runs.csv").read_bytes() != before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    assert run_main(*command[:-1], tmp_path / "mine", "--overwrite") == 2
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "years of work"
    assert run_main(*command[:-1], tmp_path / "mine" / "thesis.tex") == 2


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or not Path("/proc").is_dir(), reason="needs /proc, which none can write"
)
def test_an_unwritable_folder_is_found_before_the_work(capsys):
    assert run_main(*QUICK, "--out", "/proc/results/here") == 2
    assert "cannot write to /proc/results/here" in capsys.readouterr().err


@needs_mnist
def test_a_damaged_data_file_is_one_line_and_leaves_nothing(tmp_path, monkeypatch, capsys):
    source = Path(os.environ["LRCONTROL_DATA"], "mnist")
    folder = tmp_path / "data" / "mnist"
    folder.mkdir(parents=True)
    for file in source.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    labels = folder / "train-labels-idx1-ubyte.gz"
    labels.write_bytes(labels.read_bytes()[:-100])
    monkeypatch.setenv("LRCONTROL_DATA", str(tmp_path / "data"))
    lrcontrol.envs.data.load_images.cache_clear()
    assert run_main("--task", "mnist-mlp", "--out", tmp_path / "out") == 2
    captured = capsys.readouterr()
    assert "train-labels-idx1-ubyte.gz is damaged" in captured.err
    assert captured.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize(
    "arguments", [("--device", "cuda"), ("--seed", str(10**23)), ("--task", "quadratic:noise=inf")]
)
def test_an_error_found_late_leaves_no_folders(arguments, tmp_path, capsys):
    if arguments[0] == "--device" and lrcontrol.envs.engine.torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    assert run_main(*QUICK, *arguments, "--out", tmp_path / "a" / "b" / "out") == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_task_of_ones_own_from_a_file(tmp_path, capsys):
    file = tmp_path / "problem.py"
    file.write_text(
        "import lrcontrol, torch\n"
        "from lrcontrol.envs import mlp\n"
        "x = torch.linspace(-1, 1, 32)[:, None]\n"
        "task = lrcontrol.Task(model=lambda: mlp(1, 8, 1), train=(x, x**2), batch_size=8, steps=5,\n"
        "                      loss=torch.nn.functional.mse_loss, name='parabola')\n"
        "broken = lambda: lrcontrol.Task(model=task.model, train=(x / 0, x), batch_size=8, steps=5)\n"
        "number = 3\n"
        "y = (x[:, 0] > 0).long()\n"
        "wide = lambda: lrcontrol.Task(model=lambda: mlp(5, 2), train=(x, y), batch_size=8, steps=5)\n"
        "classes = lambda: lrcontrol.Task(model=lambda: mlp(1, 2), train=(x, y + 1), batch_size=8, steps=5)\n"
        "module = lambda: lrcontrol.Task(model=lambda: 3, train=(x, y), batch_size=8, steps=5)\n"
        "vector = lambda: lrcontrol.Task(model=task.model, train=(x, x), batch_size=8, steps=5, loss=torch.sub)\n"
        "needy = lambda size: None\n"
        "failing = lambda: {}['key']\n"
    )
    (tmp_path / "raises.py").write_text("raise RuntimeError('no licence')\n")
    assert run_main("--task", f"{file}:task", *QUICK, "--agents", "constant", "--out", tmp_path / "out") == 0
    assert {row["task"] for row in rows_of(tmp_path / "out" / "summary.csv")} == {"parabola"}
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["config"]["tasks"] == ["parabola"]
    again = ["python", "-m", "lrcontrol.evaluate", "--task", f"{file}:task", "--agents", "constant"]
    assert manifest["command"][:7] == again
    assert main([*manifest["command"][3:], "--out", str(tmp_path / "again")]) == 0
    assert (tmp_path / "again" / "runs.csv").read_bytes() == (tmp_path / "out" / "runs.csv").read_bytes()
    assert "accuracy" not in capsys.readouterr().out
    for name, complaint in (
        ("broken", "hold NaN or infinite"),
        ("number", "is a int"),
        ("other", "defines no 'other'"),
        ("wide", "do not run on a minibatch of inputs (8, 1)"),
        ("classes", "class numbers from 1 to 2, but the model has 2 outputs"),
        ("module", "must return a torch.nn.Module, not a int"),
        ("vector", "must be one number"),
        ("needy", "failed with TypeError"),
        ("failing", "failed with KeyError: 'key'"),
    ):
        assert run_main("--task", f"{file}:{name}", *QUICK, "--out", tmp_path / "bad") == 2
        assert complaint in capsys.readouterr().err
        assert not (tmp_path / "bad").exists()
    assert run_main("--task", f"{tmp_path / 'raises.py'}:task", *QUICK, "--out", tmp_path / "bad") == 2
    assert "cannot be loaded: RuntimeError: no licence" in capsys.readouterr().err
    (tmp_path / "leaves.py").write_text("import sys\nsys.exit(3)\n")
    assert run_main("--task", f"{tmp_path / 'leaves.py'}:task", *QUICK, "--out", tmp_path / "bad") == 2
    assert "cannot be loaded: SystemExit: 3" in capsys.readouterr().err


def test_ctrl_c_keeps_what_was_finished(tmp_path, capsys):
    def interrupt(agent, step, steps):
        if agent == "hillclimb" and step == 3:
            raise KeyboardInterrupt

    arguments = {"lr0": [0.1], "runs": 1, "steps": 6}
    for out in (tmp_path / "out", None):
        with pytest.raises(Interrupted) as caught:
            lrcontrol.evaluate(agents=["constant", "hillclimb"], out=out, progress=interrupt, **arguments)
        assert (caught.value.results.agents == ["constant"]) if out is None else (caught.value.results is None)
        assert (caught.value.done, caught.value.cells) == (1, 2)
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["complete"] is False
    with pytest.raises(Interrupted) as caught:
        lrcontrol.evaluate(agents=["hillclimb"], progress=interrupt, **arguments)
    assert caught.value.results is None
    results = lrcontrol.evaluate(agents=["constant", "hillclimb"], out=tmp_path / "out", **arguments)
    assert results.agents == ["constant", "hillclimb"]
    assert results.manifest["complete"] is True


def test_the_module_runs_as_a_program_and_is_the_function_when_imported(tmp_path):
    command = [
        sys.executable,
        "-m",
        "lrcontrol.evaluate",
        *QUICK,
        "--agents",
        "constant",
        "--out",
        str(tmp_path / "out"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    bad = subprocess.run([*command, "--task", "nope"], capture_output=True, text=True, check=False)
    assert bad.returncode == 2
    assert bad.stderr.startswith("error: unknown task 'nope'")
    check = "import lrcontrol.evaluate, lrcontrol; assert lrcontrol.evaluate.__name__ == 'evaluate'"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


def test_help_teaches(capsys):
    with pytest.raises(SystemExit) as stopped:
        run_main("--help")
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    for word in (
        "--task",
        "--agents",
        "--lr0-grid",
        "--optimizer",
        "--device",
        "--out",
        "quadratic",
        "hillclimb",
        "Examples",
    ):
        assert word in text


@needs_mnist
def test_mnist_constants_are_those_of_a_plain_torch_loop():
    """Final training losses measured elsewhere with a plain loop, three runs, 600 steps: within 10 %."""
    published = {0.1: 0.332, 0.3: 0.232, 1.0: 0.161}
    results = lrcontrol.evaluate("mnist-mlp", ["constant"], lr0=list(published), runs=3)
    found = {row["lr0"]: row["train_loss_mean"] for row in results.summary.to_pylist()}
    assert found == pytest.approx(published, rel=0.1)
    results = lrcontrol.evaluate("mnist-mlp", ["constant"], lr0=[0.01], runs=3, optimizer="adamw")
    assert results.summary.to_pylist()[0]["train_loss_mean"] == pytest.approx(0.114, rel=0.1)


def test_any_agent_object_with_a_name_needs_and_predict_can_be_compared():
    class Halver:
        name = "halver"
        needs = {"multipliers": (0.5, 1.0), "features": ("log_loss",)}  # noqa: RUF012

        def predict(self, observation, state=None, episode_start=None, deterministic=False):
            return np.zeros(len(observation), dtype=np.int64), state

    results = lrcontrol.evaluate(agents=[Halver()], lr0=[0.8], runs=1, steps=3)
    assert results.traces["lr"].to_pylist() == [0.4, 0.2, 0.1]


def test_results_are_read_back_as_they_were_written(tmp_path):
    arguments = {"lr0": [1e-3, 0.1], "runs": 2, "steps": 4}
    for task in ("digits-mlp", "quadratic"):  # the second has no accuracies
        results = lrcontrol.evaluate(task, ["constant", "hillclimb"], out=tmp_path / task, **arguments)
        again = lrcontrol.Results.load(tmp_path / task)
        assert again.manifest == json.loads(json.dumps(results.manifest))
        for name in ("summary", "runs", "traces"):
            ours, theirs = getattr(results, name), getattr(again, name)
            assert ours.column_names == theirs.column_names
            for column in ours.column_names:
                assert str(ours[column].to_pylist()) == str(theirs[column].to_pylist()), (task, name, column)
    with pytest.raises(lrcontrol.InputError, match="does not hold"):
        lrcontrol.Results.load(tmp_path)


def test_a_task_that_is_called_by_a_number_is_read_back_as_it_was(tmp_path):
    task = replace(make_task("digits-mlp"), name="2024")
    lrcontrol.evaluate(task, ["constant"], lr0=[0.1], runs=1, steps=1, out=tmp_path / "out")
    assert lrcontrol.Results.load(tmp_path / "out").runs["task"].to_pylist() == ["2024"]
