"""Days in the shop's time zone, instants in UTC.

An instant is an int: seconds since 1970-01-01 UTC. Day D of the shop ends where day D+1 begins in
Europe/Berlin, which is 23, 24 or 25 hours after it began.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

BERLIN = ZoneInfo("Europe/Berlin")


def local_instant(day: date, second_of_day: int) -> int:
    """The instant of a wall clock time in the shop."""
    hours, rest = divmod(second_of_day, 3600)
    minutes, seconds = divmod(rest, 60)
    moment = datetime(day.year, day.month, day.day, hours, minutes, seconds, tzinfo=BERLIN)
    return int(moment.timestamp())


def end_of_day(day: date) -> int:
    """The first instant that does not belong to `day` any more."""
    return local_instant(day + timedelta(days=1), 0)


def local_date(instant: int) -> date:
    """The shop's calendar day of an instant."""
    return datetime.fromtimestamp(instant, BERLIN).date()


def naive_utc(instant: int) -> str:
    """``2026-11-22T21:05:00``: WooCommerce's ``*_gmt`` fields carry no zone."""
    return datetime.fromtimestamp(instant, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def naive_local(instant: int) -> str:
    """``2026-11-22T22:05:00``: WooCommerce's other dates are in the site's zone, without it."""
    return datetime.fromtimestamp(instant, BERLIN).strftime("%Y-%m-%dT%H:%M:%S")


def utc_milliseconds(instant: int) -> str:
    """``2026-11-22T21:05:00.000Z``, as HubSpot writes it."""
    return datetime.fromtimestamp(instant, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def utc_offset(instant: int) -> str:
    """``2026-11-22T21:05:00+00:00``, as Mailchimp writes it."""
    return datetime.fromtimestamp(instant, UTC).strftime("%Y-%m-%dT%H:%M:%S+00:00")


def utc_zulu(instant: int) -> str:
    """``2026-11-22T21:05:00Z``, as listmonk (Go, PostgreSQL in UTC) writes it."""
    return datetime.fromtimestamp(instant, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_instant(text: str, naive_zone: ZoneInfo | None = None) -> int:
    """Read ISO 8601 or epoch milliseconds; a text without a zone is in `naive_zone` (UTC).

    Raises:
        ValueError: it is neither.
    """
    if text.isdigit() and len(text) >= 11:
        return int(text) // 1000
    moment = datetime.fromisoformat(text.replace(" ", "+").replace("Z", "+00:00"))
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=naive_zone or UTC)
    return int(moment.timestamp())
