"""Sends batches of rows, several at a time, each recorded before its request and settled after it.

Five kinds of threads share the work, so that none waits for another's part: one reads the plan, one
records what is about to be sent, as many as the tool takes make the requests, one settles what was
answered meanwhile, and this one hands the batches on. As many packages are recorded ahead as are
under way, because those may all be answered at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import psycopg

from kundenkreis.activation import ledger
from kundenkreis.activation.jobs import Patience, outcomes_of
from kundenkreis.activation.ledger import Answer, Entries, NotSent, PlannedRow
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


def _read_ahead(reader: ThreadPoolExecutor, packages: Iterator[Package]) -> Iterator[Package]:
    """Have the next package made while the one before is recorded."""
    coming = reader.submit(next, packages, None)
    while (package := coming.result()) is not None:
        coming = reader.submit(next, packages, None)
        yield package


@contextmanager
def _one_by_one(*connections: psycopg.Connection) -> Iterator[None]:
    """Let each statement commit by itself, which saves a round trip for every batch."""
    for connection in connections:
        connection.autocommit = True
    try:
        yield
    finally:
        for connection in connections:
            if not connection.broken:
                connection.autocommit = False


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


_Answering = Future[list[Outcome] | Submitted]
_Answered = tuple[str, Answer] | _UnderWay
"""What a tool said of a batch of an audience, or the job that it has made of it."""


@dataclass
class Sending:
    """The packages of one operation on their way to a tool.

    recorder: the connection that what is about to be sent is recorded over, in a thread of its own.
    settler: the one that answers are recorded over, in another.
    may_begin: asked before requests. False begins no more.
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
    _are_new: dict[str, bool] = field(default_factory=dict)
    _exhausted: bool = False
    _preparing: deque[Future[_UnderWay | None]] = field(default_factory=deque)
    _ready: deque[_UnderWay] = field(default_factory=deque)
    _under_way: dict[_Answering, _UnderWay] = field(default_factory=dict)
    _answered: list[_Answered] = field(default_factory=list)
    _settling: deque[Future[list[_UnderWay]]] = field(default_factory=deque)

    def send(self, packages: Iterator[Package]) -> None:
        """Send until there are no more packages or one fails; settle all that was begun."""
        can = self.tool.capabilities
        limit = can.parallel_batches + can.batches_waiting
        with (
            _one_by_one(self.recorder, self.settler),
            ThreadPoolExecutor(limit) as pool,
            ThreadPoolExecutor(1) as reader,
            ThreadPoolExecutor(1) as scribe,
            ThreadPoolExecutor(1) as clerk,
        ):
            packages = _read_ahead(reader, packages)
            self._prepare(scribe, packages)
            while self._preparing or self._ready or self._under_way or self._settling:
                awaited: list[Future[Any]] = [*self._preparing, *self._under_way, *self._settling]
                wait(awaited, return_when=FIRST_COMPLETED)
                while self._preparing and self._preparing[0].done():
                    self._take_prepared(self._preparing.popleft().result())
                for future in [future for future in self._under_way if future.done()]:
                    self._take_answer(future, self._under_way.pop(future))
                while self._settling and self._settling[0].done():
                    self._ask_for(self._settling.popleft().result(), pool)
                self._submit(pool, limit)
                self._prepare(scribe, packages)
                if self._answered and not self._settling:
                    self._settling.append(clerk.submit(self._settle, self._answered))
                    self._answered = []

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
        # While settling lags behind a fast tool, its answers must not fill the memory.
        room = limit - 2 * len(self._answered) if self._settling else limit
        if not self._ready or len(self._under_way) >= room:
            return
        if not self._may_go():
            self._exhausted = True
            while self._ready:
                ledger.give_up(self.settler, self._ready.popleft().batch_id)
        while self._ready and len(self._under_way) < room:
            begun = self._without_refused(self._ready.popleft())
            if begun is not None:
                self._under_way[pool.submit(self._call, begun)] = begun

    def _without_refused(self, begun: _UnderWay) -> _UnderWay | None:
        """Record the package anew without whoever withdrew since; None where nobody is left."""
        refused = self.rejudge(begun.package)
        if not refused:
            return begun
        package = begun.package.without(refused)
        wait(self._settling)  # over the same connection, whose transaction this is now
        with self.settler.transaction():
            ledger.give_up(self.settler, begun.batch_id)
            batch_id = self._record(self.settler, package)
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
            batch_id = self._record_whole(package)
            reach("deliver.after_intended")
            if batch_id is not None:
                return _UnderWay(package, batch_id)
        return None

    def _record_whole(self, package: Package) -> int | None:
        if not package.left_already and not package.not_sent:  # one statement, one round trip
            return self._record(self.recorder, package)
        with self.recorder.transaction():
            return self._record(self.recorder, package)

    def _record(self, connection: psycopg.Connection, package: Package) -> int | None:
        """Record a package's batch and what needs no call; the batch's id, where it has rows."""
        operation, left = package.batch.operation, package.left_already
        ledger.record_not_sent(connection, self.entries, operation, package.not_sent)
        if left:
            keys = [row.plan_row_id for row in left]
            gone = [Outcome(key, "confirmed", "already_gone") for key in keys]
            batch_id = ledger.record(connection, self.entries, operation, left)
            ledger.settle(connection, [Answer(batch_id, keys, gone)])
        if not package.attempted:
            return None
        return ledger.record(connection, self.entries, operation, package.attempted)

    def _take_answer(self, future: _Answering, answered: _UnderWay) -> None:
        """Note what the tool said, or why its answer is no use."""
        outcome: list[Outcome] | Submitted | str
        try:
            outcome = future.result()
        except JobLost:
            outcome = "job_lost"
        except KundenkreisError as error:
            self.failures.append(error)
            if answered.job_id:  # which goes on, and is asked for by the next delivery
                return
            outcome = type(error).__name__
        else:
            self.sent += len(answered.package.attempted) if not answered.job_id else 0
        if isinstance(outcome, list):
            self.found_to_exist |= any(one.reason_code == CONTACT_EXISTS for one in outcome)
        if isinstance(outcome, Submitted):
            self._answered.append(replace(answered, job_id=outcome.job_id))
        else:
            # The keys alone: what was sent need not be kept until this is settled.
            rows = answered.package.attempted
            keys = [row.plan_row_id for row in rows]
            answer = Answer(answered.batch_id, keys, outcome, answered.sent_at)
            self._answered.append((rows[0].audience or "", answer))

    def _settle(self, answered: Sequence[_Answered]) -> list[_UnderWay]:
        """In a thread of its own: record what the tool said; gives the jobs to be asked for."""
        jobs: list[_UnderWay] = []
        audiences: set[str] = set()
        answers: list[Answer] = []
        for one in answered:
            if isinstance(one, _UnderWay):
                reach("deliver.before_job_stored")
                ledger.mark_sent(self.settler, one.batch_id, one.job_id)
                jobs.append(one)
            else:
                reach("deliver.before_settle")
                audiences.add(one[0])
                answers.append(one[1])
        if answers:
            self._write(answers, all(map(self._is_new, sorted(audiences))))
        reach("deliver.after_settle")
        return jobs

    def _ask_for(self, jobs: Sequence[_UnderWay], pool: ThreadPoolExecutor) -> None:
        self.progress(self.sent)
        for job in jobs:
            reach("deliver.after_job_stored")
            self._under_way[pool.submit(self._poll, job)] = job

    def _is_new(self, audience: str) -> bool:
        """Whether nothing had been delivered to an audience before its first batch of these."""
        if audience not in self._are_new:
            destination = self.entries.destination
            self._are_new[audience] = ledger.is_new(self.settler, destination, audience)
        return self._are_new[audience]

    def _write(self, answers: list[Answer], are_new: bool) -> None:
        try:
            ledger.settle(self.settler, answers, are_new=are_new, wait_for_disk=False)
        except (psycopg.errors.UniqueViolation, psycopg.errors.CardinalityViolation):
            # An address twice, in the plan or because somebody else delivered meanwhile.
            for answer in answers:
                ledger.settle(self.settler, [answer], wait_for_disk=False)

    def _call(self, begun: _UnderWay) -> list[Outcome] | Submitted:
        """In a thread of the pool: the request."""
        batch = begun.package.batch
        begun.sent_at = datetime.now(UTC)
        reach("deliver.before_request")
        with understood(self.tool.name, batch.operation):
            answer = self.tool.deliver(batch)
        reach("deliver.after_request")
        return answer

    def _poll(self, job: _UnderWay) -> list[Outcome]:
        """In a thread of the pool: the questions for a job."""
        return outcomes_of(self.tool, job.job_id, job.package.batch, self.patience)
