"""A controller for Hugging Face's ``Trainer``, which gives a callback neither the loss nor a say in its schedule."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from lrcontrol.controller import LRController
from lrcontrol.controller_rates import unwrapped
from lrcontrol.envs.errors import InputError


class PassThrough(LRScheduler):
    """A schedule that leaves the rates as they are, and whose state is the controller's.

    The Trainer steps its scheduler after every step of the optimizer, and even ``"constant"`` writes the rate then.
    With this one it saves and loads the controller in its checkpoints, as ``scheduler.pt``.

    Args:
        controller: what sets the rates.
    """

    def __init__(self, controller: LRController) -> None:
        self.controller = controller
        super().__init__(controller.optimizer)

    def get_lr(self) -> list[float | Tensor]:
        """Return the rates in force."""
        return self.controller.get_last_lr()

    def get_last_lr(self) -> list[float | Tensor]:
        """Return the rates in force: the Trainer logs them before it steps its scheduler."""
        return self.controller.get_last_lr()

    def step(self, epoch: int | None = None) -> None:
        """Change nothing."""
        self._last_lr = self.get_lr()

    def state_dict(self) -> dict[str, Any]:
        """Return the controller's state."""
        return self.controller.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the controller's state."""
        self.controller.load_state_dict(state_dict)


class ControllerCallback(TrainerCallback):
    """Steps a controller before the optimizer, with the mean loss of the gradients accumulated.

    Args:
        trainer: whose ``training_step``, ``compute_loss`` and ``log`` are asked; it asks this callback for them.
        controller: what is stepped.
    """

    def __init__(self, trainer: Any, controller: LRController) -> None:
        self.trainer, self.controller = trainer, controller
        self._step: Callable[..., Tensor] = trainer.training_step
        self._loss: Tensor | None = None
        self._batches: list[tuple[Any, Any, Any]] = []
        self._log: Callable[..., None] = trainer.log
        trainer.training_step, trainer.log = self.training_step, self.log

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """Do what the trainer's own does, and keep the minibatch and its share of the mean loss."""
        loss = self._step(model, inputs, num_items_in_batch)
        share = loss.detach()
        self._loss = share if self._loss is None else self._loss + share
        if self.controller.probes:
            self._batches.append((model, inputs, num_items_in_batch))
        return loss

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Let the controller set the rate of this step."""
        if self._loss is not None:
            self.controller.step(self._loss, closure=self._again)
        self._loss, self._batches = None, []

    def _again(self) -> Tensor:
        """Return the mean loss of the minibatches with the parameters as they are now."""
        trainer, losses = self.trainer, []
        for model, inputs, items in self._batches:
            with torch.no_grad(), trainer.compute_loss_context_manager():
                loss = trainer.compute_loss(model, trainer._prepare_inputs(inputs), num_items_in_batch=items)
            shared = (trainer.model_accepts_loss_kwargs and items is not None) or trainer.compute_loss_func is not None
            losses.append(loss.mean() if shared else loss.mean() / len(self._batches))
        return torch.stack(losses).sum()

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add what the agent saw to what the trainer logs of its training."""
        if "loss" in logs:
            logs = logs | {f"lrcontrol_{name}": value for name, value in self.controller.logs().items()}
        self._log(logs, *args, **kwargs)


def control_trainer(trainer: Any, agent: Any = "learned", **arguments: Any) -> LRController:
    """Put a controller on a ``Trainer``, before ``trainer.train()``, and return it.

    The rate starts at ``args.learning_rate``, which ``learned`` does not look at; ``args.lr_scheduler_type`` has no
    effect any more (``base_schedule`` is for warm-ups). Checkpoints hold the controller, and
    ``resume_from_checkpoint`` goes on with it. A probing agent repeats ``compute_loss`` on the minibatches of the step,
    without gradients.

    Args:
        trainer: a ``transformers.Trainer``, with its optimizer or without one yet, and without a scheduler.
        agent: see ``LRController``.
        arguments: further arguments of ``LRController``; ``total_steps`` is worked out from the trainer by default.

    Raises:
        InputError: the trainer has a scheduler already, or an argument cannot be used.
    """
    if trainer.lr_scheduler is not None:
        raise InputError(
            "the Trainer has a scheduler already, which would undo what the agent does: leave it out of "
            "optimizers=(…), and call this before train()"
        )
    if trainer.optimizer is None:
        trainer.create_optimizer()
    if "total_steps" not in arguments:
        arguments["total_steps"] = _total_steps(trainer)
    assert trainer.optimizer is not None
    controller = LRController(unwrapped(trainer.optimizer), agent, **arguments)
    trainer.lr_scheduler = PassThrough(controller)
    trainer.add_callback(ControllerCallback(trainer, controller))
    return controller


def _total_steps(trainer: Any) -> int | None:
    args = trainer.args
    if args.max_steps > 0:
        return int(args.max_steps)
    try:
        batches = len(trainer.get_train_dataloader())
    except (TypeError, ValueError):  # it has no length, or there is no data set yet
        return None
    steps: int = max(1, math.ceil(batches / args.gradient_accumulation_steps))
    epochs: float = args.num_train_epochs
    return math.ceil(epochs * steps)
