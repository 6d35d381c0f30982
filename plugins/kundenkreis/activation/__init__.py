"""From the plan to the email tools: suppressions in, changes out, outcomes and drift recorded.

Everything heavy is imported inside the functions, so that DAG files can import this module.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kundenkreis.connections import Resolver
from kundenkreis.settings import Settings

Progress = Callable[[str], None]


def read_subscriber_states(
    destination: str,
    settings: Settings,
    resolve: Resolver,
    dsn: str,
    run_id: str,
    progress: Progress,
) -> dict[str, Any]:
    """See `kundenkreis.activation.subscribers.read_subscriber_states`."""
    from kundenkreis.activation import subscribers

    return subscribers.read_subscriber_states(destination, settings, resolve, dsn, run_id, progress)


def deliver(
    destination: str,
    settings: Settings,
    resolve: Resolver,
    dsn: str,
    run_id: str,
    publication_id: int,
    progress: Progress,
    *,
    held: bool = False,
) -> dict[str, Any]:
    """See `kundenkreis.activation.delivery.deliver`."""
    from kundenkreis.activation import delivery

    return delivery.deliver(
        destination, settings, resolve, dsn, run_id, publication_id, progress, held=held
    )


def reconcile(
    destination: str,
    settings: Settings,
    resolve: Resolver,
    dsn: str,
    run_id: str,
    publication_id: int,
    progress: Progress,
) -> dict[str, Any]:
    """See `kundenkreis.activation.reconciliation.reconcile`."""
    from kundenkreis.activation import reconciliation

    return reconciliation.reconcile(
        destination, settings, resolve, dsn, run_id, publication_id, progress
    )


def plan_summary(
    dsn: str, publication_id: int | None, settings: Settings, *, sample: int = 0
) -> dict[str, Any]:
    """See `kundenkreis.activation.plan.plan_summary`."""
    from kundenkreis.activation import plan

    return plan.plan_summary(dsn, publication_id, settings, sample=sample)


def require_plannable(dsn: str, publication_id: int) -> None:
    """See `kundenkreis.activation.delivery.require_plannable`."""
    from kundenkreis.activation import delivery
    from kundenkreis.warehouse.connection import connect

    with connect(dsn) as connection:
        delivery.require_plannable(connection, publication_id)
