"""The dbt project on DuckDB: what a build reads, copied there, and dbt's commands.

As a program it is the process in which dbt runs, because DuckDB gives a file to one process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import duckdb
import psycopg

from kundenkreis.settings import repository_root

# What the models read and do not make (the sources of dbt_project/models).
INPUT_SCHEMAS = (
    "raw_files",
    "raw_hubspot",
    "raw_woocommerce",
    "activation",
    "history",
    "predictions",
    "privacy",
)
_TYPES = {
    # DuckDB has no decimal without a scale; dlt lands decimals there with this one.
    "numeric": "decimal(38, 9)",
    "jsonb": "json",
}


def copy_inputs(dsn: str, file: Path, folder: Path) -> int:
    """Copy the input tables of a PostgreSQL warehouse into a DuckDB file; returns their rows."""
    copied = 0
    with psycopg.connect(dsn) as source, duckdb.connect(str(file)) as target:
        target.execute("set TimeZone = 'UTC'")
        for schema, table, columns in _tables(source):
            rows = folder / f"{schema}.{table}.csv"
            with rows.open("wb") as out, source.cursor() as cursor:
                statement = (
                    f"copy (select * from {schema}.{table}) to stdout (format csv, null '\\N')"
                )
                with cursor.copy(statement.encode()) as copy:
                    for block in copy:
                        out.write(block)
            listed = ", ".join(
                f'"{name}" {_TYPES.get(type_, type_)}' for name, type_ in columns.items()
            )
            target.execute(f"create schema if not exists {schema}")
            target.execute(f"create table {schema}.{table} ({listed})")
            target.execute(
                f"copy {schema}.{table} from '{rows}' (format csv, auto_detect false,"
                """ header false, delimiter ',', quote '"', escape '"', nullstr '\\N')"""
            )
            count = target.execute(f"select count(*) from {schema}.{table}").fetchone()
            copied += count[0] if count else 0
    return copied


def _tables(connection: psycopg.Connection) -> Iterable[tuple[str, str, dict[str, str]]]:
    rows = connection.execute(
        "select n.nspname, c.relname, a.attname, format_type(a.atttypid, a.atttypmod)"
        " from pg_class as c join pg_namespace as n on n.oid = c.relnamespace"
        " join pg_attribute as a on a.attrelid = c.oid"
        " where n.nspname = any(%s) and c.relkind in ('r', 'p') and not c.relispartition"
        " and a.attnum > 0 and not a.attisdropped"
        " order by n.nspname, c.relname, a.attnum",
        (list(INPUT_SCHEMAS),),
    ).fetchall()
    tables: dict[tuple[str, str], dict[str, str]] = {}
    for schema, table, column, type_ in rows:
        tables.setdefault((schema, table), {})[column] = type_
    for (schema, table), columns in tables.items():
        yield schema, table, columns


@dataclass(frozen=True)
class Command:
    """A dbt command with its variables and options."""

    name: str
    variables: Mapping[str, Any]
    options: tuple[str, ...]


def run_dbt(file: Path, folder: Path, *commands: Command) -> list[dict[str, str]]:
    """Run dbt commands with the target duckdb, without the plan, in a process of their own.

    The project is parsed once, with the variables of the first command.

    Returns:
        The status of each node by its dbt name, for each command.
    """
    for number in range(len(commands)):
        _results(folder, number).unlink(missing_ok=True)
    finished = subprocess.run(
        [sys.executable, __file__, str(folder), json.dumps([asdict(one) for one in commands])],
        env={**os.environ, "KUNDENKREIS_DBT_DUCKDB": str(file), "DBT_WRITE_JSON": "true"},
        capture_output=True,
        text=True,
        check=False,
    )
    said = finished.stdout[-3000:] + finished.stderr[-3000:]
    return [_statuses(_results(folder, number), said) for number in range(len(commands))]


def _results(folder: Path, number: int) -> Path:
    return folder / f"run_results_{number}.json"


def _statuses(results: Path, said: str) -> dict[str, str]:
    assert results.exists(), said
    found = json.loads(results.read_text(encoding="utf-8"))["results"]
    return {
        result["unique_id"]: result["status"]
        if result["status"] in ("success", "pass")
        else f"{result['status']}: {result['message']}"
        for result in found
    }


def _run_here(folder: Path, commands: list[dict[str, Any]]) -> None:
    """What the process does: dbt's results of each command go to a file of their own."""
    from dbt.cli.main import dbtRunner

    sys.path.insert(0, str(repository_root()))
    from tests import quick_dbt, shared_parses

    quick_dbt.install(Path(os.environ[shared_parses.FOLDER_VARIABLE]) / quick_dbt.TEMPLATES)
    project = str(repository_root() / "dbt_project")
    options = ["--target", "duckdb", "--project-dir", project, "--profiles-dir", project]
    options += ["--target-path", str(folder), "--log-path", str(folder)]
    parsed_with = ["--vars", json.dumps(commands[0]["variables"])]
    for number, command in enumerate(commands):
        # Each begins with a manifest in which nothing is compiled.
        parsed = dbtRunner().invoke(["parse", *options, *parsed_with, "--no-write-json"])
        variables = ["--vars", json.dumps(command["variables"])]
        dbtRunner(manifest=parsed.result).invoke(
            [command["name"], "--exclude", "tag:plan", *options, *variables, *command["options"]]
        )
        (folder / "run_results.json").rename(_results(folder, number))


if __name__ == "__main__":
    _run_here(Path(sys.argv[1]), json.loads(sys.argv[2]))
