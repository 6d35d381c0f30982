"""The shop's and the CRM's API: log-in, pages, filters, limits and error shapes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date
from typing import Any

import pytest

from sandbox.service import Sandbox
from sandbox.testing import in_process, sign
from sandbox.vendors.hubspot import TOKEN
from sandbox.vendors.woocommerce import (
    _ORDERBY,
    CONSUMER_KEY,
    CONSUMER_SECRET,
    signature_base,
)
from tests.vendor_specifications import specification

SHOP = "http://testserver/woocommerce/wp-json/wc/v3"
CRM = "/hubspot/crm/objects/2026-03"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def sandbox() -> Sandbox:
    return Sandbox(None, 400, 2, date(2026, 11, 22))


@pytest.fixture(scope="module")
def client(sandbox: Sandbox) -> Iterator[Any]:
    with in_process(sandbox) as client:
        yield client


def shop(client: Any, path: str, **parameters: Any) -> Any:
    url = SHOP + path
    signed = sign("GET", url, parameters, CONSUMER_KEY, CONSUMER_SECRET)
    return client.get(url, params=signed)


def everything(client: Any, path: str, **parameters: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for page in range(1, 1000):
        answer = shop(client, path, **parameters, per_page=100, page=page)
        assert answer.status_code == 200, answer.text
        rows += answer.json()
        if page >= int(answer.headers["X-WP-TotalPages"]):
            return rows
    raise AssertionError("pages never end")


# WooCommerce


def test_signature_base_string_is_that_of_rfc_5849() -> None:
    parameters = [
        ("b5", "=%3D"), ("a3", "a"), ("c@", ""), ("a2", "r b"), ("c2", ""), ("a3", "2 q"),
        ("oauth_consumer_key", "9djdj82h48djs9d2"), ("oauth_token", "kkk9d7dh3k39sjv7"),
        ("oauth_signature_method", "HMAC-SHA1"), ("oauth_timestamp", "137131201"),
        ("oauth_nonce", "7d8f3e4a"), ("oauth_signature", "not part of it"),
    ]  # fmt: skip
    assert signature_base("post", "http://EXAMPLE.COM/request?b5=1", parameters) == (
        "POST&http%3A%2F%2Fexample.com%2Frequest&a2%3Dr%2520b%26a3%3D2%2520q%26a3%3Da%26b5%3D"
        "%253D%25253D%26c%2540%3D%26c2%3D%26oauth_consumer_key%3D9djdj82h48djs9d2%26oauth_nonce"
        "%3D7d8f3e4a%26oauth_signature_method%3DHMAC-SHA1%26oauth_timestamp%3D137131201%26"
        "oauth_token%3Dkkk9d7dh3k39sjv7"
    )


def test_shop_refuses_query_keys_and_basic_over_plain_http(client: Any) -> None:
    keys = {"consumer_key": CONSUMER_KEY, "consumer_secret": CONSUMER_SECRET}
    for answer in (
        client.get(SHOP + "/orders"),
        client.get(SHOP + "/orders", params=keys),
        client.get(SHOP + "/orders", auth=(CONSUMER_KEY, CONSUMER_SECRET)),
    ):
        assert answer.status_code == 401
        assert answer.json()["code"] == "woocommerce_rest_cannot_view"
        assert answer.json()["data"] == {"status": 401}


def test_shop_takes_basic_over_https(client: Any) -> None:
    https = {"X-Forwarded-Proto": "https"}
    good = client.get(SHOP + "/orders", auth=(CONSUMER_KEY, CONSUMER_SECRET), headers=https)
    bad = client.get(SHOP + "/orders", auth=(CONSUMER_KEY, "cs_wrong"), headers=https)
    assert (good.status_code, bad.status_code) == (200, 401)


def test_shop_refuses_a_wrong_signature_an_old_one_and_a_repeated_nonce(client: Any) -> None:
    url = SHOP + "/orders"
    wrong = sign("GET", url, {}, CONSUMER_KEY, "cs_wrong")
    assert "signature does not match" in client.get(url, params=wrong).json()["message"]
    good = sign("GET", url, {"per_page": 1}, CONSUMER_KEY, CONSUMER_SECRET)
    assert client.get(url, params=good).status_code == 200
    assert "nonce has already been used" in client.get(url, params=good).json()["message"]
    changed = sign("GET", url, {"per_page": 1}, CONSUMER_KEY, CONSUMER_SECRET) | {"per_page": "2"}
    assert client.get(url, params=changed).status_code == 401
    no_nonce = sign("GET", url, {}, CONSUMER_KEY, CONSUMER_SECRET)
    del no_nonce["oauth_nonce"]
    assert client.get(url, params=no_nonce).json()["code"].endswith("missing_parameter")


def test_shop_pages_hold_every_order_once(client: Any, sandbox: Sandbox) -> None:
    rows = everything(client, "/orders", orderby="modified", order="asc")
    trash = everything(client, "/orders", status="trash")
    ids = [row["id"] for row in rows + trash]
    assert trash
    assert "trash" not in {row["status"] for row in rows}
    assert sorted(ids) == sorted(sandbox.world.order_ids.values())
    modified = [row["date_modified_gmt"] for row in rows]
    assert modified == sorted(modified)
    first = shop(client, "/orders", per_page=100)
    assert int(first.headers["X-WP-Total"]) == len(rows)
    assert 'rel="next"' in first.headers["Link"]
    assert 'rel="prev"' not in first.headers["Link"]
    assert "oauth_" not in first.headers["Link"]
    assert shop(client, "/orders", page=10_000).json() == []


@pytest.mark.parametrize("size", [0, 101, 1000, -1])
def test_shop_limits_the_page_size(client: Any, size: int) -> None:
    answer = shop(client, "/orders", per_page=size)
    assert answer.status_code == 400
    body = answer.json()
    assert body["code"] == "rest_invalid_param"
    assert body["message"] == "Invalid parameter(s): per_page"
    assert "per_page must be" in body["data"]["params"]["per_page"]


@pytest.mark.parametrize(
    ("path", "parameters", "name"),
    [
        ("/orders", {"orderby": "registered_date"}, "orderby"),
        ("/customers", {"orderby": "modified"}, "orderby"),
        ("/customers", {"role": "buyer"}, "role"),
        ("/orders", {"status": "paid"}, "status"),
        ("/orders", {"modified_after": "yesterday"}, "modified_after"),
        ("/orders", {"page": "one"}, "page"),
        ("/orders", {"include": "1,two"}, "include"),
    ],
)
def test_shop_refuses_parameters_outside_the_schema(
    client: Any, path: str, parameters: dict[str, Any], name: str
) -> None:
    answer = shop(client, path, **parameters)
    assert answer.status_code == 400
    assert list(answer.json()["data"]["params"]) == [name]


def test_modified_after_is_exclusive_and_knows_its_zone(client: Any) -> None:
    rows = everything(client, "/orders", orderby="modified", order="asc")
    bound = rows[len(rows) // 2]["date_modified_gmt"]
    expected = {row["id"] for row in rows if row["date_modified_gmt"] > bound}
    gmt = everything(client, "/orders", modified_after=bound, dates_are_gmt="true")
    zulu = everything(client, "/orders", modified_after=bound + "Z")
    assert {row["id"] for row in gmt} == {row["id"] for row in zulu} == expected
    middle = rows[len(rows) // 2]
    local = everything(client, "/orders", modified_after=middle["date_modified"])
    assert {row["id"] for row in local} == expected


def test_customers_default_to_their_role_and_cannot_be_filtered_by_change(client: Any) -> None:
    all_roles = everything(client, "/customers", role="all")
    customers = everything(client, "/customers")
    assert {row["role"] for row in all_roles} == {"administrator", "shop_manager", "customer"}
    assert {row["role"] for row in customers} == {"customer"}
    filtered = everything(client, "/customers", modified_after="2026-11-22T00:00:00")
    assert len(filtered) == len(customers)


def test_refunds_are_listed_for_the_shop_and_for_an_order(client: Any) -> None:
    refunds = everything(client, "/refunds")
    assert refunds
    one = refunds[0]
    order = shop(client, f"/orders/{one['parent_id']}").json()
    assert one["id"] in [refund["id"] for refund in order["refunds"]]
    below = everything(client, f"/orders/{one['parent_id']}/refunds")
    assert one in below
    assert float(one["amount"]) > 0


def test_unknown_order_and_route(client: Any) -> None:
    missing = shop(client, "/orders/999999999")
    assert (missing.status_code, missing.json()["code"]) == (
        404,
        "woocommerce_rest_shop_order_invalid_id",
    )
    assert shop(client, "/coupons").json()["code"] == "rest_no_route"


def test_fields_restrict_the_answer(client: Any) -> None:
    row = shop(client, "/products", _fields="id,name,sku").json()[0]
    assert set(row) == {"id", "name", "sku"}


def test_status_any_leaves_nothing_out_and_lists_can_be_filtered(client: Any) -> None:
    drafts = everything(client, "/orders", status="checkout-draft")
    assert drafts
    assert {row["status"] for row in drafts} == {"checkout-draft"}
    two = [row["id"] for row in drafts[:2]]
    assert {r["id"] for r in shop(client, "/orders", include=f"{two[0]},{two[1]}").json()} == set(
        two
    )


@pytest.mark.parametrize("name", ["orders", "customers", "refunds", "products"])
def test_parameters_are_those_of_the_route_index(name: str) -> None:
    index = specification("woocommerce/wc-v3-routes.json")
    endpoints = index["routes"][f"/wc/v3/{name}"]["endpoints"]
    arguments = next(e["args"] for e in endpoints if "GET" in e["methods"])
    assert arguments["per_page"]["maximum"] == 100
    assert set(_ORDERBY[name]) == set(arguments["orderby"]["enum"])
    assert ("modified_after" in arguments) == (name != "customers")
    if name == "customers":
        assert arguments["role"]["default"] == "customer"
        assert arguments["orderby"]["default"] == "name"


# HubSpot


def test_crm_needs_its_token(client: Any) -> None:
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        answer = client.get(CRM + "/contacts", headers=headers)
        assert answer.status_code == 401
        assert answer.json()["category"] == "INVALID_AUTHENTICATION"


def listed(client: Any, kind: str, **parameters: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    after: dict[str, str] = {}
    while True:
        answer = client.get(f"{CRM}/{kind}", params={**parameters, **after}, headers=BEARER)
        assert answer.status_code == 200, answer.text
        rows += answer.json()["results"]
        if "paging" not in answer.json():
            return rows
        after = {"after": answer.json()["paging"]["next"]["after"]}


def test_crm_lists_all_live_contacts_and_the_deleted_ones_apart(
    client: Any, sandbox: Sandbox
) -> None:
    live = listed(client, "contacts", limit=100)
    gone = listed(client, "contacts", limit=100, archived="true")
    ids = [row["id"] for row in live + gone]
    assert sorted(ids) == sorted(sandbox.world.contact_ids.values())
    assert not any(row["archived"] for row in live)
    assert all(row["archivedAt"] for row in gone)


def test_crm_returns_only_the_properties_asked_for(client: Any) -> None:
    row = client.get(
        CRM + "/contacts", params={"limit": 1, "properties": "email,phone"}, headers=BEARER
    ).json()["results"][0]
    assert set(row["properties"]) == {
        "email", "phone", "createdate", "hs_object_id", "lastmodifieddate",
    }  # fmt: skip
    answer = client.get(CRM + "/contacts", headers=BEARER)
    assert answer.headers["X-HubSpot-RateLimit-Max"] == "190"
    assert len(answer.json()["results"]) == 10


@pytest.mark.parametrize(
    "parameters", [{"limit": 101}, {"limit": 0}, {"limit": 51, "propertiesWithHistory": "phone"}]
)
def test_crm_limits_the_page_size(client: Any, parameters: dict[str, Any]) -> None:
    answer = client.get(CRM + "/contacts", params=parameters, headers=BEARER)
    assert (answer.status_code, answer.json()["category"]) == (400, "VALIDATION_ERROR")


def search(client: Any, kind: str = "contacts", **query: Any) -> Any:
    return client.post(f"{CRM}/{kind}/search", json=query, headers=BEARER)


def changed_since(instant: str, name: str = "lastmodifieddate") -> dict[str, Any]:
    filters = [{"propertyName": name, "operator": "GTE", "value": instant}]
    return {
        "filterGroups": [{"filters": filters}],
        "sorts": [{"propertyName": name, "direction": "ASCENDING"}],
    }


def test_crm_search_finds_what_changed_in_order(client: Any) -> None:
    live = listed(client, "contacts", limit=100)
    bound = sorted(row["properties"]["lastmodifieddate"] for row in live)[-20]
    answer = search(client, **changed_since(bound), limit=200, properties=["email"])
    assert answer.json()["total"] == 20
    assert "X-HubSpot-RateLimit-Max" not in answer.headers
    stamps = [row["properties"]["lastmodifieddate"] for row in answer.json()["results"]]
    assert stamps == sorted(stamps)
    assert stamps[0] == bound
    milliseconds = search(client, **changed_since("1700000000000"), limit=7).json()
    assert milliseconds["total"] == len(live)
    assert milliseconds["paging"]["next"]["after"] == "7"


@pytest.mark.parametrize(
    "query",
    [
        {"limit": 201},
        {"limit": 200, "after": "9900"},
        {"limit": 100, "after": 10_000},
        {"filterGroups": [{"filters": []}] * 6},
        {
            "filterGroups": [
                {"filters": [{"propertyName": "email", "operator": "LIKE", "value": "a"}]}
            ]
        },
        {"filterGroups": [{"filters": [{"propertyName": "email", "operator": "EQ"}]}]},
    ],
)
def test_crm_search_refuses_more_than_it_can(client: Any, query: dict[str, Any]) -> None:
    answer = search(client, **query)
    assert (answer.status_code, answer.json()["category"]) == (400, "VALIDATION_ERROR")
    assert answer.json()["status"] == "error"


def test_crm_search_reaches_exactly_ten_thousand_results(client: Any) -> None:
    assert search(client, limit=200, after="9800").status_code == 200


def test_crm_batch_read_gives_histories_newest_first_and_names_missing_ids(client: Any) -> None:
    ids = [row["id"] for row in listed(client, "contacts", limit=100)[:50]]
    body = {
        "inputs": [{"id": one} for one in ids],
        "properties": ["email"],
        "propertiesWithHistory": ["lifecyclestage"],
    }
    answer = client.post(CRM + "/contacts/batch/read", json=body, headers=BEARER)
    assert answer.status_code == 200
    results = answer.json()["results"]
    assert [row["id"] for row in results] == ids
    histories = [row["propertiesWithHistory"]["lifecyclestage"] for row in results]
    assert any(len(history) > 1 for history in histories)
    for history in histories:
        stamps = [fact["timestamp"] for fact in history]
        assert stamps == sorted(stamps, reverse=True)
    deleted = listed(client, "contacts", limit=100, archived="true")[0]["id"]
    body["inputs"] = [{"id": ids[0]}, {"id": deleted}, {"id": "1"}]
    answer = client.post(CRM + "/contacts/batch/read", json=body, headers=BEARER)
    assert answer.status_code == 207
    assert answer.json()["errors"][0]["context"] == {"ids": ["1", deleted]}
    assert len(answer.json()["results"]) == 1


@pytest.mark.parametrize(("count", "histories"), [(101, []), (51, ["phone"])])
def test_crm_batch_read_has_a_limit(client: Any, count: int, histories: list[str]) -> None:
    body = {"inputs": [{"id": str(n)} for n in range(count)], "propertiesWithHistory": histories}
    answer = client.post(CRM + "/contacts/batch/read", json=body, headers=BEARER)
    assert answer.status_code == 400


def test_crm_associations_connect_deals_and_contacts(client: Any, sandbox: Sandbox) -> None:
    deals = listed(client, "deals", limit=100)
    path = "/hubspot/crm/associations/2026-03/deals/contacts/batch/read"
    body = {"inputs": [{"id": row["id"]} for row in deals]}
    answer = client.post(path, json=body, headers=BEARER)
    linked = {row["from"]["id"]: row["to"][0]["toObjectId"] for row in answer.json()["results"]}
    for deal in sandbox.world.deals:
        identity = sandbox.world.deal_ids[deal.key]
        if deal.contact_key and identity in {row["id"] for row in deals}:
            assert str(linked[identity]) == sandbox.world.contact_ids[deal.contact_key]
    unlinked = [d for d in sandbox.world.deals if not d.contact_key]
    assert (answer.status_code == 207) == bool(unlinked)
    many = {"inputs": [{"id": str(n)} for n in range(1001)]}
    assert client.post(path, json=many, headers=BEARER).status_code == 400


def test_crm_deals_say_whether_they_are_closed(client: Any) -> None:
    names = "dealstage,hs_is_closed,hs_is_closed_won,amount,closedate"
    deals = [row["properties"] for row in listed(client, "deals", limit=100, properties=names)]
    for deal in deals:
        assert (deal["dealstage"] == "closedwon") == (deal["hs_is_closed_won"] == "true")
        assert deal["dealstage"].startswith("closed") == (deal["hs_is_closed"] == "true")
        assert re.fullmatch(r"\d+\.\d\d", deal["amount"])
    assert {deal["hs_is_closed"] for deal in deals} == {"true", "false"}


def test_crm_limits_act_when_asked_for() -> None:
    strict = Sandbox(None, 20, 2, date(2026, 11, 22), enforce_limits=True)
    with in_process(strict) as client:
        codes = [search(client, limit=1).status_code for _ in range(6)]
        assert codes == [200] * 5 + [429]
        assert search(client, limit=1).json()["policyName"] == "SECONDLY"
