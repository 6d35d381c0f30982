"""Prints Airflow's settings, and connections that it holds, for `kundenkreis doctor`.

Run as a process of its own: ``python -m kundenkreis.airflow_settings [connection id ...]``. Of
secrets only whether they are set is printed; connections go through the pipe to the one process
that asked, which never shows them.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from kundenkreis.settings import repository_root

_SETTINGS = (
    "core.executor",
    "core.parallelism",
    "core.load_examples",
    "core.default_timezone",
    "core.dags_are_paused_at_creation",
    "core.dagbag_import_timeout",
    "core.max_active_tasks_per_dag",
    "core.simple_auth_manager_all_admins",
    "core.unit_test_mode",
    "core.xcom_backend",
    "api.expose_config",
)

_KNOWN_PASSWORDS = {"admin", "airflow", "password", "changeme", "postgres", "secret"}


def main() -> None:
    """Print one line of JSON after the word AIRFLOW_SETTINGS."""
    answer = {
        "settings": _settings(),
        "connections": _connections(sys.argv[1:]),
        "pools": _pools(),
    }
    sys.stdout.write(f"\nAIRFLOW_SETTINGS{json.dumps(answer)}\n")


def _settings() -> dict[str, str]:
    from airflow.configuration import conf

    found = {}
    for name in _SETTINGS:
        section, key = name.split(".")
        found[name] = str(conf.get(section, key, fallback="") or "")
    for name in ("core.fernet_key", "api_auth.jwt_secret"):
        section, key = name.split(".")
        found[name] = "set" if conf.get(section, key, fallback="") else "missing"
    metadata = urlsplit(conf.get("database", "sql_alchemy_conn", fallback=""))
    found["database.kind"] = metadata.scheme.partition("+")[0]
    found["database.password"] = _strength([metadata.password or ""])
    found["auth.passwords"] = _strength(_simple_passwords(conf))
    found["dag.found"] = _finds_dag(conf)
    found["dag.expected_folder"] = str(repository_root() / "dags")
    found["plugins.ignored"] = _ignores_package(Path(conf.get("core", "plugins_folder")))
    return found


def _strength(passwords: list[str]) -> str:
    """Whether one of some passwords is among those that every manual shows."""
    return "default" if set(passwords) & _KNOWN_PASSWORDS else "own"


def _simple_passwords(conf: Any) -> list[str]:
    """The passwords of the simple auth manager, which keeps them in a file of its own."""
    default = Path(os.environ.get("AIRFLOW_HOME", "~/airflow")).expanduser()
    named = conf.get("core", "simple_auth_manager_passwords_file", fallback="")
    file = Path(named or default / "simple_auth_manager_passwords.json.generated")
    try:
        return [str(value) for value in json.loads(file.read_text()).values()]
    except (OSError, ValueError, AttributeError):
        return []


def _finds_dag(conf: Any) -> str:
    """Whether the folders that Airflow reads hold the DAG; ``elsewhere`` for other bundles."""
    bundles = conf.getjson("dag_processor", "dag_bundle_config_list", fallback=[]) or []
    if any(not str(bundle.get("classpath")).endswith("LocalDagBundle") for bundle in bundles):
        return "elsewhere"
    default = conf.get("core", "dags_folder")
    paths = [(bundle.get("kwargs") or {}).get("path") or default for bundle in bundles]
    found = (next(Path(path).glob("**/customer_lifecycle.py"), None) for path in paths or [default])
    return "yes" if any(found) else "no"


def _ignores_package(plugins: Path) -> str:
    if not (plugins / "kundenkreis").is_dir():
        return "not there"
    ignore = plugins / ".airflowignore"
    lines = ignore.read_text().splitlines() if ignore.exists() else []
    return "yes" if any(line.strip().rstrip("/") == "kundenkreis" for line in lines) else "no"


def _connections(ids: list[str]) -> dict[str, str]:
    """Those of the wanted connections that Airflow holds, each as JSON."""
    if not ids:
        return {}
    from airflow.exceptions import AirflowNotFoundException
    from airflow.models.connection import Connection

    found = {}
    for name in ids:
        try:
            connection = Connection.get_connection_from_secrets(name)
        except AirflowNotFoundException:
            continue
        except Exception as problem:
            # No database, or no backend: then Airflow holds none, which the check of each says.
            sys.stderr.write(f"{name}: {type(problem).__name__}\n")
            break
        found[name] = connection.as_json()
    return found


def _pools() -> dict[str, int] | None:
    """Slots by pool; None where Airflow's database is not there, or has no tables yet."""
    from airflow.models.pool import Pool
    from sqlalchemy.exc import SQLAlchemyError

    try:
        return {pool.pool: pool.slots for pool in Pool.get_pools()}
    except SQLAlchemyError as problem:
        sys.stderr.write(f"pools: {type(problem).__name__}\n")
        return None


if __name__ == "__main__":
    main()
