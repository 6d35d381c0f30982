"""Gate ``marts``: stages and the key figures made of them (design: Lifecycle stage)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kundenkreis.quality import limits
from kundenkreis.quality.facts import MartsFacts
from kundenkreis.quality.suites.common import literal, literals
from kundenkreis.quality.suites.rules import (
    changes_add_up,
    changes_alike,
    checksum_of,
    key,
    no_orphans,
    revenue,
    rule,
)
from kundenkreis.settings import Settings

STAGES = (
    "reach",
    "acquisition",
    "dormant_lead",
    "conversion",
    "development",
    "retention",
    "loyalty",
    "at_risk",
    "churned",
    "reactivated",
)


def lifecycle_intervals(settings: Settings, facts: MartsFacts) -> Iterator[Any]:
    """Stages: one at a time, without gap or overlap."""
    schema = facts.schema
    table = f"{schema}.lifecycle_intervals"
    day = f"date '{facts.as_of_date}'"
    proven = "stays" in facts.agreed
    yield rule(
        "lifecycle_intervals",
        "known_stages",
        "Every interval has one of the stages of the model.",
        f"select stage, count(*) as intervals from {table} where {_UNKNOWN_STAGE} group by stage",
        limit=", ".join(STAGES),
        proven=proven,
    )
    yield from no_orphans("lifecycle_intervals", facts, proven=proven)
    yield rule(
        "lifecycle_intervals",
        "one_open_interval",
        "Every customer with a history is in exactly one stage now.",
        f"""
            select customer_id, count(*) filter (where valid_to is null) as open_intervals
            from {table} group by customer_id
            having count(*) filter (where valid_to is null) <> 1
        """,
        limit="one interval per customer with valid_to empty",
        proven=proven,
    )
    yield rule(
        "lifecycle_intervals",
        "no_gap_no_overlap",
        "A customer's intervals follow each other without gap and overlap.",
        f"""
            select customer_id, valid_from
            from (
                select
                    customer_id,
                    valid_from,
                    valid_to,
                    lead(valid_from) over (
                        partition by customer_id order by valid_from, valid_to nulls last
                    ) as next_from
                from {table}
            ) as ordered
            where valid_from is null
                or valid_to <= valid_from
                or next_from is distinct from valid_to
        """,
        limit="valid_to equals the next valid_from",
        proven=proven,
    )
    yield rule(
        "lifecycle_intervals",
        "begins_by_as_of",
        "No interval begins after the as-of date.",
        f"select customer_id, valid_from from {table} where valid_from > {day}",
        limit=f"valid_from not after {facts.as_of_date}",
        proven=proven,
    )
    if facts.exists(schema, "customer_rfm"):
        yield rule(
            "lifecycle_intervals",
            "buyers_are_past_acquisition",
            "Nobody with an order that counts is still a lead.",
            f"""
                select interval.customer_id from {table} as interval
                inner join {schema}.customer_rfm as rfm
                    on rfm.customer_id = interval.customer_id
                where interval.valid_to is null
                    and interval.stage in ({literals(_LEADS)})
            """,
            proven="scored customers" in facts.agreed,
        )


_LEADS = ("reach", "acquisition", "dormant_lead")
_UNKNOWN_STAGE = f"coalesce(stage, '') not in ({literals(STAGES)})"


def stays_in_order(facts: MartsFacts) -> str:
    """SQL that says whether everybody's intervals follow each other, begun, in known stages; or "".

    Where each interval ends later than it begins, and on a day on which another of the customer's
    begins, all but the last, then they form one chain. So of the days on which intervals begin,
    those on which they end are taken away, and the first day of each customer must be over; summed
    up as checksums of customer and day, which needs neither sorting nor grouping.
    """
    schema = facts.schema
    if not facts.exists(schema, "lifecycle_intervals") or not facts.exists(
        schema, "customers", "first_seen_on"
    ):
        return ""

    def checksum(day: str) -> str:
        return f"coalesce(sum(hashtextextended(customer_id, {day} - date '2000-01-01')), 0)"

    return f"""
        select stays.broken = 0 and stays.checksum = first_days.checksum
        from (
            select
                count(*) filter (
                    where {_UNKNOWN_STAGE}
                    or customer_id is null
                    or valid_from is null
                    or valid_from > date '{facts.as_of_date}'
                    or valid_to <= valid_from
                ) as broken,
                {checksum("valid_from")} - {checksum("valid_to")} as checksum
            from {schema}.lifecycle_intervals
        ) as stays
        cross join (
            select {checksum("first_seen_on")} as checksum from {schema}.customers
        ) as first_days
    """


def lifecycle_projections(settings: Settings, facts: MartsFacts) -> Iterator[Any]:
    """Coming stages lie ahead."""
    proven = "projections" in facts.agreed
    yield from no_orphans("lifecycle_projections", facts, proven=proven)
    yield rule(
        "lifecycle_projections",
        "in_the_future",
        "Projected stages begin after the as-of date.",
        f"select customer_id, from_date from {facts.schema}.lifecycle_projections "
        f"where from_date is null or from_date <= date '{facts.as_of_date}'",
        limit=f"from_date after {facts.as_of_date}",
        proven=proven,
    )


def projections_ahead(facts: MartsFacts) -> str:
    """SQL that says whether all projections are of known customers and lie ahead; or ""."""
    if not all(
        facts.exists(facts.schema, table) for table in ("lifecycle_projections", "customers")
    ):
        return ""
    # Counted, because to find one PostgreSQL would look up every row by itself.
    return f"""
        select count(*) = 0
        from {facts.schema}.lifecycle_projections as coming
        left join {facts.schema}.customers as customer
            on customer.customer_id = coming.customer_id
        where customer.customer_id is null
            or coming.from_date is null
            or coming.from_date <= date '{facts.as_of_date}'
    """


def kpi_daily(settings: Settings, facts: MartsFacts) -> Iterator[Any]:
    """The key figures of the days."""
    table = f"{facts.schema}.kpi_daily"
    percent = settings.model.churn_rate_alarm_percent
    limit = "1.5 times the mean of the 90 days before" if percent is None else f"{percent} %"
    alarmed = (
        f"select day, churn_rate from {table} where day = date '{facts.as_of_date}' and churn_alarm"
    )
    yield rule(
        "kpi_daily",
        "churn_alarm",
        "The share of buyers lost within 30 days is not much larger than it was.",
        alarmed,
        severity="warning",
        limit=f"churn_rate up to {limit}",
        action="Compare kpi_stage_conversion and lifecycle_matrix_monthly with the months before: "
        "who is lost, and from which stage? Set churn_rate_alarm_percent in model.yml if this is "
        "usual for the shop.",
        measure=f"select 'churn_rate ' || churn_rate from ({alarmed}) as t",
    )
    yield _rule_of_night("kpi_daily", "day", facts)
    if facts.exists(facts.schema, "lifecycle_intervals"):
        yield rule(
            "kpi_daily",
            "stages_reconcile",
            "The customers per stage of the as-of day are those of the intervals.",
            f"""
                select counted.stage, counted.customers, open_now.customers as intervals
                from ({_stages_of_day(facts)}) as counted
                full outer join (
                    select stage, count(*) as customers
                    from {facts.schema}.lifecycle_intervals where valid_to is null group by stage
                ) as open_now on open_now.stage = counted.stage
                where coalesce(counted.customers, 0) <> coalesce(open_now.customers, 0)
            """,
            limit="no stage with another number",
            proven="customers by stage" in facts.agreed,
        )
    if facts.exists(facts.schema, "orders"):
        yield rule(
            "kpi_daily",
            "reconciles_with_orders",
            "The orders and the revenue of all days are those of the orders that count.",
            f"""
                select shown.orders, counted.orders as orders_found
                from (
                    select coalesce(sum(orders), 0) as orders,
                        coalesce(sum(revenue), 0) as revenue
                    from {table}
                ) as shown
                cross join (
                    select count(*) as orders, coalesce(sum({revenue(settings)}), 0) as revenue
                    from {facts.schema}.orders where is_counted
                ) as counted
                where shown.orders <> counted.orders
                    or abs(shown.revenue - counted.revenue) > {limits.RECONCILIATION_TOLERANCE}
            """,
            limit="no difference",
            proven="days of orders" in facts.agreed,
        )


def _stages_of_day(facts: MartsFacts) -> str:
    """SQL for the customers per stage that kpi_daily shows of the as-of day."""
    shown = ", ".join(f"({literal(stage)}, customers_{stage})" for stage in STAGES)
    return f"""
        select shown.stage, shown.customers
        from {facts.schema}.kpi_daily
        cross join lateral (values {shown}) as shown (stage, customers)
        where day = date '{facts.as_of_date}'
    """


def _rule_of_night(table: str, column: str, facts: MartsFacts) -> Any:
    """The mart has its one row of the as-of day."""
    return rule(
        table,
        "of_this_night",
        "The as-of day has its row.",
        f"""
            select found.days from (
                select count(*) as days from {facts.schema}.{table}
                where {column} = date '{facts.as_of_date}'
            ) as found
            where found.days <> 1
                and exists (select 1 from {facts.schema}.lifecycle_intervals)
        """,
        limit="one row of the as-of day",
    )


def kpi_history(settings: Settings, facts: MartsFacts) -> Iterator[Any]:
    """What this night adds to history.kpi_daily."""
    if facts.exists(facts.schema, "lifecycle_intervals"):
        yield _rule_of_night("history_kpi_daily", "as_of_date", facts)


def stage_changes(settings: Settings, facts: MartsFacts) -> Iterator[Any]:
    """The changes of stage that this night adds to history."""
    schema = facts.schema
    yield key("history_stage_changes", facts, "customer_id")
    if facts.exists("history", "stage_changes") and facts.exists(schema, "lifecycle_intervals"):
        yield changes_add_up(
            "history_stage_changes",
            facts,
            "stages",
            "to_stage",
            _stages_now(facts),
            "no customer whose recorded stage is another",
            proven="stage changes" in facts.agreed,
        )


AGREEMENTS = ("stage changes", "customers by stage", "few stage changes", "scored customers")


def stage_changes_alike(facts: MartsFacts) -> str:
    """SQL for the `AGREEMENTS` about the stages of now; or "".

    Recorded changes and customer_360 give the stages of the open intervals; kpi_daily has as many
    customers in each; where the publication is what was recorded last, this night's changes are
    those since, of which there are few; and customer_360 shows a code for those who have an RFM
    row, none of them a lead.
    """
    schema = facts.schema
    if not (
        facts.exists("history", "stage_changes")
        and facts.exists(schema, "history_stage_changes", "from_stage")
        and facts.exists(schema, "lifecycle_intervals")
        and facts.exists(schema, "customer_360", "stage", "rfm_code")
        and facts.exists(schema, "customer_rfm", "rfm_code")
        and facts.exists(schema, "kpi_daily", *(f"customers_{stage}" for stage in STAGES))
    ):
        return ""
    alike = changes_alike(
        "history_stage_changes", facts, "from_stage", "to_stage", _stages_now(facts)
    )
    stage_checksum = checksum_of("stage")
    code_checksum = checksum_of("rfm_code")
    return f"""
        select
            recorded.is_alike and wide.checksum = recorded.checksum,
            recorded.is_alike and wide.checksum = recorded.checksum and wide.differing = 0,
            recorded.is_alike and wide.checksum = recorded.checksum and {_few_changes(facts)},
            recorded.is_alike and wide.checksum = recorded.checksum
                and wide.scored = rfm.customers and wide.codes = rfm.codes and wide.scored_leads = 0
        from ({alike}) as recorded (is_alike, checksum)
        cross join (
            select
                coalesce(sum(by_stage.checksum), 0) as checksum,
                coalesce(sum(by_stage.customers), 0) as customers,
                coalesce(sum(by_stage.scored), 0) as scored,
                coalesce(sum(by_stage.codes), 0) as codes,
                coalesce(sum(by_stage.scored) filter (
                    where by_stage.stage in ({literals(_LEADS)})
                ), 0) as scored_leads,
                count(*) filter (
                    where coalesce(by_stage.customers, 0) <> coalesce(shown.customers, 0)
                ) as differing
            from (
                select stage, count(*) as customers, sum({stage_checksum}) as checksum,
                    count(rfm_code) as scored, sum({code_checksum}) as codes
                from {schema}.customer_360 group by stage
            ) as by_stage
            full outer join ({_stages_of_day(facts)}) as shown on shown.stage = by_stage.stage
        ) as wide
        cross join (
            select count(*) as customers, coalesce(sum({code_checksum}), 0) as codes
            from {schema}.customer_rfm
        ) as rfm
    """


def _few_changes(facts: MartsFacts) -> str:
    """SQL that says whether few whom the last publication knew changed; false where it is older.

    A night of the same day, or one that was recorded since without being shown, is no measure.
    """
    before = facts.published_as_of
    if before is None or before >= facts.as_of_date:
        return "false"
    return f"""
        not exists (
            select 1 from history.stage_changes
            where as_of_date > date '{before}' and as_of_date < date '{facts.as_of_date}'
        )
        and (
            select count(*) filter (where from_stage is not null)
                <= {limits.STAGE_CHANGES_SHARE}
                * (wide.customers - count(*) filter (where from_stage is null))
            from {facts.schema}.history_stage_changes
        )
    """


def _stages_now(facts: MartsFacts) -> str:
    return (
        f"select customer_id, stage as value from {facts.schema}.lifecycle_intervals "
        "where valid_to is null"
    )
