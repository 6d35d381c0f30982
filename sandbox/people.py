"""Who exists: one person's fixed traits and their consent history, drawn from their own stream.

Each concern of a person (traits, orders, CRM, consent) draws from its own random stream, keyed by
seed and person number. A life is therefore the same whatever else is generated, and the clock only
decides how much of it can be seen.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from random import Random
from typing import Any

from sandbox import catalogue

DAY = 86_400


@dataclass(frozen=True, slots=True)
class Parameters:
    """What fixes a world: the rest follows. `customers` is the number of people expected to be
    known 30 months after `opened_on`."""

    customers: int
    seed: int
    opened_on: date


@dataclass(frozen=True, slots=True)
class Person:
    """Traits that do not change. `arrived` is the instant the shop or the CRM first hears of them.

    `arrival` is one of order, account, newsletter, lead, marketplace.
    """

    number: int
    arrived: int
    arrival: str
    first_name: str
    last_name: str
    email: str
    second_email: str | None
    country: str
    language: str
    phone: str
    birthday: str | None


@dataclass(frozen=True, slots=True)
class ToolEvent:
    """Something that happened inside an email tool without our sync having asked for it."""

    at: int
    key: str
    vendor: str
    kind: str
    address: str
    details: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Consent:
    """One person's newsletter history.

    `level` is double, single, pending or none; `home` says where the evidence is kept.
    """

    level: str
    home: str
    given: int
    confirmed: int | None
    withdrawn: int | None
    given_again: int | None
    bounced: int | None
    complained: int | None


def stream(parameters: Parameters, *names: object) -> Random:
    """A random stream of its own for one concern."""
    return Random("/".join(str(name) for name in (parameters.seed, *names)))


def pick(rng: Random, weighted: Sequence[tuple[Any, ...]], weight: int) -> tuple[Any, ...]:
    """One row of a table whose column `weight` holds shares that sum to about one."""
    level = rng.random() * sum(row[weight] for row in weighted)
    for row in weighted:
        level -= row[weight]
        if level < 0:
            return row
    return weighted[-1]


def ascii_name(name: str) -> str:
    """The local part people make of their name: müller becomes mueller."""
    for letter, replacement in (("ä", "ae"), ("ö", "oe"), ("ü", "ue"), ("ß", "ss")):
        name = name.lower().replace(letter, replacement)
    return unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()


def make_person(parameters: Parameters, number: int, arrived: int) -> Person:
    """Draw the traits of person `number`, who arrived at `arrived`."""
    rng = stream(parameters, number, "traits")
    first, last = rng.choice(catalogue.FIRST_NAMES), rng.choice(catalogue.LAST_NAMES)
    country, prefix, _, language = pick(rng, catalogue.COUNTRIES, 2)
    arrival = str(
        pick(
            rng,
            (
                ("order", 0.56),
                ("account", 0.1),
                ("newsletter", 0.13),
                ("lead", 0.2),
                ("marketplace", 0.01),
            ),
            1,
        )[0]
    )
    local = rng.choice(
        (
            f"{ascii_name(first)}.{ascii_name(last)}{number}",
            f"{ascii_name(first)[0]}{ascii_name(last)}{number}",
            f"{ascii_name(last)}.{number}",
        )
    )
    domain = rng.choice(catalogue.MAIL_DOMAINS)
    if rng.random() < 0.004:
        domain = catalogue.INTERNATIONAL_DOMAIN[1]
    if arrival == "marketplace":
        local, domain = f"{rng.getrandbits(60):x}", rng.choice(catalogue.RELAY_DOMAINS)
    second = f"{local}@{rng.choice(catalogue.WORK_DOMAINS)}" if rng.random() < 0.04 else None
    return Person(
        number=number,
        arrived=arrived,
        arrival=arrival,
        first_name=first,
        last_name=last,
        email=f"{local}@{domain}",
        second_email=second,
        country=country,
        language=language if rng.random() < 0.97 else "en",
        phone=f"{prefix}{rng.randrange(100, 999)}{rng.randrange(1_000_000, 9_999_999)}",
        birthday=_birthday(rng),
    )


def _birthday(rng: Random) -> str | None:
    """ISO date for two in five; one in 200 of those is a minor, one in 100 cannot be read."""
    if rng.random() > 0.4:
        return None
    kind = rng.random()
    if kind < 0.01:
        return rng.choice(("31.02.1990", "1.4.85", "unknown", "0000-00-00"))
    if kind < 0.02:
        return (date(2010, 1, 1) + timedelta(days=rng.randrange(2000))).isoformat()
    return (date(1948, 1, 1) + timedelta(days=rng.randrange(20_800))).isoformat()


def make_consent(parameters: Parameters, person: Person) -> Consent:
    """Draw a person's newsletter history; about 0.6 of all people end up provably opted in."""
    rng = stream(parameters, person.number, "consent")
    levels = (("double", 0.71), ("single", 0.08), ("pending", 0.03), ("none", 0.18))
    if person.arrival == "newsletter":
        levels = (("double", 0.86), ("single", 0.06), ("pending", 0.08), ("none", 0.0))
    if person.arrival == "marketplace":
        levels = (("none", 1.0),)  # type: ignore[assignment]
    level = pick(rng, levels, 1)[0]
    home = pick(
        rng,
        (
            ("listmonk", 0.44),
            ("mailchimp", 0.32),
            ("both", 0.1),
            ("hubspot", 0.07),
            ("woocommerce", 0.07),
        ),
        1,
    )[0]
    if person.arrival == "newsletter" and home in ("hubspot", "woocommerce"):
        home = "listmonk"
    given = person.arrived
    if person.arrival != "newsletter":
        at_once = rng.random() < 0.75
        given += int(rng.expovariate(1 / (5 * DAY if at_once else 90 * DAY)))
    confirmed = given + 60 + int(rng.expovariate(1 / 14_000)) if level == "double" else None
    start = confirmed or given
    withdrawn = start + int(rng.expovariate(1 / (420 * DAY))) if rng.random() < 0.16 else None
    again = rng.random() < 0.12
    given_again = (
        withdrawn + 5 * DAY + int(rng.expovariate(1 / (60 * DAY))) if withdrawn and again else None
    )
    bounced = start + int(rng.expovariate(1 / (400 * DAY))) if rng.random() < 0.035 else None
    complained = start + int(rng.expovariate(1 / (300 * DAY))) if rng.random() < 0.008 else None
    return Consent(level, home, given, confirmed, withdrawn, given_again, bounced, complained)
