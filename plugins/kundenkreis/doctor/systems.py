"""Sources and email tools: each is reached, and one page of it is read. Nothing is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any

import httpx

from kundenkreis import destinations, sources
from kundenkreis.connections import environment_name
from kundenkreis.doctor.clock import compared
from kundenkreis.doctor.findings import Finding, Patient, error, ok
from kundenkreis.doctor.parallel import together
from kundenkreis.errors import ConfigError, CredentialError, DataError, KundenkreisError
from kundenkreis.redaction import first_lines

ANSWER_SECONDS = 8.0
ALL_SECONDS = 20.0


class _Listener:
    """Takes the time of every answer's Date header."""

    def __init__(self) -> None:
        self.ahead_seconds: float | None = None

    def __call__(self, response: httpx.Response) -> None:
        try:
            theirs = parsedate_to_datetime(response.headers["date"])
        except (KeyError, ValueError):
            return
        if theirs.tzinfo is not None:
            self.ahead_seconds = (theirs - datetime.now(UTC)).total_seconds()


def check(patient: Patient) -> Iterator[Finding]:
    """Reach all systems at the same time; one that does not answer in time is an error."""
    settings = patient.settings
    if settings is None:
        return
    probes: dict[str, Callable[[dict[str, Any]], None]] = {
        f"source {name}": _source(patient, name) for name in settings.sources
    }
    probes |= {f"destination {name}": _destination(patient, name) for name in settings.destinations}
    listeners = {name: _Listener() for name in probes}
    under_way = together(
        {name: partial(probe, _options(listeners[name])) for name, probe in probes.items()},
        ALL_SECONDS,
    )
    for name, future in under_way.items():
        kind, system = name.split()
        yield _outcome(patient, kind, system, future)
        yield from compared(f"{system}'s Date header", listeners[name].ahead_seconds)


def _options(listener: _Listener) -> dict[str, Any]:
    """Of the HTTP client: ask once, and not for long."""
    return {"attempts": 1, "timeout": ANSWER_SECONDS, "on_response": listener}


def _source(patient: Patient, name: str) -> Callable[[dict[str, Any]], None]:
    def probe(options: dict[str, Any]) -> None:
        assert patient.settings is not None  # noqa: S101 (asked before)
        sources.probe(name, patient.settings, patient.resolve, **options)

    return probe


def _destination(patient: Patient, name: str) -> Callable[[dict[str, Any]], None]:
    def probe(options: dict[str, Any]) -> None:
        assert patient.settings is not None  # noqa: S101 (asked before)
        tool_settings = patient.settings.destinations[name]
        tool = destinations.open_destination(name, tool_settings, patient.resolve, **options)
        try:
            next(iter(tool.read_subscriber_states(frozenset())), None)
        finally:
            tool.close()

    return probe


def _outcome(patient: Patient, kind: str, name: str, future: Future[None]) -> Finding:
    assert patient.settings is not None  # noqa: S101 (asked before)
    systems = patient.settings.sources if kind == "source" else patient.settings.destinations
    connection = getattr(systems[name], "connection", None)
    where = f"connection '{connection}'" if connection else f"{kind} {name}"
    if not future.done():
        return error(
            kind,
            where,
            f"{name} did not answer within {ALL_SECONDS:.0f} s.",
            f"curl -sI the host in {environment_name(str(connection))}; check network and proxy",
        )
    problem = future.exception()
    if problem is None:
        return ok(kind, where, f"{name} answers")
    return error(kind, where, _words(problem), _fix(problem, connection))


def _words(problem: BaseException) -> str:
    if isinstance(problem, KundenkreisError):
        return str(problem)
    return f"Unexpected {type(problem).__name__}: {first_lines(str(problem), 1)}"


def _fix(problem: BaseException, connection: str | None) -> str:
    if isinstance(problem, DataError | ConfigError) or connection is None:
        return "export KUNDENKREIS_DATA=/folder/of/the/files, or correct path in sources.yml"
    name = environment_name(connection)
    if isinstance(problem, CredentialError):
        return f"export {name}='{{...}}' (.env.example), or Airflow > Admin > Connections"
    return f"check host and port in {name}, then: kundenkreis doctor"
