"""Customer value: who will order again, how often, and what it will be worth.

Reads aggregates that dbt made (``int_value_statistics`` of the colour), fits BG/NBD and
Gamma-Gamma, and leaves scores and parameters in schema ``predictions``, from which the dbt models
`customer_value` and `history_value_parameters` are built (design: Value). Nothing personal is read:
customers with the same orders in time are one row here.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import psycopg


def predict(
    connection: psycopg.Connection,
    as_of_date: date,
    progress: Callable[[str], None],
    *,
    intermediate_schema: str,
) -> dict[str, Any]:
    """Fit both models, score every buyer, and write the result in one transaction.

    A model that cannot be fitted scores with the parameters of the last night that could; with
    none at all nothing is scored, and the reason is in ``predictions.parameters``.

    Args:
        connection: to the warehouse, without an open transaction.
        as_of_date: the run's date D; only fits of earlier days are fallen back on.
        progress: gets one line per step.
        intermediate_schema: where ``int_value_statistics`` is.

    Returns:
        ``buyers``, ``repeat_buyers``, ``scored_groups``, and per model its outcome, reason,
        parameters and log-likelihood.
    """
    from kundenkreis.predictions.run import predict as run

    return run(connection, as_of_date, progress, intermediate_schema)
