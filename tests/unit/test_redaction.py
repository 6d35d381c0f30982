"""No personal data survives in an error text that other software wrote."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kundenkreis.redaction import first_lines, redact

# What a value in a database may be: brackets, quotes and line breaks included.
_VALUES = st.text(
    alphabet=st.characters(exclude_categories=["Cs", "Cc"], include_characters="\n"), min_size=1
)
_SURROUNDINGS = st.sampled_from(["{}", "row {} refused", "<{}>", "({})", '"{}",', "to:{}."])
_FEW = settings(max_examples=60, deadline=None, database=None)


@_FEW
@given(address=st.emails(), around=_SURROUNDINGS)
def test_no_address_survives(address: str, around: str) -> None:
    assert redact(around.format(address)) == around.format("***@***")


@_FEW
@given(addresses=st.lists(st.emails(), min_size=2, max_size=4))
def test_no_address_of_many_survives(addresses: list[str]) -> None:
    assert first_lines("; ".join(addresses)) == "; ".join(["***@***"] * len(addresses))


@pytest.mark.parametrize(
    "address",
    [
        "anna@example.com",
        "Anna.O'Neil+shop@sub.example.co.uk",
        "anna@müller.de",
        "müller@example.de",
        '"anna müller"@example.de',
        "anna%40example.de",
        "anna@[192.0.2.1]",
        "anna@localhost",
    ],
)
def test_unusual_addresses_do_not_survive(address: str) -> None:
    text = redact(f"could not update {address} in the tool")
    assert text == "could not update ***@*** in the tool"


@_FEW
@given(value=_VALUES)
def test_the_value_of_a_violated_key_does_not_survive(value: str) -> None:
    message = f"Key (last_name)=({value}) already exists."
    assert redact(message) == "Key (last_name)=(***) already exists."


def test_a_key_of_two_columns_keeps_their_names() -> None:
    message = "Key (source, email)=(woocommerce, anna@example.com) is not present in table"
    assert redact(message) == "Key (source, email)=(***) is not present in table"


@pytest.mark.parametrize(
    "message",
    [
        'invalid input syntax for type numeric: "{}"',
        'invalid input syntax for type date: "{}"',
        'invalid input value for enum mood: "{}"',
        'date/time field value out of range: "{}"',
        'malformed array literal: "{}"',
    ],
)
@pytest.mark.parametrize("value", ["Müller", 'Müller "Anna" Schmidt', "Müller\nSchmidt"])
def test_a_refused_value_does_not_survive(message: str, value: str) -> None:
    text = redact(message.format(value))
    assert "Müller" not in text
    assert "Schmidt" not in text
    assert text.startswith(message.split(":")[0])


@pytest.mark.parametrize("password", ["secret", "sec@ret", "s:e:cret", "%40secret"])
def test_a_password_in_a_uri_does_not_survive(password: str) -> None:
    text = redact(f"cannot connect to postgresql://shop:{password}@db.example.com:5432/warehouse")
    assert text == "cannot connect to postgresql://shop:***@db.example.com:5432/warehouse"


def test_text_without_personal_data_stays_as_it_is() -> None:
    text = 'relation "marts.orders" does not exist (at 12:30:01), see model orders.sql'
    assert redact(text) == text


def test_first_lines_leave_out_the_rows_that_postgres_repeats() -> None:
    message = (
        'Database Error in model orders\n  null value in column "email" violates not-null\n'
        "  DETAIL:  Failing row contains (17, Anna,\n  Müller, 1990-01-01).\n"
        "  CONTEXT:  COPY orders, line 3: 17,Anna\n"
        "  compiled code at target/orders.sql"
    )
    assert first_lines(message) == (
        'Database Error in model orders null value in column "email" violates not-null '
        "compiled code at target/orders.sql"
    )


def test_a_failing_row_is_hidden_where_the_whole_text_is_kept() -> None:
    assert redact("Failing row contains (17, Anna (Berlin),\n1990).") == (
        "Failing row contains (***)."
    )


def test_first_lines_counts_lines_with_text_only() -> None:
    assert first_lines("one\n\n  two \nthree\nfour", 3) == "one two three"
    assert first_lines("") == ""
