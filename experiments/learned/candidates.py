"""The policies among which a search chooses: many of one shape, each on a run of its own, as one agent."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from lrcontrol.agents.trained import TrainedAgent


@dataclass(frozen=True)
class Shape:
    """A network of F inputs, ``hidden`` tanh units or none, and one output; K candidates' weights are (K, size)."""

    inputs: int
    hidden: int
    outputs: int = 1

    @property
    def size(self) -> int:
        """The number of weights."""
        if not self.hidden:
            return self.outputs * (self.inputs + 1)
        return self.hidden * (self.inputs + 1) + self.outputs * (self.hidden + 1)

    def split(self, weights: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return each layer's weight (K, out, in) and bias (K, out)."""
        layers, at = [], 0
        sizes = [self.inputs, self.hidden, self.outputs] if self.hidden else [self.inputs, self.outputs]
        for inputs, outputs in itertools.pairwise(sizes):
            weight = weights[:, at : at + inputs * outputs].reshape(-1, outputs, inputs)
            at += inputs * outputs
            layers.append((weight, weights[:, at : at + outputs]))
            at += outputs
        return layers

    def act(self, weights: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Return the actions (K, outputs) of candidates (K, size) on observations (K, F), a row each."""
        return np.clip(self.answer(weights, x), -1.0, 1.0)

    def answer(self, weights: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Return what the actions are before they are held to −1..1."""
        layers = self.split(weights)
        for number, (weight, bias) in enumerate(layers):
            x = np.einsum("koi,ki->ko", weight, x) + bias
            if number < len(layers) - 1:
                x = np.tanh(x)
        return x


class Candidates:
    """K policies as one agent, each on a run of its own; what a base answers on the same features is added to each.

    A shape of several times as many inputs as there are features is of policies that see the last observations as well.
    """

    def __init__(
        self,
        weights: np.ndarray,
        shape: Shape,
        scale: np.ndarray,
        features: tuple[str, ...],
        base: Path | None = None,
        needs: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self.weights, self.shape, self.scale, self.frames = weights, shape, scale, shape.inputs // len(features)
        self.name, self.needs = "candidates", needs
        self.base = None if base is None else TrainedAgent.load(base)
        seen = () if self.base is None else self.base.needs["features"]
        self.columns = [features.index(name) for name in seen]

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> Any:
        """Return the action of every candidate on its row; the state is the observations that it still remembers."""
        scaled = (observation - self.scale[0]) / self.scale[1]
        frames = [scaled, *([scaled] * (self.frames - 1) if state is None else state)]
        outputs = self.shape.answer(self.weights, np.concatenate(frames, axis=1))
        if self.base is not None:
            added = self.base.network.outputs(observation[:, self.columns])[0]
            outputs[:, : added.shape[1]] += added
        return np.clip(outputs, -1.0, 1.0), frames[:-1]


class Watched:
    """An agent, and what it was shown."""

    def __init__(self, agent: Any) -> None:
        self.agent, self.name, self.needs = agent, agent.name, agent.needs
        self.seen: list[np.ndarray] = []

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> Any:
        """Return the agent's actions."""
        self.seen.append(observation)
        return self.agent.predict(observation, state, episode_start, deterministic)
