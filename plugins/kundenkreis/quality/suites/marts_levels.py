"""Gate ``marts``: do the marts hold about what the publications before them held?

Reads ``quality.measurements``: what this run measured of its marts, against what published nights
measured of theirs. Rules about single rows cannot see that half of the rows are gone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from kundenkreis.quality import bounds, limits
from kundenkreis.quality.bounds import Bounds, History
from kundenkreis.quality.facts import MartsFacts
from kundenkreis.quality.suites.common import Check, Severity, TableSuite, expect_no_rows, literal

_LOST = (
    "Compare the raw tables and the models with the last publication: what got lost, or was added? "
    "Then run the night again."
)


def levels(facts: MartsFacts) -> TableSuite:
    """The marts against the publications before; nothing for a backfill, which has none."""
    expectations = [*_levels(facts), *_attributes(facts), *_shares(facts)]
    return TableSuite("quality", "measurements", tuple(expectations if facts.is_newer else ()))


def _levels(facts: MartsFacts) -> Iterator[Any]:
    """What grows with history does not fall."""
    for table, measure, share, factor, what in (
        ("customer_360", "customers", limits.MARTS_LOST_SHARE, None, "customers"),
        ("customer_360", "contactable", limits.CONTACTABLE_LOST_SHARE, None, "contactable"),
        ("orders", "orders", limits.MARTS_LOST_SHARE, None, "orders"),
        ("orders", "counted_orders", limits.MARTS_LOST_SHARE, None, "orders that count"),
        (
            "orders",
            "counted_revenue",
            limits.MARTS_LOST_SHARE,
            limits.REVENUE_JUMP_FACTOR,
            "revenue that counts",
        ),
    ):
        recent = facts.history.get((table, measure), History()).recent
        if not recent or recent[0] < limits.MARTS_FEWEST:
            continue
        yield _expected(
            facts,
            table,
            measure,
            "critical",
            Bounds(recent[0] * share, recent[0] * factor if factor else None, recent[0], 1),
            what,
            f"The marts hold about as many {what} as the last publication."
            if measure != "counted_revenue"
            else "The marts hold about the revenue of the last publication.",
            _LOST,
        )


def _attributes(facts: MartsFacts) -> Iterator[Any]:
    """What is sent to email tools, or decides about members, does not empty in a night.

    Customers are counted, because an import of contacts lowers every share.
    """
    for (table, measure), history in sorted(facts.history.items()):
        if not measure.startswith("filled.") or (table, measure) not in facts.measured:
            continue
        usual = bounds.usual(history.recent, fewest=1)
        if usual is None or usual < limits.MARTS_FEWEST:
            continue
        column = measure.removeprefix("filled.")
        least = math.floor(usual * limits.FILLED_SHARE_CRITICAL_FACTOR)
        yield _expected(
            facts,
            table,
            measure,
            "critical",
            Bounds(least, None, usual, len(history.recent)),
            f"customers with {column}",
            f"About as many customers have {column} as before.",
            f"Segments lose their members, and contacts in the email tools the attribute. Look "
            f"where {column} comes from (docs/data_model.md). Then run the night again.",
        )


def _shares(facts: MartsFacts) -> Iterator[Any]:
    """How customers are spread over stages and RFM segments moves slowly."""
    rises = {
        "customer_360": ("stage", limits.STAGE_SHARE_RISE),
        "customer_rfm": ("RFM segment", limits.RFM_SEGMENT_SHARE_RISE),
    }
    for table, measure in sorted(facts.measured):
        if not measure.startswith("share.") or table not in rises:
            continue
        # A week, so that what moved for good is news for some nights and then usual.
        recent = facts.history.get((table, measure), History()).recent[:7]
        usual = bounds.usual(recent)
        if usual is None:
            continue
        kind, rise = rises[table]
        name = measure.removeprefix("share.")
        yield _expected(
            facts,
            table,
            measure,
            "warning",
            Bounds(max(0.0, usual - rise), usual + rise, usual, len(recent)),
            f"of the customers in {kind} {name}",
            f"About the usual share of the customers is in {kind} {name}.",
            "Who moved, and why? Compare with the nights before in history.kpi_daily and "
            "history.rfm_segment_changes. Expected after a change of model.yml.",
        )
        if table == "customer_rfm" and usual < limits.ONE_RFM_SEGMENT_SHARE / 2:
            yield _expected(
                facts,
                table,
                measure,
                "critical",
                Bounds(None, limits.ONE_RFM_SEGMENT_SHARE, usual, len(recent)),
                f"of the customers in {kind} {name}",
                f"Not everybody is in RFM segment {name} all at once.",
                "Scores lost their meaning: look at the models int_rfm_cutoffs and customer_rfm. "
                "Then run the night again.",
                suffix=".not_everybody",
            )


def _expected(
    facts: MartsFacts,
    table: str,
    measure: str,
    severity: Severity,
    allowed: Bounds,
    unit: str,
    description: str,
    action: str,
    suffix: str = "",
) -> Any:
    named = f"table_name = {literal(table)} and measure = {literal(measure)}"
    of_this_run = (
        "select table_name, measure, value from quality.measurements "
        f"where run_id = {literal(facts.run_id)} and {named}"
    )
    outside = [f"value < {allowed.least}"] if allowed.least is not None else []
    outside += [f"value > {allowed.most}"] if allowed.most is not None else []
    forget = f"delete from quality.measurements where {named}"
    return expect_no_rows(
        Check(
            id=f"marts.{table}.{measure}{suffix}",
            table=table,
            severity=severity,
            description=description,
            limit=allowed.in_words(unit),
            action=f"{action} If it is meant to be so, forget what was usual with: {forget}"
            if severity == "critical"
            else action,
            find_rows=f"""
                select as_of_date, run_id, value from quality.measurements where {named}
                order by as_of_date desc limit 14
            """,
            measure=f"select round(value, 4)::text from ({of_this_run}) as t",
            measured=facts.measured.get((table, measure)),
        ),
        f"{of_this_run} and ({' or '.join(outside)})",
    )
