"""Delivery to a tool whose own jobs outlive the process that submitted them."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from datetime import date
from typing import Any

import psycopg
import pytest

from sandbox.testing import Handle, running_sandbox
from tests.integration.activation_warehouse import bare_plan
from tests.integration.delivery_crashes import Story, begin, finish

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Handle]:
    home = tmp_path_factory.mktemp("sandbox")
    with running_sandbox(home, customers=150, seed=3, until=date(2026, 11, 22)) as handle:
        yield handle


@pytest.fixture
def dsn(module_warehouse_dsn: str) -> str:
    bare_plan(module_warehouse_dsn)
    return module_warehouse_dsn


def begin_anew(dsn: str, sandbox: Handle, case: str) -> Story:
    """As `begin`, with jobs as the sandbox has them by itself."""
    sandbox.jobs()
    return begin(dsn, "klaviyo", sandbox, case)


def imports(story: Story) -> list[dict[str, Any]]:
    return [
        request
        for request in story.sandbox.requests()
        if request["seq"] > story.first_request
        and (request["method"], request["path"]) == ("POST", "/api/profile-bulk-import-jobs")
    ]


@pytest.mark.parametrize(
    "failpoint",
    [
        "deliver.before_request",
        "deliver.before_job_stored",
        "deliver.after_job_stored",
        "deliver.before_poll#2",
        "deliver.after_poll",
        "deliver.before_settle",
        "deliver.between_operations",
    ],
)
def test_a_killed_delivery_asks_for_the_vendors_own_job(
    dsn: str, sandbox: Handle, failpoint: str
) -> None:
    story = begin_anew(dsn, sandbox, failpoint)
    assert story.deliver(failpoint) == -signal.SIGKILL
    finish(story)


def test_a_job_that_is_known_is_not_submitted_again(dsn: str, sandbox: Handle) -> None:
    story = begin_anew(dsn, sandbox, "once")
    sandbox.jobs(polls=4)
    assert story.deliver("deliver.after_poll#2") == -signal.SIGKILL
    submitted = len(imports(story))

    assert story.deliver() == 0

    story.check()
    with psycopg.connect(dsn) as connection:
        batches = connection.execute(
            "select count(distinct vendor_job_id) from activation.ledger"
            " where operation = 'upsert' and vendor_job_id <> ''"
        ).fetchone()
    assert batches == (len(imports(story)),)
    assert len(imports(story)) >= submitted >= 1


@pytest.mark.parametrize("end", ["lost", "cancelled"])
def test_a_job_that_went_wrong_is_made_good_by_the_next_delivery(
    dsn: str, sandbox: Handle, end: str
) -> None:
    story = begin_anew(dsn, sandbox, end)
    sandbox.jobs(end=end)
    assert story.deliver() == 0
    sandbox.jobs()
    finish(story)
