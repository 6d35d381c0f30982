"""The caps of contact pressure hold in the email tool itself, night after night.

Generated people move between segments of different priorities for three weeks. What is checked is
what the tool was told, not what the plan says; the rule is written here once more, in Python.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from kundenkreis.activation import delivery, subscribers
from tests.integration.activation_warehouse import (
    MemoryTool,
    Person,
    build_plan,
    empty_warehouse,
    segment,
    settings_for,
    write_marts,
)

pytestmark = pytest.mark.integration

_AT_ONCE, _PER_WEEK = 2, 3
_FIRST = date(2026, 10, 20)
_NIGHTS = 8
_SEGMENTS = [
    segment(key, key.title(), priority=priority, contact=contact, max_change_percent=100_000)
    for key, priority, contact in (
        ("late", 30, True),
        ("news", 1, False),
        ("second", 20, True),
        ("also_second", 20, True),
        ("first", 10, True),
        ("fourth", 40, True),
    )
]
_CONTACT = [one for one in _SEGMENTS if one["contact"]]
_ORDER = {one["key"]: (one["priority"], position) for position, one in enumerate(_CONTACT)}


class _Shop:
    """Forty people whose segments change a little every night."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        keys = [one["key"] for one in _SEGMENTS]
        self.people = [
            Person(
                f"c{number}",
                f"p{number}@shop.de",
                segments=tuple(self._random.sample(keys, self._random.randint(0, len(keys)))),
                holdout=number % 10 == 0,
                contactable=number % 11 != 0,
                reason="consent_double" if number % 11 else "withdrawn",
            )
            for number in range(1, 41)
        ]
        self._keys = keys

    def next_day(self) -> None:
        self.people = [self._moved(one) for one in self.people]

    def _moved(self, person: Person) -> Person:
        changed = {key for key in self._keys if self._random.random() < 0.25}
        return replace(person, segments=tuple(sorted(set(person.segments) ^ changed)))


@pytest.fixture(scope="module")
def nights(
    module_warehouse_dsn: str, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Any]]:
    """What each night decided, and who was in which audience of the tool after it."""
    dsn = module_warehouse_dsn
    empty_warehouse(dsn)
    return list(_live(dsn, tmp_path_factory.mktemp("dbt_target")))


def _live(dsn: str, target: Path) -> Iterator[dict[str, Any]]:
    shop = _Shop(seed=11)
    # One in seven is not in the tool, and the tool may create nobody.
    states = {
        one.address: "subscribed" for number, one in enumerate(shop.people) if number % 7 != 3
    }
    tool = MemoryTool(states=states)
    settings = settings_for()
    opened: dict[str, Any] = {"open_tool": lambda *_: tool}
    for night in range(_NIGHTS):
        # Some days have no night.
        day = _FIRST + timedelta(days=night + night // 5)
        before = {name: set(members) for name, members in tool.members.items()}
        subscribers.read_subscriber_states(
            "listmonk", settings, _no_connection, dsn, "r", _silent, **opened
        )
        publication_id = write_marts(dsn, shop.people, as_of_date=day.isoformat())
        build_plan(
            dsn,
            publication_id,
            target,
            _SEGMENTS,
            as_of_date=day.isoformat(),
            contact_pressure={"at_once": _AT_ONCE, "per_week": _PER_WEEK},
        )
        delivery.deliver(
            "listmonk", settings, _no_connection, dsn, "r", publication_id, _silent, **opened
        )
        with psycopg.connect(dsn) as connection:
            decided = connection.execute(
                "select customer_id, segment, is_already_in, is_kept, reason, given_way_to"
                " from activation.contact_pressure"
            ).fetchall()
            removals = connection.execute(
                "select customer_id, segment, status_reason from activation.plan_rows"
                " where publication_id = %s and operation = 'remove'",
                (publication_id,),
            ).fetchall()
            attributes = connection.execute(
                "select customer_id, attributes from activation.delivered_state"
                " where audience = '' and not in_doubt"
            ).fetchall()
        yield {
            "day": day,
            "people": list(shop.people),
            "reachable": {one.customer_id for one in shop.people if one.address in states},
            "before": before,
            "after": {name: set(members) for name, members in tool.members.items()},
            "decided": decided,
            "removals": removals,
            "attributes": dict(attributes),
        }
        shop.next_day()


def _silent(message: str) -> None:
    pass


def _no_connection(connection_id: str) -> Any:
    raise AssertionError("the tool in memory needs no connection")


def _segments_of(members: dict[str, set[str]], address: str) -> set[str]:
    return {one["key"] for one in _CONTACT if address in members.get(one["key"].title(), set())}


def test_nobody_is_in_more_audiences_at_once_than_allowed(nights: list[dict[str, Any]]) -> None:
    most = [
        max(len(_segments_of(night["after"], one.address)) for one in night["people"])
        for night in nights
    ]
    assert most == [_AT_ONCE] * _NIGHTS


def test_nobody_enters_more_audiences_in_seven_days_than_allowed(
    nights: list[dict[str, Any]],
) -> None:
    entries = [
        (night["day"], one.address)
        for night in nights
        for one in night["people"]
        for _ in _segments_of(night["after"], one.address)
        - _segments_of(night["before"], one.address)
    ]
    per_week = [
        sum(
            address == other and day - timedelta(days=7) < earlier <= day
            for earlier, other in entries
        )
        for day, address in set(entries)
    ]
    assert max(per_week) == _PER_WEEK


def test_places_are_given_as_the_rule_says(nights: list[dict[str, Any]]) -> None:
    """The audiences after a night, from those before it, by a plain loop over each person."""
    entries: dict[str, list[date]] = {}
    reasons = set()
    for night in nights:
        for one in night["people"]:
            wanted = (
                set(one.segments) & set(_ORDER)
                if one.contactable and not one.holdout and one.customer_id in night["reachable"]
                else set()
            )
            inside = _segments_of(night["before"], one.address)
            week = night["day"] - timedelta(days=7)
            left = _PER_WEEK - sum(day > week for day in entries.get(one.address, []))
            expected: set[str] = set()
            for key in sorted(
                wanted, key=lambda key: (_ORDER[key][0], key not in inside, _ORDER[key][1])
            ):
                if key not in inside and left <= 0:
                    reasons.add("contact_pressure_per_week")
                    continue
                if len(expected) == _AT_ONCE:
                    reasons.add("contact_pressure_at_once")
                    continue
                expected.add(key)
                left -= key not in inside
            got = _segments_of(night["after"], one.address)
            assert got == expected, (night["day"], one.customer_id)
            entries.setdefault(one.address, []).extend([night["day"]] * len(got - inside))
    assert reasons == {"contact_pressure_per_week", "contact_pressure_at_once"}, "both were met"


def test_nobody_of_a_higher_priority_gives_way_to_a_lower(nights: list[dict[str, Any]]) -> None:
    given_way = 0
    for night in nights:
        for customer, key, is_already_in, is_kept, reason, given_way_to in night["decided"]:
            kept = {
                other: was_in
                for of, other, was_in, is_other_kept, *_ in night["decided"]
                if of == customer and is_other_kept
            }
            assert is_kept == (reason is None) == (given_way_to is None) == (key in kept)
            if reason == "contact_pressure_at_once":
                assert set(given_way_to.split(",")) == set(kept)
                assert all(_ORDER[other][0] <= _ORDER[key][0] for other in kept)
            if reason == "contact_pressure_per_week":
                assert not is_already_in, "staying is no entry"
                entered = [other for other, was_in in kept.items() if not was_in]
                assert all(_ORDER[other] < _ORDER[key] for other in entered)
                assert set(entered) <= set(given_way_to.split(","))
            given_way += not is_kept
    assert given_way > 100


def test_who_is_squeezed_out_leaves_with_the_reason_and_the_attributes(
    nights: list[dict[str, Any]],
) -> None:
    squeezed_out = 0
    for night in nights:
        by_id = {one.customer_id: one for one in night["people"]}
        for customer, key, reason in night["removals"]:
            if reason != "contact_pressure_at_once":
                assert reason == "left_segment"
                continue
            squeezed_out += 1
            one = by_id[customer]
            assert key in one.segments
            assert one.address not in night["after"][key.title()]
            if not any(one.address in members for members in night["after"].values()):
                assert night["attributes"][customer] == {}
    assert squeezed_out > 3
    # Who is in nothing any more keeps no attribute, whatever the reason.
    last = nights[-1]
    for one in last["people"]:
        is_in = any(one.address in members for members in last["after"].values())
        assert bool(last["attributes"].get(one.customer_id)) == is_in
