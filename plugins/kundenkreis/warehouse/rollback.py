"""Takes the current publication back: readers see the one before it again (design: Warehouse).

One transaction, as `publish`: the history rows of the publication go, customer ids that it changed
become what they were, the views turn to the other colour, and the taken-back colour is marked, so
that it is built in full before it is published again. The rollback is itself a publication, the
newest: plans of the publication taken back are outdated from then on. What was delivered stays in
the ledger, and the next night's plan puts right what differs.

The restored colour knows less than the one taken back: whoever was erased since is erased from it
as well, and whoever withdrew since is contactable in it no more.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

import psycopg
from psycopg import sql

from kundenkreis.connections import Resolver
from kundenkreis.errors import PublicationRefused
from kundenkreis.failpoints import reach
from kundenkreis.privacy.erasure import replay
from kundenkreis.warehouse import contract, privacy
from kundenkreis.warehouse.connection import connect
from kundenkreis.warehouse.contract import Change
from kundenkreis.warehouse.history import (
    HISTORY_PREFIX,
    Columns,
    columns_of,
    copy_history,
    take_back,
)
from kundenkreis.warehouse.publish import (
    BLUE,
    GREEN,
    Publication,
    current_publication,
    drop_changed_views,
    live_schema,
    make_dirty,
    replace_views,
    take_turn,
    turn_over,
    view_statement,
    why_dirty,
)


@dataclass(frozen=True)
class Rollback:
    """What a rollback did.

    Attributes:
        publication: the event: the newest publication, showing the restored one.
        taken_back: the publication that readers saw before.
        taken_back_as_of: its as-of date.
        dirty_schema: its colour, built in full by the next night.
        empty_columns: columns that the restored publication does not have; they are null now.
        contract_changes: columns that changed their type back.
        history_rows: rows per history table that were removed or changed back.
        erased: persons who were erased from the restored colour once more.
        withdrawn: customers who had withdrawn since it was built.
    """

    publication: Publication
    taken_back: int
    taken_back_as_of: date
    dirty_schema: str
    empty_columns: tuple[str, ...]
    contract_changes: tuple[str, ...]
    history_rows: Mapping[str, int]
    erased: int = 0
    withdrawn: int = 0


def roll_back(
    dsn: str, by: str, *, wait_minutes: float = 10, resolve: Resolver | None = None
) -> Rollback:
    """Show the publication before the current one again.

    Args:
        by: who asks for it; kept with the publication.
        wait_minutes: how long to wait for readers that hold the views.
        resolve: finds the key of erasures; the environment by default.

    Raises:
        CredentialError: persons were erased, and the key by which they are recognised is missing.
        PublicationRefused: there is nothing to go back to: the other colour was built anew since,
            failed a gate, or is gone; or somebody's view stands on what would change its type.
        WarehouseError: readers held on too long.
    """
    deadline = time.monotonic() + wait_minutes * 60
    with connect(dsn, application_name="kundenkreis rollback") as connection:
        take_turn(connection, deadline)
        current, before = _from_and_to(connection)
        row = connection.execute(
            """
            insert into history.publications (
                as_of_date, dag_run_id, schema_name, gate_results,
                restores_publication_id, rolls_back_publication_id, rolled_back_by
            )
            select as_of_date, dag_run_id, schema_name, gate_results, publication_id, %s, %s
            from history.publications
            where publication_id = %s
            returning publication_id
            """,
            (current.publication_id, by, before.publication_id),
        ).fetchone()
        assert row is not None  # noqa: S101 (the publication was read a moment ago)
        event = Publication(row[0], before.as_of_date, before.schema_name, before.publication_id)
        removed = take_back(connection, current.publication_id, current.as_of_date)
        if before.as_of_date == current.as_of_date:
            # The day's rows had been replaced; the restored colour still holds its own.
            copy_history(connection, before.schema_name, before.as_of_date, before.publication_id)
        erased = replay(connection, before.schema_name, resolve)
        withdrawn = _replay_withdrawals(connection, current.schema_name, before.schema_name)
        empty, changed = turn_over(
            connection, dsn, deadline, lambda: _show_again(connection, current, before)
        )
        connection.execute(
            "update history.publications set published_at = clock_timestamp() "
            "where publication_id = %s",
            (event.publication_id,),
        )
        reach("rollback.before_commit")
    return Rollback(
        publication=event,
        taken_back=current.publication_id,
        taken_back_as_of=current.as_of_date,
        dirty_schema=current.schema_name,
        empty_columns=tuple(empty),
        contract_changes=tuple(map(str, changed)),
        history_rows=removed,
        erased=erased,
        withdrawn=withdrawn,
    )


def _from_and_to(connection: psycopg.Connection) -> tuple[Publication, Publication]:
    """The publication that is taken back and the one that is shown again.

    Raises:
        PublicationRefused: says why there is none, and what to do.
    """
    current = current_publication(connection)
    if current is None:
        raise PublicationRefused("Nothing was published yet, so there is nothing to roll back.")
    if current.restores is not None:
        raise PublicationRefused(
            f"Publication {current.publication_id} is itself a rollback, to publication "
            f"{current.restores}. There is only one publication to go back to; run the night "
            "again with `kundenkreis run`."
        )
    live = live_schema(connection)
    if live != current.schema_name:
        raise PublicationRefused(
            f"The views of schema marts read {live or 'no colour'}, but publication "
            f"{current.publication_id} is in {current.schema_name}: somebody changed them by hand. "
            "Publish again with `kundenkreis run`."
        )
    return current, _held_by(connection, GREEN if live == BLUE else BLUE)


def _held_by(connection: psycopg.Connection, other: str) -> Publication:
    """The publication whose tables the other colour still holds as they were published."""
    instead = "Correct the cause and run the night again with `kundenkreis run`."
    lease = connection.execute(
        "select run_id from operations.build_lease where schema_name = %s", (other,)
    ).fetchone()
    row = connection.execute(
        "select publications.publication_id, publications.as_of_date, publications.schema_name "
        "from operations.held_publications "
        "inner join history.publications using (publication_id) "
        "where held_publications.schema_name = %s",
        (other,),
    ).fetchone()
    if reason := why_dirty(connection, other):
        raise PublicationRefused(f"{other} cannot be shown again: {reason}. {instead}")
    if row is None and lease is not None:
        raise PublicationRefused(
            f"{other} no longer holds the publication before: run '{lease[0]}' has begun to build "
            f"it anew. {instead}"
        )
    if row is None:
        raise PublicationRefused(f"There is no publication before the current one. {instead}")
    if not _marts_of(columns_of(connection, other)):
        raise PublicationRefused(f"{other} holds no tables any more. {instead}")
    return Publication(*row)


# A withdrawal or a complaint speaks for the person, a bounce for its address: what the colour taken
# back knows of them, and what the email tools have said since.
_COMPARED = frozenset(
    {"customer_id", "channel", "address", "is_contactable", "is_preferred", "reason", "evidence_at"}
)
_WITHDRAWN = """
create temporary table withdrawn_since on commit drop as
select restored.customer_id, restored.channel, restored.address, min(facts.reason) as reason
from {restored}.contactability as restored
inner join (
    select customer_id, channel, cast(null as text) as address, reason
    from {taken_back}.contactability
    where not is_contactable and reason in ('withdrawn', 'complained')
    union all
    select customer_id, channel, address, reason
    from {taken_back}.contactability
    where not is_contactable and reason = 'bounced'
    union all
    select
        own.customer_id,
        'email',
        case when states.state = 'bounced' then states.address end,
        case
            when states.state in ('unsubscribed', 'blocklisted') then 'withdrawn'
            else states.state
        end
    from activation.subscriber_states as states
    inner join {restored}.contactability as own on own.address = states.address
    where
        states.state in ('unsubscribed', 'complained', 'blocklisted', 'bounced')
        and (
            own.evidence_at is null
            or own.evidence_at <= coalesce(states.state_changed_at, 'infinity')
        )
) as facts
    on
        facts.customer_id = restored.customer_id
        and facts.channel = restored.channel
        and (facts.address is null or facts.address = restored.address)
where restored.is_contactable
group by restored.customer_id, restored.channel, restored.address
"""
_VERDICT = """
update {restored}.contactability as known
set is_contactable = false, is_preferred = false, reason = withdrawn_since.reason
from withdrawn_since
where
    known.customer_id = withdrawn_since.customer_id
    and known.channel = withdrawn_since.channel
    and known.address = withdrawn_since.address
"""
# Who keeps another contactable address stays contactable.
_VERDICT_OF_CUSTOMER = """
update {restored}.{table} as known
set is_contactable = false, not_contactable_because = withdrawn_since.reason
from withdrawn_since
where
    known.customer_id = withdrawn_since.customer_id
    and known.is_contactable
    and withdrawn_since.channel = 'email'
    and not exists (
        select 1 from {restored}.contactability as other
        where
            other.customer_id = known.customer_id
            and other.channel = 'email'
            and other.is_contactable
    )
"""


def _replay_withdrawals(connection: psycopg.Connection, taken_back: str, restored: str) -> int:
    """Let the restored colour know who withdrew since it was built.

    Returns:
        How many customers.
    """
    tables = columns_of(connection, restored)
    verdicts = (tables, columns_of(connection, taken_back))
    if not all(set(columns.get("contactability", ())) >= _COMPARED for columns in verdicts):
        return 0
    schemas = {"restored": sql.Identifier(restored), "taken_back": sql.Identifier(taken_back)}
    connection.execute(sql.SQL(_WITHDRAWN).format(**schemas))
    connection.execute(sql.SQL(_VERDICT).format(**schemas))
    for table in ("customer_360", "segment_members"):
        if table in tables:
            connection.execute(
                sql.SQL(_VERDICT_OF_CUSTOMER).format(table=sql.Identifier(table), **schemas)
            )
    row = connection.execute("select count(distinct customer_id) from withdrawn_since").fetchone()
    return row[0] if row else 0


def _marts_of(columns: Columns) -> Columns:
    return {name: own for name, own in columns.items() if not name.startswith(HISTORY_PREFIX)}


def _show_again(
    connection: psycopg.Connection, current: Publication, before: Publication
) -> tuple[list[str], list[Change]]:
    """Turn the views to the restored colour.

    What has been added since stays, as nulls of its type: readers may have begun to name it. What a
    declared change had removed comes back, and what it had retyped has its old type again.
    """
    # Again: a run may have begun to build the colour while readers were waited for.
    _held_by(connection, before.schema_name)
    tables = _marts_of(columns_of(connection, before.schema_name))
    views = columns_of(connection, "marts")
    changed = [
        change
        for change in contract.changes(connection, before.schema_name)
        if change.change == "retyped"
    ]
    for name in drop_changed_views(connection, changed):
        # In the order that readers know.
        views[name] = {
            column: tables[name].get(column, data_type) for column, data_type in views[name].items()
        }
    empty = [
        f"{name}.{column}"
        for name, columns in views.items()
        for column in columns
        if column not in tables.get(name, {})
    ]
    masked = privacy.masked_columns(connection, before.schema_name, tables)
    replace_views(
        connection,
        {
            name: view_statement(
                name,
                views.get(name, {}),
                tables.get(name, {}),
                before.schema_name,
                masked.get(name, {}),
            )
            for name in {*views, *tables}
        },
    )
    make_dirty(
        connection,
        current.schema_name,
        f"publication {current.publication_id} was rolled back",
    )
    connection.execute(
        "delete from operations.held_publications where schema_name = %s", (current.schema_name,)
    )
    connection.execute(
        "delete from operations.published_contract_changes where publication_id = %s",
        (current.publication_id,),
    )
    return empty, changed
