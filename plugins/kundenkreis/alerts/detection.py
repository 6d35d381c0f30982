"""What a run gives reason to tell, from the bookkeeping of the warehouse. No personal data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Literal

import psycopg
from psycopg.rows import dict_row

from kundenkreis.alerts.incidents import Incident, Judgement
from kundenkreis.settings import Settings

DAG_ID = "customer_lifecycle"
_SHOWN = 8


@dataclass(frozen=True)
class RunState:
    """What is known of a run.

    Attributes:
        run_id: Airflow's run id.
        as_of_date: the day it computes.
        state: running while it goes on.
        is_backfill: history is filled; nothing is published or sent.
        started_at: when it was queued, or began; None where nobody says.
        now: the moment of the look.
        last_task: the task that failed last, where Airflow names one.
        reason: why Airflow ended it: task_failure, timed_out, all_tasks_deadlocked.
    """

    run_id: str
    as_of_date: date
    state: Literal["running", "success", "failed"]
    is_backfill: bool
    started_at: datetime | None
    now: datetime
    last_task: str | None = None
    reason: str = ""


def judge(connection: psycopg.Connection, run: RunState, settings: Settings) -> Judgement:
    """Look at everything a run can be the reason of.

    What a run has not looked at is neither found nor over: an open incident of a task that did
    not run stays open.
    """
    results = _task_results(connection, run.run_id)
    found = [*_dead_letters(connection, settings), *_late(run, results, settings)]
    if run.state != "running":  # while it runs, what has failed may be tried again
        found += [*_failed_gates(connection, run, results), *_failed_tasks(run, results)]
    if not run.is_backfill:
        found += [*_held(connection, run), *_churn(connection, run)]

    def is_over(event: str, subject: str) -> bool:
        state = results.get(subject, {}).get("state")
        done = state in ("success", "skipped")
        if event == "failed_task":
            return done or run.state == "success"
        if event == "failed_gate":
            return done
        if event == "dead_letters":
            return True
        if run.is_backfill:
            return False
        if event == "held_segment":
            return results.get("plan", {}).get("state") == "success"
        if event == "churn_alarm":
            return results.get("publish", {}).get("state") == "success"
        return run.state == "success"

    return Judgement(tuple(found), is_over)


# --------------------------------------------------------------------------- tasks and gates


def _failed_tasks(run: RunState, results: dict[str, dict[str, Any]]) -> Iterator[Incident]:
    failed = {
        task: str(row["error"])
        for task, row in results.items()
        if row["state"] == "failed" and not _is_gate_failure(row)
    }
    known = any(row["state"] == "failed" for row in results.values())
    if run.state == "failed" and not known:
        # Killed, timed out, or broken before it could say anything.
        failed[run.last_task or DAG_ID] = _ended_because(run.reason)
    for task, message in failed.items():
        yield Incident(
            "failed_task",
            task,
            f"{task} failed in the night of {run.as_of_date}",
            f"{message}\n\n{_meaning(task)}",
            f"{_first_look(message)}; then clear {task} in Airflow, or {_again(run)}",
            fingerprint=message.partition(":")[0],
            facts={**_of_run(run), "task": task},
        )


def _ended_because(reason: str) -> str:
    if reason == "timed_out":
        return "The run was ended: it took longer than the DAG's dagrun_timeout."
    if reason == "all_tasks_deadlocked":
        return "The run was ended: no task of it could run any more."
    return "The task ended without a word: its process was killed, or could not start."


def _first_look(message: str) -> str:
    if message.startswith(("VendorError", "CredentialError", "ConfigError", "WarehouseError")):
        return "kundenkreis doctor"
    return "kundenkreis status"


def _meaning(task: str) -> str:
    """What a failure of the task means for readers and email tools."""
    if task.startswith("deliver."):
        return "Readers see the new night. What was sent is in the ledger and is not sent twice."
    if task.startswith("reconcile."):
        return "Readers see the new night, and everything was sent; only the check is missing."
    if task in ("plan", "report"):
        return "Readers see the new night. Nothing more is sent until this is put right."
    return "Readers still see the last published night, and nothing was sent."


def _failed_gates(
    connection: psycopg.Connection, run: RunState, results: dict[str, dict[str, Any]]
) -> Iterator[Incident]:
    for task, row in results.items():
        if row["state"] != "failed" or not _is_gate_failure(row):
            continue
        failures = connection.execute(
            "select expectation_id, observed, expected, raised from quality.gate_results "
            "where run_id = %s and gate = %s and (raised or (not success and severity = "
            "'critical')) order by table_name, expectation_id",
            (run.run_id, task.removeprefix("gate_")),
        ).fetchall()
        lines = [
            f"- {name}: {'could not be evaluated' if raised else f'found {observed}'}"
            + (f", allowed {expected}" if expected else "")
            for name, observed, expected, raised in failures[:_SHOWN]
        ]
        if len(failures) > _SHOWN:
            lines.append(f"- and {len(failures) - _SHOWN} more")
        first = failures[0][0] if failures else task
        yield Incident(
            "failed_gate",
            task,
            f"{task} stopped the night of {run.as_of_date}: {first}"
            + (f" and {len(failures) - 1} more" if len(failures) > 1 else ""),
            "\n".join(lines or [str(row["error"])])
            + "\n\nReaders still see the last published night, and nothing was sent.",
            f"kundenkreis gates {first}; docs/gates.md says what to do; then {_again(run)}",
            fingerprint=" ".join(name for name, *_ in failures),
            facts={**_of_run(run), "expectations": [name for name, *_ in failures]},
        )


def _is_gate_failure(row: dict[str, Any]) -> bool:
    return str(row["error"]).startswith("GateFailure")


# --------------------------------------------------------------------------- what waits for people


def _held(connection: psycopg.Connection, run: RunState) -> Iterator[Incident]:
    if not _exists(connection, "activation.plan_rows"):
        return
    rows = connection.execute(
        """
        select
            plan_rows.segment,
            count(*),
            min(plan_rows.status_reason),
            string_agg(distinct plan_rows.destination, ', ' order by plan_rows.destination)
        from activation.plan_rows
        inner join history.publications using (publication_id)
        left join activation.decisions using (publication_id, destination, audience)
        where
            publications.dag_run_id = %s
            and plan_rows.status = 'held'
            and decisions.decision is null
        group by plan_rows.segment
        order by plan_rows.segment
        """,
        (run.run_id,),
    ).fetchall()
    for segment, count, reason, tools in rows:
        yield Incident(
            "held_segment",
            str(segment),
            f"Segment {segment} is held: {_waiting(count, 'change')} for a decision",
            f"Its change of {run.as_of_date} was not sent to {tools}: {reason}.",
            "kundenkreis plan shows what would be sent; then "
            f"kundenkreis approve {segment}, or kundenkreis reject {segment}",
            fingerprint="",
            facts={**_of_run(run), "segment": segment, "rows": count},
        )


def _dead_letters(connection: psycopg.Connection, settings: Settings) -> Iterator[Incident]:
    limits = settings.alerts.limits
    rows = connection.execute(
        "select source, count(*) from quarantine.rejected_records where state = 'open' "
        "group by source having count(*) > %s order by source",
        (limits.open_records,),
    ).fetchall()
    for source, count in rows:
        yield Incident(
            "dead_letters",
            f"quarantine of {source}",
            f"{_waiting(count, 'record')} in the quarantine of {source}",
            f"They could not be used, and the marts are without them. More than "
            f"{limits.open_records:,} is told (limits.open_records in alerts.yml).",
            f"kundenkreis quarantine list --source {source}",
            facts={"source": source, "records": count},
        )
    parked = connection.execute(
        "select destination, count(*) from activation.delivered_state "
        "inner join activation.destinations using (destination) "
        "where rejections >= max_rejections "
        "group by destination having count(*) > %s order by destination",
        (limits.parked_rows,),
    ).fetchall()
    for tool, count in parked:
        yield Incident(
            "dead_letters",
            f"contacts that {tool} refuses",
            f"{tool} refuses {count:,} contact{'s' if count > 1 else ''} for good",
            f"Each was refused max_rejections times with the same attributes. More than "
            f"{limits.parked_rows:,} is told (limits.parked_rows in alerts.yml).",
            'kundenkreis warehouse psql -c "select rejected_reason, count(*) from '
            f"activation.delivered_state where destination = '{tool}' and rejections > 0 "
            'group by 1 order by 2 desc"',
            facts={"destination": tool, "rows": count},
        )


# --------------------------------------------------------------------------- news of the business


def _churn(connection: psycopg.Connection, run: RunState) -> Iterator[Incident]:
    row = connection.execute(
        "select kpi_daily.churn_rate, kpi_daily.churned_customers from history.kpi_daily "
        "inner join history.publications using (publication_id) "
        "where publications.dag_run_id = %s and kpi_daily.churn_alarm",
        (run.run_id,),
    ).fetchone()
    if row is not None:
        rate, churned = row
        yield Incident(
            "churn_alarm",
            "churn rate",
            f"Churn is unusually high: {rate * 100:.1f} % in 30 days up to {run.as_of_date}",
            f"{churned:,} customers became churned on that day. churn_rate_alarm_percent in "
            "model.yml, or half as much again as the mean of 90 days, was passed.",
            'kundenkreis warehouse psql -c "select as_of_date, churn_rate, churned_customers from '
            'history.kpi_daily order by 1 desc limit 30"',
            facts={**_of_run(run), "churn_rate": float(rate)},
        )


def _late(
    run: RunState, results: dict[str, dict[str, Any]], settings: Settings
) -> Iterator[Incident]:
    minutes = settings.alerts.deadline_minutes
    if minutes is None or run.started_at is None or run.is_backfill:
        return
    over = _through_at(results, settings) or run.now
    if over - run.started_at < timedelta(minutes=minutes):
        return
    taken = int((over - run.started_at).total_seconds() // 60)
    goes_on = "has been under way for" if run.state == "running" else "took"
    yield Incident(
        "late_run",
        DAG_ID,
        f"The night of {run.as_of_date} is late",
        f"It {goes_on} {taken} minutes; it should be through within {minutes} "
        "(deadline_minutes in alerts.yml).",
        "kundenkreis status shows how long each task took",
        facts={**_of_run(run), "minutes": taken, "deadline_minutes": minutes},
    )


def _through_at(results: dict[str, dict[str, Any]], settings: Settings) -> datetime | None:
    """When everything but questions to people was done: a run waits for their answers for hours."""
    last = [f"reconcile.{name}" for name in settings.destinations] or ["publish"]
    done = [results[task]["finished_at"] for task in last if _succeeded(results, task)]
    return max(done) if len(done) == len(last) else None


def _succeeded(results: dict[str, dict[str, Any]], task: str) -> bool:
    return task in results and results[task]["state"] in ("success", "skipped")


# --------------------------------------------------------------------------- shared


def _task_results(connection: psycopg.Connection, run_id: str) -> dict[str, dict[str, Any]]:
    with connection.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(
            "select task_id, state, summary ->> 'error' as error, finished_at "
            "from operations.task_results "
            "where run_id = %s order by finished_at",
            (run_id,),
        ).fetchall()
    return {row["task_id"]: row for row in rows}


def _exists(connection: psycopg.Connection, relation: str) -> bool:
    row = connection.execute("select to_regclass(%s) is not null", (relation,)).fetchone()
    return row == (True,)


def _waiting(count: int, noun: str) -> str:
    return f"{count:,} {noun} waits" if count == 1 else f"{count:,} {noun}s wait"


def _again(run: RunState) -> str:
    return f"kundenkreis run --as-of {run.as_of_date}"


def _of_run(run: RunState) -> dict[str, Any]:
    return {"run_id": run.run_id, "as_of_date": run.as_of_date.isoformat()}
