"""The benchmarks' own PostgreSQL: the embedded server, with the memory of a larger warehouse."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from kundenkreis.warehouse import embedded
from kundenkreis.warehouse.schema import ensure_schemas


def settings() -> dict[str, str]:
    """The product's settings, and the memory that docs/scaling.md advises beyond a small shop."""
    megabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    return {
        **embedded.SERVER_SETTINGS,
        "shared_buffers": f"{megabytes // 4}MB",
        "effective_cache_size": f"{megabytes * 3 // 4}MB",
    }


@contextmanager
def running(folder: Path, keep: bool) -> Iterator[embedded.EmbeddedServer]:
    """Start the server in a folder; stop it at the end, and remove its data unless `keep`."""
    server = embedded.start(embedded.EmbeddedServer(folder / "postgres"), **settings())
    try:
        yield server
    finally:
        embedded.stop(server)
        if not keep:
            shutil.rmtree(server.directory, ignore_errors=True)


def fresh_warehouse(server: embedded.EmbeddedServer, name: str) -> str:
    """Create a database that holds the product's schemas and nothing else.

    Returns:
        Its libpq URI.
    """
    with psycopg.connect(server.dsn("postgres"), autocommit=True) as connection:
        connection.execute(f'drop database if exists "{name}" with (force)')
        connection.execute(f'create database "{name}"')
    dsn = server.dsn(name)
    ensure_schemas(dsn)
    return dsn
