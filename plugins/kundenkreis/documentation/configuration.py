"""docs/configuration.md and the JSON schemas of the config files, from the settings' models."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from kundenkreis.alerts.config import AlertsConfig
from kundenkreis.destinations.config import DestinationsConfig
from kundenkreis.settings import (
    ModelSettings,
    QualityConfig,
    RetentionConfig,
    SegmentsConfig,
    repository_root,
)
from kundenkreis.sources.config import ENTITY_COLUMNS, REQUIRED_COLUMNS, Entity, SourcesConfig

Schema = dict[str, Any]

FILES: dict[str, type[BaseModel]] = {
    "model": ModelSettings,
    "sources": SourcesConfig,
    "segments": SegmentsConfig,
    "destinations": DestinationsConfig,
    "retention": RetentionConfig,
    "quality": QualityConfig,
    "alerts": AlertsConfig,
}

_HEAD = """# Configuration

<!-- Written by `make docs`; do not edit by hand. -->

A config folder holds seven files: [config/](../config/), or the folder that `KUNDENKREIS_CONFIG`
names. `sources.yml` must exist; any other file, and any key with a default, may be left out. A key
that is not listed here is an error, reported with file, line, key and what is allowed. Secrets are
never in these files: they are Airflow connections (see [.env.example](../.env.example)).

Editors that know the YAML language server check and complete the files: their first line names a
schema in [config/schema/](../config/schema/).
"""

_NUMBER_LIMITS = {
    "minimum": "at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "exclusiveMaximum": "below",
}


def files() -> dict[Path, str]:
    """Every generated file with its content."""
    return {
        repository_root() / "docs" / "configuration.md": configuration_markdown(),
        **{schema_path(name): schema_text(name) for name in FILES},
    }


def schema_path(name: str) -> Path:
    """Where the schema of a config file is kept."""
    return repository_root() / "config" / "schema" / f"{name}.schema.json"


def schema(name: str) -> Schema:
    """The JSON schema (draft 2020-12) of ``<name>.yml``, for editors.

    It can say less than the models, which also compare keys with each other; and in one thing it
    is stricter: a decimal number has to be a YAML number.
    """
    cleaned = _cleaned(FILES[name].model_json_schema())
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$comment": "Written by `make docs`; do not edit by hand.",
        **cleaned,
        "title": f"{name}.yml",
    }


def schema_text(name: str) -> str:
    """The schema as it is kept."""
    return json.dumps(schema(name), indent=2, ensure_ascii=False) + "\n"


def configuration_markdown() -> str:
    """The whole page, ending in a line break."""
    lines = [_HEAD]
    for name in FILES:
        lines += _file_section(name)
    return "\n".join(lines)


def _cleaned(node: Any) -> Any:
    """Without titles that repeat keys, and with decimals as numbers."""
    if isinstance(node, list):
        return [_cleaned(item) for item in node]
    if not isinstance(node, dict):
        return node
    if {option.get("type") for option in node.get("anyOf", [])} >= {"number", "string"}:
        options = [option for option in node["anyOf"] if option.get("type") != "string"]
        node = {key: value for key, value in node.items() if key != "anyOf"}
        node |= options[0] if len(options) == 1 else {"anyOf": options}
    cleaned: Schema = {}
    for key, value in node.items():
        if key == "title" and isinstance(value, str):
            continue
        if key == "description" and isinstance(value, str):
            cleaned[key] = _plain(value)
        elif key == "default":
            cleaned[key] = _default_value(node)
        else:
            cleaned[key] = _cleaned(value)
    if "patternProperties" in cleaned:
        cleaned["additionalProperties"] = False
    return cleaned


def _default_value(node: Schema) -> Any:
    """Decimal defaults come as text."""
    return _as_numbers(node["default"]) if _holds_numbers(node) else node["default"]


def _holds_numbers(node: Schema) -> bool:
    if "$ref" in node:  # the one nested model with a default holds decimals only
        return True
    if node.get("type") == "array":
        return any(option.get("type") == "number" for option in node["items"].get("anyOf", []))
    return node.get("type") == "number"


def _as_numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _as_numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_as_numbers(item) for item in value]
    if isinstance(value, str | int | float) and re.fullmatch(r"-?\d+(\.\d+)?", str(value)):
        return int(float(value)) if float(value).is_integer() else float(value)
    return value


def _plain(text: str) -> str:
    """A docstring or description in one paragraph, code marked in Markdown's way."""
    return re.sub(r"\s+", " ", text).replace("``", "`").strip()


def _file_section(name: str) -> list[str]:
    whole = schema(name)
    lines = [f"## {name}.yml", "", _without_name(whole["description"]), ""]
    lines += _table(whole, name)
    for key, nested in _nested(whole, name):
        lines += [f"### {name}.yml: `{key}`", "", _without_name(nested["description"]), ""]
        lines += _table(nested, name)
        if key == "files.datasets[]":
            lines += _canonical_columns()
    return lines


def _without_name(description: str) -> str:
    """The heading names the file or the key already."""
    text = re.sub(r"^(Key )?`[a-z.]+`: ", "", description)
    return text if text == description else text[:1].upper() + text[1:]


def _nested(whole: Schema, name: str) -> Iterator[tuple[str, Schema]]:
    """Every model below a file's own keys, with the path that leads to it, in reading order."""
    definitions = whole.get("$defs", {})

    def walk(here: Schema, prefix: str) -> Iterator[tuple[str, Schema]]:
        for key, value in here["properties"].items():
            for suffix, reference in _references(value):
                target = definitions[reference]
                if "properties" not in target:
                    continue
                path = f"{prefix}{key}{suffix}"
                yield path, target
                yield from walk(target, f"{path}.")

    return walk(whole, "")


def _references(value: Schema, suffix: str = "") -> Iterator[tuple[str, str]]:
    if "$ref" in value:
        yield suffix, value["$ref"].rsplit("/", 1)[-1]
    for option in value.get("anyOf", []):
        yield from _references(option, suffix)
    if "discriminator" in value:
        name = value["discriminator"]["propertyName"]
        for tag, reference in value["discriminator"]["mapping"].items():
            yield f"{suffix} ({name}: {tag})", reference.rsplit("/", 1)[-1]
    if "items" in value:
        yield from _references(value["items"], suffix + "[]")
    if isinstance(value.get("additionalProperties"), dict):
        yield from _references(value["additionalProperties"], suffix + ".<key>")


def _table(here: Schema, name: str) -> list[str]:
    definitions = schema(name).get("$defs", {})
    lines = ["| key | value | default | meaning |", "|---|---|---|---|"]
    required = here.get("required", [])
    for key, value in here["properties"].items():
        default = "required" if key in required else _default(value)
        meaning = _cell(value.get("description", ""))
        lines.append(f"| `{key}` | {_cell(_type(value, definitions))} | {default} | {meaning} |")
    return [*lines, ""]


def _default(value: Schema) -> str:
    if "default" not in value:
        return "`{}`"
    default = value["default"]
    if "$ref" in value:
        return "see below"
    if _is_optional_section(value):
        return "not there"
    return f"`{_cell(_yaml(default))}`"


def _is_optional_section(value: Schema) -> bool:
    """A part of the file with keys of its own, which may be left out."""
    options = value.get("anyOf", [])
    return len(options) == 2 and "$ref" in options[0] and options[1].get("type") == "null"


def _yaml(value: Any) -> str:
    """A value as it would stand in the file, on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_yaml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_yaml(item) for item in value) + "]"
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_./]*( [A-Za-z]+)*", value):
        return value if value.lower() not in ("null", "nan", "true", "false") else f'"{value}"'
    return json.dumps(value, ensure_ascii=False)


def _type(value: Schema, definitions: dict[str, Schema]) -> str:
    """What may stand there, in words."""
    if "$ref" in value:
        target = definitions[value["$ref"].rsplit("/", 1)[-1]]
        if "properties" not in target and "enum" not in target:
            return "any value"
        return _type(target, definitions) if "enum" in target else "keys (see below)"
    if _is_optional_section(value):
        return _type(value["anyOf"][0], definitions)
    if "anyOf" in value:
        return " or ".join(_type(option, definitions) for option in value["anyOf"])
    if "discriminator" in value:
        return "keys (see below)"
    if "const" in value:
        return f"`{_yaml(value['const'])}`"
    if "enum" in value:
        return ", ".join(f"`{_yaml(item)}`" for item in value["enum"])
    kind = value.get("type")
    if kind == "array":
        return f"list of {_type(value['items'], definitions)}{_length(value)}"
    if kind == "object":
        return _mapping_type(value, definitions)
    words = {"boolean": "`true`, `false`", "string": "text", "null": "`null`"}
    return words.get(str(kind), str(kind)) + _limits(value)


def _mapping_type(value: Schema, definitions: dict[str, Schema]) -> str:
    if "patternProperties" in value:
        pattern, item = next(iter(value["patternProperties"].items()))
        return f"key like `{pattern}`: {_type(item, definitions)}"
    return f"key: {_type(value['additionalProperties'], definitions)}"


def _length(value: Schema) -> str:
    if "minItems" not in value:
        return ""
    exact = value.get("maxItems") == value["minItems"]
    return f", {'exactly' if exact else 'at least'} {value['minItems']}"


def _limits(value: Schema) -> str:
    if value.get("maxLength") == 1:
        return " of one character"
    if "pattern" in value:
        return f" like `{value['pattern']}`"
    limits = [f"{word} {value[key]:g}" for key, word in _NUMBER_LIMITS.items() if key in value]
    return ", " + ", ".join(limits) if limits else ""


def _canonical_columns() -> list[str]:
    lines = [
        "The canonical columns of each entity; those in bold must be mapped. Of `order_lines` also",
        "`line_amount`, or both `quantity` and `unit_price`. `discount_amount` is what was taken",
        "off, positive. An order below zero (a credit note) refunds the order that",
        "`refunds_order_key` names, from its own date on; without that it just does not count.",
        "",
        "| entity | columns |",
        "|---|---|",
    ]
    for entity, columns in ENTITY_COLUMNS.items():
        cells = ", ".join(_column(entity, column) for column in columns)
        lines.append(f"| `{entity.value}` | {cells} |")
    return [*lines, ""]


def _column(entity: Entity, column: str) -> str:
    return f"**`{column}`**" if column in REQUIRED_COLUMNS[entity] else f"`{column}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
