"""The embedded PostgreSQL: started by anybody, found again, open to this machine only."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from kundenkreis.errors import WarehouseError
from kundenkreis.settings import repository_root
from kundenkreis.warehouse import embedded
from kundenkreis.warehouse.embedded import SERVER_SETTINGS, EmbeddedServer

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """A server of its own, begun by two at once after a creation that was interrupted."""
    server = EmbeddedServer(tmp_path_factory.mktemp("home") / "postgres")
    leftover = server.directory / "data.new"
    leftover.mkdir(parents=True)
    (leftover / "PG_VERSION").write_text("18\n")
    starters = [threading.Thread(target=embedded.start, args=(server,)) for _ in range(2)]
    for starter in starters:
        starter.start()
    for starter in starters:
        starter.join()
    yield server
    embedded.stop(server)


@pytest.fixture
def running(server: EmbeddedServer) -> EmbeddedServer:
    """The same server, running again whatever the test before did."""
    return embedded.start(server)


def _postmaster(server: EmbeddedServer) -> str:
    return (server.data / "postmaster.pid").read_text().split()[0]


def test_two_who_start_at_once_share_one_server(server: EmbeddedServer) -> None:
    assert server.is_running()
    assert not (server.directory / "data.new").exists()
    with psycopg.connect(server.dsn("warehouse")) as warehouse:
        assert warehouse.info.server_version >= 180000
    with psycopg.connect(server.dsn("airflow")):
        pass


def test_starting_twice_is_the_same_server(running: EmbeddedServer) -> None:
    before = running.port, _postmaster(running)
    assert embedded.start(running) == running
    assert (running.port, _postmaster(running)) == before


def test_port_password_and_data_are_remembered(running: EmbeddedServer) -> None:
    dsn = running.dsn()
    with psycopg.connect(dsn) as connection:
        connection.execute("create table kept as select 1 as one")
    assert embedded.stop(running)
    assert not running.is_running()
    assert not embedded.stop(running)
    embedded.start(running)
    assert running.dsn() == dsn
    with psycopg.connect(dsn) as connection:
        assert connection.execute("select one from kept").fetchone() == (1,)


def test_a_port_that_somebody_else_took_is_replaced(running: EmbeddedServer) -> None:
    old = running.port
    embedded.stop(running)
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", old))
        other.listen()
        embedded.start(running)
        assert running.port != old
        assert running.is_running()
    assert EmbeddedServer(running.directory).port == running.port


def test_a_server_without_a_free_connection_keeps_its_port(
    running: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded.stop(running)
    few = {"max_connections": "2", "superuser_reserved_connections": "0"}
    embedded.start(running, **few, reserved_connections="0", autovacuum="off")
    port = running.port
    monkeypatch.setattr(embedded, "_ANSWER_SECONDS", 0.1)
    with (
        psycopg.connect(running.dsn()),
        psycopg.connect(running.dsn()),
        pytest.raises(WarehouseError, match=f"runs on port {port} but takes no connection"),
    ):
        embedded.start(running)
    assert embedded.start(running).port == port
    embedded.stop(running)  # the tests after this one want the usual settings


def test_the_process_of_a_dead_server_does_not_count(
    running: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a power cut: a lock file, and no server."""
    embedded.stop(running)
    ended = subprocess.Popen(["true"])
    ended.wait()
    stale = running.data / "postmaster.pid"
    stale.write_text(f"{ended.pid}\n{running.data}\n1\n{running.port}\n\n127.0.0.1\n")
    assert not running.is_running()
    assert embedded.start(running).is_running()


@pytest.mark.parametrize("password", ["", "wrong"])
def test_a_password_is_needed(running: EmbeddedServer, password: str) -> None:
    with psycopg.connect(running.dsn()):
        pass
    dsn = running.dsn().replace(running.password, password)
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(dsn, passfile="/nonexistent")


def test_secrets_are_readable_by_their_owner_only(running: EmbeddedServer) -> None:
    assert (running.directory / "password").stat().st_mode & 0o077 == 0
    assert running.data.stat().st_mode & 0o077 == 0
    assert not (running.directory / "initial_password").exists()
    assert len(running.password) >= 32
    assert running.password not in running.log.read_text()


def test_it_listens_on_this_machine_only(running: EmbeddedServer) -> None:
    with psycopg.connect(running.dsn()) as connection:
        row = connection.execute(
            "select current_setting('listen_addresses'), current_setting('unix_socket_directories')"
        ).fetchone()
    assert row == ("127.0.0.1", "")
    # Another address of this machine is refused, so the server is bound to the one.
    with socket.socket() as probe:
        probe.settimeout(5)
        assert probe.connect_ex(("127.0.0.2", running.port)) != 0


def test_every_setting_is_in_force(running: EmbeddedServer) -> None:
    with psycopg.connect(running.dsn()) as connection:
        rows = connection.execute(
            "select name, applied, error from pg_file_settings "
            "where sourcefile like '%/kundenkreis.conf'"
        ).fetchall()
        durability = connection.execute(
            "select current_setting('fsync'), current_setting('synchronous_commit')"
        ).fetchone()
    assert {name for name, _, _ in rows} == {*SERVER_SETTINGS, "port"}
    assert [row for row in rows if not row[1] or row[2]] == []
    assert durability == ("on", "on")  # the delivery ledger relies on it


def test_it_sorts_by_bytes_without_asking_libc(running: EmbeddedServer) -> None:
    with psycopg.connect(running.dsn()) as connection:
        row = connection.execute(
            "select datlocprovider, datlocale from pg_database where datname = current_database()"
        ).fetchone()
    assert row == ("b", "C.UTF-8")


def test_its_log_repeats_no_statement(running: EmbeddedServer) -> None:
    with psycopg.connect(running.dsn(), autocommit=True) as connection:
        connection.execute("create temporary table people (email text primary key)")
        connection.execute("insert into people values ('anna@example.com')")
        with pytest.raises(psycopg.errors.UniqueViolation):
            connection.execute("insert into people values ('anna@example.com')")
        with pytest.raises(psycopg.errors.UndefinedTable):
            connection.execute("select 'anna@example.com' from nowhere")
    assert "anna@example.com" not in running.log.read_text()


def test_one_that_does_not_start_names_its_log(running: EmbeddedServer) -> None:
    embedded.stop(running)
    with pytest.raises(WarehouseError) as raised:
        embedded.start(running, shared_buffers="many")
    assert str(running.log) in str(raised.value)
    assert embedded.start(running).is_running()


# Who starts it

# The user is changed after the imports: an interpreter below /root is closed to other users.
_PROGRAM = """
import os, pwd, sys
import encodings.idna, fcntl, uuid
from kundenkreis.cli import main
from kundenkreis.warehouse import embedded, schema
user = pwd.getpwnam(sys.argv.pop(1))
if user.pw_uid != os.geteuid():
    os.setgroups([])
    os.setgid(user.pw_gid)
    os.setuid(user.pw_uid)
main()
"""


def _kundenkreis(home: Path, user: str, *arguments: str) -> str:
    completed = subprocess.run(
        [sys.executable, "-c", _PROGRAM, user, *arguments],
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(repository_root() / "plugins"),
            "PYTHONDONTWRITEBYTECODE": "1",
            "KUNDENKREIS_HOME": str(home),
        },
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.returncode == 0, completed.stdout + completed.stderr
    return completed.stdout


def _start_look_and_stop(home: Path, user: str, owner: str) -> None:
    server = EmbeddedServer(home / "postgres")
    try:
        printed = _kundenkreis(home, user, "warehouse", "start")
        assert printed == f"PostgreSQL runs on 127.0.0.1:{server.port}, database warehouse.\n"
        assert (server.data / "postmaster.pid").stat().st_uid == pwd.getpwnam(owner).pw_uid
        query = "select count(*) from history.publications"
        assert _kundenkreis(home, user, "warehouse", "psql", "-Atc", query) == "0\n"
        assert _kundenkreis(home, user, "warehouse", "stop") == "Stopped.\n"
        assert not server.is_running()
    finally:
        embedded.stop(server)


def test_whoever_runs_the_tests_starts_it(tmp_path: Path) -> None:
    user = pwd.getpwuid(os.geteuid()).pw_name
    owner = embedded.SERVER_USER_FOR_ROOT if os.geteuid() == 0 else user
    _start_look_and_stop(tmp_path, user, owner)


def test_an_ordinary_user_starts_it_beside_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can be somebody else; the test above runs as an ordinary user")
    closed = [path for path in repository_root().parents if not path.stat().st_mode & 0o001]
    if closed:
        pytest.skip(f"an ordinary user cannot read this checkout: {closed[0]} is closed")
    home = Path(tempfile.mkdtemp(prefix="kundenkreis-home-"))
    nobody = pwd.getpwnam("nobody")
    os.chown(home, nobody.pw_uid, nobody.pw_gid)
    try:
        _start_look_and_stop(home, "nobody", "nobody")
        assert {path.owner() for path in home.rglob("*")} == {"nobody"}
    finally:
        shutil.rmtree(home, ignore_errors=True)
