"""Who may not be written to, by what the tools say: at the start, and again on the way.

A long delivery reads its tool again beside the requests, over a connection of its own, so that the
stream does not stop. Only taking the result over happens between two batches.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Self

import psycopg

from kundenkreis.activation import subscribers
from kundenkreis.activation.ledger import Entries
from kundenkreis.connections import Resolver
from kundenkreis.destinations.base import Destination
from kundenkreis.failpoints import reach
from kundenkreis.warehouse import privacy
from kundenkreis.warehouse.connection import connect
from kundenkreis.warehouse.publish import live_schema

# A withdrawal in any tool that the marts could not know blocks the whole person, at all addresses:
# one read after `transform` began, or dated after the as-of day, which the marts leave out. Where
# that day ends depends on the business time zone; 14 hours early is its end in all of them.
_WITHDRAWN_SINCE = """
with publication as (
    select
        coalesce(task_results.started_at, publications.published_at) as built_at,
        cast(publications.as_of_date + 1 as timestamp) at time zone 'UTC' - interval '14 hours'
            as as_of_end
    from history.publications
    left join operations.task_results
        on
            task_results.run_id = publications.dag_run_id
            and task_results.task_id = 'transform'
    where publications.publication_id = %s
),
withdrawn as (
    select subscriber_states.address
    from activation.subscriber_states
    cross join publication
    where
        subscriber_states.state in ('unsubscribed', 'complained', 'blocklisted')
        and (
            subscriber_states.observed_at > publication.built_at
            or subscriber_states.state_changed_at >= publication.as_of_end
        )
)
select withdrawn.address from withdrawn
union
select other.address
from withdrawn
inner join marts.contactability as own on own.address = withdrawn.address
inner join marts.contactability as other on other.customer_id = own.customer_id
where other.address is not null
"""


def withdrawn_since(connection: psycopg.Connection, publication_id: int) -> frozenset[str]:
    """Addresses of everybody whose withdrawal in any tool the publication could not know yet.

    Raises:
        WarehouseError: the login sees masked addresses, which would match none that withdrew.
    """
    live = live_schema(connection)
    if live is not None:
        privacy.require_unmasked(connection, live)
    withdrawn = connection.execute(_WITHDRAWN_SINCE, (publication_id,)).fetchall()
    connection.commit()
    return frozenset(row[0] for row in withdrawn)


@dataclass
class Suppressions:
    """What stands against writing to an address, as last read.

    withdrawn: addresses of people who withdrew. states: contacts of this tool that turned out not
    to be subscribed any more while the delivery is under way, with their state. readings: how often
    the two have changed.
    """

    entries: Entries
    tool: Destination
    tool_settings: Any
    resolve: Resolver
    dsn: str
    writer: psycopg.Connection
    progress: Callable[[str], None]
    monotonic: Callable[[], float] = time.monotonic
    withdrawn: frozenset[str] = frozenset()
    states: dict[str, str] = field(default_factory=dict)
    readings: int = 0
    _read_at: float = 0.0
    _reading: Future[psycopg.Connection] | None = None
    _reader: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))

    def read(self) -> None:
        """Read everything now, while nothing is under way.

        Raises:
            VendorError, CredentialError: the tool cannot be read.
        """
        subscribers.refresh_states(
            self.entries.destination,
            self.tool_settings,
            self.tool,
            self.writer,
            self.entries.run_id,
            self.progress,
            self.resolve,
        )
        self.withdrawn = withdrawn_since(self.writer, self.entries.publication_id)
        self.readings += 1
        self._read_at = self.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Wait for a reading under way, whose result nobody needs any more."""
        self._reader.shutdown()
        if self._reading is not None and self._reading.exception() is None:
            self._reading.result().close()

    def keep_fresh(self) -> None:
        """Begin to read again when it is time, or take over what was read.

        Raises:
            VendorError, CredentialError: the tool could not be read again.
        """
        if self._reading is None:
            if self.monotonic() - self._read_at >= 60 * self.tool_settings.suppression_minutes:
                self._reading = self._reader.submit(self._read_beside)
        elif self._reading.done():
            reading, self._reading = self._reading, None
            self._take_over(reading.result())

    def _take_over(self, connection: psycopg.Connection) -> None:
        with connection:
            reach("deliver.after_suppression_read")
            self.states |= subscribers.learn_withdrawals(
                self.entries.destination, connection, self.entries.run_id
            )
        self.withdrawn = withdrawn_since(self.writer, self.entries.publication_id)
        self.readings += 1
        self._read_at = self.monotonic()

    def _read_beside(self) -> psycopg.Connection:
        connection = connect(
            self.dsn, application_name=f"kundenkreis suppressions {self.entries.destination}"
        )
        try:
            reach("deliver.during_suppression_read")
            subscribers.load_states(
                self.entries.destination, self.tool, connection, self.progress, self.resolve
            )
        except BaseException:
            connection.close()
            raise
        return connection
