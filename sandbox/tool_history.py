"""What happened inside the email tools without our sync: sign-ups, opt-outs, bounces, and
the lists and tags of other people that a sync must leave alone."""

from __future__ import annotations

from random import Random

from sandbox.people import DAY, Consent, Parameters, Person, ToolEvent, stream

NEWSLETTER = "Newsletter"
# Lists and tags of colleagues; nothing of ours may touch them.
FOREIGN_LISTS = ("Event guests", "Press", "Customer import 2023")
FOREIGN_TAGS = ("Advent raffle", "Trade fair", "Picked by hand")
FOREIGN_KLAVIYO_LISTS = ("Waiting list", "Pop-up store")


def make_tool_events(parameters: Parameters, person: Person, consent: Consent) -> list[ToolEvent]:
    """All events of one person in all tools."""
    rng = stream(parameters, person.number, "tools")
    events: list[ToolEvent] = []
    homes = ("listmonk", "mailchimp") if consent.home == "both" else (consent.home,)
    for vendor in homes:
        if vendor in ("listmonk", "mailchimp") and consent.level != "none":
            events += _subscription(rng, person, consent, vendor)
    events += _foreign(rng, person, consent)
    if rng.random() < 0.003:
        at = person.arrived + rng.randrange(10, 500) * DAY
        events.append(_event(person, at, "mailchimp", "forget", {}))
    return events + _klaviyo(parameters, person, consent)


def _event(
    person: Person, at: int, vendor: str, kind: str, details: dict[str, object]
) -> ToolEvent:
    return ToolEvent(at, f"{person.number:07d}/{kind}", vendor, kind, person.email, dict(details))


def _profile(person: Person) -> dict[str, object]:
    return {
        "first_name": person.first_name,
        "last_name": person.last_name,
        "language": person.language,
    }


def _subscription(rng: Random, person: Person, consent: Consent, vendor: str) -> list[ToolEvent]:
    events: list[ToolEvent] = []
    profile = _profile(person)
    if consent.level == "single":
        events.append(_event(person, consent.given, vendor, "import", profile))
    else:
        events.append(_event(person, consent.given, vendor, "signup", profile))
    if consent.confirmed:
        events.append(_event(person, consent.confirmed, vendor, "confirm", {}))
    if consent.withdrawn:
        kind = "blocklist" if vendor != "mailchimp" and rng.random() < 0.2 else "unsubscribe"
        events.append(_event(person, consent.withdrawn, vendor, kind, {}))
        if consent.given_again and kind == "unsubscribe" and consent.level != "single":
            again = ToolEvent(
                consent.given_again,
                f"{person.number:07d}/x",
                vendor,
                "signup",
                person.email,
                profile,
            )
            events.append(again)
            if consent.level == "double":
                later = consent.given_again + 900
                events.append(ToolEvent(later, again.key, vendor, "confirm", person.email, {}))
    if consent.bounced:
        events.append(_event(person, consent.bounced, vendor, "bounce", {}))
    if consent.complained:
        events.append(_event(person, consent.complained, vendor, "complaint", {}))
    return events


def _foreign(rng: Random, person: Person, consent: Consent) -> list[ToolEvent]:
    """Membership of other people's audiences, for some who are in the tool anyway."""
    events = []
    start = (consent.confirmed or consent.given) + 2 * DAY
    if consent.home in ("listmonk", "both") and consent.level != "none" and rng.random() < 0.08:
        audience = FOREIGN_LISTS[rng.randrange(2)]
        at = start + rng.randrange(200 * DAY)
        events.append(_event(person, at, "listmonk", "join", {"audience": audience}))
    if consent.home in ("mailchimp", "both") and consent.level != "none" and rng.random() < 0.08:
        audience = rng.choice(FOREIGN_TAGS)
        at = start + rng.randrange(200 * DAY)
        events.append(_event(person, at, "mailchimp", "join", {"audience": audience}))
    return events


def _klaviyo(parameters: Parameters, person: Person, consent: Consent) -> list[ToolEvent]:
    """Klaviyo knows two in five people, from the shop or from its own form, and for three in four
    of these their consent too. Its stream is its own: the other tools stay as they are."""
    rng = stream(parameters, person.number, "klaviyo")
    if person.arrival == "marketplace" or rng.random() > 0.4:
        return []
    events = [_event(person, person.arrived, "klaviyo", "profile", _profile(person))]
    if consent.level != "none" and rng.random() < 0.75:
        events += _subscription(rng, person, consent, "klaviyo")
        if consent.withdrawn is None and rng.random() < 0.03:
            at = consent.given + rng.randrange(10, 400) * DAY
            events.append(_event(person, at, "klaviyo", "leave_lists", {}))
    if rng.random() < 0.1:
        audience = rng.choice(FOREIGN_KLAVIYO_LISTS)
        at = person.arrived + rng.randrange(1, 200) * DAY
        events.append(_event(person, at, "klaviyo", "join", {"audience": audience}))
    return events
