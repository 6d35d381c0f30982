"""Klaviyo's imitation: consent, imports that answer later, limits, and answers as published."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from sandbox.service import Sandbox
from sandbox.testing import in_process
from sandbox.tool_history import FOREIGN_KLAVIYO_LISTS, NEWSLETTER
from sandbox.vendors.klaviyo import API_KEY, REVISION
from tests.vendor_specifications import specification

KEY = {"Authorization": f"Klaviyo-API-Key {API_KEY}", "revision": REVISION}
IMPORTS = "/profile-bulk-import-jobs"
UNKNOWN = "01JSBX99999999999999999999"


@pytest.fixture
def sandbox() -> Sandbox:
    return Sandbox(None, 120, 2, date(2026, 11, 22))


@pytest.fixture
def client(sandbox: Sandbox) -> Iterator[httpx.Client]:
    with in_process(sandbox) as client:
        client.headers.update(KEY)
        yield client


def ask(client: httpx.Client, method: str, path: str, body: Any = None, **params: Any) -> Any:
    return client.request(method, f"/klaviyo/api{path}", json=body, params=params or None)


def resource(kind: str, attributes: dict[str, Any], **others: Any) -> dict[str, Any]:
    return {"data": {"type": kind, "attributes": attributes, **others}}


def profiles(client: httpx.Client) -> list[dict[str, Any]]:
    params: dict[str, Any] = {"additional-fields[profile]": "subscriptions", "page[size]": 100}
    rows: list[dict[str, Any]] = []
    address = "/klaviyo/api/profiles"
    while address:
        answer = client.get(address, params=params).json()
        rows += answer["data"]
        address = answer["links"]["next"]
        params |= {"page[cursor]": address.rsplit("=", 1)[1]} if address else {}
    return rows


def marketing(client: httpx.Client, identity: str) -> dict[str, Any]:
    params = {"additional-fields[profile]": "subscriptions"}
    answer = client.get(f"/klaviyo/api/profiles/{identity}", params=params).json()
    found: dict[str, Any] = answer["data"]["attributes"]["subscriptions"]["email"]["marketing"]
    return found


def members(client: httpx.Client, identity: str) -> list[str]:
    rows = ask(client, "GET", f"/lists/{identity}/profiles", **{"page[size]": 100}).json()["data"]
    return [row["id"] for row in rows]


def new_list(client: httpx.Client, name: str = "VIP") -> str:
    identity: str = ask(client, "POST", "/lists", resource("list", {"name": name})).json()["data"][
        "id"
    ]
    return identity


def identifiers(*ids: str) -> dict[str, Any]:
    return {"data": [{"type": "profile", "id": identity} for identity in ids]}


def post_import(client: httpx.Client, *rows: dict[str, Any]) -> httpx.Response:
    data = [{"type": "profile", **row} for row in rows]
    body = resource("profile-bulk-import-job", {"profiles": {"data": data}})
    answer: httpx.Response = ask(client, "POST", IMPORTS, body)
    return answer


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["errors"][0]["code"]


def test_it_needs_its_key_and_its_revision(client: httpx.Client) -> None:
    assert ask(client, "GET", "/lists").status_code == 200
    for header, status in (("revision", 400), ("Authorization", 401)):
        del client.headers[header]
        assert ask(client, "GET", "/lists").status_code == status


def test_it_holds_people_in_every_state_and_colleagues_lists() -> None:
    big = Sandbox(None, 1500, 3, date(2026, 11, 22))
    with in_process(big) as client:
        client.headers.update(KEY)
        found = [
            row["attributes"]["subscriptions"]["email"]["marketing"] for row in profiles(client)
        ]
    assert {row["consent"] for row in found} == {"SUBSCRIBED", "NEVER_SUBSCRIBED", "UNSUBSCRIBED"}
    assert {row["double_optin"] for row in found if row["consent"] == "SUBSCRIBED"} == {True, False}
    reasons = {entry["reason"] for row in found for entry in row["suppression"]}
    assert reasons == {"HARD_BOUNCE", "SPAM_COMPLAINT", "UNSUBSCRIBE", "USER_SUPPRESSED"}
    assert any(row["list_suppressions"] for row in found)
    assert all(row["can_receive_email_marketing"] is not bool(row["suppression"]) for row in found)
    assert all(big.klaviyo.audiences()[name] for name in (NEWSLETTER, *FOREIGN_KLAVIYO_LISTS))


def test_pages_are_followed_by_cursor_and_have_a_largest_size(client: httpx.Client) -> None:
    every = [row["id"] for row in profiles(client)]
    seen: list[str] = []
    params: dict[str, Any] = {"page[size]": 7, "sort": "id"}
    while True:
        answer = ask(client, "GET", "/profiles", **params).json()
        seen += [row["id"] for row in answer["data"]]
        if not answer["links"]["next"]:
            break
        assert len(answer["data"]) == 7
        params["page[cursor]"] = answer["links"]["next"].rsplit("=", 1)[1]
    assert seen == every == sorted(set(every))
    assert code(ask(client, "GET", "/profiles", **{"page[size]": 101})) == (400, "invalid")
    assert code(ask(client, "GET", "/lists", **{"page[size]": 11})) == (400, "invalid")
    assert code(ask(client, "GET", "/profiles", **{"page[cursor]": "x"})) == (400, "invalid")


def test_a_filter_finds_by_id_and_address_and_refuses_the_rest(client: httpx.Client) -> None:
    first, second = profiles(client)[:2]
    address = first["attributes"]["email"]
    ids = f'any(id,["{first["id"]}","{second["id"]}"])'
    assert len(ask(client, "GET", "/profiles", filter=ids).json()["data"]) == 2
    found = ask(client, "GET", "/profiles", filter=f'equals(email,"{address}")').json()["data"]
    assert [row["id"] for row in found] == [first["id"]]
    assert "subscriptions" not in found[0]["attributes"]
    for wrong in ("equals(first_name,'x')", "equals(email,x)", 'any(id,"x")', "nonsense"):
        assert ask(client, "GET", "/profiles", filter=wrong).status_code == 400


def test_creating_a_known_address_is_refused_and_changes_nothing(client: httpx.Client) -> None:
    known = profiles(client)[0]
    body = resource("profile", {"email": known["attributes"]["email"].upper(), "first_name": "X"})
    answer = ask(client, "POST", "/profiles", body)
    assert code(answer) == (409, "duplicate_profile")
    assert answer.json()["errors"][0]["meta"] == {"duplicate_profile_id": known["id"]}
    assert profiles(client)[0] == known
    fresh = ask(client, "POST", "/profiles", resource("profile", {"email": "New@Example.com"}))
    assert fresh.status_code == 201
    created = fresh.json()["data"]
    assert created["attributes"]["email"] == "new@example.com"
    assert marketing(client, created["id"])["consent"] == "NEVER_SUBSCRIBED"
    assert code(ask(client, "POST", "/profiles", resource("profile", {"email": "x"})))[0] == 400


def test_an_update_merges_and_null_and_unset_clear(client: httpx.Client) -> None:
    identity = profiles(client)[0]["id"]
    path = f"/profiles/{identity}"
    first = {"first_name": "Zoë", "properties": {"stage": "reach", "orders": 1}}
    ask(client, "PATCH", path, resource("profile", first, id=identity))
    meta = {"patch_properties": {"unset": ["stage"]}}
    second = {"first_name": None, "properties": {"orders": 2}}
    answer = ask(client, "PATCH", path, resource("profile", second, id=identity, meta=meta))
    found = answer.json()["data"]["attributes"]
    assert (found["first_name"], found["properties"]) == (None, {"orders": 2})
    lost = ask(client, "PATCH", f"/profiles/{UNKNOWN}", resource("profile", {}, id=UNKNOWN))
    assert code(lost) == (404, "not_found")


def test_lists_take_known_ids_up_to_a_thousand_and_keep_consent(client: httpx.Client) -> None:
    vip = new_list(client)
    assert new_list(client) != vip  # names may repeat
    rows = profiles(client)
    one, two = rows[0]["id"], rows[1]["id"]
    path = f"/lists/{vip}/relationships/profiles"
    for _ in range(2):
        assert ask(client, "POST", path, identifiers(one, two)).status_code == 204
    assert sorted(members(client, vip)) == sorted([one, two])
    assert code(ask(client, "POST", path, identifiers(one, UNKNOWN))) == (404, "not_found")
    assert ask(client, "POST", path, identifiers(*[one] * 1001)).status_code == 400
    assert ask(client, "DELETE", path, identifiers(one)).status_code == 204
    assert members(client, vip) == [two]
    assert profiles(client) == rows
    ask(client, "DELETE", f"/lists/{vip}")
    assert code(ask(client, "POST", path, identifiers(one))) == (404, "not_found")


def test_an_import_is_done_after_its_looks_and_names_what_it_refused(
    client: httpx.Client, sandbox: Sandbox
) -> None:
    sandbox.set_jobs(polls=2)
    known = profiles(client)[0]
    answer = post_import(
        client,
        {"id": known["id"], "attributes": {"properties": {"stage": "loyalty", "gone": None}}},
        {"id": UNKNOWN, "attributes": {"properties": {"stage": "loyalty"}}},
        {"attributes": {"email": "broken"}},
        {"attributes": {"email": "fresh@example.com", "first_name": "Fresh"}},
    )
    assert answer.status_code == 202
    path = f"{IMPORTS}/{answer.json()['data']['id']}"
    states = [ask(client, "GET", path).json()["data"]["attributes"] for _ in range(4)]
    assert [row["status"] for row in states] == ["queued", "processing", "complete", "complete"]
    assert [row["failed_count"] for row in states] == [0, 0, 2, 2]
    assert states[2]["total_count"] == 4
    errors = ask(client, "GET", f"{path}/import-errors").json()["data"]
    assert [row["attributes"]["code"] for row in errors] == ["not_found", "invalid"]
    assert errors[0]["attributes"]["original_payload"]["id"] == UNKNOWN
    after = {row["attributes"]["email"]: row for row in profiles(client)}
    assert "gone" not in after[known["attributes"]["email"]]["attributes"]["properties"]
    fresh = after["fresh@example.com"]["attributes"]
    assert fresh["subscriptions"]["email"]["marketing"]["consent"] == "NEVER_SUBSCRIBED"


def test_an_import_changes_no_consent_and_cannot_clear(client: httpx.Client) -> None:
    left = next(row for row in profiles(client) if is_suppressed(row))
    before = marketing(client, left["id"])
    named = {"first_name": "Kept"}
    post_import(client, {"attributes": {"email": left["attributes"]["email"], **named}})
    post_import(client, {"id": left["id"], "attributes": {"first_name": None}})
    found = ask(client, "GET", f"/profiles/{left['id']}").json()["data"]["attributes"]
    assert found["first_name"] == "Kept"
    assert marketing(client, left["id"]) == before


def test_imports_end_as_they_are_told_to(client: httpx.Client, sandbox: Sandbox) -> None:
    ids = [row["id"] for row in profiles(client)[:4]]
    rows = [{"id": each, "attributes": {"properties": {"half": True}}} for each in ids]
    sandbox.set_jobs(polls=0, end="cancelled")
    job = post_import(client, *rows).json()["data"]["id"]
    cancelled = ask(client, "GET", f"{IMPORTS}/{job}").json()["data"]["attributes"]
    assert cancelled["status"] == "cancelled"
    done = [row for row in profiles(client) if row["attributes"]["properties"].get("half")]
    assert len(done) == 2
    sandbox.set_jobs(end="lost")
    job = post_import(client, *rows).json()["data"]["id"]
    assert code(ask(client, "GET", f"{IMPORTS}/{job}")) == (404, "not_found")
    with pytest.raises(ValueError, match="end must be"):
        sandbox.set_jobs(end="tomorrow")


def test_an_import_has_a_largest_size_and_number(client: httpx.Client) -> None:
    heavy = {"attributes": {"email": "a@example.com", "properties": {"x": "y" * 99_000}}}
    assert code(post_import(client, *[heavy] * 51)) == (413, "payload_too_large")
    light = {"id": UNKNOWN, "attributes": {}}
    assert code(post_import(client, *[light] * 10_001)) == (400, "invalid")
    assert code(ask(client, "POST", IMPORTS, resource("profile-bulk-import-job", {})))[0] == 400


def test_subscribing_brings_people_back_which_is_why_a_sync_must_not(client: httpx.Client) -> None:
    left = next(row for row in profiles(client) if is_suppressed(row, "UNSUBSCRIBE"))
    rows = [{"type": "profile", "attributes": {"email": left["attributes"]["email"]}}]
    subscription = {"profiles": {"data": rows}, "historical_import": True}
    body = resource("profile-subscription-bulk-create-job", subscription)
    answer = ask(client, "POST", "/profile-subscription-bulk-create-jobs", body)
    assert (answer.status_code, answer.content) == (202, b"")
    now = marketing(client, left["id"])
    assert (now["consent"], now["suppression"]) == ("SUBSCRIBED", [])


def is_suppressed(row: dict[str, Any], reason: str | None = None) -> bool:
    found = row["attributes"]["subscriptions"]["email"]["marketing"]["suppression"]
    return any(reason in (None, entry["reason"]) for entry in found)


def test_a_deletion_happens_later(client: httpx.Client) -> None:
    row = profiles(client)[0]
    vip, by_id = new_list(client), f'equals(id,"{row["id"]}")'
    ask(client, "POST", f"/lists/{vip}/relationships/profiles", identifiers(row["id"]))
    data = {"type": "profile", "id": row["id"], "attributes": {}}
    body = resource("data-privacy-deletion-job", {"profile": {"data": data}})
    assert ask(client, "POST", "/data-privacy-deletion-jobs", body).status_code == 202
    looks = [ask(client, "GET", "/profiles", filter=by_id).json()["data"] for _ in range(2)]
    assert [len(found) for found in looks] == [1, 0]
    assert members(client, vip) == []
    data["attributes"] = {"email": "x@example.com"}
    assert code(ask(client, "POST", "/data-privacy-deletion-jobs", body)) == (400, "invalid")


def test_limits_act_per_endpoint_and_say_when_they_end() -> None:
    sandbox = Sandbox(None, 40, 2, date(2026, 11, 22), enforce_limits=True)
    moment = [100.0]
    sandbox.klaviyo._monotonic = lambda: moment[0]
    with in_process(sandbox) as client:
        client.headers.update(KEY)
        burst = [post_import(client) for _ in range(11)]
        assert [answer.status_code for answer in burst] == [202] * 10 + [429]
        assert burst[-1].headers["Retry-After"] == "1"
        assert burst[0].headers["RateLimit-Remaining"] == "149"
        assert ask(client, "GET", "/lists").status_code == 200
        for _ in range(14):
            moment[0] += 1
            assert {post_import(client).status_code for _ in range(10)} == {202}
        moment[0] += 1
        refused = post_import(client)
        assert (refused.status_code, refused.headers["Retry-After"]) == (429, "5")
        moment[0] += 5
        assert post_import(client).status_code == 202


def test_the_state_survives_a_restart(tmp_path: Path) -> None:
    first = Sandbox(tmp_path, 60, 2, date(2026, 11, 22))
    with in_process(first) as client:
        client.headers.update(KEY)
        vip, row = new_list(client), profiles(client)[0]
        ask(client, "POST", f"/lists/{vip}/relationships/profiles", identifiers(row["id"]))
        job = post_import(client, {"id": row["id"], "attributes": {}}).json()["data"]["id"]
    first.store.close()
    second = Sandbox(tmp_path, 1, 1, date(2026, 1, 1))
    assert second.klaviyo.profiles == first.klaviyo.profiles
    assert second.audiences()["klaviyo"] == first.audiences()["klaviyo"]
    with in_process(second) as client:
        client.headers.update(KEY)
        assert ask(client, "GET", f"{IMPORTS}/{job}").status_code == 200
        assert new_list(client, "Another") != vip


def published() -> Any:
    return specification("klaviyo/stable.json")


def without_nullable(schema: Any) -> Any:
    """JSON Schema's own way to allow null, which OpenAPI 3.0 writes beside the type."""
    if isinstance(schema, list):
        return [without_nullable(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {key: without_nullable(value) for key, value in schema.items() if key != "nullable"}
    return {"anyOf": [{"type": "null"}, plain]} if schema.get("nullable") is True else plain


@cache
def registry() -> Any:
    contents = {"components": without_nullable(published()["components"])}
    resource = Resource(contents=contents, specification=DRAFT202012)
    return Registry().with_resource("urn:klaviyo", resource)


@pytest.mark.parametrize(
    ("method", "template", "call"),
    [
        ("GET", "/api/profiles", "/profiles"),
        ("GET", "/api/lists", "/lists"),
        ("GET", "/api/lists/{id}", "/lists/L00001"),
        ("GET", "/api/lists/{id}/profiles", "/lists/L00001/profiles"),
        ("GET", "/api/profile-bulk-import-jobs/{job_id}", "{job}"),
        ("GET", "/api/profile-bulk-import-jobs/{id}/import-errors", "{job}/import-errors"),
        ("POST", "/api/profile-bulk-import-jobs", IMPORTS),
    ],
)
def test_answers_fit_the_specification(
    client: httpx.Client, method: str, template: str, call: str
) -> None:
    responses = published()["paths"][template][method.lower()]["responses"]
    schema = next(iter(responses.values()))["content"]["application/vnd.api+json"]["schema"]
    posted = post_import(client, {"id": UNKNOWN, "attributes": {}})
    job = f"{IMPORTS}/{posted.json()['data']['id']}"
    answer = posted if method == "POST" else ask(client, "GET", call.replace("{job}", job))
    reference = {"$ref": f"urn:klaviyo{schema['$ref']}"}
    body = answer.json()
    # The links of a last page are null, which the specification does not foresee.
    body["links"] = {k: v for k, v in (body.get("links") or {"self": job}).items() if v}
    validator = Draft202012Validator(reference, registry=registry())
    assert [error.json_path for error in validator.iter_errors(body)] == []
    assert body["data"]
