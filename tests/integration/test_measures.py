"""What the gates measure: nothing of a table that is not as declared, and never half unseen."""

from __future__ import annotations

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from kundenkreis.quality import measures

pytestmark = pytest.mark.integration


def _create(session: psycopg.Connection, revenue: str) -> None:
    session.execute("create schema marts_blue")
    session.execute(
        f"create table marts_blue.orders (is_counted boolean, revenue_before_refunds {revenue})"
    )
    session.commit()


def _measure(dsn: str) -> measures.Measured:
    with psycopg.connect(make_conninfo(dsn, options="-c lock_timeout=100")) as session:
        return measures.marts(session, "marts_blue", {}, {})


def test_a_mart_of_other_columns_is_left_to_its_own_expectations(warehouse_dsn: str) -> None:
    with psycopg.connect(warehouse_dsn) as session:
        _create(session, "text")  # which has no sum
    assert _measure(warehouse_dsn) == {}


def test_what_cannot_be_read_now_is_not_left_out(warehouse_dsn: str) -> None:
    with psycopg.connect(warehouse_dsn) as session:
        _create(session, "numeric")
        assert _measure(warehouse_dsn)["orders", "orders"] == 0
        session.execute("lock table marts_blue.orders in access exclusive mode")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            _measure(warehouse_dsn)
