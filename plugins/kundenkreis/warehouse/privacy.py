"""Personal data in the views of ``marts``: masked for everybody who was not granted to see it.

dbt marks the columns that are tagged ``pii`` (macro ``mark_personal_data``); `publish` asks for
them here and writes views that show them in full only to members of ``kundenkreis_pii`` and to
whoever may use the colour beneath anyway, which is who builds and delivers. Names and types stay
the same for all (design: The marts contract, "behind the PII grant").
"""

from __future__ import annotations

from collections.abc import Mapping

import psycopg
from psycopg import sql

from kundenkreis.errors import WarehouseError
from kundenkreis.warehouse import SEES_PERSONAL_DATA

# What the macro `mark_personal_data` writes.
_MARK = "Personal data."

_MARKED = """
select relation.relname, attribute.attname
from pg_attribute as attribute
inner join pg_class as relation on relation.oid = attribute.attrelid
inner join pg_namespace as namespace on namespace.oid = relation.relnamespace
where
    namespace.nspname = %s
    and attribute.attnum > 0
    and not attribute.attisdropped
    and col_description(relation.oid, attribute.attnum) = %s
"""

# Both functions ask for the session's present user, also inside a view. A sub-select without outer
# columns is evaluated once per statement, not per row. Where there is no such role, nobody is a
# member of it.
_MAY_SEE = """(
    select
        has_schema_privilege({schema}, 'usage')
        or coalesce(pg_has_role(to_regrole({role})::oid, 'usage'), false)
)"""

# The first letter, of an address also the domain's. All other types have no shape worth keeping.
_MASKED_TEXT = """left({column}, 1) || '…' || case
    when strpos({column}, '@') > 0 then '@' || left(split_part({column}, '@', 2), 1) || '…'
    else ''
end"""

Types = Mapping[str, Mapping[str, str]]


def masked_columns(
    connection: psycopg.Connection, schema: str, types: Types
) -> dict[str, dict[str, sql.Composable]]:
    """How a view selects the personal columns of each table of a colour.

    Args:
        schema: the colour.
        types: each table's columns with their types, which the view keeps.

    Returns:
        By table and column, the expression with its alias.
    """
    found: dict[str, dict[str, sql.Composable]] = {}
    for table, column in connection.execute(_MARKED, (schema, _MARK)):
        if column in types.get(table, {}):
            expression = _masked(column, types[table][column], schema)
            found.setdefault(table, {})[column] = expression
    return found


def mask(column: sql.Composable) -> sql.Composed:
    """A text column with everything but its first letters hidden, whoever asks."""
    return sql.SQL(_MASKED_TEXT).format(column=column)


def mask_unless_allowed(column: sql.Composable, schema: str) -> sql.Composed:
    """A text column as the views of ``marts`` on this colour show it to the present user."""
    return sql.SQL("case when {may_see} then {column} else {mask} end").format(
        may_see=_may_see(schema), column=column, mask=mask(column)
    )


def require_unmasked(connection: psycopg.Connection, schema: str) -> None:
    """Refuse to compare or send masked values.

    Raises:
        WarehouseError: the session would see masked values in the views on this colour.
    """
    row = connection.execute(sql.SQL("select {}").format(_may_see(schema))).fetchone()
    if row != (True,):
        raise WarehouseError(
            f"This login sees personal data masked: it may neither use schema {schema} nor is it a "
            f"member of {SEES_PERSONAL_DATA}. Nothing is sent to masked addresses. Run "
            "`kundenkreis warehouse roles` as the owner of the warehouse."
        )


def _masked(column: str, data_type: str, schema: str) -> sql.Composed:
    name = sql.Identifier(column)
    mask = sql.SQL(_MASKED_TEXT).format(column=name) if data_type == "text" else sql.SQL("null")
    return sql.SQL(
        "cast(case when {may_see} then {column} else {mask} end as {type}) as {column}"
    ).format(
        may_see=_may_see(schema),
        column=name,
        mask=mask,
        # PostgreSQL's own name of a type it has.
        type=sql.SQL(data_type),
    )


def _may_see(schema: str) -> sql.Composed:
    return sql.SQL(_MAY_SEE).format(
        schema=sql.Literal(schema), role=sql.Literal(SEES_PERSONAL_DATA)
    )
