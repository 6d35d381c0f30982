"""The operator of the erasure DAG: no address in Airflow, no second erasure when it is repeated."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from airflow.sdk.exceptions import (
    AirflowException,
    AirflowFailException,
    AirflowRescheduleException,
)

from kundenkreis.operators import EraseOperator
from kundenkreis.warehouse.publish import begin_build, end_build
from tests.integration.privacy_warehouse import ANNA, KEY, fill

pytestmark = pytest.mark.integration


@pytest.fixture
def dsn(warehouse_dsn: str, clean_env: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """A warehouse that knows two persons, without an email tool."""
    fill(warehouse_dsn)
    (tmp_path / "sources.yml").write_text("{}\n")
    clean_env.setenv("KUNDENKREIS_CONFIG", str(tmp_path))
    clean_env.setenv("KUNDENKREIS_ERASURE_KEY", KEY)
    clean_env.setenv("AIRFLOW_CONN_WAREHOUSE", warehouse_dsn)
    return warehouse_dsn


def _execute(customer_id: str | None, run_id: str = "run-1") -> Any:
    run = SimpleNamespace(
        run_id=run_id, run_type="manual", logical_date=None, run_after=datetime.now(UTC)
    )
    context: Any = {"dag_run": run, "params": {"customer_id": customer_id}}
    return EraseOperator(task_id="erase").execute(context)


def _erasures(dsn: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn) as connection:
        return connection.execute(
            "select requested_by, state from privacy.erasures order by erasure_id"
        ).fetchall()


def test_a_customer_is_erased_once_however_often_the_task_runs(dsn: str) -> None:
    assert _execute("c-anna") == {"1": "done"}
    assert _execute("c-anna") == {}
    assert _erasures(dsn) == [("run run-1", "done")]


def test_without_a_customer_pending_ones_go_on(dsn: str) -> None:
    begin_build(dsn, "night", date(2026, 3, 3), False)
    with pytest.raises(AirflowRescheduleException):
        _execute("c-anna")
    assert _erasures(dsn) == [("run run-1", "pending")]
    end_build(dsn, "night")
    assert _execute(None, "run-2") == {"1": "done"}


def test_an_address_is_refused_and_not_repeated(dsn: str) -> None:
    with pytest.raises(AirflowFailException, match="use `kundenkreis erase`") as error:
        _execute(ANNA)
    assert "anna" not in str(error.value)
    assert _erasures(dsn) == []


def test_an_unknown_customer_fails_at_once(dsn: str) -> None:
    with pytest.raises(AirflowFailException, match="DataError: There is no customer"):
        _execute("c-nobody")


def test_a_tool_that_is_down_fails_the_task_and_says_which(dsn: str, tmp_path: Path) -> None:
    (tmp_path / "destinations.yml").write_text("listmonk: {}\n")
    with pytest.raises(AirflowException, match="Pending still: destination listmonk"):
        _execute("c-anna")
    assert _erasures(dsn) == [("run run-1", "pending")]
