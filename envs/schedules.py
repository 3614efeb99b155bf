"""The schedules of the learning rate, as multipliers of the initial rate."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from lrcontrol.envs.errors import InputError, unknown


@dataclass(frozen=True)
class Schedule:
    """A multiplier of the initial learning rate as a function of the training step.

    Args:
        kind: ``constant``; ``warm-up``, linear, then constant; ``cosine``, half a cosine down to ``end`` (Loshchilov
            and Hutter 2017, SGDR, eq. 5, one period); ``linear``, a straight line down to ``end``; ``one-cycle``,
            cosine up from 1/25 over 30 % of the run and down to 1/25 · 1e-4, the initial rate being its peak (Smith
            and Topin 2018, as torch's OneCycleLR); ``step``, times ``gamma`` at each third of the run;
            ``inverse-sqrt``, sqrt(w / max(t, w)) for a warm-up of w steps (Vaswani et al. 2017, section 5.3); ``wsd``,
            warm-up, stable, decay: constant until a straight line down to ``end`` over the last ``decay`` of the run
            (Hu et al. 2024, arXiv 2404.06395; the line is the cooldown of Hägele et al. 2024, arXiv 2405.18392).
        warmup: linear warm-up before any kind but one-cycle, in steps if 1 or more, else as a share of the run; None is
            10 % for ``warm-up`` and ``inverse-sqrt``, 1 % for ``wsd``, whose papers warm up for a few hundred steps of
            tens of thousands, and nothing for the others.
        end: last multiplier of ``cosine``, ``linear`` and ``wsd``.
        gamma: factor of ``step``.
        decay: length of the last part of ``wsd``, in steps if 1 or more, else as a share of the run.

    Raises:
        InputError: an unknown kind, or a negative number.
    """

    kind: str = "constant"
    warmup: float | None = None
    end: float = 0.0
    gamma: float = 0.1
    decay: float = 0.2

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise unknown("schedule", self.kind, KINDS)
        for name in ("warmup", "end", "gamma", "decay"):
            value = getattr(self, name)
            if value is not None and not (value >= 0.0 and math.isfinite(value)):
                raise InputError(f"schedule {self.kind!r}: {name} {value} is negative or not finite")

    def warmup_steps(self, total: int) -> int:
        """Return the length of the warm-up in a run of ``total`` steps."""
        warmup = DEFAULT_WARMUP.get(self.kind, 0.0) if self.warmup is None else self.warmup
        return _steps(warmup, total)

    @property
    def needs_total(self) -> bool:
        """Whether the multipliers depend on the length of the run."""
        ends = self.kind in ("cosine", "linear", "one-cycle", "step", "wsd")
        return ends or self.warmup_steps(100) != self.warmup_steps(200)

    def __call__(self, step: int, total: int) -> float:
        """Return the multiplier at training step ``step`` of 0..total − 1."""
        warmup = self.warmup_steps(total)
        if step < warmup and self.kind != "one-cycle":
            return (step + 1) / warmup
        return KINDS[self.kind](self, step, total, warmup)


def _steps(length: float, total: int) -> int:
    """Return a length in steps: it is given in them if 1 or more, else as a share of ``total``."""
    return round(length if length >= 1.0 else length * total)


def _constant(schedule: Schedule, step: int, total: int, warmup: int) -> float:
    return 1.0


def _cosine(schedule: Schedule, step: int, total: int, warmup: int) -> float:
    share = (step - warmup) / max(total - warmup, 1)
    return schedule.end + (1.0 - schedule.end) * 0.5 * (1.0 + math.cos(math.pi * share))


def _linear(schedule: Schedule, step: int, total: int, warmup: int) -> float:
    return schedule.end + (1.0 - schedule.end) * (1.0 - (step - warmup) / max(total - warmup, 1))


def _one_cycle(schedule: Schedule, step: int, total: int, warmup: int) -> float:
    low, end, turn, last = 1.0 / 25.0, 1e-4 / 25.0, 0.3 * total - 1.0, total - 1.0
    if step <= turn:
        return _anneal(low, 1.0, step / turn)
    return _anneal(1.0, end, min((step - turn) / (last - turn), 1.0) if last > turn else 1.0)


def _anneal(start: float, end: float, share: float) -> float:
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * share))


def _step(schedule: Schedule, step: int, total: int, warmup: int) -> float:
    return schedule.gamma ** ((step - warmup) // max(math.ceil((total - warmup) / 3), 1))


def _inverse_sqrt(schedule: Schedule, step: int, total: int, warmup: int) -> float:
    start = max(warmup, 1)
    return math.sqrt(start / max(step + 1, start))


def _wsd(schedule: Schedule, step: int, total: int, warmup: int) -> float:
    length = min(_steps(schedule.decay, total), total - warmup)
    share = (step - (total - length)) / max(length, 1)
    return 1.0 - (1.0 - schedule.end) * max(share, 0.0)


DEFAULT_WARMUP = {"warm-up": 0.1, "inverse-sqrt": 0.1, "wsd": 0.01}

KINDS: dict[str, Callable[[Schedule, int, int, int], float]] = {
    "constant": _constant,
    "warm-up": _constant,
    "cosine": _cosine,
    "linear": _linear,
    "one-cycle": _one_cycle,
    "step": _step,
    "inverse-sqrt": _inverse_sqrt,
    "wsd": _wsd,
}
