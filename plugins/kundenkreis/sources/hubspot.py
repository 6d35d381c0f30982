"""HubSpot CRM: contacts with the history of their stages and marketing states, and deals.

Calls   POST /crm/objects/2026-03/contacts/search and /deals/search: what changed since the last
        cursor minus ``overlap_hours``, oldest change first, 200 per call.
        POST /crm/objects/2026-03/contacts/batch/read with ``propertiesWithHistory``: 50 per call.
        POST /crm/associations/2026-03/deals/contacts/batch/read: the contacts of the found deals.
        GET /crm/objects/2026-03/{contacts,deals}?archived=true: all deleted records, because
        search never shows them; only those deleted since the last cursor are loaded.
Auth    connection ``hubspot``: password = private app token, with the scopes
        crm.objects.contacts.read and crm.objects.deals.read; sent as a bearer token.
Limits  190 calls in 10 s (100 on smaller plans), announced in headers; search about 5 a second
        per account, not announced, so it is paced by ``searches_per_second``.
Paging  a search reaches at most 10,000 results, and results move while records change. So each
        call searches from the newest change seen, without an offset; when a full page lies within
        one millisecond, that millisecond is read by ``hs_object_id``.

Loads ``raw_hubspot.{contacts, contacts__property_history, deals}``, merged by id; the history of a
contact is replaced as a set. The contact of a deal is the one with the lowest id. ``phone_e164`` is
the phone in E.164; ``linked_source`` and ``linked_customer_key`` name the account of another source
that a property of ``foreign_ids`` holds, the first one that is filled.

Not covered: associations changed without touching the deal, merged contacts (the losing record
stays as it was until HubSpot archives it), companies, lists, custom properties but those of
``foreign_ids``. A property that the account does not have is an empty one: HubSpot says nothing.

Source: HubSpot's public API specifications of 2026-03, and its documentation of search limits. Not
checked against a live account: the search rate, and the value names of
``hs_emailconfirmationstatus``, which are passed on as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
from pydantic import AliasPath, Field

from kundenkreis.connections import Resolver
from kundenkreis.errors import VendorError
from kundenkreis.http import RateLimit, VendorClient
from kundenkreis.sources.base import (
    Cursor,
    OptionalBool,
    OptionalMoney,
    OptionalText,
    OptionalTime,
    Record,
    Run,
    Table,
    Text,
    UtcTime,
    load_tables,
    summary,
    vendor_time,
)
from kundenkreis.sources.config import HubSpotSettings
from kundenkreis.sources.telephone import lifted

_OBJECTS = "/crm/objects/2026-03"
_ASSOCIATIONS = "/crm/associations/2026-03"
_HISTORY_BATCH = 50
_ASSOCIATION_BATCH = 1_000
_MODIFIED = {"contacts": "lastmodifieddate", "deals": "hs_lastmodifieddate"}

# --------------------------------------------------------------------------- mapping


def _of(name: str) -> Any:
    return Field(None, validation_alias=AliasPath("properties", name))


class PropertyChange(Record):
    """One change of one property of a contact."""

    property: Text
    value: OptionalText = None
    changed_at: UtcTime
    source_type: OptionalText = None


class Contact(Record):
    """A contact and the history of the properties in `HISTORIES`."""

    id: Text
    createdate: OptionalTime = _of("createdate")
    lastmodifieddate: OptionalTime = _of("lastmodifieddate")
    email: OptionalText = _of("email")
    firstname: OptionalText = _of("firstname")
    lastname: OptionalText = _of("lastname")
    phone: OptionalText = _of("phone")
    lifecyclestage: OptionalText = _of("lifecyclestage")
    hs_lead_status: OptionalText = _of("hs_lead_status")
    hs_language: OptionalText = _of("hs_language")
    hs_analytics_source: OptionalText = _of("hs_analytics_source")
    date_of_birth: OptionalText = _of("date_of_birth")
    hs_email_optout: OptionalBool = _of("hs_email_optout")
    hs_emailconfirmationstatus: OptionalText = _of("hs_emailconfirmationstatus")
    hs_marketable_status: OptionalText = _of("hs_marketable_status")
    archived: bool = False
    phone_e164: OptionalText = None
    linked_source: OptionalText = None
    linked_customer_key: OptionalText = None
    property_history: list[PropertyChange] = Field(default_factory=list)


class Deal(Record):
    """A deal and the contact it is about."""

    id: Text
    contact_id: OptionalText = None
    createdate: OptionalTime = _of("createdate")
    closedate: OptionalTime = _of("closedate")
    hs_lastmodifieddate: OptionalTime = _of("hs_lastmodifieddate")
    dealstage: OptionalText = _of("dealstage")
    pipeline: OptionalText = _of("pipeline")
    amount: OptionalMoney = _of("amount")
    deal_currency_code: OptionalText = _of("deal_currency_code")
    hs_is_closed: OptionalBool = _of("hs_is_closed")
    hs_is_closed_won: OptionalBool = _of("hs_is_closed_won")
    archived: bool = False


HISTORIES = [
    "lifecyclestage",
    "hs_lead_status",
    "hs_marketable_status",
    "hs_email_optout",
    "hs_emailconfirmationstatus",
]


def _properties(model: type[Record]) -> list[str]:
    """The properties a model reads: HubSpot returns only what it is asked for."""
    aliases = (info.validation_alias for info in model.model_fields.values())
    return [str(alias.path[1]) for alias in aliases if isinstance(alias, AliasPath)]


def _with_history(record: Any) -> Any:
    """``propertiesWithHistory`` (changes per property) as one list of changes, oldest first."""
    histories = record.get("propertiesWithHistory") if isinstance(record, dict) else None
    if not isinstance(histories, dict):
        return record
    changes = [
        {
            "property": name,
            "value": change.get("value"),
            "changed_at": change.get("timestamp"),
            "source_type": change.get("sourceType"),
        }
        for name in HISTORIES
        for change in histories.get(name) or []
        if isinstance(change, dict)
    ]
    changes.sort(key=lambda change: str(change["changed_at"]))
    return {**record, "property_history": changes}


def _shape(foreign_ids: Mapping[str, str], phone_region: str | None) -> Callable[[Any], Any]:
    """What a contact's model reads: its changes, its phone in E.164, its account elsewhere."""
    with_phone = lifted(("properties", "phone"), None, phone_region)

    def shape(record: Any) -> Any:
        shaped = with_phone(_with_history(record))
        return {**shaped, **_link(shaped, foreign_ids)} if isinstance(shaped, dict) else shaped

    return shape


def _link(record: Mapping[str, Any], foreign_ids: Mapping[str, str]) -> dict[str, str | None]:
    """The account that the first filled property of ``foreign_ids`` names. 0 is no account: shops
    write it for guests."""
    for name, target in foreign_ids.items():
        value = _property(record, name)
        key = str(value).strip() if isinstance(value, str | int) else ""
        if key and key != "0":
            source = target.removesuffix(".customer")
            return {"linked_source": source, "linked_customer_key": key}
    return {"linked_source": None, "linked_customer_key": None}


def tables(settings: HubSpotSettings, phone_region: str | None) -> dict[str, Table]:
    """The raw tables by name, with what a record of each must look like."""
    shape = _shape(settings.foreign_ids, phone_region)
    found = [
        Table("contacts", Contact, newest="lastmodifieddate", shape=shape),
        Table("deals", Deal, newest="hs_lastmodifieddate"),
    ]
    return {table.name: table for table in found}


# --------------------------------------------------------------------------- calls


def extract(
    settings: HubSpotSettings,
    run: Run,
    resolve: Resolver,
    transport: httpx.BaseTransport | None = None,
) -> dict[str, Any]:
    """Load what changed in the CRM. Raises CredentialError, VendorError, WarehouseError."""
    window = RateLimit(
        remaining_header="X-HubSpot-RateLimit-Remaining",
        reset_header="X-HubSpot-RateLimit-Interval-Milliseconds",
        reset_unit_seconds=0.001,
    )
    pace = RateLimit(per_second=settings.searches_per_second)
    with (
        _client(settings, resolve, rate_limit=window, transport=transport) as objects,
        _client(settings, resolve, rate_limit=pace, transport=transport) as searches,
    ):
        crm = _Crm(objects, searches, settings)
        declared = tables(settings, run.phone_default_region)
        counts = load_tables(
            run, [(declared["contacts"], crm.contacts), (declared["deals"], crm.deals)]
        )
    return summary(run, counts)


def probe(settings: HubSpotSettings, resolve: Resolver, **options: Any) -> None:
    """Find one contact and one deal, which the token must be allowed to; nothing is loaded.

    Args:
        options: passed to the HTTP client.

    Raises CredentialError, VendorError.
    """
    with _client(settings, resolve, **options) as client:
        for kind in ("contacts", "deals"):
            path = f"{_OBJECTS}/{kind}/search"
            answer = client.post_json(path, json={"limit": 1, "properties": []})
            _results(client, answer, "POST", path)


def _client(settings: HubSpotSettings, resolve: Resolver, **options: Any) -> VendorClient:
    connection = resolve(settings.connection)
    connection.require("password")
    bearer = {"Authorization": f"Bearer {connection.password}"}
    defaults = {"timeout": settings.timeout_seconds, "decimal_numbers": True}
    return VendorClient("HubSpot", connection, headers=bearer, **(defaults | options))


class _Crm:
    """The calls, one per table; each reads pages and moves its cursor."""

    def __init__(
        self, objects: VendorClient, searches: VendorClient, settings: HubSpotSettings
    ) -> None:
        self._objects = objects
        self._searches = searches
        self._size = settings.page_size
        self._overlap = timedelta(hours=settings.overlap_hours)
        # In the order of the model, each once: a property may be mapped that is read anyway.
        self._contact_properties = list(
            dict.fromkeys([*_properties(Contact), *settings.foreign_ids])
        )

    def contacts(self, cursor: Cursor) -> Iterator[list[Any]]:
        for found in self._changed("contacts", ["email"], cursor):
            yield self._contacts_with_history(found)
        yield from self._archived("contacts", self._contact_properties, HISTORIES, cursor)

    def deals(self, cursor: Cursor) -> Iterator[list[Any]]:
        properties = _properties(Deal)
        for found in self._changed("deals", properties, cursor):
            yield self._with_contact(found)
        for found in self._archived("deals", properties, [], cursor):
            yield self._with_contact(found)

    def _changed(
        self, kind: str, properties: list[str], cursor: Cursor
    ) -> Iterator[list[dict[str, Any]]]:
        """Records changed since the cursor, oldest change first, by (time, id)."""
        name = _MODIFIED[kind]
        since = vendor_time(cursor.get("newest"))
        start = since - self._overlap if since else None
        seen: set[tuple[str, Any]] = set()
        while True:
            filters = [_filter(name, "GTE", _milliseconds(start))] if start else []
            found, more = self._search(kind, filters, name, properties)
            yield _unseen(found, name, seen)
            moments = [vendor_time(_property(record, name)) for record in found]
            last = max((moment for moment in moments if moment), default=None)
            _advance(cursor, "newest", last)
            if not more:
                return
            if last is None:
                raise VendorError(
                    f"HubSpot: POST {_OBJECTS}/{kind}/search answered a page in which no record "
                    f"has a usable {name}, so the next page cannot be asked for."
                )
            if start is None or last > start:
                start = last
            else:
                for page in self._within_millisecond(kind, name, last, properties):
                    yield _unseen(page, name, seen)
                start = last + timedelta(milliseconds=1)

    def _within_millisecond(
        self, kind: str, name: str, moment: datetime, properties: list[str]
    ) -> Iterator[list[dict[str, Any]]]:
        """All records of one millisecond, by id: more than a page of them (an import)."""
        last_id, more = "0", True
        while more:
            filters = [
                _filter(name, "EQ", _milliseconds(moment)),
                _filter("hs_object_id", "GT", last_id),
            ]
            found, more = self._search(kind, filters, "hs_object_id", properties)
            yield found
            last_id = max(_ids(found), key=int, default=last_id)

    def _search(
        self, kind: str, filters: list[dict[str, str]], sort: str, properties: list[str]
    ) -> tuple[list[dict[str, Any]], bool]:
        """One page of a search, and whether there are more."""
        path = f"{_OBJECTS}/{kind}/search"
        body = {
            "filterGroups": [{"filters": filters}] if filters else [],
            "sorts": [{"propertyName": sort, "direction": "ASCENDING"}],
            "properties": properties,
            "limit": self._size,
        }
        answer = self._searches.post_json(path, json=body)
        return _results(self._searches, answer, "POST", path), bool(_next(answer))

    def _contacts_with_history(self, found: list[dict[str, Any]]) -> list[Any]:
        path = f"{_OBJECTS}/contacts/batch/read"
        records: list[Any] = [record for record in found if not record.get("id")]
        for batch in _batches(_ids(found), _HISTORY_BATCH):
            body = {
                "inputs": [{"id": identity} for identity in batch],
                "properties": self._contact_properties,
                "propertiesWithHistory": HISTORIES,
            }
            # 207: some were deleted since the search; the archived list has them.
            answer = self._objects.post_json(path, json=body, ok=(200, 207))
            records += _results(self._objects, answer, "POST", path)
        return records

    def _with_contact(self, found: list[dict[str, Any]]) -> list[Any]:
        path = f"{_ASSOCIATIONS}/deals/contacts/batch/read"
        contacts: dict[str, str] = {}
        for batch in _batches(_ids(found), _ASSOCIATION_BATCH):
            body = {"inputs": [{"id": identity} for identity in batch]}
            # 207: some deals have no contact.
            answer = self._objects.post_json(path, json=body, ok=(200, 207))
            for result in _results(self._objects, answer, "POST", path):
                ids = [str(end["toObjectId"]) for end in result.get("to", [])]
                if ids:
                    contacts[str(result["from"]["id"])] = min(ids, key=lambda i: (len(i), i))
        return [{**record, "contact_id": contacts.get(str(record.get("id")))} for record in found]

    def _archived(
        self, kind: str, properties: list[str], histories: list[str], cursor: Cursor
    ) -> Iterator[list[Any]]:
        """Deleted records whose deletion the last run has not seen."""
        path = f"{_OBJECTS}/{kind}"
        since = vendor_time(cursor.get("archived"))
        bound = since - self._overlap if since else None
        params: dict[str, Any] = {"archived": "true", "properties": ",".join(properties)}
        params["limit"] = _HISTORY_BATCH if histories else 100
        if histories:
            params["propertiesWithHistory"] = ",".join(histories)
        while True:
            answer = self._objects.get_json(path, params=params)
            found = _results(self._objects, answer, "GET", path)
            moments = [vendor_time(record.get("archivedAt")) for record in found]
            yield [
                record
                for record, moment in zip(found, moments, strict=True)
                if bound is None or moment is None or moment >= bound
            ]
            last = max((moment for moment in moments if moment), default=None)
            _advance(cursor, "archived", last)
            after = _next(answer)
            if not after:
                return
            params["after"] = after


def _filter(name: str, operator: str, value: str) -> dict[str, str]:
    return {"propertyName": name, "operator": operator, "value": value}


def _results(client: VendorClient, answer: Any, method: str, path: str) -> list[dict[str, Any]]:
    results = answer.get("results") if isinstance(answer, dict) else None
    if not isinstance(results, list) or not all(isinstance(item, dict) for item in results):
        raise client.unexpected(method, path, "a list of results", answer)
    return results


def _next(answer: Any) -> str | None:
    following = (answer.get("paging") or {}).get("next") or {}
    after = following.get("after")
    return None if after is None else str(after)


def _ids(records: list[dict[str, Any]]) -> list[str]:
    return [str(record["id"]) for record in records if record.get("id")]


def _batches(ids: list[str], size: int) -> Iterator[list[str]]:
    for start in range(0, len(ids), size):
        yield ids[start : start + size]


def _property(record: Mapping[str, Any], name: str) -> Any:
    """A property of a record; None where the record is malformed, which its check reports."""
    properties = record.get("properties")
    return properties.get(name) if isinstance(properties, dict) else None


def _unseen(
    found: list[dict[str, Any]], name: str, seen: set[tuple[str, Any]]
) -> list[dict[str, Any]]:
    """Leave out what an overlapping window showed before in the same version."""
    fresh = []
    for record in found:
        version = (str(record.get("id")), str(_property(record, name)))
        if version not in seen:
            fresh.append(record)
            seen.add(version)
    return fresh


def _advance(cursor: Cursor, name: str, moment: datetime | None) -> None:
    before = vendor_time(cursor.get(name))
    if moment and (before is None or moment > before):
        cursor[name] = moment.isoformat()


def _milliseconds(moment: datetime) -> str:
    whole = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return str(whole // timedelta(milliseconds=1))
