"""Publishing: one transaction turns readers over, and every way it may be disturbed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import date
from typing import Any

import psycopg
import pytest
from psycopg import sql

from kundenkreis.errors import BuildBusy, PublicationRefused, Superseded, WarehouseError
from kundenkreis.settings import repository_root
from kundenkreis.warehouse import publish as publishing
from kundenkreis.warehouse.publish import BACKFILL, BLUE, GREEN, Publication

pytestmark = pytest.mark.integration

DAY, NEXT_DAY = date(2026, 3, 1), date(2026, 3, 2)
ORDERS = "select 1::bigint as order_id, 10.00::numeric(18, 4) as revenue"


@pytest.fixture
def warehouse_dsn(module_warehouse_dsn: str) -> str:
    """An empty warehouse; emptied rather than created, which takes a tenth of the time."""
    with psycopg.connect(module_warehouse_dsn) as session:
        for schema in (BLUE, GREEN, BACKFILL, "marts", "bi"):
            session.execute(f"drop schema if exists {schema} cascade".encode())
        session.execute("create schema marts")
        session.execute(
            "truncate operations.build_lease, operations.dirty_schemas, history.publications, "
            "history.customer_ids, history.rfm_cutoffs, history.stage_changes"
        )
    return module_warehouse_dsn


@pytest.fixture
def connection(warehouse_dsn: str) -> Iterator[psycopg.Connection]:
    """A session that sees every statement of the test at once."""
    with psycopg.connect(warehouse_dsn, autocommit=True) as session:
        yield session


def _build(
    dsn: str, run_id: str, day: date = DAY, *, is_backfill: bool = False, **tables: str
) -> str:
    """Begin a build and make the given tables in its colour, as dbt would."""
    schema = publishing.begin_build(dsn, run_id, day, is_backfill)
    with psycopg.connect(dsn) as session:
        session.execute(sql.SQL("drop schema if exists {} cascade").format(sql.Identifier(schema)))
        session.execute(sql.SQL("create schema {}").format(sql.Identifier(schema)))
        for name, query in tables.items():
            session.execute(f"create table {schema}.{name} as {query}".encode())
    return schema


def _publish(dsn: str, run_id: str, schema: str, day: date = DAY, **options: Any) -> Publication:
    return publishing.publish(dsn, run_id, day, schema, {"failed": 0}, wait_minutes=1, **options)


def _night(dsn: str, run_id: str, day: date = DAY, **tables: str) -> Publication:
    """A night that is over: built, published and planned."""
    publication = _publish(dsn, run_id, _build(dsn, run_id, day, **tables), day)
    publishing.end_build(dsn, run_id)
    return publication


def _columns(connection: psycopg.Connection, view: str) -> list[str]:
    cursor = connection.execute(f"select * from marts.{view} limit 0".encode())
    return [column.name for column in cursor.description or ()]


def _rows(connection: psycopg.Connection, query: str) -> list[tuple[Any, ...]]:
    return connection.execute(query.encode()).fetchall()


# The course of nights


def test_the_first_publication(warehouse_dsn: str, connection: psycopg.Connection) -> None:
    assert publishing.live_schema(connection) is None
    assert publishing.current_publication(connection) is None
    publication = _night(warehouse_dsn, "run-1", orders=ORDERS, history_rfm_cutoffs=_cutoffs(DAY))
    assert publication == Publication(publication.publication_id, DAY, BLUE)
    assert publishing.live_schema(connection) == BLUE
    assert publishing.current_publication(connection) == publication
    assert _rows(connection, "select order_id, revenue from marts.orders") == [(1, 10)]
    assert _rows(connection, "select dag_run_id, gate_results from history.publications") == [
        ("run-1", {"failed": 0})
    ]
    # What the history is copied from is no part of the contract.
    assert _rows(connection, "select viewname from pg_views where schemaname = 'marts'") == [
        ("orders",)
    ]


def test_nights_take_turns_between_the_colours(
    warehouse_dsn: str, connection: psycopg.Connection
) -> None:
    schemas, sums = [], []
    for night in range(3):
        day = date(2026, 3, 1 + night)
        query = f"select {night}::bigint as order_id, {night}::numeric as revenue"
        schemas.append(_night(warehouse_dsn, f"run-{night}", day, orders=query).schema_name)
        sums.append(_rows(connection, "select sum(revenue) from marts.orders")[0][0])
    assert schemas == [BLUE, GREEN, BLUE]
    assert sums == [0, 1, 2]


def test_the_same_day_again_is_published_again(
    warehouse_dsn: str, connection: psycopg.Connection
) -> None:
    first = _night(warehouse_dsn, "run-1", orders=ORDERS)
    second = _night(warehouse_dsn, "run-2", orders=ORDERS)
    assert second.schema_name == GREEN
    assert second.publication_id > first.publication_id
    assert publishing.current_publication(connection) == second


def test_grants_on_the_views_survive_a_publication(
    warehouse_dsn: str, connection: psycopg.Connection
) -> None:
    _night(warehouse_dsn, "run-1", orders=ORDERS)
    connection.execute("grant select on marts.orders to pg_monitor")
    _night(warehouse_dsn, "run-2", orders=ORDERS)
    assert _rows(
        connection, "select has_table_privilege('pg_monitor', 'marts.orders', 'select')"
    ) == [(True,)]


# The contract of the views


def test_a_new_column_goes_last(warehouse_dsn: str, connection: psycopg.Connection) -> None:
    _night(warehouse_dsn, "run-1", orders=ORDERS)
    _night(
        warehouse_dsn, "run-2", orders="select 'EUR'::text as currency, o.* from (" + ORDERS + ") o"
    )
    assert _columns(connection, "orders") == ["order_id", "revenue", "currency"]
    assert _rows(connection, "select * from marts.orders") == [(1, 10, "EUR")]


def test_another_order_of_columns_breaks_nobody(
    warehouse_dsn: str, connection: psycopg.Connection
) -> None:
    _night(warehouse_dsn, "run-1", orders=ORDERS)
    _night(
        warehouse_dsn,
        "run-2",
        orders="select 5.00::numeric(18, 4) as revenue, 2::bigint as order_id",
    )
    assert _rows(connection, "select * from marts.orders") == [(2, 5)]


def test_a_new_table_becomes_a_view(warehouse_dsn: str, connection: psycopg.Connection) -> None:
    _night(warehouse_dsn, "run-1", orders=ORDERS)
    _night(warehouse_dsn, "run-2", orders=ORDERS, products="select 'A'::text as product_key")
    assert _rows(connection, "select product_key from marts.products") == [("A",)]


BREAKING = {
    "orders": "select 1::bigint as order_id, 10::double precision as revenue",
    "customers": "select 'x'::text as customer_id",
}


def _publish_a_contract(dsn: str) -> Publication:
    return _night(
        dsn,
        "run-1",
        orders=ORDERS,
        customers="select 'x'::text as customer_id, 'de'::text as language",
        products="select 'A'::text as product_key",
    )


def test_what_would_break_readers_is_refused_with_the_list(
    warehouse_dsn: str, connection: psycopg.Connection
) -> None:
    first = _publish_a_contract(warehouse_dsn)
    schema = _build(warehouse_dsn, "run-2", **BREAKING)
    with pytest.raises(PublicationRefused) as raised:
        _publish(warehouse_dsn, "run-2", schema)
    for change in (
        "orders.revenue is double precision, was numeric(18,4)",
        "customers.language is gone",
        "products is gone",
        "KUNDENKREIS_ALLOW_CONTRACT_CHANGE=1",
    ):
        assert change in str(raised.value)
    assert publishing.current_publication(connection) == first
    assert publishing.live_schema(connection) == BLUE


def test_a_declared_contract_change_is_published(
    warehouse_dsn: str, connection: psycopg.Connection
) -> None:
    _publish_a_contract(warehouse_dsn)
    schema = _build(warehouse_dsn, "run-2", **BREAKING)
    _publish(warehouse_dsn, "run-2", schema, allow_contract_change=True)
    assert _columns(connection, "customers") == ["customer_id"]
    assert _rows(connection, "select pg_typeof(revenue)::text from marts.orders") == [
        ("double precision",)
    ]
    assert _rows(connection, "select to_regclass('marts.products') is null") == [(True,)]


def test_the_switch_touches_only_the_views_that_change(
    warehouse_dsn: str, connection: psycopg.Connection
) -> None:
    _publish_a_contract(warehouse_dsn)
    connection.execute("create schema bi")
    connection.execute("create view bi.revenue as select sum(revenue) as total from marts.orders")
    schema = _build(warehouse_dsn, "run-2", orders=ORDERS, customers=BREAKING["customers"])
    _publish(warehouse_dsn, "run-2", schema, allow_contract_change=True)
    assert _rows(connection, "select total from bi.revenue") == [(10,)]
    assert publishing.live_schema(connection) == GREEN


def test_somebodys_own_view_on_what_changes_is_listed_and_never_dropped(
    warehouse_dsn: str, connection: psycopg.Connection
) -> None:
    first = _publish_a_contract(warehouse_dsn)
    connection.execute("create schema bi")
    connection.execute('create view bi."Revenue" as select sum(revenue) as total from marts.orders')
    schema = _build(warehouse_dsn, "run-2", **BREAKING)
    with pytest.raises(PublicationRefused, match=r'other views stand on it: bi\."Revenue"\. Drop'):
        _publish(warehouse_dsn, "run-2", schema, allow_contract_change=True)
    assert _rows(connection, 'select total from bi."Revenue"') == [(10,)]
    assert publishing.current_publication(connection) == first


def test_views_that_read_two_colours_are_named(
    warehouse_dsn: str, connection: psycopg.Connection
) -> None:
    _night(warehouse_dsn, "run-1", orders=ORDERS)
    connection.execute("create schema marts_green")
    connection.execute("create table marts_green.customers as select 'x'::text as customer_id")
    connection.execute(
        "create view marts.customers as select customer_id from marts_green.customers"
    )
    with pytest.raises(WarehouseError, match="read several schemas"):
        publishing.live_schema(connection)


# Repeating and overtaking


def test_publishing_again_after_the_commit_changes_nothing(
    warehouse_dsn: str, connection: psycopg.Connection
) -> None:
    schema = _build(warehouse_dsn, "run-1", orders=ORDERS, history_rfm_cutoffs=_cutoffs(DAY))
    first = _publish(warehouse_dsn, "run-1", schema)
    assert _publish(warehouse_dsn, "run-1", schema) == first
    assert _rows(connection, "select count(*) from history.publications") == [(1,)]
    assert _rows(connection, "select count(*) from history.rfm_cutoffs") == [(1,)]


def _publish_in_a_process(dsn: str, failpoint: str | None) -> int:
    """Publish run-1's blue colour in a process of its own; its exit code."""
    program = (
        "import sys; from datetime import date; from kundenkreis.warehouse import publish\n"
        f"publish.publish(sys.argv[1], 'run-1', date({DAY.year}, {DAY.month}, {DAY.day}), "
        "'marts_blue', {}, wait_minutes=1)"
    )
    environment = {**os.environ, "PYTHONPATH": str(repository_root() / "plugins")}
    if failpoint:
        environment["KUNDENKREIS_FAILPOINT"] = failpoint
    command = [sys.executable, "-c", program, dsn]
    return subprocess.run(command, env=environment, check=False).returncode


def test_a_death_before_the_commit_leaves_nothing(
    warehouse_dsn: str, connection: psycopg.Connection
) -> None:
    _build(warehouse_dsn, "run-1", orders=ORDERS, history_rfm_cutoffs=_cutoffs(DAY))
    assert _publish_in_a_process(warehouse_dsn, "publish.before_commit") == -signal.SIGKILL
    assert publishing.live_schema(connection) is None
    assert _rows(connection, "select count(*) from history.publications") == [(0,)]
    assert _rows(connection, "select count(*) from history.rfm_cutoffs") == [(0,)]
    assert _publish_in_a_process(warehouse_dsn, None) == 0
    assert publishing.live_schema(connection) == BLUE
    assert _rows(connection, "select count(*) from history.publications") == [(1,)]


def test_a_death_after_the_commit_is_repeated_without_a_second_publication(
    warehouse_dsn: str, connection: psycopg.Connection
) -> None:
    _build(warehouse_dsn, "run-1", orders=ORDERS)
    assert _publish_in_a_process(warehouse_dsn, "publish.after_commit") == -signal.SIGKILL
    published = publishing.current_publication(connection)
    assert published is not None
    assert _publish(warehouse_dsn, "run-1", BLUE) == published
    assert _rows(connection, "select count(*) from history.publications") == [(1,)]


def test_a_run_that_was_overtaken_neither_builds_nor_publishes(
    warehouse_dsn: str, connection: psycopg.Connection
) -> None:
    schema = _build(warehouse_dsn, "run-1", orders=ORDERS)
    assert publishing.begin_build(warehouse_dsn, "run-2", DAY, False) == schema
    with pytest.raises(Superseded, match=r"Run 'run-1' no longer builds marts_blue: run 'run-2'"):
        _publish(warehouse_dsn, "run-1", schema)
    with pytest.raises(Superseded):
        publishing.require_lease(connection, "run-1", schema)
    publishing.require_lease(connection, "run-2", schema)
    assert publishing.current_publication(connection) is None


def _waits_for_a_lock(connection: psycopg.Connection) -> bool:
    query = (
        "select exists (select from pg_locks where locktype = 'advisory' and not granted and "
        "database = (select oid from pg_database where datname = current_database()))"
    )
    return bool(_rows(connection, query)[0][0])


def test_nobody_chooses_a_colour_while_one_is_being_published(
    warehouse_dsn: str, connection: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next run would choose the colour that is public a moment later."""
    _night(warehouse_dsn, "run-1", orders=ORDERS)
    schema = _build(warehouse_dsn, "run-2", orders=ORDERS)
    chosen: list[str] = []

    def choose(over: threading.Event) -> None:
        chosen.append(publishing.begin_build(warehouse_dsn, "run-3", NEXT_DAY, False))

    with ExitStack() as threads:

        def before_commit(name: str) -> None:
            if name == "publish.before_commit":
                threads.enter_context(_in_thread(choose))
                while not chosen and not _waits_for_a_lock(connection):
                    pass

        monkeypatch.setattr(publishing, "reach", before_commit)
        assert _publish(warehouse_dsn, "run-2", schema).schema_name == GREEN
    assert chosen == [BLUE]


def test_two_runs_never_write_at_once(warehouse_dsn: str, connection: psycopg.Connection) -> None:
    """One that was overtaken in the middle of a build ends it first, and builds no more."""
    schema = publishing.begin_build(warehouse_dsn, "run-1", DAY, False)
    course: list[str] = []

    def overtake(over: threading.Event) -> None:
        publishing.begin_build(warehouse_dsn, "run-2", DAY, False)
        with publishing.building(warehouse_dsn, "run-2", schema, course.append):
            course.append("run-2 builds")

    with (
        ExitStack() as threads,
        publishing.building(warehouse_dsn, "run-1", schema, course.append),
    ):
        threads.enter_context(_in_thread(overtake))
        while "run-2 builds" not in course and not _waits_for_a_lock(connection):
            pass
        course.append("run-1 ends")
    assert course == ["waits for the build of another run to end", "run-1 ends", "run-2 builds"]
    with (
        pytest.raises(Superseded),
        publishing.building(warehouse_dsn, "run-1", schema, course.append),
    ):
        course.append("run-1 builds again")
    assert len(course) == 3


def test_a_run_that_never_began_does_not_publish(
    warehouse_dsn: str, connection: psycopg.Connection
) -> None:
    connection.execute("create schema marts_blue")
    with pytest.raises(Superseded, match="no run holds the build"):
        _publish(warehouse_dsn, "run-1", BLUE)


def test_a_colour_that_failed_its_gate_is_not_published_before_it_is_built_anew(
    warehouse_dsn: str, connection: psycopg.Connection
) -> None:
    first = _night(warehouse_dsn, "run-1", orders=ORDERS)
    schema = _build(warehouse_dsn, "run-2", orders=ORDERS)
    publishing.mark_dirty(warehouse_dsn, schema, "gate_marts failed in run run-2")
    publishing.mark_dirty(warehouse_dsn, schema, "gate_marts failed in run run-2 again")
    with pytest.raises(
        PublicationRefused, match=r"marts_green must not be published: .* again\. Clear"
    ):
        _publish(warehouse_dsn, "run-2", schema)
    assert publishing.current_publication(connection) == first
    publishing.clear_dirty(warehouse_dsn, schema)
    assert _publish(warehouse_dsn, "run-2", schema).schema_name == GREEN


# History


def _cutoffs(day: date, cutoff: int = 13) -> str:
    return (
        f"select date '{day}' as as_of_date, 'recency'::text as dimension, "
        f"0.2::numeric as quantile, {cutoff}::numeric as cutoff, 'quantiles'::text as method"
    )


def _changes(day: date, stage: str) -> str:
    return (
        f"select date '{day}' as as_of_date, 'c1'::text as customer_id, null::text as from_stage, "
        f"'{stage}'::text as to_stage"
    )


def test_a_nights_history_rows_are_replaced_and_other_nights_stay(
    warehouse_dsn: str, connection: psycopg.Connection
) -> None:
    _night(warehouse_dsn, "run-1", DAY, orders=ORDERS, history_stage_changes=_changes(DAY, "reach"))
    second = _night(
        warehouse_dsn,
        "run-2",
        NEXT_DAY,
        orders=ORDERS,
        history_stage_changes=_changes(NEXT_DAY, "x"),
    )
    third = _night(
        warehouse_dsn,
        "run-3",
        NEXT_DAY,
        orders=ORDERS,
        history_stage_changes=_changes(NEXT_DAY, "conversion"),
    )
    assert third.publication_id > second.publication_id
    rows = "select as_of_date, to_stage, publication_id from history.stage_changes order by 1"
    assert _rows(connection, rows) == [
        (DAY, "reach", second.publication_id - 1),
        (NEXT_DAY, "conversion", third.publication_id),
    ]


def test_customer_ids_are_added_and_moved_only_by_a_merge(
    warehouse_dsn: str, connection: psycopg.Connection
) -> None:
    def ids(day: date, **assigned: str) -> str:
        rows = ", ".join(
            f"('shop', 'customer', '{source_id}', '{customer_id}', date '{day}')"
            for source_id, customer_id in assigned.items()
        )
        columns = "source, source_record_type, source_id, customer_id, assigned_on"
        return f"select * from (values {rows}) as v ({columns})"

    _night(warehouse_dsn, "run-1", DAY, orders=ORDERS, history_customer_ids=ids(DAY, a="1", b="2"))
    # The second night sees only b, now merged into 1, and a new record c.
    _night(
        warehouse_dsn,
        "run-2",
        NEXT_DAY,
        orders=ORDERS,
        history_customer_ids=ids(NEXT_DAY, b="1", c="3"),
    )
    assert _rows(
        connection,
        "select source_id, customer_id, assigned_on from history.customer_ids order by source_id",
    ) == [("a", "1", DAY), ("b", "1", DAY), ("c", "3", NEXT_DAY)]


def test_a_history_table_that_is_missing_is_named(
    warehouse_dsn: str, connection: psycopg.Connection
) -> None:
    schema = _build(warehouse_dsn, "run-1", orders=ORDERS, history_moods=_cutoffs(DAY))
    with pytest.raises(
        PublicationRefused, match=r"marts_blue\.history_moods has no table history\.moods"
    ):
        _publish(warehouse_dsn, "run-1", schema)
    assert publishing.current_publication(connection) is None


@pytest.mark.parametrize(
    ("day", "is_backfill"), [(date(2026, 2, 1), False), (date(2026, 4, 1), True)]
)
def test_a_backfill_writes_its_history_and_nothing_else(
    warehouse_dsn: str, connection: psycopg.Connection, day: date, is_backfill: bool
) -> None:
    first = _night(warehouse_dsn, "run-1", orders=ORDERS, history_rfm_cutoffs=_cutoffs(DAY))
    schema = _build(
        warehouse_dsn,
        "run-2",
        day,
        is_backfill=is_backfill,
        orders="select 9::bigint as order_id",
        history_rfm_cutoffs=_cutoffs(day, 99),
        history_stage_changes=_changes(day, "reach"),
    )
    assert schema == BACKFILL
    publishing.write_history(warehouse_dsn, "run-2", day, schema)
    publishing.write_history(warehouse_dsn, "run-2", day, schema)
    assert publishing.current_publication(connection) == first
    assert publishing.live_schema(connection) == BLUE
    assert _rows(connection, "select order_id from marts.orders") == [(1,)]
    cutoffs = _rows(connection, "select as_of_date, cutoff from history.rfm_cutoffs")
    assert sorted(cutoffs) == sorted([(DAY, 13), (day, 99)])
    assert _rows(connection, "select to_stage, publication_id from history.stage_changes") == [
        ("reach", None)
    ]


def test_a_backfill_that_was_overtaken_writes_no_history(
    warehouse_dsn: str, connection: psycopg.Connection
) -> None:
    schema = _build(
        warehouse_dsn, "run-1", is_backfill=True, history_stage_changes=_changes(DAY, "reach")
    )
    publishing.begin_build(warehouse_dsn, "run-2", NEXT_DAY, False)
    with pytest.raises(Superseded):
        publishing.write_history(warehouse_dsn, "run-1", DAY, schema)
    assert _rows(connection, "select count(*) from history.stage_changes") == [(0,)]


@pytest.mark.parametrize("other_is_backfill", [False, True])
def test_a_backfill_waits_until_another_run_is_done(
    warehouse_dsn: str, connection: psycopg.Connection, other_is_backfill: bool
) -> None:
    schema = publishing.begin_build(warehouse_dsn, "night", NEXT_DAY, other_is_backfill)
    for _ in range(2):
        with pytest.raises(BuildBusy, match="Run 'night' builds"):
            publishing.begin_build(warehouse_dsn, "backfill", DAY, True)
    publishing.require_lease(connection, "night", schema)
    # A night is not kept waiting by backfills.
    publishing.begin_build(warehouse_dsn, "night after", NEXT_DAY, False)
    publishing.end_build(warehouse_dsn, "night")  # not its build any more
    with pytest.raises(BuildBusy):
        publishing.begin_build(warehouse_dsn, "backfill", DAY, True)
    publishing.end_build(warehouse_dsn, "night after")
    assert publishing.begin_build(warehouse_dsn, "backfill", DAY, True) == BACKFILL


def test_a_backfill_does_not_wait_for_a_run_that_was_killed(
    warehouse_dsn: str, connection: psycopg.Connection
) -> None:
    schema = publishing.begin_build(warehouse_dsn, "night", NEXT_DAY, False)
    long_ago = "update operations.build_lease set renewed_at = now() - interval '16 minutes'"
    connection.execute(long_ago)
    with (
        publishing.building(warehouse_dsn, "night", schema, lambda line: None),
        pytest.raises(BuildBusy),
    ):
        connection.execute(long_ago)  # a build may take longer than that
        publishing.begin_build(warehouse_dsn, "backfill", DAY, True)
    with pytest.raises(BuildBusy):  # it has only just ended its build
        publishing.begin_build(warehouse_dsn, "backfill", DAY, True)
    connection.execute(long_ago)
    assert publishing.begin_build(warehouse_dsn, "backfill", DAY, True) == BACKFILL


# Readers


@contextmanager
def _in_thread(work: Callable[[threading.Event], None]) -> Iterator[None]:
    """Work beside the test; the event says that the test is over."""
    over = threading.Event()
    thread = threading.Thread(target=work, args=(over,))
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(30)


def test_readers_see_one_publication_at_a_time(warehouse_dsn: str) -> None:
    """Each night writes its number into both tables: a reader that mixes nights sees two."""
    done = threading.Event()
    seen: list[tuple[int, int, int]] = []
    failures: list[Exception] = []

    def read() -> None:
        query = (
            "select min(night), max(night), sum(night)::int from "
            "(select night from marts.orders union all select night from marts.customers) as tables"
        )
        try:
            with psycopg.connect(warehouse_dsn, autocommit=True) as session:
                while not done.wait(0.005):
                    row = session.execute(query).fetchone()
                    assert row is not None
                    seen.append(row)
        except Exception as error:
            failures.append(error)

    def night(number: int) -> None:
        query = f"select {number} as night from generate_series(1, 50)"
        _night(warehouse_dsn, f"run-{number}", orders=query, customers=query)

    night(0)
    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    try:
        for number in range(1, 31):
            night(number)
    finally:
        done.set()
        for reader in readers:
            reader.join(30)
    assert failures == []
    assert [row for row in seen if row[0] != row[1] or row[2] != 100 * row[0]] == []
    assert len({row[0] for row in seen}) > 3  # they did read while nights were published


def test_a_reader_who_holds_a_view_is_waited_for(
    warehouse_dsn: str, connection: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    _night(warehouse_dsn, "run-1", orders=ORDERS)
    schema = _build(warehouse_dsn, "run-2", orders=ORDERS)
    attempts = _count_calls(monkeypatch, "_publish_once")
    with psycopg.connect(warehouse_dsn) as reader:
        reader.execute("select * from marts.orders")

        def release(over: threading.Event) -> None:
            while len(attempts) < 2 and not over.wait(0.01):
                pass
            reader.rollback()

        with _in_thread(release):
            publication = _publish(warehouse_dsn, "run-2", schema)
    assert len(attempts) >= 2
    assert publishing.current_publication(connection) == publication
    assert publishing.live_schema(connection) == GREEN


def test_a_reader_who_never_lets_go_is_named(
    warehouse_dsn: str, connection: psycopg.Connection
) -> None:
    first = _night(warehouse_dsn, "run-1", orders=ORDERS)
    schema = _build(warehouse_dsn, "run-2", orders=ORDERS)
    with psycopg.connect(warehouse_dsn, application_name="Dashboard of sales") as reader:
        reader.execute("select * from marts.orders")
        with pytest.raises(WarehouseError) as raised:
            publishing.publish(warehouse_dsn, "run-2", DAY, schema, {}, wait_minutes=0.005)
        message = str(raised.value)
        expected = f"pid {reader.info.backend_pid} (kundenkreis, Dashboard of sales, idle in tran"
        assert expected in message
        assert str(connection.info.backend_pid) not in message
    assert publishing.current_publication(connection) == first


def test_a_snapshot_older_than_the_build_is_waited_for(
    warehouse_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a transaction would find the new colour's tables empty."""
    _night(warehouse_dsn, "run-1", orders=ORDERS)
    checks = _count_calls(monkeypatch, "time", "sleep")
    with psycopg.connect(warehouse_dsn) as reader:
        reader.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        reader.execute("select 1")
        schema = _build(warehouse_dsn, "run-2", orders=ORDERS)
        read: list[Any] = []

        def finish(over: threading.Event) -> None:
            while len(checks) < 3 and not over.wait(0.01):
                pass
            read.extend(reader.execute("select order_id from marts.orders").fetchall())
            reader.rollback()

        with _in_thread(finish):
            publication = _publish(warehouse_dsn, "run-2", schema)
    assert read == [(1,)]
    assert publication.schema_name == GREEN


def test_an_older_snapshot_is_waited_for_with_a_bound(warehouse_dsn: str) -> None:
    _night(warehouse_dsn, "run-1", orders=ORDERS)
    with psycopg.connect(warehouse_dsn) as reader:
        reader.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        reader.execute("select 1")
        schema = _build(warehouse_dsn, "run-2", orders=ORDERS)
        publication = publishing.publish(
            warehouse_dsn, "run-2", DAY, schema, {}, wait_minutes=0.005
        )
    assert publication.schema_name == GREEN


def _count_calls(monkeypatch: pytest.MonkeyPatch, *path: str) -> list[None]:
    """Count the calls of a function of the module, which goes on doing its work."""
    target: Any = publishing
    for name in path[:-1]:
        target = getattr(target, name)
    original = getattr(target, path[-1])
    calls: list[None] = []

    def counted(*arguments: Any, **options: Any) -> Any:
        calls.append(None)
        return original(*arguments, **options)

    monkeypatch.setattr(target, path[-1], counted)
    return calls
