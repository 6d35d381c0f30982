"""Klaviyo's limits, its answers that are not as expected, and rows it is never sent."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import date
from typing import Any

import httpx
import pytest

from kundenkreis.connections import Connection, parse_connection
from kundenkreis.destinations.base import Batch, JobLost, Row, Submitted
from kundenkreis.destinations.config import KlaviyoSettings
from kundenkreis.destinations.klaviyo import Klaviyo
from kundenkreis.errors import VendorError
from sandbox.service import Sandbox, connections
from sandbox.testing import InProcessTransport

CONNECTION = Connection("klaviyo", "https", "a.klaviyo.com", password="pk_secret")


class Clock:
    """Time that passes only while somebody waits."""

    def __init__(self) -> None:
        self.now = 960.0  # the beginning of a minute

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def limited(clock: Clock) -> Iterator[tuple[Sandbox, Klaviyo]]:
    """The imitation with its limits in force, on the connector's own clock."""
    sandbox = Sandbox(None, 60, 2, date(2026, 11, 22), enforce_limits=True)
    sandbox.klaviyo._monotonic = clock.monotonic
    text = json.dumps(connections(1)["AIRFLOW_CONN_KLAVIYO"])
    tool = Klaviyo(
        KlaviyoSettings(),
        parse_connection("klaviyo", text),
        transport=InProcessTransport(sandbox),
        sleep=clock.sleep,
        monotonic=clock.monotonic,
    )
    yield sandbox, tool
    tool.close()


def answering(answer: Callable[[httpx.Request], httpx.Response], **settings: Any) -> Klaviyo:
    clock = Clock()
    return Klaviyo(
        KlaviyoSettings(**settings),
        CONNECTION,
        transport=httpx.MockTransport(answer),
        sleep=clock.sleep,
        monotonic=clock.monotonic,
    )


def test_a_minutes_calls_are_used_and_never_overrun(
    limited: tuple[Sandbox, Klaviyo], clock: Clock
) -> None:
    """150 changes of a list a minute: three minutes for 310, and not one refusal."""
    sandbox, tool = limited
    audience = tool.ensure_audience("Busy", None).vendor_id
    state = next(page for page in tool.read_subscriber_states(frozenset()))[0]
    batch = Batch("add", (Row("1", state.address, state.vendor_id),), audience)
    began = clock.now

    for _ in range(310):
        tool.deliver(batch)

    assert {row["status"] for row in sandbox.store.requests(bodies=False)} <= {200, 201, 204}
    assert 120 <= clock.now - began <= 180


def test_the_key_goes_to_klaviyo_alone_and_the_revision_is_pinned() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        elsewhere = "https://elsewhere.example/api/lists?page%5Bcursor%5D=two"
        more = elsewhere if "cursor" not in str(request.url) else None
        return httpx.Response(200, json={"data": [], "links": {"next": more}})

    with pytest.raises(VendorError):
        answering(answer).ensure_audience("x", None)

    assert {request.url.host for request in seen} == {"a.klaviyo.com"}
    assert {request.headers["revision"] for request in seen} == {"2026-07-15"}
    assert seen[1].url.params["page[cursor]"] == "two"
    assert seen[0].headers["content-type"] == "application/vnd.api+json"


def test_pages_that_go_in_circles_are_a_fault() -> None:
    link = "https://a.klaviyo.com/api/lists?page%5Bcursor%5D=same"
    tool = answering(
        lambda request: httpx.Response(200, json={"data": [], "links": {"next": link}})
    )

    with pytest.raises(VendorError, match="without a page after this one"):
        tool.ensure_audience("x", None)


def test_a_deleted_list_is_told_and_does_not_cost_a_call_per_row() -> None:
    tool = answering(lambda request: httpx.Response(404, json={"errors": [{"code": "not_found"}]}))
    rows = tuple(Row(str(n), f"{n}@shop.de", f"id{n}") for n in range(64))

    with pytest.raises(VendorError, match="the list was deleted"):
        tool.deliver(Batch("add", rows, "L1"))

    assert tool.calls == 2


def test_a_profile_that_is_too_large_is_never_sent() -> None:
    sent: list[Any] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(json.loads(request.content))
        return httpx.Response(202, json={"data": {"type": "x", "id": "job1"}})

    tool = answering(answer, import_from_rows=1)
    heavy = Row("heavy", "a@shop.de", "1", attributes={"stage": "x" * 100_001})
    light = Row("light", "b@shop.de", "2", attributes={"stage": "x"})

    assert tool.deliver(Batch("upsert", (heavy, light))) == Submitted("job1")
    (alone,) = tool.deliver(Batch("upsert", (heavy,)))  # type: ignore[misc]

    assert [len(body["data"]["attributes"]["profiles"]["data"]) for body in sent] == [1]
    assert (alone.state, alone.reason_code) == ("rejected", "payload_too_large")


def test_names_go_to_fields_of_their_own_unless_they_are_given_a_property() -> None:
    sent: list[Any] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(json.loads(request.content)["data"])
        return httpx.Response(200, json={"data": {"type": "profile", "id": "1"}})

    attributes = {"first_name": None, "last_name": "Łoś", "stage": "reach", "monetary": None}
    batch = Batch("upsert", (Row("1", "a@shop.de", "1", attributes=attributes),))
    answering(answer).deliver(batch)
    names = {"first_name": "Vorname", "stage": "Lifecycle stage"}
    answering(answer, property_names=names).deliver(batch)

    plain, renamed = sent
    assert plain["attributes"] == {
        "first_name": None,
        "last_name": "Łoś",
        "properties": {"stage": "reach"},
    }
    assert plain["meta"] == {"patch_properties": {"unset": ["monetary"]}}
    assert renamed["attributes"] == {
        "last_name": "Łoś",
        "properties": {"Lifecycle stage": "reach"},
    }
    assert renamed["meta"] == {"patch_properties": {"unset": ["Vorname", "monetary"]}}


@pytest.mark.parametrize("body", [{}, {"data": []}, {"data": {"id": "1", "attributes": {}}}, []])
def test_a_job_that_is_answered_otherwise_is_a_fault_and_not_lost(body: Any) -> None:
    tool = answering(lambda request: httpx.Response(200, json=body))

    with pytest.raises(VendorError) as raised:
        tool.poll("job1", Batch("upsert", ()))

    assert not isinstance(raised.value, JobLost)
