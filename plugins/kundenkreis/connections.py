"""Where a system is and how to log in to it, without Airflow.

Connectors are handed a `Connection`; they never look one up. Inside Airflow the operators make it
from an Airflow connection of any secrets backend, elsewhere it comes from the same
``AIRFLOW_CONN_<ID>`` environment variables that Airflow reads, as a URI or as JSON
(https://airflow.apache.org/docs/apache-airflow/stable/howto/connection.html).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from kundenkreis.errors import CredentialError

_WEB = ("http", "https")


@dataclass(frozen=True)
class Connection:
    """One system's address and credentials. Its repr never shows the password."""

    id: str
    scheme: str
    host: str
    port: int | None = None
    login: str = ""
    password: str = field(default="", repr=False)
    path: str = ""
    extra: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def base_url(self) -> str:
        """The address without credentials and without a trailing slash.

        Airflow's forms leave three spellings: the host may be a whole address, and the field
        "schema" may hold a path or, as Airflow's own HTTP hook has it, the scheme.
        """
        if explicit := self.extra.get("base_url"):
            return explicit.rstrip("/")
        path = self.path.strip("/")
        scheme = self.scheme if self.scheme in _WEB else "https"
        if path in _WEB:
            scheme, path = path, ""
        host = self.host.rstrip("/")
        if "://" not in host:
            host = f"{scheme}://{bracketed(host)}"
        return host + (f":{self.port}" if self.port else "") + (f"/{path}" if path else "")

    def require(self, *names: str) -> None:
        """Raise `CredentialError` when one of ``host``, ``login``, ``password`` is empty."""
        missing = [name for name in names if not getattr(self, name)]
        if missing:
            raise CredentialError(
                f"Connection '{self.id}' has no {' and no '.join(missing)}. "
                f"Set it in Airflow (Admin > Connections) or in {environment_name(self.id)}."
            )


Resolver = Callable[[str], Connection]


def environment_name(connection_id: str) -> str:
    """The environment variable that holds a connection, as Airflow spells it."""
    return f"AIRFLOW_CONN_{connection_id.upper()}"


def connection_from_environment(connection_id: str) -> Connection:
    """Read a connection from ``AIRFLOW_CONN_<ID>``.

    Raises:
        CredentialError: the variable is missing, or is neither a URI nor a JSON object.
    """
    name = environment_name(connection_id)
    value = os.environ.get(name, "").strip()
    if not value:
        raise CredentialError(
            f"Connection '{connection_id}' is not set. Add it in Airflow (Admin > Connections) or "
            f"set {name}; .env.example shows one of each. To try things out, "
            "`kundenkreis sandbox start` provides all of them."
        )
    return parse_connection(connection_id, value)


def parse_connection(connection_id: str, value: str) -> Connection:
    """Parse Airflow's JSON or URI form of a connection.

    Raises:
        CredentialError: the text is neither; the message never repeats the text.
    """
    if value.startswith("{"):
        return _from_json(connection_id, value)
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:  # its text would repeat the password
        raise CredentialError(
            f"{environment_name(connection_id)} is no valid connection URI. Characters such as "
            "/ # ? [ @ in a login or password must be percent-encoded, or use the JSON form."
        ) from None
    if not parts.scheme:
        raise CredentialError(
            f"{environment_name(connection_id)} is neither a connection URI (scheme://...) "
            "nor a JSON object."
        )
    query = dict(parse_qsl(parts.query))
    # Airflow writes nested extras as one JSON parameter.
    nested = query.pop("__extra__", None)
    return Connection(
        id=connection_id,
        scheme=parts.scheme,
        host=unquote(parts.hostname or ""),
        port=port,
        login=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        path=unquote(parts.path.lstrip("/")),
        extra={**query, **_extra(connection_id, nested)},
    )


def bracketed(host: str) -> str:
    """A host as URLs spell it: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def _from_json(connection_id: str, value: str) -> Connection:
    data = _json_object(environment_name(connection_id), value)
    try:
        port = int(data["port"]) if data.get("port") else None
    except (TypeError, ValueError):
        raise CredentialError(
            f"{environment_name(connection_id)}: port is no whole number."
        ) from None
    return Connection(
        id=connection_id,
        scheme=str(data.get("conn_type") or "https"),
        host=str(data.get("host") or ""),
        port=port,
        login=str(data.get("login") or ""),
        password=str(data.get("password") or ""),
        path=str(data.get("schema") or ""),
        extra=_extra(connection_id, data.get("extra")),
    )


def _extra(connection_id: str, value: Any) -> dict[str, str]:
    """Airflow's ``extra``: an object, or an object as text."""
    place = f"{environment_name(connection_id)}: extra"
    data = _json_object(place, value) if isinstance(value, str) and value.strip() else value or {}
    if not isinstance(data, dict):
        raise CredentialError(f"{place} must be a JSON object.")
    return {str(key): str(item) for key, item in data.items()}


def _json_object(place: str, text: str) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise CredentialError(
            f"{place} is no valid JSON: {error.msg} at character {error.pos}."
        ) from None
    if not isinstance(data, dict):
        raise CredentialError(f"{place} must be a JSON object.")
    return data
