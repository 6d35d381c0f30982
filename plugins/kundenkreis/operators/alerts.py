"""Tells people through Airflow: a notifier for DAG callbacks, the deadline, email and the like.

`NightNotifier` is a notifier like any other of Airflow's, so it can stand wherever one can. What
is told, and how often, is decided by `kundenkreis.alerts`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

# Airflow's stub file does not know the deadlines that its module has.
from airflow.sdk import (  # type: ignore[attr-defined]
    BaseNotifier,
    DeadlineAlert,
    DeadlineReference,
    SyncCallback,
)

from kundenkreis.errors import KundenkreisError
from kundenkreis.redaction import first_lines
from kundenkreis.settings import Settings, load_settings

if TYPE_CHECKING:
    from airflow.sdk import Context

    from kundenkreis.alerts.channels import Message
    from kundenkreis.alerts.config import Channel, EmailChannel, NotifierChannel
    from kundenkreis.alerts.detection import RunState

log = logging.getLogger(__name__)

State = Literal["running", "success", "failed"]


class NightNotifier(BaseNotifier):  # type: ignore[misc]  # mypy does not follow Airflow
    """Tells what the end of a night gives reason to tell: failures, held segments, what is over."""

    def render_template_fields(self, context: Context, jinja_env: Any = None) -> None:
        """Nothing is a template. The DAG that `dag.test()` hands over could not render any."""

    def notify(self, context: Context) -> None:
        """Airflow's entry point. A problem of its own is logged; the run stays as it is."""
        state: State = "success" if context.get("reason") == "success" else "failed"
        tell(context, state)


def tell_late(context: Mapping[str, Any]) -> None:
    """Callback of the deadline: the run is still under way and should be through."""
    tell(context, "running")


def night_deadline(settings: Settings) -> DeadlineAlert | None:
    """The night's deadline, from alerts.yml; None where there is none."""
    minutes = settings.alerts.deadline_minutes
    if minutes is None:
        return None
    return DeadlineAlert(
        reference=DeadlineReference.DAGRUN_QUEUED_AT,
        interval=timedelta(minutes=minutes),
        callback=SyncCallback(tell_late),
    )


def night_alerts(settings: Settings) -> dict[str, Any]:
    """What the DAG is given so that people are told of its runs."""
    notifier = NightNotifier()
    return {
        "deadline": night_deadline(settings),
        "on_success_callback": notifier,
        "on_failure_callback": notifier,
    }


def tell(context: Mapping[str, Any], state: State) -> None:
    """Record and send what there is to tell of a run. Raises nothing.

    Where the warehouse cannot be reached nothing can be remembered: then that is told directly.
    """
    from kundenkreis.alerts.review import review
    from kundenkreis.errors import WarehouseError
    from kundenkreis.operators.night import _warehouse_dsn

    try:
        settings = load_settings()
        run = _run_state(context, state, settings)
        try:
            counts = review(_warehouse_dsn(), run, settings, send, log.info)
        except WarehouseError as error:
            _tell_unreachable(settings, run, error)
            return
        log.info("alerts: %d sent, %d not taken", counts["sent"], counts["failed"])
    except Exception as error:
        text = str(error) if isinstance(error, KundenkreisError) else first_lines(str(error), 2)
        log.error("Alerts could not be looked at: %s: %s", type(error).__name__, text)


def send(channel: Channel, message: Message) -> None:
    """Hand a message to a channel, with the connections and notifiers of Airflow."""
    from kundenkreis.alerts import channels
    from kundenkreis.operators.night import _airflow_connection

    channels.send(channel, message, _airflow_connection, notify_by_airflow)


def send_and_explain(channel: Channel, message: Message) -> None:
    """As `send`, for a person: whatever a notifier raises is one message.

    Raises:
        KundenkreisError: the channel did not take it.
    """
    try:
        send(channel, message)
    except KundenkreisError:
        raise
    except Exception as error:
        why = first_lines(str(error), 1).rstrip(".")
        raise KundenkreisError(
            f"The channel did not take the message: {type(error).__name__}: {why}. Check its "
            "connection; `kundenkreis doctor` looks at it."
        ) from None


def notify_by_airflow(channel: EmailChannel | NotifierChannel, message: Message) -> None:
    """Send by one of Airflow's notifiers.

    Raises:
        ConfigError: the notifier is not installed, or takes other arguments.
    """
    from kundenkreis.alerts.config import EmailChannel

    notifier = (
        _email(channel, message) if isinstance(channel, EmailChannel) else _named(channel, message)
    )
    # Not called as a callback: Jinja must not take a message for a template.
    notifier.notify({})


def _email(channel: EmailChannel, message: Message) -> Any:
    from html import escape

    from airflow.providers.smtp.notifications.smtp import SmtpNotifier

    return SmtpNotifier(
        smtp_conn_id=channel.connection,
        to=list(channel.to),
        from_email=channel.from_email,
        subject=f"Kundenkreis: {message.title}",
        html_content=f"<pre style='white-space: pre-wrap'>{escape(message.text)}</pre>",
    )


def _named(channel: NotifierChannel, message: Message) -> Any:
    from importlib import import_module

    from kundenkreis.errors import ConfigError

    module, _, name = channel.notifier.rpartition(".")
    try:
        notifier = getattr(import_module(module), name)
        return notifier(**_filled(channel.arguments, message))
    except (ImportError, AttributeError):
        raise ConfigError(
            f"alerts.yml: notifier '{channel.notifier}' is not installed. Install the provider "
            "that has it, with the versions of requirements.txt."
        ) from None
    except TypeError as error:
        raise ConfigError(
            f"alerts.yml: notifier '{channel.notifier}' takes other arguments: "
            f"{first_lines(str(error), 1)}."
        ) from None


def _filled(value: Any, message: Message) -> Any:
    """Arguments with the message in the place of {title}, {text}, {event} and {state}."""
    if isinstance(value, str):
        for name in ("title", "text", "event", "state"):
            value = value.replace("{" + name + "}", str(getattr(message, name)))
        return value
    if isinstance(value, list):
        return [_filled(item, message) for item in value]
    if isinstance(value, dict):
        return {key: _filled(item, message) for key, item in value.items()}
    return value


@dataclass(frozen=True)
class _Run:
    """What a context says of its run; a deadline's is a dictionary, a callback's may have none."""

    run_id: str
    run_type: str
    conf: Mapping[str, Any]
    due: datetime | None
    logical_date: datetime | None

    @property
    def run_after(self) -> datetime:
        return self.due or datetime.now(UTC)


def _run_state(context: Mapping[str, Any], state: State, settings: Settings) -> RunState:
    from kundenkreis.alerts.detection import RunState
    from kundenkreis.operators.night import as_of_date

    run = _run(context)
    params = context.get("params") or run.conf
    day: date = as_of_date(params.get("as_of"), run, settings.local_date)
    failed = context.get("ti") if state == "failed" else None
    return RunState(
        run_id=run.run_id,
        as_of_date=day,
        state=state,
        is_backfill=run.run_type.endswith("backfill"),
        started_at=run.due,
        now=datetime.now(UTC),
        last_task=getattr(failed, "task_id", None),
        reason=str(context.get("reason") or ""),
    )


def _run(context: Mapping[str, Any]) -> _Run:
    found = context.get("dag_run")

    def of(name: str) -> Any:
        return found.get(name) if isinstance(found, Mapping) else getattr(found, name, None)

    # A run that is cleared later begins anew; what it waited for before is no lateness.
    due = _moment(of("start_date") if of("clear_number") else of("run_after"))
    return _Run(
        run_id=str(of("run_id") or of("dag_run_id") or context.get("run_id") or ""),
        run_type=str(getattr(of("run_type"), "value", of("run_type")) or ""),
        conf=of("conf") or {},
        due=due,
        logical_date=_moment(of("logical_date")),
    )


def _moment(value: Any) -> datetime | None:
    if isinstance(value, str):
        return datetime.fromisoformat(value.replace("Z", "+00:00"))
    return value if isinstance(value, datetime) else None


def _tell_unreachable(settings: Settings, run: RunState, error: KundenkreisError) -> None:
    from kundenkreis.alerts.channels import Message

    message = Message(
        "failed_task",
        "opened",
        f"The night of {run.as_of_date} cannot reach the warehouse",
        f"{error}\n\nNothing can be recorded either, so this is told after every run.\n\n"
        "Next: kundenkreis doctor",
        {"run_id": run.run_id, "as_of_date": run.as_of_date.isoformat()},
    )
    for name in settings.alerts.channels_of("failed_task"):
        try:
            send(settings.alerts.channels[name], message)
        except Exception as problem:
            text = first_lines(str(problem), 1)
            log.error("channel '%s' did not take it: %s: %s", name, type(problem).__name__, text)
