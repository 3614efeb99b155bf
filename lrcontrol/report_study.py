"""Several results as one: agents told apart by where they come from, and what differs between the manifests."""

from __future__ import annotations

import ast
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrcontrol.envs.errors import InputError
from lrcontrol.evaluation import DEFAULT_BLOCK
from lrcontrol.results import Results
from lrcontrol.standings import USUAL_BASELINES
from lrcontrol.study import find_agents

if TYPE_CHECKING:
    import pyarrow as pa

NOT_SETTINGS = ("started", "seconds", "command", "failures", "seeds")


@dataclass(frozen=True)
class ReportStudy:
    """Results to be shown together.

    Attributes:
        results: all rows; an agent that two results have on the same task and optimizer is called "agent [result]".
        manifests: by the result's name.
        baseline: the agent that the others are held against.
    """

    results: Results
    manifests: Mapping[str, Mapping[str, Any]]
    baseline: str


def combine(results_by_name: Mapping[str, Results], baseline: str | None = None) -> ReportStudy:
    """Return several results as one.

    Args:
        results_by_name: at least one; the names are shown.
        baseline: an agent as it was evaluated, or "agent [result]"; None is the usual one.

    Raises:
        InputError: no results, or results without a row.
    """
    import pyarrow as pa

    if not results_by_name:
        raise InputError("no results to report: give one folder or more")
    for name, results in results_by_name.items():
        if not results.runs.num_rows:
            raise InputError(f"{name} holds not one finished run: there is nothing to report")
    shared = _in_several(results_by_name.values())
    parts = [
        tuple(_relabelled(table, name, shared) for table in (results.summary, results.runs, results.traces))
        for name, results in results_by_name.items()
    ]
    tables = [pa.concat_tables(part, promote_options="permissive") for part in zip(*parts, strict=True)]
    failures = [
        failure | {"agent": f"{failure['agent']} [{name}]" if failure["agent"] in shared else failure["agent"]}
        for name, results in results_by_name.items()
        for failure in results.failures
    ]
    first = next(iter(results_by_name.values())).manifest
    together = Results(tables[0], tables[1], tables[2], {**first, "failures": failures})
    manifests = {name: results.manifest for name, results in results_by_name.items()}
    return ReportStudy(together, manifests, _find_baseline(together.agents, list(results_by_name), baseline))


def _in_several(parts: Any) -> set[str]:
    seen: set[tuple[str, str, str]] = set()
    shared = set()
    for results in parts:
        names = (results.summary[name].to_pylist() for name in ("task", "optimizer", "agent"))
        cells = {*zip(*names, strict=True), *results.failed}
        shared |= {agent for _, _, agent in cells & seen}
        seen |= cells
    return shared


def _relabelled(table: pa.Table, name: str, shared: set[str]) -> pa.Table:
    import pyarrow as pa
    import pyarrow.compute as pc

    plain = table["agent"].cast(pa.string())
    renamed = pc.if_else(
        pc.is_in(plain, pa.array(sorted(shared), pa.string())),
        pc.binary_join_element_wise(plain, f" [{name}]", ""),
        plain,
    )
    return table.set_column(table.schema.get_field_index("agent"), "agent", renamed)


def _find_baseline(agents: Sequence[str], names: Sequence[str], wanted: str | None) -> str:
    choices = USUAL_BASELINES if wanted is None else (wanted, _as_evaluated(wanted, names))
    spelled = [full for choice in choices for full in (choice, *(f"{choice} [{name}]" for name in names))]
    return next((agent for agent in spelled if agent in agents), agents[0] if wanted is None else str(wanted))


def _as_evaluated(spelled: str, names: Sequence[str]) -> str:
    """Return the name of the agent of a spelling, as ``factor=2`` for ``factor=2.0``; the spelling where it is none."""
    end = next((end for name in names if spelled.endswith(end := f" [{name}]")), "")
    try:
        return find_agents([spelled.removesuffix(end)])[0].name + end
    except InputError:
        return spelled


def load_all(folders: Sequence[Path]) -> dict[str, Results]:
    """Return the results in folders by the shortest ends of their paths that tell them apart.

    Raises:
        InputError: no folder, one given twice, or one that holds no results.
    """
    paths = [folder.resolve() for folder in folders]
    if not paths:
        raise InputError("no results to report: give one folder or more")
    for path in paths:
        if paths.count(path) > 1:
            raise InputError(f"{path.name} is given {paths.count(path)} times")
    depth = next(
        depth
        for depth in range(1, 1 + max(len(path.parts) for path in paths))
        if len({path.parts[-depth:] for path in paths}) == len(paths)
    )
    return {"/".join(path.parts[-depth:]): Results.load(path) for path in paths}


def facts(manifest: Mapping[str, Any]) -> dict[str, str]:
    """Return how a result was made, nested entries as ``config.runs``, without times, command and failures."""
    return dict(_flattened({key: value for key, value in manifest.items() if key not in NOT_SETTINGS}))


def _flattened(entries: Mapping[str, Any], before: str = "") -> Any:
    for key, value in entries.items():
        if isinstance(value, Mapping):
            yield from _flattened(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def differing(manifests: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return the facts that are not the same in all manifests, their values in the order of the manifests."""
    found = [facts(manifest) for manifest in manifests.values()]
    keys = dict.fromkeys(key for one in found for key in one)
    values = {key: [one.get(key, "–") for one in found] for key in keys}
    return {key: row for key, row in values.items() if len(set(row)) > 1}


def rerun(manifest: Mapping[str, Any]) -> str:
    """Return what makes a result again: the command line it was made with, or else the call in Python."""
    command = manifest.get("command") or [""]
    if list(command[1:3]) == ["-m", "lrcontrol.evaluate"]:
        return shlex.join(command)
    if Path(command[0]).name == "evaluate.py":
        return "python -m lrcontrol.evaluate " + shlex.join(command[1:])
    config = manifest.get("config", {})
    given = {
        "task": config.get("tasks", config.get("task")),
        "agents": config.get("agents"),
        "lr0": config.get("lr0"),
        "runs": config.get("runs"),
        "steps": config.get("steps"),
        "optimizer": config.get("optimizers", config.get("optimizer")),
        "seed": config.get("seed"),
        "device": config.get("device"),
        "block": config.get("block") if config.get("block") != DEFAULT_BLOCK else None,
        "traces": False if config.get("traces") is False else None,
    }
    given |= {name: _literal(value) for name, value in config.get("settings", {}).items()}
    parts = ", ".join(f"{name}={value!r}" for name, value in given.items() if value is not None)  # None is the default
    own = [name for name in config.get("tasks", ()) if name in config.get("contents", ())]
    return "".join(f"# in the place of {name!r}: that Task\n" for name in own) + f"lrcontrol.evaluate({parts})"


class _Code(str):
    """The text of a call, which stands in another without quotation marks."""

    def __repr__(self) -> str:
        return str(self)


def _literal(value: Any) -> Any:
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError, TypeError):
        return _Code(value) if str(value).endswith(")") else value
