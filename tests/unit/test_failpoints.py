"""A failpoint kills the process at its place, and only there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from kundenkreis.settings import repository_root

_PROGRAM = """
from kundenkreis.failpoints import reach
for turn in range(3):
    reach("deliver.before_request")
    print("sent", turn, flush=True)
    reach("deliver.after_request")
"""


def _run(failpoint: str | None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(repository_root() / "plugins")}
    environment.pop("KUNDENKREIS_FAILPOINT", None)
    if failpoint is not None:
        environment["KUNDENKREIS_FAILPOINT"] = failpoint
    return subprocess.run(
        [sys.executable, "-S", "-c", _PROGRAM],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("failpoint", [None, "", "deliver.before", "deliver.before_settle"])
def test_another_place_or_none_does_nothing(failpoint: str | None) -> None:
    completed = _run(failpoint)
    assert completed.returncode == 0
    assert completed.stdout.split() == ["sent", "0", "sent", "1", "sent", "2"]


@pytest.mark.parametrize(
    ("failpoint", "sent"),
    [
        ("deliver.before_request", 0),
        ("deliver.after_request", 1),
        ("deliver.before_request#2", 1),
        ("deliver.before_request#3", 2),
        ("deliver.after_request#3", 3),
    ],
)
def test_the_process_dies_at_once(failpoint: str, sent: int) -> None:
    completed = _run(failpoint)
    assert completed.returncode == -signal.SIGKILL
    assert completed.stdout.count("sent") == sent
