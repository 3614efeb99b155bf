"""Tasks from a user's own file or module, named on the command line."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import cloudpickle

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
    try:
        task = found() if callable(found) else found
    except InputError:
        raise
    except (Exception, SystemExit) as error:  # the user's own code can raise anything
        raise InputError(f"task {text!r}: {name}() failed with {type(error).__name__}: {error}") from error
    if not isinstance(task, Task):
        raise InputError(f"task {text!r}: {name} is a {type(task).__name__}, not a lrcontrol.Task")
    return replace(task, spelling=text)


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    if sys.modules.setdefault(path.stem, module) is module:
        cloudpickle.register_pickle_by_value(module)  # a worker elsewhere has no such file to import
    try:
        spec.loader.exec_module(module)
    except InputError:
        raise
    except (Exception, SystemExit) as error:  # as above
        raise InputError(f"{path} cannot be loaded: {type(error).__name__}: {error}") from error
    return module
