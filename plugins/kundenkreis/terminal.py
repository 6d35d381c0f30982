"""What a person sees in the terminal: a night's progress and its summary."""

from __future__ import annotations

import os
import time
from collections import Counter
from typing import Any

from rich import box
from rich.columns import Columns
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
    """Print a night's report: customers, deliveries, quarantine, gates and publication."""
    console.rule(f"Night of {report['as_of_date']}")
    publication = report.get("publication")
    if publication and publication["as_of_date"] != report["as_of_date"]:
        console.print("Nothing is published for this day: the tables show what readers see.")
    sides = [
        _counts("lifecycle stage", report["stages"]),
        _counts("RFM segment", report["rfm_segments"]),
    ]
    console.print(Columns([table for table in sides if table.row_count], padding=(0, 4)))
    for destination, summary in report["deliveries"].items():
        console.print(_delivery(destination, summary))
    if report["rejected_records"]:
        console.print(_rejected(report["rejected_records"]))
    for gate in report["gates"]:
        console.print(
            f"Gate {gate['gate']}: {gate['expectations']} expectations, "
            f"{gate['critical_failures']} critical failures, {gate['warnings']} warnings"
        )
        if gate.get("data_docs"):
            console.print(f"  {gate['data_docs']}", markup=False, highlight=False, soft_wrap=True)
    for warning in report["warnings"]:
        console.print(f"  warning: {warning}", markup=False, highlight=False)
    if publication:
        console.print(
            f"Readers see publication {publication['publication_id']} as of "
            f"{publication['as_of_date']} ({publication['schema_name']})"
        )
    else:
        console.print("Nothing is published yet")


def print_plan(console: Console, publication_id: int, summary: dict[str, Any]) -> None:
    """Print the plan of a publication, per destination and audience."""
    console.rule(f"Plan of publication {publication_id}")
    for destination, content in summary["destinations"].items():
        profiles = content["profiles"].get("planned", 0)
        title = f"{destination}: {profiles:,} profiles to write, {content['calls']:,} write calls"
        table = _table("audience", "add", "remove", "held", "suppressed", title=title)
        reasons: Counter[str] = Counter()
        for audience, counts in content["audiences"].items():
            reasons.update(counts["suppressed"])
            table.add_row(
                escape(audience),
                f"{counts['add']:,}",
                f"{counts['remove']:,}",
                f"{counts['held']:,}",
                f"{sum(counts['suppressed'].values()):,}",
            )
        console.print(table)
        for audience, counts in content["audiences"].items():
            if counts["held_because"]:
                console.print(f"  held: {audience}: {counts['held_because']}", markup=False)
        why = ", ".join(f"{name} {count:,}" for name, count in reasons.most_common())
        if why:
            console.print(f"  suppressed: {why}", highlight=False)


def _table(*columns: str, title: str | None = None) -> Table:
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for column in columns:
        right = column in _NUMBERS
        table.add_column(column, justify="right" if right else "left", no_wrap=right)
    return table


_NUMBERS = {
    *("customers", "rows", "members", "added", "removed", "add", "remove"),
    *("rejected", "suppressed", "held", "skipped"),
}


def _counts(title: str, counts: dict[str, int]) -> Table:
    table = _table(title, "customers")
    for name, count in counts.items():
        table.add_row(escape(name), f"{count:,}")
    return table


def _delivery(destination: str, summary: dict[str, Any]) -> Table:
    outcomes = ("rejected", "suppressed", "held", "skipped")
    title = f"{destination}: {summary['sent']:,} rows sent in {summary['calls']:,} calls"
    table = _table("audience", "added", "removed", *outcomes, title=title)
    for audience, operations in sorted(summary.get("audiences", {}).items()):
        totals = (
            sum(counts.get(outcome, 0) for counts in operations.values()) for outcome in outcomes
        )
        table.add_row(
            escape(audience),
            f"{operations.get('add', {}).get('confirmed', 0):,}",
            f"{operations.get('remove', {}).get('confirmed', 0):,}",
            *(f"{total:,}" for total in totals),
        )
    return table


def _rejected(rows: list[dict[str, Any]]) -> Table:
    table = _table("kept in quarantine", "table", "reason", "rows")
    for row in rows:
        names = (escape(row[key]) for key in ("source", "table_name", "reason_code"))
        table.add_row(*names, f"{row['records']:,}")
    return table
