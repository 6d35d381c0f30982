"""What dbt could not do: the server's own failures are told from those of a model."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from kundenkreis.errors import TransformError, WarehouseError
from kundenkreis.warehouse.dbt import _counts


def _outcome(*messages: str | None) -> Any:
    """A dbt run in which each model with a message failed by it."""
    results = [
        SimpleNamespace(
            status="error" if message else "success",
            message=message,
            node=SimpleNamespace(resource_type="model", name=f"model_{number}"),
        )
        for number, message in enumerate(messages)
    ]
    return SimpleNamespace(
        result=SimpleNamespace(results=results), success=not any(messages), exception=None
    )


@pytest.mark.parametrize(
    "message",
    [
        "Database Error in model m (m.sql)\n  server closed the connection unexpectedly\n"
        "\tThis probably means the server terminated abnormally",
        "Database Error\n  terminating connection due to administrator command",
        'Database Error\n  connection to server at "db", port 5432 failed: Connection refused',
        "Database Error\n  FATAL:  the database system is starting up",
        "Database Error\n  connection already closed",
        "Database Error\n  SSL connection has been closed unexpectedly",
    ],
)
def test_a_server_that_went_away_is_no_fault_of_a_model(message: str) -> None:
    with pytest.raises(WarehouseError, match=r"^The warehouse went away: dbt build stopped: model"):
        _counts("build", _outcome(None, message))


def test_a_full_disk_is_named_with_what_to_do() -> None:
    message = (
        'Database Error\n  could not extend file "base/1/2": No space left on device\n'
        "  HINT:  Check free disk space."
    )
    with pytest.raises(WarehouseError, match=r"^The disk of the warehouse is full: .*Free space"):
        _counts("build", _outcome(message))


@pytest.mark.parametrize(
    "message",
    [
        'Database Error in model m (m.sql)\n  column "connection" does not exist\n  LINE 3: x',
        "Got 3 results, configured to fail if != 0",
        "Compilation Error\n  'a_macro' is undefined",
    ],
)
def test_a_model_that_is_wrong_stays_so_however_often_it_is_tried(message: str) -> None:
    with pytest.raises(TransformError, match=r"^dbt build stopped: model model_1: "):
        _counts("build", _outcome(None, message))


def test_only_the_first_failures_are_listed() -> None:
    with pytest.raises(TransformError, match=r"model_4: wrong \(and 2 more\)$"):
        _counts("build", _outcome(*["wrong"] * 7))


def test_what_went_well_is_counted() -> None:
    assert _counts("build", _outcome(None, None)) == {"success": 2}
