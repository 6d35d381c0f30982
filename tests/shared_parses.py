"""One parse of the dbt project for all test workers and the nights they start.

dbt takes seconds to parse the project, and does so for every set of variables, every database name
and every server address. What it has parsed lies in a file, which it takes up where all of these
are the same and no file of the project has changed. Each worker has a server and a home of its own,
so that file is handed from one to the other, and the address does not count.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kundenkreis.warehouse import dbt

FOLDER_VARIABLE = "KUNDENKREIS_TEST_PARSES"
_FILE = "partial_parse.msgpack"
_ADDRESS = ("host", "port", "user")


def install(folder: Path) -> None:
    """Let every dbt build of this process take up what any has parsed; other processes read it."""
    folder.mkdir(exist_ok=True)
    dbt._parsed = _shared(dbt._parsed, folder)


def _shared(parse: Callable[..., Any], folder: Path) -> Callable[..., Any]:
    def parsed(target: Path, logs: Path, variables: Mapping[str, Any]) -> Any:
        own, shared = target / _FILE, folder / _name(variables)
        _leave_the_address_out()
        with _locked(shared):
            if shared.exists() and not _is_copy(own, shared):
                shutil.copy2(shared, own)
            manifest = parse(target, logs, variables)
            if not shared.exists():
                new = shared.with_suffix(".new")
                shutil.copy2(own, new)
                new.rename(shared)
        return manifest

    return parsed


def _leave_the_address_out() -> None:
    """Of what dbt compares to see whether a parse is still valid: no model reads it."""
    from dbt.adapters.postgres.connections import PostgresCredentials

    keys = tuple(key for key in PostgresCredentials._connection_keys(None) if key not in _ADDRESS)
    PostgresCredentials._connection_keys = lambda self: keys


def _name(variables: Mapping[str, Any]) -> str:
    parsed_with = dbt.variables_while_parsing(variables), os.environ["KUNDENKREIS_DBT_DBNAME"]
    text = json.dumps(parsed_with, sort_keys=True, default=str)
    return f"{hashlib.sha256(text.encode()).hexdigest()}.msgpack"


def _is_copy(own: Path, shared: Path) -> bool:
    if not own.exists():
        return False
    ours, theirs = own.stat(), shared.stat()
    return (ours.st_mtime_ns, ours.st_size) == (theirs.st_mtime_ns, theirs.st_size)


@contextmanager
def _locked(shared: Path) -> Iterator[None]:
    """Who comes second waits for the parse instead of making another."""
    with shared.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
