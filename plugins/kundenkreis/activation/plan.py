"""What a plan would send, counted: for `kundenkreis plan` and `kundenkreis status`."""

from __future__ import annotations

from math import ceil
from typing import Any

import psycopg

from kundenkreis.destinations import capabilities_of
from kundenkreis.destinations.base import Operation
from kundenkreis.settings import Settings
from kundenkreis.warehouse.connection import connect

_COUNTS = """
select
    plan_rows.destination,
    coalesce(plan_rows.audience, '') as audience,
    min(plan_rows.segment) as segment,
    plan_rows.operation,
    plan_rows.status,
    plan_rows.status_reason,
    count(*) as rows
from activation.plan_rows
where plan_rows.publication_id = %s
group by 1, 2, 4, 5, 6
order by 1, 2, 4, 5, 6
"""


def plan_summary(dsn: str, publication_id: int | None, settings: Settings) -> dict[str, Any]:
    """Count the plan of a publication (None: the newest that has one). Nothing is sent.

    Returns ``{"publication_id", "destinations": {name: {"calls", "profiles": {status: rows},
    "audiences": {name: {"segment", "add", "remove", "held", "held_because",
    "suppressed": {reason: rows}, "skipped": {reason: rows}}}}}, "held": [{"destination",
    "audience", "segment", "reason", "rows"}]}``. ``calls`` are the writing API calls it takes.
    """
    with connect(dsn, application_name="kundenkreis plan summary") as connection:
        newest = _newest_plan(connection)
        publication_id = publication_id or newest
        rows = (
            []
            if newest is None  # no night has planned anything yet
            else connection.execute(_COUNTS.encode(), (publication_id,)).fetchall()
        )
    destinations: dict[str, dict[str, Any]] = {
        name: {"calls": 0, "profiles": {}, "audiences": {}} for name in settings.destinations
    }
    held: list[dict[str, Any]] = []
    for destination, audience, segment, operation, status, reason, count in rows:
        entry = destinations.setdefault(destination, {"calls": 0, "profiles": {}, "audiences": {}})
        if status == "planned":
            entry["calls"] += _calls(destination, operation, count)
        if not audience:
            entry["profiles"][status] = entry["profiles"].get(status, 0) + count
            continue
        counted = entry["audiences"].setdefault(audience, _empty(segment))
        _count(counted, operation, status, reason, count)
        if status == "held":
            held.append(
                {
                    "destination": destination,
                    "audience": audience,
                    "segment": segment,
                    "operation": operation,
                    "reason": reason,
                    "rows": count,
                }
            )
    return {"publication_id": publication_id, "destinations": destinations, "held": held}


def _newest_plan(connection: psycopg.Connection) -> int | None:
    exists = connection.execute("select to_regclass('activation.plan_rows')").fetchone()
    if exists is None or exists[0] is None:
        return None
    row = connection.execute("select max(publication_id) from activation.plan_rows").fetchone()
    return int(row[0]) if row and row[0] is not None else None


def _empty(segment: str | None) -> dict[str, Any]:
    return {
        "segment": segment,
        "add": 0,
        "remove": 0,
        "held": 0,
        "held_because": None,
        "suppressed": {},
        "skipped": {},
    }


def _count(
    counted: dict[str, Any], operation: str, status: str, reason: str | None, rows: int
) -> None:
    if status == "planned":
        counted[operation] += rows
    elif status == "held":
        counted["held"] += rows
        counted["held_because"] = reason
    else:
        reasons = counted[status]
        reasons[reason or status] = reasons.get(reason or status, 0) + rows


def _calls(destination: str, operation: Operation, rows: int) -> int:
    """HTTP calls for so many rows of one audience and reason; at most one too many per reason."""
    return ceil(rows / capabilities_of(destination).rows_per_call[operation])
