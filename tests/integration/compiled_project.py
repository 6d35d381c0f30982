"""Night after night without dbt: its compiled SQL, with another as-of date put in.

dbt needs seconds to find out what to run; what it then runs on a small shop takes milliseconds. So
dbt builds one night, in full, and the statements it ran are run again for other nights.
test_fault_catalogue.py compares a night that is built so with one that dbt builds.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any
from unittest import mock

import psycopg

from kundenkreis.predictions import predict
from kundenkreis.warehouse.publish import intermediate_schema
from tests.integration.dbt_support import build_models

# A day and a year that occur in no model.
SENTINEL = date(2087, 7, 17)
_COMPILED_SCHEMA = "marts_blue"


@dataclass(frozen=True)
class Statement:
    """One model: where it goes and the query that makes it."""

    schema: str
    name: str
    is_view: bool
    after_predict: bool
    query: str


class CompiledProject:
    """The models that some marts stand upon, in the order in which they are built."""

    def __init__(self, statements: Iterable[Statement]) -> None:
        self._statements = tuple(statements)

    def build(self, connection: psycopg.Connection, as_of: date, schema: str) -> None:
        """Build the marts of a night in full, the predictions included."""
        # Unplanned tables of a few rows are compiled and parallelised for longer than they run.
        connection.execute("set jit = off; set max_parallel_workers_per_gather = 0")
        is_first = self._create_schemas(connection, schema)
        predicted = False
        for statement in self._statements:
            if statement.after_predict and not predicted:
                predict(
                    connection,
                    as_of,
                    lambda line: None,
                    intermediate_schema=intermediate_schema(schema),
                )
                predicted = True
            target = f"{self._of(statement.schema, as_of, schema)}.{statement.name}"
            query = self._of(statement.query, as_of, schema)
            if statement.is_view:
                sql = f"create or replace view {target} as {query}"
            elif is_first:
                sql = f"create table {target} as {query}"
            else:  # tables that are there are filled in a fraction of the time
                sql = f"delete from {target}; insert into {target} {query}"
            connection.execute(sql.encode())

    @staticmethod
    def _create_schemas(connection: psycopg.Connection, schema: str) -> bool:
        folders = (schema, intermediate_schema(schema))
        row = connection.execute("select to_regnamespace(%s) is null", (schema,)).fetchone()
        if row == (True,):
            for folder in folders:
                connection.execute(f"create schema {folder}")
        return row == (True,)

    @staticmethod
    def _of(text: str, as_of: date, schema: str) -> str:
        """A text of the compiled night as it is for another night and colour."""
        sql = text.replace(SENTINEL.isoformat(), as_of.isoformat())
        sql = re.sub(rf"\b{SENTINEL.year}\b", str(as_of.year), sql)
        sql = re.sub(rf"\b{SENTINEL.year + 1}\b", str(as_of.year + 1), sql)
        colour = schema.removeprefix("marts_")
        return sql.replace("marts_blue", schema).replace(
            "intermediate_blue", f"intermediate_{colour}"
        )


def compile_project(
    dsn: str, variables: dict[str, Any], folder: Path, marts: Iterable[str]
) -> CompiledProject:
    """Let dbt build a night of the (empty) raw tables, and keep what it ran for these marts.

    Staging views, seeds and functions stay in the warehouse; clone it for each shop.
    """
    own = {**variables, "marts_schema": _COMPILED_SCHEMA}
    with mock.patch.dict(os.environ, {"DBT_WRITE_JSON": "true"}):
        build_models(dsn, SENTINEL.isoformat(), "tag:transform", "tag:segment", **own)
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    return CompiledProject(_statements(manifest, set(marts)))


def _statements(manifest: dict[str, Any], marts: set[str]) -> Iterable[Statement]:
    nodes = {
        key: node
        for key, node in manifest["nodes"].items()
        if node["resource_type"] == "model"
        and node["config"]["materialized"] != "ephemeral"
        and node["schema"] != "staging"
    }
    parents = {key: manifest["parent_map"][key] for key in manifest["nodes"]}
    wanted: list[str] = []

    def visit(key: str) -> None:
        if key in wanted or key not in parents:
            return
        for parent in parents[key]:
            visit(parent)
        wanted.append(key)

    for key, node in nodes.items():
        # Later nights stand upon what earlier ones added to history.
        if node["name"] in marts or node["name"].startswith("history_"):
            visit(key)
    after = set()
    for key in wanted:
        if any("source.kundenkreis.predictions" in p or p in after for p in parents[key]):
            after.add(key)
    # What does not stand on the predictions is built before them.
    ordered = [k for k in wanted if k not in after] + [k for k in wanted if k in after]
    for key in ordered:
        if key in nodes:
            node = nodes[key]
            days = set(re.findall(r"\d{4}-\d{2}-\d{2}", node["compiled_code"]))
            # A day that dbt reckoned from the as-of date would stay as it is in other nights.
            assert days <= {SENTINEL.isoformat()}, f"{node['name']} names the days {days}"
            yield Statement(
                node["schema"],
                node["name"],
                node["config"]["materialized"] == "view",
                key in after,
                # Clones of the warehouse have other names.
                node["compiled_code"].replace(f'"{node["database"]}".', ""),
            )
