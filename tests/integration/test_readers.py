"""Readers beside publications and failing nights: complete publications only, and no long wait.

Each night writes its number into every row of every table, and so many rows of it that a reader who
saw two nights at once, half of one, or none would count another sum.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import psycopg
import pytest

from kundenkreis.errors import PublicationRefused, Superseded, WarehouseError
from kundenkreis.settings import repository_root
from kundenkreis.warehouse import publish as publishing
from kundenkreis.warehouse.rollback import roll_back
from tests.integration import publishing as nights
from tests.integration.publishing import DAY

pytestmark = pytest.mark.integration

PUBLICATIONS = 50
ROWS = 40
TABLES = ("orders", "customers", "customer_rfm", "contactability", "segment_members", "kpi_daily")
LONGEST_WAIT_SECONDS = 1.0

# One statement over several views, in another order than they are sorted in; each view counts and
# sums its rows. What was published is looked up in the same snapshot.
QUERY = """
select
    (select count(*) from marts.segment_members),
    (select sum(night) from marts.orders),
    (select min(o.night) || '-' || max(c.night) || '-' || max(r.night)
     from marts.orders as o
     inner join marts.customers as c using (place)
     inner join marts.customer_rfm as r using (place)),
    (select sum(night) from marts.contactability),
    (select max(night) from marts.kpi_daily),
    (select count(*) from marts.kpi_daily inner join marts.customers using (place, night))
"""


def _tables(number: int) -> dict[str, str]:
    query = f"select {number}::bigint as night, place from generate_series(1, {ROWS}) as place"
    return {
        **dict.fromkeys(TABLES, query),
        "history_stage_changes": nights.changes(DAY, f"stage {number}"),
    }


def _of_one_night(row: tuple[object, ...]) -> int | None:
    """The night that a read shows completely; None where it shows anything else."""
    count, orders, joined, contactability, kpi, matching = row
    if count != ROWS or matching != ROWS or not isinstance(kpi, int):
        return None
    whole = (orders, joined, contactability) == (ROWS * kpi, f"{kpi}-{kpi}-{kpi}", ROWS * kpi)
    return kpi if whole else None


@dataclass
class Reads:
    """What the readers saw."""

    nights: list[int] = field(default_factory=list)
    wrong: list[tuple[object, ...]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    longest: float = 0

    def check(self) -> None:
        """Every read complete, none failed, none waited."""
        assert self.failures == []
        assert self.wrong == []
        assert self.longest < LONGEST_WAIT_SECONDS


@contextmanager
def _reading(dsn: str, readers: int = 3) -> Iterator[Reads]:
    reads = Reads()
    over = threading.Event()

    def read(seed: int) -> None:
        pause = random.Random(seed)
        try:
            with psycopg.connect(dsn, autocommit=True) as session:
                while not over.wait(pause.uniform(0.002, 0.02)):
                    begun = time.monotonic()
                    row = session.execute(QUERY).fetchone()
                    reads.longest = max(reads.longest, time.monotonic() - begun)
                    number = _of_one_night(row or ())
                    if number is None:
                        reads.wrong.append(row or ())
                    else:
                        reads.nights.append(number)
        except psycopg.Error as error:
            reads.failures.append(f"{type(error).__name__}: {error}")

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(readers)]
    for thread in threads:
        thread.start()
    try:
        yield reads
    finally:
        over.set()
        for thread in threads:
            thread.join(30)


@pytest.fixture
def warehouse_dsn(module_warehouse_dsn: str) -> str:
    """A warehouse with a first publication, night 0."""
    nights.empty(module_warehouse_dsn)
    nights.night(module_warehouse_dsn, "run-0", DAY, **_tables(0))
    return module_warehouse_dsn


# Nights that fail, each in a way of its own


def _gate_fails(dsn: str, number: int) -> None:
    schema = nights.build(dsn, f"run-{number}", DAY, **_tables(-number))
    publishing.mark_dirty(dsn, schema, "gate_marts failed")
    with pytest.raises(PublicationRefused, match="gate_marts failed"):
        nights.publish(dsn, f"run-{number}", schema)


def _contract_breaks(dsn: str, number: int) -> None:
    tables = {**_tables(-number), "orders": "select 1::bigint as place"}
    schema = nights.build(dsn, f"run-{number}", DAY, **tables)
    with pytest.raises(PublicationRefused, match=r"orders\.night is gone"):
        nights.publish(dsn, f"run-{number}", schema)


def _killed_before_commit(dsn: str, number: int) -> None:
    schema = nights.build(dsn, f"run-{number}", DAY, **_tables(-number))
    program = (
        "import sys; from datetime import date; from kundenkreis.warehouse import publish\n"
        "publish.publish(*sys.argv[1:3], date.fromisoformat(sys.argv[4]), sys.argv[3], {})"
    )
    environment = {
        **os.environ,
        "PYTHONPATH": str(repository_root() / "plugins"),
        "KUNDENKREIS_FAILPOINT": "publish.before_commit",
    }
    command = [sys.executable, "-c", program, dsn, f"run-{number}", schema, DAY.isoformat()]
    assert subprocess.run(command, env=environment, check=False).returncode == -signal.SIGKILL


def _overtaken(dsn: str, number: int) -> None:
    schema = nights.build(dsn, f"run-{number}", DAY, **_tables(-number))
    publishing.begin_build(dsn, f"another-{number}", DAY, False)
    with pytest.raises(Superseded):
        nights.publish(dsn, f"run-{number}", schema)


def _locked_out(dsn: str, number: int) -> None:
    schema = nights.build(dsn, f"run-{number}", DAY, **_tables(-number))
    with psycopg.connect(dsn, application_name="dashboard") as idle:
        idle.execute("select count(*) from marts.customer_rfm")
        with pytest.raises(WarehouseError, match=r"dashboard, idle in transaction"):
            publishing.publish(dsn, f"run-{number}", DAY, schema, {}, wait_minutes=0.5 / 60)


FAILING = (_gate_fails, _contract_breaks, _killed_before_commit, _overtaken, _locked_out)


def test_every_read_sees_one_complete_publication(warehouse_dsn: str) -> None:
    """Fifty publications, ten nights that fail, and a rollback, under three reader loops."""
    failing = dict(zip(range(4, PUBLICATIONS, 5), FAILING * 2, strict=True))
    with _reading(warehouse_dsn) as reads:
        for number in range(1, PUBLICATIONS + 1):
            if number in failing:
                failing[number](warehouse_dsn, 1_000 + number)
            nights.night(warehouse_dsn, f"run-{number}", DAY, **_tables(number))
        roll_back(warehouse_dsn, "anna")
        time.sleep(0.2)
    reads.check()
    assert len(reads.nights) > 5 * PUBLICATIONS
    assert len(set(reads.nights)) > PUBLICATIONS / 2  # they did read between publications
    assert reads.nights[-1] == PUBLICATIONS - 1
    with psycopg.connect(warehouse_dsn) as session:
        assert nights.rows(session, "select count(*) from history.publications") == [
            (PUBLICATIONS + 2,)
        ]
        assert nights.rows(session, "select to_stage from history.stage_changes") == [
            (f"stage {PUBLICATIONS - 1}",)
        ]


@contextmanager
def _in_thread(target: object) -> Iterator[None]:
    assert callable(target)
    thread = threading.Thread(target=target)
    thread.start()
    try:
        yield
    finally:
        thread.join(30)


def test_a_query_of_four_seconds_is_waited_for_and_nobody_waits_with_it(
    warehouse_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Its snapshot is waited for first; after half a second its locks are.
    monkeypatch.setattr(publishing, "_SNAPSHOT_WAIT_SECONDS", 0.5)
    schema = nights.build(warehouse_dsn, "run-1", DAY, **_tables(1))
    begun = threading.Event()
    answered: list[tuple[object, ...]] = []

    def query_for_long() -> None:
        with psycopg.connect(warehouse_dsn, autocommit=True) as session:
            begun.set()
            row = session.execute(
                "select max(o.night), count(*) from marts.orders as o "
                "cross join (select pg_sleep(4)) as slept cross join marts.customers as c"
            ).fetchone()
            answered.append(row or ())

    with _reading(warehouse_dsn) as reads, _in_thread(query_for_long):
        begun.wait(5)
        time.sleep(0.1)
        started = time.monotonic()
        nights.publish(warehouse_dsn, "run-1", schema)
        assert time.monotonic() - started > 3
    reads.check()
    assert answered == [(0, ROWS * ROWS)]
    assert set(reads.nights) >= {0}
    with psycopg.connect(warehouse_dsn) as session:
        assert nights.rows(session, "select max(night) from marts.orders") == [(1,)]


def test_a_session_idle_in_transaction_is_named_and_nobody_waits_with_it(
    warehouse_dsn: str,
) -> None:
    schema = nights.build(warehouse_dsn, "run-1", DAY, **_tables(1))
    with _reading(warehouse_dsn) as reads:
        with psycopg.connect(warehouse_dsn, application_name="Sales dashboard") as idle:
            idle.execute("select count(*) from marts.contactability")
            with pytest.raises(WarehouseError) as raised:
                publishing.publish(warehouse_dsn, "run-1", DAY, schema, {}, wait_minutes=3 / 60)
            message = str(raised.value)
            assert f"pid {idle.info.backend_pid} (kundenkreis, Sales dashboard, idle in" in message
        assert set(reads.nights) == {0}
        with psycopg.connect(warehouse_dsn) as session:
            # What was copied for a publication that did not come to pass is gone.
            stages = nights.rows(session, "select to_stage from history.stage_changes")
        assert stages == [("stage 0",)]
        nights.publish(warehouse_dsn, "run-1", schema)
        time.sleep(0.1)
    reads.check()
    assert reads.nights[-1] == 1
