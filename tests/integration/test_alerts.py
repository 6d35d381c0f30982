"""Incidents: opened once, repeated in silence, told again when they change, and resolved."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from kundenkreis.alerts.channels import Message
from kundenkreis.alerts.config import AlertsConfig, Channel
from kundenkreis.alerts.detection import RunState
from kundenkreis.alerts.incidents import open_incidents
from kundenkreis.alerts.review import review
from kundenkreis.errors import VendorError
from kundenkreis.settings import ModelSettings, RetentionConfig, Settings
from tests.http_server import json_answer, serving

pytestmark = pytest.mark.integration

DAY = date(2026, 6, 30)
BEGUN = datetime(2026, 7, 1, 0, 15, tzinfo=UTC)
EVERYTHING: dict[str, Any] = {
    "channels": {"ops": {"kind": "slack"}, "crm": {"kind": "webhook"}},
    "events": {
        "failed_task": ["ops"],
        "failed_gate": ["ops"],
        "held_segment": ["ops", "crm"],
        "dead_letters": ["ops"],
        "churn_alarm": ["crm"],
        "late_run": ["ops"],
    },
    "limits": {"open_records": 2, "parked_rows": 1},
    "deadline_minutes": 60,
}


@dataclass
class House:
    """A warehouse, and what its people were told."""

    dsn: str
    config: AlertsConfig = field(default_factory=lambda: AlertsConfig.model_validate(EVERYTHING))
    told: list[tuple[str, Message]] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)

    def configure(self, **changes: Any) -> None:
        self.config = AlertsConfig.model_validate({**EVERYTHING, **changes})

    def run(self, query: str, *values: Any) -> None:
        with psycopg.connect(self.dsn) as connection:
            connection.execute(query.encode(), values)

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.dsn) as connection:
            return connection.execute(query.encode()).fetchall()

    def task(self, run_id: str, task: str, state: str, error: str | None = None) -> None:
        """Record a task's result, as operators do."""
        self.run(
            "insert into operations.task_results (run_id, task_id, as_of_date, state, summary, "
            "started_at, finished_at) values (%s, %s, %s, %s, %s, %s, %s) "
            "on conflict (run_id, task_id) do "
            "update set state = excluded.state, summary = excluded.summary",
            *(run_id, task, DAY, state, json.dumps({"error": error} if error else {})),
            *(BEGUN, BEGUN + timedelta(minutes=5)),
        )

    def publish(self, run_id: str) -> int:
        """Record a publication."""
        with psycopg.connect(self.dsn) as connection:
            row = connection.execute(
                "insert into history.publications (as_of_date, dag_run_id, schema_name) "
                "values (%s, %s, 'marts_blue') returning publication_id",
                (DAY, run_id),
            ).fetchone()
        assert row is not None
        return int(row[0])

    def review(self, run_id: str, state: Any = "failed", **more: Any) -> list[tuple[str, str]]:
        """Look at a run; returns who was told what, by channel and title."""
        run = RunState(run_id, DAY, state, False, BEGUN, BEGUN + timedelta(minutes=5))
        before = len(self.told)
        settings = Settings(
            folder=Path("config"),
            model=ModelSettings(),
            sources={},
            segments={},
            destinations={},
            retention=RetentionConfig(),
            alerts=self.config,
        )
        self.log: list[str] = []
        review(self.dsn, replace(run, **more), settings, self._send, self.log.append)
        return [(channel, message.title) for channel, message in self.told[before:]]

    def _send(self, channel: Channel, message: Message) -> None:
        name = "ops" if channel.kind == "slack" else "crm"
        if name in self.broken:
            raise VendorError(f"{channel.kind}: POST answered 503")
        self.told.append((name, message))


@pytest.fixture
def house(warehouse_dsn: str) -> House:
    return House(warehouse_dsn)


VENDOR = "VendorError: HubSpot: POST /crm/objects answered 503, 6 times in a row."


def test_a_night_that_fails_is_told_once_however_often_it_is_looked_at(house: House) -> None:
    house.task("night-1", "extract.woocommerce", "success")
    house.task("night-1", "extract.hubspot", "failed", VENDOR)
    assert house.review("night-1") == [
        ("ops", "extract.hubspot failed in the night of 2026-06-30"),
    ]
    text = house.told[0][1].text
    assert VENDOR in text
    assert "Readers still see the last published night" in text
    assert "Next: kundenkreis doctor; then clear extract.hubspot in Airflow" in text
    assert "kundenkreis run --as-of 2026-06-30" in text
    # Retries, a cleared task that fails again, a second callback: the same run, and the next ones.
    assert house.review("night-1") == []
    house.task("night-2", "extract.hubspot", "failed", VENDOR)
    assert house.review("night-2") == []
    assert house.rows("select event, subject, state, times_seen from operations.incidents") == [
        ("failed_task", "extract.hubspot", "open", 2)
    ]


def test_a_task_that_will_be_tried_again_is_not_told(house: House) -> None:
    house.task("night-1", "extract.hubspot", "failed", VENDOR)
    assert house.review("night-1", "running") == []
    house.task("night-1", "extract.hubspot", "success")
    assert house.review("night-1", "success") == []


def test_it_is_over_when_the_task_succeeds_and_only_then(house: House) -> None:
    house.task("night-1", "transform", "failed", "TransformError: model orders")
    house.review("night-1")
    # A night that did not come so far says nothing of it.
    house.task("night-2", "extract.hubspot", "failed", VENDOR)
    house.review("night-2")
    assert [one["subject"] for one in _open(house)] == ["transform", "extract.hubspot"]
    house.task("night-3", "extract.hubspot", "success")
    house.task("night-3", "transform", "success")
    assert house.review("night-3", "running") == [
        ("ops", "Over: transform failed in the night of 2026-06-30"),
        ("ops", "Over: extract.hubspot failed in the night of 2026-06-30"),
    ]
    assert _open(house) == []
    # What fails again is a new incident.
    house.task("night-4", "transform", "failed", "TransformError: model orders")
    assert len(house.review("night-4")) == 1
    assert house.rows("select count(*) from operations.incidents") == [(3,)]


def test_a_night_that_succeeds_ends_all_failures_also_of_tasks_that_are_gone(
    house: House,
) -> None:
    house.task("night-1", "extract.old_source", "failed", VENDOR)
    house.review("night-1")
    house.configure(tell_recovery=False)
    assert house.review("night-2", "success") == []
    assert _open(house) == []


def test_another_kind_of_error_is_news(house: House) -> None:
    house.task("night-1", "extract.hubspot", "failed", VENDOR)
    house.review("night-1")
    house.task("night-2", "extract.hubspot", "failed", "CredentialError: answered 401")
    assert house.review("night-2") == [
        ("ops", "Changed: extract.hubspot failed in the night of 2026-06-30")
    ]


def test_what_stays_open_is_told_again_after_days(house: House) -> None:
    house.task("night-1", "transform", "failed", "TransformError: model orders")
    house.review("night-1")
    house.run("update operations.incidents set told_at = now() - interval '6 days 23 hours'")
    assert house.review("night-1") == []
    house.run("update operations.incidents set told_at = now() - interval '7 days 1 hour'")
    assert house.review("night-1") == [
        ("ops", "Still open: transform failed in the night of 2026-06-30")
    ]
    house.configure(remind_after_days=None)
    house.run("update operations.incidents set told_at = now() - interval '70 days'")
    assert house.review("night-1") == []


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("timed_out", "longer than the DAG's dagrun_timeout"),
        ("all_tasks_deadlocked", "no task of it could run"),
        ("task_failure", "its process was killed"),
    ],
)
def test_a_run_that_died_without_a_word_is_told_too(house: House, reason: str, words: str) -> None:
    house.task("night-1", "extract.hubspot", "success")
    assert house.review("night-1", last_task="transform", reason=reason) == [
        ("ops", "transform failed in the night of 2026-06-30")
    ]
    assert words in house.told[0][1].text


def test_the_day_is_the_one_that_the_tasks_computed(house: House) -> None:
    house.task("night-1", "transform", "failed", "TransformError: model orders")
    assert house.review("night-1", as_of_date=date(2020, 1, 1)) == [
        ("ops", "transform failed in the night of 2026-06-30")
    ]


# Gates


def _gate_result(house: House, run_id: str, name: str, **more: Any) -> None:
    row = {
        "severity": "critical",
        "success": False,
        "raised": False,
        "observed": "12 %",
        "expected": "at most 5 %",
        **more,
    }
    house.run(
        "insert into quality.gate_results (run_id, gate, as_of_date, table_name, expectation, "
        "expectation_id, severity, success, raised, observed, expected) "
        "values (%s, 'landing', %s, 'raw_hubspot.contacts', 'x', %s, %s, %s, %s, %s, %s)",
        *(run_id, DAY, name, row["severity"], row["success"], row["raised"]),
        *(row["observed"], row["expected"]),
    )


def test_a_gate_that_stops_a_night_says_what_and_why_once(house: House) -> None:
    _gate_result(house, "night-1", "landing.contacts.volume")
    _gate_result(house, "night-1", "landing.contacts.age", raised=True, severity="info")
    _gate_result(house, "night-1", "landing.contacts.warned", severity="warning")
    _gate_result(house, "night-1", "landing.contacts.fine", success=True)
    house.task("night-1", "gate_landing", "failed", "GateFailure: gate_landing: volume")
    title = "gate_landing stopped the night of 2026-06-30: landing.contacts.age and 1 more"
    assert house.review("night-1") == [("ops", title)]
    text = house.told[0][1].text
    assert "- landing.contacts.age: could not be evaluated" in text
    assert "- landing.contacts.volume: found 12 %, allowed at most 5 %" in text
    assert "warned" not in text
    assert "Next: kundenkreis gates landing.contacts.age;" in text
    assert [one["event"] for one in _open(house)] == ["failed_gate"]

    for run_id in ("night-2", "night-3"):
        _gate_result(house, run_id, "landing.contacts.volume")
        house.task(run_id, "gate_landing", "failed", "GateFailure: gate_landing: volume")
    changed = "Changed: gate_landing stopped the night of 2026-06-30: landing.contacts.volume"
    assert house.review("night-2") == [("ops", changed)]
    assert house.review("night-3") == []
    house.task("night-4", "gate_landing", "success")
    assert len(house.review("night-4", "running")) == 1
    assert _open(house) == []


# What waits for people


def _held(house: House, run_id: str, segment: str | None, rows: int) -> None:
    publication = house.publish(run_id)
    house.run(
        "create table if not exists activation.plan_rows (publication_id bigint, segment text, "
        "destination text, status text, status_reason text, address text, audience text)"
    )
    for number in range(rows):
        house.run(
            "insert into activation.plan_rows values (%s, %s, %s, 'held', "
            "'70 %% of 100 members change, limit 30 %%', 'anna@example.com', 'A')",
            *(publication, segment, ("listmonk", "mailchimp")[number % 2]),
        )
    house.task(run_id, "plan", "success")


def test_a_held_segment_is_told_as_soon_as_it_is_planned(house: House) -> None:
    _held(house, "night-1", "champions", 3)
    title = "Segment champions is held: 3 changes wait for a decision"
    assert house.review("night-1", "running") == [("ops", title), ("crm", title)]
    text = house.told[0][1].text
    assert "was not sent to listmonk, mailchimp: 70 % of 100 members change" in text
    assert "kundenkreis approve" in text
    assert "anna" not in str(house.told)
    # More rows, or the end of the run, are no news.
    assert house.review("night-1", "success") == []
    _held(house, "night-2", "champions", 5)
    assert house.review("night-2", "running") == []
    # A night that was not planned does not know whether it is over.
    house.task("night-3", "extract.hubspot", "failed", VENDOR)
    house.review("night-3")
    assert "champions" in [one["subject"] for one in _open(house)]
    _held(house, "night-4", None, 0)
    assert ("crm", f"Over: {title.replace('3 changes', '5 changes')}") in house.review(
        "night-4", "running"
    )


def test_a_held_segment_that_somebody_decided_about_is_over(house: House) -> None:
    _held(house, "night-1", "champions", 2)
    house.review("night-1", "running")
    for tool in ("listmonk", "mailchimp"):
        house.run(
            "insert into activation.approvals (publication_id, destination, audience, segment, "
            "plan_hash, decision, decided_by, decided_in) select max(publication_id), %s, 'A', "
            "'champions', 'h', 'reject', 'anna', 'airflow' from history.publications",
            tool,
        )
    house.review("night-1", "success")
    assert _open(house) == []


def test_hours_that_a_run_waits_for_an_answer_are_not_late(house: House) -> None:
    house.task("night-1", "publish", "success")
    house.run("update operations.task_results set finished_at = %s", BEGUN + timedelta(minutes=30))
    for state in ("running", "success"):
        assert house.review("night-1", state, now=BEGUN + timedelta(hours=9)) == []


def _reject(house: House, source: str, count: int, state: str = "open") -> None:
    for number in range(count):
        house.run(
            "insert into quarantine.rejected_records (record_hash, source, table_name, "
            "reason_code, reason, run_id, state) values (%s, %s, 't', 'c', 'r', 'night', %s)",
            *(f"{source}{state}{number}", source, state),
        )


def test_dead_letters_above_the_limit_are_told(house: House) -> None:
    _reject(house, "hubspot", 2)
    _reject(house, "files", 3)
    _reject(house, "woocommerce", 9, "closed")
    house.run(
        "insert into activation.destinations values ('listmonk', false, 5, now(), 'night'), "
        "('mailchimp', false, 2, now(), 'night')"
    )
    house.run(
        "insert into activation.delivered_state (destination, audience, address, customer_id, "
        "rejections) select tool, '', 'a' || n, 'c' || n, refused from (values ('listmonk', 4), "
        "('mailchimp', 2)) as t (tool, refused), generate_series(1, 2) as n"
    )
    assert house.review("night-1", "success") == [
        ("ops", "3 records wait in the quarantine of files"),
        ("ops", "mailchimp refuses 2 contacts for good"),
    ]
    assert "kundenkreis quarantine list --source files" in house.told[0][1].text
    house.run("update quarantine.rejected_records set state = 'closed' where source = 'files'")
    house.run("update activation.delivered_state set rejections = 0")
    assert len(house.review("night-2", "running")) == 2
    assert _open(house) == []


# News of the business, and lateness


def test_the_churn_alarm_is_told_and_ends(house: House) -> None:
    columns = house.rows(
        "select column_name, data_type from information_schema.columns where table_schema = "
        "'history' and table_name = 'kpi_daily' and is_nullable = 'NO'"
    )

    def kpi(run_id: str, day: date, alarm: bool) -> None:
        values: dict[str, Any] = {
            name: 0 for name, kind in columns if kind in ("integer", "numeric")
        }
        values |= {"as_of_date": day, "churn_alarm": alarm, "churn_rate": 0.125}
        values["publication_id"] = house.publish(run_id)
        names = ", ".join(values)
        marks = ", ".join(["%s"] * len(values))
        house.run(f"insert into history.kpi_daily ({names}) values ({marks})", *values.values())
        house.task(run_id, "publish", "success")

    kpi("night-1", DAY, True)
    assert house.review("night-1", "success") == [
        ("crm", "Churn is unusually high: 12.5 % in 30 days up to 2026-06-30")
    ]
    kpi("night-2", DAY + timedelta(days=1), True)
    assert house.review("night-2", "success") == []
    # A backfill of an old day has no news.
    house.review("backfill", "success", is_backfill=True)
    assert len(_open(house)) == 1
    kpi("night-3", DAY + timedelta(days=2), False)
    assert [channel for channel, _ in house.review("night-3", "success")] == ["crm"]
    assert _open(house) == []


@pytest.mark.parametrize(
    ("minutes", "state", "words"),
    [(59, "success", ""), (60, "success", "It took 60 minutes"), (61, "running", "under way for")],
)
def test_a_night_is_late_at_its_deadline(
    house: House, minutes: int, state: str, words: str
) -> None:
    told = house.review("night-1", state, now=BEGUN + timedelta(minutes=minutes))
    assert told == ([("ops", "The night of 2026-06-30 is late")] if words else [])
    if words:
        assert words in house.told[0][1].text
        # The deadline's callback and the end of the run tell the same thing once.
        assert house.review("night-1", "success", now=BEGUN + timedelta(minutes=99)) == []
        house.review("night-2", "success")
        assert _open(house) == []


def test_backfills_and_shops_without_a_deadline_are_never_late(house: House) -> None:
    late = BEGUN + timedelta(days=1)
    assert house.review("backfill", "success", now=late, is_backfill=True) == []
    house.configure(deadline_minutes=None)
    assert house.review("night-1", "success", now=late) == []


# Sending


def test_a_message_that_was_not_taken_is_sent_by_the_next_run(house: House) -> None:
    _held(house, "night-1", "champions", 1)
    house.broken = {"ops"}
    title = "Segment champions is held: 1 change waits for a decision"
    assert house.review("night-1", "running") == [("crm", title)]
    assert "was not taken by channel 'ops': slack: POST answered 503" in house.log[0]
    assert "kundenkreis alerts test ops" in house.log[0]
    unsent = (
        "select channel, attempts, problem from operations.incident_messages where sent_at is null"
    )
    assert house.rows(unsent) == [("ops", 1, "slack: POST answered 503")]
    house.broken = set()
    assert house.review("night-2", "success") == [("ops", title)]
    assert house.rows(unsent) == []


def test_one_broken_channel_is_tried_once_per_look(house: House) -> None:
    for task in ("extract.hubspot", "extract.woocommerce"):
        house.task("night-1", task, "failed", VENDOR)
    house.broken = {"ops"}
    house.review("night-1")
    assert house.rows("select sum(attempts), count(*) from operations.incident_messages") == [
        (1, 2)
    ]
    house.broken = set()
    assert len(house.review("night-1")) == 2


def test_what_nobody_hears_of_is_recorded(house: House) -> None:
    house.configure(events={})
    house.task("night-1", "transform", "failed", "TransformError: model orders")
    assert house.review("night-1") == []
    assert [one["title"] for one in _open(house)] == ["transform failed in the night of 2026-06-30"]


def test_an_address_in_an_error_is_blanked_out_everywhere(house: House) -> None:
    house.task("night-1", "transform", "failed", "Unexpected KeyError: anna@example.com")
    house.review("night-1")
    kept = house.rows(
        "select i::text, m::text from operations.incidents i, operations.incident_messages m"
    )
    assert kept
    assert "anna" not in str(kept) + str(house.told) + str(house.log)


def test_two_looks_at_once_open_one_incident(house: House) -> None:
    from concurrent.futures import ThreadPoolExecutor

    house.task("night-1", "transform", "failed", "TransformError: model orders")
    look: Callable[[int], Any] = lambda _: house.review("night-1")  # noqa: E731
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(look, range(8)))
    assert len(house.told) == 1
    assert house.rows("select count(*) from operations.incidents") == [(1,)]


# The command


@pytest.fixture
def command(house: House, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """The command line over the warehouse, with one channel."""
    (tmp_path / "sources.yml").write_text("{}")
    (tmp_path / "alerts.yml").write_text(
        "channels: {ops: {kind: webhook}}\nevents: {failed_task: [ops]}\n"
    )

    def call(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "kundenkreis", "alerts", *arguments],
            env={
                **os.environ,
                "AIRFLOW_CONN_WAREHOUSE": house.dsn,
                "KUNDENKREIS_CONFIG": str(tmp_path),
                **environment,
            },
            capture_output=True,
            text=True,
            check=False,
        )

    return call


def test_the_command_tries_channels_and_sends_what_is_left(
    house: House, command: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    unknown = command("test", "pager")
    assert unknown.returncode == 1
    assert "alerts.yml has no channel 'pager'. It has: ops." in unknown.stderr

    house.configure(events={"failed_task": ["ops"]})
    house.broken = {"ops"}
    house.task("night-1", "transform", "failed", "TransformError: model orders")
    house.review("night-1")
    listed = command("list")
    assert "transform failed in the night of 2026-06-30" in listed.stdout
    assert "Next: kundenkreis status" in listed.stdout

    with serving(json_answer(200, {})) as (port, asked):
        url = f"http://127.0.0.1:{port}/hook"
        tried = command("test", "ops", AIRFLOW_CONN_ALERTS_WEBHOOK=url)
        assert tried.returncode == 0, tried.stderr
        sent = command("send", "--json", AIRFLOW_CONN_ALERTS_WEBHOOK=url)
        assert json.loads(sent.stdout) == {"sent": 1, "failed": 0}
    assert [one.json["event"] for one in asked] == ["test", "failed_task"]

    gone = command("test", "ops", AIRFLOW_CONN_ALERTS_WEBHOOK=url)
    assert gone.returncode == 1
    assert "VendorError: webhook: POST" in gone.stderr
    assert "Traceback" not in gone.stderr


def _open(house: House) -> list[dict[str, Any]]:
    with psycopg.connect(house.dsn) as connection:
        return open_incidents(connection)
