"""Held audiences: nothing goes out before somebody approves exactly what is planned."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest

from kundenkreis.activation import approvals, decisions, deliveries, delivery, plan
from kundenkreis.activation.approvals import HeldAudience
from kundenkreis.errors import KundenkreisError, PlanOutdated, VendorError
from kundenkreis.warehouse import READER, roles
from tests.integration.activation_warehouse import (
    MemoryTool,
    build_plan,
    empty_warehouse,
    segment,
)
from tests.integration.test_activation import SILENT, Night, _no_connection, known, person

pytestmark = pytest.mark.integration

HELD = segment("champions", "Champions", initial="hold")
LOYAL = segment("loyal", "Loyal", initial="hold")


@pytest.fixture
def dsn(module_warehouse_dsn: str) -> str:
    """One database for all tests, emptied for each: a parsed dbt project names its database."""
    empty_warehouse(module_warehouse_dsn)
    return module_warehouse_dsn


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One dbt target folder, so that the project is parsed once."""
    return tmp_path_factory.mktemp("dbt_target")


def held(dsn: str, publication_id: int) -> list[HeldAudience]:
    with psycopg.connect(dsn) as connection:
        return approvals.held_audiences(connection, publication_id)


def decide(
    dsn: str, audiences: Sequence[HeldAudience], publication_id: int, decision: str = "approve"
) -> None:
    with psycopg.connect(dsn) as connection:
        approvals.decide(
            connection,
            audiences,
            publication_id,
            decision,  # type: ignore[arg-type]
            by="anna",
            place="command line",
            note="looked at it",
        )


def deliver_held(night: Night, publication_id: int) -> dict[str, Any]:
    return delivery.deliver(
        "listmonk",
        night.settings,
        _no_connection,
        night.dsn,
        "by hand",
        publication_id,
        SILENT,
        held=True,
        open_tool=night.open,
    )


def test_only_an_approval_lets_a_held_audience_go_out(dsn: str, target: Path) -> None:
    night = Night(dsn, target, MemoryTool(states=known("anna", "bert")))
    people = [person("anna"), person("bert")]
    publication = night.plan(people, segments=[HELD])

    (asked,) = held(dsn, publication)
    assert (asked.segment, asked.held_because, asked.state) == ("champions", "initial", "waits")
    assert (asked.members, asked.adds, asked.removes, asked.updates) == (0, 2, 0, 2)
    assert night.deliver(publication)["sent"] == 0
    assert deliver_held(night, publication)["sent"] == 0
    assert (night.tool.calls, night.tool.members) == (0, {})

    decide(dsn, [asked], publication)
    assert [one.state for one in held(dsn, publication)] == ["approved"]
    assert night.deliver(publication)["sent"] == 0  # the night's own delivery leaves it alone
    summary = deliver_held(night, publication)

    assert (summary["sent"], summary["held"], summary["confirmed"]) == (4, 0, 4)
    assert night.tool.members == {"Champions": set(known("anna", "bert"))}
    assert night.tool.written[0][0] == "upsert"  # a contact has its attributes before it joins
    assert deliver_held(night, publication)["sent"] == 0
    (sent,) = held(dsn, publication)
    assert (sent.state, sent.decided_by, sent.decided_in) == ("sent", "anna", "command line")
    assert sent.decided_at is not None
    # The first sync is done: from now on only large changes are held.
    publication = night.plan([*people, person("cora")], segments=[HELD])
    assert held(dsn, publication) == []


def test_a_rejected_audience_is_not_sent_and_is_asked_about_again_by_the_next_night(
    dsn: str, target: Path
) -> None:
    night = Night(dsn, target, MemoryTool(states=known("anna")))
    publication = night.plan([person("anna")], segments=[HELD])
    decide(dsn, held(dsn, publication), publication, "reject")

    assert deliver_held(night, publication)["sent"] == 0
    assert approvals.questions(dsn, publication) == []

    following = night.plan([person("anna")], segments=[HELD])
    (question,) = approvals.questions(dsn, following)
    assert question["segment"] == "champions"
    # Not held any more: nothing to ask, and it goes out.
    allowed = night.plan([person("anna")], segments=[segment("champions", "Champions")])
    assert approvals.questions(dsn, allowed) == []
    assert night.deliver(allowed)["confirmed"] == 2


def test_the_newest_decision_counts(dsn: str, target: Path) -> None:
    night = Night(dsn, target, MemoryTool(states=known("anna")))
    publication = night.plan([person("anna")], segments=[HELD])
    decide(dsn, held(dsn, publication), publication)
    decide(dsn, held(dsn, publication), publication, "reject")

    assert deliver_held(night, publication)["sent"] == 0
    assert night.query("select decision from activation.approvals order by approval_id") == [
        ("approve",),
        ("reject",),
    ]


def test_an_approval_covers_no_other_plan(dsn: str, target: Path) -> None:
    night = Night(dsn, target, MemoryTool(states=known("anna", "bert")))
    people = [person("anna"), person("bert")]
    publication = night.plan(people, segments=[HELD])
    (asked,) = held(dsn, publication)
    decide(dsn, [asked], publication)
    # The same plan, built again, is the plan that was approved.
    build_plan(dsn, publication, target, [HELD])
    assert [(one.plan_hash, one.state) for one in held(dsn, publication)] == [
        (asked.plan_hash, "approved")
    ]

    # Somebody's value has changed, so what would be sent has.
    with psycopg.connect(dsn) as connection:
        connection.execute("update marts_blue.customer_360 set monetary = monetary + 1")
    build_plan(dsn, publication, target, [HELD])

    (changed,) = held(dsn, publication)
    assert changed.plan_hash != asked.plan_hash
    assert changed.state == "waits"
    assert deliver_held(night, publication)["sent"] == 0
    with pytest.raises(PlanOutdated, match="has changed since it was shown"):
        decide(dsn, [asked], publication)
    assert night.query("select count(*) from activation.approvals") == [(1,)]


def test_an_outdated_plan_can_neither_be_approved_nor_sent(dsn: str, target: Path) -> None:
    night = Night(dsn, target, MemoryTool(states=known("anna")))
    old = night.plan([person("anna")], segments=[HELD])
    asked = held(dsn, old)
    decide(dsn, asked, old)
    newest = night.plan([person("anna")], segments=[HELD])

    with pytest.raises(PlanOutdated, match=f"the newest publication is {newest}"):
        decide(dsn, asked, old)
    with pytest.raises(PlanOutdated):
        deliver_held(night, old)
    assert deliver_held(night, newest)["sent"] == 0
    assert night.tool.members == {}


def test_a_held_audience_waits_while_the_others_are_delivered(dsn: str, target: Path) -> None:
    night = Night(dsn, target, MemoryTool(states=known("anna", "bert", "cora")))
    people = [
        person("anna", segments=("champions", "loyal")),
        person("bert", segments=("loyal",)),
        person("cora", segments=("open",)),
    ]
    segments = [HELD, LOYAL, segment("open", "Open")]
    publication = night.plan(people, segments=segments)
    night.deliver(publication)
    assert night.tool.members == {"Open": {"cora@shop.de"}}

    asked = held(dsn, publication)
    decide(dsn, approvals.find(asked, "Champions", None), publication)
    summary = deliver_held(night, publication)

    assert night.tool.members == {"Open": {"cora@shop.de"}, "Champions": {"anna@shop.de"}}
    assert "bert@shop.de" not in night.tool.attributes
    assert summary["held"] == 3  # two who would join, and the attributes of one
    states = {one.segment: one.state for one in held(dsn, publication)}
    assert states == {"champions": "sent", "loyal": "waits"}


def test_leaving_a_held_audience_for_lack_of_consent_is_not_its_first_sync(
    dsn: str, target: Path
) -> None:
    night = Night(dsn, target, MemoryTool(states=known("anna", "bert")))
    night.run([person("anna")], segments=[segment("champions", "Champions")])
    night.query("update activation.audiences set first_synced_publication_id = null returning 1")

    publication = night.plan([person("anna", contactable=False), person("bert")], segments=[HELD])
    night.deliver(publication)

    assert night.tool.members == {"Champions": set()}
    assert [one.state for one in held(dsn, publication)] == ["waits"]
    assert night.query("select first_synced_publication_id from activation.audiences") == [(None,)]


def test_who_withdrew_after_the_approval_is_not_sent(dsn: str, target: Path) -> None:
    night = Night(dsn, target, MemoryTool(states=known("anna", "bert")))
    publication = night.plan([person("anna"), person("bert")], segments=[HELD])
    decide(dsn, held(dsn, publication), publication)
    night.tool.states["bert@shop.de"] = "unsubscribed"

    summary = deliver_held(night, publication)

    assert night.tool.members == {"Champions": {"anna@shop.de"}}
    assert summary["suppressed"] == 2


def test_an_unreachable_tool_leaves_the_approval_standing(dsn: str, target: Path) -> None:
    night = Night(dsn, target, MemoryTool(states=known("anna")))
    publication = night.plan([person("anna")], segments=[HELD])
    decide(dsn, held(dsn, publication), publication)
    night.tool.fail.append(VendorError("listmonk: no answer"))

    with pytest.raises(VendorError):
        deliver_held(night, publication)
    assert [one.state for one in held(dsn, publication)] == ["approved"]

    deliver_held(night, publication)
    assert night.tool.members == {"Champions": {"anna@shop.de"}}


# The command line


def test_a_decision_is_found_by_segment_audience_and_tool(dsn: str, target: Path) -> None:
    night = Night(dsn, target, MemoryTool(states=known("anna")))
    publication = night.plan([person("anna", segments=("loyal",))], segments=[HELD, LOYAL])
    asked = held(dsn, publication)

    assert approvals.find(asked, "loyal", None) == asked
    assert approvals.find(asked, "LOYAL", "listmonk") == asked
    with pytest.raises(KundenkreisError, match=r"'champions' is held\. Held are: loyal\."):
        approvals.find(asked, "champions", None)
    with pytest.raises(KundenkreisError, match="is held in mailchimp"):
        approvals.find(asked, "loyal", "mailchimp")
    with pytest.raises(KundenkreisError, match="The current plan holds nothing"):
        approvals.find([], "loyal", None)


def _decide_on(dsn: str, publication_id: int, answer: Any) -> decisions.Outcome:
    asked = held(dsn, publication_id)
    with psycopg.connect(dsn) as connection:
        return decisions.decide_on(
            connection, asked, asked, "approve", by="anna", note="fine", answer=answer
        )


def test_a_waiting_run_is_answered_and_records_the_decision_itself(dsn: str, target: Path) -> None:
    night = Night(dsn, target, MemoryTool(states=known("anna")))
    publication = night.plan([person("anna")], segments=[HELD])
    answers: list[tuple[Any, ...]] = []

    outcome = _decide_on(dsn, publication, lambda *given: answers.append(given) or "question")

    assert answers == [("champions", publication, "approve", "fine (by anna, command line)")]
    assert (outcome.answered, outcome.recorded) == (("champions",), ())
    assert night.query("select count(*) from activation.approvals") == [(0,)]


@pytest.mark.parametrize("reachable", [True, False])
def test_without_a_waiting_run_the_decision_is_recorded_here(
    dsn: str, target: Path, reachable: bool
) -> None:
    night = Night(dsn, target, MemoryTool(states=known("anna")))
    publication = night.plan([person("anna")], segments=[HELD])

    def answer(*given: Any) -> None:
        if not reachable:
            raise VendorError("Airflow: POST /auth/token cannot be reached.")

    outcome = _decide_on(dsn, publication, answer)

    assert [one.audience for one in outcome.recorded] == ["Champions"]
    assert bool(outcome.warnings) is not reachable
    assert night.query("select decision, decided_by, note from activation.approvals") == [
        ("approve", "anna", "fine")
    ]


# What a plan shows


def test_a_plan_is_counted_by_audience_with_its_calls_and_minutes(dsn: str, target: Path) -> None:
    names = ["anna", "bert", "cora", "dora", "emil"]
    night = Night(dsn, target, MemoryTool(states=known(*names)))
    night.run([person("anna"), person("bert")])
    publication = night.plan(
        [
            person("anna", monetary=99),
            person("cora"),
            person("dora", holdout=True),
            person("emil", contactable=False, reason="withdrawn"),
        ]
    )

    summary = plan.plan_summary(dsn, publication, night.settings, sample=50)

    listmonk = summary["destinations"]["listmonk"]
    champions = listmonk["audiences"]["Champions"]
    counted = {name: champions[name] for name in ("add", "update", "remove", "held", "holdout")}
    assert counted == {"add": 1, "update": 1, "remove": 1, "held": 0, "holdout": 1}
    assert champions["suppressed"] == {"withdrawn": 1}
    # listmonk takes one contact per call for attributes (two people), and many for an audience.
    assert (listmonk["calls"], champions["calls"]) == (4, 2)
    assert 0 < listmonk["minutes"] < 1
    assert "assumed 0.5 s a call" in listmonk["minutes_rest_on"]
    assert (summary["publication_id"], summary["as_of_date"]) == (publication, "2026-11-22")
    rows = summary["sample"]
    assert {(row["operation"], row["status"]) for row in rows} == {
        ("upsert", "planned"),
        ("add", "planned"),
        ("add", "suppressed"),
        ("remove", "planned"),
    }
    assert {row["address"] for row in rows} == {"a…@s…", "b…@s…", "c…@s…", None}
    changed = [row["changed_fields"] for row in rows if row["address"] == "a…@s…"]
    assert changed == [["monetary"]]


def test_a_sample_takes_a_row_of_every_kind_first(dsn: str, target: Path) -> None:
    night = Night(dsn, target, MemoryTool(states=known(*"abcdef")))
    publication = night.plan([person(name) for name in "abcdef"])

    rows = plan.plan_summary(dsn, publication, night.settings, sample=2)["sample"]

    assert {row["operation"] for row in rows} == {"upsert", "add"}


def test_the_minutes_rest_on_how_fast_the_tool_was(dsn: str, target: Path) -> None:
    night = Night(dsn, target, MemoryTool(states=known("anna")))
    publication = night.plan([person("anna")])
    with psycopg.connect(dsn) as connection:
        for calls, state in ((100, "done"), (500, "failed"), (0, "done")):
            connection.execute(
                "insert into activation.sync_runs (run_id, publication_id, destination, state,"
                " summary, started_at, finished_at) values ('r', 1, 'listmonk', %s,"
                " jsonb_build_object('calls', %s::int), '2026-01-01', '2026-01-01 00:50')",
                (state, calls),
            )

    listmonk = plan.plan_summary(dsn, publication, night.settings)["destinations"]["listmonk"]

    assert (listmonk["calls"], listmonk["minutes"]) == (2, 1.0)  # two calls at 30 s
    assert "the last 1 deliveries: 100 calls in 3,000 s" in listmonk["minutes_rest_on"]


# What was sent


def test_refused_rows_are_listed_with_when_they_are_tried_again(dsn: str, target: Path) -> None:
    night = Night(
        dsn, target, MemoryTool(states=known("anna"), refuse={"anna@shop.de": "bad_field"})
    )
    for _ in range(2):
        night.run([person("anna")])

    rows = deliveries.rejected_rows(dsn, None, 10)

    assert {(row["operation"], row["reason_code"], row["address"]) for row in rows} == {
        ("upsert", "bad_field", "a…@s…"),
        ("add", "bad_field", "a…@s…"),
    }
    assert {(row["attempts"], row["retried"]) for row in rows} == {(2, "in 2 nights")}
    night.query("update activation.delivered_state set rejections = 5 returning 1")
    parked = deliveries.rejected_rows(dsn, "listmonk", 1)
    assert [row["retried"] for row in parked] == ["parked: only when its contents change"]
    assert deliveries.rejected_rows(dsn, "mailchimp", 10) == []


def test_the_last_deliveries_come_first(dsn: str, target: Path) -> None:
    night = Night(dsn, target, MemoryTool(states=known("anna")))
    night.run([person("anna")])
    night.run([person("anna")])

    newest, first = deliveries.recent_deliveries(dsn, None, 10)

    assert (newest["sent"], first["sent"], first["confirmed"]) == (0, 2, 2)
    assert newest["publication_id"] > first["publication_id"]
    assert (first["state"], first["destination"]) == ("done", "listmonk")
    assert len(deliveries.recent_deliveries(dsn, "listmonk", 1)) == 1
    assert deliveries.recent_deliveries(dsn, "mailchimp", 1) == []


def test_readers_see_deliveries_and_errors_without_addresses(dsn: str, target: Path) -> None:
    night = Night(
        dsn, target, MemoryTool(states=known("anna"), refuse={"anna@shop.de": "bad_field"})
    )
    night.run([person("anna")])
    roles.create(dsn)
    with psycopg.connect(dsn) as connection:
        connection.execute(f"set role {READER}")
        for table in ("delivery_errors", "sync_runs", "audience_state"):
            rows = connection.execute(f"select * from activation.{table}".encode()).fetchall()
            assert rows or table == "audience_state"
            assert "anna@" not in str(rows)
        for table in (
            "plan_rows",
            "ledger",
            "batches_under_way",
            "rows_under_way",
            "delivered_state",
            "effective_state",
            "approvals",
            "drift",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege), connection.transaction():
                connection.execute(f"select 1 from activation.{table}".encode())
