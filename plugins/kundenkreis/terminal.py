"""What a person sees in the terminal: a night's progress and its summary."""

from __future__ import annotations

import os
import time
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.status import Status
from rich.table import Table

_MARKS = {
    "success": "[green]done[/]   ",
    "failed": "[bold red]failed[/] ",
    "skipped": "[yellow]skipped[/]",
}


def detached_console(descriptor: int) -> Console:
    """A console on a copy of a file descriptor, which stays when the original is redirected."""
    return Console(file=os.fdopen(os.dup(descriptor), "w", buffering=1))


class NightWatch:
    """Shows a night's progress: a spinner on a terminal, a line now and then elsewhere.

    Called with a task id, an event (started, progress, success, failed, skipped) and a text.
    """

    def __init__(self, console: Console, seconds_between_lines: float = 5) -> None:
        self._console = console
        self._pause = seconds_between_lines
        self._begun = time.monotonic()
        self._task_begun = self._begun
        self._last_line = self._begun
        self._status: Status | None = None
        if console.is_terminal:
            self._status = console.status("starting Airflow …")
            self._status.start()
        else:
            console.print("starting Airflow …")

    def __call__(self, task_id: str, event: str, text: str) -> None:
        now = time.monotonic()
        if event == "started":
            self._task_begun = self._last_line = now
            self._show(f"{task_id} …")
        elif event in _MARKS:
            seconds = now - self._task_begun
            self._console.print(
                f"{now - self._begun:6.1f} s  {_MARKS[event]}  {task_id}  [dim]{seconds:.1f} s[/]",
                highlight=False,
            )
        elif self._status is not None:
            self._show(f"{task_id}: {text}")
        elif now - self._last_line >= self._pause:
            self._last_line = now
            passed = f"{now - self._begun:6.1f} s"
            self._console.print(f"{passed}  {'':7}  {task_id}: {text}", markup=False)

    def close(self) -> None:
        """End the spinner."""
        if self._status is not None:
            self._status.stop()

    def _show(self, text: str) -> None:
        if self._status is not None:
            self._status.update(escape(text))


def print_night(console: Console, report: dict[str, Any]) -> None:
    """Print a night's report: publication, gates, stages, RFM segments, deliveries, rejects."""
    publication = report.get("publication")
    console.rule(f"Night of {report['as_of_date']}")
    if publication:
        console.print(
            f"Readers see publication {publication['publication_id']} as of "
            f"{publication['as_of_date']} ({publication['schema_name']})."
        )
    else:
        console.print("Nothing is published yet.")
    for gate in report["gates"]:
        console.print(
            f"Gate {gate['gate']}: {gate['expectations']} expectations, "
            f"{gate['critical_failures']} critical failures, {gate['warnings']} warnings."
        )
    for table in (
        _counts("Customers per lifecycle stage", report["stages"]),
        _counts("Customers per RFM segment", report["rfm_segments"]),
        _deliveries(report["deliveries"]),
        _rejected(report["rejected_records"]),
    ):
        if table.row_count:
            console.print(table)


def print_plan(console: Console, publication_id: int, summary: dict[str, Any]) -> None:
    """Print the plan of a publication, per destination and audience."""
    console.rule(f"Plan of publication {publication_id}")
    table = Table("destination", "audience", "add", "remove", "update", "held", "suppressed")
    for destination, content in summary.get("destinations", {}).items():
        for audience, counts in content.get("audiences", {}).items():
            cells = (counts.get(k, 0) for k in ("add", "remove", "upsert", "held", "suppressed"))
            table.add_row(destination, audience, *(str(cell) for cell in cells))
    console.print(table)
    for destination, content in summary.get("destinations", {}).items():
        console.print(f"{destination}: {content.get('calls', 0)} write calls")


def _counts(title: str, counts: dict[str, int]) -> Table:
    table = Table("", "customers", title=title, title_justify="left")
    table.columns[1].justify = "right"
    for name, count in counts.items():
        table.add_row(str(name), f"{count:,}")
    return table


def _deliveries(deliveries: dict[str, Any]) -> Table:
    columns = ("sent", "rejected", "suppressed", "held", "skipped")
    table = Table("destination", "audience", *columns, title="Sent", title_justify="left")
    for destination, summary in deliveries.items():
        for audience, counts in summary.get("audiences", {}).items():
            table.add_row(
                destination, audience or "(profiles)", *(f"{counts.get(c, 0):,}" for c in columns)
            )
    return table


def _rejected(rows: list[dict[str, Any]]) -> Table:
    table = Table(
        "source", "table", "reason", "rows", title="Kept in quarantine", title_justify="left"
    )
    for row in rows:
        table.add_row(row["source"], row["table_name"], row["reason_code"], f"{row['records']:,}")
    return table
