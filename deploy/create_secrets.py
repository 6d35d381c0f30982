"""Writes the secrets that docker-compose.yml asks for into ``.env``, and keeps those it holds.

    python3 deploy/create_secrets.py [FILE]

Each is random, of letters, digits, ``-`` and ``_``, so that it may stand in a URL. Only the names
are printed.
"""

from __future__ import annotations

import base64
import os
import secrets
import sys
from pathlib import Path

NAMES = (
    "POSTGRES_PASSWORD",
    "WAREHOUSE_PASSWORD",
    "AIRFLOW_DATABASE_PASSWORD",
    "AIRFLOW_FERNET_KEY",
    "AIRFLOW_JWT_SECRET",
    "AIRFLOW_API_SECRET_KEY",
    "AIRFLOW_ADMIN_PASSWORD",
    "REDIS_PASSWORD",
    "FLOWER_PASSWORD",
)


def main(file: Path) -> None:
    """Add what is missing to a file that only its owner may read."""
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    held = {line.partition("=")[0].strip() for line in text.splitlines() if "=" in line}
    missing = [name for name in NAMES if name not in held]
    if text and not text.endswith("\n"):
        text += "\n"
    partial = file.with_name(file.name + ".partial")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(text + "".join(f"{name}={_random(name)}\n" for name in missing))
    partial.replace(file)  # whole, or as it was
    print(f"{file}: {', '.join(missing) or 'nothing'} added")


def _random(name: str) -> str:
    if name == "AIRFLOW_FERNET_KEY":  # https://cryptography.io/en/latest/fernet/: 32 bytes
        return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
    # Tokens are signed by HMAC-SHA512, whose key should be as long (RFC 7518, 3.2).
    return secrets.token_urlsafe(64 if name == "AIRFLOW_JWT_SECRET" else 32)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else ".env"))
