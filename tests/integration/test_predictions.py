"""The task `predict` on a real PostgreSQL: aggregates in, scores, parameters and history out."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta
from typing import Any

import numpy as np
import psycopg
import pytest
from psycopg.rows import dict_row

from kundenkreis import predictions
from kundenkreis.predictions import bgnbd, gamma_gamma
from kundenkreis.predictions.run import MIN_REPEAT_BUYERS
from kundenkreis.warehouse import publish as publishing
from tests.integration.dbt_support import build, create_raw_tables, insert, query

pytestmark = pytest.mark.integration

DAY = date(2026, 6, 30)
HOLDOUT_DAYS = 90

_STATISTICS = """
create schema if not exists intermediate_blue;
drop table if exists intermediate_blue.int_value_statistics;
create table intermediate_blue.int_value_statistics (
    customer_id text, repeat_order_days integer, days_to_last_order integer,
    days_observed integer, mean_repeat_order_value double precision,
    calibration_repeat_order_days integer, calibration_days_to_last_order integer,
    calibration_days_observed integer, holdout_order_days integer
)
"""


def _order_days(customers: int, seed: int = 3) -> list[list[int]]:
    """Per customer the days before `DAY` with an order, first to last."""
    random = np.random.default_rng(seed)
    found = []
    for _ in range(customers):
        age = int(random.integers(10, 500))
        rate, lost = random.gamma(0.6, 1 / 40), random.beta(0.8, 2.5)
        days, day = [age], float(age)
        while (day := day - random.exponential(1 / rate)) >= 0 and len(days) < 60:
            days.append(int(day))
            if random.random() < lost:
                break
        found.append(sorted(set(days), reverse=True))
    return found


def _known(days: list[int], end: int = 0) -> tuple[int, int, int] | tuple[None, None, None]:
    """x, t_x and T as they were `end` days before `DAY`."""
    known = [day for day in days if day >= end]
    if not known:
        return None, None, None
    return len(known) - 1, known[0] - known[-1], known[0] - end


def _rows(customers: list[list[int]], value: Any) -> list[tuple[Any, ...]]:
    return [
        (
            f"c{number}",
            *_known(days),
            value(number) if len(days) > 1 else None,
            *_known(days, HOLDOUT_DAYS),
            sum(day < HOLDOUT_DAYS for day in days),
        )
        for number, days in enumerate(customers)
    ]


def _usual(number: int) -> float:
    return float(np.random.default_rng(number).gamma(6, 10))


def _unheard_of(number: int) -> float:
    """Values whose tail is too long to have a mean."""
    return float(np.exp(np.clip(np.random.default_rng(number).standard_cauchy(), -12, 12)))


@pytest.fixture
def connection(module_warehouse_dsn: str) -> Iterator[psycopg.Connection[Any]]:
    """A session on a warehouse without predictions."""
    with psycopg.connect(module_warehouse_dsn, autocommit=True) as session:
        session.execute(
            "truncate predictions.order_scores, predictions.parameters, history.value_parameters"
        )
        yield session


def _predict(
    connection: psycopg.Connection[Any], day: date = DAY, *, customers: int = 900, value: Any = None
) -> dict[str, Any]:
    for statement in _STATISTICS.split(";\n"):
        connection.execute(statement.encode())
    with (
        connection.cursor() as cursor,
        cursor.copy("copy intermediate_blue.int_value_statistics from stdin") as copy,
    ):
        for row in _rows(_order_days(customers), value or _usual):
            copy.write_row(row)
    return predictions.predict(
        connection, day, lambda line: None, intermediate_schema="intermediate_blue"
    )


def _parameters(connection: psycopg.Connection[Any]) -> dict[str, Any]:
    (row,) = _dicts(connection, "select * from predictions.parameters")
    return row


def _publish(connection: psycopg.Connection[Any]) -> None:
    """What publish does with the model history_value_parameters."""
    connection.execute("insert into history.value_parameters select * from predictions.parameters")


def _scores(connection: psycopg.Connection[Any]) -> list[dict[str, Any]]:
    return _dicts(
        connection,
        "select * from predictions.order_scores "
        "order by repeat_order_days, days_to_last_order, days_observed",
    )


def _dicts(connection: psycopg.Connection[Any], statement: str) -> list[dict[str, Any]]:
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(statement.encode()).fetchall()


def test_every_group_is_scored_with_the_fitted_parameters(
    connection: psycopg.Connection[Any],
) -> None:
    summary = _predict(connection)
    found, scores = _parameters(connection), _scores(connection)
    assert summary["buyers"] == found["buyers"] == 900
    assert summary["scored_groups"] == len(scores)
    assert found["orders_outcome"] == found["order_value_outcome"] == "fitted"
    assert found["orders_parameters_of"] == found["order_value_parameters_of"] == DAY
    assert found["orders_reason"] is None
    assert found["orders_log_likelihood"] < 0
    unscored = connection.execute(
        "select customer_id from intermediate_blue.int_value_statistics "
        "except select customer_id from intermediate_blue.int_value_statistics "
        "inner join predictions.order_scores "
        "using (repeat_order_days, days_to_last_order, days_observed)"
    ).fetchall()
    assert unscored == []
    parameters = bgnbd.Parameters(
        *(found[f"orders_{name}"] for name in ("r", "alpha_days", "a", "b"))
    )
    x, t_x, T = (
        np.array([float(row[name]) for row in scores])
        for name in ("repeat_order_days", "days_to_last_order", "days_observed")
    )
    expected = {
        "p_alive": bgnbd.probability_alive(parameters, x, t_x, T),
        "expected_orders_90d": bgnbd.expected_orders(parameters, 90, x, t_x, T),
        "expected_orders_365d": bgnbd.expected_orders(parameters, 365, x, t_x, T),
    }
    for name, figures in expected.items():
        np.testing.assert_array_equal([row[name] for row in scores], figures)
    assert {row["as_of_date"] for row in scores} == {DAY}
    assert all(1 <= row["expected_next_order_days"] <= 36_500 for row in scores)


def test_a_repeated_night_gives_the_same(connection: psycopg.Connection[Any]) -> None:
    _predict(connection)
    first = _parameters(connection), _scores(connection)
    _publish(connection)
    _predict(connection)
    assert (_parameters(connection), _scores(connection)) == first


def test_the_holdout_compares_a_fit_that_did_not_see_it(
    connection: psycopg.Connection[Any],
) -> None:
    _predict(connection)
    found = _parameters(connection)
    known = [days for days in _order_days(900) if days[0] >= HOLDOUT_DAYS]
    orders = sum(day < HOLDOUT_DAYS for days in known for day in days)
    assert found["holdout_days"] == HOLDOUT_DAYS
    assert found["holdout_customers"] == len(known)
    assert found["holdout_orders"] == orders
    # The shop is as the model says, so it is met within chance (four standard deviations or so).
    assert found["holdout_orders_expected"] == pytest.approx(orders, rel=0.25)
    by_group = found["holdout_by_repeat_orders"]
    assert sum(group["customers"] for group in by_group) == len(known)
    assert [group["repeat_orders"] for group in by_group] == list(range(8))


def test_a_fit_that_does_not_converge_keeps_the_last_good_one_of_an_earlier_day(
    connection: psycopg.Connection[Any],
) -> None:
    for days_ago in (2, 1):
        _predict(connection, DAY - timedelta(days=days_ago))
        _publish(connection)
    good = _parameters(connection)
    # Later and unfitted nights are no good.
    connection.execute(
        "insert into history.value_parameters select (r).* from ("
        "select jsonb_populate_record(p, jsonb_build_object('as_of_date', %s::text,"
        " 'order_value_p', 99)) as r from predictions.parameters as p) as later",
        (DAY,),
    )
    summary = _predict(connection, value=_unheard_of)
    found = _parameters(connection)
    assert found["orders_outcome"] == "fitted"
    assert found["order_value_outcome"] == summary["order_value"]["outcome"] == "kept"
    assert found["order_value_parameters_of"] == DAY - timedelta(days=1)
    assert found["order_value_reason"]
    for name in ("p", "q", "v"):
        assert found[f"order_value_{name}"] == good[f"order_value_{name}"]
    connection.execute("delete from history.value_parameters where as_of_date = %s", (DAY,))
    _publish(connection)
    # What was kept is not taken for a fit the night after.
    _predict(connection, DAY + timedelta(days=1), value=_unheard_of)
    assert _parameters(connection)["order_value_parameters_of"] == DAY - timedelta(days=1)


def test_a_shop_with_few_repeat_buyers_scores_with_what_is_known(
    connection: psycopg.Connection[Any],
) -> None:
    _predict(connection, DAY - timedelta(days=1))
    _publish(connection)
    good = _parameters(connection)
    summary = _predict(connection, customers=20)
    found = _parameters(connection)
    assert found["orders_outcome"] == "kept"
    assert f"at least {MIN_REPEAT_BUYERS} are needed" in found["orders_reason"]
    assert found["orders_alpha_days"] == good["orders_alpha_days"]
    assert found["orders_log_likelihood"] is None
    assert found["holdout_days"] is None
    assert len(_scores(connection)) == summary["scored_groups"] > 0


@pytest.mark.parametrize("customers", [0, 1, 20])
def test_without_any_parameters_nothing_is_scored_and_the_reason_stays(
    connection: psycopg.Connection[Any], customers: int
) -> None:
    _predict(connection)
    summary = _predict(connection, customers=customers)
    found = _parameters(connection)
    assert found["orders_outcome"] == found["order_value_outcome"] == "none"
    assert "repeat buyers" in found["orders_reason"]
    assert found["orders_r"] is None
    assert found["buyers"] == customers
    assert summary["scored_groups"] == 0
    assert _scores(connection) == []


# The whole way: orders in, marts and history out


def _land(dsn: str, customers: list[list[int]]) -> None:
    insert(
        dsn,
        "raw_files.orders",
        [
            {
                "source_name": "till",
                "order_key": f"{number}-{day}",
                "customer_key": f"k{number}",
                "email": f"k{number}@mail.example",
                "ordered_at": f"{DAY - timedelta(days=day)} 12:00 Europe/Berlin",
                "status": "completed",
                "currency": "EUR",
                "total_amount": round(_usual(number * 1000 + day), 2),
            }
            for number, days in enumerate(customers)
            for day in days
        ],
    )


def _night(dsn: str, run_id: str, day: date) -> None:
    schema = publishing.begin_build(dsn, run_id, day, False)
    variables = {"enabled_sources": ["files"], "marts_schema": schema}
    build(dsn, day.isoformat(), "--select", "tag:transform", **variables)
    with psycopg.connect(dsn, autocommit=True) as session:
        predictions.predict(
            session,
            day,
            lambda line: None,
            intermediate_schema=publishing.intermediate_schema(schema),
        )
    build(dsn, day.isoformat(), "--select", "tag:segment", **variables)
    publishing.publish(dsn, run_id, day, schema, {}, wait_minutes=1)


def test_a_night_publishes_values_and_their_parameters(warehouse_dsn: str) -> None:
    create_raw_tables(warehouse_dsn, "files")
    _land(warehouse_dsn, _order_days(300))
    _night(warehouse_dsn, "first", DAY)
    assert query(
        warehouse_dsn,
        "select count(*), count(*) filter (where p_alive between 0 and 1), "
        "count(clv_365d), count(distinct as_of_date), "
        "count(*) filter (where expected_next_order_date > as_of_date) "
        "from marts.customer_value",
    ) == [(300, 300, 300, 1, 300)]
    # The value of an order is the note's formula, computed in SQL.
    rows = query(
        warehouse_dsn,
        "select s.repeat_order_days, coalesce(s.mean_repeat_order_value, 0), "
        "v.expected_order_value::float8, v.expected_orders_90d, v.clv_90d::float8, "
        "h.order_value_p, h.order_value_q, h.order_value_v "
        "from marts.customer_value as v inner join intermediate_blue.int_value_statistics as s "
        "using (customer_id) cross join history.value_parameters as h",
    )
    table = np.array(rows, dtype=float)
    parameters = gamma_gamma.Parameters(*table[0, 5:])
    worth = gamma_gamma.expected_order_value(parameters, table[:, 0], table[:, 1])
    np.testing.assert_allclose(table[:, 2], worth, atol=1e-4)
    np.testing.assert_allclose(table[:, 4], table[:, 3] * worth, atol=1e-4)
    assert (
        query(
            warehouse_dsn,
            "select customer_id from marts.customer_360 as wide "
            "full join marts.customer_value as valued using (customer_id) "
            "where (wide.p_alive, wide.expected_orders_90d, wide.expected_orders_365d, "
            "wide.clv_90d, wide.clv_365d, wide.expected_next_order_date) is distinct from "
            "(valued.p_alive, valued.expected_orders_90d, valued.expected_orders_365d, "
            "valued.clv_90d, valued.clv_365d, valued.expected_next_order_date)",
        )
        == []
    )
    columns = query(
        warehouse_dsn,
        "select column_name from information_schema.columns where table_schema = 'marts' "
        "and table_name = 'customer_360' order by ordinal_position",
    )
    first = columns.index(("p_alive",))
    assert [name for (name,) in columns[first : first + 6]] == [
        "p_alive",
        "expected_orders_90d",
        "expected_orders_365d",
        "clv_90d",
        "clv_365d",
        "expected_next_order_date",
    ]

    # A night that cannot be fitted scores with the night before and says so.
    query(
        warehouse_dsn,
        "delete from raw_files.orders where customer_key not in ('k1', 'k2', 'k3') returning 1",
    )
    _night(warehouse_dsn, "second", DAY + timedelta(days=1))
    outcome = (
        "select as_of_date, orders_outcome, orders_parameters_of, orders_r, publication_id "
        "from history.value_parameters order by as_of_date"
    )
    first, second = query(warehouse_dsn, outcome)
    assert first[:3] == (DAY, "fitted", DAY)
    assert second[:3] == (DAY + timedelta(days=1), "kept", DAY)
    assert second[3] == first[3]
    assert second[4] == first[4] + 1
    assert query(warehouse_dsn, "select count(*) from marts.customer_value") == [(3,)]
