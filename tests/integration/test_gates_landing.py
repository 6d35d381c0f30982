"""Gate landing on a real PostgreSQL: every expectation passes on clean data and can fail."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import psycopg
import pytest

from kundenkreis.errors import WarehouseError
from kundenkreis.quality import run_gate
from kundenkreis.quality.suites.landed import Landed, landed_tables
from kundenkreis.settings import Settings
from tests.integration import gate_runs
from tests.integration import landing_fixture as landing
from tests.integration.gate_runs import GateRun

pytestmark = pytest.mark.integration

RAW_SCHEMAS = ("raw_woocommerce", "raw_hubspot", "raw_files")


def _tables(settings: Settings) -> Iterator[tuple[str, Landed]]:
    for source, tables in landed_tables(settings).items():
        for landed in tables:
            yield f"raw_{source}.{landed.table}", landed


def _broken_values(settings: Settings) -> Iterator[str]:
    """Twice loaded, without key, in the future, below zero, unknown, orphaned, unreadable."""
    for name, landed in _tables(settings):
        key = landed.key[0]
        if landed.parent:
            yield f"update {name} set {landed.parent[0]} = {_nobody(landed)}"
        for column in landed.times:
            yield f"update {name} set {column} = '2099-01-01'"
        for column in landed.not_negative:
            yield f"update {name} set {column} = -1"
        if landed.status:
            yield f"update {name} set {landed.status} = 'mystery'"
        if landed.texts:
            yield f"update {name} set {landed.texts[0]} = 'MÃ¼ller'"
        if landed.address:
            yield f"update {name} set {landed.address} = 'nobody'"
        if landed.told_apart_by:
            other = landed.key[-1] if landed.table == "orders" else "order_key"
            yield (
                f"insert into {name} select (jsonb_populate_record(one, jsonb_build_object("
                f"'{other}', '7' || {other}))).* from {name} as one"
            )
        yield f"insert into {name} select * from {name} limit 5"
        yield f"update {name} set {key} = null where ctid = (select ctid from {name} limit 1)"
    yield _rejected("woocommerce", 200)
    yield _rejected("hubspot", 60)
    yield _rejected("files", 60)
    yield (
        "insert into activation.subscriber_states "
        "(destination, address, state, state_changed_at, vendor_id, read_at, run_id) "
        "values ('listmonk', 'Somebody@Mail.Example', 'subscribed', '2099-01-01', '99', now(), 'x')"
    )
    yield "update activation.subscriber_states set run_id = 'an earlier run'"


def _nobody(landed: Landed) -> str:
    assert landed.parent
    return "-1" if landed.table == "refunds" else "'nobody'"


def _missing_values(settings: Settings) -> Iterator[str]:
    """Columns without values, stale, variant columns, and a large part of the rows gone."""
    for name, landed in _tables(settings):
        if landed.changed_at:
            yield f"update {name} set {landed.changed_at} = '2025-01-01'"
        for column in landed.not_null:
            yield f"update {name} set {column} = null"
        yield f"alter table {name} drop column {[*landed.required, *landed.times][0]}"
        yield f"delete from {name} where ctid in (select ctid from {name} offset 2)"
    for schema in RAW_SCHEMAS:
        table = "order_lines" if schema == "raw_files" else "products"
        table = "deals" if schema == "raw_hubspot" else table
        yield f"alter table {schema}.{table} add column amount__v_text text"


def _small_faults(settings: Settings) -> Iterator[str]:
    """What deserves a warning and no more."""
    for name, _ in _tables(settings):
        count = f"(select count(*) / 5 from {name})"
        yield f"delete from {name} where ctid in (select ctid from {name} limit {count})"
    for source in ("woocommerce", "hubspot", "files"):
        yield _rejected(source, 15)


def _rejected(source: str, rows: int) -> str:
    table = "order_lines" if source == "files" else "orders"
    return f"""
        insert into quarantine.rejected_records
            (record_hash, source, table_name, record_key, reason_code, reason, payload, run_id)
        select
            '{source}' || n, '{source}', '{table}', n::text, 'invalid_date', 'No date.',
            jsonb_build_object('email', 'person' || n || '@mail.example'), '{landing.RUN_ID}'
        from generate_series(1, {rows}) as n
    """


MISSING_TABLES = (
    "drop table raw_woocommerce.products",
    "drop table raw_hubspot.deals",
    "drop table raw_files.order_lines",
    "alter table raw_woocommerce.orders drop column currency",
    "alter table raw_woocommerce.orders alter date_paid_gmt type timestamp",
    "alter table raw_hubspot.contacts alter createdate type timestamp",
    "alter table raw_files.spend alter amount type double precision",
)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return landing.settings(tmp_path_factory.mktemp("config"))


@pytest.fixture(scope="module")
def runs(module_warehouse_dsn: str, settings: Settings) -> Iterator[dict[str, GateRun]]:
    """One run on clean data, then one per kind of corruption of freshly landed tables."""
    dsn = module_warehouse_dsn
    rounds = {
        "clean": (),
        "clean again": (),
        "broken": tuple(_broken_values(settings)),
        "missing": tuple(_missing_values(settings)),
        "small": tuple(_small_faults(settings)),
        "tables": MISSING_TABLES,
    }
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        for name, statements in rounds.items():
            _reland(dsn, name)
            landing.execute(dsn, *statements)
            found[name] = gate_runs.run("landing", settings, dsn, landing.RUN_ID, patch)
            # The history of volumes holds the clean nights only, as if each had its own run.
            suffix = f"run_id || ' {name}'" if name.startswith("clean") else "null"
            landing.execute(
                dsn,
                f"insert into quality.gate_results select {suffix}, gate, as_of_date, table_name, "
                "expectation, expectation_id, severity, success, raised, observed, expected, "
                "duration_seconds, recorded_at, measured from quality.gate_results "
                f"where run_id = '{landing.RUN_ID}' and {suffix} is not null",
            )
    yield found


def _reland(dsn: str, name: str) -> None:
    landing.execute(
        dsn,
        *(f"drop schema if exists {schema} cascade" for schema in RAW_SCHEMAS),
        "truncate quarantine.rejected_records, activation.subscriber_states",
    )
    landing.land(dsn)


def test_clean_data_passes_on_the_first_night_and_after(runs: dict[str, GateRun]) -> None:
    for name in ("clean", "clean again"):
        assert runs[name].failure is None
        assert runs[name].failed() == set()
        assert runs[name].summary is not None
        assert runs[name].summary["warnings"] == 0
        assert runs[name].summary["expectations"] == len(runs[name].results)
        assert Path(str(runs[name].summary["data_docs"])).read_text().startswith("<!DOCTYPE html>")


def test_every_expectation_can_fail(runs: dict[str, GateRun]) -> None:
    every = set(runs["clean again"].results)
    assert len(every) > 100
    failing = {
        key
        for run in runs.values()
        for key in run.failed()
        # Only a failure counts: an expectation that merely broke has shown nothing.
        if not run.results[key]["raised"]
    }
    assert every - failing == set()


def test_corruption_stops_the_run_and_says_what_to_do(runs: dict[str, GateRun]) -> None:
    message = runs["broken"].failure
    assert message is not None
    assert message.startswith("Gate landing stopped the run: ")
    assert "raw_woocommerce.orders" in message
    assert "landing.raw_woocommerce.rejected_rows.critical" in message
    assert "200 rejected, 1755 loaded (invalid_date 200)" in message
    assert "what to do: " in message
    assert "find the rows: select table_name, record_key" in message
    assert "Data Docs: " in message


def test_a_missing_table_is_named_and_needs_no_further_expectation(
    runs: dict[str, GateRun],
) -> None:
    result = runs["tables"].results["landing.raw_woocommerce.tables_exist"]
    assert result["observed"] == "missing: products"
    assert not [key for key in runs["tables"].results if ".raw_woocommerce.products." in key]
    columns = runs["tables"].results["landing.raw_woocommerce.orders.columns"]
    assert columns["observed"] == "missing: currency"


def test_warnings_do_not_stop_the_run(runs: dict[str, GateRun]) -> None:
    run = runs["small"]
    assert run.failed("critical") == set()
    assert run.failure is None
    assert run.summary is not None
    assert run.summary["warnings"] == len(run.failed("warning")) > 0
    assert any("volume" in line or "rows as in the last runs" in line for line in run.said)


def test_the_direct_evaluation_agrees_with_great_expectations(runs: dict[str, GateRun]) -> None:
    assert {name: run.disagreements for name, run in runs.items() if run.disagreements} == {}


def test_results_are_complete(runs: dict[str, GateRun]) -> None:
    for run in runs.values():
        assert run.results
        for row in run.results.values():
            empty = [name for name, value in row.items() if value in (None, "")]
            assert empty == (["measured"] if row["raised"] else [])
            assert row["as_of_date"] == landing.AS_OF
            assert row["duration_seconds"] >= 0


def test_nothing_that_is_kept_or_shown_holds_an_address(runs: dict[str, GateRun]) -> None:
    for name, run in runs.items():
        assert len(run.stored) > 20
        leaks = [where for where, text in run.texts().items() if "@mail.example" in text.lower()]
        assert leaks == [], name


def test_volume_is_compared_with_the_runs_before(runs: dict[str, GateRun]) -> None:
    check = "landing.raw_woocommerce.orders.volume"
    assert runs["clean"].results[check]["expected"] == "any (first run)"
    assert runs["clean again"].results[check]["expected"] == "at least 350 rows (usual: 500)"
    assert runs["missing"].results[check]["observed"] == "2"
    assert check in runs["missing"].failed("critical")
    assert f"{check}_drift" in runs["small"].failed("warning")


def test_an_exception_counts_as_critical_and_does_not_leak(
    warehouse_dsn: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    landing.land(warehouse_dsn)
    landing.execute(
        warehouse_dsn,
        "alter table raw_woocommerce.orders rename to orders_before",
        # Reading the status fails with an error that quotes the value.
        "create view raw_woocommerce.orders as select id, number, "
        "billing_email::numeric::text as status, currency, date_created_gmt, date_modified_gmt, "
        "date_paid_gmt, date_completed_gmt, total, customer_id, billing_email, payment_method, "
        "exchange_rate, _dlt_id, _dlt_load_id from raw_woocommerce.orders_before",
    )
    run = gate_runs.run("landing", settings, warehouse_dsn, landing.RUN_ID, monkeypatch)
    raised = {key: row for key, row in run.results.items() if row["raised"]}
    assert raised["landing.raw_woocommerce.orders.known_statuses"]["severity"] == "warning"
    assert run.failure is not None
    assert "landing.raw_woocommerce.orders.known_statuses" in run.failure
    assert "could not be evaluated: InvalidTextRepresentation" in run.failure
    assert [where for where, text in run.texts().items() if "@mail.example" in text] == []


def test_no_secret_reaches_the_disk(runs: dict[str, GateRun], module_warehouse_dsn: str) -> None:
    from psycopg.conninfo import conninfo_to_dict

    stored = runs["clean"].stored
    config = next(text for name, text in stored.items() if name.endswith("great_expectations.yml"))
    assert "connection_string: ${KUNDENKREIS_GATE_URL}" in config
    assert "analytics_enabled: false" in config
    password = conninfo_to_dict(module_warehouse_dsn).get("password")
    for text in stored.values():
        assert "postgresql" not in text.replace("postgresql+psycopg2 driver", "")
        assert not password or str(password) not in text


def test_the_gate_leaves_no_connection_open(
    runs: dict[str, GateRun], module_warehouse_dsn: str
) -> None:
    with psycopg.connect(module_warehouse_dsn) as connection:
        row = connection.execute(
            "select count(*) from pg_stat_activity where application_name = 'kundenkreis gate'"
        ).fetchone()
    assert row == (0,)


def test_an_older_date_finds_newer_events_and_that_is_right(
    warehouse_dsn: str, settings: Settings
) -> None:
    landing.land(warehouse_dsn)
    run = gate_runs.verdicts(
        "landing",
        settings,
        warehouse_dsn,
        landing.RUN_ID,
        as_of_date=date(2026, 3, 15),
    )
    assert run.failed() == set()


def test_files_that_never_change_are_not_stale(warehouse_dsn: str, tmp_path: Path) -> None:
    landing.land(warehouse_dsn)
    only_files = landing.settings(tmp_path, landing.SOURCES.split("hubspot: {}")[1])
    run = gate_runs.verdicts(
        "landing",
        only_files,
        warehouse_dsn,
        landing.RUN_ID,
        as_of_date=date(2027, 1, 31),
    )
    assert run.failed() == set()


def _extracted(rows: int, rejected: int) -> str:
    summary = {"source": "files", "tables": {"order_lines": rows}, "rejected": rejected}
    return (
        "insert into operations.task_results "
        "(run_id, task_id, as_of_date, state, summary, started_at) values "
        f"('{landing.RUN_ID}', 'extract.files', '2026-03-31', 'success', "
        f"'{json.dumps(summary)}', now())"
    )


def test_rejected_rows_are_compared_with_what_the_run_read(
    warehouse_dsn: str, settings: Settings
) -> None:
    landing.land(warehouse_dsn)
    # 21 of 1,000 read: a warning, although the same number beside the 300 rows kept would stop.
    landing.execute(warehouse_dsn, _rejected("files", 21), _extracted(979, 21))
    run = gate_runs.verdicts("landing", settings, warehouse_dsn, landing.RUN_ID)
    assert run.failure is None
    assert run.failed() == {"landing.raw_files.rejected_rows.warning"}
    observed = run.results["landing.raw_files.rejected_rows.warning"]["observed"]
    assert observed == "21 rejected, 979 loaded (invalid_date 21)"


def test_rejections_of_a_killed_attempt_and_of_the_models_do_not_count(
    warehouse_dsn: str, settings: Settings
) -> None:
    landing.land(warehouse_dsn)
    landing.execute(
        warehouse_dsn,
        # The first attempt read everything; the second, whose summary stays, only the overlap.
        _rejected("files", 60),
        _extracted(100, 1),
        _rejected("woocommerce", 200),
        "update quarantine.rejected_records "
        "set reason_code = 'no_exchange_rate', rejected_by = 'int_orders_rejected' "
        "where source = 'woocommerce'",
    )
    run = gate_runs.verdicts("landing", settings, warehouse_dsn, landing.RUN_ID)
    assert run.failed() == set()


def test_a_refund_of_a_rejected_order_is_no_surprise(
    warehouse_dsn: str, settings: Settings
) -> None:
    landing.land(warehouse_dsn)
    landing.execute(
        warehouse_dsn,
        "update raw_woocommerce.refunds set parent_id = 90000 + parent_id where parent_id <= 2",
        "insert into quarantine.rejected_records "
        "(record_hash, source, table_name, record_key, reason_code, reason, run_id) values "
        "('x', 'woocommerce', 'orders', '90001', 'invalid_total', 'No total.', 'an earlier run')",
    )
    run = gate_runs.verdicts("landing", settings, warehouse_dsn, landing.RUN_ID)
    check = run.results["landing.raw_woocommerce.refunds.has_parent"]
    assert (check["observed"], check["severity"]) == ("1 row", "warning")


def test_marts_gate_needs_a_schema(warehouse_dsn: str, settings: Settings) -> None:
    with pytest.raises(WarehouseError, match="transform"):
        run_gate("marts", settings, warehouse_dsn, "run", landing.AS_OF, None, lambda line: None)
