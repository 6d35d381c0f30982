"""The nights of `examples/` over the real files of two shops, and the same files in plain Python.

What a file says is read here by the rules that its example states, without the pipeline: the
results of the nights are compared with it and with ``reference.json`` beside the data.
"""

from __future__ import annotations

import csv
import gzip
import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from typing import Any

import psycopg

from tests.integration.lifecycle_reference import Person, Rules, Stay, Step, schedule, stays_until
from tests.night import preloaded
from tests.rfm_scores import Scored

_THOUSANDTH = Decimal("0.001")


@dataclass(frozen=True)
class RealShop:
    """A shop's data, and the warehouse that holds its published night."""

    folder: Path
    dsn: str
    as_of: date

    @property
    def reference(self) -> dict[str, Any]:
        """The independently computed figures."""
        found: dict[str, Any] = json.loads((self.folder / "reference.json").read_text())
        return found

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        """Ask the warehouse."""
        with psycopg.connect(self.dsn) as connection:
            return connection.execute(statement.encode()).fetchall()

    def cut_points(self) -> dict[str, list[float]]:
        """The cut points of each RFM dimension that are quantiles."""
        return {
            dimension: [float(cutoff) for cutoff in cutoffs]
            for dimension, cutoffs in self.rows(
                "select dimension, array_agg(cutoff order by quantile) from history.rfm_cutoffs "
                "where method = 'quantiles' group by dimension"
            )
        }

    def scores(self) -> dict[str, Scored]:
        """Values and scores by the file's customer number."""
        # The reference figures are sums of floats; all amounts have at most three decimals.
        return {
            customer: (recency, frequency, monetary.quantize(_THOUSANDTH), *points)
            for customer, recency, frequency, monetary, *points in self.rows(
                "select source_id, recency_days, frequency, monetary, r_score, f_score, m_score "
                "from marts.customer_rfm inner join marts.customer_source_ids using (customer_id) "
                "where source_record_type = 'customer'"
            )
        }

    def stays(self) -> dict[str, list[Stay]]:
        """The published lifecycle intervals by the file's customer number."""
        return self._by_customer("lifecycle_intervals", "valid_from", "stage, valid_from, valid_to")

    def projections(self) -> dict[str, list[Step]]:
        """The published projections by the file's customer number."""
        return self._by_customer("lifecycle_projections", "from_date", "stage, from_date")

    def _by_customer(self, mart: str, sorted_by: str, columns: str) -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = defaultdict(list)
        for customer, *row in self.rows(
            f"select source_id, {columns} from marts.{mart} "
            "inner join marts.customer_source_ids using (customer_id) "
            f"where source_record_type = 'customer' order by {sorted_by}"
        ):
            found[customer].append(tuple(row))
        return dict(found)


def night(example: str, as_of: date, dsn: str, data: Path) -> RealShop:
    """Run the night of an example in a fresh warehouse, as its README says."""
    environment = {
        **os.environ,
        "KUNDENKREIS_CONFIG": f"examples/{example}",
        "KUNDENKREIS_DATA": str(data),
        "AIRFLOW_CONN_WAREHOUSE": dsn,
    }
    completed = preloaded.call(("run", "--as-of", as_of.isoformat()), environment, timeout=400)
    assert completed.returncode == 0, completed.stdout + completed.stderr
    return RealShop(data / example, dsn, as_of)


# The files, by the rules of the examples.


@dataclass(frozen=True)
class FileOrder:
    """An order of a known customer, as the file has it and as its example's rules count it."""

    customer: str
    day: date
    value: Decimal
    is_counted: bool


def cdnow_orders(folder: Path) -> list[FileOrder]:
    """Each row is an order, exact duplicates and zero amounts included."""
    return [
        FileOrder(row["customer_id"], date.fromisoformat(row["date"]), Decimal(row["amount"]), True)
        for row in _csv(folder / "cdnow_master.csv.gz")
    ]


def online_retail_orders(folder: Path) -> list[FileOrder]:
    """Each invoice is an order; cancelled ones (C) and those worth nothing do not count."""
    customer_and_day: dict[str, tuple[str, date]] = {}
    values: dict[str, Decimal] = defaultdict(Decimal)
    for row in _csv(folder / "online_retail.csv.gz"):
        if row["CustomerID"]:
            invoice, day = row["InvoiceNo"], date.fromisoformat(row["InvoiceDate"][:10])
            customer_and_day.setdefault(invoice, (row["CustomerID"].removesuffix(".0"), day))
            values[invoice] += int(row["Quantity"]) * Decimal(row["UnitPrice"])
    return [
        FileOrder(*of_whom, values[invoice], not invoice.startswith("C") and values[invoice] > 0)
        for invoice, of_whom in customer_and_day.items()
    ]


def _csv(file: Path) -> Iterator[dict[str, str]]:
    with gzip.open(file, "rt", encoding="utf-8", newline="") as stream:
        yield from csv.DictReader(stream)


def persons(orders: Sequence[FileOrder]) -> dict[str, Person]:
    """What the lifecycle knows of each customer of a file that holds orders and nothing else.

    An order that does not count shows interest, unless it only takes another one back.
    """
    of_customer: dict[str, list[FileOrder]] = defaultdict(list)
    for order in orders:
        of_customer[order.customer].append(order)
    return {
        customer: Person(
            known_on=min(order.day for order in own),
            signs=frozenset(
                order.day for order in own if not order.is_counted and order.value >= 0
            ),
            orders=frozenset(order.day for order in own if order.is_counted),
        )
        for customer, own in of_customer.items()
    }


def assert_lifecycle_is_that_of(shop: RealShop, known: Mapping[str, Person]) -> None:
    """Every stay and every projection of every customer, by the default rules."""
    steps = {customer: schedule(person, Rules()) for customer, person in known.items()}
    expected = {customer: stays_until(shop.as_of, own) for customer, own in steps.items()}
    coming = {
        customer: [step for step in own if step[1] > shop.as_of] for customer, own in steps.items()
    }
    assert_same(shop.stays(), expected)
    assert_same(shop.projections(), {customer: own for customer, own in coming.items() if own})
    changes = sum(len(own) - 1 for own in expected.values())
    assert shop.rows("select count(*) from marts.lifecycle_transitions") == [(changes,)]


def assert_same(found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Compare by customer, and show three of those who differ: a whole shop fills a terminal."""
    assert expected, "nothing to compare"
    differing = [
        customer
        for customer in sorted({*found, *expected})
        if found.get(customer) != expected.get(customer)
    ]
    shown = [(customer, found.get(customer), expected.get(customer)) for customer in differing[:3]]
    assert not differing, f"{len(differing)} differ (found, expected): {shown}"


# The figures beside the files.


def expected_scores(file: Path, key: str) -> dict[str, Scored]:
    """Values and scores of each customer, computed elsewhere."""
    return {
        row[key]: (
            int(row["recency"]),
            int(row["frequency"]),
            Decimal(row["monetary"]).quantize(_THOUSANDTH),
            int(row["R"]),
            int(row["F"]),
            int(row["M"]),
        )
        for row in _csv(file)
    }


def grid_of(scores: Mapping[str, Scored]) -> dict[str, Any]:
    """The RFM grid in the words of ``reference.json``.

    Its ``cells_sha256`` is that of all customers' codes, one a line, sorted by customer.
    """
    codes = ["".join(map(str, own[3:])) for _, own in sorted(scores.items())]
    cells = Counter(codes)
    counts = {
        f"{letter}_counts": dict(sorted(Counter(code[position] for code in codes).items()))
        for position, letter in enumerate("RFM")
    }
    return {
        **counts,
        "n_cells": len(cells),
        "cell_555": cells["555"],
        "cell_111": cells["111"],
        "cells_sha256": sha256("\n".join(codes).encode()).hexdigest(),
    }
