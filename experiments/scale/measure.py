"""How a study gets faster with workers, and what a cell costs beside its training steps.

python -m experiments.scale.measure
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import tyro

import lrcontrol
from experiments.tables import write
from lrcontrol.backends import Pool

HERE = Path(__file__).parent
AGENTS = ("constant", "schedule:kind=cosine", "schedule:kind=one-cycle", "hillclimb:factor=2", "learned", "plateau")
WORK: dict[str, Any] = {"lr0": np.geomspace(1e-4, 10, 16).tolist(), "runs": 30, "steps": 400, "block": 5}
TINY: dict[str, Any] = {"lr0": [0.1], "runs": 240, "steps": 1, "block": 1}
POOLS = {
    "one process": Pool("local", 1),
    "two local workers": Pool("local", 2),
    "two Dask workers": Pool("dask", 2),
    "two Ray workers": Pool("ray", 2),
}


@dataclass(frozen=True)
class Options:
    """Time one study of 36 cells, and one of 240 cells of one training step, on every backend in turn."""

    rounds: int = 3
    """Repetitions on this machine's own workers, alternating; the median counts. Clusters are timed once."""

    out: Path = HERE
    """Where scale.csv is written."""


def timed(agents: tuple[str, ...], study: dict[str, Any], pool: Pool) -> tuple[float, str, int]:
    """Return seconds with the start of workers, a digest of the results' bytes, and the bytes of all cells."""
    with tempfile.TemporaryDirectory() as parent:
        folder, began = Path(parent, "out"), time.perf_counter()
        lrcontrol.evaluate("digits-mlp", agents, out=folder, pool=pool, **study)
        seconds = time.perf_counter() - began
        files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "journal.jsonl")
        digest = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
        return seconds, digest, sum(path.stat().st_size for path in folder.glob("cells/*"))


def main(options: Options) -> int:
    """Measure and write scale.csv; ten minutes."""
    for pool in POOLS.values():  # what is loaded once is loaded before
        timed(("constant",), TINY | {"runs": 2}, pool)
    seen: dict[str, list[tuple[float, float, str, int]]] = {name: [] for name in POOLS}
    for number in range(options.rounds):
        for name, pool in POOLS.items():
            if number > 0 and pool.backend != "local":
                continue
            seconds, digest, size = timed(AGENTS, WORK, pool)
            tiny, _, _ = timed(("constant",), TINY, pool)
            seen[name].append((seconds, tiny, digest, size))
            print(f"round {number}, {name}: {seconds:.1f} s, {tiny:.1f} s", flush=True)
    alone = [row[0] for row in seen["one process"]]
    rows = []
    for name, found in seen.items():
        speedup = median(one / row[0] for one, row in zip(alone, found, strict=False))
        row = {"backend": name, "seconds": round(median(row[0] for row in found), 1), "speedup": round(speedup, 2)}
        row["ms_for_a_cell_of_one_step"] = round(median(row[1] for row in found) / TINY["runs"] * 1000, 1)
        row["same_bytes"] = len({row[2] for row in found} | {found[0][2] for found in seen.values()}) == 1
        rows.append(row | {"cell_bytes": found[0][3] // (len(AGENTS) * WORK["runs"] // WORK["block"])})
    write(options.out / "scale.csv", rows)
    print(json.dumps(rows, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Options)))
