"""What readers see, how old it is, and builds that a failure left behind."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import psycopg

from kundenkreis.doctor.findings import Finding, Patient, error, ok, warning
from kundenkreis.settings import Settings
from kundenkreis.warehouse.connection import connect

SUBJECT = "publication"
# The day that has just ended is computed after midnight; a night may take its time.
_GRACE = timedelta(hours=12)
_OLD_DAYS = 3
_STATUS = "kundenkreis status"


def check(patient: Patient) -> Iterator[Finding]:
    """The newest publication, dirty colours, a build that nobody ends."""
    if patient.dsn is None or patient.settings is None:
        return
    with connect(patient.dsn, application_name="kundenkreis doctor") as connection:
        if not _exists(connection, "history.publications"):
            what = "No night has run here yet."
            yield warning(SUBJECT, "history.publications", what, "kundenkreis run")
            return
        yield _newest(connection, patient.settings)
        yield from _dirty(connection)
        yield from _build(connection)


def age(as_of_date: date, expected: date) -> Finding:
    """How far the published day is behind the one that should be published by now."""
    days = (expected - as_of_date).days
    where = f"publication as of {as_of_date}"
    if days <= 0:
        return ok(SUBJECT, where, "readers see the last complete day")
    what = f"Readers see {as_of_date}, {days} day{'s' if days > 1 else ''} behind."
    level = error if days >= _OLD_DAYS else warning
    return level(SUBJECT, where, what, f"{_STATUS}; kundenkreis run --as-of {expected}")


def _newest(connection: psycopg.Connection, settings: Settings) -> Finding:
    row = connection.execute(
        "select as_of_date from history.publications order by publication_id desc limit 1"
    ).fetchone()
    if row is None:
        what = "Nothing was published yet."
        return warning(SUBJECT, "history.publications", what, "kundenkreis run")
    expected = settings.local_date(datetime.now(UTC) - _GRACE) - timedelta(days=1)
    return age(row[0], expected)


def _dirty(connection: psycopg.Connection) -> Iterator[Finding]:
    rows = connection.execute(
        "select schema_name, reason, since::date from operations.dirty_schemas order by 1"
    )
    for name, reason, since in rows.fetchall():
        yield warning(
            SUBJECT,
            name,
            f"The build is unusable since {since}: {reason}. The next night builds it in full.",
            f"kundenkreis gates; {_STATUS}",
        )


def _build(connection: psycopg.Connection) -> Iterator[Finding]:
    row = connection.execute(
        "select run_id, schema_name, extract(epoch from now() - renewed_at) / 3600 "
        "from operations.build_lease where not is_over"
    ).fetchone()
    if row is not None and row[2] > _GRACE.total_seconds() / 3600:
        yield warning(
            SUBJECT,
            row[1],
            f"Run '{row[0]}' began to build and gave no sign for {row[2]:.0f} h. A night takes the "
            "build over; a backfill waits for it.",
            "kundenkreis run",
        )


def _exists(connection: psycopg.Connection, relation: str) -> Any:
    row = connection.execute("select to_regclass(%s) is not null", (relation,)).fetchone()
    return row and row[0]
