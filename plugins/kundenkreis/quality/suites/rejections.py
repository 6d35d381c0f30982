"""How much each reason rejects: a gate of its own per reason, at load and in the models.

A few bad rows are set aside and the night goes on; one reason that takes a good part of a table is
a fault of the source, the mapping or the model, and stops it (``quality.yml``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import psycopg

from kundenkreis.quality.suites.common import (
    Check,
    TableSuite,
    expect_no_rows,
    literal,
    percent,
)
from kundenkreis.settings import QualityConfig
from kundenkreis.warehouse.publish import intermediate_schema
from kundenkreis.warehouse.quarantine import EXTRACT

# What a model's rejections of a table are a share of: the model that holds all of its rows.
ROWS_OF_MODELS = {
    "orders": "int_orders_unioned",
    "spend": "int_spend",
    "customers": "int_customer_identities",
    "contacts": "int_customer_identities",
}


@dataclass(frozen=True)
class Rejected:
    """The rows of one table that a run rejected for one reason.

    Attributes:
        where: SQL for all rows of the table that were rejected at the same place, load or models.
        rows: SQL for the number of rows of the table, these included.
        most: what the extract says it rejected in all; an attempt that was killed has left its
            rejections under the same run. None: nothing is known of that.
    """

    source: str
    table: str
    reason_code: str
    where: str
    rows: str
    most: int | None = None


def of_load(connection: psycopg.Connection, run_id: str) -> list[Rejected]:
    """What the extracts of a run rejected, table by table and reason by reason."""
    rows = connection.execute(
        """
        select
            rejected.source,
            rejected.table_name,
            rejected.reason_code,
            max((results.summary -> 'tables' ->> rejected.table_name)::numeric)::bigint,
            max((results.summary ->> 'rejected')::numeric)::bigint
        from quarantine.rejected_records as rejected
        left join operations.task_results as results
            on
                results.run_id = rejected.run_id
                and results.summary ->> 'source' = rejected.source
                and jsonb_typeof(results.summary -> 'tables') = 'object'
                and jsonb_typeof(results.summary -> 'rejected') = 'number'
        where rejected.run_id = %s and rejected.rejected_by = %s
        group by rejected.source, rejected.table_name, rejected.reason_code
        order by rejected.source, rejected.table_name, rejected.reason_code
        """,
        (run_id, EXTRACT),
    )
    found = []
    for source, table, code, loaded, rejected in rows:
        where = _where(run_id, source, table, f"rejected_by = {literal(EXTRACT)}")
        read = f"{loaded or 0} + ({_count(where)})"
        found.append(Rejected(source, table, code, where, read, rejected))
    return found


def of_models(connection: psycopg.Connection, run_id: str, marts_schema: str) -> list[Rejected]:
    """What the models of a run rejected. The models' tables hold the rejected rows as well."""
    rows = connection.execute(
        "select distinct source, table_name, reason_code from quarantine.rejected_records "
        "where run_id = %s and rejected_by <> %s order by 1, 2, 3",
        (run_id, EXTRACT),
    )
    schema = intermediate_schema(marts_schema)
    found = []
    for source, table, code in rows:
        model = ROWS_OF_MODELS.get(table)
        where = _where(run_id, source, table, f"rejected_by <> {literal(EXTRACT)}")
        rows_of_model = (
            f"select count(*) from {schema}.{model} where source = {literal(source)}"
            if model
            else _count(where)
        )
        found.append(Rejected(source, table, code, where, f"({rows_of_model})"))
    return found


def suite(gate: str, rejected: Iterable[Rejected], quality: QualityConfig) -> TableSuite:
    """One expectation per source, table and reason that the run rejected something for."""
    return TableSuite(
        "quarantine",
        # A table of its own name, as every suite: landing has one on rejected_records.
        "releases",
        tuple(_rate(gate, one, quality) for one in rejected),
    )


def _rate(gate: str, one: Rejected, quality: QualityConfig) -> object:
    limit = quality.rejected_limit(one.reason_code)
    share = limit.max_percent / 100
    own = f"{one.where} and reason_code = {literal(one.reason_code)}"
    rejected = "count(*)" if one.most is None else f"least(count(*), {one.most})"
    return expect_no_rows(
        Check(
            id=f"{gate}.rejected.{one.source}.{one.table}.{one.reason_code}",
            table="quarantine.rejected_records",
            severity="critical",
            description=f"Few rows of {one.source}, {one.table} are rejected: {one.reason_code}.",
            limit=f"at most {percent(float(share))} of the table's rows of this night, or fewer "
            f"than {limit.min_rows} rows",
            action="Look at some of them with `kundenkreis quarantine list` and correct the cause. "
            "Where so many are right to be rejected, raise the reason's limit in quality.yml.",
            find_rows=f"select table_name, record_key, reason from {own}",
            measure=f"select (select {rejected} from {own}) || ' of ' || ({one.rows}) || ' rows'",
        ),
        f"select {rejected} as rejected from {own} "
        f"having {rejected} >= {limit.min_rows} and {rejected} > {share} * ({one.rows})",
    )


def _count(where: str) -> str:
    return f"select count(*) from {where}"


def _where(run_id: str, source: str, table: str, place: str) -> str:
    return (
        f"quarantine.rejected_records where run_id = {literal(run_id)} "
        f"and source = {literal(source)} and table_name = {literal(table)} and {place}"
    )
