"""One look at a run: incidents are recorded, then messages are sent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import psycopg

from kundenkreis.alerts.detection import RunState, judge
from kundenkreis.alerts.incidents import record
from kundenkreis.alerts.sending import Send, send_pending
from kundenkreis.settings import Settings
from kundenkreis.warehouse.connection import connect


def review(
    dsn: str,
    run: RunState,
    settings: Settings,
    send: Send,
    progress: Callable[[str], None],
) -> dict[str, int]:
    """Record what a run gives reason to tell, and tell it. May be called any number of times.

    Returns ``{"sent": messages, "failed": messages}``.

    Raises:
        WarehouseError: the warehouse cannot be reached; then nothing is recorded.
    """
    with connect(dsn, application_name="kundenkreis alerts") as connection:
        run = _with_recorded_day(connection, run)
        judgement = judge(connection, run, settings)
        record(connection, run.run_id, judgement, settings.alerts)
        connection.commit()
        return send_pending(connection, settings.alerts, send, progress)


def _with_recorded_day(connection: psycopg.Connection, run: RunState) -> RunState:
    """The day that the run's tasks computed: a callback's context may not hold its parameters."""
    row = connection.execute(
        "select as_of_date from operations.task_results where run_id = %s limit 1", (run.run_id,)
    ).fetchone()
    return run if row is None else replace(run, as_of_date=row[0])
