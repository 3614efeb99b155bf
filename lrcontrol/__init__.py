"""Training as a Gymnasium environment: compare, train and use controllers of the learning rate.

Importing this package does no work: what it exports is imported when it is first used.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lrcontrol.comparison import compare
    from lrcontrol.controller import LRController
    from lrcontrol.controller_record import plot_record, replay_schedule
    from lrcontrol.controller_safety import Rollback
    from lrcontrol.envs.errors import InputError
    from lrcontrol.envs.registry import make_task
    from lrcontrol.envs.schedules import Schedule
    from lrcontrol.envs.settings import Settings
    from lrcontrol.envs.task import Smoothing, Task
    from lrcontrol.evaluation import evaluate
    from lrcontrol.report_html import write_report
    from lrcontrol.results import Results
    from lrcontrol.training import train

__version__ = "0.1.0"

_EXPORTS = {
    "InputError": "lrcontrol.envs.errors",
    "LRController": "lrcontrol.controller",
    "Results": "lrcontrol.results",
    "Rollback": "lrcontrol.controller_safety",
    "Schedule": "lrcontrol.envs.schedules",
    "Settings": "lrcontrol.envs.settings",
    "Smoothing": "lrcontrol.envs.task",
    "Task": "lrcontrol.envs.task",
    "compare": "lrcontrol.comparison",
    "evaluate": "lrcontrol.evaluation",
    "make_task": "lrcontrol.envs.registry",
    "plot_record": "lrcontrol.controller_record",
    "replay_schedule": "lrcontrol.controller_record",
    "train": "lrcontrol.training",
    "write_report": "lrcontrol.report_html",
}

__all__ = [
    "InputError",
    "LRController",
    "Results",
    "Rollback",
    "Schedule",
    "Settings",
    "Smoothing",
    "Task",
    "compare",
    "evaluate",
    "make_task",
    "plot_record",
    "replay_schedule",
    "train",
    "write_report",
]

# A clone without symbolic links has text files in place of lrcontrol/envs and lrcontrol/agents; the folders they name
# stand beside this package.
if (Path(__file__).parent / "envs").is_file():
    __path__.append(str(Path(__file__).parent.parent))


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
