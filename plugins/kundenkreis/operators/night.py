"""The operators of the nightly DAG. Each resolves its run's context and calls one function."""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import Asset, BaseOperator
from airflow.sdk.exceptions import (
    AirflowException,
    AirflowFailException,
    AirflowRescheduleException,
    AirflowSkipException,
)

from kundenkreis import lineage, night
from kundenkreis.errors import (
    BuildBusy,
    ConfigError,
    KundenkreisError,
    VendorError,
    WarehouseError,
)
from kundenkreis.lineage import Lineage
from kundenkreis.night import RunContext, Summary
from kundenkreis.operators import alerts, metrics
from kundenkreis.operators.lineage import let_dbt_write_its_files
from kundenkreis.redaction import first_lines
from kundenkreis.warehouse import ACTIVATOR, LOADER, TRANSFORMER

if TYPE_CHECKING:
    from airflow.sdk import Context

    from kundenkreis.connections import Connection

# What a retry may cure; everything else stays wrong however often it is tried.
_PASSING = (VendorError, WarehouseError)

# How long a task waits before it asks again whether another run's build is over.
BUSY_PAUSE = timedelta(seconds=20)


class NightTask:
    """What every task of the night has in common, whichever operator of Airflow's it extends.

    A `KundenkreisError` fails the task with its message alone. It is retried only where the cause
    may pass: an unreachable vendor or warehouse. A task that has to wait for another run's build
    gives its slot back and is asked again.

    Attributes:
        role: what the task may do in the warehouse, where the warehouse uses roles; None: all that
            the login may.
        tells_at_once: people are told right after the task, not only when the run ends.
    """

    role: str | None = TRANSFORMER
    tells_at_once = False
    task_id: str
    log: Any
    _done: tuple[RunContext, Summary] | None = None

    def run_night_task(
        self, context: Context, work: Callable[[RunContext], Summary], part: str = ""
    ) -> Summary:
        """Build the run's context, time the work, and record its summary for `kundenkreis status`.

        Args:
            part: what a mapped task works on; each part is recorded by itself.
        """
        started = datetime.now(UTC)
        self._watch("started")
        run: RunContext | None = None
        recorded_as = f"{self.task_id}.{part}" if part else self.task_id
        try:
            run = run_context(context, self._progress)
            night.prepare(run)
            summary = work(night.under_role(run, self.role) if self.role else run)
        except BuildBusy as busy:
            self._progress(str(busy))
            raise AirflowRescheduleException(datetime.now(UTC) + BUSY_PAUSE) from None
        except Exception as error:
            message = self._failure_message(error)
            if run is not None:
                _record(run, recorded_as, "failed", {"error": message}, started)
            metrics.emit(self.task_id, "failed", _seconds_since(started), {})
            self._watch("failed", message)
            if _may_pass(error):
                raise AirflowException(message) from None
            if run is not None:
                _give_up(run)
            raise AirflowFailException(message) from None
        state = "skipped" if "skipped_because" in summary else "success"
        _record(run, recorded_as, state, summary, started)
        metrics.emit(self.task_id, state, _seconds_since(started), summary)
        self._done = (run, summary)
        self._watch(state)
        if self.tells_at_once:
            alerts.tell(context, "running")
        if state == "skipped":
            raise AirflowSkipException(f"skipped: {summary['skipped_because']}")
        return summary

    def _failure_message(self, error: Exception) -> str:
        """One message for a person. A bug's own text may repeat a row, so it is redacted."""
        if isinstance(error, KundenkreisError):
            return f"{type(error).__name__}: {error}"
        frames = "".join(traceback.format_tb(error.__traceback__))
        self.log.error("Unexpected %s at\n%s", type(error).__name__, frames)
        return f"Unexpected {type(error).__name__}: {first_lines(str(error), 2)}"

    def _progress(self, line: str) -> None:
        self.log.info(line)
        self._watch("progress", line)

    def _watch(self, event: str, text: str = "") -> None:
        if watcher is not None:
            watcher(self.task_id, event, text)


class NightOperator(NightTask, BaseOperator):  # type: ignore[misc]  # mypy does not follow Airflow
    """A task of the night that runs from start to end in one go."""

    def __init__(self, **kwargs: Any) -> None:
        # Each key of the summary is an XCom of its own, so that `output["schema_name"]` works.
        super().__init__(multiple_outputs=True, **kwargs)

    def work(self, run: RunContext) -> Summary:
        """Do the task's work and return its summary."""
        raise NotImplementedError

    def lineage(self, run: RunContext, summary: Summary) -> Lineage:
        """What the task read and wrote; nothing where only other tasks' tables are looked at."""
        return Lineage()

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:
        """Called by Airflow's OpenLineage provider, where it is installed and switched on."""
        from kundenkreis.operators import lineage as openlineage

        if self._done is None:
            return None
        found = self.lineage(*self._done)
        openlineage.emit_jobs(found.jobs, task_instance)
        return openlineage.operator_lineage(found)

    def execute(self, context: Context) -> Summary:
        """Airflow's entry point."""
        return self.run_night_task(context, self.work)


def _seconds_since(started: datetime) -> float:
    return (datetime.now(UTC) - started).total_seconds()


def _may_pass(error: Exception) -> bool:
    import psycopg

    # A server that restarts in the middle of a statement is as passing as one that is unreachable.
    return isinstance(error, (*_PASSING, psycopg.OperationalError))


# Set by `kundenkreis run`, which shows the night's progress on the terminal: task id, event
# (started, progress, success, failed, skipped), text.
watcher: Callable[[str, str, str], None] | None = None


class ExtractOperator(NightOperator):
    """Loads one source into ``raw_<source>``."""

    role = LOADER

    def __init__(self, *, source: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.source = source

    def work(self, run: RunContext) -> Summary:
        """Load."""
        return night.extract(run, self.source)

    def lineage(self, run: RunContext, summary: Summary) -> Lineage:
        """The source's lists to its raw tables."""
        system = run.settings.sources[self.source]
        return lineage.of_extract(
            self.source, summary["tables"], _address(run, system), lineage.warehouse(run.dsn)
        )


class ReadSubscribersOperator(NightOperator):
    """Reads an email tool's subscriber states."""

    role = ACTIVATOR

    def __init__(self, *, destination: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.destination = destination

    def work(self, run: RunContext) -> Summary:
        """Read."""
        return night.read_subscribers(run, self.destination)

    def lineage(self, run: RunContext, summary: Summary) -> Lineage:
        """The tool's contacts to what is known of them."""
        address = _tool_address(run, self.destination)
        return lineage.of_subscribers(self.destination, address, lineage.warehouse(run.dsn))


class TransformOperator(NightOperator):
    """Builds the marts up to orders, RFM and lifecycle into the colour nobody reads."""

    def work(self, run: RunContext) -> Summary:
        """Build."""
        let_dbt_write_its_files()
        return night.transform(run)

    def lineage(self, run: RunContext, summary: Summary) -> Lineage:
        """What dbt built, model by model."""
        folder = lineage.dbt_folder(summary["schema_name"])
        return lineage.of_dbt(folder, lineage.warehouse(run.dsn))


class _OnColour(NightOperator):
    """A task that works on the colour `transform` chose."""

    template_fields: Sequence[str] = ("marts_schema",)

    def __init__(self, *, marts_schema: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.marts_schema = marts_schema


class PredictOperator(_OnColour):
    """Fits the value models and scores every buyer."""

    def work(self, run: RunContext) -> Summary:
        """Fit and score."""
        return night.predict(run, self.marts_schema)

    def lineage(self, run: RunContext, summary: Summary) -> Lineage:
        """Aggregates to scores."""
        from kundenkreis.warehouse.publish import intermediate_schema

        schema = intermediate_schema(self.marts_schema)
        return lineage.of_predict(schema, lineage.warehouse(run.dsn))


class SegmentOperator(_OnColour):
    """Builds customer_360 and the segment members."""

    def work(self, run: RunContext) -> Summary:
        """Build."""
        let_dbt_write_its_files()
        return night.segment(run, self.marts_schema)

    def lineage(self, run: RunContext, summary: Summary) -> Lineage:
        """What dbt built, model by model."""
        folder = lineage.dbt_folder(self.marts_schema)
        return lineage.of_dbt(folder, lineage.warehouse(run.dsn))


class GateOperator(NightOperator):
    """Runs one gate; a critical failure ends the run before anybody sees the fault."""

    template_fields = ("marts_schema",)

    def __init__(self, *, gate: str, marts_schema: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.gate = gate
        self.marts_schema = marts_schema

    def work(self, run: RunContext) -> Summary:
        """Check."""
        if self.gate == "landing":
            return night.gate_landing(run)
        return night.gate_marts(run, self.marts_schema)

    def lineage(self, run: RunContext, summary: Summary) -> Lineage:
        """The checked tables to the results."""
        from kundenkreis.status import checked_relations

        relations = checked_relations(run.dsn, run.run_id, self.gate, self.marts_schema)
        return lineage.of_gate(relations, lineage.warehouse(run.dsn))


class PublishOperator(_OnColour):
    """Turns readers over to the new marts; skips what follows when nothing was published."""

    template_fields = ("marts_schema", "gate_results")

    def __init__(self, *, gate_results: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.gate_results = gate_results

    def work(self, run: RunContext) -> Summary:
        """Publish."""
        return night.publish(run, self.marts_schema, self.gate_results)

    def lineage(self, run: RunContext, summary: Summary) -> Lineage:
        """The colour's tables to the views that readers see."""
        from kundenkreis.status import published_views

        views = published_views(run.dsn)
        return lineage.of_publish(self.marts_schema, views, lineage.warehouse(run.dsn))


class PlanOperator(_OnColour):
    """Writes what would change in the email tools."""

    role = ACTIVATOR
    tells_at_once = True  # a held segment waits for somebody
    template_fields = ("marts_schema", "publication_id")

    def __init__(self, *, publication_id: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.publication_id = publication_id

    def work(self, run: RunContext) -> Summary:
        """Plan."""
        let_dbt_write_its_files()
        return night.plan(run, self.marts_schema, int(self.publication_id))

    def lineage(self, run: RunContext, summary: Summary) -> Lineage:
        """What dbt built, model by model."""
        folder = lineage.dbt_folder(self.marts_schema)
        return lineage.of_dbt(folder, lineage.warehouse(run.dsn))


class _OnDestination(NightOperator):
    """A task that works on one destination's part of the plan."""

    role = ACTIVATOR
    template_fields = ("publication_id",)

    def __init__(self, *, destination: str, publication_id: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.destination = destination
        self.publication_id = publication_id


class DeliverOperator(_OnDestination):
    """Sends the plan's rows of one destination."""

    def work(self, run: RunContext) -> Summary:
        """Send."""
        return night.deliver(run, self.destination, int(self.publication_id))

    def lineage(self, run: RunContext, summary: Summary) -> Lineage:
        """The plan to the tool's audiences."""
        return lineage.of_delivery(
            self.destination,
            summary.get("audiences", {}),
            _tool_address(run, self.destination),
            lineage.warehouse(run.dsn),
        )


class ReconcileOperator(_OnDestination):
    """Reads one destination's audiences back."""

    def work(self, run: RunContext) -> Summary:
        """Compare."""
        return night.reconcile(run, self.destination, int(self.publication_id))

    def lineage(self, run: RunContext, summary: Summary) -> Lineage:
        """The tool's audiences to what differs."""
        return lineage.of_reconcile(
            self.destination,
            summary.get("audiences", {}),
            _tool_address(run, self.destination),
            lineage.warehouse(run.dsn),
        )


class ReportOperator(NightOperator):
    """Sums the night up, from what every role has recorded."""

    role = None

    def work(self, run: RunContext) -> Summary:
        """Report."""
        return night.report(run)


class RetentionOperator(NightOperator):
    """Removes what is older than the configuration allows; goes on with pending erasures."""

    role = None  # the login's own: persons are in every task's tables

    def work(self, run: RunContext) -> Summary:
        """Remove."""
        return night.retention(run)


def _tool_address(run: RunContext, destination: str) -> str:
    return _address(run, run.settings.destinations[destination]) or destination


def _address(run: RunContext, system: Any) -> str | None:
    """The namespace of a vendor's system; None where it has no connection (files)."""
    connection = getattr(system, "connection", None)
    return None if connection is None else lineage.system(run.resolve(connection))


def task_defaults() -> dict[str, Any]:
    """What all tasks of our DAGs have in common; the environment may change the retries."""
    return {
        "owner": "data-engineering",
        "retries": int(os.environ.get("KUNDENKREIS_TASK_RETRIES", "2")),
        "retry_delay": timedelta(minutes=2),
        "retry_exponential_backoff": True,
        "execution_timeout": timedelta(hours=3),
    }


def asset(*path: str) -> Asset:
    """What a task brings up to date, for DAGs of other teams to wait for: ``raw_shop``."""
    return Asset(name="_".join(path), uri=f"x-kundenkreis://{'/'.join(path)}")


def run_context(context: Context, progress: Callable[[str], None]) -> RunContext:
    """What a task needs to know of its run.

    The as-of date is the param ``as_of``, else the local date of the run's ``logical_date``
    (``run_after`` where that is null) minus one day; never ``data_interval_start``, which equals
    ``logical_date`` for a cron run in Airflow 3 (design: The night, in one line).
    """
    from kundenkreis.settings import load_settings

    settings = load_settings()
    dag_run: Any = context["dag_run"]
    params: Mapping[str, Any] = context["params"]
    return RunContext(
        run_id=dag_run.run_id,
        as_of_date=as_of_date(params.get("as_of"), dag_run, settings.local_date),
        dsn=_warehouse_dsn(),
        settings=settings,
        resolve=_airflow_connection,
        is_backfill=str(getattr(dag_run, "run_type", "")).endswith("backfill"),
        progress=progress,
    )


def as_of_date(param: str | None, dag_run: Any, local_date: Callable[[datetime], date]) -> date:
    """The night's one date.

    Raises:
        ConfigError: the param is no date.
    """
    if param:
        try:
            return date.fromisoformat(param)
        except ValueError:
            raise ConfigError(
                f"param as_of: '{param}' is no date; write it as 2026-01-31."
            ) from None
    moment = dag_run.logical_date or dag_run.run_after
    return local_date(moment) - timedelta(days=1)


def _warehouse_dsn() -> str:
    from airflow.sdk.exceptions import AirflowNotFoundException

    from kundenkreis.warehouse.connection import CONNECTION_ID, dsn_of, warehouse_dsn

    try:
        return dsn_of(_airflow_connection(CONNECTION_ID))
    except (AirflowNotFoundException, KundenkreisError):
        return warehouse_dsn()


def _airflow_connection(connection_id: str) -> Connection:
    """Find a connection in Airflow, so that every secrets backend works."""
    from airflow.sdk import Connection as AirflowConnection
    from airflow.sdk.exceptions import AirflowNotFoundException

    from kundenkreis.connections import Connection, connection_from_environment

    try:
        found = AirflowConnection.get(connection_id)
    except AirflowNotFoundException:
        return connection_from_environment(connection_id)  # raises, with what to do
    extra = found.extra_dejson if found.extra else {}
    return Connection(
        id=connection_id,
        scheme=found.conn_type or "https",
        host=found.host or "",
        port=found.port,
        login=found.login or "",
        password=found.password or "",
        path=found.schema or "",
        extra={str(key): str(value) for key, value in extra.items()},
    )


def _give_up(run: RunContext) -> None:
    """The run goes on only when somebody clears the task: no other run has to wait for it."""
    from kundenkreis.warehouse.publish import end_build

    with suppress(Exception):  # the failure that is reported comes first
        end_build(run.dsn, run.run_id)


def _record(run: RunContext, task_id: str, state: str, summary: Summary, started: datetime) -> None:
    from kundenkreis.warehouse.connection import connect

    try:
        with connect(run.dsn) as connection:
            connection.execute(
                """
                insert into operations.task_results
                    (run_id, task_id, as_of_date, state, summary, started_at)
                values (%s, %s, %s, %s, %s, %s)
                on conflict (run_id, task_id) do update set
                    state = excluded.state,
                    summary = excluded.summary,
                    started_at = excluded.started_at,
                    finished_at = now()
                """,
                (run.run_id, task_id, run.as_of_date, state, json.dumps(summary), started),
            )
    except Exception:
        if state != "failed":  # where the warehouse is what failed, the task says so
            raise
