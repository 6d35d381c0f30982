"""Gate ``landing``: is what arrived complete, fresh and plausible?

Reads the raw tables of the enabled sources, the rejected rows of this run and the subscriber
states of the email tools. Design: section 1 (``gate_landing``) and section 4 (Orders, Consent).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from kundenkreis.quality import limits
from kundenkreis.quality.facts import LandingFacts
from kundenkreis.quality.suites import landing_days
from kundenkreis.quality.suites.common import (
    Check,
    Severity,
    TableSuite,
    expect,
    expect_no_rows,
    literal,
    literals,
    percent,
)
from kundenkreis.quality.suites.landed import (
    FILE_STATUSES,
    LOADER_FAULT,
    WOOCOMMERCE_STATUSES,
    Feed,
    Landed,
    feeds,
    landed_tables,
)
from kundenkreis.settings import Settings

# Orders that the order policy cannot use go to quarantine after this gate (int_orders_rejected);
# a gate that is repeated must not count them.
REJECTED_BY_THE_MODELS = (
    "no_exchange_rate",
    "order_without_amount",
    "order_without_currency",
    "order_without_date",
)


# UTF-8 read as Latin-1 or Windows-1252, and what could not be read at all (U+FFFD).
_DAMAGED = "\u00c3[\u0080-\u00bf\u0152-\u0178\u2013-\u2122]|\u00e2\u20ac|\ufffd"


def suites(settings: Settings, facts: LandingFacts) -> list[TableSuite]:
    """The gate's suites: first what exists, then each table that does.

    A table that is missing fails its existence check, so it needs no further expectations.
    """
    sources = landed_tables(settings)
    found = [_catalogue(sources), _rejections(sources, facts)]
    for source, tables in sources.items():
        for landed in tables:
            if facts.exists(f"raw_{source}", landed.table):
                found.append(
                    TableSuite(
                        f"raw_{source}",
                        landed.table,
                        tuple(_table_expectations(source, landed, settings, facts)),
                    )
                )
    found.append(landing_days.days(settings, facts))
    if settings.destinations and facts.exists("activation", "subscriber_states"):
        found.append(_subscriber_states(settings, facts))
    return [suite for suite in found if suite.expectations]


# ------------------------------------------------------------------------------- catalogue


def _catalogue(sources: dict[str, tuple[Landed, ...]]) -> TableSuite:
    """Tables exist and can be read; their columns have one type, and it is the declared one."""
    expectations = []
    for source, tables in sources.items():
        schema = f"raw_{source}"
        if tables:
            expectations.append(_tables_exist(schema, [landed.table for landed in tables]))
        expectations.append(_no_variant_columns(schema))
        if tables:
            expectations.append(_column_types(schema, tables))
    return TableSuite("information_schema", "columns", tuple(expectations))


def _tables_exist(schema: str, tables: list[str]) -> Any:
    required = ", ".join(f"({literal(table)})" for table in tables)
    missing = f"""
        select required.table_name
        from (values {required}) as required (table_name)
        where not exists (
            select 1
            from information_schema.columns as existing
            where existing.table_schema = {literal(schema)}
                and existing.table_name = required.table_name
        )
    """
    return expect_no_rows(
        Check(
            id=f"landing.{schema}.tables_exist",
            table=schema,
            severity="critical",
            description="Every table of the source has been landed and can be read.",
            limit="no table missing: " + ", ".join(tables),
            action="Look at the log of this source's extract task, and check that the "
            "warehouse login may read the schema.",
            find_rows=missing,
            measure=f"select 'missing: ' || string_agg(table_name, ', ') from ({missing}) as t",
        )
    )


def _no_variant_columns(schema: str) -> Any:
    variants = f"""
        select existing.table_name, existing.column_name
        from information_schema.columns as existing
        where existing.table_schema = {literal(schema)}
            and existing.column_name like '%\\_\\_v\\_%'
    """
    return expect_no_rows(
        Check(
            id=f"landing.{schema}.no_variant_columns",
            table=schema,
            severity="critical",
            description="No column came in two types (dlt would add a variant column).",
            limit="no column named *__v_*",
            action="Values of another type were landed beside the column and would be missing "
            "from it. Correct the type in the source's mapping, drop the variant column and "
            "load the table again.",
            find_rows=variants,
            measure="select string_agg(table_name || '.' || column_name, ', ') "
            f"from ({variants}) as t",
        )
    )


def _column_types(schema: str, tables: Iterable[Landed]) -> Any:
    declared = ", ".join(
        f"({literal(landed.table)}, {literal(column)}, {literal(kind)})"
        for landed in tables
        for kind, columns in (
            ("time", landed.times),
            ("number", (*landed.not_negative, *filter(None, [landed.amount]))),
        )
        for column in columns
    )
    other = f"""
        select existing.table_name, existing.column_name, existing.data_type
        from information_schema.columns as existing
        inner join (values {declared}) as declared (table_name, column_name, kind)
            on declared.table_name = existing.table_name
            and declared.column_name = existing.column_name
        where existing.table_schema = {literal(schema)}
            and not (
                declared.kind = 'time'
                and existing.data_type in ('timestamp with time zone', 'date')
            )
            and not (
                declared.kind = 'number'
                and existing.data_type in ('numeric', 'bigint', 'integer')
            )
    """
    return expect_no_rows(
        Check(
            id=f"landing.{schema}.column_types",
            table=schema,
            severity="critical",
            description="Times have a time zone, and money is decimal.",
            limit="timestamp with time zone or date; numeric, bigint or integer",
            action="The column was changed by hand, or a source was changed. Rename the table and "
            "load it again from the start.",
            find_rows=other,
            measure="select string_agg(table_name || '.' || column_name || ' is ' || data_type, "
            f"', ') from ({other}) as t",
        )
    )


# ------------------------------------------------------------------------------ rejected rows


def _rejections(sources: dict[str, tuple[Landed, ...]], facts: LandingFacts) -> TableSuite:
    expectations = []
    if facts.exists("quarantine", "rejected_records"):
        for source in sources:
            expectations += [
                _rejected_rate(
                    source,
                    sources[source],
                    facts,
                    "critical",
                    limits.REJECTED_CRITICAL_SHARE,
                    limits.REJECTED_CRITICAL_ROWS,
                ),
                _rejected_rate(
                    source,
                    sources[source],
                    facts,
                    "warning",
                    limits.REJECTED_WARNING_SHARE,
                    limits.REJECTED_WARNING_ROWS,
                ),
            ]
    return TableSuite("quarantine", "rejected_records", tuple(expectations))


def _rejected_rate(
    source: str,
    tables: Iterable[Landed],
    facts: LandingFacts,
    severity: Severity,
    share: float,
    rows: int,
) -> Any:
    of_this_run = (
        "from quarantine.rejected_records "
        f"where run_id = {literal(facts.run_id)} and source = {literal(source)} "
        f"and reason_code not in ({literals(REJECTED_BY_THE_MODELS)})"
    )
    read = _rows_read(source, tables, facts)
    rejected = "count(*)"
    if extracted := facts.extracted.get(source):
        # An attempt that was killed has left its rejections under the same run id.
        rejected = f"least(count(*), {extracted.rejected})"
    return expect_no_rows(
        Check(
            id=f"landing.raw_{source}.rejected_rows.{severity}",
            table="quarantine.rejected_records",
            severity=severity,
            description=f"Few rows that {source} sent were unusable in this run.",
            limit=f"at most {percent(share)} of the rows read, or fewer than {rows} rows",
            action="Read the reasons in quarantine.rejected_records. Correct the data or the "
            "mapping at the source; a row is read again when it changes there.",
            find_rows=f"select table_name, record_key, reason_code, reason {of_this_run}",
            measure=f"""
                select
                    sum(rejected) || ' rejected, ' || ({read}) || ' loaded ('
                    || string_agg(reason_code || ' ' || rejected, ', ' order by rejected desc)
                    || ')'
                from (
                    select reason_code, count(*) as rejected {of_this_run} group by reason_code
                ) as reasons
            """,
        ),
        f"""
            select {rejected} as rejected {of_this_run}
            having {rejected} >= {rows} and {rejected} > {share} * (({read}) + {rejected})
        """,
    )


def _rows_read(source: str, tables: Iterable[Landed], facts: LandingFacts) -> str:
    """SQL for the rows this run loaded; the rows of the raw tables where the run does not say."""
    if extracted := facts.extracted.get(source):
        return str(extracted.rows)
    counts = [
        f"(select count(*) from raw_{source}.{landed.table})"
        for landed in tables
        if facts.exists(f"raw_{source}", landed.table)
    ]
    return " + ".join(counts) or "0"


# ------------------------------------------------------------------------------- raw tables


def _table_expectations(
    source: str, landed: Landed, settings: Settings, facts: LandingFacts
) -> Iterator[Any]:
    import great_expectations.expectations as gxe

    name = f"raw_{source}.{landed.table}"
    yield expect(
        gxe.ExpectTableColumnsToMatchSet,
        Check(
            id=f"landing.{name}.columns",
            table=name,
            severity="critical",
            description="The table has every column the models read.",
            limit="present: " + ", ".join(sorted(landed.columns())),
            action="The vendor stopped sending a field, or the connector's mapping changed. "
            "Compare the extract task's log with the source's documentation.",
        ),
        column_set=sorted(landed.columns()),
        exact_match=False,
    )
    yield from _volume(name, facts)
    yield from _keys(name, landed)
    yield from _complete(name, landed)
    yield from _plausible(name, landed, facts)
    if landed.status:
        yield from _known_statuses(name, landed, _statuses(source, settings))
    yield from _texts(name, landed, facts)
    for feed in feeds(settings):
        if feed.name == name:
            yield from _fresh(feed, facts)
    if landed.told_apart_by:
        yield _no_second_copy(name, landed, facts)
    if landed.parent and facts.exists(f"raw_{source}", landed.parent[1]):
        yield _has_parent(f"raw_{source}", landed)


def _volume(name: str, facts: LandingFacts) -> Iterator[Any]:
    """Row count against earlier runs; on the first night anything goes and is remembered."""
    import great_expectations.expectations as gxe

    check_id = f"landing.{name}.volume"
    usual = facts.usual_volume(check_id)
    least = int((usual or 0) * limits.VOLUME_CRITICAL_SHARE)
    forget = f"delete from quality.gate_results where expectation_id = {literal(check_id)}"
    yield expect(
        gxe.ExpectTableRowCountToBeBetween,
        Check(
            id=check_id,
            table=name,
            severity="critical",
            description="The table did not lose a large part of its rows.",
            limit=f"at least {least} rows (usual: {usual})" if usual else "any (first run)",
            action="Raw tables only grow, so rows were lost: restore them or load the source "
            f"again from the start. If the fall is intended, forget the history with: {forget}",
        ),
        min_value=least,
    )
    if usual is None:
        return
    least = int(usual * limits.VOLUME_WARNING_SHARE)
    most = None
    if len(facts.volumes[check_id]) >= limits.VOLUME_GROWTH_MIN_RUNS:
        most = max(usual * limits.VOLUME_GROWTH_FACTOR, usual + limits.VOLUME_GROWTH_MIN_ROWS)
    yield expect(
        gxe.ExpectTableRowCountToBeBetween,
        Check(
            id=f"landing.{name}.volume_drift",
            table=name,
            severity="warning",
            description="The table has about as many rows as in the last runs.",
            limit=f"{least} to {most or 'any number of'} rows (usual: {usual})",
            action="Ask who owns the source whether data was removed or imported in bulk.",
        ),
        min_value=least,
        max_value=most,
    )


def _keys(name: str, landed: Landed) -> Iterator[Any]:
    if not landed.key_is_unique:
        return
    key = ", ".join(landed.key)
    any_null = " or ".join(f"{column} is null" for column in landed.key)
    twice = f"select {key}, count(*) as rows_found from {name} group by {key} having count(*) > 1"
    present = Check(
        id=f"landing.{name}.key_present",
        table=name,
        severity="critical",
        description=f"Every row has its key ({key}).",
        limit="none without",
        action="Rows without a key cannot be told apart or updated. " + LOADER_FAULT,
        find_rows=f"select {key}, _dlt_load_id from {name} where {any_null}",
    )
    unique = Check(
        id=f"landing.{name}.key_unique",
        table=name,
        severity="critical",
        description=f"No key ({key}) occurs twice.",
        limit="no key twice",
        action="Something was loaded twice and would count double. Do not delete by hand: the "
        "extract task merges by key when it runs again. " + LOADER_FAULT,
        find_rows=twice,
    )
    if len(landed.key) == 1:
        import great_expectations.expectations as gxe

        yield expect(gxe.ExpectColumnValuesToNotBeNull, present, column=key)
        yield expect(gxe.ExpectColumnValuesToBeUnique, unique, column=key)
    else:
        yield expect_no_rows(present, f"select {key} from {name} where {any_null}")
        yield expect_no_rows(unique)


def _complete(name: str, landed: Landed) -> Iterator[Any]:
    import great_expectations.expectations as gxe

    for column in landed.not_null:
        yield expect(
            gxe.ExpectColumnValuesToNotBeNull,
            Check(
                id=f"landing.{name}.{column}.present",
                table=name,
                severity="critical",
                description=f"Nearly every row has {column}.",
                limit=f"at most {percent(limits.IMPLAUSIBLE_SHARE)} of the rows without",
                action="The vendor left the field out or the mapping reads another one. "
                "Compare some of these records with the source.",
                find_rows=f"select {', '.join(landed.key)} from {name} where {column} is null",
            ),
            column=column,
            mostly=1 - limits.IMPLAUSIBLE_SHARE,
        )


def _plausible(name: str, landed: Landed, facts: LandingFacts) -> Iterator[Any]:
    latest = facts.latest_event.strftime("%Y-%m-%d %H:%M:%S+00")
    for column in landed.times:
        yield from _few_and_none(
            name,
            landed,
            column,
            "in_range",
            f"{column} is neither before {limits.EARLIEST_EVENT} nor in the future",
            f"outside {limits.EARLIEST_EVENT} to {latest} (a day after as-of date and last load)",
            "Look at the source's clock, date format and time zone. Events after the as-of date "
            "do not count until their day comes.",
            f"{column} < '{limits.EARLIEST_EVENT}' or {column} > '{latest}'",
            min_value=datetime.fromisoformat(limits.EARLIEST_EVENT).replace(tzinfo=UTC),
            max_value=facts.latest_event,
        )
    for column in landed.not_negative:
        yield from _few_and_none(
            name,
            landed,
            column,
            "not_negative",
            f"{column} is not below zero",
            "below zero",
            "Check the sign at the source: refunds have rows of their own.",
            f"{column} < 0",
            min_value=0,
        )


def _few_and_none(
    name: str,
    landed: Landed,
    column: str,
    rule: str,
    expected: str,
    otherwise: str,
    action: str,
    broken: str,
    **bounds: Any,
) -> Iterator[Any]:
    """Two expectations of one rule: critical when many rows break it, a remark when any does."""
    import great_expectations.expectations as gxe

    rows = f"select {', '.join(landed.key)} from {name} where {broken}"
    share = limits.IMPLAUSIBLE_SHARE
    yield expect(
        gxe.ExpectColumnValuesToBeBetween,
        Check(
            id=f"landing.{name}.{column}.{rule}",
            table=name,
            severity="critical",
            description=f"For nearly every row: {expected}.",
            limit=f"at most {percent(share)} of the rows {otherwise}",
            action=action,
            find_rows=rows,
        ),
        column=column,
        mostly=1 - share,
        **bounds,
    )
    yield expect(
        gxe.ExpectColumnValuesToBeBetween,
        Check(
            id=f"landing.{name}.{column}.{rule}.every_row",
            table=name,
            severity=landed.single_oddity,
            description=f"For every row: {expected}.",
            limit=f"no row {otherwise}",
            action=action,
            find_rows=rows,
        ),
        column=column,
        **bounds,
    )


def _statuses(source: str, settings: Settings) -> set[str]:
    """The order statuses that the policy knows about."""
    counted = settings.model.counted_order_statuses.get(source, [])
    if source == "woocommerce":
        return {*WOOCOMMERCE_STATUSES, *counted}
    mapped: set[str] = set()
    for dataset in settings.sources[source].datasets:
        mapping = dataset.columns.get("status")
        if mapping is not None:
            values = [mapping.constant, mapping.otherwise, *mapping.values.values()]
            values += [case.value for case in mapping.cases or ()]
            mapped |= {value for value in values if value}
    return {*FILE_STATUSES, *counted, *mapped}


def _known_statuses(name: str, landed: Landed, statuses: set[str]) -> Iterator[Any]:
    import great_expectations.expectations as gxe

    listed = literals(statuses)
    share = limits.UNKNOWN_STATUS_SHARE
    levels: tuple[tuple[Severity, str, str, float], ...] = (
        ("warning", "known_statuses", "Every order has a status the order policy knows.", 1.0),
        ("critical", "mostly_known_statuses", "Most orders have a known status.", 1 - share),
    )
    for severity, rule, description, mostly in levels:
        yield expect(
            gxe.ExpectColumnValuesToBeInSet,
            Check(
                id=f"landing.{name}.{rule}",
                table=name,
                severity=severity,
                description=description,
                limit=(f"at most {percent(share)} others than " if mostly < 1 else "")
                + ", ".join(sorted(statuses)),
                action="Orders of unknown statuses do not count. If they should, add the status "
                "to counted_order_statuses in model.yml; if it is no status at all, the mapping "
                "reads another column.",
                find_rows=f"select {landed.status}, count(*) from {name} "
                f"where {landed.status} not in ({listed}) group by 1",
            ),
            column=landed.status,
            value_set=sorted(statuses),
            mostly=mostly,
        )


def _texts(name: str, landed: Landed, facts: LandingFacts) -> Iterator[Any]:
    """What people write is readable, and addresses are addresses."""
    key = ", ".join(landed.key)
    if landed.texts:
        damaged = " or ".join(f"{column} ~ '{_DAMAGED}'" for column in landed.texts)
        share = limits.DAMAGED_TEXT_SHARE
        levels: tuple[tuple[Severity, str, str, str], ...] = (
            (
                "critical",
                "readable",
                "Nearly all texts were read in the right encoding.",
                f"having count(*) filter (where {damaged}) > {share} * count(*) "
                f"and count(*) filter (where {damaged}) >= {limits.LEAST_MEANINGFUL_COUNT}",
            ),
            (
                "info",
                "readable.every_row",
                "Every text was read in the right encoding.",
                f"having count(*) filter (where {damaged}) > 0",
            ),
        )
        for severity, rule, description, having in levels:
            yield expect_no_rows(
                Check(
                    id=f"landing.{name}.{rule}",
                    table=name,
                    severity=severity,
                    description=description,
                    limit=f"at most {percent(share)} of the rows with signs of damage in "
                    + ", ".join(landed.texts)
                    if severity == "critical"
                    else "no row with signs of damage",
                    action="Letters such as ü come as two others: the text was written in one "
                    "encoding and read in another. Correct it in the vendor's export, or "
                    "`encoding` of the dataset in sources.yml, and load again.",
                    find_rows=f"select {key} from {name} where {damaged}",
                    measure=f"select count(*) || ' rows' from {name} where {damaged}",
                ),
                f"select count(*) as rows_read from {name} {having}",
            )
    if landed.address:
        filled = f"{landed.address} <> ''{_and_lately(name, landed, facts)}"
        no_address = f"{landed.address} not like '%_@_%'"
        share = limits.NO_ADDRESS_SHARE
        yield expect_no_rows(
            Check(
                id=f"landing.{name}.{landed.address}.is_address",
                table=name,
                severity="critical",
                description=f"What stands in {landed.address} is an email address.",
                limit=f"at most {percent(share)} of the filled rows otherwise",
                action="The mapping reads another column, or columns of the export were swapped. "
                "People would be taken for one another. Correct the mapping and load again.",
                find_rows=f"select {key} from {name} where {filled} and {no_address}",
                measure=f"select count(*) || ' rows' from {name} where {filled} and {no_address}",
            ),
            f"""
                select count(*) as filled from {name} where {filled}
                having count(*) filter (where {no_address})
                    > greatest({share} * count(*), {limits.LEAST_MEANINGFUL_COUNT})
            """,
        )


def _fresh(feed: Feed, facts: LandingFacts) -> Iterator[Any]:
    landed = feed.landed
    if landed.changed_at is None or feed.fresh_within_days is None:
        return
    column = landed.changed_at
    days = feed.fresh_within_days
    levels: tuple[tuple[Severity, str, int], ...] = (
        ("warning", "fresh", days),
        ("critical", "not_dead", days * limits.STALE_CRITICAL_FACTOR),
    )
    for severity, rule, allowed in levels:
        oldest = (facts.as_of - timedelta(days=allowed)).isoformat(sep=" ")
        label = f"{feed.label}." if feed.label else ""
        yield expect_no_rows(
            Check(
                id=f"landing.{feed.name}.{label}{rule}",
                table=feed.name,
                severity=severity,
                description="The source holds recent changes, as seen from the as-of date."
                if severity == "warning"
                else "The source has not been without a change for far longer than usual.",
                limit=f"newest {column} not before {oldest} ({allowed} days)",
                action="Check in the vendor's own screens whether there is newer data, and "
                "whether the extract task still reads to the end. If such a pause is usual, set "
                "`fresh_within_days` of the source in sources.yml.",
                find_rows=f"select max({column}) from {feed.name} where {feed.where}",
                measure=f"select 'newest: ' || max({column}) from {feed.name} where {feed.where}",
            ),
            f"select max({column}) as newest from {feed.name} where {feed.where} "
            f"having max({column}) < '{oldest}'",
        )


def _no_second_copy(name: str, landed: Landed, facts: LandingFacts) -> Any:
    """The same orders under other ids. Rows of unknown people may be equal by chance."""
    told_apart = ", ".join(landed.told_apart_by)
    known = " or ".join(
        f"nullif({column}::text, '{'0' if column == 'customer_id' else ''}') is not null"
        for column in landed.told_apart_by
        if column in ("customer_id", "customer_key", "billing_email")
    )
    lately = f"({known}){_and_lately(name, landed, facts)}"
    # Lines of one order may be equal; what was loaded twice is in another order or file.
    origin = {"order_lines": "(order_key, content_hash)"}.get(landed.table, landed.key[-1])
    copies = f"""
        select count(*) - count(*) / count(distinct {origin}) as copies
        from {name} where {lately} group by {told_apart}
        having count(distinct {origin}) > 1
    """
    return expect_no_rows(
        Check(
            id=f"landing.{name}.no_second_copy",
            table=name,
            severity="critical",
            description="No load of orders came a second time under other ids.",
            limit=f"of the last {limits.LATELY_DAYS} days fewer than {limits.SECOND_COPY_ROWS} "
            f"rows, or at most {percent(limits.SECOND_COPY_SHARE)}, that equal another in "
            f"{told_apart}",
            action="An export or an import ran twice and its orders would count double. Take one "
            "of the two away at the source and load again.",
            find_rows=f"""
                select {", ".join(landed.key)} from (
                    select *, count(*) over (partition by {told_apart}) as rows_found
                    from {name} where {lately}
                ) as counted where rows_found > 1
            """,
            measure=f"select sum(copies) || ' copies' from ({copies}) as t",
        ),
        f"""
            select sum(copies) as copies from ({copies}) as copied
            having sum(copies) >= {limits.SECOND_COPY_ROWS} and sum(copies)
                > {limits.SECOND_COPY_SHARE} * (select count(*) from {name} where {lately})
        """,
    )


def _and_lately(name: str, landed: Landed, facts: LandingFacts) -> str:
    """Restricts a query to the table's last days; old rows have been checked when they came."""
    if landed.happened_at is None:
        return ""
    return (
        f" and {landed.happened_at} >= least("
        f"(select max({landed.happened_at}) from {name}), '{facts.as_of.isoformat(sep=' ')}') "
        f"- interval '{limits.LATELY_DAYS} days'"
    )


def _has_parent(schema: str, landed: Landed) -> Any:
    assert landed.parent is not None  # noqa: S101 - the caller checks; this is for the type
    column, parent, parent_column, severity, action = landed.parent
    name = f"{schema}.{landed.table}"
    # A parent that was rejected is known to be missing; the gate counts it there.
    rejected = f"""
        and not exists (
            select 1 from quarantine.rejected_records as rejected
            where rejected.source = {literal(schema.removeprefix("raw_"))}
                and rejected.table_name = {literal(parent)}
                and rejected.record_key = child.{column}::text
        )
    """
    return expect_no_rows(
        Check(
            id=f"landing.{name}.has_parent",
            table=name,
            severity=severity,
            description=f"Every row belongs to a row of {parent}.",
            limit="no row without its parent",
            action=action,
            find_rows=f"""
                select {", ".join(f"child.{key}" for key in landed.key)}
                from {name} as child
                where child.{column} is not null
                    and not exists (
                        select 1 from {schema}.{parent} as parent
                        where parent.{parent_column} = child.{column}
                    ){rejected if severity != "critical" else ""}
            """,
        )
    )


# -------------------------------------------------------------------------- subscriber states


def _subscriber_states(settings: Settings, facts: LandingFacts) -> TableSuite:
    name = "activation.subscriber_states"
    return TableSuite(
        "activation",
        "subscriber_states",
        (
            expect_no_rows(
                Check(
                    id=f"landing.{name}.address_normalised",
                    table=name,
                    severity="critical",
                    description="Addresses are trimmed and in lower case, as consent is joined.",
                    limit="no other address",
                    action="A withdrawal would not be found for these addresses. Run the extract "
                    "task again; the rows are named by the email tool's own id.",
                    find_rows=f"select destination, vendor_id from {name} "
                    "where address is distinct from lower(btrim(address)) or address = ''",
                )
            ),
            expect_no_rows(
                Check(
                    id=f"landing.{name}.read_in_this_run",
                    table=name,
                    severity="warning",
                    description="Every email tool's subscribers were read in this run.",
                    limit="no tool whose states are all from earlier runs",
                    action="Withdrawals since then are unknown. They are read again before "
                    "sending; check the log of the extract task that reads the tool.",
                    find_rows=f"select destination, max(read_at) from {name} "
                    f"where destination in ({literals(settings.destinations)}) "
                    f"group by destination "
                    f"having not bool_or(run_id = {literal(facts.run_id)})",
                )
            ),
            expect_no_rows(
                Check(
                    id=f"landing.{name}.state_changed_at.in_range",
                    table=name,
                    severity="warning",
                    description="No subscriber state is dated in the future.",
                    limit="no date later than one day after the as-of date",
                    action="A consent from the future is not used. Check the tool's time zone.",
                    find_rows=f"select destination, vendor_id from {name} where "
                    f"state_changed_at > '{facts.latest_event:%Y-%m-%d %H:%M:%S+00}'",
                )
            ),
        ),
    )
