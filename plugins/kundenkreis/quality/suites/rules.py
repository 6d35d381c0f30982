"""What the suites of the gate ``marts`` are made of: a rule is a query that finds nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kundenkreis.quality.facts import MartsFacts, end_of_day
from kundenkreis.quality.suites.common import Check, Severity, expect_no_rows
from kundenkreis.settings import Settings

# The model to look at when a mart is wrong.
MODELS: Mapping[str, str] = {
    "customers": "int_customer_profiles",
    "customer_source_ids": "int_customer_identities",
    "contactability": "int_contactability",
    "orders": "int_orders",
    "customer_rfm": "int_rfm_values and customer_rfm",
    "history_rfm_cutoffs": "int_rfm_cutoffs",
    "history_rfm_segment_changes": "history_rfm_segment_changes",
    "lifecycle_intervals": "int_lifecycle_schedule",
    "lifecycle_projections": "int_lifecycle_schedule",
    "customer_value": "int_value_statistics and customer_value",
    "history_value_parameters": "history_value_parameters",
    "segment_members": "segment_members, int_segment_matches and int_holdout_draws",
    "kpi_holdout_lift": "kpi_holdout_lift",
    "customer_360": "customer_360",
    "kpi_daily": "kpi_daily",
    "history_stage_changes": "history_stage_changes",
    "history_kpi_daily": "history_kpi_daily",
}
REBUILD = "Then run the night again: it builds this schema afresh."


def rule(
    table: str,
    name: str,
    description: str,
    rows: str,
    *,
    action: str | None = None,
    limit: str = "no row",
    severity: Severity = "critical",
    measure: str | None = None,
    proven: bool = False,
) -> Any:
    """An expectation that a query on the marts finds nothing.

    Args:
        proven: it is known to find nothing (`agreements`); PostgreSQL then reads nothing either.
    """
    return expect_no_rows(
        Check(
            id=f"marts.{table}.{name}",
            table=table,
            severity=severity,
            description=description,
            limit=limit,
            action=action or look_at(table, severity),
            find_rows=rows,
            measure=measure,
        ),
        f"select * from ({rows}) as checked where false" if proven else None,
    )


def look_at(table: str, severity: Severity) -> str:
    """What to do where a model is to blame."""
    rebuild = f" {REBUILD}" if severity == "critical" else ""
    return f"Look at the model {MODELS[table]} with these rows.{rebuild}"


KEYS: Mapping[str, tuple[str, ...]] = {
    "customers": ("customer_id",),
    "customer_source_ids": ("source", "source_record_type", "source_id"),
    "contactability": ("customer_id", "channel", "address"),
    "segment_members": ("segment", "customer_id"),
}
"""Keys of tables so large that `keys_apart` asks first."""


def key_agreement(table: str) -> str:
    """The name of the agreement about a key."""
    return f"key of {table}"


def keys_apart(facts: MartsFacts, table: str) -> str:
    """SQL that says whether all keys of a table differ, and none is empty; or "".

    Whole numbers of eight bytes sort many times faster than texts. Two keys with one checksum make
    it false, and the rule looks for itself.
    """
    columns = KEYS[table]
    if not facts.exists(facts.schema, table, *columns):
        return ""
    checksum = "0"
    for column in columns:
        checksum = f"hashtextextended(cast({column} as text), {checksum})"
    return f"select count(*) = count(distinct {checksum}) from {facts.schema}.{table}"


def key(table: str, facts: MartsFacts, *columns: str, proven: bool = False) -> Any:
    """The columns identify a row, and none of them is empty."""
    columns = columns or KEYS[table]
    proven = proven or key_agreement(table) in facts.agreed
    key = ", ".join(columns)
    any_null = " or ".join(f"{column} is null" for column in columns)
    return rule(
        table,
        "key",
        f"One row per {key}, and none without.",
        f"""
            select {key}, count(*) as rows_found from {facts.schema}.{table}
            group by {key} having count(*) > 1 or {any_null}
        """,
        limit="no key twice, none empty",
        proven=proven,
    )


def no_orphans(
    table: str,
    facts: MartsFacts,
    key: str = "customer_id",
    *,
    proven: bool = False,
) -> Iterator[Any]:
    """Every customer_id of the table is a customer's."""
    if not facts.exists(facts.schema, "customers"):
        return
    selected = key if key == "customer_id" else f"{key}, customer_id"
    yield rule(
        table,
        "known_customers",
        "Every row belongs to a known customer.",
        f"""
            select {selected} from {facts.schema}.{table} as child
            where customer_id is not null
                and not exists (
                    select 1 from {facts.schema}.customers as parent
                    where parent.customer_id = child.customer_id
                )
        """,
        limit="no unknown customer_id",
        proven=proven,
    )


def no_objectors(table: str, facts: MartsFacts) -> Iterator[Any]:
    """Nobody in the table objected to profiling."""
    if not facts.exists(facts.schema, "customers", "has_profiling_objection"):
        return
    yield rule(
        table,
        "no_profiling_objection",
        "Nobody who objected to profiling is scored.",
        f"""
            select scored.customer_id from {facts.schema}.{table} as scored
            inner join {facts.schema}.customers as customer
                on customer.customer_id = scored.customer_id
            where customer.has_profiling_objection
        """,
        limit="no customer with has_profiling_objection",
    )


def same_customers(
    facts: MartsFacts, table: str, other: str, *, other_has_many: bool = False
) -> str:
    """SQL that says whether two marts have the same customers, each as often; or "".

    Args:
        other_has_many: the other one may have several rows of a customer, which count as one.
    """
    schema = facts.schema
    if not all(facts.exists(schema, name, "customer_id") for name in (table, other)):
        return ""

    def counted(name: str, distinct: str = "") -> str:
        customers = f"select {distinct} hashtextextended(customer_id, 0) as customer"
        return f"""
            select count(*) as customers, sum(customer) as checksum
            from ({customers} from {schema}.{name}) as listed
        """

    return f"""
        select one.customers = other.customers
            and one.checksum is not distinct from other.checksum
        from ({counted(table)}) as one
        cross join ({counted(other, "distinct" if other_has_many else "")}) as other
    """


def changes_add_up(
    table: str,
    facts: MartsFacts,
    what: str,
    column: str,
    now: str,
    limit: str,
    *,
    proven: bool,
) -> Any:
    """What earlier nights recorded of customers, and this night adds, says what the marts say.

    Args:
        table: ``history_<name>``, of which ``history.<name>`` keeps the earlier nights.
        what: in words.
        column: of the table, what a customer changed to.
        now: a query for customer_id and value, as the marts have it.
    """
    return rule(
        table,
        "add_up",
        f"What earlier nights recorded and this night's changes give the {what} of now.",
        f"""
            select coalesce(recorded.customer_id, present.customer_id) as customer_id
            from (
                select distinct on (customer_id) customer_id, {column}
                from ({_every_change(table, facts, "customer_id", column, "as_of_date")})
                    as every_change
                order by customer_id, as_of_date desc
            ) as recorded
            full outer join ({now}) as present on present.customer_id = recorded.customer_id
            where recorded.{column} is distinct from present.value
        """,
        limit=limit,
        proven=proven,
    )


def changes_alike(table: str, facts: MartsFacts, from_column: str, to_column: str, now: str) -> str:
    """SQL that says whether `changes_add_up` without following each customer through history.

    Each change leaves one value for another. So of all that customers changed to, what they left
    again is taken away, and what they have now must be over; summed up as checksums, which needs no
    sorting of a history that only grows. The checksum of now is its second column.
    """
    left, taken, value = (checksum_of(column) for column in (from_column, to_column, "value"))
    return f"""
        select changed.checksum = present.checksum, present.checksum
        from (
            select coalesce(sum({taken}), 0) - coalesce(sum({left}), 0) as checksum
            from ({_every_change(table, facts, "customer_id", from_column, to_column)})
                as every_change
        ) as changed
        cross join (
            select coalesce(sum({value}), 0) as checksum from ({now}) as every_customer
        ) as present
    """


def checksum_of(value: str) -> str:
    """SQL for the checksum of a customer's value, a column; null where there is none."""
    return f"hashtextextended({value}, hashtextextended(customer_id, 0))"


def _every_change(table: str, facts: MartsFacts, *columns: str) -> str:
    selected = ", ".join(columns)
    return f"""
        select {selected} from history.{table.removeprefix("history_")}
        where as_of_date < date '{facts.as_of_date}'
        union all
        select {selected} from {facts.schema}.{table}
    """


def comparable(facts: MartsFacts) -> bool:
    """Whether the published marts are an earlier state of these (a backfill's are not)."""
    return facts.is_newer and facts.exists(
        "marts", "segment_members", "segment", "customer_id", "member_since", "is_holdout"
    )


def as_of_end(settings: Settings, facts: MartsFacts) -> str:
    """The end of the as-of day as an SQL literal."""
    end = end_of_day(facts.as_of_date, settings.model.business_timezone)
    return f"timestamptz '{end.isoformat(sep=' ')}'"


def revenue(settings: Settings) -> str:
    """The column of orders with the revenue that counts (design: Orders under one policy)."""
    is_net = settings.model.refund_policy == "net"
    return "revenue_after_refunds" if is_net else "revenue_before_refunds"
