"""What a controller reads from its agent and its arguments: the settings of an environment, budget and factors."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import is_dataclass, replace
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from lrcontrol.agents import Agent, make_agent
from lrcontrol.agents.base import PolicyPredictor
from lrcontrol.agents.learned import for_rate_alone
from lrcontrol.controller_rates import Rates
from lrcontrol.envs.budget import LEFT, UNTIL
from lrcontrol.envs.errors import InputError
from lrcontrol.envs.schedules import Schedule
from lrcontrol.envs.settings import Settings

RATE, BOTH = ("lr",), ("lr", "momentum")
BUDGET_FEATURES = ("budget_left", "log_steps_left")


def find_agent(
    agent: str | Path | Agent | PolicyPredictor, hyperparameters: Sequence[str] | None, rates: Rates
) -> Agent:
    """Return the agent, moving the momentum too where ``hyperparameters`` ask for that and it can.

    One that moves both may be asked for the rate alone; for the optimizer's want of a momentum it moves that alone too.

    Raises:
        InputError: there is no such agent, or it moves other hyperparameters.
    """
    found = make_agent(agent)
    if isinstance(hyperparameters, str) or not isinstance(hyperparameters, Sequence | None):
        raise InputError(f'hyperparameters {hyperparameters!r} are neither ("lr",) nor ("lr", "momentum")')
    if hyperparameters is None:
        return found if rates.has_momentum else for_rate_alone(found)
    wanted, moved = tuple(hyperparameters), tuple(found.needs.get("hyperparameters", ("lr",)))
    if wanted == moved:
        return found
    if wanted in (RATE, BOTH) and is_dataclass(found) and has_choice(found):
        return replace(found, momentum=wanted == BOTH)
    if wanted == RATE and moved == BOTH:
        return for_rate_alone(found)
    raise InputError(f"hyperparameters {wanted}: agent {found.name!r} moves {moved}; leave them out, or choose another")


def has_choice(agent: Agent) -> bool:
    """Return whether it is a setting of the agent's own that the momentum is moved."""
    return isinstance(getattr(agent, "momentum", None), bool)


def moves_momentum(agent: Agent, hyperparameters: Sequence[str] | None, rates: Rates) -> bool:
    """Return whether the momentum is moved: by an agent that moves both, where there is one, unless it is not to.

    Raises:
        InputError: there is none, and it was asked for.
    """
    wanted = tuple(agent.needs.get("hyperparameters", RATE) if hyperparameters is None else hyperparameters)
    if wanted == BOTH and not rates.has_momentum and (hyperparameters is not None or has_choice(agent)):
        name = type(rates.inner).__name__
        raise InputError(
            f"agent {agent.name!r} is to move the momentum, and {name} has neither 'momentum' nor 'betas': choose an "
            f"agent that moves the rate alone, or another optimizer"
        )
    return wanted == BOTH and rates.has_momentum


def make_settings(
    agent: Agent,
    interval: int | None,
    total_steps: int | None,
    min_lr: float | None,
    max_lr: float | None,
    base_schedule: Schedule | None,
) -> Settings:
    """Return the settings that the agent and the arguments make.

    Raises:
        InputError: a value that cannot be used, or a schedule that needs ``total_steps``.
    """
    values: dict[str, Any] = dict(agent.needs)
    if interval is not None:
        values["interval"] = int(interval) if isinstance(interval, Integral) else interval
    low, high = values.get("lr_limits", Settings.lr_limits)
    for name, value in (("min_lr", min_lr), ("max_lr", max_lr)):
        if value is not None and not (isinstance(value, Real) and 0.0 < value < math.inf):
            raise InputError(f"{name} {value!r} is no number above 0")
    values["lr_limits"] = (low if min_lr is None else float(min_lr), high if max_lr is None else float(max_lr))
    if values["lr_limits"][0] >= values["lr_limits"][1]:
        raise InputError("min_lr {:g} is not below max_lr {:g}".format(*values["lr_limits"]))
    counts = isinstance(total_steps, Integral) and not isinstance(total_steps, bool) and total_steps > 0
    if total_steps is not None and not counts:
        raise InputError(f"total_steps {total_steps!r} is no whole number above 0")
    values["steps"] = None if total_steps is None else int(total_steps)
    if base_schedule is not None:
        values["base_schedule"] = base_schedule
    settings = Settings.make(values)
    if total_steps is None or not settings.knows_budget:
        _check_without_budget(agent, settings, base_schedule)
    return settings


def budget_features(settings: Settings) -> list[str]:
    """Return the features of the budget that an agent reads, if it has a choice."""
    return [name for name in BUDGET_FEATURES if name in settings.features and settings.multipliers != (1.0,)]


def _check_without_budget(agent: Agent, settings: Settings, given: Schedule | None) -> None:
    schedule = settings.base_schedule
    if not settings.knows_budget:
        if given is not None and schedule.needs_total:
            raise InputError(
                f"schedule {schedule.kind!r} depends on the length, which agent {agent.name!r} is never told: choose "
                f"one that does not, such as inverse-sqrt with its warm-up in steps"
            )
        return
    if schedule.needs_total and (given is not None or settings.multipliers == (1.0,)):
        raise InputError(f"schedule {schedule.kind!r} of agent {agent.name!r} depends on the length: give total_steps")
    if read := budget_features(settings):
        warnings.warn(
            f"agent {agent.name!r} reads {', '.join(read)}, but total_steps is not given: it is told at every "
            f"step that {LEFT} more are left, up to the {UNTIL}th of {UNTIL + LEFT}, where it is said to stay",
            stacklevel=4,
        )
