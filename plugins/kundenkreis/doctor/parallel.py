"""Calls at the same time, with one deadline for all.

In daemon threads, because those of a `ThreadPoolExecutor` are joined when the process ends: one
system that hangs would keep the command from returning.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import TypeVar

Value = TypeVar("Value")


def together(calls: Mapping[str, Callable[[], Value]], seconds: float) -> dict[str, Future[Value]]:
    """Begin all calls and wait for them; what is not done in time is left to itself.

    Returns a future per call, by name; one that is not `done` took longer than ``seconds``.
    """
    futures: dict[str, Future[Value]] = {name: Future() for name in calls}
    threads = [
        threading.Thread(target=_into, args=(futures[name], call), name=name, daemon=True)
        for name, call in calls.items()
    ]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return futures


def _into(future: Future[Value], call: Callable[[], Value]) -> None:
    try:
        future.set_result(call())
    except BaseException as error:
        future.set_exception(error)
