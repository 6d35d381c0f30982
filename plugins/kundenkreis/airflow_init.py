"""What Airflow's own database must hold before the first night: tables, pools, a first login.

By Airflow's command line, which is its public interface; nothing of Airflow is imported here.
Everything is safe to do again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kundenkreis.errors import KundenkreisError
from kundenkreis.pools import Pool
from kundenkreis.redaction import first_lines

ADMIN_PASSWORD = "KUNDENKREIS_ADMIN_PASSWORD"  # noqa: S105 (the name of a variable)
ADMIN = "admin"


@dataclass(frozen=True)
class PoolState:
    """A pool that the DAGs name, and the slots it has in Airflow; None where it is missing."""

    name: str
    slots: int | None


def initialise(
    pools: Sequence[Pool], environment: Mapping[str, str], progress: Callable[[str], None]
) -> None:
    """Migrate Airflow's database, add the pools that are missing and the first administrator.

    A pool that is there keeps the slots that somebody gave it. The administrator is added where
    logins are kept in the database (FabAuthManager) and KUNDENKREIS_ADMIN_PASSWORD is set; one who
    is there keeps the password.

    Args:
        environment: Airflow's settings, as environment variables.

    Raises:
        KundenkreisError: Airflow refused; names the command and repeats its last lines.
    """
    _airflow(environment, "db", "migrate")
    progress("Airflow's database has its tables.")
    missing = {state.name for state in pool_states(pools, environment) if state.slots is None}
    if missing:
        _add_pools([pool for pool in pools if pool.name in missing], environment)
    progress(f"Pools: {', '.join(pool.name for pool in pools) or 'none needed'}.")
    password = environment.get(ADMIN_PASSWORD)
    if password and "Fab" in environment.get("AIRFLOW__CORE__AUTH_MANAGER", ""):
        _add_administrator(password, environment)
        progress(f"Login: {ADMIN}.")


def pool_states(pools: Sequence[Pool], environment: Mapping[str, str]) -> list[PoolState]:
    """Whether each pool is there, and with how many slots.

    Raises:
        KundenkreisError: Airflow refused.
    """
    if not pools:
        return []
    output = _airflow(environment, "pools", "list", "--output", "json")
    # Airflow's warnings may come before the list.
    listed: list[dict[str, Any]] = json.loads(output[output.index("[{") :])
    slots = {entry["pool"]: int(entry["slots"]) for entry in listed}
    return [PoolState(pool.name, slots.get(pool.name)) for pool in pools]


def _add_pools(pools: Sequence[Pool], environment: Mapping[str, str]) -> None:
    wanted = {
        name: {**pool, "include_deferred": False}
        for pool in map(asdict, pools)
        if (name := pool.pop("name"))
    }
    with tempfile.TemporaryDirectory(prefix="kundenkreis-pools-") as folder:
        file = Path(folder) / "pools.json"
        file.write_text(json.dumps(wanted))
        _airflow(environment, "pools", "import", str(file))


def _add_administrator(password: str, environment: Mapping[str, str]) -> None:
    """The password goes by standard input, where no process list shows it."""
    person = [
        "--firstname",
        "First",
        "--lastname",
        "Administrator",
        "--email",
        f"{ADMIN}@localhost",
    ]
    arguments = ["--username", ADMIN, "--role", "Admin", *person]
    _airflow(environment, "users", "create", *arguments, answer=f"{password}\n{password}\n")


def _airflow(environment: Mapping[str, str], *arguments: str, answer: str = "") -> str:
    completed = subprocess.run(  # noqa: S603 (Airflow of this environment)
        [sys.executable, "-m", "airflow", *arguments],
        env={**os.environ, **environment},
        input=answer,
        capture_output=True,
        text=True,
        # Without a terminal of its own, a question is answered by what stands in `answer`.
        start_new_session=True,
        check=False,
    )
    if completed.returncode:
        lines = [line for line in completed.stderr.splitlines() if line.strip()]
        raise KundenkreisError(
            f"`airflow {' '.join(arguments[:2])}` failed: {first_lines(' '.join(lines[-3:]))} "
            "Check AIRFLOW__DATABASE__SQL_ALCHEMY_CONN, and that its server is up."
        )
    return completed.stdout
