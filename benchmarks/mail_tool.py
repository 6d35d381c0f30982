"""A lean email tool for the benchmark: answers the calls of Mailchimp's API that delivery makes.

The sandbox keeps every change on disk and checks every field, so that it, and not what is measured,
would set the pace. This one keeps contacts in memory and answers with what Mailchimp answers with,
row by row. Everybody who is measured talks to it. It reads and writes JSON with orjson: what it
takes of the machine's cores is taken from everybody.

    python -m benchmarks.mail_tool --latency-ms 100 --connections 10

prints its port. ``/_bench/`` is for the benchmark: GET counts what came in, POST empties the tool
and, with ``{"contacts": n}``, fills it again.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import hashlib
import re
from dataclasses import dataclass, field
from typing import Any, cast

import orjson

LIST = "/3.0/lists/bench"
_SEGMENT = re.compile(rf"{LIST}/segments/(\d+)$")
_SEGMENT_MEMBERS = re.compile(rf"{LIST}/segments/(\d+)/members$")
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


def address_of(number: int) -> str:
    """The address of a generated contact; benchmarks.delivery makes the same in SQL."""
    return f"person{number}@members.example"


@dataclass
class Limits:
    """latency_seconds: of every answer. connections: at once; 429 for one more. per_window: calls
    in a window of ``window_seconds``, announced in headers; 429 with Retry-After beyond."""

    latency_seconds: float = 0.0
    connections: int = 0
    per_window: int = 0
    window_seconds: float = 1.0


@dataclass
class Tool:
    """Contacts and segments, and a count of what came in."""

    contacts: dict[str, str] = field(default_factory=dict)
    segments: dict[int, tuple[str, dict[str, None]]] = field(default_factory=dict)
    merge_fields: dict[str, str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def reset(self, contacts: int) -> None:
        """Empty the tool, or fill it with generated contacts."""
        self.contacts = {
            address: _hash(address) for address in map(address_of, range(1, contacts + 1))
        }
        self.segments, self.merge_fields = {}, {}
        self.counts = {"reads": 0, "writes": 0, "rows": 0, "refused": 0}

    def answer(self, method: str, path: str, query: dict[str, str], body: Any) -> Any:
        """The body of the answer."""
        self.counts["reads" if method == "GET" else "writes"] += 1
        if method == "GET":
            return self._read(path, int(query.get("offset", 0)), int(query.get("count", 10)), query)
        if path == LIST:
            return self._upsert(body)
        if path == f"{LIST}/merge-fields":
            self.merge_fields[body["tag"]] = body["type"]
            return body
        if path == f"{LIST}/segments":
            number = len(self.segments) + 1
            self.segments[number] = (body["name"], {})
            return {"id": number, "name": body["name"], "type": "static"}
        found = _SEGMENT.match(path)
        return self._change_segment(int(found[1]), body) if found else None

    def _read(self, path: str, offset: int, count: int, query: dict[str, str]) -> Any:
        if path == "/3.0/lists":
            return {"lists": [{"id": "bench", "double_optin": True}], "total_items": 1}
        if path == f"{LIST}/merge-fields":
            tags = [{"tag": tag, "type": kind} for tag, kind in self.merge_fields.items()]
            return {"merge_fields": tags[offset : offset + count], "total_items": len(tags)}
        if path == f"{LIST}/segments":
            segments = [{"id": n, "name": name} for n, (name, _) in self.segments.items()]
            return {"segments": segments[offset : offset + count], "total_items": len(segments)}
        if found := _SEGMENT_MEMBERS.match(path):
            return self._page(list(self.segments[int(found[1])][1]), offset, count)
        if path == f"{LIST}/members":
            return self._page(
                [] if query.get("status") == "archived" else list(self.contacts), offset, count
            )
        return None

    def _page(self, addresses: list[str], offset: int, count: int) -> Any:
        members = [self._member(address) for address in addresses[offset : offset + count]]
        return {"members": members, "total_items": len(addresses)}

    def _member(self, address: str) -> dict[str, Any]:
        return {
            "id": self.contacts[address],
            "email_address": address,
            "status": "subscribed",
            "timestamp_signup": "2026-01-01T00:00:00+00:00",
            "timestamp_opt": "2026-01-01T00:01:00+00:00",
            "last_changed": "2026-01-01T00:01:00+00:00",
        }

    def _upsert(self, body: dict[str, Any]) -> Any:
        new: list[dict[str, Any]] = []
        updated: list[dict[str, Any]] = []
        errors: list[dict[str, Any]] = []
        self.counts["rows"] += len(body["members"])
        contacts, update_existing = self.contacts, body["update_existing"]
        for member in body["members"]:
            address = member["email_address"]
            known = contacts.get(address)
            if known is None and "status" not in member:
                errors.append({"email_address": address, "error_code": "ERROR_GENERIC"})
            elif known is not None and not update_existing:
                errors.append({"email_address": address, "error_code": "ERROR_CONTACT_EXISTS"})
            else:
                identity = contacts[address] = known or _hash(address)
                (updated if known else new).append(
                    {
                        "id": identity,
                        "email_address": address,
                        "unique_email_id": identity[:10],
                        "email_type": "html",
                        "status": "subscribed",
                        "merge_fields": member["merge_fields"],
                    }
                )
        return {
            "new_members": new,
            "updated_members": updated,
            "errors": errors,
            "total_created": len(new),
            "total_updated": len(updated),
            "error_count": len(errors),
        }

    def _change_segment(self, number: int, body: dict[str, Any]) -> Any:
        members = self.segments[number][1]
        self.counts["rows"] += len(body["members_to_add"]) + len(body["members_to_remove"])
        added = [a for a in body["members_to_add"] if a in self.contacts and a not in members]
        removed = [a for a in body["members_to_remove"] if a in members]
        members.update(dict.fromkeys(added))
        for address in removed:
            del members[address]
        return {
            "members_added": [{"email_address": address} for address in added],
            "members_removed": [{"email_address": address} for address in removed],
            "errors": [],
        }


class Connection(asyncio.Protocol):
    """HTTP/1.1 with keep-alive, as far as clients of this benchmark speak it."""

    under_way = 0
    window_ends = 0.0
    window_left = 0

    def __init__(self, tool: Tool, limits: Limits) -> None:
        self.tool, self.limits = tool, limits
        self.received = bytearray()
        self.request: tuple[str, str, int, int] | None = None
        self.loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Answer as soon as a request is whole."""
        self.received += data
        if self.request is None:
            self.request = self._head()
        if self.request is None:
            return
        method, target, begins, ends = self.request
        if len(self.received) < ends:
            return
        body = bytes(memoryview(self.received)[begins:ends])
        del self.received[:ends]
        self.request = None
        self._respond(method, target, body)

    def _head(self) -> tuple[str, str, int, int] | None:
        """Method, target, and where the body begins and ends; None before the head is whole."""
        end = self.received.find(b"\r\n\r\n")
        if end < 0:
            return None
        head = bytes(self.received[:end])
        found = _LENGTH.search(head)
        method, target, _ = head.decode("latin-1").split(" ", 2)
        return method, target, end + 4, end + 4 + (int(found[1]) if found else 0)

    def _respond(self, method: str, target: str, body: bytes) -> None:
        path, _, query = target.partition("?")
        parsed = orjson.loads(body) if body else None
        if path.startswith("/_bench/"):
            if method == "POST":
                self.tool.reset((parsed or {}).get("contacts", 0))
            sizes = [len(members) for _, members in self.tool.segments.values()]
            contacts = len(self.tool.contacts)
            self._write(200, {**self.tool.counts, "contacts": contacts, "segments": sizes})
            return
        refusal, headers = self._limit()
        if refusal:
            self.tool.counts["refused"] += 1
            self._write(429, {"title": "Too Many Requests", "status": 429}, headers)
            return
        values = dict(part.partition("=")[::2] for part in query.split("&"))
        answer = self.tool.answer(method, path, values, parsed)
        Connection.under_way += 1
        status = 200 if answer is not None else 404

        def finish() -> None:
            Connection.under_way -= 1
            self._write(status, answer or {"title": "Not Found"}, headers)

        if self.limits.latency_seconds:
            self.loop.call_later(self.limits.latency_seconds, finish)
        else:
            finish()

    def _limit(self) -> tuple[bool, dict[str, str]]:
        if self.limits.connections and Connection.under_way >= self.limits.connections:
            return True, {}
        if not self.limits.per_window:
            return False, {}
        now = self.loop.time()
        if now >= Connection.window_ends:
            Connection.window_ends = now + self.limits.window_seconds
            Connection.window_left = self.limits.per_window
        seconds = f"{Connection.window_ends - now:.3f}"
        if Connection.window_left <= 0:
            return True, {"Retry-After": seconds}
        Connection.window_left -= 1
        remaining = str(Connection.window_left)
        return False, {"RateLimit-Remaining": remaining, "RateLimit-Reset": seconds}

    def _write(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        content = orjson.dumps(body)
        lines = [f"HTTP/1.1 {status} .", "Content-Type: application/json"]
        lines += [f"Content-Length: {len(content)}"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        self.transport.write("\r\n".join([*lines, "", ""]).encode() + content)


def _hash(address: str) -> str:
    return hashlib.md5(address.encode(), usedforsecurity=False).hexdigest()


async def _serve(limits: Limits) -> None:
    tool = Tool()
    tool.reset(0)
    gc.freeze()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(tool, limits), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--latency-ms", type=float, default=0)
    parser.add_argument("--connections", type=int, default=0)
    parser.add_argument("--per-window", type=int, default=0)
    parser.add_argument("--window-seconds", type=float, default=1)
    given = parser.parse_args()
    asyncio.run(
        _serve(
            Limits(
                given.latency_ms / 1000,
                given.connections,
                given.per_window,
                given.window_seconds,
            )
        )
    )
