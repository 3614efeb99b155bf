"""Agents against a baseline: known answers, and the command line."""

import csv
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import binom, trim_mean
from studies import study

import lrcontrol
from lrcontrol.comparison import compare
from lrcontrol.envs import InputError
from lrcontrol.evaluate_cli import main
from lrcontrol.results import MEASURES, Results, summarise
from lrcontrol.statistics import holm, interquartile_mean, probability_of_improvement


def results_of(losses):
    """Return results with the given final losses (starts, runs) by agent; the first costs a probe less."""
    rows = []
    for number, (agent, table) in enumerate(losses.items()):
        for start, row in enumerate(table):
            for run, loss in enumerate(row):
                facts = {"task": "t", "optimizer": "sgd", "agent": agent, "lr0": 10.0**start, "run": run, "seed": run}
                facts |= {name: float(loss) for name in MEASURES} | {"diverged": False}
                rows.append(facts | {"forward_passes": 10 + 20 * number, "backward_passes": 10})
    table, number = pa.Table.from_pylist(rows), next(iter(losses.values())).shape[1]
    return Results(summarise(table), table, pa.table({}), {"config": {"runs": number}})


def test_a_constant_ratio_is_found_exactly_and_signed_ranks_are_counted():
    base = np.random.default_rng(0).uniform(0.1, 1.0, (3, 8))
    (row,) = compare(results_of({"base": base, "half": 0.5 * base}), "base").to_pylist()
    assert row["agent"] == "half"
    assert (row["runs"], row["starts"]) == (8, 3)
    assert row["ratio"] == pytest.approx(0.5)
    assert (row["ratio_low"], row["ratio_high"]) == pytest.approx((0.5, 0.5))
    assert row["probability_of_improvement"] == 1.0
    assert row["p"] == pytest.approx(2.0 * binom.pmf(8, 8, 0.5))  # all eight signs alike: 2 / 2^8
    assert row["worst_start"] == pytest.approx(0.5 * base.mean(axis=1).max())
    assert row["passes"] == pytest.approx((30 + 20) / (10 + 20))


def test_pairing_by_run_finds_what_the_spread_between_runs_hides():
    random = np.random.default_rng(1)
    base = np.exp(random.normal(0.0, 2.0, (1, 12)))
    mine = base * np.exp(random.normal(-0.1, 0.02, (1, 12)))
    (row,) = compare(results_of({"base": base, "mine": mine}), "base").to_pylist()
    assert row["ratio"] == pytest.approx(np.exp(-0.1), rel=0.03)
    assert row["ratio_high"] < 1.0


def test_an_agent_like_the_baseline_is_no_better():
    base = np.random.default_rng(2).uniform(0.1, 1.0, (2, 5))
    (row,) = compare(results_of({"base": base, "same": base}), "base").to_pylist()
    assert (row["ratio"], row["probability_of_improvement"], row["p"], row["p_holm"]) == (1.0, 0.5, 1.0, 1.0)


def test_losses_below_0_have_no_ratio_and_are_compared_as_they_are():
    losses = {"a": np.array([[-1.0, -2.0, -3.0], [1.0, 2.0, 3.0]])}
    losses["b"] = np.array([[-2.0, -3.0, -4.0], [0.5, 1.0, 1.5]])
    (row,) = compare(results_of(losses), "a").to_pylist()
    assert np.isnan([row[name] for name in ("ratio", "ratio_low", "ratio_high")]).all()
    assert row["probability_of_improvement"] == 1.0
    assert row["p"] == 0.25  # of three differences, all of one sign: 2 / 2³
    assert row["worst_start"] == 1.0
    assert row["interquartile_mean"] == pytest.approx(trim_mean(np.ravel(losses["b"]), 0.25))


def test_holm_by_hand():
    # sorted 0.01, 0.02, 0.03, 0.6 times 4, 3, 2, 1: 0.04, 0.06, 0.06, 0.6, never falling
    assert holm([0.03, 0.01, 0.6, 0.02]) == pytest.approx([0.06, 0.04, 0.6, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_interquartile_mean_and_probability_by_hand():
    assert interquartile_mean([[0.0, 1.0], [2.0, 99.0]]) == 1.5
    values = np.random.default_rng(3).normal(size=40)
    assert interquartile_mean(values) == pytest.approx(np.sort(values)[10:30].mean()) == trim_mean(values, 0.25)
    assert probability_of_improvement([1.0, 2.0, 3.0, 4.0], [2.0, 2.0, 2.0, 5.0]) == 0.625


def test_what_cannot_be_compared_is_named():
    two = results_of({"base": np.ones((1, 3)), "other": np.ones((1, 3))})
    with pytest.raises(InputError, match="did you mean"):
        compare(two, "bse")
    with pytest.raises(InputError, match="measure"):
        compare(two, "base", "train_accuracy")
    with pytest.raises(InputError, match="no agent to compare"):
        compare(results_of({"base": np.ones((1, 3))}), "base")
    with pytest.raises(InputError, match="one run alone"):
        compare(results_of({"base": np.ones((1, 1)), "other": np.ones((1, 1))}), "base")
    pairs = {("a", optimizer): {"base": np.ones((1, 3)), "other": np.ones((1, 3))} for optimizer in ("sgd", "adamw")}
    with pytest.raises(InputError, match="of 2 pairs of task and optimizer"):
        compare(study(pairs, config={"runs": 3}), "base")
    without = two.runs.set_column(two.runs.schema.get_field_index("test_loss"), "test_loss", pa.array([np.nan] * 6))
    with pytest.raises(InputError, match="the task has no test data"):
        compare(replace(two, runs=without), "base", "test_loss")


def test_the_command_prints_and_writes_it(tmp_path, capsys):
    command = ["--agents", "constant", "hillclimb:factor=2", "--lr0", "0.001", "0.1", "--runs", "3", "--steps", "20"]
    assert main([*command, "--baseline", "constant", "--out", str(tmp_path / "out")]) == 0
    assert "against constant, paired by run" in capsys.readouterr().out
    with (tmp_path / "out/comparison.csv").open(encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert row["agent"] == "hillclimb:factor=2"
    results = lrcontrol.evaluate(agents=["constant", "hillclimb:factor=2"], lr0=[0.001, 0.1], runs=3, steps=20)
    assert float(row["ratio"]) == lrcontrol.compare(results, "constant")["ratio"][0].as_py()
    assert main([*command, "--baseline", "greedy"]) == 2
    assert "not among --agents" in capsys.readouterr().err
    assert main(["--agents", "constant", "--baseline", "constant"]) == 2
    assert "needs another agent" in capsys.readouterr().err
    spelled = [*command, "--baseline", "hillclimb:factor=2.0", "--out", str(tmp_path / "other")]
    assert main(spelled) == 0  # another spelling of one of them
    assert "against hillclimb:factor=2," in capsys.readouterr().out


def test_who_runs_its_own_training_can_be_the_baseline_and_be_held_against_it(tmp_path, capsys):
    rivals = ["sps", "replay:of=hillclimb:factor=2", "random-search:trials=2"]
    command = ["--agents", "constant", *rivals, "--lr0", "0.1", "--runs", "2", "--steps", "10"]
    assert main([*command, "--baseline", "sps", "--out", str(tmp_path / "out")]) == 0
    assert "against sps, paired by run" in capsys.readouterr().out
    with (tmp_path / "out/comparison.csv").open(encoding="utf-8") as file:
        assert [row["agent"] for row in csv.DictReader(file)] == ["constant", *rivals[1:]]
