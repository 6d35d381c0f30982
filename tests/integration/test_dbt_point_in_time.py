"""A night built late gives what that night would have given from the events up to its day.

The generated shop has events on both sides of the as-of day, many at the very edge of it. It is
built once with everything and once with what the vendors knew by then; every mart must be the same,
but for the columns that vendors overwrite without keeping a history (the models' YAML names them).
So it is with the real orders of CDNOW. Days are drawn at random from a seed: a test's id names its
day.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from kundenkreis.predictions import predict
from kundenkreis.settings import home, load_settings, repository_root
from tests.integration.compiled_project import compile_project
from tests.integration.conftest import ShopTemplate
from tests.integration.dbt_support import MARTS, build, create_raw_tables, insert, query
from tests.integration.kpi_reference import assert_kpis_match
from tests.reference.real_shops import FileOrder, cdnow_orders

pytestmark = pytest.mark.integration

_BERLIN = ZoneInfo("Europe/Berlin")
_PERSONS = 150
_OPT_INS = ["double", "single", "pending", "withdrawn", None]

# What a vendor overwrites: the newest value is all there is (names, address fields, products).
_OVERWRITTEN = {
    "customers": ["first_name", "last_name", "country", "preferred_language"],
    "customer_360": [
        "first_name",
        "last_name",
        "country",
        "preferred_language",
        "favourite_category",
    ],
    "products": ["product_name", "price", "category"],
}

SEGMENTS = [
    {"key": "everybody", "where": "true", "holdout_percent": 30},
    {"key": "lapsing", "where": "stage in ('at_risk', 'churned')", "holdout_percent": 0},
    {"key": "returns", "where": "return_rate > 0 or spend_trend < 0", "requires": ["birthday"]},
]

SOURCES = ["files", "hubspot", "woocommerce"]
VARIABLES: dict[str, Any] = {
    "enabled_sources": SOURCES,
    "exchange_rates": {"USD": 0.9},
    "segments": SEGMENTS,
}


class _Shop:
    """Random rows around one as-of day, from one seed."""

    def __init__(self, as_of: date) -> None:
        self._random = random.Random(as_of.toordinal())
        self._as_of = as_of
        self._next = 0

    def moment(self) -> datetime:
        """Within two years before and four months after; a quarter at an edge of the day."""
        midnight = datetime.combine(self._as_of, time(), _BERLIN)
        if self._random.random() < 0.25:
            next_midnight = datetime.combine(self._as_of + timedelta(days=1), time(), _BERLIN)
            # Across a change of clocks only differences in UTC are differences of time.
            utc = ZoneInfo("UTC")
            return self._random.choice(
                [
                    midnight.astimezone(utc),
                    midnight.astimezone(utc) - timedelta(microseconds=1),
                    next_midnight.astimezone(utc),
                    next_midnight.astimezone(utc) - timedelta(microseconds=1),
                    datetime.combine(self._as_of, time(23, 30), utc),
                    datetime.combine(self._as_of, time(22, 30), utc),
                ]
            )
        minutes = self._random.randrange(-730 * 1440, 120 * 1440)
        return midnight + timedelta(minutes=minutes)

    def moments(self, most: int) -> list[datetime]:
        return [self.moment() for _ in range(self._random.randint(0, most))]

    def number(self) -> int:
        self._next += 1
        return self._next

    def chance(self, share: float) -> bool:
        return self._random.random() < share

    def choice(self, *values: Any) -> Any:
        return self._random.choice(values)


def _land(dsn: str, shop: _Shop) -> None:
    rows: dict[str, list[dict[str, Any]]] = {}

    def add(table: str, **row: Any) -> None:
        rows.setdefault(table, []).append(row)

    for product in range(1, 6):
        add(
            "raw_woocommerce.products",
            id=product,
            name=f"new name {product}",
            price=product * 2,
            category_name=f"new category {product}",
        )
    for person in range(_PERSONS):
        email = f"person{person}@mail.example"
        account = shop.number() if shop.chance(0.5) else 0
        if account and shop.chance(0.9):
            created_at = shop.moment()
            opted_in_at = max(created_at, shop.moment()) if shop.chance(0.7) else None
            add(
                "raw_woocommerce.customers",
                id=account,
                email=email,
                first_name="new",
                last_name=shop.choice("new", None),
                billing_country=shop.choice("AT", "DE", None),
                newsletter_opt_in=shop.choice(*_OPT_INS) if opted_in_at else None,
                newsletter_opt_in_at=opted_in_at,
                date_created_gmt=created_at,
                date_modified_gmt=max(created_at, shop.moment()),
            )
        for ordered_at in shop.moments(5):
            _add_order(add, shop, email, account, ordered_at)
        if shop.chance(0.5):
            _add_contact(add, shop, email)
        if shop.chance(0.4):
            add(
                "raw_files.customers",
                source_name="till",
                customer_key=f"k{person}",
                email=shop.choice(email, email, None),
                preferred_language=shop.choice("de", "en"),
                created_at=shop.choice(shop.moment(), shop.moment(), None),
            )
        for ordered_at in shop.moments(2):
            _add_slip(add, shop, f"k{person}", ordered_at)
        for occurred_at in shop.moments(2):
            add(
                "raw_files.consent_events",
                source_name="desk",
                email=email,
                evidence=shop.choice(
                    "double", "double", "single", "withdrawn", "bounced", "profiling_objection"
                ),
                occurred_at=occurred_at,
            )
    for number in range(60):
        add(
            "raw_files.spend",
            source_name="advertising",
            acquisition_source=shop.choice("Paid_Search", "paid_social"),
            spent_on=shop.moment().astimezone(_BERLIN).date(),
            currency=shop.choice("EUR", "USD", "CHF"),
            amount=shop.choice("100", "33.33"),
            content_hash="file",
            row_number=number,
        )
    for table, listed in rows.items():
        insert(dsn, table, listed)
    with psycopg.connect(dsn) as connection:
        for person in range(0, _PERSONS, 3):
            connection.execute(
                "insert into activation.subscriber_states"
                " (destination, address, state, evidence, state_changed_at, read_at, run_id)"
                " values ('listmonk', %s, %s, %s, %s, now(), 'test')",
                (
                    f"person{person}@mail.example",
                    *shop.choice(("subscribed", "double"), ("unsubscribed", None)),
                    shop.moment(),
                ),
            )


def _add_slip(add: Any, shop: _Shop, customer_key: str, ordered_at: datetime) -> None:
    """An order of the till, and sometimes the credit note that takes it back."""
    slip = {
        "source_name": "till",
        "order_key": f"t{shop.number()}",
        "customer_key": customer_key,
        "ordered_at": ordered_at,
        "status": shop.choice("completed", "completed", "cancelled"),
        "currency": "EUR",
        "total_amount": shop.choice("10.10", "0", "33.333"),
        "discount_amount": shop.choice("1.10", "0", None),
        "delivered_at": shop.choice(max(ordered_at, shop.moment()), None),
    }
    add("raw_files.orders", **slip)
    if shop.chance(0.3):
        note = {
            "order_key": f"t{shop.number()}",
            "ordered_at": max(ordered_at, shop.moment()),
            "status": "completed",
            "total_amount": shop.choice("-10.10", "-2"),
            "refunds_order_key": shop.choice(slip["order_key"], slip["order_key"], None),
        }
        add("raw_files.orders", **{**slip, **note})


def _add_order(add: Any, shop: _Shop, email: str, account: int, ordered_at: datetime) -> None:
    order = shop.number()
    add(
        "raw_woocommerce.orders",
        id=order,
        status=shop.choice("completed", "completed", "processing", "checkout-draft", "failed"),
        currency=shop.choice("EUR", "EUR", "USD", "CHF"),
        date_created_gmt=ordered_at,
        date_modified_gmt=max(ordered_at, shop.moment()),
        total="59.97",
        total_tax="9.57",
        shipping_total="5.00",
        shipping_tax="0.80",
        customer_id=shop.choice(account, account, 0),
        billing_email=shop.choice(email, email, email, f"other{order}@mail.example"),
        billing_first_name="order",
        billing_last_name=shop.choice("order", None),
        newsletter_opt_in=shop.choice(*_OPT_INS),
        discount_total=shop.choice("0.00", "4.20", None),
        discount_tax="0.80",
        date_completed_gmt=shop.choice(max(ordered_at, shop.moment()), None),
        _dlt_id=f"o{order}",
    )
    for line in range(shop.choice(1, 2)):
        add(
            "raw_woocommerce.orders__line_items",
            id=order * 2 + line,
            product_id=shop.choice(1, 2, 9),
            name="as sold",
            quantity=1,
            total=shop.choice("40.00", "20.00"),
            total_tax="4.00",
            _dlt_parent_id=f"o{order}",
            _dlt_list_idx=line,
        )
    if shop.chance(0.3):
        add(
            "raw_woocommerce.refunds",
            id=order,
            parent_id=order,
            date_created_gmt=max(ordered_at, shop.moment()),
            amount=shop.choice("59.97", "10.01"),
        )


def _add_contact(add: Any, shop: _Shop, email: str) -> None:
    contact = f"c{shop.number()}"
    created_at = shop.moment()
    opted_out_at = max(created_at, shop.moment()) if shop.chance(0.2) else None
    lead_since = max(created_at, shop.moment()) if shop.chance(0.5) else None
    add(
        "raw_hubspot.contacts",
        id=contact,
        email=email,
        firstname="new",
        hs_language=shop.choice("de", "en", None),
        hs_analytics_source=shop.choice("PAID_SEARCH", "PAID_SOCIAL", None),
        createdate=created_at,
        lastmodifieddate=max(created_at, shop.moment()),
        hs_lead_status="OPEN" if lead_since else None,
        hs_email_optout=opted_out_at is not None,
        date_of_birth=shop.choice("1990-03-29", "1988-02-29", "1970-10-27", None),
        archived=False,
        _dlt_id=contact,
    )
    changes = [("hs_email_optout", "true", opted_out_at), ("hs_lead_status", "OPEN", lead_since)]
    for number, (name, value, changed_at) in enumerate(changes):
        if changed_at:
            add(
                "raw_hubspot.contacts__property_history",
                property=name,
                value=value,
                changed_at=changed_at,
                _dlt_parent_id=contact,
                _dlt_list_idx=number,
            )
    for begun_at in shop.moments(1):
        add(
            "raw_hubspot.deals",
            id=contact,
            contact_id=contact,
            createdate=max(created_at, begun_at),
        )


def _forget_what_came_later(dsn: str, as_of: date) -> None:
    """Leave what the vendors held on that evening; days are counted here apart from the models."""

    def is_later(column: str) -> str:
        return f"({column} at time zone 'Europe/Berlin')::date > '{as_of}'"

    dated = {
        "raw_files.customers": "created_at",
        "raw_files.orders": "ordered_at",
        "raw_files.consent_events": "occurred_at",
        "raw_woocommerce.customers": "date_created_gmt",
        "raw_woocommerce.orders": "date_created_gmt",
        "raw_woocommerce.refunds": "date_created_gmt",
        "raw_hubspot.contacts": "createdate",
        "raw_hubspot.contacts__property_history": "changed_at",
        "raw_hubspot.deals": "createdate",
        "activation.subscriber_states": "state_changed_at",
    }
    with psycopg.connect(dsn) as connection:
        spent_later = f"delete from raw_files.spend where spent_on > '{as_of}'"
        assert connection.execute(spent_later).rowcount > 0
        for table, column in dated.items():
            deleted = connection.execute(f"delete from {table} where {is_later(column)}")
            assert deleted.rowcount > 0, f"{table}: nothing to forget"
        connection.execute(
            f"""
            update raw_woocommerce.customers
            set newsletter_opt_in = null, newsletter_opt_in_at = null
            where {is_later("newsletter_opt_in_at")};
            update raw_woocommerce.customers
            set
                first_name = 'old',
                last_name = 'old',
                billing_country = 'CH',
                date_modified_gmt = date_created_gmt
            where {is_later("date_modified_gmt")};
            update raw_hubspot.contacts
            set firstname = 'old', hs_language = 'fr', lastmodifieddate = createdate
            where {is_later("lastmodifieddate")};
            update raw_hubspot.contacts
            set hs_email_optout = false
            where _dlt_id not in (
                select _dlt_parent_id from raw_hubspot.contacts__property_history
                where property = 'hs_email_optout'
            );
            update raw_hubspot.contacts
            set hs_lead_status = null
            where _dlt_id not in (
                select _dlt_parent_id from raw_hubspot.contacts__property_history
                where property = 'hs_lead_status'
            );
            update raw_woocommerce.orders
            set date_completed_gmt = null
            where {is_later("date_completed_gmt")};
            update raw_files.orders set delivered_at = null where {is_later("delivered_at")};
            -- Renamed one by one: who bought most of what is the same.
            update raw_woocommerce.products
            set
                name = 'old name',
                price = 1,
                category_name = replace(category_name, 'new', 'old');
            delete from raw_woocommerce.orders__line_items
            where _dlt_parent_id not in (select _dlt_id from raw_woocommerce.orders)
            """
        )


def _marts(dsn: str) -> dict[str, list[str]]:
    """Each mart's rows as sorted text, without what vendors overwrite."""
    tables = query(
        dsn,
        "select table_name from information_schema.tables where table_schema = %s",
        MARTS,
    )
    return {
        table: [
            row
            for (row,) in query(
                dsn,
                f"select (to_jsonb(mart) - %s::text[])::text from {table} as mart order by 1",
                _OVERWRITTEN.get(table, []),
            )
        ]
        for (table,) in tables
    }


def _drawn_days(first: date, last: date, count: int) -> list[date]:
    days = range(first.toordinal(), last.toordinal() + 1)
    return [date.fromordinal(day) for day in random.Random(1997).sample(days, count)]


def _assert_same_marts(late: dict[str, list[str]], then: dict[str, list[str]]) -> None:
    assert set(late) == set(then)
    differences = {
        table: (sorted(set(late[table]) - set(rows))[:3], sorted(set(rows) - set(late[table]))[:3])
        for table, rows in then.items()
        if late[table] != rows
    }
    assert differences == {}, "by mart: built late only, built then only"


def _remember_value_parameters(dsn: str) -> None:
    """Orders at random moments fit no model, so an earlier night's parameters score."""
    with psycopg.connect(dsn) as connection:
        connection.execute(
            """
            insert into history.value_parameters (
                as_of_date, buyers, repeat_buyers, orders_outcome, orders_r, orders_alpha_days,
                orders_a, orders_b, order_value_outcome, order_value_p, order_value_q, order_value_v
            )
            values ('2020-01-01', 1, 1, 'fitted', 0.24, 31, 0.79, 2.43, 'fitted', 6.25, 3.74, 15.4)
            """
        )


def _night(dsn: str, as_of: date, variables: dict[str, Any], *, is_tested: bool) -> None:
    """Build all marts, with the predictions where the night makes them, with dbt's tests or not."""
    options = () if is_tested else ("--exclude-resource-type", "test")
    build(dsn, as_of.isoformat(), "--select", "tag:transform", *options, **variables)
    with psycopg.connect(dsn) as connection:
        predict(connection, as_of, lambda line: None, intermediate_schema="intermediate_blue")
    build(dsn, as_of.isoformat(), "--select", "tag:segment", *options, **variables)


def _everything_held_something(dsn: str) -> None:
    """Columns that are null for everybody would be equal whatever the models do."""
    columns = [
        *("return_rate", "discount_share", "favourite_category", "spend_trend"),
        *("usual_reorder_date", "last_delivered_on", "next_birthday_on", "age_years"),
    ]
    counted = ", ".join(f"count(distinct {column}) > 1" for column in columns)
    (filled,) = query(dsn, f"select {counted} from customer_360")
    assert dict(zip(columns, filled, strict=True)) == dict.fromkeys(columns, True)
    credited = "select count(*) from orders where source = 'till' and refunded_amount > 0"
    assert query(dsn, credited)[0][0] > 0


def _assert_late_equals_then(dsn: str, as_of: date, build_night: Callable[[bool], None]) -> None:
    """Build a night with everything and with what was known by then, and compare the marts.

    Args:
        build_night: builds the night; told whether dbt's tests are to run, which they need once.
    """
    _remember_value_parameters(dsn)
    build_night(True)
    late = _marts(dsn)

    _forget_what_came_later(dsn, as_of)
    build_night(False)
    then = _marts(dsn)

    assert len(then) >= 15
    # Nobody is merged on the first night of all.
    empty = [table for table in then.keys() - {"history_identity_changes"} if not then[table]]
    assert empty == [], "every mart must hold something to compare"
    _assert_same_marts(late, then)
    _everything_held_something(dsn)
    assert_kpis_match(dsn, as_of, VARIABLES["exchange_rates"])


@pytest.mark.parametrize("as_of", _drawn_days(date(2025, 1, 1), date(2026, 12, 31), 1), ids=str)
def test_a_night_built_late_equals_the_night(warehouse_dsn: str, as_of: date) -> None:
    create_raw_tables(warehouse_dsn, *SOURCES)
    _land(warehouse_dsn, _Shop(as_of))
    _assert_late_equals_then(
        warehouse_dsn,
        as_of,
        lambda is_tested: _night(warehouse_dsn, as_of, VARIABLES, is_tested=is_tested),
    )


def _compiled(postgres: Any, dsn: str, variables: dict[str, Any]) -> ShopTemplate:
    """All marts as dbt compiled them once, over empty raw tables."""
    create_raw_tables(dsn, *variables["enabled_sources"])
    marts = [path.stem for path in (repository_root() / "dbt_project/models/marts").rglob("*.sql")]
    project = compile_project(dsn, variables, home() / "dbt" / f"target_{MARTS}", marts)
    with psycopg.connect(dsn) as connection:
        connection.execute(f"drop schema {MARTS}, intermediate_blue cascade")
    return ShopTemplate(postgres, project, str(conninfo_to_dict(dsn)["dbname"]))


def _build_compiled(compiled: ShopTemplate, dsn: str, as_of: date) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        compiled.project.build(connection, as_of, MARTS)


@pytest.fixture(scope="module")
def compiled(postgres: Any, new_module_warehouse: Callable[[], str]) -> ShopTemplate:
    """The models over all sources."""
    return _compiled(postgres, new_module_warehouse(), VARIABLES)


@pytest.mark.parametrize(
    "as_of",
    [
        pytest.param(date(2026, 3, 29), id="a day of 23 hours"),
        pytest.param(date(2025, 10, 26), id="a day of 25 hours"),
    ],
)
def test_so_does_a_night_at_a_change_of_clocks(compiled: ShopTemplate, as_of: date) -> None:
    dsn = compiled.clone("change_of_clocks")
    _land(dsn, _Shop(as_of))
    _assert_late_equals_then(dsn, as_of, lambda _: _build_compiled(compiled, dsn, as_of))
    compiled.drop("change_of_clocks")


# Every tenth customer of CDNOW, under the rules of examples/cdnow.

_MUST_HOLD_ROWS = {
    "customer_rfm",
    "customer_value",
    "customer_360",
    "customers",
    "history_rfm_cutoffs",
    "history_stage_changes",
    "history_value_parameters",
    "kpi_daily",
    "lifecycle_intervals",
    "lifecycle_projections",
    "lifecycle_transitions",
    "orders",
    "segment_members",
}


@pytest.fixture(scope="module")
def cdnow(shared_data: Path) -> dict[int, FileOrder]:
    """The orders of every tenth customer by row of the file, for want of order numbers."""
    orders = enumerate(cdnow_orders(shared_data / "cdnow"))
    return {row: order for row, order in orders if int(order.customer) % 10 == 0}


@pytest.fixture(scope="module")
def compiled_cdnow(postgres: Any, new_module_warehouse: Callable[[], str]) -> ShopTemplate:
    """The models under the rules of the example."""
    variables = load_settings(repository_root() / "examples" / "cdnow").dbt_vars()
    return _compiled(postgres, new_module_warehouse(), variables)


def _land_cdnow(dsn: str, orders: dict[int, FileOrder]) -> None:
    insert(
        dsn,
        "raw_files.orders",
        (
            {
                "source_name": "cdnow",
                "order_key": str(row),
                "customer_key": order.customer,
                "ordered_at": f"{order.day} 00:00 America/New_York",
                "status": "completed",
                "currency": "USD",
                "total_amount": order.value,
            }
            for row, order in orders.items()
        ),
    )


@pytest.mark.parametrize("as_of", _drawn_days(date(1997, 2, 1), date(1998, 6, 15), 3), ids=str)
def test_a_night_of_cdnow_built_late_equals_the_night(
    compiled_cdnow: ShopTemplate, cdnow: dict[int, FileOrder], as_of: date
) -> None:
    known = {row: order for row, order in cdnow.items() if order.day <= as_of}
    assert len(known) < len(cdnow), "nothing comes later"

    marts = []
    for orders in (cdnow, known):
        dsn = compiled_cdnow.clone("cdnow")
        _land_cdnow(dsn, orders)
        _build_compiled(compiled_cdnow, dsn, as_of)
        marts.append(_marts(dsn))
    compiled_cdnow.drop("cdnow")

    late, then = marts
    assert {table for table, rows in then.items() if rows} >= _MUST_HOLD_ROWS
    assert len(then["orders"]) == len(known)
    _assert_same_marts(late, then)
