"""The contract of ``marts``: what publishing would take away from readers, before it is published.

`publish` refuses the same changes, by the same query; here the night stops with a result and a
report, before anything waits for readers (design: Warehouse).
"""

from __future__ import annotations

from collections.abc import Sequence

from kundenkreis.quality.suites.common import Check, TableSuite, expect_no_rows, literal
from kundenkreis.warehouse.contract import Declaration, changes_sql


def suite(schema: str, unspent: Sequence[Declaration], stale: Sequence[Declaration]) -> TableSuite:
    """The contract's expectations, on the catalogue.

    Args:
        schema: the colour that is about to be published.
        unspent: the declared changes that were not published yet.
        stale: those that were, and permit nothing any more.
    """
    return TableSuite(
        "information_schema",
        "tables",
        (_declared(schema, unspent), _current(schema, unspent, stale)),
    )


def _declared(schema: str, unspent: Sequence[Declaration]) -> object:
    undeclared = f"""
        select changes.model, changes.column_name, changes.change
        from ({changes_sql(schema)}) as changes
        where changes.change <> 'reordered' and not ({_any_permits(unspent)})
    """
    return expect_no_rows(
        Check(
            id="marts.contract.declared",
            table="marts",
            severity="critical",
            description="No view or column that readers have would be gone or change its type, "
            "unless that was declared.",
            limit="no undeclared change",
            action="Restore the models, or declare each change in dbt_project/contract_changes.yml "
            "and run the night again.",
            find_rows=undeclared,
            measure=f"""
                select string_agg(
                    model || coalesce('.' || column_name, '') || ' ' || change, ', '
                    order by model, column_name
                )
                from ({undeclared}) as undeclared
            """,
        )
    )


def _current(schema: str, unspent: Sequence[Declaration], stale: Sequence[Declaration]) -> object:
    rows = [
        f"select {literal(item.key)} as declaration, "
        f"exists (select 1 from ({changes_sql(schema)}) as changes where {_permits(item)}) "
        "as is_needed"
        for item in unspent
    ]
    rows += [f"select {literal(item.key)} as declaration, false as is_needed" for item in stale]
    rows = rows or ["select '' as declaration, true as is_needed"]
    needless = (
        f"select declaration from ({' union all '.join(rows)}) as declared where not is_needed"
    )
    return expect_no_rows(
        Check(
            id="marts.contract.declarations_current",
            table="marts",
            severity="warning",
            description="Every declared change of the contract is still to come.",
            limit="no declaration that was published already or fits nothing",
            action="Take it out of dbt_project/contract_changes.yml; it permits nothing.",
            find_rows=needless,
            measure=f"select string_agg(declaration, '; ') from ({needless}) as needless",
        )
    )


def _any_permits(declarations: Sequence[Declaration]) -> str:
    return " or ".join(f"({_permits(item)})" for item in declarations) or "false"


def _permits(item: Declaration) -> str:
    """`Declaration.permits` as SQL over ``changes``."""
    return (
        f"changes.model = {literal(item.model)} and changes.change = {literal(item.change)} "
        f"and changes.column_name is not distinct from {_text(item.column)} "
        f"and changes.built_type is not distinct from {_text(item.to)}"
    )


def _text(value: str | None) -> str:
    return "null" if value is None else literal(value)
