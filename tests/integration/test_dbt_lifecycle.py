"""lifecycle_intervals and its companions against the plain reference, on generated histories.

Hypothesis makes the persons; one dbt run computes all of them; then every stay is compared.
"""

from __future__ import annotations

from collections import defaultdict
from datetime import date
from fractions import Fraction

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.integration.dbt_support import build, create_raw_tables, insert, query
from tests.integration.lifecycle_histories import AS_OF, persons
from tests.integration.lifecycle_reference import Person, Rules, Stay, schedule, stays_until

pytestmark = pytest.mark.integration

RULES = [
    Rules(),
    Rules(
        gap_window_orders=4,
        default_gap_days=45,
        min_gap_days=5,
        max_gap_days=90,
        at_risk_factor=Fraction(3, 2),
        churn_factor=Fraction(11, 4),
        new_customer_days=60,
        reactivated_days=10,
        loyalty_min_orders=3,
        loyalty_window_days=120,
        retention_min_orders=2,
        dormant_lead_days=90,
    ),
]


def _generated(count: int, rules: Rules) -> list[Person]:
    found: list[Person] = []

    @settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(persons(rules))
    def collect(person: Person) -> None:
        found.append(person)

    collect()
    return found


def _land(dsn: str, people: list[Person]) -> None:
    create_raw_tables(dsn, "files")
    insert(
        dsn,
        "raw_files.customers",
        (
            {
                "source_name": "till",
                "customer_key": str(number),
                "email": f"person{number}@mail.example",
                # The first moment of the business day, which is the day before in UTC.
                "created_at": f"{person.known_on} 00:00 Europe/Berlin",
            }
            for number, person in enumerate(people)
        ),
    )
    insert(
        dsn,
        "raw_files.consent_events",
        (
            {
                "source_name": "till",
                "email": f" Person{number}@MAIL.example",
                "evidence": "single",
                "occurred_at": f"{sign} 23:59:59 Europe/Berlin",
            }
            for number, person in enumerate(people)
            for sign in person.signs
        ),
    )
    insert(
        dsn,
        "raw_files.orders",
        (
            {
                "source_name": "till",
                "order_key": f"{number}-{order}-{copy}",
                "customer_key": str(number),
                "ordered_at": f"{order} {hour} Europe/Berlin",
                "status": "completed",
                "currency": "EUR",
                "total_amount": "10.00",
            }
            for number, person in enumerate(people)
            for order in person.orders
            # Several orders on a day are one order day.
            for copy, hour in enumerate(["00:00", "23:59"][: 1 + order.day % 2])
        ),
    )


def _variables(rules: Rules) -> dict[str, object]:
    return {
        name: float(value) if isinstance(value, Fraction) else value
        for name, value in vars(rules).items()
    }


@pytest.mark.parametrize("rules", RULES, ids=["default rules", "other rules"])
def test_sql_and_plain_reference_agree(warehouse_dsn: str, rules: Rules) -> None:
    people = _generated(800, rules)
    _land(warehouse_dsn, people)

    build(
        warehouse_dsn,
        AS_OF.isoformat(),
        "--select",
        "tag:transform",
        enabled_sources=["files"],
        **_variables(rules),
    )

    actual: dict[int, list[Stay]] = defaultdict(list)
    for number, *stay in query(
        warehouse_dsn,
        "select source_id::integer, stage, valid_from, valid_to from lifecycle_intervals"
        " inner join customer_source_ids using (customer_id) order by 1, valid_from",
    ):
        actual[number].append(tuple(stay))
    projected: dict[int, list[tuple[str, date]]] = defaultdict(list)
    for number, stage, from_date in query(
        warehouse_dsn,
        "select source_id::integer, stage, from_date from lifecycle_projections"
        " inner join customer_source_ids using (customer_id) order by 1, from_date",
    ):
        projected[number].append((stage, from_date))

    assert len(actual) == len(people) >= 700
    seen = {stage for person in actual.values() for stage, _, _ in person}
    assert len(seen) == 10, "the generated histories must reach every stage"
    for number, person in enumerate(people):
        steps = schedule(person, rules)
        assert actual[number] == stays_until(AS_OF, steps), person
        assert projected[number] == [step for step in steps if step[1] > AS_OF], person
    transitions = query(warehouse_dsn, "select count(*) from lifecycle_transitions")
    assert transitions == [(sum(len(person) - 1 for person in actual.values()),)]
