"""Two persons are erased from a shop that goes on: one is gone, one buys again and is new."""

from __future__ import annotations

import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Any

import pytest

from kundenkreis.settings import home
from tests.night.conftest import FIRST_NIGHT, Household, last_json

pytestmark = [pytest.mark.integration, pytest.mark.night, pytest.mark.trouble]

# Until then some old customers buy again, with their old accounts.
SECOND_NIGHT = FIRST_NIGHT + timedelta(days=12)
KEY = "0123456789abcdef" * 4

# Who is in the shop, in the CRM and in a tool, with a surname and a telephone of their own.
_KNOWN_EVERYWHERE = """
select ids.customer_id, customers.email
from marts.customers
inner join (
    select customer_id from marts.customer_source_ids
    group by customer_id having count(distinct source) = 2
) as ids using (customer_id)
inner join marts.customer_360 as wide using (customer_id)
where
    wide.orders_count > 1
    and exists (
        select 1 from activation.delivered_state
        where delivered_state.address = customers.email and is_member
    )
    and exists (select 1 from marts.orders where orders.customer_id = ids.customer_id)
    and not exists (
        select 1 from marts.customers as others
        where
            others.customer_id <> customers.customer_id
            and lower(others.last_name) = lower(customers.last_name)
    )
    and not exists (
        select 1 from ({addresses}) as others
        where
            others.address <> customers.email
            and others.address like '%' || lower(customers.last_name) || '%'
    )
order by 1
limit 1
"""
_ADDRESSES = """
select address from activation.subscriber_states
union select address from activation.address_verdicts
union select lower(email) from raw_hubspot.contacts
union select lower(billing_email) from raw_woocommerce.orders
union select lower(email) from raw_woocommerce.customers
"""
_BUYER = """
select customers.customer_id, customers.email
from marts.customers
where customers.email in ('{buyers}') and exists (
    select 1 from marts.orders
    where orders.customer_id = customers.customer_id and orders.is_counted
)
order by 1
limit 1
"""


@dataclass(frozen=True)
class Erased:
    """Whom the warehouse must not know any more."""

    customer_id: str
    address: str
    words: frozenset[str]
    ids: frozenset[tuple[str, str, str]]


@dataclass
class Story:
    """A shop after its first night, and who was erased from it."""

    shop: Household
    gone: Erased
    returning: Erased
    revenue: dict[Any, tuple[int, Any]]
    certificates: list[dict[str, Any]]


def _call(shop: Household, *arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
    return shop.call(*arguments, KUNDENKREIS_ERASURE_KEY=KEY, **more)


def _night(shop: Household, day: date) -> None:
    completed = _call(shop, "run", "--as-of", day.isoformat())
    assert completed.returncode == 0, completed.stdout + completed.stderr


def _person(shop: Household, customer_id: str, address: str) -> Erased:
    ids = shop.rows(
        "select source, source_record_type, source_id from marts.customer_source_ids "
        f"where customer_id = '{customer_id}'"
    )
    # A surname that somebody else's address has in it as well would be found without being theirs.
    names = shop.rows(
        f"select last_name from marts.customers where customer_id = '{customer_id}'"
        f" and not exists (select 1 from ({_ADDRESSES}) as others"
        f" where others.address <> '{address}'"
        " and others.address like '%' || lower(customers.last_name) || '%')"
    )
    phones = shop.rows(
        "select phone, phone_e164 from raw_hubspot.contacts "
        f"where lower(trim(email)) = '{address}' "
        "union select billing_phone, phone_e164 from raw_woocommerce.customers "
        f"where lower(trim(email)) = '{address}'"
    )
    words = {address, *(name for (name,) in names if name)}
    words |= {number for row in phones for number in row if number}
    return Erased(customer_id, address, frozenset(word.lower() for word in words), frozenset(ids))


def _revenue(shop: Household) -> dict[Any, tuple[int, Any]]:
    return {
        day: (orders, revenue)
        # The days begin with the first customer, who may be the one that is gone.
        for day, orders, revenue in shop.rows(
            "select day, orders, revenue from marts.kpi_daily where orders > 0"
        )
    }


def _buys_again() -> list[str]:
    """The addresses of the coming days' orders, from a copy of the world that goes on as long."""
    from sandbox.service import Sandbox
    from sandbox.testing import in_process, sign
    from sandbox.vendors.woocommerce import CONSUMER_KEY, CONSUMER_SECRET

    url = "http://testserver/woocommerce/wp-json/wc/v3/orders"
    query = {"after": f"{FIRST_NIGHT}T23:59:59", "per_page": "100"}
    world = Sandbox(None, 150, 11, FIRST_NIGHT)
    world.advance((SECOND_NIGHT - FIRST_NIGHT).days)
    with in_process(world) as client:
        answer = client.get(url, params=sign("GET", url, query, CONSUMER_KEY, CONSUMER_SECRET))
    assert answer.status_code == 200, answer.text
    return [
        order["billing"]["email"].strip().lower()
        for order in answer.json()
        if order["customer_id"] and order["status"] in ("completed", "processing")
    ]


@pytest.fixture(scope="module")
def story(household: Callable[..., Household]) -> Story:
    shop = household(customers=150, seed=11)
    _night(shop, FIRST_NIGHT)
    shop.direct_gates = True  # the first night's Data Docs are among what is looked through
    gone = _person(shop, *shop.rows(_KNOWN_EVERYWHERE.format(addresses=_ADDRESSES))[0])
    buyers = "','".join(_buys_again())
    returning = _person(shop, *shop.rows(_BUYER.format(buyers=buyers))[0])
    assert gone.customer_id != returning.customer_id
    revenue = _revenue(shop)
    certificates = [_erase(shop, person) for person in (gone, returning)]
    return Story(shop, gone, returning, revenue, certificates)


def _erase(shop: Household, person: Erased) -> dict[str, Any]:
    options = ("--yes", "--json", "--by", "officer", "--effective", FIRST_NIGHT.isoformat())
    completed = _call(shop, "erase", *options, person.address)
    assert completed.returncode == 0, completed.stderr
    found: dict[str, Any] = last_json(completed.stdout)
    return found


def _assert_nowhere(shop: Household, *persons: Erased) -> None:
    """Look for the persons in every text of every table, of our folders and of the tools."""
    texts = {**_tables(shop), **_files(), "the email tools": _tools(shop)}
    found = {
        (place, word)
        for place, text in texts.items()
        for person in persons
        for word in person.words
        if word in text
    }
    assert not found
    for person in persons:
        assert not shop.rows(
            "select * from history.customer_ids where (source, source_record_type, source_id) in "
            f"({', '.join(str(record) for record in person.ids)})"
        )


def _tables(shop: Household) -> dict[str, str]:
    tables = shop.rows(
        "select format('%I.%I', n.nspname, c.relname) from pg_class as c "
        "inner join pg_namespace as n on n.oid = c.relnamespace "
        "where c.relkind in ('r', 'v', 'm') and n.nspname !~ '^pg_' "
        "and n.nspname <> 'information_schema'"
    )
    assert len(tables) > 120
    return {
        table: "\n".join(text for (text,) in shop.rows(f"select t::text from {table} as t")).lower()
        for (table,) in tables
    }


def _files() -> dict[str, str]:
    found = {
        str(file): file.read_text(errors="replace").lower()
        for folder in ("logs", "data_docs", "dbt")
        for file in (home() / folder).rglob("*")
        if file.is_file() and file.suffix not in (".msgpack", ".gif", ".png")
    }
    assert any("night_" in name for name in found)
    return found


def _tools(shop: Household) -> str:
    """What the two email tools hold; their logs of requests are the vendors' own."""
    with closing(sqlite3.connect(shop.sandbox.home / "sandbox.sqlite")) as store:
        rows = store.execute(
            "select document from documents where kind like 'listmonk%' or kind like 'mailchimp%'"
        ).fetchall()
    assert len(rows) > 50
    return "\n".join(row[0] for row in rows).lower()


def test_nothing_is_left_of_an_erased_person(story: Story) -> None:
    _assert_nowhere(story.shop, story.gone, story.returning)
    assert [one["state"] for one in story.certificates] == ["done", "done"]
    outcomes = {
        place["outcome"]
        for one in story.certificates
        for name, place in one["places"].items()
        if name.startswith("destination ")
    }
    assert "erased" in outcomes


def test_the_revenue_of_every_day_is_what_it_was(story: Story) -> None:
    assert _revenue(story.shop) == story.revenue


def test_a_night_that_reads_everything_again_brings_nobody_back(story: Story) -> None:
    """The same day, built in full in the other colour."""
    shop = story.shop
    for source in ("woocommerce", "hubspot"):
        assert shop.rows(f"delete from raw_{source}._dlt_pipeline_state returning 1")
    _night(shop, FIRST_NIGHT)
    _assert_nowhere(shop, story.gone, story.returning)
    assert _revenue(shop) == story.revenue


def test_who_buys_again_is_a_new_customer(story: Story) -> None:
    """Days later, in the colour from which both were erased."""
    shop = story.shop
    shop.sandbox.advance((SECOND_NIGHT - FIRST_NIGHT).days)
    _night(shop, SECOND_NIGHT)
    # Newcomers of these days may have the surname.
    names = {word for word in story.gone.words if word.isalpha()}
    _assert_nowhere(shop, replace(story.gone, words=story.gone.words - names))
    again = shop.rows(
        "select customers.customer_id, orders.order_date from marts.customers "
        "inner join marts.orders using (customer_id) "
        f"where customers.email = '{story.returning.address}'"
    )
    assert again
    assert {customer_id for customer_id, _ in again}.isdisjoint({story.returning.customer_id})
    assert all(day > FIRST_NIGHT for _, day in again)
