"""What the task reads from and writes to the warehouse: aggregates in, scores by group out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

import numpy as np

from kundenkreis.predictions import bgnbd, gamma_gamma

if TYPE_CHECKING:
    import psycopg
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

_COUNTS = """
select repeat_order_days, days_to_last_order, days_observed, count(*)
from value_statistics
group by repeat_order_days, days_to_last_order, days_observed
"""

# Who paid nothing says nothing of the value of orders (Gamma-Gamma is of positive values).
_VALUES = """
select repeat_order_days, mean_repeat_order_value, count(*)
from value_statistics
where repeat_order_days > 0 and mean_repeat_order_value > 0
group by repeat_order_days, mean_repeat_order_value
"""

_CALIBRATION = """
select
    calibration_repeat_order_days,
    calibration_days_to_last_order,
    calibration_days_observed,
    count(*),
    sum(holdout_order_days),
    max(days_observed - calibration_days_observed)
from value_statistics
where calibration_days_observed is not null
group by
    calibration_repeat_order_days,
    calibration_days_to_last_order,
    calibration_days_observed
"""

# The model is a view over all customers; it is read once, not once for each of the aggregates.
_TAKE_STATISTICS = """
create temporary table value_statistics on commit drop as
select * from {}
"""

_POSTGRES_EPOCH = date(2000, 1, 1)
_COPY_ROWS = 20_000
# One row of COPY's binary format: the number of fields, then each field's length and value.
# https://www.postgresql.org/docs/current/sql-copy.html#SQL-COPY-BINARY-FORMAT
_WIDTHS = (4, 4, 4, 4, 8, 8, 8, 4)
_RECORD = [("fields", ">i2")] + [
    entry
    for position, width in enumerate(_WIDTHS)
    for entry in (
        (f"length_{position}", ">i4"),
        (f"value_{position}", ">i4" if width == 4 else ">f8"),
    )
]
_HEADER = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
_TRAILER = b"\xff\xff"


@dataclass(frozen=True)
class Calibration:
    """The statistics as they were `holdout_days` before the end, and what came after.

    Attributes:
        counts: as at the beginning of the holdout.
        holdout_orders: order days within it, per group of customers.
    """

    counts: bgnbd.OrderCounts
    holdout_orders: Array
    holdout_days: int


@dataclass(frozen=True)
class OrderScores:
    """Scores per group of customers with the same (x, t_x, T); arrays of one length."""

    x: Array
    t_x: Array
    T: Array
    p_alive: Array
    expected_orders_90d: Array
    expected_orders_365d: Array
    expected_next_order_days: Array

    def are_finite(self) -> bool:
        """Whether every score is a number that can be stored."""
        scores = (self.p_alive, self.expected_orders_90d, self.expected_orders_365d)
        return all(bool(np.isfinite(column).all()) for column in scores)


@contextmanager
def statistics_at_hand(connection: psycopg.Connection, intermediate_schema: str) -> Iterator[None]:
    """Within, the `read_...` functions find what dbt made of the orders this night."""
    from psycopg import sql

    with connection.transaction():
        view = sql.Identifier(intermediate_schema, "int_value_statistics")
        connection.execute(sql.SQL(_TAKE_STATISTICS).format(view))
        yield


def read_counts(connection: psycopg.Connection) -> bgnbd.OrderCounts:
    """What BG/NBD needs to know, times in days."""
    return bgnbd.OrderCounts(*_read(connection, _COUNTS, keys=3, columns=4))


def read_values(connection: psycopg.Connection) -> gamma_gamma.OrderValues:
    """What Gamma-Gamma needs to know."""
    return gamma_gamma.OrderValues(*_read(connection, _VALUES, keys=2, columns=3))


def read_calibration(connection: psycopg.Connection) -> Calibration:
    """What a fit without the last days needs to know, times in days."""
    columns = _read(connection, _CALIBRATION, keys=3, columns=6)
    return Calibration(
        counts=bgnbd.OrderCounts(*columns[:4]),
        holdout_orders=columns[4],
        holdout_days=int(columns[5].max(initial=0)),
    )


def _read(
    connection: psycopg.Connection, statement: str, keys: int, columns: int
) -> tuple[Array, ...]:
    """The columns of a query of numbers without nulls, its rows in the order of the first `keys`.

    The order makes sums of floating point numbers, and so the fit, the same every time. The server
    joins the rows to one binary value: a message for each of half a million rows would take longer
    than the fit.
    """
    names = [f"column_{number}" for number in range(columns)]
    packed = " || ".join(f"float8send(cast({name} as double precision))" for name in names)
    joined = (
        f"select string_agg({packed}, ''::bytea) from ({statement}) as found ({', '.join(names)})"
    )
    row = connection.execute(joined.encode(), binary=True).fetchone()
    table = np.frombuffer((row and row[0]) or b"", dtype=">f8").reshape(-1, columns)
    in_order = np.lexsort(table[:, :keys].T[::-1])
    return tuple(table[in_order, column].astype(np.float64) for column in range(columns))


def last_good_orders(
    connection: psycopg.Connection, as_of_date: date
) -> tuple[date, bgnbd.Parameters] | None:
    """The newest BG/NBD fit of an earlier day that converged."""
    row = connection.execute(
        "select as_of_date, orders_r, orders_alpha_days, orders_a, orders_b "
        "from history.value_parameters "
        "where orders_outcome = 'fitted' and as_of_date < %s order by as_of_date desc limit 1",
        (as_of_date,),
    ).fetchone()
    return (row[0], bgnbd.Parameters(*row[1:])) if row else None


def last_good_order_value(
    connection: psycopg.Connection, as_of_date: date
) -> tuple[date, gamma_gamma.Parameters] | None:
    """The newest Gamma-Gamma fit of an earlier day that converged."""
    row = connection.execute(
        "select as_of_date, order_value_p, order_value_q, order_value_v "
        "from history.value_parameters "
        "where order_value_outcome = 'fitted' and as_of_date < %s "
        "order by as_of_date desc limit 1",
        (as_of_date,),
    ).fetchone()
    return (row[0], gamma_gamma.Parameters(*row[1:])) if row else None


@contextmanager
def replacing(connection: psycopg.Connection) -> Iterator[None]:
    """Within, the `write_...` functions put all anew; what the last night wrote goes with them."""
    with connection.transaction():
        connection.execute("truncate predictions.order_scores, predictions.parameters")
        yield
    connection.execute("analyze predictions.order_scores")


def write_parameters(connection: psycopg.Connection, parameters: Mapping[str, Any]) -> None:
    """Write the night's parameters.

    Args:
        parameters: by column of ``predictions.parameters``; those left out are null.
    """
    from psycopg import sql
    from psycopg.types.json import Jsonb

    row = {
        name: Jsonb(value) if isinstance(value, list) else value
        for name, value in parameters.items()
    }
    insert = sql.SQL("insert into predictions.parameters ({}) values ({})").format(
        sql.SQL(", ").join(map(sql.Identifier, row)),
        sql.SQL(", ").join(sql.Placeholder() * len(row)),
    )
    connection.execute(insert, list(row.values()))


def write_scores(connection: psycopg.Connection, as_of_date: date, scores: OrderScores) -> None:
    """Write the scores of every group."""
    days = (as_of_date - _POSTGRES_EPOCH).days
    with (
        connection.cursor() as cursor,
        cursor.copy(
            "copy predictions.order_scores (as_of_date, repeat_order_days, days_to_last_order, "
            "days_observed, p_alive, expected_orders_90d, expected_orders_365d, "
            "expected_next_order_days) from stdin (format binary)"
        ) as copy,
    ):
        copy.write(_HEADER)
        for start in range(0, len(scores.x), _COPY_ROWS):
            part = slice(start, start + _COPY_ROWS)
            copy.write(_records(days, scores, part))
        copy.write(_TRAILER)


def _records(days: int, scores: OrderScores, part: slice) -> bytes:
    columns = (
        np.full(len(scores.x[part]), days),
        *(
            column[part]
            for column in (
                scores.x,
                scores.t_x,
                scores.T,
                scores.p_alive,
                scores.expected_orders_90d,
                scores.expected_orders_365d,
                scores.expected_next_order_days,
            )
        ),
    )
    records = np.empty(len(columns[0]), dtype=np.dtype(_RECORD))
    records["fields"] = len(columns)
    for position, (width, column) in enumerate(zip(_WIDTHS, columns, strict=True)):
        records[f"length_{position}"] = width
        records[f"value_{position}"] = column
    return records.tobytes()
