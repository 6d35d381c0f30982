"""What a plan would send, counted: for `kundenkreis plan` and `kundenkreis status`."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from kundenkreis.activation.approvals import held_audiences
from kundenkreis.activation.estimate import calls_for, estimate, recent_paces
from kundenkreis.destinations import capabilities_of
from kundenkreis.destinations.base import Operation
from kundenkreis.settings import Settings
from kundenkreis.warehouse import privacy
from kundenkreis.warehouse.connection import connect

_PUBLICATION = """
select
    publications.publication_id,
    cast(publications.as_of_date as text) as as_of_date,
    cast(task_results.finished_at as text) as planned_at
from history.publications
left join operations.task_results
    on
        task_results.run_id = publications.dag_run_id
        and task_results.task_id = 'plan'
        and task_results.state = 'success'
where publications.publication_id = %s
"""

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

# Attributes are the contact's, not an audience's: a contact counts with every audience it stays in.
_UPDATES = """
select
    desired_members.destination,
    desired_members.audience,
    min(desired_members.segment) as segment,
    count(*) as rows
from activation.plan_rows
inner join activation.desired_members
    on
        desired_members.destination = plan_rows.destination
        and desired_members.address = plan_rows.address
left join activation.plan_rows as joining
    on
        joining.publication_id = plan_rows.publication_id
        and joining.destination = plan_rows.destination
        and joining.audience = desired_members.audience
        and joining.address = plan_rows.address
        and joining.operation = 'add'
where
    plan_rows.publication_id = %s
    and plan_rows.operation = 'upsert'
    and plan_rows.status = 'planned'
    and desired_members.suppressed_because is null
    and joining.plan_row_id is null
group by 1, 2
"""

# A few rows of every kind, the kinds in turn.
_SAMPLE = """
with ranked as (
    select
        *,
        row_number() over (
            partition by destination, audience, operation, status, status_reason
            order by plan_row_id
        ) as turn
    from activation.plan_rows
    where publication_id = %(publication_id)s
)
select
    destination,
    audience,
    segment,
    operation,
    status,
    status_reason as reason,
    cast(changed_fields as jsonb) as changed_fields,
    {address} as address
from ranked
order by
    turn,
    array_position(array['planned', 'held', 'suppressed', 'skipped'], status),
    destination, audience, operation, status_reason
limit %(rows)s
"""


def plan_summary(
    dsn: str, publication_id: int | None, settings: Settings, *, sample: int = 0
) -> dict[str, Any]:
    """Count the plan of a publication (None: the newest that has one). Nothing is sent.

    Args:
        sample: show so many rows as well, their addresses masked.

    Returns ``{"publication_id", "as_of_date", "planned_at" (None: not planned yet),
    "destinations": {name: {"calls", "minutes", "minutes_rest_on", "profiles": {status: rows},
    "new_contacts", "audiences": {name: {"segment", "add", "update", "remove", "held",
    "held_because", "holdout", "suppressed": {reason: rows}, "skipped": {reason: rows},
    "calls"}}}}, "held": [as `HeldAudience.as_json`], "sample": [{"destination", "audience",
    "segment", "operation", "status", "reason", "changed_fields", "address"}]}``.

    ``calls`` are the writing API calls; those of an audience leave out the contacts' attributes,
    which the destination's include.
    """
    with connect(dsn, application_name="kundenkreis plan summary") as connection:
        newest = _newest_plan(connection)
        publication_id = publication_id or newest
        publication = _publication(connection, publication_id)
        counts: list[Any] = []
        updates: list[Any] = []
        rows: list[dict[str, Any]] = []
        if newest is not None:  # else no night has planned anything yet
            counts = connection.execute(_COUNTS.encode(), (publication_id,)).fetchall()
            updates = connection.execute(_UPDATES.encode(), (publication_id,)).fetchall()
            rows = _sample(connection, publication_id, sample) if sample else []
        held = held_audiences(connection, publication_id) if publication_id else []
        paces = recent_paces(connection)
    destinations: dict[str, dict[str, Any]] = {name: _no_rows() for name in settings.destinations}
    for destination, audience, segment, operation, status, reason, count in counts:
        entry = destinations.setdefault(destination, _no_rows())
        if not audience:
            entry["profiles"][status] = entry["profiles"].get(status, 0) + count
            if status == "planned" and reason == "new_contact":
                entry["new_contacts"] += count
            continue
        counted = entry["audiences"].setdefault(audience, _empty(segment))
        _count(counted, operation, status, reason, count)
    for destination, audience, segment, count in updates:
        entry = destinations.setdefault(destination, _no_rows())
        entry["audiences"].setdefault(audience, _empty(segment))["update"] = count
    for destination, entry in destinations.items():
        calls = _calls(destination, entry)
        expected = estimate(capabilities_of(destination), calls, paces.get(destination))
        entry["calls"] = expected.calls
        entry["minutes"] = expected.minutes
        entry["minutes_rest_on"] = expected.rests_on
    return {
        "publication_id": publication_id,
        **publication,
        "destinations": destinations,
        "held": [one.as_json() for one in held],
        "sample": rows,
    }


def _newest_plan(connection: psycopg.Connection) -> int | None:
    exists = connection.execute("select to_regclass('activation.plan_rows')").fetchone()
    if exists is None or exists[0] is None:
        return None
    row = connection.execute("select max(publication_id) from activation.plan_rows").fetchone()
    return int(row[0]) if row and row[0] is not None else None


def _publication(connection: psycopg.Connection, publication_id: int | None) -> dict[str, Any]:
    row = connection.execute(_PUBLICATION, (publication_id,)).fetchone()
    _, as_of_date, planned_at = row or (None, None, None)
    return {"as_of_date": as_of_date, "planned_at": planned_at}


def _sample(
    connection: psycopg.Connection, publication_id: int | None, rows: int
) -> list[dict[str, Any]]:
    query = sql.SQL(_SAMPLE).format(address=privacy.mask(sql.Identifier("address")))
    with connection.cursor(row_factory=dict_row) as cursor:
        cursor.execute(query, {"publication_id": publication_id, "rows": rows})
        return cursor.fetchall()


def _no_rows() -> dict[str, Any]:
    return {"profiles": {}, "new_contacts": 0, "audiences": {}}


def _empty(segment: str | None) -> dict[str, Any]:
    return {
        "segment": segment,
        "add": 0,
        "update": 0,
        "remove": 0,
        "held": 0,
        "held_because": None,
        "holdout": 0,
        "suppressed": {},
        "skipped": {},
        "calls": 0,
    }


def _count(
    counted: dict[str, Any], operation: str, status: str, reason: str | None, rows: int
) -> None:
    if status == "planned":
        counted[operation] += rows
    elif status == "held":
        counted["held"] += rows
        counted["held_because"] = reason
    elif reason == "holdout":
        counted["holdout"] += rows
    else:
        reasons = counted[status]
        reasons[reason or status] = reasons.get(reason or status, 0) + rows


def _calls(destination: str, entry: dict[str, Any]) -> dict[Operation, int]:
    """The writing calls by operation; sets those of each audience."""
    can = capabilities_of(destination)
    calls: dict[Operation, int] = {
        "upsert": calls_for(can, "upsert", entry["profiles"].get("planned", 0)),
        "add": 0,
        "remove": 0,
    }
    operations: tuple[Operation, ...] = ("add", "remove")
    for audience in entry["audiences"].values():
        for operation in operations:
            needed = calls_for(can, operation, audience[operation])
            audience["calls"] += needed
            calls[operation] += needed
    return calls
