"""Databases that one test worker fills and the others restore, with what belongs to them.

Each worker has a server of its own, so that no test meets another one's sessions or settings. What
takes long to build and is only cloned afterwards is handed on as a dump.
"""

from __future__ import annotations

import fcntl
import os
import pickle
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from kundenkreis.warehouse import embedded

Made = TypeVar("Made")


def shared_folder(factory: pytest.TempPathFactory) -> Path:
    """A folder of all workers of this run: https://pytest-xdist.readthedocs.io/en/stable/how-to.html"""
    own = factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


def made_once(place: Path, dsn: str, make: Callable[[], Made]) -> Made:
    """Fill a new, empty database, or restore what another worker made of one.

    Args:
        place: where the dump is, or will be, without a suffix.
        dsn: the database.
        make: fills it; what it returns is handed on as well and must be picklable.
    """
    dump, value = place.with_suffix(".dump"), place.with_suffix(".pickle")
    with place.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # who comes second waits instead of making another
        if not value.exists():
            made = make()
            _call("pg_dump", "--format=custom", "--compress=0", f"--file={dump}", dsn)
            value.write_bytes(pickle.dumps(made))
            return made
    _call("pg_restore", "--exit-on-error", f"--dbname={dsn}", str(dump))
    found: Made = pickle.loads(value.read_bytes())  # noqa: S301 - written above, in our own folder
    return found


def _call(program: str, *arguments: str) -> None:
    subprocess.run([str(embedded.client_program(program)), *arguments], check=True)
