"""Initial parameters of a run, from its seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from lrcontrol.envs.layout import Layout
from lrcontrol.envs.seeding import build_module


class Initial:
    """Writes the parameters that ``model()`` has when torch is seeded, for many seeds at once.

    Where the model is plain Linear layers as torch initialises them, the numbers are drawn into place from the same
    generator, which takes a tenth of the time of building a module for each seed. Whether it is, is tried out with the
    first seed of each call; a model that did one thing for some seeds and another for others would not be found out.

    Args:
        model: builds a fresh module.
        layout: of its parameters.
        is_plain: whether it is Linear layers with what has no parameters between them.

    Attributes:
        is_direct: whether numbers are drawn into place, as far as is known.
    """

    def __init__(self, model: Callable[[], nn.Module], layout: Layout, is_plain: bool) -> None:
        self._model, self._layout, self.is_direct = model, layout, is_plain
        self._generator = torch.Generator()
        self._bounds = _bounds(layout) if is_plain else []

    def write(self, into: Tensor, seeds: Sequence[int]) -> None:
        """Write the parameters for the seeds (R,) into rows (R, P) on the CPU."""
        if self.is_direct and len(seeds) > 1:
            self._draw(into[0], seeds[0])
            self.is_direct = torch.equal(into[0], self._built(seeds[0]))
        for row, seed in enumerate(seeds):
            if row and seed == seeds[row - 1]:  # the rows of a stream are usually of one run
                into[row] = into[row - 1]
            elif self.is_direct and row:
                self._draw(into[row], seed)
            else:
                into[row] = self._built(seed)

    def _draw(self, into: Tensor, seed: int) -> None:
        self._generator.manual_seed(seed)
        for part, bound in zip(torch.split(into, list(self._layout.sizes.values())), self._bounds, strict=True):
            part.uniform_(-bound, bound, generator=self._generator)

    def _built(self, seed: int) -> Tensor:
        return self._layout.flatten(build_module(self._model, seed))


def _bounds(layout: Layout) -> list[float]:
    """Return the bound of the uniform distribution of each weight (outputs, inputs) and of the bias that follows it.

    torch draws both from ±1/√(inputs), the weight's worked out as ``kaiming_uniform_`` does.
    """
    bounds: list[float] = []
    inputs = 1
    for shape in layout.shapes.values():
        if len(shape) > 1:
            inputs = shape[1]
            gain = nn.init.calculate_gain("leaky_relu", math.sqrt(5.0))
            bounds.append(math.sqrt(3.0) * (gain / math.sqrt(max(1, inputs))))
        else:
            bounds.append(1.0 / math.sqrt(max(1, inputs)))
    return bounds
