"""The email tools: consent that an API call cannot bring back, limits, errors per row."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Iterator
from datetime import date
from typing import Any

import httpx
import pytest
from jsonschema import Draft4Validator

from sandbox.service import Sandbox
from sandbox.testing import in_process
from sandbox.tool_history import FOREIGN_LISTS, FOREIGN_TAGS
from sandbox.vendors.listmonk import API_TOKEN, API_USER
from sandbox.vendors.mailchimp import API_KEY, LIST_ID, subscriber_hash
from tests.vendor_specifications import specification

LISTMONK = httpx.BasicAuth(API_USER, API_TOKEN)
MAILCHIMP = httpx.BasicAuth("anything", API_KEY)
AUDIENCE = f"/mailchimp/3.0/lists/{LIST_ID}"


@pytest.fixture
def sandbox() -> Sandbox:
    return Sandbox(None, 120, 2, date(2026, 11, 22))


@pytest.fixture
def client(sandbox: Sandbox) -> Iterator[httpx.Client]:
    with in_process(sandbox) as client:
        yield client


def listmonk(client: httpx.Client, method: str, path: str, **options: Any) -> httpx.Response:
    return client.request(method, f"/listmonk/api{path}", auth=LISTMONK, **options)


def mailchimp(client: httpx.Client, method: str, path: str, **options: Any) -> httpx.Response:
    return client.request(method, AUDIENCE + path, auth=MAILCHIMP, **options)


def subscribers(client: httpx.Client, **parameters: Any) -> list[dict[str, Any]]:
    answer = listmonk(client, "GET", "/subscribers", params={"per_page": "all", **parameters})
    rows: list[dict[str, Any]] = answer.json()["data"]["results"]
    return rows


def subscriber(client: httpx.Client, address: str) -> dict[str, Any]:
    (row,) = subscribers(client, query=f"subscribers.email = '{address}'")
    return row


def status_on(row: dict[str, Any], name: str) -> str | None:
    return next((r["subscription_status"] for r in row["lists"] if r["name"] == name), None)


def new_list(client: httpx.Client, name: str = "VIP") -> int:
    identity: int = listmonk(client, "POST", "/lists", json={"name": name}).json()["data"]["id"]
    return identity


# listmonk


def test_listmonk_needs_its_user(client: httpx.Client) -> None:
    assert client.get("/listmonk/api/lists").status_code == 403
    assert client.get("/listmonk/api/lists", auth=("someone", "x")).status_code == 403
    token = {"Authorization": f"token {API_USER}:{API_TOKEN}"}
    assert client.get("/listmonk/api/lists", headers=token).status_code == 200


def test_listmonk_holds_people_in_every_state() -> None:
    with in_process(Sandbox(None, 900, 2, date(2026, 11, 22))) as client:
        rows = subscribers(client)
        newsletter = {status_on(row, "Newsletter") for row in rows}
        assert newsletter == {"confirmed", "unconfirmed", "unsubscribed", None}
        assert {row["status"] for row in rows} == {"enabled", "blocklisted"}
        for row in rows:
            if row["status"] == "blocklisted":
                assert {entry["subscription_status"] for entry in row["lists"]} <= {"unsubscribed"}
        bounces = listmonk(client, "GET", "/bounces", params={"per_page": "all"}).json()["data"]
        assert {row["type"] for row in bounces["results"]} == {"hard", "complaint"}


def test_listmonk_refuses_a_known_address_whatever_its_case(client: httpx.Client) -> None:
    known = subscribers(client)[0]
    body = {"email": known["email"].upper(), "name": "Again"}
    answer = listmonk(client, "POST", "/subscribers", json=body)
    assert (answer.status_code, answer.json()) == (409, {"message": "E-mail already exists."})
    assert subscriber(client, known["email"])["name"] == known["name"]
    invalid = listmonk(client, "POST", "/subscribers", json={"email": "no address"})
    assert invalid.status_code == 400


def test_listmonk_creates_a_preconfirmed_subscriber(client: httpx.Client) -> None:
    vip = new_list(client)
    body = {
        "email": " New@Example.com",
        "lists": [vip, 9999],
        "attribs": {"stage": "loyalty"},
        "preconfirm_subscriptions": True,
    }
    row = listmonk(client, "POST", "/subscribers", json=body).json()["data"]
    assert row["email"] == "new@example.com"
    assert [(e["id"], e["subscription_status"]) for e in row["lists"]] == [(vip, "confirmed")]


def test_listmonk_patch_merges_and_put_replaces(client: httpx.Client) -> None:
    row = next(row for row in subscribers(client) if status_on(row, "Newsletter"))
    path = f"/subscribers/{row['id']}"
    patched = listmonk(client, "PATCH", path, json={"attribs": {"stage": "loyalty"}}).json()["data"]
    assert patched["attribs"] == {**row["attribs"], "stage": "loyalty"}
    assert patched["lists"] == row["lists"]
    put = listmonk(client, "PUT", path, json={"attribs": {"k": 1}, "lists": []}).json()["data"]
    assert put["attribs"] == {"k": 1}
    assert put["lists"] == []


def test_listmonk_add_without_status_keeps_and_with_status_overwrites(client: httpx.Client) -> None:
    vip = new_list(client)
    one = next(row for row in subscribers(client) if row["status"] == "enabled")
    move = {"ids": [one["id"]], "target_list_ids": [vip]}
    for body, expected in (
        ({"action": "add"}, "unconfirmed"),
        ({"action": "add", "status": "confirmed"}, "confirmed"),
        ({"action": "unsubscribe"}, "unsubscribed"),
        ({"action": "add"}, "unsubscribed"),
        ({"action": "add", "status": "confirmed"}, "confirmed"),
        ({"action": "remove"}, None),
    ):
        answer = listmonk(client, "PUT", "/subscribers/lists", json={**move, **body})
        assert answer.json() == {"data": True}
        assert status_on(subscriber(client, one["email"]), "VIP") == expected


def test_listmonk_lets_blocklisted_people_be_added(client: httpx.Client) -> None:
    vip = new_list(client)
    row = subscribers(client)[0]
    listmonk(client, "PUT", f"/subscribers/{row['id']}/blocklist")
    body = {"ids": [row["id"]], "target_list_ids": [vip], "action": "add", "status": "confirmed"}
    assert listmonk(client, "PUT", "/subscribers/lists", json=body).status_code == 200
    now = subscriber(client, row["email"])
    assert (now["status"], status_on(now, "VIP")) == ("blocklisted", "confirmed")
    assert status_on(now, "Newsletter") in ("unsubscribed", None)


def test_listmonk_fails_the_whole_add_for_an_unknown_subscriber(client: httpx.Client) -> None:
    vip = new_list(client)
    row = subscribers(client)[0]
    body = {"ids": [row["id"], 999_999], "target_list_ids": [vip], "action": "add"}
    assert listmonk(client, "PUT", "/subscribers/lists", json=body).status_code == 500
    assert status_on(subscriber(client, row["email"]), "VIP") is None


def test_listmonk_filters_by_list_and_status_and_pages(client: httpx.Client) -> None:
    parameters = {"list_id": 1, "subscription_status": "confirmed"}
    confirmed = subscribers(client, **parameters)
    everybody = subscribers(client)
    expected = {row["id"] for row in everybody if status_on(row, "Newsletter") == "confirmed"}
    assert {row["id"] for row in confirmed} == expected
    seen: list[int] = []
    for page in range(1, 100):
        answer = listmonk(
            client, "GET", "/subscribers", params={**parameters, "page": page, "per_page": 7}
        ).json()["data"]
        assert answer["total"] == len(expected)
        if not answer["results"]:
            break
        seen += [row["id"] for row in answer["results"]]
    assert sorted(seen) == sorted(expected)


def test_listmonk_query_understands_columns_and_refuses_the_rest(client: httpx.Client) -> None:
    rows = sorted(subscribers(client), key=lambda row: row["id"])
    middle = rows[len(rows) // 2]
    found = subscribers(client, query=f"subscribers.id > {middle['id']} AND status = 'enabled'")
    assert {row["id"] for row in found} == {
        row["id"] for row in rows if row["id"] > middle["id"] and row["status"] == "enabled"
    }
    two = f"email IN ('{rows[0]['email']}', '{rows[1]['email']}')"
    assert len(subscribers(client, query=two)) == 2
    for query in ("1=1; drop table subscribers", "attribs->>'x' = '1'", "id > 1 OR id < 1"):
        refused = listmonk(client, "GET", "/subscribers", params={"query": query})
        assert refused.status_code == 400


def upload(client: httpx.Client, rows: list[list[str]], **parameters: Any) -> httpx.Response:
    text = io.StringIO()
    csv.writer(text).writerows([["email", "name", "attributes"], *rows])
    options = {"mode": "subscribe", "delim": ",", **parameters}
    return listmonk(
        client,
        "POST",
        "/import/subscribers",
        data={"params": json.dumps(options)},
        files={"file": ("people.csv", text.getvalue().encode(), "text/csv")},
    )


def test_listmonk_import_runs_one_job_and_logs_bad_rows_as_text(client: httpx.Client) -> None:
    vip = new_list(client)
    known = next(
        row for row in subscribers(client) if status_on(row, "Newsletter") == "unsubscribed"
    )
    rows = [
        ["fresh@example.com", "Fresh", "{}"],
        ["broken", "", ""],
        [known["email"], "", '{"k":1}'],
    ]
    keep = {"overwrite_userinfo": True, "overwrite_subscription_status": False}
    answer = upload(client, rows, lists=[1, vip], subscription_status="confirmed", **keep)
    assert answer.json()["data"]["status"] == "importing"
    assert upload(client, rows).status_code == 400
    assert listmonk(client, "GET", "/import/subscribers").json()["data"]["status"] == "importing"
    finished = listmonk(client, "GET", "/import/subscribers").json()["data"]
    assert (finished["status"], finished["total"], finished["imported"]) == ("finished", 3, 2)
    log = listmonk(client, "GET", "/import/subscribers/logs").json()["data"]
    assert "skipping line 3: Invalid email" in log
    after = subscriber(client, known["email"])
    assert after["attribs"] == {"k": 1}
    assert status_on(after, "Newsletter") == "unsubscribed"
    assert status_on(subscriber(client, "fresh@example.com"), "VIP") == "confirmed"
    assert listmonk(client, "DELETE", "/import/subscribers").json()["data"]["status"] == "none"


def test_listmonk_deletes_subscribers_and_lists(client: httpx.Client) -> None:
    row = subscribers(client)[0]
    assert listmonk(client, "DELETE", f"/subscribers/{row['id']}").json() == {"data": True}
    assert subscribers(client, query=f"email = '{row['email']}'") == []
    assert listmonk(client, "GET", f"/subscribers/{row['id']}").status_code == 400
    identity = new_list(client, "Short lived")
    assert listmonk(client, "DELETE", f"/lists/{identity}").status_code == 200
    assert listmonk(client, "GET", f"/lists/{identity}").status_code == 400


def test_other_peoples_audiences_are_there(client: httpx.Client, sandbox: Sandbox) -> None:
    names = {row["name"] for row in listmonk(client, "GET", "/lists").json()["data"]["results"]}
    assert names == {"Newsletter", *FOREIGN_LISTS}
    assert set(sandbox.audiences()["mailchimp"]) == set(FOREIGN_TAGS)
    assert any(sandbox.audiences()["mailchimp"].values())


# Mailchimp


def members(client: httpx.Client, **parameters: Any) -> list[dict[str, Any]]:
    answer = mailchimp(client, "GET", "/members", params={"count": 1000, **parameters})
    rows: list[dict[str, Any]] = answer.json()["members"]
    return rows


def first(client: httpx.Client, status: str = "subscribed") -> dict[str, Any]:
    return members(client, status=status)[0]


def put(client: httpx.Client, address: str, **body: Any) -> httpx.Response:
    path = f"/members/{subscriber_hash(address)}"
    return mailchimp(client, "PUT", path, json={"email_address": address, **body})


def test_mailchimp_needs_its_key(client: httpx.Client) -> None:
    answer = client.get(AUDIENCE, auth=("any", "wrong-sbx1"))
    assert (answer.status_code, answer.json()["title"]) == (401, "API Key Invalid")
    assert answer.headers["content-type"].startswith("application/problem+json")
    bearer = {"Authorization": f"Bearer {API_KEY}"}
    assert client.get(AUDIENCE, headers=bearer).json()["double_optin"] is True


def test_mailchimp_holds_people_in_every_state() -> None:
    with in_process(Sandbox(None, 900, 2, date(2026, 11, 22))) as client:
        rows = members(client)
        assert {row["status"] for row in rows} == {
            "subscribed", "unsubscribed", "cleaned", "pending",
        }  # fmt: skip
        for row in rows:
            if row["status"] == "subscribed":
                assert row["timestamp_opt"]
            if row["status"] == "pending":
                assert row["timestamp_signup"]
                assert not row["timestamp_opt"]
        imported = [row for row in rows if row["timestamp_opt"] and not row["timestamp_signup"]]
        assert 0 < len(imported) < len(rows) / 2


@pytest.mark.parametrize("status", ["unsubscribed", "pending"])
def test_mailchimp_status_if_new_keeps_the_status_of_a_known_member(
    client: httpx.Client, status: str
) -> None:
    row = first(client, status)
    answer = put(
        client, row["email_address"], status_if_new="subscribed", merge_fields={"FNAME": "Neu"}
    )
    assert answer.json()["status"] == status
    assert answer.json()["merge_fields"]["FNAME"] == "Neu"
    assert answer.json()["merge_fields"]["LNAME"] == row["merge_fields"]["LNAME"]


def test_mailchimp_put_creates_a_new_member_and_drops_unknown_merge_fields(
    client: httpx.Client,
) -> None:
    answer = put(client, "neu@example.com", status_if_new="subscribed", merge_fields={"NOPE": "x"})
    assert answer.json()["status"] == "subscribed"
    assert answer.json()["timestamp_signup"] == ""
    assert "NOPE" not in answer.json()["merge_fields"]
    for body, field in (
        ({"email_address": "x"}, "email_address"),
        ({"email_address": "y@example.com"}, "status_if_new"),
    ):
        refused = mailchimp(client, "PUT", f"/members/{subscriber_hash('q')}", json=body)
        assert refused.status_code == 400
        assert refused.json()["errors"][0]["field"] == field


def test_mailchimp_never_resubscribes_who_left(client: httpx.Client) -> None:
    row = first(client, "unsubscribed")
    answer = put(client, row["email_address"], status="subscribed", status_if_new="subscribed")
    assert (answer.status_code, answer.json()["title"]) == (400, "Member In Compliance State")
    assert mailchimp(client, "GET", f"/members/{row['id']}").json()["status"] == "unsubscribed"


def test_mailchimp_forgets_for_good(client: httpx.Client) -> None:
    row = first(client)
    path = f"/members/{row['id']}"
    assert mailchimp(client, "POST", f"{path}/actions/delete-permanent").status_code == 204
    assert mailchimp(client, "GET", path).status_code == 404
    again = put(client, row["email_address"], status_if_new="subscribed")
    assert (again.status_code, again.json()["title"]) == (400, "Forgotten Email Not Subscribed")


def test_mailchimp_archives_and_lists_archived_only_when_asked(client: httpx.Client) -> None:
    row = first(client)
    assert mailchimp(client, "DELETE", f"/members/{row['id']}").status_code == 204
    assert row["id"] not in {member["id"] for member in members(client)}
    assert [member["id"] for member in members(client, status="archived")] == [row["id"]]


def test_mailchimp_batch_answers_row_by_row(client: httpx.Client) -> None:
    left, stays = first(client, "unsubscribed"), first(client)
    rows = [
        {"email_address": "neu@example.com", "status": "subscribed"},
        {"email_address": "not an address", "status": "subscribed"},
        {"email_address": left["email_address"], "merge_fields": {"FNAME": "Neu"}},
        {"email_address": stays["email_address"].upper(), "merge_fields": {"FNAME": "Neu"}},
        {"email_address": stays["email_address"]},
        {"email_address": "unknown@example.com"},
    ]
    body = {"members": rows, "update_existing": True}
    answer = client.post(AUDIENCE, auth=MAILCHIMP, json=body).json()
    assert answer["total_created"] == len(answer["new_members"]) == 1
    assert answer["total_updated"] == len(answer["updated_members"]) == 2
    assert answer["error_count"] == len(answer["errors"]) == 3
    assert {error["email_address"] for error in answer["errors"]} == {
        "not an address", stays["email_address"], "unknown@example.com",
    }  # fmt: skip
    statuses = {row["id"]: row["status"] for row in answer["updated_members"]}
    assert statuses == {left["id"]: "unsubscribed", stays["id"]: "subscribed"}
    body = {"members": rows[2:3], "update_existing": False}
    error = client.post(AUDIENCE, auth=MAILCHIMP, json=body).json()["errors"][0]
    assert error["error_code"] == "ERROR_CONTACT_EXISTS"


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("", "members"),
        ("/segments/10001", "members_to_add"),
        ("/segments/10001", "members_to_remove"),
    ],
)
def test_mailchimp_batches_have_a_limit(client: httpx.Client, path: str, field: str) -> None:
    rows: list[Any] = [f"n{number}@example.com" for number in range(501)]
    if field == "members":
        rows = [{"email_address": address, "status": "subscribed"} for address in rows]
    answer = mailchimp(client, "POST", path, json={field: rows})
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (400, field)
    assert mailchimp(client, "POST", path, json={field: rows[:500]}).status_code == 200


def test_mailchimp_static_segments_ignore_strangers_silently(client: httpx.Client) -> None:
    segment = mailchimp(
        client, "POST", "/segments", json={"name": "VIP", "static_segment": []}
    ).json()
    two = [row["email_address"] for row in members(client, status="subscribed")[:2]]
    path = f"/segments/{segment['id']}"
    answer = mailchimp(
        client, "POST", path, json={"members_to_add": [*two, "stranger@example.com"]}
    ).json()
    assert (answer["total_added"], answer["error_count"]) == (2, 0)
    again = mailchimp(client, "POST", path, json={"members_to_add": two}).json()
    assert again["total_added"] == 0
    gone = mailchimp(client, "POST", path, json={"members_to_remove": two[:1]}).json()
    assert gone["total_removed"] == 1
    left = mailchimp(client, "GET", f"{path}/members").json()["members"]
    assert [row["email_address"] for row in left] == two[1:]
    assert mailchimp(client, "GET", path).json()["member_count"] == 1
    twice = mailchimp(client, "POST", "/segments", json={"name": "VIP", "static_segment": []})
    assert twice.status_code == 400


def test_mailchimp_segment_members_hide_who_left_unless_asked(client: httpx.Client) -> None:
    left = first(client, "unsubscribed")
    segment = mailchimp(
        client, "POST", "/segments", json={"name": "V", "static_segment": [left["email_address"]]}
    ).json()
    path = f"/segments/{segment['id']}/members"
    assert mailchimp(client, "GET", path).json()["total_items"] == 0
    shown = mailchimp(client, "GET", path, params={"include_unsubscribed": "true"}).json()
    assert shown["total_items"] == 1


def test_mailchimp_tags_are_static_segments(client: httpx.Client) -> None:
    row = first(client)
    path = f"/members/{row['id']}/tags"
    body = {"tags": [{"name": "VIP", "status": "active"}], "is_syncing": True}
    assert mailchimp(client, "POST", path, json=body).status_code == 204
    tags = mailchimp(client, "GET", path).json()["tags"]
    assert "VIP" in [tag["name"] for tag in tags]
    names = mailchimp(client, "GET", "/segments", params={"count": 100}).json()["segments"]
    assert "VIP" in [segment["name"] for segment in names]
    body["tags"][0]["status"] = "inactive"  # type: ignore[index]
    mailchimp(client, "POST", path, json=body)
    assert "VIP" not in [tag["name"] for tag in mailchimp(client, "GET", path).json()["tags"]]


def test_mailchimp_pages_filters_and_fields(client: httpx.Client) -> None:
    everybody = members(client)
    middle = sorted(row["last_changed"] for row in everybody)[len(everybody) // 2]
    since = members(client, since_last_changed=middle)
    assert {row["id"] for row in since} == {
        row["id"] for row in everybody if row["last_changed"] >= middle
    }
    assert mailchimp(client, "GET", "/members", params={"count": 1001}).status_code == 400
    assert len(mailchimp(client, "GET", "/members").json()["members"]) == 10
    page = mailchimp(client, "GET", "/members", params={"count": 7, "offset": 7}).json()
    assert [row["id"] for row in page["members"]] == [row["id"] for row in everybody[7:14]]
    assert page["total_items"] == len(everybody)
    narrow = members(client, fields="members.email_address,members.status,total_items")
    assert set(narrow[0]) == {"email_address", "status"}


def test_mailchimp_asynchronous_batch_finishes_with_results(client: httpx.Client) -> None:
    operations = [
        {
            "method": "PUT",
            "path": f"/lists/{LIST_ID}/members/{subscriber_hash(address)}",
            "operation_id": str(number),
            "body": json.dumps({"email_address": address, "status_if_new": "subscribed"}),
        }
        for number, address in enumerate(("neu@example.com", "broken"))
    ]
    batch = client.post(
        "/mailchimp/3.0/batches", auth=MAILCHIMP, json={"operations": operations}
    ).json()
    path = f"/mailchimp/3.0/batches/{batch['id']}"
    seen = [batch["status"]]
    while batch["status"] != "finished":
        batch = client.get(path, auth=MAILCHIMP).json()
        seen.append(batch["status"])
    assert seen == ["pending", "started", "finished"]
    assert (batch["total_operations"], batch["errored_operations"]) == (2, 1)
    packed = client.get(batch["response_body_url"]).content
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        content = archive.extractfile(archive.getmembers()[0])
        assert content is not None
        results = json.load(content)
    assert [row["status_code"] for row in results] == [200, 400]


def test_mailchimp_merge_fields_can_be_made_once(client: httpx.Client) -> None:
    body = {"tag": "STAGE", "name": "Stage", "type": "text"}
    assert mailchimp(client, "POST", "/merge-fields", json=body).json()["tag"] == "STAGE"
    assert mailchimp(client, "POST", "/merge-fields", json=body).status_code == 400
    long = {"tag": "LONGER_THAN_TEN", "name": "x", "type": "text"}
    assert mailchimp(client, "POST", "/merge-fields", json=long).status_code == 400
    put(client, "neu@example.com", status_if_new="subscribed", merge_fields={"STAGE": "loyalty"})
    fields = mailchimp(client, "GET", f"/members/{subscriber_hash('neu@example.com')}").json()
    assert fields["merge_fields"]["STAGE"] == "loyalty"


# The published specifications


def mailchimp_schema(file: str, path: str, method: str) -> Any:
    operation = specification(f"mailchimp/mailchimp-{file}-api-openapi.yml")["paths"][path][method]
    return operation["responses"]["200"]["schema"]


@pytest.mark.parametrize(
    ("file", "path", "call"),
    [
        ("members", "/lists/{list_id}/members", "/members"),
        ("members", "/lists/{list_id}/members/{subscriber_hash}/tags", "/members/{member}/tags"),
        ("members", "/lists/{list_id}/members/{subscriber_hash}", "/members/{member}"),
        ("segments", "/lists/{list_id}/segments", "/segments"),
        ("segments", "/lists/{list_id}/segments/{segment_id}", "/segments/10001"),
        ("segments", "/lists/{list_id}/segments/{segment_id}/members", "/segments/10001/members"),
    ],
)
def test_mailchimp_answers_fit_the_specification(
    client: httpx.Client, file: str, path: str, call: str
) -> None:
    schema = mailchimp_schema(file, path, "get")
    answer = mailchimp(client, "GET", call.format(member=first(client)["id"])).json()
    assert set(answer) <= set(schema["properties"])
    Draft4Validator(schema).validate(answer)


def test_mailchimp_writes_answer_as_specified(client: httpx.Client) -> None:
    path = "/lists/{list_id}/members/{subscriber_hash}"
    answer = put(client, "neu@example.com", status_if_new="subscribed").json()
    Draft4Validator(mailchimp_schema("members", path, "put")).validate(answer)
    address = first(client)["email_address"]
    path = "/lists/{list_id}/segments/{segment_id}"
    answer = mailchimp(client, "POST", "/segments/10001", json={"members_to_add": [address]}).json()
    Draft4Validator(mailchimp_schema("segments", path, "post")).validate(answer)
    body = {"operations": [{"method": "GET", "path": "/ping"}]}
    answer = client.post("/mailchimp/3.0/batches", auth=MAILCHIMP, json=body).json()
    Draft4Validator(mailchimp_schema("batches", "/batches", "post")).validate(answer)


@pytest.mark.parametrize(
    ("path", "call"),
    [
        ("/subscribers", "/subscribers"),
        ("/lists", "/lists"),
        ("/import/subscribers", "/import/subscribers"),
    ],
)
def test_listmonk_answers_fit_the_specification(client: httpx.Client, path: str, call: str) -> None:
    document = specification("listmonk/collections.yaml")
    content = document["paths"][path]["get"]["responses"]["200"]["content"]
    schema = {**content["application/json"]["schema"], "components": document["components"]}
    Draft4Validator(schema).validate(listmonk(client, "GET", call).json())
