"""The operators: one date per run, one message per failure, one row per task."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from airflow.sdk.exceptions import (
    AirflowException,
    AirflowFailException,
    AirflowRescheduleException,
    AirflowSkipException,
)
from airflow.timetables.base import TimeRestriction
from airflow.timetables.trigger import CronTriggerTimetable

from kundenkreis import night
from kundenkreis.errors import (
    BuildBusy,
    ConfigError,
    CredentialError,
    GateFailure,
    TransformError,
    VendorError,
    WarehouseError,
)
from kundenkreis.operators import night as operators
from kundenkreis.settings import ModelSettings, RetentionConfig, Settings
from kundenkreis.warehouse.publish import begin_build

BERLIN = Settings(
    folder=Path("config"),
    model=ModelSettings(business_timezone="Europe/Berlin"),
    sources={},
    segments={},
    destinations={},
    retention=RetentionConfig(),
)


def _as_of(param: str | None, logical: datetime | None, after: datetime | None = None) -> date:
    run = SimpleNamespace(logical_date=logical, run_after=after)
    return operators.as_of_date(param, run, BERLIN.local_date)


# The night's date


def test_the_param_wins() -> None:
    assert _as_of("2026-01-31", datetime(2026, 6, 1, tzinfo=UTC)) == date(2026, 1, 31)


@pytest.mark.parametrize("param", [None, ""])
@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        # 00:15 and 00:00 of the 2nd in Berlin: the 1st has just ended.
        (datetime(2026, 2, 1, 23, 15, tzinfo=UTC), date(2026, 2, 1)),
        (datetime(2026, 2, 1, 23, 0, tzinfo=UTC), date(2026, 2, 1)),
        # One second before midnight in Berlin the 1st has not ended.
        (datetime(2026, 2, 1, 22, 59, 59, tzinfo=UTC), date(2026, 1, 31)),
        # In summer midnight is an hour earlier in UTC.
        (datetime(2026, 7, 1, 22, 0, tzinfo=UTC), date(2026, 7, 1)),
        (datetime(2026, 7, 1, 21, 59, tzinfo=UTC), date(2026, 6, 30)),
        # The days of 23 and of 25 hours.
        (datetime(2026, 3, 28, 23, 15, tzinfo=UTC), date(2026, 3, 28)),
        (datetime(2026, 3, 29, 22, 15, tzinfo=UTC), date(2026, 3, 29)),
        (datetime(2026, 10, 24, 22, 15, tzinfo=UTC), date(2026, 10, 24)),
        (datetime(2026, 10, 25, 23, 15, tzinfo=UTC), date(2026, 10, 25)),
    ],
)
def test_without_it_the_day_before_the_run_counts(
    param: str | None, moment: datetime, expected: date
) -> None:
    assert _as_of(param, moment, datetime(2030, 1, 1, tzinfo=UTC)) == expected
    # A run that somebody triggered may have no logical date.
    assert _as_of(param, None, moment) == expected


@pytest.mark.parametrize("first", [date(2026, 3, 27), date(2026, 10, 23), date(2026, 12, 30)])
def test_scheduled_runs_compute_every_day_once(first: date) -> None:
    timetable = CronTriggerTimetable("15 0 * * *", timezone="Europe/Berlin")
    import pendulum

    earliest = pendulum.datetime(first.year, first.month, first.day, 12)
    restriction = TimeRestriction(earliest=earliest, latest=None, catchup=True)
    days, interval = [], None
    for _ in range(4):
        info = timetable.next_dagrun_info(
            last_automated_data_interval=interval, restriction=restriction
        )
        assert info is not None
        days.append(_as_of(None, info.logical_date, info.run_after))
        interval = info.data_interval
    assert [(day - first).days for day in days] == [0, 1, 2, 3]


@pytest.mark.parametrize("param", ["yesterday", "31.01.2026", "2026-02-30"])
def test_a_param_that_is_no_date_is_named(param: str) -> None:
    with pytest.raises(ConfigError, match=f"param as_of: '{param}' is no date; write it as 2026-"):
        _as_of(param, datetime(2026, 6, 1, tzinfo=UTC))


# One task


class _Task(operators.NightOperator):
    """A task whose work the test decides."""

    def __init__(self, *, doing: Callable[[night.RunContext], dict[str, Any]], **kwargs: Any):
        super().__init__(**kwargs)
        self.doing = doing

    def work(self, run: night.RunContext) -> dict[str, Any]:
        return self.doing(run)


def _task(doing: Callable[[night.RunContext], dict[str, Any]]) -> _Task:
    return _Task(task_id="transform", doing=doing)


def _context(as_of: str | None = "2026-01-31", run_type: str = "manual") -> Any:
    run = SimpleNamespace(
        run_id="run-1", run_type=run_type, logical_date=None, run_after=datetime.now(UTC)
    )
    return {"dag_run": run, "params": {"as_of": as_of}}


def _failing(error: Exception) -> Callable[[night.RunContext], dict[str, Any]]:
    def work(run: night.RunContext) -> dict[str, Any]:
        raise error

    return work


@pytest.fixture
def warehouse(module_warehouse_dsn: str, clean_env: pytest.MonkeyPatch) -> str:
    """The warehouse, as Airflow finds it, with no results in it."""
    clean_env.setenv("AIRFLOW_CONN_WAREHOUSE", module_warehouse_dsn)
    with psycopg.connect(module_warehouse_dsn) as connection:
        connection.execute("truncate operations.task_results")
    return module_warehouse_dsn


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """The events that a terminal would show."""
    events: list[tuple[str, str]] = []
    monkeypatch.setattr(
        operators, "watcher", lambda task_id, event, text: events.append((event, text))
    )
    return events


def _result(dsn: str) -> tuple[Any, ...] | None:
    with psycopg.connect(dsn) as connection:
        return connection.execute(
            "select run_id, task_id, as_of_date, state, summary from operations.task_results"
        ).fetchone()


@pytest.mark.integration
def test_a_task_returns_and_records_its_summary(
    warehouse: str, watched: list[tuple[str, str]]
) -> None:
    seen: list[night.RunContext] = []

    def work(run: night.RunContext) -> dict[str, Any]:
        seen.append(run)
        run.progress("halfway")
        return {"rows": 3}

    assert _task(work).execute(_context()) == {"rows": 3}
    assert (seen[0].run_id, seen[0].as_of_date) == ("run-1", date(2026, 1, 31))
    assert not seen[0].is_backfill
    assert psycopg.conninfo.conninfo_to_dict(seen[0].dsn)["dbname"] in warehouse
    expected = ("run-1", "transform", date(2026, 1, 31), "success", {"rows": 3})
    assert _result(warehouse) == expected
    assert watched == [("started", ""), ("progress", "halfway"), ("success", "")]


@pytest.mark.integration
def test_a_backfill_is_known_as_one(warehouse: str) -> None:
    seen: list[bool] = []
    task = _task(lambda run: seen.append(run.is_backfill) or {})
    task.execute(_context(run_type="backfill"))
    assert seen == [True]


@pytest.mark.integration
def test_a_task_that_waits_for_another_build_gives_its_slot_back(
    warehouse: str, watched: list[tuple[str, str]]
) -> None:
    before = datetime.now(UTC)
    with pytest.raises(AirflowRescheduleException) as rescheduled:
        _task(_failing(BuildBusy("Run 'night' builds marts_green."))).execute(_context())
    wait = rescheduled.value.reschedule_date - before
    assert operators.BUSY_PAUSE <= wait < operators.BUSY_PAUSE + timedelta(seconds=30)
    assert _result(warehouse) is None
    assert watched[-1] == ("progress", "Run 'night' builds marts_green.")


@pytest.mark.integration
@pytest.mark.parametrize(
    ("error", "is_over"),
    [(GateFailure("gate_marts: customers"), True), (VendorError("503"), False)],
)
def test_nobody_waits_for_a_run_that_has_failed_for_good(
    warehouse: str, error: Exception, is_over: bool
) -> None:
    begin_build(warehouse, "run-1", date(2026, 1, 31), False)
    with pytest.raises(AirflowException):
        _task(_failing(error)).execute(_context())
    with psycopg.connect(warehouse) as connection:
        row = connection.execute("select is_over from operations.build_lease").fetchone()
    assert row == (is_over,)


@pytest.mark.integration
def test_a_task_with_nothing_to_do_is_skipped_and_recorded(warehouse: str) -> None:
    with pytest.raises(AirflowSkipException, match="skipped: backfill"):
        _task(lambda run: {"skipped_because": "backfill"}).execute(_context())
    result = _result(warehouse)
    assert result is not None
    assert result[3] == "skipped"


@pytest.mark.integration
@pytest.mark.parametrize(
    ("error", "is_retried"),
    [
        (VendorError("mailchimp: GET /3.0/lists: no answer"), True),
        (WarehouseError("cannot be reached"), True),
        (psycopg.OperationalError("the server closed the connection"), True),
        (ConfigError("config/model.yml:3: unknown key"), False),
        (CredentialError("Connection 'hubspot' is not set"), False),
        (GateFailure("gate_marts: customers"), False),
        (TransformError("model orders"), False),
        (KeyError("stage"), False),
    ],
)
def test_a_failure_is_one_message_and_retried_only_where_that_may_help(
    warehouse: str, watched: list[tuple[str, str]], error: Exception, is_retried: bool
) -> None:
    with pytest.raises(AirflowException) as raised:
        _task(_failing(error)).execute(_context())
    assert isinstance(raised.value, AirflowFailException) is not is_retried
    message = str(raised.value)
    assert type(error).__name__ in message
    assert str(error) in message
    assert raised.value.__suppress_context__  # no stack trace at the user
    result = _result(warehouse)
    assert result is not None
    assert result[3:] == ("failed", {"error": message})
    assert watched[-1] == ("failed", message)


@pytest.mark.integration
def test_an_unexpected_error_shows_no_personal_data(warehouse: str) -> None:
    def work(run: night.RunContext) -> dict[str, Any]:
        with psycopg.connect(run.dsn) as connection:
            connection.execute("create temporary table people (email text primary key)")
            for _ in range(2):
                connection.execute("insert into people values ('anna@example.com')")
        return {}

    with pytest.raises(AirflowFailException) as raised:
        _task(work).execute(_context())
    assert "Unexpected UniqueViolation: duplicate key value violates" in str(raised.value)
    assert "anna" not in str(raised.value)
    assert "anna" not in str(_result(warehouse))


@pytest.mark.integration
def test_a_wrong_param_fails_the_task_with_its_message(
    warehouse: str, watched: list[tuple[str, str]]
) -> None:
    with pytest.raises(AirflowFailException, match="ConfigError: param as_of: 'soon' is no date"):
        _task(lambda run: {}).execute(_context(as_of="soon"))
    assert watched[-1][0] == "failed"


def test_a_warehouse_that_is_not_there_is_one_message(
    clean_env: pytest.MonkeyPatch, watched: list[tuple[str, str]]
) -> None:
    clean_env.setenv("AIRFLOW_CONN_WAREHOUSE", "postgresql://loader:s3cret@127.0.0.1:1/warehouse")
    with pytest.raises(
        AirflowException, match=r"127\.0\.0\.1:1/warehouse cannot be reached"
    ) as raised:
        _task(lambda run: {}).execute(_context())
    assert not isinstance(raised.value, AirflowFailException)
    assert "s3cret" not in str(raised.value)
    assert watched[-1][0] == "failed"


def test_airflows_connections_become_ours(clean_env: pytest.MonkeyPatch) -> None:
    clean_env.setenv("AIRFLOW_CONN_CRM", "https://me:s%23cret@crm.example.com:8443/api?region=eu")
    found = operators._airflow_connection("crm")
    assert found.base_url == "https://crm.example.com:8443/api"
    assert (found.login, found.password, found.extra) == ("me", "s#cret", {"region": "eu"})


def test_a_connection_nobody_set_says_what_to_do(clean_env: pytest.MonkeyPatch) -> None:
    with pytest.raises(CredentialError, match=r"'crm' is not set.*AIRFLOW_CONN_CRM"):
        operators._airflow_connection("crm")
