"""Many multilayer perceptrons at once: stacked matrix products and a backward pass written out.

Activations are kept feature-major, (R, features, B), so that the first layer of all K replicas of a stream is one wide
product with their shared minibatch, and the softmax runs over a strided axis that vectorises along the batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lrcontrol.envs.layout import Layout
from lrcontrol.envs.task import Task

THIN = 16  # a lone product with fewer rows takes another kernel, and other rounding, than the same product in a stack
FEW = 128  # rows in a minibatch up to which a GPU multiplies replica by replica: one product for all has to copy
LARGE = 1 << 14  # products into a strided view run row by row on one thread; alone it beats a copy from this size on

_aten = torch.ops.aten
# Module type: forward in place, and backward from the upstream gradient, which it overwrites, and the output.
_ACTIVATIONS: dict[type[nn.Module], tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]] = {
    nn.Tanh: (torch.tanh_, lambda into, output: _aten.tanh_backward.grad_input(into, output, grad_input=into)),
    nn.ReLU: (
        torch.relu_,
        lambda into, output: _aten.threshold_backward.grad_input(into, output, 0, grad_input=into),
    ),
    nn.ELU: (
        F.elu_,
        lambda into, output: _aten.elu_backward.grad_input(into, 1, 1, 1, True, output, grad_input=into),
    ),
}


@dataclass(frozen=True)
class PlainLayer:
    """A linear layer and what follows it: the names of its parameters, and the activation's type."""

    weight: str
    bias: str
    activation: type[nn.Module] | None


def plain_layers(module: nn.Module, task: Task) -> list[PlainLayer] | None:
    """Return the layers if it is a perceptron that ``StackedMLP`` can run on ``task``, else None, for the general path.

    It can where the module is a plain ``nn.Sequential`` of Linear layers with tanh, ReLU or ELU between, none of them
    used twice, reparametrised or hooked, trained with ``F.cross_entropy`` on class numbers, or with ``F.mse_loss``, on
    flat inputs of torch's default type (and targets, where they are values).
    """
    inputs, targets = task.train
    if type(module) is not nn.Sequential or inputs.ndim != 2 or inputs.dtype != torch.get_default_dtype():
        return None
    if any(part._forward_hooks or part._forward_pre_hooks for part in module.modules()):
        return None
    if not (task.classifies and task.loss is F.cross_entropy) and task.loss is not F.mse_loss:
        return None
    layers: list[PlainLayer] = []
    for name, part in module._modules.items():  # with those that stand there twice
        if type(part) is nn.Linear and part.bias is not None and (not layers or layers[-1].activation):
            layers.append(PlainLayer(f"{name}.weight", f"{name}.bias", None))
            width = part.out_features
        elif layers and layers[-1].activation is None and _is_known_activation(part):
            layers[-1] = PlainLayer(layers[-1].weight, layers[-1].bias, type(part))
        else:
            return None
    if not layers or layers[-1].activation is not None:
        return None
    if task.loss is F.mse_loss and (targets.shape != (len(inputs), width) or targets.dtype != inputs.dtype):
        return None
    names = [name for layer in layers for name in (layer.weight, layer.bias)]
    return layers if sorted(names) == sorted(name for name, _ in module.named_parameters()) else None


def _is_known_activation(part: nn.Module | None) -> bool:
    return type(part) in _ACTIVATIONS and getattr(part, "alpha", 1.0) == 1.0


def _is_best_in_place(shape: tuple[int, int, int]) -> bool:
    return shape[1] * shape[2] >= LARGE and (shape[0] == 1 or torch.get_num_threads() == 1)


def _is_each(x: Tensor) -> bool:
    return x.is_cuda and x.shape[1] <= FEW


def _repeated(x: Tensor, rows: int) -> Tensor:
    """Return each row's minibatch (R, B, D) of those of the streams (S, B, D): a view where S is 1 or R."""
    return x if len(x) == rows else x[:, None].expand(-1, rows // len(x), -1, -1).reshape(rows, *x.shape[1:])


def _bmm(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    """Return the products of stacked matrices, the same for a stack of one as within a larger stack."""
    if a.shape[0] == 1 and a.shape[1] < THIN:
        product = torch.bmm(a.expand(2, -1, -1), b.expand(2, -1, -1))[:1]
        return product if out is None else out.copy_(product)
    if out is None:
        return torch.bmm(a, b)
    return torch.bmm(a, b, out=out)


class StackedMLP:
    """R multilayer perceptrons of one shape; rows of one stream stand together (row = stream · K + k).

    Args:
        layers: what ``plain_layers`` returned.
        layout: where the parameters stand in a row.
        task: gives the loss.
    """

    def __init__(self, layers: list[PlainLayer], layout: Layout, task: Task) -> None:
        self.layers, self.layout = layers, layout
        self.cross_entropy = task.loss is F.cross_entropy
        self._buffers: dict[tuple[str, int], tuple[Tensor, Tensor]] = {}  # memory, and its last view

    def _buffer(self, name: str, layer: int, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Return memory that is kept from call to call; large tensors are slow to allocate anew."""
        whole, view = self._buffers.get((name, layer), (None, None))
        if view is not None and view.shape == shape and view.device == like.device:
            return view
        numbers = math.prod(shape)
        if whole is None or whole.shape[0] < numbers or whole.device != like.device:
            whole = torch.empty(numbers, dtype=like.dtype, device=like.device)
        view = whole[:numbers].view(shape)
        self._buffers[name, layer] = whole, view
        return view

    def _forward(self, views: dict[str, Tensor], x: Tensor, use: str) -> list[Tensor]:
        """Return every layer's output, (R, features, B)."""
        streams, batch = x.shape[0], x.shape[1]
        outputs: list[Tensor] = []
        for number, layer in enumerate(self.layers):
            weight, bias = views[layer.weight], views[layer.bias]
            rows, features, width = weight.shape
            out = self._buffer(use, number, (rows, features, batch), x)
            if number == 0 and _is_each(x):
                _bmm(weight, _repeated(x, rows).transpose(1, 2), out)
            elif number == 0:
                wide = weight.reshape(streams, rows // streams * features, width)
                _bmm(wide, x.transpose(1, 2), out.view(streams, -1, batch))
            else:
                _bmm(weight, outputs[-1], out)
            out += bias[:, :, None]
            if layer.activation is not None:
                _ACTIVATIONS[layer.activation][0](out)
            outputs.append(out)
        return outputs

    def _targets(self, y: Tensor, rows: int) -> Tensor:
        """Return each row's targets, feature-major: class numbers (R, 1, B) or values (R, O, B)."""
        features = y[:, None] if self.cross_entropy else y.transpose(1, 2)
        if rows == features.shape[0]:
            return features
        return features[:, None].expand(-1, rows // features.shape[0], -1, -1).reshape(rows, *features.shape[1:])

    def _loss(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return the losses (R,) and what the gradient is made from: log-probabilities or residuals (R, O, B).

        The mean over the minibatch is taken in float64: a probe compares losses that differ by less than float32 tells.
        """
        if self.cross_entropy:
            log_p = output.log_softmax(dim=1)
            return -log_p.gather(1, target)[:, 0].double().mean(dim=1), log_p
        residual = output - target
        return residual.double().square().flatten(1).mean(dim=1), residual

    def losses(self, params: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Return the losses (R,) of parameters (R, P) on minibatches x (S, B, D), y (S, B, …)."""
        output = self._forward(self.layout.views(params), x, "probe")[-1]
        return self._loss(output, self._targets(y, output.shape[0]))[0]

    def outputs(self, params: Tensor, x: Tensor) -> Tensor:
        """Return the networks' outputs (R, B, O)."""
        return self._forward(self.layout.views(params), x, "outputs")[-1].transpose(1, 2)

    def row_numbers(self, task: Task, own_minibatch: bool, device: torch.device) -> int:
        """Return how many numbers a row's loss and gradient take: parameters, activations, its minibatch."""
        features = [self.layout.shapes[layer.weight] for layer in self.layers]
        activations = 2 * sum(outputs for outputs, _ in features) + (features[0][1] if own_minibatch else 0)
        return self.layout.width + task.batch_size * activations

    def loss_and_gradient(self, views: dict[str, Tensor], x: Tensor, y: Tensor, into: dict[str, Tensor]) -> Tensor:
        """Return the losses (R,) of parameters given as views, and write the gradients into views."""
        outputs = self._forward(views, x, "forward")
        target = self._targets(y, outputs[-1].shape[0])
        losses, kept = self._loss(outputs[-1], target)
        delta = self._output_gradient(kept, target)
        for number in range(len(self.layers) - 1, 0, -1):
            layer, below = self.layers[number], self.layers[number - 1].activation
            self._parameter_gradient(layer, delta, outputs[number - 1].transpose(1, 2), into)
            upstream = self._buffer("backward", number, tuple(outputs[number - 1].shape), delta)
            _bmm(views[layer.weight].transpose(1, 2), delta, upstream)
            assert below is not None
            delta = _ACTIVATIONS[below][1](upstream, outputs[number - 1])
        streams, batch = x.shape[0], x.shape[1]
        if _is_each(x):
            self._parameter_gradient(self.layers[0], delta, _repeated(x, len(delta)), into)
        else:
            self._parameter_gradient(self.layers[0], delta.reshape(streams, -1, batch), x, into)
        return losses

    def _output_gradient(self, kept: Tensor, target: Tensor) -> Tensor:
        if not self.cross_entropy:
            return kept.mul_(2.0 / (kept.shape[1] * kept.shape[2]))
        probabilities = kept.exp_()
        probabilities.scatter_add_(1, target, probabilities.new_full((), -1.0).expand(target.shape))
        return probabilities.mul_(1.0 / kept.shape[2])

    def _parameter_gradient(self, layer: PlainLayer, delta: Tensor, below: Tensor, into: dict[str, Tensor]) -> None:
        """Write one layer's gradients from delta (groups, features, B) and the layer's input (groups, B, D)."""
        weight, bias = into[layer.weight], into[layer.bias]
        shape = (delta.shape[0], delta.shape[1], below.shape[2])
        if shape == tuple(weight.shape) and (weight.is_cuda or _is_best_in_place(shape)):
            _bmm(delta, below, weight)
            torch.sum(delta, dim=2, out=bias)
            return
        product = self._buffer(layer.weight, 0, shape, delta)
        weight.copy_(_bmm(delta, below, product).view(weight.shape))
        torch.sum(delta.view(weight.shape[0], weight.shape[1], -1), dim=2, out=bias)
