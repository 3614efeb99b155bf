"""Runs trainings two at a time, one thread each; what is done already is not done again."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path


def run_training(out: Path, arguments: Sequence[str]) -> float:
    """Run ``python -m lrcontrol.train`` into ``out``, or go on with it, and return the seconds it took this time."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "lrcontrol.train", *arguments, "--out", str(out)]
    done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    if done.returncode != 0:
        print(f"{out.name} failed: {done.stderr.strip().splitlines()[-1:]}", flush=True)
        return float("nan")
    seconds = time.perf_counter() - began
    print(f"{out.name}: {seconds:.0f} s; {done.stdout.strip().splitlines()[0]}", flush=True)
    return seconds


def run_all(trainings: dict[str, Sequence[str]], folder: Path, workers: int = 2) -> dict[str, Path]:
    """Run all trainings, by name, into folders below ``folder``, and return those that did not fail."""
    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(workers) as pool:
        running = {name: pool.submit(run_training, folder / name, words) for name, words in trainings.items()}
    return {name: folder / name for name, future in running.items() if not math.isnan(future.result())}
