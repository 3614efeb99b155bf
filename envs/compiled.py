"""Runs compiled training steps and probes on an engine's memory, the replicas shared out among threads."""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import logging
import os
import warnings
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import lru_cache
from pathlib import Path
from pickle import UnpicklingError
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from lrcontrol.envs.errors import InputError
from lrcontrol.envs.layout import Layout
from lrcontrol.envs.minibatches import Minibatches
from lrcontrol.envs.mlp import PlainLayer
from lrcontrol.envs.optimizers import SGD, AdamW, BaseOptimizer, Momentum
from lrcontrol.envs.reductions import MEASURES
from lrcontrol.envs.task import Task
from lrcontrol.envs.values import Array

VARIABLE = "LRCONTROL_COMPILED"
WORTH = 1_000_000  # parameters times examples that are worth handing to a thread: a tenth of a millisecond
FEW = 1 << 17  # numbers of a minibatch up to which it stays in a core's own cache beside all else

_told: ContextVar[bool | None] = ContextVar("told", default=None)


@contextmanager
def telling(compiled: bool) -> Iterator[None]:
    """Compile steps or not, whatever this process would do by itself: a worker does as the others do."""
    token = _told.set(compiled)
    try:
        yield
    finally:
        _told.reset(token)


def is_wanted(compiled: bool | None = None) -> bool:
    """Return whether steps are to be compiled: as told, or as LRCONTROL_COMPILED (0 or 1) says, or if numba is there.

    Raises:
        InputError: they are to be, and numba cannot be imported; or another value of the variable.
    """
    value = os.environ.get(VARIABLE, "")
    if value not in ("", "0", "1"):
        raise InputError(f"{VARIABLE}={value}: 1 compiles training steps, 0 does not, and without it numba decides")
    told = _told.get() if compiled is None else compiled
    if told is None and value:
        told = value == "1"
    if told is False:
        return False
    failure = _failure()
    if failure and told:
        raise InputError(
            f"compiled training steps need numba ({failure}): pip install 'lrcontrol[fast]', or set {VARIABLE}=0"
        )
    return not failure


@lru_cache(maxsize=1)
def _failure() -> str:
    """Return why numba cannot be used, nothing if it can; an installed one that cannot is worth a warning."""
    if importlib.util.find_spec("numba") is None:
        return "it is not installed"
    if os.environ.get("NUMBA_DISABLE_JIT", "0") != "0":
        return "NUMBA_DISABLE_JIT is set"
    try:
        importlib.import_module("lrcontrol.envs.kernels")
    except Exception as error:  # whatever an installation that does not fit the others raises
        warnings.warn(f"numba cannot be used, so training steps are not compiled: {error}", stacklevel=2)
        return str(error)
    return ""


@lru_cache(maxsize=4)
def _say_that_it_takes_long(name: str, kernel: Any) -> None:
    """Tell a user who would wait for a function of ``envs.kernels`` without knowing for what."""
    folder = kernel.stats.cache_path
    if folder is None or not any(Path(folder).glob(f"kernels.{name}-*.nbi")):
        what = "training steps: some twenty" if name.startswith("train") else "probes: some six"
        often = "each time, since numba has no folder to keep them" if folder is None else "once on this machine"
        logging.getLogger("lrcontrol").warning("compiling %s seconds, %s", what, often)


class Threads:
    """The threads of compiled steps: as many as torch has, or had when they were set apart."""

    _apart = 0

    @classmethod
    def count(cls) -> int:
        """Return how many there are."""
        return cls._apart or torch.get_num_threads()

    @classmethod
    def set_apart(cls) -> None:
        """Leave torch one thread: when it has done its work it waits for more by spinning, where steps could run."""
        cls._apart = cls.count()
        torch.set_num_threads(1)

    @classmethod
    def give_back(cls) -> None:
        """Give torch all of them again."""
        if cls._apart:
            torch.set_num_threads(cls._apart)
        cls._apart = 0


@lru_cache(maxsize=1)
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """Return threads that live as long as the process: a forked one, which has none of them, gets its own."""
    return ThreadPoolExecutor(threads, thread_name_prefix="lrcontrol")


def can_compile(params: Tensor, optimizer: BaseOptimizer) -> bool:
    """Return whether a perceptron's steps can be compiled: in float32 on the CPU, without smoothing of the gradient."""
    return isinstance(optimizer, SGD | AdamW) and params.dtype == torch.float32 and params.device.type == "cpu"


class CompiledSteps:
    """Takes and tries training steps of perceptrons by ``envs.kernels``, on an engine's and its optimizer's memory.

    Args:
        layers: what ``plain_layers`` returned.
        layout: where the parameters stand in a row.
        params: of all replicas, (R, P) or more, float32.
        optimizer: with its memory.
        minibatches: gives data and orders.
        task: whose loss is the cross-entropy or the mean squared error.

    Attributes:
        has_gradient: whether the gradient of the last step was kept, which it is where it is the update, where momenta
            change, and once it was asked for.
    """

    def __init__(
        self,
        layers: list[PlainLayer],
        layout: Layout,
        params: Tensor,
        optimizer: BaseOptimizer,
        minibatches: Minibatches,
        task: Task,
    ) -> None:
        from lrcontrol.envs import kernels

        assert isinstance(optimizer, SGD | AdamW)
        self._optimizer, self._minibatches = optimizer, minibatches
        if isinstance(optimizer, AdamW):
            self._kind = kernels.ADAMW
        else:
            self._kind = kernels.HEAVY_BALL if optimizer.uses_momentum else kernels.PLAIN
        codes: dict[type[nn.Module] | None, int] = {None: kernels.NONE, nn.Tanh: kernels.TANH}
        codes |= {nn.ReLU: kernels.RELU, nn.ELU: kernels.ELU}
        begins = dict(zip(layout.sizes, np.cumsum([0, *layout.sizes.values()]), strict=False))
        rows = []
        for layer in layers:
            features, wide = layout.shapes[layer.weight]
            rows.append((begins[layer.weight], begins[layer.bias], wide, features, codes[layer.activation]))
        self._plan = np.array(rows, dtype=np.int64)
        width = int(self._plan[0, 2])
        self._is_wide = width >= kernels.WIDE and width * minibatches.batch_size <= FEW
        self._keeps_gradient, self.has_gradient = False, True
        self._params, count, self._batch = params, len(params), minibatches.batch_size
        self._losses, self._sums = np.empty(count), np.empty((count, len(MEASURES)))
        self._settings, self._rates = np.zeros((count, 8), np.float32), np.zeros(count, np.float32)
        self._inputs = minibatches.inputs.contiguous().numpy()
        targets, classifies = minibatches.targets.contiguous().numpy(), task.loss is F.cross_entropy
        self._labels = targets if classifies else np.zeros(0, np.int64)
        self._values = np.zeros((0, int(self._plan[-1, 3])), np.float32) if classifies else targets
        self._memory: dict[int, tuple[NDArray[Any] | None, ...]] = {}  # of each thread
        self._work = self._batch * layout.total
        widths = self._plan[:, 3]
        self._scratch = self._batch * int(widths.sum() + 2 * max(2, widths.max()))
        # For a part of the gradient, or for a trial all parameters of a replica.
        self._part = max(kernels.AT_ONCE, 4 * int(self._plan[:, 2].max()), layout.width)

    def step(
        self,
        step: int,
        following: int,
        momentum: Momentum,
        lr: Array | None,
        alive: NDArray[np.bool_],
        proposes: bool = True,
    ) -> Array:
        """Take a step, work out loss and gradient and propose the next update; return losses and sums, (7, R).

        Args:
            step: t, whose update is proposed already.
            following: t + 1, or t at a reset, where nothing moves.
            momentum: of both steps.
            lr: learning rates, (R,); None at a reset.
            alive: which replicas move, (R,).
            proposes: whether the next update is to be proposed.
        """
        from lrcontrol.envs import kernels

        optimizer, rows = self._optimizer, len(self._params)
        begins, whole = following == 0, slice(0, rows)
        if lr is not None:
            with np.errstate(over="ignore"):
                self._rates[:] = lr
            optimizer.commit(whole, step, momentum)
        self._settings[:, 0], self._settings[:, 1] = momentum, 1.0 - np.asarray(momentum)
        if isinstance(optimizer, AdamW):
            taken, memory, squares = following + 1.0, optimizer.means, optimizer.squares
            self._settings[:, 2:4] = optimizer.beta2, 1.0 - optimizer.beta2
            self._settings[:, 4] = 1.0 / (1.0 - np.asarray(momentum) ** taken)
            self._settings[:, 5] = 1.0 / np.sqrt(1.0 - optimizer.beta2**taken)
            self._settings[:, 6:] = optimizer.epsilon, optimizer.weight_decay
        else:
            memory = squares = optimizer.update(following + 1)  # the last one's, whose place the next one takes
        kind = self._kind if proposes else kernels.PLAIN
        # Momenta that change are proposed for anew, from the gradient.
        gathers = self._keeps_gradient or kind == kernels.PLAIN or not isinstance(momentum, float)
        moving = alive if lr is not None else np.zeros(rows, dtype=bool)
        self._train(step, following, moving, kind, begins, isinstance(momentum, float), gathers, memory, squares)
        self.has_gradient = gathers
        if proposes and isinstance(optimizer, AdamW):
            optimizer.take_in(following)
        if begins:
            self._sums[:, [1, 4]] = np.nan
        return np.vstack([self._losses, self._sums.T])

    def work_out_gradient(self, step: int) -> None:
        """Write the present minibatch's gradient, the same bits as if it had been kept, and keep it from now on."""
        from lrcontrol.envs import kernels

        update, resting = self._optimizer.update(step), np.zeros(len(self._params), dtype=bool)
        self._train(step, step, resting, kernels.PLAIN, False, False, True, update, update)
        self._keeps_gradient = self.has_gradient = True

    def _train(
        self,
        step: int,
        following: int,
        moving: NDArray[np.bool_],
        kind: int,
        begins: bool,
        keeps: bool,
        gathers: bool,
        memory: Tensor,
        squares: Tensor,
    ) -> None:
        """Let ``kernels.train`` take the step, or none, on the memory as it stands."""
        given = (
            self._plan,
            moving,
            self._rates,
            kind,
            begins,
            keeps,
            gathers,
            self._params.numpy(),  # anew each time: a copy of an engine has other memory
            self._optimizer.gradient(following).numpy(),
            memory.numpy(),
            squares.numpy(),
            self._optimizer.update(step).numpy(),
            self._optimizer.update(following).numpy(),
            self._settings,
        )
        self._share_out("train", given, (self._losses, self._sums))

    def probe(self, rates: Array, direction: Tensor) -> Array:
        """Return the present minibatch's losses (R, T) after trial steps with the rates (R, T) along (R, P)."""
        with np.errstate(over="ignore"):
            trials = rates.astype(np.float32)
        losses = np.empty(rates.shape)
        self._share_out("probe", (self._plan, trials, self._params.numpy(), direction.numpy()), (losses,))
        return losses

    def _share_out(self, name: str, given: tuple[Any, ...], into: tuple[Array, ...]) -> None:
        """Let threads, this one among them, take parts of the replicas until none is left."""
        from lrcontrol.envs import kernels

        threads, rows = Threads.count(), len(self._params)
        count = max(1, min(4 * threads, rows, rows * self._work // WORTH))
        edges, parts = [rows * part // count for part in range(count + 1)], SimpleQueue[tuple[int, int]]()
        for part in itertools.pairwise(edges):
            parts.put(part)
        name += "_wide" if self._is_wide else "_narrow"
        kernel, data = getattr(kernels, name), (self._minibatches.index(), self._inputs, self._labels, self._values)
        _say_that_it_takes_long(name, kernel)

        def take(number: int) -> None:
            self._take(kernel, (*given, data), into, parts, number)

        waiting: list[Future[None]] = []
        try:
            with suppress(RuntimeError):  # while Python ends, threads do not begin any more: this one does it all
                for number in range(1, min(threads, count)):
                    waiting.append(_pool(threads, os.getpid()).submit(take, number))
            take(0)
        finally:
            wait(waiting)
        for other in waiting:
            other.result()

    def _take(
        self,
        kernel: Any,
        given: tuple[Any, ...],
        into: tuple[Array, ...],
        parts: SimpleQueue[tuple[int, int]],
        number: int,
    ) -> None:
        """Take parts until none is left, in the memory of the thread of this number."""
        if number not in self._memory:
            width, outputs = self._inputs.shape[1], self._values.shape[1]
            self._memory[number] = (
                np.empty(self._batch * width, np.float32),
                np.empty(min(self._batch, len(self._labels)), np.int64),
                np.empty((min(self._batch, len(self._values)), outputs), np.float32),
                np.empty(self._scratch, np.float32),
                np.empty(self._part, np.float32),
                np.empty(width, np.uint32) if self._is_wide else None,
                np.empty(width // 4 + 1, np.uint32) if self._is_wide else None,
                np.empty(4 * width, np.float32) if self._is_wide else None,
            )
        while True:
            try:
                first, last = parts.get_nowait()
            except Empty:
                return
            try:
                kernel(*given, self._memory[number], *into, first, last)
            except (OSError, EOFError, UnpicklingError) as error:  # before it has begun
                folder = kernel.stats.cache_path
                raise InputError(
                    f"numba cannot use its cache in {folder}: {error}. Delete that folder, set NUMBA_CACHE_DIR to "
                    f"another, or {VARIABLE}=0"
                ) from error
