"""Counts and durations of each task for StatsD or OpenTelemetry, as Airflow is set up to send them.

Airflow's own metrics tell how long a task took and whether it failed; these tell what it did.
Nothing is sent while ``[metrics] statsd_on`` and ``otel_on`` are off.
docs/monitoring.md lists them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from airflow.sdk.observability import stats

_PREFIX = "kundenkreis"


@dataclass(frozen=True)
class Count:
    """One counter of one task. Tags are names of systems, tables and audiences."""

    name: str
    value: int
    tags: Mapping[str, str]


def emit(task_id: str, state: str, seconds: float, summary: Mapping[str, Any]) -> None:
    """Send what a task did. A metrics backend that fails never fails the task.

    Args:
        seconds: the task's work without Airflow's own start and end.
    """
    try:
        stats.timing(
            f"{_PREFIX}.task.duration", seconds * 1000, tags={"task": task_id, "state": state}
        )
        for count in counts(summary):
            stats.incr(f"{_PREFIX}.{count.name}", count.value, tags=dict(count.tags))
    except Exception:  # noqa: S110 (whatever the backend's client raises)
        pass


def initialise() -> None:
    """Set up what Airflow's own processes set up for themselves; for a night in this process."""
    from airflow.sdk.configuration import conf
    from airflow.sdk.observability.metrics import stats_utils

    stats.initialize(
        factory=stats_utils.get_stats_factory(),
        export_legacy_names=conf.getboolean("metrics", "legacy_names_on"),
    )


def counts(summary: Mapping[str, Any]) -> Iterator[Count]:
    """The counters of a task's summary, as `kundenkreis.night` returns it."""
    if "source" in summary:
        source = str(summary["source"])
        for table, rows in summary.get("tables", {}).items():
            yield Count("rows.loaded", int(rows), {"source": source, "table": str(table)})
        yield Count("rows.rejected", int(summary.get("rejected", 0)), {"source": source})
    elif "schema_name" in summary and "rejected" in summary:
        yield Count("rows.rejected", int(summary["rejected"]), {"source": "models"})
    if "audiences" in summary and "destination" in summary:
        yield from _delivered(str(summary["destination"]), summary)


def _delivered(destination: str, summary: Mapping[str, Any]) -> Iterator[Count]:
    for state in ("confirmed", "rejected", "unknown", "suppressed", "skipped", "held"):
        if state in summary:
            tags = {"destination": destination, "state": state}
            yield Count("members", int(summary[state]), tags)
    yield Count("calls", int(summary.get("calls", 0)), {"destination": destination})
