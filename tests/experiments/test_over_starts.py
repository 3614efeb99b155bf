"""The comparison from six rates: its ratios, by hand from runs that are written down here."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from experiments.benchmark.over_starts import ratios, row_of
from experiments.benchmark.run import HERE
from experiments.tables import read

LOSSES = {"learned": {0.1: [0.2, 0.4], 1.0: [0.2, 0.4]}, "rival": {0.1: [0.4, 0.4], 1.0: [2.0, 1.6]}}


def test_ratios_are_paired_by_run_and_failed_runs_count_for_nothing(tmp_path):
    for page, agents in (("learned", ["learned"]), ("starts", ["learned", "rival"])):
        rows = [
            {"task": "digits-mlp", "optimizer": "sgd", "agent": agent, "lr0": rate, "run": run, "train_loss": loss}
            for agent in agents
            for rate, losses in LOSSES[agent].items()
            for run, loss in enumerate(losses)
        ]
        (tmp_path / "digits-mlp" / page).mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "digits-mlp" / page / "runs.parquet")
    found = ratios(tmp_path)
    assert set(found) == {"rival"}
    np.testing.assert_allclose(found["rival"]["digits-mlp", "sgd"], [[0.5, 1.0], [0.1, 0.25]])
    row = row_of("rival", found["rival"])
    assert row["ratio"] == pytest.approx(0.375)  # of 0.1, 0.25, 0.5 and 1 the middle two
    assert row["ratio_alike"] == pytest.approx(0.0125**0.25, rel=1e-3)
    assert row["lower_in"] == 0.75
    failed = {"digits-mlp": np.array([[0.5, np.nan], [0.1, 0.25]])}
    assert row_of("rival", {("digits-mlp", "sgd"): failed["digits-mlp"]})["lower_in"] == 1.0


def test_learned_is_below_everybody_by_the_committed_table():
    rows = read(HERE / "over_starts.csv")
    assert len(rows) == 33
    assert max(float(row["ratio_high"]) for row in rows) < 1.0
    assert max(float(row["ratio_alike_high"]) for row in rows) < 1.0
