"""Klaviyo, revision 2026-07-15: profiles with their email consent, lists, bulk import jobs.

Imitated: profiles GET (``filter`` equals/any on id and email, ``sort=id``, 100 a page and
``page[cursor]``, subscriptions on request only), POST (409 with the id of the profile that has the
address), PATCH (null clears a field, ``patch_properties.unset`` a property); lists GET (ten a
page), POST (names may repeat), DELETE; a list's profiles, joining and leaving with up to 1,000 ids;
bulk import jobs with up to 10,000 profiles and 5 MB, errors per profile; subscribing jobs, which
lift unsubscriptions, complaints and manual suppressions as the real ones do; deletion requests,
which are carried out later. JSON:API errors; burst and steady limits per endpoint with RateLimit
headers and Retry-After, which act only where the server was started with them.

An import is carried out when it is posted and says so after as many looks as `jobs_take` asks;
`jobs_end` lets later ones be cancelled half way ("cancelled") or forgotten ("lost"). Not
documented where we could read it: the error for an unknown id in an import, the code of a missing
revision, and whether leaving a list that one is not on is refused.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import ceil
from typing import Any
from urllib.parse import quote

from sandbox.clock import utc_offset
from sandbox.messages import Reply, Request, reply
from sandbox.people import ToolEvent
from sandbox.store import Store
from sandbox.tool_history import FOREIGN_KLAVIYO_LISTS, NEWSLETTER

API_KEY = "pk_7f3a9c1e5b2d4860a9c8e7d6f5b4a39201"
REVISION = "2026-07-15"
EMAIL = re.compile(r"[^@\s]+@[^@\s.]+(\.[^@\s.]+)+")
LARGEST_REQUEST = 5_000_000
LARGEST_PROFILE = 100_000
_MEDIA_TYPE = "application/vnd.api+json"
_FIELDS = ("first_name", "last_name", "external_id", "organization", "locale", "title")
_LIFTED = ("UNSUBSCRIBE", "SPAM_COMPLAINT", "USER_SUPPRESSED")
_FILTER = re.compile(r"(equals|any)\((id|email),(.*)\)", re.DOTALL)
# Calls in a second and in a minute.
_SMALL, _MEDIUM, _LARGE = (3, 60), (10, 150), (75, 750)

Document = dict[str, Any]


@dataclass(frozen=True)
class _Route:
    method: str
    pattern: str
    action: Callable[..., Reply]
    limits: tuple[int, int]


class Klaviyo:
    """The tool's API and state.

    Args:
        store: keeps it.
        now: the instant that writes are stamped with.
        enforce_limits: make the limits act.
        monotonic: the clock of the limits, in seconds.
    """

    def __init__(
        self,
        store: Store,
        now: Callable[[], int],
        enforce_limits: bool = False,
        monotonic: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._store, self._now = store, now
        self._enforce, self._monotonic = enforce_limits, monotonic
        self._windows: dict[tuple[str, int], tuple[int, int]] = {}
        self.profiles: dict[str, Document] = {}
        self.lists: dict[str, Document] = {}
        self.jobs: dict[str, Document] = {}
        self._by_address: dict[str, str] = {}
        self.counters = {"profiles": 0, "lists": 0, "jobs": 0}
        self.jobs_take, self.jobs_end, self.errors_repeat_payload = 2, "complete", True

    # State

    def restore(self) -> None:
        """Take up the state the store holds."""
        for name in ("profiles", "lists", "jobs"):
            setattr(self, name, self._store.documents(f"klaviyo.{name}"))
        self.counters |= self._store.documents("klaviyo.counters").get("all", {})
        self._by_address = {row["email"]: key for key, row in self.profiles.items()}

    def install(self, at: int) -> None:
        """A fresh account with the newsletter's list and those of colleagues."""
        self._new_list(NEWSLETTER, "double_opt_in", at)
        for name in FOREIGN_KLAVIYO_LISTS:
            self._new_list(name, "single_opt_in", at)

    def apply(self, event: ToolEvent) -> None:
        """Let something happen in the tool that nobody asked for through the API."""
        profile = self._of(event.address)
        if event.kind in ("profile", "import", "signup"):
            self._appear(event, profile)
        elif profile is not None:
            _EVENTS[event.kind](self, profile, event)

    def _appear(self, event: ToolEvent, profile: Document | None) -> None:
        if profile is None:
            names = {name: event.details.get(name) for name in ("first_name", "last_name")}
            profile = self._new_profile(event.address, names, event.at)
        if event.kind == "import" and profile["consent"] == "NEVER_SUBSCRIBED":
            self._consent(profile, "SUBSCRIBED", event.at, False)

    def _confirm(self, profile: Document, event: ToolEvent) -> None:
        self._lift(profile)
        self._consent(profile, "SUBSCRIBED", event.at, True)
        self._put_on(self._list_named(NEWSLETTER), profile, event.at)

    def _unsubscribe(self, profile: Document, event: ToolEvent) -> None:
        self._consent(profile, "UNSUBSCRIBED", event.at, profile["double_optin"])
        self._suppress(profile, "UNSUBSCRIBE", event.at)

    def _complain(self, profile: Document, event: ToolEvent) -> None:
        self._consent(profile, "UNSUBSCRIBED", event.at, profile["double_optin"])
        self._suppress(profile, "SPAM_COMPLAINT", event.at)

    def _bounce(self, profile: Document, event: ToolEvent) -> None:
        self._suppress(profile, "HARD_BOUNCE", event.at)

    def _blocklist(self, profile: Document, event: ToolEvent) -> None:
        self._suppress(profile, "USER_SUPPRESSED", event.at)

    def _leave_lists(self, profile: Document, event: ToolEvent) -> None:
        """Unsubscribe from a campaign of every list: off it, and noted for that list alone."""
        for entry in self.lists.values():
            if entry["members"].pop(profile["id"], None) is not None:
                noted = {"list_id": entry["id"], "reason": "UNSUBSCRIBE", "at": event.at}
                profile["list_suppressions"].append(noted)
                self._keep("lists", entry)
        self._keep("profiles", profile)

    def _join(self, profile: Document, event: ToolEvent) -> None:
        self._put_on(self._list_named(event.details["audience"]), profile, event.at)

    def _forget(self, profile: Document, event: ToolEvent) -> None:
        self._delete(profile)

    def act(self, address: str, kind: str) -> bool:
        """unsubscribe, bounce, complaint, confirm, blocklist, leave_lists or forget for an address;
        False if it is unknown."""
        if self._of(address) is None or kind not in _EVENTS or kind == "join":
            return False
        self.apply(ToolEvent(self._now(), "control", "klaviyo", kind, address, {}))
        return True

    def set_jobs(self, polls: int, end: str, errors_repeat_payload: bool) -> None:
        """How imports posted from now on go: looks until they are done, and how they end.

        Raises:
            ValueError: an unknown end, or fewer than no looks.
        """
        if end not in ("complete", "cancelled", "lost") or polls < 0:
            raise ValueError("end must be complete, cancelled or lost; polls not negative")
        self.jobs_take, self.jobs_end = polls, end
        self.errors_repeat_payload = errors_repeat_payload

    def audiences(self) -> dict[str, dict[str, str]]:
        """List name to address to the profile's consent, or the reason it is suppressed."""
        return {
            entry["name"]: {
                self.profiles[key]["email"]: _standing(self.profiles[key])
                for key in entry["members"]
            }
            for entry in self.lists.values()
        }

    def _of(self, address: str) -> Document | None:
        return self.profiles.get(self._by_address.get(address.strip().lower(), ""))

    def _keep(self, kind: str, row: Document) -> None:
        self._store.put(f"klaviyo.{kind}", row["id"], row)

    def _next(self, kind: str) -> int:
        self.counters[kind] += 1
        self._store.put("klaviyo.counters", "all", dict(self.counters))
        return self.counters[kind]

    def _new_profile(self, address: str, fields: Document, at: int) -> Document:
        profile: Document = {
            "id": f"01JSBX{self._next('profiles'):020d}",
            "email": address.strip().lower(),
            **dict.fromkeys(_FIELDS),
            **fields,
            "properties": {},
            "created": at,
            "updated": at,
            "consent": "NEVER_SUBSCRIBED",
            "consent_at": None,
            "double_optin": None,
            "suppressions": [],
            "list_suppressions": [],
            "looks_until_deleted": None,
        }
        self.profiles[profile["id"]] = profile
        self._by_address[profile["email"]] = profile["id"]
        self._keep("profiles", profile)
        return profile

    def _consent(self, profile: Document, consent: str, at: int, double: bool | None) -> None:
        profile["consent"], profile["consent_at"], profile["double_optin"] = consent, at, double
        self._keep("profiles", profile)

    def _suppress(self, profile: Document, reason: str, at: int) -> None:
        if all(entry["reason"] != reason for entry in profile["suppressions"]):
            profile["suppressions"].append({"reason": reason, "at": at})
        self._keep("profiles", profile)

    def _lift(self, profile: Document) -> None:
        """A new subscription ends what a person can end; a bounce stays."""
        kept = [entry for entry in profile["suppressions"] if entry["reason"] not in _LIFTED]
        profile["suppressions"], profile["list_suppressions"] = kept, []
        self._keep("profiles", profile)

    def _delete(self, profile: Document) -> None:
        del self.profiles[profile["id"]]
        self._by_address.pop(profile["email"], None)
        self._store.put("klaviyo.profiles", profile["id"], None)
        for entry in self.lists.values():
            if entry["members"].pop(profile["id"], None) is not None:
                self._keep("lists", entry)

    def _new_list(self, name: str, opt_in_process: str, at: int) -> Document:
        entry: Document = {
            "id": f"L{self._next('lists'):05d}",
            "name": name,
            "opt_in_process": opt_in_process,
            "created": at,
            "members": {},
        }
        self.lists[entry["id"]] = entry
        self._keep("lists", entry)
        return entry

    def _list_named(self, name: str) -> Document:
        return next(entry for entry in self.lists.values() if entry["name"] == name)

    def _put_on(self, entry: Document, profile: Document, at: int) -> None:
        entry["members"].setdefault(profile["id"], at)
        self._keep("lists", entry)

    # API

    def handle(self, request: Request) -> Reply:
        """Answer one request."""
        try:
            _check_headers(request)
            return self._dispatch(request)
        except _Refused as refusal:
            return problem(refusal)

    def _dispatch(self, request: Request) -> Reply:
        path = request.path.rstrip("/")
        allowed = False
        for route in self._routes():
            found = re.fullmatch(route.pattern, path)
            if found is None:
                continue
            allowed = True
            if route.method == request.method:
                headers = self._count(route)
                answer = route.action(request, *found.groups())
                answer.headers.update(headers)
                return answer
        if allowed:
            raise _Refused(405, "method_not_allowed", "Method not allowed.")
        raise _Refused(404, "not_found", "Not found.")

    def _routes(self) -> list[_Route]:
        lists, one_list = "/api/lists", r"/api/lists/(\w+)"
        profiles, one_profile = "/api/profiles", r"/api/profiles/(\w+)"
        jobs = "/api/profile-bulk-import-jobs"
        members = one_list + "/relationships/profiles"
        return [
            _Route("GET", profiles, self._get_profiles, _LARGE),
            _Route("POST", profiles, self._post_profile, _LARGE),
            _Route("GET", one_profile, self._get_profile, _LARGE),
            _Route("PATCH", one_profile, self._patch_profile, _LARGE),
            _Route("GET", lists, self._get_lists, _LARGE),
            _Route("POST", lists, self._post_list, _MEDIUM),
            _Route("GET", one_list, self._get_list, _LARGE),
            _Route("DELETE", one_list, self._delete_list, _MEDIUM),
            _Route("GET", one_list + "/profiles", self._get_list_profiles, _LARGE),
            _Route("POST", members, self._add_members, _MEDIUM),
            _Route("DELETE", members, self._remove_members, _MEDIUM),
            _Route("POST", jobs, self._post_job, _MEDIUM),
            _Route("GET", jobs + r"/(\w+)", self._get_job, _MEDIUM),
            _Route("GET", jobs + r"/(\w+)/import-errors", self._get_job_errors, _MEDIUM),
            _Route("POST", "/api/data-privacy-deletion-jobs", self._post_deletion, _SMALL),
            _Route(
                "POST",
                "/api/profile-subscription-bulk-create-jobs",
                self._post_subscriptions,
                _LARGE,
            ),
        ]

    def _count(self, route: _Route) -> dict[str, str]:
        """Count a call in its second and its minute; the headers of the minute.

        Raises:
            _Refused: 429, with the seconds until the window ends.
        """
        if not self._enforce:
            return {}
        moment, headers = self._monotonic(), {}
        for seconds, most in zip((1, 60), route.limits, strict=True):
            key = (route.method + route.pattern, seconds)
            window = int(moment // seconds)
            current, used = self._windows.get(key, (window, 0))
            used = used if current == window else 0
            left = (window + 1) * seconds - moment
            if used >= most:
                raise _Refused(429, "throttled", "Request was throttled.", retry_after=left)
            self._windows[key] = (window, used + 1)
            headers = {
                "RateLimit-Limit": str(most),
                "RateLimit-Remaining": str(most - used - 1),
                "RateLimit-Reset": str(max(1, ceil(left))),
            }
        return headers

    # Profiles

    def _get_profiles(self, request: Request) -> Reply:
        rows = sorted(self.profiles.values(), key=lambda row: str(row["id"]))
        wanted = _filter(request)
        if wanted is not None:
            field, values = wanted
            rows = [row for row in rows if row[field] in values]
        answer = self._page(request, rows, 100, _profile_document)
        for row in rows if wanted else []:
            self._look_at_deletion(row)
        return answer

    def _look_at_deletion(self, profile: Document) -> None:
        looks = profile["looks_until_deleted"]
        if looks is None:
            return
        profile["looks_until_deleted"] = looks - 1
        self._keep("profiles", profile)
        if looks <= 1:
            self._delete(profile)

    def _post_profile(self, request: Request) -> Reply:
        attributes = _attributes(_body(request), "profile")
        address = _address(attributes, "/data/attributes/email")
        if (known := self._of(address)) is not None:
            raise _Refused(
                409,
                "duplicate_profile",
                "A profile already exists with one of these identifiers.",
                "/data/attributes",
                {"duplicate_profile_id": known["id"]},
            )
        profile = self._new_profile(address, {}, self._now())
        self._set(profile, attributes, {}, nulls_clear=True)
        return self._shown(request, profile, 201)

    def _get_profile(self, request: Request, identity: str) -> Reply:
        return self._shown(request, self._profile(identity))

    def _patch_profile(self, request: Request, identity: str) -> Reply:
        body = _body(request)
        attributes = _attributes(body, "profile")
        if body["data"].get("id") != identity:
            raise _invalid("The id must be that of the address.", "/data/id")
        profile = self._profile(identity)
        self._set(profile, attributes, body["data"].get("meta") or {}, nulls_clear=True)
        return self._shown(request, profile)

    def _profile(self, identity: str) -> Document:
        if identity not in self.profiles:
            raise _Refused(404, "not_found", "A profile with this id does not exist.")
        return self.profiles[identity]

    def _shown(self, request: Request, profile: Document, status: int = 200) -> Reply:
        return _answer(status, {"data": _profile_document(request, profile)}, members=1)

    def _set(
        self, profile: Document, attributes: Document, meta: Document, *, nulls_clear: bool
    ) -> None:
        """Change what is given. In an import null means "not given"."""
        for name in _FIELDS:
            if name in attributes and (nulls_clear or attributes[name] is not None):
                profile[name] = attributes[name]
        for name, value in (attributes.get("properties") or {}).items():
            if nulls_clear or value is not None:
                profile["properties"][name] = value
        unset = (meta.get("patch_properties") or {}).get("unset") or []
        for name in [unset] if isinstance(unset, str) else unset:
            profile["properties"].pop(name, None)
        profile["updated"] = self._now()
        self._keep("profiles", profile)

    # Lists

    def _get_lists(self, request: Request) -> Reply:
        return self._page(request, list(self.lists.values()), 10, _list_document)

    def _post_list(self, request: Request) -> Reply:
        attributes = _attributes(_body(request), "list")
        name = attributes.get("name")
        if not isinstance(name, str) or not name.strip():
            raise _invalid("The name must not be empty.", "/data/attributes/name")
        process = attributes.get("opt_in_process") or "double_opt_in"
        entry = self._new_list(name, process, self._now())
        return _answer(201, {"data": _list_document(request, entry)})

    def _get_list(self, request: Request, identity: str) -> Reply:
        return _answer(200, {"data": _list_document(request, self._list(identity))})

    def _delete_list(self, request: Request, identity: str) -> Reply:
        del self.lists[self._list(identity)["id"]]
        self._store.put("klaviyo.lists", identity, None)
        return Reply(204, b"")

    def _list(self, identity: str) -> Document:
        if identity not in self.lists:
            raise _Refused(404, "not_found", "A list with this id does not exist.")
        return self.lists[identity]

    def _get_list_profiles(self, request: Request, identity: str) -> Reply:
        joined = self._list(identity)["members"]

        def document(request: Request, key: str) -> Document:
            shown = _profile_document(request, self.profiles[key])
            shown["attributes"]["joined_group_at"] = _moment(joined[key])
            return shown

        return self._page(request, sorted(joined), 100, document)

    def _add_members(self, request: Request, identity: str) -> Reply:
        entry, ids = self._list(identity), _identifiers(_body(request))
        for profile in [self._profile(key) for key in ids]:
            self._put_on(entry, profile, self._now())
        return Reply(204, b"", members=len(ids))

    def _remove_members(self, request: Request, identity: str) -> Reply:
        entry, ids = self._list(identity), _identifiers(_body(request))
        for key in ids:
            entry["members"].pop(key, None)
        self._keep("lists", entry)
        return Reply(204, b"", members=len(ids))

    # Imports, subscriptions, deletions

    def _post_job(self, request: Request) -> Reply:
        if len(request.body) > LARGEST_REQUEST:
            raise _Refused(413, "payload_too_large", "The payload is larger than 5MB.")
        body = _body(request)
        rows = _rows(_attributes(body, "profile-bulk-import-job"), 10_000)
        entries = ((body["data"].get("relationships") or {}).get("lists") or {}).get("data") or []
        lists = [self._list(str(entry["id"])) for entry in entries]
        job: Document = {
            "id": f"01JJOB{self._next('jobs'):020d}",
            "created": self._now(),
            "polls": 0,
            "polls_needed": self.jobs_take,
            "end": self.jobs_end,
            "total": len(rows),
            "errors": [],
        }
        carried_out = rows[: len(rows) // 2] if self.jobs_end == "cancelled" else rows
        for index, row in enumerate(carried_out):
            self._import_row(job, index, row, lists)
        if self.jobs_end != "lost":
            self.jobs[job["id"]] = job
            self._keep("jobs", job)
        document = _job_document(request, job)
        return _answer(202, {"data": document}, members=len(carried_out) - len(job["errors"]))

    def _import_row(self, job: Document, index: int, row: Document, lists: list[Document]) -> None:
        pointer = f"/data/attributes/profiles/data/{index}"
        attributes = row.get("attributes") or {}
        try:
            if len(json.dumps(row, ensure_ascii=False).encode()) > LARGEST_PROFILE:
                raise _Refused(400, "payload_too_large", "A profile is larger than 100KB.", pointer)
            if row.get("id"):
                profile = self._profile(str(row["id"]))
            else:
                address = _address(attributes, f"{pointer}/attributes/email")
                profile = self._of(address) or self._new_profile(address, {}, self._now())
        except _Refused as refusal:
            job["errors"].append(
                {
                    "code": refusal.code,
                    "title": refusal.title,
                    "detail": refusal.title,
                    "source": {"pointer": refusal.pointer or pointer},
                    "original_payload": row if self.errors_repeat_payload else None,
                }
            )
            return
        self._set(profile, attributes, row.get("meta") or {}, nulls_clear=False)
        for entry in lists:
            self._put_on(entry, profile, self._now())

    def _job(self, identity: str) -> Document:
        if identity not in self.jobs:
            raise _Refused(404, "not_found", "A job with this id does not exist.")
        return self.jobs[identity]

    def _get_job(self, request: Request, identity: str) -> Reply:
        job = self._job(identity)
        answer = _answer(200, {"data": _job_document(request, job)})
        job["polls"] += 1
        self._keep("jobs", job)
        return answer

    def _get_job_errors(self, request: Request, identity: str) -> Reply:
        return self._page(request, self._job(identity)["errors"], 100, _error_document)

    def _post_subscriptions(self, request: Request) -> Reply:
        """Subscribe: the one call that brings people back."""
        body = _body(request)
        attributes = _attributes(body, "profile-subscription-bulk-create-job")
        related = ((body["data"].get("relationships") or {}).get("list") or {}).get("data")
        entry = self._list(str(related["id"])) if related else self._list_named(NEWSLETTER)
        historical = bool(attributes.get("historical_import"))
        rows = _rows(attributes, 1000)
        for row in rows:
            address = _address(row["attributes"], "/data/attributes/profiles")
            profile = self._of(address) or self._new_profile(address, {}, self._now())
            self._lift(profile)
            if historical or entry["opt_in_process"] == "single_opt_in":
                self._consent(profile, "SUBSCRIBED", self._now(), False)
                self._put_on(entry, profile, self._now())
        return Reply(202, b"", members=len(rows))

    def _post_deletion(self, request: Request) -> Reply:
        """Take a deletion up; the second look at the profile finds nobody."""
        attributes = _attributes(_body(request), "data-privacy-deletion-job")
        data = (attributes.get("profile") or {}).get("data") or {}
        named = {"id": data.get("id"), "email": (data.get("attributes") or {}).get("email")}
        if sum(value is not None for value in named.values()) != 1:
            raise _invalid("Exactly one identifier is needed.", "/data/attributes/profile")
        profile = self.profiles.get(str(named["id"])) or self._of(str(named["email"]))
        if profile is not None and profile["looks_until_deleted"] is None:
            profile["looks_until_deleted"] = 1
            self._keep("profiles", profile)
        return Reply(202, b"", members=1)

    def _page(
        self,
        request: Request,
        rows: list[Any],
        most: int,
        document: Callable[[Request, Any], Document],
    ) -> Reply:
        """One page; the cursor is opaque to callers."""
        text = request.one("page[size]", str(min(20, most)))
        if not text.isdigit() or not 1 <= int(text) <= most:
            raise _invalid(f"Page size must be an integer between 1 and {most}.", "page[size]")
        cursor = request.one("page[cursor]", "at-0")
        if not re.fullmatch(r"at-\d+", cursor):
            raise _invalid("The cursor is not valid.", "page[cursor]")
        start, size = int(cursor.removeprefix("at-")), int(text)
        base = request.url.split("?")[0]
        more = start + size < len(rows)
        link = f"{base}?{quote('page[cursor]')}=at-{start + size}" if more else None
        shown = [document(request, row) for row in rows[start : start + size]]
        return _answer(200, {"data": shown, "links": {"self": base, "next": link, "prev": None}})


_EVENTS: dict[str, Callable[[Klaviyo, Document, ToolEvent], None]] = {
    "confirm": Klaviyo._confirm,
    "unsubscribe": Klaviyo._unsubscribe,
    "bounce": Klaviyo._bounce,
    "complaint": Klaviyo._complain,
    "blocklist": Klaviyo._blocklist,
    "leave_lists": Klaviyo._leave_lists,
    "join": Klaviyo._join,
    "forget": Klaviyo._forget,
}


class _Refused(Exception):
    def __init__(
        self,
        status: int,
        code: str,
        title: str,
        pointer: str | None = None,
        meta: Document | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(title)
        self.status, self.code, self.title, self.pointer = status, code, title, pointer
        self.meta, self.retry_after = meta or {}, retry_after


def refusal(status: int, code: str, title: str) -> Reply:
    """Klaviyo's answer to a request it does not take."""
    return problem(_Refused(status, code, title))


def problem(refused: _Refused) -> Reply:
    """JSON:API's error document."""
    error = {
        "id": "5f3c1f3e-1c55-4a0e-9a5b-8b6f0f5b7c11",
        "status": refused.status,
        "code": refused.code,
        "title": refused.title,
        "detail": refused.title,
        "source": {"pointer": refused.pointer or "/data"},
        "meta": refused.meta,
    }
    answer = _answer(refused.status, {"errors": [error]})
    if refused.retry_after is not None:
        answer.headers["Retry-After"] = str(max(1, ceil(refused.retry_after)))
    return answer


def _answer(status: int, value: Any, *, members: int = 0) -> Reply:
    plain = reply(status, value)
    return Reply(status, plain.content, {}, _MEDIA_TYPE, members)


def _invalid(message: str, pointer: str) -> _Refused:
    return _Refused(400, "invalid", message, pointer)


def _check_headers(request: Request) -> None:
    if request.headers.get("authorization") != f"Klaviyo-API-Key {API_KEY}":
        raise _Refused(401, "not_authenticated", "Authentication credentials were not provided.")
    if request.headers.get("revision") != REVISION:
        raise _Refused(400, "invalid", "Missing or unknown revision.", "revision")
    media_type = request.headers.get("content-type", "").split(";")[0]
    if request.body and media_type not in (_MEDIA_TYPE, "application/json"):
        raise _Refused(415, "unsupported_media_type", "Unsupported media type in request.")


def _body(request: Request) -> Document:
    try:
        body = request.json()
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise _invalid("Malformed JSON.", "/data")
    return body


def _attributes(body: Document, kind: str) -> Document:
    data = body.get("data")
    if not isinstance(data, dict) or data.get("type") != kind:
        raise _invalid(f"The type must be '{kind}'.", "/data/type")
    if not isinstance(data.get("attributes"), dict):
        raise _invalid("Attributes are missing.", "/data/attributes")
    attributes: Document = data["attributes"]
    return attributes


def _rows(attributes: Document, most: int) -> list[Document]:
    rows = (attributes.get("profiles") or {}).get("data")
    if not isinstance(rows, list) or any(
        not isinstance(row, dict) or row.get("type") != "profile" for row in rows
    ):
        raise _invalid("Profiles are missing.", "/data/attributes/profiles")
    if len(rows) > most:
        raise _invalid(f"At most {most} profiles.", "/data/attributes/profiles/data")
    return rows


def _identifiers(body: Document) -> list[str]:
    rows = body.get("data")
    if not isinstance(rows, list) or any(
        row.get("type") != "profile" or not isinstance(row.get("id"), str) for row in rows
    ):
        raise _invalid("Profiles are named by type and id.", "/data")
    if len(rows) > 1000:
        raise _invalid("At most 1000 profiles.", "/data")
    return [row["id"] for row in rows]


def _address(attributes: Document, pointer: str) -> str:
    address = str(attributes.get("email") or "").strip().lower()
    if not EMAIL.fullmatch(address):
        raise _invalid("Invalid email address.", pointer)
    return address


def _filter(request: Request) -> tuple[str, set[str]] | None:
    """``equals(email,"a@b.de")`` or ``any(id,["1","2"])``."""
    text = request.one("filter")
    if not text:
        return None
    found = _FILTER.fullmatch(text)
    try:
        values = json.loads(found[3]) if found else None
    except ValueError:
        values = None
    if found is None or not isinstance(values, list if found[1] == "any" else str):
        raise _invalid("The filter is not valid.", "filter")
    return found[2], set(values) if isinstance(values, list) else {values}


def _standing(profile: Document) -> str:
    reasons: Iterable[str] = (entry["reason"] for entry in profile["suppressions"])
    return str(next(iter(reasons), profile["consent"])).lower()


def _moment(instant: int | None) -> str | None:
    return utc_offset(instant) if instant else None


def _links(request: Request, kind: str, identity: str) -> Document:
    return {"self": f"{request.url.split('/api/')[0]}/api/{kind}/{identity}"}


def _profile_document(request: Request, row: Document) -> Document:
    attributes = {name: row[name] for name in ("email", *_FIELDS, "properties")}
    attributes |= {"created": _moment(row["created"]), "updated": _moment(row["updated"])}
    if "subscriptions" in request.many("additional-fields[profile]"):
        attributes["subscriptions"] = {"email": {"marketing": _marketing(row)}}
    chosen = request.many("fields[profile]")
    if chosen:
        wanted = {name.split(".")[0] for name in chosen}
        attributes = {name: value for name, value in attributes.items() if name in wanted}
    return {
        "type": "profile",
        "id": row["id"],
        "attributes": attributes,
        "links": _links(request, "profiles", row["id"]),
    }


def _marketing(row: Document) -> Document:
    return {
        "can_receive_email_marketing": not row["suppressions"],
        "consent": row["consent"],
        "consent_timestamp": _moment(row["consent_at"]),
        "last_updated": _moment(row["consent_at"]),
        "method": "FORM" if row["consent_at"] else None,
        "method_detail": "",
        "custom_method_detail": None,
        "double_optin": row["double_optin"],
        "suppression": [
            {"reason": entry["reason"], "timestamp": utc_offset(entry["at"])}
            for entry in row["suppressions"]
        ],
        "list_suppressions": [
            {
                "list_id": entry["list_id"],
                "reason": entry["reason"],
                "timestamp": utc_offset(entry["at"]),
            }
            for entry in row["list_suppressions"]
        ],
    }


def _list_document(request: Request, row: Document) -> Document:
    return {
        "type": "list",
        "id": row["id"],
        "attributes": {
            "name": row["name"],
            "created": _moment(row["created"]),
            "updated": _moment(row["created"]),
            "opt_in_process": row["opt_in_process"],
        },
        "links": _links(request, "lists", row["id"]),
    }


def _job_document(request: Request, job: Document) -> Document:
    """queued on the first look, then processing, then at its end."""
    done = job["polls"] >= job["polls_needed"]
    status = job["end"] if done else "processing" if job["polls"] else "queued"
    failed = len(job["errors"])
    return {
        "type": "profile-bulk-import-job",
        "id": job["id"],
        "attributes": {
            "status": "queued" if status == "lost" else status,
            "created_at": _moment(job["created"]),
            "started_at": _moment(job["created"]) if job["polls"] else None,
            "completed_at": _moment(job["created"]) if done else None,
            "expires_at": _moment(job["created"] + 7 * 86_400),
            "total_count": job["total"],
            "completed_count": job["total"] - failed if done else 0,
            "failed_count": failed if done else 0,
        },
        "links": _links(request, "profile-bulk-import-jobs", job["id"]),
    }


def _error_document(request: Request, error: Document) -> Document:
    identity = hashlib.sha256(json.dumps(error, sort_keys=True).encode()).hexdigest()[:32]
    return {"type": "import-error", "id": identity, "attributes": error, "links": {}}
