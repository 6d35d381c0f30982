"""What the email tools say about their contacts: read every night, and again before sending."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import Any

import psycopg

from kundenkreis.connections import Resolver
from kundenkreis.destinations import open_destination
from kundenkreis.destinations.base import Destination
from kundenkreis.http import understood_pages
from kundenkreis.privacy.blocklist import leave_out_erased_states
from kundenkreis.privacy.keys import find_key
from kundenkreis.settings import Settings
from kundenkreis.warehouse.connection import connect

OpenTool = Callable[[str, Any, Resolver], Destination]

# A contact that exists twice (archived and again active, two spellings of the case) counts in its
# most restrictive state. A suppression keeps the date we first learned of it, because tools move
# it with every edit. What a contact that we created ourselves says is our own echo and proves
# nothing, unless the opt-in is newer.
_MERGE = """
insert into activation.subscriber_states as known (
    destination, address, state, evidence, state_changed_at, vendor_id, observed_at, read_at, run_id
)
select
    %(destination)s,
    incoming.address,
    incoming.state,
    case when not incoming.is_echo then incoming.evidence end,
    incoming.state_changed_at,
    incoming.vendor_id,
    now(),
    now(),
    %(run_id)s
from (
    select distinct on (read_states.address)
        read_states.*,
        coalesce(
            effective_state.creation_attempted_at is not null
            and (
                read_states.state_changed_at is null
                or read_states.state_changed_at
                < effective_state.creation_attempted_at + interval '1 day'
            ),
            false
        ) as is_echo
    from read_states
    left join activation.effective_state
        on
            effective_state.destination = %(destination)s
            and effective_state.audience = ''
            and effective_state.address = read_states.address
    order by read_states.address, (read_states.state = 'subscribed'), read_states.state
) as incoming
on conflict (destination, address) do update set
    state = excluded.state,
    evidence = excluded.evidence,
    state_changed_at = case
        when known.state = excluded.state and known.state <> 'subscribed'
            then least(known.state_changed_at, excluded.state_changed_at)
        else excluded.state_changed_at
    end,
    vendor_id = excluded.vendor_id,
    observed_at = case when known.state = excluded.state then known.observed_at else now() end,
    read_at = excluded.read_at,
    run_id = excluded.run_id
"""

# Somebody corrected a contact's address in the tool: it keeps its place in our audiences under the
# new one, and so it stays ours to remove.
_FOLLOW_CHANGED_ADDRESSES = """
update activation.delivered_state as known
set address = renamed.address
from (
    select
        before.address as old_address,
        min(read_states.address) as address
    from activation.known_contacts as before
    inner join read_states on before.vendor_id = read_states.vendor_id
    where
        before.destination = %(destination)s
        and not exists (select 1 from read_states as same where same.address = before.address)
    group by before.address
) as renamed
where
    known.destination = %(destination)s
    and known.address = renamed.old_address
    and not exists (
        select 1
        from activation.delivered_state as taken
        where
            taken.destination = known.destination
            and taken.audience = known.audience
            and taken.address = renamed.address
    )
"""
# A contact that is gone from the tool no longer proves an opt-in, but its withdrawal still holds.
_FORGET_GONE = """
delete from activation.subscriber_states as known
where
    known.destination = %(destination)s
    and known.state in ('subscribed', 'pending', 'archived')
    and not exists (select 1 from read_states where read_states.address = known.address)
"""
_MARK_GONE = """
update activation.subscriber_states as known
set vendor_id = null
where
    known.destination = %(destination)s
    and known.vendor_id is not null
    and not exists (select 1 from read_states where read_states.address = known.address)
"""
_REMEMBER_DESTINATION = """
insert into activation.destinations (
    destination, creates_contacts, max_rejections, states_read_at, run_id
)
values (%(destination)s, %(creates_contacts)s, %(max_rejections)s, now(), %(run_id)s)
on conflict (destination) do update set
    creates_contacts = excluded.creates_contacts,
    max_rejections = excluded.max_rejections,
    states_read_at = excluded.states_read_at,
    run_id = excluded.run_id
"""


def read_subscriber_states(
    destination: str,
    settings: Settings,
    resolve: Resolver,
    dsn: str,
    run_id: str,
    progress: Callable[[str], None],
    *,
    open_tool: OpenTool = open_destination,
) -> dict[str, Any]:
    """Read all contacts of a tool into ``activation.subscriber_states``; all of them or none.

    Returns ``{"destination", "contacts", "states": {state: contacts}, "calls"}``.

    Raises:
        VendorError, CredentialError: the tool cannot be read; what was known before stays.
    """
    tool_settings = settings.destinations[destination]
    with closing(open_tool(destination, tool_settings, resolve)) as tool:
        with connect(dsn, application_name=f"kundenkreis states {destination}") as connection:
            states = refresh_states(
                destination, tool_settings, tool, connection, run_id, progress, resolve
            )
        return {
            "destination": destination,
            "contacts": sum(states.values()),
            "states": states,
            "calls": tool.calls,
        }


def load_states(
    destination: str,
    tool: Destination,
    connection: psycopg.Connection,
    progress: Callable[[str], None],
    resolve: Resolver | None = None,
) -> None:
    """Read all contacts of a tool into a table of the connection's open transaction.

    What a tool still says of persons who were erased is left out.

    Args:
        resolve: finds the key by which they are recognised; the environment by default.

    Raises:
        VendorError: the tool cannot be read.
        CredentialError: nor can it; or persons were erased, and the key is missing or another one.
    """
    ours = connection.execute(
        "select vendor_id from activation.audiences where destination = %s", (destination,)
    ).fetchall()
    connection.execute(
        "create temporary table read_states (address text, state text, evidence text,"
        " state_changed_at timestamptz, vendor_id text) on commit drop"
    )
    contacts = 0
    columns = "address, state, evidence, state_changed_at, vendor_id"
    with (
        connection.cursor() as cursor,
        cursor.copy(f"copy read_states ({columns}) from stdin") as copy,
    ):
        pages = tool.read_subscriber_states(frozenset(row[0] for row in ours))
        for page in understood_pages(tool.name, "reading the contacts", pages):
            for state in page:
                copy.write_row(
                    (
                        state.address,
                        state.state,
                        state.evidence,
                        state.state_changed_at,
                        state.vendor_id,
                    )
                )
            contacts += len(page)
            progress(f"{destination}: {contacts:,} contacts read")
    if erased := leave_out_erased_states(connection, destination, lambda: find_key(resolve)):
        progress(f"{destination}: {erased:,} contacts of erased persons left out")


def learn_withdrawals(
    destination: str, connection: psycopg.Connection, run_id: str
) -> dict[str, str]:
    """Take over what `load_states` read, while a delivery goes on, and commit.

    Nothing is concluded from a contact that is missing: it may just have been created, and a list
    that changes while it is read in pages may skip one.

    Returns:
        The state of every contact that turned out not to be ``subscribed`` any more, by address.
    """
    connection.execute(_MERGE, {"destination": destination, "run_id": run_id})
    found = connection.execute(
        "select address, state from activation.subscriber_states"
        " where destination = %s and state <> 'subscribed' and observed_at = now()",
        (destination,),
    ).fetchall()
    connection.commit()
    return dict(found)


def refresh_states(
    destination: str,
    tool_settings: Any,
    tool: Destination,
    connection: psycopg.Connection,
    run_id: str,
    progress: Callable[[str], None],
    resolve: Resolver | None = None,
) -> dict[str, int]:
    """Replace what we know about a tool's contacts, in the connection's open transaction.

    Returns the number of contacts per state.
    """
    load_states(destination, tool, connection, progress, resolve)
    values = {
        "destination": destination,
        "run_id": run_id,
        "creates_contacts": tool_settings.create_contacts,
        "max_rejections": tool_settings.max_rejections,
    }
    statements = (
        _FOLLOW_CHANGED_ADDRESSES,
        _MERGE,
        _FORGET_GONE,
        _MARK_GONE,
        _REMEMBER_DESTINATION,
    )
    for statement in statements:
        connection.execute(statement, values)
    counted = connection.execute(
        "select state, count(*) from activation.subscriber_states"
        " where destination = %s and vendor_id is not null group by state order by state",
        (destination,),
    )
    return {str(state): int(count) for state, count in counted.fetchall()}
