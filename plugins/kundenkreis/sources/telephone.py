"""Telephone numbers as received to E.164 (``+`` and digits), so that equal numbers are equal texts.

Numbers are read by each country's numbering plan, as the library phonenumbers knows it
(https://github.com/daviddrysdale/python-phonenumbers, a port of Google's libphonenumber). E.164 is
a recommendation of the ITU: at most 15 digits, country code first.

A number becomes null where it cannot be told with certainty: it is no valid number of its country;
it is national and its country is one that nobody knows (``Germany`` is no code); it has an
extension, for which E.164 has no place, so that a whole office would share one number.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import phonenumbers

if TYPE_CHECKING:
    import pyarrow as pa


def is_region(code: str) -> bool:
    """Whether a text is the ISO 3166 code (two upper case letters) of a country with telephones."""
    return code in phonenumbers.SUPPORTED_REGIONS


def e164(phone: str, country: str | None, default_region: str | None) -> str | None:
    """A telephone number in E.164, None where it is none (see the module's docstring).

    Args:
        phone: as somebody typed it; with ``+`` or the country's ``00`` it names its own country.
        country: ISO 3166 alpha-2 code of the record, in any case; None or blank: not given.
        default_region: the country where the record gives none; None: then only numbers that name
            their own country are read.
    """
    region = (country or "").strip().upper() or default_region
    try:
        number = phonenumbers.parse(phone, region)
    except phonenumbers.NumberParseException:
        return None
    if number.extension or not phonenumbers.is_valid_number(number):
        return None
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)


def lifted(
    phone: tuple[str, ...], country: tuple[str, ...] | None, default_region: str | None
) -> Callable[[Any], Any]:
    """The shape of an API's records (`kundenkreis.sources.base.Table`) that adds ``phone_e164``.

    Args:
        phone: path of the number within a record, for example ("billing", "phone").
        country: path of the country's code; None: records have none.
        default_region: as in `e164`.
    """

    def shape(record: Any) -> Any:
        if not isinstance(record, dict):
            return record
        number = _text_at(record, phone)
        region = _text_at(record, country) if country else None
        return {**record, "phone_e164": number and e164(number, region, default_region)}

    return shape


def _text_at(record: Any, path: tuple[str, ...]) -> str | None:
    for part in path:
        record = record.get(part) if isinstance(record, dict) else None
    return str(record) if isinstance(record, str | int) else None


def e164_column(phone: pa.Array, country: pa.Array, default_region: str | None) -> pa.Array:
    """The E.164 form of a column of numbers; each distinct pair of number and country is read once.

    Args:
        phone: strings, null where there is none.
        country: strings of the same length, likewise.
        default_region: as in `e164`.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    phones = phone.dictionary_encode()
    countries = pc.fill_null(country, "").dictionary_encode()
    count = len(countries.dictionary)
    places = pc.multiply(pc.cast(phones.indices, pa.int64()), count)
    pairs = pc.add(places, pc.cast(countries.indices, pa.int64())).dictionary_encode()
    numbers, regions = phones.dictionary.to_pylist(), countries.dictionary.to_pylist()
    read = [
        e164(numbers[pair // count], regions[pair % count], default_region)
        for pair in pairs.dictionary.to_pylist()
    ]
    return pc.take(pa.array(read, pa.string()), pairs.indices)
