"""One Airflow pool per vendor account, so that all DAGs together keep to the vendor's limits.

A vendor counts an account's calls, wherever they come from, while a connector paces only its own
task. So no two tasks, of whatever DAG, may talk to one account at the same time: each is in the
account's pool, and the pool has one slot. An account is an Airflow connection.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kundenkreis.settings import Settings

DEFAULT_POOL = "default_pool"


@dataclass(frozen=True)
class Pool:
    """A pool as Airflow is to have it."""

    name: str
    slots: int
    description: str


def pool_of(system: Any) -> str:
    """The pool of the tasks that talk to a source or a destination, given its settings.

    A system without a connection, such as files, has no account and is in Airflow's own pool.
    """
    connection = getattr(system, "connection", None)
    return f"vendor_{connection}" if connection else DEFAULT_POOL


def needed_pools(settings: Settings) -> list[Pool]:
    """The pools that the DAGs name, in the order of their names."""
    systems = [*settings.sources.values(), *settings.destinations.values()]
    names = {pool_of(system) for system in systems} - {DEFAULT_POOL}
    return [
        Pool(name, 1, f"Calls to the account of connection {name.removeprefix('vendor_')}")
        for name in sorted(names)
    ]
