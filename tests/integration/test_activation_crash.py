"""Delivery to the sandbox's servers that is killed at every step and then run again."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import psycopg
import pytest

from kundenkreis.activation import delivery, reconciliation, subscribers
from kundenkreis.destinations import open_destination
from sandbox.testing import Handle, running_sandbox
from tests.integration.activation_warehouse import SHOP_TOOLS, bare_plan, plan_by_hand
from tests.integration.delivery_crashes import (
    Story,
    begin,
    finish,
    resolver,
    settings,
    subscribed,
    vendor_of_jobs,
)

pytestmark = pytest.mark.integration
# Every distinct step of a delivery, most of them at their first and at a later time.
FAILPOINTS = [
    *(
        f"deliver.{moment}{nth}"
        for moment in (
            "before_intended",
            "after_intended",
            "before_request",
            "after_request",
            "before_settle",
            "after_settle",
        )
        for nth in ("", "#4")
    ),
    "deliver.after_states",
    "deliver.before_audience",
    "deliver.after_audience",
    "deliver.between_operations",
    "deliver.between_operations#2",
    "deliver.before_end",
]
WHILE_DOUBTING = ["deliver.before_doubts", "deliver.before_doubts#2", "deliver.after_doubts"]
WHILE_READING_AGAIN = ["deliver.during_suppression_read", "deliver.after_suppression_read"]
WITH_JOBS = [
    "deliver.before_job_stored",
    "deliver.before_job_stored#3",
    "deliver.after_job_stored",
    "deliver.after_job_stored#3",
    "deliver.before_poll",
    "deliver.before_poll#5",
    "deliver.after_poll",
    "deliver.after_poll#5",
    "deliver.before_settle#2",
    "deliver.after_settle#2",
]
WHILE_RECONCILING = ["reconcile.after_read", "reconcile.before_commit", "reconcile.after_commit"]


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Handle]:
    home = tmp_path_factory.mktemp("sandbox")
    with running_sandbox(home, customers=120, seed=5, until=date(2026, 11, 22)) as handle:
        yield handle


@pytest.fixture
def dsn(module_warehouse_dsn: str) -> str:
    bare_plan(module_warehouse_dsn)
    return module_warehouse_dsn


@pytest.fixture
def story(dsn: str, sandbox: Handle) -> Callable[..., Story]:
    """`begin` on this warehouse and sandbox: takes the vendor and the case."""

    def begun(vendor: str, case: str, **options: Any) -> Story:
        return begin(dsn, vendor, sandbox, case, **options)

    return begun


@pytest.mark.parametrize("vendor", ["listmonk", "mailchimp"])
@pytest.mark.parametrize("failpoint", FAILPOINTS)
def test_a_killed_delivery_ends_in_the_same_audience(
    story: Callable[..., Story], vendor: str, failpoint: str
) -> None:
    told = story(vendor, failpoint)
    assert told.deliver(failpoint) == -signal.SIGKILL
    finish(told)


@pytest.mark.parametrize("failpoint", WHILE_DOUBTING)
def test_a_delivery_killed_while_it_doubts_what_another_left(
    story: Callable[..., Story], failpoint: str
) -> None:
    told = story("mailchimp", failpoint)
    assert told.deliver("deliver.before_request#2") == -signal.SIGKILL
    assert told.deliver(failpoint) == -signal.SIGKILL
    finish(told)


@pytest.mark.parametrize("failpoint", WHILE_READING_AGAIN)
def test_a_delivery_killed_while_it_reads_the_contacts_again(
    story: Callable[..., Story], failpoint: str
) -> None:
    # On a busy machine the delivery may be through before it has read: then there is another.
    for attempt in range(5):
        told = story("mailchimp", f"{failpoint} {attempt}", long_delivery=True)
        code = told.deliver(failpoint)
        finish(told)
        if code == -signal.SIGKILL:
            return
        assert code == 0
    pytest.fail("no delivery got as far as that")


@pytest.mark.parametrize("failpoint", WITH_JOBS)
def test_a_delivery_killed_while_the_tool_works_on_its_jobs(
    story: Callable[..., Story], vendors_jobs: Path, failpoint: str
) -> None:
    told = story("mailchimp", f"jobs {failpoint}", jobs=vendors_jobs)
    assert told.deliver(failpoint) == -signal.SIGKILL
    finish(told)


@pytest.mark.parametrize("failpoint", WHILE_RECONCILING)
def test_a_killed_reconciliation_is_repeated(story: Callable[..., Story], failpoint: str) -> None:
    told = story("mailchimp", failpoint)
    assert told.deliver() == 0
    assert told.reconcile(failpoint) == -signal.SIGKILL
    assert told.reconcile() == 0
    finish(told)


@pytest.fixture(scope="module")
def vendors_jobs(sandbox: Handle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a vendor that works on jobs by itself."""
    folder = tmp_path_factory.mktemp("jobs")

    def open_tool() -> Any:
        tools = settings("mailchimp").destinations["mailchimp"]
        return open_destination("mailchimp", tools, resolver(sandbox))

    with vendor_of_jobs(folder, open_tool):
        yield folder


@pytest.mark.parametrize("vendor", ["listmonk", "mailchimp"])
@pytest.mark.parametrize("kind", ["drop_after", "500", "429"])
def test_a_fault_in_the_middle_changes_nothing_about_the_end(
    dsn: str, sandbox: Handle, vendor: str, kind: str
) -> None:
    audience = f"Faulty {kind.replace('_', ' ')}"
    known = subscribed(vendor, sandbox)[:6]
    new = f"fault{kind.replace('_', '')}@neukunde.de"
    plan_by_hand(dsn, vendor, audience, [("add", a, False) for a in known] + [("add", new, True)])
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
    plan_by_hand(dsn, vendor, "Leaving", [("add", address, False) for address in known])
    deliver(dsn, vendor, sandbox)
    with psycopg.connect(dsn) as connection:
        connection.execute("delete from activation.plan_rows")
    plan_by_hand(dsn, vendor, "Leaving", [("remove", address, False) for address in known[:3]])
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
