"""Commands of the command line that read the warehouse, before and after a first night."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import psycopg
import pytest

from kundenkreis import local_run
from kundenkreis.local_run import LocalRun
from kundenkreis.warehouse import publish as publishing
from tests.command_line import Call, entry_point

pytestmark = pytest.mark.integration

DAY = date(2026, 1, 31)


@pytest.fixture
def call(
    warehouse_dsn: str, clean_env: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Call:
    """Call the entry point over a fresh warehouse; exit code, output and error output."""
    clean_env.setenv("AIRFLOW_CONN_WAREHOUSE", warehouse_dsn)
    clean_env.setenv("COLUMNS", "200")

    return entry_point(clean_env, capfd)


def _drop_everything(dsn: str) -> None:
    """An empty database, as the one of a server of one's own."""
    with psycopg.connect(dsn) as connection:
        schemas = connection.execute(
            "select nspname from pg_namespace where nspname !~ '^pg_' "
            "and nspname not in ('information_schema', 'public')"
        ).fetchall()
        for (schema,) in schemas:
            connection.execute(f'drop schema "{schema}" cascade'.encode())


def _publish(dsn: str) -> int:
    schema = publishing.begin_build(dsn, "run-1", DAY, False)
    with psycopg.connect(dsn) as connection:
        connection.execute(f"create schema {schema}".encode())
        connection.execute(
            f"create table {schema}.customer_360 as select stage from "
            "(values ('loyalty'), ('loyalty'), ('churned'), (null)) as v (stage)".encode()
        )
        connection.execute(
            f"create table {schema}.customer_rfm as "
            "select 'champions'::text as rfm_segment".encode()
        )
    return publishing.publish(dsn, "run-1", DAY, schema, {}).publication_id


def _record(dsn: str, task_id: str, state: str, summary: dict[str, Any]) -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute(
            "insert into operations.task_results "
            "(run_id, task_id, as_of_date, state, summary, started_at) "
            "values ('run-1', %s, %s, %s, %s, now() - interval '2 seconds')",
            (task_id, DAY, state, json.dumps(summary)),
        )


# Before the first night


def test_status_of_an_empty_database(call: Call, warehouse_dsn: str) -> None:
    _drop_everything(warehouse_dsn)
    assert call("status") == (0, "No night has run yet. `kundenkreis run` runs one.\n", "")
    code, output, errors = call("status", "--json")
    assert (code, errors) == (0, "")
    assert json.loads(output) == {"run_id": None, "publication": None}


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_plan_of_an_empty_database(call: Call, warehouse_dsn: str, options: tuple[str]) -> None:
    _drop_everything(warehouse_dsn)
    code, output, errors = call("plan", *options)
    assert (code, output) == (1, "")
    assert errors == (
        "KundenkreisError: Nothing was published yet. `kundenkreis run` runs a night.\n"
    )


# After nights


def test_status_of_a_failed_run_that_published_nothing(call: Call, warehouse_dsn: str) -> None:
    _record(warehouse_dsn, "extract.hubspot", "failed", {"error": "VendorError: hubspot: 503"})
    code, output, _ = call("status", "--json")
    report = json.loads(output)
    assert code == 0
    assert (report["run_id"], report["as_of_date"]) == ("run-1", "2026-01-31")
    assert report["publication"] is None
    assert (report["stages"], report["deliveries"], report["gates"]) == ({}, {}, [])
    assert [(task["task_id"], task["state"], task["error"]) for task in report["tasks"]] == [
        ("extract.hubspot", "failed", "VendorError: hubspot: 503")
    ]
    assert report["tasks"][0]["seconds"] >= 2
    assert "Nothing is published yet" in call("status")[1]


def test_status_after_a_night(call: Call, warehouse_dsn: str) -> None:
    publication_id = _publish(warehouse_dsn)
    delivery = {"destination": "listmonk", "sent": 5, "calls": 2, "audiences": {}}
    _record(warehouse_dsn, "deliver.listmonk", "success", delivery)
    _record(warehouse_dsn, "report", "success", {})
    with psycopg.connect(warehouse_dsn) as connection:
        for number, (severity, success) in enumerate(
            [("critical", True), ("critical", False), ("warning", False), ("warning", True)]
        ):
            connection.execute(
                "insert into quality.gate_results (run_id, gate, as_of_date, table_name, "
                "expectation, expectation_id, severity, success, raised, observed) "
                "values ('run-1', 'marts', %s, 'orders', 'between', %s, %s, %s, false, '3')",
                (DAY, f"orders.{number}", severity, success),
            )
    report = json.loads(call("status", "--json")[1])
    assert report["publication"]["publication_id"] == publication_id
    assert report["publication"]["as_of_date"] == "2026-01-31"
    assert report["stages"] == {"loyalty": 2, "churned": 1, "none": 1}
    assert report["rfm_segments"] == {"champions": 1}
    assert report["deliveries"] == {"listmonk": delivery}
    assert report["gates"] == [
        {
            "gate": "marts",
            "expectations": 4,
            "critical_failures": 1,
            "warnings": 1,
            "data_docs": None,
        }
    ]
    assert set(report["seconds"]) == {"deliver.listmonk", "report"}
    text = call("status")[1]
    for expected in ("Night of 2026-01-31", "loyalty", "listmonk: 5 rows sent in 2 calls"):
        assert expected in text


def test_gates_shows_what_fails_and_what_failed_lately(call: Call, warehouse_dsn: str) -> None:
    assert "Every expectation was met" in call("gates")[1]
    with psycopg.connect(warehouse_dsn) as connection:
        for number, (rule, success, value) in enumerate(
            [
                ("always", True, 0),
                ("now", True, 0),
                ("before", False, 3),
                ("always", True, 0),
                ("now", False, 7),
                ("before", True, 0),
            ]
        ):
            connection.execute(
                "insert into quality.gate_results (run_id, gate, as_of_date, table_name, "
                "expectation, expectation_id, severity, success, raised, observed, expected, "
                "measured, recorded_at) values (%s, 'marts', %s, 'orders', 'rows', %s, 'critical', "
                "%s, false, %s, 'no row', %s, timestamptz '2026-02-01' + %s * interval '1 day')",
                (
                    f"run {number // 3}",
                    f"2026-01-3{number // 3}",
                    f"marts.orders.{rule}",
                    success,
                    f"{value} rows",
                    value,
                    number // 3,
                ),
            )
    rows = json.loads(call("gates", "--json")[1])
    found = [(row["expectation_id"], row["success"], row["failures"], row["runs"]) for row in rows]
    assert found == [("marts.orders.now", False, 1, 2), ("marts.orders.before", True, 1, 2)]
    assert rows[0]["last_met_on"] == "2026-01-30"
    assert (rows[0]["measured"], rows[0]["measured_usually"]) == (7, 0)
    listed = " ".join(call("gates")[1].split())
    assert f"{rows[0]['expectation_id']} {rows[0]['severity']}: " in listed
    text = call("gates", "marts.orders.now")[1]
    assert "2026-01-31" in text
    assert "2026-01-30" in text
    code, _, errors = call("gates", "marts.orders.nothing")
    assert code == 1
    assert "No run has checked 'marts.orders.nothing'" in errors


def test_plan_of_a_publication_that_was_not_planned_yet(call: Call, warehouse_dsn: str) -> None:
    publication_id = _publish(warehouse_dsn)
    code, output, errors = call("plan", "--json")
    summary = json.loads(output)
    assert (code, errors) == (0, "")
    assert summary["publication_id"] == publication_id
    assert set(summary["destinations"]) == {"listmonk", "mailchimp"}
    assert {entry["calls"] for entry in summary["destinations"].values()} == {0}
    assert f"Plan of publication {publication_id}" in call("plan")[1]


# Roles


def test_roles_are_created_on_an_empty_database_and_again(call: Call, warehouse_dsn: str) -> None:
    _drop_everything(warehouse_dsn)
    code, output, errors = call("warehouse", "roles")
    assert (code, errors) == (0, "")
    assert "kundenkreis_reader" in output
    assert "create user bi password '...' in role kundenkreis_reader" in output
    code, output, _ = call("warehouse", "roles", "--json")
    report = json.loads(output)
    assert code == 0
    assert report["roles"].keys() >= {"kundenkreis_loader", "kundenkreis_pii"}
    assert (report["created"], report["transferred"], report["missing"]) == ([], 0, [])


# A run


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_failed_run_names_what_failed_and_exits_1(
    call: Call,
    warehouse_dsn: str,
    clean_env: pytest.MonkeyPatch,
    tmp_path: Path,
    options: tuple[str, ...],
) -> None:
    missing = "CredentialError: Connection 'hubspot' is not set. [Add] it in AIRFLOW_CONN_HUBSPOT"

    def run_night(as_of: date | None, watch: Callable[[str, str, str], None]) -> LocalRun:
        assert as_of == DAY
        watch("extract.hubspot", "started", "")
        _record(warehouse_dsn, "extract.hubspot", "failed", {"error": missing})
        watch("extract.hubspot", "failed", missing)
        return LocalRun("run-1", False, {"extract.hubspot": missing}, tmp_path / "night.log")

    clean_env.setattr(local_run, "run_night", run_night)
    code, output, errors = call("run", "--as-of", "2026-01-31", *options)
    assert code == 1
    assert f"extract.hubspot failed: {missing}\n" in errors
    assert f"The log of the whole run: {tmp_path / 'night.log'}." in errors
    assert "Traceback" not in output + errors
    if options:
        assert json.loads(output)["state"] == "failed"
        assert "starting Airflow" in errors
    else:
        assert "starting Airflow" in output
        assert "failed" in output


# Other programs


@pytest.fixture
def started(clean_env: pytest.MonkeyPatch) -> list[tuple[list[str], dict[str, str]]]:
    """The programs a command would start, with their environments."""
    programs: list[tuple[list[str], dict[str, str]]] = []

    def run(command: list[str], *, env: dict[str, str], check: bool) -> Any:
        programs.append((command, env))
        return subprocess.CompletedProcess(command, 3)

    clean_env.setattr(subprocess, "run", run)
    return programs


def test_psql_gets_the_password_where_no_process_list_shows_it(
    call: Call, warehouse_dsn: str, started: list[tuple[list[str], dict[str, str]]]
) -> None:
    assert call("warehouse", "psql", "-c", "select 1")[0] == 3
    command, environment = started[0]
    password = psycopg.conninfo.conninfo_to_dict(warehouse_dsn)["password"]
    assert command[1:] == ["-c", "select 1"]
    assert environment["PGPASSWORD"] == password
    assert password not in " ".join(command)


def test_dbt_by_hand_builds_the_colour_nobody_reads(
    call: Call, warehouse_dsn: str, started: list[tuple[list[str], dict[str, str]]]
) -> None:
    _publish(warehouse_dsn)
    assert call("dbt", "build", "--select", "orders", "--help")[0] == 3
    command, environment = started[0]
    variables = json.loads(command[command.index("--vars") + 1])
    assert command[3:7] == ["build", "--select", "orders", "--help"]
    assert variables["marts_schema"] == "marts_green"
    assert variables["as_of_date"] == "2026-01-31"
    assert environment["KUNDENKREIS_DBT_PASSWORD"] in warehouse_dsn
    assert environment["KUNDENKREIS_DBT_PASSWORD"] not in " ".join(command)
