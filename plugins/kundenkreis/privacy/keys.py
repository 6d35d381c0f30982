"""The key of the hashes that keep erased persons out: kept outside the warehouse.

A hash of an address without a key is as good as the address: there are few enough to try all. So
what the warehouse keeps of an erased person are HMACs (RFC 2104, SHA-256) whose key it never sees.
Who loses the key can no longer tell whether a record belongs to somebody who was erased.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from kundenkreis.connections import Resolver, connection_from_environment, environment_name
from kundenkreis.errors import CredentialError
from kundenkreis.settings import home

ENVIRONMENT = "KUNDENKREIS_ERASURE_KEY"
CONNECTION_ID = "erasure_key"

_SHORTEST = 32
_SEPARATOR = "\x1f"  # in no address and no id

_WHERE_IT_GOES = (
    f"It belongs into {ENVIRONMENT}, or the password of Airflow connection '{CONNECTION_ID}' "
    f"({environment_name(CONNECTION_ID)})"
)


@dataclass(frozen=True)
class ErasureKey:
    """A key, which never shows in a repr or a traceback."""

    secret: bytes = field(repr=False)

    def hash_of(self, kind: str, *parts: str) -> str:
        """The HMAC of one identifier, as 64 hexadecimal digits.

        Args:
            kind: what it is (``address``, ``record``, ``customer``), so that none equals another's.
            parts: of the identifier.
        """
        message = _SEPARATOR.join((kind, *parts)).encode()
        return hmac.digest(self.secret, message, hashlib.sha256).hex()

    @property
    def check(self) -> str:
        """What tells one key from another without telling the key."""
        return self.hash_of("key")


def find_key(resolve: Resolver | None = None) -> ErasureKey:
    """The key from the environment, a connection or, of the embedded warehouse, its file.

    Raises:
        CredentialError: there is none, or it is too short.
    """
    resolve = resolve or connection_from_environment
    text, where = os.environ.get(ENVIRONMENT, "").strip(), ENVIRONMENT
    if not text:
        with suppress(CredentialError):
            text, where = resolve(CONNECTION_ID).password, f"connection '{CONNECTION_ID}'"
    if not text and key_file().exists():
        text, where = key_file().read_text().strip(), str(key_file())
    if not text:
        raise CredentialError(
            "The key of erasures is missing. Without it nobody can tell whether a record belongs "
            f"to somebody who was erased, so nothing is loaded. {_WHERE_IT_GOES}. Where no person "
            "was erased yet, make one with `openssl rand -hex 32` and keep it with your other "
            "secrets, apart from backups of the warehouse."
        )
    if len(text) < _SHORTEST:
        raise CredentialError(
            f"The key of erasures in {where} has fewer than {_SHORTEST} characters. Make one with "
            "`openssl rand -hex 32`."
        )
    return ErasureKey(text.encode())


def find_or_make_key(connection: psycopg.Connection, resolve: Resolver | None = None) -> ErasureKey:
    """As `find_key`, checked against the erasures there are.

    The embedded warehouse's first erasure makes a key, in a file that only its owner may read.

    Raises:
        CredentialError: there is none, or it is not the one of earlier erasures.
    """
    is_first = connection.execute("select not exists (select 1 from privacy.erasures)").fetchone()
    if is_first == (True,) and not os.environ.get(environment_name("warehouse")):
        try:
            key = find_key(resolve)
        except CredentialError:
            key = _make()
    else:
        key = find_key(resolve)
    require_same_key(connection, key)
    return key


def require_same_key(connection: psycopg.Connection, key: ErasureKey) -> None:
    """Refuse a key that would not recognise who was erased with another.

    Raises:
        CredentialError: it is another key.
    """
    row = connection.execute(
        "select count(*) from privacy.erasures where key_check <> %s", (key.check,)
    ).fetchone()
    if row and row[0]:
        raise CredentialError(
            f"The key of erasures is another one than that of {row[0]} earlier erasures, so it "
            f"would not recognise these persons. {_WHERE_IT_GOES}; put the earlier one back."
        )


def key_file() -> Path:
    """Where the embedded warehouse's key is."""
    return home() / "erasure_key"


def _make() -> ErasureKey:
    file = key_file()
    file.parent.mkdir(parents=True, exist_ok=True)
    text = secrets.token_hex(32)
    # Born private: a file that is made readable to its owner afterwards was open for a moment.
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(text + "\n")
    return ErasureKey(text.encode())
