"""What ``--agents help`` prints: every agent and rival by name, its keys with their defaults, and what it does."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from lrcontrol.agents.bandit import ARMS, JOINTS
from lrcontrol.agents.bandit_policies import POLICIES
from lrcontrol.agents.hillclimb import PROBES
from lrcontrol.agents.registry import AGENTS
from lrcontrol.envs.schedules import KINDS
from lrcontrol.peers import PEERS

CHOICES: Mapping[tuple[str, str], Iterable[str]] = {
    ("schedule", "kind"): KINDS,
    ("hillclimb", "probe"): PROBES,
    ("bandit", "policy"): POLICIES,
    ("bandit", "arms"): ARMS,
    ("bandit", "joint"): JOINTS,
}
KNOB = (
    "knob=true puts the initial rate in for the optimizer's own knob, as it is named above; without it the optimizer "
    "is at its defaults, and all initial rates give the same run. Also an agent: the folder of one that "
    "lrcontrol.train trained."
)


def agent_tables() -> list[Table | str]:
    """Return two tables, of the agents and of the rivals that run their own training, and a word on both."""
    return [
        _table(
            "Agents, spelled name or name:key=value,…: they move the rate of the base optimizer, some its momentum too",
            AGENTS,
        ),
        _table("Rivals: they run their own training on the same runs", PEERS),
        KNOB,
    ]


def _table(title: str, registry: Mapping[str, Callable[..., Any]]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("name", no_wrap=True)
    table.add_column("keys and their defaults", overflow="fold")
    table.add_column("what it does", overflow="fold")
    for name, make in registry.items():
        keys = inspect.signature(make).parameters.values()
        shown = "; ".join(_key(name, parameter) for parameter in keys)
        table.add_row(*map(Text, (name, shown, _purpose(make))))
    return table


def _key(agent: str, parameter: inspect.Parameter) -> str:
    value = parameter.default
    default = "" if value is None else f"={str(value).lower() if isinstance(value, bool) else value}"
    choices = [choice for choice in CHOICES.get((agent, parameter.name), ()) if choice != value]
    return f"{parameter.name}{default}" + (f" (or {', '.join(choices)})" if choices else "")


def _purpose(make: Callable[..., Any]) -> str:
    first = " ".join((inspect.getdoc(make) or "").partition("\n\n")[0].split())
    told = first.removeprefix("Return the agent that ").removeprefix("Return ").removesuffix(".").replace("``", "")
    return told[:1].upper() + told[1:]
