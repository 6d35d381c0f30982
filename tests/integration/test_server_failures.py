"""A PostgreSQL that restarts, or whose disk is full, in the middle of a build.

Each ends in a clear state, and the next attempt ends as if nothing had happened: on a machine that
never ran a task before, because no task leaves behind anything that a later one needs.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

import psycopg
import pytest

from kundenkreis import night
from kundenkreis.connections import Connection
from kundenkreis.errors import WarehouseError
from kundenkreis.settings import load_settings
from kundenkreis.warehouse import embedded
from kundenkreis.warehouse.embedded import EmbeddedServer
from kundenkreis.warehouse.schema import ensure_schemas
from tests.integration.dbt_support import create_raw_tables, insert

pytestmark = pytest.mark.integration

AS_OF = date(2026, 3, 31)
# The build's models are under way by then.
NODE = 12


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """A server of its own, because other tests would not survive its restarts."""
    server = embedded.start(EmbeddedServer(tmp_path_factory.mktemp("failing")), fsync="off")
    yield server
    embedded.stop(server)


@pytest.fixture(scope="module")
def dsn(server: EmbeddedServer) -> str:
    """A warehouse with a few orders."""
    dsn = server.dsn()
    ensure_schemas(dsn)
    create_raw_tables(dsn, "files")
    insert(
        dsn,
        "raw_files.orders",
        (
            {
                "source_name": "till",
                "order_key": str(number),
                "customer_key": f"c{number % 20}",
                "email": f"person{number % 20}@mail.example",
                "ordered_at": "2026-03-01 12:00:00+00",
                "status": "completed",
                "currency": "EUR",
                "total_amount": 20,
                "loaded_at": "2026-04-01 00:20:00+00",
            }
            for number in range(60)
        ),
    )
    return dsn


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file source, nothing to send."""
    folder = tmp_path_factory.mktemp("config")
    (folder / "sources.yml").write_text(
        "files:\n  datasets:\n    - {name: till, entity: orders, path: till.csv, columns: "
        "{order_key: R, ordered_at: D, status: S, currency: C, total_amount: T}}\n"
    )
    (folder / "segments.yml").write_text("segments: {}\n")
    return folder


def _no_connection(connection_id: str) -> Connection:
    raise AssertionError(f"a build needs no connection, not even {connection_id}")


def _transform(dsn: str, config: Path, run_id: str, interrupt: Callable[[], None]) -> night.Summary:
    """Build; the interruption comes in its middle."""
    done = 0

    def progress(line: str) -> None:
        nonlocal done
        done += "/" in line.split()[0]  # dbt's lines count: 12/96 success ...
        if done == NODE:
            done += 1
            interrupt()

    run = night.RunContext(
        run_id, AS_OF, dsn, load_settings(config), _no_connection, False, progress
    )
    return night.transform(run)


def _assert_nothing_is_half_done(dsn: str) -> None:
    """Readers see nothing of a build that failed, and it is known as incomplete."""
    with psycopg.connect(dsn) as connection:
        views = "select count(*) from information_schema.views where table_schema = 'marts'"
        assert connection.execute(views).fetchone() == (0,)
        assert connection.execute("select count(*) from history.publications").fetchone() == (0,)
        complete = "select count(*) from operations.build_state"
        assert connection.execute(complete).fetchone() == (0,)


def test_a_restart_of_the_server_is_named_and_left_to_a_retry(
    dsn: str, config: Path, server: EmbeddedServer
) -> None:
    def restart() -> None:
        embedded._run(server, "pg_ctl", "-D", str(server.data), "-m", "immediate", "stop")
        embedded.start(server, fsync="off")

    with pytest.raises(WarehouseError, match=r"went away: dbt build stopped: .*tried again"):
        _transform(dsn, config, "restarted", restart)
    _assert_nothing_is_half_done(dsn)


@pytest.fixture
def small_disk(dsn: str, server: EmbeddedServer, tmp_path: Path) -> Iterator[Path]:
    """The warehouse's tables on a disk of 64 MB; only root may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    options = ["-t", "tmpfs", "-o", "size=64m,mode=0777", "tmpfs", str(disk)]
    mounted = os.geteuid() == 0 and subprocess.run(["mount", *options], check=False).returncode == 0
    if not mounted:
        pytest.skip("a small disk cannot be mounted here; that takes root")
    for folder in (tmp_path, *tmp_path.parents):
        if not folder.stat().st_mode & 0o001:
            folder.chmod(folder.stat().st_mode | 0o001)
    space = disk / "tablespace"
    space.mkdir(mode=0o700)
    embedded._give_to_server_user(server, space)
    with psycopg.connect(server.dsn("postgres"), autocommit=True) as connection:
        connection.execute(f"create tablespace small location '{space}'")
        connection.execute("alter database warehouse set tablespace small")
    try:
        yield disk
    finally:
        with psycopg.connect(server.dsn("postgres"), autocommit=True) as connection:
            connection.execute("alter database warehouse set tablespace pg_default")
            connection.execute("drop tablespace small")
        subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_is_named_with_what_to_do(dsn: str, config: Path, small_disk: Path) -> None:
    rest = small_disk / "somebody_elses"

    def fill() -> None:
        with rest.open("wb") as file:
            try:
                while True:
                    file.write(bytes(1 << 16))
                    file.flush()
            except OSError:
                pass

    with pytest.raises(WarehouseError, match=r"disk of the warehouse is full: .*Free space"):
        _transform(dsn, config, "full disk", fill)
    rest.unlink()
    _assert_nothing_is_half_done(dsn)


def test_the_next_attempt_ends_right_on_another_machine(
    dsn: str, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUNDENKREIS_HOME", str(tmp_path / "another_worker"))
    summary = _transform(dsn, config, "the next night", lambda: None)
    assert summary["full_because"] == "this schema holds no complete build"
    with psycopg.connect(dsn) as connection:
        counted = f"select count(*) from {summary['schema_name']}.orders where is_counted"
        assert connection.execute(counted.encode()).fetchone() == (60,)
        assert connection.execute("select count(*) from operations.build_state").fetchone() == (1,)
