"""Where each parameter tensor of a model stands in one flat row of all its parameters."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

LINE = 16  # float32 numbers in a cache line


class Layout:
    """The order, names and shapes of a module's P parameters; R replicas are one tensor (R, width).

    ``width`` is P rounded up to whole cache lines, the rest being zeros: rows start alike in memory, so that kernels
    round a row the same wherever it stands. ``matrices`` is how many parameters have two dimensions or more.
    """

    def __init__(self, module: nn.Module) -> None:
        self.shapes = {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
        self.sizes = {name: parameter.numel() for name, parameter in module.named_parameters()}
        self.total = sum(self.sizes.values())
        self.matrices = sum(len(shape) > 1 for shape in self.shapes.values())
        self.width = -(-self.total // LINE) * LINE

    def flatten(self, module: nn.Module) -> Tensor:
        """Return the module's parameters as one row (P,), of torch's default type."""
        return parameters_to_vector(module.parameters()).detach().to(torch.get_default_dtype())

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """Return the tensors (R, *shape) by name, views of ``flat`` (R, P or width)."""
        parts = torch.split(flat[:, : self.total], list(self.sizes.values()), dim=1)
        return {
            name: part.view(len(part), *shape) for part, (name, shape) in zip(parts, self.shapes.items(), strict=True)
        }
