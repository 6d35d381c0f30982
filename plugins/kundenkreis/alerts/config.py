"""``alerts.yml``: who is told what goes wrong, and how. Light: imports only pydantic.

A channel says how a message leaves; an event says which channels hear of it. What a channel needs
to log in is an Airflow connection, never a key here.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator, model_validator

_Strict = ConfigDict(extra="forbid", frozen=True)
_CHANNEL = r"^[a-z][a-z0-9_]{0,62}$"

Event = Literal[
    "failed_task",
    "failed_gate",
    "held_segment",
    "dead_letters",
    "churn_alarm",
    "late_run",
]
EVENTS: tuple[Event, ...] = (
    "failed_task",
    "failed_gate",
    "held_segment",
    "dead_letters",
    "churn_alarm",
    "late_run",
)


class EmailChannel(BaseModel):
    """Email through Airflow's SMTP notifier."""

    model_config = _Strict
    kind: Literal["email"] = Field(description="Email, sent by Airflow's SMTP provider.")
    connection: str = Field(
        "smtp_default", description="Id of the Airflow connection of type smtp."
    )
    to: list[str] = Field(min_length=1, description="Addresses of the team, not of customers.")
    from_email: str | None = Field(
        None, description="The sender; null: from_email in the extra of the connection."
    )


class SlackChannel(BaseModel):
    """A Slack incoming webhook."""

    model_config = _Strict
    kind: Literal["slack"] = Field(description="An incoming webhook of Slack, or of Mattermost.")
    connection: str = Field(
        "slack_alerts",
        description="Id of the Airflow connection: https with the webhook's address, or of type "
        "slackwebhook with the token as its password.",
    )


class WebhookChannel(BaseModel):
    """Any address that takes JSON."""

    model_config = _Strict
    kind: Literal["webhook"] = Field(
        description="POST of a JSON object with event, state, title, text and the facts."
    )
    connection: str = Field(
        "alerts_webhook",
        description="Id of the Airflow connection with the address; a password is sent as a "
        "bearer token, a login with it as basic authentication.",
    )


class NotifierChannel(BaseModel):
    """Any notifier that is installed beside Airflow."""

    model_config = _Strict
    kind: Literal["notifier"] = Field(
        description="A notifier class of an Airflow provider: Apprise, PagerDuty, Opsgenie, Teams."
    )
    notifier: str = Field(
        pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)+$",
        description="Import path of the class, such as "
        "airflow.providers.apprise.notifications.apprise.AppriseNotifier.",
    )
    arguments: dict[str, JsonValue] = Field(
        default={},
        description="Its arguments. {title}, {text}, {event} and {state} in a text are replaced.",
    )


Channel = Annotated[
    EmailChannel | SlackChannel | WebhookChannel | NotifierChannel, Field(discriminator="kind")
]


class AlertLimits(BaseModel):
    """How much of what is usual before somebody is told."""

    model_config = _Strict
    open_records: int = Field(
        100, ge=0, description="Open records of one source in the quarantine; more is told."
    )
    parked_rows: int = Field(
        20,
        ge=0,
        description="Contacts that one email tool refused max_rejections times, so that they are "
        "not sent again; more is told.",
    )


class AlertsConfig(BaseModel):
    """``alerts.yml``: who is told what. Without the file, or without channels, nobody is."""

    model_config = _Strict
    channels: dict[str, Channel] = Field(
        default={},
        description="How messages leave, by a name: lower case letters, digits and _.",
        json_schema_extra={"propertyNames": {"pattern": _CHANNEL}},
    )
    events: dict[Event, list[str]] = Field(
        default={},
        description="Which channels hear of what: failed_task, failed_gate, held_segment, "
        "dead_letters, churn_alarm, late_run. One that is left out is recorded and told to nobody.",
    )
    limits: AlertLimits = Field(default=AlertLimits(), description="From where on it is told.")
    deadline_minutes: int | None = Field(
        None,
        ge=1,
        le=1439,
        description="late_run: a night that is not through so many minutes after it was queued is "
        "late; null: no night is.",
    )
    tell_recovery: bool = Field(
        True, description="Whether a message says that an incident is over."
    )
    remind_after_days: int | None = Field(
        7,
        ge=1,
        description="An incident that is still open is told again after so many days; null: never.",
    )

    @field_validator("channels")
    @classmethod
    def _names(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            if not re.fullmatch(_CHANNEL, name):
                raise ValueError(f"channel '{name}' must be lower case letters, digits and _")
        return value

    @model_validator(mode="after")
    def _known_channels(self) -> Self:
        for event, names in self.events.items():
            for name in names:
                if name not in self.channels:
                    known = ", ".join(sorted(self.channels)) or "none"
                    raise ValueError(f"events.{event}: '{name}' is no channel. Channels: {known}")
        return self

    def channels_of(self, event: str) -> list[str]:
        """The channels that hear of an event, in order."""
        return list(dict.fromkeys(self.events.get(event, [])))  # type: ignore[call-overload]
