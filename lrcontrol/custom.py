"""Tasks from a user's own file or module, named on the command line."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from lrcontrol.envs.errors import InputError
from lrcontrol.envs.registry import make_task
from lrcontrol.envs.task import Task


def load_task(text: str) -> Task:
    """Return the task that ``text`` names: a spelling of the registry, or ``file.py:name``.

    The name stands for a Task or for a function without arguments that returns one. The file is run.

    Raises:
        InputError: there is no such file or name, or it is no Task.
    """
    path, _, name = text.rpartition(":")
    if not path.endswith(".py"):
        if text.endswith(".py"):
            raise InputError(f"task {text!r}: add the name of the Task in the file, as in {text}:my_task")
        return make_task(text)
    if not Path(path).is_file():
        raise InputError(f"task {text!r}: there is no file {path!r}")
    module = _load(Path(path))
    if not hasattr(module, name):
        raise InputError(f"task {text!r}: {path} defines no {name!r}")
    found = getattr(module, name)
    task = found() if callable(found) else found
    if not isinstance(task, Task):
        raise InputError(f"task {text!r}: {name} is a {type(task).__name__}, not a lrcontrol.Task")
    return task


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)
    spec.loader.exec_module(module)
    return module
