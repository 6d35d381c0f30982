"""What a person asks about a night: what was published, what the gates said, what was sent."""

from __future__ import annotations

from datetime import date
from typing import Any

import psycopg

from kundenkreis.quality.gate import data_docs_of
from kundenkreis.warehouse.connection import connect

Rows = list[dict[str, Any]]


def night_report(dsn: str, run_id: str, as_of_date: date) -> dict[str, Any]:
    """The night in numbers: marts, gates, deliveries and durations. No personal data."""
    with connect(dsn) as connection:
        return {
            "run_id": run_id,
            "as_of_date": as_of_date.isoformat(),
            "publication": _publication(connection),
            "stages": _stages(connection),
            "rfm_segments": _rfm_segments(connection),
            "gates": _gates(connection, run_id),
            "warnings": _warnings(connection, run_id),
            "deliveries": _deliveries(connection, run_id),
            "rejected_records": _rejected(connection, run_id),
            "seconds": _seconds(connection, run_id),
        }


def status(dsn: str) -> dict[str, Any]:
    """The state of things now: the last run, task by task, and what readers see."""
    with connect(dsn) as connection:
        last = connection.execute(
            "select run_id, as_of_date from operations.task_results "
            "order by finished_at desc limit 1"
        ).fetchone()
        if last is None:
            return {"run_id": None, "publication": None}
        run_id, as_of_date = last
        tasks = _rows(
            connection,
            "select task_id, state, summary ->> 'error' as error, "
            "round(extract(epoch from finished_at - started_at)::numeric, 1)::float8 as seconds "
            "from operations.task_results where run_id = %s order by finished_at",
            run_id,
        )
    return {**night_report(dsn, run_id, as_of_date), "tasks": tasks}


def gate_trend(dsn: str, expectation_id: str | None) -> Rows:
    """How the expectations do, from ``quality.gate_trend``; no personal data.

    Args:
        expectation_id: all runs of this one, newest first. None: the last run of each that was
            not met in one of its last 14 runs, those that fail now first.
    """
    columns = (
        "expectation_id, table_name, severity, as_of_date::text as as_of_date, run_id, success, "
        "raised, observed, expected, measured::float8 as measured, "
        "measured_usually::float8 as measured_usually, failures, runs, "
        "last_met_on::text as last_met_on"
    )
    with connect(dsn) as connection:
        if expectation_id is None:
            return _rows(
                connection,
                f"select {columns} from quality.gate_trend where is_newest and failures > 0 "
                "order by success, severity <> 'critical', failures desc, expectation_id",
            )
        return _rows(
            connection,
            f"select {columns} from quality.gate_trend where expectation_id = %s "
            "order by recorded_at desc, run_id",
            expectation_id,
        )


def _publication(connection: psycopg.Connection) -> dict[str, Any] | None:
    rows = _rows(
        connection,
        "select publication_id, as_of_date::text as as_of_date, schema_name, "
        "published_at::text as published_at, restores_publication_id from history.publications "
        "order by publication_id desc limit 1",
    )
    return rows[0] if rows else None


def _exists(connection: psycopg.Connection, relation: str) -> bool:
    row = connection.execute("select to_regclass(%s) is not null", (relation,)).fetchone()
    return bool(row and row[0])


def _stages(connection: psycopg.Connection) -> dict[str, int]:
    if not _exists(connection, "marts.customer_360"):
        return {}
    rows = connection.execute(
        "select coalesce(stage, 'none'), count(*) from marts.customer_360 "
        "group by 1 order by 2 desc, 1"
    )
    return dict(rows.fetchall())


def _rfm_segments(connection: psycopg.Connection) -> dict[str, int]:
    if not _exists(connection, "marts.customer_rfm"):
        return {}
    rows = connection.execute(
        "select rfm_segment, count(*) from marts.customer_rfm group by 1 order by 2 desc, 1"
    )
    return dict(rows.fetchall())


def _gates(connection: psycopg.Connection, run_id: str) -> Rows:
    gates = _rows(
        connection,
        "select gate, count(*) as expectations, "
        "count(*) filter (where not success and severity = 'critical') as critical_failures, "
        "count(*) filter (where not success and severity <> 'critical') as warnings "
        "from quality.gate_results where run_id = %s group by gate order by gate",
        run_id,
    )
    for gate in gates:
        page = data_docs_of(run_id, gate["gate"])
        gate["data_docs"] = str(page) if page else None
    return gates


def _warnings(connection: psycopg.Connection, run_id: str) -> list[str]:
    rows = connection.execute(
        "select expectation_id, observed from quality.gate_results "
        "where run_id = %s and not success and severity <> 'critical' "
        "order by gate, table_name, expectation_id",
        (run_id,),
    )
    drifted = connection.execute(
        "select jsonb_array_elements_text(summary -> 'warnings') from operations.task_results "
        "where run_id = %s and task_id like 'reconcile.%%' and summary ? 'warnings' "
        "order by task_id",
        (run_id,),
    )
    return [f"{name}: {observed}" for name, observed in rows] + [text for (text,) in drifted]


def _deliveries(connection: psycopg.Connection, run_id: str) -> dict[str, Any]:
    rows = connection.execute(
        "select summary from operations.task_results "
        "where run_id = %s and task_id like 'deliver.%%' order by task_id",
        (run_id,),
    ).fetchall()
    return {row[0]["destination"]: row[0] for row in rows if "destination" in row[0]}


def _rejected(connection: psycopg.Connection, run_id: str) -> Rows:
    return _rows(
        connection,
        "select source, table_name, reason_code, count(*) as records "
        "from quarantine.rejected_records where run_id = %s "
        "group by source, table_name, reason_code order by records desc, source, reason_code",
        run_id,
    )


def _seconds(connection: psycopg.Connection, run_id: str) -> dict[str, float]:
    rows = connection.execute(
        "select task_id, round(extract(epoch from finished_at - started_at)::numeric, 1)::float8 "
        "from operations.task_results where run_id = %s order by finished_at",
        (run_id,),
    )
    return dict(rows.fetchall())


def _rows(connection: psycopg.Connection, query: str, *parameters: Any) -> Rows:
    from psycopg.rows import dict_row

    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(query.encode(), parameters).fetchall()
