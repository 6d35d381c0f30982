"""docs/data_model.md: what readers find, from dbt's manifest and the warehouse's schema files."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kundenkreis.settings import repository_root

_HEAD = """# Data model

<!-- Written by `make docs`; do not edit by hand. -->

What a reader of the warehouse may rely on. Types are PostgreSQL's. Days are days in
`business_timezone`, money is in `reporting_currency` ([configuration.md](configuration.md)).

Everything else is no contract: raw, staging and intermediate tables, `operations`, and the colours
`marts_blue`, `marts_green` and `marts_backfill`, which the views of `marts` show in turn.

"""

_PARTS = {
    "marts": "Views of one as-of day, turned over together by each publication "
    "([architecture.md](architecture.md)). A column with personal data is shown in full only to "
    "members of the role `kundenkreis_pii` and to whoever builds and delivers. Everybody else sees "
    "a text as its first letter and `…`, of an address also the domain's (`a…@m…`), and anything "
    "else as null.",
    "history": "What each night knew, kept. Computing a day again replaces that day's cut points "
    "and changes; publications and customer ids are only added.",
    "activation": "The plan, what was sent and what became of it.",
    "quality": "What the gates found ([gates.md](gates.md)).",
    "quarantine": "What could not be used.",
    "privacy": "What is kept of persons who were erased ([privacy.md](privacy.md)).",
}

_FOLDERS = ("customers", "orders", "rfm", "lifecycle", "value", "segments", "kpis")
_CAST = re.compile(r"as \{\{ dbt\.type_(\w+)\(\) \}\}\) as (\w+)")
_CAST_TYPES = {
    "string": "text",
    "bigint": "bigint",
    "boolean": "boolean",
    "float": "double precision",
    "timestamp": "timestamp without time zone",
}
_NOT_A_COLUMN = ("primary key", "unique", "check", "foreign key", "constraint")


@dataclass(frozen=True)
class Column:
    """A column as the page shows it; type is empty where nothing states it."""

    name: str
    type: str
    never_null: bool
    meaning: str


@dataclass(frozen=True)
class Relation:
    """A table or view as the page shows it. ``grain`` is the sentence "One row per ..."."""

    schema: str
    name: str
    meaning: str
    grain: str
    columns: tuple[Column, ...]


def page() -> Path:
    """Where the page is kept."""
    return repository_root() / "docs" / "data_model.md"


def read_manifest() -> dict[str, Any]:
    """Parse the dbt project as it is with every source and tool; needs no warehouse."""
    from kundenkreis.warehouse.dbt import parse_project

    variables = {
        "as_of_date": "2026-01-31",
        "marts_schema": "marts_blue",
        "enabled_sources": ["files", "hubspot", "woocommerce"],
    }
    with tempfile.TemporaryDirectory(prefix="kundenkreis-parse-") as folder:
        return parse_project(Path(folder), variables)


def data_model_markdown(manifest: Mapping[str, Any]) -> str:
    """The whole page, ending in a line break."""
    everything = [*mart_relations(manifest), plan_relation(manifest), *schema_relations()]
    lines = [_HEAD.rstrip(), ""]
    for schema, introduction in _PARTS.items():
        lines += [f"## {schema}", "", introduction, ""]
        for relation in everything:
            if relation.schema == schema:
                lines += _section(relation)
    return "\n".join(lines)


def mart_relations(manifest: Mapping[str, Any]) -> list[Relation]:
    """The models behind the views of ``marts``, in the order of their folders."""
    models = [
        node
        for node in manifest["nodes"].values()
        if node["resource_type"] == "model" and node["fqn"][1:2] == ["marts"]
    ]
    shown = [node for node in models if node["fqn"][2] in _FOLDERS]
    shown.sort(key=lambda node: (_FOLDERS.index(node["fqn"][2]), node["name"]))
    return [_model_relation(node, "marts", manifest) for node in shown]


def plan_relation(manifest: Mapping[str, Any]) -> Relation:
    """``activation.plan_rows``: dbt's, with the types that its casts state."""
    node = manifest["nodes"]["model.kundenkreis.plan_rows"]
    return _model_relation(node, "activation", manifest)


def schema_relations() -> list[Relation]:
    """The tables and views that ``warehouse/schema*.sql`` creates for readers."""
    folder = repository_root() / "plugins" / "kundenkreis" / "warehouse"
    texts = [file.read_text(encoding="utf-8") for file in sorted(folder.glob("schema*.sql"))]
    found = [relation for text in texts for relation in _tables(text)]
    for text in texts:
        for view in _views(text, found):
            found.append(view)  # a later view may stand on it
    return found


# --------------------------------------------------------------------------- from dbt


def _model_relation(node: Mapping[str, Any], schema: str, manifest: Mapping[str, Any]) -> Relation:
    casts = {name: _CAST_TYPES[kind] for kind, name in _CAST.findall(node["raw_code"])}
    accepted = _accepted_values(node["unique_id"], manifest)
    columns = []
    for name, column in node["columns"].items():
        text = _one_line(column["description"])
        values = accepted.get(name, [])
        if any(str(value) not in text for value in values):
            text += " One of: " + ", ".join(f"`{value}`" for value in values) + "."
        if column.get("meta", {}).get("pii") or column["config"].get("meta", {}).get("pii"):
            text += " Personal data."
        kinds = {constraint["type"] for constraint in column.get("constraints", [])}
        columns.append(
            Column(name, column["data_type"] or casts.get(name, ""), "not_null" in kinds, text)
        )
    meaning, grain = _split_grain(node["description"])
    return Relation(schema, node["name"], meaning, grain, tuple(columns))


def _accepted_values(model: str, manifest: Mapping[str, Any]) -> dict[str, list[Any]]:
    found = {}
    for node in manifest["nodes"].values():
        test = node.get("test_metadata") or {}
        if node.get("attached_node") == model and test.get("name") == "accepted_values":
            found[node["column_name"]] = test["kwargs"]["values"]
    return found


# --------------------------------------------------------------------------- from the schema files


def _tables(text: str) -> Iterator[Relation]:
    pattern = r"((?:^--[^\n]*\n)+)create table if not exists (\w+)\.(\w+) \(\n(.*?)^\);"
    for comment, schema, name, body in re.findall(pattern, text, re.M | re.S):
        if schema not in _PARTS:
            continue
        meaning, grain = _split_grain(_uncommented(comment))
        yield Relation(schema, name, meaning, grain, tuple(_table_columns(body)))


def _table_columns(body: str) -> Iterator[Column]:
    above, depth = "", 0
    primary = re.search(r"^    primary key \((.*)\)", body, re.M)
    keys = primary[1].split(", ") if primary else []
    for line in body.splitlines():
        code, _, comment = line.partition("--")
        if not code.strip():
            above += f" {comment.strip()}"
            continue
        if depth == 0 and not code.strip().startswith(_NOT_A_COLUMN):
            name, declared = code.strip().rstrip(",").split(" ", 1)
            type_ = re.split(r" (?:not null|primary key|default|check|generated)\b", declared)[0]
            never_null = "not null" in declared or "primary key" in declared or name in keys
            yield Column(name, _long_type(type_), never_null, _one_line(comment or above))
        depth += code.count("(") - code.count(")")
        above = ""


def _views(text: str, relations: list[Relation]) -> Iterator[Relation]:
    """Views whose columns are a relation's, aggregates of these, counts, or cast to a type."""
    pattern = (
        r"((?:^--[^\n]*\n)+)create or replace view (\w+)\.(\w+) as\nselect\n(.*?)^from \w+\.(\w+)"
    )
    found = re.findall(pattern, text, re.M | re.S)
    are_all = len(found) == text.count("create or replace view")
    assert are_all, "a view in schema*.sql is not as expected"  # noqa: S101 (our own files)
    for comment, schema, name, body, source in found:
        if schema not in _PARTS:
            continue
        types = {c.name: c.type for one in relations if one.name == source for c in one.columns}
        meaning, grain = _split_grain(_uncommented(comment))
        yield Relation(schema, name, meaning, grain, tuple(_view_columns(body, types)))


def _view_columns(body: str, types: Mapping[str, str]) -> Iterator[Column]:
    above = ""
    for line in body.splitlines():
        code, _, remark = line.partition("--")
        if not code.strip():
            above = remark
            continue
        expression, _, alias = code.strip().rstrip(",").rpartition(" as ")
        inner = re.sub(r"^(?:avg|lag|max)\(([\w.]+)\).*$", r"\1", expression or alias)
        computed = {"count": "bigint", "row_number": "boolean"}.get(expression.partition("(")[0])
        cast_to = re.fullmatch(r"cast\(.* as ([\w ]+)\)", expression)
        type_ = computed or (cast_to[1] if cast_to else types[inner.split(".")[-1]])
        yield Column(alias.split(".")[-1], type_, False, _one_line(remark or above))
        above = ""


def _uncommented(comment: str) -> str:
    return " ".join(line.removeprefix("--").strip() for line in comment.splitlines())


def _long_type(name: str) -> str:
    return {"timestamptz": "timestamp with time zone"}.get(name, name.replace(", ", ","))


# --------------------------------------------------------------------------- as Markdown


def _section(relation: Relation) -> list[str]:
    lines = [f"### {relation.schema}.{relation.name}", "", relation.meaning, ""]
    lines += [f"**{relation.grain}**", "", "| column | type | meaning |", "|---|---|---|"]
    for column in relation.columns:
        type_ = column.type + (", never null" if column.never_null else "")
        meaning = column.meaning.replace("|", "\\|")
        lines.append(f"| `{column.name}` | {type_} | {meaning} |")
    return [*lines, ""]


def _split_grain(description: str) -> tuple[str, str]:
    """A description ends in its grain. Without one the page would be a riddle.

    Raises:
        ValueError: the description does not say "One row per ...".
    """
    text = _one_line(description)
    meaning, mark, grain = text.rpartition("One row per ")
    if not mark:
        raise ValueError(f"no grain ('One row per ...') in: {text}")
    return meaning.strip(), mark + grain


def _one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()
