"""Nights on a generated shop, by the night's own functions, with the time of every dbt model."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import Any

from kundenkreis import night
from kundenkreis.settings import ModelSettings, Settings, home, load_settings, repository_root
from kundenkreis.sources.config import FileDataset, FilesSourceSettings
from kundenkreis.warehouse import builds
from kundenkreis.warehouse.dbt import night_vars, run_dbt

GROUPS = {
    "orders": (
        "int_changed_orders",
        "int_refunds_unioned",
        "int_orders_unioned",
        "int_recomputed_orders",
        "int_orders",
        "int_orders_rejected",
        "int_customers_with_changed_orders",
        "int_order_lines_unioned",
        "orders",
        "order_lines",
        "products",
    ),
    "identity": (
        "int_changed_records",
        "int_source_records_unioned",
        "int_affected_records",
        "int_identity_components",
        "int_customer_identities",
        "int_records_rejected",
        "customer_source_ids",
        "history_customer_ids",
        "history_identity_changes",
    ),
    "lifecycle": (
        "int_order_days",
        "int_lifecycle_inputs_built",
        "int_customers_with_changed_stages",
        "int_lifecycle_schedule",
        "lifecycle_intervals",
        "lifecycle_projections",
        "lifecycle_transitions",
    ),
    "value inputs": (
        "int_value_inputs",
        "int_value_statistics",
        "int_changed_products",
        "int_products_built",
        "int_customers_with_changed_facts",
        "int_customer_order_facts",
    ),
    "RFM": ("int_rfm_values", "int_rfm_cutoffs", "customer_rfm"),
    "customer_360": ("customer_360",),
}
"""Models whose times are added up. All others are ``other models``."""

GROWING = ("orders", "identity", "lifecycle", "value inputs")
"""The groups that grow with history, and should cost what changed."""


# A night goes without the files that dbt writes about what it ran.
_WRITES_ITS_FILES = {"DBT_WRITE_JSON": "true"}
# https://docs.getdbt.com/reference/global-configs/indirect-selection: "empty" leaves tests out.
_ONE_MODEL_AT_A_TIME = {"KUNDENKREIS_DBT_THREADS": "1", "DBT_INDIRECT_SELECTION": "empty"}


@dataclass(frozen=True)
class Node:
    """One model, seed or test that dbt ran.

    Attributes:
        kind: ``model``, ``seed`` or ``test``.
        schema: where a model stands; empty for a test.
        seconds: dbt's execution time, hooks included.
        began, ended: of the execution; None where dbt notes none.
    """

    name: str
    kind: str
    schema: str
    seconds: float
    began: datetime | None
    ended: datetime | None


@dataclass(frozen=True)
class Night:
    """What one night took, in seconds.

    Attributes:
        schema: the colour that was built.
        tasks: wall time per task.
        nodes: what dbt ran in `transform` and `segment`.
    """

    as_of_date: date
    schema: str
    tasks: dict[str, float]
    nodes: tuple[Node, ...]

    @property
    def schemas(self) -> dict[str, str]:
        """Where each model of the night stands."""
        return {node.name: node.schema for node in self.nodes if node.schema}

    def seconds_by_group(self) -> dict[str, float]:
        """dbt's execution times, added up."""
        sums = dict.fromkeys([*GROUPS, "other models"], 0.0)
        groups = {name: group for group, names in GROUPS.items() for name in names}
        for node in self.nodes:
            sums[groups.get(node.name, "other models")] += node.seconds
        return sums


def default_settings() -> Settings:
    """The default rules and segments over the generated files."""
    settings = load_settings(repository_root() / "config")
    files = FilesSourceSettings(datasets=tuple(map(_dataset, _COLUMNS_OF_FILES)))
    return settings.model_copy(update={"model": ModelSettings(), "sources": {"files": files}})


# What a file of each kind would map; the raw tables are generated, so no file is ever read.
_COLUMNS_OF_FILES: dict[str, tuple[str, ...]] = {
    "customers": ("customer_key", "email", "created_at"),
    "orders": (
        *("order_key", "customer_key", "email"),
        *("ordered_at", "status", "currency", "total_amount"),
    ),
    "consent_events": ("email", "evidence", "occurred_at"),
}


def _dataset(entity: str) -> FileDataset:
    return FileDataset.model_validate(
        {
            "name": entity,
            "source": "shop",
            "entity": entity,
            "path": f"{entity}.csv",
            "columns": {column: column for column in _COLUMNS_OF_FILES[entity]},
        }
    )


def run_context(dsn: str, as_of_date: date, settings: Settings) -> night.RunContext:
    """The context of a night that reads no source and calls no vendor."""
    return night.RunContext(
        run_id=f"bench_{as_of_date}",
        as_of_date=as_of_date,
        dsn=dsn,
        settings=settings,
        resolve=_no_connection,
        is_backfill=False,
        progress=lambda line: None,
    )


def build(run: night.RunContext) -> Night:
    """Run `transform`, `predict` and `segment`; nothing is published yet.

    Models are built one at a time, and data tests run by themselves afterwards: beside others a
    model would be charged for the cores that they take.
    """
    tasks: dict[str, float] = {}
    with _environment({**_WRITES_ITS_FILES, **_ONE_MODEL_AT_A_TIME}):
        schema = _timed(tasks, "transform", lambda: night.transform(run))["schema_name"]
        nodes = last_dbt_nodes()
        _timed(tasks, "predict", lambda: night.predict(run, schema))
        _timed(tasks, "segment", lambda: night.segment(run, schema))
        nodes = (*nodes, *last_dbt_nodes())
    _timed(tasks, "data tests", lambda: _test(run, schema))
    return Night(run.as_of_date, schema, tasks, nodes)


def publish(run: night.RunContext, built: Night) -> Night:
    """Publish a built night, so that the next one builds the other colour."""
    tasks = dict(built.tasks)
    _timed(tasks, "publish", lambda: night.publish(run, built.schema, {}))
    return replace(built, tasks=tasks)


def gates(run: night.RunContext, schema: str) -> dict[str, dict[str, Any]]:
    """Run both gates over a built night.

    Returns:
        Per gate its ``seconds`` without the imports, Data Docs included, how many ``expectations``
        it has, and what ``stopped`` it, if anything.
    """
    import great_expectations  # noqa: F401 (not part of what is measured)

    from kundenkreis.errors import GateFailure
    from kundenkreis.quality import run_gate

    found: dict[str, dict[str, Any]] = {}
    for name in ("landing", "marts"):
        begun = time.perf_counter()
        stopped, count = "", 0
        try:
            count = run_gate(
                name, run.settings, run.dsn, run.run_id, run.as_of_date, schema, run.progress
            )["expectations"]
        except GateFailure as error:
            stopped = str(error)
        seconds = time.perf_counter() - begun
        found[name] = {"seconds": seconds, "expectations": count, "stopped": stopped}
    return found


def build_alone(run: night.RunContext, schema: str, models: Iterable[str]) -> tuple[Node, ...]:
    """Build some models in full into a colour that is not published, with nothing beside them."""
    variables = night_vars(run.settings, run.as_of_date, schema, publication_id=0, run_id="")
    with _environment(_WRITES_ITS_FILES):
        run_dbt(
            "run",
            ["--full-refresh", "--select", *models],
            dsn=run.dsn,
            variables=variables,
            progress=run.progress,
        )
        return last_dbt_nodes()


def _test(run: night.RunContext, schema: str) -> None:
    """The data tests that `transform` and `segment` run."""
    variables = night_vars(
        run.settings,
        run.as_of_date,
        schema,
        run_id=run.run_id,
        released_exchange_rates=[],
        **builds.variables_of(run.dsn, schema),
    )
    run_dbt(
        "test",
        ["--select", "tag:transform", "tag:segment", "--exclude-resource-type", "unit_test"],
        dsn=run.dsn,
        variables=variables,
        progress=run.progress,
    )


def span_seconds(nodes: Iterable[Node]) -> float:
    """From the beginning of the first model to the end of the last."""
    moments = [(node.began, node.ended) for node in nodes if node.began and node.ended]
    return (max(end for _, end in moments) - min(begin for begin, _ in moments)).total_seconds()


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def last_dbt_nodes() -> tuple[Node, ...]:
    """What the last dbt call ran, from the files that dbt leaves in its target folder.

    https://schemas.getdbt.com/dbt/run-results/v6.json and /manifest/v12.json
    """
    files = (home() / "dbt").glob("target_*/run_results.json")
    newest = max(files, key=lambda file: file.stat().st_mtime_ns)
    results = json.loads(newest.read_text())["results"]
    declared = json.loads(newest.with_name("manifest.json").read_text())["nodes"]
    ran = (_node(result, declared[result["unique_id"]]) for result in results)
    return tuple(node for node in ran if node.kind in ("model", "seed", "test"))


def _node(result: dict[str, Any], declared: dict[str, Any]) -> Node:
    kind = declared["resource_type"]
    timing = {part["name"]: part for part in result["timing"]}
    execution = timing.get("execute", {})
    return Node(
        name=declared["name"],
        kind=kind,
        schema="" if kind == "test" else declared["schema"],
        seconds=result["execution_time"],
        began=_moment(execution.get("started_at")),
        ended=_moment(execution.get("completed_at")),
    )


def _moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text.replace("Z", "+00:00")) if text else None


def _timed(tasks: dict[str, float], name: str, task: Callable[[], Any]) -> Any:
    begun = time.perf_counter()
    result = task()
    tasks[name] = time.perf_counter() - begun
    return result


def _no_connection(identifier: str) -> Any:
    raise LookupError(f"A benchmark opens no connection, not even {identifier}")
