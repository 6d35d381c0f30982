"""Mailchimp: audiences are static segments of one Mailchimp audience, attributes are merge fields.

Calls, in order
    GET  /3.0/lists                           which audience, and whether it asks for double opt-in
    GET  /3.0/lists/{id}/members              all contacts of every status, 1,000 a page
    GET  /3.0/lists/{id}/merge-fields         and POST for the ones that are missing
    GET  /3.0/lists/{id}/segments             and POST for an audience that does not exist yet
    POST /3.0/lists/{id}                      attributes of up to 500 contacts
    POST /3.0/lists/{id}/segments/{segment}   up to 500 contacts join or leave a segment
    GET  /3.0/lists/{id}/segments/{segment}/members    reading an audience back
    POST /3.0/lists/{id}/members/{hash}/actions/delete-permanent    erasure

Auth: basic, any user name and the API key. The data centre is the key's suffix, so a connection
needs no host. Limits: ten simultaneous connections, 429 without headers, at times a bare 403.

Why static segments and not the tags endpoint: both are the same thing to Mailchimp's users (a
static segment is a tag), but a segment takes 500 contacts a call and can be read back, while tags
are set contact by contact. ``sync_tags`` is always sent as false: true would replace all tags.

Why two kinds of POST /lists/{id}: contacts that are known go with ``update_existing: true`` and
without any status, so that unsubscribed, cleaned and pending ones stay what they are. New ones go
with ``update_existing: false`` and a status: for a contact that exists after all Mailchimp answers
ERROR_CONTACT_EXISTS and changes nothing. That is PUT's ``status_if_new`` for 500 contacts a call.

A contact is named by its address in Mailchimp's own spelling. One with an international domain may
stand there in Unicode while the warehouse knows it in ASCII, so reading the states notes these.

Joining and leaving ignore addresses the list does not have, silently. When the counts of the
answer do not explain every row, the segment is read back and decides.

Could not be checked against a live account: that an update without status keeps the status (the
published clients say so), the wording of ``unsubscribe_reason`` after an abuse complaint, and that
an empty string clears merge fields of every type.
Not covered: several audiences, groups (interests), SMS, merge fields of type address.
Docs: https://mailchimp.com/developer/marketing/api/
"""

from __future__ import annotations

import hashlib
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import httpx

from kundenkreis.connections import Connection
from kundenkreis.destinations.base import (
    CONTACT_EXISTS,
    AttributeType,
    AttributeValue,
    Audience,
    Batch,
    Capabilities,
    Evidence,
    Outcome,
    Row,
    RowLimit,
    State,
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
from kundenkreis.destinations.config import MailchimpSettings
from kundenkreis.errors import ConfigError, VendorError
from kundenkreis.http import RateLimit, RefusedRequest, VendorClient

CAPABILITIES = Capabilities(
    batch_size={"upsert": 500, "add": 500, "remove": 500},
    rows_per_call={"upsert": 500, "add": 500, "remove": 500},
    membership="segment",
    rate_limit="concurrency",
    parallel_batches=10,
    batches_waiting=3,
)
_PAGE = 1000
_PAGES_AHEAD = 4
_TAKEN_AS_THEY_ARE = frozenset({str, int, float})
_KNOWN_TAGS = {"first_name": "FNAME", "last_name": "LNAME"}
_STATES: dict[str, State] = {
    "subscribed": "subscribed",
    "unsubscribed": "unsubscribed",
    "cleaned": "bounced",
    "pending": "pending",
    "archived": "archived",
    # Bought something, never signed up for mail: not contactable, and no withdrawal either.
    "transactional": "pending",
}


class _Tags(dict[str, str]):
    """The merge tag of each attribute: at most ten characters, never shared by two."""

    def __init__(self, configured: Mapping[str, str]) -> None:
        super().__init__({**_KNOWN_TAGS, **configured})

    def __missing__(self, attribute: str) -> str:
        tag = attribute.upper()
        if len(tag) > 10:
            digest = hashlib.sha256(attribute.encode()).hexdigest()[:3].upper()
            tag = f"{tag[:7].rstrip('_')}{digest}"
        self[attribute] = tag
        return tag


class Mailchimp:
    """One audience ("list" in the API) of one Mailchimp account."""

    name = "mailchimp"
    capabilities = CAPABILITIES

    def __init__(
        self,
        settings: MailchimpSettings,
        connection: Connection,
        *,
        transport: httpx.BaseTransport | None = None,
        **client_options: Any,
    ) -> None:
        connection.require("password")
        self._settings = settings
        self._client = VendorClient(
            "Mailchimp",
            _with_data_centre(connection),
            auth=httpx.BasicAuth(connection.login or "kundenkreis", connection.password),
            max_connections=CAPABILITIES.parallel_batches,
            rate_limit=RateLimit(throttled_statuses=frozenset({403})),
            transport=transport,
            **client_options,
        )
        self._limits = {name: RowLimit(rows) for name, rows in CAPABILITIES.rows_per_call.items()}
        self._finding_list = threading.Lock()
        self._list: Mapping[str, Any] | None = None
        self._merge_tags: set[str] | None = None
        self._tags = _Tags(settings.merge_tags)
        self._segments: list[dict[str, Any]] | None = None
        self._spelled_otherwise: dict[str, str] = {}

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
        """All contacts of the audience. Segments say nothing about consent, the status does."""
        path = f"{self._list_path()}/members"
        fields = ",".join(
            f"members.{name}"
            for name in (
                "id",
                "email_address",
                "status",
                "unsubscribe_reason",
                "timestamp_signup",
                "timestamp_opt",
                "last_changed",
            )
        )
        # Archived contacts are listed only when asked for.
        asked = [
            {"fields": f"{fields},total_items", **filters}
            for filters in ({}, {"status": "archived"})
        ]
        with ThreadPoolExecutor(len(asked)) as pool:
            firsts = [pool.submit(self._page, path, params, 0) for params in asked]
            double_opt_in = bool(self._audience_list().get("double_optin"))
            for params, first in zip(asked, firsts, strict=True):
                for page in self._pages(path, "members", params, first.result):
                    addressed = [member for member in page if member.get("email_address")]
                    self._note_spellings(addressed)
                    yield [_state_of(member, double_opt_in) for member in addressed]

    def ensure_audience(self, name: str, known_id: str | None) -> Audience:
        """The static segment of this id or name; created empty when it is missing."""
        if self._segments is None:
            self._segments = self._static_segments()
        if any(str(entry["id"]) == known_id for entry in self._segments):
            return Audience(str(known_id), created=False)
        if (same_name := _segment_named(name, self._segments)) is not None:
            return Audience(str(same_name["id"]), created=False)
        created = create_once(
            lambda: self._create_segment(name),
            lambda: _segment_named(name, self._static_segments()),
        )
        self._segments.append(created)
        return Audience(str(created["id"]), created=True)

    def ensure_attributes(self, types: Mapping[str, AttributeType]) -> None:
        """Create the merge fields that are missing. Those that exist keep their type."""
        if self._merge_tags is None:
            self._merge_tags = self._existing_merge_tags()
        missing = {
            tag: {"tag": tag, "name": _label(attribute), "type": kind, "public": False}
            for attribute, kind in sorted(types.items())
            if (tag := self._tags[attribute]) not in self._merge_tags
        }
        if missing:
            # Together: the first batch waits for all of them.
            with ThreadPoolExecutor(CAPABILITIES.parallel_batches) as pool:
                self._merge_tags.update(pool.map(self._ensure_merge_field, missing.values()))

    def deliver(self, batch: Batch) -> list[Outcome]:
        """Carry out a batch of up to 500 rows in one or two calls."""
        by_address, keys = one_row_per_address(batch.rows)
        rows = list(by_address.values())
        if batch.operation == "upsert":
            outcomes = self._upsert(rows)
        else:
            limit = self._limits[batch.operation]
            outcomes = deliver_isolating(rows, lambda part: self._membership(batch, part), limit)
        return share_outcomes(outcomes, keys, by_address)

    def read_members(self, audience_id: str) -> Iterator[list[str]]:
        """Everybody in a segment, unsubscribed and cleaned contacts included."""
        path = f"{self._list_path()}/segments/{audience_id}/members"
        params = {
            "fields": "members.email_address,total_items",
            "include_unsubscribed": "true",
            "include_cleaned": "true",
        }
        for page in self._pages(path, "members", params):
            yield [normalise_address(member["email_address"]) for member in page]

    def erase(self, address: str) -> bool:
        """Delete a contact for good. Mailchimp then refuses to import the address ever again."""
        found = False
        for spelling in spellings(address):
            path = f"{self._list_path()}/members/{_hash(spelling)}/actions/delete-permanent"
            response = self._client.request("POST", path, ok=(200, 204, 404))
            found |= response.status_code != 404
        return found

    def _note_spellings(self, members: Sequence[Mapping[str, Any]]) -> None:
        for member in members:
            if not member["email_address"].isascii():
                self._spelled_otherwise[str(member["id"])] = member["email_address"]

    def _addresses(self, rows: Sequence[Row]) -> list[str]:
        """The addresses as Mailchimp spells them."""
        spelled = self._spelled_otherwise
        return [spelled.get(row.vendor_id or "", row.address) for row in rows]

    def _upsert(self, rows: Sequence[Row]) -> list[Outcome]:
        known = [row for row in rows if row.vendor_id is not None]
        unknown = [row for row in rows if row.vendor_id is None]
        new = [row for row in unknown if row.may_create]
        outcomes = [rejected(row.key, "not_in_tool") for row in unknown if not row.may_create]
        outcomes += deliver_isolating(known, self._update, self._limits["upsert"])
        outcomes += deliver_isolating(new, self._create, self._limits["upsert"])
        return outcomes

    def _update(self, rows: Sequence[Row]) -> list[Outcome]:
        """Change attributes of known contacts; nothing here can touch their status."""
        return self._batch(rows, update_existing=True, status=None)

    def _create(self, rows: Sequence[Row]) -> list[Outcome]:
        """Create contacts with recorded proof; those that exist after all stay as they are."""
        return self._batch(rows, update_existing=False, status="subscribed")

    def _batch(
        self, rows: Sequence[Row], *, update_existing: bool, status: str | None
    ) -> list[Outcome]:
        given = {"status": status} if status else {}
        members = [
            {"email_address": address, **given, "merge_fields": self._merge_values(row.attributes)}
            for address, row in zip(self._addresses(rows), rows, strict=True)
        ]
        path = self._list_path()
        body = {"members": members, "update_existing": update_existing, "sync_tags": False}
        # A repeat is harmless: an update sets the same values, a second create finds the contact.
        answer = self._client.post_json(path, json=body)
        problems = self._field(answer, "errors", "POST", path)
        done = {
            normalise_address(member["email_address"]): str(member["id"])
            for part in ("new_members", "updated_members")
            for member in answer.get(part) or []
        }
        errors = {normalise_address(error.get("email_address") or ""): error for error in problems}
        created = status is not None
        outcomes: list[Outcome] = []
        for row in rows:
            address = row.address if row.address in done else normalise_address(row.address)
            identity = done.get(address)
            outcomes.append(
                _refused(row.key, errors.get(address))
                if identity is None
                else Outcome(row.key, "confirmed", None, None, identity, created)
            )
        return outcomes

    def _membership(self, batch: Batch, rows: Sequence[Row]) -> list[Outcome]:
        """Join or leave a segment; what the answer leaves open is read back."""
        if not rows:
            return []
        adding = batch.operation == "add"
        path = f"{self._list_path()}/segments/{batch.audience_id}"
        addresses = self._addresses(rows)
        body = {
            "members_to_add": addresses if adding else [],
            "members_to_remove": [] if adding else addresses,
        }
        answer = self._change_segment(path, body)
        problems = self._field(answer, "errors", "POST", path)
        done = {
            normalise_address(member["email_address"])
            for member in answer.get("members_added" if adding else "members_removed") or []
        }
        errors = {
            normalise_address(address): str(error.get("error") or "refused")
            for error in problems
            for address in error.get("email_addresses") or []
        }
        open_rows = [row for row in rows if normalise_address(row.address) not in done]
        present: set[str] = set()
        if open_rows:
            present = {a for page in self.read_members(str(batch.audience_id)) for a in page}
        return [_membership_outcome(row, adding, done, errors, present) for row in rows]

    def _change_segment(self, path: str, body: Mapping[str, Any]) -> Any:
        """Raises VendorError when the segment is gone, which no smaller request would help."""
        try:
            return self._client.post_json(path, json=body)
        except RefusedRequest as refused:
            if refused.status != 404:
                raise
            raise VendorError(
                f"Mailchimp: POST {path} answered 404: the segment was deleted while it was "
                "written to. The next run makes it anew and sends everybody who belongs there."
            ) from None

    def _merge_values(self, attributes: Mapping[str, AttributeValue]) -> dict[str, Any]:
        values: Iterable[Any] = attributes.values()
        if not _TAKEN_AS_THEY_ARE.issuperset(map(type, values)):
            values = map(_merge_value, values)
        return dict(zip(map(self._tags.__getitem__, attributes), values, strict=True))

    def _existing_merge_tags(self) -> set[str]:
        path = f"{self._list_path()}/merge-fields"
        pages = self._pages(path, "merge_fields", {})
        return {str(field["tag"]) for page in pages for field in page}

    def _ensure_merge_field(self, body: Mapping[str, Any]) -> str:
        tag = str(body["tag"])
        return create_once(partial(self._create_merge_field, body), partial(self._find_tag, tag))

    def _find_tag(self, tag: str) -> str | None:
        return tag if tag in self._existing_merge_tags() else None

    def _create_merge_field(self, body: Mapping[str, Any]) -> str:
        path = f"{self._list_path()}/merge-fields"
        created = self._client.post_json(path, json=body, idempotent=False)
        return str(self._field(created, "tag", "POST", path))

    def _static_segments(self) -> list[dict[str, Any]]:
        fields = "segments.id,segments.name,segments.type,total_items"
        params = {"type": "static", "fields": fields}
        pages = self._pages(f"{self._list_path()}/segments", "segments", params)
        return [entry for page in pages for entry in page]

    def _create_segment(self, name: str) -> dict[str, Any]:
        path = f"{self._list_path()}/segments"
        body = {"name": name, "static_segment": []}
        created = self._client.post_json(path, json=body, idempotent=False)
        return {"id": self._field(created, "id", "POST", path), "name": name}

    def _audience_list(self) -> Mapping[str, Any]:
        """The Mailchimp audience in use; the only one when none is configured."""
        with self._finding_list:
            if self._list is None:
                self._list = self._find_list()
            return self._list

    def _find_list(self) -> Mapping[str, Any]:
        lists = [entry for page in self._pages("/3.0/lists", "lists", {}) for entry in page]
        wanted = self._configured_list()
        found = [entry for entry in lists if wanted is None or entry["id"] == wanted]
        if len(found) != 1:
            known = ", ".join(sorted(str(entry["id"]) for entry in lists)) or "none"
            raise ConfigError(
                f"destinations.yml: mailchimp.list_id is {wanted or 'not set'}, and the "
                f"account of connection '{self._settings.connection}' has these audiences: "
                f"{known}. Set it to one of them, there or in the connection's extra."
            )
        return found[0]

    def _configured_list(self) -> str | None:
        return self._settings.list_id or self._client.connection.extra.get("list_id")

    def _list_path(self) -> str:
        """Of the configured audience without asking for it: reading the contacts checks it."""
        return f"/3.0/lists/{self._configured_list() or self._audience_list()['id']}"

    def _field(self, body: Any, key: str, method: str, path: str) -> Any:
        """A field every real answer has. Raises VendorError where it is missing."""
        if not isinstance(body, dict) or key not in body:
            raise self._client.unexpected(method, path, f"'{key}'", body)
        return body[key]

    def _page(self, path: str, params: Mapping[str, Any], offset: int) -> Any:
        return self._client.get_json(path, params={**params, "count": _PAGE, "offset": offset})

    def _pages(
        self,
        path: str,
        key: str,
        params: Mapping[str, Any],
        first: Callable[[], Any] | None = None,
    ) -> Iterator[list[dict[str, Any]]]:
        """All pages in their order; once the first has told how many, a few are read at a time.

        Args:
            first: gives the first page, where it has been asked for already.
        """
        data = first() if first else self._page(path, params, 0)
        offset, size = 0, 0
        ahead: deque[tuple[int, Future[Any]]] = deque()
        pool = ThreadPoolExecutor(_PAGES_AHEAD)
        try:
            while True:
                items = self._field(data, key, "GET", path)
                offset, size = offset + len(items), size or len(items)
                if items:
                    yield items
                total = int(data.get("total_items") or 0)
                if not items or offset >= total:
                    return
                if ahead and ahead[0][0] != offset:  # a page of another size: what follows moves
                    ahead.clear()
                following = ahead[-1][0] + size if ahead else offset
                for start in range(following, total, size)[: _PAGES_AHEAD - len(ahead)]:
                    ahead.append((start, pool.submit(self._page, path, params, start)))
                data = ahead.popleft()[1].result()
        finally:
            pool.shutdown(cancel_futures=True)


def _segment_named(name: str, segments: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The oldest segment of a name."""
    return min((e for e in segments if e["name"] == name), key=lambda e: int(e["id"]), default=None)


def _refused(key: str, error: Mapping[str, Any] | None) -> Outcome:
    """The outcome of a row that the answer does not name as done."""
    if error is None:
        return rejected(key, "ignored_by_tool", "The answer does not mention the row.")
    code = str(error.get("error_code") or "ERROR_GENERIC")
    if code == "ERROR_CONTACT_EXISTS":
        return rejected(key, CONTACT_EXISTS, "It appeared after the states were read.")
    field = f" ({error['field']})" if error.get("field") else ""
    return rejected(key, code, f"{error.get('error') or 'refused'}{field}")


def _membership_outcome(
    row: Row, adding: bool, done: set[str], errors: Mapping[str, str], present: set[str]
) -> Outcome:
    """Done by the answer, else as the segment reads now, else refused with the answer's reason."""
    address = normalise_address(row.address)
    if address in done or (address in present) == adding:
        return Outcome(row.key, "confirmed", vendor_id=row.vendor_id)
    if address in errors:
        return rejected(row.key, "refused", errors[address])
    return rejected(row.key, "ignored_by_tool", "The tool did not act on this contact.")


def _state_of(member: Mapping[str, Any], double_opt_in: bool) -> SubscriberState:
    """Mailchimp's status. An unknown one counts as pending: not contactable, no withdrawal."""
    status = str(member.get("status"))
    state = _STATES.get(status, "pending")
    evidence: Evidence | None = None
    opted_in = parse_time(member.get("timestamp_opt"))
    moment = parse_time(member.get("last_changed"))
    if state == "subscribed":
        moment = opted_in or parse_time(member.get("timestamp_signup"))
        if moment is not None:
            # A sign-up followed by an opt-in; an import has only the latter.
            signed_up = parse_time(member.get("timestamp_signup"))
            evidence = "double" if double_opt_in and opted_in and signed_up else "single"
    elif state == "unsubscribed" and "abuse" in str(member.get("unsubscribe_reason")).lower():
        state = "complained"
    address = normalise_address(member["email_address"])
    return SubscriberState(address, state, evidence, moment, str(member["id"]))


def _merge_value(value: AttributeValue) -> str | int | float:
    """What a merge field takes: text and numbers; an empty text clears it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value


def _label(attribute: str) -> str:
    return attribute.replace("_", " ").capitalize()[:50]


def _hash(address: str) -> str:
    """Mailchimp's id of a contact: MD5 of the lower-cased address. An identifier, no protection."""
    return hashlib.md5(address.lower().encode(), usedforsecurity=False).hexdigest()


def _with_data_centre(connection: Connection) -> Connection:
    """The data centre's address when the connection names no host: it is the key's suffix."""
    if connection.host or connection.extra.get("base_url"):
        return connection
    _, dash, data_centre = connection.password.rpartition("-")
    if not dash or not data_centre.isalnum():
        connection.require("host")
    return replace(connection, scheme="https", host=f"{data_centre}.api.mailchimp.com", path="")
