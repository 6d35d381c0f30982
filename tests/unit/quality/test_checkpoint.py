"""What is shown of a result or an exception, and how the warehouse is addressed."""

from __future__ import annotations

import pytest
from sqlalchemy.engine import make_url

from kundenkreis.quality.checkpoint import (
    Outcome,
    _exception_text,
    observed_text,
    safe_exception_text,
    sqlalchemy_url,
)


@pytest.mark.parametrize(
    ("message", "traceback", "shown"),
    [
        (
            '(psycopg2.errors.UndefinedColumn) column "totl" does not exist\nLINE 1: select ...',
            "",
            'UndefinedColumn: column "totl" does not exist',
        ),
        (
            '(psycopg2.errors.InvalidTextRepresentation) invalid input: "jane@mail.example"',
            "",
            "InvalidTextRepresentation: its text is not shown because it can quote data",
        ),
        (
            'Error: The column "email" in BatchData does not exist.',
            "",
            'The column "email" in BatchData does not exist',
        ),
        (
            "jane@mail.example",
            "Traceback (most recent call last):\n  File ...\nValueError: jane@mail.example",
            "ValueError: its text is not shown because it can quote data",
        ),
        ("jane@mail.example", "", "an exception: its text is not shown because it can quote data"),
    ],
)
def test_exceptions_show_only_what_cannot_quote_data(
    message: str, traceback: str, shown: str
) -> None:
    assert safe_exception_text(message, traceback) == shown


def test_an_exception_of_any_metric_counts() -> None:
    quiet = {"raised_exception": False, "exception_message": None, "exception_traceback": None}
    loud = {
        "raised_exception": True,
        "exception_message": "(psycopg2.errors.UndefinedTable) relation is missing",
        "exception_traceback": "",
    }
    assert _exception_text(quiet) is None
    assert _exception_text({}) is None
    assert _exception_text({"a metric": quiet, "another": loud}) == (
        "UndefinedTable: relation is missing"
    )


@pytest.mark.parametrize(
    ("kind", "result", "text"),
    [
        (
            "expect_column_values_to_be_between",
            {"element_count": 500, "unexpected_count": 6, "unexpected_percent_total": 1.2},
            "6 of 500 rows (1.20 %)",
        ),
        ("expect_query_to_find_no_rows", {"observed_value": 1}, "1 row"),
        ("expect_query_to_find_no_rows", {"observed_value": 0}, "0 rows"),
        ("expect_table_row_count_to_be_between", {"observed_value": 500}, "500"),
        (
            "expect_table_columns_to_match_set",
            {"observed_value": ["id"], "details": {"mismatched": {"missing": ["total", "name"]}}},
            "missing: name, total",
        ),
    ],
)
def test_observed_is_a_count_and_never_a_value(
    kind: str, result: dict[str, object], text: str
) -> None:
    assert observed_text(kind, result) == text


@pytest.mark.parametrize(
    ("severity", "success", "raised", "stops", "warns"),
    [
        ("critical", True, False, False, False),
        ("critical", False, False, True, False),
        ("warning", False, False, False, True),
        ("info", False, False, False, False),
        ("info", False, True, True, False),
        ("warning", True, True, True, False),
    ],
)
def test_severity_decides_unless_the_expectation_broke(
    severity: str, success: bool, raised: bool, stops: bool, warns: bool
) -> None:
    outcome = Outcome(
        expectation_id="x",
        expectation="x",
        table="t",
        severity=severity,
        success=success,
        raised=raised,
        observed="",
        limit="",
        description="",
        action="",
        find_rows=None,
        measure=None,
    )
    assert (outcome.stops, outcome.warns) == (stops, warns)


def test_the_address_survives_every_character_of_a_password() -> None:
    text = sqlalchemy_url(
        "postgresql://me:p%40s%24HOME%2F%3A@db.example:5433/warehouse?sslmode=require"
    )
    assert "$" not in text  # Great Expectations would substitute it
    url = make_url(text)
    assert url.drivername == "postgresql+psycopg2"
    assert url.password == "p@s$HOME/:"
    assert (url.username, url.host, url.port, url.database) == (
        "me",
        "db.example",
        5433,
        "warehouse",
    )
    assert url.query["sslmode"] == "require"
    assert "default_transaction_read_only=on" in str(url.query["options"])


def test_a_socket_folder_is_no_host_name() -> None:
    url = make_url(sqlalchemy_url("postgresql://me@/warehouse?host=/run/postgresql"))
    assert url.host is None
    assert url.query["host"] == "/run/postgresql"
