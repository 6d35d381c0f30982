"""Holdouts night after night, and the lift against them by other means.

The models of segment, on hand-made customers and a real PostgreSQL; the history of each night is
copied as `publish` does.
"""

from __future__ import annotations

import random
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from scipy import stats

from kundenkreis.warehouse.history import copy_history
from tests.integration.activation_warehouse import build_plan, empty_warehouse
from tests.integration.dbt_support import query

pytestmark = pytest.mark.integration

_FIRST = date(2026, 5, 1)
_MODELS = (
    "int_segment_matches int_holdout_draws segment_members history_holdout_draws"
    " history_segment_membership_changes"
)
_TABLES = """
create schema if not exists marts_blue;
create schema if not exists intermediate_blue;
create table marts_blue.customer_360 (
    customer_id text primary key, in_first boolean, in_second boolean, is_contactable boolean,
    not_contactable_because text, has_profiling_objection boolean default false,
    is_minor boolean default false
);
create table marts_blue.customers (customer_id text primary key);
create table marts_blue.history_identity_changes (
    as_of_date date, change text, customer_id text, other_customer_id text, records integer
);
create table intermediate_blue.int_order_days (
    customer_id text, order_date date, revenue numeric(18, 4)
);
"""


class _Shop:
    """Hand-made customers, and the nights over them."""

    def __init__(self, dsn: str, target: Path) -> None:
        self.dsn, self._target = dsn, target
        # customer -> (in the first segment, in the second, contactable)
        self.people: dict[str, tuple[bool, bool, bool]] = {}
        self.percent = {"first": 20, "second": 0}
        self.variables: dict[str, Any] = {}

    def night(self, day: date, merged: tuple[tuple[str, str], ...] = ()) -> dict[Any, bool]:
        """Build and publish a night; (segment, customer) -> is_holdout of all members.

        merged: (who remains, who became part of it).
        """
        self._write(day, merged)
        publication_id = self._build(day)
        with psycopg.connect(self.dsn) as connection:
            copy_history(connection, "marts_blue", day, publication_id)
        return self.members()

    def _write(self, day: date, merged: tuple[tuple[str, str], ...]) -> None:
        with psycopg.connect(self.dsn) as connection, connection.cursor() as cursor:
            cursor.execute(
                "truncate marts_blue.customer_360, marts_blue.customers,"
                " marts_blue.history_identity_changes"
            )
            cursor.executemany(
                "insert into marts_blue.customer_360 values (%s, %s, %s, %s)",
                [(customer, *values) for customer, values in self.people.items()],
            )
            cursor.execute(
                "insert into marts_blue.customers select customer_id from marts_blue.customer_360"
            )
            cursor.executemany(
                "insert into marts_blue.history_identity_changes values (%s, 'merged', %s, %s, 1)",
                [(day, *pair) for pair in merged],
            )

    def _build(self, day: date, models: str = _MODELS) -> int:
        ((publication_id,),) = query(
            self.dsn,
            "insert into history.publications (as_of_date, dag_run_id, schema_name)"
            " values (%s, 'run', 'marts_blue') returning publication_id",
            day,
        )
        segments = [
            {"key": key, "where": f"in_{key}", "holdout_percent": percent, "destinations": []}
            for key, percent in self.percent.items()
        ]
        build_plan(
            self.dsn,
            publication_id,
            self._target,
            segments,
            select=models,
            as_of_date=day.isoformat(),
            **self.variables,
        )
        return int(publication_id)

    def lift(self, day: date) -> dict[str, dict[str, Any]]:
        """kpi_holdout_lift of a day, by segment."""
        self._build(day, "kpi_holdout_lift")
        rows = query(self.dsn, "select segment, to_jsonb(lift) from kpi_holdout_lift as lift")
        return {str(segment): lift for segment, lift in rows}

    def members(self) -> dict[Any, bool]:
        rows = query(self.dsn, "select segment, customer_id, is_holdout from segment_members")
        return {(segment, customer): held for segment, customer, held in rows}


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One dbt target folder, so that the project is parsed once."""
    return tmp_path_factory.mktemp("dbt_target")


@pytest.fixture
def shop(module_warehouse_dsn: str, target: Path) -> _Shop:
    empty_warehouse(module_warehouse_dsn)
    with psycopg.connect(module_warehouse_dsn) as connection:
        connection.execute("drop schema if exists marts_blue, intermediate_blue cascade")
        connection.execute(
            "truncate history.holdout_draws, history.segment_membership_changes,"
            " history.identity_changes"
        )
        connection.execute(_TABLES)
    return _Shop(module_warehouse_dsn, target)


def test_an_arm_lasts_as_long_as_the_stay_whatever_changes(shop: _Shop) -> None:
    """Members come and go, consents and percentages change; only the start of a stay draws."""
    chance = random.Random(5)
    people = [f"c{number}" for number in range(300)]
    state = {one: (chance.random() < 0.7, True, chance.random() < 0.8) for one in people}
    arms: dict[Any, bool] = {}  # of those who were drawn in the stay that is under way
    held_at_end: dict[int, float] = {}
    for night, percent in enumerate((20, 50, 0, 5, 50)):
        shop.people, shop.percent = dict(state), {"first": percent, "second": 50 - percent}
        members = shop.night(_FIRST + timedelta(days=night))
        arms = {key: arm for key, arm in arms.items() if key in members}
        entered = [key for key in members if key not in arms and state[key[1]][2]]
        for key, is_holdout in members.items():
            if key in arms:
                assert is_holdout == arms[key], f"night {night}: {key} changed its arm"
            elif key not in entered:
                assert not is_holdout, f"night {night}: {key} cannot be written to"
        of_first = [members[key] for key in entered if key[0] == "first"]
        held_at_end[percent] = sum(of_first) / max(len(of_first), 1)
        arms.update({key: members[key] for key in entered})
        state = {
            one: (
                first if chance.random() < 0.7 else not first,
                second if chance.random() < 0.9 else not second,
                contactable if chance.random() < 0.8 else not contactable,
            )
            for one, (first, second, contactable) in state.items()
        }
    assert held_at_end[0] == 0
    assert 0.3 < held_at_end[50] < 0.7
    assert any(arms.values()) and not all(arms.values())


def test_a_night_that_is_repeated_draws_nobody_anew(shop: _Shop) -> None:
    shop.people = {f"c{number}": (True, True, True) for number in range(100)}
    first = shop.night(_FIRST)
    shop.percent = {"first": 50, "second": 50}
    shop.people["new"] = (True, False, True)

    again = shop.night(_FIRST)

    assert {key: arm for key, arm in again.items() if key[1] != "new"} == first
    history = "select segment, customer_id, is_holdout, holdout_percent from history.holdout_draws"
    drawn = {
        (segment, one): (arm, percent) for segment, one, arm, percent in query(shop.dsn, history)
    }
    assert {key: arm for key, (arm, _) in drawn.items()} == again
    assert {percent for key, (_, percent) in drawn.items() if key[1] == "new"} == {50}
    assert {percent for key, (_, percent) in drawn.items() if key[1] != "new"} == {0, 20}


def test_a_holdout_stays_one_through_merges_of_merges(shop: _Shop) -> None:
    """Each customer becomes part of an unknown one, and that of another, two nights later."""
    shop.people = {f"a{number}": (True, False, True) for number in range(60)}
    drawn = shop.night(_FIRST)
    assert len(set(drawn.values())) == 2

    shop.percent = {"first": 0, "second": 0}
    shop.people = {f"b{number}": (True, False, True) for number in range(60)}
    merged = tuple((f"b{number}", f"a{number}") for number in range(60))
    second = shop.night(_FIRST + timedelta(days=1), merged)
    shop.night(_FIRST + timedelta(days=2))
    shop.people = {f"c{number}": (True, False, number % 2 == 0) for number in range(60)}
    merged = tuple((f"c{number}", f"b{number}") for number in range(60))
    third = shop.night(_FIRST + timedelta(days=3), merged)
    fourth = shop.night(_FIRST + timedelta(days=4))

    def by_number(members: dict[Any, bool]) -> dict[str, bool]:
        return {customer[1:]: arm for (_, customer), arm in members.items()}

    assert by_number(drawn) == by_number(second) == by_number(third) == by_number(fourth)
    assert query(
        shop.dsn, "select distinct drawn_on, holdout_percent from history.holdout_draws"
    ) == [(_FIRST, 20)]


def test_the_global_holdout_is_kept_out_of_everything_and_lasts(shop: _Shop) -> None:
    shop.variables = {"global_holdout_percent": 30}
    shop.percent = {"first": 0, "second": 0}
    shop.people = {f"c{number}": (True, True, number % 4 > 0) for number in range(200)}
    first = shop.night(_FIRST)
    held = {customer for (_, customer), arm in first.items() if arm}
    assert 30 < len(held) < 60
    assert all(first["first", one] and first["second", one] for one in held)

    shop.variables = {"global_holdout_percent": 1}
    shop.people = dict.fromkeys(shop.people, (False, False, True))
    shop.night(_FIRST + timedelta(days=1))
    shop.people = dict.fromkeys(shop.people, (False, True, True))
    later = shop.night(_FIRST + timedelta(days=2))

    assert {customer for (_, customer), arm in later.items() if arm} >= held
    treated = {f"c{number}" for number in range(200) if number % 4 > 0} - held
    assert not any(later["second", one] for one in treated), "who was treated stays treated"
    shop.variables = {"global_holdout_percent": 0}
    assert not any(shop.night(_FIRST + timedelta(days=3)).values()), "switched off"


def _wilson(successes: int, trials: int) -> tuple[float, float]:
    interval = stats.binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def _newcombe(treated: np.ndarray, holdout: np.ndarray) -> tuple[float, float, float]:
    """Method 10 of Newcombe (1998): two Wilson intervals, squared and added."""
    one, other = treated.mean(), holdout.mean()
    (low, high), (other_low, other_high) = (
        _wilson(int(arm.sum()), len(arm)) for arm in (treated, holdout)
    )
    return (
        one - other,
        one - other - np.hypot(one - low, other_high - other),
        one - other + np.hypot(high - one, other - other_low),
    )


@pytest.mark.parametrize(
    ("seed", "treated_rate", "holdout_rate", "size"),
    [(1, 0.3, 0.2, 3000), (2, 0.02, 0.02, 1500), (3, 1.0, 0.9, 600), (4, 0.0, 0.0, 400)],
)
def test_the_lift_is_what_scipy_finds(
    shop: _Shop, seed: int, treated_rate: float, holdout_rate: float, size: int
) -> None:
    """Draws over two months, orders around the window's edges, arms kept here in arrays."""
    chance = np.random.default_rng(seed)
    percent, window = 20, 14
    until = _FIRST + timedelta(days=60)
    is_holdout = chance.random(size) < percent / 100
    drawn_on = [_FIRST + timedelta(days=int(days)) for days in chance.integers(0, 60, size)]
    bought = np.zeros(size, dtype=bool)
    revenue = np.zeros(size)
    orders = []
    for number in range(size):
        rate = holdout_rate if is_holdout[number] else treated_rate
        if chance.random() < rate:
            for days in chance.integers(1, window + 1, chance.integers(1, 4)):
                amount = round(float(chance.lognormal(3, 0.8)), 2)
                orders.append((f"c{number}", drawn_on[number] + timedelta(int(days)), amount))
                bought[number], revenue[number] = True, revenue[number] + amount
        # What is not within the window counts for nothing.
        for days in (0, window + 1):
            orders.append((f"c{number}", drawn_on[number] + timedelta(days), 1000))
    with psycopg.connect(shop.dsn) as connection, connection.cursor() as cursor:
        cursor.executemany(
            "insert into history.holdout_draws"
            " values (%s, 'first', %s, %s, %s, %s, 'kundenkreis', 1)",
            [
                (drawn_on[n], f"c{n}", drawn_on[n], bool(is_holdout[n]), percent)
                for n in range(size)
            ],
        )
        cursor.execute(
            "insert into history.publications (as_of_date, dag_run_id, schema_name)"
            " select distinct as_of_date, 'run', 'marts_blue' from history.holdout_draws"
        )
        cursor.execute(
            "insert into marts_blue.customers select customer_id from history.holdout_draws"
        )
        cursor.executemany(
            "insert into intermediate_blue.int_order_days values (%s, %s, %s)", orders
        )
    shop.variables = {"holdout_lift_days": window}

    lift = shop.lift(until)

    is_over = np.array([day <= until - timedelta(days=window) for day in drawn_on])
    treated, holdout = is_over & ~is_holdout, is_over & is_holdout
    found = lift["first"]
    assert set(lift) == {"first", "second", "global_holdout"}
    for arm, chosen in (("treated", treated), ("holdout", holdout)):
        assert found[f"{arm}_customers"] == chosen.sum() >= 30
        assert found[f"{arm}_converted"] == bought[chosen].sum()
        assert found[f"{arm}_revenue"] == pytest.approx(revenue[chosen].sum(), abs=0.01)
        assert found[f"{arm}_conversion_rate"] == pytest.approx(bought[chosen].mean(), abs=6e-5)
    assert found["expected_holdout_customers"] == pytest.approx(is_over.sum() * percent / 100)
    expected = _newcombe(bought[treated], bought[holdout])
    _assert_interval(found, "conversion_rate_difference", expected)
    if revenue.any():
        welch = stats.ttest_ind(revenue[treated], revenue[holdout], equal_var=False)
        low, high = welch.confidence_interval(0.95)
        difference = revenue[treated].mean() - revenue[holdout].mean()
        _assert_interval(found, "revenue_per_customer_difference", (difference, low, high))
    else:
        assert found["revenue_per_customer_difference"] == 0
        assert found["revenue_per_customer_difference_low"] is None
        assert found["revenue_per_customer_difference_excludes_zero"] is None


def _assert_interval(
    found: dict[str, Any], name: str, expected: tuple[float, float, float]
) -> None:
    got = [found[f"{name}{end}"] for end in ("", "_low", "_high")]
    assert got == pytest.approx(expected, abs=1e-4, rel=1e-5)
    assert found[f"{name}_excludes_zero"] == (expected[1] > 0 or expected[2] < 0)


def test_arms_that_are_too_small_have_no_difference(shop: _Shop) -> None:
    shop.people = {f"c{number}": (True, False, True) for number in range(100)}
    shop.night(_FIRST)

    found = shop.lift(_FIRST + timedelta(days=30))["first"]

    assert 0 < found["holdout_customers"] < 30 < found["treated_customers"]
    assert found["treated_conversion_rate"] == 0
    empty = [name for name in found if "difference" in name]
    assert [found[name] for name in empty] == [None] * 8
    assert shop.lift(_FIRST + timedelta(days=29))["first"]["treated_customers"] == 0
