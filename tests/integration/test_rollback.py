"""Rolling back: readers see the publication before again, and nothing of the other one is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from kundenkreis import night
from kundenkreis.activation import delivery
from kundenkreis.errors import PlanOutdated, PublicationRefused
from kundenkreis.settings import repository_root
from kundenkreis.warehouse import builds
from kundenkreis.warehouse import publish as publishing
from kundenkreis.warehouse.contract import Declaration
from kundenkreis.warehouse.publish import BLUE, GREEN
from kundenkreis.warehouse.rollback import roll_back
from tests.command_line import Call, entry_point
from tests.integration import publishing as nights
from tests.integration.publishing import DAY, NEXT_DAY, ORDERS, rows

pytestmark = pytest.mark.integration

LATER_ORDERS = "select 2::bigint as order_id, 99.00::numeric(18, 4) as revenue"


@pytest.fixture
def warehouse_dsn(module_warehouse_dsn: str) -> str:
    """An empty warehouse."""
    nights.empty(module_warehouse_dsn)
    return module_warehouse_dsn


@pytest.fixture
def connection(warehouse_dsn: str) -> Iterator[psycopg.Connection]:
    """A session that sees every statement of the test at once."""
    with psycopg.connect(warehouse_dsn, autocommit=True) as session:
        yield session


def _two_nights(dsn: str) -> tuple[int, int]:
    first = nights.night(
        dsn,
        "run-1",
        DAY,
        orders=ORDERS,
        history_rfm_cutoffs=nights.cutoffs(DAY),
        history_stage_changes=nights.changes(DAY, "reach"),
        history_customer_ids=nights.customer_ids(DAY, a="1", b="2"),
    )
    second = nights.night(
        dsn,
        "run-2",
        NEXT_DAY,
        orders=LATER_ORDERS,
        history_rfm_cutoffs=nights.cutoffs(NEXT_DAY, 99),
        history_stage_changes=nights.changes(NEXT_DAY, "churned"),
        history_customer_ids=nights.customer_ids(NEXT_DAY, b="1", c="3"),
    )
    return first.publication_id, second.publication_id


def test_readers_see_the_publication_before_again(
    warehouse_dsn: str, connection: psycopg.Connection
) -> None:
    first, second = _two_nights(warehouse_dsn)
    done = roll_back(warehouse_dsn, "anna")
    assert rows(connection, "select order_id, revenue from marts.orders") == [(1, 10)]
    assert publishing.live_schema(connection) == BLUE
    assert (done.taken_back, done.taken_back_as_of, done.dirty_schema) == (second, NEXT_DAY, GREEN)
    assert (done.empty_columns, done.contract_changes) == ((), ())
    event = publishing.current_publication(connection)
    assert event == done.publication
    assert event is not None
    assert event.publication_id > second
    assert (event.as_of_date, event.schema_name, event.restores) == (DAY, BLUE, first)
    assert rows(
        connection,
        "select publication_id, dag_run_id, rolls_back_publication_id, rolled_back_by "
        "from history.publications order by 1",
    ) == [
        (first, "run-1", None, None),
        (second, "run-2", None, None),
        (event.publication_id, "run-1", second, "anna"),
    ]


def test_a_rollback_removes_its_own_history_and_nothing_else(
    warehouse_dsn: str, connection: psycopg.Connection
) -> None:
    first, _ = _two_nights(warehouse_dsn)
    done = roll_back(warehouse_dsn, "anna")
    assert done.history_rows == {"rfm_cutoffs": 1, "stage_changes": 1, "customer_ids": 2}
    assert rows(connection, "select as_of_date, cutoff from history.rfm_cutoffs") == [(DAY, 13)]
    query = "select as_of_date, to_stage, publication_id from history.stage_changes"
    assert rows(connection, query) == [(DAY, "reach", first)]
    # The merge is undone, and the record it saw first has no id any more.
    query = "select source_id, customer_id from history.customer_ids order by 1"
    assert rows(connection, query) == [("a", "1"), ("b", "2")]


def test_a_day_that_was_published_twice_has_its_first_history_again(
    warehouse_dsn: str, connection: psycopg.Connection
) -> None:
    first = nights.night(
        warehouse_dsn,
        "run-1",
        orders=ORDERS,
        history_rfm_cutoffs=nights.cutoffs(DAY),
        history_stage_changes=nights.changes(DAY, "reach"),
    )
    nights.night(
        warehouse_dsn,
        "run-2",
        orders=LATER_ORDERS,
        history_rfm_cutoffs=nights.cutoffs(DAY, 99),
        history_stage_changes=nights.changes(DAY, "churned"),
    )
    roll_back(warehouse_dsn, "anna")
    assert rows(connection, "select cutoff from history.rfm_cutoffs") == [(13,)]
    query = "select to_stage, publication_id from history.stage_changes"
    assert rows(connection, query) == [("reach", first.publication_id)]


def test_a_backfill_of_the_day_since_then_keeps_its_rows(
    warehouse_dsn: str, connection: psycopg.Connection
) -> None:
    _two_nights(warehouse_dsn)
    schema = nights.build(
        warehouse_dsn,
        "run-3",
        NEXT_DAY,
        is_backfill=True,
        history_stage_changes=nights.changes(NEXT_DAY, "loyalty"),
    )
    publishing.write_history(warehouse_dsn, "run-3", NEXT_DAY, schema)
    roll_back(warehouse_dsn, "anna")
    query = "select to_stage from history.stage_changes order by as_of_date"
    assert rows(connection, query) == [("reach",), ("loyalty",)]


# What the views show


def test_what_was_added_is_null_of_its_type(
    warehouse_dsn: str, connection: psycopg.Connection
) -> None:
    nights.night(warehouse_dsn, "run-1", orders=ORDERS)
    nights.night(
        warehouse_dsn,
        "run-2",
        NEXT_DAY,
        orders=f"select o.*, 7.5::numeric(9, 2) as discount from ({ORDERS}) as o",
        products="select 'A'::text as product_key, 1::integer as stock",
    )
    done = roll_back(warehouse_dsn, "anna")
    assert done.empty_columns == ("orders.discount", "products.product_key", "products.stock")
    query = "select order_id, discount, format('%s', pg_typeof(discount)) from marts.orders"
    assert rows(connection, query) == [(1, None, "numeric")]
    assert rows(connection, "select product_key, stock from marts.products") == []
    # The next night brings both back without a change of the contract.
    nights.night(
        warehouse_dsn,
        "run-3",
        NEXT_DAY,
        orders=f"select o.*, 7.5::numeric(9, 2) as discount from ({ORDERS}) as o",
        products="select 'A'::text as product_key, 1::integer as stock",
    )
    assert rows(connection, "select discount from marts.orders") == [(7.5,)]
    assert rows(connection, "select stock from marts.products") == [(1,)]


RETYPED = "select 1::bigint as order_id, 10::double precision as revenue"
DECLARED = (
    Declaration(
        model="orders",
        column="revenue",
        change="retyped",
        to="double precision",
        reason="tested",
        declared_on=DAY,
    ),
)


def test_a_declared_change_is_taken_back_with_its_publication(
    warehouse_dsn: str, connection: psycopg.Connection
) -> None:
    nights.night(warehouse_dsn, "run-1", orders=ORDERS)
    schema = nights.build(warehouse_dsn, "run-2", NEXT_DAY, orders=RETYPED)
    nights.publish(warehouse_dsn, "run-2", schema, NEXT_DAY, declared=DECLARED)
    done = roll_back(warehouse_dsn, "anna")
    assert done.contract_changes == ("orders.revenue is numeric(18,4), was double precision",)
    assert rows(connection, "select pg_typeof(revenue)::text from marts.orders") == [("numeric",)]
    assert nights.columns(connection, "orders") == ["order_id", "revenue"]
    # It had not come to stay, so its declaration permits it once more.
    schema = nights.build(warehouse_dsn, "run-3", NEXT_DAY, orders=RETYPED)
    assert nights.publish(warehouse_dsn, "run-3", schema, NEXT_DAY, declared=DECLARED)


def test_somebodys_view_on_what_changes_back_stops_the_rollback(
    warehouse_dsn: str, connection: psycopg.Connection
) -> None:
    nights.night(warehouse_dsn, "run-1", orders=ORDERS)
    schema = nights.build(warehouse_dsn, "run-2", NEXT_DAY, orders=RETYPED)
    second = nights.publish(warehouse_dsn, "run-2", schema, NEXT_DAY, declared=DECLARED)
    connection.execute("create schema bi")
    connection.execute("create view bi.revenue as select sum(revenue) as total from marts.orders")
    with pytest.raises(PublicationRefused, match=r"other views stand on it: bi\.revenue"):
        roll_back(warehouse_dsn, "anna")
    assert publishing.current_publication(connection) == second
    assert rows(connection, "select count(*) from operations.dirty_schemas") == [(0,)]


def test_somebodys_view_on_what_stays_stays(
    warehouse_dsn: str, connection: psycopg.Connection
) -> None:
    _two_nights(warehouse_dsn)
    connection.execute("create schema bi")
    connection.execute("create view bi.revenue as select sum(revenue) as total from marts.orders")
    roll_back(warehouse_dsn, "anna")
    assert rows(connection, "select total from bi.revenue") == [(10,)]


# The colours afterwards


def test_the_next_night_builds_the_taken_back_colour_in_full(
    warehouse_dsn: str, connection: psycopg.Connection
) -> None:
    _, second = _two_nights(warehouse_dsn)
    build = builds.begin(warehouse_dsn, GREEN, NEXT_DAY, "rules", [])
    builds.complete(warehouse_dsn, build, "run-2")
    roll_back(warehouse_dsn, "anna")
    with pytest.raises(PublicationRefused, match=f"publication {second} was rolled back"):
        nights.publish(warehouse_dsn, "run-2", GREEN, NEXT_DAY)
    assert publishing.begin_build(warehouse_dsn, "run-3", NEXT_DAY, False) == GREEN
    build = builds.begin(warehouse_dsn, GREEN, NEXT_DAY, "rules", [])
    assert build.full_because == f"publication {second} was rolled back"


def _refused(dsn: str, why: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as session:
        before = publishing.current_publication(session)
        live = publishing.live_schema(session)
        with pytest.raises(PublicationRefused, match=why):
            roll_back(dsn, "anna")
        assert publishing.current_publication(session) == before
        assert publishing.live_schema(session) == live


def test_there_is_nothing_to_go_back_to(warehouse_dsn: str) -> None:
    _refused(warehouse_dsn, "Nothing was published yet")
    nights.night(warehouse_dsn, "run-1", orders=ORDERS)
    _refused(warehouse_dsn, "There is no publication before the current one")
    nights.night(warehouse_dsn, "run-2", NEXT_DAY, orders=ORDERS)
    roll_back(warehouse_dsn, "anna")
    _refused(warehouse_dsn, "is itself a rollback, to publication")


def test_a_colour_that_is_being_built_is_not_shown_again(warehouse_dsn: str) -> None:
    _two_nights(warehouse_dsn)
    nights.build(warehouse_dsn, "run-3", NEXT_DAY, orders=ORDERS)
    _refused(warehouse_dsn, "marts_blue no longer holds .* run 'run-3' has begun to build it anew")
    publishing.end_build(warehouse_dsn, "run-3")
    publishing.begin_build(warehouse_dsn, "run-4", DAY, True)  # the lease is elsewhere now
    _refused(warehouse_dsn, "There is no publication before the current one")


def test_a_colour_that_failed_its_gate_is_not_shown_again(warehouse_dsn: str) -> None:
    _two_nights(warehouse_dsn)
    publishing.mark_dirty(warehouse_dsn, BLUE, "it was built by hand")
    _refused(warehouse_dsn, "marts_blue cannot be shown again: it was built by hand")


def test_a_colour_that_was_dropped_is_not_shown_again(
    warehouse_dsn: str, connection: psycopg.Connection
) -> None:
    _two_nights(warehouse_dsn)
    connection.execute("drop schema marts_blue cascade")
    _refused(warehouse_dsn, "marts_blue holds no tables any more")


def test_after_a_rollback_and_a_night_one_can_go_back_again(
    warehouse_dsn: str, connection: psycopg.Connection
) -> None:
    first, _ = _two_nights(warehouse_dsn)
    roll_back(warehouse_dsn, "anna")
    nights.night(warehouse_dsn, "run-3", NEXT_DAY, orders=LATER_ORDERS)
    done = roll_back(warehouse_dsn, "anna")
    assert done.publication.restores == first
    assert rows(connection, "select order_id from marts.orders") == [(1,)]


def test_a_death_before_the_commit_leaves_everything_as_it_was(
    warehouse_dsn: str, connection: psycopg.Connection
) -> None:
    _, second = _two_nights(warehouse_dsn)
    program = (
        "import sys; from kundenkreis.warehouse import rollback as r; r.roll_back(*sys.argv[1:])"
    )
    environment = {
        **os.environ,
        "PYTHONPATH": str(repository_root() / "plugins"),
        "KUNDENKREIS_FAILPOINT": "rollback.before_commit",
    }
    command = [sys.executable, "-c", program, warehouse_dsn, "anna"]
    assert subprocess.run(command, env=environment, check=False).returncode == -signal.SIGKILL
    current = publishing.current_publication(connection)
    assert current is not None
    assert current.publication_id == second
    assert rows(connection, "select order_id from marts.orders") == [(2,)]
    assert rows(connection, "select count(*) from history.stage_changes") == [(2,)]
    assert roll_back(warehouse_dsn, "anna").taken_back == second


# Plans


def test_no_plan_is_sent_after_a_rollback(
    warehouse_dsn: str, connection: psycopg.Connection
) -> None:
    first, second = _two_nights(warehouse_dsn)
    connection.execute(
        "insert into activation.ledger (plan_row_id, publication_id, run_id, destination, "
        "audience, customer_id, operation, address, payload_hash, state) "
        f"values ('p', {second}, 'run-2', 'listmonk', '', 'c1', 'upsert', 'a@b.example', 'h', "
        "'confirmed')"
    )
    event = roll_back(warehouse_dsn, "anna").publication.publication_id
    for publication in (first, second):
        with pytest.raises(PlanOutdated, match=f"publication {publication} is outdated"):
            delivery._require_current(connection, publication)
    # The restored marts do not know who withdrew since.
    with pytest.raises(PlanOutdated, match=f"Publication {event} is a rollback"):
        delivery._require_current(connection, event)
    run: Any = type("Run", (), {"dsn": warehouse_dsn})()
    with pytest.raises(PlanOutdated):
        night.plan(run, GREEN, second)
    assert rows(connection, "select state from activation.ledger") == [("confirmed",)]
    connection.execute("truncate activation.ledger")


# The command


@pytest.fixture
def call(
    warehouse_dsn: str, clean_env: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Call:
    """Call the command line; exit code, output and error output."""
    clean_env.setenv("AIRFLOW_CONN_WAREHOUSE", warehouse_dsn)
    clean_env.setenv("COLUMNS", "200")

    return entry_point(clean_env, capfd)


def test_the_command_says_what_it_did(call: Call, warehouse_dsn: str) -> None:
    first, second = _two_nights(warehouse_dsn)
    with psycopg.connect(warehouse_dsn) as session:
        session.execute(
            "insert into operations.task_results values "
            "('run-2', 'report', '2026-03-02', 'success', '{}', now()) on conflict do nothing"
        )
    code, output, _ = call("publish", "--rollback", "--by", "anna")
    assert code == 0
    for part in (
        f"Publication {second} as of 2026-03-02 was taken back",
        f"publication {first} as of 2026-03-01",
        "stage_changes 1",
        "marts_green is built in full",
        "nothing is sent until the next night",
    ):
        assert part in output
    assert "is a rollback" in call("plan")[2]
    assert "(a rollback to publication" in call("status")[1]


def test_the_command_has_json_and_clear_errors(call: Call, warehouse_dsn: str) -> None:
    code, _, errors = call("publish")
    assert code == 1
    assert "Nights publish by themselves" in errors
    code, _, errors = call("publish", "--rollback")
    assert (code, errors.startswith("PublicationRefused: Nothing was published")) == (1, True)
    first, second = _two_nights(warehouse_dsn)
    code, output, _ = call("publish", "--rollback", "--json")
    answer = json.loads(output)
    assert code == 0
    assert (answer["taken_back"], answer["publication"]["restores"]) == (second, first)
