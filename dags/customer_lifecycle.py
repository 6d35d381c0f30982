"""
### The nightly run: from shop and CRM to the email tools

`extract → gate_landing → transform → predict → segment → gate_marts → publish → plan → deliver → reconcile → report → retention`,
and, beside `report`, for what the size guard held: `held → approve → deliver_held`

| task | when it is red |
|---|---|
| `extract.*` | The message names the system and the call. Nothing was changed; clear it when the system answers again. |
| `gate_landing` | What landed cannot be right. The message names table and expectation; the marts still show last night. |
| `transform`, `segment` | A model or data test failed; the message names it. Readers still see last night. |
| `predict` | The database went away. Models that cannot be fitted keep their last good parameters and warn. |
| `gate_marts` | The new marts are wrong, or break the contract without a declaration, and were not published. |
| `publish` | Readers held the views too long, or the contract of `marts` would break; the message names them. |
| `plan` | What is to be sent could not be computed. Nothing was sent; the message names the model. |
| `deliver.*` | An email tool did not answer. Clear it: what was sent is in the ledger and is not sent twice. |
| `reconcile.*` | An email tool did not answer when it was read back. What was sent stays sent; clear it. |
| `approve` | What was answered is outdated: a newer plan exists. Nothing was sent; the message says what to do. |
| `deliver_held` | As `deliver.*`: an email tool did not answer. Clear it; the approval stands. |
| `held`, `report` | Only with a task before it, or when the warehouse went away at the very end. |
| `retention` | What is due could not be removed: the key of erasures is missing, or a lock was not to be had. Clear it; the night itself is done. |

A segment that the size guard held waits in `approve` for somebody's answer (Required Actions, or
`kundenkreis approve`), until an hour before the next night. Silence sends nothing.
Everything computes one day: the param `as_of`, else the day before the run. Clearing any task and
what follows it is always safe.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from airflow.sdk import DAG, Param, TaskGroup, TriggerRule, task_group

from kundenkreis.operators import (
    DeliverOperator,
    ExtractOperator,
    FindHeldOperator,
    GateOperator,
    PlanOperator,
    PredictOperator,
    PublishOperator,
    ReadSubscribersOperator,
    ReconcileOperator,
    ReportOperator,
    RetentionOperator,
    SegmentOperator,
    TransformOperator,
    ask_and_deliver,
    asset,
    night_alerts,
    task_defaults,
)
from kundenkreis.pools import pool_of
from kundenkreis.settings import load_settings

settings = load_settings()
with DAG(
    dag_id="customer_lifecycle",
    doc_md=__doc__,
    description="Shop and CRM in, lifecycle segments out to the email tools",
    # Quarter past midnight in the business time zone: the day that has just ended is complete.
    schedule="15 0 * * *",
    start_date=datetime(2024, 1, 1, tzinfo=settings.model.zone),
    catchup=False,
    max_active_runs=1,
    # Held segments wait for an answer until shortly before the next night.
    dagrun_timeout=timedelta(hours=23, minutes=30),
    **night_alerts(settings),  # who is told what is in alerts.yml
    tags=["kundenkreis", "nightly"],
    params={
        "as_of": Param(
            None,
            type=["null", "string"],
            format="date",
            title="As-of date",
            description="The day to compute; empty means the day before the run.",
        )
    },
    default_args=task_defaults(),
) as dag:
    with TaskGroup("extract", tooltip="Everything that is read from outside") as extract:
        for source, system in settings.sources.items():
            ExtractOperator(
                task_id=source,
                source=source,
                pool=pool_of(system),
                outlets=[asset("raw", source)],
            )
        for destination, system in settings.destinations.items():
            ReadSubscribersOperator(
                task_id=f"{destination}_subscribers",
                destination=destination,
                pool=pool_of(system),
            )

    gate_landing = GateOperator(task_id="gate_landing", gate="landing")
    transform = TransformOperator(task_id="transform")
    marts_schema = transform.output["schema_name"]
    predict = PredictOperator(task_id="predict", marts_schema=marts_schema)
    segment = SegmentOperator(task_id="segment", marts_schema=marts_schema)
    gate_marts = GateOperator(task_id="gate_marts", gate="marts", marts_schema=marts_schema)
    publish = PublishOperator(
        task_id="publish",
        marts_schema=marts_schema,
        gate_results=gate_marts.output,
        outlets=[asset("marts")],
    )
    publication_id = publish.output["publication_id"]
    plan = PlanOperator(task_id="plan", marts_schema=marts_schema, publication_id=publication_id)
    # A night without anything to publish skips what follows; a failure still turns the run red.
    report = ReportOperator(task_id="report", trigger_rule=TriggerRule.NONE_FAILED)
    retention = RetentionOperator(task_id="retention")

    extract >> gate_landing >> transform >> predict >> segment
    segment >> gate_marts >> publish >> plan >> report >> retention

    with TaskGroup("deliver", tooltip="One task per email tool") as deliver:
        deliveries = {
            destination: DeliverOperator(
                task_id=destination,
                destination=destination,
                publication_id=publication_id,
                pool=pool_of(system),
                outlets=[asset("audience", destination)],
            )
            for destination, system in settings.destinations.items()
        }
    held = FindHeldOperator(task_id="held", publication_id=publication_id)
    with TaskGroup("reconcile", tooltip="What the tools say they hold"):
        for destination, delivery in deliveries.items():
            check = ReconcileOperator(
                task_id=destination,
                destination=destination,
                publication_id=publication_id,
                pool=pool_of(settings.destinations[destination]),
            )
            plan >> delivery >> check >> [report, held]

    # One pair of tasks per held segment: each goes out as soon as it is approved.
    held_segments = task_group(group_id="held_segments", prefix_group_id=False)(ask_and_deliver)
    held_segments.expand(question=held.output)
