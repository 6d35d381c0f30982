"""How long a delivery will take: its calls, the vendor's limits, and how fast it was lately."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil

import psycopg

from kundenkreis.destinations.base import Capabilities, Operation

# The pace of so many recent deliveries, where they made at least so many calls together.
_RECENT_DELIVERIES = 5
_ENOUGH_CALLS = 20
# A tool that was never delivered to: what a call over the internet usually takes.
_ASSUMED_SECONDS_PER_CALL = 0.5

_PACE = """
with deliveries as (
    select
        destination,
        cast(summary ->> 'calls' as bigint) as calls,
        extract(epoch from finished_at - started_at) as seconds,
        row_number() over (partition by destination order by sync_run_id desc) as recency
    from activation.sync_runs
    where state = 'done' and cast(summary ->> 'calls' as bigint) > 0
)
select destination, count(*), cast(sum(calls) as bigint), cast(sum(seconds) as double precision)
from deliveries
where recency <= %s
group by destination
having sum(calls) >= %s
"""


@dataclass(frozen=True)
class Pace:
    """How fast a tool was in its last deliveries; the contacts are read within them."""

    deliveries: int
    calls: int
    seconds: float


@dataclass(frozen=True)
class Estimate:
    """How long the writing calls of a delivery take, and what that rests on."""

    calls: int
    minutes: float
    rests_on: str


def recent_paces(connection: psycopg.Connection) -> dict[str, Pace]:
    """The pace of each tool that was delivered to often enough."""
    rows = connection.execute(_PACE, (_RECENT_DELIVERIES, _ENOUGH_CALLS))
    return {name: Pace(*measured) for name, *measured in rows.fetchall()}


def calls_for(capabilities: Capabilities, operation: Operation, rows: int) -> int:
    """The HTTP calls that so many rows of one operation and audience take."""
    return ceil(rows / capabilities.rows_per_call[operation])


def estimate(
    capabilities: Capabilities, calls: Mapping[Operation, int], pace: Pace | None
) -> Estimate:
    """How long these calls take: as fast as the tool was lately, never faster than it allows."""
    total = sum(calls.values())
    if pace is not None:
        seconds = total * pace.seconds / pace.calls
        rests_on = (
            f"the last {pace.deliveries} deliveries: {pace.calls:,} calls in {pace.seconds:,.0f} s"
        )
    else:
        seconds = sum(
            count * _ASSUMED_SECONDS_PER_CALL / _at_once(capabilities, operation)
            for operation, count in calls.items()
        )
        rests_on = f"an assumed {_ASSUMED_SECONDS_PER_CALL} s a call, for nothing was sent yet"
    rate = capabilities.calls_per_minute
    if rate is None:
        limits = {
            "none": "the tool has no rate limit",
            "concurrency": "the vendor limits calls at once, not their rate",
            "window": "the vendor limits the rate, but publishes none",
        }
        rests_on = f"{rests_on}; {limits[capabilities.rate_limit]}"
    elif total * 60 / rate > seconds:
        seconds = total * 60 / rate
        rests_on = f"the vendor's limit of {rate:,g} calls a minute"
    return Estimate(total, round(seconds / 60, 2), rests_on)


def _at_once(capabilities: Capabilities, operation: Operation) -> int:
    """Calls under way at once. A batch that is one call has no more than that."""
    per_batch = ceil(capabilities.batch_size[operation] / capabilities.rows_per_call[operation])
    return capabilities.parallel_batches * min(capabilities.parallel_calls, per_batch)
