"""Rows of files: only those of erased persons are taken apart, the others pass as they are."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from kundenkreis.privacy.blocklist import Blocklist
from kundenkreis.privacy.keys import ErasureKey
from kundenkreis.sources.base import Counts
from kundenkreis.sources.config import Entity
from kundenkreis.sources.files import _admitted, schema_of

KEY = ErasureKey(b"k" * 32)
ERASED = datetime(2026, 6, 30, tzinfo=UTC)
BEFORE, AFTER = ERASED - timedelta(days=1), ERASED + timedelta(days=1)


@pytest.fixture
def counts() -> Counts:
    """A load of a warehouse from which the holder of card 3 was erased."""
    hashes = {
        KEY.hash_of("address", "anna@mail.example"): ERASED,
        KEY.hash_of("record", "till", "customer", "3"): ERASED,
    }
    return Counts(blocklist=Blocklist(hashes, KEY))


def _table(entity: Entity, *rows: dict[str, Any]) -> pa.Table:
    full = [{"source_name": "till", "content_hash": "h", "loaded_at": AFTER, **r} for r in rows]
    return pa.Table.from_pylist(full, schema=schema_of(entity))


def _orders(*rows: dict[str, Any]) -> pa.Table:
    common = {"status": "completed", "currency": "EUR", "ordered_at": BEFORE}
    return _table(Entity.ORDERS, *({**common, **row} for row in rows))


def test_without_erasures_the_batch_is_the_same_one() -> None:
    table = _orders({"order_key": "1", "email": "anna@mail.example"})
    assert _admitted(table, Entity.ORDERS, Counts()) is table


def test_a_batch_of_others_is_the_same_one(counts: Counts) -> None:
    table = _orders({"order_key": "1", "customer_key": "4", "email": "ben@mail.example"})
    assert _admitted(table, Entity.ORDERS, counts) is table


def test_orders_lose_their_person_and_nothing_else(counts: Counts) -> None:
    table = _orders(
        {"order_key": "1", "customer_key": "3", "total_amount": Decimal("9.99")},
        {"order_key": "2", "customer_key": "4", "email": "ben@mail.example"},
        {"order_key": "3", "email": " Anna@mail.example"},
        {"order_key": "4", "customer_key": "3", "ordered_at": AFTER},
    )
    found = _admitted(table, Entity.ORDERS, counts)
    assert found.schema == table.schema
    rows = {row["order_key"]: row for row in found.to_pylist()}
    assert {key: row["customer_key"] for key, row in rows.items()} == {
        "1": None,
        "2": "4",
        "3": None,
        "4": "3",
    }
    assert rows["1"]["total_amount"] == Decimal("9.99")
    assert rows["3"]["email"] is None
    assert counts.blocklist.anonymised == {("till", "1"), ("till", "3")}
    assert set(counts.blocklist.returned) == {("till", "customer", "3")}


def test_persons_and_consents_are_left_out_and_not_counted(counts: Counts) -> None:
    customers = _table(
        Entity.CUSTOMERS,
        {"customer_key": "3", "created_at": BEFORE},
        {"customer_key": "5", "email": "anna@mail.example", "created_at": None},
        {"customer_key": "6", "email": "ben@mail.example", "created_at": BEFORE},
    )
    counts.loaded("customers", 3)
    found = _admitted(customers, Entity.CUSTOMERS, counts)
    assert found["customer_key"].to_pylist() == ["6"]
    assert counts.tables["customers"] == 1
    consents = _table(
        Entity.CONSENT_EVENTS,
        {"email": "anna@mail.example", "evidence": "double", "occurred_at": BEFORE},
        {"email": "anna@mail.example", "evidence": "double", "occurred_at": AFTER},
    )
    assert _admitted(consents, Entity.CONSENT_EVENTS, counts)["occurred_at"].to_pylist() == [AFTER]


def test_a_link_to_an_erased_record_is_forgotten(counts: Counts) -> None:
    linked = {"linked_source": "till", "linked_customer_key": "3"}
    other = {"linked_source": "club", "linked_customer_key": "3"}
    found = _admitted(
        _table(
            Entity.CUSTOMERS,
            {"customer_key": "7", "created_at": BEFORE, **linked},
            {"customer_key": "8", "created_at": BEFORE, **other},
        ),
        Entity.CUSTOMERS,
        counts,
    )
    rows = {row["customer_key"]: row["linked_customer_key"] for row in found.to_pylist()}
    assert rows == {"7": None, "8": "3"}


def test_an_empty_batch_passes(counts: Counts) -> None:
    table = schema_of(Entity.CUSTOMERS).empty_table()
    assert _admitted(table, Entity.CUSTOMERS, counts).num_rows == 0


@pytest.mark.parametrize("entity", [Entity.PRODUCTS, Entity.SPEND])
def test_tables_of_nobody_are_not_looked_at(entity: Entity, counts: Counts) -> None:
    table = schema_of(entity).empty_table()
    assert _admitted(table, entity, counts) is table
