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
from pathlib import Path
from typing import Any

import psycopg
import pytest

from kundenkreis.errors import (
    BuildBusy,
    ConfigError,
    PublicationRefused,
    Superseded,
    WarehouseError,
)
from kundenkreis.settings import repository_root
from kundenkreis.warehouse import contract
from kundenkreis.warehouse import publish as publishing
from kundenkreis.warehouse.contract import Declaration
from kundenkreis.warehouse.publish import BACKFILL, BLUE, GREEN, Publication
from tests.integration.publishing import (
    DAY,
    NEXT_DAY,
    ORDERS,
    build,
    changes,
    columns,
    customer_ids,
    cutoffs,
    empty,
    night,
    publish,
    rows,
)

pytestmark = pytest.mark.integration


@pytest.fixture
def warehouse_dsn(module_warehouse_dsn: str) -> str:
    """An empty warehouse; emptied rather than created, which takes a tenth of the time."""
    empty(module_warehouse_dsn)
    return module_warehouse_dsn


@pytest.fixture
def connection(warehouse_dsn: str) -> Iterator[psycopg.Connection]:
    """A session that sees every statement of the test at once."""
    with psycopg.connect(warehouse_dsn, autocommit=True) as session:
        yield session


# The course of nights


def test_the_first_publication(warehouse_dsn: str, connection: psycopg.Connection) -> None:
    assert publishing.live_schema(connection) is None
    assert publishing.current_publication(connection) is None
    publication = night(warehouse_dsn, "run-1", orders=ORDERS, history_rfm_cutoffs=cutoffs(DAY))
    assert publication == Publication(publication.publication_id, DAY, BLUE)
    assert publishing.live_schema(connection) == BLUE
    assert publishing.current_publication(connection) == publication
    assert rows(connection, "select order_id, revenue from marts.orders") == [(1, 10)]
    assert rows(connection, "select dag_run_id, gate_results from history.publications") == [
        ("run-1", {"failed": 0})
    ]
    # What the history is copied from is no part of the contract.
    assert rows(connection, "select viewname from pg_views where schemaname = 'marts'") == [
        ("orders",)
    ]


def test_nights_take_turns_between_the_colours(
    warehouse_dsn: str, connection: psycopg.Connection
) -> None:
    schemas, sums = [], []
    for number in range(3):
        day = date(2026, 3, 1 + number)
        query = f"select {number}::bigint as order_id, {number}::numeric as revenue"
        schemas.append(night(warehouse_dsn, f"run-{number}", day, orders=query).schema_name)
        sums.append(rows(connection, "select sum(revenue) from marts.orders")[0][0])
    assert schemas == [BLUE, GREEN, BLUE]
    assert sums == [0, 1, 2]


def test_the_same_day_again_is_published_again(
    warehouse_dsn: str, connection: psycopg.Connection
) -> None:
    first = night(warehouse_dsn, "run-1", orders=ORDERS)
    second = night(warehouse_dsn, "run-2", orders=ORDERS)
    assert second.schema_name == GREEN
    assert second.publication_id > first.publication_id
    assert publishing.current_publication(connection) == second


def test_grants_on_the_views_survive_a_publication(
    warehouse_dsn: str, connection: psycopg.Connection
) -> None:
    night(warehouse_dsn, "run-1", orders=ORDERS)
    connection.execute("grant select on marts.orders to pg_monitor")
    night(warehouse_dsn, "run-2", orders=ORDERS)
    assert rows(
        connection, "select has_table_privilege('pg_monitor', 'marts.orders', 'select')"
    ) == [(True,)]


# The contract of the views


def test_a_new_column_goes_last(warehouse_dsn: str, connection: psycopg.Connection) -> None:
    night(warehouse_dsn, "run-1", orders=ORDERS)
    night(
        warehouse_dsn, "run-2", orders="select 'EUR'::text as currency, o.* from (" + ORDERS + ") o"
    )
    assert columns(connection, "orders") == ["order_id", "revenue", "currency"]
    assert rows(connection, "select * from marts.orders") == [(1, 10, "EUR")]


def test_another_order_of_columns_breaks_nobody(
    warehouse_dsn: str, connection: psycopg.Connection
) -> None:
    night(warehouse_dsn, "run-1", orders=ORDERS)
    night(
        warehouse_dsn,
        "run-2",
        orders="select 5.00::numeric(18, 4) as revenue, 2::bigint as order_id",
    )
    assert rows(connection, "select * from marts.orders") == [(2, 5)]


def test_a_new_table_becomes_a_view(warehouse_dsn: str, connection: psycopg.Connection) -> None:
    night(warehouse_dsn, "run-1", orders=ORDERS)
    night(warehouse_dsn, "run-2", orders=ORDERS, products="select 'A'::text as product_key")
    assert rows(connection, "select product_key from marts.products") == [("A",)]


BREAKING = {
    "orders": "select 1::bigint as order_id, 10::double precision as revenue",
    "customers": "select 'x'::text as customer_id",
}


def _publish_a_contract(dsn: str) -> Publication:
    return night(
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
    schema = build(warehouse_dsn, "run-2", **BREAKING)
    with pytest.raises(PublicationRefused) as raised:
        publish(warehouse_dsn, "run-2", schema)
    for change in (
        "orders.revenue is double precision, was numeric(18,4)",
        "customers.language is gone",
        "products is gone",
        "dbt_project/contract_changes.yml",
    ):
        assert change in str(raised.value)
    assert publishing.current_publication(connection) == first
    assert publishing.live_schema(connection) == BLUE


def _declaration(model: str, change: str, column: str | None = None, **more: Any) -> Declaration:
    values = {"reason": "tested", "declared_on": DAY, **more}
    return Declaration.model_validate(
        {"model": model, "change": change, "column": column, **values}
    )


DECLARED = (
    _declaration("orders", "retyped", "revenue", to="double precision"),
    _declaration("customers", "removed", "language"),
    _declaration("products", "dropped"),
)


def test_a_declared_contract_change_is_published(
    warehouse_dsn: str, connection: psycopg.Connection
) -> None:
    _publish_a_contract(warehouse_dsn)
    schema = build(warehouse_dsn, "run-2", **BREAKING)
    publish(warehouse_dsn, "run-2", schema, declared=DECLARED)
    assert columns(connection, "customers") == ["customer_id"]
    assert rows(connection, "select pg_typeof(revenue)::text from marts.orders") == [
        ("double precision",)
    ]
    assert rows(connection, "select to_regclass('marts.products') is null") == [(True,)]


@pytest.mark.parametrize(
    ("declared", "refused"),
    [
        (DECLARED[1:], ["orders.revenue is double precision"]),
        (DECLARED[:1], ["customers.language is gone", "products is gone"]),
        (
            (_declaration("orders", "retyped", "revenue", to="text"), *DECLARED[1:]),
            ["orders.revenue is double precision"],
        ),
        (
            (_declaration("orders", "removed", "revenue"), *DECLARED[1:]),
            ["orders.revenue is double precision"],
        ),
    ],
)
def test_a_declaration_permits_exactly_what_it_says(
    warehouse_dsn: str, declared: tuple[Declaration, ...], refused: list[str]
) -> None:
    _publish_a_contract(warehouse_dsn)
    schema = build(warehouse_dsn, "run-2", **BREAKING)
    with pytest.raises(PublicationRefused) as raised:
        publish(warehouse_dsn, "run-2", schema, declared=declared)
    listed = str(raised.value).partition("rely on: ")[2].partition(". Restore")[0].split("; ")
    assert [change.partition(", was")[0] for change in listed] == refused


def test_a_published_declaration_permits_nothing_any_more(
    warehouse_dsn: str, connection: psycopg.Connection
) -> None:
    _publish_a_contract(warehouse_dsn)
    publish(warehouse_dsn, "run-2", build(warehouse_dsn, "run-2", **BREAKING), declared=DECLARED)
    # The column comes back, as an addition may, and is to go once more.
    again = {**BREAKING, "customers": "select 'x'::text as customer_id, 'de'::text as language"}
    publish(warehouse_dsn, "run-3", build(warehouse_dsn, "run-3", **again), declared=DECLARED)
    schema = build(warehouse_dsn, "run-4", **BREAKING)
    with pytest.raises(PublicationRefused, match=r"customers\.language is gone"):
        publish(warehouse_dsn, "run-4", schema, declared=DECLARED)
    anew = _declaration("customers", "removed", "language", declared_on=NEXT_DAY)
    publish(warehouse_dsn, "run-4", schema, declared=[*DECLARED, anew])
    assert columns(connection, "customers") == ["customer_id"]


def test_a_refused_publication_spends_no_declaration(
    warehouse_dsn: str, connection: psycopg.Connection
) -> None:
    _publish_a_contract(warehouse_dsn)
    schema = build(warehouse_dsn, "run-2", **BREAKING, history_moods=cutoffs(DAY))
    with pytest.raises(PublicationRefused, match="history_moods"):
        publish(warehouse_dsn, "run-2", schema, declared=DECLARED)
    connection.execute(f"drop table {schema}.history_moods".encode())
    assert publish(warehouse_dsn, "run-2", schema, declared=DECLARED).schema_name == GREEN


def test_a_declared_order_of_columns_is_taken_over(
    warehouse_dsn: str, connection: psycopg.Connection
) -> None:
    night(warehouse_dsn, "run-1", orders=ORDERS)
    other = "select 'EUR'::text as currency, 5.00::numeric(18, 4) as revenue, 2::bigint as order_id"
    schema = build(warehouse_dsn, "run-2", orders=other)
    assert [str(change) for change in contract.changes(connection, schema)] == [
        "orders has its columns in another order"
    ]
    publish(warehouse_dsn, "run-2", schema, declared=[_declaration("orders", "reordered")])
    assert columns(connection, "orders") == ["currency", "revenue", "order_id"]


def test_the_declarations_of_the_repository_can_be_read() -> None:
    assert contract.read_declarations() == ()


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("{model: orders, change: removed}", "change removed needs a column"),
        ("{model: orders, change: dropped, column: x}", "leave out column"),
        ("{model: orders, change: retyped, column: x}", "needs to, the new type"),
        ("{model: orders, change: removed, column: x, to: text}", "leave out to"),
        ("{model: orders, change: gone}", "'removed', 'retyped', 'reordered' or 'dropped'"),
    ],
)
def test_a_wrong_declaration_is_named_with_its_line(
    tmp_path: Path, entry: str, message: str
) -> None:
    file = tmp_path / "contract_changes.yml"
    entry = entry.replace("}", ", reason: tested, declared_on: 2026-03-01}")
    file.write_text(f"# declared\nchanges:\n  - {entry}\n")
    with pytest.raises(ConfigError) as raised:
        contract.read_declarations(file)
    assert message in str(raised.value)
    assert f"{file}:3" in str(raised.value)


def test_a_declared_change_touches_only_the_views_that_change(
    warehouse_dsn: str, connection: psycopg.Connection
) -> None:
    _publish_a_contract(warehouse_dsn)
    connection.execute("create schema bi")
    connection.execute("create view bi.revenue as select sum(revenue) as total from marts.orders")
    schema = build(
        warehouse_dsn,
        "run-2",
        orders=ORDERS,
        customers=BREAKING["customers"],
        products="select 'A'::text as product_key",
    )
    publish(warehouse_dsn, "run-2", schema, declared=DECLARED)
    assert rows(connection, "select total from bi.revenue") == [(10,)]
    assert publishing.live_schema(connection) == GREEN


def test_somebodys_own_view_on_what_changes_is_listed_and_never_dropped(
    warehouse_dsn: str, connection: psycopg.Connection
) -> None:
    first = _publish_a_contract(warehouse_dsn)
    connection.execute("create schema bi")
    connection.execute('create view bi."Revenue" as select sum(revenue) as total from marts.orders')
    schema = build(warehouse_dsn, "run-2", **BREAKING)
    with pytest.raises(PublicationRefused, match=r'other views stand on it: bi\."Revenue"\. Drop'):
        publish(warehouse_dsn, "run-2", schema, declared=DECLARED)
    assert rows(connection, 'select total from bi."Revenue"') == [(10,)]
    assert publishing.current_publication(connection) == first


def test_views_that_read_two_colours_are_named(
    warehouse_dsn: str, connection: psycopg.Connection
) -> None:
    night(warehouse_dsn, "run-1", orders=ORDERS)
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
    schema = build(warehouse_dsn, "run-1", orders=ORDERS, history_rfm_cutoffs=cutoffs(DAY))
    first = publish(warehouse_dsn, "run-1", schema)
    assert publish(warehouse_dsn, "run-1", schema) == first
    assert rows(connection, "select count(*) from history.publications") == [(1,)]
    assert rows(connection, "select count(*) from history.rfm_cutoffs") == [(1,)]


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
    build(warehouse_dsn, "run-1", orders=ORDERS, history_rfm_cutoffs=cutoffs(DAY))
    assert _publish_in_a_process(warehouse_dsn, "publish.before_commit") == -signal.SIGKILL
    assert publishing.live_schema(connection) is None
    assert rows(connection, "select count(*) from history.publications") == [(0,)]
    assert rows(connection, "select count(*) from history.rfm_cutoffs") == [(0,)]
    assert _publish_in_a_process(warehouse_dsn, None) == 0
    assert publishing.live_schema(connection) == BLUE
    assert rows(connection, "select count(*) from history.publications") == [(1,)]


def test_a_death_after_the_commit_is_repeated_without_a_second_publication(
    warehouse_dsn: str, connection: psycopg.Connection
) -> None:
    build(warehouse_dsn, "run-1", orders=ORDERS)
    assert _publish_in_a_process(warehouse_dsn, "publish.after_commit") == -signal.SIGKILL
    published = publishing.current_publication(connection)
    assert published is not None
    assert publish(warehouse_dsn, "run-1", BLUE) == published
    assert rows(connection, "select count(*) from history.publications") == [(1,)]


def test_a_run_that_was_overtaken_neither_builds_nor_publishes(
    warehouse_dsn: str, connection: psycopg.Connection
) -> None:
    schema = build(warehouse_dsn, "run-1", orders=ORDERS)
    assert publishing.begin_build(warehouse_dsn, "run-2", DAY, False) == schema
    with pytest.raises(Superseded, match=r"Run 'run-1' no longer builds marts_blue: run 'run-2'"):
        publish(warehouse_dsn, "run-1", schema)
    with pytest.raises(Superseded):
        publishing.require_lease(connection, "run-1", schema)
    publishing.require_lease(connection, "run-2", schema)
    assert publishing.current_publication(connection) is None


def _waits_for_a_lock(connection: psycopg.Connection) -> bool:
    query = (
        "select exists (select from pg_locks where locktype = 'advisory' and not granted and "
        "database = (select oid from pg_database where datname = current_database()))"
    )
    return bool(rows(connection, query)[0][0])


def test_nobody_chooses_a_colour_while_one_is_being_published(
    warehouse_dsn: str, connection: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next run would choose the colour that is public a moment later."""
    night(warehouse_dsn, "run-1", orders=ORDERS)
    schema = build(warehouse_dsn, "run-2", orders=ORDERS)
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
        assert publish(warehouse_dsn, "run-2", schema).schema_name == GREEN
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
        publish(warehouse_dsn, "run-1", BLUE)


def test_a_colour_that_failed_its_gate_is_not_published_before_it_is_built_anew(
    warehouse_dsn: str, connection: psycopg.Connection
) -> None:
    first = night(warehouse_dsn, "run-1", orders=ORDERS)
    schema = build(warehouse_dsn, "run-2", orders=ORDERS)
    publishing.mark_dirty(warehouse_dsn, schema, "gate_marts failed in run run-2")
    publishing.mark_dirty(warehouse_dsn, schema, "gate_marts failed in run run-2 again")
    with pytest.raises(
        PublicationRefused, match=r"marts_green must not be published: .* again\. Clear"
    ):
        publish(warehouse_dsn, "run-2", schema)
    assert publishing.current_publication(connection) == first
    publishing.clear_dirty(warehouse_dsn, schema)
    assert publish(warehouse_dsn, "run-2", schema).schema_name == GREEN


# History


def test_a_nights_history_rows_are_replaced_and_other_nights_stay(
    warehouse_dsn: str, connection: psycopg.Connection
) -> None:
    night(warehouse_dsn, "run-1", DAY, orders=ORDERS, history_stage_changes=changes(DAY, "reach"))
    second = night(
        warehouse_dsn,
        "run-2",
        NEXT_DAY,
        orders=ORDERS,
        history_stage_changes=changes(NEXT_DAY, "x"),
    )
    third = night(
        warehouse_dsn,
        "run-3",
        NEXT_DAY,
        orders=ORDERS,
        history_stage_changes=changes(NEXT_DAY, "conversion"),
    )
    assert third.publication_id > second.publication_id
    query = "select as_of_date, to_stage, publication_id from history.stage_changes order by 1"
    assert rows(connection, query) == [
        (DAY, "reach", second.publication_id - 1),
        (NEXT_DAY, "conversion", third.publication_id),
    ]


def test_customer_ids_are_added_and_moved_only_by_a_merge(
    warehouse_dsn: str, connection: psycopg.Connection
) -> None:
    night(
        warehouse_dsn,
        "run-1",
        DAY,
        orders=ORDERS,
        history_customer_ids=customer_ids(DAY, a="1", b="2"),
    )
    # The second night sees only b, now merged into 1, and a new record c.
    night(
        warehouse_dsn,
        "run-2",
        NEXT_DAY,
        orders=ORDERS,
        history_customer_ids=customer_ids(NEXT_DAY, b="1", c="3"),
    )
    assert rows(
        connection,
        "select source_id, customer_id, assigned_on from history.customer_ids order by source_id",
    ) == [("a", "1", DAY), ("b", "1", DAY), ("c", "3", NEXT_DAY)]


def test_a_history_table_that_is_missing_is_named(
    warehouse_dsn: str, connection: psycopg.Connection
) -> None:
    schema = build(warehouse_dsn, "run-1", orders=ORDERS, history_moods=cutoffs(DAY))
    with pytest.raises(
        PublicationRefused, match=r"marts_blue\.history_moods has no table history\.moods"
    ):
        publish(warehouse_dsn, "run-1", schema)
    assert publishing.current_publication(connection) is None


@pytest.mark.parametrize(
    ("day", "is_backfill"), [(date(2026, 2, 1), False), (date(2026, 4, 1), True)]
)
def test_a_backfill_writes_its_history_and_nothing_else(
    warehouse_dsn: str, connection: psycopg.Connection, day: date, is_backfill: bool
) -> None:
    first = night(warehouse_dsn, "run-1", orders=ORDERS, history_rfm_cutoffs=cutoffs(DAY))
    schema = build(
        warehouse_dsn,
        "run-2",
        day,
        is_backfill=is_backfill,
        orders="select 9::bigint as order_id",
        history_rfm_cutoffs=cutoffs(day, 99),
        history_stage_changes=changes(day, "reach"),
    )
    assert schema == BACKFILL
    publishing.write_history(warehouse_dsn, "run-2", day, schema)
    publishing.write_history(warehouse_dsn, "run-2", day, schema)
    assert publishing.current_publication(connection) == first
    assert publishing.live_schema(connection) == BLUE
    assert rows(connection, "select order_id from marts.orders") == [(1,)]
    kept = rows(connection, "select as_of_date, cutoff from history.rfm_cutoffs")
    assert sorted(kept) == sorted([(DAY, 13), (day, 99)])
    assert rows(connection, "select to_stage, publication_id from history.stage_changes") == [
        ("reach", None)
    ]


def test_a_backfill_that_was_overtaken_writes_no_history(
    warehouse_dsn: str, connection: psycopg.Connection
) -> None:
    schema = build(
        warehouse_dsn, "run-1", is_backfill=True, history_stage_changes=changes(DAY, "reach")
    )
    publishing.begin_build(warehouse_dsn, "run-2", NEXT_DAY, False)
    with pytest.raises(Superseded):
        publishing.write_history(warehouse_dsn, "run-1", DAY, schema)
    assert rows(connection, "select count(*) from history.stage_changes") == [(0,)]


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


def test_a_reader_who_holds_a_view_is_waited_for(
    warehouse_dsn: str, connection: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    night(warehouse_dsn, "run-1", orders=ORDERS)
    schema = build(warehouse_dsn, "run-2", orders=ORDERS)
    attempts = _count_calls(monkeypatch, "_publish_once")
    with psycopg.connect(warehouse_dsn) as reader:
        reader.execute("select * from marts.orders")

        def release(over: threading.Event) -> None:
            while len(attempts) < 2 and not over.wait(0.01):
                pass
            reader.rollback()

        with _in_thread(release):
            publication = publish(warehouse_dsn, "run-2", schema)
    assert len(attempts) >= 2
    assert publishing.current_publication(connection) == publication
    assert publishing.live_schema(connection) == GREEN


def test_a_reader_who_never_lets_go_is_named(
    warehouse_dsn: str, connection: psycopg.Connection
) -> None:
    first = night(warehouse_dsn, "run-1", orders=ORDERS)
    schema = build(warehouse_dsn, "run-2", orders=ORDERS)
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
    night(warehouse_dsn, "run-1", orders=ORDERS)
    checks = _count_calls(monkeypatch, "time", "sleep")
    with psycopg.connect(warehouse_dsn) as reader:
        reader.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        reader.execute("select 1")
        schema = build(warehouse_dsn, "run-2", orders=ORDERS)
        read: list[Any] = []

        def finish(over: threading.Event) -> None:
            while len(checks) < 3 and not over.wait(0.01):
                pass
            read.extend(reader.execute("select order_id from marts.orders").fetchall())
            reader.rollback()

        with _in_thread(finish):
            publication = publish(warehouse_dsn, "run-2", schema)
    assert read == [(1,)]
    assert publication.schema_name == GREEN


def test_an_older_snapshot_is_waited_for_with_a_bound(warehouse_dsn: str) -> None:
    night(warehouse_dsn, "run-1", orders=ORDERS)
    with psycopg.connect(warehouse_dsn) as reader:
        reader.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        reader.execute("select 1")
        schema = build(warehouse_dsn, "run-2", orders=ORDERS)
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
