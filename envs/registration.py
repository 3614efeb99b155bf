"""Tells Gymnasium the environments' names."""

from __future__ import annotations

import gymnasium

from lrcontrol.envs.registry import TASKS


def register_environments() -> None:
    """Register ``lrcontrol/Training-v0`` and one id for each task, such as ``lrcontrol/digits-mlp-v0``, once."""
    for name in ("Training", *TASKS):
        if f"lrcontrol/{name}-v0" not in gymnasium.registry:
            gymnasium.register(
                id=f"lrcontrol/{name}-v0",
                entry_point="lrcontrol.envs.gym:TrainingEnv",
                vector_entry_point="lrcontrol.envs.gym:TrainingVectorEnv",
                kwargs={} if name == "Training" else {"task": name},
            )
