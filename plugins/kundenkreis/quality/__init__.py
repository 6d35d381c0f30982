"""Gates: Great Expectations checkpoints that stop a night before anybody can see a fault.

Importing this package is cheap; Great Expectations (seconds) is imported inside `run_gate`.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from kundenkreis.settings import Settings

Gate = Literal["landing", "marts"]


def run_gate(
    gate: Gate,
    settings: Settings,
    dsn: str,
    run_id: str,
    as_of_date: date,
    marts_schema: str | None,
    progress: Callable[[str], None],
) -> dict[str, Any]:
    """Run one gate; see `kundenkreis.quality.gate.run_gate`."""
    from kundenkreis.quality.gate import run_gate as run

    return run(gate, settings, dsn, run_id, as_of_date, marts_schema, progress)
