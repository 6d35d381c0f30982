"""Settings of the sources: what may stand in ``config/sources.yml``.

Pydantic only, so that reading the configuration stays cheap. Each class is the value of one key of
``sources.yml`` (see `SourcesConfig`). Credentials are connections, never settings.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo, available_timezones

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


# --------------------------------------------------------------------------- files


class Entity(StrEnum):
    """What the rows of a file are; each is one table of ``raw_files``."""

    CUSTOMERS = "customers"
    ORDER_LINES = "order_lines"
    ORDERS = "orders"
    PRODUCTS = "products"
    CONSENT_EVENTS = "consent_events"


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
    },
    Entity.ORDERS: {
        "order_key": "text",
        "customer_key": "text",
        "email": "text",
        "ordered_at": "timestamp",
        "status": "text",
        "currency": "text",
        "total_amount": "amount",
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
}
"""The canonical columns a file's columns are mapped to, with their kind.

``factor`` is a decimal that is multiplied (10 digits before and 9 after the point), ``amount`` a
decimal sum (20 before, 18 after).
"""

REQUIRED_COLUMNS: dict[Entity, tuple[str, ...]] = {
    Entity.CUSTOMERS: ("customer_key",),
    Entity.ORDER_LINES: ("ordered_at", "status", "currency"),
    Entity.ORDERS: ("ordered_at", "status", "currency", "total_amount"),
    Entity.PRODUCTS: ("product_key",),
    Entity.CONSENT_EVENTS: ("email", "evidence"),
}
"""Columns that must be mapped, and whose empty cells send a row to quarantine."""


class Case(_Settings):
    """One condition of a conditional value; the first case that holds wins."""

    column: str
    starts_with: str | None = None
    ends_with: str | None = None
    equals: str | None = None
    value: str

    @model_validator(mode="after")
    def _one_condition(self) -> Self:
        given = [name for name in ("starts_with", "ends_with", "equals") if getattr(self, name)]
        if len(given) != 1:
            raise ValueError("needs exactly one of starts_with, ends_with, equals")
        return self


class ColumnMapping(_Settings):
    """Where the value of one canonical column comes from: exactly one of the first four.

    column: a column of the file. A plain string in place of a mapping means the same.
    constant: the same text in every row.
    concat: several columns joined by ``separator``; null when one of them is empty.
    cases: a text that depends on another column, with ``otherwise`` when no case holds.
    strip_prefix, strip_suffix: cut off when present ("17850.0" with ".0" gives "17850").
    add_prefix: put before the value.
    values: replaces whole values ("F" -> "completed"); what is not listed stays.
    """

    column: str | None = None
    constant: str | None = None
    concat: tuple[str, ...] | None = None
    cases: tuple[Case, ...] | None = None
    separator: str = "-"
    otherwise: str | None = None
    strip_prefix: str | None = None
    strip_suffix: str | None = None
    add_prefix: str | None = None
    values: dict[str, str] = Field(default_factory=dict)

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


Mapping = Annotated[ColumnMapping, BeforeValidator(_expand_shorthand)]


def _as_tuple(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


Texts = Annotated[tuple[str, ...], BeforeValidator(_as_tuple)]


class FileDataset(_Settings):
    """Files of one shape, and how their columns become canonical ones.

    source: the label that marts show as ``source`` ("online_retail"); defaults to the name.
    path: a file or a glob, or a list of them; ``${VARIABLE}`` is taken from the environment and
        relative paths start at the config folder. The order in which files count is the order of
        this list, and within one glob ``file_order``; later files win.
    date_formats: ``iso`` or Python strptime formats, tried in this order.
    timezone: the zone of times written without one; required as soon as one such time is met.
    split_orders: the lines of one order may be spread over several files (then all of them count).
    """

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,59}$")]
    source: Annotated[str | None, Field(pattern=r"^[a-z][a-z0-9_]{0,59}$")] = None
    entity: Entity
    path: Texts
    file_order: Literal["name", "name_descending"] = "name"
    format: Literal["csv", "parquet", "xlsx"] | None = None
    encoding: str = "utf-8"
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] = ","
    quote: Annotated[str, Field(min_length=1, max_length=1)] = '"'
    decimal_separator: Literal[".", ","] = "."
    thousands_separator: Literal[".", ",", " ", "'", ""] = ""
    date_formats: Texts = ("iso",)
    timezone: str | None = None
    null_values: tuple[str, ...] = ("", "NULL", "null", "NaN", "nan", "N/A", "\\N")
    sheet: str | None = None
    header: bool = True
    split_orders: bool = False
    columns: dict[str, Mapping]

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

    datasets: tuple[FileDataset, ...] = ()

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


class WooCommerceSettings(_Settings):
    """Key ``woocommerce``: a shop's REST API v3 (`kundenkreis.sources.woocommerce`).

    overlap_hours: how far before the newest change seen each night reads again, because shops
        write late (time zones, long transactions); repeated rows replace themselves.
    newsletter_meta_key, newsletter_time_meta_key: the meta fields in which the shop's newsletter
        plug-in records an opt-in and its time.
    exchange_rate_meta_key: the order meta field with the rate into the reporting currency.
    """

    connection: str = "woocommerce"
    overlap_hours: Annotated[float, Field(ge=0, le=720)] = 24
    page_size: Annotated[int, Field(ge=1, le=100)] = 100
    timeout_seconds: Annotated[float, Field(gt=0, le=600)] = 60
    newsletter_meta_key: str = "_newsletter_opt_in"
    newsletter_time_meta_key: str = "_newsletter_opt_in_at"
    exchange_rate_meta_key: str = "_exchange_rate"


class HubSpotSettings(_Settings):
    """Key ``hubspot``: contacts and deals of HubSpot CRM (`kundenkreis.sources.hubspot`).

    overlap_hours: how far before the newest change seen each night reads again; HubSpot's search
        index lags behind its objects.
    searches_per_second: search has a limit of its own, per account.
    """

    connection: str = "hubspot"
    overlap_hours: Annotated[float, Field(ge=0, le=720)] = 6
    page_size: Annotated[int, Field(ge=1, le=200)] = 200
    searches_per_second: Annotated[float, Field(gt=0, le=50)] = 4
    timeout_seconds: Annotated[float, Field(gt=0, le=600)] = 60


class SourcesConfig(BaseModel):
    """``sources.yml``: the systems to read; one that is not there is not read."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    files: FilesSourceSettings | None = None
    woocommerce: WooCommerceSettings | None = None
    hubspot: HubSpotSettings | None = None
