"""The server's settings: those that put the ledger at risk, and the embedded server's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from kundenkreis.doctor.findings import Finding, Patient, error, ok, or_ok, warning
from kundenkreis.warehouse import embedded
from kundenkreis.warehouse.connection import connect

SUBJECT = "server"
# Every parallel task holds a few sessions, and so does Airflow in the same server.
_FEWEST_SESSIONS = 50
_RESTART = "kundenkreis warehouse stop && kundenkreis warehouse start"
# What the embedded server is started with and can be compared as text.
_COMPARED = ("listen_addresses", "wal_level", "log_min_error_statement", "log_error_verbosity")


def check(patient: Patient) -> Iterator[Finding]:
    """Compare the running server's settings with what the nights rely on."""
    if patient.dsn is None:
        return
    with connect(patient.dsn, application_name="kundenkreis doctor") as connection:
        settings: dict[str, str] = dict(
            connection.execute(
                "select name, current_setting(name, true) from pg_settings"
            ).fetchall()
        )
    is_embedded = embedded.serves(patient.dsn)
    problems = list(durability(settings)) + list(privacy(settings))
    if is_embedded:
        problems += embedded_settings(settings)
    elif int(settings["max_connections"]) < _FEWEST_SESSIONS:
        problems.append(
            warning(
                SUBJECT,
                "max_connections",
                f"{settings['max_connections']} sessions are few for parallel tasks.",
                f"alter system set max_connections = 100;  -- then restart the server "
                f"(at least {_FEWEST_SESSIONS})",
            )
        )
    kind = "embedded server" if is_embedded else "your server"
    yield from or_ok(problems, ok(SUBJECT, kind, "durable, and its log repeats no statements"))


def durability(settings: Mapping[str, str]) -> Iterator[Finding]:
    """The delivery ledger is only worth something when a commit survives a crash."""
    for name in ("fsync", "full_page_writes", "synchronous_commit"):
        if settings.get(name) == "off":
            yield error(
                SUBJECT,
                name,
                f"{name} is off: after a crash the delivery ledger may forget what was sent.",
                f"alter system set {name} = on; select pg_reload_conf();",
            )


def privacy(settings: Mapping[str, str]) -> Iterator[Finding]:
    """Statements and their values hold personal data."""
    if settings.get("log_statement") in ("mod", "all"):
        yield warning(
            SUBJECT,
            "log_statement",
            f"log_statement is {settings['log_statement']}: the server's log repeats statements, "
            "and with them personal data.",
            "alter system set log_statement = 'ddl'; select pg_reload_conf();",
        )
    length = settings.get("log_parameter_max_length_on_error", "0")
    if length not in ("0", "0B"):
        yield warning(
            SUBJECT,
            "log_parameter_max_length_on_error",
            "The server's log repeats the values of failed statements, personal data included.",
            "alter system set log_parameter_max_length_on_error = 0; select pg_reload_conf();",
        )


def embedded_settings(settings: Mapping[str, str]) -> Iterator[Finding]:
    """Whether the embedded server runs with what this version would start it with."""
    for name in _COMPARED:
        wanted = embedded.SERVER_SETTINGS[name]
        found = settings.get(name)
        if found != wanted:
            what = f"The embedded server runs with {name} = '{found}' instead of '{wanted}'."
            yield warning(SUBJECT, name, what, _RESTART)
