"""Fixtures shared by all tests: a real PostgreSQL for the session, a fresh database per test."""

from __future__ import annotations

import atexit
import fcntl
import gc
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path

import pytest
from hypothesis import settings

# An example that takes long on a busy machine is no failure.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

# dbt and Great Expectations keep millions of objects alive for long. Looking through them for
# cycles every 700 new ones takes a fifth of the time of a build.
gc.set_threshold(100_000, 50, 100)

# Nothing in a test may reach a developer's own warehouse, config or vendors.
for _name in list(os.environ):
    if _name.startswith(("AIRFLOW_CONN_", "KUNDENKREIS_CONFIG", "KUNDENKREIS_FAILPOINT")):
        del os.environ[_name]
_ROOM_FOR_HOMES = 8 * 1024**3  # bytes


def _folder_of_homes() -> Path | None:
    """In memory where the machine has such a folder with room; else where temporary files go.

    A database is some hundred files, and a test that asks for a fresh one waits for nothing else.
    """
    memory = Path("/dev/shm")  # noqa: S108 - mkdtemp makes a folder of our own in it
    has_room = memory.is_dir() and shutil.disk_usage(memory).free > _ROOM_FOR_HOMES
    return memory if has_room and os.access(memory, os.W_OK) else None


_HOME = Path(tempfile.mkdtemp(prefix="kundenkreis-tests-", dir=_folder_of_homes()))


def _remove_home(owner: int = os.getpid()) -> None:
    if os.getpid() == owner:  # a forked child that ends must leave it alone
        shutil.rmtree(_HOME, ignore_errors=True)


atexit.register(_remove_home)
os.environ["KUNDENKREIS_HOME"] = str(_HOME)
os.environ["AIRFLOW_HOME"] = str(_HOME / "airflow")
os.environ["DO_NOT_TRACK"] = "1"
os.environ["GX_ANALYTICS_ENABLED"] = "false"
os.environ["DBT_SEND_ANONYMOUS_USAGE_STATS"] = "false"

_TEMPLATE = "kundenkreis_template"


@pytest.fixture(scope="session", autouse=True)
def _shared_parses(tmp_path_factory: pytest.TempPathFactory) -> None:
    """dbt's parses, which all workers and the nights they start take from each other."""
    from tests import shared_parses
    from tests.shared_databases import shared_folder

    folder = shared_folder(tmp_path_factory) / "parses"
    os.environ[shared_parses.FOLDER_VARIABLE] = str(folder)
    shared_parses.install(folder)


@pytest.fixture(scope="session")
def postgres() -> Iterator[object]:
    """One embedded server for the whole session, without fsync because nothing in it is kept."""
    from kundenkreis.warehouse import embedded
    from kundenkreis.warehouse.schema import ensure_schemas

    server = embedded.start(
        embedded.EmbeddedServer(_HOME / "postgres"),
        fsync="off",
        full_page_writes="off",
        scram_iterations="1",
        autovacuum="off",  # of hundreds of databases, each of which lives for seconds
    )
    import psycopg

    with psycopg.connect(server.dsn("postgres"), autocommit=True) as connection:
        # Thousands of sessions begin here; each would hash the password 4,096 times on both sides.
        connection.execute(f"alter role {embedded.SUPERUSER} password '{server.password}'")
        connection.execute(f'create database "{_TEMPLATE}"')
    ensure_schemas(server.dsn(_TEMPLATE))
    yield server
    embedded.stop(server)


@pytest.fixture
def warehouse_dsn(postgres: object) -> Iterator[str]:
    """The libpq URI of a fresh warehouse database that holds the schemas and nothing else."""
    yield from _fresh_database(postgres)


@pytest.fixture(scope="module")
def module_warehouse_dsn(postgres: object) -> Iterator[str]:
    """As `warehouse_dsn`, shared by the tests of one module."""
    yield from _fresh_database(postgres)


@pytest.fixture(scope="module")
def new_module_warehouse(postgres: object) -> Iterator[Callable[[], str]]:
    """As `new_warehouse`, for the tests of one module."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(contextmanager(_fresh_database)(postgres))


@pytest.fixture
def new_warehouse(postgres: object) -> Iterator[Callable[[], str]]:
    """Makes as many fresh warehouses as a test compares; each call returns another one's URI."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(contextmanager(_fresh_database)(postgres))


_NAMES_IN_USE: set[str] = set()


def _fresh_database(server: object) -> Iterator[str]:
    import psycopg

    # A name is used again as soon as it is free: dbt parses the project anew for each new name.
    name = next(name for number in count(1) if (name := f"test_{number}") not in _NAMES_IN_USE)
    _NAMES_IN_USE.add(name)
    admin = server.dsn("postgres")  # type: ignore[attr-defined]
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(f'create database "{name}" template "{_TEMPLATE}" strategy file_copy')
    yield server.dsn(name)  # type: ignore[attr-defined]
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(f'drop database "{name}" with (force)')
    _NAMES_IN_USE.remove(name)


@pytest.fixture
def clean_env(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment without any Kundenkreis or Airflow connection variable."""
    for name in list(os.environ):
        if name.startswith(("AIRFLOW_CONN_", "KUNDENKREIS_FAILPOINT", "KUNDENKREIS_CONFIG")):
            monkeypatch.delenv(name)
    return monkeypatch


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of the real data sets; skips with its reason where it is not there."""
    named = os.environ.get("KUNDENKREIS_DATA", "")
    folder = Path(named)
    if not named or not (folder / "online_retail").is_dir():
        pytest.skip("KUNDENKREIS_DATA does not name a folder with online_retail/ and cdnow/")
    return folder


@pytest.fixture(scope="session")
def airflow_metadata(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Airflow's empty metadata database, which each run of a night copies, made by one worker."""
    from kundenkreis.local_run import metadata_template
    from tests.shared_databases import shared_folder

    if "PYTEST_XDIST_WORKER" not in os.environ:  # alone: the first night makes it
        return
    shared = shared_folder(tmp_path_factory) / "airflow_metadata.db"
    with shared.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if shared.exists():
            shutil.copyfile(shared, metadata_template(create=False))
        else:
            shutil.copyfile(metadata_template(), shared)


_LONGEST_FIRST = ("night", "reference", "integration")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest, so that no worker is busy for minutes after the others."""

    def place(item: pytest.Item) -> int:
        (folder, *_) = item.path.relative_to(Path(__file__).parent).parts
        known = _LONGEST_FIRST
        return known.index(folder) if folder in known else len(known)

    items.sort(key=place)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Where the data sets must be there, a test skipped for want of them has failed."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    wanted = os.environ.get("KUNDENKREIS_REQUIRE_DATA") == "1"
    if wanted and report.skipped and "KUNDENKREIS_" in str(report.longrepr):
        report.outcome = "failed"
