"""listmonk: audiences are private lists, attributes are keys of a subscriber's ``attribs``.

Calls, in order
    GET  /api/lists                  all lists: names, ids and opt-in kind
    GET  /api/subscribers            all contacts, 1,000 a page, with their subscriptions
    GET  /api/bounces                hard bounces and complaints
    POST /api/lists                  an audience that does not exist yet (private, single opt-in)
    PATCH /api/subscribers/{id}      the attributes that changed, one contact a call
    POST /api/subscribers            a contact the tool does not know, one a call
    PUT  /api/subscribers/lists      up to 500 ids join or leave one list
    GET  /api/subscribers?list_id=   who left an audience, before removing; reading it back
    DELETE /api/subscribers/{id}     erasure

Auth: basic, the API user's name and token (connection login and password). Its role needs lists,
subscribers (get, manage), bounces (get), and for erasure subscribers:sql_query.
Limits: listmonk has none; we use eight connections.

Why one call per contact and not the bulk import: the import replaces all of a contact's attribs,
other people's included (so it would need a read, a merge and luck), runs as the only job of the
whole tool, and says which rows it skipped only in free text. PATCH merges inside listmonk and
answers for its row; POST answers 409 when the contact exists after all. An unchanged contact costs
no call.

Why ``PUT /subscribers/lists`` carries no ``status``: without it listmonk keeps the status of a
subscription that exists, "unsubscribed" included, and starts a new one as "unconfirmed"
(queries/subscribers.sql, add-subscribers-to-lists). Campaigns reach unconfirmed subscribers of
single opt-in lists, so an audience needs no claim about consent. With a status it would overwrite
an unsubscription. It also accepts blocklisted people, so delivery reads states first.

Why leaving skips people who unsubscribed from that list themselves: "remove" deletes the
subscription and with it the only record of their wish. They are no members any more anyway.

Not covered: a contact deleted between reading the states and joining (listmonk then refuses all
500, and the repeat reads the states anew); several listmonk servers; contacts whose names should
follow ours (a name is set only when we create the contact). PATCH is not in the published spec:
checked against listmonk 6.2.0.
Docs: https://listmonk.app/docs/apis/apis/
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any, Literal

import httpx

from kundenkreis.connections import Connection
from kundenkreis.destinations.base import (
    CONTACT_EXISTS,
    AttributeType,
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
from kundenkreis.destinations.config import ListmonkSettings
from kundenkreis.http import RefusedRequest, VendorClient

CAPABILITIES = Capabilities(
    batch_size={"upsert": 200, "add": 500, "remove": 500},
    rows_per_call={"upsert": 1, "add": 500, "remove": 500},
    membership="list",
    rate_limit="none",
)
_CONNECTIONS = 8
_PAGE = 1000


class Listmonk:
    """One listmonk server."""

    name = "listmonk"
    capabilities = CAPABILITIES

    def __init__(
        self,
        settings: ListmonkSettings,
        connection: Connection,
        *,
        transport: httpx.BaseTransport | None = None,
        **client_options: Any,
    ) -> None:
        connection.require("login", "password")
        self._settings = settings
        self._client = VendorClient(
            "listmonk",
            connection,
            auth=httpx.BasicAuth(connection.login, connection.password),
            max_connections=_CONNECTIONS,
            transport=transport,
            **client_options,
        )
        self._limits = {name: RowLimit(rows) for name, rows in CAPABILITIES.rows_per_call.items()}
        self._new_contact_list_id: str | None = None
        self._known_lists: list[dict[str, Any]] | None = None

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
        """All contacts with what their subscriptions to lists that are not ours prove."""
        lists = self._lists()
        ours = our_audience_ids | {
            str(entry["id"]) for entry in lists if entry["name"] == self._settings.new_contact_list
        }
        double_opt_in = frozenset(str(e["id"]) for e in lists if e.get("optin") == "double")
        heard = self._consent_list_ids(lists)
        bounces = self._bounces()
        for page in self._pages("/api/subscribers", {"order_by": "created_at", "order": "ASC"}):
            yield [
                _state_of(subscriber, ours, double_opt_in, heard, bounces) for subscriber in page
            ]

    def ensure_audience(self, name: str, known_id: str | None) -> Audience:
        """The private, single opt-in list of this id or name; created when it is missing."""
        return self._ensure_list(name, known_id, "Kept in step by Kundenkreis. Edits are undone.")

    def ensure_attributes(self, types: Mapping[str, AttributeType]) -> None:
        """Nothing to do: attribs need no declaration."""

    def deliver(self, batch: Batch) -> list[Outcome]:
        """Carry out a batch: one call per contact for attributes, one for up to 500 members."""
        by_address, keys = one_row_per_address(batch.rows)
        rows = list(by_address.values())
        if batch.operation == "upsert":
            outcomes = self._each(rows, self._upsert)
        else:
            unknown = [row for row in rows if row.vendor_id is None]
            known = [row for row in rows if row.vendor_id is not None]
            outcomes = [rejected(row.key, "not_in_tool") for row in unknown]
            if batch.operation == "remove" and known:
                left = self._left_by_themselves(str(batch.audience_id))
                outcomes += [
                    Outcome(row.key, "confirmed", "left_by_themselves", vendor_id=row.vendor_id)
                    for row in known
                    if row.vendor_id in left
                ]
                known = [row for row in known if row.vendor_id not in left]
            limit = self._limits[batch.operation]
            outcomes += deliver_isolating(known, lambda part: self._membership(batch, part), limit)
        return share_outcomes(outcomes, keys, by_address)

    def read_members(self, audience_id: str) -> Iterator[list[str]]:
        """Everybody subscribed to a list, except those who left it."""
        for page in self._pages("/api/subscribers", {"list_id": audience_id}):
            yield [
                normalise_address(subscriber["email"])
                for subscriber in page
                if _status_on(subscriber, audience_id) != "unsubscribed"
            ]

    def erase(self, address: str) -> bool:
        """Delete the subscriber with this address."""
        wanted = spellings(address)
        # The query language is SQL: a quote in an address must not end the literal.
        quoted = ", ".join("'" + each.replace("'", "''") + "'" for each in wanted)
        query = {"query": f"subscribers.email IN ({quoted})"}
        found = [
            subscriber["id"]
            for page in self._pages("/api/subscribers", query)
            for subscriber in page
            if normalise_address(subscriber["email"]) == wanted[0]
        ]
        for subscriber_id in found:
            self._client.request("DELETE", f"/api/subscribers/{subscriber_id}")
        return bool(found)

    def _upsert(self, row: Row) -> Outcome:
        try:
            if row.vendor_id is None:
                return self._create(row)
            path = f"/api/subscribers/{row.vendor_id}"
            body = {"attribs": dict(row.attributes)}
            self._data(self._client.request("PATCH", path, json=body))
        except RefusedRequest as refused:
            return rejected(row.key, refused.code or f"http_{refused.status}")
        return Outcome(row.key, "confirmed", vendor_id=row.vendor_id)

    def _create(self, row: Row) -> Outcome:
        """Create a contact as confirmed, which is allowed only with recorded proof."""
        if not row.may_create:
            return rejected(row.key, "not_in_tool")
        body = {
            "email": row.address,
            "name": "",
            "status": "enabled",
            "lists": [int(self._new_contact_list())],
            "preconfirm_subscriptions": True,
            "attribs": {key: value for key, value in row.attributes.items() if value is not None},
        }
        response = self._client.request("POST", "/api/subscribers", json=body, ok=(200, 201, 409))
        if response.status_code == 409:
            return rejected(row.key, CONTACT_EXISTS, "It appeared after the states were read.")
        created = self._data(response)
        return Outcome(row.key, "confirmed", vendor_id=str(created["id"]), created=True)

    def _membership(self, batch: Batch, rows: Sequence[Row]) -> list[Outcome]:
        body = {
            "ids": [int(row.vendor_id or 0) for row in rows],
            "action": batch.operation,
            "target_list_ids": [int(batch.audience_id or 0)],
        }
        response = self._client.request("PUT", "/api/subscribers/lists", json=body)
        if self._data(response) is not True:
            raise self._client.unexpected("PUT", "/api/subscribers/lists", "'data: true'")
        return [Outcome(row.key, "confirmed", vendor_id=row.vendor_id) for row in rows]

    def _left_by_themselves(self, audience_id: str) -> frozenset[str]:
        """Ids of the subscribers who unsubscribed from a list."""
        filters = {"list_id": audience_id, "subscription_status": "unsubscribed"}
        return frozenset(
            str(subscriber["id"])
            for page in self._pages("/api/subscribers", filters)
            for subscriber in page
            if _status_on(subscriber, audience_id) == "unsubscribed"
        )

    def _each(self, rows: Sequence[Row], act: Callable[[Row], Outcome]) -> list[Outcome]:
        if not rows:
            return []
        if any(row.vendor_id is None and row.may_create for row in rows):
            self._new_contact_list()  # once, before threads would race to create it
        with ThreadPoolExecutor(max_workers=_CONNECTIONS) as pool:
            return list(pool.map(act, rows))

    def _new_contact_list(self) -> str:
        if self._new_contact_list_id is None:
            audience = self._ensure_list(
                self._settings.new_contact_list, None, "Contacts that Kundenkreis created."
            )
            self._new_contact_list_id = audience.vendor_id
        return self._new_contact_list_id

    def _ensure_list(self, name: str, known_id: str | None, description: str) -> Audience:
        if self._known_lists is None:
            self._known_lists = self._lists()
        if any(str(entry["id"]) == known_id for entry in self._known_lists):
            return Audience(str(known_id), created=False)
        if (same_name := _list_named(name, self._known_lists)) is not None:
            return Audience(str(same_name["id"]), created=False)
        created = create_once(
            lambda: self._create_list(name, description), lambda: _list_named(name, self._lists())
        )
        self._known_lists.append(created)
        return Audience(str(created["id"]), created=True)

    def _create_list(self, name: str, description: str) -> dict[str, Any]:
        body = {
            "name": name,
            "type": "private",
            "optin": "single",
            "tags": ["kundenkreis"],
            "description": description,
        }
        response = self._client.request("POST", "/api/lists", json=body, idempotent=False)
        return dict(self._data(response))

    def _lists(self) -> list[dict[str, Any]]:
        return [entry for page in self._pages("/api/lists", {}) for entry in page]

    def _consent_list_ids(self, lists: Sequence[Mapping[str, Any]]) -> frozenset[str] | None:
        """The lists that count as evidence; None for all."""
        wanted = set(self._settings.consent_lists)
        if not wanted:
            return None
        return frozenset(
            str(e["id"]) for e in lists if e["name"] in wanted or str(e["id"]) in wanted
        )

    def _bounces(self) -> dict[str, tuple[State, datetime | None]]:
        """Addresses with a hard bounce or a complaint; a complaint weighs more."""
        found: dict[str, tuple[State, datetime | None]] = {}
        for page in self._pages("/api/bounces", {"order_by": "created_at", "order": "asc"}):
            for bounce in page:
                address = normalise_address(str(bounce.get("email") or ""))
                moment = parse_time(bounce.get("created_at"))
                if bounce.get("type") == "complaint":
                    found[address] = ("complained", moment)
                elif bounce.get("type") == "hard" and address not in found:
                    found[address] = ("bounced", moment)
        return found

    def _pages(self, path: str, params: Mapping[str, Any]) -> Iterator[list[dict[str, Any]]]:
        page, seen = 1, 0
        while True:
            response = self._client.request(
                "GET", path, params={**params, "page": page, "per_page": _PAGE}
            )
            data = self._data(response)
            results = data.get("results") if isinstance(data, dict) else None
            if results is None:
                raise self._client.unexpected("GET", path, "'data.results'", data)
            seen += len(results)
            if results:
                yield results
            if not results or seen >= int(data.get("total") or 0):
                return
            page += 1

    def _data(self, response: httpx.Response) -> Any:
        body = self._client.json_of(response)
        if not isinstance(body, dict) or "data" not in body:
            request = response.request
            raise self._client.unexpected(request.method, request.url.path, "'data'", body)
        return body["data"]


def _list_named(name: str, lists: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The oldest list of a name; listmonk allows several."""
    return min((e for e in lists if e["name"] == name), key=lambda e: int(e["id"]), default=None)


def _status_on(subscriber: Mapping[str, Any], list_id: str) -> str | None:
    for entry in subscriber.get("lists") or []:
        if str(entry["id"]) == list_id:
            return str(entry.get("subscription_status"))
    return None


def _state_of(
    subscriber: Mapping[str, Any],
    ours: frozenset[str],
    double_opt_in: frozenset[str],
    heard: frozenset[str] | None,
    bounces: Mapping[str, tuple[State, datetime | None]],
) -> SubscriberState:
    """What listmonk's own records say about a contact.

    Our lists prove nothing in favour, but leaving one is a withdrawal. An unsubscription from any
    heard list counts until a newer confirmed opt-in.
    """
    address = normalise_address(subscriber["email"])
    state, evidence, moment = _judge(subscriber, ours, double_opt_in, heard)
    if address in bounces:
        bounced, since = bounces[address]
        if state in ("subscribed", "pending", "blocklisted"):
            state, evidence, moment = bounced, None, since
    return SubscriberState(address, state, evidence, moment, str(subscriber["id"]))


def _judge(
    subscriber: Mapping[str, Any],
    ours: frozenset[str],
    double_opt_in: frozenset[str],
    heard: frozenset[str] | None,
) -> tuple[State, Evidence | None, datetime | None]:
    if subscriber.get("status") == "blocklisted":
        return "blocklisted", None, parse_time(subscriber.get("updated_at"))
    if subscriber.get("status") == "disabled":
        return "archived", None, parse_time(subscriber.get("updated_at"))
    entries = [
        (_kind_of(entry, ours, double_opt_in), entry)
        for entry in subscriber.get("lists") or []
        if heard is None or str(entry["id"]) in heard | ours
    ]
    left = [_changed(entry) for kind, entry in entries if kind == "left"]
    confirmed = [_changed(entry) for kind, entry in entries if kind == "confirmed"]
    signed_up = [_began(entry) for kind, entry in entries if kind == "signed_up"]
    waiting = [_began(entry) for kind, entry in entries if kind == "waiting"]
    newest_confirmation = _newest(confirmed)
    if left and not _is_later(newest_confirmation, left):
        return "unsubscribed", None, _newest(left)
    if confirmed:
        return "subscribed", "double", newest_confirmation
    if signed_up:
        return "subscribed", "single", _newest(signed_up)
    if waiting:
        return "pending", None, _newest(waiting)
    return "subscribed", None, None


def _kind_of(
    entry: Mapping[str, Any], ours: frozenset[str], double_opt_in: frozenset[str]
) -> Literal["left", "ours", "signed_up", "confirmed", "waiting"]:
    """What one subscription says about consent."""
    list_id, status = str(entry["id"]), entry.get("subscription_status")
    if status == "unsubscribed":
        return "left"
    if list_id in ours:
        return "ours"
    if list_id not in double_opt_in:
        return "signed_up"
    return "confirmed" if status == "confirmed" else "waiting"


def _began(entry: Mapping[str, Any]) -> datetime | None:
    return parse_time(entry.get("subscription_created_at"))


def _changed(entry: Mapping[str, Any]) -> datetime | None:
    return parse_time(entry.get("subscription_updated_at")) or _began(entry)


def _newest(moments: Sequence[datetime | None]) -> datetime | None:
    return max((moment for moment in moments if moment is not None), default=None)


def _is_later(moment: datetime | None, others: Sequence[datetime | None]) -> bool:
    """Whether a dated moment is after all others; an undated other is never outweighed."""
    return moment is not None and all(other is not None and moment > other for other in others)
