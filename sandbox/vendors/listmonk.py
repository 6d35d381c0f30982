"""listmonk 6: subscribers, lists, import and bounces.

Imitated (statement by statement after its SQL): POST /api/subscribers (409 for a known address,
whatever its case), GET with ``query``, ``list_id``, ``subscription_status``, ``search``, ``page``,
``per_page`` (also ``all``), PUT (replaces attribs, name and, where given, lists), PATCH (merges
attribs, keeps lists), DELETE; PUT /api/subscribers/lists add, remove, unsubscribe (add with a
status overwrites the subscription's status, unsubscribed and blocklisted people included: the
caller has to look); PUT blocklist; /api/lists; POST /api/import/subscribers (one job at a time,
bad rows only in the text log, overwrite replaces attribs); GET /api/bounces. A hard bounce and a
complaint blocklist the subscriber, listmonk's default action.

``query`` understands comparisons of id, email, name, status, created_at and updated_at joined by
AND, and ``IN``; anything else is answered as PostgreSQL would refuse it.
"""

from __future__ import annotations

import csv
import io
import json
import re
import uuid
import zipfile
from collections.abc import Callable
from email.parser import BytesParser
from email.policy import HTTP
from typing import Any

from sandbox.clock import parse_instant, utc_zulu
from sandbox.messages import Reply, Request, reply
from sandbox.people import ToolEvent
from sandbox.store import Store
from sandbox.tool_history import FOREIGN_LISTS, NEWSLETTER

API_USER = "kundenkreis"
API_TOKEN = "lm_3f9a1c7e5b2d4860a9c8e7d6f5b4a392"  # noqa: S105 (opens the sandbox only)
EMAIL = re.compile(r"[^@\s]+@[^@\s.]+(\.[^@\s.]+)+")
_SUBSCRIPTION = ("unconfirmed", "confirmed", "unsubscribed")
_STATUSES = ("enabled", "disabled", "blocklisted")

Document = dict[str, Any]


class Listmonk:
    """The tool's API and state. `now` gives the instant that writes are stamped with."""

    def __init__(self, store: Store, now: Callable[[], int]) -> None:
        self._store, self._now = store, now
        self.lists: dict[int, Document] = {}
        self.subscribers: dict[int, Document] = {}
        self.bounces: dict[int, Document] = {}
        self._by_email: dict[str, int] = {}
        self._session: Document = {"name": "", "total": 0, "imported": 0, "status": "none"}
        self._log = ""
        self._next = {"lists": 1, "subscribers": 1, "bounces": 1}

    # State

    def restore(self) -> None:
        """Take up the state the store holds."""
        for name in ("lists", "subscribers", "bounces"):
            documents = self._store.documents(f"listmonk.{name}")
            getattr(self, name).update({int(key): value for key, value in documents.items()})
            self._next[name] = max(getattr(self, name), default=0) + 1
        for row in self.subscribers.values():
            row["lists"] = {int(key): value for key, value in row["lists"].items()}
            self._by_email[row["email"]] = row["id"]
        for name, last in self._store.documents("listmonk.counters").items():
            self._next[name] = last + 1
        session = self._store.documents("listmonk.import").get("1")
        if session:
            self._session, self._log = session["session"], session["log"]

    def install(self, at: int) -> None:
        """A fresh tool: the newsletter, and three lists that belong to colleagues."""
        self._new_list(NEWSLETTER, "public", "double", ["newsletter"], at)
        for name in FOREIGN_LISTS:
            self._new_list(name, "private", "single", ["by hand"], at)

    def apply(self, event: ToolEvent) -> None:
        """Let something happen in the tool that nobody asked for through the API."""
        row = self.subscribers.get(self._by_email.get(event.address.lower(), -1))
        if event.kind in ("signup", "import"):
            self._sign_up(event, row)
        elif row is not None and event.kind == "confirm":
            self._subscribe(row, self._list_id(NEWSLETTER), "confirmed", event.at)
            self._subscription(row, self._list_id(NEWSLETTER))["meta"] = {"optin_ip": "192.0.2.1"}
        elif row is not None and event.kind == "unsubscribe":
            self._leave(row, list(row["lists"]), event.at)
        elif row is not None and event.kind == "join":
            self._subscribe(row, self._list_id(event.details["audience"]), "confirmed", event.at)
        elif row is not None and event.kind in ("bounce", "complaint"):
            self._record_bounce(row, "hard" if event.kind == "bounce" else "complaint", event.at)
        elif row is not None and event.kind == "blocklist":
            self._blocklist(row, event.at)

    def _sign_up(self, event: ToolEvent, row: Document | None) -> None:
        if row is None:
            name = f"{event.details['first_name']} {event.details['last_name']}"
            attributes = {"language": event.details["language"]}
            row = self._new_subscriber(event.address, name, "enabled", attributes, event.at)
        if event.kind == "import":
            self._subscribe(row, self._list_id(FOREIGN_LISTS[2]), "confirmed", event.at)
        else:
            self._subscribe(row, self._list_id(NEWSLETTER), "unconfirmed", event.at)

    def audiences(self) -> dict[str, dict[str, str]]:
        """List name to address to subscription status."""
        members: dict[str, dict[str, str]] = {row["name"]: {} for row in self.lists.values()}
        for row in self.subscribers.values():
            for list_id, subscription in row["lists"].items():
                members[self.lists[list_id]["name"]][row["email"]] = subscription["status"]
        return members

    def act(self, address: str, kind: str) -> bool:
        """unsubscribe, blocklist, bounce, complaint or confirm for an address; False if unknown."""
        if address.lower() not in self._by_email:
            return False
        self.apply(ToolEvent(self._now(), "control", "listmonk", kind, address, {}))
        return True

    def _list_id(self, name: str) -> int:
        return next((row["id"] for row in self.lists.values() if row["name"] == name), 1)

    def _identity(self, name: str) -> int:
        number = self._next[name]
        self._next[name] = number + 1
        self._store.put("listmonk.counters", name, number)
        return number

    def _new_list(
        self, name: str, kind: str, optin: str, tags: list[str], at: int, description: str = ""
    ) -> Document:
        identity = self._identity("lists")
        row = {
            "id": identity,
            "created_at": at,
            "updated_at": at,
            "uuid": str(uuid.uuid5(uuid.NAMESPACE_URL, f"list/{identity}")),
            "name": name,
            "type": kind,
            "optin": optin,
            "status": "active",
            "tags": tags,
            "description": description,
        }
        self.lists[identity] = row
        self._store.put("listmonk.lists", identity, row)
        return row

    def _new_subscriber(
        self, email: str, name: str, status: str, attributes: Document, at: int
    ) -> Document:
        identity = self._identity("subscribers")
        row = {
            "id": identity,
            "created_at": at,
            "updated_at": at,
            "uuid": str(uuid.uuid5(uuid.NAMESPACE_URL, f"subscriber/{identity}")),
            "email": email.strip().lower(),
            "name": name or email.split("@")[0].title(),
            "attribs": attributes,
            "status": status,
            "lists": {},
        }
        self.subscribers[identity] = row
        self._by_email[str(row["email"])] = identity
        self._keep(row)
        return row

    def _keep(self, row: Document) -> None:
        self._store.put("listmonk.subscribers", row["id"], row)

    def _subscription(self, row: Document, list_id: int) -> Document:
        subscription: Document = row["lists"][list_id]
        return subscription

    def _subscribe(self, row: Document, list_id: int, status: str, at: int) -> None:
        """Insert a subscription or overwrite its status; an empty status keeps a known one."""
        known = row["lists"].get(list_id)
        if known is None:
            row["lists"][list_id] = {
                "status": status or "unconfirmed",
                "created_at": at,
                "updated_at": at,
                "meta": {},
            }
        elif status:
            known["status"], known["updated_at"] = status, at
        self._keep(row)

    def _leave(self, row: Document, list_ids: list[int], at: int) -> None:
        for list_id in list_ids:
            if list_id in row["lists"]:
                row["lists"][list_id] |= {"status": "unsubscribed", "updated_at": at}
        self._keep(row)

    def _blocklist(self, row: Document, at: int) -> None:
        row["status"], row["updated_at"] = "blocklisted", at
        self._leave(row, list(row["lists"]), at)

    def _record_bounce(self, row: Document, kind: str, at: int) -> None:
        identity = self._identity("bounces")
        bounce = {
            "id": identity,
            "type": kind,
            "source": "api",
            "meta": {},
            "created_at": at,
            "email": row["email"],
            "subscriber_uuid": row["uuid"],
            "subscriber_id": row["id"],
            "campaign": None,
        }
        self.bounces[identity] = bounce
        self._store.put("listmonk.bounces", identity, bounce)
        self._blocklist(row, at)

    # API

    def handle(self, request: Request) -> Reply:
        """Answer one request."""
        if not _authorised(request):
            return _message(403, "invalid API credentials")
        path = request.path.rstrip("/")
        for method, pattern, action in self._routes():
            found = re.fullmatch(pattern, path)
            if found and method == request.method:
                try:
                    return action(request, *found.groups())
                except _Refused as refusal:
                    return _message(refusal.status, refusal.message)
        return _message(404, "Not Found")

    def _routes(self) -> list[tuple[str, str, Callable[..., Reply]]]:
        return [
            ("GET", "/api/health", lambda request: _data(True)),
            ("GET", "/api/subscribers", self._get_subscribers),
            ("POST", "/api/subscribers", self._post_subscriber),
            ("DELETE", "/api/subscribers", self._delete_subscribers),
            ("PUT", "/api/subscribers/lists", self._put_lists),
            ("PUT", "/api/subscribers/blocklist", self._put_blocklist),
            ("GET", r"/api/subscribers/(\d+)", self._get_subscriber),
            ("PUT", r"/api/subscribers/(\d+)", self._put_subscriber),
            ("PATCH", r"/api/subscribers/(\d+)", self._patch_subscriber),
            ("DELETE", r"/api/subscribers/(\d+)", self._delete_subscribers),
            ("PUT", r"/api/subscribers/(\d+)/blocklist", self._put_blocklist),
            ("GET", r"/api/subscribers/(\d+)/bounces", self._get_bounces),
            ("GET", "/api/lists", self._get_lists),
            ("POST", "/api/lists", self._post_list),
            ("GET", r"/api/lists/(\d+)", self._get_list),
            ("PUT", r"/api/lists/(\d+)", self._put_list),
            ("DELETE", r"/api/lists/(\d+)", self._delete_list),
            ("GET", "/api/bounces", self._get_bounces),
            ("GET", "/api/import/subscribers", lambda request: self._import_status()),
            ("POST", "/api/import/subscribers", self._import),
            ("DELETE", "/api/import/subscribers", self._clear_import),
            ("GET", "/api/import/subscribers/logs", lambda request: _data(self._log)),
        ]

    def _get_subscribers(self, request: Request) -> Reply:
        rows = list(self.subscribers.values())
        test = _compile_query(request.one("query"))
        if request.one("query"):
            rows = [row for row in rows if test(row)]
        wanted, status = (
            set(map(_integer, request.many("list_id"))),
            request.one("subscription_status"),
        )
        if wanted:
            rows = [
                row
                for row in rows
                if any(
                    not status or subscription["status"] == status
                    for list_id, subscription in row["lists"].items()
                    if list_id in wanted
                )
            ]
        search = request.one("search").lower()
        if search:
            rows = [row for row in rows if search in row["email"] or search in row["name"].lower()]
        _sort(rows, request, ("name", "status", "created_at", "updated_at"))
        return self._page(request, rows, self._subscriber_document)

    def _page(
        self, request: Request, rows: list[Document], document: Callable[[Document], Document]
    ) -> Reply:
        page = max(1, _integer(request.one("page", "1")))
        size = request.one("per_page", "20")
        number = len(rows) if size == "all" else max(1, _integer(size))
        chosen = rows if size == "all" else rows[(page - 1) * number : page * number]
        return _data(
            {
                "results": [document(row) for row in chosen],
                "search": request.one("search"),
                "query": request.one("query"),
                "total": len(rows),
                "per_page": 0 if size == "all" else number,
                "page": page,
            }
        )

    def _subscriber_document(self, row: Document) -> Document:
        subscriptions = [
            {
                "subscription_status": subscription["status"],
                "subscription_created_at": utc_zulu(subscription["created_at"]),
                "subscription_updated_at": utc_zulu(subscription["updated_at"]),
                "subscription_meta": subscription["meta"],
                **_list_document(self.lists[list_id]),
            }
            for list_id, subscription in sorted(row["lists"].items())
        ]
        return {
            **row,
            "created_at": utc_zulu(row["created_at"]),
            "updated_at": utc_zulu(row["updated_at"]),
            "lists": subscriptions,
        }

    def _subscriber(self, identity: str) -> Document:
        row = self.subscribers.get(int(identity))
        if row is None:
            raise _Refused(400, "Subscriber not found")
        return row

    def _get_subscriber(self, request: Request, identity: str) -> Reply:
        return _data(self._subscriber_document(self._subscriber(identity)))

    def _post_subscriber(self, request: Request) -> Reply:
        body = _body(request)
        email = str(body.get("email", "")).strip().lower()
        if not EMAIL.fullmatch(email):
            raise _Refused(400, "Invalid email.")
        if email in self._by_email:
            raise _Refused(409, "E-mail already exists.")
        status = body.get("status") or "enabled"
        if status not in _STATUSES:
            raise _Refused(400, "Invalid status.")
        at = self._now()
        row = self._new_subscriber(
            email, body.get("name", ""), status, body.get("attribs") or {}, at
        )
        confirmed = bool(body.get("preconfirm_subscriptions"))
        for list_id in self._known_lists(body.get("lists") or []):
            chosen = "confirmed" if confirmed else "unconfirmed"
            self._subscribe(row, list_id, "unsubscribed" if status == "blocklisted" else chosen, at)
        return _data(self._subscriber_document(row), members=1)

    def _known_lists(self, identities: Any) -> list[int]:
        return [int(identity) for identity in identities if int(identity) in self.lists]

    def _put_subscriber(self, request: Request, identity: str) -> Reply:
        row, body, at = self._subscriber(identity), _body(request), self._now()
        self._overwrite(row, body)
        if body.get("attribs") is not None:
            row["attribs"] = body["attribs"]
        if "lists" in body:
            wanted = self._known_lists(body["lists"] or [])
            row["lists"] = {key: value for key, value in row["lists"].items() if key in wanted}
            confirmed = "confirmed" if body.get("preconfirm_subscriptions") else "unconfirmed"
            for list_id in wanted:
                if row["lists"].get(list_id, {}).get("status") not in ("confirmed", "unsubscribed"):
                    self._subscribe(row, list_id, confirmed, at)
        row["updated_at"] = at
        if row["status"] == "blocklisted":
            self._leave(row, list(row["lists"]), at)
        self._keep(row)
        return _data(self._subscriber_document(row), members=1)

    def _patch_subscriber(self, request: Request, identity: str) -> Reply:
        row, body = self._subscriber(identity), _body(request)
        self._overwrite(row, body)
        row["attribs"] = {**row["attribs"], **(body.get("attribs") or {})}
        row["updated_at"] = self._now()
        for list_id in self._known_lists(body.get("lists") or []):
            self._subscribe(row, list_id, "", row["updated_at"])
        self._keep(row)
        return _data(self._subscriber_document(row), members=1)

    def _overwrite(self, row: Document, body: Document) -> None:
        email = str(body.get("email") or row["email"]).strip().lower()
        if email != row["email"]:
            if not EMAIL.fullmatch(email):
                raise _Refused(400, "Invalid email.")
            if email in self._by_email:
                raise _Refused(409, "E-mail already exists.")
            self._by_email[email] = self._by_email.pop(row["email"])
            row["email"] = email
        if body.get("status") and body["status"] not in _STATUSES:
            raise _Refused(400, "Invalid status.")
        row["name"] = body.get("name") or row["name"]
        row["status"] = body.get("status") or row["status"]

    def _delete_subscribers(self, request: Request, identity: str | None = None) -> Reply:
        identities = [identity] if identity else request.many("id")
        if not identities:
            raise _Refused(400, "No IDs given.")
        gone = 0
        for one in identities:
            row = self.subscribers.pop(_integer(one), None)
            if row is not None:
                del self._by_email[row["email"]]
                self._store.put("listmonk.subscribers", row["id"], None)
                gone += 1
        return _data(True, members=gone)

    def _put_lists(self, request: Request) -> Reply:
        body = _body(request)
        identities, targets = body.get("ids") or [], body.get("target_list_ids") or []
        action, status = body.get("action"), body.get("status") or ""
        if not identities:
            raise _Refused(400, "No subscribers given.")
        if not targets:
            raise _Refused(400, "No lists given.")
        if action not in ("add", "remove", "unsubscribe"):
            raise _Refused(400, "Invalid action.")
        if status and status not in _SUBSCRIPTION:
            raise _Refused(400, "Invalid status.")
        if action == "add" and any(one not in self.subscribers for one in identities):
            # The insert violates a foreign key, and the whole statement fails.
            raise _Refused(
                500,
                "Error updating subscribers: pq: insert or update on table "
                '"subscriber_lists" violates foreign key constraint',
            )
        at = self._now()
        for row in (self.subscribers[one] for one in identities if one in self.subscribers):
            self._move(row, action, self._known_lists(targets), status, at)
        return _data(True, members=len(identities))

    def _move(self, row: Document, action: str, targets: list[int], status: str, at: int) -> None:
        if action == "unsubscribe":
            self._leave(row, targets, at)
            return
        for list_id in targets:
            if action == "add":
                self._subscribe(row, list_id, status, at)
            else:
                row["lists"].pop(list_id, None)
        self._keep(row)

    def _put_blocklist(self, request: Request, identity: str | None = None) -> Reply:
        identities = [int(identity)] if identity else _body(request).get("ids") or []
        for one in identities:
            if one in self.subscribers:
                self._blocklist(self.subscribers[one], self._now())
        return _data(True, members=len(identities))

    def _get_bounces(self, request: Request, identity: str | None = None) -> Reply:
        rows = list(self.bounces.values())
        if identity:
            rows = [row for row in rows if row["subscriber_id"] == int(identity)]
        _sort(rows, request, ("email", "source", "created_at"))
        return self._page(
            request, rows, lambda row: {**row, "created_at": utc_zulu(row["created_at"])}
        )

    def _get_lists(self, request: Request) -> Reply:
        rows = list(self.lists.values())
        query, tags = request.one("query").lower(), set(request.many("tag"))
        if query:
            rows = [row for row in rows if query in row["name"].lower()]
        if tags:
            rows = [row for row in rows if tags <= set(row["tags"])]
        _sort(rows, request, ("name", "status", "created_at", "updated_at"))
        counts: dict[int, dict[str, int]] = {}
        for row in self.subscribers.values():
            for list_id, subscription in row["lists"].items():
                by_status = counts.setdefault(list_id, {})
                by_status[subscription["status"]] = by_status.get(subscription["status"], 0) + 1
        return self._page(request, rows, lambda row: _counted(row, counts.get(row["id"], {})))

    def _list(self, identity: str) -> Document:
        row = self.lists.get(int(identity))
        if row is None:
            raise _Refused(400, "List not found")
        return row

    def _get_list(self, request: Request, identity: str) -> Reply:
        row = self._list(identity)
        statuses = [
            subscriber["lists"][row["id"]]["status"]
            for subscriber in self.subscribers.values()
            if row["id"] in subscriber["lists"]
        ]
        return _data(_counted(row, {status: statuses.count(status) for status in set(statuses)}))

    def _post_list(self, request: Request) -> Reply:
        body = _body(request)
        name = str(body.get("name", ""))
        if not 1 <= len(name) <= 200:
            raise _Refused(400, "Invalid length for name")
        row = self._new_list(
            name,
            body.get("type") or "private",
            body.get("optin") or "single",
            body.get("tags") or [],
            self._now(),
            body.get("description") or "",
        )
        return _data(_counted(row, {}))

    def _put_list(self, request: Request, identity: str) -> Reply:
        row, body = self._list(identity), _body(request)
        for name in ("name", "type", "optin", "tags", "description"):
            row[name] = body.get(name) or row[name]
        row["updated_at"] = self._now()
        self._store.put("listmonk.lists", row["id"], row)
        return self._get_list(request, identity)

    def _delete_list(self, request: Request, identity: str) -> Reply:
        row = self._list(identity)
        del self.lists[row["id"]]
        self._store.put("listmonk.lists", row["id"], None)
        for subscriber in self.subscribers.values():
            if subscriber["lists"].pop(row["id"], None):
                self._keep(subscriber)
        return _data(True)

    # Import

    def _import_status(self) -> Reply:
        answer = _data(dict(self._session))
        if self._session["status"] == "importing":
            # The job works between two polls: the next one finds it finished.
            self._session["status"] = "finished"
            self._keep_session()
        return answer

    def _keep_session(self) -> None:
        self._store.put("listmonk.import", 1, {"session": self._session, "log": self._log})

    def _clear_import(self, request: Request) -> Reply:
        self._session = {"name": "", "total": 0, "imported": 0, "status": "none"}
        self._log = ""
        self._keep_session()
        return _data(dict(self._session))

    def _import(self, request: Request) -> Reply:
        if self._session["status"] == "importing":
            raise _Refused(
                400,
                "An import is already running. Wait for it to finish or stop it "
                "before trying again.",
            )
        parameters, name, content = _multipart(request)
        mode = parameters.get("mode")
        if mode not in ("subscribe", "blocklist"):
            raise _Refused(400, "Invalid mode")
        status = parameters.get("subscription_status") or (
            "unconfirmed" if mode == "subscribe" else "unsubscribed"
        )
        if status not in _SUBSCRIPTION:
            raise _Refused(400, "Invalid subscription status")
        delimiter = parameters.get("delim", "")
        if len(delimiter) != 1:
            raise _Refused(400, "`delim` should be a single character")
        if not name.lower().endswith(".csv"):
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                content = archive.read(archive.namelist()[0])
        rows = list(csv.reader(io.StringIO(content.decode()), delimiter=delimiter))
        self._session = {
            "name": name,
            "total": max(0, len(rows) - 1),
            "imported": 0,
            "status": "importing",
        }
        self._log = f"processing '{name}'\n"
        imported = self._load_rows(rows, {**parameters, "mode": mode, "status": status})
        self._session["imported"] = imported
        self._log += "imported finished\n"
        self._keep_session()
        return _data({**self._session, "imported": 0}, members=imported)

    def _load_rows(self, rows: list[list[str]], parameters: Document) -> int:
        header = [name.strip().lower() for name in rows[0]] if rows else []
        if "email" not in header:
            self._log += "'email' column not found\n"
            self._session["status"] = "failed"
            return 0
        imported = 0
        for number, cells in enumerate(rows[1:], start=2):
            values = dict(zip(header, cells, strict=False))
            email = values.get("email", "").strip().lower()
            if not EMAIL.fullmatch(email):
                self._log += f"skipping line {number}: Invalid email\n"
                continue
            attributes = _attributes(values.get("attributes", ""))
            if attributes is None:
                self._log += f"skipping invalid attributes JSON on line {number}\n"
                attributes = {}
            self._load_row(email, values.get("name", ""), attributes, parameters)
            imported += 1
        return imported

    def _load_row(self, email: str, name: str, attributes: Document, parameters: Document) -> None:
        """upsert-subscriber and upsert-blocklist-subscriber of listmonk's queries."""
        at = self._now()
        row = self.subscribers.get(self._by_email.get(email, -1))
        if row is None:
            row = self._new_subscriber(email, name, "enabled", attributes, at)
        elif _flag(parameters, "overwrite_userinfo"):
            row["name"], row["attribs"] = name or row["name"], attributes
        row["updated_at"] = at
        if parameters["mode"] == "blocklist":
            self._blocklist(row, at)
            return
        for list_id in self._known_lists(parameters.get("lists") or []):
            new = "unsubscribed" if row["status"] == "blocklisted" else parameters["status"]
            known = list_id in row["lists"]
            keep = known and not _flag(parameters, "overwrite_subscription_status")
            self._subscribe(row, list_id, "" if keep else new, at)
        self._keep(row)


class _Refused(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


def _authorised(request: Request) -> bool:
    if request.basic() == (API_USER, API_TOKEN):
        return True
    return request.headers.get("authorization") == f"token {API_USER}:{API_TOKEN}"


def _data(value: Any, members: int = 0) -> Reply:
    return reply(200, {"data": value}, members=members)


def _message(status: int, message: str) -> Reply:
    return reply(status, {"message": message})


def _body(request: Request) -> Document:
    try:
        body = request.json()
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise _Refused(400, "Invalid request: the body is not a JSON object")
    return body


def _integer(text: str) -> int:
    return int(text) if re.fullmatch(r"-?\d+", text) else 0


def _flag(parameters: Document, name: str) -> bool:
    """`overwrite` stands for both flags, as before listmonk 5."""
    return bool(parameters.get(name, parameters.get("overwrite", False)))


def _attributes(text: str) -> Document | None:
    if not text.strip():
        return {}
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _sort(rows: list[Document], request: Request, allowed: tuple[str, ...]) -> None:
    name = request.one("order_by")
    descending = request.one("order", "ASC" if name else "DESC").upper() == "DESC"
    if name in allowed:
        rows.sort(key=lambda row: (row[name], row["id"]), reverse=descending)
    else:
        rows.sort(key=lambda row: row["id"], reverse=descending)


def _list_document(row: Document) -> Document:
    return {
        **row,
        "created_at": utc_zulu(row["created_at"]),
        "updated_at": utc_zulu(row["updated_at"]),
    }


def _counted(row: Document, by_status: dict[str, int]) -> Document:
    return {
        **_list_document(row),
        "subscriber_count": sum(by_status.values()),
        "subscriber_statuses": by_status,
    }


def _multipart(request: Request) -> tuple[Document, str, bytes]:
    """The `params` and `file` parts of a multipart form."""
    head = f"Content-Type: {request.headers.get('content-type', '')}\r\n\r\n".encode()
    form = BytesParser(policy=HTTP).parsebytes(head + request.body)
    parts = {
        part.get_param("name", header="content-disposition"): part
        for part in (form.iter_parts() if form.is_multipart() else ())
    }
    if "params" not in parts:
        raise _Refused(400, "Invalid `params` field: unexpected end of JSON input")
    try:
        parameters = json.loads(_content(parts["params"]))
    except ValueError as error:
        raise _Refused(400, f"Invalid `params` field: {error}") from None
    if "file" not in parts:
        raise _Refused(400, "Invalid `file`: http: no such file")
    return parameters, parts["file"].get_filename() or "", _content(parts["file"])


def _content(part: Any) -> bytes:
    payload = part.get_payload(decode=True)
    return payload if isinstance(payload, bytes) else b""


_CONDITION = re.compile(
    r"(?:lower\()?(?:subscribers\.)?(id|email|name|status|created_at|updated_at)\)?\s*"
    r"(=|!=|<>|>=|<=|>|<|in)\s*"
    r"(\((?:\s*(?:'(?:[^']|'')*'|\d+)\s*,?)+\)|'(?:[^']|'')*'|\d+)",
    re.IGNORECASE,
)
_LITERAL = re.compile(r"'((?:[^']|'')*)'|(\d+)")


def _compile_query(text: str) -> Callable[[Document], bool]:
    """A predicate for the supported part of SQL."""
    tests: list[Callable[[Document], bool]] = []
    rest = text.strip()
    while rest:
        found = _CONDITION.match(rest)
        if found is None:
            raise _Refused(
                400,
                "Error fetching subscribers: pq: syntax error (the sandbox knows "
                "comparisons of subscriber columns joined by AND)",
            )
        tests.append(_comparison(found[1].lower(), found[2].lower(), found[3]))
        rest = rest[found.end() :].strip()
        if rest and not rest[:4].lower() == "and ":
            raise _Refused(
                400, f'Error fetching subscribers: pq: syntax error at or near "{rest[:8]}"'
            )
        rest = rest[4:].strip()
    return lambda row: all(test(row) for test in tests)


def _comparison(column: str, operator: str, literal: str) -> Callable[[Document], bool]:
    values: list[Any] = [
        number or quoted.replace("''", "'") for quoted, number in _LITERAL.findall(literal)
    ]
    if column == "id":
        values = [int(value) for value in values]
    elif column.endswith("_at"):
        values = [parse_instant(value) for value in values]
    if operator == "in":
        chosen = set(values)
        return lambda row: row[column] in chosen
    value = values[0]
    compare: dict[str, Callable[[Any], bool]] = {
        "=": lambda cell: cell == value,
        "!=": lambda cell: cell != value,
        "<>": lambda cell: cell != value,
        ">": lambda cell: cell > value,
        "<": lambda cell: cell < value,
        ">=": lambda cell: cell >= value,
        "<=": lambda cell: cell <= value,
    }
    chosen_compare = compare[operator]
    return lambda row: chosen_compare(row[column])
