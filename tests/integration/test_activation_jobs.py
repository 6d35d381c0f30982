"""Tools that take a batch as a job: the job's id is kept, asked for, and survives a restart."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import psycopg
import pytest

from kundenkreis.activation import delivery
from kundenkreis.errors import VendorError
from tests.integration.activation_warehouse import (
    QueueingTool,
    bare_plan,
    plan_by_hand,
    settings_for,
)

pytestmark = pytest.mark.integration
NAMES = ("anna", "bert", "cora")
ADDRESSES = [f"{name}@shop.de" for name in NAMES]


class Clock:
    """Time that passes only by sleeping."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.seconds += seconds

    def monotonic(self) -> float:
        return self.seconds


@pytest.fixture
def dsn(module_warehouse_dsn: str) -> str:
    bare_plan(module_warehouse_dsn)
    return module_warehouse_dsn


def deliver(
    dsn: str, tool: QueueingTool, clock: Clock, publication_id: int = 1, **options: Any
) -> dict[str, Any]:
    tool.calls = 0
    return delivery.deliver(
        "listmonk",
        settings_for(**options),
        _no_connection,
        dsn,
        "run",
        publication_id,
        lambda message: None,
        open_tool=lambda *arguments: tool,
        sleep=clock.sleep,
        monotonic=clock.monotonic,
    )


def _no_connection(connection_id: str) -> Any:
    raise AssertionError("the tool in memory needs no connection")


def query(dsn: str, sql: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn) as connection:
        return connection.execute(sql.encode()).fetchall()


def known() -> dict[str, str]:
    return dict.fromkeys(ADDRESSES, "subscribed")


def publish_again(dsn: str) -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute(
            "insert into history.publications (as_of_date, dag_run_id, schema_name)"
            " values ('2026-11-23', 'run2', 'marts_green')"
        )


def test_a_job_is_asked_for_until_it_is_done_and_its_id_is_kept_before(dsn: str) -> None:
    tool, clock = QueueingTool(states=known(), refuse={"cora@shop.de": "bad_field"}), Clock()
    plan_by_hand(dsn, "listmonk", "Champions", [("add", a, False) for a in ADDRESSES])
    seen: list[tuple[Any, ...]] = []
    poll = tool.poll

    def remember(job_id: str, batch: Any) -> Any:
        committed = "select distinct state, vendor_job_id, sent_at is not null"
        where = f" from activation.rows_under_way where vendor_job_id = '{job_id}'"
        seen.extend(query(dsn, committed + where))
        return poll(job_id, batch)

    tool.poll = remember  # type: ignore[method-assign]

    summary = deliver(dsn, tool, clock)

    assert tool.members == {"Champions": {"anna@shop.de", "bert@shop.de"}}
    assert (summary["sent"], summary["confirmed"], summary["rejected"]) == (6, 4, 2)
    assert set(seen) == {("sent", f"job{number}", True) for number in range(1, 5)}
    assert clock.slept == [1.0, 1.0] * 4
    assert query(
        dsn,
        "select state, count(*), count(vendor_job_id), count(settled_at) from activation.ledger"
        " group by state order by state",
    ) == [("confirmed", 4, 4, 4), ("rejected", 2, 2, 2)]


def test_a_job_that_takes_too_long_stays_with_the_tool_and_the_next_delivery_settles_it(
    dsn: str,
) -> None:
    tool, clock = QueueingTool(states=known(), stuck=True), Clock()
    plan_by_hand(dsn, "listmonk", "Champions", [("add", "anna@shop.de", False)])

    with pytest.raises(VendorError, match=r"job1 .* is still running after 10 minutes"):
        deliver(dsn, tool, clock, max_job_minutes=10)
    left = query(dsn, "select state, vendor_job_id from activation.rows_under_way")
    run = query(dsn, "select state, summary ->> 'under_way' from activation.sync_runs")
    waited = clock.seconds
    tool.stuck = False
    summary = deliver(dsn, tool, clock)

    assert left == [("sent", "job1")]
    assert run == [("failed", "1")]
    assert waited == 600
    assert max(clock.slept) == 60
    assert list(tool.jobs) == ["job1", "job2"]  # the upsert was not sent again; the add followed
    assert summary["confirmed"] == 2
    assert tool.members == {"Champions": {"anna@shop.de"}}


def test_a_job_of_an_older_publication_is_settled_from_its_batch_alone(dsn: str) -> None:
    tool, clock = QueueingTool(states=known(), stuck=True), Clock()
    tool.capabilities = _large(tool)
    plan_by_hand(dsn, "listmonk", "Champions", [("add", a, False) for a in ADDRESSES])
    with pytest.raises(VendorError, match="still running"):
        deliver(dsn, tool, clock)
    submitted = tool.jobs["job1"]
    publish_again(dsn)
    with psycopg.connect(dsn) as connection:
        connection.execute("delete from activation.plan_rows")
    tool.stuck = False

    summary = deliver(dsn, tool, clock, publication_id=2)

    assert tool.questions["job1"][-1] == submitted
    assert summary["sent"] == 0
    assert query(dsn, "select distinct state from activation.ledger") == [("confirmed",)]
    assert query(
        dsn,
        "select address, in_doubt, attributes, confirmed_publication_id"
        " from activation.delivered_state order by address",
    ) == [(address, False, {"stage": "loyalty"}, 1) for address in ADDRESSES]


def test_rows_of_a_lost_job_are_unknown_and_sent_again(dsn: str) -> None:
    tool, clock = QueueingTool(states=known(), lost=True), Clock()
    plan_by_hand(dsn, "listmonk", "Champions", [("remove", "anna@shop.de", False)])

    summary = deliver(dsn, tool, clock)
    doubts = query(dsn, "select in_doubt from activation.delivered_state")
    tool.lost = False
    again = deliver(dsn, tool, clock)

    assert (summary["unknown"], doubts) == (1, [(True,)])
    assert again["confirmed"] == 1
    assert query(dsn, "select state, reason_code from activation.ledger order by attempt_id") == [
        ("unknown", "job_lost"),
        ("confirmed", None),
    ]


def test_a_tool_that_fails_while_it_is_asked_keeps_its_jobs(dsn: str) -> None:
    tool, clock = QueueingTool(states=known()), Clock()
    plan_by_hand(dsn, "listmonk", "Champions", [("remove", a, False) for a in ADDRESSES])
    poll = tool.poll
    tool.poll = _unreachable  # type: ignore[method-assign]

    with pytest.raises(VendorError, match="cannot be reached"):
        deliver(dsn, tool, clock)
    left = query(dsn, "select state, count(*) from activation.rows_under_way group by state")
    tool.poll = poll  # type: ignore[method-assign]
    summary = deliver(dsn, tool, clock)

    # A batch that had not been begun when the first job failed is given up.
    assert [state for state, _ in left] == ["sent"]
    assert summary["confirmed"] == 3
    assert [entry[1] for entry in sorted(tool.written)] == ADDRESSES  # each once


def _unreachable(job_id: str, batch: Any) -> Any:
    raise VendorError("the tool cannot be reached")


def _large(tool: QueueingTool) -> Any:
    sizes: Any = dict.fromkeys(("upsert", "add", "remove"), 100)
    return replace(tool.capabilities, batch_size=sizes)
