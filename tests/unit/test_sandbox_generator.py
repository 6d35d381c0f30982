"""The generator: the same world twice, nothing from the future, advancing only adds."""

from __future__ import annotations

import json
import re
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from functools import cache

import pytest

from sandbox.clock import end_of_day, local_date, local_instant
from sandbox.generator import World, build_world
from sandbox.people import Parameters
from sandbox.service import Sandbox
from sandbox.shop import ODDITIES, opening_day
from sandbox.vendors.hubspot import HubSpot
from sandbox.vendors.woocommerce import WooCommerce

UNTIL = date(2026, 11, 22)
_TIMESTAMP = re.compile(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d")


@cache
def world(customers: int = 300, seed: int = 3, until: date = UNTIL) -> World:
    return build_world(Parameters(customers, seed, date(2024, 5, 1)), until)


def documents(shown: World) -> dict[str, dict[int, dict]]:
    shop = WooCommerce()
    shop.load(shown)
    return {
        name: {row.id: json.loads(row.json()) for row in rows}
        for name, rows in shop.collections.items()
    }


def contacts(shown: World) -> dict:
    crm = HubSpot()
    crm.load(shown)
    return crm.records


def test_same_parameters_give_the_same_world() -> None:
    again = build_world(world().parameters, UNTIL)
    assert documents(again) == documents(world())
    assert contacts(again) == contacts(world())
    assert again.tool_events == world().tool_events


def test_another_seed_gives_another_world() -> None:
    assert documents(world(seed=4))["orders"] != documents(world())["orders"]


def test_nothing_is_dated_after_the_last_day() -> None:
    cutoff = world().cutoff
    assert datetime.fromtimestamp(cutoff, UTC).isoformat() == "2026-11-22T23:00:00+00:00"
    for name, rows in documents(world()).items():
        for row in rows.values():
            for key, value in row.items():
                if key.endswith("_gmt") and value and _TIMESTAMP.fullmatch(value):
                    if value.startswith("2025-13"):
                        continue  # one of the unreadable ones
                    moment = datetime.fromisoformat(value).replace(tzinfo=UTC)
                    assert moment.timestamp() < cutoff, (name, row["id"], key)
    for rows in contacts(world()).values():
        for row in rows.values():
            histories = [fact for facts in row.histories.values() for fact in facts]
            stamps = [datetime.fromisoformat(fact["timestamp"]).timestamp() for fact in histories]
            assert max([row.created, row.modified, row.archived_at or 0, *stamps]) < cutoff
    assert all(event.at < cutoff for event in world().tool_events)


def test_advancing_only_adds_and_moves_modification_dates() -> None:
    later = world(until=UNTIL + timedelta(days=21))
    before, after = documents(world()), documents(later)
    changed = 0
    for name, rows in before.items():
        for identity, row in rows.items():
            now = after[name][identity]
            if now == row:
                continue
            changed += 1
            modified = datetime.fromisoformat(now["date_modified_gmt"]).replace(tzinfo=UTC)
            assert modified.timestamp() >= world().cutoff, (name, identity)
            fixed = {"id", "date_created_gmt", "currency", "total", "line_items", "billing"}
            for key in fixed & set(row) if name == "orders" else {"id", "date_created_gmt"}:
                assert now[key] == row[key]
        for identity in set(after[name]) - set(rows):
            born = re.sub("[^0-9T:-]", "", after[name][identity]["date_created_gmt"])
            if _TIMESTAMP.fullmatch(born) and not born.startswith("2025-13"):
                moment = datetime.fromisoformat(born).replace(tzinfo=UTC)
                assert moment.timestamp() >= world().cutoff
    assert changed > 5
    assert len(after["orders"]) > len(before["orders"])
    assert len(after["refunds"]) > len(before["refunds"])
    assert later.tool_events[: len(world().tool_events)] == world().tool_events
    for kind, rows in contacts(world()).items():
        for identity, row in rows.items():
            now = contacts(later)[kind][identity]
            assert now.created == row.created
            if now.properties != row.properties:
                assert now.modified >= world().cutoff


def test_advancing_day_by_day_equals_starting_later() -> None:
    stepped = Sandbox(None, 200, 5, UNTIL - timedelta(days=9))
    for _ in range(3):
        assert [row.json() for rows in stepped.woocommerce.collections.values() for row in rows]
        stepped.advance(3)
    fresh = Sandbox(None, 200, 5, UNTIL)
    assert stepped.audiences() == fresh.audiences()
    assert stepped.listmonk.subscribers == fresh.listmonk.subscribers
    assert stepped.mailchimp.members == fresh.mailchimp.members
    for name, rows in fresh.woocommerce.collections.items():
        served = [row.json() for row in stepped.woocommerce.collections[name]]
        assert served == [row.json() for row in rows]
    assert stepped.hubspot.records == fresh.hubspot.records


def test_size_and_shares_are_those_of_a_plausible_shop() -> None:
    shown = world(customers=2500, seed=11)
    assert 2200 <= shown.people <= 2800
    orders = documents(shown)["orders"].values()
    placed = [order for order in orders if order["status"] != "checkout-draft"]
    status = Counter(order["status"] for order in orders)
    assert 1.5 <= len(placed) / shown.people <= 4
    assert 0.02 <= status["checkout-draft"] / len(orders) <= 0.15
    assert status["cancelled"] and status["failed"] and status["refunded"]
    assert status["pending"] and status["processing"]
    tests = sum(order["payment_method"] == "test" for order in placed)
    assert abs(tests / len(placed) - ODDITIES["test"]) < 0.004
    guests = sum(order["customer_id"] == 0 for order in placed)
    assert 0.1 < guests / len(placed) < 0.5
    partial = [o for o in placed if o["refunds"] and o["status"] != "refunded"]
    assert partial
    dollars = [order for order in placed if order["currency"] == "USD"]
    rates = sum(any(m["key"] == "_exchange_rate" for m in o["meta_data"]) for o in dollars)
    assert 0.8 < rates / len(dollars) < 1
    mixed = [o for o in placed if o["billing"]["email"] != o["billing"]["email"].lower()]
    assert 0.03 < len(mixed) / len(placed) < 0.1


def test_discounts_and_completion_are_stated() -> None:
    orders = list(documents(world(customers=2500, seed=11))["orders"].values())
    reduced = [order for order in orders if float(order["discount_total"]) > 0]
    assert 0.05 < len(reduced) / len(orders) < 0.12
    for order in reduced:
        lines = order["line_items"]
        taken = sum(float(row["subtotal"]) - float(row["total"]) for row in lines)
        tax = sum(float(row["subtotal_tax"]) - float(row["total_tax"]) for row in lines)
        assert float(order["discount_total"]) == pytest.approx(taken)
        assert float(order["discount_tax"]) == pytest.approx(tax)
    for order in orders:
        done = order["date_completed_gmt"]
        if order["status"] in ("completed", "refunded"):
            assert order["date_paid_gmt"] < done <= order["date_modified_gmt"]
        elif order["status"] != "trash":
            assert done is None, "a trashed order may have been completed before"


def test_every_kind_of_malformed_row_occurs() -> None:
    orders = list(documents(world(customers=2500, seed=11))["orders"].values())
    assert any(not re.fullmatch(r"-?\d+\.\d\d", order["total"]) for order in orders)
    assert any(not _TIMESTAMP.fullmatch(order["date_created_gmt"]) for order in orders)
    assert any(line["quantity"] < 0 for order in orders for line in order["line_items"])
    assert any("@@" in o["billing"]["email"] or "@" not in o["billing"]["email"] for o in orders)
    assert any(order["billing"]["email"].endswith("@example.test") for order in orders)
    products = [[line["product_id"] for line in order["line_items"]] for order in orders]
    assert any(len(set(ids)) < len(ids) for ids in products)


def test_totals_add_up_where_they_are_numbers() -> None:
    for order in documents(world())["orders"].values():
        if not re.fullmatch(r"-?\d+\.\d\d", order["total"]):
            continue
        lines = sum(float(row["total"]) + float(row["total_tax"]) for row in order["line_items"])
        shipping = float(order["shipping_total"]) + float(order["shipping_tax"])
        assert float(order["total"]) == pytest.approx(lines + shipping)
        refunded = sum(-float(refund["total"]) for refund in order["refunds"])
        assert refunded <= float(order["total"]) + 0.001
        if order["status"] == "refunded":
            assert refunded == pytest.approx(float(order["total"]))


def test_people_are_known_to_both_systems_under_different_spellings() -> None:
    shown = world(customers=2500, seed=11)
    shop = {row["email"] for row in documents(shown)["customers"].values()}
    crm = {row.properties.get("email") or "" for row in contacts(shown)["contacts"].values()}
    normalised = {email.strip().lower() for email in crm}
    assert len(shop & normalised) > len(shop & crm) > 0
    assert any(email.endswith("bücher.example.net") for email in normalised)


def test_some_contacts_carry_the_id_of_their_account_whatever_their_address() -> None:
    shown = world(customers=2500, seed=11)
    accounts = documents(shown)["customers"]
    linked = {
        row.id: accounts[int(account)]["email"] == (row.properties["email"].strip().lower())
        for row in contacts(shown)["contacts"].values()
        if (account := row.properties.get("woocommerce_customer_id"))
    }
    assert 0.1 < len(linked) / len(shown.contacts) < 0.4
    # Of the others the address alone does not tell who it is.
    assert 0.02 < sum(not equal for equal in linked.values()) / len(linked) < 0.2


def test_most_people_have_a_confirmed_opt_in() -> None:
    sandbox = Sandbox(None, 1500, 11, UNTIL)
    people = {o.person.email for o in sandbox.world.orders if o.person.number < 9_000_000}
    people |= {contact.person.email for contact in sandbox.world.contacts}
    newsletter = sandbox.listmonk.audiences()["Newsletter"]
    confirmed = {address for address, status in newsletter.items() if status == "confirmed"}
    confirmed |= {
        member["email_address"]
        for member in sandbox.mailchimp.members.values()
        if member["status"] == "subscribed" and member["timestamp_signup"]
    }
    # The shop's and the CRM's own evidence adds some more.
    assert 0.45 < len(people & confirmed) / len(people) < 0.65


def test_opening_lies_thirty_months_back() -> None:
    assert opening_day(date(2026, 11, 22)) == date(2024, 5, 1)
    assert opening_day(date(2026, 6, 30)) == date(2023, 12, 1)


def test_a_day_outside_the_world_is_refused() -> None:
    with pytest.raises(ValueError, match="must lie between"):
        build_world(world().parameters, date(2024, 4, 30))
    with pytest.raises(ValueError, match="must lie between"):
        build_world(world().parameters, date(2031, 1, 1))


@pytest.mark.parametrize("day", [date(2026, 3, 29), date(2026, 10, 25), date(2026, 7, 1)])
def test_days_end_where_the_next_begins_also_when_clocks_change(day: date) -> None:
    assert local_date(end_of_day(day) - 1) == day
    assert local_date(end_of_day(day)) == day + timedelta(days=1)
    hours = {date(2026, 3, 29): 23, date(2026, 10, 25): 25}.get(day, 24)
    assert end_of_day(day) - local_instant(day, 0) == hours * 3600
