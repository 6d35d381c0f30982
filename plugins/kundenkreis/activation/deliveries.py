"""What was sent lately and what the tools refused: for `kundenkreis deliveries`."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from kundenkreis.warehouse import privacy
from kundenkreis.warehouse.connection import connect

_OUTCOMES = ("sent", "confirmed", "rejected", "unknown", "suppressed", "skipped", "held", "calls")

_SYNC_RUNS = """
select
    sync_run_id,
    destination,
    publication_id,
    run_id,
    state,
    cast(started_at as text) as started_at,
    cast(round(extract(epoch from finished_at - started_at), 1) as double precision) as seconds,
    summary
from activation.sync_runs
where %(destination)s::text is null or destination = %(destination)s
order by sync_run_id desc
limit %(rows)s
"""

_REJECTED = """
select
    delivery_errors.destination,
    delivery_errors.audience,
    delivery_errors.segment,
    delivery_errors.customer_id,
    {address} as address,
    delivery_errors.operation,
    delivery_errors.reason_code,
    ledger.reason,
    delivery_errors.attempts,
    delivery_errors.attempts_allowed,
    delivery_errors.is_parked,
    delivery_errors.retry_from_publication_id,
    cast(delivery_errors.last_rejected_at as text) as last_rejected_at,
    greatest(
        delivery_errors.retry_from_publication_id
        - (select max(publication_id) from history.publications), 1
    ) as nights_to_wait
from activation.delivery_errors
left join activation.ledger on ledger.attempt_id = delivery_errors.attempt_id
where %(destination)s::text is null or delivery_errors.destination = %(destination)s
order by delivery_errors.is_parked desc, delivery_errors.last_rejected_at desc
limit %(rows)s
"""


def recent_deliveries(dsn: str, destination: str | None, rows: int) -> list[dict[str, Any]]:
    """The last deliveries, newest first; no personal data.

    Returns ``[{"sync_run_id", "destination", "publication_id", "run_id", "state", "started_at",
    "seconds" (None while it runs), "sent", "confirmed", "rejected", "unknown", "suppressed",
    "skipped", "held", "calls"}]``.
    """
    with connect(dsn) as connection:
        found = _rows(connection, sql.SQL(_SYNC_RUNS), destination, rows)
    return [
        {
            **{name: value for name, value in one.items() if name != "summary"},
            **{name: one["summary"].get(name, 0) for name in _OUTCOMES},
        }
        for one in found
    ]


def rejected_rows(dsn: str, destination: str | None, rows: int) -> list[dict[str, Any]]:
    """What the tools refuse, parked rows first; addresses masked.

    Returns ``[{"destination", "audience", "segment", "customer_id", "address", "operation",
    "reason_code", "reason", "attempts", "attempts_allowed", "is_parked", "retried",
    "retry_from_publication_id", "last_rejected_at"}]``; ``retried`` says in words when a row is
    sent again.
    """
    query = sql.SQL(_REJECTED).format(address=privacy.mask(sql.Identifier("ledger", "address")))
    with connect(dsn) as connection:
        found = _rows(connection, query, destination, rows)
    return [{**one, "retried": _retried(one.pop("nights_to_wait"), one)} for one in found]


def _retried(nights: int, row: dict[str, Any]) -> str:
    if row["is_parked"]:
        return "parked: only when its contents change"
    return "with the next plan" if nights == 1 else f"in {nights} nights"


def _rows(
    connection: psycopg.Connection,
    query: sql.SQL | sql.Composed,
    destination: str | None,
    rows: int,
) -> list[dict[str, Any]]:
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(query, {"destination": destination, "rows": rows}).fetchall()
