"""BG/NBD and Gamma-Gamma against published figures, and per customer of the CDNOW sample."""

from __future__ import annotations

import csv
import gzip
import json
from collections import defaultdict
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kundenkreis.predictions import bgnbd, gamma_gamma

DAYS_PER_WEEK = 7
CALIBRATION_END = date(1997, 9, 30)


@pytest.fixture(scope="session")
def reference(shared_data: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((shared_data / "cdnow" / "reference.json").read_text())
    return found


@pytest.fixture(scope="session")
def sample(shared_data: Path) -> dict[str, np.ndarray]:
    """The CDNOW sample per customer, by column; times in weeks."""
    with gzip.open(shared_data / "cdnow" / "btyd_per_customer.csv.gz", "rt") as stream:
        rows = list(csv.DictReader(stream))
    columns = {
        name: np.array([float(row[name]) for row in rows])
        for name in rows[0]
        if name != "customer_id"
    }
    for name in ("t_x", "T"):  # rounded in the file; whole days in truth
        columns[name] = np.round(columns[name] * DAYS_PER_WEEK) / DAYS_PER_WEEK
    return columns


def _order_days(file: Path, end: date) -> dict[str, dict[date, float]]:
    """What each customer paid on each day with an order."""
    days: dict[str, dict[date, float]] = defaultdict(lambda: defaultdict(float))
    with gzip.open(file, "rt") if file.suffix == ".gz" else file.open() as stream:
        for row in csv.DictReader(stream):
            day = date.fromisoformat(row["date"])
            if day <= end:
                days[row["customer_id"]][day] += float(row["amount"])
    return days


def _counts(amounts: dict[date, float], end: date) -> tuple[int, int, int, float]:
    """x, t_x and T in days, and m_x."""
    first, *later = sorted(amounts)
    mean = sum(amounts[day] for day in later) / len(later) if later else 0.0
    return len(later), (max(amounts) - first).days, (end - first).days, mean


def counted(x: np.ndarray, t_x: np.ndarray, T: np.ndarray) -> bgnbd.OrderCounts:
    groups, customers = np.unique(np.stack([x, t_x, T], axis=1), axis=0, return_counts=True)
    return bgnbd.OrderCounts(*groups.T, customers.astype(float))


def _values(x: np.ndarray, m_x: np.ndarray) -> gamma_gamma.OrderValues:
    paid = (x > 0) & (m_x > 0)
    return gamma_gamma.OrderValues(x[paid], m_x[paid], np.ones(paid.sum()))


# What everybody can read in the paper and the notes.


@pytest.mark.parametrize(
    ("weeks", "expected"), [(0.1429, 0.0078), (1, 0.0532), (3, 0.1506), (32, 1.0437)]
)
def test_a_new_customer_orders_as_often_as_the_spreadsheet_note_says(
    weeks: float, expected: float
) -> None:
    """Fader, Hardie, Lee (2005), Implementing the BG/NBD Model in Excel: E[X(t)]."""
    published = bgnbd.Parameters(0.24259, 4.41360, 0.79292, 2.42591)
    nothing = np.zeros(1)
    # Who ordered just now, once: alive and of unknown rate, like one who has only been acquired.
    got = bgnbd.expected_orders(published, weeks, nothing, nothing, nothing)[0]
    assert got == pytest.approx(expected, abs=1e-4)


def test_the_conditional_expectation_of_the_paper() -> None:
    """The customer of the paper's table: x = 2, t_x = 30.43, T = 38.86, 39 weeks: 1.226."""
    published = bgnbd.Parameters(0.243, 4.414, 0.793, 2.426)
    got = bgnbd.expected_orders(published, 39, *map(np.atleast_1d, (2.0, 30.43, 38.86)))
    assert got[0] == pytest.approx(1.226, abs=5e-4)


# The CDNOW sample, counted and fitted.


def test_the_counts_of_the_sample_are_those_of_its_orders(shared_data: Path) -> None:
    """In weeks up to 1997-09-30, orders of one day as one; the first order is no repeat."""
    folder = shared_data / "cdnow"
    days = _order_days(folder / "cdnow_sample.csv", CALIBRATION_END)
    counts = {customer: _counts(amounts, CALIBRATION_END) for customer, amounts in days.items()}
    with gzip.open(folder / "btyd_per_customer.csv.gz", "rt") as stream:
        expected = {
            row["customer_id"]: [float(row[name]) for name in ("x", "t_x", "T", "m_x")]
            for row in csv.DictReader(stream)
        }
    assert counts.keys() == expected.keys()
    for customer, (x, t_x, T, m_x) in counts.items():
        weeks = (x, t_x / DAYS_PER_WEEK, T / DAYS_PER_WEEK, m_x)
        assert weeks == pytest.approx(expected[customer], abs=1e-8), customer


def test_bgnbd_of_the_cdnow_sample(
    sample: dict[str, np.ndarray], reference: dict[str, Any]
) -> None:
    counts = counted(sample["x"], sample["t_x"], sample["T"])
    parameters, fit = bgnbd.fit(counts)
    assert parameters is not None
    assert fit.converged
    expected = reference["btyd_sample"]["bgnbd"]
    assert (parameters.r, parameters.alpha, parameters.a, parameters.b) == pytest.approx(
        (0.2426, 4.4136, 0.7929, 2.4259), abs=1e-4
    )
    published = expected["published"]
    for name in ("r", "alpha", "a", "b"):
        assert round(getattr(parameters, name), 3) == published[name], name
    customer = map(np.atleast_1d, (2.0, 30.43, 38.86))
    assert round(float(bgnbd.expected_orders(parameters, 39, *customer)[0]), 3) == 1.226
    assert fit.log_likelihood == pytest.approx(-9582.43, abs=0.01)
    assert fit.log_likelihood == pytest.approx(expected["loglik"], abs=1e-4)
    assert bgnbd.log_likelihood(parameters, counts) == pytest.approx(fit.log_likelihood, abs=1e-6)
    rounded = bgnbd.Parameters(*(published[name] for name in ("r", "alpha", "a", "b")))
    assert bgnbd.log_likelihood(rounded, counts) == pytest.approx(
        expected["loglik_at_published"], abs=1e-4
    )


def test_the_unit_of_time_changes_nothing_but_alpha(sample: dict[str, np.ndarray]) -> None:
    weeks, _ = bgnbd.fit(counted(sample["x"], sample["t_x"], sample["T"]))
    days, fit = bgnbd.fit(
        counted(sample["x"], np.round(sample["t_x"] * DAYS_PER_WEEK), np.round(sample["T"] * 7))
    )
    assert weeks is not None
    assert days is not None
    assert (days.r, days.alpha / DAYS_PER_WEEK, days.a, days.b) == pytest.approx(
        (weeks.r, weeks.alpha, weeks.a, weeks.b), rel=1e-5
    )
    assert fit.log_likelihood == pytest.approx(-9582.43 - sample["x"].sum() * np.log(7), abs=0.01)


def test_gamma_gamma_of_the_cdnow_sample(
    sample: dict[str, np.ndarray], reference: dict[str, Any]
) -> None:
    values = _values(sample["x"], sample["m_x"])
    parameters, fit = gamma_gamma.fit(values)
    assert parameters is not None
    assert (parameters.p, parameters.q, parameters.v) == pytest.approx(
        (6.25, 3.74, 15.44), abs=0.005
    )
    for name in ("p", "q", "v"):
        published = reference["btyd_sample"]["gamma_gamma"]["published"][name]
        assert round(getattr(parameters, name), 2) == published, name
    expected = reference["btyd_sample"]["gamma_gamma"]["loglik"]
    assert fit.log_likelihood == pytest.approx(expected, abs=1e-3)
    assert gamma_gamma.log_likelihood(parameters, values) == pytest.approx(
        fit.log_likelihood, abs=1e-6
    )


def test_every_customer_of_the_cdnow_sample(sample: dict[str, np.ndarray]) -> None:
    """1e-4 relative; the file holds eight decimals."""
    orders, _ = bgnbd.fit(counted(sample["x"], sample["t_x"], sample["T"]))
    value, _ = gamma_gamma.fit(_values(sample["x"], sample["m_x"]))
    assert orders is not None
    assert value is not None
    history = sample["x"], sample["t_x"], sample["T"]
    got = {
        "p_alive": bgnbd.probability_alive(orders, *history),
        "exp_39w": bgnbd.expected_orders(orders, 39, *history),
        "exp_spend": gamma_gamma.expected_order_value(value, sample["x"], sample["m_x"]),
    }
    got["clv_39w"] = got["exp_39w"] * got["exp_spend"]
    for name, figures in got.items():
        np.testing.assert_allclose(figures, sample[name], rtol=1e-4, atol=6e-9, err_msg=name)


def test_the_whole_cohort(shared_data: Path, reference: dict[str, Any]) -> None:
    """Day resolution, same-day orders merged, the customer who paid nothing left out of values."""
    days = _order_days(shared_data / "cdnow" / "cdnow_master.csv.gz", CALIBRATION_END)
    assert len(days) == reference["btyd_full"]["n"]
    table = [_counts(amounts, CALIBRATION_END) for amounts in days.values()]
    x, t_x, T, m_x = np.array(table, dtype=float).T
    orders, fit = bgnbd.fit(counted(x, t_x / DAYS_PER_WEEK, T / DAYS_PER_WEEK))
    value, value_fit = gamma_gamma.fit(_values(x, m_x))
    expected = reference["btyd_full"]["bgnbd"]
    assert orders is not None
    assert [orders.r, orders.alpha, orders.a, orders.b] == pytest.approx(
        [expected[name] for name in ("r", "alpha", "a", "b")], rel=1e-4
    )
    assert fit.log_likelihood == pytest.approx(expected["loglik"], abs=1e-3)
    expected = reference["btyd_full"]["gamma_gamma"]
    assert value is not None
    assert [value.p, value.q, value.v] == pytest.approx(
        [expected[name] for name in ("p", "q", "v")], rel=1e-4
    )
    assert value_fit.log_likelihood == pytest.approx(expected["loglik"], abs=1e-3)
