"""The Airflow settings this checkout runs with, as environment variables.

Airflow itself is not imported here: its settings must be in place before it is.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from kundenkreis.settings import home, repository_root


def airflow_environment(metadata_uri: str) -> dict[str, str]:
    """Airflow's settings for this checkout; what the environment already sets is kept.

    Args:
        metadata_uri: SQLAlchemy URI of Airflow's own database.
    """
    root = repository_root()
    values = {
        "AIRFLOW_HOME": str(home() / "airflow"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(root / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(root / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__PARALLELISM": "4",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__FERNET_KEY": os.environ.get("AIRFLOW__CORE__FERNET_KEY") or _fernet_key(),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": metadata_uri,
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        "GX_ANALYTICS_ENABLED": "false",
        "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
        "RUNTIME__DLTHUB_TELEMETRY": "false",
    }
    return {name: os.environ.get(name, value) for name, value in values.items()}


def _fernet_key() -> str:
    """A key of this checkout's own, so that connections in Airflow's database are encrypted."""
    import base64

    file = home() / "airflow" / "fernet_key"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        _write_private(file, base64.urlsafe_b64encode(secrets.token_bytes(32)).decode())
    return file.read_text().strip()


def _write_private(file: Path, text: str) -> None:
    file.touch(mode=0o600)
    file.write_text(text + "\n")
