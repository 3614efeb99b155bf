"""Initial parameters of a run, from its seed."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from lrcontrol.envs.layout import Layout
from lrcontrol.envs.seeding import build_module

TRIED = (0, 1)  # seeds for which both ways have to agree to the last bit


class Initial:
    """Writes the parameters that ``model()`` has when torch is seeded.

    Where the model is plain Linear layers as torch initialises them, which is tried out, the numbers are drawn into
    place from the same generator; building a module for each of thousands of replicas takes ten times as long.

    Args:
        model: builds a fresh module.
        layout: of its parameters.
        is_plain: whether it is Linear layers with what has no parameters between them.
    """

    def __init__(self, model: Callable[[], nn.Module], layout: Layout, is_plain: bool) -> None:
        self._model, self._layout = model, layout
        self._generator = torch.Generator()
        self._bounds = _bounds(layout)
        self.is_direct = is_plain and all(self._agree(seed) for seed in TRIED)

    def write(self, into: Tensor, seed: int) -> None:
        """Write the parameters for a seed into a row (P,) on the CPU."""
        if self.is_direct:
            self._draw(into, seed)
        else:
            into.copy_(self._layout.flatten(build_module(self._model, seed)))

    def _draw(self, into: Tensor, seed: int) -> None:
        self._generator.manual_seed(seed)
        for part, bound in zip(torch.split(into, list(self._layout.sizes.values())), self._bounds, strict=True):
            part.uniform_(-bound, bound, generator=self._generator)

    def _agree(self, seed: int) -> bool:
        built = self._layout.flatten(build_module(self._model, seed))
        drawn = torch.empty_like(built)
        self._draw(drawn, seed)
        return torch.equal(built, drawn)


def _bounds(layout: Layout) -> list[float]:
    """Return the bound of each tensor's uniform distribution: of a Linear layer's weight, then of its bias.

    torch draws both from ±1/√(inputs), the weight's worked out as ``kaiming_uniform_`` does.
    """
    bounds: list[float] = []
    inputs = 1
    for shape in layout.shapes.values():
        if len(shape) > 1:
            inputs = shape[1]
            gain = nn.init.calculate_gain("leaky_relu", math.sqrt(5.0))
            bounds.append(math.sqrt(3.0) * (gain / math.sqrt(inputs)))
        else:
            bounds.append(1.0 / math.sqrt(inputs))
    return bounds
