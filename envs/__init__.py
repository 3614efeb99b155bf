"""The world: tasks, many training runs stepped at once, observation, action, reward, and the Gymnasium environments.

Importing this package registers the environments with Gymnasium. Where that is not installed there are no environments,
but all the rest: a trained agent is applied without it.
"""

from typing import TYPE_CHECKING, Any

from lrcontrol.envs.engine import Engine
from lrcontrol.envs.errors import InputError
from lrcontrol.envs.features import DEFAULT_FEATURES, FEATURES
from lrcontrol.envs.models import mlp
from lrcontrol.envs.registry import TASKS, make_task
from lrcontrol.envs.rewards import REWARDS
from lrcontrol.envs.schedules import Schedule
from lrcontrol.envs.settings import Settings
from lrcontrol.envs.task import Smoothing, Task
from lrcontrol.envs.world import World

if TYPE_CHECKING:
    from lrcontrol.envs.gym import TrainingEnv, TrainingVectorEnv

__all__ = [
    "DEFAULT_FEATURES",
    "FEATURES",
    "REWARDS",
    "TASKS",
    "Engine",
    "InputError",
    "Schedule",
    "Settings",
    "Smoothing",
    "Task",
    "TrainingEnv",
    "TrainingVectorEnv",
    "World",
    "make_task",
    "mlp",
    "register_environments",
]


def __getattr__(name: str) -> Any:
    if name in ("TrainingEnv", "TrainingVectorEnv"):
        from lrcontrol.envs import gym

        return getattr(gym, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


try:
    from lrcontrol.envs.registration import register_environments
except ModuleNotFoundError as error:
    if error.name != "gymnasium":
        raise
else:
    register_environments()
