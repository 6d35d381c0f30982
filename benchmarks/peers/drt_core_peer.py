"""drt-core: one sync from a PostgreSQL view to the tool, in the project of the working directory.

Runs in an environment of its own, so it imports nothing of this repository. What is timed is the
command `drt run`, without the imports. Prints one line of JSON.
"""

import contextlib
import io
import json
import time

from memory import peak_bytes

with contextlib.redirect_stdout(io.StringIO()) as output:
    import drt
    from drt.cli.main import app

    begun = time.perf_counter()
    try:
        app(["run"], standalone_mode=False)
    except SystemExit as stopped:
        if stopped.code:
            raise RuntimeError(output.getvalue()) from None
    seconds = time.perf_counter() - begun
print(json.dumps({"version": drt.__version__, "seconds": seconds, "memory_bytes": peak_bytes()}))
