"""What readers of ``marts`` rely on, and the changes of it that were declared.

A view or column that would be gone, and a column of another type, break readers. Such a change has
to be declared in ``dbt_project/contract_changes.yml`` together with the change of the model;
otherwise `gate_marts` stops the night and `publish` refuses (design: Warehouse). A declaration
permits its change once: when it has been published, it is spent.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Literal, Self

import psycopg
from pydantic import BaseModel, ConfigDict, Field, model_validator

from kundenkreis.settings import read_file, repository_root

Kind = Literal["removed", "retyped", "reordered", "dropped"]

# Where a view of `marts` differs from the table it is about to show. Another order of columns
# breaks nobody, because the view keeps its own; it is here for who wants it changed.
_CHANGES = """
with columns as (
    select
        namespace.nspname as schema_name,
        relation.relname as model,
        attribute.attname as column_name,
        format_type(attribute.atttypid, attribute.atttypmod) as data_type,
        attribute.attnum as place
    from pg_attribute as attribute
    inner join pg_class as relation on relation.oid = attribute.attrelid
    inner join pg_namespace as namespace on namespace.oid = relation.relnamespace
    where
        namespace.nspname in ('marts', '{schema}')
        and relation.relkind in ('r', 'v', 'p')
        and left(relation.relname, 8) <> 'history_'
        and attribute.attnum > 0
        and not attribute.attisdropped
),
published as (
    select * from columns where schema_name = 'marts'
),
built as (
    select * from columns where schema_name = '{schema}'
),
matched as (
    select
        published.model,
        published.column_name,
        published.data_type as published_type,
        built.data_type as built_type,
        published.place as published_place,
        built.place as built_place,
        exists (select 1 from built as same where same.model = published.model) as is_built
    from published
    left join built
        on published.model = built.model and published.column_name = built.column_name
)
select distinct
    model, cast(null as text) as column_name, 'dropped' as change,
    cast(null as text) as built_type, cast(null as text) as published_type
from matched
where not is_built
union all
select
    model, column_name, case when built_type is null then 'removed' else 'retyped' end,
    built_type, published_type
from matched
where is_built and built_type is distinct from published_type
union all
select model, null, 'reordered', null, null
from matched
where is_built
group by model
having
    array_agg(column_name order by published_place)
    <> array_agg(column_name order by built_place, published_place)
"""


@dataclass(frozen=True)
class Change:
    """One difference between what readers see and what would be published.

    Attributes:
        model: the view's name.
        column: None where the whole view is meant.
        change: removed, retyped, reordered or dropped.
        built_type: the new type of a retyped column.
        published_type: its type now.
    """

    model: str
    column: str | None
    change: Kind
    built_type: str | None = None
    published_type: str | None = None

    @property
    def breaks_readers(self) -> bool:
        """Whether it may only happen when it was declared."""
        return self.change != "reordered"

    def __str__(self) -> str:
        """In words, for a person."""
        if self.change == "dropped":
            return f"{self.model} is gone"
        if self.change == "removed":
            return f"{self.model}.{self.column} is gone"
        if self.change == "retyped":
            return f"{self.model}.{self.column} is {self.built_type}, was {self.published_type}"
        return f"{self.model} has its columns in another order"


class Declaration(BaseModel):
    """One change of the contract that is meant."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    model: str = Field(description="The model, without its schema.")
    column: str | None = Field(None, description="The column of a removed or retyped one.")
    change: Kind = Field(
        description="removed: the column goes; retyped: it gets another type; reordered: the view "
        "takes the order of the model's columns; dropped: the whole view goes."
    )
    to: str | None = Field(None, description="The new type of a retyped column, as PostgreSQL's.")
    reason: str = Field(min_length=1, description="Why, for the readers.")
    declared_on: date = Field(description="Tells this change from an equal one, later.")

    @model_validator(mode="after")
    def _complete(self) -> Self:
        of_column = self.change in ("removed", "retyped")
        if of_column != (self.column is not None):
            rule = "needs a column" if of_column else "speaks of the whole model: leave out column"
            raise ValueError(f"change {self.change} {rule}")
        if (self.change == "retyped") != (self.to is not None):
            rule = "needs to, the new type" if self.to is None else "has no type: leave out to"
            raise ValueError(f"change {self.change} {rule}")
        return self

    @property
    def key(self) -> str:
        """What makes it one permission. The reason does not: another wording permits nothing."""
        column = f".{self.column}" if self.column else ""
        to = f" to {self.to}" if self.to else ""
        return f"{self.model}{column} {self.change}{to}, declared on {self.declared_on}"

    def permits(self, change: Change) -> bool:
        """Whether exactly this change was meant."""
        same = (self.model, self.column, self.change) == (
            change.model,
            change.column,
            change.change,
        )
        return same and self.to == change.built_type


class ContractChanges(BaseModel):
    """``contract_changes.yml``."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    changes: tuple[Declaration, ...] = Field(default=(), description="None: nothing may change.")


def declarations_file() -> Path:
    """Where changes are declared: beside the models, so that both are reviewed together."""
    return repository_root() / "dbt_project" / "contract_changes.yml"


def read_declarations(file: Path | None = None) -> tuple[Declaration, ...]:
    """The declared changes.

    Raises:
        ConfigError: the file cannot be used; names line and key.
    """
    return read_file(file or declarations_file(), ContractChanges).changes


def changes_sql(schema: str) -> str:
    """SQL that lists the changes a colour would bring: model, column_name, change and both types.

    Args:
        schema: a marts colour; one of our own names, never a text from outside.
    """
    return _CHANGES.format(schema=schema)


def changes(connection: psycopg.Connection, schema: str) -> list[Change]:
    """The changes that publishing a colour would bring, in a fixed order."""
    found = [Change(*row) for row in connection.execute(changes_sql(schema).encode())]
    return sorted(found, key=lambda change: (change.model, change.column or "", change.change))


def unspent(
    connection: psycopg.Connection, declared: Iterable[Declaration]
) -> tuple[Declaration, ...]:
    """The declarations that still permit something: those that were not published yet."""
    rows = connection.execute("select declaration from operations.published_contract_changes")
    spent = {row[0] for row in rows}
    return tuple(declaration for declaration in declared if declaration.key not in spent)


def undeclared(found: Sequence[Change], declared: Sequence[Declaration]) -> list[Change]:
    """The changes that nobody declared and that would break readers."""
    return [
        change
        for change in found
        if change.breaks_readers and not any(item.permits(change) for item in declared)
    ]


def spend(
    connection: psycopg.Connection,
    found: Sequence[Change],
    declared: Sequence[Declaration],
    publication_id: int,
) -> None:
    """Remember which declarations this publication used."""
    for declaration in declared:
        if any(declaration.permits(change) for change in found):
            connection.execute(
                "insert into operations.published_contract_changes (declaration, publication_id) "
                "values (%s, %s) on conflict (declaration) do nothing",
                (declaration.key, publication_id),
            )


def refusal(breaking: Sequence[Change]) -> str:
    """One message with all of them and what to do."""
    return (
        "Publishing would break what readers of schema marts rely on: "
        + "; ".join(map(str, breaking))
        + f". Restore the models, or declare each change in {declarations_file()}."
    )
