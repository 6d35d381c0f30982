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
from urllib.parse import parse_qsl, unquote, urlsplit

from kundenkreis.errors import CredentialError


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
        """The address without credentials and without a trailing slash."""
        if explicit := self.extra.get("base_url"):
            return explicit.rstrip("/")
        scheme = self.scheme if self.scheme in ("http", "https") else "https"
        port = f":{self.port}" if self.port else ""
        path = f"/{self.path.strip('/')}" if self.path.strip("/") else ""
        return f"{scheme}://{self.host}{port}{path}"

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
    parts = urlsplit(value)
    try:
        port = parts.port
    except ValueError:
        port = None
    if not parts.scheme:
        raise CredentialError(
            f"{environment_name(connection_id)} is neither a connection URI (scheme://...) "
            "nor a JSON object."
        )
    return Connection(
        id=connection_id,
        scheme=parts.scheme,
        host=unquote(parts.hostname or ""),
        port=port,
        login=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        path=unquote(parts.path.lstrip("/")),
        extra=dict(parse_qsl(parts.query)),
    )


def _from_json(connection_id: str, value: str) -> Connection:
    try:
        data = json.loads(value)
    except json.JSONDecodeError as error:
        raise CredentialError(
            f"{environment_name(connection_id)} starts like JSON but is not: "
            f"{error.msg} at character {error.pos}."
        ) from None
    extra = data.get("extra") or {}
    if isinstance(extra, str):
        extra = json.loads(extra or "{}")
    return Connection(
        id=connection_id,
        scheme=str(data.get("conn_type") or "https"),
        host=str(data.get("host") or ""),
        port=int(data["port"]) if data.get("port") else None,
        login=str(data.get("login") or ""),
        password=str(data.get("password") or ""),
        path=str(data.get("schema") or ""),
        extra={str(key): str(item) for key, item in extra.items()},
    )
