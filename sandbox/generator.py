"""The world: everything that happens in the shop, the CRM and the email tools up to a day.

`build_world` generates whole lives up to a fixed horizon and then looks at them through a window
that ends with day `until`. What lies in the window depends on `Parameters` alone, so moving the
window's end forward only adds events (a refund, an edit, a new order); the earlier ones, and the
ids handed out for them in order of time, stay as they were.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date, timedelta
from math import exp
from typing import TypeVar

from sandbox.clock import end_of_day, local_instant
from sandbox.crm import Contact, Deal, make_contact, make_deals
from sandbox.people import (
    DAY,
    Parameters,
    Person,
    ToolEvent,
    make_consent,
    make_person,
    stream,
)
from sandbox.shop import (
    Account,
    Order,
    Product,
    Refund,
    make_account,
    make_orders,
    make_products,
    season,
    shared_account,
    shared_orders,
)
from sandbox.tool_history import make_tool_events

_Record = TypeVar("_Record", Order, Account, Contact, Deal)

HORIZON_DAYS = 5 * 365
_NOMINAL_DAYS = 922  # about 30 months: `customers` are known after that long
_FIRST_POST_ID = 5001
_FIRST_USER_ID = 3
_FIRST_CONTACT_ID = 30100001
_FIRST_DEAL_ID = 70500001


@dataclass(slots=True)
class World:
    """The events up to the end of day `until`, numbered in order of time.

    `cutoff` is the first instant not included. The id maps hold one entry per visible record.
    """

    parameters: Parameters
    until: date
    cutoff: int
    products: list[Product]
    orders: list[Order]
    order_ids: dict[str, int]
    refunds: list[tuple[int, Order, Refund]]
    refund_ids: dict[str, int]
    accounts: list[Account]
    account_ids: dict[str, int]
    contacts: list[Contact]
    contact_ids: dict[str, str]
    deals: list[Deal]
    deal_ids: dict[str, str]
    tool_events: list[ToolEvent]
    people: int


@dataclass(slots=True)
class _Everything:
    orders: list[Order]
    accounts: list[Account]
    contacts: list[Contact]
    deals: list[Deal]
    tool_events: list[ToolEvent]


def build_world(parameters: Parameters, until: date) -> World:
    """Generate the world up to and including `until`.

    Raises:
        ValueError: `until` lies before the opening or behind the horizon (5 years).
    """
    last = parameters.opened_on + timedelta(days=HORIZON_DAYS)
    if not parameters.opened_on <= until < last:
        raise ValueError(
            f"until {until} must lie between the opening {parameters.opened_on} and {last}"
        )
    horizon = local_instant(last, 0)
    products = make_products(parameters)
    everything = _Everything([], [], [], [], [])
    people = 0
    for person in _arrivals(parameters, until):
        _live(parameters, person, products, horizon, everything)
        people += 1
    _add_shared_accounts(parameters, products, everything)
    return _window(parameters, until, products, everything, people)


def _arrivals(parameters: Parameters, until: date) -> Iterable[Person]:
    """New people day by day: a Poisson number each day, following season and slow growth."""
    number = 0
    rate = parameters.customers / (_NOMINAL_DAYS * 1.03)
    for offset in range((until - parameters.opened_on).days + 1):
        day = parameters.opened_on + timedelta(days=offset)
        rng = stream(parameters, "arrivals", offset)
        growth = 0.85 + 0.3 * offset / _NOMINAL_DAYS
        for at in sorted(
            local_instant(day, rng.randrange(5 * 3600, DAY - 60))
            for _ in range(_poisson(rng.random, rate * season(day) * growth))
        ):
            number += 1
            yield make_person(parameters, number, at)


def _poisson(uniform: Callable[[], float], mean: float) -> int:
    """Knuth's method in chunks, so that large means do not underflow."""
    total = 0
    while mean > 0:
        part = min(mean, 20.0)
        limit, product = exp(-part), uniform()
        while product > limit:
            total += 1
            product *= uniform()
        mean -= part
    return total


def _live(
    parameters: Parameters,
    person: Person,
    products: list[Product],
    horizon: int,
    everything: _Everything,
) -> None:
    consent = make_consent(parameters, person)
    orders = make_orders(parameters, person, consent, products, horizon)
    everything.orders += orders
    account = make_account(parameters, person, consent, orders)
    if account is not None:
        everything.accounts.append(account)
    contact = make_contact(parameters, person, consent, orders)
    if contact is not None:
        everything.contacts.append(contact)
        everything.deals += make_deals(parameters, contact)
    everything.tool_events += make_tool_events(parameters, person, consent)


def _add_shared_accounts(
    parameters: Parameters, products: list[Product], everything: _Everything
) -> None:
    """One shared company account per 2,500 customers, at least one."""
    for number in range(1, 2 + parameters.customers // 2500):
        at = local_instant(parameters.opened_on + timedelta(days=90 + 40 * number), 9 * 3600)
        account, colleagues = shared_account(parameters, number, at)
        everything.accounts.append(account)
        everything.orders += shared_orders(parameters, number, colleagues, products)


def _window(
    parameters: Parameters,
    until: date,
    products: list[Product],
    everything: _Everything,
    people: int,
) -> World:
    cutoff = end_of_day(until)
    orders = _visible(everything.orders, cutoff)
    accounts = _visible(everything.accounts, cutoff)
    contacts = _visible(everything.contacts, cutoff)
    deals = _visible(everything.deals, cutoff)
    refunds = sorted(
        ((refund.at, refund.key, order, refund) for order in orders for refund in order.refunds),
        key=lambda row: row[:2],
    )
    refunds = refunds[: bisect_left(refunds, cutoff, key=lambda row: row[0])]
    order_ids, refund_ids = _post_ids(orders, [(row[0], row[1]) for row in refunds])
    events = sorted(everything.tool_events, key=lambda event: (event.at, event.key, event.vendor))
    return World(
        parameters=parameters,
        until=until,
        cutoff=cutoff,
        products=products,
        orders=orders,
        order_ids=order_ids,
        refunds=[(refund_ids[key], order, refund) for _, key, order, refund in refunds],
        refund_ids=refund_ids,
        accounts=accounts,
        account_ids={row.key: _FIRST_USER_ID + index for index, row in enumerate(accounts)},
        contacts=contacts,
        contact_ids={row.key: str(_FIRST_CONTACT_ID + n) for n, row in enumerate(contacts)},
        deals=deals,
        deal_ids={row.key: str(_FIRST_DEAL_ID + n) for n, row in enumerate(deals)},
        tool_events=events[: bisect_left(events, cutoff, key=lambda event: event.at)],
        people=people,
    )


def _visible(records: list[_Record], cutoff: int) -> list[_Record]:
    ordered = sorted(records, key=lambda record: (record.born, record.key))
    return ordered[: bisect_left(ordered, cutoff, key=lambda record: record.born)]


def _post_ids(
    orders: list[Order], refunds: list[tuple[int, str]]
) -> tuple[dict[str, int], dict[str, int]]:
    """WordPress numbers orders and refunds in one sequence; so do we, in order of time."""
    births = sorted(
        [(order.born, order.key, True) for order in orders]
        + [(at, key, False) for at, key in refunds]
    )
    order_ids: dict[str, int] = {}
    refund_ids: dict[str, int] = {}
    for identity, (_, key, is_order) in enumerate(births, start=_FIRST_POST_ID):
        (order_ids if is_order else refund_ids)[key] = identity
    return order_ids, refund_ids
