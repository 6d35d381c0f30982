"""What people do in the shop: orders, refunds, abandoned checkouts, accounts.

The purchase process is BG/NBD: everybody buys at a rate of their own (gamma over people) and stops
for good after an order with a probability of their own (beta over people); the season thins it.
On top lie the oddities of real shops, at the shares stated in `ODDITIES`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import date, timedelta
from random import Random
from typing import Any

from sandbox import catalogue
from sandbox.clock import local_date, local_instant
from sandbox.people import DAY, Consent, Parameters, Person, pick, stream

# Shares of orders. They are low enough to be a nuisance and high enough to occur in 200 customers.
ODDITIES = {
    "test": 0.004,
    "failed": 0.02,
    "pending": 0.006,
    "on_hold": 0.014,
    "cancelled": 0.03,
    "zero_value": 0.004,
    "trashed": 0.002,
    "refunded_later": 0.065,
    "email_other_case": 0.06,
    "email_with_spaces": 0.015,
    "email_invalid": 0.003,
    "total_not_a_number": 0.002,
    "date_unreadable": 0.002,
    "negative_quantity": 0.002,
    "duplicate_line": 0.02,
}
USD_WITHOUT_RATE = 0.06
_SEASON_MAX = 1.75


@dataclass(frozen=True, slots=True)
class Product:
    """One product; `price` is gross cents in EUR, `vat` is in percent."""

    id: int
    born: int
    name: str
    sku: str
    category_id: int
    category: str
    price: int
    vat: int
    draft: bool
    repriced: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Refund:
    """Money given back at `at`: cents of the order's currency, gross."""

    at: int
    key: str
    cents: int
    reason: str
    full: bool


@dataclass(slots=True)
class Line:
    """One order line in cents: `net` and `tax` after discount, `list_net`/`list_tax` before."""

    product: Product
    quantity: int
    list_net: int
    list_tax: int
    net: int
    tax: int


@dataclass(slots=True)
class Order:
    """One order with everything that will ever happen to it, each with its own instant."""

    born: int
    key: str
    person: Person
    as_guest: bool
    email: str
    currency: str
    exchange_rate: str | None
    payment_method: str
    created_via: str
    lines: list[Line]
    shipping: int
    shipping_tax: int
    opt_in: str | None
    statuses: list[tuple[int, str]]
    paid_at: int | None = None
    refunds: list[Refund] = field(default_factory=list)
    total_text: str | None = None
    date_text: str | None = None
    shared_account: int | None = None

    @property
    def total(self) -> int:
        """Gross cents, shipping included."""
        return sum(line.net + line.tax for line in self.lines) + self.shipping + self.shipping_tax


@dataclass(slots=True)
class Account:
    """A registered shop customer; `edits` are dated changes of fields."""

    born: int
    key: str
    person: Person | None
    email: str
    first_name: str
    last_name: str
    role: str
    edits: list[tuple[int, dict[str, Any]]]


def make_products(parameters: Parameters) -> list[Product]:
    """The catalogue: ids 11 upwards, all there from the opening, some repriced later."""
    rng = stream(parameters, "catalogue")
    products: list[Product] = []
    opening = local_instant(parameters.opened_on, 0)
    for number, (category, vat, (low, high), names) in enumerate(catalogue.CATEGORIES):
        for name in names.split("|"):
            price = rng.randrange(low * 2, high * 2 + 1) * 50 - 10
            if category == "Vouchers":
                price = int(name.rsplit(" ", 1)[1]) * 100
            changes = tuple(
                (opening + rng.randrange(100, 1700) * DAY, price + rng.choice((50, 100, 200)))
                for _ in range(rng.choice((0, 0, 1)))
            )
            identity = 11 + len(products)
            products.append(
                Product(
                    id=identity,
                    born=opening,
                    name=name,
                    sku=f"{category[:2].upper()}-{identity:03d}",
                    category_id=number + 15,
                    category=category,
                    price=price,
                    vat=vat,
                    draft=rng.random() < 0.03,
                    repriced=changes,
                )
            )
    return products


def season(day: date) -> float:
    """Relative demand on a day: Advent is strong, July, August and February are weak."""
    advent = 0.6 * math.exp(-(((day.timetuple().tm_yday - 338) / 20.0) ** 2))
    weak = {2: 0.88, 7: 0.85, 8: 0.8}.get(day.month, 1.0)
    weekend = {6: 1.08, 0: 1.05, 5: 0.92}.get(day.weekday(), 1.0)
    return (weak + advent) * weekend


def order_instants(rng: Random, person: Person, opened_on: date, horizon: int) -> list[int]:
    """When a person places the orders of their life, the first at arrival where that was one."""
    rate = rng.gammavariate(0.9, 1 / 55.0)
    drop_out = rng.betavariate(0.9, 2.2)
    when = float(person.arrived)
    if person.arrival in ("account", "newsletter", "lead"):
        if rng.random() > {"account": 0.62, "newsletter": 0.42, "lead": 0.4}[person.arrival]:
            return []
        when += rng.expovariate(1 / (45 * DAY))
        first = _at_a_plausible_hour(rng, local_date(int(when)))
        when = float(max(first, person.arrived + 600))
    instants: list[int] = []
    while when < horizon:
        instants.append(int(when))
        if rng.random() < drop_out or person.arrival == "marketplace":
            break
        when = _next_order(rng, when, max(rate, 1 / 900.0))
    return instants


def _next_order(rng: Random, when: float, rate: float) -> float:
    """Thinning of a Poisson process (Lewis and Shedler): propose at the peak, keep by season."""
    previous = int(when)
    while True:
        when += rng.expovariate(rate * _SEASON_MAX) * DAY
        day = local_date(int(when))
        if rng.random() < season(day) / _SEASON_MAX:
            return float(max(_at_a_plausible_hour(rng, day), previous + 61))


def _at_a_plausible_hour(rng: Random, day: date) -> int:
    """Evenings are busy; a few order around midnight, where UTC and local day differ."""
    hour = rng.choices(range(24), weights=_HOURS)[0]
    return local_instant(day, hour * 3600 + rng.randrange(3600))


_HOURS = (3, 2, 1, 1, 1, 1, 2, 4, 6, 7, 8, 8, 9, 8, 7, 7, 8, 9, 11, 13, 15, 14, 10, 6)


def make_orders(
    parameters: Parameters,
    person: Person,
    consent: Consent,
    products: list[Product],
    horizon: int,
) -> list[Order]:
    """All orders and abandoned checkouts of one person's life, in order of time."""
    rng = stream(parameters, person.number, "orders")
    instants = order_instants(rng, person, parameters.opened_on, horizon)
    guest = person.arrival == "marketplace" or (person.arrival == "order" and rng.random() < 0.3)
    orders: list[Order] = []
    for index, at in enumerate(instants):
        key = f"{person.number:07d}/{index:04d}"
        orders.append(_order(rng, parameters, person, consent, products, at, key, guest))
        if rng.random() < 0.06:
            late = at + 5 * DAY + rng.randrange(20 * DAY)
            orders.append(_draft(rng, person, products, late, key + "a", guest))
    if not instants and person.arrival in ("account", "lead") and rng.random() < 0.25:
        begun = person.arrived + 3600 + rng.randrange(40 * DAY)
        orders.append(_draft(rng, person, products, begun, f"{person.number:07d}/a", guest))
    return orders


def _order(
    rng: Random,
    parameters: Parameters,
    person: Person,
    consent: Consent,
    products: list[Product],
    at: int,
    key: str,
    guest: bool,
) -> Order:
    order = _basket(rng, person, products, at, key, guest)
    _opt_in(order, consent)
    _fate(rng, order)
    _malform(rng, order)
    return order


def _draft(
    rng: Random, person: Person, products: list[Product], at: int, key: str, guest: bool
) -> Order:
    """An abandoned checkout: WooCommerce's block checkout stores it as status checkout-draft."""
    order = _basket(rng, person, products, at, key, guest)
    order.created_via = "store-api"
    order.payment_method = ""
    order.statuses = [(at, "checkout-draft")]
    return order


def _basket(
    rng: Random, person: Person, products: list[Product], at: int, key: str, guest: bool
) -> Order:
    in_dollars = person.country == "US" and rng.random() < 0.9
    choices = rng.choices(products, k=rng.choice((1, 1, 1, 2, 2, 3, 4)))
    coupon = 10 if rng.random() < 0.08 else 0
    lines = [
        _line(
            product,
            1 if product.price > 15_000 else rng.choice((1, 1, 1, 2, 3)),
            at,
            in_dollars,
            coupon,
        )
        for product in dict.fromkeys(choices)
    ]
    if rng.random() < ODDITIES["duplicate_line"]:
        lines.append(lines[0])
    gross = sum(line.net + line.tax for line in lines)
    shipping = 0 if gross >= 5_000 else 412
    rate = None
    if in_dollars and rng.random() > USD_WITHOUT_RATE:
        rate = catalogue.USD_RATES[(at // (30 * DAY)) % len(catalogue.USD_RATES)]
    return Order(
        born=at,
        key=key,
        person=person,
        as_guest=guest or rng.random() < 0.02,
        email=_written_email(rng, person),
        currency="USD" if in_dollars else "EUR",
        exchange_rate=rate,
        payment_method=pick(rng, catalogue.PAYMENT_METHODS, 1)[0],
        created_via="marketplace" if person.arrival == "marketplace" else "checkout",
        lines=lines,
        shipping=shipping,
        shipping_tax=round(shipping * 0.19),
        opt_in=None,
        statuses=[],
    )


def _line(product: Product, quantity: int, at: int, in_dollars: bool, coupon: int) -> Line:
    price = next((new for since, new in reversed(product.repriced) if since <= at), product.price)
    gross = round(price * (1.1 if in_dollars else 1.0)) * quantity
    list_net = round(gross * 100 / (100 + product.vat))
    paid = round(gross * (100 - coupon) / 100)
    net = round(paid * 100 / (100 + product.vat))
    return Line(product, quantity, list_net, gross - list_net, net, paid - net)


def _written_email(rng: Random, person: Person) -> str:
    """The address as typed at the checkout."""
    email = person.email
    if person.second_email and rng.random() < 0.3:
        email = person.second_email
    level = rng.random()
    for name, written in (
        ("email_other_case", email.title()),
        ("email_with_spaces", f" {email} "),
        ("email_invalid", rng.choice((email.replace("@", "@@"), email.split("@")[0], "a b@c"))),
    ):
        level -= ODDITIES[name]
        if level < 0:
            return written
    return email


def _opt_in(order: Order, consent: Consent) -> None:
    """The checkout's newsletter box, as order meta: a ticked box alone is single opt-in."""
    if consent.home == "woocommerce" and abs(consent.given - order.born) < 30 * DAY:
        order.opt_in = "single" if consent.level != "none" else "no"


def _fate(rng: Random, order: Order) -> None:
    """Decide what becomes of an order: a list of (instant, status) and the refunds."""
    at = order.born
    level = rng.random()
    for name in ("test", "failed", "pending", "on_hold", "cancelled", "zero_value", "trashed"):
        level -= ODDITIES[name]
        if level < 0:
            _FATES[name](rng, order, at)
            return
    _fulfil(rng, order, at)


def _test(rng: Random, order: Order, at: int) -> None:
    order.payment_method = "test"
    if rng.random() < 0.5:
        order.email = f"checkout{rng.randrange(1000)}@example.test"
    _fulfil(rng, order, at, refundable=False)


def _failed(rng: Random, order: Order, at: int) -> None:
    order.statuses = [(at, "failed")]


def _pending(rng: Random, order: Order, at: int) -> None:
    order.statuses = [(at, "pending")]


def _on_hold(rng: Random, order: Order, at: int) -> None:
    """A bank transfer: four in five arrive within a week, the others are cancelled."""
    order.payment_method = "bacs"
    settled = at + 2 * DAY + rng.randrange(5 * DAY)
    if rng.random() < 0.8:
        _fulfil(rng, order, settled)
        order.statuses.insert(0, (at, "on-hold"))
    else:
        order.statuses = [(at, "on-hold"), (settled + 7 * DAY, "cancelled")]


def _cancelled(rng: Random, order: Order, at: int) -> None:
    order.statuses = [(at, "processing"), (at + 1800 + rng.randrange(3 * DAY), "cancelled")]


def _zero_value(rng: Random, order: Order, at: int) -> None:
    """A free sample: everything discounted, no shipping."""
    for line in order.lines:
        line.net = line.tax = 0
    order.shipping = order.shipping_tax = 0
    _fulfil(rng, order, at, refundable=False)


def _trashed(rng: Random, order: Order, at: int) -> None:
    """A mistake that somebody moved to the trash days later."""
    _fulfil(rng, order, at, refundable=False)
    order.statuses.append((at + 6 * DAY + rng.randrange(20 * DAY), "trash"))


_FATES = {
    "trashed": _trashed,
    "test": _test,
    "failed": _failed,
    "pending": _pending,
    "on_hold": _on_hold,
    "cancelled": _cancelled,
    "zero_value": _zero_value,
}


def _fulfil(rng: Random, order: Order, at: int, refundable: bool = True) -> None:
    sent = at + DAY + rng.randrange(4 * DAY)
    order.paid_at = at + 20 + rng.randrange(300)
    order.statuses = [(at, "processing"), (sent, "completed")]
    if refundable and rng.random() < ODDITIES["refunded_later"]:
        _give_back(rng, order, sent + 2 * DAY + rng.randrange(33 * DAY))


def _give_back(rng: Random, order: Order, at: int) -> None:
    """Half are refunded in full; of the partial ones one in five later gets the rest."""
    if rng.random() < 0.5:
        order.refunds = [Refund(at, order.key + "r1", order.total, "Returned", full=True)]
        order.statuses.append((at, "refunded"))
        return
    line = rng.choice(order.lines)
    part = min(order.total - 1, line.net + line.tax)
    if len(order.lines) == 1:
        part = max(1, order.total * rng.choice((10, 20, 50)) // 100)
    order.refunds = [Refund(at, order.key + "r1", part, "Damaged", full=False)]
    if rng.random() < 0.2:
        later = at + 3 * DAY + rng.randrange(30 * DAY)
        rest = Refund(later, order.key + "r2", order.total - part, "Returned after all", full=True)
        order.refunds.append(rest)
        order.statuses.append((later, "refunded"))


def _malform(rng: Random, order: Order) -> None:
    level = rng.random()
    for name in ("total_not_a_number", "date_unreadable", "negative_quantity"):
        level -= ODDITIES[name]
        if level < 0:
            break
    else:
        return
    if name == "total_not_a_number":
        order.total_text = rng.choice(("n/a", "12,50 EUR", "", "NaN"))
    elif name == "date_unreadable":
        order.date_text = rng.choice(("", "0000-00-00T00:00:00", "2025-13-45T99:00:00"))
    else:
        order.lines[0].quantity = -order.lines[0].quantity


def make_account(
    parameters: Parameters, person: Person, consent: Consent, orders: list[Order]
) -> Account | None:
    """The shop account of a person, where they have one: made with the first order or before."""
    rng = stream(parameters, person.number, "account")
    mine = [order for order in orders if not order.as_guest]
    born = person.arrived if person.arrival == "account" else mine[0].born - 60 if mine else None
    if born is None:
        return None
    edits: list[tuple[int, dict[str, Any]]] = []
    paid = [order.paid_at for order in mine if order.paid_at]
    if paid:
        edits.append((min(paid), {"is_paying_customer": True}))
    if rng.random() < 0.06:
        moved = born + rng.randrange(30, 900) * DAY
        change = {"last_name": rng.choice(catalogue.LAST_NAMES)}
        if rng.random() < 0.6:
            change = {"billing_phone": f"0{rng.randrange(150, 180)} {rng.randrange(10**6, 10**7)}"}
        edits.append((moved, change))
    edits += _account_opt_ins(consent, born)
    edits.sort(key=lambda edit: edit[0])
    return Account(
        born=born,
        key=f"{person.number:07d}",
        person=person,
        email=person.email,
        first_name=person.first_name,
        last_name=person.last_name,
        role="customer",
        edits=edits,
    )


def _account_opt_ins(consent: Consent, born: int) -> list[tuple[int, dict[str, Any]]]:
    """Customer meta `_newsletter_opt_in` (single, double, pending, unsubscribed) and its date."""
    if consent.home != "woocommerce" or consent.level == "none":
        return []
    given = max(born, consent.confirmed or consent.given)
    facts = [(given, consent.level)]
    if consent.withdrawn and consent.withdrawn > given:
        facts.append((consent.withdrawn, "unsubscribed"))
        if consent.given_again:
            facts.append((consent.given_again, consent.level))
    return [(at, {"newsletter_opt_in": level, "newsletter_opt_in_at": at}) for at, level in facts]


def shared_account(parameters: Parameters, number: int, at: int) -> tuple[Account, list[Person]]:
    """A firm whose thirteen colleagues order through one account: no one person behind it."""
    rng = stream(parameters, "shared", number)
    account = Account(
        born=at,
        key=f"shared{number:03d}",
        person=None,
        email=f"einkauf{number}@firma.example.net",
        first_name="Einkauf",
        last_name="Kantine",
        role="customer",
        edits=[(at + DAY, {"is_paying_customer": True})],
    )
    colleagues = [
        Person(
            number=9_000_000 + number * 100 + index,
            arrived=at + DAY + rng.randrange(200 * DAY),
            arrival="order",
            first_name=rng.choice(catalogue.FIRST_NAMES),
            last_name=rng.choice(catalogue.LAST_NAMES),
            email=f"kantine{number}.{index}@firma.example.net",
            second_email=None,
            country="DE",
            language="de",
            phone="",
            birthday=None,
        )
        for index in range(13)
    ]
    return account, colleagues


def shared_orders(
    parameters: Parameters, number: int, colleagues: list[Person], products: list[Product]
) -> list[Order]:
    """One order of each colleague of a shared account."""
    rng = stream(parameters, "shared orders", number)
    orders = []
    for person in colleagues:
        order = _basket(rng, person, products, person.arrived, f"{person.number}/0", False)
        order.as_guest = False
        order.email = person.email
        order.shared_account = number
        _fulfil(rng, order, person.arrived)
        orders.append(order)
    return orders


def opening_day(until: date) -> date:
    """The default opening: the first of the month, 30 months before `until`."""
    months = until.year * 12 + until.month - 1 - 30
    return date(months // 12, months % 12 + 1, 1)


def days(first: date, last: date) -> list[date]:
    """Every day from `first` to `last`, both included."""
    return [first + timedelta(days=offset) for offset in range((last - first).days + 1)]
