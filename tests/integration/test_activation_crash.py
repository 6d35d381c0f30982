"""Delivery to the sandbox's servers that is killed at every failpoint and then run again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import psycopg
import pytest

from kundenkreis.activation import delivery, reconciliation, subscribers
from kundenkreis.connections import parse_connection
from kundenkreis.destinations import open_destination
from sandbox.testing import Handle, running_sandbox
from tests.integration.activation_warehouse import SHOP_TOOLS, empty_warehouse

pytestmark = pytest.mark.integration
ROOT = Path(__file__).parents[2]
FAILPOINTS = [
    f"deliver.{moment}{nth}"
    for moment in (
        "before_intended",
        "before_request",
        "after_request",
        "before_settle",
        "after_settle",
    )
    for nth in ("", "#4")
]
# What a task does, in a process that may be killed. Small batches, so that there are many.
DELIVER = """
import dataclasses, os, sys
from kundenkreis.activation import delivery
from kundenkreis.connections import connection_from_environment
from kundenkreis.destinations import open_destination
from tests.integration.activation_warehouse import SHOP_TOOLS

def open_tool(*arguments):
    tool = open_destination(*arguments)
    sizes = {"upsert": 4, "add": 4, "remove": 4}
    tool.capabilities = dataclasses.replace(tool.capabilities, batch_size=sizes)
    return tool

delivery.deliver(sys.argv[1], SHOP_TOOLS, connection_from_environment, sys.argv[2], "run",
    int(sys.argv[3]), lambda message: None, open_tool=open_tool)
"""
PLAN_TABLE = """
drop table if exists activation.plan_rows;
create table activation.plan_rows (
    plan_row_id text, publication_id bigint, run_id text, destination text, audience text,
    segment text, customer_id text, operation text, address text, attributes text,
    changed_fields text, payload_hash text, status text, status_reason text,
    planned_at timestamptz, may_create boolean
);
create or replace view marts.contactability as
    select cast(null as text) as customer_id, cast(null as text) as address where false;
"""


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Handle]:
    home = tmp_path_factory.mktemp("sandbox")
    with running_sandbox(home, customers=120, seed=5, until=date(2026, 11, 22)) as handle:
        yield handle


@pytest.fixture
def dsn(module_warehouse_dsn: str) -> str:
    empty_warehouse(module_warehouse_dsn)
    with psycopg.connect(module_warehouse_dsn) as connection:
        connection.execute(PLAN_TABLE)
        connection.execute(
            "insert into history.publications (as_of_date, dag_run_id, schema_name)"
            " values ('2026-11-22', 'run', 'marts_blue')"
        )
    return module_warehouse_dsn


def subscribed(vendor: str, sandbox: Handle) -> list[str]:
    tool = open_destination(vendor, SHOP_TOOLS.destinations[vendor], resolver(sandbox))
    pages = tool.read_subscriber_states(frozenset())
    return [found.address for page in pages for found in page if found.state == "subscribed"]


def resolver(sandbox: Handle) -> Any:
    return lambda name: parse_connection(name, sandbox.connections[f"AIRFLOW_CONN_{name.upper()}"])


def plan(dsn: str, vendor: str, audience: str, rows: list[tuple[str, str, bool]]) -> None:
    """Plan an upsert and an add, or a remove, per (operation, address, may_create)."""
    with psycopg.connect(dsn) as connection:
        for operation, address, may_create in rows:
            for step in ("upsert", "add") if operation == "add" else ("remove",):
                attributes = '{"stage": "loyalty"}' if step == "upsert" else "{}"
                connection.execute(
                    "insert into activation.plan_rows values (md5(%(id)s), 1, 'run', %(vendor)s,"
                    " %(audience)s, 'champions', %(address)s, %(step)s, %(address)s,"
                    " %(attributes)s, '[]', md5(%(id)s), 'planned', '', now(), %(may_create)s)",
                    {
                        "id": f"{vendor}{audience}{step}{address}",
                        "vendor": vendor,
                        "audience": None if step == "upsert" else audience,
                        "address": address,
                        "step": step,
                        "attributes": attributes,
                        "may_create": may_create,
                    },
                )


def deliver_in_process(dsn: str, vendor: str, sandbox: Handle, failpoint: str = "") -> int:
    environment = {**os.environ, **sandbox.connections, "PYTHONPATH": f"{ROOT / 'plugins'}:{ROOT}"}
    environment["KUNDENKREIS_FAILPOINT"] = failpoint
    command = [sys.executable, "-c", DELIVER, vendor, dsn, "1"]
    done = subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode


@pytest.mark.parametrize("vendor", ["listmonk", "mailchimp"])
@pytest.mark.parametrize("failpoint", FAILPOINTS)
def test_a_killed_delivery_ends_in_the_same_audience(
    dsn: str, sandbox: Handle, vendor: str, failpoint: str
) -> None:
    case = failpoint.replace(".", "-").replace("#", "-").replace("_", "-")
    audience = f"Champions {case}"
    known = subscribed(vendor, sandbox)[:9]
    new = [f"new{number}-{case}@neukunde.de" for number in range(2)]
    withdrawn = known[0]
    plan(
        dsn, vendor, audience, [("add", a, False) for a in known] + [("add", a, True) for a in new]
    )
    sandbox.unsubscribe(vendor, withdrawn)

    killed = deliver_in_process(dsn, vendor, sandbox, failpoint)
    finished = deliver_in_process(dsn, vendor, sandbox)

    assert (killed, finished) == (-signal.SIGKILL, 0)
    found = sandbox.audiences()[vendor][audience]
    assert set(found) == {*known[1:], *new}
    assert withdrawn not in found
    with psycopg.connect(dsn) as connection:
        open_or_doubtful = connection.execute(
            "select (select count(*) from activation.ledger where state in ('intended', 'sent')),"
            " (select count(*) from activation.delivered_state where in_doubt),"
            " (select count(*) from activation.delivered_state where is_member)"
        ).fetchone()
        last = connection.execute(
            "select distinct on (plan_row_id) state from activation.ledger"
            " order by plan_row_id, attempt_id desc"
        ).fetchall()
    assert open_or_doubtful == (0, 0, 10)
    assert sorted({row[0] for row in last}) == ["confirmed", "suppressed"]


@pytest.mark.parametrize("vendor", ["listmonk", "mailchimp"])
@pytest.mark.parametrize("kind", ["drop_after", "500", "429"])
def test_a_fault_in_the_middle_changes_nothing_about_the_end(
    dsn: str, sandbox: Handle, vendor: str, kind: str
) -> None:
    audience = f"Faulty {kind.replace('_', ' ')}"
    known = subscribed(vendor, sandbox)[:6]
    new = f"fault{kind.replace('_', '')}@neukunde.de"
    plan(dsn, vendor, audience, [("add", a, False) for a in known] + [("add", new, True)])
    prefix = "/api/subscribers" if vendor == "listmonk" else "/3.0/lists"
    for method in ("POST", "PUT"):
        sandbox.faults(vendor=vendor, kind=kind, times=1, method=method, path_prefix=prefix)

    summary = deliver(dsn, vendor, sandbox)

    sandbox.clear_faults()
    assert set(sandbox.audiences()[vendor][audience]) == {*known, new}
    assert summary["audiences"][audience]["add"] == {"confirmed": 7}


@pytest.mark.parametrize("vendor", ["listmonk", "mailchimp"])
def test_members_that_we_delivered_leave_and_the_books_agree_with_the_tool(
    dsn: str, sandbox: Handle, vendor: str
) -> None:
    known = subscribed(vendor, sandbox)[:8]
    plan(dsn, vendor, "Leaving", [("add", address, False) for address in known])
    deliver(dsn, vendor, sandbox)
    with psycopg.connect(dsn) as connection:
        connection.execute("delete from activation.plan_rows")
    plan(dsn, vendor, "Leaving", [("remove", address, False) for address in known[:3]])
    sandbox.unsubscribe(vendor, known[0])

    deliver(dsn, vendor, sandbox)
    report = reconciliation.reconcile(
        vendor, SHOP_TOOLS, resolver(sandbox), dsn, "run", 1, lambda message: None
    )

    assert report["audiences"]["Leaving"] == {"members": 5, "missing": 0, "extra": 0}
    states = subscribers.read_subscriber_states(
        vendor, SHOP_TOOLS, resolver(sandbox), dsn, "run", lambda message: None
    )
    with psycopg.connect(dsn) as connection:
        left = connection.execute(
            "select state, evidence from activation.subscriber_states where address = %s",
            (known[0],),
        ).fetchone()
    assert left == ("unsubscribed", None)
    assert states["states"]["unsubscribed"] >= 1


def deliver(dsn: str, vendor: str, sandbox: Handle) -> dict[str, Any]:
    return delivery.deliver(
        vendor,
        SHOP_TOOLS,
        resolver(sandbox),
        dsn,
        "run",
        1,
        lambda message: None,
        open_tool=lambda *arguments: open_destination(*arguments, sleep=lambda seconds: None),
    )
