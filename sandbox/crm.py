"""What the CRM knows: contacts with dated property changes, and deals.

Leads live here first; a part of the shop's customers was copied here too, with the address as
somebody typed it (other case, spaces, a work address), so the same person stands in both systems.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from sandbox import catalogue
from sandbox.people import DAY, Consent, Parameters, Person, pick, stream
from sandbox.shop import Order

# (instant, value, HubSpot's source type)
Fact = tuple[int, str, str]

# HubSpot keeps a history of each property; these are the ones that change here.
HISTORIES = (
    "lifecyclestage",
    "hs_lead_status",
    "hs_marketable_status",
    "hs_email_optout",
    "hs_emailconfirmationstatus",
    "lastname",
    "phone",
)


@dataclass(slots=True)
class Contact:
    """One CRM contact: constant properties, histories, and when it was deleted (archived)."""

    born: int
    key: str
    person: Person
    constants: dict[str, str]
    histories: dict[str, list[Fact]]
    archived_at: int | None


@dataclass(slots=True)
class Deal:
    """One deal: `stages` are (instant, stage); closed ones end in closedwon or closedlost."""

    born: int
    key: str
    contact_key: str | None
    amount: int
    currency: str
    stages: list[tuple[int, str]]
    archived_at: int | None


def make_contact(
    parameters: Parameters, person: Person, consent: Consent, orders: list[Order]
) -> Contact | None:
    """The CRM contact of a person, or None for those only the shop or the email tools know."""
    rng = stream(parameters, person.number, "crm")
    share = {"lead": 1.0, "newsletter": 0.35, "account": 0.5, "order": 0.45, "marketplace": 0.0}
    if rng.random() >= share[person.arrival]:
        return None
    born = person.arrived + (0 if person.arrival == "lead" else 120 + rng.randrange(20 * DAY))
    bought = [order.paid_at for order in orders if order.paid_at and order.payment_method != "test"]
    first_paid = max(min(bought), born + 60) if bought else None
    histories = {
        "lifecyclestage": _stages(rng, born, first_paid, person.arrival),
        "hs_lead_status": _lead_status(rng, born, person.arrival),
        "hs_marketable_status": _marketable(born, consent),
        "hs_email_optout": _opt_out(born, consent),
        "hs_emailconfirmationstatus": _confirmation(born, consent),
        "lastname": [(born, person.last_name, "INTEGRATION")],
        "phone": [(born, _typed_phone(rng, person), "INTEGRATION")],
    }
    if rng.random() < 0.04:
        at = born + rng.randrange(20, 800) * DAY
        histories["phone"].append((at, f"0{rng.randrange(10**9, 10**10)}", "CRM_UI"))
    archived = born + rng.randrange(60, 1200) * DAY if rng.random() < 0.012 else None
    return Contact(
        born=born,
        key=f"{person.number:07d}",
        person=person,
        constants=_constants(rng, person, consent),
        histories={name: facts for name, facts in histories.items() if facts},
        archived_at=archived,
    )


def _constants(rng: Random, person: Person, consent: Consent) -> dict[str, str]:
    return {
        "email": _typed_email(rng, person),
        "firstname": person.first_name,
        "hs_language": person.language if rng.random() < 0.9 else "",
        "hs_analytics_source": pick(rng, catalogue.ANALYTICS_SOURCES, 1)[0],
        "date_of_birth": person.birthday or "",
        "country": person.country,
    }


def _typed_email(rng: Random, person: Person) -> str:
    email = person.email
    if person.second_email and rng.random() < 0.6:
        return person.second_email
    ascii_domain, typed_domain = (
        catalogue.INTERNATIONAL_DOMAIN[1],
        catalogue.INTERNATIONAL_DOMAIN[0],
    )
    if email.endswith(ascii_domain):
        return email.replace(ascii_domain, typed_domain)
    level = rng.random()
    for share, written in (
        (0.05, email.upper()),
        (0.05, email.title()),
        (0.02, f" {email}"),
        (0.004, email.replace("@", " at ")),
        (0.003, ""),
    ):
        level -= share
        if level < 0:
            return written
    return email


def _typed_phone(rng: Random, person: Person) -> str:
    if rng.random() < 0.45:
        return ""
    if rng.random() < 0.5:
        return person.phone
    return f"0{person.phone[3:6]} / {person.phone[6:9]} {person.phone[9:]}"


def _stages(rng: Random, born: int, first_paid: int | None, arrival: str) -> list[Fact]:
    facts: list[Fact] = [(born, "lead" if arrival == "lead" else "subscriber", "INTEGRATION")]
    if arrival == "lead" and rng.random() < 0.5:
        facts.append((born + rng.randrange(2, 40) * DAY, "marketingqualifiedlead", "CRM_UI"))
        if rng.random() < 0.4:
            facts.append((facts[-1][0] + rng.randrange(2, 30) * DAY, "opportunity", "DEALS"))
    if first_paid is not None:
        facts = [fact for fact in facts if fact[0] < first_paid]
        facts.append((first_paid, "customer", "INTEGRATION"))
    return facts


def _lead_status(rng: Random, born: int, arrival: str) -> list[Fact]:
    if arrival != "lead" or rng.random() < 0.2:
        return []
    facts: list[Fact] = [(born, "NEW", "FORM")]
    at = born
    for status, share in (("OPEN", 0.7), ("ATTEMPTED_TO_CONTACT", 0.5), ("CONNECTED", 0.5)):
        if rng.random() > share:
            break
        at += rng.randrange(1, 20) * DAY
        facts.append((at, status, "CRM_UI"))
    if rng.random() < 0.15:
        facts.append((at + rng.randrange(5, 60) * DAY, "UNQUALIFIED", "CRM_UI"))
    return facts


def _marketable(born: int, consent: Consent) -> list[Fact]:
    facts: list[Fact] = [(born, "true" if consent.level != "none" else "false", "MARKETABLE")]
    if consent.withdrawn:
        facts.append((max(born + 60, consent.withdrawn), "false", "MARKETABLE"))
    return facts


def _opt_out(born: int, consent: Consent) -> list[Fact]:
    """The CRM hears of an opt-out where it keeps the consent itself."""
    if consent.home != "hubspot" or not consent.withdrawn:
        return []
    facts: list[Fact] = [(max(born + 60, consent.withdrawn), "true", "EMAIL")]
    if consent.given_again:
        facts.append((max(facts[0][0] + 60, consent.given_again), "false", "CRM_UI"))
    return facts


def _confirmation(born: int, consent: Consent) -> list[Fact]:
    """Double opt-in through a CRM form; the value names are not documented by the vendor."""
    if consent.home != "hubspot" or consent.level in ("none", "single"):
        return []
    asked = max(born, consent.given)
    facts: list[Fact] = [(asked, "Pending confirmation", "FORM")]
    if consent.confirmed:
        facts.append((max(asked + 60, consent.confirmed), "Confirmed", "EMAIL"))
    if consent.given_again and consent.confirmed:
        facts.append((max(asked + 120, consent.given_again + 60), "Confirmed", "EMAIL"))
    return facts


def make_deals(parameters: Parameters, contact: Contact) -> list[Deal]:
    """Sales opportunities: one contact in six has one, a few without any contact left."""
    rng = stream(parameters, contact.person.number, "deals")
    if rng.random() > (0.3 if contact.person.arrival == "lead" else 0.05):
        return []
    deals = []
    for index in range(rng.choice((1, 1, 1, 2))):
        born = contact.born + rng.randrange(1, 120) * DAY
        at = born
        stages = [(at, "appointmentscheduled")]
        for stage, share in (("qualifiedtobuy", 0.7), ("presentationscheduled", 0.7)):
            if rng.random() > share:
                break
            at += rng.randrange(2, 25) * DAY
            stages.append((at, stage))
        if rng.random() < 0.8:
            end = "closedwon" if rng.random() < 0.45 else "closedlost"
            stages.append((at + rng.randrange(3, 40) * DAY, end))
        deals.append(
            Deal(
                born=born,
                key=f"{contact.key}/{index}",
                contact_key=contact.key if rng.random() < 0.95 else None,
                amount=rng.randrange(150, 6000) * 100,
                currency="EUR",
                stages=stages,
                archived_at=at + 90 * DAY if rng.random() < 0.02 else None,
            )
        )
    return deals
