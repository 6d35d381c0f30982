"""``python -m kundenkreis.documentation``: see the package."""

from __future__ import annotations

import sys

from kundenkreis.documentation import write_all
from kundenkreis.settings import repository_root

if __name__ == "__main__":
    for path in write_all():
        sys.stdout.write(f"{path.relative_to(repository_root())}\n")
