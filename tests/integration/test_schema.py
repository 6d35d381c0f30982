"""Creating what is missing in the warehouse, beside people who read it."""

from __future__ import annotations

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from kundenkreis.warehouse.schema import ensure_schemas

pytestmark = pytest.mark.integration


def _exists(session: psycopg.Connection) -> bool:
    query = "select to_regclass('operations.dirty_schemas') is not null"
    return session.execute(query).fetchone() == (True,)


def test_a_task_waits_for_no_reader(warehouse_dsn: str) -> None:
    """Replacing a view, even by itself, would wait for whoever has read it and left it open."""
    with psycopg.connect(warehouse_dsn) as reader:
        reader.execute("select * from quality.gate_trend")
        impatient = make_conninfo(warehouse_dsn, options="-c lock_timeout=500")
        ensure_schemas(impatient)
        with pytest.raises(psycopg.errors.LockNotAvailable):
            ensure_schemas(impatient, again=True)


@pytest.mark.parametrize("is_asked_for", [True, False])
def test_what_is_missing_is_created(warehouse_dsn: str, is_asked_for: bool) -> None:
    """When somebody asks for it, or after an update of the program."""
    with psycopg.connect(warehouse_dsn, autocommit=True) as session:
        session.execute("drop table operations.dirty_schemas")
        ensure_schemas(warehouse_dsn)
        assert not _exists(session)
        if not is_asked_for:
            session.execute("comment on schema operations is 'Kundenkreis of last year'")
        ensure_schemas(warehouse_dsn, again=is_asked_for)
        assert _exists(session)
