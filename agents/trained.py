"""Trained agents: a folder of weights and JSON, read and applied without pickle, Stable-Baselines3 or Gymnasium."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrcontrol.agents.base import Observation, State, as_array
from lrcontrol.agents.network import Network
from lrcontrol.envs import features
from lrcontrol.envs.errors import InputError
from lrcontrol.envs.schedules import Schedule
from lrcontrol.envs.settings import Settings

FORMAT = 1
NEEDS = ("hyperparameters", "multipliers", "max_factor", "form", "base_schedule", "start", "interval", "features")
LIMITS = ("lr_limits", "momentum_limits", "max_relative_step")
UNLESS_DEFAULT = ("knows_budget", *LIMITS, "probe_factor", "probe_direction")
DESCRIPTION, WEIGHTS = "agent.json", "policy.safetensors"


def needs_of(settings: Settings) -> dict[str, Any]:
    """Return what an agent that was trained with ``settings`` needs of them wherever it is run."""
    changed = (name for name in UNLESS_DEFAULT if getattr(settings, name) != getattr(Settings, name))
    return {name: getattr(settings, name) for name in (*NEEDS, *changed)}


@dataclass(frozen=True)
class TrainedAgent:
    """A network that somebody trained, in the shape of every other agent; it always takes its best action.

    Args:
        name: what tables call it; for one that was loaded, its folder.
        needs: the settings it was trained with, as ``needs_of`` gives them.
        network: reads the features of ``needs``, answers with actions.
        algorithm: what trained it.
        training: where it comes from, as kept in agent.json.
    """

    name: str
    needs: Mapping[str, Any]
    network: Network
    algorithm: str
    training: Mapping[str, Any]

    def __post_init__(self) -> None:
        wanted = self.needs["features"]
        if self.network.inputs != len(wanted):
            raise InputError(
                f"agent {self.name!r}: its network reads {self.network.inputs} features, but it names {len(wanted)}"
            )

    def predict(
        self,
        observation: Observation,
        state: State = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[Any], State]:
        """See Agent; the state is the network's memory, where it has one.

        Raises:
            InputError: the observation has another number of features.
        """
        x = as_array(observation)
        if x.shape[-1] != self.network.inputs:
            names = ", ".join(self.needs["features"])
            raise InputError(
                f"agent {self.name!r} reads the {self.network.inputs} features {names}, not the {x.shape[-1]} of this "
                f"environment: make it with features=agent.needs['features']"
            )
        rows = (x if x.ndim == 2 else x[None]).astype(np.float32, copy=False)
        outputs, memory = self.network.outputs(rows, self._memory(len(rows), state, episode_start))
        action = self.network.act(outputs)
        return (action[0] if x.ndim == 1 else action), memory

    def _memory(self, rows: int, state: State, start: NDArray[np.bool_] | None) -> tuple[Any, Any] | None:
        if not self.network.units:
            return None
        if state is None:
            state = (np.zeros((rows, self.network.units), np.float32),) * 2
        kept = np.ones((rows, 1), np.float32) if start is None else 1.0 - np.asarray(start, np.float32).reshape(rows, 1)
        return state[0] * kept, state[1] * kept

    def save(self, folder: Path) -> None:
        """Write agent.json and policy.safetensors into the folder, which is made."""
        from safetensors.numpy import save

        folder.mkdir(parents=True, exist_ok=True)
        weights = save({name: np.ascontiguousarray(tensor) for name, tensor in self.network.tensors.items()})
        needs = {name: asdict(value) if isinstance(value, Schedule) else value for name, value in self.needs.items()}
        description = {
            "format": FORMAT,
            "algorithm": self.algorithm,
            "features_version": features.VERSION,
            "needs": needs,
            "spaces": self._spaces(),
            "network": {
                "activation": self.network.activation,
                "head": self.network.head,
                "sizes": self.network.sizes,
                "weights_sha256": hashlib.sha256(weights).hexdigest(),
            },
            "training": self.training,
        }
        (folder / WEIGHTS).write_bytes(weights)
        (folder / DESCRIPTION).write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")

    def _spaces(self) -> dict[str, Any]:
        action = {"discrete": self.network.sizes} if self.needs["multipliers"] else {"box": [len(self.network.sizes)]}
        return {"observation": {"box": [self.network.inputs], "limit": features.LIMIT}, "action": action}

    @classmethod
    def load(cls, folder: str | Path) -> TrainedAgent:
        """Read an agent's folder; no code from it is run and no other file in it is opened.

        Raises:
            InputError: there is no agent in the folder, it is damaged, or this version does not know its features.
        """
        folder, name = Path(folder).expanduser(), str(folder)
        if not (folder / DESCRIPTION).is_file():
            raise InputError(f"{name} holds no trained agent: there is no {DESCRIPTION} in it")
        try:
            found = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
            if found["format"] != FORMAT:
                raise InputError(f"agent {name!r} has format {found['format']}; this version reads {FORMAT}")
            _check_features(name, found["features_version"], found["needs"]["features"])
            needs: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in found["needs"].items()}
            needs["base_schedule"] = Schedule(**needs["base_schedule"])
            needs.setdefault("start", None)  # folders from before there was one
            Settings.make(needs)
            shape = found["network"]
            tensors = _read_weights(folder / WEIGHTS, shape["weights_sha256"])
            network = Network(tensors, shape["activation"], shape["head"], tuple(shape["sizes"]))
            return cls(name, needs, network, found["algorithm"], found["training"])
        except (KeyError, TypeError, AttributeError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise InputError(f"{folder / DESCRIPTION} is damaged ({type(error).__name__}: {error})") from error


def _check_features(name: str, version: int, wanted: list[str]) -> None:
    unknown = [feature for feature in wanted if feature not in features.FEATURES]
    if unknown:
        raise InputError(f"agent {name!r} reads features that this version does not have: {', '.join(unknown)}")
    if version != features.VERSION:
        raise InputError(
            f"agent {name!r} was trained on version {version} of the features, and this is version {features.VERSION}: "
            f"they mean something else now; train it again"
        )


def _read_weights(path: Path, sha256: str) -> dict[str, NDArray[np.float32]]:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    if not path.is_file():
        raise InputError(f"{path.parent} holds no trained agent: there is no {path.name} in it")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise InputError(f"{path} is damaged, or not the one that {DESCRIPTION} was written with")
    try:
        return load(content)
    except SafetensorError as error:
        raise InputError(f"{path} is damaged: {error}") from error
