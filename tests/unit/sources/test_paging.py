"""Paging by key: every record is read, however many share a moment or change meanwhile."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kundenkreis.connections import Connection
from kundenkreis.errors import VendorError
from kundenkreis.http import VendorClient
from kundenkreis.sources import hubspot, woocommerce
from kundenkreis.sources.config import HubSpotSettings, WooCommerceSettings

START = datetime(2026, 1, 1, tzinfo=UTC)
HERE = Connection(id="here", scheme="http", host="127.0.0.1", login="a", password="b")
# Few distinct moments, so that pages full of one moment are common.
moments = st.lists(st.integers(0, 4), max_size=25)
touches = st.lists(st.tuples(st.integers(0, 24), st.integers(1, 3)), max_size=4)


def client(answer: Callable[[httpx.Request], httpx.Response]) -> VendorClient:
    return VendorClient("Stub", HERE, transport=httpx.MockTransport(answer))


def read_until_quiet(
    system: Any, read: Callable[[], Iterator[list[Any]]], version: Callable[[Any], Any]
) -> set[Any]:
    """Run after run, until nothing changes any more; no run shows a version twice."""
    versions: set[Any] = set()
    quiet = False
    while not quiet:
        quiet = not system.touched
        shown = [version(row) for page in read() for row in page]
        assert len(shown) == len(set(shown))
        versions |= set(shown)
    return versions


def woocommerce_version(row: dict[str, Any]) -> Any:
    return row["id"], row["date_modified_gmt"]


def hubspot_version(row: dict[str, Any]) -> Any:
    assert row["contact_id"] == "9"
    return row["id"], row["properties"]["hs_lastmodifieddate"]


class Shop:
    """WooCommerce's list filters over (id, modified), offsets included; touched while read."""

    def __init__(self, seconds: list[int], touched: list[tuple[int, int]]) -> None:
        self.rows = {index + 1: second for index, second in enumerate(seconds)}
        self.touched = list(touched)
        self.calls = 0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.calls += 1
        query = request.url.params
        assert query.get("dates_are_gmt") == "true"
        rows = [
            (identity, second)
            for identity, second in self.rows.items()
            if self._after(query, "modified_after", second, 1)
            and self._after(query, "modified_before", second, -1)
            and query.get("status") != "trash"
        ]
        by = {"id": 0, "modified": 1}[query["orderby"]]
        rows.sort(key=lambda row: (row[by], -row[0] if by else 0))
        size, page = int(query["per_page"]), int(query["page"])
        offset = int(query.get("offset", (page - 1) * size))
        chosen = rows[offset : offset + size]
        if self.touched:
            identity, later = self.touched.pop()
            if identity in self.rows:
                self.rows[identity] = max(self.rows.values()) + later
        return httpx.Response(
            200,
            json=[
                {"id": identity, "date_modified_gmt": self.moment(second)}
                for identity, second in chosen
            ],
        )

    @staticmethod
    def moment(second: int) -> str:
        return (START + timedelta(seconds=second)).strftime("%Y-%m-%dT%H:%M:%S")

    def _after(self, query: Any, name: str, second: int, sign: int) -> bool:
        return name not in query or sign * (second - self._second(query[name])) > 0

    @staticmethod
    def _second(text: str) -> int:
        moment = datetime.fromisoformat(text).replace(tzinfo=UTC)
        return int((moment - START).total_seconds())


# A page full of one moment loses records to later moments while it is read.
@example(seconds=[0] * 7, touched=[(1, 1), (0, 1), (0, 1)])
@given(moments, touches)
def test_woocommerce_reads_the_last_version_of_every_record(
    seconds: list[int], touched: list[tuple[int, int]]
) -> None:
    shop = Shop(seconds, touched)
    reader = woocommerce._Shop(client(shop), WooCommerceSettings(page_size=3, overlap_hours=0))
    cursor: dict[str, Any] = {}
    versions = read_until_quiet(shop, lambda: reader.products(cursor), woocommerce_version)
    assert versions >= {(i, shop.moment(second)) for i, second in shop.rows.items()}
    if shop.rows:
        assert cursor["newest"] == shop.moment(max(shop.rows.values()))


def test_woocommerce_reads_only_the_overlap_again() -> None:
    shop = Shop(list(range(10_000, 10_040)), [])
    reader = woocommerce._Shop(client(shop), WooCommerceSettings(page_size=10, overlap_hours=0.001))
    cursor = {"newest": shop.moment(10_039)}
    read = [row["id"] for page in reader.products(cursor) for row in page]
    assert read == [37, 38, 39, 40]  # later than 3.6 s, rounded up to 4, before the newest
    assert shop.calls == 1


@given(
    st.integers(1, 4),
    st.integers(0, 12),
    st.lists(st.tuples(st.integers(0, 4), st.integers(1, 12)), max_size=4),
)
def test_woocommerce_misses_no_customer_when_others_are_deleted_meanwhile(
    page_size: int, count: int, deletions: list[tuple[int, int]]
) -> None:
    rows = list(range(1, count + 1))
    calls = 0

    def answer(request: httpx.Request) -> httpx.Response:
        nonlocal calls
        query = request.url.params
        size = int(query["per_page"])
        start = int(query.get("offset") or (int(query["page"]) - 1) * size)
        chosen = rows[start : start + size]
        for call, identity in deletions:
            if call == calls and identity in rows:
                rows.remove(identity)
        calls += 1
        return httpx.Response(200, json=[{"id": identity} for identity in chosen])

    reader = woocommerce._Shop(client(answer), WooCommerceSettings(page_size=page_size))
    read = {row["id"] for page in reader.customers({}) for row in page}

    assert read >= set(rows)


def test_woocommerce_page_that_a_plugin_shortened_is_not_the_last() -> None:
    shop = Shop(list(range(8)), [])

    def answer(request: httpx.Request) -> httpx.Response:
        """As a shop answers whose plugin hides order 2 from the key's user."""
        whole = shop(request).json()
        after = request.url.params.get("modified_after")
        left = [row for row in shop.rows.values() if after is None or shop.moment(row) > after]
        visible = [row for row in whole if row["id"] != 2]
        pages = -(-len(left) // int(request.url.params["per_page"]))
        return httpx.Response(200, json=visible, headers={"X-WP-TotalPages": str(pages)})

    reader = woocommerce._Shop(client(answer), WooCommerceSettings(page_size=3, overlap_hours=0))
    read = {row["id"] for page in reader.products({}) for row in page}

    assert read == {1, 3, 4, 5, 6, 7, 8}


def test_woocommerce_says_when_it_cannot_page() -> None:
    reader = woocommerce._Shop(
        client(lambda _: httpx.Response(200, json=[{"id": 1}])), WooCommerceSettings(page_size=1)
    )
    with pytest.raises(VendorError, match="no record has a usable date_modified_gmt"):
        list(reader.products({}))


def test_woocommerce_answer_that_is_no_list() -> None:
    reader = woocommerce._Shop(
        client(lambda _: httpx.Response(200, json={"code": "x"})), WooCommerceSettings()
    )
    with pytest.raises(VendorError, match=r"GET /wp-json/wc/v3/products answered 200 .* error 'x'"):
        list(reader.products({}))


class Crm:
    """HubSpot's search over (id, modified in ms); no offset beyond the first page is served."""

    def __init__(self, instants: list[int], touched: list[tuple[int, int]]) -> None:
        self.rows = {index + 1: instant for index, instant in enumerate(instants)}
        self.touched = list(touched)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return httpx.Response(200, json={"results": []})
        body = json.loads(request.content)
        if request.url.path.endswith("/deals/contacts/batch/read"):
            results = [
                {"from": item, "to": [{"toObjectId": 9}, {"toObjectId": 10}]}
                for item in body["inputs"]
            ]
            return httpx.Response(207, json={"results": results})
        assert "after" not in body
        rows = [
            (identity, instant)
            for identity, instant in self.rows.items()
            if all(
                self._holds(item, identity, instant)
                for group in body["filterGroups"]
                for item in group["filters"]
            )
        ]
        by = body["sorts"][0]["propertyName"] == "hs_object_id"
        rows.sort(key=lambda row: (row[0],) if by else (row[1], -row[0]))
        chosen = rows[: body["limit"]]
        answer: dict[str, Any] = {
            "results": [
                {"id": str(i), "properties": {"hs_lastmodifieddate": self.moment(ms)}}
                for i, ms in chosen
            ]
        }
        if len(rows) > len(chosen):
            answer["paging"] = {"next": {"after": str(len(chosen))}}
        if self.touched:
            identity, later = self.touched.pop()
            if identity in self.rows:
                self.rows[identity] = max(self.rows.values()) + later
        return httpx.Response(200, json=answer)

    @staticmethod
    def moment(milliseconds: int) -> str:
        moment = START + timedelta(milliseconds=milliseconds)
        return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")

    @staticmethod
    def _holds(item: dict[str, str], identity: int, instant: int) -> bool:
        of = {
            "hs_object_id": identity,
            "hs_lastmodifieddate": int(START.timestamp() * 1000) + instant,
        }[item["propertyName"]]
        bound = int(item["value"])
        return {"GTE": of >= bound, "GT": of > bound, "EQ": of == bound}[item["operator"]]


@given(moments, touches)
def test_hubspot_reads_the_last_version_of_every_record(
    instants: list[int], touched: list[tuple[int, int]]
) -> None:
    crm = Crm(instants, touched)
    settings = HubSpotSettings.model_construct(page_size=3, overlap_hours=0)
    reader = hubspot._Crm(client(crm), client(crm), settings)
    cursor: dict[str, Any] = {}
    versions = read_until_quiet(crm, lambda: reader.deals(cursor), hubspot_version)
    assert versions >= {(str(i), crm.moment(instant)) for i, instant in crm.rows.items()}


def test_hubspot_answer_without_results() -> None:
    broken = client(lambda _: httpx.Response(200, json={"status": "error"}))
    reader = hubspot._Crm(broken, broken, HubSpotSettings())
    with pytest.raises(VendorError, match=r"POST /crm/objects/2026-03/deals/search answered 200"):
        list(reader.deals({}))


def test_hubspot_asks_for_the_properties_that_hold_foreign_ids() -> None:
    asked: list[set[str]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            asked.append(set(request.url.params["properties"].split(",")))
            return httpx.Response(200, json={"results": []})
        body = json.loads(request.content)
        if request.url.path.endswith("/batch/read"):
            asked.append(set(body["properties"]))
        found = {"id": "1", "properties": {"lastmodifieddate": Crm.moment(0)}}
        return httpx.Response(200, json={"results": [found]})

    settings = HubSpotSettings(foreign_ids={"shop_id": "woocommerce.customer"})
    reader = hubspot._Crm(client(answer), client(answer), settings)
    assert len([row for page in reader.contacts({}) for row in page]) == 1
    assert len(asked) == 2  # the contact that changed, and the archived ones
    assert all({"shop_id", "email", "phone"} <= properties for properties in asked)


@pytest.mark.parametrize("properties", [None, "text", []])
def test_hubspot_record_with_malformed_properties_does_not_end_the_reading(
    properties: Any,
) -> None:
    good = {"id": "2", "properties": {"hs_lastmodifieddate": Crm.moment(0)}}
    results = [{"id": "1", "properties": properties}, good]
    answering = client(lambda _: httpx.Response(200, json={"results": results}))
    reader = hubspot._Crm(answering, answering, HubSpotSettings())
    found = [record for page in reader._changed("deals", [], {}) for record in page]
    assert [record["id"] for record in found] == ["1", "2"]
