"""What a person sees in the terminal: a night's progress and its summary."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from rich import box
from rich.columns import Columns
from rich.console import Console
from rich.markup import escape
from rich.status import Status
from rich.table import Table

if TYPE_CHECKING:
    from kundenkreis.doctor import Finding
    from kundenkreis.warehouse.rollback import Rollback

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
        console.print(delivery_table(destination, summary))
    if report.get("held"):
        print_held(console, report["held"])
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
        restored = publication.get("restores_publication_id")
        again = f" (a rollback to publication {restored})" if restored else ""
        console.print(
            f"Readers see publication {publication['publication_id']} as of "
            f"{publication['as_of_date']} ({publication['schema_name']}){again}",
            soft_wrap=True,
        )
    else:
        console.print("Nothing is published yet")


_LEVELS = {
    "ok": "[green]ok[/]     ",
    "warning": "[yellow]warning[/]",
    "error": "[bold red]error[/]  ",
}


def print_findings(console: Console, findings: list[Finding], everything: bool) -> None:
    """Print what `doctor` found, the errors last, where they are read first."""
    for level in ("ok", "warning", "error"):
        for finding in findings:
            if finding.level != level or (level == "ok" and not everything):
                continue
            lines = [
                f"{_LEVELS[level]}  {escape(f'{finding.subject}: {finding.where}')}",
                f"         {escape(finding.what)}",
                *([f"         [bold]fix:[/] {escape(finding.fix)}"] if finding.fix else []),
            ]
            console.print("\n".join(lines), highlight=False, soft_wrap=True)
    counts = Counter(finding.level for finding in findings)
    fine = "" if everything else " (--all shows them)"
    console.print(
        f"{counts['ok']} fine{fine}, {counts['warning']} warnings, {counts['error']} errors",
        highlight=False,
    )


def print_incidents(console: Console, incidents: list[dict[str, Any]]) -> None:
    """Print open incidents, each with what it means and what to run next."""
    if not incidents:
        console.print("No incident is open.")
    for incident in incidents:
        since = f"open since {incident['opened_at'][:16]}, seen by {incident['times_seen']} runs"
        console.rule(escape(incident["title"]), align="left")
        console.print(f"[dim]{incident['event']}, {since}[/]", highlight=False)
        console.print(incident["explanation"], markup=False, highlight=False, soft_wrap=True)


def print_held(console: Console, held: list[dict[str, Any]]) -> None:
    """Print the audiences that the size guard held: why, and who decided what."""
    table = new_table("held", "segment", "because", "add", "remove", "update", "decision")
    for one in held:
        decision = one["state"]
        if one["decided_by"]:
            when = f"{one['decided_at']:.16}".replace("T", " ")
            decision += f" by {one['decided_by']}, {when} ({one['decided_in']})"
        table.add_row(
            escape(f"{one['destination']}: {one['audience']}"),
            escape(one["segment"]),
            escape(one["held_because"]),
            *(f"{one[name]:,}" for name in ("adds", "removes", "updates")),
            escape(decision),
        )
    console.print(table)
    if any(one["state"] == "waits" for one in held):
        console.print(
            "Held audiences are not sent before somebody decides: `kundenkreis approve SEGMENT` or "
            "`kundenkreis reject SEGMENT`.",
            highlight=False,
            soft_wrap=True,
        )
    if any(one["state"] == "approved" for one in held):
        console.print("Approved and not sent yet: `kundenkreis deliver --held`.", highlight=False)


def print_gate_trend(console: Console, rows: list[dict[str, Any]], of_one: bool) -> None:
    """Print expectations with how they did lately, or one expectation run by run."""
    if not of_one:
        for row in rows:
            _print_expectation(console, row)
        return
    columns = ("as of", "severity", "met", "observed", "allowed", "failures")
    table = new_table(*columns, title=rows[0]["expectation_id"])
    for row in rows:
        table.add_row(
            escape(row["as_of_date"]),
            row["severity"],
            "[green]yes[/]" if row["success"] else f"[red]no[/], {_last_met(row)}",
            escape(_observed(row)),
            escape(row["expected"]),
            f"{row['failures']} of {row['runs']}",
        )
    console.print(table)


def _print_expectation(console: Console, row: dict[str, Any]) -> None:
    """Ids are long and are copied from here, so none is folded into a column."""
    met = "met now" if row["success"] else "not met"
    console.print(f"[bold]{escape(row['expectation_id'])}[/]", highlight=False, soft_wrap=True)
    for line in (
        f"{row['severity']}: {met}, {_last_met(row)}; failed in {row['failures']} of {row['runs']}",
        f"observed: {_observed(row)}; allowed: {row['expected']}",
    ):
        console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)


def _last_met(row: dict[str, Any]) -> str:
    return f"last met on {row['last_met_on']}" if row["last_met_on"] else "never met"


def _observed(row: dict[str, Any]) -> str:
    if row["measured"] is None or row["measured_usually"] is None:
        return str(row["observed"])
    return f"{row['observed']} (usually {row['measured_usually']:,.4g})"


def print_rollback(console: Console, done: Rollback) -> None:
    """Print what a rollback did."""
    event = done.publication
    lines = [
        f"Publication {done.taken_back} as of {done.taken_back_as_of} was taken back. Readers see "
        f"publication {event.restores} as of {event.as_of_date} again ({event.schema_name}); the "
        f"rollback is publication {event.publication_id}."
    ]
    if done.history_rows:
        counts = ", ".join(f"{table} {count:,}" for table, count in done.history_rows.items())
        lines.append(f"Its history rows were removed or changed back: {counts}.")
    if done.erased or done.withdrawn:
        lines.append(
            f"Since then {done.withdrawn:,} customers withdrew and {done.erased:,} were erased; so "
            "they are in what readers see."
        )
    if done.empty_columns:
        lines.append(f"Null until the next night: {', '.join(done.empty_columns)}.")
    if done.contract_changes:
        lines.append(f"Changed back: {'; '.join(done.contract_changes)}.")
    lines.append(
        f"{done.dirty_schema} is built in full by the next night. What was delivered stays in the "
        "ledger; nothing is sent until the next night, whose plan puts right what differs."
    )
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def print_quarantine(console: Console, rows: list[dict[str, Any]], count: int, state: str) -> None:
    """Print rejected records without their payload."""
    which = "" if state == "all" else f"{state} "
    if not count:
        console.print(f"There are no {which}records in quarantine.")
        return
    table = new_table("record", "table", "key", "reason", "last night")
    table.columns[0].no_wrap = True
    for row in rows:
        table.add_row(
            row["record_hash"][:12],
            escape(f"{row['source']}.{row['table_name']}"),
            escape(row["record_key"]),
            escape(row["reason_code"]),
            f"{row['last_rejected_at']:%Y-%m-%d}",
        )
    console.print(table)
    shown = "" if count == len(rows) else f", {len(rows):,} of them shown"
    console.print(f"{count:,} {which}records{shown}.", highlight=False)


def print_record(console: Console, row: dict[str, Any], history: list[dict[str, Any]]) -> None:
    """Print one rejected record: what is wrong, how it came, who released it."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for label, value in (
        ("record", row["record_hash"]),
        ("from", f"{row['source']}, {row['table_name']}"),
        ("key", row["record_key"] or "none"),
        ("reason", f"{row['reason_code']}: {row['reason']}"),
        ("rejected by", f"{row['rejected_by']}, last in {row['run_id']}"),
        ("since", f"{row['first_rejected_at']:%Y-%m-%d}, last {row['last_rejected_at']:%Y-%m-%d}"),
        ("state", _state_of(row)),
    ):
        table.add_row(label, escape(str(value)))
    console.print(table)
    console.print_json(json.dumps(row["payload"], default=str, ensure_ascii=False))
    for release in history:
        corrections = json.dumps(release["corrections"], default=str, ensure_ascii=False)
        corrected = f", corrected: {corrections}" if release["corrections"] else ""
        because = f" ({release['outcome_reason']})" if release["outcome_reason"] else ""
        console.print(
            f"Released {release['released_at']:%Y-%m-%d} by {release['released_by']}: "
            f"{release['note']}{corrected}. Outcome: {release['outcome']}{because}.",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )


def _state_of(row: dict[str, Any]) -> str:
    if row["state"] == "closed":
        return f"closed on {row['closed_at']:%Y-%m-%d}: {row['closed_because']}"
    if row["state"] == "released":
        return f"released on {row['released_at']:%Y-%m-%d}; comes back in the next night"
    return "open"


def new_table(*columns: str, title: str | None = None) -> Table:
    """A table as all commands print them; columns of numbers stand right."""
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for column in columns:
        right = column in _NUMBERS
        table.add_column(
            column, justify="right" if right else "left", no_wrap=right, overflow="fold"
        )
    return table


_NUMBERS = {
    *("customers", "rows", "members", "added", "removed", "add", "remove"),
    *("rejected", "suppressed", "held", "skipped", "update", "holdout", "calls", "members"),
    *("contactable", "sent", "wanted", "delivered", "would join", "would leave", "attempts"),
}


def _counts(title: str, counts: dict[str, int]) -> Table:
    table = new_table(title, "customers")
    for name, count in counts.items():
        table.add_row(escape(name), f"{count:,}")
    return table


def delivery_table(destination: str, summary: dict[str, Any]) -> Table:
    """What became of a plan's rows in one tool."""
    outcomes = ("rejected", "suppressed", "held", "skipped")
    title = f"{destination}: {summary['sent']:,} rows sent in {summary['calls']:,} calls"
    table = new_table("audience", "added", "removed", *outcomes, title=title)
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
    table = new_table("kept in quarantine", "table", "reason", "rows")
    for row in rows:
        names = (escape(row[key]) for key in ("source", "table_name", "reason_code"))
        table.add_row(*names, f"{row['records']:,}")
    return table
