"""The destinations under contract, each connected to its imitation, with every request recorded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import httpx

from kundenkreis.connections import Connection, parse_connection
from kundenkreis.destinations import open_destination
from kundenkreis.destinations.base import (
    Batch,
    Destination,
    Outcome,
    Row,
    Submitted,
    SubscriberState,
)
from kundenkreis.destinations.config import DestinationsConfig
from sandbox.testing import Handle
from sandbox.vendors import klaviyo as klaviyo_fake


@dataclass(frozen=True)
class Case:
    """A way to use a destination. paged: module constants that say how much a page holds."""

    vendor: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    paged: tuple[str, ...] = ("_PAGE",)


CASES = {
    "listmonk": Case("listmonk"),
    "mailchimp": Case("mailchimp"),
    # Every attribute by import job, or every one by a call of its own.
    "klaviyo": Case("klaviyo", {"import_from_rows": 1}, ("_PAGE", "_LISTS_PAGE")),
    "klaviyo one by one": Case("klaviyo", {"import_from_rows": 10_000}, ("_PAGE", "_LISTS_PAGE")),
}
ROOTS = {"listmonk": "/listmonk/api", "mailchimp": "/mailchimp/3.0", "klaviyo": "/klaviyo"}
"""Where a vendor's documented paths begin."""
_numbers = count(1)


@dataclass(frozen=True)
class Sent:
    """A request as it was sent; path is the vendor's own, size that of the body in bytes."""

    method: str
    path: str
    body: Any
    size: int


@dataclass
class Recorder(httpx.BaseTransport):
    """Passes requests on and remembers them.

    proven: addresses that were handed over with leave to create them.
    unanswered: so many of the next writes are taken by the vendor and never answered.
    """

    vendor: str
    requests: list[Sent] = field(default_factory=list)
    proven: set[str] = field(default_factory=set)
    unanswered: int = 0
    inner: httpx.HTTPTransport = field(default_factory=httpx.HTTPTransport)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        content = request.read()
        path = request.url.path.removeprefix(ROOTS[self.vendor])
        body = json.loads(content or b"null")
        self.requests.append(Sent(request.method, path, body, len(content)))
        response = self.inner.handle_request(request)
        if self.unanswered and request.method != "GET":
            self.unanswered -= 1
            response.read()
            raise httpx.ReadTimeout("no answer came", request=request)
        return response


@dataclass
class Clock:
    """Time that passes only while somebody waits."""

    now: float = 0.0
    waits: list[float] = field(default_factory=list)

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds

    def monotonic(self) -> float:
        return self.now


@dataclass
class Tool:
    """A destination, the vendor it talks to, and what was said."""

    case: Case
    sandbox: Handle
    destination: Destination
    recorder: Recorder
    clock: Clock

    @property
    def vendor(self) -> str:
        return self.case.vendor

    @property
    def imports(self) -> bool:
        """Whether attributes of several contacts go in one call."""
        return self.vendor == "mailchimp" or self.case.settings.get("import_from_rows") == 1

    @property
    def delays(self) -> list[float]:
        """Waits that are more than keeping to a pace."""
        return [wait for wait in self.clock.waits if wait >= 0.5]

    def states(self, *ours: str) -> dict[str, SubscriberState]:
        """What the tool says about every contact, by address."""
        pages = self.destination.read_subscriber_states(frozenset(ours))
        found = [state for page in pages for state in page]
        assert len({state.address for state in found}) == len(found)
        return {state.address: state for state in found}

    def contacts(self, state: str = "subscribed") -> list[Row]:
        """Everybody in a state, as rows to send."""
        return [
            Row(key=f"row {found.address}", address=found.address, vendor_id=found.vendor_id)
            for found in self.states().values()
            if found.state == state
        ]

    def members(self, audience_id: str) -> set[str]:
        found = [a for page in self.destination.read_members(audience_id) for a in page]
        assert len(set(found)) == len(found)
        return set(found)

    def audience(self, name: str) -> str:
        return self.destination.ensure_audience(name, None).vendor_id

    def move(self, operation: Any, audience_id: str, *rows: Row) -> dict[str, Outcome]:
        return self.deliver(Batch(operation, rows, audience_id))

    def upsert(self, *rows: Row) -> dict[str, Outcome]:
        return self.deliver(Batch("upsert", rows))

    def deliver(self, batch: Batch) -> dict[str, Outcome]:
        """Deliver, and wait for a job where the tool takes one."""
        self.recorder.proven |= {row.address for row in batch.rows if row.may_create}
        answer = self.destination.deliver(batch)
        if isinstance(answer, Submitted):
            assert self.destination.capabilities.async_jobs
            answer = poll_until_done(self.destination, answer.job_id, batch)
        assert len(answer) == len(batch.rows)
        return {outcome.key: outcome for outcome in answer}

    def ask(self, method: str, path: str, body: Any = None, **params: Any) -> Any:
        """Ask the vendor beside the destination; the parsed answer."""
        connection = self.connection
        headers, auth = {}, (connection.login, connection.password)
        if self.vendor == "klaviyo":
            headers = {
                "Authorization": f"Klaviyo-API-Key {connection.password}",
                "revision": klaviyo_fake.REVISION,
            }
        with httpx.Client(trust_env=False, headers=headers) as client:
            answer = client.request(
                method,
                self.sandbox.base_url + ROOTS[self.vendor] + path,
                json=body,
                params=params,
                auth=None if headers else auth,
            )
        assert answer.is_success, (answer.status_code, path)
        return answer.json() if answer.content else None

    @property
    def connection(self) -> Connection:
        value = self.sandbox.connections[f"AIRFLOW_CONN_{self.vendor.upper()}"]
        return parse_connection(self.vendor, value)

    def stored(self, address: str) -> dict[str, Any]:
        """What the vendor holds of a contact: its attributes under our names, and its name."""
        if self.vendor == "listmonk":
            found = self.ask("GET", "/subscribers", query=f"subscribers.email = '{address}'")
            return dict(found["data"]["results"][0]["attribs"])
        if self.vendor == "klaviyo":
            found = self.ask("GET", "/api/profiles", filter=f'equals(email,"{address}")')
            attributes = found["data"][0]["attributes"]
            return {**attributes["properties"], "first_name": attributes["first_name"]}
        key = hashlib.md5(address.encode()).hexdigest()  # noqa: S324 (Mailchimp's key)
        list_id = self.connection.extra["list_id"]
        fields = self.ask("GET", f"/lists/{list_id}/members/{key}")["merge_fields"]
        return {{"FNAME": "first_name"}.get(name, name.lower()): v for name, v in fields.items()}

    def arrive(self, address: str) -> None:
        """Somebody signs up in the tool itself, under an address as they typed it."""
        if self.vendor == "listmonk":
            body: Any = {"email": address, "lists": [1], "preconfirm_subscriptions": True}
            self.ask("POST", "/subscribers", body)
        elif self.vendor == "klaviyo":
            body = {"data": {"type": "profile", "attributes": {"email": address}}}
            self.ask("POST", "/api/profiles", body)
        else:
            body = {"email_address": address, "status": "subscribed"}
            self.ask("POST", f"/lists/{self.connection.extra['list_id']}/members", body)


def poll_until_done(tool: Any, job_id: str, batch: Batch) -> list[Outcome]:
    """Ask for a job until it is done. Fails where that takes more than ten looks."""
    for _ in range(10):
        outcomes: list[Outcome] | None = tool.poll(job_id, batch)
        if outcomes is not None:
            return outcomes
    raise AssertionError("the job did not end")


def connect(
    case: Case, sandbox: Handle, recorder: Recorder, clock: Clock, **client_options: Any
) -> Destination:
    """A destination with its settings from a config file, over a recording transport."""
    config = DestinationsConfig.model_validate({case.vendor: dict(case.settings)})
    variable = f"AIRFLOW_CONN_{case.vendor.upper()}"
    return open_destination(
        case.vendor,
        getattr(config, case.vendor),
        lambda name: parse_connection(name, sandbox.connections[variable]),
        transport=recorder,
        sleep=clock.sleep,
        monotonic=clock.monotonic,
        **client_options,
    )


def unique(name: str) -> str:
    """A name that no other test has: the tests of one run share the vendors."""
    return f"{name}-{next(_numbers)}"


def new_row(name: str, **attributes: Any) -> Row:
    """Somebody the tool does not know, with proof of their opt-in."""
    address = f"{unique(name)}@neukunde.de"
    return Row(f"row {address}", address, may_create=True, attributes=attributes)
