"""Reads the audiences back and records where a tool and our records of it differ."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import psycopg

from kundenkreis.activation import ledger
from kundenkreis.activation.delivery import LOCK_NAMESPACE
from kundenkreis.activation.subscribers import OpenTool
from kundenkreis.connections import Resolver
from kundenkreis.destinations import open_destination
from kundenkreis.destinations.base import Destination
from kundenkreis.errors import WarehouseError
from kundenkreis.failpoints import reach
from kundenkreis.http import RefusedRequest, understood_pages
from kundenkreis.settings import Settings
from kundenkreis.warehouse.connection import connect

_LOCK_WAIT = "10min"

_DRIFT = """
insert into activation.drift (run_id, publication_id, destination, audience, address, kind)
select
    %(run_id)s, %(publication_id)s, %(destination)s, %(audience)s,
    coalesce(delivered.address, found.address),
    case when found.address is null then 'missing' else 'extra' end
from (
    select address from activation.effective_state
    where
        destination = %(destination)s and audience = %(audience)s
        and is_member and not in_doubt
) as delivered
full outer join (select distinct address from found_members) as found
    on delivered.address = found.address
where
    delivered.address is null or found.address is null
on conflict do nothing
"""

_COUNTS = """
select
    (
        select count(*) from activation.effective_state
        where
            destination = %(destination)s and audience = %(audience)s
            and is_member and not in_doubt
    ),
    (select count(distinct address) from found_members),
    count(*) filter (where kind = 'missing'),
    count(*) filter (where kind = 'extra')
from activation.drift
where run_id = %(run_id)s and destination = %(destination)s and audience = %(audience)s
"""

# Missing members come back with the next plan where they still belong. A row in doubt is settled
# by what the tool shows, unless a job may still change it. Extra members are somebody else's and
# stay.
_REPAIR = """
update activation.delivered_state as known
set
    is_member = exists (select 1 from found_members where found_members.address = known.address),
    in_doubt = false
where
    known.destination = %(destination)s and known.audience = %(audience)s
    and (known.is_member or known.in_doubt)
"""


def reconcile(
    destination: str,
    settings: Settings,
    resolve: Resolver,
    dsn: str,
    run_id: str,
    publication_id: int,
    progress: Callable[[str], None],
    *,
    open_tool: OpenTool = open_destination,
) -> dict[str, Any]:
    """Compare every audience of a tool with what we delivered; write ``activation.drift``.

    Returns ``{"destination", "calls", "audiences": {name: {"members", "missing", "extra"}},
    "warnings"}``. ``extra`` counts members that are not ours, which is no fault. ``warnings`` name
    the audiences that lost more of ours than ``max_drift_percent`` of destinations.yml.

    Raises:
        VendorError, CredentialError: the tool cannot be read.
        WarehouseError: a delivery or an erasure kept the tool for too long.
    """
    tool_settings = settings.destinations[destination]
    with (
        closing(open_tool(destination, tool_settings, resolve)) as tool,
        connect(dsn, application_name=f"kundenkreis reconcile {destination}") as connection,
    ):
        _lock(connection, destination)
        ledger.doubt_interrupted(connection, destination)
        audiences = connection.execute(
            "select audience, vendor_id from activation.audiences"
            " where destination = %s order by audience",
            (destination,),
        ).fetchall()
        results: dict[str, dict[str, int]] = {}
        warnings: list[str] = []
        for audience, vendor_id in audiences:
            keys = {
                "run_id": run_id,
                "publication_id": publication_id,
                "destination": destination,
                "audience": audience,
            }
            delivered, results[audience] = _compare(connection, tool, vendor_id, keys)
            reach("reconcile.before_commit")
            connection.commit()
            reach("reconcile.after_commit")
            missing, limit = results[audience]["missing"], tool_settings.max_drift_percent
            if 100 * missing > limit * delivered:
                warnings.append(_warning(destination, audience, missing, delivered, limit))
            progress(f"{destination}: {len(results)} of {len(audiences)} audiences read back")
        return {
            "destination": destination,
            "calls": tool.calls,
            "audiences": results,
            "warnings": warnings,
        }


def _warning(destination: str, audience: str, missing: int, delivered: int, limit: float) -> str:
    return (
        f"{destination}: {missing:,} of the {delivered:,} members that we delivered to "
        f"'{audience}' are gone from it, more than {limit:g} % (max_drift_percent of "
        "destinations.yml). The next plan adds again who still belongs there. Find out who or "
        "what takes them out; activation.drift lists them."
    )


def _compare(
    connection: psycopg.Connection, tool: Destination, vendor_id: str, keys: dict[str, Any]
) -> tuple[int, dict[str, int]]:
    """Read one audience and settle it in one transaction; members delivered, and what was found."""
    _lock(connection, keys["destination"])
    connection.execute("create temporary table found_members (address text) on commit drop")
    with connection.cursor() as cursor, cursor.copy("copy found_members from stdin") as copy:
        for address in _members(tool, vendor_id):
            copy.write_row((address,))
    reach("reconcile.after_read")
    connection.execute("analyze found_members")
    connection.execute(_DRIFT, keys)
    counts = connection.execute(_COUNTS, keys).fetchone()
    connection.execute(_REPAIR, keys)
    delivered, members, missing, extra = counts or (0, 0, 0, 0)
    return int(delivered), {
        "members": int(members),
        "missing": int(missing),
        "extra": int(extra),
    }


def _lock(connection: psycopg.Connection, destination: str) -> None:
    """Keep deliveries and erasures away until the transaction ends.

    What was read before a person was erased would otherwise be written after it, and what a
    delivery adds meanwhile would count as missing.
    """
    try:
        connection.execute(f"set local lock_timeout = '{_LOCK_WAIT}'")
        connection.execute(
            "select pg_advisory_xact_lock(%s, hashtext(%s))", (LOCK_NAMESPACE, destination)
        )
        connection.execute("set local lock_timeout = 0")
    except psycopg.errors.LockNotAvailable:
        raise WarehouseError(
            f"The reconciliation of {destination} has waited {_LOCK_WAIT} for a delivery or an "
            "erasure to end. Run it again when that is over."
        ) from None


def _members(tool: Destination, vendor_id: str) -> Iterator[str]:
    pages = understood_pages(tool.name, "reading members", tool.read_members(vendor_id))
    try:
        for page in pages:
            yield from page
    except RefusedRequest as refused:
        if refused.status != 404:  # somebody deleted the audience: everybody is missing
            raise
