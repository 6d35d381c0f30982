"""### Erasing a person from the warehouse and the email tools

| task | when it is red |
|---|---|
| `erase` | The message names what is pending still: an email tool did not answer, or the warehouse went away. Clear it; what is done stays done. The next night goes on with it as well. |

Param `customer_id`: whom to erase, as in `marts.customers`; empty: go on with what is pending. Never an
address, which Airflow would keep: `kundenkreis erase` takes one. It cannot be undone.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from airflow.sdk import DAG, Param

from kundenkreis.operators import EraseOperator, task_defaults
from kundenkreis.settings import load_settings

with DAG(
    dag_id="customer_erasure",
    doc_md=__doc__,
    description="Erases one customer everywhere, or goes on with pending erasures",
    schedule=None,
    start_date=datetime(2024, 1, 1, tzinfo=load_settings().model.zone),
    catchup=False,
    max_active_runs=1,
    dagrun_timeout=timedelta(hours=12),
    tags=["kundenkreis", "privacy"],
    params={
        "customer_id": Param(
            None,
            type=["null", "string"],
            title="Customer id",
            description="As in marts.customers; empty: go on with pending erasures.",
        )
    },
    default_args=task_defaults(),
) as dag:
    EraseOperator(task_id="erase")
