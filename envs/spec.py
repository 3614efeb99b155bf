"""The spelling ``name:key=value,key=value`` by which tasks and agents are named on the command line."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from lrcontrol.envs.errors import InputError, unknown

T = TypeVar("T")


def split_spec(text: str) -> tuple[str, dict[str, str]]:
    """Split ``"hillclimb:factor=2,every=10"`` into its name and its keys; raises InputError on anything else.

    A value that is a spelling with keys itself takes the rest: in ``"replay:of=hillclimb:factor=2,every=10"`` every is
    the hill-climber's.
    """
    name, _, rest = text.partition(":")
    arguments: dict[str, str] = {}
    while rest:
        item, _, after = rest.partition(",")
        nested = ":" in item.partition("=")[2]
        item, rest = (rest, "") if nested else (item, after)
        if not item:
            continue
        key, equals, value = item.partition("=")
        if not equals or not key or not value:
            raise InputError(f"cannot read {item!r} in {text!r}: write name:key=value,key=value")
        if key in arguments:
            raise InputError(f"{key!r} is given twice in {text!r}")
        arguments[key] = value
    return name, arguments


def build(text: str, registry: Mapping[str, Callable[..., T]], what: str) -> T:
    """Call the registry's factory that ``text`` names, its values converted to the types of the factory's arguments.

    Args:
        text: ``name`` or ``name:key=value,…``.
        registry: the factories by name; their annotated keyword arguments are the keys.
        what: what the registry holds, in the singular, for the error messages.

    Raises:
        InputError: the name or a key is unknown, or a value does not convert or is refused by the factory.
    """
    name, arguments = split_spec(text)
    if name not in registry:
        raise unknown(what, name, registry)
    factory = registry[name]
    parameters = inspect.signature(factory, eval_str=True).parameters
    converted: dict[str, Any] = {}
    for key, value in arguments.items():
        if key not in parameters:
            if not parameters:
                raise InputError(f"{what} {name!r} takes no keys, so {key}={value} cannot be used")
            raise unknown(f"key of {what} {name!r}", key, parameters)
        converted[key] = _convert(value, parameters[key].annotation, f"{key}={value} of {what} {name!r}")
    return factory(**converted)


def _convert(value: str, annotation: Any, where: str) -> Any:
    if annotation is bool:
        if value.lower() not in ("true", "false"):
            raise InputError(f"{where}: write true or false")
        return value.lower() == "true"
    kinds = {int: "a whole number", float: "a number"}
    for kind, description in kinds.items():
        if annotation in (kind, kind | None):
            try:
                return kind(value)
            except ValueError:
                raise InputError(f"{where}: not {description}") from None
    return value
