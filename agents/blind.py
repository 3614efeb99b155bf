"""``blind``: a control, trained as ``learned`` is but shown nothing of the run, only how far its budget is spent."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

from lrcontrol.agents.trained import TrainedAgent

FOLDER = Path(__file__).parent / "policies" / "blind"


@functools.cache
def blind() -> TrainedAgent:
    """Return the open-loop schedule that ``experiments/learned`` finds best, in units of the first gradient.

    What ``learned`` ends below it by is what looking at the run is worth.
    """
    return replace(TrainedAgent.load(FOLDER), name="blind")
