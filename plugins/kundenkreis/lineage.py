"""What each task reads and writes, table by table, for a catalogue of lineage.

Plain data without Airflow or OpenLineage; `kundenkreis.operators.lineage` turns it into OpenLineage
events. Tables are named as OpenLineage names them (https://openlineage.io/docs/spec/naming):
``postgres://host:port`` and ``database.schema.table``. Systems are named by their address without
path, login or query.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from kundenkreis.connections import Connection
from kundenkreis.settings import home

_DEFAULT_PORT = "5432"


@dataclass(frozen=True)
class Column:
    """A column as it is documented; type and description may be empty."""

    name: str
    type: str = ""
    description: str = ""


@dataclass(frozen=True)
class Dataset:
    """A table, a list of a vendor, an audience.

    Attributes:
        rows: how many rows were written in this run; None where it is not known.
    """

    namespace: str
    name: str
    columns: tuple[Column, ...] = ()
    description: str = ""
    rows: int | None = None


@dataclass(frozen=True)
class Job:
    """One dbt model's build: a job within the task.

    Attributes:
        started_at: ISO 8601, as dbt says.
        finished_at: likewise.
        sql: the compiled statement; holds no values of rows.
    """

    name: str
    inputs: tuple[Dataset, ...]
    outputs: tuple[Dataset, ...]
    started_at: str
    finished_at: str
    sql: str = ""


@dataclass(frozen=True)
class Lineage:
    """What a task read and wrote, and the jobs within it."""

    inputs: tuple[Dataset, ...] = ()
    outputs: tuple[Dataset, ...] = ()
    jobs: tuple[Job, ...] = ()


@dataclass(frozen=True)
class Warehouse:
    """Names the tables of a warehouse."""

    namespace: str
    database: str

    def table(self, relation: str, rows: int | None = None) -> Dataset:
        """A table or view, given as ``schema.name``."""
        return Dataset(self.namespace, f"{self.database}.{relation}", rows=rows)


def warehouse(dsn: str) -> Warehouse:
    """The warehouse behind a libpq URI, without login and password."""
    from psycopg.conninfo import conninfo_to_dict

    parts = conninfo_to_dict(dsn)
    host, port = parts.get("host") or "localhost", parts.get("port") or _DEFAULT_PORT
    return Warehouse(f"postgres://{host}:{port}", str(parts.get("dbname") or "warehouse"))


def system(connection: Connection) -> str:
    """The namespace of a vendor's system: its address up to the port."""
    parts = urlsplit(connection.base_url)
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname}{port}"


def of_extract(
    source: str, tables: Mapping[str, int], address: str | None, store: Warehouse
) -> Lineage:
    """A source's lists to the tables of ``raw_<source>``.

    Args:
        tables: rows loaded by table.
        address: namespace of the source; None for files.
    """
    namespace = address or "file"
    return Lineage(
        tuple(Dataset(namespace, f"{source}.{table}") for table in tables if "__" not in table),
        tuple(store.table(f"raw_{source}.{table}", rows) for table, rows in tables.items()),
    )


def of_subscribers(destination: str, address: str, store: Warehouse) -> Lineage:
    """An email tool's contacts to what we know of them."""
    return Lineage(
        (Dataset(address, f"{destination}.contacts"),),
        (store.table("activation.subscriber_states"),),
    )


def of_predict(intermediate_schema: str, store: Warehouse) -> Lineage:
    """The aggregates of the value models to their scores."""
    written = ("parameters", "order_scores")
    return Lineage(
        (store.table(f"{intermediate_schema}.int_value_statistics"),),
        tuple(store.table(f"predictions.{name}") for name in written),
    )


def of_gate(relations: Iterable[str], store: Warehouse) -> Lineage:
    """The tables a gate looked at, to its results."""
    return Lineage(
        tuple(store.table(relation) for relation in sorted(relations)),
        (store.table("quality.gate_results"),),
    )


def of_publish(schema: str, views: Iterable[str], store: Warehouse) -> Lineage:
    """The tables of a colour to the views of ``marts``."""
    names = sorted(views)
    return Lineage(
        tuple(store.table(f"{schema}.{name}") for name in names),
        tuple(store.table(f"marts.{name}") for name in names),
    )


def of_delivery(
    destination: str, audiences: Mapping[str, Mapping[str, Any]], address: str, store: Warehouse
) -> Lineage:
    """The plan to the audiences of an email tool, and to the ledger.

    Args:
        audiences: by audience and operation, the rows in each state.
    """
    sent = {
        name: sum(counts.get("confirmed", 0) for counts in operations.values())
        for name, operations in audiences.items()
    }
    return Lineage(
        (store.table("activation.plan_rows"),),
        (
            store.table("activation.ledger"),
            *(Dataset(address, f"{destination}.{name}", rows=sent[name]) for name in sorted(sent)),
        ),
    )


def of_reconcile(
    destination: str, audiences: Iterable[str], address: str, store: Warehouse
) -> Lineage:
    """The audiences of an email tool, read back, to what differs."""
    read = (Dataset(address, f"{destination}.{name}") for name in sorted(audiences))
    return Lineage(
        (*read, store.table("activation.effective_state")), (store.table("activation.drift"),)
    )


# --------------------------------------------------------------------------- dbt


def dbt_folder(marts_schema: str) -> Path:
    """Where dbt left what it did last for a colour."""
    return home() / "dbt" / f"target_{marts_schema}"


def of_dbt(folder: Path, store: Warehouse) -> Lineage:
    """A dbt call, from its manifest and its results: a job per model, and what they have in common.

    Manifest v12 and run results v6 (https://schemas.getdbt.com) of dbt 1.11.
    """
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    results = json.loads((folder / "run_results.json").read_text(encoding="utf-8"))["results"]
    nodes = {**manifest["sources"], **manifest["nodes"]}
    built = [
        (nodes[result["unique_id"]], result)
        for result in results
        if result["status"] == "success" and nodes[result["unique_id"]]["resource_type"] in _BUILT
    ]
    jobs = tuple(_job(node, result, nodes, store) for node, result in built)
    outputs = {output: output for job in jobs for output in job.outputs}
    written = {output.name for output in outputs}
    inputs = {one.name: one for job in jobs for one in job.inputs if one.name not in written}
    return Lineage(tuple(inputs.values()), tuple(outputs), jobs)


_BUILT = ("model", "seed")


def _job(
    node: Mapping[str, Any],
    result: Mapping[str, Any],
    nodes: Mapping[str, Any],
    store: Warehouse,
) -> Job:
    parents = node.get("depends_on", {}).get("nodes", [])
    inputs = tuple(_relation(nodes[parent], store) for parent in parents if parent in nodes)
    rows = (result.get("adapter_response") or {}).get("rows_affected")
    timing = {step["name"]: step for step in result.get("timing", [])}
    executed = timing.get("execute") or {}
    return Job(
        name=f"dbt.{node['name']}",
        inputs=inputs,
        outputs=(_relation(node, store, rows if isinstance(rows, int) and rows >= 0 else None),),
        started_at=str(executed.get("started_at") or ""),
        finished_at=str(executed.get("completed_at") or ""),
        sql=str(node.get("compiled_code") or ""),
    )


def _relation(node: Mapping[str, Any], store: Warehouse, rows: int | None = None) -> Dataset:
    name = node.get("alias") or node.get("identifier") or node["name"]
    columns = tuple(
        Column(column["name"], column.get("data_type") or "", column.get("description") or "")
        for column in node.get("columns", {}).values()
    )
    return Dataset(
        store.namespace,
        f"{store.database}.{node['schema']}.{name}",
        columns,
        node.get("description") or "",
        rows,
    )
