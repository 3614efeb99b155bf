"""A model of Stable-Baselines3, trained on one of our environments by whatever means, as an agent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrcontrol.agents.base import Observation, PolicyPredictor, State
from lrcontrol.envs.errors import InputError
from lrcontrol.envs.settings import Settings

RUN_FIELDS = (  # which are the run's and not the model's
    *("task", "optimizer", "steps", "momentum", "weight_decay", "smoothing", "lr0_range"),
    *("reward", "reward_scale", "validation_share"),
)


@dataclass(frozen=True)
class SB3Agent:
    """A model in memory; its ``predict`` is the model's own.

    Args:
        name: what tables call it.
        model: the model.
        needs: the settings of its environment.
    """

    name: str
    model: PolicyPredictor
    needs: Mapping[str, Any]

    @classmethod
    def of(cls, model: Any, name: str | None = None) -> SB3Agent:
        """Return the agent of a model that still holds the environment it was trained on.

        Raises:
            InputError: it has no ``predict``, no environment of ours, or one under VecNormalize or a wrapper that
                changes observations or actions.
        """
        env = model.get_env() if callable(getattr(model, "get_env", None)) else None
        try:
            settings = env.get_attr("settings", 0)[0] if env is not None else None
        except AttributeError:
            settings = None
        if env is None or not callable(getattr(model, "predict", None)) or not isinstance(settings, Settings):
            raise InputError(
                f"a {type(model).__name__} is no agent: give a spelling, a trained agent's folder, an object with "
                f"name, needs and predict, or a Stable-Baselines3 model with an environment of lrcontrol"
            )
        if getattr(model, "get_vec_normalize_env", lambda: None)() is not None:
            raise InputError(
                f"the {type(model).__name__} reads observations normalised by VecNormalize, not those it would "
                f"be shown: train it without; they are of order 1, and clipped, as they are"
            )
        import gymnasium

        for kind in (gymnasium.ObservationWrapper, gymnasium.ActionWrapper):
            if any(env.env_is_wrapped(kind)):
                raise InputError(
                    f"the {type(model).__name__} was trained in an environment under a gymnasium.{kind.__name__}, and "
                    f"would see and do here what it does not know: train it without"
                )
        needs = {f.name: getattr(settings, f.name) for f in fields(settings) if f.name not in RUN_FIELDS}
        return cls(name or type(model).__name__.lower(), model, needs)

    def predict(
        self,
        observation: Observation,
        state: State = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[Any], State]:
        """See Agent."""
        return self.model.predict(observation, state, episode_start, deterministic)
