"""What the gates measure every night, so that later nights can be compared with it.

Values go into ``quality.measurements``; suites expect something of them there, so that a value, its
bounds and what came of it are in one place. One scan per table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from typing import Any

import psycopg
from psycopg import sql

from kundenkreis.quality import limits
from kundenkreis.quality.bounds import History
from kundenkreis.quality.suites.landed import Feed
from kundenkreis.settings import Segment

Measured = dict[tuple[str, str], float]
"""A value by table, as shown to people, and measure."""

# A table or column that is missing or of another type is not measured: its own expectations stop
# the night. Anything else that fails stops the gate, or a comparison would be left out unseen.
_NOT_AS_DECLARED = (
    psycopg.errors.InvalidSchemaName,
    psycopg.errors.UndefinedTable,
    psycopg.errors.UndefinedColumn,
    psycopg.errors.UndefinedFunction,
    psycopg.errors.DatatypeMismatch,
)

# Beyond these, a night says nothing of what is usual now.
_WEEKDAY_HORIZON_DAYS = 200
_RECENT_HORIZON_DAYS = 60


def of_day(
    connection: psycopg.Connection,
    feed: Feed,
    begin: datetime,
    end: datetime,
    time_zone: str,
) -> Measured:
    """Measure the rows of one business day; nothing where the table cannot be read as declared.

    ``day.rows``, and of a day with enough rows ``day.amount`` (their median amount),
    ``day.at_night`` (the share between midnight and six) and ``day.filled.<column>``; of files
    after the name of the dataset's source.
    """
    landed = feed.landed
    if landed.happened_at is None:
        return {}
    happened = sql.Identifier(landed.happened_at)
    figures: dict[str, sql.Composable] = {"rows": sql.SQL("count(*)")}
    if landed.amount:
        figures["amount"] = sql.SQL(
            "percentile_disc(0.5) within group (order by {0}) filter (where {0} > 0)"
        ).format(sql.Identifier(landed.amount))
    figures["at_night"] = sql.SQL(
        "count(*) filter (where extract(hour from {} at time zone {}) < {})"
    ).format(happened, sql.Literal(time_zone), sql.Literal(limits.NIGHT_HOURS))
    for column in landed.filled:
        figures[f"filled.{column}"] = sql.SQL("count({})").format(sql.Identifier(column))
    query = sql.SQL("select {} from {} where {} >= %s and {} < %s{}").format(
        sql.SQL(", ").join(figures.values()),
        sql.Identifier(feed.schema, landed.table),
        happened,
        happened,
        sql.SQL(" and source_name = {}").format(sql.Literal(feed.label))
        if feed.label
        else sql.SQL(""),
    )
    try:
        with connection.transaction():
            row = connection.execute(query, (begin, end)).fetchone()
    except _NOT_AS_DECLARED:
        return {}
    found = dict(zip(figures, row or (), strict=True))
    return {(feed.name, feed.measure(key)): value for key, value in _of_day(found).items()}


def _of_day(found: Mapping[str, Any]) -> dict[str, float]:
    rows = int(found["rows"])
    measured = {"rows": float(rows)}
    if rows < limits.FEWEST_ROWS_OF_A_DAY:
        return measured
    for figure, value in found.items():
        if figure == "amount" and value is not None:
            measured[figure] = float(value)
        if figure == "at_night" or figure.startswith("filled."):
            measured[figure] = int(value) / rows
    return measured


def marts(
    connection: psycopg.Connection,
    schema: str,
    columns: Mapping[tuple[str, str], frozenset[str]],
    segments: Mapping[str, Segment],
) -> Measured:
    """Measure the marts: how much they hold, and how customers and attributes are spread.

    Nothing of a mart that is missing or lacks a column; its own expectations say so.
    """
    wide = columns.get((schema, "customer_360"), frozenset())
    attributes = sorted(sent_attributes(segments) & wide)
    figures: dict[str, str] = {"customers": "count(*)"}
    if "is_contactable" in wide:
        figures["contactable"] = "count(*) filter (where is_contactable)"
    figures |= {f"filled.{name}": f'count("{name}")' for name in attributes}
    row = _one_row(connection, f"{schema}.customer_360", figures)
    measured = {("customer_360", measure): float(value) for measure, value in row.items()}
    counted = {
        "orders": "count(*)",
        "counted_orders": "count(*) filter (where is_counted)",
        "counted_revenue": "coalesce(sum(revenue_before_refunds) filter (where is_counted), 0)",
    }
    for measure, value in _one_row(connection, f"{schema}.orders", counted).items():
        measured["orders", measure] = float(value)
    measured |= _shares(connection, "customer_360", "stage", schema)
    return measured | _shares(connection, "customer_rfm", "rfm_segment", schema)


def sent_attributes(segments: Mapping[str, Segment]) -> set[str]:
    """The columns of customer_360 that go to an email tool, or that a segment stands upon."""
    return {
        name
        for segment in segments.values()
        for name in (*segment.attributes, *segment.requires)
        if name not in ("stage", "rfm_segment")
    }


def _one_row(
    connection: psycopg.Connection, relation: str, figures: Mapping[str, str]
) -> dict[str, Any]:
    query = f"select {', '.join(figures.values())} from {relation}"
    try:
        with connection.transaction():
            row = connection.execute(query.encode()).fetchone()
    except _NOT_AS_DECLARED:
        return {}
    return dict(zip(figures, row or (), strict=True))


def _shares(connection: psycopg.Connection, table: str, column: str, schema: str) -> Measured:
    query = f"select coalesce({column}, 'none'), count(*) from {schema}.{table} group by 1"
    try:
        with connection.transaction():
            rows = connection.execute(query.encode()).fetchall()
    except _NOT_AS_DECLARED:
        return {}
    total = sum(count for _, count in rows)
    if total < limits.MARTS_FEWEST:
        return {}
    return {(table, f"share.{value}"): count / total for value, count in rows}


def record(
    connection: psycopg.Connection, run_id: str, as_of_date: date, measured: Measured
) -> None:
    """Keep what a run measured; a repeated gate replaces it."""
    tables = sorted({table for table, _ in measured})
    connection.execute(
        "delete from quality.measurements where run_id = %s and table_name = any(%s)",
        (run_id, tables),
    )
    with connection.cursor() as cursor:
        cursor.executemany(
            "insert into quality.measurements (run_id, as_of_date, table_name, measure, value) "
            "values (%s, %s, %s, %s, %s)",
            [(run_id, as_of_date, *key, value) for key, value in sorted(measured.items())],
        )


def history(
    connection: psycopg.Connection, tables: Iterable[str], as_of_date: date, *, published: bool
) -> dict[tuple[str, str], History]:
    """What earlier nights measured, by table and measure.

    Of several runs of one day the last counts. A night that failed counts as well, so that what
    stays becomes usual; the median is not moved by one.

    Args:
        published: take only nights whose marts were published.
    """
    rows = connection.execute(
        """
        select distinct on (table_name, measure, as_of_date)
            table_name, measure, as_of_date, value::float8
        from quality.measurements as measured
        where table_name = any(%(tables)s)
            and as_of_date < %(day)s and as_of_date >= %(day)s - %(horizon)s
            and (not %(published)s or exists (
                select 1 from history.publications as publication
                where publication.dag_run_id = measured.run_id
            ))
        order by table_name, measure, as_of_date desc, recorded_at desc, run_id
        """,
        {
            "tables": list(tables),
            "day": as_of_date,
            "horizon": _WEEKDAY_HORIZON_DAYS,
            "published": published,
        },
    ).fetchall()
    found: dict[tuple[str, str], list[tuple[date, float]]] = {}
    for table, measure, day, value in rows:
        found.setdefault((table, measure), []).append((day, value))
    return {key: _history(values, as_of_date) for key, values in found.items()}


def _history(values: Sequence[tuple[date, float]], as_of_date: date) -> History:
    same = [value for day, value in values if day.weekday() == as_of_date.weekday()]
    recent = [value for day, value in values if (as_of_date - day).days <= _RECENT_HORIZON_DAYS]
    return History(tuple(same[: limits.MEASURED_RUNS]), tuple(recent[: limits.MEASURED_RUNS]))
