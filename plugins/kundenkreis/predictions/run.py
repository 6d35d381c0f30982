"""The task's work: statistics in, two fits, scores and parameters out."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

import numpy as np

from kundenkreis.predictions import bgnbd, gamma_gamma, store
from kundenkreis.predictions.fitting import Fit

if TYPE_CHECKING:
    import psycopg

# With fewer, four parameters describe chance. Also the least for the values of orders.
MIN_REPEAT_BUYERS = 30
HORIZONS_DAYS = (90.0, 365.0)
# A date beyond says "hardly ever"; without a bound some would leave the calendar.
LATEST_NEXT_ORDER_DAYS = 36_500
_LAST_HOLDOUT_GROUP = 7


@dataclass(frozen=True)
class Fitted:
    """One model of the night: its parameters, whose they are, and what came of the fit.

    Attributes:
        outcome: ``fitted``, ``kept`` (an earlier night's parameters) or ``none``.
        parameters: None where outcome is ``none``.
        parameters_of: the as-of day whose fit they are.
        reason: why the model was not fitted.
        log_likelihood: of this night's fit, where there was one.
    """

    outcome: str
    parameters: Any
    parameters_of: date | None
    reason: str | None
    log_likelihood: float | None


def predict(
    connection: psycopg.Connection,
    as_of_date: date,
    progress: Callable[[str], None],
    intermediate_schema: str,
) -> dict[str, Any]:
    """As `kundenkreis.predictions.predict`.

    The server reads and writes in a thread of its own, while this one fits; only while it writes
    must nothing else be asked of the connection.
    """
    begun = time.monotonic()
    with ThreadPoolExecutor(1) as server:
        with store.statistics_at_hand(connection, intermediate_schema):
            counts = store.read_counts(connection)
            reading_values = server.submit(store.read_values, connection)
            reading_calibration = server.submit(store.read_calibration, connection)
            buyers = int(counts.customers.sum())
            repeat_buyers = int(counts.customers[counts.x > 0].sum())
            progress(f"{buyers} buyers, {repeat_buyers} of them repeatedly")
            orders, scores = _fit_orders(connection, as_of_date, counts, repeat_buyers)
            order_value = _fit_order_value(connection, as_of_date, reading_values.result())
            calibration = reading_calibration.result()
        with store.replacing(connection):
            if scores is not None:
                writing = server.submit(store.write_scores, connection, as_of_date, scores)
            parameters = {
                "as_of_date": as_of_date,
                "buyers": buyers,
                "repeat_buyers": repeat_buyers,
                **_row("orders", orders),
                **_row("order_value", order_value),
                **_calibration(calibration),
            }
            if scores is not None:
                writing.result()
            store.write_parameters(connection, parameters)
    for name, fitted in (("BG/NBD", orders), ("Gamma-Gamma", order_value)):
        progress(f"{name}: {fitted.outcome}{f': {fitted.reason}' if fitted.reason else ''}")
    return {
        "buyers": buyers,
        "repeat_buyers": repeat_buyers,
        "scored_groups": len(scores.x) if scores else 0,
        "orders": _summary(orders),
        "order_value": _summary(order_value),
        "seconds": round(time.monotonic() - begun, 2),
    }


def _fit_orders(
    connection: psycopg.Connection, as_of_date: date, counts: bgnbd.OrderCounts, repeat_buyers: int
) -> tuple[Fitted, store.OrderScores | None]:
    """The model of orders in time, and what it says of everybody."""
    parameters, fit, scores = None, None, None
    problem = _too_few(repeat_buyers)
    if problem is None:
        parameters, fit = bgnbd.fit(counts)
        scores = _scores(parameters, counts)
        if scores is not None and not scores.are_finite():
            parameters, problem = None, "its expectations are not finite numbers"
    fitted = _decide(
        parameters, fit, problem, as_of_date, lambda: store.last_good_orders(connection, as_of_date)
    )
    return fitted, scores if parameters is not None else _scores(fitted.parameters, counts)


def _fit_order_value(
    connection: psycopg.Connection, as_of_date: date, values: gamma_gamma.OrderValues
) -> Fitted:
    parameters, fit = None, None
    problem = _too_few(int(values.customers.sum()))
    if problem is None:
        parameters, fit = gamma_gamma.fit(values)
    return _decide(
        parameters,
        fit,
        problem,
        as_of_date,
        lambda: store.last_good_order_value(connection, as_of_date),
    )


def _too_few(repeat_buyers: int) -> str | None:
    if repeat_buyers >= MIN_REPEAT_BUYERS:
        return None
    return f"{repeat_buyers} repeat buyers, at least {MIN_REPEAT_BUYERS} are needed"


def _decide(
    parameters: Any,
    fit: Fit | None,
    problem: str | None,
    as_of_date: date,
    last_good: Callable[[], tuple[date, Any] | None],
) -> Fitted:
    value = fit.log_likelihood if fit and np.isfinite(fit.log_likelihood) else None
    if parameters is not None:
        return Fitted("fitted", parameters, as_of_date, None, value)
    reason = problem or (fit.problem if fit else None)
    kept = last_good()
    if kept is None:
        return Fitted("none", None, None, reason, value)
    return Fitted("kept", kept[1], kept[0], reason, value)


def _row(model: str, fitted: Fitted) -> dict[str, Any]:
    """The columns of ``predictions.parameters`` that belong to one model."""
    names = {"alpha": "alpha_days"}
    parameters = asdict(fitted.parameters) if fitted.parameters else {}
    return {
        f"{model}_outcome": fitted.outcome,
        f"{model}_reason": fitted.reason,
        f"{model}_parameters_of": fitted.parameters_of,
        f"{model}_log_likelihood": fitted.log_likelihood,
        **{f"{model}_{names.get(key, key)}": value for key, value in parameters.items()},
    }


def _summary(fitted: Fitted) -> dict[str, Any]:
    return {
        "outcome": fitted.outcome,
        "reason": fitted.reason,
        "parameters_of": fitted.parameters_of.isoformat() if fitted.parameters_of else None,
        "parameters": asdict(fitted.parameters) if fitted.parameters else None,
        "log_likelihood": fitted.log_likelihood,
    }


def _scores(
    parameters: bgnbd.Parameters | None, counts: bgnbd.OrderCounts
) -> store.OrderScores | None:
    if parameters is None or not len(counts.x):
        return None
    expected = [
        bgnbd.expected_orders(parameters, days, counts.x, counts.t_x, counts.T)
        for days in HORIZONS_DAYS
    ]
    wait = np.ceil(bgnbd.median_time_to_next_order(parameters, counts.x, counts.T))
    return store.OrderScores(
        x=counts.x,
        t_x=counts.t_x,
        T=counts.T,
        p_alive=bgnbd.probability_alive(parameters, counts.x, counts.t_x, counts.T),
        expected_orders_90d=expected[0],
        expected_orders_365d=expected[1],
        expected_next_order_days=np.clip(wait, 1, LATEST_NEXT_ORDER_DAYS),
    )


def _calibration(calibration: store.Calibration) -> dict[str, Any]:
    """A second fit that did not see the last days, against what happened in them.

    Empty where too few customers had bought again before them, or that fit did not converge.
    """
    counts = calibration.counts
    if _too_few(int(counts.customers[counts.x > 0].sum())):
        return {}
    parameters, _ = bgnbd.fit(counts)
    if parameters is None:
        return {}
    expected = counts.customers * bgnbd.expected_orders(
        parameters, float(calibration.holdout_days), counts.x, counts.t_x, counts.T
    )
    group = np.minimum(counts.x, _LAST_HOLDOUT_GROUP).astype(int)
    customers, orders, expected_of_group = (
        np.bincount(group, weights=of_row, minlength=_LAST_HOLDOUT_GROUP + 1)
        for of_row in (counts.customers, calibration.holdout_orders, expected)
    )
    return {
        "holdout_days": calibration.holdout_days,
        "holdout_customers": int(counts.customers.sum()),
        "holdout_orders": int(calibration.holdout_orders.sum()),
        "holdout_orders_expected": float(expected.sum()),
        "holdout_by_repeat_orders": [
            {
                "repeat_orders": number,
                "customers": int(customers[number]),
                "orders_per_customer": round(orders[number] / customers[number], 4),
                "expected_per_customer": round(expected_of_group[number] / customers[number], 4),
            }
            for number in range(_LAST_HOLDOUT_GROUP + 1)
            if customers[number]
        ],
    }
