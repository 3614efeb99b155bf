"""The table of standings, and what is printed of it, against worked-out numbers."""

import io
import math
import re

import numpy as np
import pyarrow as pa
import pytest
from rich.console import Console
from studies import study

import lrcontrol
from lrcontrol.arrays import losses_by_pair, traces_by_agent
from lrcontrol.columns import AGENT, BEST, COST, RATIO, number
from lrcontrol.envs import InputError
from lrcontrol.report_text import latex_table, markdown_table
from lrcontrol.standings import standings
from lrcontrol.tables import comparison_table, grid_table, standings_tables

ONE, TWO = ("a", "sgd"), ("b", "adamw")
LOSSES = {
    ONE: {"constant": np.array([[4.0, 4.0], [1.0, 1.0]]), "half": np.array([[2.0, 2.0], [0.5, 0.5]])},
    TWO: {"constant": np.array([[1.0, 1.0]]), "half": np.array([[2.0, 2.0]])},
}


def rows_of(found):
    return {(row["task"], row["agent"]): row for row in found.rows.to_pylist()}


def test_a_row_for_each_task_and_agent_by_hand():
    falling = np.arange(40.0, 0.0, -1.0)
    traces = {
        pair: {name: np.broadcast_to(falling, (*v.shape, 40)) for name, v in a.items()} for pair, a in LOSSES.items()
    }
    lost = [("a", "sgd", "constant", 0, 1)]
    found = standings(study(LOSSES, forward={"half": 30}, traces=traces, diverged=lost))
    assert found.baseline == "constant"
    rows = rows_of(found)
    half = rows["a", "half"]
    assert (half["optimizer"], half["starts"], half["runs"]) == ("sgd", 2, 2)
    assert (half["rank"], half["rank_low"], half["rank_high"]) == (1.0, 1.0, 1.0)
    assert (half["ratio"], rows["b", "half"]["ratio"], rows["a", "constant"]["ratio"]) == (0.5, 2.0, 1.0)
    assert (half["difference"], half["improves"], rows["b", "half"]["improves"]) == (-1.25, 1.0, 0.0)
    assert (half["p"], half["p_holm"]) == (0.5, 0.5)  # both of two signed ranks are below: 2 · (1 / 4)
    assert math.isnan(rows["a", "constant"]["p_holm"])
    assert half["area"] == pytest.approx(1.0)  # the geometric mean of 2 and 0.5
    assert (half["best_loss"], half["best_lr0"], half["worst_loss"], half["worst_lr0"]) == (0.5, 10.0, 2.0, 1.0)
    assert (rows["a", "constant"]["diverged"], rows["a", "constant"]["diverged_share"]) == (1, 0.25)
    assert (half["passes"], half["cost"], half["budget"]) == (50.0, 50 / 30, 30.0)
    assert half["budget_loss"] == pytest.approx(40 - 23 + 9.5)  # 24 of its 40 steps
    assert half["budget_ratio"] == pytest.approx(26.5 / 10.5)
    # half's mean is 1.25; the best of n of {1, 4} is 1 + 3 / 2^n: 1.1875 at n = 4
    assert half["trials"] == 4
    assert rows["b", "half"]["trials"] == 1


def test_an_agent_over_all_tasks_by_hand():
    overall = {row["agent"]: row for row in standings(study(LOSSES, forward={"half": 30})).overall.to_pylist()}
    half = overall["half"]
    assert (half["pairs"], half["rank"], overall["constant"]["rank"]) == (2, 1.5, 1.5)
    assert half["ratio"] == (3 * 0.5 + 2.0) / 4  # of four halves and two twos, one is cut off at each end
    assert half["cost"] == pytest.approx(50 / 30)


def test_the_cost_of_an_agent_is_the_mean_over_its_runs():
    results = study({ONE: LOSSES[ONE]}, forward={"half": np.array([[10, 20], [30, 60]])})
    half = rows_of(standings(results))["a", "half"]
    assert (half["forward_passes"], half["passes"], half["cost"]) == (30.0, 50.0, 50 / 30)


def test_an_agent_that_cannot_take_a_step_at_equal_compute_has_no_loss_there():
    traces = {ONE: {name: np.ones((2, 2, 5)) for name in ("constant", "half")}}
    found = rows_of(standings(study({ONE: LOSSES[ONE]}, forward={"half": 980}, traces=traces)))
    assert (found["a", "half"]["passes"], found["a", "half"]["budget"]) == (1000.0, 30.0)
    assert math.isnan(found["a", "half"]["budget_ratio"])
    assert found["a", "constant"]["budget_loss"] == 1.0


def test_nothing_is_made_up_where_traces_or_the_baseline_are_missing():
    losses = LOSSES | {TWO: {"half": LOSSES[TWO]["half"]}}
    found = standings(study(losses), baseline="constant")
    missing = rows_of(found)["b", "half"]
    for name in ("ratio", "ratio_low", "cost", "budget_loss", "budget_ratio", "trials"):
        assert math.isnan(missing[name])
    assert missing["rank"] == 1.0
    assert {row["agent"]: row["pairs"] for row in found.overall.to_pylist()} == {"constant": 1, "half": 2}
    with pytest.raises(InputError, match="did you mean 'constant'"):
        standings(study(losses), baseline="constnt")


def test_agents_are_held_on_the_starts_and_runs_they_share():
    losses = {ONE: {"x": np.arange(6.0).reshape(2, 3)}}
    more = study({ONE: {"x": np.arange(6.0).reshape(2, 3), "y": np.array([[7.0, 8.0], [9.0, 10.0]])}})
    (found,) = losses_by_pair(more)
    assert (found.rates, found.runs) == ((1.0, 10.0), (0, 1))
    assert found.of("x").tolist() == losses[ONE]["x"][:, :2].tolist()


def test_all_that_is_said_of_agents_is_said_of_the_starts_and_runs_they_share():
    """As if the others had not been run: the rates of the one are 1 and 10, of the other 10 and 100."""
    wide = {"constant": np.array([[8.0, 8.0], [4.0, 4.0]])}
    other = {"x": np.array([[2.0, 2.0], [0.5, 0.5]])}
    traces = {name: np.repeat(losses[:, :, None], 40, axis=2) for name, losses in (wide | other).items()}
    first = study({ONE: wide}, {ONE: [1.0, 10.0]}, traces={ONE: traces}, diverged=[(*ONE, "constant", 0, 1)])
    second = study({ONE: other}, {ONE: [10.0, 100.0]}, traces={ONE: traces}, diverged=[(*ONE, "x", 1, 0)])
    tables = (pa.concat_tables([getattr(r, n) for r in (first, second)]) for n in ("summary", "runs", "traces"))
    cut = standings(lrcontrol.Results(*tables, {}))
    assert cut.cut
    shared = {ONE: {"constant": wide["constant"][1:], "x": other["x"][:1]}}
    kept = {"constant": traces["constant"][1:], "x": traces["x"][:1]}
    alone = standings(study(shared, {ONE: [10.0]}, traces={ONE: kept}))
    assert repr(cut.rows.to_pylist()) == repr(alone.rows.to_pylist())  # in which NaN is NaN


def test_where_no_agent_has_a_run_from_each_of_its_starts_it_is_said():
    results = study({ONE: {"constant": np.ones((2, 2))}})
    with pytest.raises(InputError, match="no agent has all its runs"):
        standings(lrcontrol.Results(results.summary, results.runs.slice(0, 3), results.traces, {}))


def test_an_agent_with_nothing_in_common_is_left_out_and_named():
    results = study({ONE: {"constant": np.ones((1, 2)), "x": np.ones((1, 2)), "y": np.ones((1, 1))}})
    rows = results.runs.to_pylist()
    rows[-1]["lr0"] = 5.0
    moved = lrcontrol.Results(results.summary, results.runs.from_pylist(rows), results.traces, {})
    found = standings(moved)
    assert found.left_out == (("a", "sgd", "y"),)
    assert [row["agent"] for row in found.rows.to_pylist()] == ["constant", "x"]
    assert not found.cut
    with pytest.raises(InputError, match="baseline y has no initial rate"):
        standings(moved, "y")
    assert standings(study({ONE: {"constant": np.ones((1, 3)), "y": np.ones((1, 2))}})).cut


def test_a_frozen_run_goes_on_with_the_loss_it_is_reported_with():
    traces = {ONE: {"x": np.array([[[3.0, math.nan, math.nan], [3.0, 2.0, 1.0]]])}}
    found = traces_by_agent(study({ONE: {"x": np.array([[30.0, 1.0]])}}, traces=traces))["x"]
    assert found.loss.tolist() == [[[3.0, 30.0, 30.0], [3.0, 2.0, 1.0]]]
    assert found.lr[0, 0].tolist() == [1.0, 0.5, 0.25]
    assert traces_by_agent(study(LOSSES).of(*ONE)) == {}


def test_standings_of_an_evaluation_agree_with_its_comparison():
    results = lrcontrol.evaluate(agents=["constant", "hillclimb:factor=2"], lr0=[0.001, 0.1], runs=3, steps=20)
    found = standings(results, "constant")
    row = rows_of(found)["digits-mlp", "hillclimb:factor=2"]
    (compared,) = lrcontrol.compare(results, "constant").to_pylist()
    assert row["cost"] == compared["passes"] == pytest.approx(5 / 3)
    areas = {name: rows_of(found)["digits-mlp", name]["area"] for name in results.agents}
    # over two starts the area is their geometric mean, so its ratio is the comparison's
    assert areas["hillclimb:factor=2"] / areas["constant"] == pytest.approx(compared["ratio"])
    assert row["best_loss"] == min(part["train_loss_mean"] for part in results.of_agent(row["agent"]).to_pylist())
    assert 0.0 < row["budget_ratio"] < 1.0


def test_tables_for_terminal_markdown_and_latex():
    found = standings(study(LOSSES, forward={"half": 30}))
    console = Console(width=200, record=True)
    for table in standings_tables(found):
        console.print(table)
    text = console.export_text()
    assert "against constant" in text
    assert "0.50 [0.50, 0.50]" in text
    assert "0.875 [0.875, 0.875]" in text
    rows = [row for row in found.rows.to_pylist() if row["task"] == "b"]
    rows[1]["agent"] = "50%_a|b&c"
    assert markdown_table(rows, (AGENT, RATIO, COST)).splitlines() == [
        "| agent | ratio | cost |",
        "|---|---:|---:|",
        "| `constant` | 1.00 [1.00, 1.00] | 1.00 |",
        "| `50%_a\\|b&c` | 2.00 [2.00, 2.00] | 1.67 |",
    ]
    latex = latex_table(rows, (AGENT, COST), "of 100 %")
    for line in (r"\caption{of 100 \%}", r"\begin{tabular}{lr}", r"constant & 1.00 \\", r"50\%\_a|b\&c & 1.67 \\"):
        assert line in latex.splitlines()
    row = {"agent": "1e-06", "best_loss": 12345.0, "best_lr0": 1e-6}
    assert r"1e-06 & $1.23\cdot 10^{4}$ @ $10^{-6}$ \\" in latex_table([row], (AGENT, BEST)).splitlines()


def failure(agent, first, last):
    return {"task": "a", "optimizer": "sgd", "agent": agent, "runs": [first, last], "error": "RuntimeError: no more"}


def test_the_table_of_an_evaluation_is_over_the_runs_that_all_have_and_names_who_has_none():
    losses = {"constant": np.array([[1.0, 2.0, 30.0]]), "part": np.array([[5.0, 6.0]]), "late": np.array([[7.0]])}
    results = study({ONE: losses}, config={"runs": 3}, failures=[failure("part", 2, 2), failure("gone", 0, 2)])
    rows = results.runs.to_pylist()
    rows[-1]["run"] = 2
    results = lrcontrol.Results(results.summary, results.runs.from_pylist(rows), results.traces, results.manifest)
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(grid_table(results))
    text = console.export_text()
    assert "2 runs each" in text
    for line in (r"constant +1\.500 +1 +1\.500", r"part +5\.500 +1 +5\.500", r"gone +failed", r"late +left out"):
        assert re.search(rf"^ *{line}", text, re.M)
    assert "failed: part, runs 2 to 2; gone, runs 0 to 2" in text


def test_a_comparison_says_where_no_p_can_be_low():
    shown = []
    for runs in (3, 9):
        losses = {"constant": np.ones((1, runs)), "x": np.arange(1.0, runs + 1.0)[None]}
        console = Console(width=200, record=True, file=io.StringIO())
        compared = lrcontrol.compare(study({ONE: losses}, config={"runs": runs}), "constant")
        console.print(comparison_table(compared, "constant"))
        shown.append(" ".join(console.export_text().split()))
    assert "no p can be below 0.25 here: look at the intervals" in shown[0]
    assert "no p can" not in shown[1]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.0, "1.00"),
        (0.5, "0.500"),
        (123.4, "123"),
        (1234.5, "1.23e+03"),
        (1e-5, "1e-05"),
        (math.inf, "∞"),
        (math.nan, "–"),
    ],
)
def test_numbers_keep_their_digits(value, text):
    assert number(value) == text
