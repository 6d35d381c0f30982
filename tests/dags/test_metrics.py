"""Metrics: what a task's summary counts, sent by StatsD as Airflow is set up for it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest
from airflow.sdk._shared.observability.metrics import stats as shared

from kundenkreis.operators import metrics


def _counted(summary: dict[str, Any]) -> dict[tuple[str, ...], int]:
    return {(one.name, *one.tags.values()): one.value for one in metrics.counts(summary)}


def test_an_extract_counts_rows() -> None:
    summary = {"source": "hubspot", "tables": {"contacts": 7, "deals": 0}, "rejected": 2}
    assert _counted(summary) == {
        ("rows.loaded", "hubspot", "contacts"): 7,
        ("rows.loaded", "hubspot", "deals"): 0,
        ("rows.rejected", "hubspot"): 2,
    }


def test_a_build_counts_what_models_reject() -> None:
    summary = {"schema_name": "marts_blue", "dbt": {"success": 3}, "rejected": 4}
    assert _counted(summary) == {("rows.rejected", "models"): 4}


def test_a_delivery_counts_members_and_calls() -> None:
    summary = {
        "destination": "listmonk",
        "sent": 9,
        "confirmed": 8,
        "rejected": 1,
        "held": 5,
        "calls": 3,
        "audiences": {"Welcome": {}},
    }
    assert _counted(summary) == {
        ("members", "listmonk", "confirmed"): 8,
        ("members", "listmonk", "rejected"): 1,
        ("members", "listmonk", "held"): 5,
        ("calls", "listmonk"): 3,
    }


@pytest.mark.parametrize("summary", [{}, {"publication_id": 3}, {"gate": "marts", "failed": 0}])
def test_other_tasks_count_nothing(summary: dict[str, Any]) -> None:
    assert _counted(summary) == {}


@pytest.fixture
def statsd(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A StatsD server's socket, to which Airflow is set up to send."""
    for name in ("_factory", "_backend", "_export_legacy_names"):
        monkeypatch.setattr(shared, name, getattr(shared, name))  # as it was, afterwards
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(10)
        settings = {
            "STATSD_ON": "True",
            "STATSD_HOST": "127.0.0.1",
            "STATSD_PORT": str(server.getsockname()[1]),
            "STATSD_PREFIX": "airflow",
            "STATSD_INFLUXDB_ENABLED": "True",
            "LEGACY_NAMES_ON": "False",
        }
        for name, value in settings.items():
            monkeypatch.setenv(f"AIRFLOW__METRICS__{name}", value)
        metrics.initialise()
        yield server


def _received(server: socket.socket, count: int) -> list[str]:
    return [server.recv(4096).decode() for _ in range(count)]


def test_a_tasks_counts_and_duration_leave_by_statsd(statsd: socket.socket) -> None:
    summary = {"source": "hubspot", "tables": {"contacts": 7}, "rejected": 2}
    metrics.emit("extract.hubspot", "success", 1.5, summary)
    assert _received(statsd, 3) == [
        "airflow.kundenkreis.task.duration,task=extract.hubspot,state=success:1500.000000|ms",
        "airflow.kundenkreis.rows.loaded,source=hubspot,table=contacts:7|c",
        "airflow.kundenkreis.rows.rejected,source=hubspot:2|c",
    ]


def test_a_backend_that_fails_does_not_fail_the_task(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Any:
        raise OSError("no such host")

    monkeypatch.setattr(shared, "_factory", broken)
    monkeypatch.setattr(shared, "_backend", None)
    metrics.emit("extract.hubspot", "success", 1.5, {"source": "hubspot"})
