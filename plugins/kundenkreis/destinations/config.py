"""``destinations.yml``: which email tools are connected, and how. Light: imports only pydantic.

Every tool names the Airflow connection that holds its address and credential; none is ever written
here. ``create_contacts`` is off by default: with it, a person the tool does not know is created,
and only with recorded proof of a single or double opt-in (design: Activation).
"""

from __future__ import annotations

import re
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

_CONNECTION = "Id of the Airflow connection that holds address and credential."
_Strict = ConfigDict(extra="forbid", frozen=True)


class DestinationSettings(BaseModel):
    """What every email tool needs."""

    model_config = _Strict
    connection: str = Field(description=_CONNECTION)
    create_contacts: bool = Field(
        False,
        description="Create people the tool does not know, and only with recorded "
        "proof of a single or double opt-in.",
    )
    max_rejections: int = Field(
        5,
        ge=1,
        le=20,
        description="After this many refusals of one payload a row is not sent again; new "
        "attributes are a new payload.",
    )
    max_drift_percent: float = Field(
        2,
        ge=0,
        le=100,
        description="When more of the members that were delivered to an audience are gone from "
        "it, the night's report warns.",
    )
    suppression_minutes: float = Field(
        15,
        gt=0,
        description="A delivery that takes longer reads the tool's contacts again every so many "
        "minutes, so that nobody who has left meanwhile is written to.",
    )
    max_job_minutes: float = Field(
        60,
        gt=0,
        description="How long a delivery waits for a job that the tool works on by itself. The "
        "next delivery asks on.",
    )


class ListmonkSettings(DestinationSettings):
    """listmonk: audiences are private lists."""

    connection: str = Field("listmonk", description=_CONNECTION)
    consent_lists: list[str] = Field(
        default=[],
        description="Lists, by name or id, whose subscriptions are evidence of an opt-in; "
        "empty: all that are not ours.",
    )
    new_contact_list: str = Field(
        "Kundenkreis contacts",
        description="List on which created contacts are confirmed; made when it is missing.",
    )


class MailchimpSettings(DestinationSettings):
    """Mailchimp: audiences are static segments (tags) of one Mailchimp audience (list)."""

    connection: str = Field("mailchimp", description=_CONNECTION)
    list_id: str | None = Field(
        None,
        description="Mailchimp's id of the audience; null: the connection's extra "
        "list_id, else the account's only audience.",
    )
    merge_tags: dict[str, str] = Field(
        default={},
        description="Attribute to merge tag (1 to 10 capitals, digits or _, each once); others are "
        "derived from the attribute's name.",
    )

    @field_validator("merge_tags")
    @classmethod
    def _valid_tags(cls, value: dict[str, str]) -> dict[str, str]:
        for tag in value.values():
            if not re.fullmatch(r"[A-Z][A-Z0-9_]{0,9}", tag):
                raise ValueError(f"'{tag}' must be 1-10 capitals, digits or _")
        if len(set(value.values())) != len(value):
            raise ValueError("gives two attributes the same merge tag")
        return value


class KlaviyoSettings(DestinationSettings):
    """Klaviyo: audiences are lists, attributes are custom properties."""

    connection: str = Field("klaviyo", description=_CONNECTION)
    property_names: dict[str, str] = Field(
        default={},
        description="Attribute to name of the custom property, each once; others keep their own "
        "name, and first_name and last_name go to Klaviyo's own fields.",
    )
    import_from_rows: int = Field(
        50,
        ge=1,
        le=10_000,
        description="From this many contacts on, attributes go as one import job; fewer go one "
        "by one, at once.",
    )

    @field_validator("property_names")
    @classmethod
    def _valid_names(cls, value: dict[str, str]) -> dict[str, str]:
        for name in value.values():
            # $consent and its kin are Klaviyo's own properties.
            if not name.strip() or name.startswith("$"):
                raise ValueError(f"'{name}' must not be empty or begin with $")
        if len(set(value.values())) != len(value):
            raise ValueError("gives two attributes the same property")
        return value


class DestinationsConfig(BaseModel):
    """``destinations.yml``: a tool that is left out is not connected."""

    model_config = _Strict
    listmonk: ListmonkSettings | None = Field(None, description="A listmonk server.")
    mailchimp: MailchimpSettings | None = Field(None, description="A Mailchimp account.")
    klaviyo: KlaviyoSettings | None = Field(None, description="A Klaviyo account.")

    @field_validator("*", mode="before")
    @classmethod
    def _empty_means_defaults(cls, value: Any) -> Any:
        """``listmonk:`` with nothing below it connects the tool with its defaults."""
        return {} if value is None else value
