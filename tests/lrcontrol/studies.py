"""Results made by hand: final losses and traces put in, nothing trained."""

import numpy as np
import pyarrow as pa

from lrcontrol.results import MEASURES, SUMMARY_COLUMNS, TRACE_COLUMNS, Results

TEXTS = ("task", "optimizer", "agent")


def study(losses, rates=None, forward=None, traces=None, diverged=(), **manifest):
    """Return results of several tasks and optimizers.

    Args:
        losses: by (task, optimizer) and agent, final losses (starts, runs).
        rates: initial rates by (task, optimizer); 1, 10, 100 and so on unless given.
        forward: forward passes by agent, one number or (starts, runs), 10 unless given; backward passes are 10.
        traces: by (task, optimizer) and agent, minibatch losses (starts, runs, steps).
        diverged: (task, optimizer, agent, start, run) of the runs that did.
        manifest: what it holds.
    """
    runs, summary, steps = [], [], {name: [] for name in TRACE_COLUMNS}
    for pair, agents in losses.items():
        for agent, table in agents.items():
            grid = (rates or {}).get(pair) or [10.0**start for start in range(len(table))]
            for start, (rate, row) in enumerate(zip(grid, table, strict=True)):
                labels = {"task": pair[0], "optimizer": pair[1], "agent": agent, "lr0": rate}
                spent = np.broadcast_to((forward or {}).get(agent, 10), np.shape(table))[start].tolist()
                lost = [(*pair, agent, start, run) in diverged for run in range(len(row))]
                for run, loss in enumerate(row):
                    one = dict.fromkeys(MEASURES, float(loss)) | {"run": run, "seed": run, "diverged": lost[run]}
                    runs.append(labels | one | {"forward_passes": spent[run], "backward_passes": 10})
                    if traces:
                        _append(steps, labels | {"run": run}, traces[pair][agent][start][run])
                means = {f"{measure}_mean": float(np.mean(row)) for measure in MEASURES}
                means |= {f"{measure}_std": float(np.std(row, ddof=1)) for measure in MEASURES if len(row) > 1}
                found = labels | {"runs": len(row), "diverged": sum(lost)} | means
                found |= {"forward_passes": spent[0], "backward_passes": 10}
                summary.append({name: found.get(name, float("nan")) for name in SUMMARY_COLUMNS})
    texts = {name: pa.array(steps[name], pa.string()) for name in TEXTS}
    table = pa.table(steps | texts)
    return Results(pa.Table.from_pylist(summary), pa.Table.from_pylist(runs), table, manifest)


def _append(steps, labels, losses):
    for step, loss in enumerate(losses):
        row = labels | {"step": step, "loss": float(loss), "lr": labels["lr0"] * 0.5**step, "momentum": 0.0}
        for name in TRACE_COLUMNS:
            steps[name].append(row[name])
