"""Places where a test may kill the process, to prove that a rerun ends in the same state.

A failpoint does nothing unless the environment variable ``KUNDENKREIS_FAILPOINT`` holds its name;
then the process dies at once, as it would when the machine loses power.
"""

from __future__ import annotations

import os
import signal


def reach(name: str) -> None:
    """Kill this process here when the environment asks for it.

    Args:
        name: the place, ``<task>.<moment>``, for example ``deliver.before_request``. A variable
            value of ``name#3`` kills the process the third time the place is reached.
    """
    wanted = os.environ.get("KUNDENKREIS_FAILPOINT")
    if not wanted:
        return
    place, _, nth = wanted.partition("#")
    if place != name:
        return
    _reached[name] = _reached.get(name, 0) + 1
    if _reached[name] >= int(nth or 1):
        os.kill(os.getpid(), signal.SIGKILL)


_reached: dict[str, int] = {}
