"""The world: tasks, many training runs stepped at once, observation, action, reward, and the Gymnasium environments.

Importing this package registers the environments with Gymnasium.
"""

from lrcontrol.envs.engine import Engine
from lrcontrol.envs.errors import InputError
from lrcontrol.envs.features import DEFAULT_FEATURES, FEATURES
from lrcontrol.envs.gym import TrainingEnv, TrainingVectorEnv
from lrcontrol.envs.models import mlp
from lrcontrol.envs.registration import register_environments
from lrcontrol.envs.registry import TASKS, make_task
from lrcontrol.envs.rewards import REWARDS
from lrcontrol.envs.schedules import Schedule
from lrcontrol.envs.settings import Settings
from lrcontrol.envs.task import Smoothing, Task
from lrcontrol.envs.world import World

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

register_environments()
