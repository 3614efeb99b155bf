"""Compares ``learned`` on tasks that it was neither trained nor selected on with schedules and with tuning-free rivals.

    python -m experiments.learned.heldout            # all tasks, about an hour on two cores
    python -m experiments.learned.heldout mnist-mlp  # one of them

Every task and optimizer is one result folder below ``results/learned/heldout``; what is there is not done again.
"""

from __future__ import annotations

import argparse
import csv
import time
from pathlib import Path

import numpy as np

from experiments.tables import markdown
from lrcontrol.evaluation import evaluate, lr0_grid
from lrcontrol.results import Results

HERE = Path(__file__).parent
FOLDER = Path("results/learned/heldout")
GRID = lr0_grid(1e-6, 10.0, 15)  # half-decades; the constant's every second point is the grid of eight decades
