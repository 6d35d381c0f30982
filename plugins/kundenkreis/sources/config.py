"""Settings of the sources: what may stand in ``config/sources.yml``.

Pydantic only, so that reading the configuration stays cheap. Each class is the value of one key of
``sources.yml`` (see `SourcesConfig`). Credentials are connections, never settings.
"""

from __future__ import annotations

from datetime import date
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo, available_timezones

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    field_validator,
    model_validator,
)


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _as_written(value: Any) -> Any:
    # YAML reads 2026-04-06 as a date.
    return value.isoformat() if isinstance(value, date) else value


_QuietDay = Annotated[
    str,
    BeforeValidator(_as_written, json_schema_input_type=str),
    Field(pattern=r"^(\d{4}-)?(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])$"),
]
_QUIET_DAYS = (
    "Days on which little or nothing is usual, as 2026-04-06 or, of every year, 12-25: "
    "`gate_landing` does not ask for the usual number of records of such a day."
)
# Where hardly anybody works or shops in most of the countries that have these holidays.
_USUALLY_QUIET = ("01-01", "12-24", "12-25", "12-26", "12-31")
_FRESH = (
    "`gate_landing` warns when the newest change is more than so many days before the as-of date, "
    "and stops the night at three times as many"
)


# --------------------------------------------------------------------------- files


class Entity(StrEnum):
    """What the rows of a file are; each is one table of ``raw_files``."""

    CUSTOMERS = "customers"
    ORDER_LINES = "order_lines"
    ORDERS = "orders"
    PRODUCTS = "products"
    CONSENT_EVENTS = "consent_events"
    SPEND = "spend"


ENTITY_COLUMNS: dict[Entity, dict[str, str]] = {
    Entity.CUSTOMERS: {
        "customer_key": "text",
        "email": "text",
        "first_name": "text",
        "last_name": "text",
        "phone": "text",
        "country": "text",
        "preferred_language": "text",
        "acquisition_source": "text",
        "created_at": "timestamp",
        "linked_source": "text",
        "linked_customer_key": "text",
    },
    Entity.ORDER_LINES: {
        "order_key": "text",
        "customer_key": "text",
        "email": "text",
        "ordered_at": "timestamp",
        "status": "text",
        "currency": "text",
        "product_key": "text",
        "product_name": "text",
        "quantity": "factor",
        "unit_price": "factor",
        "line_amount": "amount",
        "discount_amount": "amount",
        "delivered_at": "timestamp",
        "refunds_order_key": "text",
    },
    Entity.ORDERS: {
        "order_key": "text",
        "customer_key": "text",
        "email": "text",
        "ordered_at": "timestamp",
        "status": "text",
        "currency": "text",
        "total_amount": "amount",
        "discount_amount": "amount",
        "delivered_at": "timestamp",
        "refunds_order_key": "text",
    },
    Entity.PRODUCTS: {
        "product_key": "text",
        "product_name": "text",
        "category": "text",
    },
    Entity.CONSENT_EVENTS: {
        "email": "text",
        "channel": "text",
        "evidence": "text",
        "occurred_at": "timestamp",
        "wording": "text",
    },
    Entity.SPEND: {
        "acquisition_source": "text",
        "spent_on": "day",
        "currency": "text",
        "amount": "amount",
    },
}
"""The canonical columns a file's columns are mapped to, with their kind.

``factor`` is a decimal that is multiplied (10 digits before and 9 after the point), ``amount`` a
decimal sum (20 before, 18 after). ``discount_amount`` is what was taken off, positive, with tax
where the amounts have it. ``refunds_order_key`` makes an order below zero (a credit note) a refund
of the order it names, of the same source; without it such an order just does not count.
``linked_source`` and ``linked_customer_key`` name the record of the same person in another source.
``day`` is a calendar day as written, whatever the time zone.
"""

_CANONICAL: list[JsonValue] = list(
    dict.fromkeys(column for columns in ENTITY_COLUMNS.values() for column in columns)
)

REQUIRED_COLUMNS: dict[Entity, tuple[str, ...]] = {
    Entity.CUSTOMERS: ("customer_key",),
    Entity.ORDER_LINES: ("ordered_at", "status", "currency"),
    Entity.ORDERS: ("ordered_at", "status", "currency", "total_amount"),
    Entity.PRODUCTS: ("product_key",),
    Entity.CONSENT_EVENTS: ("email", "evidence"),
    Entity.SPEND: ("acquisition_source", "spent_on", "currency", "amount"),
}
"""Columns that must be mapped, and whose empty cells send a row to quarantine."""


class Case(_Settings):
    """One condition of a conditional value; the first case that holds wins."""

    column: str = Field(description="The column of the file that decides.")
    starts_with: str | None = Field(None, description="Exactly one of this and the next two.")
    ends_with: str | None = Field(None, description="See starts_with.")
    equals: str | None = Field(None, description="See starts_with.")
    value: str = Field(description="The text when the condition holds.")

    @model_validator(mode="after")
    def _one_condition(self) -> Self:
        given = [name for name in ("starts_with", "ends_with", "equals") if getattr(self, name)]
        if len(given) != 1:
            raise ValueError("needs exactly one of starts_with, ends_with, equals")
        return self


class ColumnMapping(_Settings):
    """Where the value of one canonical column comes from: exactly one of the first four.

    A plain string in place of a mapping names a column.
    """

    column: str | None = Field(None, description="A column of the file.")
    constant: str | None = Field(None, description="The same text in every row.")
    concat: tuple[str, ...] | None = Field(
        None, description="Several columns, joined; empty when one of them is empty."
    )
    cases: tuple[Case, ...] | None = Field(
        None, description="A text that depends on another column; the first case that holds wins."
    )
    separator: str = Field("-", description="Stands between the columns of concat.")
    otherwise: str | None = Field(
        None, description="The text when no case holds; null: empty. Goes with cases."
    )
    strip_prefix: str | None = Field(None, description="Cut off where the value begins with it.")
    strip_suffix: str | None = Field(
        None, description="Cut off where the value ends with it (17850.0 with .0 gives 17850)."
    )
    add_prefix: str | None = Field(None, description="Put before the value.")
    values: dict[str, str] = Field(
        default_factory=dict,
        description="Replaces whole values ({F: completed}), last of all; others stay.",
    )

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        origins = ("column", "constant", "concat", "cases")
        given = [name for name in origins if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError("needs exactly one of column, constant, concat, cases")
        if self.otherwise is not None and self.cases is None:
            raise ValueError("otherwise goes with cases")
        return self

    def columns(self) -> tuple[str, ...]:
        """The columns of the file that this value is made from."""
        if self.column is not None:
            return (self.column,)
        if self.concat is not None:
            return self.concat
        return tuple(dict.fromkeys(case.column for case in self.cases or ()))


def _expand_shorthand(value: Any) -> Any:
    return {"column": value} if isinstance(value, str) else value


Mapping = Annotated[
    ColumnMapping,
    BeforeValidator(_expand_shorthand, json_schema_input_type=ColumnMapping | str),
]


def _as_tuple(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


Texts = Annotated[
    tuple[str, ...],
    BeforeValidator(_as_tuple, json_schema_input_type=tuple[str, ...] | str),
]
_NAME = r"^[a-z][a-z0-9_]{0,59}$"


class FileDataset(_Settings):
    """Files of one shape, and how their columns become canonical ones."""

    name: str = Field(pattern=_NAME, description="The dataset's own name; no two may share it.")
    source: str | None = Field(
        None,
        pattern=_NAME,
        description="What marts show as the source; null: the name. Datasets of different entities "
        "may share it.",
    )
    entity: Entity = Field(description="What a row is.")
    path: Texts = Field(
        description="A file or a glob, or a list of them. ${VARIABLE} is taken from the "
        "environment; relative paths start at the config folder. Later files win."
    )
    file_order: Literal["name", "name_descending"] = Field(
        "name", description="The order of the files that one glob finds; later files win."
    )
    format: Literal["csv", "parquet", "xlsx"] | None = Field(
        None, description="null: by the file's ending, csv where that says nothing."
    )
    encoding: str = Field("utf-8", description="Of CSV: utf-8, cp1252 and so on, as Python knows.")
    delimiter: str = Field(",", min_length=1, max_length=1, description="Of CSV.")
    quote: str = Field('"', min_length=1, max_length=1, description="Of CSV.")
    decimal_separator: Literal[".", ","] = Field(
        ".", description="In numbers that are text; not equal to thousands_separator."
    )
    thousands_separator: Literal[".", ",", " ", "'", ""] = Field(
        "", description="In numbers that are text; empty: none."
    )
    date_formats: Texts = Field(
        default=("iso",),
        description="iso or Python strptime formats, tried in this order; iso always is.",
    )
    timezone: str | None = Field(
        None,
        description="IANA zone of times written without one; required as soon as one is met.",
    )
    null_values: tuple[str, ...] = Field(
        default=("", "NULL", "null", "NaN", "nan", "N/A", "\\N"),
        description="Cells that mean nothing is there.",
    )
    sheet: str | None = Field(None, description="Sheet of an XLSX file; null: the first.")
    header: bool = Field(
        True, description="false: the first row is data, and the columns are called f0, f1, ..."
    )
    split_orders: bool = Field(
        False,
        description="Of order_lines: the lines of one order may be spread over several files, and "
        "all of them count. Else they come from the latest file that has the order.",
    )
    fresh_within_days: int | None = Field(
        None,
        ge=1,
        description=f"{_FRESH}. null: an export that nobody renews is never stale.",
    )
    quiet_days: tuple[_QuietDay, ...] = Field(_USUALLY_QUIET, description=_QUIET_DAYS)
    columns: dict[str, Mapping] = Field(
        description="Canonical column (see below) to a column of the file, or to a mapping.",
        json_schema_extra={"propertyNames": {"enum": _CANONICAL}},
    )

    @property
    def label(self) -> str:
        """What marts show as the source."""
        return self.source or self.name

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, value: str) -> str:
        try:
            "".encode(value)
        except LookupError:
            raise ValueError(
                "is not an encoding that Python knows, such as utf-8, cp1252"
            ) from None
        return value

    @field_validator("timezone")
    @classmethod
    def _known_timezone(cls, value: str | None) -> str | None:
        if value is not None and value not in available_timezones():
            raise ValueError("is not a time zone name such as Europe/Berlin or UTC")
        return value

    @model_validator(mode="after")
    def _columns_fit_entity(self) -> Self:
        known = ENTITY_COLUMNS[self.entity]
        if unknown := sorted(set(self.columns) - set(known)):
            raise ValueError(
                f"columns: {', '.join(unknown)} unknown for entity {self.entity.value}; "
                f"allowed: {', '.join(known)}"
            )
        if missing := [name for name in REQUIRED_COLUMNS[self.entity] if name not in self.columns]:
            raise ValueError(f"columns: {', '.join(missing)} must be mapped")
        if self.entity is Entity.ORDER_LINES:
            _require_line_value(self.columns)
        if ("linked_source" in self.columns) != ("linked_customer_key" in self.columns):
            raise ValueError("columns: map both linked_source and linked_customer_key, or neither")
        if self.decimal_separator == self.thousands_separator:
            raise ValueError("decimal_separator and thousands_separator must differ")
        if self.split_orders and self.entity is not Entity.ORDER_LINES:
            raise ValueError("split_orders is for datasets of order_lines")
        return self

    def zone(self) -> ZoneInfo | None:
        """The zone of times that carry none."""
        return ZoneInfo(self.timezone) if self.timezone else None


def _require_line_value(columns: dict[str, ColumnMapping]) -> None:
    if "line_amount" not in columns and not {"quantity", "unit_price"} <= set(columns):
        raise ValueError("columns: map line_amount, or both quantity and unit_price")


class FilesSourceSettings(_Settings):
    """Key ``files``: exports of any system, by column mapping."""

    datasets: tuple[FileDataset, ...] = Field(
        default=(),
        description="One per shape of file; no two of one source and entity.",
    )

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [dataset.name for dataset in self.datasets]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"datasets: the name {', '.join(twice)} is used twice")
        tables = [(dataset.label, dataset.entity.value) for dataset in self.datasets]
        for label, entity in tables:
            if tables.count((label, entity)) > 1:
                raise ValueError(
                    f"datasets: source {label} has two datasets of {entity}; list their files "
                    "under one path, or give them different sources"
                )
        return self


def format_of(dataset: FileDataset, file_name: str) -> Literal["csv", "parquet", "xlsx"]:
    """The declared format, else the one the file's ending stands for (``csv`` when unknown)."""
    if dataset.format:
        return dataset.format
    suffixes = PurePosixPath(file_name.lower()).suffixes
    if suffixes[-1:] == [".parquet"]:
        return "parquet"
    return "xlsx" if suffixes[-1:] in ([".xlsx"], [".xlsm"]) else "csv"


# --------------------------------------------------------------------------- vendor systems


_CONNECTION = "Id of the Airflow connection that holds address and credential."


class WooCommerceSettings(_Settings):
    """Key ``woocommerce``: a shop's REST API v3 (`kundenkreis.sources.woocommerce`)."""

    connection: str = Field("woocommerce", description=_CONNECTION)
    overlap_hours: float = Field(
        24,
        ge=0,
        le=720,
        description="How far before the newest change seen each night reads again, because shops "
        "write late (time zones, long transactions); repeated rows replace themselves.",
    )
    page_size: int = Field(100, ge=1, le=100, description="Records per call.")
    timeout_seconds: float = Field(60, gt=0, le=600, description="Of one call.")
    fresh_within_days: int = Field(3, ge=1, description=f"{_FRESH}. Of orders.")
    quiet_days: tuple[_QuietDay, ...] = Field(_USUALLY_QUIET, description=_QUIET_DAYS)
    newsletter_meta_key: str = Field(
        "_newsletter_opt_in",
        description="The meta field in which the shop's newsletter plug-in records an opt-in.",
    )
    newsletter_time_meta_key: str = Field(
        "_newsletter_opt_in_at", description="The meta field with the time of that opt-in."
    )
    exchange_rate_meta_key: str = Field(
        "_exchange_rate",
        description="The order's meta field with its rate into the reporting currency.",
    )


_PropertyName = Annotated[str, Field(pattern="^[a-z][a-z0-9_]*$")]
_CustomerOfSource = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*\.customer$")]


class HubSpotSettings(_Settings):
    """Key ``hubspot``: contacts and deals of HubSpot CRM (`kundenkreis.sources.hubspot`)."""

    connection: str = Field("hubspot", description=_CONNECTION)
    overlap_hours: float = Field(
        6,
        ge=0,
        le=720,
        description="How far before the newest change seen each night reads again, because "
        "HubSpot's search index lags behind its objects; repeated rows replace themselves.",
    )
    page_size: int = Field(200, ge=1, le=200, description="Records per search.")
    searches_per_second: float = Field(
        4, gt=0, le=50, description="Search has a limit of its own, per account."
    )
    timeout_seconds: float = Field(60, gt=0, le=600, description="Of one call.")
    fresh_within_days: int = Field(14, ge=1, description=f"{_FRESH}. Of contacts.")
    quiet_days: tuple[_QuietDay, ...] = Field(_USUALLY_QUIET, description=_QUIET_DAYS)
    foreign_ids: dict[_PropertyName, _CustomerOfSource] = Field(
        default={},
        description="Contact properties that hold the id of the person's account elsewhere, by "
        "their internal names ({woocommerce_customer_id: woocommerce.customer}): the two records "
        "are one person, whatever their addresses. Of several the first that is filled counts; "
        "an empty one and 0 name no account. Contacts read earlier follow when they change.",
    )


class SourcesConfig(BaseModel):
    """``sources.yml``: the systems to read; one that is left out is not read."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    files: FilesSourceSettings | None = Field(None, description="Exports of any system.")
    woocommerce: WooCommerceSettings | None = Field(None, description="A WooCommerce shop.")
    hubspot: HubSpotSettings | None = Field(None, description="HubSpot CRM.")

    @field_validator("woocommerce", "hubspot", mode="before")
    @classmethod
    def _empty_means_defaults(cls, value: Any) -> Any:
        """``hubspot:`` with nothing below it reads the system with its defaults."""
        return {} if value is None else value
