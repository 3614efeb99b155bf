"""Many copies of any ``nn.Module`` at once, through ``torch.func``."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from lrcontrol.envs.errors import InputError
from lrcontrol.envs.layout import Layout
from lrcontrol.envs.task import Task

KEPT = 4  # copies of each activation that are alive at once on a GPU: of forward, of backward, and what vmap rearranges


def check_functional(module: nn.Module, task: Task) -> None:
    """Raise InputError where a forward pass is random or changes the module: replicas could not share it."""
    for name, part in module.named_modules():
        if getattr(part, "track_running_stats", False) and getattr(part, "running_mean", None) is not None:
            raise InputError(
                f"task {task.name!r}: {type(part).__name__} {name!r} keeps running statistics, which replicas cannot "
                f"share: build it with track_running_stats=False or use GroupNorm or LayerNorm"
            )
        if isinstance(part, nn.modules.dropout._DropoutNd) and part.p > 0.0:
            raise InputError(f"task {task.name!r}: {type(part).__name__} {name!r} is random: build it with p=0")
    frozen = [name for name, parameter in module.named_parameters() if not parameter.requires_grad]
    if frozen:
        raise InputError(
            f"task {task.name!r}: parameter {frozen[0]!r} does not require a gradient, and all are trained here: make "
            f"what is fixed a buffer (register_buffer)"
        )
    kept = torch.get_default_dtype()
    names = [name for name, parameter in module.named_parameters() if parameter.dtype != kept]
    if names:
        raise InputError(
            f"task {task.name!r}: parameter {names[0]!r} is not {kept}, which replicas are kept in: it is torch's "
            f"default type, and torch.set_default_dtype sets another"
        )
    if not any(True for _ in module.parameters()):
        raise InputError(f"task {task.name!r}: the model has no parameters to train")


def check_task(module: nn.Module, task: Task) -> None:
    """Raise InputError where the model cannot be run on the task's data, or the loss is not one number."""
    x, y = (part[: task.batch_size] for part in task.train)
    randomness = torch.get_rng_state()
    try:
        with torch.no_grad():
            outputs = module(x)
            loss = task.loss(outputs, y)
    except (RuntimeError, IndexError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"task {task.name!r}: model and loss do not run on a minibatch of inputs {tuple(x.shape)} and targets "
            f"{tuple(y.shape)}: {reason}"
        ) from error
    if not torch.equal(randomness, torch.get_rng_state()):
        raise InputError(f"task {task.name!r}: a forward pass draws random numbers, which replicas could not share")
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        shape = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        raise InputError(f"task {task.name!r}: the loss must be one number, the mean over the minibatch, not {shape}")
    for data in (task.train, task.test):
        if task.classifies and data is not None:
            low, high = int(data[1].min()), int(data[1].max())
            if low < 0 or high >= outputs.shape[-1]:
                raise InputError(
                    f"task {task.name!r}: class numbers from {low} to {high}, but the model has {outputs.shape[-1]} "
                    f"outputs, for the classes 0..{outputs.shape[-1] - 1}"
                )


def _activations(module: nn.Module, x: Tensor) -> int:
    """Return how many numbers the outputs of all the module's innermost parts are."""
    sizes: list[int] = []
    hooks = [
        part.register_forward_hook(lambda _, __, output: sizes.append(output.numel() if torch.is_tensor(output) else 0))
        for part in module.modules()
        if not any(True for _ in part.children())
    ]
    try:
        with torch.no_grad():
            module(x)
    finally:
        for hook in hooks:
            hook.remove()
    return x.numel() + sum(sizes)


def mean_square(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return what ``F.mse_loss`` does, whose batching rule fails where vmaps are nested (torch 2.13)."""
    return (outputs - targets).square().mean()


class StackedModule:
    """R copies of a module; the rows of one stream stand together (row = stream · K + k).

    Convolutions on the CPU run row by row: a stack of them becomes a grouped convolution, which is no faster there and
    rounds differently from the single one. Everything else is stacked by ``torch.vmap``.
    """

    def __init__(self, module: nn.Module, layout: Layout, task: Task) -> None:
        self.module, self.layout = module, layout
        is_mse = task.loss is F.mse_loss or (isinstance(task.loss, nn.MSELoss) and task.loss.reduction == "mean")
        self.loss = mean_square if is_mse else task.loss
        self.convolves = any(isinstance(part, nn.modules.conv._ConvNd) for part in module.modules())

    def _call(self, params: dict[str, Tensor], x: Tensor) -> Tensor:
        output = functional_call(self.module, params, (x,))
        assert isinstance(output, Tensor)
        return output

    def _loss(self, params: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return self.loss(self._call(params, x), y)

    def _map(self, function: Callable[..., Tensor], views: dict[str, Tensor], *data: Tensor) -> Tensor:
        """Return ``function(parameters of row r, *data of its stream)`` for all rows, stacked."""
        rows, streams = len(next(iter(views.values()))), len(data[0])
        replicas = rows // streams
        if self.convolves and data[0].device.type == "cpu":
            return torch.stack(
                [
                    function(
                        {name: view[row] for name, view in views.items()}, *(part[row // replicas] for part in data)
                    )
                    for row in range(rows)
                ]
            )
        if rows == 1:  # a stack of one takes other kernels, and other rounding, than the same row in a larger stack
            views = {name: view.expand(2, *view.shape[1:]) for name, view in views.items()}
            return self._vmap(function, views, data, 2)[:1]
        return self._vmap(function, views, data, replicas)

    @staticmethod
    def _vmap(
        function: Callable[..., Tensor], views: dict[str, Tensor], data: tuple[Tensor, ...], replicas: int
    ) -> Tensor:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "There is a performance drop")  # vmap's note on a missing batching rule
            if replicas == 1:
                return torch.vmap(function)(views, *data)
            nested = {name: view.view(-1, replicas, *view.shape[1:]) for name, view in views.items()}
            over_replicas = torch.vmap(function, in_dims=(0, *(None for _ in data)))
            return torch.vmap(over_replicas)(nested, *data).flatten(0, 1)

    def losses(self, params: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Return the losses (R,) of parameters (R, P) on minibatches x (S, B, …), y (S, B, …)."""
        with torch.no_grad():
            return self._map(self._loss, self.layout.views(params), x, y)

    def outputs(self, params: Tensor, x: Tensor) -> Tensor:
        """Return the modules' outputs (R, B, …)."""
        with torch.no_grad():
            return self._map(self._call, self.layout.views(params), x)

    def row_numbers(self, task: Task, own_minibatch: bool, device: torch.device) -> int:
        """Return how many numbers a row's loss and gradient take, about.

        On the CPU little is reckoned: a call is dear here, and blocks should be few.
        """
        if device.type == "cpu":
            return self.layout.width // 8 + 1
        return self.layout.width + KEPT * _activations(self.module, task.train[0][: task.batch_size].to(device))

    def loss_and_gradient(self, views: dict[str, Tensor], x: Tensor, y: Tensor, gradient: dict[str, Tensor]) -> Tensor:
        """Return the losses (R,) of parameters given as views, and write the gradients into views."""
        with torch.enable_grad():
            leaves = {name: view.detach().requires_grad_() for name, view in views.items()}
            losses = self._map(self._loss, leaves, x, y)
            found = torch.autograd.grad(losses.sum(), list(leaves.values()), materialize_grads=True)
        for into, part in zip(gradient.values(), found, strict=True):
            into.copy_(part)
        return losses.detach()
