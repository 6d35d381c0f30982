"""The ledger's own rules, on a real PostgreSQL without a tool: what an attempt leads to."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
import tenacity

from kundenkreis.activation import jobs, ledger
from kundenkreis.activation.ledger import Answer, Entries, NotSent, PlannedRow
from kundenkreis.destinations.base import Outcome, rejected
from kundenkreis.warehouse.schema import ensure_schemas
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


def record(
    connection: psycopg.Connection, publication: int, *rows: PlannedRow
) -> tuple[int, list[str]]:
    """A batch under way: its id and the keys of its rows."""
    entries = Entries(publication, f"run{publication}", "mailchimp")
    batch_id = ledger.record(connection, entries, "upsert", rows)
    return batch_id, [one.plan_row_id for one in rows]


def attempt(
    connection: psycopg.Connection, publication: int, outcome: Outcome, *rows: PlannedRow
) -> None:
    """Record rows and settle them all as the outcome says."""
    batch_id, keys = record(connection, publication, *rows)
    outcomes = [outcome._replace(key=key) for key in keys]
    ledger.settle(connection, [Answer(batch_id, keys, outcomes, MADE_AT)])


def lose(connection: psycopg.Connection, publication: int, *rows: PlannedRow) -> None:
    """Record rows whose request gets no usable answer."""
    batch_id, _ = record(connection, publication, *rows)
    ledger.settle(connection, [Answer(batch_id, (), "VendorError", MADE_AT)])


def state(connection: psycopg.Connection, columns: str, of: str = "delivered_state") -> Any:
    query = f"select {columns} from activation.{of} where address = 'anna@shop.de'"
    return connection.execute(query.encode()).fetchone()


def counts(connection: psycopg.Connection, *tables: str) -> list[int]:
    """Rows of tables."""
    query = ", ".join(f"(select count(*) from activation.{table})" for table in tables)
    return list(connection.execute(f"select {query}".encode()).fetchone() or ())


def test_a_batch_becomes_attempts_and_keeps_its_times(connection: psycopg.Connection) -> None:
    batch_id, keys = record(connection, 1, row())
    assert state(connection, "in_doubt, pending_attributes", "effective_state") == (
        True,
        {"stage": "loyalty"},
    )
    ledger.mark_sent(connection, batch_id, "job1")
    ledger.mark_sent(connection, batch_id, "job2")  # is sent already
    columns = "state, vendor_job_id, intended_at < settled_at, sent_at < settled_at, sent_at = %s"
    ledger.settle(connection, [Answer(batch_id, keys, [Outcome("anna", "confirmed")], MADE_AT)])
    ledger.settle(connection, [Answer(batch_id, (), "late")])  # is settled already

    found = connection.execute(
        f"select {columns}, reason_code from activation.ledger".encode(), (MADE_AT,)
    ).fetchall()

    assert found == [("confirmed", "job1", True, True, False, None)]
    for relation in ("delivered_state", "effective_state"):
        assert state(connection, "in_doubt, attributes, confirmed_publication_id", relation) == (
            False,
            {"stage": "loyalty"},
            1,
        )
    assert counts(connection, "batches_under_way") == [0]


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
    lose(connection, 1, row())
    attempt(connection, 2, rejected("", "bad_field"), row())
    assert state(connection, "in_doubt, pending_attributes") == (True, {"stage": "loyalty"})
    attempt(connection, 3, Outcome("", "confirmed"), row())
    assert state(connection, "in_doubt, pending_attributes") == (False, {})


def test_a_doubt_adds_to_the_one_before_it(connection: psycopg.Connection) -> None:
    lose(connection, 1, row())
    lose(connection, 2, row()._replace(attributes='{"orders": 3}'))
    both = {"stage": "loyalty", "orders": 3}
    assert state(connection, "in_doubt, pending_attributes, attributes") == (True, both, {})
    record(connection, 3, row()._replace(attributes='{"city": "Ulm"}'))
    assert state(connection, "pending_attributes", "effective_state") == ({**both, "city": "Ulm"},)


def test_a_confirmed_row_clears_what_it_says_and_leaves_the_rest(
    connection: psycopg.Connection,
) -> None:
    attempt(connection, 1, Outcome("", "confirmed"), row()._replace(attributes='{"a":1,"b":null}'))
    assert state(connection, "attributes") == ({"a": 1},)
    attempt(connection, 2, Outcome("", "confirmed"), row()._replace(attributes='{"b":2,"c":3}'))
    attempt(connection, 3, Outcome("", "confirmed"), row()._replace(attributes='{"a":null,"c":4}'))
    assert state(connection, "attributes, pending_attributes") == ({"b": 2, "c": 4}, {})


def test_a_row_without_an_outcome_is_unknown(connection: psycopg.Connection) -> None:
    batch_id, keys = record(connection, 1, row(), row("bert"))
    ledger.settle(connection, [Answer(batch_id, keys, [Outcome("bert", "confirmed")], MADE_AT)])
    assert connection.execute(
        "select plan_row_id, state, reason_code from activation.ledger order by 1"
    ).fetchall() == [("anna", "unknown", "no_outcome"), ("bert", "confirmed", None)]
    assert state(connection, "in_doubt") == (True,)


def test_a_batch_that_is_given_up_leaves_no_trace(connection: psycopg.Connection) -> None:
    batch_id, _ = record(connection, 1, row())
    ledger.give_up(connection, batch_id)
    tables = ("batches_under_way", "effective_state", "ledger")
    assert counts(connection, *tables) == [0, 0, 0]
    lose(connection, 1, row())
    batch_id, _ = record(connection, 2, row())
    ledger.give_up(connection, batch_id)
    assert state(connection, "in_doubt", "effective_state") == (True,)  # as before
    assert counts(connection, *tables) == [0, 1, 1]


def test_what_a_killed_delivery_left_is_in_doubt_but_for_jobs(
    connection: psycopg.Connection,
) -> None:
    record(connection, 1, row(), row("bert"))
    batch_id, _ = record(connection, 1, row("cora"))
    ledger.mark_sent(connection, batch_id, "job1")
    other = Entries(1, "run1", "listmonk")
    ledger.record(connection, other, "upsert", [row("dora")])

    assert ledger.doubt_interrupted(connection, "mailchimp") == 2

    assert connection.execute(
        "select plan_row_id, state, reason_code from activation.ledger order by 1"
    ).fetchall() == [("anna", "unknown", "interrupted"), ("bert", "unknown", "interrupted")]
    assert connection.execute(
        "select plan_row_id, state from activation.rows_under_way order by 1"
    ).fetchall() == [("cora", "sent"), ("dora", "intended")]
    doubted = "select address from activation.{} where in_doubt order by 1"
    assert len(connection.execute(doubted.format("delivered_state").encode()).fetchall()) == 2
    assert len(connection.execute(doubted.format("effective_state").encode()).fetchall()) == 4


@pytest.mark.parametrize("first", ["answer", "doubt"])
def test_who_ends_a_batch_second_changes_nothing(
    connection: psycopg.Connection, module_warehouse_dsn: str, first: str
) -> None:
    """Two ends of one batch, the second of which waits for the first one's commit."""
    batch_id, keys = record(connection, 1, row())
    connection.commit()

    def end(kind: str, session: psycopg.Connection) -> None:
        if kind == "answer":
            confirmed = [Outcome("anna", "confirmed")]
            ledger.settle(session, [Answer(batch_id, keys, confirmed, MADE_AT)])
        else:
            ledger.settle(session, [Answer(batch_id, (), "interrupted")])

    with psycopg.connect(module_warehouse_dsn) as other, ThreadPoolExecutor(1) as beside:
        end(first, connection)
        # Until that is committed everybody sees the doubt, and nobody half of what follows.
        assert state(other, "in_doubt, is_member", "effective_state") == (True, False)
        waiting = beside.submit(end, "doubt" if first == "answer" else "answer", other)
        _wait_until_blocked(module_warehouse_dsn)
        connection.commit()
        waiting.result()
    found = connection.execute("select state from activation.ledger").fetchall()
    in_doubt = state(connection, "in_doubt", "effective_state")
    assert (found, in_doubt) == (
        ([("confirmed",)], (False,)) if first == "answer" else ([("unknown",)], (True,))
    )


@tenacity.retry(
    retry=tenacity.retry_if_exception_type(AssertionError),
    stop=tenacity.stop_after_delay(20),
    wait=tenacity.wait_fixed(0.02),
)
def _wait_until_blocked(dsn: str) -> None:
    with psycopg.connect(dsn) as session:
        waits = session.execute(
            "select count(*) from pg_stat_activity"
            " where wait_event_type = 'Lock' and datname = current_database()"
        ).fetchone()
    assert waits == (1,)


def test_a_created_contact_is_known_at_once_and_its_opt_in_is_our_echo(
    connection: psycopg.Connection,
) -> None:
    known = b"select address, state, vendor_id from activation.known_contacts"
    connection.execute(
        "insert into activation.destinations values ('mailchimp', true, 5, now(), 'run1')"
    )
    batch_id, keys = record(connection, 1, row(vendor_id=None))
    assert state(connection, "creation_attempted_at is not null", "effective_state") == (True,)
    outcome = Outcome("anna", "confirmed", vendor_id="99", created=True)
    ledger.settle(connection, [Answer(batch_id, keys, [outcome], MADE_AT)])

    assert state(connection, "creation_attempted_at is not null") == (True,)
    assert connection.execute(known).fetchall() == [("anna@shop.de", "subscribed", "99")]
    attempt(connection, 2, Outcome("", "confirmed"), row())
    assert state(connection, "creation_attempted_at is not null") == (True,)


@pytest.mark.parametrize("reads", ["unsubscribed", "nothing"])
def test_what_a_tool_says_counts_from_its_next_reading_on(
    connection: psycopg.Connection, reads: str
) -> None:
    """Of a contact that we created, and that somebody unsubscribed or deleted there."""
    known = b"select address, state, vendor_id from activation.known_contacts"
    connection.execute(
        "insert into activation.destinations values ('mailchimp', true, 5, now(), 'run1')"
    )
    batch_id, keys = record(connection, 1, row(vendor_id=None))
    outcome = Outcome("anna", "confirmed", vendor_id="99", created=True)
    ledger.settle(connection, [Answer(batch_id, keys, [outcome], MADE_AT)])
    read = [("anna@shop.de", reads, "99")] if reads != "nothing" else []
    connection.cursor().executemany(
        "insert into activation.subscriber_states"
        " (destination, address, state, vendor_id, read_at, run_id)"
        " values ('mailchimp', %s, %s, %s, now(), 'run1')",
        read,
    )
    assert len(connection.execute(known).fetchall()) == 1  # read meanwhile, or not read yet
    connection.execute("update activation.destinations set states_read_at = clock_timestamp()")

    assert connection.execute(known).fetchall() == read


@pytest.mark.parametrize("doubled", ["before", "in one statement"])
def test_rows_taken_for_new_that_are_not_are_refused(
    connection: psycopg.Connection, doubled: str
) -> None:
    """What `Sending` answers by settling each batch with a look at what is known."""
    batches = [record(connection, number, row()) for number in (1, 2)]
    answers = [Answer(b, keys, [Outcome("anna", "confirmed")], MADE_AT) for b, keys in batches]
    connection.commit()
    assert ledger.is_new(connection, "mailchimp", "")
    if doubled == "before":
        ledger.settle(connection, [answers.pop(0)], are_new=True)
        assert not ledger.is_new(connection, "mailchimp", "")
        assert ledger.is_new(connection, "mailchimp", "Champions")
        connection.commit()
    with pytest.raises(psycopg.errors.UniqueViolation):
        ledger.settle(connection, answers, are_new=True)
    connection.rollback()

    for answer in answers:
        ledger.settle(connection, [answer])
    assert state(connection, "confirmed_publication_id") == (2,)
    assert counts(connection, "ledger", "delivered_state", "batches_under_way") == [2, 1, 0]


@pytest.mark.parametrize("waits", [True, False])
def test_only_who_asks_for_it_does_not_wait_for_the_disk(
    connection: psycopg.Connection, waits: bool
) -> None:
    """And only for that transaction: what is recorded over the connection afterwards waits."""
    batch_id, keys = record(connection, 1, row())
    answer = Answer(batch_id, keys, [Outcome("anna", "confirmed")])
    ledger.settle(connection, [answer], wait_for_disk=waits)

    assert connection.execute("show synchronous_commit").fetchone() == ("on" if waits else "off",)
    connection.commit()
    assert connection.execute("show synchronous_commit").fetchone() == ("on",)


def test_batches_of_every_kind_are_settled_in_one_statement(
    connection: psycopg.Connection,
) -> None:
    names = ("anna", "bert", "cora", "dora", "emil")
    refused, silent, lost, made, gone = [record(connection, 1, row(name)) for name in names]
    ledger.settle(connection, [Answer(gone[0], gone[1], [Outcome("emil", "confirmed")])])
    ledger.settle(
        connection,
        [
            Answer(*lost, "VendorError"),
            Answer(*refused, [rejected("anna", "bad_field")], MADE_AT),
            Answer(*silent, []),
            Answer(*gone, [rejected("emil", "late")]),  # is settled already
            Answer(*made, [Outcome("dora", "confirmed", vendor_id="9", created=True)]),
        ],
    )

    columns = "plan_row_id, state, reason_code, vendor_reference, sent_at = %s"
    found = connection.execute(
        f"select {columns} from activation.ledger order by 1".encode(), (MADE_AT,)
    ).fetchall()
    assert found == [
        ("anna", "rejected", "bad_field", None, True),
        ("bert", "unknown", "no_outcome", None, None),
        ("cora", "unknown", "VendorError", None, None),
        ("dora", "confirmed", None, "9", None),
        ("emil", "confirmed", None, None, None),
    ]
    assert counts(connection, "batches_under_way", "delivered_state") == [0, 5]


def test_a_batch_of_every_kind_is_written_whole(connection: psycopg.Connection) -> None:
    entries = Entries(1, "run1", "mailchimp")
    rows = [row(f"p{number}", f"payload {number}") for number in range(500)]
    batch_id, keys = record(connection, 1, *rows)
    outcomes = [
        Outcome(one.plan_row_id, "confirmed") if number % 5 else rejected(one.plan_row_id, "no")
        for number, one in enumerate(rows)
    ]
    outcomes.reverse()  # a tool answers in any order
    ledger.settle(connection, [Answer(batch_id, keys, outcomes, MADE_AT)])
    ledger.record_not_sent(
        connection, entries, "upsert", [NotSent(row("late"), "suppressed", "tool_unsubscribed")]
    )

    counted = "select state, count(*) from activation.ledger group by 1 order by 1"
    assert connection.execute(counted.encode()).fetchall() == [
        ("confirmed", 400),
        ("rejected", 100),
        ("suppressed", 1),
    ]
    doubts = (
        "select count(*), count(*) filter (where in_doubt), count(*) filter (where rejections = 1)"
        " from activation.delivered_state"
    )
    assert connection.execute(doubts.encode()).fetchall() == [(500, 0, 100)]
    assert connection.execute(
        "select count(*) from activation.delivery_errors as refused"
        " inner join activation.ledger using (attempt_id)"
        " where ledger.customer_id = refused.customer_id and ledger.state = 'rejected'"
    ).fetchone() == (100,)


def test_columns_arrive_as_they_were_handed_over(connection: psycopg.Connection) -> None:
    named = row("jürgen")._replace(segment="größte", customer_id="", attributes='{"a": "Zoë 😀"}')
    bare = row("bert")._replace(attributes="{}")
    batch_id, _ = record(connection, 1, named, bare)
    columns = "select address, segment, customer_id, attributes from activation.{} order by 1"
    under_way = connection.execute(columns.format("rows_under_way").encode()).fetchall()
    ledger.settle(connection, [Answer(batch_id, (), "VendorError")])

    assert under_way == [
        ("bert@shop.de", None, "c-bert", {}),
        ("jürgen@shop.de", "größte", "", {"a": "Zoë 😀"}),
    ]
    assert connection.execute(columns.format("ledger").encode()).fetchall() == under_way


# The tables as the version before had them, with what a delivery under way left in them.
_BEFORE = """
alter table activation.delivered_state
    add column was_in_doubt boolean not null default false;
insert into activation.delivered_state (
    destination, audience, address, customer_id, in_doubt, was_in_doubt, pending_attributes
)
values
    ('klaviyo', '', 'anna@shop.de', 'c-anna', true, false, '{"stage": "loyalty"}'),
    ('klaviyo', '', 'bert@shop.de', 'c-bert', true, true, '{"stage": "loyalty", "orders": 3}'),
    ('klaviyo', 'Champions', 'cora@shop.de', 'c-cora', true, false, '{}'),
    ('klaviyo', 'Champions', 'dora@shop.de', 'c-dora', true, false, '{}'),
    ('klaviyo', 'Champions', 'emil@shop.de', 'c-emil', false, true, '{"stage": "reach"}');
insert into activation.ledger (
    plan_row_id, publication_id, run_id, destination, audience, customer_id, operation, address,
    attributes, payload_hash, state, vendor_job_id, sent_at
)
values
    ('p1', 3, 'r', 'klaviyo', '', 'c-anna', 'upsert', 'anna@shop.de', '{"stage": "loyalty"}', 'h1',
        'sent', 'job1', now()),
    ('p2', 3, 'r', 'klaviyo', '', 'c-bert', 'upsert', 'bert@shop.de', '{"stage": "loyalty"}', 'h2',
        'sent', 'job1', now()),
    ('p3', 3, 'r', 'klaviyo', 'Champions', 'c-cora', 'add', 'cora@shop.de', '{}', 'h3', 'intended',
        null, null),
    ('p4', 3, 'r', 'klaviyo', 'Champions', 'c-dora', 'add', 'dora@shop.de', '{}', 'h4', 'sent',
        null, null),
    ('p5', 2, 'r', 'klaviyo', 'Champions', 'c-emil', 'add', 'emil@shop.de', '{}', 'h5',
        'confirmed', null, now());
"""


def test_an_upgrade_keeps_the_doubts_and_the_jobs_of_the_version_before(
    connection: psycopg.Connection, module_warehouse_dsn: str
) -> None:
    connection.execute(_BEFORE)
    doubts = "select address from activation.{} where in_doubt order by 1"
    before = connection.execute(doubts.format("delivered_state").encode()).fetchall()
    connection.commit()

    for _ in range(2):
        ensure_schemas(module_warehouse_dsn, again=True)

    assert connection.execute(doubts.format("effective_state").encode()).fetchall() == before
    assert connection.execute(
        "select plan_row_id, state, reason_code from activation.ledger order by 1"
    ).fetchall() == [
        ("p3", "unknown", "interrupted"),
        ("p4", "unknown", "interrupted"),
        ("p5", "confirmed", None),
    ]
    pending = "select address, in_doubt, pending_attributes from activation.{} order by 1"
    assert connection.execute(pending.format("delivered_state").encode()).fetchall() == [
        ("anna@shop.de", False, {}),
        ("bert@shop.de", True, {"stage": "loyalty", "orders": 3}),
        ("cora@shop.de", True, {}),
        ("dora@shop.de", True, {}),
        ("emil@shop.de", False, {}),
    ]
    (job,) = jobs.submitted(connection, "klaviyo")
    keys = [one.key for one in job.batch.rows]
    assert (job.job_id, keys, job.batch.rows[0].attributes) == (
        "job1",
        ["p1", "p2"],
        {"stage": "loyalty"},
    )
    outcomes = [rejected("p1", "bad_field"), Outcome("p2", "confirmed")]
    ledger.settle(connection, [Answer(job.batch_id, keys, outcomes)])
    assert connection.execute(doubts.format("effective_state").encode()).fetchall() == [
        ("cora@shop.de",),
        ("dora@shop.de",),
    ]
