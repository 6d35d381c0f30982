"""Klaviyo: audiences are lists, attributes are custom properties of a profile.

Calls, in order
    GET  /api/lists                             all lists: names and ids, ten a page
    GET  /api/profiles                          all profiles with their consent, 100 a page
    POST /api/lists                             an audience that does not exist yet
    POST /api/profiles                          a contact Klaviyo does not know, one a call
    PATCH /api/profiles/{id}                    attributes of one contact, cleared ones included
    POST /api/profile-bulk-import-jobs          attributes of up to 10,000 contacts, done later
    GET  /api/profile-bulk-import-jobs/{id}     whether it is done; /import-errors: what it refused
    POST, DELETE /api/lists/{id}/relationships/profiles     up to 1,000 contacts join or leave
    GET  /api/lists/{id}/profiles               reading an audience back
    POST /api/data-privacy-deletion-jobs        erasure

Auth: a private API key as the connection's password, with the scopes lists, profiles (read and
write) and data-privacy (write); a connection needs no host. The revision of the API is pinned.
Limits: per endpoint, a second and a minute (lists and imports 10/s and 150/min, profiles 75/s and
750/min, deletions 3/s and 60/min). The headers RateLimit-Remaining and RateLimit-Reset tell what
is left of the minute; beyond it 429 with Retry-After. We send nine calls a second at most. An
import takes 5 MB, a profile 100 kB; one day takes 150 new lists.

Why contacts are updated by their id alone: an import that names an address would create the contact
when it is gone in the meantime, without anybody's proof. An unknown id is an error of that row.

Why small numbers and clearing go one by one: an import cannot clear a value, and Klaviyo asks for
single calls where there is little to change.

Why contacts are created without a subscription: the only call that subscribes somebody also lifts
the unsubscriptions, complaints and suppressions of whoever exists after all, and answers without
saying what it did. POST /api/profiles answers 409 for a known address and changes nothing. The new
contact is "never subscribed" in Klaviyo's words: nothing suppresses it, so campaigns to our lists
reach it, and the proof of its opt-in stays in the warehouse.

Why "never subscribed" may be written to: it is no withdrawal, and no evidence either. Whether such
a person may be mailed is decided by the proof of other systems. An answer without consent counts as
pending, so a key that may not read it suppresses everybody instead of nobody.

Why leaving one list counts as a withdrawal: Klaviyo takes somebody who unsubscribes from a campaign
off its list and notes it there alone. A newer double opt-in outweighs it.

A job's answer names the rows it refused; the others are done. Where that does not add up (the job
was cancelled, rows are missing, or the process was restarted and no longer knows what it sent), the
profiles are read and compared with what they should hold.

Could not be checked against a live account: that an import takes a profile by its id alone and
repeats it in the error's ``original_payload``; that joining a list answers 204 for profiles that
are suppressed; how long a deletion takes (it is requested here, and done by Klaviyo later).
Not covered: SMS, WhatsApp and push consent, profiles without an address, OAuth apps, catalogues.
Docs: https://developers.klaviyo.com/en/reference/api_overview and github.com/klaviyo/openapi
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx

from kundenkreis.connections import Connection
from kundenkreis.destinations.base import (
    CONTACT_EXISTS,
    AttributeType,
    Audience,
    Batch,
    Capabilities,
    Evidence,
    JobLost,
    Outcome,
    Row,
    RowLimit,
    State,
    Submitted,
    SubscriberState,
    create_once,
    deliver_isolating,
    normalise_address,
    one_row_per_address,
    parse_time,
    rejected,
    share_outcomes,
    spellings,
)
from kundenkreis.destinations.config import KlaviyoSettings
from kundenkreis.errors import VendorError
from kundenkreis.http import RateLimit, RefusedRequest, VendorClient

CAPABILITIES = Capabilities(
    batch_size={"upsert": 10_000, "add": 1000, "remove": 1000},
    rows_per_call={"upsert": 10_000, "add": 1000, "remove": 1000},
    membership="list",
    rate_limit="window",
    parallel_batches=2,
    async_jobs=True,
)
REVISION = "2026-07-15"
LARGEST_IMPORT_BYTES = 5_000_000
LARGEST_PROFILE_BYTES = 100_000
_CONNECTIONS = 4
_PAGE = 100
_LISTS_PAGE = 10
_IMPORTS = "/api/profile-bulk-import-jobs"
_RUNNING = frozenset({"queued", "processing"})
_PROFILE_FIELDS = frozenset({"first_name", "last_name"})
"""Attributes that Klaviyo has a field of its own for; all others are custom properties."""

_SUPPRESSIONS: dict[str, State] = {
    "HARD_BOUNCE": "bounced",
    "INVALID_EMAIL": "bounced",
    "UNSUBSCRIBE": "unsubscribed",
    "SPAM_COMPLAINT": "complained",
    # Somebody of the team suppressed the address.
    "USER_SUPPRESSED": "blocklisted",
}
_WEIGHT: tuple[State, ...] = ("complained", "blocklisted", "unsubscribed", "bounced")


@dataclass(frozen=True)
class _Submission:
    """What this process knows of a batch whose jobs are under way.

    settled: outcomes of the rows that are in no job. imported: rows in the jobs.
    """

    settled: tuple[Outcome, ...]
    imported: int


@dataclass(frozen=True)
class _Report:
    """What the jobs of one batch say. refused: outcomes by the id of the profile."""

    cancelled: bool
    total: int
    failed: int
    refused: Mapping[str, tuple[str, str]]


class Klaviyo:
    """One Klaviyo account."""

    name = "klaviyo"
    capabilities = CAPABILITIES

    def __init__(
        self,
        settings: KlaviyoSettings,
        connection: Connection,
        *,
        transport: httpx.BaseTransport | None = None,
        **client_options: Any,
    ) -> None:
        connection.require("password")
        self._settings = settings
        self._client = VendorClient(
            "Klaviyo",
            _with_host(connection),
            headers={
                "Authorization": f"Klaviyo-API-Key {connection.password}",
                "revision": REVISION,
                "Accept": "application/vnd.api+json",
                "Content-Type": "application/vnd.api+json",
            },
            max_connections=_CONNECTIONS,
            rate_limit=RateLimit(
                per_second=9.0,
                remaining_header="RateLimit-Remaining",
                reset_header="RateLimit-Reset",
            ),
            transport=transport,
            **client_options,
        )
        self._limits = {name: RowLimit(rows) for name, rows in CAPABILITIES.rows_per_call.items()}
        self._lists: list[dict[str, Any]] | None = None
        self._submissions: dict[str, _Submission] = {}

    @property
    def calls(self) -> int:
        """HTTP requests made so far."""
        return self._client.calls

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def read_subscriber_states(
        self, our_audience_ids: frozenset[str]
    ) -> Iterator[list[SubscriberState]]:
        """All profiles with an address. Lists say nothing in favour, the email consent does."""
        params = {
            "additional-fields[profile]": "subscriptions",
            "fields[profile]": "email,subscriptions.email.marketing",
            "sort": "id",  # so that a profile edited meanwhile is neither skipped nor read twice
        }
        for page in self._pages("/api/profiles", params, _PAGE):
            states = [_state_of(profile) for profile in page]
            yield [state for state in states if state is not None]

    def ensure_audience(self, name: str, known_id: str | None) -> Audience:
        """The list of this id or name; created empty when it is missing."""
        if self._lists is None:
            self._lists = self._all_lists()
        if any(str(entry["id"]) == known_id for entry in self._lists):
            return Audience(str(known_id), created=False)
        if (same_name := _list_named(name, self._lists)) is not None:
            return Audience(str(same_name["id"]), created=False)
        created = create_once(
            lambda: self._create_list(name), lambda: _list_named(name, self._all_lists())
        )
        self._lists.append(created)
        return Audience(str(created["id"]), created=True)

    def ensure_attributes(self, types: Mapping[str, AttributeType]) -> None:
        """Nothing to do: properties need no declaration."""

    def deliver(self, batch: Batch) -> list[Outcome] | Submitted:
        """Carry out a batch; attributes of many contacts are handed over as import jobs."""
        by_address, keys = one_row_per_address(batch.rows)
        rows = list(by_address.values())
        if batch.operation == "upsert":
            settled, jobs, imported = self._upsert(rows)
            if jobs:
                # Several where one request would be too large, so the id names all of them.
                job_id = ",".join(jobs)
                self._submissions[job_id] = _Submission(tuple(settled), imported)
                return Submitted(job_id)
        else:
            settled = [rejected(row.key, "not_in_tool") for row in rows if row.vendor_id is None]
            known = [row for row in rows if row.vendor_id is not None]
            limit = self._limits[batch.operation]
            settled += deliver_isolating(known, lambda part: self._membership(batch, part), limit)
        return share_outcomes(settled, keys, by_address)

    def poll(self, job_id: str, batch: Batch) -> list[Outcome] | None:
        """The outcomes of a batch whose jobs are through; None while one of them still runs."""
        jobs = {job: self._job(job) for job in job_id.split(",")}
        if any(job["status"] in _RUNNING for job in jobs.values()):
            return None
        report = self._report(jobs)
        by_address, keys = one_row_per_address(batch.rows)
        submission = self._submissions.pop(job_id, None)
        settled = list(submission.settled) if submission else []
        done = {outcome.key for outcome in settled}
        imported = [row for row in by_address.values() if row.key not in done]
        rest: list[Row] = []
        for row in imported:
            if refusal := report.refused.get(row.vendor_id or ""):
                settled.append(rejected(row.key, *refusal))
            else:
                rest.append(row)
        if submission and _adds_up(report, submission):
            settled += [Outcome(row.key, "confirmed", vendor_id=row.vendor_id) for row in rest]
        else:
            settled += self._compare(rest, "job_cancelled" if report.cancelled else "not_imported")
        return share_outcomes(settled, keys, by_address)

    def read_members(self, audience_id: str) -> Iterator[list[str]]:
        """Everybody on a list, suppressed profiles included."""
        path = f"/api/lists/{audience_id}/profiles"
        for page in self._pages(path, {"fields[profile]": "email"}, _PAGE):
            addresses = [profile["attributes"].get("email") for profile in page]
            yield [normalise_address(address) for address in addresses if address]

    def erase(self, address: str) -> bool:
        """Have Klaviyo delete the profile with this address, which it does later.

        True again, and harmless, until it has done so.
        """
        quoted = ",".join(json.dumps(each, ensure_ascii=False) for each in spellings(address))
        params = {"filter": f"any(email,[{quoted}])", "fields[profile]": "email"}
        pages = self._pages("/api/profiles", params, _PAGE)
        found = [str(profile["id"]) for page in pages for profile in page]
        for profile_id in found:
            profile = {"type": "profile", "id": profile_id, "attributes": {}}
            body = _resource("data-privacy-deletion-job", {"profile": {"data": profile}})
            self._send("POST", "/api/data-privacy-deletion-jobs", body, expected=202)
        return bool(found)

    # Attributes

    def _upsert(self, rows: Sequence[Row]) -> tuple[list[Outcome], list[str], int]:
        """Outcomes of what is done already, the jobs under way, and the rows in them."""
        imported = [row for row in rows if _fits_import(row)]
        if len(imported) < self._settings.import_from_rows:
            imported = []
        in_job = {row.key for row in imported}
        settled = self._each([row for row in rows if row.key not in in_job])
        jobs, refused = self._import(imported)
        return settled + refused, jobs, len(imported) - len(refused)

    def _each(self, rows: Sequence[Row]) -> list[Outcome]:
        if not rows:
            return []
        with ThreadPoolExecutor(max_workers=_CONNECTIONS) as pool:
            return list(pool.map(self._upsert_one, rows))

    def _upsert_one(self, row: Row) -> Outcome:
        if row.vendor_id is None and not row.may_create:
            return rejected(row.key, "not_in_tool")
        try:
            return self._create(row) if row.vendor_id is None else self._update(row)
        except RefusedRequest as refused:
            return rejected(row.key, refused.code or f"http_{refused.status}")

    def _create(self, row: Row) -> Outcome:
        """Create a contact, which is allowed only with recorded proof. Klaviyo refuses, and does
        not change, an address it knows; a repeat after a lost answer meets that too."""
        attributes = {"email": row.address, **self._attributes(row)}
        body = _resource("profile", attributes)
        response = self._client.request("POST", "/api/profiles", json=body, ok=(200, 201, 409))
        if response.status_code == 409:
            return rejected(row.key, CONTACT_EXISTS, "It appeared after the states were read.")
        created = self._data(response)
        return Outcome(row.key, "confirmed", vendor_id=str(created["id"]), created=True)

    def _update(self, row: Row) -> Outcome:
        body = {"data": self._profile(row)}
        response = self._client.request("PATCH", f"/api/profiles/{row.vendor_id}", json=body)
        self._data(response)
        return Outcome(row.key, "confirmed", vendor_id=row.vendor_id)

    def _import(self, rows: Sequence[Row]) -> tuple[list[str], list[Outcome]]:
        """Hand rows over. Returns the jobs, and outcomes of the rows that are in none."""
        jobs: list[str] = []

        def submit(part: Sequence[Row]) -> list[Outcome]:
            profiles = {"data": [self._profile(row) for row in part]}
            body = _resource("profile-bulk-import-job", {"profiles": profiles})
            # A repeat starts a second job that sets the same values.
            job = self._data(self._client.request("POST", _IMPORTS, json=body))
            jobs.append(str(job["id"]))
            return []  # nothing is known about these rows yet

        refused: list[Outcome] = []
        for part in self._requests(rows, refused):
            refused += deliver_isolating(part, submit, self._limits["upsert"])
        return jobs, refused

    def _requests(self, rows: Sequence[Row], refused: list[Outcome]) -> Iterator[list[Row]]:
        """Rows cut so that a request stays within Klaviyo's size; too large ones are refused."""
        part: list[Row] = []
        envelope = _size(_resource("profile-bulk-import-job", {"profiles": {"data": []}}))
        filled = envelope
        for row in rows:
            size = _size(self._profile(row))
            if size > LARGEST_PROFILE_BYTES:
                refused.append(rejected(row.key, "payload_too_large", "A profile takes 100 kB."))
                continue
            if part and filled + 1 + size > LARGEST_IMPORT_BYTES:  # with a comma
                yield part
                part, filled = [], envelope
            filled += size + (1 if part else 0)
            part.append(row)
        if part:
            yield part

    def _profile(self, row: Row) -> dict[str, Any]:
        """A known profile with what changed. It is found by its id, never by an address."""
        profile = {"type": "profile", "id": row.vendor_id, "attributes": self._attributes(row)}
        cleared = sorted(
            self._property(name)
            for name, value in row.attributes.items()
            if value is None and not self._is_field(name)
        )
        if cleared:
            profile["meta"] = {"patch_properties": {"unset": cleared}}
        return profile

    def _attributes(self, row: Row) -> dict[str, Any]:
        """Klaviyo's own fields, where null clears, and the custom properties that have a value."""
        fields = {name: value for name, value in row.attributes.items() if self._is_field(name)}
        if row.vendor_id is None:
            fields = {name: value for name, value in fields.items() if value is not None}
        properties = {
            self._property(name): value
            for name, value in row.attributes.items()
            if value is not None and not self._is_field(name)
        }
        return {**fields, **({"properties": properties} if properties else {})}

    def _is_field(self, attribute: str) -> bool:
        return attribute in _PROFILE_FIELDS and attribute not in self._settings.property_names

    def _property(self, attribute: str) -> str:
        return self._settings.property_names.get(attribute, attribute)

    # Jobs

    def _job(self, job_id: str) -> dict[str, Any]:
        """A job's attributes. Raises JobLost when Klaviyo does not know it any more."""
        path = f"{_IMPORTS}/{job_id}"
        try:
            job = self._data(self._client.request("GET", path))
        except RefusedRequest as refused:
            if refused.status not in {404, 410}:
                raise
            raise JobLost(
                f"Klaviyo: GET {path} answered {refused.status}: the import job is not known any "
                "more. What became of its rows is unknown; the next plan repeats them safely."
            ) from None
        attributes = job.get("attributes")
        if not isinstance(attributes, dict) or "status" not in attributes:
            raise self._client.unexpected("GET", path, "'data.attributes.status'", job)
        return attributes

    def _report(self, jobs: Mapping[str, Mapping[str, Any]]) -> _Report:
        refused: dict[str, tuple[str, str]] = {}
        for job_id, job in jobs.items():
            if not job.get("failed_count"):
                continue
            for page in self._pages(f"{_IMPORTS}/{job_id}/import-errors", {}, _PAGE):
                for error in page:
                    attributes = error["attributes"]
                    profile = (attributes.get("original_payload") or {}).get("id")
                    if profile is not None:
                        refused[str(profile)] = _refusal(attributes)
        return _Report(
            cancelled=any(job["status"] != "complete" for job in jobs.values()),
            total=sum(int(job.get("total_count") or 0) for job in jobs.values()),
            failed=sum(int(job.get("failed_count") or 0) for job in jobs.values()),
            refused=refused,
        )

    def _compare(self, rows: Sequence[Row], code: str) -> list[Outcome]:
        """Confirm the rows whose profile holds what it should; the others get ``code``."""
        wanted = {str(row.vendor_id): row for row in rows if row.vendor_id is not None}
        ids = list(wanted)
        equal: set[str] = set()
        for start in range(0, len(ids), _PAGE):
            quoted = ",".join(json.dumps(each) for each in ids[start : start + _PAGE])
            params = {"filter": f"any(id,[{quoted}])"}
            for page in self._pages("/api/profiles", params, _PAGE):
                for profile in page:
                    row = wanted.get(str(profile["id"]))
                    if row is not None and self._holds(profile["attributes"], row):
                        equal.add(row.key)
        return [
            Outcome(row.key, "confirmed", vendor_id=row.vendor_id)
            if row.key in equal
            else rejected(row.key, code, "The profile does not hold what was sent.")
            for row in rows
        ]

    def _holds(self, found: Mapping[str, Any], row: Row) -> bool:
        properties = found.get("properties") or {}
        return all(
            (found.get(name) if self._is_field(name) else properties.get(self._property(name)))
            == value
            for name, value in row.attributes.items()
        )

    # Lists

    def _membership(self, batch: Batch, rows: Sequence[Row]) -> list[Outcome]:
        """Join or leave a list. The answer has no body: it stands for all rows or for none."""
        if not rows:
            return []
        path = f"/api/lists/{batch.audience_id}/relationships/profiles"
        body = {"data": [{"type": "profile", "id": row.vendor_id} for row in rows]}
        try:
            self._send("POST" if batch.operation == "add" else "DELETE", path, body, expected=204)
        except RefusedRequest as refused:
            if refused.status == 404:
                self._require_list(str(batch.audience_id))
            raise
        return [Outcome(row.key, "confirmed", vendor_id=row.vendor_id) for row in rows]

    def _require_list(self, list_id: str) -> None:
        """Raise when it is the list that is gone, which no smaller request would help."""
        path = f"/api/lists/{list_id}"
        if self._client.request("GET", path, ok=(200, 404)).status_code == 404:
            raise VendorError(
                f"Klaviyo: GET {path} answered 404: the list was deleted while it was written to. "
                "The next run makes it anew and sends everybody who belongs there."
            )

    def _all_lists(self) -> list[dict[str, Any]]:
        pages = self._pages("/api/lists", {"fields[list]": "name,created"}, _LISTS_PAGE)
        return [
            {
                "id": entry["id"],
                "name": entry["attributes"]["name"],
                "created": entry["attributes"].get("created") or "",
            }
            for page in pages
            for entry in page
        ]

    def _create_list(self, name: str) -> dict[str, Any]:
        body = _resource("list", {"name": name})
        created = self._data(
            self._client.request("POST", "/api/lists", json=body, idempotent=False)
        )
        return {"id": created["id"], "name": name, "created": ""}

    # Answers

    def _send(self, method: str, path: str, body: Mapping[str, Any], *, expected: int) -> None:
        """Send a request that is answered by its status alone. Any other success is a fault."""
        response = self._client.request(method, path, json=body)
        if response.status_code != expected:
            raise self._client.unexpected(method, path, f"being a {expected}", _parsed(response))

    def _data(self, response: httpx.Response) -> dict[str, Any]:
        body = self._client.json_of(response)
        data = body.get("data") if isinstance(body, dict) else None
        if not isinstance(data, dict) or "id" not in data:
            request = response.request
            raise self._client.unexpected(request.method, request.url.path, "'data.id'", body)
        return data

    def _pages(
        self, path: str, params: Mapping[str, Any], size: int
    ) -> Iterator[list[dict[str, Any]]]:
        cursor: str | None = None
        while True:
            at = {"page[cursor]": cursor} if cursor else {}
            body = self._client.get_json(path, params={**params, "page[size]": size, **at})
            items = body.get("data") if isinstance(body, dict) else None
            if not isinstance(items, list):
                raise self._client.unexpected("GET", path, "a list in 'data'", body)
            if items:
                yield items
            previous, cursor = cursor, _next_cursor(body)
            if cursor is None:
                return
            if cursor == previous:
                raise self._client.unexpected("GET", path, "a page after this one", body)


def _resource(kind: str, attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {"data": {"type": kind, "attributes": dict(attributes)}}


def _size(body: Mapping[str, Any]) -> int:
    """Bytes of a body, as httpx writes it."""
    return len(json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode())


def _parsed(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        return None


def _next_cursor(body: Mapping[str, Any]) -> str | None:
    """The cursor in ``links.next``. The link itself is not followed: the key goes to one host."""
    link = (body.get("links") or {}).get("next")
    found = parse_qs(urlsplit(link).query).get("page[cursor]") if isinstance(link, str) else None
    return found[0] if found else None


def _fits_import(row: Row) -> bool:
    """Whether an import can carry a row: a known contact, and something to set and not to clear."""
    values = row.attributes.values()
    return row.vendor_id is not None and bool(values) and all(v is not None for v in values)


def _adds_up(report: _Report, submission: _Submission) -> bool:
    """Whether the jobs had all rows and told which of them they refused."""
    return (
        not report.cancelled
        and report.total == submission.imported
        and report.failed == len(report.refused)
    )


def _refusal(error: Mapping[str, Any]) -> tuple[str, str]:
    """Code and reason of an import error. Its detail is left out: it may repeat a value."""
    pointer = (error.get("source") or {}).get("pointer") or ""
    return str(
        error.get("code") or "invalid"
    ), f"{error.get('title') or 'refused'} {pointer}".strip()


def _list_named(name: str, lists: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The oldest list of a name; Klaviyo allows several."""
    same_name = (entry for entry in lists if entry["name"] == name)
    return min(same_name, key=lambda entry: (entry["created"], entry["id"]), default=None)


def _state_of(profile: Mapping[str, Any]) -> SubscriberState | None:
    """What Klaviyo says about the email consent of a profile; None for one without an address."""
    attributes = profile["attributes"]
    if not attributes.get("email"):
        return None
    email = (attributes.get("subscriptions") or {}).get("email") or {}
    state, evidence, moment = _judge(email.get("marketing") or {})
    address = normalise_address(attributes["email"])
    return SubscriberState(address, state, evidence, moment, str(profile["id"]))


def _judge(marketing: Mapping[str, Any]) -> tuple[State, Evidence | None, datetime | None]:
    consent = str(marketing.get("consent"))
    given = parse_time(marketing.get("consent_timestamp"))
    changed = given or parse_time(marketing.get("last_updated"))
    if suppressed := _heaviest(marketing.get("suppression") or []):
        return suppressed[0], None, suppressed[1]
    if marketing.get("can_receive_email_marketing") is False:
        return "blocklisted", None, changed
    if consent == "UNSUBSCRIBED":
        return "unsubscribed", None, changed
    confirmed = given if consent == "SUBSCRIBED" and marketing.get("double_optin") else None
    left = [
        entry
        for entry in marketing.get("list_suppressions") or []
        if confirmed is None or not _is_before(parse_time(entry.get("timestamp")), confirmed)
    ]
    if suppressed := _heaviest(left):
        return suppressed[0], None, suppressed[1]
    if consent == "SUBSCRIBED":
        evidence: Evidence = "double" if confirmed else "single"
        return "subscribed", evidence if given else None, given
    return ("subscribed" if consent == "NEVER_SUBSCRIBED" else "pending"), None, None


def _heaviest(
    suppressions: Sequence[Mapping[str, Any]],
) -> tuple[State, datetime | None] | None:
    """The suppression that weighs most, with its newest date."""
    earliest = datetime.min.replace(tzinfo=UTC)
    found: list[tuple[State, datetime | None]] = [
        # A reason of a newer revision counts like the team's own.
        (
            _SUPPRESSIONS.get(str(entry.get("reason")), "blocklisted"),
            parse_time(entry.get("timestamp")),
        )
        for entry in suppressions
    ]
    return min(
        found,
        key=lambda each: (
            _WEIGHT.index(each[0]),
            -((each[1] or earliest) - earliest).total_seconds(),
        ),
        default=None,
    )


def _is_before(moment: datetime | None, other: datetime) -> bool:
    """Whether a dated moment lies before another; an undated one never does."""
    return moment is not None and moment < other


def _with_host(connection: Connection) -> Connection:
    """Klaviyo's address when the connection names no host."""
    if connection.host or connection.extra.get("base_url"):
        return connection
    return replace(connection, scheme="https", host="a.klaviyo.com", path="")
