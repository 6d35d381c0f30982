"""The sandbox as a whole: faults, the request log, restarts, the control API."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import httpx
import pytest

from sandbox.server import create_app
from sandbox.service import VENDORS, Sandbox, connections
from sandbox.testing import in_process, running_sandbox, sign
from sandbox.vendors import klaviyo
from sandbox.vendors.hubspot import TOKEN
from sandbox.vendors.listmonk import API_TOKEN, API_USER
from sandbox.vendors.mailchimp import API_KEY, LIST_ID
from sandbox.vendors.woocommerce import CONSUMER_KEY, CONSUMER_SECRET

UNTIL = date(2026, 11, 22)
LISTMONK = httpx.BasicAuth(API_USER, API_TOKEN)
MAILCHIMP = httpx.BasicAuth("anything", API_KEY)
KLAVIYO = {
    "Authorization": f"Klaviyo-API-Key {klaviyo.API_KEY}",
    "revision": klaviyo.REVISION,
}
MEMBERS = f"/mailchimp/3.0/lists/{LIST_ID}/members"


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    with in_process(Sandbox(None, 40, 2, UNTIL)) as client:
        yield client


def fault(client: httpx.Client, **values: Any) -> None:
    assert client.post("/_sandbox/faults", json=values).status_code == 200


def ask(client: httpx.Client, vendor: str) -> httpx.Response:
    """One harmless request that the vendor answers with 200."""
    if vendor == "woocommerce":
        url = "http://testserver/woocommerce/wp-json/wc/v3/orders"
        return client.get(url, params=sign("GET", url, {}, CONSUMER_KEY, CONSUMER_SECRET))
    if vendor == "hubspot":
        bearer = {"Authorization": f"Bearer {TOKEN}"}
        return client.get("/hubspot/crm/objects/2026-03/contacts", headers=bearer)
    if vendor == "listmonk":
        return client.get("/listmonk/api/subscribers", auth=LISTMONK)
    if vendor == "klaviyo":
        return client.get("/klaviyo/api/lists", headers=KLAVIYO)
    return client.get(MEMBERS, auth=MAILCHIMP)


@pytest.mark.parametrize("vendor", VENDORS)
def test_faults_answer_in_the_vendors_shape_and_wear_off(client: httpx.Client, vendor: str) -> None:
    message = {"mailchimp": "detail", "klaviyo": "errors"}.get(vendor, "message")
    assert ask(client, vendor).status_code == 200
    kinds = ("429", 429), ("500", 500), ("unauthorised", 401), ("error_in_200", 200), ("413", 413)
    for kind, status in kinds:
        fault(client, vendor=vendor, kind=kind, times=2, retry_after=3)
        answers = [ask(client, vendor) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [status, status, 200]
        assert answers[0].json()[message]
        assert message not in answers[2].json() if answers[2].content[:1] == b"{" else True
        assert answers[0].headers.get("Retry-After") == ("3" if kind == "429" else None)
    fault(client, vendor=vendor, kind="not_json")
    with pytest.raises(json.JSONDecodeError):
        ask(client, vendor).json()


def test_faults_are_bound_to_vendor_path_and_method_and_can_wait(client: httpx.Client) -> None:
    fault(client, vendor="mailchimp", kind="500", times=-1)
    fault(client, vendor="listmonk", kind="429", path_prefix="/api/lists", method="POST", skip=1)
    assert ask(client, "listmonk").status_code == 200
    codes = [
        client.post("/listmonk/api/lists", auth=LISTMONK, json={"name": str(n)}).status_code
        for n in range(3)
    ]
    assert codes == [200, 429, 200]
    assert [ask(client, "mailchimp").status_code for _ in range(4)] == [500] * 4
    client.delete("/_sandbox/faults")
    assert ask(client, "mailchimp").status_code == 200


def test_a_fault_may_be_about_large_bodies_only(client: httpx.Client) -> None:
    body = {"name": "x" * 20}
    size = len(client.build_request("POST", "/", json=body).content)
    codes = []
    for larger_than in (size, size - 1):
        client.delete("/_sandbox/faults")
        fault(client, vendor="listmonk", kind="413", times=-1, larger_than=larger_than)
        answer = client.post("/listmonk/api/lists", auth=LISTMONK, json=body)
        codes += [answer.status_code, ask(client, "listmonk").status_code]
    assert codes == [200, 200, 413, 200]


def test_an_unknown_fault_is_refused(client: httpx.Client) -> None:
    for values in ({"kind": "explode"}, {"kind": "500", "colour": "red"}):
        answer = client.post("/_sandbox/faults", json=values)
        assert answer.status_code == 400
        assert answer.json()["error"]


def names_of(client: httpx.Client) -> list[str]:
    lists = client.get("/listmonk/api/lists", auth=LISTMONK).json()["data"]["results"]
    return [row["name"] for row in lists]


def test_a_dropped_connection_took_effect_or_not_as_asked(client: httpx.Client) -> None:
    for kind, expected in (("drop_before", False), ("drop_after", True)):
        fault(client, vendor="listmonk", kind=kind, method="POST")
        with pytest.raises(httpx.TransportError):
            client.post("/listmonk/api/lists", auth=LISTMONK, json={"name": kind})
        assert (kind in names_of(client)) is expected


def test_the_request_log_counts_members_and_hides_bodies(client: httpx.Client) -> None:
    body = {"members": [{"email_address": "neu@example.com", "status": "subscribed"}]}
    client.post(f"/mailchimp/3.0/lists/{LIST_ID}", auth=MAILCHIMP, json=body)
    client.get("/listmonk/api/subscribers", params={"query": "email = 'neu@example.com'"})
    first, second = client.get("/_sandbox/requests").json()
    assert (first["seq"], first["vendor"], first["method"], first["status"]) == (
        1, "mailchimp", "POST", 200,
    )  # fmt: skip
    assert (first["members"], second["status"]) == (1, 403)
    assert "neu@example.com" not in json.dumps([first, second])
    assert "neu@example.com" in client.get("/_sandbox/requests?bodies=1").text
    client.delete("/_sandbox/requests")
    ask(client, "listmonk")
    assert [row["seq"] for row in client.get("/_sandbox/requests").json()] == [3]


def test_people_can_leave_between_two_requests(client: httpx.Client) -> None:
    newsletter = client.get("/_sandbox/audiences").json()["listmonk"]["Newsletter"]
    address = next(one for one, status in newsletter.items() if status == "confirmed")
    leave = {"vendor": "listmonk", "address": address}
    assert client.post("/_sandbox/unsubscribe", json=leave).status_code == 200
    audiences = client.get("/_sandbox/audiences").json()
    assert audiences["listmonk"]["Newsletter"][address] == "unsubscribed"
    row = client.get(MEMBERS, auth=MAILCHIMP, params={"status": "subscribed"}).json()["members"][0]
    for kind, status in (
        ("bounce", "cleaned"),
        ("confirm", "subscribed"),
        ("complaint", "unsubscribed"),
    ):
        body = {"vendor": "mailchimp", "address": row["email_address"], "kind": kind}
        assert client.post("/_sandbox/unsubscribe", json=body).status_code == 200
        member = client.get(f"{MEMBERS}/{row['id']}", auth=MAILCHIMP).json()
        assert member["status"] == status
    assert "buse" in member["unsubscribe_reason"]
    for body in (
        {"vendor": "listmonk", "address": "nobody@example.com"},
        {"vendor": "hubspot", "address": address},
        {"vendor": "mailchimp", "address": row["email_address"], "kind": "vanish"},
        {"colour": "red"},
    ):
        assert client.post("/_sandbox/unsubscribe", json=body).status_code == 400


def test_advancing_keeps_what_was_written(client: httpx.Client) -> None:
    client.post("/listmonk/api/lists", auth=LISTMONK, json={"name": "VIP"})
    before = client.get("/_sandbox/state").json()
    after = client.post("/_sandbox/advance", json={"days": 30}).json()
    assert after["until"] == "2026-12-22"
    assert after["counts"]["orders"] > before["counts"]["orders"]
    assert "VIP" in names_of(client)
    assert client.post("/_sandbox/advance", json={"days": 0}).status_code == 400


def test_writes_are_never_dated_after_the_last_day(client: httpx.Client) -> None:
    stamps = [
        client.post("/listmonk/api/lists", auth=LISTMONK, json={"name": str(n)}).json()["data"][
            "created_at"
        ]
        for n in range(3)
    ]
    assert stamps == sorted(set(stamps))
    assert stamps[-1] < "2026-11-22T23:00:00Z"


def test_mailchimp_refuses_the_eleventh_simultaneous_connection() -> None:
    sandbox = Sandbox(None, 40, 2, UNTIL)
    sandbox.add_fault({"vendor": "mailchimp", "kind": "slow", "seconds": 0.2, "times": -1})

    async def ask_at_once(count: int) -> list[int]:
        transport = httpx.ASGITransport(create_app(sandbox))
        async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as client:
            calls = [client.get(MEMBERS, auth=MAILCHIMP) for _ in range(count)]
            return sorted(answer.status_code for answer in await asyncio.gather(*calls))

    assert asyncio.run(ask_at_once(10)) == [200] * 10
    assert asyncio.run(ask_at_once(14)) == [200] * 10 + [429] * 4


def test_connections_name_every_vendor() -> None:
    named = connections(1234)
    assert list(named) == [f"AIRFLOW_CONN_{vendor.upper()}" for vendor in VENDORS]
    for vendor, value in zip(VENDORS, named.values(), strict=True):
        assert value["extra"]["base_url"] == f"http://127.0.0.1:1234/{vendor}"
        assert value["password"]


def test_a_killed_server_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """One real process: sockets, ports, files, SIGKILL and the command line."""
    with running_sandbox(tmp_path, customers=40, seed=2, until=UNTIL) as handle:
        port = handle.base_url
        handle.faults(vendor="listmonk", kind="drop_after", method="POST")
        with httpx.Client(base_url=handle.base_url, auth=LISTMONK) as client:
            with pytest.raises(httpx.TransportError):
                client.post("/listmonk/api/lists", json={"name": "Dropped"})
            client.post("/listmonk/api/lists", json={"name": "Kept"})
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
        command = [sys.executable, "-m", "sandbox", "advance", "--home", str(tmp_path)]
        subprocess.run([*command, "--days", "2"], check=True, env=environment, capture_output=True)
        handle.faults(vendor="mailchimp", kind="500", times=-1)
        audiences, logged = handle.audiences(), handle.requests()
        handle.kill()
    with running_sandbox(tmp_path, customers=9, seed=9, until=date(2020, 1, 1)) as handle:
        assert handle.base_url == port
        assert handle.state()["until"] == "2026-11-24"
        assert handle.audiences() == audiences
        assert {"Dropped", "Kept"} <= set(audiences["listmonk"])
        assert handle.requests() == logged
        assert handle.state()["faults"][0]["kind"] == "500"
        lines = (tmp_path / "connections.env").read_text().splitlines()
        named = dict(line.split("=", 1) for line in lines)
        assert {key: value.strip("'") for key, value in named.items()} == handle.connections
