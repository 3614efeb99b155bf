"""The engine: R replicas of one training run with stacked parameters, stepped together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lrcontrol.envs.errors import InputError
from lrcontrol.envs.features import Array
from lrcontrol.envs.functional import StackedModule, check_functional, check_task
from lrcontrol.envs.layout import Layout
from lrcontrol.envs.minibatches import Minibatches
from lrcontrol.envs.mlp import StackedMLP, plain_layers
from lrcontrol.envs.optimizers import Momentum, column, make_optimizer
from lrcontrol.envs.reductions import row_blocks
from lrcontrol.envs.seeding import RunSeeds, build_module
from lrcontrol.envs.task import Data, Smoothing, Task

EVALUATION_NUMBERS = 1 << 22  # activations held at once while a whole data set is evaluated


def pick_device(name: str) -> torch.device:
    """Return the device that ``auto`` (CUDA where there is one), ``cpu`` or ``cuda`` stands for."""
    if name not in ("auto", "cpu", "cuda"):
        raise InputError(f"unknown device {name!r}: known are auto, cpu, cuda")
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise InputError("device 'cuda': torch finds no CUDA device here; use cpu or auto")
    return torch.device("cuda" if available and name != "cpu" else "cpu")


class Engine:
    """R replicas of a task; row = stream · K + k, the K rows of a stream seeing the same minibatches.

    Args:
        task: what is trained.
        optimizer: ``"sgd"`` or ``"adamw"``.
        rows: R.
        streams: number of distinct minibatch streams; divides R. Default: one for each row.
        uses_momentum: whether SGD keeps a momentum buffer.
        weight_decay: AdamW's.
        smoothing: of the gradient's size, or None.
        device: where everything is kept.

    Attributes:
        params: (R, P), the parameters θ_t.
        gradient: (R, P), g_t of the minibatch at θ_t.
        update: (R, P), the direction u_t proposed last, or None after a step.
        losses: (R,), L_t, float64; NaN where a replica is frozen.
        alive: (R,), False once a replica's loss was not finite: it is frozen, its parameters stay as they are.
        step_count: optimizer steps taken since the reset.
    """

    def __init__(
        self,
        task: Task,
        optimizer: str,
        rows: int,
        streams: int | None = None,
        *,
        uses_momentum: bool = False,
        weight_decay: float = 0.0,
        smoothing: Smoothing | None = None,
        device: torch.device | None = None,
    ) -> None:
        self.task, self.rows, self.streams = task, rows, rows if streams is None else streams
        if rows < 1 or self.streams < 1 or rows % self.streams:
            raise InputError(f"streams {streams} does not divide the {rows} replicas")
        self.device = device or torch.device("cpu")
        self._optimizer_arguments = (optimizer, uses_momentum, weight_decay, smoothing)
        module = build_module(task.model, 0)
        check_functional(module, task)
        check_task(module, task)
        self.layout = Layout(module)
        layers = plain_layers(module, task)
        self.model: StackedMLP | StackedModule = (
            StackedModule(module.to(self.device), self.layout, task)
            if layers is None
            else StackedMLP(layers, self.layout, task)
        )
        self.minibatches = Minibatches(task, self.device)
        shape = (rows, self.layout.total)
        self.params = torch.empty(shape, device=self.device)
        self.gradient, self._other_gradient = torch.empty_like(self.params), torch.empty_like(self.params)

    def reset(self, seeds: Sequence[RunSeeds]) -> None:
        """Start all replicas anew; a stream takes its data order from the first of its rows.

        Raises:
            InputError: a first loss is not finite, so there is nothing to train.
        """
        if len(seeds) != self.rows:
            raise InputError(f"{len(seeds)} seeds for {self.rows} replicas")
        initial: dict[int, Tensor] = {}
        for row, seed in enumerate(seeds):
            if seed.init not in initial:
                initial[seed.init] = self.layout.flatten(build_module(self.task.model, seed.init))
            self.params[row] = initial[seed.init]
        self.minibatches.reset([seeds[row].data for row in range(0, self.rows, self.rows // self.streams)])
        self.optimizer = make_optimizer(*self._optimizer_arguments, self.layout)
        self.update: Tensor | None = None
        self.step_count = 0
        self.alive = np.ones(self.rows, dtype=bool)
        self._measure_next_minibatch()
        if not self.alive.all():
            raise InputError(
                f"task {self.task.name!r}: the loss before the first step is not finite "
                f"(replica {int(np.argmin(self.alive))}): check the model's initialisation and the data"
            )

    def _measure_next_minibatch(self) -> None:
        self._x, self._y = self.minibatches.draw()
        losses = self.model.loss_and_gradient(self.params, self._x, self._y, self.gradient)
        self.losses: Array = losses.double().cpu().numpy()
        self.alive &= np.isfinite(self.losses)
        if not self.alive.all():
            self.losses[~self.alive] = np.nan

    def propose(self, momentum: Momentum) -> Tensor:
        """Return u_t (R, P) for the momentum, one number or (R,), of the step to come."""
        self.update = self.optimizer.propose(self.params, self.gradient, momentum)
        return self.update

    def step(self, lr: Array, momentum: Momentum) -> None:
        """Take the step θ ← θ − lr · u with lr (R,), then measure loss and gradient on the next minibatch."""
        update = self.propose(momentum) if self.update is None else self.update
        rates = column(lr, update)
        frozen = None if self.alive.all() else torch.from_numpy(~self.alive).to(self.device)[:, None]
        for rows in row_blocks(update):
            step = update[rows] * rates[rows]
            if frozen is not None:
                step.masked_fill_(frozen[rows], 0.0)
            self.params[rows] -= step
        self.optimizer.commit()
        self.update = None
        self.step_count += 1
        self.gradient, self._other_gradient = self._other_gradient, self.gradient
        self._measure_next_minibatch()

    def probe(
        self, lr: Array, factor: float, along_gradient: bool, momenta: tuple[Momentum, Momentum] | None = None
    ) -> Array:
        """Return the present minibatch's losses (R, 2 or 3) after trial steps with lr, with factor · lr, and a third.

        The first two go along the raw gradient or along the update proposed last; the third, where ``momenta`` are the
        present and another momentum, with lr along the update of the other. Each costs a forward pass.
        """
        direction = self.gradient if along_gradient else self.update
        assert direction is not None
        steps = [column(lr, direction) * direction, column(factor * lr, direction) * direction]
        if momenta is not None:
            present, other = momenta
            steps.append(column(lr, direction) * self.propose(other))
            self.propose(present)
        trials = torch.stack([self.params - step for step in steps], dim=1).flatten(0, 1)
        losses = self.model.losses(trials, self._x, self._y)
        return np.asarray(losses.double().cpu().numpy().reshape(self.rows, len(steps)))

    def evaluate(self, data: Data) -> tuple[Array, Array]:
        """Return the mean loss (R,) and accuracy (R,), NaN where the task has none, over a whole data set."""
        inputs, targets = data
        chunk = max(1, min(len(inputs), 1000, EVALUATION_NUMBERS // (64 * self.rows)))
        total, correct = np.zeros(self.rows), np.zeros(self.rows)
        for first in range(0, len(inputs), chunk):
            x, y = (part[first : first + chunk].to(self.device) for part in (inputs, targets))
            outputs = self.model.outputs(self.params, x[None])
            total += len(x) * torch.vmap(self.task.loss, in_dims=(0, None))(outputs, y).double().cpu().numpy()
            if self.task.classifies:
                correct += (outputs.argmax(dim=-1) == y).sum(dim=1).cpu().numpy()
        accuracy = correct / len(inputs) if self.task.classifies else np.full(self.rows, np.nan)
        return total / len(inputs), accuracy
