"""What the README and CONTRIBUTING show is what happens: their code runs, their table is the committed result's."""

import csv
import importlib
import io
import re
import sys
from pathlib import Path

import pytest
from rich.console import Console

import lrcontrol
from lrcontrol.agents import registry as agents
from lrcontrol.envs import registry as tasks
from lrcontrol.results import Results
from lrcontrol.tables import grid_table

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.M | re.S)


def test_the_snippet_of_ones_own_task_runs(capsys):
    snippet = next(block for block in blocks(README, "python") if "lrcontrol.Task(" in block)
    names = {}
    exec(compile(snippet, "README.md", "exec"), names)
    assert "hillclimb:factor=2" in capsys.readouterr().out
    rows = names["results"].summary.to_pylist()
    assert len(rows) == 2 * 15
    best = min(row["train_loss_mean"] for row in rows)
    assert best < 0.2 < 0.6 < rows[0]["train_loss_mean"]


def test_the_snippet_of_the_environment_runs():
    snippet = next(block for block in blocks(README, "python") if "gymnasium.make(" in block)
    names = {}
    exec(compile(snippet, "README.md", "exec"), names)
    assert float(names["info"]["lr"]) == 2e-3
    assert names["observations"].shape == (256, len(lrcontrol.envs.DEFAULT_FEATURES)) == (256, 14)


def quickstart():
    with (ROOT / "experiments/quickstart/summary.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_table_is_that_of_the_committed_result():
    import pyarrow as pa

    typed = [
        {key: value if key in ("task", "optimizer", "agent") else float(value) for key, value in row.items()}
        for row in quickstart()
    ]
    for row in typed:
        row |= {key: int(row[key]) for key in ("runs", "diverged", "forward_passes", "backward_passes")}
    results = Results(pa.Table.from_pylist(typed), pa.table({}), pa.table({}), {"config": {"runs": 5}})
    console = Console(width=80, file=io.StringIO())
    console.print(grid_table(results))
    printed = [line.rstrip() for line in console.file.getvalue().splitlines() if line.strip()]
    shown = [line for block in blocks(README, "") for line in block.splitlines() if line.strip()]
    assert all(line in shown for line in printed), "\n".join(printed)


def test_the_table_of_trained_agents_is_that_of_the_committed_result():
    with (ROOT / "experiments/agents/seeds.csv").open(newline="", encoding="utf-8") as file:
        committed = {row["agent"]: row for row in csv.DictReader(file)}
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in README.splitlines() if line[:1] == "|"]
    starts = next(row[1:] for row in table if row[0] == "initial rate")
    seeds = [name for name in committed if name.startswith("ppo")]
    assert len(seeds) == 5
    worst = max(seeds, key=lambda name: float(committed[name]["mean"]))
    shown = {row[0]: row[1:] for row in table if len(row) == len(starts) + 1}
    names = {"`runs/ppo`, seed 0": "ppo-digits-0", f"worst of five seeds ({worst[-1]})": worst}
    names |= {f"`{name}`": name for name in ("constant", "hillclimb:factor=2")}
    for label, name in names.items():
        assert shown[label] == [f"{float(committed[name][start]):.3g}" for start in starts]
    best_constant = min(float(committed["constant"][start]) for start in starts)
    for name in seeds:
        assert float(committed[name]["worst_start"]) < best_constant
        assert float(committed[name]["worst_over_best"]) <= 1.1


def test_the_committed_result_comes_back():
    """Rates up to 0.1, where training is stable enough for another machine's rounding."""
    committed = {(row["agent"], float(row["lr0"])): float(row["train_loss_mean"]) for row in quickstart()}
    chosen = ["constant", "schedule:kind=one-cycle", "hillclimb"]
    results = lrcontrol.evaluate(agents=chosen, lr0=[0.001, 0.01, 0.1])
    for row in results.summary.to_pylist():
        assert row["train_loss_mean"] == pytest.approx(committed[row["agent"], row["lr0"]], rel=0.02)


def test_links_lead_somewhere():
    for text in (README, CONTRIBUTING):
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
            assert (ROOT / target).exists(), target


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Return a function that imports a code block of CONTRIBUTING as a module."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(marker, name):
        block = next(block for block in blocks(CONTRIBUTING, "python") if marker in block)
        (tmp_path / f"{name}.py").write_text(block, encoding="utf-8")
        monkeypatch.delitem(sys.modules, name, raising=False)
        return importlib.import_module(name)

    return write


def test_contributings_task_and_agent_work_when_registered(written, monkeypatch):
    monkeypatch.setitem(tasks.TASKS, "blobs", written("def blobs", "blobs_example").blobs)
    monkeypatch.setitem(agents.AGENTS, "plateau", written("class Plateau", "plateau_example").Plateau)
    results = lrcontrol.evaluate("blobs:distance=3", ["constant", "plateau:slack=0.1"], lr0=[0.5, 3.0], runs=2)
    assert results.agents == ["constant", "plateau:slack=0.1"]
    assert results.summary["train_accuracy_mean"].to_pylist()[0] > 0.9
    rates = [
        row["lr"] for row in results.traces.to_pylist() if row["agent"] == "plateau:slack=0.1" and row["lr0"] == 3.0
    ]
    assert min(rates) < 3.0


def test_help_and_readme_name_every_agent_and_task():
    for name in (*agents.AGENTS, *tasks.TASKS):
        assert f"`{name}`" in README
