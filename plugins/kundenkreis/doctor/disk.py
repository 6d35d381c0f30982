"""Room on disk, for this checkout's state and for the embedded PostgreSQL."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from kundenkreis.doctor.findings import Finding, Patient, error, ok, warning
from kundenkreis.settings import home
from kundenkreis.warehouse import embedded
from kundenkreis.warehouse.connection import connect

SUBJECT = "disk"
_GIBIBYTE = 2**30
LEAST_BYTES = _GIBIBYTE
# A full build writes a second copy of the marts and their intermediate tables; WAL comes on top.
ROOM_FOR_BUILD = 1.0


def check(patient: Patient) -> Iterator[Finding]:
    """Free space where the state is kept, compared with what a full build needs."""
    folder = _existing(home())
    needed, because = LEAST_BYTES, "logs and working files"
    if patient.dsn is not None and embedded.serves(patient.dsn):
        with connect(patient.dsn, application_name="kundenkreis doctor") as connection:
            row = connection.execute("select pg_database_size(current_database())").fetchone()
        size = int(row[0]) if row else 0
        needed, because = room_needed(size), "a full build in the embedded PostgreSQL"
    yield room(folder, shutil.disk_usage(folder).free, needed, because)


def room_needed(database_bytes: int) -> int:
    """Bytes that should be free for a database of this size."""
    return max(LEAST_BYTES, int(database_bytes * ROOM_FOR_BUILD))


def room(folder: Path, free: int, needed: int, because: str) -> Finding:
    """Whether there is enough room.

    Args:
        free: bytes.
        needed: bytes; less is a warning, less than a third an error.
    """
    where = str(folder)
    found = f"{free / _GIBIBYTE:.1f} GiB free"
    if free >= needed:
        return ok(SUBJECT, where, found)
    what = f"{found}; {because} may need {needed / _GIBIBYTE:.1f} GiB."
    level = error if free < needed / 3 else warning
    return level(SUBJECT, where, what, "export KUNDENKREIS_HOME=/a/larger/disk, or make room there")


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if path.exists())
