"""Held segments: find them, ask somebody about each, and send what was approved.

The answer is data: a row of ``activation.approvals``. Only that row lets a held segment go out, so
neither a task that is cleared nor one that is marked as done ever sends anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk import Param
from airflow.sdk.exceptions import AirflowSkipException

from kundenkreis import night
from kundenkreis.airflow_api import OPTIONS, subject_of
from kundenkreis.operators.night import NightOperator, NightTask
from kundenkreis.warehouse import ACTIVATOR

if TYPE_CHECKING:
    from airflow.sdk import Context

    from kundenkreis.night import RunContext, Summary

# So long before the next night nobody can answer any more: approved rows need time to be sent.
QUIET_BEFORE_NIGHT = timedelta(hours=1)
QUIET_BEFORE_TIMEOUT = timedelta(minutes=30)
# A question that stands for less than this is not worth asking.
SHORTEST_WAIT = timedelta(minutes=10)

# `dag.test()`, and so `kundenkreis run`, starts its runs under this name.
_STARTED_BY_DAG_TEST = "dag_test"


class FindHeldOperator(NightOperator):
    """Lists the segments to ask about; none where nobody could answer."""

    role = ACTIVATOR
    template_fields: Sequence[str] = ("publication_id",)

    def __init__(self, *, publication_id: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.publication_id = publication_id
        self.multiple_outputs = False  # a list, which `approve` is mapped over

    def work(self, run: RunContext) -> Summary:
        """Look up."""
        return night.find_held(run, int(self.publication_id))

    def execute(self, context: Context) -> list[Summary]:  # type: ignore[override]
        """Airflow's entry point."""
        questions: list[Summary] = super().execute(context)["questions"]
        if not questions:
            return []
        reason = _why_nobody_can_answer(context)
        if reason:
            names = ", ".join(question["segment"] for question in questions)
            self._progress(f"held, and not asked about because {reason}: {names}")
            return []
        return questions


class ApproveOperator(NightTask, HITLOperator):  # type: ignore[misc]
    """Asks about one held segment, and records the answer.

    There is no default, so silence sends nothing: then the task is skipped, and so is its delivery.
    """

    role = ACTIVATOR
    template_fields: Sequence[str] = ("question",)

    def __init__(self, *, question: Any, **kwargs: Any) -> None:
        super().__init__(subject="Send a held segment?", options=list(OPTIONS.values()), **kwargs)
        self.question = question

    def execute(self, context: Context) -> None:
        """Ask, and wait until somebody answers or the next night is near."""
        question: dict[str, Any] = self.question
        self.subject = subject_of(question["segment"], question["publication_id"])
        self.body = question_body(question)
        self.response_timeout = longest_wait(context, datetime.now(UTC))
        super().execute(context)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Summary:
        """Airflow's entry point when there is an answer, or the time is up."""
        if event.get("error_type") == "timeout":
            raise AirflowSkipException("Nobody answered: the segment stays held and is not sent.")
        super().execute_complete(context, event)
        chosen = next(name for name, label in OPTIONS.items() if [label] == event["chosen_options"])
        user: Mapping[str, str] = event["responded_by_user"] or {}
        by = user.get("name") or user.get("id") or "unknown"
        note = str((event["params_input"] or {}).get("note") or "")
        return self.run_night_task(
            context,
            lambda run: night.decide(run, self.question, chosen, by, note),
            self.question["segment"],
        )


class DeliverHeldOperator(NightOperator):
    """Sends a segment that was held, where it is approved."""

    role = ACTIVATOR
    template_fields: Sequence[str] = ("question",)

    def __init__(self, *, question: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.question = question

    def execute(self, context: Context) -> Summary:
        """Airflow's entry point."""
        return self.run_night_task(
            context,
            lambda run: night.deliver_held(run, self.question),
            self.question["segment"],
        )


def ask_and_deliver(question: Any) -> None:
    """Ask about a held segment, and send it when it is approved."""
    name = "{{ task.question['segment'] }}"
    note = Param("", type="string", title="Note", description="Why; kept with the decision.")
    approve = ApproveOperator(
        task_id="approve",
        question=question,
        map_index_template=name,
        params={"note": note},
        # Where it is asked, `longest_wait` says when the question ends.
        response_timeout=timedelta(hours=22),
    )
    approve >> DeliverHeldOperator(
        task_id="deliver_held",
        question=question,
        map_index_template=name,
        # One delivery per tool at a time.
        max_active_tis_per_dagrun=1,
    )


def question_body(question: Mapping[str, Any]) -> str:
    """What somebody has to know to decide, as Markdown. No personal data."""
    from kundenkreis.activation.approvals import in_words

    lines = "\n".join(f"- {in_words(audience)}" for audience in question["audiences"])
    return (
        f"{lines}\n\n`kundenkreis plan --sample 20` shows some of the rows. *{OPTIONS['approve']}* "
        f"sends exactly this; with *{OPTIONS['reject']}*, or without an answer, nothing is sent, "
        "and the next night asks again if the change is still as large."
    )


def longest_wait(context: Context, now: datetime) -> timedelta:
    """How long a question may stand: up to an hour before the DAG's next scheduled run.

    Never beyond the end of the run itself, which Airflow fails at its ``dagrun_timeout``.
    """
    dag: Any = context["dag"]
    dag_run: Any = context["dag_run"]
    waits = [_until_next_night(dag, now) - QUIET_BEFORE_NIGHT]
    if dag.dagrun_timeout and dag_run.start_date:
        waits.append(dag_run.start_date + dag.dagrun_timeout - now - QUIET_BEFORE_TIMEOUT)
    # Differences of Airflow's moments are durations of pendulum, which its task runner cannot send.
    return timedelta(seconds=min(waits).total_seconds())


def _until_next_night(dag: Any, now: datetime) -> timedelta:
    """A DAG without a schedule has no next night; then its runs are a day long at the most."""
    from airflow.timetables.base import TimeRestriction
    from airflow.timetables.trigger import CronTriggerTimetable

    if not isinstance(dag.schedule, str):
        return timedelta(days=1)
    next_run = CronTriggerTimetable(dag.schedule, timezone=dag.timezone).next_dagrun_info(
        last_automated_data_interval=None,
        restriction=TimeRestriction(earliest=now, latest=None, catchup=True),
    )
    begins: datetime = next_run.run_after
    return begins - now


def _why_nobody_can_answer(context: Context) -> str | None:
    dag_run: Any = context["dag_run"]
    if dag_run.triggering_user_name == _STARTED_BY_DAG_TEST:
        return "no scheduler runs that could wait for an answer"
    if longest_wait(context, datetime.now(UTC)) < SHORTEST_WAIT:
        return "the next night is too near"
    return None
