"""What a person sees of a night, on a terminal and in a log."""

from __future__ import annotations

import io
import os
from typing import Any

import pytest
from rich.console import Console

from kundenkreis import terminal
from kundenkreis.terminal import NightWatch, detached_console, print_night
from kundenkreis.terminal_activation import print_plan


@pytest.fixture
def console() -> Console:
    """A console without a terminal, which keeps its text."""
    return Console(file=io.StringIO(), width=120)


def _text(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that the test moves."""
    now = [100.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    return now


# The watch


def test_every_task_ends_with_a_line(console: Console, clock: list[float]) -> None:
    watch = NightWatch(console)
    for event, seconds in (("success", 2.0), ("failed", 3.5), ("skipped", 0.0)):
        watch("gate_marts", "started", "")
        clock[0] += seconds
        watch("gate_marts", event, "")
    watch.close()
    assert [line.split() for line in _text(console).splitlines()] == [
        ["starting", "Airflow", "…"],
        ["2.0", "s", "done", "gate_marts", "2.0", "s"],
        ["5.5", "s", "failed", "gate_marts", "3.5", "s"],
        ["5.5", "s", "skipped", "gate_marts", "0.0", "s"],
    ]


def test_a_log_gets_progress_now_and_then(console: Console, clock: list[float]) -> None:
    watch = NightWatch(console, seconds_between_lines=5)
    watch("transform", "started", "")
    for second in range(12):
        clock[0] += 1
        watch("transform", "progress", f"model {second + 1} of 12")
    watch.close()
    lines = [line for line in _text(console).splitlines() if "transform:" in line]
    assert [line.rpartition(": ")[2] for line in lines] == ["model 5 of 12", "model 10 of 12"]


def test_progress_is_text_and_no_markup(console: Console, clock: list[float]) -> None:
    watch = NightWatch(console, seconds_between_lines=0)
    watch("transform", "progress", "dbt [bold]12[/] of [/odd]")
    assert "transform: dbt [bold]12[/] of [/odd]" in _text(console)


def test_a_terminal_shows_the_current_step(clock: list[float]) -> None:
    console = Console(file=io.StringIO(), width=100, force_terminal=True)
    watch = NightWatch(console)
    try:
        watch("transform", "started", "")
        watch("transform", "progress", "model [/odd] 3 of 12")
        assert watch._status is not None
        assert str(watch._status.status) == r"transform: model \[/odd] 3 of 12"
        watch("transform", "success", "")
    finally:
        watch.close()
    assert "transform" in _text(console)


def test_a_detached_console_survives_redirection(tmp_path: Any) -> None:
    terminal_file, log_file = tmp_path / "terminal", tmp_path / "log"
    descriptor = os.open(terminal_file, os.O_CREAT | os.O_WRONLY)
    log = os.open(log_file, os.O_CREAT | os.O_WRONLY)
    try:
        console = detached_console(descriptor)
        os.dup2(log, descriptor)
        console.print("progress")
        os.write(descriptor, b"noise")
        console.file.close()
    finally:
        os.close(descriptor)
        os.close(log)
    assert terminal_file.read_text() == "progress\n"
    assert log_file.read_text() == "noise"


# The summaries


def _report(**changes: Any) -> dict[str, Any]:
    return {
        "run_id": "run-1",
        "as_of_date": "2026-01-31",
        "publication": {
            "publication_id": 7,
            "as_of_date": "2026-01-31",
            "schema_name": "marts_blue",
            "published_at": "2026-02-01",
        },
        "stages": {"loyalty": 1234, "[churned]": 5},
        "rfm_segments": {"Champions": 99},
        "gates": [
            {"gate": "landing", "expectations": 40, "critical_failures": 0, "warnings": 1},
            {"gate": "marts", "expectations": 55, "critical_failures": 2, "warnings": 0},
        ],
        "warnings": ["orders volume: [3.5] below"],
        "deliveries": {
            "listmonk": {
                "destination": "listmonk",
                "sent": 1500,
                "calls": 12,
                "audiences": {
                    "[vip] Champions": {
                        "add": {"confirmed": 20, "rejected": 1, "suppressed": 3},
                        "remove": {"confirmed": 4, "rejected": 2},
                    }
                },
            }
        },
        "rejected_records": [
            {"source": "files", "table_name": "orders", "reason_code": "bad_date", "records": 8}
        ],
        "seconds": {"transform": 1.5},
        **changes,
    }


def test_a_night_is_summed_up(console: Console) -> None:
    print_night(console, _report())
    text = " ".join(_text(console).split())
    for expected in (
        "Night of 2026-01-31",
        "loyalty 1,234",
        "[churned] 5",
        "Champions 99",
        "listmonk: 1,500 rows sent in 12 calls",
        "[vip] Champions 20 4 3 3 0 0",  # added, removed, rejected, suppressed, held, skipped
        "files orders bad_date 8",
        "Gate landing: 40 expectations, 0 critical failures, 1 warnings",
        "Gate marts: 55 expectations, 2 critical failures, 0 warnings",
        "warning: orders volume: [3.5] below",
        "Readers see publication 7 as of 2026-01-31 (marts_blue)",
    ):
        assert expected in text


def test_a_night_that_published_nothing_says_whose_numbers_these_are(console: Console) -> None:
    print_night(console, _report(as_of_date="2026-01-03"))
    text = _text(console)
    assert "Night of 2026-01-03" in text
    assert "Nothing is published for this day: the tables show what readers see." in text


def test_a_night_without_anything_says_so(console: Console) -> None:
    empty = _report(
        publication=None,
        stages={},
        rfm_segments={},
        gates=[],
        warnings=[],
        deliveries={},
        rejected_records=[],
    )
    print_night(console, empty)
    text = _text(console)
    assert "Nothing is published yet" in text
    assert "quarantine" not in text
    assert "customers" not in text


def test_a_plan_is_printed_by_audience(console: Console) -> None:
    audience = {
        "segment": "champions",
        "add": 1000,
        "remove": 20,
        "update": 40,
        "held": 3,
        "held_because": "change_above_limit",
        "holdout": 9,
        "suppressed": {"unsubscribed": 4, "complained": 2},
        "skipped": {"not_in_tool": 5},
        "calls": 14,
    }
    held = {
        "destination": "mailchimp",
        "audience": "[vip] Champions",
        "segment": "champions",
        "held_because": "change_above_limit",
        "adds": 2,
        "removes": 1,
        "updates": 0,
        "state": "rejected",
        "decided_by": "anna",
        "decided_at": "2026-07-01T08:30:00+02:00",
        "decided_in": "airflow",
    }
    row = {
        "destination": "mailchimp",
        "audience": None,
        "operation": "upsert",
        "status": "planned",
        "reason": "attributes_changed",
        "changed_fields": ["stage", "monetary"],
        "address": "a…@s…",
    }
    summary = {
        "publication_id": 7,
        "as_of_date": "2026-06-30",
        "planned_at": "2026-07-01 00:31:12+02",
        "destinations": {
            "mailchimp": {
                "calls": 1200,
                "minutes": 12.4,
                "minutes_rest_on": "the last 5 deliveries",
                "profiles": {"planned": 5000},
                "new_contacts": 17,
                "audiences": {"[vip] Champions": audience},
            }
        },
        "held": [held],
        "sample": [row],
    }
    print_plan(console, summary)
    text = " ".join(_text(console).split())
    for expected in (
        "Plan of publication 7",
        "As of 2026-06-30, planned 2026-07-01 00:31",
        "mailchimp: 5,000 profiles to write (17 of them new), 1,200 write calls, about 12 min",
        "[vip] Champions 1,000 40 20 3 6 9 14",
        "suppressed: unsubscribed 4, complained 2",
        "skipped: not_in_tool 5",
        "minutes by the last 5 deliveries",
        "mailchimp: [vip] Champions champions change_above_limit 2 1 0 rejected by anna",
        "upsert mailchimp: (the contact) planned attributes_changed stage, monetary a…@s…",
    ):
        assert expected in text
