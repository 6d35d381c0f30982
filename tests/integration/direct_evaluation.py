"""The verdict of a gate without Great Expectations' overhead, for hundreds of nights.

Great Expectations needs seconds for a gate whatever the data. Here every expectation of the suites
becomes one query; the tests of the gates compare the verdicts with Great Expectations' own, on
clean and on damaged data. Everything around (facts, recording, messages) is the gate's own code.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest

from kundenkreis.quality import gate
from kundenkreis.quality.checkpoint import (
    CheckpointResult,
    Outcome,
    _described,
    _measured,
    observed_text,
    safe_exception_text,
)
from kundenkreis.quality.suites.common import TableSuite

_BATCH = re.compile(r"^with batch as \(select \* from \{batch\}(?: as batch_rows)?\)(,?)\s*")


def use_in_gates(patch: pytest.MonkeyPatch) -> None:
    """Let `run_gate` evaluate directly."""
    patch.setattr(gate, "run_checkpoint", evaluate)


def evaluate(
    name: str, suites: Sequence[TableSuite], dsn: str, docs_folder: Path
) -> CheckpointResult:
    """As `kundenkreis.quality.checkpoint.run_checkpoint`, without Data Docs."""
    outcomes = []
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("set jit = off; set default_transaction_read_only = on")
        for suite in suites:
            outcomes += [_outcome(connection, suite, one) for one in suite.expectations]
    return CheckpointResult(tuple(outcomes), None)


def _outcome(connection: psycopg.Connection, suite: TableSuite, expectation: Any) -> Outcome:
    from dataclasses import replace

    kind = expectation.expectation_type
    meta = {"meta": expectation.meta, "description": expectation.description}
    described = _described(kind, expectation.severity.value, meta)
    described = replace(described, duration_seconds=0.0)
    try:
        success, result = _KINDS[kind](connection, suite, expectation)
    except psycopg.Error as error:
        text = f"(psycopg2.errors.{type(error).__name__}) {error.diag.message_primary}\n"
        return replace(described, raised=True, observed=safe_exception_text(text))
    return replace(
        described,
        success=success,
        observed=observed_text(kind, result),
        measured=_measured(expectation.meta, result),
    )


def _rows(connection: psycopg.Connection, suite: TableSuite, one: Any) -> tuple[bool, Any]:
    query = _BATCH.sub(lambda found: "with " if found[1] else "", one.unexpected_rows_query)
    query = query.replace("{{", "{").replace("}}", "}").replace("\\:", ":")
    row = connection.execute(f"select count(*) from ({query}) as found".encode()).fetchone()
    count = row[0] if row else 0
    return count == 0, {"observed_value": count}


def _row_count(connection: psycopg.Connection, suite: TableSuite, one: Any) -> tuple[bool, Any]:
    row = connection.execute(f"select count(*) from {suite.name}".encode()).fetchone()
    count = row[0] if row else 0
    fits = (one.min_value is None or count >= one.min_value) and (
        one.max_value is None or count <= one.max_value
    )
    return fits, {"observed_value": count}


def _columns(connection: psycopg.Connection, suite: TableSuite, one: Any) -> tuple[bool, Any]:
    found = [
        row[0]
        for row in connection.execute(
            "select attname from pg_attribute where attrelid = %s::regclass and attnum > 0 "
            "and not attisdropped",
            (suite.name,),
        )
    ]
    missing = sorted(set(one.column_set) - set(found))
    details = {"mismatched": {"missing": missing}} if missing else {}
    return not missing, {"observed_value": found, "details": details}


def _values(
    connection: psycopg.Connection, suite: TableSuite, one: Any, wrong: str, parameters: list[Any]
) -> tuple[bool, Any]:
    """A rule for the values of a column, of which a share may break it; nulls are none."""
    is_null_rule = wrong.endswith("is null")
    counted = "count(*)" if is_null_rule else f'count("{one.column}")'
    query = f"select count(*), {counted}, count(*) filter (where {wrong}) from {suite.name}"
    row = connection.execute(query.encode(), parameters).fetchone()
    total, considered, unexpected = row or (0, 0, 0)
    share = 1.0 if considered == 0 else (considered - unexpected) / considered
    result = {
        "element_count": total,
        "unexpected_count": unexpected,
        "unexpected_percent": 100 * unexpected / considered if considered else None,
        "unexpected_percent_total": 100 * unexpected / total if total else None,
    }
    return share >= one.mostly, result


def _not_null(connection: psycopg.Connection, suite: TableSuite, one: Any) -> tuple[bool, Any]:
    return _values(connection, suite, one, f'"{one.column}" is null', [])


def _unique(connection: psycopg.Connection, suite: TableSuite, one: Any) -> tuple[bool, Any]:
    twice = (
        f'"{one.column}" in (select "{one.column}" from {suite.name} '
        f"group by 1 having count(*) > 1)"
    )
    return _values(connection, suite, one, twice, [])


def _between(connection: psycopg.Connection, suite: TableSuite, one: Any) -> tuple[bool, Any]:
    bounds = [
        (sign, value)
        for sign, value in (("<", one.min_value), (">", one.max_value))
        if value is not None
    ]
    wrong = " or ".join(f'"{one.column}" {sign} %s' for sign, _ in bounds)
    return _values(connection, suite, one, f"({wrong})", [value for _, value in bounds])


def _in_set(connection: psycopg.Connection, suite: TableSuite, one: Any) -> tuple[bool, Any]:
    return _values(connection, suite, one, f'not "{one.column}" = any(%s)', [list(one.value_set)])


_KINDS: dict[str, Any] = {
    "expect_query_to_find_no_rows": _rows,
    "expect_table_row_count_to_be_between": _row_count,
    "expect_table_columns_to_match_set": _columns,
    "expect_column_values_to_not_be_null": _not_null,
    "expect_column_values_to_be_unique": _unique,
    "expect_column_values_to_be_between": _between,
    "expect_column_values_to_be_in_set": _in_set,
}
