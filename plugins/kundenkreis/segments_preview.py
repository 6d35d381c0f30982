"""Sizes and intersections of segments as ``segments.yml`` says now, before anything is built.

The queries say what the dbt model ``segment_members`` says, over the published marts: who matches
`where` or stays for `min_stay_days`, the required columns, and the draw of holdouts. A test
compares the two.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from kundenkreis.errors import KundenkreisError
from kundenkreis.segment_conditions import refuse_broken
from kundenkreis.settings import GLOBAL_HOLDOUT, Segment, Settings
from kundenkreis.warehouse.connection import connect
from kundenkreis.warehouse.privacy import require_unmasked
from kundenkreis.warehouse.publish import current_publication

_WIDE = "marts.customer_360"

# The customer's number from 0 up to 100, as macro `percent_bucket` draws it.
_BUCKET = """
(mod(cast(cast('x' || substr(md5({text}), 1, 8) as bit(32)) as bigint), 10000) / 100.0)
"""

# As `int_holdout_draws`: what was drawn in this stay, and the global draw, are kept. Who is held
# out of everything is drawn for no segment.
_MEMBERS = """
insert into previewed_members
with stays as (
    select newest.customer_id, newest.as_of_date as member_since
    from (
        select distinct on (customer_id) customer_id, change, as_of_date
        from history.segment_membership_changes
        where segment = {segment} and as_of_date <= {as_of_date}
        order by customer_id, as_of_date desc
    ) as newest
    where newest.change = 'entered'
),
kept as (
    select distinct on (draws.segment, draws.customer_id)
        draws.segment, draws.customer_id, draws.is_holdout
    from history.holdout_draws as draws
    left join stays on stays.customer_id = draws.customer_id
    where
        draws.salt = {salt}
        and draws.as_of_date <= {as_of_date}
        and (
            draws.segment = {global_holdout}
            or (draws.segment = {segment} and draws.as_of_date >= stays.member_since)
        )
    order by draws.segment, draws.customer_id, draws.drawn_on, draws.as_of_date
),
drawn as (
    select
        customer_360.*,
        own.is_holdout as own_kept,
        {global_holdout_percent} > 0 and coalesce(
            everywhere.is_holdout, is_contactable and {global_bucket} < {global_holdout_percent}
        ) as is_out_of_everything
    from marts.customer_360
    left join kept as own
        on own.customer_id = customer_360.customer_id and own.segment = {segment}
    left join kept as everywhere
        on
            everywhere.customer_id = customer_360.customer_id
            and everywhere.segment = {global_holdout}
)
select
    {segment},
    customer_id,
    is_contactable,
    not_contactable_because,
    is_out_of_everything
    or coalesce(own_kept, is_contactable and {own_bucket} < {holdout_percent})
from drawn as customer_360
where
    not has_profiling_objection
    and not is_minor
    and (({where}) or {stays})
    and {has_required}
"""

# Who entered within the last `min_stay_days` and has not left since.
_STAYS = """
customer_id in (
    select stays.customer_id from stays where stays.member_since > {as_of_date} - {days}
)
"""

_SIZES = """
select
    segment,
    count(*) as members,
    count(*) filter (where is_contactable) as contactable,
    count(*) filter (where is_holdout) as holdout
from previewed_members
group by segment
"""

_REASONS = """
select segment, coalesce(not_contactable_because, 'not_contactable') as reason, count(*) as members
from previewed_members
where not is_contactable
group by 1, 2
order by 3 desc, 2
"""

# As `desired_members`: one address per customer, one row per address of an audience.
_CHANGES = """
with audiences as (
    select * from unnest(
        %(segments)s::text[], %(destinations)s::text[], %(audiences)s::text[]
    ) as targets (segment, destination, audience)
),
desired as (
    select distinct audiences.destination, audiences.audience, audiences.segment,
        contactability.address
    from previewed_members
    inner join audiences on audiences.segment = previewed_members.segment
    inner join marts.contactability
        on
            contactability.customer_id = previewed_members.customer_id
            and contactability.channel = 'email'
            and contactability.is_preferred
            and contactability.is_contactable
    where previewed_members.is_contactable and not previewed_members.is_holdout
),
delivered as (
    select delivered_state.destination, delivered_state.audience, audiences.segment,
        delivered_state.address
    from activation.delivered_state
    inner join audiences
        on
            audiences.destination = delivered_state.destination
            and audiences.audience = delivered_state.audience
    where delivered_state.is_member
)
select
    destination,
    audience,
    segment,
    count(desired.address) as wanted,
    count(delivered.address) as delivered,
    count(*) filter (where delivered.address is null) as would_join,
    count(*) filter (where desired.address is null) as would_leave
from desired
full outer join delivered using (destination, audience, segment, address)
group by destination, audience, segment
order by destination, audience
"""

_OVERLAP = """
select one.segment, other.segment as other_segment, count(*) as members
from previewed_members as one
inner join previewed_members as other on other.customer_id = one.customer_id
where not %(contactable)s or one.is_contactable
group by 1, 2
"""


def preview(dsn: str, settings: Settings, keys: Sequence[str]) -> dict[str, Any]:
    """What these segments would be tonight, against the published marts and what was delivered.

    Args:
        keys: the segments; all of the file where there are none. One that is disabled is counted
            as if it were enabled.

    Returns ``{"publication_id", "as_of_date", "segments": {key: {"label", "enabled", "members",
    "contactable", "not_contactable": {reason: members}, "holdout", "sent", "audiences":
    [{"destination", "audience", "wanted", "delivered", "would_join", "would_leave"}]}},
    "not_counted": [sentence]}``. ``sent`` are the members that may be sent; ``not_counted`` says
    what the plan takes off later.

    Raises:
        ConfigError: a segment's `where` or `requires` cannot be used; names segment, file and what
            PostgreSQL said.
        KundenkreisError: nothing is published yet, or there is no such segment.
    """
    segments = _chosen(settings, keys)
    with connect(dsn, application_name="kundenkreis segments preview") as connection:
        published = _evaluate(connection, settings, segments)
        sizes = {row["segment"]: row for row in _rows(connection, _SIZES)}
        reasons = _rows(connection, _REASONS)
        changes = _rows(connection, _CHANGES, _targets(settings, segments))
    found = {}
    for key, segment in segments.items():
        counts = sizes.get(key, {"members": 0, "contactable": 0, "holdout": 0})
        found[key] = {
            "label": settings.audience_name(segment),
            "enabled": segment.enabled,
            "members": counts["members"],
            "contactable": counts["contactable"],
            "not_contactable": {
                row["reason"]: row["members"] for row in reasons if row["segment"] == key
            },
            "holdout": counts["holdout"],
            "sent": counts["contactable"] - counts["holdout"],
            "audiences": _audiences(settings, key, segment, changes),
        }
    return {**published, "segments": found, "not_counted": _not_counted(settings, segments)}


def _not_counted(settings: Settings, segments: Mapping[str, Segment]) -> list[str]:
    """What the plan decides later about these segments, in words; empty where it is nothing."""
    lines = []
    windows = {key: one.send_window for key, one in segments.items() if one.send_window}
    if windows:
        days = "; ".join(f"{key}: {', '.join(one.weekdays)}" for key, one in windows.items())
        lines.append(f"Joins wait for the days of send_window, which is not counted here ({days}).")
    pressure = settings.model.contact_pressure
    contacted = [key for key, one in segments.items() if one.contact]
    if contacted and (pressure.at_once is not None or pressure.per_week is not None):
        lines.append(
            "contact_pressure is not counted here; it may keep members out of "
            f"{', '.join(contacted)}. `kundenkreis plan` shows whom it kept out."
        )
    return lines


def overlap(
    dsn: str, settings: Settings, keys: Sequence[str], *, contactable: bool = False
) -> dict[str, Any]:
    """How many members each two segments share.

    Args:
        keys: the segments; all enabled ones where there are none.
        contactable: count only who could be written to.

    Returns ``{"publication_id", "as_of_date", "segments": [key], "overlap": {key: {key:
    members}}}``; a segment with itself is its size.

    Raises:
        As `preview`.
    """
    segments = _chosen(settings, keys or list(settings.active_segments))
    with connect(dsn, application_name="kundenkreis segments overlap") as connection:
        published = _evaluate(connection, settings, segments)
        rows = _rows(connection, _OVERLAP, {"contactable": contactable})
    shared = {(row["segment"], row["other_segment"]): row["members"] for row in rows}
    matrix = {one: {other: shared.get((one, other), 0) for other in segments} for one in segments}
    return {**published, "segments": list(segments), "overlap": matrix}


def _chosen(settings: Settings, keys: Sequence[str]) -> dict[str, Segment]:
    unknown = [key for key in keys if key not in settings.segments]
    if unknown:
        raise KundenkreisError(
            f"{settings.folder / 'segments.yml'} has no segment '{unknown[0]}'. "
            f"It has: {', '.join(settings.segments) or 'none'}."
        )
    return {key: settings.segments[key] for key in keys or settings.segments}


def _evaluate(
    connection: psycopg.Connection, settings: Settings, segments: Mapping[str, Segment]
) -> dict[str, Any]:
    """Fill the temporary table ``previewed_members``; returns the publication it stands on."""
    published = current_publication(connection)
    if published is None:
        raise KundenkreisError(
            "Nothing was published yet, so there is nobody to count. `kundenkreis run` runs a "
            "night."
        )
    require_unmasked(connection, published.schema_name)
    connection.execute(
        "create temporary table previewed_members (segment text, customer_id text,"
        " is_contactable boolean, not_contactable_because text, is_holdout boolean)"
        " on commit drop"
    )
    for key, segment in segments.items():
        refuse_broken(connection, settings, key, segment, _WIDE, evaluate=True)
        connection.execute(_members_query(settings, key, segment, published.as_of_date))
    connection.execute("analyze previewed_members")
    return {
        "publication_id": published.publication_id,
        "as_of_date": published.as_of_date.isoformat(),
    }


def _members_query(settings: Settings, key: str, segment: Segment, as_of_date: Any) -> sql.Composed:
    salt = settings.model.holdout_salt
    stays: sql.Composable = sql.SQL("false")
    if segment.min_stay_days:
        stays = sql.SQL(_STAYS).format(
            as_of_date=sql.Literal(as_of_date),
            days=sql.Literal(segment.min_stay_days),
        )
    return sql.SQL(_MEMBERS).format(
        segment=sql.Literal(key),
        where=sql.SQL(segment.where),  # a person's SQL, from the config
        stays=stays,
        has_required=_has_required(segment.requires),
        own_bucket=_bucket(f"{salt}|{key}|"),
        global_bucket=_bucket(f"{salt}||"),
        salt=sql.Literal(salt),
        global_holdout=sql.Literal(GLOBAL_HOLDOUT),
        as_of_date=sql.Literal(as_of_date),
        holdout_percent=sql.Literal(segment.holdout_percent),
        global_holdout_percent=sql.Literal(settings.model.global_holdout_percent),
    )


def _bucket(prefix: str) -> sql.Composed:
    text = sql.SQL("{} || customer_360.customer_id").format(sql.Literal(prefix))
    return sql.SQL(_BUCKET).format(text=text)


def _has_required(columns: Iterable[str]) -> sql.Composable:
    """Each required column holds a value for anybody at all."""
    conditions = [
        sql.SQL("exists (select 1 from marts.customer_360 as anybody where {} is not null)").format(
            sql.Identifier("anybody", column)
        )
        for column in columns
    ]
    return sql.SQL(" and ").join(conditions) if conditions else sql.SQL("true")


def _targets(settings: Settings, segments: Mapping[str, Segment]) -> dict[str, list[str]]:
    targets = [
        (key, destination, settings.audience_name(segment))
        for key, segment in segments.items()
        for destination in segment.destinations
        if destination in settings.destinations
    ]
    columns = zip(*targets, strict=True) if targets else ([], [], [])
    names = ("segments", "destinations", "audiences")
    return {name: list(values) for name, values in zip(names, columns, strict=True)}


def _audiences(
    settings: Settings, key: str, segment: Segment, changes: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    counts = ("wanted", "delivered", "would_join", "would_leave")
    found = []
    for destination in segment.destinations:
        if destination not in settings.destinations:
            continue
        row: Mapping[str, Any] = next(
            (
                change
                for change in changes
                if change["segment"] == key and change["destination"] == destination
            ),
            dict.fromkeys(counts, 0),
        )
        found.append(
            {
                "destination": destination,
                "audience": settings.audience_name(segment),
                **{name: row[name] for name in counts},
            }
        )
    return found


def _rows(
    connection: psycopg.Connection, query: str, values: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(query.encode(), values).fetchall()
