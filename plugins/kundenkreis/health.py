"""``python -m kundenkreis.health URL``: whether a service answers with status 200.

For health checks: the exit code says it, 0 or 1. It imports nothing else of ours, so that asking
often costs little.
"""

from __future__ import annotations

import sys
import urllib.error
import urllib.request


def main(arguments: list[str]) -> int:
    """Ask the one URL that is given, for at most ten seconds."""
    (url,) = arguments
    if not url.startswith("http://"):
        sys.stderr.write(f"{url} is no http:// address\n")
        return 1
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 (http only, see above)
            return 0 if answer.status == 200 else 1
    except (urllib.error.URLError, OSError) as error:
        sys.stderr.write(f"{url}: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
