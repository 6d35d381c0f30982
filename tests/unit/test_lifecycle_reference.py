"""The two plain implementations of the lifecycle rules agree on every generated history."""

from __future__ import annotations

from datetime import date

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.integration.lifecycle_histories import AS_OF, FIRST_DAY, HORIZON, RULES, persons
from tests.integration.lifecycle_reference import Person, Rules, schedule, stays, stays_until

_HISTORIES = st.one_of(st.just(Rules()), RULES).flatmap(
    lambda rules: st.tuples(persons(rules), st.just(rules))
)
_LAST_DAYS = st.one_of(st.just(HORIZON), st.dates(FIRST_DAY, AS_OF))


@settings(max_examples=300)
@given(_HISTORIES, _LAST_DAYS)
def test_looking_at_days_of_change_agrees_with_looking_at_every_day(
    history: tuple[Person, Rules], last_day: date
) -> None:
    person, rules = history
    assert stays_until(last_day, schedule(person, rules)) == stays(person, last_day, rules)
