"""One request and one reply, as plain data: what every vendor fake takes and gives.

The fakes do not see the web framework, so they can be called directly (Mailchimp's batches do) and
answer in the vendor's own error shapes rather than the framework's.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Request:
    """`path` is relative to the vendor's root and decoded; `query` keeps order and repeats."""

    method: str
    path: str
    query: tuple[tuple[str, str], ...] = ()
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    url: str = ""

    def one(self, name: str, default: str = "") -> str:
        """The last value of a query parameter, as PHP and Go read it."""
        return next((value for key, value in reversed(self.query) if key == name), default)

    def many(self, name: str) -> list[str]:
        """All values of a parameter: repeated, ``name[]``, ``name[0]`` or comma separated."""
        values = [
            value
            for key, value in self.query
            if key == name or (key.startswith(name + "[") and key.endswith("]"))
        ]
        return [part for value in values for part in value.split(",") if part != ""]

    def json(self) -> Any:
        """The body as JSON.

        Raises:
            ValueError: it is not JSON.
        """
        return json.loads(self.body or b"null")

    def basic(self) -> tuple[str, str] | None:
        """User and password of HTTP basic authentication, or None."""
        scheme, _, value = self.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "basic":
            return None
        try:
            user, _, password = base64.b64decode(value).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return None
        return user, password


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply; `members` counts the member operations it accepted, for the request log."""

    status: int
    content: bytes
    headers: dict[str, str] = field(default_factory=dict)
    media_type: str = "application/json; charset=utf-8"
    members: int = 0


def reply(status: int, value: Any, *, members: int = 0, **headers: str) -> Reply:
    """A JSON reply; header names are given with underscores."""
    return Reply(
        status,
        json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(),
        {name.replace("_", "-"): value for name, value in headers.items()},
        members=members,
    )
