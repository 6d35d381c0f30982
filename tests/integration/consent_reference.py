"""Who may be written to at which address, written from the rules and not from the SQL.

Every function takes one person and asks plain questions of the facts known by a moment. Slow and
plain on purpose.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime

# What counts as consent, strongest first; what a team's minimum admits is everything up to it.
CONSENTS = ("double", "single", "existing_customer")


@dataclass(frozen=True)
class Fact:
    """What somebody recorded about an address; without a date where `at` is None."""

    address: str
    channel: str
    evidence: str
    at: datetime | None


@dataclass(frozen=True)
class Address:
    """An address of a person, the day it was last seen, and what is the matter with it."""

    text: str
    last_seen_on: date
    is_relay: bool = False
    is_test: bool = False
    is_shared: bool = False


@dataclass(frozen=True)
class Rules:
    """The dbt variables of consent, and the moment the as-of day ends."""

    end: datetime
    minimum_consent: str
    identity_max_addresses: int


@dataclass(frozen=True)
class Consent:
    """Dated evidence in favour of an address."""

    evidence: str
    at: datetime


@dataclass(frozen=True)
class Verdict:
    """What is said of one address on one channel."""

    is_contactable: bool
    reason: str
    evidence: str | None
    evidence_at: datetime | None


def known(facts: Iterable[Fact], rules: Rules) -> list[Fact]:
    """The facts of the as-of day and before; one without a date may be as old as any."""
    return [fact for fact in facts if fact.at is None or fact.at < rules.end]


def verdict(
    address: Address, channel: str, addresses: list[Address], facts: list[Fact], rules: Rules
) -> Verdict:
    """May this address be written to on this channel?

    Args:
        address: one of `addresses`.
        channel: for example ``email``.
        addresses: all addresses of the person.
        facts: the known facts about any of them.
        rules: the policy.
    """
    own = [fact for fact in facts if (fact.address, fact.channel) == (address.text, channel)]
    consent = _best_consent(own)
    against = _objection(own, facts)
    identity = _identity(address, addresses, rules)
    if identity:
        return Verdict(False, identity, consent and consent.evidence, consent and consent.at)
    if against:
        dated = [
            fact.at
            for fact in (own if against == "bounced" else facts)
            if fact.evidence == against and fact.at
        ]
        return Verdict(False, against, against, max(dated, default=None))
    if consent is None:
        undated = any(fact.evidence in CONSENTS for fact in own)
        return Verdict(False, "consent_undated" if undated else "consent_unknown", None, None)
    if consent.evidence == "pending":
        return Verdict(False, "consent_pending", "pending", consent.at)
    if consent.evidence not in _admitted(rules):
        return Verdict(False, "consent_too_weak", consent.evidence, consent.at)
    return Verdict(True, f"consent_{consent.evidence}", consent.evidence, consent.at)


def _identity(address: Address, addresses: list[Address], rules: Rules) -> str | None:
    """Why the address is nobody's, or not surely this person's."""
    if address.is_relay:
        return "marketplace_relay"
    if address.is_test:
        return "test_address"
    if address.is_shared or len(addresses) > rules.identity_max_addresses:
        return "ambiguous_identity"
    return None


def _objection(own: list[Fact], facts: list[Fact]) -> str | None:
    """What speaks against the address: complaint and withdrawal of the person, its own bounce.

    Only a confirmed opt-in of the address on the channel lifts it, and only a later one. What has
    no date may be later than any.
    """
    confirmations = [fact.at for fact in own if fact.evidence == "double" and fact.at]
    for evidence, heard in (("complained", facts), ("withdrawn", facts), ("bounced", own)):
        for fact in heard:
            if fact.evidence != evidence:
                continue
            if fact.at is None or not any(at > fact.at for at in confirmations):
                return evidence
    return None


def _best_consent(own: list[Fact]) -> Consent | None:
    """The strongest dated consent of the address, of the newest date; else a pending one."""
    for evidence in (*CONSENTS, "pending"):
        moments = [fact.at for fact in own if fact.evidence == evidence and fact.at]
        if moments:
            return Consent(evidence, max(moments))
    return None


def _admitted(rules: Rules) -> tuple[str, ...]:
    return CONSENTS[: CONSENTS.index(rules.minimum_consent) + 1]


def sent_address(
    verdicts: dict[str, Verdict],
    channel: str,
    addresses: list[Address],
    facts: list[Fact],
    rules: Rules,
) -> str | None:
    """The contactable address with the newest sufficient consent; None without one.

    Of several with consent of the same moment, the one seen last; then the first by its text.
    """

    def newest_consent(address: Address) -> datetime:
        return max(
            fact.at
            for fact in facts
            if (fact.address, fact.channel) == (address.text, channel)
            and fact.evidence in _admitted(rules)
            and fact.at
        )

    found = [
        (newest_consent(address), address.last_seen_on, address.text)
        for address in addresses
        if address.text in verdicts and verdicts[address.text].is_contactable
    ]
    best = max((rank[:2] for rank in found), default=None)
    return min((text for *rank, text in found if tuple(rank) == best), default=None)


def has_profiling_objection(facts: Iterable[Fact]) -> bool:
    """Whether the person objected, on any address and whenever."""
    return any(fact.evidence == "profiling_objection" for fact in facts)
