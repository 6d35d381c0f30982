"""Whether somebody would hear of a failure: channels, their connections, messages not sent."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

from kundenkreis.alerts.config import AlertsConfig, NotifierChannel
from kundenkreis.connections import environment_name
from kundenkreis.doctor.findings import Finding, Patient, error, ok, warning
from kundenkreis.errors import KundenkreisError
from kundenkreis.warehouse.connection import connect

SUBJECT = "alerts"


def check(patient: Patient) -> Iterator[Finding]:
    """Channels and events of alerts.yml, and what is still to be sent."""
    if patient.settings is None:
        return
    where = str(patient.settings.folder / "alerts.yml")
    config = patient.settings.alerts
    yield from _routes(config, where)
    for name in config.channels:
        yield from _channel(name, patient)
    if patient.dsn is not None:
        yield from _unsent(patient.dsn)


def _routes(config: AlertsConfig, where: str) -> Iterator[Finding]:
    if not config.channels:
        what = "Nobody is told when a night fails: there is no channel."
        yield warning(SUBJECT, where, what, "copy the example in docs/monitoring.md to alerts.yml")
        return
    for event in ("failed_task", "failed_gate"):
        if not config.channels_of(event):
            what = f"Nobody is told of {event}."
            fix = f"events: {{{event}: [{next(iter(config.channels))}]}}"
            yield warning(SUBJECT, where, what, f"in alerts.yml:  {fix}")
    if config.deadline_minutes is None and config.channels_of("late_run"):
        what = "late_run is routed, but no night is ever late: there is no deadline."
        yield warning(SUBJECT, where, what, "in alerts.yml:  deadline_minutes: 360")


def _channel(name: str, patient: Patient) -> Iterator[Finding]:
    assert patient.settings is not None  # noqa: S101 (asked before)
    channel = patient.settings.alerts.channels[name]
    where = f"channel '{name}'"
    if isinstance(channel, NotifierChannel):
        yield _notifier(channel, where)
        return
    try:
        patient.resolve(channel.connection)
    except KundenkreisError as problem:
        fix = f"export {environment_name(channel.connection)}='...' (docs/monitoring.md)"
        yield error(SUBJECT, where, str(problem), fix)
        return
    test = f"`kundenkreis alerts test {name}` sends a message"
    yield ok(SUBJECT, where, f"{channel.kind}, connection is set; {test}")


def _notifier(channel: NotifierChannel, where: str) -> Finding:
    module = channel.notifier.rpartition(".")[0]
    try:
        found = find_spec(module) is not None
    except ImportError:
        found = False
    if found:
        return ok(SUBJECT, where, f"{channel.notifier} is installed")
    package = "-".join(["apache-airflow-providers", *module.split(".")[2:3]])
    what = f"{channel.notifier} is not installed."
    return error(SUBJECT, where, what, f"pip install -c requirements.txt {package}")


def _unsent(dsn: str) -> Iterator[Finding]:
    with connect(dsn, application_name="kundenkreis doctor") as connection:
        there = connection.execute(
            "select to_regclass('operations.incident_messages') is not null"
        ).fetchone()
        if there != (True,):
            return
        rows = connection.execute(
            "select channel, count(*), min(problem) from operations.incident_messages "
            "where sent_at is null group by 1 order by 1"
        ).fetchall()
    for channel, count, problem in rows:
        yield warning(
            SUBJECT,
            f"channel '{channel}'",
            f"{count} messages could not be sent: {problem}",
            f"kundenkreis alerts test {channel}; kundenkreis alerts send",
        )
