"""Erasing a person: everywhere, once, and for good."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from threading import Thread
from typing import Any

import psycopg
import pytest

from kundenkreis.activation import jobs, ledger
from kundenkreis.activation.ledger import Answer
from kundenkreis.activation.reconciliation import reconcile
from kundenkreis.activation.subscribers import refresh_states
from kundenkreis.connections import Connection
from kundenkreis.destinations.base import Outcome
from kundenkreis.destinations.config import ListmonkSettings
from kundenkreis.errors import BuildBusy, CredentialError, DataError, VendorError
from kundenkreis.privacy import erasure
from kundenkreis.privacy.erasure import begin, erase, preview, resume
from kundenkreis.privacy.keys import ErasureKey
from kundenkreis.settings import repository_root
from kundenkreis.sources import woocommerce
from kundenkreis.sources.base import Cursor, Run, load_tables
from kundenkreis.sources.config import WooCommerceSettings
from kundenkreis.warehouse.publish import begin_build, end_build
from tests.integration.activation_warehouse import MemoryTool
from tests.integration.privacy_warehouse import (
    ANNA,
    ANNA_ASCII,
    BEN,
    KEY,
    THEN,
    errand,
    fill,
    texts,
)

pytestmark = pytest.mark.integration

# What would tell that it was Anna. Orders keep their numbers, 1 and 120 and r1.
WORDS = ("anna", "abel", "bücher", "bcher", "card-3", "171717")


@pytest.fixture
def dsn(warehouse_dsn: str) -> str:
    """A warehouse that knows Anna and Ben everywhere."""
    fill(warehouse_dsn)
    return warehouse_dsn


@pytest.fixture
def tools() -> dict[str, Any]:
    """Two tools; only one of them knows Anna."""
    return {
        "listmonk": MemoryTool(states={ANNA_ASCII: "subscribed", BEN: "subscribed"}),
        "mailchimp": MemoryTool(name="mailchimp", states={BEN: "subscribed"}),
    }


def _rows(dsn: str, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn) as connection:
        return connection.execute(query.encode()).fetchall()


def _assert_gone(dsn: str, *but: str) -> None:
    # The note of a release is the engineer's, whose name is not Anna's to erase.
    found = {
        (table, word)
        for table, text in texts(dsn, but).items()
        for word in WORDS
        if word in text.lower()
    }
    # A rejected order of somebody whose address ends like hers.
    assert found <= {
        ("quarantine.rejected_records", "anna"),
        ("quarantine.rejected_records", "bücher"),
    }
    assert _rows(dsn, "select record_hash from quarantine.rejected_records") == [("q3",)]


def _lines_of_ben(dsn: str) -> dict[str, list[str]]:
    # A batch holds several persons in one line; activation.rows_under_way shows them one by one.
    shared = ("privacy.", "raw_hubspot.contacts", "activation.batches_under_way")
    return {
        table: [line for line in text.splitlines() if "ben" in line.lower() or "Zeh" in line]
        for table, text in texts(dsn).items()
        if not table.startswith(shared)
    }


@pytest.mark.parametrize("subject", ["c-anna", ANNA, "  ANNA@BÜCHER.EXAMPLE", ANNA_ASCII])
def test_a_person_is_erased_everywhere_and_others_are_not(
    dsn: str, tools: dict[str, Any], subject: str
) -> None:
    of_ben = _lines_of_ben(dsn)
    done = erase(errand(dsn, tools), subject, "ben the officer")
    assert done.state == "done"
    _assert_gone(dsn)
    assert _lines_of_ben(dsn) == of_ben
    assert tools["listmonk"].states == {BEN: "subscribed"}
    assert tools["mailchimp"].states == {BEN: "subscribed"}
    outcomes = {name: place["outcome"] for name, place in done.places.items() if place["outcome"]}
    assert outcomes == {"destination listmonk": "erased", "destination mailchimp": "not_there"}
    assert (done.addresses, done.records, done.customers, done.orders) == (1, 4, 2, 3)
    assert _rows(dsn, "select count(*) from privacy.pending_identifiers") == [(0,)]


def test_orders_stay_as_nobodys_revenue(dsn: str, tools: dict[str, Any]) -> None:
    erase(errand(dsn, tools), ANNA, "ben")
    orders = (
        "select id, total, customer_id, billing_email, _dlt_load_id from raw_woocommerce.orders"
    )
    assert [row[:4] for row in _rows(dsn, f"{orders} where id in (1, 120) order by id")] == [
        (1, 10, 0, None),
        (120, 200, 0, None),
    ]
    # As if loaded anew, so that the next builds take them up.
    loads = {row[4] for row in _rows(dsn, f"{orders} where id in (1, 120)")}
    assert loads.isdisjoint({"1"})
    assert [row[4] for row in _rows(dsn, f"{orders} where customer_id = 18")] == ["1"]
    assert _rows(dsn, "select total_amount, customer_key from raw_files.orders") == [(5, None)]
    assert _rows(dsn, "select source, order_id from privacy.anonymised_orders order by 1, 2") == [
        ("till", "r1"),
        ("woocommerce", "1"),
        ("woocommerce", "120"),
    ]
    for colour in ("blue", "green"):
        assert _rows(
            dsn, f"select order_id, customer_id, revenue from marts_{colour}.orders order by 1"
        ) == [("1", None, 10), ("3", "c-ben", 30)]


def test_the_ledger_keeps_the_attempt_without_the_person(dsn: str, tools: dict[str, Any]) -> None:
    erase(errand(dsn, tools), ANNA, "ben")
    assert _rows(
        dsn,
        "select customer_id, address, attributes, payload_hash, state from activation.ledger "
        "order by attempt_id",
    ) == [("", "", {}, "", "confirmed"), ("c-ben", BEN, {"stage": "loyalty"}, "h2", "confirmed")]


def test_a_batch_under_way_keeps_the_row_without_the_person(
    dsn: str, tools: dict[str, Any]
) -> None:
    erase(errand(dsn, tools), ANNA, "ben")
    assert _rows(
        dsn,
        "select plan_row_id, customer_id, address, attributes, payload_hash, vendor_job_id "
        "from activation.rows_under_way order by position",
    ) == [("u1", "c-ben", BEN, {}, "h3", "job1"), ("erased 1.2", "", "", {}, "", "job1")]

    with psycopg.connect(dsn) as connection:
        (left,) = jobs.submitted(connection, "listmonk")
        keys = [row.key for row in left.batch.rows]
        outcomes = [Outcome(key, "confirmed") for key in keys]
        ledger.settle(connection, [Answer(left.batch_id, keys, outcomes)])

    assert _rows(
        dsn,
        "select plan_row_id, address, state from activation.ledger "
        "order by attempt_id desc limit 2",
    ) == [("erased 1.2", "", "confirmed"), ("u1", BEN, "confirmed")]
    assert _rows(dsn, "select address from activation.delivered_state where audience = ''") == [
        (BEN,)
    ]


def test_a_preview_counts_and_changes_nothing(dsn: str, tools: dict[str, Any]) -> None:
    before = texts(dsn)
    found = preview(errand(dsn, tools), ANNA)
    assert texts(dsn) == before
    assert found["places"]["raw_woocommerce"] == {
        "raw_woocommerce.customers": 1,
        "raw_woocommerce.orders": 2,
    }
    assert found["places"]["history"]["operations.customer_ids_before"] == 1
    assert "anna" not in json.dumps(found)


def test_who_is_nobodys_customer_is_erased_by_address(dsn: str, tools: dict[str, Any]) -> None:
    tools["mailchimp"].states["carl@mail.example"] = "subscribed"
    done = erase(errand(dsn, tools), "carl@mail.example", "ben")
    assert (done.records, done.places["destination mailchimp"]["outcome"]) == (0, "erased")


def test_an_unknown_customer_is_no_person(dsn: str, tools: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="no customer with this id"):
        erase(errand(dsn, tools), "c-nobody", "ben")
    assert _rows(dsn, "select count(*) from privacy.erasures") == [(0,)]


def test_a_tool_that_is_down_leaves_the_erasure_pending(dsn: str, tools: dict[str, Any]) -> None:
    class Down(MemoryTool):
        def erase(self, address: str) -> bool:
            raise VendorError(f"mailchimp: POST /members: no answer about {address}")

    down = {**tools, "mailchimp": Down(name="mailchimp")}
    done = erase(errand(dsn, down), ANNA, "ben")
    assert done.state == "pending"
    assert done.places["destination listmonk"]["state"] == "done"
    place = done.places["destination mailchimp"]
    assert (place["state"], place["last_error"]) == (
        "pending",
        "mailchimp: POST /members: no answer about ***@***",
    )
    # Whom to ask the tool about is all that is left.
    _assert_gone(dsn, "privacy.pending_identifiers")
    done = resume(errand(dsn, tools), done.erasure_id)
    assert done.state == "done"
    _assert_gone(dsn)


def test_a_tool_that_was_disconnected_is_settled_by_hand(dsn: str, tools: dict[str, Any]) -> None:
    erasure_id = begin(errand(dsn, tools), ANNA, "ben")
    only = errand(dsn, {"listmonk": tools["listmonk"]})
    done = resume(only, erasure_id)
    assert "destinations.yml has no mailchimp any more" in str(
        done.places["destination mailchimp"]["last_error"]
    )
    done = erasure.settle_by_hand(only, erasure_id, "mailchimp")
    assert (done.state, done.places["destination mailchimp"]["outcome"]) == ("done", "by_hand")
    with pytest.raises(DataError, match="nothing open at mailchimp"):
        erasure.settle_by_hand(only, erasure_id, "mailchimp")


_KILLED = """
import sys
from tests.integration.activation_warehouse import MemoryTool
from tests.integration.privacy_warehouse import ANNA, ANNA_ASCII, BEN, errand
from kundenkreis.privacy.erasure import erase

tools = {"listmonk": MemoryTool(states={ANNA_ASCII: "subscribed", BEN: "subscribed"})}
erase(errand(sys.argv[1], tools), ANNA, "ben")
"""


@pytest.mark.parametrize(
    "place", ["begin", "raw_hubspot", "quarantine", "marts_blue", "history", "activation"]
)
def test_killed_between_two_places_it_goes_on_where_it_stopped(
    dsn: str, tools: dict[str, Any], place: str
) -> None:
    environment = {
        **os.environ,
        "KUNDENKREIS_FAILPOINT": f"erase.after_{place}",
        "PYTHONPATH": f"{repository_root()}:{repository_root() / 'plugins'}",
    }
    killed = subprocess.run(
        [sys.executable, "-c", _KILLED, dsn], env=environment, check=False, capture_output=True
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    only = errand(dsn, {"listmonk": tools["listmonk"]})
    with psycopg.connect(dsn) as connection:
        waiting = erasure.pending(connection)
    assert [resume(only, one).state for one in waiting] == ["done"]
    _assert_gone(dsn)
    assert tools["listmonk"].states == {BEN: "subscribed"}


def test_it_waits_for_a_night_that_is_being_built(dsn: str, tools: dict[str, Any]) -> None:
    begin_build(dsn, "run-3", date(2026, 3, 3), False)
    with pytest.raises(BuildBusy, match="Run 'run-3' builds marts_green"):
        erase(errand(dsn, tools), ANNA, "ben")
    # What nobody builds is done, and no load brings her back meanwhile.
    assert _rows(dsn, "select count(*) from raw_woocommerce.customers where id = 17") == [(0,)]
    end_build(dsn, "run-3")
    with psycopg.connect(dsn) as connection:
        (waiting,) = erasure.pending(connection)
    assert resume(errand(dsn, tools), waiting).state == "done"
    _assert_gone(dsn)


# The key


def test_another_key_is_refused(dsn: str, tools: dict[str, Any]) -> None:
    erase(errand(dsn, tools), ANNA, "ben")
    other = replace(
        errand(dsn, tools),
        resolve=lambda name: Connection(name, "https", "", password="x" * 32),
    )
    with pytest.raises(CredentialError, match="another one than that of 1 earlier erasures"):
        erase(other, BEN, "ben")


# Loads after an erasure

ACCOUNT = {"id": 17, "email": ANNA, "first_name": "Anna", "date_created_gmt": "2026-03-01T10:00:00"}
ORDER = {
    "id": 1,
    "status": "completed",
    "currency": "EUR",
    "date_created_gmt": "2026-03-01T10:00:00",
    "date_modified_gmt": "2026-05-01T10:00:00",
    "total": "10.00",
    "customer_id": 17,
    "billing": {"email": ANNA, "first_name": "Anna", "last_name": "Abel", "phone": "030 1"},
    "line_items": [{"id": 1, "quantity": 1, "total": "10.00", "name": "Tea"}],
}


def _load(dsn: str, customers: list[Any], orders: list[Any]) -> dict[str, Any]:
    tables = woocommerce.tables(WooCommerceSettings(), None)

    def pages(records: list[Any]) -> Any:
        def read(cursor: Cursor) -> Iterator[list[Any]]:
            yield records

        return read

    run = Run(
        "woocommerce",
        dsn,
        "run-4",
        date(2026, 7, 1),
        erasure_key=lambda: ErasureKey(KEY.encode()),
    )
    counts = load_tables(
        run, [(tables["customers"], pages(customers)), (tables["orders"], pages(orders))]
    )
    return {"erased": counts.blocklist.kept_out, **counts.tables}


@pytest.fixture
def erased(warehouse_dsn: str, tools: dict[str, Any]) -> str:
    """A warehouse that a shop was loaded into, and from which Anna was erased."""
    _load(warehouse_dsn, [ACCOUNT], [ORDER])
    done = erase(errand(warehouse_dsn, tools), ANNA, "ben")
    assert (done.state, done.records) == ("done", 1)
    return warehouse_dsn


def test_a_full_reread_brings_back_the_order_and_not_the_person(erased: str) -> None:
    unreadable = {**ORDER, "id": 2, "total": "ten"}
    assert _load(erased, [ACCOUNT], [ORDER, unreadable]) == {
        "erased": 1,
        "customers": 0,
        "orders": 1,
    }
    assert _rows(erased, "select id, customer_id, total from raw_woocommerce.orders") == [
        (1, 0, 10)
    ]
    assert _rows(erased, "select name from raw_woocommerce.orders__line_items") == [("Tea",)]
    assert _rows(erased, "select record_key, payload from quarantine.rejected_records") == [
        ("2", {})
    ]
    found = [(t, w) for t, text in texts(erased).items() for w in WORDS if w in text.lower()]
    assert found == []


def test_a_new_order_makes_a_new_customer_of_the_old_account(erased: str) -> None:
    later = (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%S")
    order = {**ORDER, "id": 9, "date_created_gmt": later, "date_modified_gmt": later}
    assert _load(erased, [ACCOUNT], [ORDER, order])["orders"] == 2
    orders = "select id, customer_id, billing_email from raw_woocommerce.orders order by id"
    assert _rows(erased, orders) == [(1, 0, None), (9, 17, ANNA)]
    assert _rows(erased, "select count(*) from raw_woocommerce.customers") == [(0,)]
    ids = "select source_record_type, source_id, customer_id from history.customer_ids"
    ((kind, source_id, customer_id),) = _rows(erased, ids)
    assert (kind, source_id, len(customer_id)) == ("customer", "17", 32)
    derived = _rows(erased, "select md5('woocommerce|customer|17')")[0][0]
    assert customer_id != derived
    # The next load finds the same customer.
    _load(erased, [ACCOUNT], [order])
    assert _rows(erased, ids) == [(kind, source_id, customer_id)]


def test_no_load_goes_on_without_the_key(erased: str, clean_env: pytest.MonkeyPatch) -> None:
    tables = woocommerce.tables(WooCommerceSettings(), None)
    clean_env.delenv("KUNDENKREIS_ERASURE_KEY", raising=False)

    def read(cursor: Cursor) -> Iterator[list[Any]]:
        yield [ACCOUNT]

    run = Run("woocommerce", erased, "run-5", date(2026, 7, 1))
    with pytest.raises(CredentialError, match="key of erasures is missing"):
        load_tables(run, [(tables["customers"], read)])
    assert _rows(erased, "select count(*) from raw_woocommerce.customers") == [(0,)]


def test_what_a_tool_still_says_of_an_erased_person_is_not_read(
    dsn: str, tools: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUNDENKREIS_ERASURE_KEY", KEY)
    erase(errand(dsn, tools), ANNA, "ben")
    states = MemoryTool(states={ANNA_ASCII: "subscribed", BEN: "subscribed"})
    with psycopg.connect(dsn) as connection:
        refresh_states("listmonk", ListmonkSettings(), states, connection, "r", lambda line: None)
    assert _rows(dsn, "select address from activation.subscriber_states") == [(BEN,)]
    assert datetime.now(UTC) > THEN


def test_what_a_tool_says_from_after_the_erasure_is_read(
    dsn: str, tools: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUNDENKREIS_ERASURE_KEY", KEY)
    erase(errand(dsn, tools), ANNA, "ben", effective_at=THEN)

    class Dated(MemoryTool):
        def read_subscriber_states(self, our_audience_ids: frozenset[str]) -> Iterator[list[Any]]:
            for page in super().read_subscriber_states(our_audience_ids):
                yield [state._replace(state_changed_at=datetime.now(UTC)) for state in page]

    states = Dated(states={ANNA_ASCII: "subscribed"})
    with psycopg.connect(dsn) as connection:
        refresh_states("listmonk", ListmonkSettings(), states, connection, "r", lambda line: None)
    assert (ANNA_ASCII,) in _rows(dsn, "select address from activation.subscriber_states")


def _until_it_is_over_or_waits_for_a_lock(dsn: str, under_way: Thread) -> None:
    waiting = "select count(*) from pg_locks where locktype = 'advisory' and not granted"
    while under_way.is_alive() and _rows(dsn, waiting) == [(0,)]:
        under_way.join(0.05)


def test_an_audience_that_is_read_back_meanwhile_brings_nobody_back(
    dsn: str, tools: dict[str, Any]
) -> None:
    erasing = Thread(target=lambda: erase(errand(dsn, tools), ANNA, "ben"))

    class Read(MemoryTool):
        def read_members(self, audience_id: str) -> Iterator[list[str]]:
            yield [ANNA_ASCII, BEN]
            erasing.start()
            _until_it_is_over_or_waits_for_a_lock(dsn, erasing)

    tools["listmonk"] = Read(states={ANNA_ASCII: "subscribed", BEN: "subscribed"})
    with psycopg.connect(dsn) as connection:
        connection.execute("delete from activation.audiences")
        connection.execute(
            "insert into activation.audiences (destination, audience, vendor_id)"
            " values ('listmonk', 'Champions', '1')"
        )
    surroundings = errand(dsn, tools)
    reconcile(
        *("listmonk", surroundings.settings, surroundings.resolve, dsn, "run", 1),
        lambda line: None,
        open_tool=surroundings.open_tool,
    )
    erasing.join()
    with psycopg.connect(dsn) as connection:
        assert erasure.pending(connection) == []
    _assert_gone(dsn)


def test_what_was_read_back_before_a_tool_was_settled_by_hand_goes_with_it(
    dsn: str, tools: dict[str, Any]
) -> None:
    class Down(MemoryTool):
        def erase(self, address: str) -> bool:
            raise VendorError("listmonk: cannot be reached")

    tools["listmonk"] = Down(states={ANNA_ASCII: "subscribed"})
    done = erase(errand(dsn, tools), ANNA, "ben")
    assert done.state == "pending"
    with psycopg.connect(dsn) as connection:
        connection.execute(
            "insert into activation.drift"
            " (run_id, publication_id, destination, audience, address, kind)"
            " values ('run', 1, 'listmonk', 'Champions', %s, 'extra')",
            (ANNA_ASCII,),
        )
    settled = erasure.settle_by_hand(errand(dsn, tools), done.erasure_id, "listmonk")
    assert settled.state == "done"
    _assert_gone(dsn)


def test_it_takes_the_lock_that_deliveries_take() -> None:
    from kundenkreis.activation import delivery

    assert erasure._DELIVERY_LOCKS == delivery.LOCK_NAMESPACE
