"""Our vector environments in the shape that Stable-Baselines3 trains on; imported only where that is wanted."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env.base_vec_env import VecEnv

from lrcontrol.envs.errors import InputError
from lrcontrol.envs.gym import TrainingVectorEnv


class SB3VecEnv(VecEnv):
    """One ``TrainingVectorEnv``, or several of the same spaces side by side, as Stable-Baselines3's ``VecEnv``.

    Both reset in the same step. The last observation of an episode is ``infos[i]["terminal_observation"]``; infos hold
    lr, momentum, loss and diverged of the step itself. Arrays are fresh in every step and may be kept.

    Args:
        envs: the environments.
    """

    def __init__(self, *envs: TrainingVectorEnv) -> None:
        self.envs = envs  # before the base class asks for the render mode
        ends = np.cumsum([env.num_envs for env in envs])
        self._slices = [slice(end - env.num_envs, end) for env, end in zip(envs, ends, strict=True)]
        super().__init__(int(ends[-1]), envs[0].single_observation_space, envs[0].single_action_space)
        self._actions: NDArray[Any] = np.zeros(0)

    def reset(self) -> NDArray[np.float32]:
        """Start all runs anew, with the seeds and options (``lr0``) that were set since the last reset.

        Raises:
            InputError: some environments were given an ``lr0`` and others not, or another option was.
        """
        observations, self.reset_infos = [], []
        for env, rows in zip(self.envs, self._slices, strict=True):
            seeds = [seed for seed in self._seeds[rows] if seed is not None]
            observation, infos = env.reset(seed=seeds or None, options=_together(self._options[rows]))
            observations.append(observation)
            self.reset_infos += _rows(infos)
        self._reset_seeds()
        self._reset_options()
        return np.concatenate(observations)

    def step_async(self, actions: NDArray[Any]) -> None:
        """Keep the actions for ``step_wait``."""
        self._actions = actions

    def step_wait(self) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]:
        """Return observations (N, F), rewards (N,), whether episodes ended (N,), and infos."""
        parts = [_step(env, self._actions[rows]) for env, rows in zip(self.envs, self._slices, strict=True)]
        observation, reward, over = (np.concatenate([part[number] for part in parts]) for number in range(3))
        return observation, reward, over, [info for part in parts for info in part[3]]

    def close(self) -> None:
        """Nothing to close."""

    def get_attr(self, attr_name: str, indices: int | Iterable[int] | None = None) -> list[Any]:
        """Return the attribute of each index's environment."""
        return [getattr(self._of(index), attr_name) for index in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: int | Iterable[int] | None = None) -> None:
        """Set an attribute of the environments that the indices share."""
        for env in self.envs:
            setattr(env, attr_name, value)

    def env_method(
        self, method_name: str, *arguments: Any, indices: int | Iterable[int] | None = None, **keywords: Any
    ) -> list[Any]:
        """Call a method of the environments once each, and return its result for each index."""
        results = {id(env): getattr(env, method_name)(*arguments, **keywords) for env in self.envs}
        return [results[id(self._of(index))] for index in self._get_indices(indices)]

    def _of(self, index: int) -> TrainingVectorEnv:
        return next(env for env, rows in zip(self.envs, self._slices, strict=True) if index < rows.stop)

    def env_is_wrapped(self, wrapper_class: type[Any], indices: int | Iterable[int] | None = None) -> list[bool]:
        """Return False for each index: there are no single environments to wrap."""
        return [False for _ in self._get_indices(indices)]


def _together(options: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the options of single environments as those of them all."""
    names = {name for one in options for name in one}
    if any(names != one.keys() for one in options):
        raise InputError(f"options {sorted(names)} were given to some environments only: give them to all")
    return {name: [one[name] for one in options] for name in names}


def _step(
    env: TrainingVectorEnv, actions: NDArray[Any]
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]:
    observation, reward, terminated, _, infos = env.step(actions)
    rows = _rows(infos)
    for row in np.flatnonzero(terminated):
        final = infos["final_info"]
        rows[row] = {name: values[row] for name, values in final.items() if not name.startswith("_")}
        rows[row] |= {"terminal_observation": infos["final_obs"][row], "TimeLimit.truncated": False}
    return observation, reward.astype(np.float32), np.asarray(terminated, dtype=bool), rows


def _rows(infos: dict[str, Any]) -> list[dict[str, Any]]:
    """Return Gymnasium's infos by name as a list of infos by row."""
    columns = (infos[name].tolist() for name in ("lr", "momentum", "loss", "diverged"))
    return [
        {"lr": lr, "momentum": momentum, "loss": loss, "diverged": diverged}
        for lr, momentum, loss, diverged in zip(*columns, strict=True)
    ]
