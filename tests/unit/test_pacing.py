"""When the next call may go, for several callers of one client at once."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import httpx

from kundenkreis.pacing import Pacer, RateLimit

WINDOW = RateLimit(remaining_header="Left", reset_header="Reset")


class Clock:
    """Time that passes only by sleeping, for any number of threads."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def monotonic(self) -> float:
        return self.now


def pacer(limit: RateLimit, connections: int) -> tuple[Pacer, Clock]:
    clock = Clock()
    return Pacer(limit, connections, clock.sleep, clock.monotonic), clock


def call(pacer: Pacer, left: int | None = None, reset: float = 5.0, again: bool = False) -> None:
    headers = {} if left is None else {"Left": str(left), "Reset": str(reset)}
    with pacer.turn(again) as turn:
        turn.answered = httpx.Response(200, headers=headers)


def test_a_window_that_is_used_up_is_waited_for_and_the_next_one_is_used_whole() -> None:
    paced, clock = pacer(WINDOW, 4)
    for left in (2, 1, 0):
        call(paced, left)
    assert clock.slept == []
    call(paced, 2)
    assert clock.slept == [5.0]
    call(paced, 1)
    call(paced, 0)
    assert clock.slept == [5.0]


def test_calls_under_way_count_before_their_answers_say_so() -> None:
    paced, _ = pacer(WINDOW, 4)
    call(paced, left=2)
    with paced.turn(again=False), paced.turn(again=False):
        blocked = threading.Event()

        def third() -> None:
            with paced.turn(again=False) as turn:
                blocked.set()
                turn.answered = httpx.Response(200)

        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(third)
            assert not blocked.wait(0.05), "the window has no call left for it"
            paced._ends = 0.0  # the window ends
            with paced._changed:
                paced._changed.notify_all()
            future.result(timeout=10)


def test_an_answer_that_overtakes_another_gives_no_calls_back() -> None:
    paced, _ = pacer(WINDOW, 4)
    call(paced, left=3)
    first, second = paced.turn(again=False), paced.turn(again=False)
    # Sent first and carried out last, so that only its answer counts both.
    first.__enter__().answered = httpx.Response(200, headers={"Left": "1", "Reset": "5"})
    second.__enter__().answered = httpx.Response(200, headers={"Left": "2", "Reset": "5"})
    first.__exit__(None, None, None)
    second.__exit__(None, None, None)
    assert not paced._used_up()
    with paced.turn(again=False):
        assert paced._used_up()


def test_an_answer_of_the_window_before_says_nothing_about_this_one() -> None:
    paced, clock = pacer(WINDOW, 4)
    call(paced, left=3)
    clock.now = 5.0
    call(paced, left=3)
    call(paced, left=0, reset=0.0)
    call(paced, left=2)
    assert clock.slept == []


def test_a_refusal_holds_everybody_back_until_a_later_call_went_through() -> None:
    paced, clock = pacer(RateLimit(), 4)
    with paced.turn(again=False) as sent_before:
        sent_before.answered = httpx.Response(200)
        paced.throttled(7.0, told=True)
    call(paced)
    assert clock.slept == [7.0]
    paced.throttled(7.0, told=True)
    call(paced, again=True)  # has waited by itself
    call(paced)
    assert clock.slept == [7.0]


def test_a_refusal_that_says_nothing_halves_the_connections_which_grow_back() -> None:
    paced, clock = pacer(RateLimit(), 8)
    with paced.turn(False), paced.turn(False), paced.turn(False):
        paced.throttled(1.0, told=False)
        paced.throttled(1.0, told=False)  # of the same moment: one refusal
    assert paced._allowed == 2
    clock.now = 2.0
    for _ in range(50 * 6):
        call(paced)
    assert paced._allowed == 8
    for _ in range(100):
        call(paced)
    assert paced._allowed == 8


def test_a_refusal_with_a_time_leaves_the_connections_alone() -> None:
    paced, _ = pacer(WINDOW, 8)
    paced.throttled(1.0, told=True)
    assert paced._allowed == 8
