"""Plan, delivery and reconciliation on a real PostgreSQL with the real dbt models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest

from kundenkreis.activation import delivery, ledger, plan, reconciliation, subscribers
from kundenkreis.destinations.base import Batch, Outcome, Submitted
from kundenkreis.errors import PlanOutdated, VendorError
from tests.integration.activation_warehouse import (
    CHAMPIONS,
    MemoryTool,
    Person,
    QueueingTool,
    build_plan,
    empty_warehouse,
    plan_of,
    segment,
    settings_for,
    write_marts,
)

pytestmark = pytest.mark.integration
SILENT: Callable[[str], None] = lambda message: None  # noqa: E731


@pytest.fixture
def dsn(module_warehouse_dsn: str) -> str:
    """One database for all tests, emptied for each: a parsed dbt project names its database."""
    empty_warehouse(module_warehouse_dsn)
    return module_warehouse_dsn


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One dbt target folder, so that the project is parsed once."""
    return tmp_path_factory.mktemp("dbt_target")


class Night:
    """One tool, one warehouse, night after night."""

    def __init__(self, dsn: str, target: Path, tool: MemoryTool, **options: Any) -> None:
        self.dsn, self.target, self.tool = dsn, target, tool
        self.settings = settings_for(**options)

    def read(self) -> dict[str, Any]:
        return subscribers.read_subscriber_states(
            "listmonk", self.settings, _no_connection, self.dsn, "r", SILENT, open_tool=self.open
        )

    def plan(
        self,
        people: Sequence[Person],
        segments: Sequence[dict[str, Any]] = (CHAMPIONS,),
        others: Sequence[dict[str, Any]] = (),
    ) -> int:
        self.read()
        publication_id = write_marts(self.dsn, people, others)
        build_plan(self.dsn, publication_id, self.target, segments)
        return publication_id

    def deliver(self, publication_id: int) -> dict[str, Any]:
        return delivery.deliver(
            "listmonk",
            self.settings,
            _no_connection,
            self.dsn,
            "r",
            publication_id,
            SILENT,
            open_tool=self.open,
        )

    def reconcile(self, publication_id: int) -> dict[str, Any]:
        return reconciliation.reconcile(
            "listmonk",
            self.settings,
            _no_connection,
            self.dsn,
            f"r{publication_id}",
            publication_id,
            SILENT,
            open_tool=self.open,
        )

    def run(self, people: Sequence[Person], **arguments: Any) -> dict[str, Any]:
        self.tool.written.clear()
        return self.deliver(self.plan(people, **arguments))

    def open(self, name: str, settings: Any, resolve: Any) -> MemoryTool:
        self.tool.calls = 0
        return self.tool

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.dsn) as connection:
            return connection.execute(sql.encode()).fetchall()


def _no_connection(connection_id: str) -> Any:
    raise AssertionError("the tool in memory needs no connection")


def known(*names: str) -> dict[str, str]:
    return {f"{name}@shop.de": "subscribed" for name in names}


def person(name: str, **options: Any) -> Person:
    return Person(f"c-{name}", f"{name}@shop.de", **options)


def test_first_night_delivers_and_an_unchanged_second_night_writes_nothing(
    dsn: str, target: Path
) -> None:
    night = Night(dsn, target, MemoryTool(states=known("anna", "bert", "cora", "müller")))
    people = [person(name) for name in ("anna", "bert", "cora", "müller")]

    summary = night.run(people)

    assert night.tool.members == {"Champions": {p.address for p in people}}
    assert night.tool.attributes["müller@shop.de"] == {"stage": "loyalty", "monetary": 12.5}
    assert night.tool.types == {"stage": "text", "monetary": "number"}
    assert (summary["confirmed"], summary["rejected"], summary["sent"]) == (8, 0, 8)
    assert summary["audiences"] == {"Champions": {"add": {"confirmed": 4}}}

    again = night.run(people)

    assert night.tool.written == []
    assert (again["sent"], again["calls"]) == (0, 0)


def test_only_changed_fields_are_sent_and_left_attributes_are_cleared(
    dsn: str, target: Path
) -> None:
    night = Night(dsn, target, MemoryTool(states=known("anna", "bert")))
    night.run([person("anna"), person("bert")])

    publication = night.plan([person("anna", monetary=20), person("bert", segments=())])
    sent = night.query(
        "select address, attributes::jsonb, changed_fields::jsonb from activation.plan_rows"
        f" where publication_id = {publication} and operation = 'upsert' order by address"
    )
    night.deliver(publication)

    assert sent == [
        ("anna@shop.de", {"monetary": 20.0}, ["monetary"]),
        ("bert@shop.de", {"monetary": None, "stage": None}, ["monetary", "stage"]),
    ]
    assert night.tool.members["Champions"] == {"anna@shop.de"}
    assert night.query(
        "select attributes from activation.delivered_state where audience = '' order by address"
    ) == [
        ({"stage": "loyalty", "monetary": 20.0},),
        ({},),
    ]


def test_unconsented_and_held_out_people_are_suppressed_with_their_reason(
    dsn: str, target: Path
) -> None:
    night = Night(dsn, target, MemoryTool(states=known("anna", "bert", "cora")))
    publication = night.plan(
        [
            person("anna"),
            person("bert", contactable=False, reason="consent_unknown"),
            person("cora", holdout=True),
        ]
    )

    rows = plan_of(dsn, publication)

    assert ("add", "Champions", None, "suppressed", "consent_unknown") in rows
    assert ("add", "Champions", None, "suppressed", "holdout") in rows
    night.deliver(publication)
    assert night.tool.members["Champions"] == {"anna@shop.de"}
    assert {address for _, address, _ in night.tool.written} == {"anna@shop.de"}


def test_a_plan_that_would_send_a_held_out_member_fails_its_test(dsn: str, target: Path) -> None:
    publication = write_marts(dsn, [person("anna"), person("cora", holdout=True)])
    build_plan(dsn, publication, target)
    test = "assert_plan_sends_no_holdout"
    build_plan(dsn, publication, target, command="test", select=test)
    with psycopg.connect(dsn) as connection:
        connection.execute(
            "update activation.plan_rows set status = 'planned', address = 'cora@shop.de'"
            " where status_reason = 'holdout'"
        )

    with pytest.raises(AssertionError, match=test):
        build_plan(dsn, publication, target, command="test", select=test)


def test_a_person_who_withdrew_is_never_written_to_but_leaves_our_audience(
    dsn: str, target: Path
) -> None:
    night = Night(dsn, target, MemoryTool(states=known("anna", "bert")))
    night.run([person("anna"), person("bert")])
    night.tool.states["anna@shop.de"] = "unsubscribed"

    night.run(
        [person("anna", contactable=False, reason="withdrawn", stage="churned"), person("bert")]
    )

    assert night.tool.written == [("remove", "anna@shop.de", "Champions")]
    assert night.tool.members["Champions"] == {"bert@shop.de"}


def test_a_withdrawal_between_plan_and_delivery_wins_over_the_plan(dsn: str, target: Path) -> None:
    night = Night(dsn, target, MemoryTool(states=known("anna", "bert")))
    publication = night.plan([person("anna"), person("bert")])
    night.tool.states["anna@shop.de"] = "unsubscribed"

    summary = night.deliver(publication)

    assert {address for _, address, _ in night.tool.written} == {"bert@shop.de"}
    assert summary["suppressed"] == 2
    assert night.query(
        "select distinct reason_code from activation.ledger where state = 'suppressed'"
    ) == [("withdrawn_since_plan",)]


@pytest.mark.parametrize("state", ["unsubscribed", "complained", "blocklisted"])
def test_a_withdrawal_at_one_address_blocks_the_persons_other_address(
    dsn: str, target: Path, state: str
) -> None:
    night = Night(dsn, target, MemoryTool(states=known("anna", "work")))
    other = {
        "customer_id": "c-anna",
        "address": "work@shop.de",
        "is_contactable": True,
        "reason": "consent_double",
    }
    publication = night.plan([person("anna")], others=[other])
    night.tool.states["work@shop.de"] = state

    night.deliver(publication)

    assert night.tool.written == []


@pytest.mark.parametrize("moment", ["after the as-of day", "while the marts were built"])
def test_a_withdrawal_that_the_marts_could_not_see_yet_blocks_in_every_tool(
    dsn: str, target: Path, moment: str
) -> None:
    night = Night(dsn, target, MemoryTool(states=known("anna", "bert")))
    publication = night.plan([person("anna"), person("bert")])
    if moment == "after the as-of day":  # an old opt-out by what we know, but dated after the 22nd
        read, withdrawn = "2026-11-23 00:30:00+00", "2026-11-23 00:10:00+00"
    else:
        read, withdrawn = "2026-11-22 23:10:00+00", "2026-11-20 12:00:00+00"
    with psycopg.connect(dsn) as connection:
        connection.execute(
            "insert into activation.subscriber_states (destination, address, state,"
            " state_changed_at, vendor_id, observed_at, read_at, run_id)"
            " values ('mailchimp', 'anna@shop.de', 'unsubscribed', %s, '1', %s, now(), 'r')",
            (withdrawn, read),
        )
        connection.execute(
            "insert into operations.task_results"
            " (run_id, task_id, as_of_date, state, summary, started_at)"
            " values ('run', 'transform', '2026-11-22', 'success', '{}', '2026-11-22 23:00+00')"
            " on conflict do nothing"
        )

    night.deliver(publication)

    assert {address for _, address, _ in night.tool.written} == {"bert@shop.de"}


@pytest.mark.parametrize("creates", [True, False])
def test_an_unknown_contact_is_created_only_where_allowed(
    dsn: str, target: Path, creates: bool
) -> None:
    night = Night(dsn, target, MemoryTool(), create_contacts=creates)

    publication = night.plan([person("anna"), person("bert", evidence="existing_customer")])
    night.deliver(publication)

    assert ("add", "Champions", "bert@shop.de", "skipped", "not_in_tool") in plan_of(
        dsn, publication
    )
    assert night.tool.states == (known("anna") if creates else {})
    assert night.tool.members == ({"Champions": {"anna@shop.de"}} if creates else {})


def test_what_we_created_is_no_evidence_of_its_own(dsn: str, target: Path) -> None:
    night = Night(dsn, target, MemoryTool(), create_contacts=True)
    night.run([person("anna")])

    night.read()

    assert night.query("select state, evidence, vendor_id from activation.subscriber_states") == [
        ("subscribed", None, "id:anna@shop.de")
    ]


def test_a_plan_made_before_the_tool_is_read_again_creates_nobody_twice(
    dsn: str, target: Path
) -> None:
    people = [person("anna"), person("bert")]
    night = Night(dsn, target, MemoryTool(), create_contacts=True)
    publication = night.plan(people)
    assert len(plan_of(dsn, publication)) == 4
    night.deliver(publication)

    publication = write_marts(dsn, people)
    build_plan(dsn, publication, target, (CHAMPIONS,))

    assert plan_of(dsn, publication) == set()


def test_an_address_corrected_in_the_tool_keeps_its_audiences_even_of_a_new_contact(
    dsn: str, target: Path
) -> None:
    night = Night(dsn, target, MemoryTool(), create_contacts=True)
    night.run([person("anna")])
    night.tool.states = known("ann")
    night.tool.ids = {"ann@shop.de": "id:anna@shop.de"}

    night.read()

    assert night.query("select distinct address from activation.delivered_state") == [
        ("ann@shop.de",)
    ]


def test_an_audience_that_is_not_new_after_all_is_delivered_all_the_same(
    dsn: str, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else wrote its state between the question whether it is new and the answer."""
    people = [person(name) for name in ("anna", "bert", "cora")]
    night = Night(dsn, target, MemoryTool(states=known("anna", "bert", "cora")))
    night.run(people[:2])
    monkeypatch.setattr(ledger, "is_new", lambda *_: True)

    summary = night.run([person("anna", stage="at_risk"), *people[1:]])

    assert (summary["confirmed"], summary["unknown"]) == (3, 0)
    assert night.query("select count(*) from activation.batches_under_way") == [(0,)]
    assert night.run([person("anna", stage="at_risk"), *people[1:]])["sent"] == 0


def test_a_batch_never_holds_two_audiences(dsn: str, target: Path) -> None:
    night = Night(dsn, target, MemoryTool(states=known("anna", "bert", "cora")))
    people = [
        person("anna", segments=("champions", "second")),
        person("bert", segments=("champions",)),
        person("cora", segments=("champions", "second")),
    ]

    night.run(people, segments=(CHAMPIONS, segment("second", "Second")))

    assert night.tool.members == {
        "Champions": {"anna@shop.de", "bert@shop.de", "cora@shop.de"},
        "Second": {"anna@shop.de", "cora@shop.de"},
    }


def test_a_summary_counts_rows_of_the_plan_and_not_others_as_many(dsn: str, target: Path) -> None:
    """As many attempts as rows, one of a row that an earlier plan of the publication had."""
    night = Night(dsn, target, MemoryTool(states=known("anna")))
    publication = night.plan([person("anna")])
    night.deliver(publication)
    with psycopg.connect(dsn) as connection:
        connection.execute(
            "update activation.ledger set plan_row_id = 'earlier' where operation = 'add'"
        )
        connection.execute("update activation.plan_rows set status = 'held' where audience <> ''")

    summary = night.deliver(publication)

    assert summary["audiences"] == {"Champions": {"add": {"held": 1}}}
    assert (summary["confirmed"], summary["held"], summary["sent"]) == (1, 1, 0)


def test_merged_customers_move_nothing_and_a_changed_address_moves_over(
    dsn: str, target: Path
) -> None:
    night = Night(dsn, target, MemoryTool(states=known("anna", "bert", "new")))
    night.run([person("anna"), person("bert")])

    old = {
        "customer_id": "c-bert",
        "address": "bert@shop.de",
        "is_contactable": True,
        "reason": "consent_double",
    }
    night.run([Person("c-merged", "anna@shop.de"), Person("c-bert", "new@shop.de")], others=[old])

    assert night.tool.members["Champions"] == {"anna@shop.de", "new@shop.de"}
    moved = [entry for entry in night.tool.written if entry[0] != "upsert"]
    assert moved == [
        ("add", "new@shop.de", "Champions"),
        ("remove", "bert@shop.de", "Champions"),
    ]


def test_what_somebody_else_put_into_an_audience_is_left_alone(dsn: str, target: Path) -> None:
    tool = MemoryTool(states=known("anna", "guest"), members={"Champions": {"guest@shop.de"}})
    night = Night(dsn, target, tool)
    night.run([person("anna")])
    publication = night.plan([person("anna", segments=())])
    night.deliver(publication)

    assert tool.members["Champions"] == {"guest@shop.de"}
    assert night.reconcile(publication)["audiences"] == {
        "Champions": {"members": 1, "missing": 0, "extra": 1}
    }


def test_the_size_guard_holds_a_large_change_and_lets_the_unconsented_leave(
    dsn: str, target: Path
) -> None:
    names = [f"p{number:02}" for number in range(40)]
    night = Night(dsn, target, MemoryTool(states=known(*names)))
    night.run([person(name) for name in names])

    publication = night.plan(
        [
            person(name, segments=("champions",) if number < 20 else (), contactable=number != 0)
            for number, name in enumerate(names)
        ]
    )
    rows = plan_of(dsn, publication)
    summary = night.deliver(publication)

    assert {(row[3], row[4]) for row in rows if row[0] == "remove"} == {
        ("held", "change_above_limit"),
        ("planned", "consent_double"),
    }
    assert summary["held"] == 40  # 20 removals and the clearing of their attributes
    assert night.tool.members["Champions"] == set(known(*names)) - {"p00@shop.de"}
    overview = plan.plan_summary(dsn, publication, night.settings)
    champions = overview["destinations"]["listmonk"]["audiences"]["Champions"]
    assert (champions["held"], champions["held_because"]) == (20, "change_above_limit")
    assert (champions["remove"], champions["suppressed"]) == (1, {"consent_double": 1})


def test_a_first_sync_and_a_small_audience_can_be_held(dsn: str, target: Path) -> None:
    night = Night(dsn, target, MemoryTool(states=known("anna")))
    people = [person("anna", segments=("champions", "small"))]

    publication = night.plan(
        people,
        segments=[
            segment("champions", "Champions", initial="hold"),
            segment("small", "Small", min_size=2),
        ],
    )

    assert plan_of(dsn, publication) == {
        ("add", "Champions", "anna@shop.de", "held", "initial"),
        ("add", "Small", "anna@shop.de", "held", "below_min_size"),
        ("upsert", None, "anna@shop.de", "held", "audience_held"),
    }
    assert night.deliver(publication)["sent"] == 0


def test_no_segment_at_all_empties_nothing(dsn: str, target: Path) -> None:
    night = Night(dsn, target, MemoryTool(states=known("anna")))
    night.run([person("anna")])

    night.run([person("anna", segments=())], segments=[])

    assert night.tool.members["Champions"] == {"anna@shop.de"}


def test_a_rejected_row_waits_longer_each_time_and_is_parked_at_last(
    dsn: str, target: Path
) -> None:
    tool = MemoryTool(states=known("anna", "bert"), refuse={"anna@shop.de": "bad_field"})
    night = Night(dsn, target, tool, max_rejections=2)
    people = [person("anna"), person("bert")]

    attempts = []
    for _ in range(4):
        night.run(people)
        attempts.append([entry[0] for entry in tool.written if entry[1] == "anna@shop.de"])

    # Publication 1 refuses, 2 retries and refuses again; then the limit of two is reached.
    assert attempts == [["upsert", "add"], ["upsert", "add"], [], []]
    assert tool.members["Champions"] == {"bert@shop.de"}
    publication = night.plan(people)
    assert ("add", "Champions", "anna@shop.de", "skipped", "parked: bad_field") in plan_of(
        dsn, publication
    )

    tool.refuse.clear()
    night.run([person("anna", stage="churned"), person("bert")])

    assert tool.attributes["anna@shop.de"]["stage"] == "churned"  # a new payload is tried


def test_an_unreachable_tool_leaves_rows_in_doubt_that_the_next_delivery_repeats(
    dsn: str, target: Path
) -> None:
    # One batch: another might be on its way already when it fails, or be given up.
    tool = MemoryTool(states=known("anna", "bert"))
    night = Night(dsn, target, tool)
    publication = night.plan([person("anna"), person("bert")])
    tool.fail = [VendorError("the tool cannot be reached")]

    with pytest.raises(VendorError, match="cannot be reached"):
        night.deliver(publication)
    states = dict(night.query("select state, count(*) from activation.ledger group by state"))
    runs = night.query("select state, summary ->> 'unknown' from activation.sync_runs")
    night.deliver(publication)

    assert states == {"unknown": 2}
    assert runs == [("failed", "2")]
    assert tool.members["Champions"] == set(known("anna", "bert"))
    assert night.query("select count(*) from activation.delivered_state where in_doubt") == [(0,)]


def test_rows_in_doubt_are_repeated_by_the_next_plan(dsn: str, target: Path) -> None:
    tool = MemoryTool(states=known("anna"))
    night = Night(dsn, target, tool)
    tool.fail = [VendorError("gone")]
    with pytest.raises(VendorError):
        night.run([person("anna")])

    publication = night.plan([person("anna", stage="churned")])
    rows = plan_of(dsn, publication)
    night.deliver(publication)

    assert ("upsert", None, "anna@shop.de", "planned", "repeated") in rows
    assert tool.attributes["anna@shop.de"] == {"stage": "churned", "monetary": 12.5}


def test_a_plan_before_the_next_delivery_knows_what_a_killed_one_may_have_sent(
    dsn: str, target: Path
) -> None:
    tool = MemoryTool(states=known("anna", "bert"))
    night = Night(dsn, target, tool)
    publication = night.plan([person("anna"), person("bert")])
    send = tool.deliver

    def end_while_adding(batch: Batch) -> list[Outcome]:
        outcomes = send(batch)
        if batch.operation == "add":
            raise RuntimeError("as if killed")
        return outcomes

    tool.deliver = end_while_adding  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="as if killed"):
        night.deliver(publication)
    written = night.query("select count(*) from activation.delivered_state where audience <> ''")
    tool.deliver = send  # type: ignore[method-assign]

    publication = night.plan([person("bert")])
    planned = {row[:4] for row in plan_of(dsn, publication) if row[1]}
    night.deliver(publication)

    assert written == [(0,)]
    assert planned == {
        ("add", "Champions", "bert@shop.de", "planned"),
        ("remove", "Champions", "anna@shop.de", "planned"),
    }
    assert tool.members["Champions"] == {"bert@shop.de"}
    assert night.query("select count(*) from activation.effective_state where in_doubt") == [(0,)]


def test_a_plan_repeats_the_rows_of_a_job_and_removes_who_left_meanwhile(
    dsn: str, target: Path
) -> None:
    tool = QueueingTool(states=known("anna", "bert"))
    night = Night(dsn, target, tool)

    def deliver(batch: Batch) -> list[Outcome] | Submitted:
        known_at_once = batch.operation == "upsert"
        return (MemoryTool if known_at_once else QueueingTool).deliver(tool, batch)

    def poll(job_id: str, batch: Batch) -> list[Outcome] | None:
        raise VendorError("the tool cannot be reached")

    tool.deliver, tool.poll = deliver, poll  # type: ignore[assignment, method-assign]
    with pytest.raises(VendorError, match="cannot be reached"):
        night.run([person("anna"), person("bert")])

    publication = night.plan([person("bert")])

    assert {row[:3] for row in plan_of(dsn, publication) if row[1]} == {
        ("add", "Champions", "bert@shop.de"),
        ("remove", "Champions", "anna@shop.de"),
    }


def test_building_the_same_plan_twice_doubles_nothing(dsn: str, target: Path) -> None:
    night = Night(dsn, target, MemoryTool(states=known("anna", "bert")))
    publication = night.plan([person("anna"), person("bert")])
    first = night.query("select plan_row_id from activation.plan_rows order by 1")

    build_plan(dsn, publication, target)
    assert night.query("select plan_row_id from activation.plan_rows order by 1") == first

    night.deliver(publication)
    night.tool.written.clear()
    build_plan(dsn, publication, target)
    night.deliver(publication)

    assert night.query("select plan_row_id from activation.plan_rows order by 1") == first
    assert night.tool.written == []


def test_an_outdated_plan_is_refused(dsn: str, target: Path) -> None:
    night = Night(dsn, target, MemoryTool(states=known("anna")))
    publication = night.plan([person("anna")])
    write_marts(dsn, [person("anna")])

    with pytest.raises(PlanOutdated, match=f"publication {publication} is outdated"):
        night.deliver(publication)
    assert night.tool.written == []


def test_a_plan_that_becomes_outdated_while_it_is_sent_is_not_sent_on(
    dsn: str, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "_NEWEST_FOR_SECONDS", 0.0)  # requests take no time here
    people = [person(name) for name in ("anna", "bert", "cora", "dora", "emil")]
    tool = MemoryTool(states=known("anna", "bert", "cora", "dora", "emil"))
    night = Night(dsn, target, tool)
    publication = night.plan(people)
    send = tool.deliver

    def publish_meanwhile(batch: Any) -> Any:
        write_marts(dsn, people)
        return send(batch)

    tool.deliver = publish_meanwhile  # type: ignore[method-assign]

    with pytest.raises(PlanOutdated, match=f"publication {publication} is outdated"):
        night.deliver(publication)
    assert len(tool.written) == 2  # one batch, which was under way and is settled
    # What was recorded ahead was not begun, and leaves no trace.
    assert night.query("select state, count(*) from activation.ledger group by 1") == [
        ("confirmed", 2)
    ]
    assert night.query("select in_doubt, count(*) from activation.effective_state group by 1") == [
        (False, 2)
    ]


def test_an_answer_nobody_understands_is_reported_by_tool_and_leaves_its_rows_in_doubt(
    dsn: str, target: Path
) -> None:
    tool = MemoryTool(states=known("anna"))
    night = Night(dsn, target, tool)
    publication = night.plan([person("anna")])
    tool.fail = [KeyError("anna@shop.de")]

    with pytest.raises(VendorError, match="listmonk: upsert was answered") as raised:
        night.deliver(publication)

    assert "anna" not in str(raised.value)
    assert night.query("select state, reason_code from activation.ledger") == [
        ("unknown", "VendorError")
    ]
    assert night.query("select state from activation.sync_runs") == [("failed",)]


def test_whoever_may_not_be_written_to_leaves_however_often_the_tool_refuses(
    dsn: str, target: Path
) -> None:
    tool = MemoryTool(states=known("anna", "bert"))
    night = Night(dsn, target, tool, max_rejections=1)
    night.run([person("anna"), person("bert")])
    gone = [person("anna", contactable=False, reason="withdrawn"), person("bert")]
    tool.refuse = {"anna@shop.de": "internal"}

    attempts = [night.run(gone)["rejected"] for _ in range(3)]
    tool.refuse.clear()
    night.run(gone)

    assert attempts == [1, 1, 1]
    assert tool.members["Champions"] == {"bert@shop.de"}


def test_a_member_whose_address_was_changed_in_the_tool_is_still_ours_to_remove(
    dsn: str, target: Path
) -> None:
    tool = MemoryTool(states=known("anna", "bert"), ids={"anna@shop.de": "7", "new@shop.de": "7"})
    night = Night(dsn, target, tool)
    night.run([person("anna"), person("bert")])
    # The tool's own form: the contact keeps its id and its place in every list.
    tool.states = known("new", "bert")
    tool.members["Champions"] = {"new@shop.de", "bert@shop.de"}

    night.run([person("anna"), person("bert")])

    assert tool.members["Champions"] == {"bert@shop.de"}


def test_drift_is_recorded_and_repaired_by_the_next_plan(dsn: str, target: Path) -> None:
    night = Night(dsn, target, MemoryTool(states=known("anna", "bert")))
    publication = night.plan([person("anna"), person("bert")])
    night.deliver(publication)
    night.tool.members["Champions"].discard("anna@shop.de")

    report = night.reconcile(publication)
    night.run([person("anna"), person("bert")])

    assert report["audiences"] == {"Champions": {"members": 1, "missing": 1, "extra": 0}}
    assert night.query("select address, kind from activation.drift") == [
        ("anna@shop.de", "missing")
    ]
    assert night.tool.members["Champions"] == set(known("anna", "bert"))


def test_an_audience_deleted_in_the_tool_is_made_and_filled_again(dsn: str, target: Path) -> None:
    night = Night(dsn, target, MemoryTool(states=known("anna", "bert")))
    night.run([person("anna")])
    del night.tool.members["Champions"]
    night.tool.ensure_audience = lambda name, known_id: _renewed(night.tool, name)  # type: ignore[method-assign]

    night.run([person("anna"), person("bert")])
    night.run([person("anna"), person("bert")])

    assert night.tool.members["Champions 2"] == set(known("anna", "bert"))


def _renewed(tool: MemoryTool, name: str) -> Any:
    from kundenkreis.destinations.base import Audience

    created = f"{name} 2" not in tool.members
    tool.members.setdefault(f"{name} 2", set())
    return Audience(f"{name} 2", created)


def test_a_contact_deleted_in_the_tool_is_forgotten_but_its_withdrawal_is_not(
    dsn: str, target: Path
) -> None:
    tool = MemoryTool(states=known("anna") | {"bert@shop.de": "unsubscribed"})
    night = Night(dsn, target, tool)
    night.read()
    tool.states.clear()

    report = night.read()

    assert report["contacts"] == 0
    assert night.query("select address, state, vendor_id from activation.subscriber_states") == [
        ("bert@shop.de", "unsubscribed", None)
    ]


def test_the_dbt_tests_and_unit_tests_of_the_plan_pass(dsn: str, target: Path) -> None:
    night = Night(dsn, target, MemoryTool(states=known("anna", "bert")))
    publication = night.plan([person("anna"), person("bert", contactable=False)])

    build_plan(dsn, publication, target, command="build")
