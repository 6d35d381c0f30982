"""A build of what has changed gives what a full build gives, night after night.

A small shop lives through some nights: orders come, change, move to another buyer and disappear;
people change their addresses, merge and part; refunds and events come with old and with future
dates. Colours take turns as in real nights. Each incremental build is compared, table by table,
with a full build of the same night in another schema.
"""

from __future__ import annotations

import os
import random
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from kundenkreis.connections import Connection
from kundenkreis.privacy.erasure import Errand, erase
from kundenkreis.settings import ModelSettings, RetentionConfig, Settings
from kundenkreis.warehouse import builds, publish
from tests.integration.dbt_support import RAW_TABLES, build_models, create_raw_tables, insert

pytestmark = pytest.mark.integration

FIRST_NIGHT = date(2026, 3, 1)
SOURCES = ["files", "hubspot", "woocommerce"]
PERSONS = 40
HOLDOUT_DAYS = 90  # as in dbt_project/macros/value.sql
NOON = time(12)
VARIABLES: dict[str, Any] = {
    "enabled_sources": SOURCES,
    "exchange_rates": {"USD": 0.9},
    "identity_max_addresses": 4,
    "identity_phone_edges": True,
}

# What says what changed differs by nature; everything else has to be the same.
_ABOUT_THE_BUILD = (
    "int_changed_orders",
    "int_changed_records",
    "int_affected_records",
    "int_identity_components",
    "int_recomputed_orders",
    "int_changed_products",
)
# Which order days were recent when a buyer's row of int_value_inputs was built. What follows from
# them on the as-of day is compared in int_value_statistics.
_OF_THE_DAY_IT_WAS_BUILT = "recent_order_dates"
# Models with the incremental strategy `replace_differing`.
_WRITE_ONLY_WHAT_DIFFERS = ("int_customer_identities", "int_lifecycle_schedule", "int_order_days")
_PRIMARY_KEYS = {
    "raw_files.customers": ("source_name", "customer_key"),
    "raw_files.orders": ("source_name", "order_key"),
    "raw_files.order_lines": ("source_name", "order_key", "line_number"),
    "raw_files.consent_events": ("source_name", "email", "occurred_at"),
    "raw_woocommerce.customers": ("id",),
    "raw_woocommerce.orders": ("id",),
    "raw_woocommerce.orders__line_items": ("_dlt_parent_id", "_dlt_list_idx"),
    "raw_woocommerce.refunds": ("id",),
    "raw_woocommerce.products": ("id",),
    "raw_hubspot.contacts": ("id",),
    "raw_hubspot.contacts__property_history": ("_dlt_parent_id", "_dlt_list_idx"),
    "raw_hubspot.deals": ("id",),
}
_LOAD_COLUMNS = ("loaded_at", "_dlt_load_id")

Row = dict[str, Any]
Key = tuple[Any, ...]


class _Shop:
    """The raw rows as the vendors hold them, changed at random from one seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._next = 100
        self._rows: dict[str, dict[Key, Row]] = {table: {} for table in _PRIMARY_KEYS}
        self._touched: set[tuple[str, Key]] = set()
        self.today = FIRST_NIGHT

    def live(self, changes: int) -> None:
        """Some random things happen."""
        happenings = [
            self._order,
            self._order,
            self._order,
            self._change_order,
            self._change_order,
            self._move_order,
            self._refund,
            self._account,
            self._change_account,
            self._contact,
            self._change_contact,
            self._till_customer,
            self._till_order,
            self._till_order,
            self._till_credit_note,
            self._product,
            self._till_order_disappears,
            self._till_receipt,
            self._consent,
        ]
        for _ in range(changes):
            self._random.choice(happenings)()

    def load(self, dsn: str) -> None:
        """Bring what was touched since the last load into the raw tables, as one load."""
        now = datetime.now(UTC)
        with psycopg.connect(dsn) as connection:
            for table, key in self._touched:
                where = " and ".join(f"{column} = %s" for column in _PRIMARY_KEYS[table])
                connection.execute(f"delete from {table} where {where}".encode(), key)
        for table in _PRIMARY_KEYS:
            rows = [
                {**row, **{c: _load(c, now) for c in _LOAD_COLUMNS if c in RAW_TABLES[table]}}
                for key, row in self._rows[table].items()
                if (table, key) in self._touched
            ]
            insert(dsn, table, rows)
        self._touched.clear()

    # ----------------------------------------------------------------- what happens

    def _put(self, table: str, **row: Any) -> None:
        key = tuple(row[column] for column in _PRIMARY_KEYS[table])
        self._rows[table][key] = row
        self._touched.add((table, key))

    def _any(self, table: str) -> Row | None:
        rows = self._rows[table]
        return dict(rows[self._random.choice(sorted(rows))]) if rows else None

    def _number(self) -> int:
        self._next += 1
        return self._next

    def _address(self) -> str:
        return f"p{self._random.randrange(PERSONS)}@mail.example"

    def _moment(self, most_days_ago: int = 500) -> datetime:
        """Mostly of the past, some within the coming nights, some long after."""
        days = self._random.choice(
            [self._random.randint(0, most_days_ago), self._random.randint(0, 3), -1, -2, -3, -40]
        )
        moment = datetime.combine(self.today, datetime.min.time(), UTC) - timedelta(days=days)
        return moment + timedelta(minutes=self._random.randrange(1440))

    def _telephone(self) -> str | None:
        return self._random.choice([None, None, f"+4930{self._random.randrange(PERSONS // 3)}"])

    def _surname(self) -> str | None:
        return self._random.choice(["Meier", "meier ", "Schulz", None])

    def _order(self) -> None:
        account = self._any("raw_woocommerce.customers")
        identity = self._number()
        self._put(
            "raw_woocommerce.orders",
            id=identity,
            status=self._random.choice(["completed"] * 4 + ["processing", "failed", "cancelled"]),
            currency=self._random.choice(["EUR", "EUR", "USD", "CHF"]),
            date_created_gmt=self._moment(),
            date_completed_gmt=self._random.choice([self._moment(), None]),
            total=self._random.choice(["10.00", "20.00", "0.00"]),
            discount_total=self._random.choice(["1.00", "0.00", None]),
            customer_id=account["id"] if account and self._random.random() < 0.5 else 0,
            billing_email=self._random.choice([self._address(), self._address(), None]),
            billing_last_name=self._surname(),
            phone_e164=self._telephone(),
            newsletter_opt_in=self._random.choice(["double", None]),
            _dlt_id=f"o{identity}",
        )
        self._line(identity)

    def _line(self, order: int) -> None:
        self._put(
            "raw_woocommerce.orders__line_items",
            product_id=self._random.randrange(3),
            name="thing",
            quantity=1,
            total="8.00",
            _dlt_parent_id=f"o{order}",
            _dlt_list_idx=0,
        )

    def _change_order(self) -> None:
        if order := self._any("raw_woocommerce.orders"):
            order["status"] = self._random.choice(["completed", "cancelled", "trash"])
            order["total"] = self._random.choice(["10.00", "30.00"])
            order["currency"] = self._random.choice(["EUR", "CHF"])
            self._put("raw_woocommerce.orders", **order)

    def _move_order(self) -> None:
        """A guest opens an account, or support moves an order to another one."""
        order, account = self._any("raw_woocommerce.orders"), self._any("raw_woocommerce.customers")
        if order and account:
            order["customer_id"] = self._random.choice([account["id"], account["id"], 0, 7])
            order["billing_email"] = self._random.choice([account["email"], order["billing_email"]])
            self._put("raw_woocommerce.orders", **order)

    def _refund(self) -> None:
        if order := self._any("raw_woocommerce.orders"):
            self._put(
                "raw_woocommerce.refunds",
                id=self._number(),
                parent_id=order["id"],
                date_created_gmt=self._moment(10),
                amount=self._random.choice(["5.00", "20.00"]),
            )

    def _account(self) -> None:
        self._put(
            "raw_woocommerce.customers",
            id=self._number(),
            email=self._address(),
            last_name=self._surname(),
            phone_e164=self._telephone(),
            date_created_gmt=self._moment(),
        )

    def _change_account(self) -> None:
        if account := self._any("raw_woocommerce.customers"):
            account["email"] = self._random.choice([self._address(), "x@marketplace.amazon.de"])
            account["phone_e164"] = self._telephone()
            self._put("raw_woocommerce.customers", **account)

    def _contact(self) -> None:
        account = self._any("raw_woocommerce.customers")
        linked = account is not None and self._random.random() < 0.4
        identity = f"c{self._number()}"
        self._put(
            "raw_hubspot.contacts",
            id=identity,
            email=self._random.choice([self._address(), None]),
            lastname=self._surname(),
            phone_e164=self._telephone(),
            linked_source="woocommerce" if linked else None,
            linked_customer_key=str(account["id"]) if account and linked else None,
            createdate=self._moment(),
            lastmodifieddate=self._moment(),
            hs_lead_status=self._random.choice(["OPEN", None]),
            archived=False,
            _dlt_id=identity,
        )

    def _change_contact(self) -> None:
        if contact := self._any("raw_hubspot.contacts"):
            contact["email"] = self._random.choice([self._address(), contact["email"]])
            contact["archived"] = self._random.random() < 0.2
            contact["linked_source"] = contact["linked_customer_key"] = None
            self._put("raw_hubspot.contacts", **contact)
            self._put(
                "raw_hubspot.deals",
                id=contact["id"],
                contact_id=contact["id"],
                createdate=self._moment(),
            )

    def _till_customer(self) -> None:
        self._put(
            "raw_files.customers",
            source_name="till",
            customer_key=f"k{self._random.randrange(PERSONS)}",
            email=self._random.choice([self._address(), None]),
            last_name=self._surname(),
            phone_e164=self._telephone(),
            linked_source=self._random.choice(["woocommerce", None, None]),
            linked_customer_key=str(self._random.randrange(100, 100 + PERSONS)),
            created_at=self._random.choice([self._moment(), None]),
        )

    def _till_order(self) -> None:
        self._put(
            "raw_files.orders",
            source_name="till",
            order_key=f"t{self._random.randrange(PERSONS)}",
            customer_key=self._random.choice([f"k{self._random.randrange(PERSONS)}", None]),
            email=self._random.choice([self._address(), None]),
            ordered_at=self._moment(),
            status="completed",
            currency=self._random.choice(["EUR", "USD"]),
            total_amount="15.00",
            delivered_at=self._random.choice([self._moment(), None]),
        )

    # ----------------------------------------------------------------- what chance seldom brings

    def leave_the_holdout(self) -> None:
        """Nothing happens to three, but order days leave the holdout of the value models.

        One of them has another day that stays within it, and of one two days leave it.
        """
        for person, days in (
            ("quiet", (HOLDOUT_DAYS - 1,)),
            ("steady", (HOLDOUT_DAYS - 1, 20)),
            ("former", (HOLDOUT_DAYS - 1, HOLDOUT_DAYS - 2)),
        ):
            for before in days:
                ordered = FIRST_NIGHT - timedelta(days=before)
                self._put(
                    "raw_files.order_lines",
                    source_name="receipts",
                    order_key=f"{person}{before}",
                    line_number=1,
                    customer_key=None,
                    email=f"{person}@mail.example",
                    ordered_at=datetime.combine(ordered, NOON, UTC),
                    status="completed",
                    currency="EUR",
                    line_amount="4.00",
                )

    def connect_for_one_night(self, night: int) -> None:
        """Two are connected by a record that the colour built before and after never sees.

        One of them has the other's id since, and then gets another record.
        """
        if night == 0:
            self._desk_customer("younger", "younger@mail.example", days=10)
            self._desk_customer("older", "older@mail.example", days=20)
        if night == 1:
            self._desk_customer("between", "younger@mail.example", days=5, linked="older")
        if night == 2:
            key = ("desk", "between")
            self._rows["raw_files.customers"].pop(key, None)
            self._touched.add(("raw_files.customers", key))
            self._desk_customer("new", "younger@mail.example", days=0)

    def _desk_customer(self, key: str, email: str, days: int, linked: str | None = None) -> None:
        self._put(
            "raw_files.customers",
            source_name="desk",
            customer_key=key,
            email=email,
            last_name=None,
            phone_e164=None,
            linked_source="desk" if linked else None,
            linked_customer_key=linked,
            created_at=datetime.combine(FIRST_NIGHT - timedelta(days=days), NOON, UTC),
        )

    # ----------------------------------------------------------------- and more that happens

    def _till_credit_note(self) -> None:
        self._put(
            "raw_files.orders",
            source_name="till",
            order_key=f"n{self._random.randrange(PERSONS // 3)}",
            ordered_at=self._moment(10),
            status=self._random.choice(["completed", "completed", "cancelled"]),
            currency="EUR",
            total_amount=self._random.choice(["-5.00", "-15.00", "5.00"]),
            refunds_order_key=f"t{self._random.randrange(PERSONS)}",
        )

    def _product(self) -> None:
        self._put(
            "raw_woocommerce.products",
            id=self._random.randrange(3),
            name="thing",
            category_name=self._random.choice(["cups", "plates", None]),
        )

    def _till_order_disappears(self) -> None:
        for table in ("raw_files.orders", "raw_files.customers"):
            if self._rows[table]:
                key = self._random.choice(sorted(self._rows[table]))
                del self._rows[table][key]
                self._touched.add((table, key))

    def _till_receipt(self) -> None:
        key, moment = f"r{self._random.randrange(PERSONS)}", self._moment()
        for number in (1, 2):
            self._put(
                "raw_files.order_lines",
                source_name="receipts",
                order_key=key,
                line_number=number,
                customer_key=None,
                email=self._address(),
                ordered_at=moment,
                status="completed",
                currency="EUR",
                line_amount="4.00",
            )

    def _consent(self) -> None:
        self._put(
            "raw_files.consent_events",
            source_name="desk",
            email=self._address(),
            evidence=self._random.choice(["double", "withdrawn", "profiling_objection"]),
            occurred_at=self._moment(),
        )


def _load(column: str, now: datetime) -> Any:
    return now if column == "loaded_at" else str(now.timestamp())


def _build(dsn: str, as_of: date, schema: str, **stands_upon: Any) -> None:
    variables = {**VARIABLES, "marts_schema": schema, **stands_upon}
    build_models(dsn, as_of.isoformat(), "tag:transform", **variables)


def _tables(dsn: str, marts_schema: str) -> dict[str, list[str]]:
    """The rows of every table of a colour, as sorted text, by the model's name."""
    schemas = (marts_schema, publish.intermediate_schema(marts_schema))
    with psycopg.connect(dsn) as connection:
        names = connection.execute(
            "select table_schema, table_name from information_schema.tables"
            " where table_schema = any(%s) and not table_name = any(%s)"
            # Each build makes the views on staging anew, which takes other colours' views along.
            " and not (table_type = 'VIEW' and table_name like 'int\\_%%\\_unioned')"
            " and not table_name like 'int\\_customers\\_with\\_changed\\_%%'",
            (list(schemas), list(_ABOUT_THE_BUILD)),
        ).fetchall()
        rows = "select (to_jsonb(row) - %s)::text from {}.{} as row order by 1"
        return {
            table: [
                text
                for (text,) in connection.execute(
                    rows.format(schema, table).encode(), (_OF_THE_DAY_IT_WAS_BUILT,)
                )
            ]
            for schema, table in names
        }


def _places(dsn: str, marts_schema: str) -> dict[str, dict[str, str]]:
    """Where each row of the models that write only what differs is stored, by model and row."""
    schema = publish.intermediate_schema(marts_schema)
    stored = "select to_jsonb(row)::text, row.ctid::text from {}.{} as row"
    with psycopg.connect(dsn) as connection:
        return {
            table: dict(connection.execute(stored.format(schema, table).encode()).fetchall())
            for table in _WRITE_ONLY_WHAT_DIFFERS
        }


def _stayed(before: dict[str, dict[str, str]], after: dict[str, dict[str, str]]) -> bool:
    """Whether every row that is as it was also lies where it was."""
    return all(
        before[table][row] == place
        for table, rows in after.items()
        for row, place in rows.items()
        if row in before[table]
    )


def live_through_nights(dsn: str, seed: int, nights: int) -> None:
    """Build night after night, compare each incremental one with a full one, and publish."""
    create_raw_tables(dsn, *SOURCES)
    shop = _Shop(seed)
    shop.live(400)
    shop.leave_the_holdout()
    incremental = 0
    for night in range(nights):
        if night == 2:
            _erase_somebody(dsn)
        as_of = shop.today = FIRST_NIGHT + timedelta(days=night)
        shop.live(12)
        shop.connect_for_one_night(night)
        shop.load(dsn)
        run_id = f"night {night}"
        schema = publish.begin_build(dsn, run_id, as_of, is_backfill=False)
        build = builds.begin(
            dsn,
            schema,
            as_of,
            builds.fingerprint(VARIABLES),
            SOURCES,
            largest_changed_share=1,  # in so small a shop nearly everything changes every night
        )
        assert (build.full_because is None) == (night >= 2), build.full_because
        places = _places(dsn, schema) if build.built_as_of_date else {}
        _build(dsn, as_of, schema, **build.variables())
        if build.built_as_of_date:
            incremental += 1
            assert _stayed(places, _places(dsn, schema))
            _build(dsn, as_of, publish.BACKFILL)
            _compare(_tables(dsn, schema), _tables(dsn, publish.BACKFILL), f"seed {seed}, {run_id}")
        builds.complete(dsn, build, run_id)
        publish.publish(dsn, run_id, as_of, schema, {})
        publish.end_build(dsn, run_id)
    assert incremental == nights - 2


def _erase_somebody(dsn: str) -> None:
    """Two buyers are erased from both colours: what is left has to be taken up from there."""
    errand = Errand(
        dsn,
        Settings(
            folder=Path(),
            model=ModelSettings(),
            sources={},
            segments={},
            destinations={},
            retention=RetentionConfig(),
        ),
        lambda name: Connection(name, "https", "", password="k" * 32),
        lambda line: None,
    )
    with psycopg.connect(dsn) as connection:
        buyers = connection.execute(
            "select orders.customer_id from marts.orders as orders "
            "inner join intermediate_green.int_customer_identities as identities "
            "using (customer_id) group by 1 "
            "having count(distinct orders.order_id) > 1 and not bool_or(identities.is_ambiguous) "
            "order by count(distinct identities.source) desc, 1 limit 2"
        ).fetchall()
    assert len(buyers) == 2
    for (customer_id,) in buyers:
        assert erase(errand, customer_id, "anna").state == "done"
    with psycopg.connect(dsn) as connection:
        kept = connection.execute("select count(*) from privacy.anonymised_orders").fetchone()
    assert kept is not None
    assert kept[0] > 2


def _compare(incremental: dict[str, list[str]], full: dict[str, list[str]], which: str) -> None:
    assert set(incremental) == set(full)
    assert len(full) > 20
    differences = {
        table: (
            sorted(set(incremental[table]) - set(rows))[:3],
            sorted(set(rows) - set(incremental[table]))[:3],
        )
        for table, rows in full.items()
        if incremental[table] != rows
    }
    assert "int_value_statistics" in full
    assert differences == {}, f"{which}: by table, only in the incremental build, only in the full"


def test_a_build_of_what_changed_equals_a_full_build(warehouse_dsn: str) -> None:
    # More nights and other seeds by hand: each night costs two builds.
    nights = int(os.environ.get("KUNDENKREIS_TEST_NIGHTS", "3"))
    seed = int(os.environ.get("KUNDENKREIS_TEST_SEED", "20260301"))
    live_through_nights(warehouse_dsn, seed, nights)
