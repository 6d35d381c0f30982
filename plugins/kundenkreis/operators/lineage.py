"""What the tasks read and wrote, as OpenLineage events.

Needs the extra ``lineage`` (apache-airflow-providers-openlineage), whose listener asks every
operator for its lineage when a task is done; without it, or without a transport, nothing of this
runs. dbt's models are jobs of their own with the task as their parent, as `dbt-ol` would send
them: dbt runs inside our process here, where `dbt-ol` cannot wrap it.
"""

from __future__ import annotations

import os
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from kundenkreis.lineage import Dataset, Job, Lineage

if TYPE_CHECKING:
    from airflow.providers.openlineage.extractors import OperatorLineage

# The specification wants a URI that names the producer.
_PRODUCER = "urn:kundenkreis"


def let_dbt_write_its_files() -> None:
    """Have dbt write manifest and results, which its part of the lineage is read from.

    They take seconds, so without the provider, or where it is switched off, dbt leaves them out.
    """
    try:
        from airflow.providers.openlineage.conf import is_disabled
    except ImportError:
        return
    if not is_disabled():
        os.environ.setdefault("DBT_WRITE_JSON", "true")


def operator_lineage(found: Lineage) -> OperatorLineage:
    """A task's lineage, as Airflow's listener wants it."""
    from airflow.providers.openlineage.extractors import OperatorLineage
    from openlineage.client.event_v2 import InputDataset, OutputDataset

    return OperatorLineage(
        inputs=[
            InputDataset(namespace=one.namespace, name=one.name, facets=_facets(one))
            for one in found.inputs
        ],
        outputs=[
            OutputDataset(
                namespace=one.namespace,
                name=one.name,
                facets=_facets(one),
                outputFacets=_statistics(one),
            )
            for one in found.outputs
        ],
    )


def emit_jobs(jobs: tuple[Job, ...], task_instance: Any) -> None:
    """Send a start and a completion for each job within a task."""
    from airflow.providers.openlineage.plugins.listener import get_openlineage_listener
    from openlineage.client.event_v2 import Job as OpenJob
    from openlineage.client.event_v2 import Run, RunEvent, RunState

    adapter = get_openlineage_listener().adapter
    parent, namespace = _parent(task_instance), _namespace()
    for job in jobs:
        run = Run(_run_id(parent, job), {"parent": parent})
        of_job = OpenJob(namespace, f"{task_instance.dag_id}.{job.name}", _job_facets(job))
        inputs, outputs = _datasets(job)
        for state, moment in (
            (RunState.START, job.started_at),
            (RunState.COMPLETE, job.finished_at),
        ):
            adapter.emit(
                RunEvent(
                    eventTime=moment or datetime.now(UTC).isoformat(),
                    producer=_PRODUCER,
                    run=run,
                    job=of_job,
                    eventType=state,
                    inputs=inputs,
                    outputs=outputs,
                )
            )


def _datasets(job: Job) -> tuple[list[Any], list[Any]]:
    found = operator_lineage(Lineage(job.inputs, job.outputs))
    return found.inputs, found.outputs


def _namespace() -> str:
    from airflow.providers.openlineage.plugins.macros import lineage_job_namespace

    return str(lineage_job_namespace())


def _parent(task_instance: Any) -> Any:
    from airflow.providers.openlineage.plugins import macros
    from openlineage.client.facet_v2 import parent_run

    return parent_run.ParentRunFacet(
        run=parent_run.Run(macros.lineage_run_id(task_instance)),
        job=parent_run.Job(_namespace(), macros.lineage_job_name(task_instance)),
        root=parent_run.Root(
            run=parent_run.RootRun(macros.lineage_root_run_id(task_instance)),
            job=parent_run.RootJob(
                macros.lineage_root_job_namespace(task_instance),
                macros.lineage_root_job_name(task_instance),
            ),
        ),
    )


def _run_id(parent: Any, job: Job) -> str:
    """The same for a task that reports twice, so that no job stands in the catalogue twice."""
    return str(uuid.uuid5(uuid.UUID(parent.run.runId), job.name))


def _job_facets(job: Job) -> dict[str, Any]:
    from openlineage.client.facet_v2 import job_type_job, sql_job

    facets: dict[str, Any] = {
        "jobType": job_type_job.JobTypeJobFacet("BATCH", "DBT", jobType="MODEL")
    }
    if job.sql:
        facets["sql"] = sql_job.SQLJobFacet(job.sql)
    return facets


def _facets(dataset: Dataset) -> dict[str, Any]:
    from openlineage.client.facet_v2 import documentation_dataset, schema_dataset

    facets: dict[str, Any] = {}
    if dataset.columns:
        facets["schema"] = schema_dataset.SchemaDatasetFacet(
            [
                schema_dataset.SchemaDatasetFacetFields(
                    column.name, column.type or None, column.description or None
                )
                for column in dataset.columns
            ]
        )
    if dataset.description:
        facets["documentation"] = documentation_dataset.DocumentationDatasetFacet(
            dataset.description
        )
    return facets


def _statistics(dataset: Dataset) -> dict[str, Any]:
    from openlineage.client.facet_v2 import output_statistics_output_dataset as statistics

    if dataset.rows is None:
        return {}
    return {
        "outputStatistics": statistics.OutputStatisticsOutputDatasetFacet(rowCount=dataset.rows)
    }
