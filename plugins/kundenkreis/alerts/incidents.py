"""Incidents in ``operations.incidents``: opened once, repeated in silence, resolved.

An incident is an event (``failed_task``) of a subject (``extract.hubspot``). While it is open, a
run that sees it again only counts it, however many tasks or retries failed; it is news again when
its fingerprint changes, after ``remind_after_days``, and when it is over. Messages are written in
the transaction of the incident and sent afterwards (`kundenkreis.alerts.sending`), so none is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from kundenkreis.alerts.config import AlertsConfig, Event
from kundenkreis.redaction import redact

Occasion = Literal["opened", "changed", "reminder", "resolved"]

# Two runs that end at once must not both open an incident.
_INCIDENTS_LOCK = 7_202_611_006

_PREFIXES: dict[Occasion, str] = {
    "opened": "",
    "changed": "Changed: ",
    "reminder": "Still open: ",
    "resolved": "Over: ",
}


@dataclass(frozen=True)
class Incident:
    """Something to tell. Holds no personal data.

    Attributes:
        event: the kind, as in alerts.yml.
        subject: what it is about; with the event it is the incident's identity.
        title: one line.
        explanation: what, why, and what it means.
        command: what to run next.
        fingerprint: what makes it news again where it differs from the time before.
        facts: numbers and names, for machines.
    """

    event: Event
    subject: str
    title: str
    explanation: str
    command: str
    fingerprint: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The message without its title. Whatever looks like an address is blanked out."""
        return redact(f"{self.explanation}\n\nNext: {self.command}")


@dataclass(frozen=True)
class Judgement:
    """What one look found.

    Attributes:
        incidents: what is wrong.
        is_over: given event and subject of an open incident that was not found, whether this
            look can say that it is over.
    """

    incidents: tuple[Incident, ...]
    is_over: Callable[[str, str], bool]


def record(
    connection: psycopg.Connection, run_id: str, judgement: Judgement, config: AlertsConfig
) -> None:
    """Open, repeat and resolve incidents, and write the messages this makes; commits nothing."""
    connection.execute("select pg_advisory_xact_lock(%s)", (_INCIDENTS_LOCK,))
    open_before = _open(connection)
    for incident in judgement.incidents:
        known = open_before.pop((incident.event, incident.subject), None)
        if known is None:
            _tell(connection, _insert(connection, run_id, incident), incident, "opened", config)
        else:
            _repeat(connection, run_id, known, incident, config)
    for (event, subject), known in open_before.items():
        if judgement.is_over(event, subject):
            _resolve(connection, run_id, known, config)


def open_incidents(connection: psycopg.Connection) -> list[dict[str, Any]]:
    """The open incidents, the oldest first."""
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(
            "select incident_id, event, subject, title, explanation, opened_at::text as opened_at, "
            "last_seen_at::text as last_seen_at, times_seen, last_run_id "
            "from operations.incidents where state = 'open' order by incident_id"
        ).fetchall()


def _open(connection: psycopg.Connection) -> dict[tuple[str, str], dict[str, Any]]:
    with connection.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(
            "select incident_id, event, subject, fingerprint, title, last_run_id, "
            "extract(epoch from clock_timestamp() - told_at) / 86400 as days_since_told "
            "from operations.incidents where state = 'open' order by incident_id"
        ).fetchall()
    return {(row["event"], row["subject"]): row for row in rows}


def _insert(connection: psycopg.Connection, run_id: str, incident: Incident) -> int:
    row = connection.execute(
        "insert into operations.incidents (event, subject, fingerprint, title, explanation, facts, "
        "first_run_id, last_run_id) values (%s, %s, %s, %s, %s, %s, %s, %s) returning incident_id",
        (
            incident.event,
            incident.subject,
            incident.fingerprint,
            redact(incident.title),
            incident.text,
            Jsonb(dict(incident.facts)),
            run_id,
            run_id,
        ),
    ).fetchone()
    assert row is not None  # noqa: S101 (insert ... returning always returns its row)
    return int(row[0])


def _repeat(
    connection: psycopg.Connection,
    run_id: str,
    known: Mapping[str, Any],
    incident: Incident,
    config: AlertsConfig,
) -> None:
    """Count a further sighting, once per run, and tell where it is news or long open."""
    connection.execute(
        "update operations.incidents set fingerprint = %s, title = %s, explanation = %s, "
        "facts = %s, times_seen = times_seen + (last_run_id <> %s)::integer, last_run_id = %s, "
        "last_seen_at = clock_timestamp() where incident_id = %s",
        (
            incident.fingerprint,
            redact(incident.title),
            incident.text,
            Jsonb(dict(incident.facts)),
            run_id,
            run_id,
            known["incident_id"],
        ),
    )
    after = config.remind_after_days
    if known["fingerprint"] != incident.fingerprint:
        _tell(connection, known["incident_id"], incident, "changed", config)
    elif after is not None and known["days_since_told"] >= after:
        _tell(connection, known["incident_id"], incident, "reminder", config)


def _resolve(
    connection: psycopg.Connection, run_id: str, known: Mapping[str, Any], config: AlertsConfig
) -> None:
    connection.execute(
        "update operations.incidents set state = 'resolved', resolved_at = clock_timestamp(), "
        "last_run_id = %s where incident_id = %s",
        (run_id, known["incident_id"]),
    )
    if config.tell_recovery:
        over = Incident(
            known["event"],
            known["subject"],
            known["title"],
            f"Run '{run_id}' did not find it any more. Nothing is left to do.",
            "kundenkreis status",
        )
        _tell(connection, known["incident_id"], over, "resolved", config)


def _tell(
    connection: psycopg.Connection,
    incident_id: int,
    incident: Incident,
    occasion: Occasion,
    config: AlertsConfig,
) -> None:
    title = redact(_PREFIXES[occasion] + incident.title)
    for channel in config.channels_of(incident.event):
        connection.execute(
            "insert into operations.incident_messages (incident_id, channel, occasion, title, body)"
            " values (%s, %s, %s, %s, %s)",
            (incident_id, channel, occasion, title, incident.text),
        )
    connection.execute(
        "update operations.incidents set told_at = clock_timestamp() where incident_id = %s",
        (incident_id,),
    )
