"""How an expectation is written here: a Great Expectations class, plus what its owner needs.

Every expectation carries in ``meta``: its stable id, the limit in words, what to do when it
fails, the SQL that finds the rows (by vendor id, never by a person's data) and, where the bare
result says too little, the SQL that measures what was observed as one text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal

Severity = Literal["critical", "warning", "info"]


@dataclass(frozen=True)
class TableSuite:
    """The expectations of one table; Great Expectations reads the table as one batch."""

    schema: str
    table: str
    expectations: tuple[Any, ...] = field(repr=False)

    @property
    def name(self) -> str:
        """``schema.table``."""
        return f"{self.schema}.{self.table}"


@dataclass(frozen=True)
class Check:
    """What is said about one expectation.

    Attributes:
        id: stable; the key of ``quality.gate_results`` within a run and gate.
        table: ``schema.table``, as shown to people.
        severity: critical stops the run, warning and info are reported.
        description: the rule in one sentence, for the owner of the data.
        limit: what is allowed, in words.
        action: what to do when it fails.
        find_rows: SQL that lists the rows by id, or None.
        measure: SQL that returns one text with what was observed, or None. It runs only after a
            failure and must return no personal data.
        measured: what was measured before the gate, where the expectation is about that.
    """

    id: str
    table: str
    severity: Severity
    description: str
    limit: str
    action: str
    find_rows: str | None = None
    measure: str | None = None
    measured: float | None = None


def expect(expectation: Any, check: Check, **arguments: Any) -> Any:
    """Make an expectation of a Great Expectations class, carrying its `Check`."""
    return expectation(
        severity=check.severity,
        description=check.description,
        notes=[f"Allowed: {check.limit}", f"What to do: {check.action}"],
        meta={
            "id": check.id,
            "table": check.table,
            "limit": check.limit,
            "action": check.action,
            "find_rows": one_line(check.find_rows),
            "measure": one_line(check.measure),
            "measured": check.measured,
        },
        **arguments,
    )


def expect_no_rows(check: Check, query: str | None = None) -> Any:
    """Make an expectation that a query finds nothing.

    Args:
        check: its ``find_rows`` is the query unless `query` is given.
        query: SQL over schema-qualified tables, selecting ids and never personal columns.
    """
    from kundenkreis.quality.suites.no_rows import ExpectQueryToFindNoRows

    sql = one_line(query or check.find_rows)
    if not sql:
        raise ValueError(f"{check.id}: has no query")
    return expect(ExpectQueryToFindNoRows, check, unexpected_rows_query=as_batch_query(sql))


def as_batch_query(sql: str) -> str:
    """Wrap SQL so that Great Expectations runs it unchanged.

    Great Expectations (1.24, query_metric_provider.py) wants ``{batch}`` in the query, aliases it
    itself unless the query contains the word JOIN, formats braces, and SQLAlchemy reads
    ``:word`` as a bind. The unused ``batch`` costs nothing: PostgreSQL does not run it.
    """
    escaped = sql.replace("{", "{{").replace("}", "}}")
    escaped = re.sub(r"(?<![:\w\\]):(?=\w)", r"\\:", escaped)
    alias = " as batch_rows" if re.search(r"\bjoin\b", sql, re.IGNORECASE) else ""
    batch = f"with batch as (select * from {{batch}}{alias})"
    if re.match(r"with\s", sql, re.IGNORECASE):
        return f"{batch}, {escaped[5:].lstrip()}"
    return f"{batch} {escaped}"


def one_line(sql: str | None) -> str | None:
    """Collapse white space, so that SQL fits into a message and a table cell."""
    return " ".join(sql.split()) if sql else None


def literal(value: str) -> str:
    """Quote text as an SQL literal."""
    return "'" + value.replace("'", "''") + "'"


def literals(values: Iterable[str]) -> str:
    """Quote texts for an SQL ``in`` list; never empty."""
    quoted = ", ".join(literal(value) for value in sorted(set(values)))
    return quoted or "null"


def percent(share: float) -> str:
    """A share as a percentage in words: 0.05 -> ``5 %``."""
    return f"{(Decimal(str(share)) * 100).normalize():f} %"
