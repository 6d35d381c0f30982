"""What the suites need to know before they are built: a few set-based reads of the warehouse."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import psycopg
from psycopg import sql

from kundenkreis.quality import limits, measures
from kundenkreis.quality.bounds import History
from kundenkreis.quality.suites.landed import feeds
from kundenkreis.settings import Settings
from kundenkreis.warehouse.publish import Publication, current_publication
from kundenkreis.warehouse.releases import released_exchange_rates

Columns = Mapping[tuple[str, str], frozenset[str]]


@dataclass(frozen=True)
class Extracted:
    """What an extract task says it did: rows loaded into all its tables, and rows rejected."""

    rows: int
    rejected: int


@dataclass(frozen=True)
class LandingFacts:
    """What the gate ``landing`` is built from.

    Attributes:
        run_id: the run whose rejections are counted.
        as_of: the end of the as-of day in the business time zone.
        latest_event: the latest moment an event may carry; see `_latest_event`.
        columns: per (schema, table) that exists, its columns.
        volumes: per expectation id, the row counts of earlier runs, newest first.
        extracted: per source, what its extract task of this run says; missing when unknown.
        measured: what this run measured, by table and measure (`kundenkreis.quality.measures`).
        history: what earlier nights measured.
    """

    run_id: str
    as_of: datetime
    latest_event: datetime
    columns: Columns
    volumes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    extracted: Mapping[str, Extracted] = field(default_factory=dict)
    measured: Mapping[tuple[str, str], float] = field(default_factory=dict)
    history: Mapping[tuple[str, str], History] = field(default_factory=dict)

    @property
    def day(self) -> date:
        """The as-of day."""
        return (self.as_of - timedelta(microseconds=1)).date()

    @property
    def day_begins(self) -> datetime:
        """The first moment of the as-of day in the business time zone."""
        return datetime.combine(self.day, time.min, tzinfo=self.as_of.tzinfo)

    def exists(self, schema: str, table: str) -> bool:
        """Whether the table is there and may be read."""
        return (schema, table) in self.columns

    def usual_volume(self, expectation_id: str) -> int | None:
        """The median of earlier row counts, or None on the first night."""
        counts = self.volumes.get(expectation_id)
        return int(statistics.median(counts)) if counts else None


@dataclass(frozen=True)
class MartsFacts:
    """What the gate ``marts`` is built from.

    Attributes:
        schema: the unpublished marts schema.
        as_of_date: the run's date D.
        columns: per (schema, table) that exists, its columns; views of ``marts`` included.
        is_newer: whether D is not before the date of the current publication, or there is none.
        published_as_of: the date of the current publication.
        same_rules: whether the published marts were built by the same models and configuration.
        run_id: the run that is checked.
        measured: what this run measured, by mart and measure (`kundenkreis.quality.measures`).
        history: what published nights measured.
        agreed: what needs no row by row comparison (`kundenkreis.quality.suites.agreements`).
        released_rates: of orders that were released from quarantine with a rate of their own, as
            `kundenkreis.warehouse.releases.released_exchange_rates`.
    """

    schema: str
    as_of_date: date
    columns: Columns
    is_newer: bool = True
    published_as_of: date | None = None
    same_rules: bool = False
    run_id: str = ""
    measured: Mapping[tuple[str, str], float] = field(default_factory=dict)
    history: Mapping[tuple[str, str], History] = field(default_factory=dict)
    released_rates: Sequence[Mapping[str, str]] = ()
    agreed: frozenset[str] = frozenset()

    def exists(self, schema: str, table: str, *columns: str) -> bool:
        """Whether the table is there with these columns and may be read."""
        return set(columns) <= self.columns.get((schema, table), frozenset()) and (
            (schema, table) in self.columns
        )


def landing_facts(
    connection: psycopg.Connection, settings: Settings, run_id: str, as_of_date: date
) -> LandingFacts:
    """Measure the as-of day and read what the gate ``landing`` needs."""
    schemas = [f"raw_{source}" for source in settings.sources]
    zone = settings.model.business_timezone
    columns = _columns(connection, [*schemas, "activation", "quarantine"])
    as_of = end_of_day(as_of_date, zone)
    day_begins = end_of_day(as_of_date - timedelta(days=1), zone)
    measured: measures.Measured = {}
    for feed in feeds(settings):
        if (feed.schema, feed.landed.table) in columns:
            measured |= measures.of_day(connection, feed, day_begins, as_of, zone)
    measures.record(connection, run_id, as_of_date, measured)
    tables = {table for table, _ in measured}
    return LandingFacts(
        run_id=run_id,
        as_of=as_of,
        latest_event=_latest_event(connection, columns, schemas, as_of, settings),
        columns=columns,
        volumes=_volumes(connection, run_id),
        extracted=_extracted(connection, run_id, list(settings.sources)),
        measured=measured,
        history=measures.history(connection, tables, as_of_date, published=False),
    )


def marts_facts(
    connection: psycopg.Connection, settings: Settings, schema: str, as_of_date: date, run_id: str
) -> MartsFacts:
    """Read what the gate ``marts`` needs; `with_measures` adds what takes longer."""
    raw = [f"raw_{source}" for source in settings.sources]
    published = current_publication(connection)
    columns = _columns(connection, [schema, "marts", "staging", "activation", "history", *raw])
    return MartsFacts(
        schema=schema,
        as_of_date=as_of_date,
        columns=columns,
        is_newer=published is None or published.as_of_date <= as_of_date,
        published_as_of=published.as_of_date if published else None,
        same_rules=_same_rules(connection, schema, published),
        run_id=run_id,
        released_rates=released_exchange_rates(connection),
    )


def with_measures(
    connection: psycopg.Connection, settings: Settings, facts: MartsFacts
) -> MartsFacts:
    """Measure the marts, and read what published nights measured of theirs."""
    measured = measures.marts(connection, facts.schema, facts.columns, settings.active_segments)
    measures.record(connection, facts.run_id, facts.as_of_date, measured)
    tables = {table for table, _ in measured}
    history = measures.history(connection, tables, facts.as_of_date, published=True)
    return replace(facts, measured=measured, history=history)


def _same_rules(connection: psycopg.Connection, schema: str, published: Publication | None) -> bool:
    """Whether two colours were built by the same models, seeds and configuration."""
    if published is None:
        return False
    row = connection.execute(
        "select count(*), count(distinct fingerprint) from operations.build_state "
        "where schema_name in (%s, %s)",
        (schema, published.schema_name),
    ).fetchone()
    return row == (2, 1)


def end_of_day(day: date, time_zone: str) -> datetime:
    """The moment a business day ends."""
    return datetime.combine(day + timedelta(days=1), time.min, tzinfo=ZoneInfo(time_zone))


def _columns(connection: psycopg.Connection, schemas: list[str]) -> Columns:
    """Columns per table, of tables the login may read."""
    rows = connection.execute(
        """
        select table_schema, table_name, array_agg(column_name::text)
        from information_schema.columns
        where table_schema = any(%s)
            and has_table_privilege(
                format('%%I.%%I', table_schema, table_name)::regclass, 'select'
            )
        group by table_schema, table_name
        """,
        (schemas,),
    ).fetchall()
    return {(schema, table): frozenset(names) for schema, table, names in rows}


def _latest_event(
    connection: psycopg.Connection,
    columns: Columns,
    schemas: list[str],
    as_of: datetime,
    settings: Settings,
) -> datetime:
    """One day after the latest of: the as-of date, the last publication, the last load.

    An older as-of date (a backfill, a late first night) finds newer events in the raw tables and
    that is right. What no load can have seen yet is a wrong date. Load times are data in the
    warehouse, so a repeated gate judges the same.
    """
    moments = [as_of]
    row = connection.execute("select max(as_of_date) from history.publications").fetchone()
    if row and row[0]:
        moments.append(end_of_day(row[0], settings.model.business_timezone))
    for schema in schemas:
        if "inserted_at" in columns.get((schema, "_dlt_loads"), ()):
            query = sql.SQL("select max(inserted_at) from {}._dlt_loads").format(
                sql.Identifier(schema)
            )
            loaded = connection.execute(query).fetchone()
            if loaded and loaded[0]:
                moments.append(loaded[0])
    return max(moments).astimezone(UTC) + timedelta(days=1)


def _volumes(connection: psycopg.Connection, run_id: str) -> dict[str, list[int]]:
    """Row counts that earlier runs of the gate accepted, newest first."""
    rows = connection.execute(
        """
        select expectation_id, observed
        from (
            select
                expectation_id,
                observed,
                row_number() over (
                    partition by expectation_id order by recorded_at desc, run_id
                ) as position
            from quality.gate_results
            where gate = 'landing'
                and expectation_id like '%%.volume'
                and success
                and observed ~ '^[0-9]{1,18}$'
                and run_id <> %s
        ) as recent
        where position <= %s
        order by expectation_id, position
        """,
        (run_id, limits.VOLUME_HISTORY_RUNS),
    ).fetchall()
    volumes: dict[str, list[int]] = {}
    for expectation_id, observed in rows:
        volumes.setdefault(expectation_id, []).append(int(observed))
    return volumes


def _extracted(
    connection: psycopg.Connection, run_id: str, sources: list[str]
) -> dict[str, Extracted]:
    """The summaries of this run's extract tasks, which a repeated attempt replaces."""
    rows = connection.execute(
        """
        select
            summary ->> 'source',
            (
                select coalesce(sum(entry.value::numeric), 0)::bigint
                from jsonb_each_text(summary -> 'tables') as entry
                where entry.value ~ '^[0-9]+$'
            ),
            (summary ->> 'rejected')::numeric::bigint
        from operations.task_results
        where run_id = %s
            and summary ->> 'source' = any(%s)
            and jsonb_typeof(summary -> 'tables') = 'object'
            and jsonb_typeof(summary -> 'rejected') = 'number'
        """,
        (run_id, sources),
    ).fetchall()
    return {source: Extracted(rows_read, rejected) for source, rows_read, rejected in rows}
