"""The dbt project over small raw tables of all sources: what only shows in the whole chain."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from kundenkreis.errors import KundenkreisError
from kundenkreis.night import RunContext, _quarantine_rejected
from kundenkreis.settings import home, load_settings, repository_root
from kundenkreis.warehouse import READER, privacy, roles
from kundenkreis.warehouse import publish as publishing
from kundenkreis.warehouse.dbt import run_dbt, variables_while_parsing
from kundenkreis.warehouse.embedded import EmbeddedServer
from tests.integration.dbt_support import (
    MARTS,
    build,
    build_models,
    create_raw_tables,
    insert,
    query,
)

pytestmark = pytest.mark.integration

AS_OF = "2026-03-31"
SOURCES = ["files", "hubspot", "woocommerce"]
_ALL = ("tag:transform", "tag:segment")


def _noon(day: str) -> str:
    return f"{day} 12:00 Europe/Berlin"


def _order(identity: int, day: str, **more: Any) -> dict[str, Any]:
    return {
        "id": identity,
        "status": "completed",
        "currency": "EUR",
        "date_created_gmt": _noon(day),
        "date_modified_gmt": _noon(day),
        "total": "50.00",
        "customer_id": 0,
        "_dlt_id": f"o{identity}",
        **more,
    }


def _land(dsn: str) -> None:
    """Ada is known to the shop, the CRM and as a guest; the others each show one rule."""
    create_raw_tables(dsn, *SOURCES)
    insert(
        dsn,
        "raw_woocommerce.customers",
        [
            {
                "id": 1,
                "email": "Ada@Mail.example ",
                "first_name": "Ada",
                "date_created_gmt": _noon("2026-01-10"),
                "newsletter_opt_in": "double",
                "newsletter_opt_in_at": _noon("2026-01-10"),
            },
            {
                "id": 2,
                "email": "ben@xn--bcher-kva.example",
                "date_created_gmt": _noon("2026-01-12"),
                "newsletter_opt_in": "double",
                "newsletter_opt_in_at": _noon("2026-01-12"),
            },
            {"id": 3, "email": "late@mail.example", "date_created_gmt": _noon("2026-04-01")},
        ],
    )
    insert(
        dsn,
        "raw_woocommerce.orders",
        [
            _order(10, "2026-02-01", customer_id=1, billing_email="ada@mail.example"),
            _order(11, "2026-03-01", billing_email="ADA@mail.example"),
            _order(12, "2026-04-01", customer_id=1, billing_email="ada@mail.example"),
            # 23:30 in UTC is the next day in Berlin.
            _order(13, "2026-03-01", customer_id=2, date_created_gmt="2026-03-10 23:30+00"),
            _order(14, "2026-03-05", customer_id=2, currency="CHF"),
            _order(15, "2026-03-20", billing_email="cy@mail.example", status="checkout-draft"),
            _order(16, "2026-03-20", billing_email="a1@marketplace.amazon.de"),
            _order(17, "2026-03-21", billing_email="b2@marketplace.amazon.de"),
            _order(18, "2026-03-22", billing_email="tester@example.test"),
            _order(19, "2026-03-23", customer_id=99, billing_email="gone@mail.example"),
        ],
    )
    insert(
        dsn,
        "raw_woocommerce.refunds",
        [
            {"id": 1, "parent_id": 11, "date_created_gmt": _noon("2026-03-05"), "amount": "20"},
            {"id": 2, "parent_id": 10, "date_created_gmt": _noon("2026-04-05"), "amount": "50"},
        ],
    )
    insert(
        dsn,
        "raw_hubspot.contacts",
        [
            {
                "id": "501",
                "email": "ada@mail.example",
                "createdate": _noon("2025-12-01"),
                "lastmodifieddate": _noon("2026-02-01"),
                "hs_analytics_source": "PAID_SEARCH",
                "date_of_birth": "1990-02-30",
                "archived": False,
                "_dlt_id": "c501",
            },
            {
                "id": "502",
                "email": "ben@Bücher.example",
                "createdate": _noon("2026-02-01"),
                "lastmodifieddate": _noon("2026-02-10"),
                "hs_email_optout": True,
                "date_of_birth": "1990-02-28",
                "archived": False,
                "_dlt_id": "c502",
            },
            {
                "id": "503",
                "email": "kid@mail.example",
                "createdate": _noon("2026-02-01"),
                "date_of_birth": "2008-04-01",
                "archived": False,
                "_dlt_id": "c503",
            },
        ],
    )
    insert(
        dsn,
        "raw_hubspot.contacts__property_history",
        [
            {
                "property": "hs_email_optout",
                "value": "true",
                "changed_at": _noon("2026-02-10"),
                "_dlt_parent_id": "c502",
                "_dlt_list_idx": 0,
            }
        ],
    )
    insert(
        dsn,
        "raw_files.consent_events",
        [
            {
                "source_name": "desk",
                "email": "ada@mail.example",
                "evidence": "withdrawn",
                "occurred_at": _noon("2026-04-01"),
            }
        ],
    )
    insert(
        dsn,
        "raw_files.spend",
        (
            {
                "source_name": "advertising",
                "acquisition_source": "Paid_Search",
                "spent_on": spent_on,
                "currency": currency,
                "amount": amount,
                "content_hash": "file",
                "row_number": number,
            }
            for number, (spent_on, currency, amount) in enumerate(
                [("2026-02-10", "EUR", 40), ("2026-03-10", "CHF", 7), ("2026-04-01", "EUR", 9)], 1
            )
        ),
    )


SEGMENTS = [
    {"key": "everybody", "where": "true", "holdout_percent": 0},
    {"key": "buyers", "where": "orders_count > 0", "holdout_percent": 0},
]


NIGHT = {
    "as_of_date": AS_OF,
    "marts_schema": MARTS,
    "enabled_sources": SOURCES,
    "segments": SEGMENTS,
}


@pytest.fixture(scope="module")
def landed(module_warehouse_dsn: str) -> str:
    """A warehouse in which the whole chain was built once, unit tests included."""
    _land(module_warehouse_dsn)
    run_dbt(
        "build",
        ["--exclude", "tag:plan"],
        dsn=module_warehouse_dsn,
        variables=NIGHT,
        progress=lambda line: None,
    )
    return module_warehouse_dsn


@pytest.fixture(scope="module")
def pages(landed: str) -> dict[str, dict[str, Any]]:
    """What dbt writes for its own pages: the catalog and the manifest; a warning is an error."""
    run_dbt(
        "docs",
        ["generate", "--warn-error-options", '{"error": "all"}'],
        dsn=landed,
        variables=variables_while_parsing(NIGHT),  # which were parsed for the build
        progress=lambda line: None,
    )
    folder = home() / "dbt" / f"target_{MARTS}"
    return {
        name: json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        for name in ("catalog", "manifest")
    }


def test_dbt_writes_its_own_pages_without_a_warning(pages: dict[str, dict[str, Any]]) -> None:
    catalog, manifest = pages["catalog"], pages["manifest"]
    assert catalog["errors"] is None
    built = {
        key
        for key, node in manifest["nodes"].items()
        if node["resource_type"] in ("model", "seed")
        and node["config"]["materialized"] != "ephemeral"
        and "plan" not in node["tags"]
    }
    assert len(built) > 50
    assert built - set(catalog["nodes"]) == set(), "built, but not on the pages"
    for key in built:
        documented = set(manifest["nodes"][key]["columns"])
        assert documented <= set(catalog["nodes"][key]["columns"]), f"{key}: no such column"


def _customer(dsn: str, source: str, source_id: str) -> str:
    ((customer,),) = query(
        dsn,
        "select customer_id from customer_source_ids where source = %s and source_id = %s",
        source,
        source_id,
    )
    return str(customer)


def test_equal_addresses_are_one_person(landed: str) -> None:
    ada = _customer(landed, "woocommerce", "1")
    assert _customer(landed, "hubspot", "501") == ada
    assert _customer(landed, "woocommerce", "11") == ada, "her guest order"
    ben = _customer(landed, "woocommerce", "2")
    assert _customer(landed, "hubspot", "502") == ben, "an international domain"
    assert ben != ada


def test_relay_and_test_addresses_identify_nobody(landed: str) -> None:
    assert query(
        landed,
        "select order_id, not_counted_because from orders where customer_id is null order by 1",
    ) == [("16", "no_customer"), ("17", "no_customer"), ("18", "test_order")]


def test_an_account_that_the_shop_no_longer_lists_is_known_by_its_orders(landed: str) -> None:
    gone = _customer(landed, "woocommerce", "99")
    assert query(landed, "select email from customers where customer_id = %s", gone) == [
        ("gone@mail.example",)
    ]


def test_nothing_after_the_as_of_day_is_seen(landed: str) -> None:
    assert query(landed, "select count(*) from orders where order_id = '12'") == [(0,)]
    assert query(landed, "select count(*) from customers where email = 'late@mail.example'") == [
        (0,)
    ]
    # The refund of order 10 and the withdrawal came in April.
    assert query(
        landed,
        "select order_id, revenue_after_refunds from orders where order_id in ('10', '11')"
        " order by 1",
    ) == [("10", 50), ("11", 30)]
    ada = _customer(landed, "woocommerce", "1")
    assert query(landed, "select reason from contactability where customer_id = %s", ada) == [
        ("consent_double",)
    ]


def test_days_are_days_of_the_business_time_zone(landed: str) -> None:
    assert query(landed, "select order_date from orders where order_id = '13'") == [
        (date(2026, 3, 11),)
    ]


def test_a_later_opt_out_in_the_crm_blocks_the_person(landed: str) -> None:
    ben = _customer(landed, "woocommerce", "2")
    assert query(
        landed,
        "select is_contactable, reason, evidence_at::date from contactability"
        " where customer_id = %s",
        ben,
    ) == [(False, "withdrawn", date(2026, 2, 10))]


def test_an_order_without_a_rate_is_set_aside_and_the_rest_goes_on(landed: str) -> None:
    assert query(
        landed, "select source, record_key, reason_code from intermediate_blue.int_orders_rejected"
    ) == [("woocommerce", "14", "no_exchange_rate")]
    assert query(landed, "select count(*) from orders where order_id = '14'") == [(0,)]


def test_spend_meets_whom_it_won_and_what_has_no_rate_is_kept(landed: str) -> None:
    assert query(
        landed,
        "select month, spend, new_customers, cost_per_new_customer, revenue, return_on_spend"
        " from kpi_acquisition_cost where acquisition_source = 'paid_search'",
    ) == [(date(2026, 2, 1), 40, 1, 40, 80, 2)]
    settings = load_settings(repository_root() / "config")
    resolve: Any = None
    run = RunContext("run", date(2026, 3, 31), landed, settings, resolve, False, lambda line: None)
    assert _quarantine_rejected(run, MARTS) == 2
    assert query(
        landed,
        "select source, table_name, record_key, reason_code, payload ->> 'spent_on'"
        " from quarantine.rejected_records order by source",
    ) == [
        ("advertising", "spend", "file:2", "no_exchange_rate", "2026-03-10"),
        ("woocommerce", "orders", "14", "no_exchange_rate", None),
    ]


def test_customer_360_says_what_a_filter_needs(landed: str) -> None:
    ada = _customer(landed, "woocommerce", "1")
    assert query(
        landed,
        """
        select
            stage, previous_stage, orders_count, recency_days, monetary, acquisition_source,
            first_seen_on, birthday, is_contactable, email, next_stage, next_stage_date,
            return_rate, refunded_orders_share, revenue_last_period, spend_trend,
            usual_reorder_date, stage_label_de, next_birthday_on
        from customer_360 where customer_id = %s
        """,
        ada,
    ) == [
        (
            *("development", "conversion", 2, 30, 80, "paid_search", date(2025, 12, 1)),
            # There is no 30 February.
            None,
            *(True, "ada@mail.example", "at_risk", date(2026, 6, 29)),
            # 20 of 100 came back, of one of two orders; nothing was bought in the 90 days before.
            *(Decimal("0.2"), Decimal("0.5"), 80, None, date(2026, 4, 30), "Entwicklung", None),
        )
    ]


def test_a_begun_checkout_is_a_sign_of_interest(landed: str) -> None:
    cy = _customer(landed, "woocommerce", "15")
    assert query(
        landed,
        "select stage, stage_entered_because, last_sign_of_interest_on,"
        " last_abandoned_checkout_on, orders_count from customer_360"
        " where customer_id = %s",
        cy,
    ) == [("acquisition", "checkout_begun", date(2026, 3, 20), date(2026, 3, 20), 0)]


def test_members_carry_the_verdict_and_minors_are_none(landed: str) -> None:
    members = dict(query(landed, "select segment, count(*) from segment_members group by 1"))
    customers = query(landed, "select count(*) from customers")[0][0]
    assert members == {"everybody": customers - 1, "buyers": 3}
    assert query(
        landed,
        "select count(*) from segment_members where is_contactable"
        " and not_contactable_because is not null or not is_contactable"
        " and not_contactable_because is null",
    ) == [(0,)]


def test_the_queries_of_the_lifecycle_page_run(landed: str) -> None:
    page = (repository_root() / "docs" / "lifecycle.md").read_text(encoding="utf-8")
    queries = re.findall(r"^```sql\n(.*?)^```", page, re.M | re.S)
    assert len(queries) > 10
    found = [query(landed, text.replace("marts.", f"{MARTS}.")) for text in queries]
    silent = [text for text, rows in zip(queries, found, strict=True) if not rows]
    # No night of this shop was published, nobody is lost or about to be.
    assert [re.search(r"(?:from \S+|to_stage = \S+)", text)[0] for text in silent] == [  # type: ignore[index]
        "from history.kpi_daily",
        "from marts.lifecycle_transitions",
        "from marts.customer_360",
    ]
    (two_dates,) = [
        rows for text, rows in zip(queries, found, strict=True) if "before.stage" in text
    ]
    assert sorted(two_dates) == query(
        landed,
        "select from_stage, to_stage, customers, share_of_from_stage"
        " from lifecycle_matrix_monthly where month = '2026-03-01' order by 1, 2",
    )


def test_the_queries_of_the_segments_page_run(landed: str) -> None:
    page = (repository_root() / "docs" / "segments.md").read_text(encoding="utf-8")
    queries = re.findall(r"^```sql\n(.*?)^```", page, re.M | re.S)
    # The third reads the plan, of which nothing was built here.
    of_marts = [text for text in queries if "activation." not in text]
    assert len(of_marts) == len(queries) - 1 == 2
    for text in of_marts:
        # Nobody was held out, and no night was published.
        assert query(landed, text.replace("marts.", f"{MARTS}.")) == []


def _publish_history(dsn: str) -> None:
    """What publish does with the history_* models, without the views."""
    with psycopg.connect(dsn) as connection:
        connection.execute(
            f"""
            insert into history.customer_ids
            select source, source_record_type, source_id, customer_id, assigned_on
            from {MARTS}.history_customer_ids on conflict do nothing;
            delete from history.stage_changes where as_of_date = '{AS_OF}';
            insert into history.stage_changes
            select as_of_date, customer_id, from_stage, to_stage from {MARTS}.history_stage_changes;
            delete from history.rfm_segment_changes where as_of_date = '{AS_OF}';
            insert into history.rfm_segment_changes
            select as_of_date, customer_id, from_segment, to_segment
            from {MARTS}.history_rfm_segment_changes;
            delete from history.segment_membership_changes where as_of_date = '{AS_OF}';
            insert into history.segment_membership_changes
            select as_of_date, segment, customer_id, change
            from {MARTS}.history_segment_membership_changes
            """
        )


_SNAPSHOT = [
    "select * from customer_360 order by customer_id",
    "select * from lifecycle_intervals order by customer_id, valid_from",
    "select * from segment_members order by segment, customer_id",
    "select * from history_stage_changes order by customer_id",
    "select * from history_rfm_segment_changes order by customer_id",
    "select * from rfm_segment_summary order by rfm_segment",
    "select * from history_segment_membership_changes order by segment, customer_id",
]


def test_nights_repeat_and_ids_stay(warehouse_dsn: str) -> None:
    """The same night twice gives the same; the next one records changes and renumbers nobody."""
    _land(warehouse_dsn)
    arguments = {"enabled_sources": SOURCES, "segments": SEGMENTS}
    build(warehouse_dsn, AS_OF, **arguments)
    first = [query(warehouse_dsn, statement) for statement in _SNAPSHOT]
    assert len(first[3]) == len(first[0]) == 5, "the first night records everybody's stage"
    _publish_history(warehouse_dsn)
    build_models(warehouse_dsn, AS_OF, *_ALL, **arguments)
    assert [query(warehouse_dsn, statement) for statement in _SNAPSHOT] == first

    ada = _customer(warehouse_dsn, "woocommerce", "1")
    with psycopg.connect(warehouse_dsn) as connection:
        # An older record of Ada turns up, and Ben moves to another address in the shop.
        connection.execute(
            "insert into raw_hubspot.contacts (id, email, createdate, archived, _dlt_id)"
            " values ('400', 'ada@mail.example', '2020-01-01', false, 'c400');"
            " update raw_woocommerce.customers set email = 'ben.new@mail.example' where id = 2;"
            # Cy opens an account, and the shop moves his guest order to it.
            " insert into raw_woocommerce.customers (id, email, date_created_gmt)"
            " values (50, 'cy@mail.example', '2026-04-01 12:00+00');"
            " update raw_woocommerce.orders set customer_id = 50 where id = 15"
        )
    cy = _customer(warehouse_dsn, "woocommerce", "15")
    ben = _customer(warehouse_dsn, "hubspot", "502")
    parse = home() / "dbt" / f"target_{MARTS}" / "partial_parse.msgpack"
    parsed_at = parse.stat().st_mtime_ns
    build(warehouse_dsn, "2026-04-01", **arguments)
    assert parse.stat().st_mtime_ns == parsed_at, "the next day did without a parse of its own"

    assert _customer(warehouse_dsn, "hubspot", "400") == ada
    assert _customer(warehouse_dsn, "woocommerce", "2") == ben, "the record his id came from"
    assert _customer(warehouse_dsn, "hubspot", "502") != ben
    assert _customer(warehouse_dsn, "woocommerce", "50") == cy
    late = _customer(warehouse_dsn, "woocommerce", "3")
    split = _customer(warehouse_dsn, "hubspot", "502")
    assert {
        customer: (before, after)
        for customer, before, after in query(
            warehouse_dsn, "select customer_id, from_stage, to_stage from history_stage_changes"
        )
    } == {
        ada: ("development", "retention"),  # her order of this day
        late: (None, "acquisition"),
        split: (None, "reach"),
    }
    assert set(
        query(
            warehouse_dsn,
            "select customer_id, from_segment, to_segment from history_rfm_segment_changes",
        )
    ) == {
        (ada, "hibernating", "need_attention"),
        (ben, "new_customers", "hibernating"),  # of three buyers the longest without an order
    }, "who stays in a segment is not recorded again"
    since = dict(
        query(
            warehouse_dsn,
            "select customer_id, member_since from segment_members where segment = 'everybody'",
        )
    )
    assert since[ada] == date(2026, 3, 31)
    assert since[late] == date(2026, 4, 1)


def test_a_backfill_of_a_day_before_an_undated_record_was_seen(warehouse_dsn: str) -> None:
    _land(warehouse_dsn)
    insert(
        warehouse_dsn,
        "raw_files.customers",
        [{"source_name": "till", "customer_key": "k1", "email": "undated@mail.example"}],
    )
    arguments = {"enabled_sources": SOURCES, "segments": SEGMENTS}
    build_models(warehouse_dsn, AS_OF, *_ALL, **arguments)
    _publish_history(warehouse_dsn)

    build_models(warehouse_dsn, "2026-03-02", *_ALL, **arguments)

    undated = _customer(warehouse_dsn, "till", "k1")
    assert query(
        warehouse_dsn,
        "select stage, valid_from from lifecycle_intervals where customer_id = %s",
        undated,
    ) == [("reach", date(2026, 3, 2))]


def _personal_columns_by_yaml(manifest: dict[str, Any]) -> set[tuple[str, str]]:
    return {
        (node["name"], column["name"])
        for node in manifest["nodes"].values()
        if node["resource_type"] == "model" and node["schema"] == MARTS
        for column in node["columns"].values()
        if column["config"].get("meta", {}).get("pii")
    }


_TYPES = """
select c.relname, a.attname, format_type(a.atttypid, a.atttypmod)
from pg_attribute as a inner join pg_class as c on c.oid = a.attrelid
where c.relnamespace = %s::regnamespace and c.relkind in ('r', 'v') and a.attnum > 0
    and not a.attisdropped and c.relname !~ '^history_'
"""


def test_what_the_yaml_calls_personal_is_masked_and_nothing_personal_is_left(
    landed: str, pages: dict[str, dict[str, Any]], postgres: EmbeddedServer
) -> None:
    """Published in a copy, because the tests of this module go on building."""
    copy = f"copy_of_{conninfo_to_dict(landed)['dbname']}"
    with psycopg.connect(postgres.dsn("postgres"), autocommit=True) as server:
        server.execute(f'create database "{copy}" template "{conninfo_to_dict(landed)["dbname"]}"')
    dsn = postgres.dsn(copy)
    roles.create(dsn)
    assert publishing.begin_build(dsn, "run", date.fromisoformat(AS_OF), False) == MARTS
    publishing.publish(dsn, "run", date.fromisoformat(AS_OF), MARTS, {}, wait_minutes=1)
    with psycopg.connect(dsn) as connection:
        built = set(connection.execute(_TYPES, (MARTS,)))
        assert set(connection.execute(_TYPES, ("marts",))) == built
        tables: dict[str, dict[str, str]] = {}
        for table, column, type_ in built:
            tables.setdefault(table, {})[column] = type_
        masked = privacy.masked_columns(connection, MARTS, tables)
        statement = "select v::text from marts.{} as v"
        plain = {t: connection.execute(statement.format(t).encode()).fetchall() for t in tables}
        connection.execute(f"set role {READER}")
        shown = {t: connection.execute(statement.format(t).encode()).fetchall() for t in tables}
    with psycopg.connect(postgres.dsn("postgres"), autocommit=True) as server:
        server.execute(f'drop database "{copy}" with (force)')
    assert {(table, column) for table in masked for column in masked[table]} == (
        _personal_columns_by_yaml(pages["manifest"])
    )
    words = ("mail.example", "xn--bcher-kva", "marketplace.amazon", "example.test", "Ada")
    found = {
        kind: {
            (table, word)
            for table, rows in texts.items()
            for (row,) in rows
            for word in words
            if word in row
        }
        for kind, texts in {"plain": plain, "shown": shown}.items()
    }
    assert {table for table, _ in found["plain"]} == {"contactability", "customer_360", "customers"}
    assert found["shown"] == set()


def _refused(build_again: Callable[[], object], *words: str) -> None:
    with pytest.raises(KundenkreisError) as refusal:
        build_again()
    for word in words:
        assert word in str(refusal.value)


def test_the_published_colour_is_never_built(landed: str) -> None:
    with psycopg.connect(landed) as connection:
        connection.execute(f"create view marts.customers as select * from {MARTS}.customers")
    _refused(
        lambda: build(
            landed,
            *(AS_OF, "--select", "customers"),
            enabled_sources=SOURCES,
            segments=SEGMENTS,
        ),
        MARTS,
        "is published",
    )
    with psycopg.connect(landed) as connection:
        assert connection.execute("select count(*) > 0 from marts.customers").fetchone() == (True,)
        connection.execute("drop view marts.customers")


def test_there_is_no_default_colour_and_no_default_day(landed: str) -> None:
    customers = ["--select", "customers"]
    variables = {"as_of_date": AS_OF, "enabled_sources": SOURCES}
    _refused(
        lambda: run_dbt(
            "build", customers, dsn=landed, variables=variables, progress=lambda line: None
        ),
        "marts_schema",
    )
    variables = {"marts_schema": MARTS, "enabled_sources": SOURCES}
    _refused(
        lambda: run_dbt(
            "build",
            ["--select", "int_orders_unioned"],
            dsn=landed,
            variables=variables,
            progress=lambda line: None,
        ),
        "as_of_date",
    )


def test_a_shop_alone_is_enough(warehouse_dsn: str) -> None:
    create_raw_tables(warehouse_dsn, "woocommerce")
    insert(
        warehouse_dsn,
        "raw_woocommerce.orders",
        [_order(1, "2026-03-01", billing_email="ada@mail.example")],
    )

    build(warehouse_dsn, AS_OF, enabled_sources=["woocommerce"])

    assert query(warehouse_dsn, "select r_score, f_score, m_score from customer_rfm") == [(5, 1, 2)]
    assert set(query(warehouse_dsn, "select method from history_rfm_cutoffs")) == {("fallback",)}


def test_a_shop_without_anything_yet_builds(warehouse_dsn: str) -> None:
    create_raw_tables(warehouse_dsn, *SOURCES)

    build(warehouse_dsn, AS_OF, enabled_sources=SOURCES, segments=SEGMENTS)

    assert query(warehouse_dsn, "select count(*) from customers") == [(0,)]


def test_the_project_parses_without_variables_and_without_deprecations(
    landed: str, tmp_path: Path
) -> None:
    run_dbt(
        "parse",
        ["--no-partial-parse", "--warn-error-options", '{"error": ["Deprecations"]}'],
        dsn=landed,
        variables={},
        progress=lambda line: None,
    )
