"""The engine: R replicas of one training run with stacked parameters, stepped together."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lrcontrol.envs.blocks import make_blocks, take
from lrcontrol.envs.compiled import CompiledSteps, can_compile, is_wanted
from lrcontrol.envs.errors import InputError
from lrcontrol.envs.functional import StackedModule, check_functional, check_task
from lrcontrol.envs.graphs import Graphs
from lrcontrol.envs.initial import Initial
from lrcontrol.envs.layout import Layout
from lrcontrol.envs.minibatches import Minibatches
from lrcontrol.envs.mlp import StackedMLP, plain_layers
from lrcontrol.envs.optimizers import Momentum, column, make_optimizer
from lrcontrol.envs.reductions import MEASURES, SQUARES, row_dot, row_norm
from lrcontrol.envs.seeding import RunSeeds, build_module
from lrcontrol.envs.task import Data, Smoothing, Task
from lrcontrol.envs.values import Array

EVALUATED = 1000  # rows of a data set that are evaluated at once, whatever else is: a norm over them is of these
EVALUATION_NUMBERS = 1 << 22  # activations held at once then, as if a layer had 64


def pick_device(name: str) -> torch.device:
    """Return the device that ``auto`` (CUDA where there is one), ``cpu`` or ``cuda`` stands for."""
    if name not in ("auto", "cpu", "cuda"):
        raise InputError(f"unknown device {name!r}: known are auto, cpu, cuda")
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise InputError("device 'cuda': torch finds no CUDA device here; use cpu or auto")
    return torch.device("cuda" if available and name != "cpu" else "cpu")


_PROPOSING = {"grad_dot_update", "update_sq"}


def _kept(momentum: Momentum) -> Momentum:
    return momentum.copy() if isinstance(momentum, np.ndarray) else momentum


class Engine:
    """R replicas of a task; row = stream · K + k, the K rows of a stream seeing the same minibatches.

    A step passes over the replicas in blocks that stay in a cache: parameters moved, minibatch gathered, loss and
    gradient, measures, next update. Where numba is there, perceptrons take their steps one after the other in compiled
    code instead. On a GPU the blocks are as large as memory allows, and all that a step launches is a CUDA graph, where
    data are shuffled and the momentum stays. Numbers are of torch's default type, which has to be the model's: float32,
    unless ``torch.set_default_dtype`` was told otherwise.

    Args:
        task: what is trained.
        optimizer: ``"sgd"`` or ``"adamw"``.
        rows: R.
        streams: number of distinct minibatch streams; divides R. Default: one for each row.
        uses_momentum: whether SGD keeps a momentum buffer.
        weight_decay: AdamW's.
        smoothing: of the gradient's size, or None.
        measures: names among ``MEASURES``, what is to be measured after a step.
        device: where everything is kept.
        compiled: whether the steps and probes of perceptrons in float32, on the CPU, are the work of ``envs.kernels``,
            to other rounding. Default: where numba is installed, unless LRCONTROL_COMPILED, in the environment, is 0.

    Attributes:
        losses: (R,), L_t, float64; NaN where a replica is frozen.
        alive: (R,), False once a replica's loss was not finite: it is frozen, its parameters stay as they are.
        measures: float64 (R,) by name: dot products and squared norms of gradient, update, memory and parameters.
        step_count: t, optimizer steps taken since the reset.
        compiled: whether its steps and probes are compiled ones.
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
        measures: Collection[str] = (),
        device: torch.device | None = None,
        compiled: bool | None = None,
    ) -> None:
        self.task, self.rows, self.streams = task, rows, rows if streams is None else streams
        if rows < 1 or self.streams < 1 or rows % self.streams:
            raise InputError(f"streams {streams} does not divide the {rows} replicas")
        self.device = device or torch.device("cpu")
        self._wanted = [name for name in MEASURES if name in measures]
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
        self._initial = Initial(task.model, self.layout, layers is not None)
        self.minibatches = Minibatches(task, self.device)
        self._params = torch.zeros(rows, self.layout.width, device=self.device)
        row_numbers = self.model.row_numbers(task, self.streams == rows, self.device)
        self._blocks = make_blocks(rows, self.streams, row_numbers, self.layout.width, self.device)
        most = max(part.stop - part.start for block in self._blocks for part in block.parts)
        self._scratch = torch.empty(most, self.layout.width, device=self.device)
        self._nothing = torch.full((rows,), torch.nan, device=self.device)
        self._rates = torch.zeros(rows, 1, device=self.device)
        self._frozen = torch.zeros(rows, 1, dtype=torch.bool, device=self.device)
        can_replay = self.device.type == "cuda" and self.minibatches.shuffle
        self._graphs = Graphs(self.device) if can_replay else None
        self.optimizer = make_optimizer(optimizer, uses_momentum, weight_decay, smoothing, self.layout, self._params)
        self._compiler: CompiledSteps | None = None
        if layers and can_compile(self._params, self.optimizer) and is_wanted(compiled):
            self._compiler = CompiledSteps(layers, self.layout, self._params, self.optimizer, self.minibatches, task)
        self.compiled = self._compiler is not None
        into = (self.optimizer.gradient(0), self.optimizer.gradient(1))
        self._gradient_views = [[self.layout.views(flat[block.rows]) for block in self._blocks] for flat in into]
        self._views = [self.layout.views(self._params[block.rows]) for block in self._blocks]

    @property
    def params(self) -> Tensor:
        """The parameters θ_t, (R, P)."""
        return self._params[:, : self.layout.total]

    @property
    def gradient(self) -> Tensor:
        """The gradient g_t of the present minibatch at θ_t, (R, P)."""
        self._keep_gradient()
        return self.optimizer.gradient(self.step_count)[:, : self.layout.total]

    @property
    def minibatch(self) -> tuple[Tensor, Tensor]:
        """The present minibatches of all streams: inputs (S, B, …) and targets (S, B, …)."""
        return self.minibatches.all()

    def reset(self, seeds: Sequence[RunSeeds], momentum: Momentum | None = None) -> None:
        """Start all replicas anew; a stream takes its data order from the first of its rows.

        Args:
            seeds: one for each row.
            momentum: of the first update; 0 where it is not known and the update is to be measured.

        Raises:
            InputError: a first loss is not finite, so there is nothing to train.
        """
        if len(seeds) != self.rows:
            raise InputError(f"{len(seeds)} seeds for {self.rows} replicas")
        start = self.params if self.device.type == "cpu" else torch.empty(self.params.shape)
        self._initial.write(start, [seed.init for seed in seeds])
        if self.device.type != "cpu":
            self.params.copy_(start)
        self.minibatches.reset([seeds[row].data for row in range(0, self.rows, self.rows // self.streams)])
        self.optimizer.reset()
        self.step_count = 0
        self.alive = np.ones(self.rows, dtype=bool)
        self._proposed: Momentum | None = None
        self._knows_first = momentum is not None
        self._advance(None, 0.0 if momentum is None else momentum, measure=True)
        if not self.alive.all():
            raise InputError(
                f"task {self.task.name!r}: the loss before the first step is not finite "
                f"(replica {int(np.argmin(self.alive))}): check the model's initialisation and the data"
            )

    def step(self, lr: Array, momentum: Momentum, measure: bool = True) -> None:
        """Take the step θ ← θ − lr · u with lr (R,), then work out loss and gradient on the next minibatch.

        Args:
            lr: learning rates, (R,).
            momentum: of the step; one float for a momentum that never changes, else (R,).
            measure: whether ``measures`` are wanted afterwards; those of an update take the same momentum.
        """
        self._advance(lr, momentum, measure)

    def _advance(self, lr: Array | None, momentum: Momentum, measure: bool) -> None:
        if self._compiler is not None:
            self._advance_compiled(self._compiler, lr, momentum, measure)
            return
        step, is_fresh = self.step_count, not self._has_proposed(momentum)
        wanted, all_alive = self._wanted if measure else [], bool(self.alive.all())
        following = step if lr is None else step + 1
        if lr is not None:
            self._rates.copy_(torch.from_numpy(lr)[:, None])
            if not all_alive:
                self._frozen.copy_(torch.from_numpy(~self.alive)[:, None])
            self.minibatches.advance()

        def work() -> Tensor:
            return self._pass(step, following, momentum, is_fresh, all_alive, wanted)

        if self._graphs is not None and step > 0 and isinstance(momentum, float):
            self.optimizer.set_clock(step)
            table = self._graphs.run((step % 2, momentum, is_fresh, all_alive, measure), work)
        else:
            table = work()
        self._proposed = _kept(momentum) if _PROPOSING & set(wanted) else None
        found = table.cpu().numpy()
        self._take_in(following, found[0], dict(zip(wanted, found[1:], strict=True)))

    def _advance_compiled(self, compiled: CompiledSteps, lr: Array | None, momentum: Momentum, measure: bool) -> None:
        step = following = self.step_count
        if lr is not None:
            following = step + 1
            if isinstance(self._proposed, float) and not self._has_proposed(momentum):
                raise InputError(
                    f"momentum {momentum} after {self._proposed}: one that changes has to be an array (R,)"
                )
            self.propose(momentum)
            self.minibatches.advance()
        proposes = following > step or self._knows_first or bool(_PROPOSING & set(self._wanted))
        found = compiled.step(step, following, momentum, lr, self.alive, proposes)
        self._proposed = _kept(momentum) if proposes else None
        self._take_in(following, found[0], {name: found[1 + MEASURES.index(name)] for name in self._wanted if measure})

    def _take_in(self, step: int, losses: Array, measures: dict[str, Array]) -> None:
        """Take in what was found after a step: losses and measures, (R,) each."""
        self.step_count, self.losses, self.measures = step, losses, measures
        self.alive &= np.isfinite(losses)
        if not self.alive.all():
            losses[~self.alive] = np.nan

    def _pass(
        self, step: int, following: int, momentum: Momentum, is_fresh: bool, all_alive: bool, wanted: list[str]
    ) -> Tensor:
        """Go over all blocks, stepping unless it is a reset; return losses and measures, (1 + measures, R), float64."""
        optimizer = self.optimizer
        self.minibatches.forget()  # what a recording only planned to gather
        table = torch.full((1 + len(wanted), self.rows), torch.nan, dtype=torch.float64, device=self.device)
        gradients = self._gradient_views[following % 2]
        for block, views, into in zip(self._blocks, self._views, gradients, strict=True):
            if following > step:
                for rows in block.parts:
                    if is_fresh:
                        optimizer.propose(rows, step, self._params, momentum)
                    update = take(optimizer.update(step), rows)
                    if not all_alive:
                        update = update.masked_fill(self._frozen[rows], 0.0)
                    take(self._params, rows).addcmul_(update, take(self._rates, rows), value=-1.0)
                    optimizer.commit(rows, step, momentum)
            x, y = self.minibatches.batch(block.streams)
            table[0, block.rows] = self.model.loss_and_gradient(views, x, y, into)
            if wanted:
                for rows in block.parts:
                    self._measure(rows, following, momentum, wanted, table[1:])
        return table

    def _measure(self, rows: slice, step: int, momentum: Momentum, wanted: list[str], into: Tensor) -> None:
        """Write the measures of some rows into their columns of ``into`` (measures, R), proposing if they need it."""
        optimizer = self.optimizer
        gradient, memory, update = optimizer.gradient(step), optimizer.memory(step), optimizer.update(step)
        g, u, nothing = take(gradient, rows), take(update, rows), take(self._nothing, rows)
        found = {"grad_sq": row_norm(g), "memory_sq": nothing, "grad_dot_memory": nothing}
        if memory is not None and "memory_sq" in wanted:
            found["memory_sq"] = row_norm(take(memory, rows))
        if memory is not None and "grad_dot_memory" in wanted:
            found["grad_dot_memory"] = row_dot(g, take(memory, rows), self._scratch)
        if "param_sq" in wanted:
            found["param_sq"] = row_norm(take(self._params, rows))
        if _PROPOSING & set(wanted):
            optimizer.propose(rows, step, self._params, momentum)
            same = update is gradient
            found["update_sq"] = found["grad_sq"] if same else row_norm(u)
            found["grad_dot_update"] = found["update_sq"].square() if same else row_dot(g, u, self._scratch)
        table = torch.stack([found[name] for name in wanted]).double()
        table[: sum(name in SQUARES for name in wanted)].square_()
        into[:, rows] = table

    def _has_proposed(self, momentum: Momentum) -> bool:
        return self._proposed is not None and np.array_equal(self._proposed, momentum)

    def propose(self, momentum: Momentum) -> Tensor:
        """Return u_t (R, P) for the momentum of the step to come, as in ``step``."""
        if not self._has_proposed(momentum):
            self._keep_gradient()
            for block in self._blocks:
                for rows in block.parts:
                    self.optimizer.propose(rows, self.step_count, self._params, momentum)
            self._proposed = _kept(momentum)
        return self.optimizer.update(self.step_count)[:, : self.layout.total]

    def _keep_gradient(self) -> None:
        """Work out the gradient if compiled steps have not kept it, and let them keep it from now on."""
        if self._compiler is not None and not self._compiler.has_gradient:
            self._compiler.work_out_gradient(self.step_count)

    def copy(self, sources: NDArray[np.int64]) -> None:
        """Make every row a copy of the row that ``sources`` (R,) names for it, the optimizer's memory included.

        Rows should be copied within their stream: the loss and the gradient of the present minibatch come along.
        """
        index = torch.from_numpy(sources).to(self.device)
        for buffer in (self._params, *self.optimizer.buffers()):
            buffer.copy_(buffer[index])
        self.losses, self.alive = self.losses[sources], self.alive[sources]
        self.measures = {name: values[sources] for name, values in self.measures.items()}

    def probe(
        self,
        lr: Array,
        factor: float,
        momentum: Momentum,
        along_gradient: bool = False,
        other: NDArray[np.float64] | None = None,
    ) -> Array:
        """Return the present minibatch's losses (R, 2 or 3) after trial steps with lr, with factor · lr, and a third.

        The first two go along the raw gradient or along the update for ``momentum``; the third, where an ``other``
        momentum (R,) is given, with lr along the update of that. Each costs a forward pass.
        """
        if self._compiler is not None:
            return self._probe_compiled(self._compiler, lr, factor, momentum, along_gradient, other)
        step = self.step_count
        if not along_gradient:
            self.propose(momentum)
        direction = self.optimizer.gradient(step) if along_gradient else self.optimizer.update(step)
        rates = [column(trial, self._params) for trial in (lr, factor * lr, lr)[: 2 if other is None else 3]]
        losses = torch.empty(self.rows, len(rates), dtype=torch.float64, device=self.device)
        for block in self._blocks:
            here = block.rows
            count = here.stop - here.start
            trials = torch.empty(count, len(rates), self.layout.width, device=self.device)
            for number, rate in enumerate(rates):
                if number == 2:
                    assert other is not None
                    for rows in block.parts:
                        self.optimizer.propose(rows, step, self._params, other)
                torch.sub(self._params[here], direction[here] * rate[here], out=trials[:, number])
            if other is not None:
                for rows in block.parts:
                    self.optimizer.propose(rows, step, self._params, momentum)
            x, y = self.minibatches.batch(block.streams)
            losses[here] = self.model.losses(trials.flatten(0, 1), x, y).double().view(count, -1)
        return losses.cpu().numpy()

    def _probe_compiled(
        self,
        compiled: CompiledSteps,
        lr: Array,
        factor: float,
        momentum: Momentum,
        along_gradient: bool,
        other: NDArray[np.float64] | None,
    ) -> Array:
        step, kept = self.step_count, None
        if other is not None and self._has_proposed(momentum):
            kept = self.optimizer.update(step).clone()
            self._proposed = None  # both momenta are to be tried to the same rounding, by torch
        if along_gradient or other is not None:
            self._keep_gradient()
        if not along_gradient:
            self.propose(momentum)
        direction = self.optimizer.gradient(step) if along_gradient else self.optimizer.update(step)
        losses = compiled.probe(np.stack([lr, factor * lr], axis=1), direction)
        if other is not None:
            self.propose(other)
            losses = np.column_stack([losses, compiled.probe(lr[:, None], self.optimizer.update(step))])
            if kept is None:
                self.propose(momentum)
            else:
                self.optimizer.update(step).copy_(kept)
                self._proposed = _kept(momentum)
        return losses

    def evaluate(self, data: Data) -> tuple[Array, Array]:
        """Return the mean loss (R,) and accuracy (R,), NaN where the task has none, over a whole data set."""
        inputs, targets = data
        count = max(1, EVALUATION_NUMBERS // (64 * min(len(inputs), EVALUATED)))
        total, correct = np.zeros(self.rows), np.zeros(self.rows)
        for first in range(0, len(inputs), EVALUATED):
            x, y = (part[first : first + EVALUATED].to(self.device) for part in (inputs, targets))
            for rows in (slice(row, row + count) for row in range(0, self.rows, count)):
                outputs = self.model.outputs(self._params[rows], x[None])
                losses = torch.vmap(self.task.loss, in_dims=(0, None))(outputs, y)
                total[rows] += len(x) * losses.double().cpu().numpy()
                if self.task.classifies:
                    correct[rows] += (outputs.argmax(dim=-1) == y).sum(dim=1).cpu().numpy()
        accuracy = correct / len(inputs) if self.task.classifies else np.full(self.rows, np.nan)
        return total / len(inputs), accuracy
