"""Gate ``landing``: was the as-of day like the days before?

Reads ``quality.measurements``: what this run measured of the day, against what earlier nights
measured of theirs. A table that only grows hides a lost day; the day itself does not. Where there
are too few nights to compare with, there is no expectation.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kundenkreis.quality import bounds, limits
from kundenkreis.quality.bounds import Bounds, History
from kundenkreis.quality.facts import LandingFacts
from kundenkreis.quality.suites.common import Check, Severity, TableSuite, expect_no_rows, literal
from kundenkreis.quality.suites.landed import Feed, feeds
from kundenkreis.settings import Settings

_LEVELS: tuple[tuple[Severity, str], ...] = (("critical", ""), ("warning", ".unusual"))


def days(settings: Settings, facts: LandingFacts) -> TableSuite:
    """What every feed sent of the as-of day."""
    expectations = []
    for feed in feeds(settings):
        if feed.landed.happened_at:
            expectations += [
                *_rows(feed, facts),
                *_amount(feed, facts),
                *_at_night(feed, facts),
                *_filled(feed, facts),
            ]
    return TableSuite("quality", "measurements", tuple(expectations))


def _rows(feed: Feed, facts: LandingFacts) -> Iterator[Any]:
    """Fewer rows than ever stop the night; more are a sale, or are caught by their keys."""
    history = facts.history.get((feed.name, feed.measure("rows")), History())
    allowed = {
        "critical": bounds.weekday_bounds(history, bounds.CRITICAL),
        "warning": bounds.weekday_bounds(history, bounds.WARNING),
    }
    for severity, suffix in _LEVELS:
        found = allowed[severity]
        if found is None or (severity == "critical" and found.least is None):
            continue
        if feed.is_quiet(facts.day):
            found = Bounds(None, found.most, found.usual, found.runs)
        if severity == "critical":
            found = Bounds(found.least, None, found.usual, found.runs)
        if found.least is None and found.most is None:
            continue
        yield _expected(
            feed,
            facts,
            "rows",
            severity,
            suffix,
            found,
            "rows",
            "The day brought about as many records as this weekday usually does.",
            "A day, a part of it or a page got lost, or the shop was closed. Compare the day with "
            "the vendor's own screens and run the night again. If it really was so quiet, add the "
            "day to `quiet_days` of the source in sources.yml."
            if severity == "critical"
            else "Compare the day with the vendor's own screens: lost, loaded twice under new ids, "
            "or a holiday or a sale?",
        )


def _amount(feed: Feed, facts: LandingFacts) -> Iterator[Any]:
    before = facts.history.get((feed.name, feed.measure("amount")), History()).recent
    usual = bounds.usual(before)
    if usual is None or usual <= 0:
        return
    factors = {
        "critical": limits.AMOUNT_CRITICAL_FACTOR,
        "warning": limits.AMOUNT_WARNING_FACTOR,
    }
    for severity, suffix in _LEVELS:
        factor = factors[severity]
        yield _expected(
            feed,
            facts,
            "amount",
            severity,
            suffix,
            Bounds(usual / factor, usual * factor, usual, len(before)),
            f"in {feed.landed.amount}, the median of the day",
            "The day's amounts are of the usual size.",
            "Compare some amounts with the vendor's own screens: cents for euros, another "
            "currency, a column that shifted? Correct the mapping and load the day again.",
        )


def _at_night(feed: Feed, facts: LandingFacts) -> Iterator[Any]:
    before = facts.history.get((feed.name, feed.measure("at_night")), History()).recent
    usual = bounds.usual(before)
    if usual is None:
        return
    rises = {
        "critical": limits.NIGHT_SHARE_CRITICAL_RISE,
        "warning": limits.NIGHT_SHARE_WARNING_RISE,
    }
    for severity, suffix in _LEVELS:
        most = usual + rises[severity]
        if most < 1:
            yield _expected(
                feed,
                facts,
                "at_night",
                severity,
                suffix,
                Bounds(None, most, usual, len(before)),
                f"of the records between midnight and {limits.NIGHT_HOURS} o'clock",
                "Records come about at the usual hours.",
                "Hours moved: check the vendor's time zone and its clock, and `timezone` of the "
                "dataset in sources.yml.",
            )


def _filled(feed: Feed, facts: LandingFacts) -> Iterator[Any]:
    for column in feed.landed.filled:
        figure = f"filled.{column}"
        before = facts.history.get((feed.name, feed.measure(figure)), History()).recent
        usual = bounds.usual(before)
        if usual is None or usual < limits.FILLED_SHARE_MEANINGFUL:
            continue
        least = usual * limits.FILLED_SHARE_CRITICAL_FACTOR
        yield _expected(
            feed,
            facts,
            figure,
            "critical",
            "",
            Bounds(least, None, usual, len(before)),
            f"of the day's records with {column}",
            f"The day's records have {column} about as often as usual.",
            "The vendor stopped sending the field, or the mapping reads another one. Compare some "
            "of the day's records with the vendor's own screens and load the day again.",
        )


def _expected(
    feed: Feed,
    facts: LandingFacts,
    figure: str,
    severity: Severity,
    suffix: str,
    allowed: Bounds,
    unit: str,
    description: str,
    action: str,
) -> Any:
    measure = feed.measure(figure)
    of_this_run = (
        "select table_name, measure, value from quality.measurements "
        f"where run_id = {literal(facts.run_id)} and table_name = {literal(feed.name)} "
        f"and measure = {literal(measure)}"
    )
    outside = [f"value < {allowed.least}"] if allowed.least is not None else []
    outside += [f"value > {allowed.most}"] if allowed.most is not None else []
    happened = feed.landed.happened_at
    return expect_no_rows(
        Check(
            id=f"landing.{feed.name}.{measure}{suffix}",
            table=feed.name,
            severity=severity,
            description=description,
            limit=allowed.in_words(unit),
            action=action,
            find_rows=f"""
                select {", ".join(feed.landed.key)}, {happened} from {feed.name}
                where {happened} >= '{facts.day_begins.isoformat(sep=" ")}'
                    and {happened} < '{facts.as_of.isoformat(sep=" ")}' and {feed.where}
            """,
            measure="select case when measure like '%day.rows' then trim_scale(value)::text "
            f"else round(value, 4)::text end from ({of_this_run}) as t",
            measured=facts.measured.get((feed.name, measure)),
        ),
        f"{of_this_run} and ({' or '.join(outside)})",
    )
