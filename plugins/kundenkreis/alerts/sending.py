"""Sends the messages that incidents have made, and keeps those that a channel did not take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
from psycopg.rows import dict_row

from kundenkreis.alerts.channels import Message
from kundenkreis.alerts.config import AlertsConfig, Channel
from kundenkreis.errors import KundenkreisError
from kundenkreis.redaction import first_lines

Send = Callable[[Channel, Message], None]

_SENDING_LOCK = 7_202_611_007
# A channel that is gone for good must not be tried for ever.
MOST_ATTEMPTS = 20


def send_pending(
    connection: psycopg.Connection,
    config: AlertsConfig,
    send: Send,
    progress: Callable[[str], None],
) -> dict[str, int]:
    """Send what was not sent yet, the oldest first; commits each.

    A channel that fails is not tried again in this call; its messages stay for the next one.

    Returns ``{"sent": messages, "failed": messages}``.
    """
    connection.execute("select pg_advisory_lock(%s)", (_SENDING_LOCK,))
    try:
        return _send_all(connection, config, send, progress)
    finally:
        connection.rollback()
        connection.execute("select pg_advisory_unlock(%s)", (_SENDING_LOCK,))
        connection.commit()


def _send_all(
    connection: psycopg.Connection,
    config: AlertsConfig,
    send: Send,
    progress: Callable[[str], None],
) -> dict[str, int]:
    counts, broken = {"sent": 0, "failed": 0}, set()
    for row in _pending(connection):
        if row["channel"] in broken:
            continue
        problem = _try(row, config, send)
        if problem is None:
            counts["sent"] += 1
        else:
            counts["failed"] += 1
            broken.add(row["channel"])
            progress(
                f"alert '{row['title']}' was not taken by channel '{row['channel']}': {problem} "
                f"`kundenkreis alerts test {row['channel']}` tries it; the next run sends it again."
            )
        connection.execute(
            "update operations.incident_messages set attempts = attempts + 1, problem = %(problem)s"
            ", sent_at = case when %(problem)s::text is null then clock_timestamp() end "
            "where message_id = %(message)s",
            {"problem": problem, "message": row["message_id"]},
        )
        connection.commit()
    return counts


def _pending(connection: psycopg.Connection) -> list[dict[str, Any]]:
    with connection.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(
            "select message_id, channel, occasion, messages.title, messages.body, event, facts "
            "from operations.incident_messages as messages "
            "inner join operations.incidents using (incident_id) "
            "where sent_at is null and attempts < %s order by message_id",
            (MOST_ATTEMPTS,),
        ).fetchall()
    connection.commit()
    return rows


def _try(row: dict[str, Any], config: AlertsConfig, send: Send) -> str | None:
    """Why a message was not taken; None where it was. The text holds no secret."""
    channel = config.channels.get(row["channel"])
    if channel is None:
        return "alerts.yml has no such channel any more."
    message = Message(row["event"], row["occasion"], row["title"], row["body"], row["facts"])
    try:
        send(channel, message)
    except KundenkreisError as error:
        return str(error)
    except Exception as error:  # a notifier is somebody else's code
        return f"{type(error).__name__}: {first_lines(str(error), 1)}"
    return None
