"""Runs all checks at the same time and puts their findings in order."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from functools import partial

from kundenkreis.connections import (
    Connection,
    Resolver,
    connection_from_environment,
    environment_name,
)
from kundenkreis.doctor import (
    alerts,
    clock,
    configuration,
    disk,
    packages,
    publication,
    scheduler,
    segments,
    server,
    systems,
    warehouse,
)
from kundenkreis.doctor.findings import Check, Finding, Patient, error
from kundenkreis.doctor.parallel import together
from kundenkreis.errors import KundenkreisError
from kundenkreis.redaction import first_lines
from kundenkreis.settings import Settings, load_settings
from kundenkreis.warehouse.connection import CONNECTION_ID

CHECK_SECONDS = 30.0

CHECKS: dict[str, Check] = {
    "packages": packages.check,
    "config": configuration.check,
    "config effect": configuration.check_effect,
    "disk": disk.check,
    "clock": clock.check,
    "warehouse": warehouse.check,
    "server": server.check,
    "publication": publication.check,
    "segments": segments.check,
    "systems": systems.check,
    "airflow": scheduler.check,
    "alerts": alerts.check,
}


def examine() -> list[Finding]:
    """All findings, by subject in the order of `CHECKS`."""
    settings = _settings()
    facts = scheduler.read(_connection_ids(settings))
    dsn, unreachable = warehouse.reach(facts.connections.get(CONNECTION_ID))
    patient = Patient(settings, dsn, _resolver(facts.connections), facts.settings, facts.pools)
    first = [*facts.findings, *unreachable]
    return [*first, *_run(patient)]


def _run(patient: Patient) -> Iterator[Finding]:
    under_way = together(
        {name: partial(_findings, check, patient) for name, check in CHECKS.items()},
        CHECK_SECONDS,
    )
    for name, future in under_way.items():
        yield from _collected(name, future)


def _findings(check: Check, patient: Patient) -> list[Finding]:
    found: Iterable[Finding] = check(patient)
    return list(found)


def _collected(name: str, future: Future[list[Finding]]) -> Iterable[Finding]:
    if not future.done():
        what = f"The check did not come to an end within {CHECK_SECONDS:.0f} s."
        return [error(name, "doctor", what, "kundenkreis doctor, once the machine is less busy")]
    problem = future.exception()
    if problem is None:
        return future.result()
    text = str(problem) if isinstance(problem, KundenkreisError) else first_lines(str(problem), 2)
    what = f"The check broke off with {type(problem).__name__}: {text}"
    return [error(name, "doctor", what, "kundenkreis doctor --json; report it if it stays")]


def _settings() -> Settings | None:
    try:
        return load_settings()
    except KundenkreisError:
        return None  # the config check says why


def _connection_ids(settings: Settings | None) -> list[str]:
    """The connections that the environment does not hold, so that Airflow is asked for them."""
    if settings is None:
        return []
    parts = [*settings.sources.values(), *settings.destinations.values()]
    parts += settings.alerts.channels.values()
    names = {str(part.connection) for part in parts if hasattr(part, "connection")}
    names.add(CONNECTION_ID)
    return sorted(name for name in names if not os.environ.get(environment_name(name)))


def _resolver(of_airflow: dict[str, Connection]) -> Resolver:
    """Finds a connection in the environment, else among those that Airflow holds."""

    def resolve(connection_id: str) -> Connection:
        found = of_airflow.get(connection_id)
        if found is not None and not os.environ.get(environment_name(connection_id)):
            return found
        return connection_from_environment(connection_id)

    return resolve
