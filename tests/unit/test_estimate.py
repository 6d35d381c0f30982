"""How long a delivery is said to take, and what that rests on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from kundenkreis.activation.estimate import Pace, calls_for, estimate
from kundenkreis.destinations import capabilities_of
from kundenkreis.destinations.base import Capabilities, Operation


def tool(**options: Any) -> Capabilities:
    values: dict[str, Any] = {
        "batch_size": {"upsert": 200, "add": 500, "remove": 500},
        "rows_per_call": {"upsert": 1, "add": 500, "remove": 500},
        "membership": "list",
        "rate_limit": "none",
        **options,
    }
    return Capabilities(**values)


def calls(upsert: int = 0, add: int = 0, remove: int = 0) -> Mapping[Operation, int]:
    return {"upsert": upsert, "add": add, "remove": remove}


@pytest.mark.parametrize(("rows", "expected"), [(0, 0), (1, 1), (500, 1), (501, 2)])
def test_rows_make_calls(rows: int, expected: int) -> None:
    assert calls_for(tool(), "add", rows) == expected


def test_nothing_to_send_takes_no_time() -> None:
    assert estimate(tool(), calls(), None).minutes == 0


def test_a_published_rate_is_never_exceeded() -> None:
    """4,100 calls at 350 a minute, however fast the tool answered."""
    found = estimate(
        tool(rate_limit="window", calls_per_minute=350), calls(4100), Pace(5, 100, 1.0)
    )
    assert found.minutes == pytest.approx(4100 / 350, abs=0.01)
    assert found.rests_on == "the vendor's limit of 350 calls a minute"


def test_a_tool_slower_than_its_vendors_limit_is_taken_as_it_is() -> None:
    found = estimate(
        tool(rate_limit="window", calls_per_minute=6000), calls(60), Pace(5, 100, 200.0)
    )
    assert found.minutes == 2.0  # two seconds a call
    assert found.rests_on == "the last 5 deliveries: 100 calls in 200 s"


@pytest.mark.parametrize(
    ("options", "minutes"),
    [
        ({}, 10.0),  # one after another
        ({"parallel_calls": 8}, 1.25),  # within a batch of 200 calls
        ({"parallel_batches": 4}, 2.5),
        ({"parallel_batches": 4, "parallel_calls": 8}, 0.31),
    ],
)
def test_calls_at_once_share_the_time(options: dict[str, int], minutes: float) -> None:
    found = estimate(tool(**options), calls(1200), None)
    assert found.minutes == minutes
    assert "an assumed 0.5 s a call" in found.rests_on


def test_a_batch_of_one_call_has_no_calls_at_once() -> None:
    one = estimate(tool(parallel_calls=1), calls(add=100), None)
    assert estimate(tool(parallel_calls=8), calls(add=100), None) == one


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("listmonk", "the tool has no rate limit"),
        ("mailchimp", "the vendor limits calls at once, not their rate"),
    ],
)
def test_a_vendor_without_a_published_rate_is_said_to_have_none(name: str, says: str) -> None:
    assert says in estimate(capabilities_of(name), calls(10), None).rests_on
