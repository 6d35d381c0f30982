"""Shops that trade day after day from one seed: seasons, growth, quiet days, returns, consent.

Their rows go into the raw tables as the sources land them. Everything is right with these shops;
whatever a gate says against one of them is a false alarm.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import psycopg

from tests.integration.dbt_support import RAW_TABLES, Row

_BERLIN = ZoneInfo("Europe/Berlin")
_KEYS = {
    "raw_woocommerce.customers": "id",
    "raw_woocommerce.orders": "id",
    "raw_woocommerce.orders__line_items": "_dlt_parent_id",
    "raw_woocommerce.refunds": "id",
    "raw_hubspot.contacts": "id",
    "raw_hubspot.deals": "id",
    "raw_files.orders": "order_key",
    "raw_files.consent_events": "email",
    "raw_woocommerce.products": "id",
}
# Rows of one key stand beside each other; of the others the newest counts.
_ONLY_ADDED = ("raw_woocommerce.orders__line_items", "raw_files.consent_events")


@dataclass(frozen=True)
class Trade:
    """How a shop trades.

    Attributes:
        orders: of a usual day, as a function of the day.
        leads: contacts of a usual day.
        till: receipts of the till for each of these orders.
        imports: days on which so many contacts are imported at once.
        sales: days with this many times the usual orders, at lower prices.
    """

    seed: int
    first_night: date
    orders: Callable[[date], float]
    leads: float = 1.0
    till: float = 0.2
    imports: tuple[tuple[date, int], ...] = ()
    sales: tuple[tuple[date, float], ...] = ()
    history_days: int = 14


class Shop:
    """The rows of one shop, day by day."""

    def __init__(self, trade: Trade) -> None:
        self.trade = trade
        self._random = random.Random(trade.seed)
        self._number = 1000
        self._accounts: list[Row] = []
        self._orders: list[Row] = []
        self._addresses: list[str] = []
        self._rows: dict[str, dict[str, list[Row]]] = {}
        self._states: dict[str, tuple[str, str | None, datetime]] = {}

    def open(self, dsn: str) -> None:
        """Trade for the days before the first night, and land them."""
        for number in range(1, 9):
            self._put("raw_woocommerce.products", id=number, name=f"Tea {number}", sku=f"T{number}")
        day = self.trade.first_night - timedelta(days=self.trade.history_days)
        while day < self.trade.first_night:
            self._live(day)
            day += timedelta(days=1)
        self._land(dsn, "before", self.trade.first_night - timedelta(days=1))

    def live(self, dsn: str, day: date, run_id: str) -> None:
        """Trade for a day, and land what came and changed."""
        self._live(day)
        self._land(dsn, run_id, day)

    # ------------------------------------------------------------------ landing

    def _put(self, table: str, **row: object) -> Row:
        key = str(row[_KEYS[table]])
        rows = self._rows.setdefault(table, {})
        rows[key] = [*rows.get(key, []), row] if table in _ONLY_ADDED else [row]
        return row

    def _land(self, dsn: str, run_id: str, day: date) -> None:
        read_at = datetime.combine(day + timedelta(days=1), datetime.min.time(), _BERLIN)
        with psycopg.connect(dsn) as connection, connection.cursor() as cursor:
            for table, changed in self._rows.items():
                if table not in _ONLY_ADDED:
                    cursor.execute(
                        f"delete from {table} where {_KEYS[table]}::text = any(%s)".encode(),
                        (list(changed),),
                    )
                columns = list(RAW_TABLES[table])
                with cursor.copy(f"copy {table} ({', '.join(columns)}) from stdin") as copy:
                    for row in itertools.chain.from_iterable(changed.values()):
                        copy.write_row([row.get(column) for column in columns])
            cursor.executemany(
                "insert into activation.subscriber_states (destination, address, state, evidence,"
                " state_changed_at, vendor_id, read_at, run_id)"
                " values ('listmonk', %s, %s, %s, %s, md5(%s), %s, %s)"
                " on conflict (destination, address) do update set state = excluded.state,"
                " evidence = excluded.evidence, state_changed_at = excluded.state_changed_at",
                [
                    (address, state, evidence, moment, address, read_at, run_id)
                    for address, (state, evidence, moment) in self._states.items()
                ],
            )
            cursor.execute(
                "update activation.subscriber_states set read_at = %s, run_id = %s",
                (read_at, run_id),
            )
        self._rows.clear()
        self._states.clear()

    # ------------------------------------------------------------------ what happens on a day

    def _live(self, day: date) -> None:
        self._change_orders(day)
        sale = dict(self.trade.sales).get(day, 1.0)
        for _ in range(self._poisson(self.trade.orders(day) * sale)):
            self._order(day, price=0.7 if sale > 1 else 1.0)
        for _ in range(self._poisson(self.trade.orders(day) * self.trade.till)):
            self._till_order(day)
        imported = dict(self.trade.imports).get(day, 0)
        for _ in range(self._poisson(self.trade.leads) + imported):
            self._contact(day)
        self._consent(day)

    def _order(self, day: date, price: float) -> None:
        moment, number = self._moment(day), self._next()
        account = self._account(day)
        address = str(account["email"]) if account else self._address()
        chance = self._random.random()
        status = (
            "completed" if chance < 0.4 else "processing" if chance < 0.9
            else self._random.choice(["cancelled", "failed", "pending", "on-hold"])
        )  # fmt: skip
        # A rate for dollars is configured; orders in francs go to quarantine.
        currency = self._random.choices(["EUR", "USD", "CHF"], [970, 25, 5])[0]
        order = self._put(
            "raw_woocommerce.orders",
            id=number,
            number=str(number),
            status=status,
            currency=currency,
            date_created_gmt=moment,
            date_modified_gmt=moment,
            total=round(self._random.lognormvariate(3.6, 0.6) * price, 2),
            customer_id=account["id"] if account else 0,
            billing_email=address,
            billing_country="DE",
            payment_method="paypal",
            newsletter_opt_in=self._random.choice(["double", None, None]),
            _dlt_id=f"o{number}",
            _dlt_load_id=day.isoformat(),
        )
        self._orders.append(order)
        for index in range(self._random.randint(1, 2)):
            self._put(
                "raw_woocommerce.orders__line_items",
                id=self._next(),
                product_id=self._random.randint(1, 8),
                name="Tea",
                quantity=1,
                total=order["total"],
                _dlt_parent_id=order["_dlt_id"],
                _dlt_list_idx=index,
            )

    def _account(self, day: date) -> Row | None:
        """The account an order is made with; None: a guest. Some accounts are new."""
        chance = self._random.random()
        if self._accounts and chance < 0.55:
            # Some buy often, most seldom.
            return self._accounts[int(len(self._accounts) * self._random.random() ** 2)]
        if chance < 0.7:
            return None
        moment = self._moment(day, latest_hour=6)
        account = self._put(
            "raw_woocommerce.customers",
            id=self._next(),
            email=self._address(new=True),
            first_name="Jürgen",
            last_name="Müller",
            role="customer",
            billing_country="DE",
            date_created_gmt=moment,
            date_modified_gmt=moment,
            _dlt_load_id=day.isoformat(),
        )
        self._accounts.append(account)
        return account

    def _change_orders(self, day: date) -> None:
        """Orders of the last days are sent; some are given back later."""
        recent = [o for o in self._orders[-300:] if self._age(o, day) <= 40]
        for order in recent:
            if order["status"] == "processing" and self._random.random() < 0.5:
                order["status"] = "completed"
                order["date_completed_gmt"] = order["date_modified_gmt"] = self._moment(day)
                lines = {**order, "_dlt_load_id": day.isoformat()}
                self._put("raw_woocommerce.orders", **lines)
            elif order["status"] == "completed" and self._random.random() < 0.003:
                order["status"] = "refunded"
                amount = float(str(order["total"])) * self._random.choice([1.0, 0.5])
                self._put(
                    "raw_woocommerce.refunds",
                    id=self._next(),
                    parent_id=order["id"],
                    date_created_gmt=self._moment(day),
                    amount=round(amount, 2),
                    _dlt_load_id=day.isoformat(),
                )

    def _till_order(self, day: date) -> None:
        known = self._random.random() < 0.4
        number = self._next()
        self._put(
            "raw_files.orders",
            source_name="till",
            order_key=f"t{number}",
            customer_key=f"k{self._random.randrange(60)}" if known else None,
            ordered_at=self._moment(day, latest_hour=19),
            status="completed",
            currency="EUR",
            total_amount=round(self._random.lognormvariate(2.5, 0.5), 2),
            loaded_at=self._moment(day),
        )

    def _contact(self, day: date) -> None:
        moment, number = self._moment(day), self._next()
        self._put(
            "raw_hubspot.contacts",
            id=f"c{number}",
            createdate=moment,
            lastmodifieddate=moment,
            email=self._address(new=self._random.random() < 0.8),
            firstname="Ana",
            lastname="Núñez",
            lifecyclestage="lead",
            hs_lead_status=self._random.choice(["OPEN", None]),
            hs_email_optout=False,
            archived=False,
            date_of_birth=self._random.choice([None, "1980-05-17", "1999-12-31"]),
            _dlt_id=f"c{number}",
            _dlt_load_id=day.isoformat(),
        )

    def _consent(self, day: date) -> None:
        """New addresses are confirmed, some people leave, a mailbox closes, one objects."""
        for address in self._addresses[-30:]:
            if self._random.random() < 0.06:
                self._states[address] = ("subscribed", "double", self._moment(day))
        for address in self._random.sample(self._addresses, min(2, len(self._addresses))):
            if self._random.random() < 0.3:
                state = self._random.choice(["unsubscribed", "unsubscribed", "bounced"])
                self._states[address] = (state, None, self._moment(day))
        if self._addresses and self._random.random() < 0.1:
            self._put(
                "raw_files.consent_events",
                source_name="desk",
                email=self._random.choice(self._addresses),
                channel="email",
                evidence=self._random.choice(["withdrawn", "profiling_objection"]),
                occurred_at=self._moment(day),
            )

    # ------------------------------------------------------------------ chance

    def _next(self) -> int:
        self._number += 1
        return self._number

    def _address(self, new: bool = False) -> str:
        if not new and self._addresses and self._random.random() < 0.6:
            return self._random.choice(self._addresses)
        address = f"p{self._next()}@mail.example"
        self._addresses.append(address)
        return address

    def _moment(self, day: date, latest_hour: int = 23) -> datetime:
        """Of a business day; most of them in the afternoon and evening."""
        hour = min(latest_hour, max(0, int(self._random.gauss(15, 4))))
        minute, second = self._random.randrange(60), self._random.randrange(60)
        local = datetime(day.year, day.month, day.day, hour, minute, second, tzinfo=_BERLIN)
        return local.astimezone(UTC)

    def _poisson(self, mean: float) -> int:
        # Arrivals within one unit of time.
        count, passed = 0, self._random.expovariate(1.0)
        while passed < mean:
            count += 1
            passed += self._random.expovariate(1.0)
        return count

    @staticmethod
    def _age(order: Row, day: date) -> int:
        moment = order["date_created_gmt"]
        assert isinstance(moment, datetime)
        return (day - moment.date()).days


def nights(trade: Trade, count: int) -> Iterator[date]:
    """The dates of the nights."""
    for number in range(count):
        yield trade.first_night + timedelta(days=number)
