"""What `kundenkreis doctor` says: findings, and what a check is given to look at."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from kundenkreis.connections import Resolver
from kundenkreis.settings import Settings

Level = Literal["ok", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. Holds no secret and no personal data.

    Attributes:
        level: error where a night would fail or do harm, warning where it may.
        subject: what the check is about, such as ``warehouse``.
        where: the file, connection, table or setting.
        what: what was found.
        fix: a command or a line of configuration; empty where nothing is wrong.
    """

    level: Level
    subject: str
    where: str
    what: str
    fix: str = ""


@dataclass(frozen=True)
class Patient:
    """What the checks look at.

    Attributes:
        settings: the config folder's content; None where it cannot be read.
        dsn: the warehouse, as a libpq URI; None where it is not known or does not answer.
        resolve: finds a connection by id.
        airflow: Airflow's settings by ``section.key``; empty where they could not be read.
        pools: slots by Airflow's pool; None where its database is not there or has no tables.
    """

    settings: Settings | None
    dsn: str | None
    resolve: Resolver
    airflow: dict[str, str]
    pools: dict[str, int] | None = None


Check = Callable[[Patient], Iterable[Finding]]


def ok(subject: str, where: str, what: str) -> Finding:
    """Something that is as it should be."""
    return Finding("ok", subject, where, what)


def warning(subject: str, where: str, what: str, fix: str) -> Finding:
    """Something that may do harm."""
    return Finding("warning", subject, where, what, fix)


def error(subject: str, where: str, what: str, fix: str) -> Finding:
    """Something a night fails by."""
    return Finding("error", subject, where, what, fix)


def or_ok(problems: Iterable[Finding], fine: Finding) -> Iterator[Finding]:
    """The problems, or where there are none that everything is fine."""
    found = list(problems)
    yield from found or [fine]
