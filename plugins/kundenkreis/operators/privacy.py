"""The operator of the erasure DAG."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import (
    AirflowException,
    AirflowFailException,
    AirflowRescheduleException,
)

from kundenkreis.errors import BuildBusy, ConfigError, KundenkreisError, VendorError, WarehouseError
from kundenkreis.operators.night import BUSY_PAUSE, run_context

if TYPE_CHECKING:
    from airflow.sdk import Context


class EraseOperator(BaseOperator):  # type: ignore[misc]  # mypy does not follow Airflow
    """Erases a customer, or goes on with the erasures that are pending.

    Returns the erasures' states by id. Waits for a night that is under way without a worker slot.
    """

    def execute(self, context: Context) -> dict[str, Any]:
        """Airflow's entry point."""
        from kundenkreis.privacy import erasure
        from kundenkreis.warehouse.connection import connect
        from kundenkreis.warehouse.schema import ensure_schemas

        run = run_context(context, self.log.info)
        errand = erasure.Errand(run.dsn, run.settings, run.resolve, self.log.info, wait_seconds=0)
        try:
            ensure_schemas(run.dsn)
            customer = _customer(context["params"].get("customer_id"))
            by = f"run {run.run_id}"
            with connect(run.dsn) as connection:
                waiting = erasure.pending(connection)
                begun = erasure.begun_by(connection, by)
            if customer and begun is None:
                waiting.append(erasure.begin(errand, customer, by))
            found = [erasure.resume(errand, erasure_id) for erasure_id in waiting]
        except BuildBusy as busy:
            self.log.info(str(busy))
            raise AirflowRescheduleException(datetime.now(UTC) + BUSY_PAUSE) from None
        except (VendorError, WarehouseError) as error:
            raise AirflowException(f"{type(error).__name__}: {error}") from None
        except KundenkreisError as error:
            raise AirflowFailException(f"{type(error).__name__}: {error}") from None
        if open_ones := [one for one in found if one.state == "pending"]:
            places = sorted(
                {p for one in open_ones for p, was in one.places.items() if was["state"] != "done"}
            )
            raise AirflowException(
                f"Pending still: {', '.join(places)}. What is done stays done; it is tried again, "
                "and by every night."
            )
        return {str(one.erasure_id): one.state for one in found}


def _customer(param: str | None) -> str | None:
    if param and "@" in param:
        raise ConfigError(
            "param customer_id holds an address. Airflow would keep it in its database for ever: "
            "use `kundenkreis erase`, or the id from marts.customers."
        )
    return param or None
