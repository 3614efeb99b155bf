"""Kills a small study at random moments and goes on with it, a hundred times: the files have to be the same bytes.

python -m experiments.kills.kill
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

HERE = Path(__file__).parent
STUDY = (
    *("--agents", "constant", "schedule:kind=cosine", "hillclimb:factor=2", "bandit", "dog", "learned"),
    *("--optimizer", "sgd", "adamw", "--lr0", "1e-4", "1e-2", "1", "--runs", "4", "--block", "2", "--steps", "40"),
)


@dataclass(frozen=True)
class Options:
    """Kill a study of 24 cells with SIGKILL to its whole process group at moments drawn evenly over its duration."""

    kills: int = 100
    """How often."""

    seed: int = 0
    """Of the moments."""

    out: Path = HERE / "kills.json"
    """Where the outcome is written."""


def content(folder: Path) -> dict[str, bytes]:
    """Return the bytes of all files but the journal, which tells when things were done."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "journal.jsonl"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def start(folder: Path, workers: int) -> subprocess.Popen[bytes]:
    """Start the study as a process group of its own."""
    command = [sys.executable, "-m", "lrcontrol.evaluate", *STUDY, "--workers", str(workers), "--out", str(folder)]
    return subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish(folder: Path, workers: int) -> float:
    """Run the study to its end and return how long that took."""
    began, process = time.perf_counter(), start(folder, workers)
    _, errors = process.communicate()
    if process.returncode:
        raise RuntimeError(errors.decode())
    return time.perf_counter() - began


def kill(folder: Path, workers: int, delay: float) -> bool:
    """Kill the study after ``delay`` seconds; return whether it was still at work."""
    process = start(folder, workers)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.communicate(timeout=delay)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    return process.returncode == -signal.SIGKILL


def main(options: Options) -> int:
    """Kill and resume; each study is killed up to five times before it is let finish and compared."""
    began, random = time.perf_counter(), np.random.default_rng(options.seed)
    with tempfile.TemporaryDirectory() as parent:
        whole = Path(parent, "whole")
        finish(Path(parent, "first"), workers=1)  # what is read from disk once is read before
        seconds = finish(whole, workers=1)
        wanted = content(whole)
        kills = studies = equal = 0
        cells: list[int] = []
        while kills < options.kills:
            folder = Path(parent, "killed")
            for _ in range(min(5, options.kills - kills)):
                if not kill(folder, 1 + kills % 2, random.uniform(0.0, seconds)):
                    break  # it had finished
                kills += 1
                cells.append(len(list(folder.glob("cells/*.cell"))))
            finish(folder, workers=1)
            studies, equal = studies + 1, equal + (content(folder) == wanted)
            print(f"{kills} kills, {equal} of {studies} studies the same bytes", flush=True)
            shutil.rmtree(folder)
    found = {"kills": kills, "studies": studies, "same_bytes": equal, "files": len(wanted), "cells_when_killed": cells}
    found |= {"seed": options.seed, "seconds": round(time.perf_counter() - began)}
    options.out.write_text(json.dumps(found) + "\n", encoding="utf-8")
    return 0 if equal == studies else 1


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Options)))
