"""HubSpot CRM, the reading half, in the dated paths of 2026-03 (v3 and v4 paths answer as well).

Imitated: list contacts and deals (``limit`` up to 100, 50 with histories; ``after`` cursor; only
the properties that were asked for; ``archived=true``), read one, search (``limit`` up to 200, at
most 10,000 results reachable per query, 5 groups, 25 filters), batch read (100 ids, 50 with
``propertiesWithHistory``; 207 with the ids that do not exist), batch read of associations (1,000
ids; 207 for records without any), property definitions. Bearer token. Rate limit headers on all
answers but searches; the limits themselves act only where the server was started with them.

Not documented where we could read it: the value names of ``hs_emailconfirmationstatus`` (here
"Pending confirmation" and "Confirmed").
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from sandbox.clock import parse_instant, utc_milliseconds
from sandbox.crm import HISTORIES, Contact, Deal
from sandbox.generator import World
from sandbox.messages import Reply, Request, reply

TOKEN = "pat-eu1-6f1d2c3b-4a59-4687-9786-a5b4c3d2e1f0"  # noqa: S105 (opens the sandbox only)
_CORRELATION = "5f3c1f3e-1c55-4a0e-9a5b-8b6f0f5b7c11"
_OBJECT_PATH = re.compile(
    r"/crm/(?:objects/2026-03|v3/objects|objects/v3)/(contacts|deals|0-1|0-3)"
    r"(?:/([^/]+)(?:/([^/]+))?)?"
)
_ASSOCIATION_PATH = re.compile(
    r"/crm/(?:associations/2026-03|v4/associations|v3/associations)/"
    r"(contacts?|deals?|0-1|0-3)/(contacts?|deals?|0-1|0-3)/batch/read"
)
_DEFAULTS = {
    "contacts": (
        "createdate", "email", "firstname", "hs_object_id", "lastmodifieddate", "lastname",
    ),
    "deals": (
        "amount", "closedate", "createdate", "dealname", "dealstage", "hs_lastmodifieddate",
        "hs_object_id", "pipeline",
    ),
}  # fmt: skip
_MODIFIED = {"contacts": "lastmodifieddate", "deals": "hs_lastmodifieddate"}
ACCOUNT_PROPERTY = "woocommerce_customer_id"
"""A custom property of this CRM account: the id of the person's account in the shop."""
_SEARCH_WINDOW = 10_000


@dataclass(slots=True)
class Record:
    """One CRM record as of the clock; times are instants, properties are text as in the API."""

    id: str
    created: int
    modified: int
    properties: dict[str, str]
    histories: dict[str, list[dict[str, str]]]
    archived_at: int | None
    associated: list[str] = field(default_factory=list)


class HubSpot:
    """The CRM's API over one `World`."""

    def __init__(
        self, enforce_limits: bool = False, now: Callable[[], float] | None = None
    ) -> None:
        self.records: dict[str, dict[str, Record]] = {"contacts": {}, "deals": {}}
        self._enforce = enforce_limits
        self._now = now or (lambda: 0.0)
        self._calls: deque[float] = deque()
        self._searches: deque[float] = deque()

    def load(self, world: World) -> None:
        """Show another state of the CRM."""
        opened = {row.key: row.born for row in world.accounts}
        contacts = {
            world.contact_ids[row.key]: _contact(world, row, opened.get(row.key))
            for row in world.contacts
        }
        deals = {world.deal_ids[row.key]: _deal(world, row) for row in world.deals}
        for deal in deals.values():
            for contact_id in deal.associated:
                contacts[contact_id].associated.append(deal.id)
        self.records = {"contacts": contacts, "deals": deals}

    def handle(self, request: Request) -> Reply:
        """Answer one request."""
        if request.headers.get("authorization") != f"Bearer {TOKEN}":
            return reply(
                401,
                {
                    "status": "error",
                    "message": "Authentication credentials not found. This API supports OAuth 2.0 "
                    "authentication and you can find more details at "
                    "https://developers.hubspot.com/docs/methods/auth/oauth-overview",
                    "correlationId": _CORRELATION,
                    "category": "INVALID_AUTHENTICATION",
                },
            )
        is_search = request.path.endswith("/search")
        limited = self._limited(is_search)
        if limited is not None:
            return limited
        answer = self._route(request)
        if not is_search:
            answer.headers.update(
                {
                    "X-HubSpot-RateLimit-Max": "190",
                    "X-HubSpot-RateLimit-Remaining": str(190 - len(self._calls)),
                    "X-HubSpot-RateLimit-Interval-Milliseconds": "10000",
                }
            )
        return answer

    def _limited(self, is_search: bool) -> Reply | None:
        """190 calls in 10 seconds, 5 searches in one second, when limits are on."""
        if not self._enforce:
            return None
        calls, most, window, policy = (
            (self._searches, 5, 1.0, "SECONDLY")
            if is_search
            else (self._calls, 190, 10.0, "TEN_SECONDLY_ROLLING")
        )
        now = self._now()
        while calls and calls[0] <= now - window:
            calls.popleft()
        if len(calls) >= most:
            return rate_limited(policy)
        calls.append(now)
        return None

    def _route(self, request: Request) -> Reply:
        if request.path.startswith("/account-info/"):
            return reply(200, {"portalId": 14_000_001, "timeZone": "Europe/Berlin"})
        found = re.fullmatch(
            r"/crm/(?:properties/2026-03|v3/properties)/(contacts|deals)", request.path
        )
        if found:
            return _property_definitions(found[1])
        found = _ASSOCIATION_PATH.fullmatch(request.path)
        if found and request.method == "POST":
            return self._associations(request, _plural(found[1]), _plural(found[2]))
        found = _OBJECT_PATH.fullmatch(request.path)
        if not found:
            return _problem(404, "resource not found", "OBJECT_NOT_FOUND")
        kind, second, third = _plural(found[1]), found[2], found[3]
        if request.method == "POST" and second == "search":
            return self._search(request, kind)
        if request.method == "POST" and (second, third) == ("batch", "read"):
            return self._batch_read(request, kind)
        if request.method == "GET" and second is None:
            return self._list(request, kind)
        if request.method == "GET" and third is None:
            return self._one(request, kind, second)
        return _problem(405, "Method Not Allowed", "METHOD_NOT_ALLOWED")

    def _list(self, request: Request, kind: str) -> Reply:
        limit, after = request.one("limit", "10"), request.one("after", "0")
        histories = request.many("propertiesWithHistory")
        most = 50 if histories else 100
        if not limit.isdigit() or not 1 <= int(limit) <= most:
            return _invalid(f"Invalid limit '{limit}': it must be between 1 and {most}")
        if not after.isdigit():
            return _invalid(f"Invalid paging cursor '{after}'")
        archived = request.one("archived").lower() == "true"
        # The cursor is the last id seen, so pages stay whole while records are added.
        ids = [
            int(row.id)
            for row in self.records[kind].values()
            if (row.archived_at is not None) == archived
        ]
        ids.sort()
        start = bisect_right(ids, int(after))
        chosen = ids[start : start + int(limit)]
        body: dict[str, Any] = {
            "results": [
                _document(kind, self.records[kind][str(i)], request.many("properties"), histories)
                for i in chosen
            ]
        }
        if start + len(chosen) < len(ids):
            body["paging"] = {
                "next": {"after": str(chosen[-1]), "link": f"?after={chosen[-1]}&limit={limit}"}
            }
        return reply(200, body)

    def _one(self, request: Request, kind: str, identity: str) -> Reply:
        row = self.records[kind].get(identity)
        if request.one("idProperty") == "email":
            row = next(
                (
                    row
                    for row in self.records[kind].values()
                    if row.properties.get("email", "").strip().lower() == identity.lower()
                ),
                None,
            )
        archived = request.one("archived").lower() == "true"
        if row is None or (row.archived_at is not None) != archived:
            return _problem(404, "resource not found", "OBJECT_NOT_FOUND")
        return reply(
            200,
            _document(kind, row, request.many("properties"), request.many("propertiesWithHistory")),
        )

    def _search(self, request: Request, kind: str) -> Reply:
        query = _object(request)
        if query is None:
            return _invalid("Invalid input JSON")
        problem = _check_search(query)
        if problem:
            return _invalid(problem)
        rows = [row for row in self.records[kind].values() if row.archived_at is None]
        try:
            rows = _searched(kind, rows, query)
        except ValueError as error:
            return _invalid(str(error))
        start, limit = int(query.get("after") or 0), int(query.get("limit", 10))
        chosen = rows[start : start + limit]
        body: dict[str, Any] = {
            "total": len(rows),
            "results": [_document(kind, row, query.get("properties") or [], []) for row in chosen],
        }
        following = start + len(chosen)
        if following < len(rows):
            body["paging"] = {"next": {"after": str(following)}}
        return reply(200, body)

    def _batch_read(self, request: Request, kind: str) -> Reply:
        query = _object(request)
        if query is None or not isinstance(query.get("inputs"), list):
            return _invalid("Invalid input JSON: 'inputs' is required")
        histories = query.get("propertiesWithHistory") or []
        most = 50 if histories else 100
        if len(query["inputs"]) > most:
            return _invalid(
                f"The maximum number of inputs supported in a batch request is {most}. "
                f"Received {len(query['inputs'])}"
            )
        ids = [str(item.get("id")) for item in query["inputs"]]
        rows = [self.records[kind].get(identity) for identity in dict.fromkeys(ids)]
        known = [row for row in rows if row is not None and row.archived_at is None]
        missing = sorted(set(ids) - {row.id for row in known})
        results = [_document(kind, row, query.get("properties") or [], histories) for row in known]
        return _batch(
            results,
            missing,
            f"Could not get some {kind[:-1].upper()} objects, they may be "
            "deleted or not exist. Check that ids are valid.",
            "OBJECT_NOT_FOUND",
            None,
        )

    def _associations(self, request: Request, source: str, target: str) -> Reply:
        query = _object(request)
        if query is None or not isinstance(query.get("inputs"), list):
            return _invalid("Invalid input JSON: 'inputs' is required")
        if len(query["inputs"]) > 1000:
            return _invalid("The maximum number of inputs supported in a batch request is 1000")
        results, missing = [], []
        for identity in (str(item.get("id")) for item in query["inputs"]):
            row = self.records[source].get(identity)
            linked = row.associated if row is not None and source != target else []
            if not linked:
                missing.append(identity)
                continue
            results.append(
                {
                    "from": {"id": identity},
                    "to": [
                        {
                            "toObjectId": int(other),
                            "associationTypes": [
                                {
                                    "category": "HUBSPOT_DEFINED",
                                    "typeId": 3 if source == "deals" else 4,
                                    "label": None,
                                }
                            ],
                        }
                        for other in linked
                    ],
                }
            )
        return _batch(
            results,
            missing,
            f"No {target[:-1]} is associated with some of the {source}.",
            "OBJECT_NOT_FOUND",
            "crm.associations.NO_ASSOCIATIONS_FOUND",
        )


def _plural(name: str) -> str:
    return {"0-1": "contacts", "0-3": "deals", "contact": "contacts", "deal": "deals"}.get(
        name, name
    )


def _object(request: Request) -> dict[str, Any] | None:
    try:
        value = request.json()
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def rate_limited(policy: str, retry_after: float | None = None) -> Reply:
    """HubSpot's 429."""
    headers = {} if retry_after is None else {"Retry-After": f"{retry_after:g}"}
    return Reply(
        429,
        reply(
            429,
            {
                "status": "error",
                "message": "You have reached your secondly limit.",
                "errorType": "RATE_LIMIT",
                "correlationId": _CORRELATION,
                "policyName": policy,
                "category": "RATE_LIMITS",
            },
        ).content,
        headers,
    )


def _problem(status: int, message: str, category: str) -> Reply:
    return reply(
        status,
        {
            "status": "error",
            "message": message,
            "correlationId": _CORRELATION,
            "category": category,
        },
    )


def _invalid(message: str) -> Reply:
    return _problem(400, message, "VALIDATION_ERROR")


def _batch(
    results: list[dict[str, Any]],
    missing: list[str],
    message: str,
    category: str,
    sub_category: str | None,
) -> Reply:
    moment = "2026-01-01T00:00:00.000Z"
    body: dict[str, Any] = {
        "status": "COMPLETE",
        "results": results,
        "startedAt": moment,
        "completedAt": moment,
    }
    if not missing:
        return reply(200, body)
    error: dict[str, Any] = {
        "status": "error",
        "category": category,
        "message": message,
        "context": {"ids": missing},
    }
    if sub_category:
        error["subCategory"] = sub_category
    body["numErrors"] = 1
    body["errors"] = [error]
    return reply(207, body)


def _document(
    kind: str, row: Record, wanted: Iterable[str], histories: list[str]
) -> dict[str, Any]:
    always = ("createdate", "hs_object_id", _MODIFIED[kind])
    names = [*always, *(wanted or ())] if wanted else list(_DEFAULTS[kind])
    document: dict[str, Any] = {
        "id": row.id,
        # Empty properties are null, unknown ones are left out of nothing: also null.
        "properties": {name: row.properties.get(name) or None for name in names},
        "createdAt": utc_milliseconds(row.created),
        "updatedAt": utc_milliseconds(row.modified),
        "archived": row.archived_at is not None,
    }
    if row.archived_at is not None:
        document["archivedAt"] = utc_milliseconds(row.archived_at)
    if histories:
        document["propertiesWithHistory"] = {
            name: row.histories.get(name, []) for name in histories
        }
    return document


def _contact(world: World, contact: Contact, account_opened: int | None) -> Record:
    """account_opened: since when the person has an account in the shop."""
    properties = dict(contact.constants)
    was_customer = account_opened is not None and account_opened <= contact.born
    # What copied customers into the CRM wrote the account's id along for every other one.
    if was_customer and contact.person.number % 2 == 0:
        properties[ACCOUNT_PROPERTY] = str(world.account_ids[contact.key])
    histories: dict[str, list[dict[str, str]]] = {}
    modified = contact.born
    for name, facts in contact.histories.items():
        seen = sorted(fact for fact in facts if fact[0] < world.cutoff)
        if not seen:
            continue
        properties[name] = seen[-1][1]
        modified = max(modified, seen[-1][0])
        histories[name] = _history(seen)
    archived = contact.archived_at if _past(world, contact.archived_at) else None
    identity = world.contact_ids[contact.key]
    properties |= {
        "createdate": utc_milliseconds(contact.born),
        "lastmodifieddate": utc_milliseconds(modified),
        "hs_object_id": identity,
    }
    return Record(identity, contact.born, modified, properties, histories, archived)


def _past(world: World, instant: int | None) -> bool:
    return instant is not None and instant < world.cutoff


def _history(facts: list[tuple[int, str, str]]) -> list[dict[str, str]]:
    """Newest first, as HubSpot lists them."""
    return [
        {"value": value, "timestamp": utc_milliseconds(at), "sourceType": source}
        for at, value, source in reversed(facts)
    ]


def _deal(world: World, deal: Deal) -> Record:
    stages = [stage for stage in deal.stages if stage[0] < world.cutoff]
    at, stage = stages[-1]
    closed = stage in ("closedwon", "closedlost")
    archived = deal.archived_at if _past(world, deal.archived_at) else None
    identity = world.deal_ids[deal.key]
    properties = {
        "dealname": f"Deal {identity}",
        "dealstage": stage,
        "pipeline": "default",
        "amount": f"{deal.amount / 100:.2f}",
        "deal_currency_code": deal.currency,
        "closedate": utc_milliseconds(at if closed else deal.born + 45 * 86_400),
        "hs_is_closed": "true" if closed else "false",
        "hs_is_closed_won": "true" if stage == "closedwon" else "false",
        "createdate": utc_milliseconds(deal.born),
        "hs_lastmodifieddate": utc_milliseconds(at),
        "hs_object_id": identity,
    }
    linked = [world.contact_ids[deal.contact_key]] if deal.contact_key else []
    histories = {"dealstage": _history([(when, name, "CRM_UI") for when, name in stages])}
    return Record(identity, deal.born, at, properties, histories, archived, linked)


def _property_definitions(kind: str) -> Reply:
    names = sorted(
        {*_DEFAULTS[kind], *((*HISTORIES, ACCOUNT_PROPERTY) if kind == "contacts" else ())}
    )
    return reply(200, {"results": [{"name": name, "type": "string"} for name in names]})


def _check_search(query: dict[str, Any]) -> str | None:
    limit, after = query.get("limit", 10), query.get("after") or 0
    groups = query.get("filterGroups") or []
    filters = [item for group in groups for item in group.get("filters", [])]
    if not str(limit).isdigit() or not 1 <= int(limit) <= 200:
        return f"Invalid limit '{limit}': it must be between 1 and 200"
    if not str(after).isdigit():
        return f"Invalid paging cursor '{after}'"
    if int(after) + int(limit) > _SEARCH_WINDOW:
        return "Paging through more than 10,000 results of one search is not possible"
    if len(groups) > 5 or len(filters) > 25 or any(len(g.get("filters", [])) > 10 for g in groups):
        return "A search takes at most 5 filter groups, 10 filters per group and 25 filters"
    if len(query.get("sorts") or []) > 1:
        return "Only one sort is supported"
    return None


def _searched(kind: str, rows: list[Record], query: dict[str, Any]) -> list[Record]:
    groups = query.get("filterGroups") or []
    if query.get("filters"):
        groups = [{"filters": query["filters"]}]
    tests = [[_test(item) for item in group.get("filters", [])] for group in groups]
    if tests:
        rows = [row for row in rows if any(all(test(row) for test in group) for group in tests)]
    name, descending = "createdate", False
    for sort in query.get("sorts") or []:
        if isinstance(sort, str):
            name, descending = sort.lstrip("-"), sort.startswith("-")
        else:
            name = sort.get("propertyName", name)
            descending = sort.get("direction", "ASCENDING") == "DESCENDING"
    return sorted(
        rows,
        key=lambda row: (_comparable(row.properties.get(name)), int(row.id)),
        reverse=descending,
    )


def _comparable(value: str | None) -> tuple[int, float, str]:
    """Numbers and dates by value, texts after them, missing first."""
    if not value:
        return (0, 0.0, "")
    if re.fullmatch(r"-?\d+(\.\d+)?", value) and not (value.isdigit() and len(value) >= 13):
        return (1, float(value), "")
    if value.isdigit() or re.match(r"\d{4}-\d\d-\d\d", value):
        try:
            return (1, float(parse_instant(value)), "")
        except ValueError:
            pass
    return (2, 0.0, value.lower())


def _test(item: dict[str, Any]) -> Callable[[Record], bool]:
    name, operator = str(item.get("propertyName")), str(item.get("operator"))
    value = _comparable(str(item["value"])) if "value" in item else None
    high = _comparable(str(item["highValue"])) if "highValue" in item else None
    values = {_comparable(str(one)) for one in item.get("values", [])}

    def of(row: Record) -> tuple[int, float, str]:
        return _comparable(row.properties.get(name))

    unary: dict[str, Callable[[Record], bool]] = {
        "HAS_PROPERTY": lambda row: of(row)[0] > 0,
        "NOT_HAS_PROPERTY": lambda row: of(row)[0] == 0,
        "IN": lambda row: of(row) in values,
        "NOT_IN": lambda row: of(row)[0] > 0 and of(row) not in values,
    }
    if operator in unary:
        return unary[operator]
    if value is None:
        raise ValueError(f"The filter on '{name}' with operator {operator} needs a value")
    bound: tuple[int, float, str] = value
    binary: dict[str, Callable[[Record], bool]] = {
        "EQ": lambda row: of(row) == bound,
        "NEQ": lambda row: of(row) != bound,
        "GT": lambda row: of(row)[0] > 0 and of(row) > bound,
        "GTE": lambda row: of(row)[0] > 0 and of(row) >= bound,
        "LT": lambda row: of(row)[0] > 0 and of(row) < bound,
        "LTE": lambda row: of(row)[0] > 0 and of(row) <= bound,
        "BETWEEN": lambda row: of(row)[0] > 0 and high is not None and bound <= of(row) <= high,
        "CONTAINS_TOKEN": lambda row: bound[2].strip("*") in of(row)[2],
    }
    if operator not in binary:
        raise ValueError(f"Invalid operator '{operator}'")
    return binary[operator]
