"""`kundenkreis doctor`: what would make a night fail or do harm, each with its fix.

One module per subject. A check reads and writes nothing; it takes a few seconds at most, because
all of them run at the same time and every system has a few seconds to answer. A check that breaks
is a finding as well.
"""

from __future__ import annotations

from kundenkreis.doctor.examination import examine
from kundenkreis.doctor.findings import Finding

__all__ = ["Finding", "examine"]
