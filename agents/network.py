"""A trained policy network, applied with numpy alone."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrcontrol.envs.errors import InputError

Float = NDArray[np.float32]
Tensors = Mapping[str, Float]

ACTIVATIONS: dict[str, Callable[[Float], Float]] = {
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, np.float32(0.0)),
}
HEADS = ("argmax", "clip", "tanh")


@dataclass(frozen=True)
class Network:
    """An optional LSTM, fully connected layers, and a head that turns their outputs into an action.

    Args:
        tensors: ``layers.0.weight`` (out, in), ``layers.0.bias`` (out,), and so on; with a memory of H units also
            ``lstm.weight_ih`` (4H, in), ``lstm.weight_hh`` (4H, H) and ``lstm.bias`` (4H,), gates in torch's order:
            input, forget, cell, output. Biases may be missing.
        activation: between the layers, ``"tanh"`` or ``"relu"``.
        head: ``"argmax"`` over each of ``sizes`` outputs, a discrete action; ``"clip"`` or ``"tanh"`` to −1..1, a
            continuous one.
        sizes: how many outputs belong to each dimension of the action.

    Raises:
        InputError: the tensors do not make such a network.
    """

    tensors: Tensors
    activation: str
    head: str
    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS or self.head not in HEADS:
            raise InputError(f"a network with activation {self.activation!r} and head {self.head!r} is not known")
        if not self.depth:
            raise InputError("the network has no layers.0.weight")
        width = self.inputs
        if self.units:
            shapes = [self.tensors[name].shape for name in ("lstm.weight_hh", "lstm.bias") if name in self.tensors]
            if shapes != [(4 * self.units, self.units), (4 * self.units,)]:
                raise InputError(f"the network's LSTM of {self.units} units has tensors of shapes {shapes}")
            width = self.units
        for number, (weight, bias) in enumerate(self.layers):
            if weight.ndim != 2 or weight.shape[1] != width or (bias is not None and bias.shape != weight.shape[:1]):
                raise InputError(f"layer {number} of the network has shape {weight.shape}, but {width} inputs")
            width = weight.shape[0]
        if width != sum(self.sizes):
            raise InputError(f"the network has {width} outputs, but its actions {self.sizes}")

    @functools.cached_property
    def depth(self) -> int:
        """The number of layers."""
        return sum(name.startswith("layers.") and name.endswith(".weight") for name in self.tensors)

    @functools.cached_property
    def units(self) -> int:
        """The size of the memory, 0 without one."""
        return self.tensors["lstm.weight_ih"].shape[0] // 4 if "lstm.weight_ih" in self.tensors else 0

    @functools.cached_property
    def inputs(self) -> int:
        """The number of features it reads."""
        return int(self.tensors["lstm.weight_ih" if self.units else "layers.0.weight"].shape[1])

    @functools.cached_property
    def layers(self) -> list[tuple[Float, Float | None]]:
        """Weight (out, in) and bias (out,) of each layer; a bias may be missing."""
        for number in range(self.depth):
            if f"layers.{number}.weight" not in self.tensors:
                raise InputError(f"the network has no layers.{number}.weight")
        names = (f"layers.{number}" for number in range(self.depth))
        return [(self.tensors[f"{name}.weight"], self.tensors.get(f"{name}.bias")) for name in names]

    def outputs(self, x: Float, memory: tuple[Float, Float] | None = None) -> tuple[Float, tuple[Float, Float] | None]:
        """Return outputs (R, O) and the new memory (hidden, cell), (R, H) each, for observations (R, F)."""
        if memory is not None:
            x, memory = self._remember(x, memory)
        for number, (weight, bias) in enumerate(self.layers):
            x = ACTIVATIONS[self.activation](x) if number else x
            x = _product(x, weight)
            x = x if bias is None else x + bias
        return x, memory

    def _remember(self, x: Float, memory: tuple[Float, Float]) -> tuple[Float, tuple[Float, Float]]:
        """Take an LSTM step (Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000)."""
        hidden, cell = memory
        gates = _product(x, self.tensors["lstm.weight_ih"]) + _product(hidden, self.tensors["lstm.weight_hh"])
        take, keep, new, show = np.split(gates + self.tensors["lstm.bias"], 4, axis=1)
        cell = _sigmoid(keep) * cell + _sigmoid(take) * np.tanh(new)
        hidden = _sigmoid(show) * np.tanh(cell)
        return hidden, (hidden, cell)

    def act(self, outputs: Float) -> NDArray[Any]:
        """Return the actions for outputs (R, O): indices (R,) or (R, D), or numbers (R, D)."""
        if self.head == "tanh":
            return np.tanh(outputs)
        if self.head == "clip":
            return np.minimum(np.maximum(outputs, np.float32(-1.0)), np.float32(1.0))
        parts = np.split(outputs, np.cumsum(self.sizes)[:-1], axis=1)
        chosen = np.stack([part.argmax(axis=1) for part in parts], axis=1)
        return chosen[:, 0] if len(self.sizes) == 1 else chosen


def _product(x: Float, weight: Float) -> Float:
    """Return x Wᵀ, each row the same whatever rows stand beside it, which a matrix product does not promise."""
    product: Float = np.einsum("rf,of->ro", x, weight)
    return product


def _sigmoid(x: Float) -> Float:
    return np.asarray(0.5 * (np.tanh(0.5 * x) + 1.0), np.float32)
