"""What the gate takes for proven holds on clean marts, and never where a rule would find a row."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import psycopg
import pytest

from kundenkreis.quality import facts
from kundenkreis.quality.suites import agreements, marts_orders, marts_scores
from kundenkreis.settings import Settings
from tests.integration import landing_fixture as landing
from tests.integration import marts_fixture as marts

pytestmark = pytest.mark.integration

_TWO_STAYS = "select customer_id from lifecycle_intervals where valid_to is not null limit 1"

_CONTACTABLE_MEMBER = (
    "select customer_id from segment_members where is_contactable order by customer_id limit 1"
)

FAULTS: dict[str, tuple[str, ...]] = {
    "orders": (
        "delete from orders where order_id = '24'",
        "insert into orders select * from orders where order_id = '24'",
        "update orders set order_id = '99999' where order_id = '24'",
        "update orders set revenue_before_refunds = revenue_before_refunds + 0.01"
        " where order_id = '24'",
        # The sum stays as it is.
        "update orders set revenue_before_refunds = revenue_before_refunds"
        " + case order_id when '24' then 1 else -1 end where order_id in ('24', '25')",
        "update orders set is_counted = null where order_id = '24'",
        "update orders set is_counted = not is_counted where order_id = '24'",
        "update orders set customer_id = null where order_id = '24'",
        "update orders set revenue_after_refunds = null where order_id = '24'",
        "update orders set order_date = '2026-04-03' where order_id = '24'",
        "update orders set order_date = null where order_id = '24'",
        "update orders set revenue_after_refunds = revenue_before_refunds + 1"
        " where order_id = '24'",
    ),
    "all orders priced": (
        "update raw_woocommerce.orders set currency = 'XXX' where id = 24",
        "update raw_woocommerce.orders set total = null where id = 24",
    ),
    "customers of orders": (
        "update orders set customer_id = 'nobody' where order_id = '24'",
        "update orders set customer_id = 'nobody' where not is_counted",
    ),
    "days of orders": (
        "update kpi_daily set orders = orders + 1 where day = '2026-03-31'",
        "update kpi_daily set revenue = revenue + 1 where day = '2026-03-31'",
        "delete from orders where order_id = '24'",
    ),
    "buyers": (
        "delete from customer_rfm where customer_id = 'c31'",
        "insert into customer_rfm select * from customer_rfm where customer_id = 'c31'",
        "update customer_rfm set customer_id = 'nobody' where customer_id = 'c31'",
        "update customer_rfm set frequency = frequency + 1 where customer_id = 'c31'",
        "update customer_rfm set recency_days = recency_days - 1 where customer_id = 'c31'",
        "update customer_rfm set monetary = monetary + 1 where customer_id = 'c31'",
    ),
    "stays": (
        "update lifecycle_intervals set stage = 'lost' where customer_id = 'c40'",
        "update lifecycle_intervals set stage = null where customer_id = 'c40'",
        "update lifecycle_intervals set customer_id = 'nobody' where customer_id = 'c40'",
        "delete from lifecycle_intervals where customer_id = 'c40' and valid_to is null",
        "insert into lifecycle_intervals select * from lifecycle_intervals"
        " where customer_id = 'c40' and valid_to is null",
        "update lifecycle_intervals set valid_to = valid_to - 1"
        f" where customer_id in ({_TWO_STAYS}) and valid_to is not null",
        "update lifecycle_intervals set valid_to = valid_to + 1"
        f" where customer_id in ({_TWO_STAYS}) and valid_to is not null",
        "update lifecycle_intervals set valid_from = valid_to where customer_id in"
        f" ({_TWO_STAYS}) and valid_to is not null",
        "update lifecycle_intervals set valid_from = null where customer_id = 'c40'",
        # Begins after the as-of date, as the customer does.
        "with later as ("
        " update customers set first_seen_on = '2026-04-01' where customer_id = 'c40')"
        " update lifecycle_intervals set valid_from = '2026-04-01' where customer_id = 'c40'",
        # The days on which intervals begin and end add up as before.
        "insert into lifecycle_intervals (customer_id, stage, valid_from, valid_to)"
        " select customer_id, stage, valid_from, valid_from from lifecycle_intervals"
        " where customer_id = 'c40' and valid_to is null",
        "insert into lifecycle_intervals (customer_id, stage, valid_from)"
        " select null, stage, valid_from from lifecycle_intervals"
        " where customer_id = 'c40' and valid_to is null",
    ),
    "stage changes": (
        "update lifecycle_intervals set stage = 'loyalty' where customer_id = 'c40'"
        " and valid_to is null and stage <> 'loyalty'",
        "delete from lifecycle_intervals where customer_id = 'c41'",
        "delete from history_stage_changes where customer_id = 'c42'",
        "update customer_360 set stage = 'churned' where customer_id = 'c61'"
        " and stage <> 'churned'",
        "update customer_360 set stage = null where customer_id = 'c61'",
    ),
    "customers by stage": (
        "update kpi_daily set customers_development = customers_development + 1"
        " where day = '2026-03-31'",
        "update kpi_daily set customers_development = null where day = '2026-03-31'",
        "delete from kpi_daily where day = '2026-03-31'",
        "update customer_360 set stage = 'churned' where customer_id = 'c61'"
        " and stage <> 'churned'",
    ),
    "few stage changes": (
        # Everybody has left a stage that an earlier night recorded.
        "with moved as ("
        " update history_stage_changes set from_stage = 'churned' returning customer_id)"
        " insert into history.stage_changes (as_of_date, customer_id, to_stage)"
        " select date '2026-03-28', customer_id, 'churned' from moved",
        # A night that was recorded since the publication.
        "insert into history.stage_changes (as_of_date, customer_id, from_stage, to_stage)"
        " values ('2026-03-29', 'x', null, 'reach'), ('2026-03-30', 'x', 'reach', null)",
        "delete from history_stage_changes where customer_id = 'c42'",
    ),
    "scored customers": (
        "delete from customer_rfm where customer_id = 'c31'",
        "update customer_rfm set customer_id = 'nobody' where customer_id = 'c31'",
        "update customer_360 set rfm_code = null where customer_id = 'c31'",
        "update customer_360 set rfm_code = '999' where customer_id = 'c31'",
        # A lead in all of them.
        "with shown as (update customer_360 set stage = 'reach' where customer_id = 'c31'),"
        " recorded as (update history_stage_changes set to_stage = 'reach'"
        " where customer_id = 'c31')"
        " update lifecycle_intervals set stage = 'reach' where customer_id = 'c31'"
        " and valid_to is null",
    ),
    "projections": (
        "update lifecycle_projections set customer_id = 'nobody' where customer_id = 'c31'",
        "update lifecycle_projections set from_date = '2026-03-31' where customer_id = 'c31'",
        "update lifecycle_projections set from_date = null where customer_id = 'c31'",
    ),
    "consent": (
        "update contactability set is_contactable = false where customer_id ="
        f" ({_CONTACTABLE_MEMBER})",
        f"update contactability set channel = 'sms' where customer_id = ({_CONTACTABLE_MEMBER})",
        "update contactability set address = 'other@shop.example' where customer_id ="
        f" ({_CONTACTABLE_MEMBER})",
        "update customers set email = 'other@shop.example' where customer_id ="
        f" ({_CONTACTABLE_MEMBER})",
        "update customer_360 set is_contactable = not is_contactable where customer_id ="
        f" ({_CONTACTABLE_MEMBER})",
        "update segment_members set is_contactable = true where not is_contactable",
        "update segment_members set is_contactable = null where customer_id = 'c31'",
        "update segment_members set customer_id = 'nobody' where is_contactable",
    ),
    "segment changes": (
        "update customer_rfm set rfm_segment = 'nothing' where customer_id = 'c31'",
        "delete from customer_rfm where customer_id = 'c31'",
        "delete from history_rfm_segment_changes where customer_id = 'c34'",
    ),
    "valued buyers": (
        "delete from customer_value where customer_id = 'c33'",
        "insert into customer_value select * from customer_value where customer_id = 'c33'",
        "update customer_value set customer_id = 'nobody' where customer_id = 'c33'",
    ),
    "wide customers": (
        "delete from customer_360 where customer_id = 'c60'",
        "insert into customer_360 select * from customer_360 where customer_id = 'c60'",
        "update customer_360 set customer_id = 'nobody' where customer_id = 'c60'",
    ),
    "customers of records": (
        "delete from customer_source_ids where customer_id = 'c60'",
        "delete from customers where customer_id = 'c60'",
        "update customer_source_ids set customer_id = 'nobody' where customer_id = 'c60'",
        "update customer_source_ids set customer_id = null where customer_id = 'c60'",
    ),
    "key of customers": (
        "insert into customers select * from customers where customer_id = 'c60'",
        "update customers set customer_id = null where customer_id = 'c60'",
    ),
    "key of customer_source_ids": (
        "insert into customer_source_ids select * from customer_source_ids limit 1",
        "update customer_source_ids set source_id = 'one' where source_id in"
        " (select source_id from customer_source_ids group by source_id limit 3)",
        "update customer_source_ids set source_record_type = null",
    ),
    "key of contactability": (
        "insert into contactability select * from contactability limit 1",
        "update contactability set address = null",
        "update contactability set channel = null",
    ),
    "key of segment_members": (
        "insert into segment_members select * from segment_members limit 1",
        "update segment_members set customer_id = null",
        "update segment_members set segment = null",
    ),
}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return landing.settings(tmp_path_factory.mktemp("config"))


@pytest.fixture(scope="module")
def clean(module_warehouse_dsn: str) -> Iterator[str]:
    landing.land(module_warehouse_dsn)
    marts.build(module_warehouse_dsn)
    yield module_warehouse_dsn


def _facts(connection: psycopg.Connection, settings: Settings) -> facts.MartsFacts:
    found = facts.marts_facts(connection, settings, marts.SCHEMA, landing.AS_OF, "run")
    return replace(found, published_as_of=landing.AS_OF - timedelta(days=3))


def test_all_agreements_hold_on_clean_marts(clean: str, settings: Settings) -> None:
    with psycopg.connect(clean) as connection:
        known = _facts(connection, settings)
    assert agreements.found(clean, settings, known) == set(FAULTS)


@pytest.mark.parametrize(
    ("name", "fault"), [(name, fault) for name, faults in FAULTS.items() for fault in faults]
)
def test_no_agreement_holds_over_a_fault(
    clean: str, settings: Settings, name: str, fault: str
) -> None:
    with psycopg.connect(clean) as connection:
        known = _facts(connection, settings)
        queries = agreements.queries_of(settings, known)
        names = next(names for names in queries if name in names)
        connection.execute(f"set local search_path to {marts.SCHEMA}".encode())
        changed = connection.execute(fault.encode())
        assert changed.rowcount > 0
        row = connection.execute(queries[names].encode()).fetchone()
        assert row is not None and not row[names.index(name)]
        connection.rollback()


def test_what_cannot_be_asked_is_not_proven(clean: str, settings: Settings) -> None:
    with psycopg.connect(clean) as connection:
        known = _facts(connection, settings)
        connection.rollback()
        connection.execute(f"alter table {marts.SCHEMA}.orders rename to orders_away".encode())
        connection.commit()
        try:
            held = agreements.found(clean, settings, known)
        finally:
            connection.execute(f"alter table {marts.SCHEMA}.orders_away rename to orders".encode())
            connection.commit()
    about_orders = {*marts_orders.AGREEMENTS, *marts_scores.AGREEMENTS}
    assert held == set(FAULTS) - about_orders
