"""The peak memory of a process; every program of this folder imports it: standard library only."""

import resource
from pathlib import Path


def peak_bytes() -> int:
    """The most that was resident at once.

    On Linux by VmHWM, because ru_maxrss begins at what the parent process had when it started this.
    """
    status = Path("/proc/self/status")
    if status.exists():
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(fields["VmHWM"].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
