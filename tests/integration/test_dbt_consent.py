"""contactability against the plain reference, on generated histories of consent.

Hypothesis makes the persons, with several addresses each and what files and email tools say of
them; one dbt build judges all of them; then every verdict is compared. The build also runs the
data tests, which check the same from the events by themselves.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from itertools import count, product
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.integration.consent_reference import (
    Address,
    Fact,
    Rules,
    Verdict,
    has_profiling_objection,
    known,
    sent_address,
    verdict,
)
from tests.integration.dbt_support import build, create_raw_tables, insert, query

pytestmark = pytest.mark.integration

AS_OF = date(2026, 3, 31)
# Midnight after the as-of day in Berlin, where the clocks changed two days before.
END = datetime(2026, 3, 31, 22, tzinfo=UTC)
# `single` has something weaker below it and something stronger above it.
RULES = Rules(end=END, minimum_consent="single", identity_max_addresses=3)

# Few moments, so that many facts fall on the same; two of them on either side of the day's end.
_MOMENTS = [
    *(None, None),
    *(END - timedelta(days=days) for days in (1, 2, 3, 5, 10, 15, 20, 25, 30, 400)),
    *(END - timedelta(microseconds=1), END, END + timedelta(days=9)),
]
_IN_FAVOUR = ["double", "double", "single", "single", "single", "existing_customer", "pending"]
_AGAINST = ["withdrawn", "withdrawn", "bounced", "complained", "profiling_objection"]
_CHANNELS = [None, None, None, None, "email", "sms"]
# A tool's state with the opt-in it vouches for, and what that says.
_STATES = {
    ("subscribed", "double"): "double",
    ("subscribed", "single"): "single",
    ("subscribed", None): None,
    ("pending", None): "pending",
    ("archived", "double"): None,
    ("unsubscribed", "double"): "withdrawn",
    ("blocklisted", None): "withdrawn",
    ("bounced", None): "bounced",
    ("complained", "single"): "complained",
}

_REASONS = {
    *("marketplace_relay", "test_address", "ambiguous_identity"),
    *("complained", "withdrawn", "bounced"),
    *("consent_pending", "consent_too_weak", "consent_undated", "consent_unknown"),
    *("consent_double", "consent_single"),
}


@dataclass(frozen=True)
class _Entry:
    """What a file says of one of a person's addresses; no channel means email."""

    address: int
    channel: str | None
    evidence: str
    at: datetime | None


@dataclass(frozen=True)
class _State:
    """What a tool says of one of a person's addresses."""

    address: int
    destination: str
    state: tuple[str, str | None]
    at: datetime | None


@dataclass(frozen=True)
class _Person:
    """One kind per address; the first address is the account's, the others its orders'."""

    kinds: tuple[str, ...]
    entries: tuple[_Entry, ...]
    states: tuple[_State, ...]


# One choice out of all is drawn much faster than one after the other.
_AGREEING = st.sampled_from(list(product(_CHANNELS, _IN_FAVOUR, _MOMENTS)))
_SAID = st.sampled_from(list(product(_CHANNELS, _IN_FAVOUR + _AGAINST, _MOMENTS)))
_TOLD = st.sampled_from(list(product(["listmonk", "mailchimp"], _STATES, _MOMENTS)))
_KINDS = ["plain"] * 14 + ["relay", "test"]


@st.composite
def _persons(draw: st.DrawFn) -> _Person:
    # Half of them object to nothing, so that several of their addresses may be written to.
    agrees = draw(st.booleans())
    addresses = draw(st.sampled_from([1, 2, 2, 2, 2, 2, 3, 4]))
    others = st.lists(
        st.sampled_from([*_KINDS, "shared"]), min_size=addresses - 1, max_size=addresses - 1
    )
    which = st.integers(0, addresses - 1)
    said = st.tuples(which, _AGREEING if agrees else _SAID)
    entries = draw(st.lists(said, min_size=5 if agrees else 0, max_size=8))
    states = [] if agrees else draw(st.lists(st.tuples(which, _TOLD), max_size=2))
    return _Person(
        (draw(st.sampled_from(_KINDS)), *draw(others)),
        tuple(_Entry(address, *entry) for address, entry in entries),
        tuple(_State(address, *state) for address, state in states),
    )


def _generated(count: int) -> list[_Person]:
    persons: list[_Person] = []

    @settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(_persons())
    def collect(person: _Person) -> None:
        persons.append(person)

    collect()
    return persons


def _text(number: int, position: int, kind: str) -> str:
    """Persons 2n and 2n + 1 are billed to the same shared address."""
    return {
        "plain": f"person{number}.{position}@mail.example",
        "relay": f"person{number}.{position}@marketplace.amazon.de",
        "test": f"person{number}.{position}@example.test",
        "shared": f"household{number // 2}@mail.example",
    }[kind]


class _World:
    """All persons with their addresses, and what is recorded of each address by whomever."""

    def __init__(self, persons: list[_Person]) -> None:
        texts = [
            [_text(number, position, kind) for position, kind in enumerate(person.kinds)]
            for number, person in enumerate(persons)
        ]
        owners = Counter(text for listed in texts for text in set(listed))
        self.addresses = [
            [
                Address(
                    text=text,
                    # Two at a time are last seen on the same day.
                    last_seen_on=AS_OF - timedelta(days=100 - listed.index(text) // 2),
                    is_relay="marketplace" in text,
                    is_test=text.endswith("@example.test"),
                    is_shared=owners[text] > 1,
                )
                for text in dict.fromkeys(listed)
            ]
            for listed in texts
        ]
        self.entries = [
            (texts[number][entry.address], entry)
            for number, person in enumerate(persons)
            for entry in person.entries
        ]
        # A tool has one state of an address.
        self.states = {
            (state.destination, texts[number][state.address]): state
            for number, person in enumerate(persons)
            for state in person.states
        }

    def facts_of(self, addresses: list[Address]) -> list[Fact]:
        """What is known of these addresses by the end of the as-of day."""
        return known((fact for address in addresses for fact in self._facts[address.text]), RULES)

    @cached_property
    def _facts(self) -> dict[str, list[Fact]]:
        found = defaultdict(list)
        for text, entry in self.entries:
            found[text].append(Fact(text, entry.channel or "email", entry.evidence, entry.at))
        for (_, text), state in self.states.items():
            if evidence := _STATES[state.state]:
                found[text].append(Fact(text, "email", evidence, state.at))
        return found

    def land(self, dsn: str) -> None:
        """Write everything where the sources and tools would have."""
        create_raw_tables(dsn, "files")
        insert(dsn, "raw_files.customers", map(_customer, count(), self.addresses))
        insert(
            dsn,
            "raw_files.orders",
            (
                _order(number, position, address)
                for number, listed in enumerate(self.addresses)
                for position, address in enumerate(listed[1:])
            ),
        )
        insert(
            dsn,
            "raw_files.consent_events",
            (
                {
                    "source_name": "desk",
                    "email": f" {text.title()}",
                    "channel": entry.channel,
                    "evidence": entry.evidence,
                    "occurred_at": entry.at,
                }
                for text, entry in self.entries
            ),
        )
        with psycopg.connect(dsn) as connection:
            connection.cursor().executemany(
                "insert into activation.subscriber_states"
                " (destination, address, state, evidence, state_changed_at, read_at, run_id)"
                " values (%s, %s, %s, %s, %s, now(), 'test')",
                [(*key, *state.state, state.at) for key, state in self.states.items()],
            )


def _customer(number: int, addresses: list[Address]) -> dict[str, Any]:
    return {
        "source_name": "till",
        "customer_key": str(number),
        "email": addresses[0].text.upper(),
        "created_at": f"{addresses[0].last_seen_on} 12:00 Europe/Berlin",
    }


def _order(number: int, position: int, address: Address) -> dict[str, Any]:
    return {
        "source_name": "till",
        "order_key": f"{number}-{position}",
        "customer_key": str(number),
        "email": address.text,
        "ordered_at": f"{address.last_seen_on} 12:00 Europe/Berlin",
        "status": "completed",
        "currency": "EUR",
        "total_amount": "10.00",
    }


def _expected(world: _World) -> dict[tuple[int, str, str], tuple[Verdict, bool]]:
    """Per person, channel and address: the verdict, and whether it is the one that is sent."""
    found = {}
    for number, addresses in enumerate(world.addresses):
        facts = world.facts_of(addresses)
        for channel in {"email", *(fact.channel for fact in facts)}:
            verdicts = {
                address.text: verdict(address, channel, addresses, facts, RULES)
                for address in addresses
                if channel == "email"
                or any((fact.address, fact.channel) == (address.text, channel) for fact in facts)
            }
            sent = sent_address(verdicts, channel, addresses, facts, RULES)
            for text, judged in verdicts.items():
                found[number, channel, text] = (judged, text == sent)
    return found


def test_sql_and_plain_reference_agree(warehouse_dsn: str) -> None:
    world = _World(_generated(600))
    world.land(warehouse_dsn)

    build(
        warehouse_dsn,
        AS_OF.isoformat(),
        "--select",
        "+contactability",
        "+customers",
        enabled_sources=["files"],
        minimum_consent=RULES.minimum_consent,
        identity_max_addresses=RULES.identity_max_addresses,
    )

    expected = _expected(world)
    assert {judged.reason for judged, _ in expected.values()} == _REASONS, "each must occur"
    actual = {
        (number, channel, address): (Verdict(*judged), is_preferred)
        for number, channel, address, is_preferred, *judged in query(
            warehouse_dsn,
            "select source_id::integer, channel, contactability.address, is_preferred,"
            " is_contactable, reason, evidence, evidence_at"
            " from contactability inner join intermediate_blue.int_customer_identities"
            " using (customer_id)",
        )
    }
    assert actual.keys() == expected.keys()
    for key, judged in expected.items():
        assert actual[key] == judged, (key, world.facts_of(world.addresses[key[0]]))

    persons = query(
        warehouse_dsn,
        "select source_id::integer, email, has_profiling_objection from customers"
        " inner join intermediate_blue.int_customer_identities using (customer_id) order by 1",
    )
    assert persons == [
        (number, _shown_address(expected, number, addresses), has_profiling_objection(facts))
        for number, addresses in enumerate(world.addresses)
        for facts in [world.facts_of(addresses)]
    ]


def _shown_address(
    expected: dict[tuple[int, str, str], tuple[Verdict, bool]],
    number: int,
    addresses: list[Address],
) -> str:
    """The address that is sent, else the one seen last."""
    for address in addresses:
        if expected[number, "email", address.text][1]:
            return address.text
    newest = max(address.last_seen_on for address in addresses)
    return min(address.text for address in addresses if address.last_seen_on == newest)
