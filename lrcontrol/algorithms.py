"""The Stable-Baselines3 algorithms that train agents here: where they are, what actions they take, their defaults.

The parameters were chosen by ``experiments/agents/tune.py``; what is not named is the algorithm's own default.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_type_hints

from typeguard import TypeCheckError, check_type

from lrcontrol.envs.errors import InputError, unknown

DISCRETE, BOX = "discrete", "box"
ANNEALED = "learning_rate_end"  # beside a class's own parameters: learning_rate goes down to it in a straight line
HOLDING = "hold_bias"  # likewise: added at first to the logit of the multiplier 1, so that the policy begins by holding
OURS = ("policy", "env", "seed", "device", "verbose", "tensorboard_log", "_init_setup_model")  # which are given here
COUNTS = ("n_steps", "batch_size", "n_epochs", "train_freq")  # which have to be positive


@dataclass(frozen=True)
class Algorithm:
    """One algorithm.

    Args:
        package: that holds it.
        title: its class.
        actions: the kinds of action it takes, the preferred one first.
        two_dimensional: whether a discrete action may have two dimensions.
        num_envs: default number of environments.
        parameters: arguments of its class; ``learning_rate_end``, to which its learning rate goes down linearly; and
            ``hold_bias``, by which a discrete policy begins by preferring the multiplier 1.
        settings: of the environment, where they are not those of ``lrcontrol.training.DEFAULTS``.
        policy: the name of its policy network.
        overcounts: whether its ``num_timesteps`` counts a step of N environments N² times, as ARS's does.
    """

    package: str
    title: str
    actions: tuple[str, ...]
    two_dimensional: bool = True
    num_envs: int = 256
    parameters: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    policy: str = "MlpPolicy"
    overcounts: bool = False

    def load_class(self) -> Any:
        """Import and return the class.

        Raises:
            InputError: the package is not installed.
        """
        try:
            return getattr(importlib.import_module(self.package), self.title)
        except ImportError as error:
            raise InputError(
                f"{self.title} is in {self.package}, which is not installed: pip install 'lrcontrol[rl]'"
            ) from error

    def check_parameters(self, parameters: Mapping[str, Any]) -> None:
        """Raise InputError where a parameter is not one of the class, suggesting the nearest, or of another type."""
        from stable_baselines3.common.vec_env import VecEnv

        made = self.load_class()
        kinds = get_type_hints(made.__init__, localns={"VecEnv": VecEnv}) | dict.fromkeys((ANNEALED, HOLDING), float)
        known = [name for name in (*inspect.signature(made).parameters, ANNEALED, HOLDING) if name not in OURS]
        for name, value in parameters.items():
            if name not in known:
                raise unknown(f"parameter of {self.title} or setting", name, known)
            try:
                check_type(value, kinds.get(name, Any))
            except TypeCheckError as error:
                reason = " ".join(str(error).split())
                raise InputError(f"parameter {name} of {self.title} cannot be {value!r}: {reason}") from error
            if name in COUNTS and isinstance(value, int) and value < 1:
                raise InputError(f"parameter {name} of {self.title} is {value}, and not positive")

    def action_kind(self, hyperparameters: tuple[str, ...], wanted: str | None) -> str:
        """Return the kind of action for the hyperparameters, ``wanted`` if it is given.

        Raises:
            InputError: the algorithm cannot take it.
        """
        if wanted is not None and wanted not in (DISCRETE, BOX):
            raise unknown("action", wanted, (DISCRETE, BOX))
        many = len(hyperparameters) > 1
        for kind in (wanted,) if wanted else self.actions:
            if kind in self.actions and (kind == BOX or self.two_dimensional or not many):
                return kind
        takes = " or ".join(self.actions)
        limit = "" if self.two_dimensional else " of one dimension"
        raise InputError(
            f"{self.title} takes {takes} actions{'' if self.actions == (BOX,) else limit}, so it cannot drive "
            f"{' and '.join(hyperparameters)}{f' by {wanted} actions' if wanted else ''}: choose another algorithm, "
            f"such as ppo"
        )


_ON_POLICY = {"n_steps": 200, "gamma": 0.999, "gae_lambda": 0.98}
_OFF_POLICY = {"gamma": 0.99, "buffer_size": 300_000, "learning_starts": 20_000, "batch_size": 512}
_Q_LEARNING = _OFF_POLICY | {
    **{"gamma": 0.98, "learning_rate": 3e-3, "gradient_steps": 2, "target_update_interval": 300},
    "exploration_fraction": 0.3,
}

ALGORITHMS: dict[str, Algorithm] = {
    "ppo": Algorithm(
        "stable_baselines3",
        "PPO",
        (DISCRETE, BOX),
        parameters=_ON_POLICY
        | {"batch_size": 6400, "n_epochs": 6, "ent_coef": 0.002, "learning_rate": 1e-3, ANNEALED: 5e-5},
    ),
    "a2c": Algorithm(
        "stable_baselines3",
        "A2C",
        (DISCRETE, BOX),
        parameters={"n_steps": 50, "gamma": 0.98, "gae_lambda": 0.97, "learning_rate": 2e-3, "ent_coef": 0.002},
    ),
    "dqn": Algorithm(
        "stable_baselines3",
        "DQN",
        (DISCRETE,),
        two_dimensional=False,
        num_envs=64,
        parameters=_Q_LEARNING,
    ),
    "sac": Algorithm(
        "stable_baselines3",
        "SAC",
        (BOX,),
        num_envs=64,
        parameters=_OFF_POLICY | {"learning_rate": 1e-3, "ent_coef": 0.01},
    ),
    "td3": Algorithm(
        "stable_baselines3",
        "TD3",
        (BOX,),
        num_envs=64,
        parameters=_OFF_POLICY | {"learning_rate": 3e-4, "policy_delay": 4},
        settings={"max_factor": 10.0},
    ),
    "recurrent-ppo": Algorithm(
        "sb3_contrib",
        "RecurrentPPO",
        (DISCRETE, BOX),
        parameters=_ON_POLICY
        | {"n_steps": 50, "batch_size": 3200, "n_epochs": 3, "learning_rate": 1e-3, "ent_coef": 0.002}
        | {"policy_kwargs": {"lstm_hidden_size": 32, "shared_lstm": True, "enable_critic_lstm": False}},
        policy="MlpLstmPolicy",
    ),
    "trpo": Algorithm(
        "sb3_contrib",
        "TRPO",
        (DISCRETE, BOX),
        parameters=_ON_POLICY
        | {"n_steps": 100, "batch_size": 6400, "target_kl": 0.06, "sub_sampling_factor": 4, "n_critic_updates": 5},
    ),
    "qrdqn": Algorithm(
        "sb3_contrib",
        "QRDQN",
        (DISCRETE,),
        two_dimensional=False,
        num_envs=64,
        parameters=_Q_LEARNING | {"policy_kwargs": {"n_quantiles": 25}},
    ),
    "tqc": Algorithm(
        "sb3_contrib",
        "TQC",
        (BOX,),
        num_envs=64,
        parameters=_OFF_POLICY | {"gamma": 0.98, "learning_rate": 3e-3, "ent_coef": 0.01},
    ),
    "ars": Algorithm(
        "sb3_contrib",
        "ARS",
        (DISCRETE, BOX),
        two_dimensional=False,
        num_envs=64,
        parameters={"n_delta": 16, "n_top": 8, "n_eval_episodes": 64, "learning_rate": 0.05, "delta_std": 0.05},
        policy="LinearPolicy",
        overcounts=True,
    ),
}


def find_algorithm(name: str) -> Algorithm:
    """Return the algorithm of a name; raises InputError, suggesting the nearest, where there is none."""
    if name not in ALGORITHMS:
        raise unknown("algorithm", name, ALGORITHMS)
    return ALGORITHMS[name]
