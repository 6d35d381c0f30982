"""Telephone numbers to E.164: what is one number, and what is none."""

from __future__ import annotations

import phonenumbers
import pyarrow as pa
import pytest

from kundenkreis.sources.telephone import e164, e164_column, is_region


@pytest.mark.parametrize(
    ("phone", "country", "number"),
    [
        ("0170 1234567", None, "+491701234567"),
        ("(0170) 123-45.67", "", "+491701234567"),
        ("+49 (0) 170 / 1234567", None, "+491701234567"),
        ("0049 170 1234567", "DE", "+491701234567"),
        ("0664 1234567", "AT", "+436641234567"),
        ("0664 1234567", " at ", "+436641234567"),
        # Who lives in Austria may have a German number.
        ("+49 170 1234567", "AT", "+491701234567"),
        # The country is given, but nobody knows it: only a number that names its own is read.
        ("0664 1234567", "Austria", None),
        ("+43 664 1234567", "Austria", "+436641234567"),
        # Possible by its length, but no such number is given out; and not even possible.
        ("+49 10 1234567", None, None),
        ("12", None, None),
        ("0170 1234567 890123", None, None),
        # Without its extension it would be the number of a whole office.
        ("030 1234567 ext. 12", None, None),
        ("anna@example.org", None, None),
        ("+", None, None),
        ("0" * 300, None, None),
    ],
)
def test_a_number_is_read_in_its_country(
    phone: str, country: str | None, number: str | None
) -> None:
    assert e164(phone, country, "DE") == number


def test_without_a_default_region_a_number_must_name_its_country() -> None:
    assert e164("0170 1234567", None, None) is None
    assert e164("+49 170 1234567", None, None) == "+491701234567"


def test_a_region_is_a_country_with_telephones() -> None:
    assert is_region("DE")
    assert not is_region("UK")
    assert not is_region("001")  # what the library calls numbers of no country


def test_a_column_reads_each_pair_of_number_and_country_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    phones = ["0664 1234567", None, "0664 1234567", "0170 1234567", "0664 1234567", "none"]
    countries = ["AT", "AT", None, None, "AT", "DE"]
    read: list[str] = []

    def counting(phone: str, region: str | None) -> phonenumbers.PhoneNumber:
        read.append(phone)
        return parse(phone, region)

    parse = phonenumbers.parse
    monkeypatch.setattr(phonenumbers, "parse", counting)
    column = e164_column(pa.array(phones, pa.string()), pa.array(countries, pa.string()), "DE")
    assert column.to_pylist() == [
        "+436641234567",
        None,
        "+496641234567",  # of a German town
        "+491701234567",
        "+436641234567",
        None,
    ]
    assert sorted(read) == ["0170 1234567", "0664 1234567", "0664 1234567", "none"]


@pytest.mark.parametrize("count", [0, 3])
def test_a_column_without_numbers_stays_one(count: int) -> None:
    empty = pa.nulls(count, pa.string())
    column = e164_column(empty, empty, "DE")
    assert (column.type, len(column), column.null_count) == (pa.string(), count, count)
