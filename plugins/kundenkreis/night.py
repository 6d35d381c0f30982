"""What each task of the night does, in the order of the night.

Every function takes the run's context and returns a small summary: counts and ids, never personal
data, because the summary becomes an XCom and a row of ``operations.task_results``. No function
imports Airflow; `kundenkreis.operators` wraps each in an operator.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

from kundenkreis.connections import Resolver
from kundenkreis.failpoints import reach
from kundenkreis.settings import Settings

Summary = dict[str, Any]


@dataclass(frozen=True)
class RunContext:
    """What all tasks of one run share.

    Attributes:
        run_id: Airflow's run id.
        as_of_date: the day D the whole night computes (design: The night, in one line).
        dsn: the warehouse, as a libpq URI.
        settings: the config folder's content.
        resolve: finds a connection by id.
        is_backfill: history is filled and nothing is published or sent.
        progress: takes one line at a time for a person who watches.
    """

    run_id: str
    as_of_date: date
    dsn: str
    settings: Settings
    resolve: Resolver
    is_backfill: bool
    progress: Callable[[str], None]


def prepare(run: RunContext) -> Summary:
    """Create what is missing in the warehouse."""
    from kundenkreis.warehouse.schema import ensure_schemas

    ensure_schemas(run.dsn)
    return {"as_of_date": run.as_of_date.isoformat()}


def under_role(run: RunContext, role: str) -> RunContext:
    """The run with the rights of one role in the warehouse, where the warehouse uses roles."""
    from kundenkreis.warehouse.roles import dsn_as

    return replace(run, dsn=dsn_as(run.dsn, role))


def extract(run: RunContext, source: str) -> Summary:
    """Load what changed in a source since its last cursor into ``raw_<source>``.

    A backfill reads nothing: it computes from what is there.
    """
    from kundenkreis import sources

    if _only_looks_back(run):
        run.progress(f"{source}: {_NOT_READ}")
        return {"source": source, "tables": {}, "rejected": 0, "not_read_because": _NOT_READ}
    return sources.extract(
        source, run.settings, run.resolve, run.dsn, run.run_id, run.as_of_date, run.progress
    )


def read_subscribers(run: RunContext, destination: str) -> Summary:
    """Read an email tool's own subscriber states: who unsubscribed, bounced or confirmed.

    A backfill reads none: it sends nothing.
    """
    from kundenkreis import activation

    if _only_looks_back(run):
        run.progress(f"{destination}: {_NOT_READ}")
        return {"destination": destination, "not_read_because": _NOT_READ}
    return activation.read_subscriber_states(
        destination, run.settings, run.resolve, run.dsn, run.run_id, run.progress
    )


def gate_landing(run: RunContext) -> Summary:
    """Stop the night when what landed cannot be right."""
    from kundenkreis import quality

    settings = run.settings
    if _only_looks_back(run):  # and so no email tool was read, which is nothing to warn of
        settings = settings.model_copy(update={"destinations": {}})
    return quality.run_gate(
        "landing", settings, run.dsn, run.run_id, run.as_of_date, None, run.progress
    )


def transform(run: RunContext) -> Summary:
    """Build staging, intermediate and the marts up to orders, RFM and lifecycle.

    Chooses the colour; every later task uses the one returned here.
    """
    from kundenkreis.warehouse import builds, publish

    schema = publish.begin_build(run.dsn, run.run_id, run.as_of_date, run.is_backfill)
    # A backfill takes up nothing that the next night is to take up.
    rates = _released_rates(run, with_waiting=schema != publish.BACKFILL)
    fingerprint = builds.fingerprint(_variables(run, schema, rates))
    with publish.building(run.dsn, run.run_id, schema, run.progress):
        if dropped := builds.drop_what_is_no_model(run.dsn, schema):
            run.progress(f"dropped from {schema}, no models any more: {', '.join(dropped)}")
        build = builds.begin(
            run.dsn, schema, run.as_of_date, fingerprint, sorted(run.settings.sources)
        )
    kind = f"in full: {build.full_because}" if build.full_because else "what has changed"
    run.progress(f"builds {schema}, {kind}")
    counts = _dbt_build(run, schema, "tag:transform", build.variables(), rates)
    builds.complete(run.dsn, build, run.run_id)
    reach("transform.after_build")
    publish.clear_dirty(run.dsn, schema)
    rejected = _quarantine_rejected(run, schema)
    return {
        "schema_name": schema,
        "dbt": counts,
        "rejected": rejected,
        "full_because": build.full_because,
    }


def predict(run: RunContext, schema: str) -> Summary:
    """Fit the value models on what `transform` built and score every buyer."""
    from kundenkreis import predictions
    from kundenkreis.warehouse.connection import connect
    from kundenkreis.warehouse.publish import building, intermediate_schema

    with (
        building(run.dsn, run.run_id, schema, run.progress),
        connect(run.dsn, application_name="kundenkreis predict", autocommit=True) as connection,
    ):
        return predictions.predict(
            connection,
            run.as_of_date,
            run.progress,
            intermediate_schema=intermediate_schema(schema),
        )


def segment(run: RunContext, schema: str) -> Summary:
    """Build what stands on the transformed marts: customer_360 and the segment members."""
    from kundenkreis.errors import TransformError
    from kundenkreis.warehouse import builds

    try:
        counts = _dbt_build(run, schema, "tag:segment", builds.variables_of(run.dsn, schema))
    except TransformError:
        _name_broken_segment(run, schema)
        raise
    return {"schema_name": schema, "dbt": counts}


def gate_marts(run: RunContext, schema: str) -> Summary:
    """Stop the night before a reader or a mailbox sees wrong marts."""
    from kundenkreis import quality
    from kundenkreis.errors import GateFailure
    from kundenkreis.warehouse import publish

    try:
        return quality.run_gate(
            "marts", run.settings, run.dsn, run.run_id, run.as_of_date, schema, run.progress
        )
    except GateFailure as failure:
        publish.mark_dirty(run.dsn, schema, f"gate_marts failed in run {run.run_id}")
        raise failure


def publish(run: RunContext, schema: str, gate_results: Summary) -> Summary:
    """Turn readers over to the new marts. A backfill only writes its history.

    Returns:
        ``publication_id``, None where nothing was published.
    """
    from kundenkreis.quality.gate import link_data_docs
    from kundenkreis.warehouse import contract
    from kundenkreis.warehouse import publish as publishing

    if schema == publishing.BACKFILL:
        publishing.write_history(run.dsn, run.run_id, run.as_of_date, schema)
        publishing.end_build(run.dsn, run.run_id)
        return {
            "publication_id": None,
            "schema_name": schema,
            "skipped_because": "a backfill publishes nothing",
        }
    publication = publishing.publish(
        run.dsn,
        run.run_id,
        run.as_of_date,
        schema,
        gate_results,
        wait_minutes=publishing.wait_minutes(),
        declared=contract.read_declarations(),
    )
    reach("publish.after_publish")
    link_data_docs(f"publication_{publication.publication_id}", run.run_id, run.progress)
    return {"publication_id": publication.publication_id, "schema_name": schema}


def plan(run: RunContext, schema: str, publication_id: int) -> Summary:
    """Compare what the segments want with what was delivered; nothing is sent."""
    from kundenkreis import activation
    from kundenkreis.warehouse import builds
    from kundenkreis.warehouse.publish import end_build

    activation.require_plannable(run.dsn, publication_id)
    counts = _dbt_build(run, schema, "tag:plan", builds.variables_of(run.dsn, schema))
    end_build(run.dsn, run.run_id)
    summary = activation.plan_summary(run.dsn, publication_id, run.settings)
    return {"publication_id": publication_id, "dbt": counts, "plan": summary}


def deliver(run: RunContext, destination: str, publication_id: int) -> Summary:
    """Send the plan's rows of one destination."""
    from kundenkreis import activation

    return activation.deliver(
        destination,
        run.settings,
        run.resolve,
        run.dsn,
        run.run_id,
        publication_id,
        run.progress,
    )


def reconcile(run: RunContext, destination: str, publication_id: int) -> Summary:
    """Read the audiences back and record what differs."""
    from kundenkreis import activation

    return activation.reconcile(
        destination,
        run.settings,
        run.resolve,
        run.dsn,
        run.run_id,
        publication_id,
        run.progress,
    )


def find_held(run: RunContext, publication_id: int) -> Summary:
    """What the size guard held and nobody has decided on yet, one question per segment."""
    from kundenkreis.activation import approvals

    return {"questions": approvals.questions(run.dsn, publication_id)}


def decide(run: RunContext, question: Summary, decision: str, by: str, note: str) -> Summary:
    """Record what somebody answered in Airflow about one segment. Only this row lets it go out."""
    from kundenkreis.activation import approvals
    from kundenkreis.warehouse.connection import connect

    with connect(run.dsn) as connection:
        approvals.decide(
            connection,
            question["audiences"],
            question["publication_id"],
            "approve" if decision == "approve" else "reject",
            by=by,
            place="airflow",
            note=note,
            run_id=run.run_id,
        )
    return {"segment": question["segment"], "decision": decision, "by": by}


def deliver_held(run: RunContext, question: Summary) -> Summary:
    """Send what was held and is approved now, to the tools that the question is about."""
    from kundenkreis import activation

    deliveries = [
        activation.deliver(
            destination,
            run.settings,
            run.resolve,
            run.dsn,
            run.run_id,
            question["publication_id"],
            run.progress,
            held=True,
        )
        for destination in dict.fromkeys(one["destination"] for one in question["audiences"])
    ]
    return {"segment": question["segment"], "deliveries": deliveries}


def report(run: RunContext) -> Summary:
    """One summary of the night: counts, durations, held and rejected rows."""
    from kundenkreis.status import night_report

    return night_report(run.dsn, run.run_id, run.as_of_date)


def retention(run: RunContext) -> Summary:
    """Remove what is older than ``retention.yml`` allows, and go on with pending erasures.

    It needs the rights of the login, because persons are in every task's tables.

    Returns:
        Rows per kind, and ``erasures``: erasures that are done or pending still.
    """
    from kundenkreis.privacy import erasure
    from kundenkreis.privacy.retention import apply_retention
    from kundenkreis.warehouse.connection import connect

    if _only_looks_back(run):
        return {"skipped_because": "a backfill removes nothing"}
    errand = erasure.Errand(run.dsn, run.settings, run.resolve, run.progress)
    with connect(run.dsn) as connection:
        waiting = erasure.pending(connection)
    states = [erasure.resume(errand, erasure_id).state for erasure_id in waiting]
    removed = apply_retention(errand, run.as_of_date, by=f"run {run.run_id}", leads_may_wait=True)
    return {
        "removed": {name: rows for name, rows in removed.items() if rows},
        "erasures": {state: states.count(state) for state in sorted(set(states))},
    }


_NOT_READ = "a backfill computes from what was read before"


def _only_looks_back(run: RunContext) -> bool:
    """Whether the run is a backfill of a warehouse that already has something to compute from."""
    from kundenkreis.warehouse.connection import connect
    from kundenkreis.warehouse.publish import current_publication, looks_back

    with connect(run.dsn) as connection:
        published = current_publication(connection)
    return published is not None and looks_back(published, run.as_of_date, run.is_backfill)


def _dbt_build(
    run: RunContext,
    schema: str,
    select: str,
    stands_upon: dict[str, Any],
    rates: list[dict[str, str]] | None = None,
) -> dict[str, int]:
    from kundenkreis.warehouse.dbt import run_dbt
    from kundenkreis.warehouse.publish import building

    rates = _released_rates(run) if rates is None else rates
    variables = _variables(run, schema, rates, run_id=run.run_id, **stands_upon)
    with building(run.dsn, run.run_id, schema, run.progress):
        return run_dbt(
            "build",
            ["--select", select, "--exclude-resource-type", "unit_test"],
            dsn=run.dsn,
            variables=variables,
            progress=run.progress,
        )


def _variables(
    run: RunContext, schema: str, rates: list[dict[str, str]], **more: Any
) -> dict[str, Any]:
    """The same in every call of a night: dbt parses anew where a variable differs.

    A rate that was released for an order changes the rules, so the builds after it are full ones.
    """
    from kundenkreis.warehouse.dbt import night_vars

    return night_vars(run.settings, run.as_of_date, schema, released_exchange_rates=rates, **more)


def _released_rates(run: RunContext, *, with_waiting: bool = False) -> list[dict[str, str]]:
    from kundenkreis.warehouse.connection import connect
    from kundenkreis.warehouse.releases import released_exchange_rates

    with connect(run.dsn) as connection:
        return released_exchange_rates(connection, with_waiting=with_waiting)


# Models whose rows go to the quarantine.
REJECTING_MODELS = ("int_orders_rejected", "int_records_rejected", "int_spend_rejected")


def _quarantine_rejected(run: RunContext, schema: str) -> int:
    """Keep what the models could not use, with the reason that dbt gives it."""
    from psycopg import sql

    from kundenkreis.warehouse.connection import connect
    from kundenkreis.warehouse.publish import BACKFILL, intermediate_schema
    from kundenkreis.warehouse.quarantine import Rejection, record_rejections
    from kundenkreis.warehouse.releases import close_of_model

    rejected = 0
    with connect(run.dsn) as connection:
        for model in REJECTING_MODELS:
            query = sql.SQL(
                "select source, table_name, record_key, reason_code, reason, payload::jsonb from {}"
            ).format(sql.Identifier(intermediate_schema(schema), model))
            rows = connection.execute(query).fetchall()
            rejections = (
                Rejection(source, table, key, code, reason, payload, model)
                for source, table, key, code, reason, payload in rows
            )
            rejected += record_rejections(connection, rejections, run.run_id)
            if schema != BACKFILL:  # an older day rejects less
                close_of_model(connection, model, run.run_id)
    return rejected


def _name_broken_segment(run: RunContext, schema: str) -> None:
    """A wrong `where` or `requires` fails the whole model; say which segment's it is.

    Raises:
        ConfigError: names the file, the segment and the database's message.
    """
    from kundenkreis.segment_conditions import refuse_broken
    from kundenkreis.warehouse.connection import connect

    with connect(run.dsn, autocommit=True) as connection:
        for key, segment in run.settings.active_segments.items():
            relation = f"{schema}.customer_360"
            refuse_broken(connection, run.settings, key, segment, relation, evaluate=False)
