"""What a delivery reads of its tables grows with its rows, and not with their square."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import psycopg
import pytest
import tenacity

from kundenkreis.activation import delivery
from tests.integration.activation_warehouse import (
    MEMORY,
    MemoryTool,
    bare_plan,
    plan_by_hand,
    settings_for,
)

pytestmark = pytest.mark.integration
TABLES = ("plan_rows", "ledger", "delivered_state", "subscriber_states")
BATCH = {"upsert": 20, "add": 20, "remove": 20}
FEW, MANY = 400, 1600


def rows_read(dsn: str) -> dict[str, int]:
    """Rows that were read of each table so far, by scans of it and of its indexes."""
    _wait_for_statistics(dsn)
    with psycopg.connect(dsn) as connection:
        found = connection.execute(
            "select relname, seq_tup_read + coalesce(idx_tup_fetch, 0) from pg_stat_user_tables"
            " where schemaname = 'activation' and relname = any(%s)",
            (list(TABLES),),
        )
        return dict(found.fetchall())


@tenacity.retry(
    retry=tenacity.retry_if_exception_type(AssertionError),
    stop=tenacity.stop_after_delay(20),
    wait=tenacity.wait_fixed(0.05),
)
def _wait_for_statistics(dsn: str) -> None:
    """A session hands its counts over when it ends, which is a little after it was closed."""
    with psycopg.connect(dsn) as connection:
        left = connection.execute(
            "select count(*) from pg_stat_activity"
            " where application_name like 'kundenkreis %%' and datname = current_database()"
        ).fetchone()
    assert left == (0,)


def read_by_delivering(dsn: str, members: int, *, again: bool) -> dict[str, float]:
    """Rows read for each member of a first delivery, or of one that changes all of them again."""
    bare_plan(dsn)
    addresses = [f"person{number}@shop.de" for number in range(members)]
    tool = MemoryTool(
        states={} if not again else dict.fromkeys(addresses, "subscribed"),
        capabilities=replace(MEMORY, batch_size=BATCH),
    )
    plan_by_hand(dsn, "listmonk", "Champions", [("add", one, True) for one in addresses])
    if again:
        deliver(dsn, tool, 1)
        with psycopg.connect(dsn) as connection:
            connection.execute(
                "insert into history.publications (as_of_date, dag_run_id, schema_name)"
                " values ('2026-11-23', 'run2', 'marts_green')"
            )
        plan_by_hand(dsn, "listmonk", "Champions", [("add", one, True) for one in addresses], 2)
    before = rows_read(dsn)
    deliver(dsn, tool, 2 if again else 1)
    after = rows_read(dsn)
    return {table: (after[table] - before[table]) / members for table in TABLES}


def deliver(dsn: str, tool: MemoryTool, publication_id: int) -> None:
    summary = delivery.deliver(
        "listmonk",
        settings_for(create_contacts=True),
        _no_connection,
        dsn,
        "run",
        publication_id,
        lambda message: None,
        open_tool=lambda *arguments: tool,
    )
    assert summary["confirmed"] == 2 * len(tool.states)


def _no_connection(connection_id: str) -> Any:
    raise AssertionError("the tool in memory needs no connection")


@pytest.mark.parametrize("again", [False, True], ids=["first", "changed"])
def test_four_times_the_members_read_as_many_rows_each(
    module_warehouse_dsn: str, again: bool
) -> None:
    few = read_by_delivering(module_warehouse_dsn, FEW, again=again)
    many = read_by_delivering(module_warehouse_dsn, MANY, again=again)

    # What is quadratic would read four times as much for each.
    assert {table: many[table] <= 1.5 * few[table] + 2 for table in TABLES} == dict.fromkeys(
        TABLES, True
    ), (few, many)
