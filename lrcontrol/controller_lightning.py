"""A controller for Lightning: a ``Callback``, in place of what ``configure_optimizers`` calls a scheduler."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from lrcontrol.controller import LRController
from lrcontrol.controller_rates import unwrapped
from lrcontrol.envs.errors import InputError


class LightningController(Callback):
    """Lets an agent set the rate of a module's optimizer, before each of its steps: ``Trainer(callbacks=[…])``.

    The module is left as it is, with one optimizer and no scheduler. Accumulated gradients count once, with their mean
    loss. A probing agent repeats ``training_step`` on the last minibatch, without gradients and without what it logs;
    metrics that the step itself updates are updated by the repetitions too. The controller travels in the checkpoint.

    Args:
        agent: see ``LRController``.
        log: give rate, momentum and features to the trainer's loggers, every ``log_every_n_steps`` steps.
        arguments: further arguments of ``LRController``; ``total_steps`` is the trainer's own estimate by default.

    Attributes:
        controller: the ``LRController``, from the start of training on.
    """

    def __init__(self, agent: Any = "learned", *, log: bool = True, **arguments: Any) -> None:
        self.agent, self.log, self.arguments = agent, log, arguments
        self.controller: LRController | None = None
        self._waiting: dict[str, Any] | None = None
        self._batch: tuple[Any, int] | None = None
        self._loss: Tensor | None = None
        self._shares = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the controller on the optimizer.

        Raises:
            InputError: there is not exactly one optimizer, or a scheduler that would undo what the agent does.
        """
        if len(trainer.optimizers) != 1:
            raise InputError(
                f"the module has {len(trainer.optimizers)} optimizers, and this callback controls one: call an "
                f"LRController for each in training_step, under manual optimisation"
            )
        if trainer.lr_scheduler_configs:
            raise InputError(
                "configure_optimizers returns a scheduler too, which would undo what the agent does: return the "
                "optimizer alone, and give base_schedule to the callback for a warm-up"
            )
        arguments = dict(self.arguments)
        steps = trainer.estimated_stepping_batches
        if "total_steps" not in arguments and math.isfinite(steps) and steps > 0:
            arguments["total_steps"] = int(steps)
        self.controller = LRController(unwrapped(trainer.optimizers[0]), self.agent, **arguments)
        if self._waiting is not None:
            self.controller.load_state_dict(self._waiting)
            self._waiting = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Keep the minibatch for a probe."""
        self._batch = batch, batch_idx

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Add up the losses of accumulated gradients, each of which is its share of the mean."""
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        share = loss.detach() if scaler is None else loss.detach() / scaler.get_scale()
        self._loss = share if self._loss is None else self._loss + share
        self._shares += 1

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Let the controller set the rate of this step."""
        if self.controller is None or self._loss is None:
            return
        loss = self._loss
        if pl_module.automatic_optimization:  # Lightning has divided each by all, but an epoch may end before
            loss = loss * (trainer.accumulate_grad_batches / self._shares)
            clip = {name: getattr(trainer, name) for name in ("gradient_clip_val", "gradient_clip_algorithm")}
            pl_module.configure_gradient_clipping(optimizer, **clip)  # which Lightning does next, and finds done
        self.controller.step(loss, closure=lambda: self._again(trainer, pl_module))
        self._loss, self._shares = None, 0
        every: int = getattr(trainer, "log_every_n_steps", 1)
        if self.log and every and trainer.global_step % every == 0:
            logs = {f"lrcontrol/{name}": value for name, value in self.controller.logs().items()}
            for logger in trainer.loggers:
                logger.log_metrics(logs, step=trainer.global_step)

    def _again(self, trainer: Trainer, pl_module: LightningModule) -> Tensor:
        """Return the loss of the last minibatch with the parameters as they are now."""
        assert self._batch is not None
        count = len(inspect.signature(pl_module.training_step).parameters)
        with _silenced(pl_module), torch.no_grad():
            output: Any = trainer.strategy.training_step(*self._batch[:count])
        loss = output["loss"] if isinstance(output, dict) else output
        if not isinstance(loss, Tensor):
            raise InputError(f"training_step returned a {type(output).__name__}: a probe needs its loss")
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Return the controller's state."""
        return {} if self.controller is None else self.controller.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the controller's state, put in force when training starts."""
        self._waiting = state_dict or None


@contextmanager
def _silenced(module: LightningModule) -> Iterator[None]:
    """Make ``log`` and ``log_dict`` of a module do nothing."""

    def nothing(*_: Any, **__: Any) -> None:
        pass

    names = ("log", "log_dict")
    kept = {name: module.__dict__[name] for name in names if name in module.__dict__}
    module.__dict__.update(dict.fromkeys(names, nothing))
    try:
        yield
    finally:
        for name in names:
            del module.__dict__[name]
        module.__dict__.update(kept)
