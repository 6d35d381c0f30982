"""The configuration a team edits, as pydantic models.

A config folder (``config/``, or the one ``KUNDENKREIS_CONFIG`` names) holds

- ``model.yml``        the business rules: time zone, currency, orders, lifecycle, RFM, consent
- ``sources.yml``      where data comes from
- ``segments.yml``     who belongs to which audience
- ``destinations.yml`` the email tools
- ``retention.yml``    how long rows about persons are kept
- ``quality.yml``      what the gates let pass
- ``alerts.yml``       who is told what

Secrets are never in these files: they are Airflow connections, named by their id.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from zoneinfo import ZoneInfo

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from kundenkreis.alerts.config import AlertsConfig
from kundenkreis.destinations.config import DestinationsConfig
from kundenkreis.errors import ConfigError
from kundenkreis.sources.config import SourcesConfig

_Strict = ConfigDict(extra="forbid", frozen=True)
_Model = TypeVar("_Model", bound=BaseModel)
_KEY = r"^[a-z][a-z0-9_]{0,62}$"
NEVER_SENT = frozenset(
    (
        "age_years",
        "birthday",
        "days_until_birthday",
        "email",
        "is_contactable",
        "next_birthday_on",
    )
)
"""Columns of customer_360 that no segment may send as an attribute (macros/activation.sql refuses
them too): identity and consent are not ours to write, a birth date stays in the house."""
GLOBAL_HOLDOUT = "global_holdout"
"""What stands for a segment's key where the global holdout is meant (macros/holdout.sql)."""
_Currency = Annotated[str, Field(pattern="^[A-Z]{3}$")]
_PositiveDecimal = Annotated[Decimal, Field(gt=0)]


def repository_root() -> Path:
    """The checkout this package is installed from."""
    return Path(__file__).resolve().parents[2]


def home() -> Path:
    """Where this checkout keeps its own state: ``KUNDENKREIS_HOME``, else ``.kundenkreis``."""
    return Path(os.environ.get("KUNDENKREIS_HOME") or repository_root() / ".kundenkreis").resolve()


def config_folder() -> Path:
    """The config folder in use: ``KUNDENKREIS_CONFIG`` (absolute, or below the checkout)."""
    named = os.environ.get("KUNDENKREIS_CONFIG")
    if not named:
        return repository_root() / "config"
    path = Path(named)
    if path.is_absolute() or path.exists():
        return path.resolve()
    return repository_root() / path


_FOUR: dict[str, JsonValue] = {
    "minItems": 4,
    "maxItems": 4,
}  # for editors; the validator below explains itself


def _check_cutoffs(value: list[Decimal] | None) -> list[Decimal] | None:
    if value is not None and (len(value) != 4 or sorted(value) != value):
        raise ValueError("needs exactly four numbers that do not fall")
    return value


class RfmFallbackCutoffs(BaseModel):
    """Cut points for want of quantiles, four rising numbers per dimension: they part 1 to 5."""

    model_config = _Strict
    recency_days: list[Decimal] = Field(
        default=[Decimal(30), Decimal(90), Decimal(180), Decimal(365)],
        description="Days since the last order; up to the first scores 5, above the last 1.",
        json_schema_extra=_FOUR,
    )
    frequency: list[Decimal] = Field(
        default=[Decimal(1), Decimal(2), Decimal(3), Decimal(5)],
        description="Counted orders; up to the first scores 1, above the last 5.",
        json_schema_extra=_FOUR,
    )
    monetary: list[Decimal] = Field(
        default=[Decimal(25), Decimal(50), Decimal(100), Decimal(250)],
        description="Revenue, in the reporting currency; likewise.",
        json_schema_extra=_FOUR,
    )

    _four_rising = field_validator("recency_days", "frequency", "monetary")(_check_cutoffs)


class RfmFixedCutoffs(BaseModel):
    """The cut points of ``rfm_cutoffs: fixed``, four rising numbers per dimension."""

    model_config = _Strict
    recency_days: list[Decimal] | None = Field(
        None,
        description="Days since the last order; up to the first scores 5, above the last 1. "
        "null: as in rfm_fallback_cutoffs.",
        json_schema_extra=_FOUR,
    )
    frequency: list[Decimal] | None = Field(
        None,
        description="Counted orders; up to the first scores 1, above the last 5. null: likewise.",
        json_schema_extra=_FOUR,
    )
    monetary: list[Decimal] | None = Field(
        None,
        description="Revenue, in the reporting currency, as frequency. null: likewise.",
        json_schema_extra=_FOUR,
    )

    _four_rising = field_validator("recency_days", "frequency", "monetary")(_check_cutoffs)


class ContactPressure(BaseModel):
    """How often a customer may be written to, counted over the segments with ``contact: true``.

    Who comes first is decided by the segments' ``priority``; of the same priority by who is in the
    audience already, then by the order of the segments in the file.
    """

    model_config = _Strict
    at_once: int | None = Field(
        None,
        ge=1,
        description="In how many of these segments' audiences a customer is at once; who is beyond "
        "that leaves. null: any number.",
    )
    per_week: int | None = Field(
        None,
        ge=1,
        description="How many of these segments' audiences a customer enters within seven days, "
        "the as-of day included. null: any number.",
    )


class ModelSettings(BaseModel):
    """``model.yml``: the rules of the customer model.

    Each is a dbt variable of the same name, but for label_language.
    """

    model_config = _Strict
    business_timezone: str = Field(
        "Europe/Berlin", description="IANA time zone in which days begin and end."
    )
    reporting_currency: str = Field(
        "EUR", pattern="^[A-Z]{3}$", description="The currency in which all money is stated."
    )
    exchange_rates: dict[_Currency, _PositiveDecimal] = Field(
        default={},
        description="Reporting currency per unit of another, by its code ({USD: 0.92}). An order's "
        "own rate wins; an order with neither goes to quarantine.",
    )
    refund_policy: Literal["net", "gross"] = Field(
        "net",
        description="net: revenue after refunds, and a fully refunded order does not count; "
        "gross: refunds are ignored.",
    )
    zero_value_orders: Literal["ignore", "count"] = Field(
        "ignore", description="Whether an order worth nothing counts as an order."
    )
    revenue_includes_tax: bool = Field(
        True, description="Tax is part of revenue. Files state totals only: nothing changes there."
    )
    revenue_includes_shipping: bool = Field(
        True, description="Shipping is part of revenue. Files state totals only, as above."
    )
    counted_order_statuses: dict[str, list[str]] = Field(
        default={"woocommerce": ["processing", "completed", "refunded"], "files": ["completed"]},
        description="Per source system (woocommerce, files), the statuses that count, in lower "
        "case. All others never do.",
    )
    test_payment_methods: list[str] = Field(
        default=["test"], description="Orders paid by one of these are tests and do not count."
    )
    test_email_domains: list[str] = Field(
        default=["example.test"],
        description="Orders from these domains are tests and do not count; their addresses are "
        "never contactable.",
    )
    minimum_consent: Literal["double", "single", "existing_customer"] = Field(
        "double",
        description="The weakest evidence that makes an address contactable: a confirmed opt-in, "
        "an unconfirmed one, or an existing customer relation. The last is what a consent file or "
        "the shop's newsletter field states; an order alone proves none.",
    )
    identity_max_addresses: int = Field(
        10,
        ge=1,
        description="A customer with more addresses is ambiguous and at none of them contactable.",
    )
    identity_phone_edges: bool = Field(
        False,
        description="Records with the same telephone number and the same surname are one person. "
        "Off by default, because households share numbers.",
    )
    phone_default_region: str = Field(
        "DE",
        pattern="^[A-Z]{2}$",
        description="ISO 3166 code of the country whose telephone numbers are written without a "
        "country code where the record gives no country. Files follow a change at once, records "
        "of shops and CRMs when they change.",
    )
    gap_window_orders: int = Field(
        5,
        ge=2,
        le=5,
        description="The expected gap is the median of this many of the newest gaps between a "
        "customer's order days.",
    )
    default_gap_days: int = Field(
        60, ge=1, description="Expected gap of a customer with fewer than two gaps."
    )
    min_gap_days: int = Field(14, ge=1, description="Lower bound of the expected gap.")
    max_gap_days: int = Field(
        180,
        ge=1,
        validate_default=True,
        description="Upper bound of the expected gap; not below min_gap_days.",
    )
    at_risk_factor: Decimal = Field(
        Decimal("2.0"),
        gt=0,
        description="Stage at_risk begins this many expected gaps after the last order day.",
    )
    churn_factor: Decimal = Field(
        Decimal("4.0"),
        gt=0,
        validate_default=True,
        description="Stage churned begins this many expected gaps after the last order day; not "
        "below at_risk_factor.",
    )
    new_customer_days: int = Field(
        30,
        ge=1,
        description="Days in stage conversion after the first order, unless the next order, "
        "at_risk or churned comes first.",
    )
    reactivated_days: int = Field(
        30,
        ge=1,
        description="Days in stage reactivated after an order that ended churned, with the same "
        "exceptions.",
    )
    loyalty_min_orders: int = Field(
        5, ge=1, description="Order days within the loyalty window that make stage loyalty."
    )
    loyalty_window_days: int = Field(
        365, ge=1, description="The loyalty window: so many days, the order day included."
    )
    retention_min_orders: int = Field(
        3, ge=1, description="Order days, of all time, that make stage retention."
    )
    dormant_lead_days: int = Field(
        365,
        ge=1,
        description="Days without a new sign of interest after which somebody who never bought "
        "becomes a dormant_lead.",
    )
    spend_trend_days: int = Field(
        90,
        ge=1,
        description="The spend trend compares the revenue of so many days up to the as-of day with "
        "that of as many before.",
    )
    rfm_window_days: int | None = Field(
        None,
        ge=1,
        description="RFM looks at orders of the last so many days, the as-of day included: an "
        "order exactly that many days before it is out. null: at all orders.",
    )
    rfm_cutoffs: Literal["quantiles", "fixed"] = Field(
        "quantiles",
        description="quantiles: the buyers' own values part the scores, or the fallback where "
        "fewer than three of the four cut points differ; fixed: always rfm_fixed_cutoffs.",
    )
    rfm_fallback_cutoffs: RfmFallbackCutoffs = Field(
        default=RfmFallbackCutoffs(),
        description="Cut points of a dimension whose quantiles collapse, because too many buyers "
        "share a value.",
    )
    rfm_fixed_cutoffs: RfmFixedCutoffs = Field(
        default=RfmFixedCutoffs(), description="The cut points of rfm_cutoffs: fixed."
    )
    churn_rate_alarm_percent: Decimal | None = Field(
        None,
        ge=0,
        description="kpi_daily raises churn_alarm where churn_rate is above this; null: above 1.5 "
        "times the mean of the shop's previous 90 days.",
    )
    global_holdout_percent: Decimal = Field(
        Decimal(0),
        ge=0,
        le=50,
        description="Share of contactable customers kept out of every audience, for comparison. "
        "Each customer is drawn once, in the night that first finds them contactable in a segment, "
        "and stays so when the share changes; 0: nobody is kept out.",
    )
    holdout_salt: str = Field(
        "kundenkreis", description="Changing it draws all holdouts anew and begins new comparisons."
    )
    holdout_lift_days: int = Field(
        30,
        ge=1,
        description="kpi_holdout_lift counts orders of so many days after a customer was drawn, "
        "and only customers for whom these are over.",
    )
    holdout_lift_min_customers: int = Field(
        30,
        ge=10,
        description="kpi_holdout_lift states no difference where fewer were treated or held out: "
        "the intervals of so few say little, and are not right either.",
    )
    contact_pressure: ContactPressure = Field(
        default=ContactPressure(),
        description="How often a customer may be written to. Holdouts and who cannot be reached "
        "take nobody's place; the model activation.contact_pressure says who gave way to what.",
    )
    label_language: Literal["en", "de"] = Field(
        "en", description="Which of a segment's labels names its audience in the email tools."
    )

    @property
    def zone(self) -> ZoneInfo:
        """The business time zone."""
        return ZoneInfo(self.business_timezone)

    @field_validator("business_timezone")
    @classmethod
    def _known_time_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (KeyError, ValueError, OSError):
            raise ValueError("is not an IANA time zone such as Europe/Berlin") from None
        return value

    @field_validator("phone_default_region")
    @classmethod
    def _known_region(cls, value: str) -> str:
        from kundenkreis.sources.telephone import is_region

        if not is_region(value):
            raise ValueError("is not the ISO 3166 code of a country, such as DE, AT, CH")
        return value

    @field_validator("max_gap_days", "churn_factor")
    @classmethod
    def _not_below(cls, value: Any, info: ValidationInfo) -> Any:
        """Bounds the wrong way round would put customers into stages that never end."""
        lower = {"max_gap_days": "min_gap_days", "churn_factor": "at_risk_factor"}[
            str(info.field_name)
        ]
        if lower in info.data and value < info.data[lower]:
            raise ValueError(f"must not be below {lower}, which is {info.data[lower]}")
        return value


class Labels(BaseModel):
    """A name per language; the audience carries it in the email tool."""

    model_config = _Strict
    en: str = Field(description="English.")
    de: str = Field(description="German.")


class SendWindow(BaseModel):
    """When people may be added to a segment's audience."""

    model_config = _Strict
    weekdays: list[Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]] = Field(
        min_length=1,
        description="The days on which people are added, by the day after the as-of day, on which "
        "the night delivers. Others wait; who is in stays, and who leaves the segment leaves the "
        "audience on any day. At what hour is the schedule of the DAG.",
    )


class Segment(BaseModel):
    """One audience definition of ``segments.yml``."""

    model_config = _Strict
    labels: Labels = Field(description="Names of the audience, by language.")
    description: str = Field(description="What the segment is for. For people; it is not sent.")
    where: str = Field(
        description="One SQL expression over the columns of marts.customer_360, without ';' and "
        "comments. Who objected to profiling, and a known minor, is never a member."
    )
    destinations: list[str] = Field(
        default=[],
        description="The email tools that get the audience: listmonk, mailchimp, klaviyo. One "
        "that is not in destinations.yml gets nothing.",
    )
    audience: str | None = Field(
        None,
        description="The audience's name in the tools; null: the label. No two segments may have "
        "the same.",
    )
    attributes: list[str] = Field(
        default=[],
        description="Columns of marts.customer_360 to set on the contact; email, is_contactable, "
        "birthday and what it can be told from (next_birthday_on, days_until_birthday, age_years) "
        "are never sent.",
    )
    requires: list[str] = Field(
        default=[],
        description="Columns of marts.customer_360 without which the segment makes no sense. While "
        "one of them is empty for everybody, the segment has no members and `gate_marts` warns.",
    )
    min_stay_days: int = Field(
        0,
        ge=0,
        description="Who becomes a member stays one for at least so many days, the day of entry "
        "included, even where `where` does not hold any more; 0: leaves at once.",
    )
    holdout_percent: Decimal = Field(
        Decimal(0),
        ge=0,
        le=50,
        description="Share of the contactable members kept out of the audience, for comparison. "
        "Who enters is drawn once; a new share holds for those who enter from then on.",
    )
    max_change_percent: Decimal = Field(
        Decimal(30),
        ge=0,
        description="A nightly change of a larger share of the audience is held until somebody "
        "approves it (docs/sending.md). Ten changes or fewer are never held by this.",
    )
    min_size: int = Field(
        0, ge=0, description="Changes to an audience with fewer people who can be sent are held."
    )
    initial: Literal["allow", "hold"] = Field(
        "hold",
        description="Whether the audience may be filled for the first time without an approval.",
    )
    priority: int = Field(
        100,
        ge=0,
        description="Which segment comes first, smallest first, where contact_pressure of "
        "model.yml leaves a customer not all of them, and where several fill one audience.",
    )
    contact: bool = Field(
        False,
        description="true: the marketer's tool writes to the members of this segment, so it counts "
        "for contact_pressure of model.yml.",
    )
    send_window: SendWindow | None = Field(
        None, description="When people may be added to the audience; null: every night."
    )
    enabled: bool = Field(
        True, description="false: not built, and the members that were delivered leave."
    )
    owner: str = Field("", description="Who answers for the segment. For people; it is not sent.")

    @field_validator("where")
    @classmethod
    def _one_expression(cls, value: str) -> str:
        if ";" in value or "--" in value or "/*" in value:
            raise ValueError("must be one SQL expression, without ';' and comments")
        return value.strip()

    @field_validator("attributes")
    @classmethod
    def _never_sent(cls, value: list[str]) -> list[str]:
        forbidden = NEVER_SENT & set(value)
        if forbidden:
            raise ValueError(f"may not contain {', '.join(sorted(forbidden))}: it is never sent")
        return value

    @field_validator("requires")
    @classmethod
    def _column_names(cls, value: list[str]) -> list[str]:
        for name in value:
            if not re.fullmatch(_KEY, name):
                raise ValueError(f"'{name}' is no column of customer_360")
        return value


class SegmentsConfig(BaseModel):
    """``segments.yml``: who belongs to which audience."""

    model_config = _Strict
    segments: dict[str, Segment] = Field(
        default={},
        description="The segments by key: lower case letters, digits and _, beginning with a "
        "letter, at most 63 characters.",
        json_schema_extra={"propertyNames": {"pattern": _KEY}},
    )

    @field_validator("segments")
    @classmethod
    def _keys(cls, value: dict[str, Segment]) -> dict[str, Segment]:
        for key in value:
            if not re.fullmatch(_KEY, key):
                raise ValueError(f"key '{key}' must be lower case letters, digits and _")
            if key == GLOBAL_HOLDOUT:
                raise ValueError(f"key '{key}' names the global holdout; use another")
        return value


class RetentionConfig(BaseModel):
    """``retention.yml``: how long rows about persons are kept, in days. Applied every night."""

    model_config = _Strict
    raw_payload_days: int = Field(
        90,
        ge=1,
        description="What the sources sent and no model reads, since it was loaded; the content of "
        "rejected records that are worked off.",
    )
    lead_days: int = Field(
        730,
        ge=1,
        description="People who never bought and may not be written to, since their last sign of "
        "interest.",
    )
    consent_proof_days: int = Field(
        1095,
        ge=1,
        description="Proof of a consent, since it was withdrawn. The withdrawal itself stays. A "
        "lead stays as long as its newest consent or withdrawal is not older than this.",
    )
    quarantine_days: int = Field(
        365, ge=1, description="Rejected records, since they were rejected last."
    )
    plan_days: int = Field(
        180, ge=1, description="What was planned to be sent, and the attributes in the ledger."
    )
    ledger_days: int = Field(
        1095, ge=1, description="To whom something was sent; the attempts themselves stay."
    )
    drift_days: int = Field(
        90, ge=1, description="Differences between an email tool and our records of it."
    )
    quality_days: int = Field(
        730, ge=400, description="Results and measurements of the gates, which compare with a year."
    )


class RejectedLimit(BaseModel):
    """How many rows of a table may be rejected for one reason before a gate stops the night."""

    model_config = _Strict
    max_percent: Decimal = Field(
        Decimal(5),
        ge=0,
        le=100,
        description="Share of the table's rows that the night read, the rejected ones included. "
        "More is critical.",
    )
    min_rows: int = Field(
        20, ge=1, description="Fewer rejected rows are never critical: a share of few says nothing."
    )


class QualityConfig(BaseModel):
    """``quality.yml``: what the gates let pass."""

    model_config = _Strict
    rejected_rows: RejectedLimit = Field(
        default=RejectedLimit(),
        description="The limit of every reason that rejected_rows_by_reason does not name.",
    )
    rejected_rows_by_reason: dict[str, RejectedLimit] = Field(
        default={},
        description="Limits of single reasons, by their code as `kundenkreis quarantine list` "
        "shows it ({no_exchange_rate: {max_percent: 20}}).",
    )

    def rejected_limit(self, reason_code: str) -> RejectedLimit:
        """The limit of a reason."""
        return self.rejected_rows_by_reason.get(reason_code, self.rejected_rows)


class Settings(BaseModel):
    """Everything the config folder says."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)
    folder: Path
    model: ModelSettings
    sources: dict[str, Any]
    segments: dict[str, Segment]
    destinations: dict[str, Any]
    retention: RetentionConfig
    quality: QualityConfig = QualityConfig()
    alerts: AlertsConfig = AlertsConfig()

    @property
    def active_segments(self) -> dict[str, Segment]:
        """The segments that are switched on."""
        return {key: segment for key, segment in self.segments.items() if segment.enabled}

    def audience_name(self, segment: Segment) -> str:
        """The name a segment's audience has in the email tools."""
        return segment.audience or getattr(segment.labels, self.model.label_language)

    def dbt_vars(self) -> dict[str, Any]:
        """The variables every dbt call gets; the run adds its date, schema and ids."""
        values: dict[str, Any] = json.loads(self.model.model_dump_json(exclude={"label_language"}))
        for name in (
            "exchange_rates",
            "at_risk_factor",
            "churn_factor",
            "churn_rate_alarm_percent",
            "global_holdout_percent",
        ):
            values[name] = _numbers(values[name])
        fallback = _numbers(values["rfm_fallback_cutoffs"])
        fixed = values["rfm_fixed_cutoffs"]
        values["rfm_fallback_cutoffs"] = fallback
        values["rfm_fixed_cutoffs"] = {
            dimension: _numbers(fixed[dimension] or fallback[dimension]) for dimension in fallback
        }
        values["enabled_sources"] = sorted(self.sources)
        values["enabled_destinations"] = sorted(self.destinations)
        values["segments"] = [
            {
                "key": key,
                "where": segment.where,
                "destinations": [
                    {"destination": name, "audience": self.audience_name(segment)}
                    for name in segment.destinations
                    if name in self.destinations
                ],
                "attributes": segment.attributes,
                "requires": segment.requires,
                "min_stay_days": segment.min_stay_days,
                "holdout_percent": float(segment.holdout_percent),
                "max_change_percent": float(segment.max_change_percent),
                "min_size": segment.min_size,
                "initial": segment.initial,
                "priority": segment.priority,
                "contact": segment.contact,
                "send_on": segment.send_window.weekdays if segment.send_window else None,
            }
            for key, segment in self.active_segments.items()
        ]
        return values

    def local_date(self, moment: datetime) -> date:
        """The business day a moment falls on."""
        return moment.astimezone(self.model.zone).date()


_FILES: dict[str, type[BaseModel]] = {
    "model": ModelSettings,
    "sources": SourcesConfig,
    "segments": SegmentsConfig,
    "destinations": DestinationsConfig,
    "retention": RetentionConfig,
    "quality": QualityConfig,
    "alerts": AlertsConfig,
}


def load_settings(config_dir: Path | None = None) -> Settings:
    """Read and check a config folder.

    Args:
        config_dir: the folder; `config_folder()` by default. A missing file means its defaults,
            except ``sources.yml``, which must exist.

    Raises:
        ConfigError: names file, line, key, what was found and what is allowed.
    """
    folder = config_dir or config_folder()
    if not (folder / "sources.yml").exists():
        raise ConfigError(
            f"{folder}: there is no sources.yml. KUNDENKREIS_CONFIG must name a config folder "
            "such as config/ or examples/online_retail/."
        )
    model = read_file(folder / "model.yml", ModelSettings)
    sources = read_file(folder / "sources.yml", SourcesConfig)
    segments = read_file(folder / "segments.yml", SegmentsConfig)
    destinations = read_file(folder / "destinations.yml", DestinationsConfig)
    retention = read_file(folder / "retention.yml", RetentionConfig)
    settings = Settings(
        folder=folder,
        model=model,
        sources=_present(sources),
        segments=segments.segments,
        destinations=_present(destinations),
        retention=retention,
        quality=read_file(folder / "quality.yml", QualityConfig),
        alerts=read_file(folder / "alerts.yml", AlertsConfig),
    )
    _check_references(settings)
    return settings


def problems_of(config_dir: Path | None = None) -> list[str]:
    """Every mistake in a config folder at once, each as `load_settings` would say it.

    Files are compared with each other only where each can be read by itself.
    """
    folder = config_dir or config_folder()
    problems: list[str] = []
    for name, model in _FILES.items():
        try:
            read_file(folder / f"{name}.yml", model)
        except ConfigError as error:
            problems += str(error).splitlines()
    if not problems:
        try:
            load_settings(folder)
        except ConfigError as error:
            problems += str(error).splitlines()
    return problems


def _check_references(settings: Settings) -> None:
    problems = []
    for check in (_check_segments, _check_links):
        try:
            check(settings)
        except ConfigError as error:
            problems.append(str(error))
    if problems:
        raise ConfigError("\n".join(problems))


def _check_links(settings: Settings) -> None:
    """Refuse links to a source that cannot exist: they would join nobody, in silence.

    A shop or a CRM may be named while it is switched off, as a destination may in a segment.
    """
    file = settings.folder / "sources.yml"
    datasets = settings.sources["files"].datasets if "files" in settings.sources else ()
    labels = {dataset.label for dataset in datasets}
    if "hubspot" in settings.sources:
        for name, target in settings.sources["hubspot"].foreign_ids.items():
            allowed = [f"{source}.customer" for source in sorted({"woocommerce", *labels})]
            if target not in allowed:
                raise ConfigError(
                    _no_source(file, ("hubspot", "foreign_ids", name), target, allowed)
                )
    for index, dataset in enumerate(datasets):
        mapping = dataset.columns.get("linked_source")
        allowed = sorted({"woocommerce", "hubspot", *labels})
        if mapping and mapping.constant and mapping.constant not in allowed:
            place = ("files", "datasets", index, "columns", "linked_source")
            raise ConfigError(_no_source(file, place, mapping.constant, allowed))


def _no_source(file: Path, place: tuple[Any, ...], found: str, allowed: list[str]) -> str:
    return (
        f"{_where(file, place)}: {'.'.join(str(part) for part in place)}: found '{found}', which "
        f"is no source. Allowed: {', '.join(allowed)}."
    )


def _check_segments(settings: Settings) -> None:
    from kundenkreis.destinations.config import DestinationsConfig as Known

    file = settings.folder / "segments.yml"
    names: dict[str, str] = {}
    for key, segment in settings.segments.items():
        for index, destination in enumerate(segment.destinations):
            if destination not in Known.model_fields:
                place = _where(file, ("segments", key, "destinations", index))
                raise ConfigError(
                    f"{place}: segments.{key}.destinations: found '{destination}', which is no "
                    f"destination. Allowed: {', '.join(sorted(Known.model_fields))}."
                )
        name = settings.audience_name(segment)
        if name in names:
            raise ConfigError(
                f"{_where(file, ('segments', key))}: segments.{key}: has the same audience name "
                f"as segment '{names[name]}': '{name}'. Give one of them another label or audience."
            )
        names[name] = key


def _present(config: BaseModel) -> dict[str, Any]:
    return {
        name: value
        for name in type(config).model_fields
        if (value := getattr(config, name)) is not None
    }


def _numbers(value: Any) -> Any:
    """Decimals travel through JSON as strings; dbt wants numbers."""
    if isinstance(value, dict):
        return {key: _numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    if value is None:
        return None
    number = float(value)
    return int(number) if number.is_integer() else number


def read_file(file: Path, model: type[_Model]) -> _Model:
    """Read a YAML file into its model; a file that is not there has the defaults.

    Raises:
        ConfigError: names file, line, key, what was found and what is allowed.
    """
    if not file.exists():
        return model()
    data = _yaml(file)
    if data is None:
        data = {}
    if not isinstance(data, Mapping):
        raise ConfigError(f"{file}:1: must hold keys and values, found {type(data).__name__}.")
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise ConfigError(_explain(file, error, model)) from None


# libyaml's where PyYAML was built with it: every task of a night reads the settings.
_FASTEST_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _document(file: Path, loader: Any) -> Any:
    node = loader.get_single_node()
    _refuse_repeated_keys(file, node)
    return None if node is None else loader.construct_document(node)


def _yaml(file: Path) -> Any:
    try:
        text = file.read_text(encoding="utf-8")
        try:
            return _document(file, _FASTEST_LOADER(text))
        except yaml.YAMLError:
            return _document(file, yaml.SafeLoader(text))  # tells better where the mistake is
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "cannot be read"
        raise ConfigError(f"{file}{line}: not valid YAML: {problem}.") from None
    except UnicodeDecodeError as error:
        line_number = file.read_bytes()[: error.start].count(b"\n") + 1
        raise ConfigError(f"{file}:{line_number}: is not UTF-8. Save the file as UTF-8.") from None
    except ValueError as error:  # for example an unquoted 2026-02-30
        raise ConfigError(f"{file}: holds a value that cannot be read: {error}.") from None


def _refuse_repeated_keys(file: Path, node: Any) -> None:
    """YAML lets the last of two equal keys win; here that would lose a segment in silence."""
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_repeated_keys(file, item)
    if not isinstance(node, yaml.MappingNode):
        return
    lines: dict[str, int] = {}
    for key, value in node.value:
        name, line = str(key.value), key.start_mark.line + 1
        if name in lines:
            raise ConfigError(
                f"{file}:{line}: {name}: stands here a second time; it is on line {lines[name]} "
                "already. Remove or rename one of them."
            )
        lines[name] = line
        _refuse_repeated_keys(file, value)


def _explain(file: Path, error: ValidationError, model: type[BaseModel]) -> str:
    lines = []
    for problem in error.errors():
        location = _without_kinds(model, tuple(problem["loc"]))
        key = ".".join(str(part) for part in location if part != "[key]")
        if problem["type"] == "extra_forbidden":
            allowed = ", ".join(_allowed_keys(model, tuple(problem["loc"])[:-1])) or "none"
            text = f"unknown key. Allowed here: {allowed}."
        elif problem["type"] == "missing":
            text = "is required and missing."
        else:
            message = problem["msg"].removeprefix("Value error, ")
            text = f"found {_shown(problem.get('input'))}: {message}."
        lines.append(f"{_where(file, location)}: {key}: {text}")
    return "\n".join(lines)


def _without_kinds(model: type[BaseModel], location: tuple[Any, ...]) -> tuple[Any, ...]:
    """pydantic names the kind of a union between the keys; in the file no such key stands."""
    schema: dict[str, Any] = model.model_json_schema()
    here, kept = schema, []
    for part in location:
        here = _resolve(here, schema.get("$defs", {}))
        if part not in here.get("discriminator", {}).get("mapping", {}):
            kept.append(part)
        here = _step(here, part)
    return tuple(kept)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _allowed_keys(model: type[BaseModel], location: tuple[Any, ...]) -> list[str]:
    """The keys allowed at a place of a config model; empty where it cannot be told."""
    schema: dict[str, Any] = model.model_json_schema()
    definitions = schema.get("$defs", {})
    here: dict[str, Any] = schema
    for part in location:
        here = _step(_resolve(here, definitions), part)
        if not here:
            return []
    return sorted(_resolve(here, definitions).get("properties", {}))


def _resolve(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in schema:
        target: dict[str, Any] = definitions[schema["$ref"].rsplit("/", 1)[-1]]
        return target
    for option in schema.get("anyOf", []):
        if option.get("type") != "null":
            return _resolve(option, definitions)
    return schema


def _step(schema: dict[str, Any], part: Any) -> dict[str, Any]:
    if part in (kinds := schema.get("discriminator", {}).get("mapping", {})):
        return {"$ref": kinds[part]}
    if isinstance(part, int):
        return dict(schema.get("items", {}))
    properties = schema.get("properties", {})
    extra = schema.get("additionalProperties", {})
    return dict(properties.get(part) or (extra if isinstance(extra, dict) else {}))


def _where(file: Path, location: tuple[Any, ...]) -> str:
    line = _line_of(file, location)
    return f"{file}:{line}" if line else str(file)


def _line_of(file: Path, location: tuple[Any, ...]) -> int:
    """The line a key stands on, or that of its nearest parent in the file; 0 when unknown."""
    if not file.exists():
        return 0
    node = yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    line = 1
    for part in location:
        if isinstance(node, yaml.MappingNode):
            found = next((pair for pair in node.value if pair[0].value == str(part)), None)
            if found is None:
                break
            line, node = found[0].start_mark.line + 1, found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            if part >= len(node.value):
                break
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            break
    return line
