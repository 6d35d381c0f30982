"""What every destination has to do, against the sandbox's servers over real HTTP.

Every request is recorded. At the end all of them are checked: no consent or status field for a
contact the tool already knew, and bodies that fit the vendor's published schema.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import httpx
import pytest

from kundenkreis.connections import parse_connection
from kundenkreis.destinations import open_destination
from kundenkreis.destinations.base import Batch, Destination, Outcome, Row
from kundenkreis.destinations.config import DestinationsConfig
from kundenkreis.errors import CredentialError, VendorError
from sandbox.testing import Handle, running_sandbox

VENDORS = ("listmonk", "mailchimp")


@dataclass
class Recorder(httpx.BaseTransport):
    """Passes requests on and remembers them."""

    requests: list[tuple[str, str, Any]] = field(default_factory=list)
    inner: httpx.HTTPTransport = field(default_factory=httpx.HTTPTransport)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        content = request.read()
        self.requests.append((request.method, request.url.path, json.loads(content or b"null")))
        return self.inner.handle_request(request)


@dataclass
class Tool:
    """A destination, the vendor it talks to, and what was said."""

    vendor: str
    sandbox: Handle
    destination: Destination
    recorder: Recorder
    waits: list[float]

    def contacts(self, state: str = "subscribed") -> list[Row]:
        """Everybody in a state, as rows to send."""
        return [
            Row(key=f"row {found.address}", address=found.address, vendor_id=found.vendor_id)
            for page in self.destination.read_subscriber_states(frozenset())
            for found in page
            if found.state == state
        ]

    def state_of(self, address: str) -> str:
        return next(
            found.state
            for page in self.destination.read_subscriber_states(frozenset())
            for found in page
            if found.address == address
        )

    def members(self, audience_id: str) -> set[str]:
        return {address for page in self.destination.read_members(audience_id) for address in page}

    def move(self, operation: Any, audience_id: str, *rows: Row) -> dict[str, Outcome]:
        return self.deliver(Batch(operation, rows, audience_id))

    def upsert(self, *rows: Row) -> dict[str, Outcome]:
        return self.deliver(Batch("upsert", rows))

    def deliver(self, batch: Batch) -> dict[str, Outcome]:
        outcomes = self.destination.deliver(batch)
        assert len(outcomes) == len(batch.rows)
        return {outcome.key: outcome for outcome in outcomes}

    def attributes(self, address: str) -> dict[str, Any]:
        """What the vendor holds, by the attribute's name in the tool."""
        connection = parse_connection("x", self.sandbox.connections[_variable(self.vendor)])
        auth = (connection.login, connection.password)
        with httpx.Client(auth=auth, trust_env=False) as client:
            if self.vendor == "listmonk":
                params = {"query": f"subscribers.email = '{address}'"}
                url = f"{connection.base_url}/api/subscribers"
                found = client.get(url, params=params).json()["data"]["results"]
                return dict(found[0]["attribs"])
            key = hashlib.md5(address.encode()).hexdigest()  # noqa: S324 (Mailchimp's key)
            list_id = connection.extra["list_id"]
            url = f"{connection.base_url}/3.0/lists/{list_id}/members/{key}"
            return dict(client.get(url).json()["merge_fields"])


def _variable(vendor: str) -> str:
    return f"AIRFLOW_CONN_{vendor.upper()}"


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Handle]:
    home = tmp_path_factory.mktemp("sandbox")
    with running_sandbox(home, customers=150, seed=3, until=date(2026, 11, 22)) as handle:
        yield handle


@pytest.fixture(scope="module")
def recorders() -> dict[str, Recorder]:
    return {vendor: Recorder() for vendor in VENDORS}


@pytest.fixture(params=VENDORS)
def tool(
    request: pytest.FixtureRequest, sandbox: Handle, recorders: dict[str, Recorder]
) -> Iterator[Tool]:
    vendor = request.param
    waits: list[float] = []
    destination = open_tool(vendor, sandbox, recorders[vendor], waits)
    yield Tool(vendor, sandbox, destination, recorders[vendor], waits)
    sandbox.clear_faults()


def open_tool(
    vendor: str, sandbox: Handle, transport: httpx.BaseTransport, waits: list[float], **options: Any
) -> Destination:
    settings = getattr(DestinationsConfig.model_validate({vendor: options or None}), vendor)
    return open_destination(
        vendor,
        settings,
        lambda name: parse_connection(name, sandbox.connections[_variable(vendor)]),
        transport=transport,
        sleep=waits.append,
    )


def new_row(name: str, **attributes: Any) -> Row:
    address = f"{name}@neukunde.de"
    return Row(f"row {address}", address, may_create=True, attributes=attributes)


def test_an_empty_batch_makes_no_call(tool: Tool) -> None:
    before = tool.destination.calls

    for operation in ("upsert", "add", "remove"):
        assert tool.destination.deliver(Batch(operation, (), "1")) == []

    assert tool.destination.calls == before


def test_an_audience_is_made_once_and_found_again(tool: Tool, recorders: Any) -> None:
    name = "Käufer, überfällig ✉"
    first = tool.destination.ensure_audience(name, None)
    again = open_tool(tool.vendor, tool.sandbox, recorders[tool.vendor], [])

    assert first.created
    assert again.ensure_audience(name, None).vendor_id == first.vendor_id
    assert again.ensure_audience("Renamed in the config", first.vendor_id).created is False
    assert again.ensure_audience(name, "99999").vendor_id == first.vendor_id


def test_members_join_and_leave_and_duplicates_count_once(tool: Tool) -> None:
    audience = tool.destination.ensure_audience("Joining", None).vendor_id
    anna, bert = tool.contacts()[:2]
    twin = Row("twin", anna.address.upper(), anna.vendor_id)

    added = tool.move("add", audience, anna, bert, twin)
    repeated = tool.move("add", audience, anna)
    removed = tool.move("remove", audience, anna, twin)
    gone = tool.move("remove", audience, anna)

    every = [*added.values(), *repeated.values(), *removed.values(), *gone.values()]
    assert {outcome.state for outcome in every} == {"confirmed"}
    assert set(added) == {anna.key, bert.key, "twin"}
    assert tool.members(audience) == {bert.address}


def test_attributes_are_set_changed_alone_and_cleared(tool: Tool) -> None:
    anna = tool.contacts()[0]
    before = tool.attributes(anna.address)
    tool.destination.ensure_attributes({"stage": "text", "monetary": "number"})
    stage, monetary = ("stage", "monetary") if tool.vendor == "listmonk" else ("STAGE", "MONETARY")

    tool.upsert(
        Row("1", anna.address, anna.vendor_id, attributes={"stage": "Zoë 🎉", "monetary": 1})
    )
    tool.upsert(Row("2", anna.address, anna.vendor_id, attributes={"monetary": 20.5}))
    changed = tool.attributes(anna.address)
    tool.upsert(Row("3", anna.address, anna.vendor_id, attributes={"stage": None}))
    cleared = tool.attributes(anna.address)

    assert (changed[stage], changed[monetary]) == ("Zoë 🎉", 20.5)
    assert cleared[stage] in (None, "")
    assert cleared[monetary] == 20.5
    assert {key: cleared[key] for key in before} == before  # other people's stay


def test_a_new_contact_is_created_and_a_bad_one_in_the_middle_costs_nobody_else(tool: Tool) -> None:
    tool.destination.ensure_attributes({"stage": "text"})
    bad = Row("bad", "not an address", may_create=True)
    first, last = new_row("first", stage="reach"), new_row("last", stage="reach")

    outcomes = tool.upsert(first, bad, last)

    assert outcomes["bad"].state == "rejected"
    assert "not an address" not in str(outcomes["bad"])
    for row in (first, last):
        outcome = outcomes[row.key]
        assert (outcome.state, outcome.created) == ("confirmed", True)
        assert tool.state_of(row.address) == "subscribed"
    audience = tool.destination.ensure_audience("New ones", None).vendor_id
    created = Row("add", first.address, outcomes[first.key].vendor_id)
    assert tool.move("add", audience, created)["add"].state == "confirmed"
    assert tool.members(audience) == {first.address}


def test_an_unknown_contact_without_proof_is_not_created(tool: Tool) -> None:
    stranger = Row("stranger", "stranger@nirgends.de")

    assert tool.upsert(stranger)["stranger"].reason_code == "not_in_tool"
    with pytest.raises(StopIteration):
        tool.state_of("stranger@nirgends.de")


def test_a_contact_that_exists_after_all_keeps_its_status(tool: Tool) -> None:
    anna = tool.contacts()[3]
    tool.sandbox.unsubscribe(tool.vendor, anna.address)
    as_new = Row("late", anna.address, may_create=True, attributes={})

    outcome = tool.upsert(as_new)["late"]

    assert outcome.state == "rejected"
    assert outcome.reason_code == "contact_exists"
    assert tool.state_of(anna.address) == "unsubscribed"


@pytest.mark.parametrize("kind", ["unsubscribe", "bounce", "complaint"])
def test_nothing_we_send_brings_a_suppressed_person_back(tool: Tool, kind: str) -> None:
    expected = {"unsubscribe": "unsubscribed", "bounce": "bounced", "complaint": "complained"}[kind]
    anna = tool.contacts()[5]
    audience = tool.destination.ensure_audience("Suppressed", None).vendor_id
    ours = frozenset({audience})
    tool.move("add", audience, anna)

    tool.sandbox.unsubscribe(tool.vendor, anna.address, kind)
    tool.destination.ensure_attributes({"stage": "text"})
    tool.upsert(Row("1", anna.address, anna.vendor_id, attributes={"stage": "x"}))
    tool.move("add", audience, anna)
    tool.move("remove", audience, anna)

    states = {
        found.address: found
        for page in tool.destination.read_subscriber_states(ours)
        for found in page
    }
    assert states[anna.address].state == expected
    assert states[anna.address].evidence is None
    assert anna.address not in tool.members(audience)


def test_our_own_audiences_prove_nothing(tool: Tool) -> None:
    audience = tool.destination.ensure_audience("Proof", None).vendor_id
    created = tool.upsert(new_row("echo"))["row echo@neukunde.de"]
    tool.move("add", audience, Row("add", "echo@neukunde.de", created.vendor_id))

    states = {
        found.address: found
        for page in tool.destination.read_subscriber_states(frozenset({audience}))
        for found in page
    }

    assert states["echo@neukunde.de"].state == "subscribed"
    assert states["echo@neukunde.de"].evidence != "double"


def test_states_tell_double_from_single_opt_in(tool: Tool) -> None:
    found = [s for page in tool.destination.read_subscriber_states(frozenset()) for s in page]

    assert {"subscribed", "unsubscribed", "pending"} <= {state.state for state in found}
    assert {state.evidence for state in found if state.state == "subscribed"} >= {
        "double",
        "single",
    }
    assert all(state.state_changed_at for state in found if state.evidence)
    assert all(state.evidence is None for state in found if state.state != "subscribed")
    assert len({state.address for state in found}) == len(found)


@pytest.mark.parametrize("retry_after", [None, 7])
def test_throttling_is_waited_out(tool: Tool, retry_after: int | None) -> None:
    audience = tool.destination.ensure_audience("Throttled", None).vendor_id
    anna = tool.contacts()[0]
    fault = {"retry_after": retry_after} if retry_after else {}
    tool.sandbox.faults(vendor=tool.vendor, kind="429", times=2, **fault)

    assert tool.move("add", audience, anna)[anna.key].state == "confirmed"

    assert len(tool.waits) == 2
    assert all(wait >= (retry_after or 0.5) for wait in tool.waits)


@pytest.mark.parametrize("kind", ["500", "drop_before", "drop_after"])
def test_a_broken_call_is_repeated_and_nothing_doubles(tool: Tool, kind: str) -> None:
    audience = tool.destination.ensure_audience("Broken", None).vendor_id
    anna = tool.contacts()[1]
    fresh = new_row(f"fresh{kind}")
    tool.sandbox.faults(vendor=tool.vendor, kind=kind, times=1)
    joined = tool.move("add", audience, anna)
    tool.sandbox.faults(vendor=tool.vendor, kind=kind, times=1)
    created = tool.upsert(fresh)[fresh.key]

    assert joined[anna.key].state == "confirmed"
    assert anna.address in tool.members(audience)
    # A create that was taken and not answered is found to exist; delivery reads states again.
    assert created.state == "confirmed" or created.reason_code == "contact_exists"
    assert tool.state_of(fresh.address) == "subscribed"


def test_a_tool_that_stays_away_raises_without_personal_data(tool: Tool) -> None:
    anna = tool.contacts()[1]
    audience = tool.destination.ensure_audience("Away", None).vendor_id
    tool.sandbox.faults(vendor=tool.vendor, kind="500", times=50)

    with pytest.raises(VendorError) as raised:
        tool.move("add", audience, anna)

    assert anna.address not in str(raised.value)
    assert tool.vendor in str(raised.value).lower()


@pytest.mark.parametrize("kind", ["error_in_200", "not_json"])
def test_an_error_inside_a_200_confirms_nothing(tool: Tool, kind: str) -> None:
    audience = tool.destination.ensure_audience("Lying", None).vendor_id
    anna = tool.contacts()[2]
    update = Row("1", anna.address, anna.vendor_id, attributes={"stage": "x"})
    tool.destination.ensure_attributes({"stage": "text"})

    for batch in (Batch("add", (anna,), audience), Batch("upsert", (update,))):
        tool.sandbox.faults(vendor=tool.vendor, kind=kind, times=1)
        with pytest.raises(VendorError):
            tool.destination.deliver(batch)


def test_a_refused_credential_names_the_connection_and_no_secret(tool: Tool) -> None:
    tool.sandbox.faults(vendor=tool.vendor, kind="unauthorised", times=1)

    with pytest.raises(CredentialError, match=f"connection '{tool.vendor}'") as raised:
        tool.contacts()

    secret = parse_connection("x", tool.sandbox.connections[_variable(tool.vendor)]).password
    assert secret not in str(raised.value)


def test_other_peoples_audiences_stay_as_they_are(tool: Tool) -> None:
    known = tool.sandbox.audiences()[tool.vendor]
    foreign = {name for name in known if name in ("Press", "Event guests", "Trade fair")}
    before = {name: known[name] for name in foreign}
    audience = tool.destination.ensure_audience("Ours", None).vendor_id

    rows = tool.contacts()
    tool.move("add", audience, *rows)
    tool.move("remove", audience, *rows)

    assert foreign
    assert {name: tool.sandbox.audiences()[tool.vendor][name] for name in foreign} == before


def test_a_person_can_be_erased(tool: Tool) -> None:
    row = new_row("erase-me")
    tool.upsert(row)

    assert tool.destination.erase(row.address) is True
    assert tool.destination.erase(row.address) is False
    with pytest.raises(StopIteration):
        tool.state_of(row.address)


CONSENT_FIELDS = {
    "status",
    "status_if_new",
    "subscription_status",
    "preconfirm_subscriptions",
    "marketing_permissions",
    "opt_in",
    "overwrite",
    "sync_tags_replace",
}


class TestEverythingThatWasSent:
    """Runs last in this file, over the requests of all tests above."""

    def test_no_consent_field_for_a_known_contact(self, recorders: dict[str, Recorder]) -> None:
        writes = [
            (vendor, method, path, body)
            for vendor, recorder in recorders.items()
            for method, path, body in recorder.requests
            if method in ("POST", "PUT", "PATCH") and body is not None
        ]
        assert len(writes) > 40
        for vendor, method, path, body in writes:
            if not creates_contacts(vendor, method, path, body):
                assert not keys_of(body) & CONSENT_FIELDS, (method, path)

    def test_only_creation_is_allowed_to_set_a_status(self, recorders: dict[str, Recorder]) -> None:
        created = [
            body
            for vendor, recorder in recorders.items()
            for method, path, body in recorder.requests
            if creates_contacts(vendor, method, path, body)
        ]
        assert created
        assert not any(body.get("update_existing") for body in created)

    def test_listmonk_bodies_fit_the_published_schema(self, recorders: dict[str, Recorder]) -> None:
        jsonschema = pytest.importorskip("jsonschema")
        schemas = specification("listmonk/collections.yaml")["components"]["schemas"]
        # The published type of a list of ids is a slip: "integer" with "items".
        schemas["SubscriberQueryRequest"]["properties"]["target_list_ids"]["type"] = "array"
        names = {
            ("POST", "/listmonk/api/subscribers"): "NewSubscriber",
            ("PUT", "/listmonk/api/subscribers/lists"): "SubscriberQueryRequest",
            ("POST", "/listmonk/api/lists"): "NewList",
        }
        checked = 0
        for method, path, body in recorders["listmonk"].requests:
            if name := names.get((method, path)):
                jsonschema.validate(body, {**schemas[name], "additionalProperties": False})
                checked += 1
        assert checked > 10

    def test_mailchimp_bodies_fit_the_published_schema(
        self, recorders: dict[str, Recorder]
    ) -> None:
        jsonschema = pytest.importorskip("jsonschema")
        paths = {
            **specification("mailchimp/mailchimp-segments-api-openapi.yml")["paths"],
            **specification("mailchimp/mailchimp-members-api-openapi.yml")["paths"],
        }
        segments, one = "/lists/{list_id}/segments", "/lists/{list_id}/segments/{segment_id}"
        member = {**body_schema(paths["/lists/{list_id}/members"]), "required": ["email_address"]}
        checked = 0
        for method, path, body in recorders["mailchimp"].requests:
            parts = path.removeprefix("/mailchimp/3.0/lists/").split("/")[1:]
            if method != "POST":
                continue
            if not parts:
                for row in body["members"]:
                    jsonschema.validate(row, {**member, "additionalProperties": False})
                    checked += 1
            elif parts[0] == "segments":
                schema = body_schema(paths[segments if len(parts) == 1 else one])
                jsonschema.validate(body, {**schema, "additionalProperties": False})
                checked += 1
        assert checked > 20

    def test_batches_stay_within_the_vendors_limit(self, recorders: dict[str, Recorder]) -> None:
        for recorder in recorders.values():
            for _, _, body in recorder.requests:
                for key in ("members", "members_to_add", "members_to_remove", "ids"):
                    assert len((body or {}).get(key) or []) <= 500


def creates_contacts(vendor: str, method: str, path: str, body: Any) -> bool:
    """Whether a request can only make new contacts, never change known ones."""
    if method != "POST" or not isinstance(body, dict):
        return False
    if vendor == "listmonk":
        return path.endswith("/api/subscribers")
    return body.get("update_existing") is False


def keys_of(body: Any) -> set[str]:
    if isinstance(body, dict):
        return set(body) | {key for value in body.values() for key in keys_of(value)}
    if isinstance(body, list):
        return {key for value in body for key in keys_of(value)}
    return set()


def body_schema(path: dict[str, Any]) -> dict[str, Any]:
    parameters = path["post"]["parameters"]
    return next(dict(p["schema"]) for p in parameters if p["in"] == "body")


def specification(name: str) -> dict[str, Any]:
    import yaml

    folder = os.environ.get("KUNDENKREIS_SHARED", "")
    file = Path(folder) / "specs" / name
    if not folder or not file.exists():
        pytest.skip("KUNDENKREIS_SHARED does not name a folder with the vendors' specs/")
    return dict(yaml.safe_load(file.read_text()))
