"""How the tools' own records become consent states."""

from __future__ import annotations

from typing import Any

import pytest

from kundenkreis.destinations import listmonk, mailchimp
from kundenkreis.destinations.base import SubscriberState

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
