"""The ledger's own rules, on a real PostgreSQL without a tool: what an attempt leads to."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

from kundenkreis.activation import ledger
from kundenkreis.activation.ledger import Entries, NotSent, PlannedRow
from kundenkreis.destinations.base import Outcome, rejected
from tests.integration.activation_warehouse import empty_warehouse

pytestmark = pytest.mark.integration
MADE_AT = datetime(2026, 11, 22, 1, 30, tzinfo=UTC)


@pytest.fixture
def connection(module_warehouse_dsn: str) -> Iterator[psycopg.Connection]:
    empty_warehouse(module_warehouse_dsn)
    with psycopg.connect(module_warehouse_dsn) as opened:
        yield opened


def row(key: str = "anna", payload: str = "p1", vendor_id: str | None = "7") -> PlannedRow:
    attributes = '{"stage": "loyalty"}'
    address = f"{key}@shop.de"
    return PlannedRow(
        key, None, None, f"c-{key}", address, attributes, payload, True, vendor_id, None
    )


def attempt(
    connection: psycopg.Connection, publication: int, outcome: Outcome | None, *rows: PlannedRow
) -> dict[str, int]:
    """Intend rows and settle them all as the outcome says; None leaves them open."""
    entries = Entries(publication, f"run{publication}", "mailchimp")
    attempts = ledger.intend(connection, entries, "upsert", rows)
    if outcome is not None:
        outcomes = [Outcome(one, outcome.state, outcome.reason_code) for one in attempts]
        ledger.settle(connection, entries.run_id, attempts, outcomes, MADE_AT)
    return attempts


def state(connection: psycopg.Connection, columns: str) -> Any:
    query = f"select {columns} from activation.delivered_state where address = 'anna@shop.de'"
    return connection.execute(query.encode()).fetchone()


def test_an_attempt_moves_forward_and_keeps_its_times(connection: psycopg.Connection) -> None:
    (attempt_id,) = attempt(connection, 1, None, row()).values()
    ledger.mark_sent(connection, [attempt_id], "job1")
    ledger.mark_sent(connection, [attempt_id], "job2")  # is sent already
    columns = "state, vendor_job_id, sent_at < settled_at, sent_at = %s"
    ledger.settle(connection, "run1", {"anna": attempt_id}, [Outcome("anna", "confirmed")], MADE_AT)
    ledger.mark_unknown(connection, [attempt_id], "late")  # is settled already

    found = connection.execute(
        f"select {columns}, reason_code from activation.ledger".encode(), (MADE_AT,)
    ).fetchall()

    assert found == [("confirmed", "job1", True, False, None)]
    assert state(connection, "in_doubt, attributes, confirmed_publication_id") == (
        False,
        {"stage": "loyalty"},
        1,
    )


def test_a_request_keeps_when_it_was_made(connection: psycopg.Connection) -> None:
    attempt(connection, 1, Outcome("", "confirmed"), row())
    found = connection.execute("select sent_at from activation.ledger").fetchall()
    assert found == [(MADE_AT,)]


def test_the_gaps_between_retries_double_and_start_again_with_a_new_payload(
    connection: psycopg.Connection,
) -> None:
    refused = rejected("", "bad_field")
    columns = "rejections, retry_from_publication_id, rejected_reason, in_doubt"
    found = []
    for publication in (1, 2, 4, 8):
        attempt(connection, publication, refused, row())
        found.append(state(connection, columns))
    attempt(connection, 16, refused, row(payload="p2"))
    found.append(state(connection, columns))

    assert found == [
        (1, 2, "bad_field", False),
        (2, 4, "bad_field", False),
        (3, 8, "bad_field", False),
        (4, 16, "bad_field", False),
        (1, 17, "bad_field", False),
    ]
    attempt(connection, 17, Outcome("", "confirmed"), row(payload="p2"))
    assert state(connection, columns) == (0, None, None, False)


def test_a_refused_repeat_leaves_the_doubt_of_the_attempt_before_it(
    connection: psycopg.Connection,
) -> None:
    lost = attempt(connection, 1, None, row())
    ledger.mark_unknown(connection, list(lost.values()), "VendorError", MADE_AT)
    attempt(connection, 2, rejected("", "bad_field"), row())
    assert state(connection, "in_doubt") == (True,)
    attempt(connection, 3, Outcome("", "confirmed"), row())
    assert state(connection, "in_doubt") == (False,)


def test_what_was_not_begun_is_in_no_doubt_unless_it_was_before(
    connection: psycopg.Connection,
) -> None:
    never = attempt(connection, 1, None, row())
    ledger.give_up(connection, list(never.values()))
    assert state(connection, "in_doubt") == (False,)
    lost = attempt(connection, 1, None, row())
    ledger.mark_unknown(connection, list(lost.values()), "VendorError", MADE_AT)
    again = attempt(connection, 2, None, row())
    ledger.give_up(connection, list(again.values()))
    assert state(connection, "in_doubt") == (True,)
    reasons = "select reason_code, sent_at is null from activation.ledger order by attempt_id"
    assert connection.execute(reasons.encode()).fetchall() == [
        ("not_begun", True),
        ("VendorError", False),
        ("not_begun", True),
    ]


def test_a_created_contact_is_known_at_once_and_its_opt_in_is_our_echo(
    connection: psycopg.Connection,
) -> None:
    entries = Entries(1, "run1", "mailchimp")
    attempts = ledger.intend(connection, entries, "upsert", [row(vendor_id=None)])
    outcome = Outcome("anna", "confirmed", vendor_id="99", created=True)
    ledger.settle(connection, "run1", attempts, [outcome], MADE_AT)

    assert state(connection, "creation_attempted_at is not null") == (True,)
    assert connection.execute(
        "select address, state, vendor_id from activation.subscriber_states"
    ).fetchall() == [("anna@shop.de", "subscribed", "99")]


def test_a_batch_of_every_kind_is_written_whole(connection: psycopg.Connection) -> None:
    entries = Entries(1, "run1", "mailchimp")
    rows = [row(f"p{number}", f"payload {number}") for number in range(500)]
    attempts = ledger.intend(connection, entries, "upsert", rows)
    outcomes = [
        Outcome(one.plan_row_id, "confirmed") if number % 5 else rejected(one.plan_row_id, "no")
        for number, one in enumerate(rows)
    ]
    ledger.settle(connection, "run1", attempts, outcomes, MADE_AT)
    ledger.record_not_sent(
        connection, entries, "upsert", [NotSent(row("late"), "suppressed", "tool_unsubscribed")]
    )

    counted = "select state, count(*) from activation.ledger group by 1 order by 1"
    assert connection.execute(counted.encode()).fetchall() == [
        ("confirmed", 400),
        ("rejected", 100),
        ("suppressed", 1),
    ]
    doubts = "select count(*), count(*) filter (where in_doubt) from activation.delivered_state"
    assert connection.execute(doubts.encode()).fetchall() == [(500, 0)]


def test_columns_arrive_as_they_were_handed_over(connection: psycopg.Connection) -> None:
    entries = Entries(1, "run1", "mailchimp")
    named = row("jürgen")._replace(segment="größte", customer_id="", attributes='{"a": "Zoë 😀"}')
    bare = row("bert")._replace(attributes="{}")
    ledger.intend(connection, entries, "upsert", [named, bare])

    assert connection.execute(
        "select address, segment, customer_id, attributes from activation.ledger order by 1"
    ).fetchall() == [
        ("bert@shop.de", None, "c-bert", {}),
        ("jürgen@shop.de", "größte", "", {"a": "Zoë 😀"}),
    ]
