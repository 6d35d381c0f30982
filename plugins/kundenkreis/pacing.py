"""When the next call to a vendor may go: one pacer for all threads that share a client.

Vendors limit calls in four shapes, and each has its answer here or in `kundenkreis.http`:

* a window announced in headers: calls are counted down, and the next waits for the window's end;
* a number of connections at once: as many are used, and half as many after a refusal that says
  nothing, growing back with success;
* a budget told in the body of an answer, and a rate told only in prose: see `RateLimit`.

A refusal holds every caller back, not only the one it was sent to: the vendor counts all of them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx

LONGEST_WAIT_SECONDS = 300.0
"""A vendor that asks for more than this is out of budget for the night: fail, retry another day."""

_SUCCESSES_TO_GROW = 50


@dataclass(frozen=True)
class RateLimit:
    """How a vendor limits calls. Concurrency limits are ``max_connections`` of the client.

    per_second: pace calls to at most this many a second (limits announced only in prose).
    remaining_header, reset_header: a window announced in headers; at nothing remaining the next
        call waits for ``reset_header``, read in ``reset_unit_seconds`` (1 = seconds).
    throttled: reads a budget from the body of a 2xx answer; returns the seconds to wait before the
        call is repeated, or None when the answer is a real one (monday, Shopify).
    throttled_statuses: further statuses that this vendor uses for throttling (a bare 403).
    """

    per_second: float | None = None
    remaining_header: str | None = None
    reset_header: str | None = None
    reset_unit_seconds: float = 1.0
    throttled: Callable[[httpx.Response], float | None] | None = None
    throttled_statuses: frozenset[int] = frozenset()


@dataclass
class Turn:
    """A caller's turn, from before its request to after its answer.

    number: rises with each turn. answered: what came back, for the one who gave the turn to read.
    """

    number: int
    answered: httpx.Response | None = None


class Pacer:
    """Gives turns so that a vendor's limits are used and not broken. Safe to share by threads.

    connections: calls that may be under way at once. given: turns so far.
    """

    def __init__(
        self,
        limit: RateLimit,
        connections: int,
        sleep: Callable[[float], None],
        monotonic: Callable[[], float],
    ) -> None:
        self._limit, self._connections = limit, connections
        self._sleep, self._monotonic = sleep, monotonic
        self._changed = threading.Condition()
        self._allowed = connections
        self._successes = 0
        self._under_way = 0
        self.given = 0
        self._not_before = 0.0
        self._held_until = 0.0
        self._refused_after = 0
        # Of the announced window: the fewest calls that an answer said are left (None: not known),
        # its end, and the size and length of the largest so far.
        self._remaining: int | None = None
        self._ends = 0.0
        self._size = 0
        self._length = 0.0

    @contextmanager
    def turn(self, again: bool) -> Iterator[Turn]:
        """Wait for a turn and keep it.

        Args:
            again: the caller was refused and has waited as long as it was told.
        """
        number, wait = self._take(again)
        turn = Turn(number)
        try:
            if wait > 0:
                self._sleep(wait)
            yield turn
        finally:
            self._give_back(turn)

    def throttled(self, seconds: float, *, told: bool) -> None:
        """Hold everybody back for as long as the caller that was refused waits.

        Args:
            told: the vendor said how long; else too many calls were under way at once.
        """
        with self._changed:
            moment = self._monotonic()
            # Refusals of calls that were under way together are one refusal.
            if not told and moment >= self._held_until:
                self._allowed = max(1, min(self._allowed, self._under_way + 1) // 2)
                self._successes = 0
            self._held_until = max(self._held_until, moment + seconds)
            self._refused_after = self.given

    def _take(self, again: bool) -> tuple[int, float]:
        """The number of the turn, and the seconds to wait for it."""
        with self._changed:
            while self._under_way >= self._allowed or (self._under_way and self._used_up()):
                self._changed.wait(self._ends - self._monotonic() if self._used_up() else None)
            moment = self._monotonic()
            start = max(moment, self._not_before)
            if not again:
                start = max(start, self._held_until)
            if self._has_none_left():
                start = max(start, self._ends)
                self._not_before = max(self._not_before, start)
                self._remaining = self._size or None
            if self._limit.per_second:
                self._not_before = start + 1.0 / self._limit.per_second
            self._under_way += 1
            self.given += 1
            return self.given, start - moment

    def _used_up(self) -> bool:
        return self._has_none_left() and self._monotonic() < self._ends

    def _has_none_left(self) -> bool:
        """Calls under way may not be counted yet in what answers said: answers overtake."""
        return self._remaining is not None and self._remaining <= self._under_way

    def _give_back(self, turn: Turn) -> None:
        with self._changed:
            self._under_way -= 1
            if turn.answered is not None:
                self._read_window(turn.answered)
                self._grow(turn.answered)
                if turn.answered.is_success and turn.number > self._refused_after:
                    self._held_until = 0.0  # the vendor takes calls again
            self._changed.notify_all()

    def _grow(self, answered: httpx.Response) -> None:
        """Take back a connection after so many answers without a refusal."""
        self._successes += 1 if answered.is_success else 0
        if self._allowed < self._connections and self._successes >= _SUCCESSES_TO_GROW:
            self._allowed += 1
            self._successes = 0

    def _read_window(self, answered: httpx.Response) -> None:
        """What an answer says about the window, whichever of several answers arrives first."""
        limit = self._limit
        if not (limit.remaining_header and limit.reset_header):
            return
        try:
            remaining = int(float(answered.headers[limit.remaining_header]))
            reset = float(answered.headers[limit.reset_header]) * limit.reset_unit_seconds
        except (KeyError, ValueError):
            return
        reset = min(max(reset, 0.0), LONGEST_WAIT_SECONDS)
        ends = self._monotonic() + reset
        self._size = max(self._size, remaining + 1)
        self._length = max(self._length, reset)
        # The same end, as exactly as vendors tell it and answers travel, is the same window.
        tolerance = self._length / 2
        if self._remaining is None or ends > self._ends + tolerance:
            self._remaining, self._ends = remaining, ends
        elif ends >= self._ends - tolerance:
            self._remaining = min(self._remaining, remaining)
            self._ends = min(self._ends, ends)
