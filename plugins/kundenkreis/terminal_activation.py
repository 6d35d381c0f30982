"""What a person sees of plans, decisions, deliveries, customers and segments."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from kundenkreis.terminal import delivery_table, new_table, print_held

if TYPE_CHECKING:
    from kundenkreis.activation.decisions import Outcome

Rows = list[dict[str, Any]]


# The plan


def print_plan(console: Console, summary: dict[str, Any]) -> None:
    """Print a plan, per destination and audience."""
    console.rule(f"Plan of publication {summary['publication_id']}")
    if summary["planned_at"]:
        console.print(
            f"As of {summary['as_of_date']}, planned {summary['planned_at']:.16}. Nothing was sent "
            "by this command; a plan holds until the next publication.",
            highlight=False,
            soft_wrap=True,
        )
    else:
        console.print(
            f"Publication {summary['publication_id']} as of {summary['as_of_date']} has not been "
            "planned: its night is still under way, or stopped before `plan`.",
            highlight=False,
            soft_wrap=True,
        )
    for destination, content in summary["destinations"].items():
        _print_destination(console, destination, content)
    if summary["held"]:
        print_held(console, summary["held"])
    if summary["sample"]:
        _print_sample(console, summary["sample"])


def _print_destination(console: Console, destination: str, content: dict[str, Any]) -> None:
    profiles = content["profiles"].get("planned", 0)
    title = (
        f"{destination}: {profiles:,} profiles to write ({content['new_contacts']:,} of them new), "
        f"{content['calls']:,} write calls, {_minutes(content['minutes'])}"
    )
    table = new_table(
        *("audience", "add", "update", "remove", "held", "suppressed", "holdout", "calls"),
        title=title,
    )
    suppressed: Counter[str] = Counter()
    skipped: Counter[str] = Counter()
    for audience, counts in content["audiences"].items():
        suppressed.update(counts["suppressed"])
        skipped.update(counts["skipped"])
        table.add_row(
            escape(audience),
            *(f"{counts[name]:,}" for name in ("add", "update", "remove", "held")),
            f"{sum(counts['suppressed'].values()):,}",
            *(f"{counts[name]:,}" for name in ("holdout", "calls")),
        )
    console.print(table)
    for label, reasons in (("suppressed", suppressed), ("skipped", skipped)):
        if why := ", ".join(f"{name} {count:,}" for name, count in reasons.most_common()):
            console.print(f"  {label}: {why}", highlight=False, markup=False, soft_wrap=True)
    if content["calls"]:
        console.print(
            f"  minutes by {content['minutes_rest_on']}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )


def _minutes(minutes: float) -> str:
    return "under a minute" if minutes < 1 else f"about {minutes:,.0f} min"


def _print_sample(console: Console, rows: Rows) -> None:
    table = new_table(
        *("operation", "audience", "state", "reason", "changed fields", "address"),
        title="Some rows of every kind",
    )
    for row in rows:
        table.add_row(
            row["operation"],
            escape(f"{row['destination']}: {row['audience'] or '(the contact)'}"),
            row["status"],
            escape(row["reason"]),
            escape(", ".join(row["changed_fields"]) or "-"),
            escape(row["address"] or "-"),
        )
    console.print(table)


# Decisions and deliveries


def print_decisions(console: Console, outcome: Outcome) -> None:
    """Print what became of a decision."""
    done = {"approve": "Approved", "reject": "Rejected"}[outcome.decision]
    for segment in outcome.answered:
        then = "it is sent now" if outcome.decision == "approve" else "nothing is sent"
        console.print(
            f"{done} in Airflow: {segment}; the run goes on, {then}.", markup=False, highlight=False
        )
    for one in outcome.recorded:
        console.print(
            f"{done}: {one.destination}, audience '{one.audience}' of publication "
            f"{outcome.publication_id}.",
            markup=False,
            highlight=False,
        )
    if outcome.recorded and outcome.decision == "approve":
        console.print("Nothing was sent yet: `kundenkreis deliver --held` sends it.")


def print_sent(console: Console, sent: Rows, *, held: bool) -> None:
    """Print what a delivery by hand did."""
    for summary in sent:
        console.print(delivery_table(summary["destination"], summary))
    if held and not any(summary["sent"] for summary in sent):
        console.print("Nothing that is approved was left to send; `kundenkreis status` shows more.")


def print_deliveries(console: Console, rows: Rows) -> None:
    """Print the last deliveries."""
    if not rows:
        console.print("Nothing was delivered yet.")
        return
    outcomes = ("sent", "confirmed", "rejected", "unknown", "suppressed", "skipped", "held")
    table = new_table("began", "destination", "publication", "state", *outcomes, "calls", "took")
    for row in rows:
        took = "-" if row["seconds"] is None else f"{row['seconds']:,.1f} s"
        table.add_row(
            f"{row['started_at']:.16}",
            escape(row["destination"]),
            str(row["publication_id"]),
            row["state"],
            *(f"{row[name]:,}" for name in (*outcomes, "calls")),
            took,
        )
    console.print(table)


def print_rejected(console: Console, rows: Rows) -> None:
    """Print what the tools refuse, and when it is tried again."""
    if not rows:
        console.print("The tools refuse nothing.")
        return
    table = new_table(
        *("destination", "audience", "operation", "reason", "attempts", "again"),
        *("customer", "address"),
    )
    for row in rows:
        words = f": {row['reason']}" if row["reason"] else ""
        table.add_row(
            escape(row["destination"]),
            escape(row["audience"] or "(the contact)"),
            row["operation"] or "-",
            escape(f"{row['reason_code'] or 'rejected'}{words}"),
            f"{row['attempts']} of {row['attempts_allowed'] or '-'}",
            row["retried"],
            escape(row["customer_id"]),
            escape(row["address"] or "-"),
        )
    console.print(table)


# A customer


def print_explanation(console: Console, found: dict[str, Any]) -> None:
    """Print why a customer is where it is."""
    console.rule(f"Customer {found['customer_id']}")
    lines = [f"As of {found['as_of_date']}, publication {found['publication_id']}."]
    if found["merged_from"]:
        lines.append(f"{found['merged_from']} is part of this customer now.")
    if found["personal_data"] == "masked":
        lines.append("This login sees personal data masked.")
    console.print(" ".join(lines), highlight=False, markup=False, soft_wrap=True)
    if found["customer"]:
        console.print(_facts(found["customer"], found["records"] or []))
    _print_part(console, "Stages", found["stages"], _stages)
    _print_part(console, "Segments", found["segments"], _segments)
    if found["left_segments"]:
        left = ", ".join(f"{row['segment']} on {row['left_on']}" for row in found["left_segments"])
        console.print(f"  left: {left}", highlight=False, markup=False, soft_wrap=True)
    _print_part(console, "Consent", found["consent"], _consent)
    _print_part(console, "In the email tools", found["delivered"], _delivered)
    _print_part(console, "Deliveries, the newest first", found["attempts"], _attempts)
    _print_part(console, "Refused by the tools", found["rejections"], _rejections)
    _print_part(console, "In the current plan", found["plan"], _planned)


def _print_part(console: Console, title: str, rows: Rows | None, table_of: Any) -> None:
    if rows is None:
        console.print(f"\n[bold]{title}[/]: this login may not read it")
    elif not rows:
        console.print(f"\n[bold]{title}[/]: nothing")
    else:
        console.print(f"\n[bold]{title}[/]")
        console.print(table_of(rows))


def _facts(customer: dict[str, Any], records: Rows) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    name = " ".join(filter(None, (customer["first_name"], customer["last_name"])))
    stage = f"{customer['stage']} since {customer['stage_since']}"
    if customer["next_stage"]:
        stage += f"; {customer['next_stage']} from {customer['next_stage_date']} without an order"
    noted = [
        text
        for text, holds in (
            ("objected to profiling: in no segment", customer["has_profiling_objection"]),
            ("known to be a minor: in no segment", customer["is_minor"]),
        )
        if holds
    ]
    for label, value in (
        ("name", name),
        ("address", customer["email"]),
        ("stage", stage if customer["stage"] else None),
        ("RFM segment", customer["rfm_segment"]),
        ("counted orders", customer["orders_count"]),
        ("first seen", customer["first_seen_on"]),
        ("won by", customer["acquisition_source"]),
        ("note", "; ".join(noted)),
        (
            "records",
            ", ".join(
                f"{row['source']} {row['source_record_type']} {row['source_id']}" for row in records
            ),
        ),
    ):
        if value not in (None, ""):
            table.add_row(label, escape(str(value)))
    return table


def _stages(rows: Rows) -> Table:
    table = new_table("stage", "from", "to", "because", "event")
    for row in rows:
        table.add_row(
            row["stage"],
            str(row["valid_from"]),
            str(row["valid_to"] or "now"),
            row["entered_because"],
            escape(row["event"]),
        )
    return table


def _segments(rows: Rows) -> Table:
    table = new_table("segment", "since", "why", "where")
    for row in rows:
        table.add_row(
            escape(row["segment"]),
            str(row["member_since"]),
            escape(row["why"]),
            escape(" ".join((row["where"] or "-").split())),
        )
    return table


def _consent(rows: Rows) -> Table:
    table = new_table("channel", "address", "may be sent", "because", "facts")
    for row in rows:
        facts = "\n".join(
            f"{fact['evidence']} in {fact['source']}, {_day(fact['occurred_at'])}"
            + (f": {fact['wording']}" if fact["wording"] else "")
            for fact in row["facts"]
        )
        table.add_row(
            row["channel"],
            escape(row["address"] or "-"),
            ("yes" if row["is_contactable"] else "no")
            + (", this one is sent" if row["is_preferred"] else ""),
            f"{row['reason']}, {_day(row['evidence_at'])}",
            escape(facts or "-"),
        )
    return table


def _delivered(rows: Rows) -> Table:
    table = new_table("destination", "audience", "address", "state", "attributes", "confirmed")
    for row in rows:
        member = "member" if row["is_member"] else "no member"
        state = "in doubt, repeated" if row["in_doubt"] else member
        table.add_row(
            escape(row["destination"]),
            escape(row["audience"] or "(the contact)"),
            escape(row["address"] or "-"),
            state if row["audience"] or row["in_doubt"] else "-",
            escape(", ".join(row["attributes"]) or "-"),
            _day(row["confirmed_at"]),
        )
    return table


def _attempts(rows: Rows) -> Table:
    table = new_table("at", "publication", "destination", "audience", "operation", "outcome")
    for row in rows:
        reason = ": ".join(filter(None, (row["reason_code"], row["reason"])))
        table.add_row(
            f"{row['at']:%Y-%m-%d %H:%M}",
            str(row["publication_id"]),
            escape(row["destination"]),
            escape(row["audience"] or "(the contact)"),
            row["operation"],
            escape(f"{row['state']} ({reason})" if reason else row["state"]),
        )
    return table


def _rejections(rows: Rows) -> Table:
    table = new_table("destination", "audience", "operation", "reason", "attempts", "again")
    for row in rows:
        again = (
            "parked until its contents change"
            if row["is_parked"]
            else f"from publication {row['retry_from_publication_id']}"
        )
        table.add_row(
            escape(row["destination"]),
            escape(row["audience"] or "(the contact)"),
            row["operation"] or "-",
            escape(row["reason_code"] or "rejected"),
            f"{row['attempts']} of {row['attempts_allowed'] or '-'}",
            again,
        )
    return table


def _planned(rows: Rows) -> Table:
    table = new_table("destination", "audience", "operation", "state", "reason", "changed fields")
    for row in rows:
        table.add_row(
            escape(row["destination"]),
            escape(row["audience"] or "(the contact)"),
            row["operation"],
            row["status"],
            escape(row["reason"]),
            escape(", ".join(row["changed_fields"]) or "-"),
        )
    return table


def _day(moment: Any) -> str:
    return f"{moment:%Y-%m-%d}" if moment else "no date"


# Segments


def print_preview(console: Console, found: dict[str, Any]) -> None:
    """Print the sizes of segments, and who would join and leave."""
    console.rule(f"Segments against publication {found['publication_id']}, {found['as_of_date']}")
    sizes = new_table("segment", "members", "contactable", "holdout", "sent", "not contactable")
    changes = new_table("audience", "wanted", "delivered", "would join", "would leave")
    for key, segment in found["segments"].items():
        disabled = "" if segment["enabled"] else " (disabled)"
        reasons = ", ".join(f"{why} {count:,}" for why, count in segment["not_contactable"].items())
        sizes.add_row(
            escape(key + disabled),
            *(f"{segment[name]:,}" for name in ("members", "contactable", "holdout", "sent")),
            escape(reasons or "-"),
        )
        for audience in segment["audiences"]:
            counts = ("wanted", "delivered", "would_join", "would_leave")
            changes.add_row(
                escape(f"{audience['destination']}: {audience['audience']}"),
                *(f"{audience[name]:,}" for name in counts),
            )
    console.print(sizes)
    if changes.row_count:
        console.print(changes)
    for line in found["not_counted"]:
        console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)
    console.print("Nothing was built or sent. The next night counts its own day's customers.")


def print_overlap(console: Console, found: dict[str, Any]) -> None:
    """Print how many members each two segments share: all as rows, by number as columns."""
    console.rule(f"Overlap in publication {found['publication_id']}, {found['as_of_date']}")
    table = new_table("", "segment")
    for number in range(1, len(found["segments"]) + 1):
        table.add_column(str(number), justify="right", no_wrap=True)
    for number, key in enumerate(found["segments"], start=1):
        row = found["overlap"][key]
        table.add_row(str(number), escape(key), *(f"{row[other]:,}" for other in found["segments"]))
    console.print(table)
