"""This machine's clock beside those of the database and the vendors, and the time zones."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime

from kundenkreis.doctor.findings import Finding, Patient, error, ok, warning
from kundenkreis.warehouse.connection import connect

SUBJECT = "clock"
# A Date header has whole seconds and a network in between; OAuth signatures, consent times and
# cursors bear some skew, but not minutes.
WARNING_SECONDS = 30.0
ERROR_SECONDS = 300.0
_SET_CLOCK = "timedatectl set-ntp true  (or chronyd/ntpd on this machine)"


def compared(other: str, ahead_seconds: float | None) -> Iterator[Finding]:
    """A finding where two clocks differ.

    Args:
        ahead_seconds: how far the other clock is ahead of this machine's; None: it did not say.
    """
    if ahead_seconds is None or abs(ahead_seconds) < WARNING_SECONDS:
        return
    behind = "behind" if ahead_seconds > 0 else "ahead of"
    what = f"This machine is {abs(ahead_seconds):.0f} s {behind} {other}."
    level = error if abs(ahead_seconds) >= ERROR_SECONDS else warning
    yield level(SUBJECT, other, what, _SET_CLOCK)


def check(patient: Patient) -> Iterator[Finding]:
    """The database's clock, and in which zones database and Airflow tell the time."""
    if patient.dsn is not None:
        with connect(patient.dsn, application_name="kundenkreis doctor") as connection:
            row = connection.execute(
                "select clock_timestamp(), current_setting('TimeZone')"
            ).fetchone()
        assert row is not None  # noqa: S101 (a select without from has one row)
        ahead = (row[0] - datetime.now(UTC)).total_seconds()
        skewed = list(compared("the warehouse's clock", ahead))
        yield from skewed or [ok(SUBJECT, "warehouse", f"within {abs(ahead):.1f} s of it")]
        yield from _warehouse_zone(str(row[1]))
    if patient.settings is not None:
        yield from _airflow_zone(patient, patient.settings.model.business_timezone)


def _warehouse_zone(zone: str) -> Iterator[Finding]:
    # Every model converts explicitly; only what people type themselves depends on it.
    if zone not in ("UTC", "Etc/UTC", "GMT"):
        yield ok(
            SUBJECT,
            "warehouse TimeZone",
            f"sessions show times in {zone}; days are those of business_timezone all the same",
        )


def _airflow_zone(patient: Patient, business: str) -> Iterator[Finding]:
    default = patient.airflow.get("core.default_timezone", "")
    if not default:
        return
    where = "[core] default_timezone"
    yield ok(
        SUBJECT, where, f"{default}; the DAG is scheduled in business_timezone ({business}) anyway"
    )
    zone = os.environ.get("TZ", "")
    if zone and zone not in ("UTC", "Etc/UTC", business):
        yield warning(
            SUBJECT,
            "TZ",
            f"The environment says TZ={zone}: logs and the terminal tell another time than "
            f"business_timezone ({business}).",
            f"export TZ={business}",
        )
