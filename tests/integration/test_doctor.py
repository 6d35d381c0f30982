"""`doctor` over a real warehouse: what it finds there, and that it writes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from kundenkreis.connections import Connection, connection_from_environment
from kundenkreis.doctor import alerts, clock, publication, segments, server, warehouse
from kundenkreis.doctor.findings import Finding, Patient
from kundenkreis.settings import Settings, load_settings
from kundenkreis.warehouse import LOADER, TRANSFORMER, roles
from kundenkreis.warehouse.connection import dsn_of
from tests.command_line import entry_point

pytestmark = pytest.mark.integration

SEGMENTS = """
segments:
  birthday:
    labels: {en: Birthday, de: Geburtstag}
    description: a
    where: "true"
    requires: [birthday, no_such_column]
  everybody:
    labels: {en: Everybody, de: Jeder}
    description: a
    where: "true"
    requires: [customer_id]
  switched_off:
    labels: {en: Retired, de: Stillgelegt}
    description: a
    where: "true"
    requires: [birthday]
    enabled: false
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "sources.yml").write_text("{}")
    (tmp_path / "segments.yml").write_text(SEGMENTS)
    return load_settings(tmp_path)


@pytest.fixture
def patient(warehouse_dsn: str, settings: Settings) -> Patient:
    """A warehouse in which every write fails."""
    read_only = f"{warehouse_dsn}?options=-c%20default_transaction_read_only%3Don"
    return Patient(settings, read_only, connection_from_environment, {})


def _wrong(findings: Any) -> list[tuple[str, str]]:
    found: list[Finding] = list(findings)
    return [(one.level, one.where) for one in found if one.level != "ok"]


def _run(dsn: str, *statements: str) -> None:
    with psycopg.connect(dsn) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def test_a_good_warehouse(patient: Patient) -> None:
    assert _wrong(clock.check(patient)) == []
    assert [where for _, where in _wrong(warehouse.check(patient))] == ["roles"]
    # The tests' server gives up durability for speed, which is just what must be said.
    assert _wrong(server.check(patient)) == [("error", "fsync"), ("error", "full_page_writes")]
    assert patient.settings is not None
    where = str(patient.settings.folder / "alerts.yml")
    assert _wrong(alerts.check(patient)) == [("warning", where)]


def test_bookkeeping_of_another_version_is_named(patient: Patient, warehouse_dsn: str) -> None:
    _run(warehouse_dsn, "comment on schema operations is 'Kundenkreis of last year'")
    found = [one for one in warehouse.check(patient) if one.where.startswith("schemas")]
    assert [(one.level, one.fix) for one in found] == [("warning", "kundenkreis warehouse migrate")]


def test_a_warehouse_without_bookkeeping(
    postgres: Any, settings: Settings, patient: Patient
) -> None:
    with psycopg.connect(postgres.dsn("postgres"), autocommit=True) as connection:
        connection.execute("create database doctor_empty")
    try:
        empty = Patient(settings, postgres.dsn("doctor_empty"), patient.resolve, {})
        assert "schemas operations, history, activation, quality, quarantine" in [
            where for _, where in _wrong(warehouse.check(empty))
        ]
        assert _wrong(publication.check(empty)) == [("warning", "history.publications")]
        assert _wrong(segments.check(empty)) == []
        assert _wrong(alerts.check(empty)) == _wrong(alerts.check(patient))
    finally:
        with psycopg.connect(postgres.dsn("postgres"), autocommit=True) as connection:
            connection.execute("drop database doctor_empty with (force)")


def test_roles_and_their_rights(patient: Patient, warehouse_dsn: str) -> None:
    roles.create(warehouse_dsn)
    assert _wrong(warehouse.check(patient)) == []
    _run(
        warehouse_dsn,
        f"revoke delete on quarantine.rejected_records from {LOADER}",
        f"revoke select on activation.subscriber_states from {TRANSFORMER}",
        "create table marts_blue.made_by_hand (x integer)",
    )
    found = [one for one in warehouse.check(patient) if one.level != "ok"]
    assert {one.fix for one in found} == {"kundenkreis warehouse roles"}
    texts = " ".join(one.what for one in found)
    assert f"{LOADER} may not select, insert, update, delete on quarantine.rejected" in texts
    assert f"{TRANSFORMER} may not select on activation.subscriber_states" in texts
    assert f"marts_blue: 1 objects do not belong to {TRANSFORMER}" in texts
    roles.create(warehouse_dsn)
    assert _wrong(warehouse.check(patient)) == []


def test_old_publications_dirty_builds_and_builds_that_nobody_ends(
    patient: Patient, warehouse_dsn: str
) -> None:
    assert _wrong(publication.check(patient)) == [("warning", "history.publications")]
    _run(
        warehouse_dsn,
        "insert into history.publications (as_of_date, dag_run_id, schema_name) "
        "values ('2026-01-31', 'night', 'marts_blue')",
        "insert into operations.dirty_schemas values ('marts_green', 'gate_marts failed')",
        "insert into operations.build_lease (run_id, schema_name, as_of_date, is_backfill, "
        "renewed_at) values ('night', 'marts_green', '2026-02-01', false, now() - interval '2 d')",
    )
    assert _wrong(publication.check(patient)) == [
        ("error", "publication as of 2026-01-31"),
        ("warning", "marts_green"),
        ("warning", "marts_green"),
    ]
    _run(
        warehouse_dsn,
        "update operations.build_lease set is_over = true",
        "delete from operations.dirty_schemas",
        "update history.publications set as_of_date = current_date",
    )
    assert _wrong(publication.check(patient)) == []


def test_segments_that_have_nobody_for_want_of_a_column(
    patient: Patient, warehouse_dsn: str
) -> None:
    _run(
        warehouse_dsn,
        "create table marts.customer_360 as "
        "select 'c'::text as customer_id, null::date as birthday",
    )
    found = [one for one in segments.check(patient) if one.level != "ok"]
    assert [(one.level, one.where) for one in found] == [("warning", "segment birthday")]
    assert "birthday is empty for everybody (from date_of_birth of HubSpot" in found[0].what
    assert "no_such_column is no column of customer_360" in found[0].what
    assert "enabled: false" in found[0].fix
    _run(
        warehouse_dsn,
        "alter table marts.customer_360 add column no_such_column integer default 1",
        "update marts.customer_360 set birthday = '1990-01-01'",
    )
    assert _wrong(segments.check(patient)) == []


def test_messages_that_no_channel_took_are_named(patient: Patient, warehouse_dsn: str) -> None:
    _run(
        warehouse_dsn,
        "insert into operations.incident_messages (incident_id, channel, occasion, title, body, "
        "problem) values (1, 'ops', 'opened', 't', 'b', 'answered 503')",
    )
    found = list(alerts.check(patient))
    assert found[-1].what == "1 messages could not be sent: answered 503"


def test_the_warehouse_may_be_one_that_only_airflow_knows(
    warehouse_dsn: str, clean_env: pytest.MonkeyPatch
) -> None:
    parts = psycopg.conninfo.conninfo_to_dict(warehouse_dsn)
    held = Connection(
        "warehouse",
        "postgres",
        str(parts["host"]),
        int(str(parts["port"])),
        str(parts["user"]),
        str(parts["password"]),
        str(parts["dbname"]),
    )
    assert warehouse.reach(held) == (dsn_of(held), [])
    clean_env.setenv("AIRFLOW_CONN_WAREHOUSE", "postgresql://me:s3cret@127.0.0.1:1/warehouse")
    dsn, found = warehouse.reach(held)
    assert dsn is None
    assert [one.level for one in found] == ["error"]
    assert "s3cret" not in str(found)


# The command


@pytest.fixture
def call(
    warehouse_dsn: str,
    settings: Settings,
    clean_env: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., Any]:
    clean_env.setenv("AIRFLOW_CONN_WAREHOUSE", warehouse_dsn)
    clean_env.setenv("KUNDENKREIS_CONFIG", str(settings.folder))
    return entry_point(clean_env, capsys)


def test_the_command_tells_everything_and_fails_on_errors(call: Callable[..., Any]) -> None:
    code, output, _ = call("doctor", "--json")
    found = json.loads(output)
    assert {"level", "subject", "where", "what", "fix"} == set(found[0])
    subjects = {one["subject"] for one in found}
    assert {"packages", "config", "warehouse", "server", "clock", "disk", "airflow"} <= subjects
    assert code == 1  # the tests' server runs without fsync
    wrong = [one["where"] for one in found if one["level"] == "error"]
    assert "fsync" in wrong
    assert "connection 'warehouse'" not in wrong


def test_the_command_shows_fixes_and_on_demand_what_is_fine(call: Callable[..., Any]) -> None:
    _, short, _ = call("doctor")
    _, long, _ = call("doctor", "--all")
    assert "fix: alter system set fsync = on" in short
    assert "as locked" not in short
    assert "as locked" in long
