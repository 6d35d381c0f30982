"""A long delivery reads its tool again beside the requests, and obeys what it learns."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest

from kundenkreis.activation import delivery
from kundenkreis.destinations.base import Batch, Outcome, SubscriberState
from kundenkreis.errors import VendorError
from tests.integration.activation_warehouse import (
    MemoryTool,
    bare_plan,
    plan_by_hand,
    settings_for,
)

pytestmark = pytest.mark.integration
PEOPLE = [f"p{number}@shop.de" for number in range(10)]
LATE = PEOPLE[-1]


@dataclass
class BusyTool(MemoryTool):
    """Reads its contacts a second time only once two batches went on meanwhile.

    By then the last of the people has left. is_long: there is a second reading. fails: it ends with
    an error.
    """

    is_long: bool = True
    fails: bool = False
    reads: int = 0
    batches_beside: int = 0
    begun: threading.Event = field(default_factory=threading.Event)
    went_on: threading.Event = field(default_factory=threading.Event)
    was_read: threading.Event = field(default_factory=threading.Event)

    def read_subscriber_states(self, our_audience_ids: frozenset[str]) -> Iterator[list[Any]]:
        self.reads += 1
        if self.reads == 1:
            yield from self._pages()
            return
        self.begun.set()
        assert self.went_on.wait(20), "the stream stopped for the reading"
        if self.fails:
            self.was_read.set()
            raise VendorError("the contacts cannot be read")
        self.states[LATE] = "unsubscribed"
        yield from self._pages()
        self.was_read.set()

    def _pages(self) -> Iterator[list[SubscriberState]]:
        yield from MemoryTool.read_subscriber_states(self, frozenset())

    def deliver(self, batch: Batch) -> list[Outcome]:
        if self.is_long:
            assert self.begun.wait(20), "nothing is read again"
            self.batches_beside += 1
        if self.batches_beside == 2:
            self.went_on.set()
        if self.batches_beside > 2:
            self.was_read.wait(20)
            time.sleep(0.3)  # what was read is on its way into the warehouse
        return MemoryTool.deliver(self, batch)


@pytest.fixture
def dsn(module_warehouse_dsn: str) -> str:
    bare_plan(module_warehouse_dsn)
    plan_by_hand(
        module_warehouse_dsn,
        "listmonk",
        "Champions",
        [("add", address, False) for address in PEOPLE],
    )
    return module_warehouse_dsn


def deliver(dsn: str, tool: MemoryTool, minutes: float) -> dict[str, Any]:
    return delivery.deliver(
        "listmonk",
        settings_for(suppression_minutes=minutes),
        lambda name: None,  # type: ignore[arg-type, return-value]
        dsn,
        "run",
        1,
        lambda message: None,
        open_tool=lambda *arguments: tool,
    )


def test_who_leaves_during_a_long_delivery_joins_nothing_any_more(dsn: str) -> None:
    tool = BusyTool(states=dict.fromkeys(PEOPLE, "subscribed"))

    summary = deliver(dsn, tool, minutes=1e-9)

    assert tool.members["Champions"] == set(PEOPLE) - {LATE}
    assert LATE not in {address for _, address, _ in tool.written}
    assert summary["suppressed"] == 2
    with psycopg.connect(dsn) as connection:
        assert (
            connection.execute(
                "select state, reason_code from activation.ledger where address = %s", (LATE,)
            ).fetchall()
            == [("suppressed", "withdrawn_since_plan")] * 2
        )
        assert connection.execute(
            "select count(*) from activation.delivered_state where in_doubt"
        ).fetchone() == (0,)


def test_a_short_delivery_reads_once(dsn: str) -> None:
    tool = BusyTool(states=dict.fromkeys(PEOPLE, "subscribed"), is_long=False)

    deliver(dsn, tool, minutes=15)

    assert tool.reads == 1
    assert tool.members["Champions"] == set(PEOPLE)


def test_a_delivery_that_cannot_read_again_stops(dsn: str) -> None:
    tool = BusyTool(states=dict.fromkeys(PEOPLE, "subscribed"), fails=True)

    with pytest.raises(VendorError, match="cannot be read"):
        deliver(dsn, tool, minutes=1e-9)

    assert len(tool.written) < 2 * len(PEOPLE)
    with psycopg.connect(dsn) as connection:
        under_way = connection.execute(
            "select count(*) from activation.batches_under_way"
        ).fetchone()
    assert under_way == (0,)
