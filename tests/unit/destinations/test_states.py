"""How the tools' own records become consent states."""

from __future__ import annotations

from typing import Any

import pytest

from kundenkreis.destinations import klaviyo, listmonk, mailchimp
from kundenkreis.destinations.base import SubscriberState, parse_time

NEWSLETTER, EVENTS, OURS = "1", "2", "9"


def subscription(list_id: str, status: str, changed: str | None, began: str | None = None) -> Any:
    return {
        "id": int(list_id),
        "subscription_status": status,
        "subscription_created_at": began or changed,
        "subscription_updated_at": changed,
    }


def state_of(
    *lists: Any, status: str = "enabled", bounces: Any = None, heard: frozenset[str] | None = None
) -> SubscriberState:
    subscriber = {
        "id": 5,
        "email": "Anna@Shop.de",
        "status": status,
        "updated_at": "2026-05-01T00:00:00Z",
        "lists": list(lists),
    }
    return listmonk._state_of(
        subscriber, frozenset({OURS}), frozenset({NEWSLETTER}), heard, bounces or {}
    )


JANUARY, MARCH = "2026-01-01T00:00:00Z", "2026-03-01T00:00:00Z"


@pytest.mark.parametrize(
    ("lists", "state", "evidence"),
    [
        ([], "subscribed", None),
        ([subscription(NEWSLETTER, "confirmed", MARCH)], "subscribed", "double"),
        ([subscription(NEWSLETTER, "unconfirmed", MARCH)], "pending", None),
        ([subscription(EVENTS, "unconfirmed", MARCH)], "subscribed", "single"),
        ([subscription(OURS, "unconfirmed", MARCH)], "subscribed", None),
        ([subscription(OURS, "confirmed", MARCH)], "subscribed", None),
        ([subscription(OURS, "unsubscribed", MARCH)], "unsubscribed", None),
        (
            [
                subscription(NEWSLETTER, "confirmed", JANUARY),
                subscription(OURS, "unsubscribed", MARCH),
            ],
            "unsubscribed",
            None,
        ),
        (
            [
                subscription(NEWSLETTER, "confirmed", MARCH),
                subscription(EVENTS, "unsubscribed", JANUARY),
            ],
            "subscribed",
            "double",
        ),
        (
            [
                subscription(NEWSLETTER, "confirmed", MARCH),
                subscription(EVENTS, "unsubscribed", None),
            ],
            "unsubscribed",  # an undated withdrawal is never outweighed
            None,
        ),
        (
            [
                subscription(EVENTS, "unsubscribed", JANUARY),
                subscription(OURS, "unconfirmed", MARCH),
            ],
            "unsubscribed",  # being put into our list later is no opt-in
            None,
        ),
    ],
)
def test_listmonk_subscriptions(lists: Any, state: str, evidence: str | None) -> None:
    found = state_of(*lists)

    assert (found.address, found.vendor_id) == ("anna@shop.de", "5")
    assert (found.state, found.evidence) == (state, evidence)


def test_listmonk_status_and_bounces_weigh_more_than_subscriptions() -> None:
    confirmed = subscription(NEWSLETTER, "confirmed", MARCH)

    assert state_of(confirmed, status="blocklisted").state == "blocklisted"
    assert state_of(confirmed, status="disabled").state == "archived"
    bounced = {"anna@shop.de": ("bounced", None)}
    assert state_of(confirmed, bounces=bounced).state == "bounced"
    assert state_of(confirmed, status="blocklisted", bounces=bounced).state == "bounced"


def test_listmonk_hears_only_the_configured_lists_and_its_own() -> None:
    left_events = subscription(EVENTS, "unsubscribed", MARCH)
    heard = frozenset({NEWSLETTER})

    assert state_of(left_events).state == "unsubscribed"
    assert state_of(left_events, heard=heard).state == "subscribed"
    assert state_of(subscription(OURS, "unsubscribed", MARCH), heard=heard).state == "unsubscribed"


@pytest.mark.parametrize(
    ("member", "double", "expected"),
    [
        ({"status": "subscribed", "timestamp_signup": JANUARY, "timestamp_opt": MARCH}, True,
         ("subscribed", "double")),
        ({"status": "subscribed", "timestamp_signup": JANUARY, "timestamp_opt": MARCH}, False,
         ("subscribed", "single")),
        ({"status": "subscribed", "timestamp_signup": "", "timestamp_opt": MARCH}, True,
         ("subscribed", "single")),
        ({"status": "subscribed"}, True, ("subscribed", None)),
        ({"status": "unsubscribed", "timestamp_opt": MARCH}, True, ("unsubscribed", None)),
        ({"status": "unsubscribed", "unsubscribe_reason": "Abuse complaint"}, True,
         ("complained", None)),
        ({"status": "cleaned"}, True, ("bounced", None)),
        ({"status": "archived"}, True, ("archived", None)),
        ({"status": "transactional"}, True, ("pending", None)),
        ({"status": "something new"}, True, ("pending", None)),
    ],
)  # fmt: skip
def test_mailchimp_statuses(member: Any, double: bool, expected: tuple[str, str | None]) -> None:
    found = mailchimp._state_of({"id": "x", "email_address": "Anna@shop.de", **member}, double)

    assert (found.state, found.evidence) == expected
    assert found.address == "anna@shop.de"


def suppressed(reason: str, moment: str = MARCH, **more: str) -> dict[str, str]:
    return {"reason": reason, "timestamp": moment, **more}


SUBSCRIBED = {
    "can_receive_email_marketing": True,
    "consent": "SUBSCRIBED",
    "consent_timestamp": JANUARY,
    "double_optin": True,
}
LEFT_LIST = suppressed("UNSUBSCRIBE", MARCH, list_id="L1")


@pytest.mark.parametrize(
    ("marketing", "expected"),
    [
        ({}, ("subscribed", "double", JANUARY)),
        ({"double_optin": False}, ("subscribed", "single", JANUARY)),
        ({"double_optin": None}, ("subscribed", "single", JANUARY)),
        ({"consent_timestamp": None}, ("subscribed", None, None)),
        ({"consent": "NEVER_SUBSCRIBED", "consent_timestamp": None}, ("subscribed", None, None)),
        ({"consent": "UNSUBSCRIBED"}, ("unsubscribed", None, JANUARY)),
        ({"suppression": [suppressed("UNSUBSCRIBE")]}, ("unsubscribed", None, MARCH)),
        ({"suppression": [suppressed("HARD_BOUNCE")]}, ("bounced", None, MARCH)),
        ({"suppression": [suppressed("INVALID_EMAIL")]}, ("bounced", None, MARCH)),
        ({"suppression": [suppressed("USER_SUPPRESSED")]}, ("blocklisted", None, MARCH)),
        ({"suppression": [suppressed("SOMETHING_NEW")]}, ("blocklisted", None, MARCH)),
        # Of several the one that weighs most counts, and of its dates the newest.
        ({"suppression": [suppressed("HARD_BOUNCE"), suppressed("SPAM_COMPLAINT", JANUARY)]},
         ("complained", None, JANUARY)),
        ({"suppression": [suppressed("UNSUBSCRIBE", JANUARY), suppressed("UNSUBSCRIBE")]},
         ("unsubscribed", None, MARCH)),
        # Leaving one list is a withdrawal until a newer double opt-in.
        ({"list_suppressions": [LEFT_LIST]}, ("unsubscribed", None, MARCH)),
        ({"list_suppressions": [LEFT_LIST], "consent_timestamp": "2026-04-01T00:00:00Z"},
         ("subscribed", "double", "2026-04-01T00:00:00Z")),
        ({"list_suppressions": [LEFT_LIST], "consent_timestamp": "2026-04-01T00:00:00Z",
          "double_optin": False}, ("unsubscribed", None, MARCH)),
        ({"list_suppressions": [{**LEFT_LIST, "timestamp": "soon"}]}, ("unsubscribed", None, None)),
        # Suppressed, and no word why.
        ({"can_receive_email_marketing": False}, ("blocklisted", None, JANUARY)),
        ({"consent": "SOMETHING_NEW"}, ("pending", None, None)),
    ],
)  # fmt: skip
def test_klaviyo_consent(marketing: Any, expected: tuple[str, str | None, str | None]) -> None:
    found = klaviyo_state({"email": {"marketing": {**SUBSCRIBED, **marketing}}})

    assert found is not None
    assert (found.state, found.evidence, found.state_changed_at) == (
        *expected[:2],
        parse_time(expected[2]),
    )


@pytest.mark.parametrize("subscriptions", [None, {}, {"email": None}, {"email": {}}])
def test_a_klaviyo_key_that_may_not_read_consent_suppresses_everybody(subscriptions: Any) -> None:
    found = klaviyo_state(subscriptions)

    assert found is not None
    assert (found.state, found.evidence) == ("pending", None)


def test_a_klaviyo_profile_without_an_address_is_none_of_ours() -> None:
    assert klaviyo_state({"email": {"marketing": SUBSCRIBED}}, email=None) is None


def klaviyo_state(subscriptions: Any, email: str | None = "Anna@Shop.de") -> SubscriberState | None:
    attributes = {"email": email, "subscriptions": subscriptions}
    return klaviyo._state_of({"id": "01J", "attributes": attributes})
