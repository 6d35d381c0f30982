"""Asking about held segments: what is asked, how long, and what an answer does."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import msgspec
import pendulum
import psycopg
import pytest
from airflow.sdk.exceptions import (
    AirflowException,
    AirflowFailException,
    AirflowSkipException,
    TaskAwaitingInput,
)

from kundenkreis import activation
from kundenkreis.airflow_api import subject_of
from kundenkreis.errors import VendorError
from kundenkreis.operators import approval

DAG = SimpleNamespace(
    schedule="15 0 * * *",
    timezone=pendulum.timezone("Europe/Berlin"),
    dagrun_timeout=timedelta(hours=23, minutes=30),
)
# Of a plan; the models themselves are tested with the plan.
HELD = """
drop table if exists activation.held_rows, activation.held_audiences;
create table activation.held_rows (
    plan_row_id text, publication_id bigint, destination text, audience text
);
create table activation.held_audiences (
    publication_id bigint, destination text, audience text, segment text, held_because text,
    members bigint, adds bigint, removes bigint, updates bigint, plan_hash text
);
insert into activation.held_audiences values
    (1, 'listmonk', 'Champions', 'champions', 'change_above_limit', 400, 90, 80, 30, 'h1'),
    (1, 'mailchimp', 'Champions', 'champions', 'initial', 0, 500, 0, 500, 'h2'),
    (1, 'listmonk', 'Loyal', 'loyal', 'below_min_size', 5, 0, 4, 0, 'h3');
truncate activation.approvals;
truncate history.publications restart identity;
insert into history.publications (as_of_date, dag_run_id, schema_name, published_at)
values ('2026-01-31', 'run-1', 'marts_blue', clock_timestamp());
truncate operations.task_results;
"""

pytestmark = pytest.mark.integration


@pytest.fixture
def warehouse(module_warehouse_dsn: str, clean_env: pytest.MonkeyPatch) -> str:
    """A warehouse whose plan holds two segments, as Airflow finds it."""
    clean_env.setenv("AIRFLOW_CONN_WAREHOUSE", module_warehouse_dsn)
    with psycopg.connect(module_warehouse_dsn) as connection:
        connection.execute(HELD.encode())
    return module_warehouse_dsn


def _context(triggered_by: str | None = None, start: datetime | None = None) -> Any:
    run = SimpleNamespace(
        start_date=start,
        run_id="run-1",
        run_type="scheduled",
        logical_date=None,
        run_after=datetime.now(UTC),
        triggering_user_name=triggered_by,
    )
    return {
        "dag_run": run,
        "dag": DAG,
        "params": {"as_of": "2026-01-31"},
        "task_instance": SimpleNamespace(id="some-task-instance"),
    }


def _questions(triggered_by: str | None = None) -> list[dict[str, Any]]:
    task = approval.FindHeldOperator(task_id="held", publication_id=1)
    return task.execute(_context(triggered_by))


def _approve(question: dict[str, Any]) -> approval.ApproveOperator:
    return approval.ApproveOperator(
        task_id="approve", question=question, response_timeout=timedelta(hours=22)
    )


def _event(*options: str, note: str = "") -> dict[str, Any]:
    return {
        "chosen_options": list(options),
        "params_input": {"note": note},
        "responded_at": datetime.now(UTC),
        "responded_by_user": {"id": "7", "name": "anna"},
        "timedout": False,
    }


def _rows(dsn: str, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn) as connection:
        return connection.execute(query.encode()).fetchall()


@pytest.fixture
def midday(monkeypatch: pytest.MonkeyPatch) -> None:
    """Far from the next night."""

    class Midday(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime(2026, 6, 30, 10, tzinfo=UTC)

    monkeypatch.setattr(approval, "datetime", Midday)


def test_one_question_per_segment_with_all_its_audiences(warehouse: str, midday: None) -> None:
    champions, loyal = _questions()
    assert (champions["segment"], champions["publication_id"]) == ("champions", 1)
    assert [one["destination"] for one in champions["audiences"]] == ["listmonk", "mailchimp"]
    assert [one["plan_hash"] for one in loyal["audiences"]] == ["h3"]


def test_what_was_decided_already_is_not_asked_again(warehouse: str, midday: None) -> None:
    _, loyal = _questions()
    _approve(loyal).execute_complete(_context(), _event("Reject"))
    assert [question["segment"] for question in _questions()] == ["champions"]


def test_a_run_without_a_scheduler_asks_nobody(warehouse: str, midday: None) -> None:
    """`kundenkreis run` would wait for ever."""
    assert _questions(triggered_by="dag_test") == []
    (recorded,) = _rows(warehouse, "select state from operations.task_results")
    assert recorded == ("success",)


@pytest.mark.parametrize(
    ("start", "now", "hours"),
    [
        ("2026-06-29T22:15", "2026-06-29T22:30", 22.75),  # a quarter past the start, in summer
        ("2026-06-30T11:00", "2026-06-30T12:00", 9.25),  # a run that somebody triggered
        ("2026-06-30T21:00", "2026-06-30T21:30", -0.25),  # the next night begins within the hour
        # The day that has 25 hours: the run itself ends before the next night begins.
        ("2026-10-24T22:15", "2026-10-24T22:30", 22.75),
        ("2026-03-27T23:15", "2026-03-28T05:15", 17.0),  # a long night
    ],
)
def test_a_question_ends_with_the_run_and_an_hour_before_the_next_night(
    start: str, now: str, hours: float
) -> None:
    began, moment = (datetime.fromisoformat(text).replace(tzinfo=UTC) for text in (start, now))
    wait = approval.longest_wait(_context(start=began), moment)
    assert wait == timedelta(hours=hours)
    # As Airflow's task runner sends it; it knows no durations of pendulum.
    assert msgspec.msgpack.encode(wait)


def test_nobody_is_asked_shortly_before_the_next_night(
    warehouse: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(approval, "longest_wait", lambda context, now: timedelta(minutes=9))
    assert _questions() == []


def test_the_question_says_what_would_happen_and_has_no_default(
    warehouse: str, midday: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr(
        "airflow.providers.standard.operators.hitl.upsert_hitl_detail", lambda **a: asked.update(a)
    )
    champions, _ = _questions()
    with pytest.raises(TaskAwaitingInput) as parked:
        _approve(champions).execute(_context())

    assert parked.value.timeout == timedelta(hours=11, minutes=15)
    assert asked["subject"] == subject_of("champions", 1)
    assert (asked["options"], asked["defaults"]) == (["Approve", "Reject"], None)
    for expected in (
        "listmonk, audience 'Champions' (400 members now): 90 would join, 80 would leave, 30",
        "more would change than `max_change_percent`",
        "mailchimp, audience 'Champions' (0 members now): 500 would join",
        "was never filled before",
    ):
        assert expected in asked["body"]


@pytest.mark.parametrize("decision", ["Approve", "Reject"])
def test_the_answer_becomes_a_row_per_audience(warehouse: str, midday: None, decision: str) -> None:
    champions, _ = _questions()
    summary = _approve(champions).execute_complete(
        _context(), _event(decision, note="Black Friday")
    )

    assert summary == {"segment": "champions", "decision": decision.lower(), "by": "anna"}
    assert _rows(
        warehouse,
        "select destination, plan_hash, decision, decided_by, decided_in, note, run_id"
        " from activation.approvals order by destination",
    ) == [
        ("listmonk", "h1", decision.lower(), "anna", "airflow", "Black Friday", "run-1"),
        ("mailchimp", "h2", decision.lower(), "anna", "airflow", "Black Friday", "run-1"),
    ]
    recorded = _rows(warehouse, "select task_id from operations.task_results order by 1")
    assert recorded == [("approve.champions",), ("held",)]


def test_silence_is_no_decision_and_no_failure(warehouse: str, midday: None) -> None:
    champions, _ = _questions()
    timeout = {"error": "The response timeout has passed.", "error_type": "timeout"}
    with pytest.raises(AirflowSkipException, match="Nobody answered: the segment stays held"):
        _approve(champions).execute_complete(_context(), timeout)
    assert _rows(warehouse, "select count(*) from activation.approvals") == [(0,)]


def test_an_answer_to_an_outdated_question_decides_nothing(warehouse: str, midday: None) -> None:
    champions, loyal = _questions()
    _rows(
        warehouse,
        "update activation.held_audiences set plan_hash = 'other' where destination = 'mailchimp'"
        " returning 1",
    )
    with pytest.raises(AirflowFailException, match="PlanOutdated: What would be sent"):
        _approve(champions).execute_complete(_context(), _event("Approve"))
    _rows(
        warehouse,
        "insert into history.publications (as_of_date, dag_run_id, schema_name, published_at)"
        " values ('2026-02-01', 'run-2', 'marts_green', clock_timestamp()) returning 1",
    )
    with pytest.raises(AirflowFailException, match="the newest publication is 2"):
        _approve(loyal).execute_complete(_context(), _event("Approve"))
    assert _rows(warehouse, "select count(*) from activation.approvals") == [(0,)]


def _delivering(
    monkeypatch: pytest.MonkeyPatch, outcome: Callable[[str], dict[str, Any]]
) -> list[tuple[Any, ...]]:
    calls: list[tuple[Any, ...]] = []

    def deliver(destination: str, *arguments: Any, held: bool) -> dict[str, Any]:
        calls.append((destination, arguments[-2], held))
        return outcome(destination)

    monkeypatch.setattr(activation, "deliver", deliver)
    return calls


def test_what_was_held_is_delivered_to_each_tool_once(
    warehouse: str, midday: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = _delivering(monkeypatch, lambda destination: {"destination": destination, "sent": 5})
    champions, _ = _questions()
    task = approval.DeliverHeldOperator(task_id="deliver_held", question=champions)
    summary = task.execute(_context())
    assert calls == [("listmonk", 1, True), ("mailchimp", 1, True)]
    assert [one["sent"] for one in summary["deliveries"]] == [5, 5]


def test_a_tool_that_does_not_answer_is_tried_again(
    warehouse: str, midday: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(destination: str) -> dict[str, Any]:
        raise VendorError(f"{destination}: no answer")

    _delivering(monkeypatch, unreachable)
    champions, _ = _questions()
    task = approval.DeliverHeldOperator(task_id="deliver_held", question=champions)
    with pytest.raises(AirflowException, match="listmonk: no answer") as raised:
        task.execute(_context())
    assert not isinstance(raised.value, AirflowFailException)
