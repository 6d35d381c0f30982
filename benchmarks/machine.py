"""What a run was measured on."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psycopg

_PACKAGES = ("dbt-core", "dbt-postgres", "numpy", "scipy", "psycopg")
_NOT_OF_SPEED = (
    "listen_addresses",
    "unix_socket_directories",
    "max_connections",
    "log_",
    "timezone",
)


def describe(dsn: str, settings: dict[str, str]) -> dict[str, object]:
    """Date, machine, versions and the settings of the server that bear on speed.

    Args:
        dsn: any database of the server.
        settings: what the server was started with.
    """
    with psycopg.connect(dsn) as connection:
        row = connection.execute("show server_version").fetchone()
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "load_average_at_start": round(os.getloadavg()[0], 1),
        "versions": {
            "PostgreSQL": row[0] if row else "",
            "Python": platform.python_version(),
            **{name: version(name) for name in _PACKAGES},
        },
        "settings": {
            name: value for name, value in settings.items() if not name.startswith(_NOT_OF_SPEED)
        },
    }


def _processor() -> str:
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())
