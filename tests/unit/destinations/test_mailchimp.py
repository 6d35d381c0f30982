"""How Mailchimp's contacts are read: several pages at a time, each contact once and in order."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import orjson
import pytest

from kundenkreis.connections import Connection
from kundenkreis.destinations.config import MailchimpSettings
from kundenkreis.destinations.mailchimp import Mailchimp
from kundenkreis.errors import ConfigError

CONTACTS = 5500


def member(number: int) -> dict[str, str]:
    return {"id": str(number), "email_address": f"{number}@shop.de", "status": "subscribed"}


class Account:
    """An account of one list, whose pages hold at most ``largest`` of its contacts."""

    def __init__(self, largest: Callable[[int], int]) -> None:
        self.largest = largest
        self.asked: list[str] = []

    def answer(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request.url.path)
        if request.url.path == "/3.0/lists":
            return _json({"lists": [{"id": "l1", "double_optin": True}], "total_items": 1})
        query = request.url.params
        if query.get("status") == "archived":
            return _json({"members": [], "total_items": 0})
        start = int(query["offset"])
        size = min(int(query["count"]), self.largest(start))
        numbers = range(CONTACTS)[start : start + size]
        return _json({"members": [member(one) for one in numbers], "total_items": CONTACTS})


def _json(body: object) -> httpx.Response:
    return httpx.Response(200, content=orjson.dumps(body))


def connected(account: Account, list_id: str | None = None) -> Mailchimp:
    return Mailchimp(
        MailchimpSettings(list_id=list_id),
        Connection(id="mailchimp", scheme="https", host="mailchimp.test", password="key-us1"),
        transport=httpx.MockTransport(account.answer),
    )


@pytest.mark.parametrize(
    "largest",
    [
        pytest.param(lambda start: 1000, id="as many as asked for"),
        pytest.param(lambda start: 300, id="always fewer"),
        pytest.param(lambda start: 700 if start == 2000 else 1000, id="one page is short"),
    ],
)
def test_every_contact_is_read_once_and_in_order(largest: Callable[[int], int]) -> None:
    tool = connected(Account(largest))

    pages = list(tool.read_subscriber_states(frozenset()))

    assert [state.vendor_id for page in pages for state in page] == [
        str(number) for number in range(CONTACTS)
    ]


def test_a_configured_list_that_is_not_there_is_named() -> None:
    tool = connected(Account(lambda start: 1000), "elsewhere")

    with pytest.raises(ConfigError, match="list_id is elsewhere"):
        list(tool.read_subscriber_states(frozenset()))


def test_reading_may_end_early() -> None:
    account = Account(lambda start: 1000)
    pages = connected(account).read_subscriber_states(frozenset())

    first = next(pages)
    pages.close()

    assert len(first) == 1000
    assert account.asked.count("/3.0/lists/l1/members") <= 2 + 4
