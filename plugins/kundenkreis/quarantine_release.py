"""Checks and records a release: what `kundenkreis quarantine release` does.

A record that was rejected at load is validated at once by its source's own mapping. What a model
rejected is in the raw tables already; there a release can only be an allowance that the model
reads, and only an order's exchange rate is one. Everything else is put right where it is wrong, and
comes back by itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

import psycopg

from kundenkreis import sources
from kundenkreis.errors import DataError
from kundenkreis.settings import Settings
from kundenkreis.warehouse.quarantine import EXTRACT
from kundenkreis.warehouse.releases import Record, add_release, closed_already

_RATE = "exchange_rate"

# What to do instead of a release, by the reason that a model gives. The night after, the model does
# not reject the record any more, and it is closed.
INSTEAD = {
    "no_exchange_rate": "State the currency's rate in exchange_rates of config/model.yml, or "
    "correct the currency at the source. To give this one order a rate of its own: "
    "`--set exchange_rate=1.07`, reporting currency per unit.",
    "ambiguous_identity": "Nobody can decide here that so many addresses are one person. Remove "
    "the wrong links or telephone numbers at the source, or raise identity_max_addresses in "
    "config/model.yml.",
    "order_without_date": "Correct the date at the source.",
    "order_without_amount": "Correct the total at the source.",
    "order_without_currency": "Correct the currency at the source.",
}
_SPEND = (
    "State the currency's rate in exchange_rates of config/model.yml, or correct the currency in "
    "the file."
)


def release(
    connection: psycopg.Connection,
    record: Record,
    corrections: Mapping[str, Any],
    settings: Settings,
    by: str,
    note: str,
) -> None:
    """Release a record, in the caller's transaction.

    Raises:
        DataError: it is closed, would be rejected again, or has to be put right elsewhere.
        ConfigError: its source is not configured any more.
    """
    if record.state == "closed":
        raise closed_already(record)
    name = record.record_hash[:12]
    if record.rejected_by == EXTRACT:
        try:
            sources.check_released(
                record.source, record.table_name, record.payload, corrections, settings
            )
        except DataError as error:
            raise DataError(
                f"Record {name} would be rejected again: {error}. Give the right value with "
                "--set FIELD=VALUE, or correct it at the source."
            ) from None
    else:
        _require_allowance(record, corrections)
    add_release(connection, record, corrections, by, note)


def _require_allowance(record: Record, corrections: Mapping[str, Any]) -> None:
    is_order = record.reason_code == "no_exchange_rate" and record.table_name == "orders"
    if is_order and set(corrections) == {_RATE}:
        try:
            rate = Decimal(str(corrections[_RATE]))
        except InvalidOperation:
            rate = Decimal(0)
        if not rate.is_finite() or not 0 < rate < 10**9:
            raise DataError("--set exchange_rate: is no number above 0.")
        return
    instead = INSTEAD.get(record.reason_code, "Correct it at the source.")
    if record.table_name == "spend":
        instead = _SPEND
    raise DataError(
        f"Record {record.record_hash[:12]} is loaded already; the model {record.rejected_by} "
        f"rejects it ({record.reason_code}), and a release would change nothing. {instead} It "
        "comes back, and is closed, in the night after."
    )


def parse_corrections(texts: Sequence[str]) -> dict[str, Any]:
    """``field=value`` as corrections. A value that is JSON is taken as such, all else is text.

    Raises:
        DataError: there is no field or no =, or a field is named twice.
    """
    corrections: dict[str, Any] = {}
    for text in texts:
        field, mark, value = text.partition("=")
        field = field.strip()
        if not mark or not field:
            raise DataError("--set wants FIELD=VALUE, for example --set total=12.50.")
        if field in corrections:
            raise DataError(f"--set {field}: is given twice.")
        corrections[field] = _value(value)
    return corrections


def _value(text: str) -> Any:
    try:
        value = json.loads(text, parse_float=str, parse_int=str)
    except ValueError:
        return text
    # A number stays the text it was written as: money must not become a float.
    return text if isinstance(value, str) and not text.startswith('"') else value
