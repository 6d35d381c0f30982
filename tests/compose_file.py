"""Reads docker-compose.yml as Docker Compose does: variables filled in, profiles chosen.

https://github.com/compose-spec/compose-spec/blob/main/12-interpolation.md
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from kundenkreis.settings import repository_root

FILE = repository_root() / "docker-compose.yml"

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class MissingVariable(Exception):
    """A required variable, ``${NAME:?message}``, has no value."""


def resolve(
    environment: Mapping[str, str], profiles: frozenset[str] = frozenset(), file: Path = FILE
) -> dict[str, Any]:
    """The file with its variables filled in and the services of these profiles.

    Raises:
        MissingVariable: names the variable and repeats the file's message.
    """
    document = yaml.safe_load(file.read_text(encoding="utf-8"))
    resolved: dict[str, Any] = _filled(document, environment)
    resolved["services"] = {
        name: service
        for name, service in resolved["services"].items()
        if not service.get("profiles") or profiles & set(service["profiles"])
    }
    return resolved


def _filled(value: Any, environment: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _filled(item, environment) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, environment) for item in value]
    return interpolate(value, environment) if isinstance(value, str) else value


def interpolate(text: str, environment: Mapping[str, str]) -> str:
    """Fill in ``$NAME``, ``${NAME}``, ``${NAME:-default}`` and ``${NAME:?message}``; ``$$`` is a $.

    Raises:
        MissingVariable: as `resolve`.
        ValueError: another form, which this reader does not know.
    """
    result, position = [], 0
    while (dollar := text.find("$", position)) >= 0:
        result.append(text[position:dollar])
        if text.startswith("$$", dollar):
            result.append("$")
            position = dollar + 2
        elif text.startswith("${", dollar):
            end = _closing(text, dollar + 2)
            result.append(_value(text[dollar + 2 : end], environment))
            position = end + 1
        else:
            name = _NAME.match(text, dollar + 1)
            if name is None:
                raise ValueError(f"a lone $ in: {text}")
            result.append(environment.get(name[0], ""))
            position = name.end()
    return "".join([*result, text[position:]])


def _closing(text: str, start: int) -> int:
    depth = 1
    for position in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return position
    raise ValueError(f"an open brace in: {text}")


def _value(expression: str, environment: Mapping[str, str]) -> str:
    name = _NAME.match(expression)
    if name is None:
        raise ValueError(f"no variable: {expression}")
    value, rest = environment.get(name[0], ""), expression[name.end() :]
    if not rest or value:
        return value
    if rest.startswith(":-"):
        return interpolate(rest[2:], environment)
    if rest.startswith(":?"):
        raise MissingVariable(f"{name[0]} {rest[2:]}")
    raise ValueError(f"not known here: {expression}")


def read_environment_file(file: Path) -> dict[str, str]:
    """The variables of a file of ``NAME=value`` lines; single quotes keep a value as it is."""
    pairs = (
        line.partition("=")
        for line in file.read_text(encoding="utf-8").splitlines()
        if line.strip() and not line.startswith("#")
    )
    return {name.strip(): value.strip().strip("'") for name, _, value in pairs}
