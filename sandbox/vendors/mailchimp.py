"""Mailchimp Marketing API 3.0: one audience, its members, tags (= static segments) and batches.

Imitated: lists; members GET (``status``, ``since_last_changed``, ``before_last_changed``,
``count`` up to 1,000, ``offset``, ``fields``), PUT with ``status_if_new``, POST, PATCH, DELETE
(archives), delete-permanent (the address can never be imported again); POST /lists/{id} with up to
500 members and per-row ``errors``; static segments with up to 500 ``members_to_add`` and
``members_to_remove`` (addresses that are not in the audience are ignored without a word); tags,
which Mailchimp keeps as static segments; merge fields (values for unknown ones are dropped);
asynchronous batches with a tar.gz of results; 429 for the eleventh simultaneous connection. Setting
``subscribed`` for somebody who unsubscribed or bounced is refused with 400 "Member In Compliance
State".

A member with ``timestamp_signup`` and ``timestamp_opt`` confirmed a double opt-in; one with
``timestamp_opt`` alone was imported. Addresses are keyed by ``md5(lower(address))``.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
import uuid
from collections.abc import Callable, Iterable
from typing import Any

from sandbox.clock import parse_instant, utc_offset
from sandbox.messages import Reply, Request, reply
from sandbox.people import ToolEvent
from sandbox.store import Store
from sandbox.tool_history import FOREIGN_TAGS

API_KEY = "7f3a9c1e5b2d4860a9c8e7d6f5b4a392-sbx1"
LIST_ID = "c1e5b2d486"
CONNECTION_LIMIT = 10
EMAIL = re.compile(r"[^@\s]+@[^@\s.]+(\.[^@\s.]+)+")
_STATUSES = ("subscribed", "unsubscribed", "cleaned", "pending", "transactional")
_INSTANCE = "5f3c1f3e-1c55-4a0e-9a5b-8b6f0f5b7c11"
_TYPE = "https://mailchimp.com/developer/marketing/docs/errors/"

Document = dict[str, Any]


def subscriber_hash(address: str) -> str:
    """Mailchimp's key of a member."""
    return hashlib.md5(address.strip().lower().encode()).hexdigest()  # noqa: S324 (their API)


class Mailchimp:
    """The tool's API and state. `now` gives the instant that writes are stamped with."""

    def __init__(self, store: Store, now: Callable[[], int]) -> None:
        self._store, self._now = store, now
        self.lists: dict[str, Document] = {}
        self.members: dict[str, Document] = {}
        self.segments: dict[int, Document] = {}
        self.forgotten: dict[str, Document] = {}
        self.merge_fields: dict[int, Document] = {}
        self.batches: dict[str, Document] = {}
        self._next_segment = 10_001

    # State

    def restore(self) -> None:
        """Take up the state the store holds."""
        for name in ("lists", "members", "forgotten", "batches"):
            setattr(self, name, self._store.documents(f"mailchimp.{name}"))
        for name in ("segments", "merge_fields"):
            rows = self._store.documents(f"mailchimp.{name}")
            setattr(self, name, {int(key): row for key, row in rows.items()})
        for row in self.segments.values():
            row["members"] = dict(row["members"])
        last = self._store.documents("mailchimp.counters").get("segments", 10_000)
        self._next_segment = last + 1

    def install(self, at: int) -> None:
        """A fresh account: one audience, with the tags of colleagues."""
        self.lists[LIST_ID] = {"id": LIST_ID, "name": "Shop customers", "created_at": at}
        self._store.put("mailchimp.lists", LIST_ID, self.lists[LIST_ID])
        for number, (tag, name) in enumerate((("FNAME", "First Name"), ("LNAME", "Last Name")), 1):
            self._new_merge_field(tag, name, "text", number)
        for tag in FOREIGN_TAGS:
            self._new_segment(tag, at)

    def apply(self, event: ToolEvent) -> None:
        """Let something happen in the tool that nobody asked for through the API."""
        member = self.members.get(subscriber_hash(event.address))
        if event.kind in ("signup", "import"):
            self._sign_up(event, member)
        elif member is not None:
            _EVENTS[event.kind](self, member, event)

    def _sign_up(self, event: ToolEvent, member: Document | None) -> None:
        if subscriber_hash(event.address) in self.forgotten:
            return
        fields = {
            "FNAME": event.details.get("first_name", ""),
            "LNAME": event.details.get("last_name", ""),
        }
        if member is None:
            language = str(event.details.get("language", ""))
            member = self._new_member(event.address, "pending", fields, language, event.at)
        elif event.kind == "import":
            return  # an import does not bring back who is already there
        if event.kind == "import":
            self._set_status(member, "subscribed", event.at)
            member["timestamp_opt"] = event.at
        else:
            member["timestamp_signup"], member["timestamp_opt"] = event.at, None
            self._set_status(member, "pending", event.at)

    def _confirm(self, member: Document, event: ToolEvent) -> None:
        member["timestamp_opt"] = event.at
        self._set_status(member, "subscribed", event.at)

    def _unsubscribe(self, member: Document, event: ToolEvent) -> None:
        member["unsubscribe_reason"] = "N/A (Unsubscribed by the contact)"
        self._set_status(member, "unsubscribed", event.at)

    def _clean(self, member: Document, event: ToolEvent) -> None:
        self._set_status(member, "cleaned", event.at)

    def _complain(self, member: Document, event: ToolEvent) -> None:
        member["unsubscribe_reason"] = "Abuse complaint"
        self._set_status(member, "unsubscribed", event.at)

    def _join(self, member: Document, event: ToolEvent) -> None:
        self._tag(member, event.details["audience"], True, event.at)

    def _forget(self, member: Document, event: ToolEvent) -> None:
        self._delete_permanently(member)

    def act(self, address: str, kind: str) -> bool:
        """unsubscribe, bounce, complaint, confirm or forget for an address; False if unknown."""
        if subscriber_hash(address) not in self.members or kind not in _EVENTS:
            return False
        self.apply(ToolEvent(self._now(), "control", "mailchimp", kind, address, {}))
        return True

    def audiences(self) -> dict[str, dict[str, str]]:
        """Tag or static segment name to address to the member's status."""
        return {
            segment["name"]: {
                self.members[key]["email_address"]: self.members[key]["status"]
                for key in segment["members"]
            }
            for segment in self.segments.values()
        }

    def _new_member(
        self, address: str, status: str, fields: Document, language: str, at: int
    ) -> Document:
        key = subscriber_hash(address)
        member = {
            "id": key,
            "email_address": address.strip(),
            "status": status,
            "merge_fields": {row["tag"]: "" for row in self.merge_fields.values()} | fields,
            "language": language,
            "vip": False,
            "email_type": "html",
            "timestamp_signup": None,
            "timestamp_opt": at if status == "subscribed" else None,
            "last_changed": at,
            "created_at": at,
            "unsubscribe_reason": "",
        }
        self.members[key] = member
        self._keep(member)
        return member

    def _set_status(self, member: Document, status: str, at: int) -> None:
        member["status"], member["last_changed"] = status, at
        self._keep(member)

    def _keep(self, member: Document) -> None:
        self._store.put("mailchimp.members", member["id"], member)

    def _new_segment(self, name: str, at: int) -> Document:
        identity = self._next_segment
        self._next_segment += 1
        self._store.put("mailchimp.counters", "segments", identity)
        segment = {
            "id": identity,
            "name": name,
            "created_at": at,
            "updated_at": at,
            "members": {},
        }
        self.segments[identity] = segment
        self._keep_segment(segment)
        return segment

    def _keep_segment(self, segment: Document) -> None:
        self._store.put("mailchimp.segments", segment["id"], segment)

    def _new_merge_field(self, tag: str, name: str, kind: str, identity: int) -> Document:
        row = {"merge_id": identity, "tag": tag, "name": name, "type": kind, "list_id": LIST_ID}
        self.merge_fields[identity] = row
        self._store.put("mailchimp.merge_fields", identity, row)
        return row

    def _tag(self, member: Document, name: str, active: bool, at: int) -> None:
        segment = next((row for row in self.segments.values() if row["name"] == name), None)
        if segment is None:
            if not active:
                return
            segment = self._new_segment(name, at)
        if active:
            segment["members"].setdefault(member["id"], at)
        else:
            segment["members"].pop(member["id"], None)
        segment["updated_at"] = at
        self._keep_segment(segment)

    def _delete_permanently(self, member: Document) -> None:
        self.forgotten[member["id"]] = {"id": member["id"]}
        self._store.put("mailchimp.forgotten", member["id"], self.forgotten[member["id"]])
        self._drop(member)

    def _drop(self, member: Document) -> None:
        del self.members[member["id"]]
        self._store.put("mailchimp.members", member["id"], None)
        for segment in self.segments.values():
            if segment["members"].pop(member["id"], None) is not None:
                self._keep_segment(segment)

    # API

    def handle(self, request: Request) -> Reply:
        """Answer one request."""
        if request.path.startswith("/3.0/_results/"):
            return self._batch_results(request)
        if not _authorised(request):
            return problem(
                401,
                "API Key Invalid",
                "Your API key may be invalid, or you've attempted to access the wrong datacenter.",
            )
        if not request.path.startswith("/3.0"):
            return problem(404, "Resource Not Found", "The requested resource could not be found.")
        path = request.path[len("/3.0") :].rstrip("/")
        try:
            return self._dispatch(request, path)
        except _Refused as refusal:
            return problem(refusal.status, refusal.title, refusal.detail, refusal.errors)

    def _dispatch(self, request: Request, path: str) -> Reply:
        allowed = False
        for method, pattern, action in self._routes():
            found = re.fullmatch(pattern, path)
            if found is None:
                continue
            allowed = True
            if method == request.method:
                groups = list(found.groups())
                if path.startswith("/lists/"):
                    self._check_list(groups.pop(0))
                return action(request, *groups)
        if allowed:
            raise _Refused(
                405,
                "Method Not Allowed",
                "The requested method and resource are not "
                "compatible. See the Allow header for this resource's available methods.",
            )
        raise _Refused(404, "Resource Not Found", "The requested resource could not be found.")

    def _check_list(self, identity: str) -> None:
        if identity not in self.lists:
            raise _Refused(404, "Resource Not Found", "The requested resource could not be found.")

    def _routes(self) -> list[tuple[str, str, Callable[..., Reply]]]:
        one, member = r"/lists/(\w+)", r"/lists/(\w+)/members/([^/]+)"
        segment = r"/lists/(\w+)/segments/(\d+)"
        return [
            ("GET", "/ping", lambda request: reply(200, {"health_status": "Everything's Chimpy!"})),
            ("GET", "", self._root),
            ("GET", "/lists", self._get_lists),
            ("GET", one, self._get_list),
            ("POST", one, self._post_members),
            ("GET", one + "/members", self._get_members),
            ("POST", one + "/members", self._post_member),
            ("GET", member, self._get_member),
            ("PUT", member, self._put_member),
            ("PATCH", member, self._patch_member),
            ("DELETE", member, self._archive_member),
            ("POST", member + "/actions/delete-permanent", self._post_delete_permanent),
            ("GET", member + "/tags", self._get_tags),
            ("POST", member + "/tags", self._post_tags),
            ("GET", one + "/tag-search", self._search_tags),
            ("GET", one + "/segments", self._get_segments),
            ("POST", one + "/segments", self._post_segment),
            ("GET", segment, self._get_segment),
            ("POST", segment, self._batch_segment),
            ("PATCH", segment, self._patch_segment),
            ("DELETE", segment, self._delete_segment),
            ("GET", segment + "/members", self._get_segment_members),
            ("POST", segment + "/members", self._post_segment_member),
            ("DELETE", segment + "/members/([^/]+)", self._delete_segment_member),
            ("GET", one + "/merge-fields", self._get_merge_fields),
            ("POST", one + "/merge-fields", self._post_merge_field),
            ("GET", "/batches", self._get_batches),
            ("POST", "/batches", self._post_batch),
            ("GET", r"/batches/([\w-]+)", self._get_batch),
            ("DELETE", r"/batches/([\w-]+)", self._delete_batch),
        ]

    def _root(self, request: Request) -> Reply:
        return reply(200, {"account_id": "sandbox", "account_name": "Kundenkreis sandbox"})

    def _list_document(self, row: Document) -> Document:
        statuses = [member["status"] for member in self.members.values()]
        return {
            "id": row["id"],
            "name": row["name"],
            "date_created": utc_offset(row["created_at"]),
            "double_optin": True,
            "stats": {
                "member_count": statuses.count("subscribed"),
                "unsubscribe_count": statuses.count("unsubscribed"),
                "cleaned_count": statuses.count("cleaned"),
            },
        }

    def _get_lists(self, request: Request) -> Reply:
        rows = [self._list_document(row) for row in self.lists.values()]
        return _collection("lists", rows, request)

    def _get_list(self, request: Request) -> Reply:
        return reply(200, self._list_document(self.lists[LIST_ID]))

    def _get_members(self, request: Request) -> Reply:
        status = request.one("status")
        rows = [
            row
            for row in self.members.values()
            if (row["status"] == status if status else row["status"] != "archived")
        ]
        since, before = request.one("since_last_changed"), request.one("before_last_changed")
        if since:
            earliest = _instant("since_last_changed", since)
            rows = [row for row in rows if row["last_changed"] >= earliest]
        if before:
            latest = _instant("before_last_changed", before)
            rows = [row for row in rows if row["last_changed"] <= latest]
        if request.one("sort_field") == "last_changed":
            descending = request.one("sort_dir", "ASC").upper() == "DESC"
            rows.sort(key=lambda row: (row["last_changed"], row["id"]), reverse=descending)
        tags = self._tags_of_all() if _needs(request, "members", "tags") else {}
        return _collection(
            "members",
            rows,
            request,
            lambda row: self._member_document(row, tags.get(row["id"], [])),
        )

    def _tags_of_all(self) -> dict[str, list[Document]]:
        tags: dict[str, list[Document]] = {}
        for segment in self.segments.values():
            for key in segment["members"]:
                tags.setdefault(key, []).append({"id": segment["id"], "name": segment["name"]})
        return tags

    def _tags_of(self, member: Document) -> list[Document]:
        return [
            {"id": row["id"], "name": row["name"]}
            for row in self.segments.values()
            if member["id"] in row["members"]
        ]

    def _member_document(self, member: Document, tags: list[Document]) -> Document:
        fields = member["merge_fields"]
        document = {
            "id": member["id"],
            "email_address": member["email_address"],
            "unique_email_id": member["id"][:10],
            "contact_id": member["id"],
            "full_name": f"{fields.get('FNAME', '')} {fields.get('LNAME', '')}".strip(),
            "web_id": int(member["id"][:8], 16),
            "email_type": member["email_type"],
            "status": member["status"],
            "consents_to_one_to_one_messaging": True,
            "merge_fields": fields,
            "ip_signup": "192.0.2.1" if member["timestamp_signup"] else "",
            "timestamp_signup": _moment(member["timestamp_signup"]),
            "ip_opt": "192.0.2.1" if member["timestamp_opt"] else "",
            "timestamp_opt": _moment(member["timestamp_opt"]),
            "member_rating": 2,
            "last_changed": utc_offset(member["last_changed"]),
            "language": member["language"],
            "vip": member["vip"],
            "email_client": "",
            "source": "API - Generic",
            "tags_count": len(tags),
            "tags": tags,
            "list_id": LIST_ID,
        }
        if member["status"] == "unsubscribed":
            document["unsubscribe_reason"] = member["unsubscribe_reason"]
        return document

    def _member(self, key: str) -> Document:
        """By hash or by address, as the API allows."""
        member = self.members.get(key) or self.members.get(subscriber_hash(key))
        if member is None:
            raise _Refused(404, "Resource Not Found", "The requested resource could not be found.")
        return member

    def _shown(self, member: Document, members: int = 1) -> Reply:
        document = self._member_document(member, self._tags_of(member))
        return reply(200, document, members=members)

    def _get_member(self, request: Request, key: str) -> Reply:
        member = self._member(key)
        return self._shown(member, 0)

    def _put_member(self, request: Request, key: str) -> Reply:
        body = _body(request)
        address = str(body.get("email_address", ""))
        known = self.members.get(key) or self.members.get(subscriber_hash(key))
        if known is None:
            _check_address(address)
            new = body.get("status_if_new") or body.get("status")
            if new not in _STATUSES:
                raise _invalid("status_if_new", "This value should not be blank.")
            return self._shown(self._create(address, new, body))
        self._update(known, body)
        return self._shown(known)

    def _create(self, address: str, status: str, body: Document) -> Document:
        key = subscriber_hash(address)
        if key in self.forgotten:
            raise _Refused(
                400,
                "Forgotten Email Not Subscribed",
                f"{address} was permanently "
                "deleted and cannot be re-imported. The contact must re-subscribe to "
                "get back on the list.",
            )
        at = self._now()
        fields = self._known_fields(body.get("merge_fields") or {})
        member = self._new_member(address, status, fields, str(body.get("language", "")), at)
        for stamp in ("timestamp_signup", "timestamp_opt"):
            if body.get(stamp):
                member[stamp] = _instant(stamp, body[stamp])
        for tag in body.get("tags") or []:
            self._tag(member, tag if isinstance(tag, str) else tag["name"], True, at)
        return member

    def _known_fields(self, fields: Document) -> Document:
        known = {row["tag"] for row in self.merge_fields.values()}
        return {tag: value for tag, value in fields.items() if tag in known}

    def _update(self, member: Document, body: Document) -> None:
        status = body.get("status")
        if status is not None and status not in _STATUSES:
            raise _invalid("status", "The value you selected is not a valid choice.")
        if status == "subscribed" and member["status"] in ("unsubscribed", "cleaned"):
            raise _Refused(
                400,
                "Member In Compliance State",
                f"{member['email_address']} is in a "
                "compliance state due to unsubscribe, bounce, or compliance review and "
                "cannot be subscribed.",
            )
        at = self._now()
        member["merge_fields"] = {
            **member["merge_fields"],
            **self._known_fields(body.get("merge_fields") or {}),
        }
        for name in ("language", "vip", "email_type"):
            member[name] = body.get(name, member[name])
        if member["status"] == "archived" and status is None and body.get("status_if_new"):
            status = body["status_if_new"]  # an archived contact counts as new
        self._set_status(member, status or member["status"], at)
        for tag in body.get("tags") or []:
            self._tag(member, tag if isinstance(tag, str) else tag["name"], True, at)

    def _post_member(self, request: Request) -> Reply:
        body = _body(request)
        address = str(body.get("email_address", ""))
        _check_address(address)
        known = self.members.get(subscriber_hash(address))
        if known is not None and known["status"] != "archived":
            raise _Refused(
                400,
                "Member Exists",
                f"{address} is already a list member. Use PUT to insert or update list members.",
            )
        if body.get("status") not in _STATUSES:
            raise _invalid("status", "This value should not be blank.")
        if known is not None:
            self._update(known, body)
            return self._shown(known)
        return self._shown(self._create(address, body["status"], body))

    def _patch_member(self, request: Request, key: str) -> Reply:
        member = self._member(key)
        self._update(member, _body(request))
        return self._shown(member)

    def _archive_member(self, request: Request, key: str) -> Reply:
        member = self._member(key)
        self._set_status(member, "archived", self._now())
        return Reply(204, b"", members=1)

    def _post_delete_permanent(self, request: Request, key: str) -> Reply:
        self._delete_permanently(self._member(key))
        return Reply(204, b"", members=1)

    def _post_members(self, request: Request) -> Reply:
        body = _body(request)
        rows = body.get("members")
        if not isinstance(rows, list):
            raise _invalid("members", "This value should not be blank.")
        if len(rows) > 500:
            raise _invalid("members", "This collection should contain 500 elements or less.")
        created: list[Document] = []
        updated: list[Document] = []
        errors: list[Document] = []
        seen: set[str] = set()
        for row in rows:
            address = str(row.get("email_address", ""))
            try:
                member, is_new = self._upsert(row, address, seen, bool(body.get("update_existing")))
            except _RowRefused as refusal:
                errors.append(_row_error(address, refusal))
                continue
            (created if is_new else updated).append(
                self._member_document(member, self._tags_of(member))
            )
        return reply(
            200,
            {
                "new_members": created,
                "updated_members": updated,
                "errors": errors,
                "total_created": len(created),
                "total_updated": len(updated),
                "error_count": len(errors),
            },
            members=len(created) + len(updated),
        )

    def _upsert(
        self, row: Document, address: str, seen: set[str], update: bool
    ) -> tuple[Document, bool]:
        """One row of a batch. A row without a status leaves a known member's as it is."""
        key = subscriber_hash(address)
        if not EMAIL.fullmatch(address):
            raise _RowRefused(
                "ERROR_GENERIC", "Please provide a valid email address.", "email_address"
            )
        if key in seen:
            raise _RowRefused("ERROR_GENERIC", "Duplicate items found in request.", "email_address")
        seen.add(key)
        known = self.members.get(key)
        if known is not None and not update:
            raise _RowRefused(
                "ERROR_CONTACT_EXISTS",
                f"{address} is already a list member, do you "
                "want to update? please provide update_existing:true in the request "
                "body",
                "",
            )
        try:
            if known is not None:
                self._update(known, row)
                return known, False
            status = row.get("status") or row.get("status_if_new")
            if status not in _STATUSES:
                raise _RowRefused("ERROR_GENERIC", "This value should not be blank.", "status")
            return self._create(address, status, row), True
        except _Refused as refusal:
            raise _RowRefused("ERROR_GENERIC", refusal.detail, "") from None

    def _get_tags(self, request: Request, key: str) -> Reply:
        member = self._member(key)
        tags = [
            {
                "id": row["id"],
                "name": row["name"],
                "date_added": utc_offset(row["members"][member["id"]]),
            }
            for row in self.segments.values()
            if member["id"] in row["members"]
        ]
        return _collection("tags", tags, request)

    def _post_tags(self, request: Request, key: str) -> Reply:
        member, body = self._member(key), _body(request)
        for row in body.get("tags") or []:
            if row.get("status") not in ("active", "inactive"):
                raise _invalid(
                    "tags.item:0.status", "The value you selected is not a valid choice."
                )
            self._tag(member, str(row["name"]), row["status"] == "active", self._now())
        return Reply(204, b"", members=1)

    def _search_tags(self, request: Request) -> Reply:
        name = request.one("name").lower()
        tags = [
            {"id": row["id"], "name": row["name"]}
            for row in self.segments.values()
            if row["name"].lower().startswith(name)
        ]
        return reply(200, {"tags": tags, "total_items": len(tags)})

    def _segment(self, identity: str) -> Document:
        segment = self.segments.get(int(identity))
        if segment is None:
            raise _Refused(404, "Resource Not Found", "The requested resource could not be found.")
        return segment

    def _segment_document(self, segment: Document) -> Document:
        active = [key for key in segment["members"] if self.members[key]["status"] == "subscribed"]
        return {
            "id": segment["id"],
            "name": segment["name"],
            "member_count": len(active),
            "type": "static",
            "created_at": utc_offset(segment["created_at"]),
            "updated_at": utc_offset(segment["updated_at"]),
            "list_id": LIST_ID,
        }

    def _get_segments(self, request: Request) -> Reply:
        kind = request.one("type", "static")
        rows = list(self.segments.values()) if kind == "static" else []
        return _collection("segments", rows, request, self._segment_document)

    def _post_segment(self, request: Request) -> Reply:
        body = _body(request)
        name = str(body.get("name", "")).strip()
        if not name:
            raise _invalid("name", "This value should not be blank.")
        if not isinstance(body.get("static_segment"), list):
            raise _invalid("static_segment", "The sandbox keeps static segments only.")
        if any(row["name"] == name for row in self.segments.values()):
            raise _Refused(400, "Bad Request", "Sorry, that tag already exists.")
        if len(body["static_segment"]) > 500:
            raise _invalid("static_segment", "This collection should contain 500 elements or less.")
        segment = self._new_segment(name, self._now())
        self._add(segment, body["static_segment"])
        return reply(200, self._segment_document(segment))

    def _get_segment(self, request: Request, identity: str) -> Reply:
        return reply(200, self._segment_document(self._segment(identity)))

    def _patch_segment(self, request: Request, identity: str) -> Reply:
        segment, body = self._segment(identity), _body(request)
        segment["name"] = str(body.get("name") or segment["name"])
        if isinstance(body.get("static_segment"), list):
            segment["members"] = {}
            self._add(segment, body["static_segment"])
        self._keep_segment(segment)
        return reply(200, self._segment_document(segment))

    def _delete_segment(self, request: Request, identity: str) -> Reply:
        segment = self._segment(identity)
        del self.segments[segment["id"]]
        self._store.put("mailchimp.segments", segment["id"], None)
        return Reply(204, b"")

    def _add(self, segment: Document, addresses: Iterable[Any]) -> list[Document]:
        """Add those who are in the audience; others are ignored silently."""
        added = []
        for address in addresses:
            member = self.members.get(subscriber_hash(str(address)))
            if member is None or member["status"] == "archived":
                continue
            if member["id"] not in segment["members"]:
                segment["members"][member["id"]] = self._now()
                added.append(member)
        segment["updated_at"] = self._now()
        self._keep_segment(segment)
        return added

    def _batch_segment(self, request: Request, identity: str) -> Reply:
        segment, body = self._segment(identity), _body(request)
        to_add, to_remove = (
            body.get(name) or [] for name in ("members_to_add", "members_to_remove")
        )
        for name, rows in (("members_to_add", to_add), ("members_to_remove", to_remove)):
            if len(rows) > 500:
                raise _invalid(name, "This collection should contain 500 elements or less.")
        added = self._add(segment, to_add)
        removed = []
        for address in to_remove:
            key = subscriber_hash(str(address))
            if segment["members"].pop(key, None) is not None:
                removed.append(self.members[key])
        self._keep_segment(segment)
        return reply(
            200,
            {
                "members_added": [_segment_member(member) for member in added],
                "members_removed": [_segment_member(member) for member in removed],
                "errors": [],
                "total_added": len(added),
                "total_removed": len(removed),
                "error_count": 0,
            },
            members=len(added) + len(removed),
        )

    def _get_segment_members(self, request: Request, identity: str) -> Reply:
        segment = self._segment(identity)
        shown = {"subscribed", "pending"}
        for name, status in (
            ("include_cleaned", "cleaned"),
            ("include_unsubscribed", "unsubscribed"),
            ("include_transactional", "transactional"),
        ):
            if request.one(name).lower() in ("true", "1"):
                shown.add(status)
        rows = [
            self.members[key] for key in segment["members"] if self.members[key]["status"] in shown
        ]
        return _collection("members", rows, request, lambda row: self._member_document(row, []))

    def _post_segment_member(self, request: Request, identity: str) -> Reply:
        segment, address = self._segment(identity), str(_body(request).get("email_address", ""))
        member = self._member(subscriber_hash(address))
        self._add(segment, [address])
        return self._shown(member)

    def _delete_segment_member(self, request: Request, identity: str, key: str) -> Reply:
        segment, member = self._segment(identity), self._member(key)
        segment["members"].pop(member["id"], None)
        self._keep_segment(segment)
        return Reply(204, b"", members=1)

    def _get_merge_fields(self, request: Request) -> Reply:
        return _collection("merge_fields", list(self.merge_fields.values()), request)

    def _post_merge_field(self, request: Request) -> Reply:
        body = _body(request)
        identity = max(self.merge_fields, default=0) + 1
        tag = str(body.get("tag") or f"MMERGE{identity}").upper()
        if len(tag) > 10:
            raise _invalid("tag", "Merge tags may have at most 10 characters.")
        if any(row["tag"] == tag for row in self.merge_fields.values()):
            raise _Refused(
                400,
                "Invalid Resource",
                f'A Merge Field with the tag "{tag}" already exists for this list.',
            )
        kind = str(body.get("type") or "text")
        return reply(200, self._new_merge_field(tag, str(body.get("name", tag)), kind, identity))

    # Batches

    def _post_batch(self, request: Request) -> Reply:
        operations = _body(request).get("operations")
        if not isinstance(operations, list):
            raise _invalid("operations", "This value should not be blank.")
        identity = uuid.uuid5(uuid.NAMESPACE_URL, f"batch/{len(self.batches)}").hex[:10]
        results, accepted = [], 0
        for operation in operations:
            answer = self._operate(request, operation)
            accepted += answer.members
            results.append(
                {
                    "status_code": answer.status,
                    "operation_id": operation.get("operation_id", ""),
                    "response": answer.content.decode(),
                }
            )
        batch = {
            "id": identity,
            "polls": 0,
            "results": results,
            "submitted_at": self._now(),
            "base_url": request.url.split("/3.0/")[0],
        }
        self.batches[identity] = batch
        self._store.put("mailchimp.batches", identity, batch)
        return reply(200, _batch_document(batch), members=accepted)

    def _operate(self, request: Request, operation: Document) -> Reply:
        body = operation.get("body") or "{}"
        inner = Request(
            method=str(operation.get("method", "GET")).upper(),
            path="/3.0/" + str(operation.get("path", "")).strip("/").removeprefix("3.0/"),
            query=tuple(
                (key, str(value)) for key, value in (operation.get("params") or {}).items()
            ),
            headers=request.headers,
            body=(body if isinstance(body, str) else json.dumps(body)).encode(),
        )
        return self.handle(inner)

    def _batch(self, identity: str) -> Document:
        if identity not in self.batches:
            raise _Refused(404, "Resource Not Found", "The requested resource could not be found.")
        return self.batches[identity]

    def _get_batches(self, request: Request) -> Reply:
        return _collection("batches", list(self.batches.values()), request, _batch_document)

    def _get_batch(self, request: Request, identity: str) -> Reply:
        batch = self._batch(identity)
        batch["polls"] += 1
        self._store.put("mailchimp.batches", identity, batch)
        return reply(200, _batch_document(batch))

    def _delete_batch(self, request: Request, identity: str) -> Reply:
        self._batch(identity)
        del self.batches[identity]
        self._store.put("mailchimp.batches", identity, None)
        return Reply(204, b"")

    def _batch_results(self, request: Request) -> Reply:
        """The results file; its address is its own permission, as with Mailchimp's storage."""
        identity = request.path.rsplit("/", 1)[1].removesuffix(".tar.gz")
        batch = self.batches.get(identity)
        if batch is None:
            return problem(404, "Resource Not Found", "The requested resource could not be found.")
        content = json.dumps(batch["results"]).encode()
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz") as archive:
            entry = tarfile.TarInfo(f"{identity}/0.json")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
        return Reply(200, packed.getvalue(), media_type="application/gzip")


_EVENTS: dict[str, Callable[[Mailchimp, Document, ToolEvent], None]] = {
    "confirm": Mailchimp._confirm,
    "unsubscribe": Mailchimp._unsubscribe,
    "bounce": Mailchimp._clean,
    "complaint": Mailchimp._complain,
    "join": Mailchimp._join,
    "forget": Mailchimp._forget,
}


class _Refused(Exception):
    def __init__(
        self, status: int, title: str, detail: str, errors: list[Document] | None = None
    ) -> None:
        super().__init__(title)
        self.status, self.title, self.detail, self.errors = status, title, detail, errors


class _RowRefused(Exception):
    def __init__(self, code: str, message: str, field: str) -> None:
        super().__init__(code)
        self.code, self.message, self.field = code, message, field


def problem(status: int, title: str, detail: str, errors: list[Document] | None = None) -> Reply:
    """Mailchimp's problem document (RFC 7807)."""
    body: Document = {
        "type": _TYPE,
        "title": title,
        "status": status,
        "detail": detail,
        "instance": _INSTANCE,
    }
    if errors is not None:
        body["errors"] = errors
    answer = reply(status, body)
    return Reply(status, answer.content, {}, "application/problem+json; charset=utf-8")


def _invalid(field: str, message: str) -> _Refused:
    return _Refused(
        400,
        "Invalid Resource",
        "The resource submitted could not be validated. For field-specific details, see the "
        "'errors' array.",
        [{"field": field, "message": message}],
    )


def _row_error(address: str, refusal: _RowRefused) -> Document:
    return {
        "email_address": address,
        "error": refusal.message,
        "error_code": refusal.code,
        "field": refusal.field,
        "field_message": refusal.message if refusal.field else "",
    }


def _authorised(request: Request) -> bool:
    credentials = request.basic()
    if credentials is not None:
        return credentials[1] == API_KEY
    return request.headers.get("authorization") == f"Bearer {API_KEY}"


def _body(request: Request) -> Document:
    try:
        body = request.json()
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise _Refused(400, "JSON Parse Error", "We encountered an unspecified JSON parsing error.")
    return body


def _check_address(address: str) -> None:
    if not EMAIL.fullmatch(address):
        raise _invalid("email_address", "Please provide a valid email address.")


def _instant(name: str, text: str) -> int:
    try:
        return parse_instant(text)
    except ValueError:
        raise _invalid(name, "This value is not a valid datetime.") from None


def _moment(instant: int | None) -> str:
    return utc_offset(instant) if instant else ""


def _needs(request: Request, collection: str, name: str) -> bool:
    """Whether `fields`/`exclude_fields` leave a member field in the answer."""
    path = f"{collection}.{name}"
    if any(
        path == field or path.startswith(field + ".") for field in request.many("exclude_fields")
    ):
        return False
    fields = request.many("fields")
    return not fields or any(
        path == field or field.startswith(path + ".") or field == collection for field in fields
    )


def _collection(
    name: str,
    rows: list[Document],
    request: Request,
    document: Callable[[Document], Document] | None = None,
) -> Reply:
    """One page: count 10 by default, at most 1,000. Only three collections name their list."""
    count, offset = request.one("count", "10"), request.one("offset", "0")
    if not count.isdigit() or int(count) > 1000:
        raise _invalid("count", "This value should be 1000 or less.")
    if not offset.isdigit():
        raise _invalid("offset", "This value should be 0 or more.")
    chosen = rows[int(offset) : int(offset) + int(count)]
    shown = [document(row) if document else row for row in chosen]
    body: Document = {
        name: [_trim(name, row, request) for row in shown],
        "total_items": len(rows),
    }
    if request.path.endswith(("/segments", "/merge-fields", f"{LIST_ID}/members")):
        body["list_id"] = LIST_ID
    return reply(200, body)


def _trim(name: str, row: Document, request: Request) -> Document:
    """Apply `fields` and `exclude_fields`, first level of the collection only."""
    fields = [field for field in request.many("fields") if field.startswith(name + ".")]
    excluded = {
        field[len(name) + 1 :]
        for field in request.many("exclude_fields")
        if field.startswith(name + ".")
    }
    if fields and name not in request.many("fields"):
        wanted = {field[len(name) + 1 :].split(".")[0] for field in fields}
        row = {key: value for key, value in row.items() if key in wanted}
    return {key: value for key, value in row.items() if key not in excluded}


def _segment_member(member: Document) -> Document:
    return {
        "id": member["id"],
        "email_address": member["email_address"],
        "status": member["status"],
        "list_id": LIST_ID,
    }


def _batch_document(batch: Document) -> Document:
    """pending, started and finished on the first, second and third look."""
    polls = batch["polls"]
    status = ("pending", "started", "finished")[min(polls, 2)]
    finished = status == "finished"
    total = len(batch["results"])
    return {
        "id": batch["id"],
        "status": status,
        "total_operations": total,
        "finished_operations": total if finished else 0,
        "errored_operations": sum(row["status_code"] >= 400 for row in batch["results"])
        if finished
        else 0,
        "submitted_at": utc_offset(batch["submitted_at"]),
        "completed_at": utc_offset(batch["submitted_at"]) if finished else "",
        "response_body_url": f"{batch['base_url']}/3.0/_results/{batch['id']}.tar.gz"
        if finished
        else "",
    }
