"""Sends batches of rows, several at a time, each recorded before its request and settled after it.

Three kinds of threads share the work, so that none waits for another's part: one reads the plan and
records what is about to be sent, as many as the tool takes make the requests, and this one settles
the answers. As many packages are recorded ahead as are under way, because those may all be answered
at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import psycopg

from kundenkreis.activation import ledger
from kundenkreis.activation.jobs import Patience, outcomes_of
from kundenkreis.activation.ledger import Entries, NotSent, PlannedRow
from kundenkreis.destinations.base import (
    CONTACT_EXISTS,
    Batch,
    Destination,
    JobLost,
    Outcome,
    Submitted,
)
from kundenkreis.errors import KundenkreisError
from kundenkreis.failpoints import reach
from kundenkreis.http import understood

_LEAST_AHEAD = 4


@dataclass(frozen=True)
class Package:
    """Planned rows that are recorded together; some need no call, and some may not go.

    attempted: the planned rows of ``batch``, in its order. left_already: rows to be removed whose
    contact is gone. judged_by: the reading of the suppressions that they were judged by.
    """

    batch: Batch
    attempted: tuple[PlannedRow, ...]
    left_already: tuple[PlannedRow, ...] = ()
    not_sent: tuple[NotSent, ...] = ()
    judged_by: int = 0

    def without(self, refused: Sequence[NotSent]) -> Package:
        """The attempted rows that are not refused; the refused ones are not sent."""
        keys = {one.planned.plan_row_id for one in refused}
        batch = replace(
            self.batch, rows=tuple(row for row in self.batch.rows if row.key not in keys)
        )
        attempted = tuple(row for row in self.attempted if row.plan_row_id not in keys)
        return Package(batch, attempted, not_sent=tuple(refused), judged_by=self.judged_by)


@dataclass
class _UnderWay:
    """A package whose batch is recorded.

    batch_id: of the record. sent_at: when its request was made; None before it. job_id: the job
    that works on it, once the tool took it as one; '' before.
    """

    package: Package
    batch_id: int
    sent_at: datetime | None = None
    job_id: str = ""


_Answer = Future[list[Outcome] | Submitted]


@dataclass
class Sending:
    """The packages of one operation on their way to a tool.

    recorder: the connection that what is about to be sent is recorded over, in a thread of its own.
    settler: the one that answers are recorded over.
    may_begin: asked before each request; it may commit the settler. False begins no more.
    rejudge: which rows of a package may not go any more, because of what was read since.
    progress: told the rows sent so far.
    failures: of whole packages, whose rows are recorded as unknown or stay with their job.
    found_to_exist: the tool knew a contact that was taken for new.
    """

    tool: Destination
    entries: Entries
    recorder: psycopg.Connection
    settler: psycopg.Connection
    patience: Patience
    may_begin: Callable[[], bool]
    rejudge: Callable[[Package], list[NotSent]]
    progress: Callable[[int], None]
    sent: int = 0
    found_to_exist: bool = False
    failures: list[KundenkreisError] = field(default_factory=list)
    _exhausted: bool = False
    _preparing: deque[Future[_UnderWay | None]] = field(default_factory=deque)
    _ready: deque[_UnderWay] = field(default_factory=deque)
    _under_way: dict[_Answer, _UnderWay] = field(default_factory=dict)

    def send(self, packages: Iterator[Package]) -> None:
        """Send until there are no more packages or one fails; settle all that was begun."""
        can = self.tool.capabilities
        limit = can.parallel_batches + can.batches_waiting
        with ThreadPoolExecutor(limit) as pool, ThreadPoolExecutor(1) as scribe:
            self._prepare(scribe, packages)
            while self._preparing or self._ready or self._under_way:
                awaited: list[Future[Any]] = [*self._preparing, *self._under_way]
                wait(awaited, return_when=FIRST_COMPLETED)
                while self._preparing and self._preparing[0].done():
                    self._take_prepared(self._preparing.popleft().result())
                answered = [future for future in self._under_way if future.done()]
                settling = [(future, self._under_way.pop(future)) for future in answered]
                # First of all, so that no connection of the tool waits for the ledger.
                self._submit(pool, limit)
                self._prepare(scribe, packages)
                if settling:
                    self._settle_all(settling, pool)

    def _prepare(self, scribe: ThreadPoolExecutor, packages: Iterator[Package]) -> None:
        """Have the next packages recorded, as many as are kept ahead."""
        ahead = max(_LEAST_AHEAD, len(self._under_way))
        while not self._exhausted and len(self._preparing) + len(self._ready) < ahead:
            self._preparing.append(scribe.submit(self._begin, packages))

    def _take_prepared(self, begun: _UnderWay | None) -> None:
        if begun is None:
            self._exhausted = True
        else:
            self._ready.append(begun)

    def _submit(self, pool: ThreadPoolExecutor, limit: int) -> None:
        """Send what is recorded, as far as the tool has room for it, or give it up."""
        while self._ready and len(self._under_way) < limit:
            if not self._may_go():
                self._exhausted = True
                while self._ready:
                    ledger.give_up(self.settler, self._ready.popleft().batch_id)
                self.settler.commit()
                return
            begun = self._without_refused(self._ready.popleft())
            if begun is not None:
                self._under_way[pool.submit(self._call, begun)] = begun

    def _without_refused(self, begun: _UnderWay) -> _UnderWay | None:
        """Record the package anew without whoever withdrew since; None where nobody is left."""
        refused = self.rejudge(begun.package)
        if not refused:
            return begun
        ledger.give_up(self.settler, begun.batch_id)
        package = begun.package.without(refused)
        batch_id = self._write(self.settler, package)
        self.settler.commit()
        return None if batch_id is None else _UnderWay(package, batch_id)

    def _may_go(self) -> bool:
        try:
            return not self.failures and self.may_begin()
        except KundenkreisError as error:
            self.failures.append(error)
            return False

    def _begin(self, packages: Iterator[Package]) -> _UnderWay | None:
        """In the thread that records: the next package with rows to send; None where none is."""
        while not self.failures and (package := next(packages, None)) is not None:
            reach("deliver.before_intended")
            batch_id = self._write(self.recorder, package)
            self.recorder.commit()
            reach("deliver.after_intended")
            if batch_id is not None:
                return _UnderWay(package, batch_id)
        return None

    def _write(self, connection: psycopg.Connection, package: Package) -> int | None:
        """Record a package's batch and what needs no call; the batch's id, where it has rows."""
        operation, left = package.batch.operation, package.left_already
        ledger.record_not_sent(connection, self.entries, operation, package.not_sent)
        if left:
            keys = [row.plan_row_id for row in left]
            gone = [Outcome(key, "confirmed", "already_gone") for key in keys]
            batch_id = ledger.record(connection, self.entries, operation, left)
            ledger.settle(connection, self.entries.run_id, batch_id, keys, gone)
        if not package.attempted:
            return None
        return ledger.record(connection, self.entries, operation, package.attempted)

    def _settle_all(
        self, settling: list[tuple[_Answer, _UnderWay]], pool: ThreadPoolExecutor
    ) -> None:
        jobs = [job for one in settling if (job := self._settle(*one)) is not None]
        if not jobs:
            # What a crash of the server takes back of this leaves the batches in doubt.
            self.settler.execute("set local synchronous_commit = off")
        self.settler.commit()
        reach("deliver.after_settle")
        self.progress(self.sent)
        for job in jobs:
            reach("deliver.after_job_stored")
            self._under_way[pool.submit(self._poll, job, job.job_id)] = job

    def _call(self, begun: _UnderWay) -> list[Outcome] | Submitted:
        """In a thread of the pool: the request."""
        batch = begun.package.batch
        begun.sent_at = datetime.now(UTC)
        reach("deliver.before_request")
        with understood(self.tool.name, batch.operation):
            answer = self.tool.deliver(batch)
        reach("deliver.after_request")
        return answer

    def _poll(self, job: _UnderWay, job_id: str) -> list[Outcome]:
        """In a thread of the pool: the questions for a job."""
        return outcomes_of(self.tool, job_id, job.package.batch, self.patience)

    def _settle(self, answer: _Answer, answered: _UnderWay) -> _UnderWay | None:
        """Record what an answer says; returns the job that has to be asked for."""
        try:
            outcomes = answer.result()
        except KundenkreisError as error:
            self._settle_failure(answered, error)
            return None
        keys = [row.key for row in answered.package.batch.rows]
        if isinstance(outcomes, Submitted):
            reach("deliver.before_job_stored")
            ledger.mark_sent(self.settler, answered.batch_id, outcomes.job_id)
            self.sent += len(keys)
            return replace(answered, job_id=outcomes.job_id)
        self.sent += len(keys) if not answered.job_id else 0
        self.found_to_exist |= any(one.reason_code == CONTACT_EXISTS for one in outcomes)
        reach("deliver.before_settle")
        ledger.settle(
            self.settler,
            self.entries.run_id,
            answered.batch_id,
            keys,
            outcomes,
            answered.sent_at,
        )
        return None

    def _settle_failure(self, answered: _UnderWay, error: KundenkreisError) -> None:
        """Rows whose request has no usable answer are unknown. Those of a job stay with it."""
        if not isinstance(error, JobLost):
            self.failures.append(error)
            if answered.job_id:
                return
        code = "job_lost" if isinstance(error, JobLost) else type(error).__name__
        ledger.mark_unknown(self.settler, answered.batch_id, code, answered.sent_at)
