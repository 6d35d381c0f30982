"""Gamma-Gamma: what a customer's next order will be worth.

A customer's orders vary around a mean of their own, and these means vary between customers. Who has
few repeat orders is drawn towards the mean of all. Assumes that the value of an order does not
depend on how often a customer orders.

Source: P. Fader, B. Hardie, The Gamma-Gamma Model of Monetary Value (2013),
http://brucehardie.com/notes/025/ (equations 1a and 5). Names are those of the note: ``x`` repeat
orders, ``m_x`` their mean value.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kundenkreis.predictions.fitting import Fit, distinct_whole_numbers, minimise

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]


@dataclass(frozen=True)
class Parameters:
    """The three parameters; v in the unit of money of the data."""

    p: float
    q: float
    v: float


@dataclass(frozen=True)
class OrderValues:
    """How many customers share the same (x, m_x). Arrays of one length.

    Attributes:
        x: repeat orders, at least 1.
        m_x: their mean value, above 0.
        customers: how many customers, at least 1.
    """

    x: Array
    m_x: Array
    customers: Array


def fit(values: OrderValues) -> tuple[Parameters | None, Fit]:
    """Maximise the likelihood.

    Returns:
        The parameters, None where the fit did not converge or has no finite mean, and how it went.
    """
    import numpy as np

    scale = float(np.average(values.m_x, weights=values.customers))
    scaled = OrderValues(values.x, values.m_x / scale, values.customers)
    result = minimise(_objective(scaled), np.log([4.0, 4.0, 0.75]))
    customers = float(values.customers.sum())
    value = -result.value * customers - customers * float(np.log(scale))
    p, q, v = (float(value) for value in np.exp(result.point))
    problem = result.problem
    if problem is None and q <= 1:
        problem = f"q = {q:.3f}: order values scatter too widely to have a mean"
    outcome = Fit(problem is None, value, result.evaluations, problem)
    return (Parameters(p, q, v * scale) if problem is None else None), outcome


def log_likelihood(parameters: Parameters, values: OrderValues) -> float:
    """The log-likelihood of all customers (equation 1a)."""
    import numpy as np

    logarithms = np.log([parameters.p, parameters.q, parameters.v])
    return -float(_objective(values)(logarithms)[0]) * float(values.customers.sum())


def _objective(values: OrderValues) -> Any:
    """The negative mean log-likelihood and its gradient, by the logarithms of the parameters."""
    import numpy as np
    from scipy.special import digamma, gammaln

    x, of_x = distinct_whole_numbers(values.x)
    customers = float(values.customers.sum())
    weights = values.customers / customers
    weights_of_x = np.bincount(of_x, weights=weights)
    total = values.x * values.m_x
    mean_log_m = float(np.dot(weights, np.log(values.m_x)))
    # per x: the sum of the weights times ln(x m_x), which p multiplies
    log_total_of_x = np.bincount(of_x, weights=weights * np.log(total))

    def objective(logarithms: Array) -> tuple[float, Array]:
        p, q, v = np.exp(logarithms)
        log_sum_of_x = np.bincount(of_x, weights=weights * np.log(total + v))
        value = (
            np.dot(weights_of_x, gammaln(p * x + q) - gammaln(p * x))
            - gammaln(q)
            + q * np.log(v)
            + p * np.dot(x, log_total_of_x)
            - mean_log_m
            - np.dot(p * x + q, log_sum_of_x)
        )
        from_p = np.dot(
            x,
            weights_of_x * (digamma(p * x + q) - digamma(p * x)) + log_total_of_x - log_sum_of_x,
        )
        from_q = (
            np.dot(weights_of_x, digamma(p * x + q)) - digamma(q) + np.log(v) - log_sum_of_x.sum()
        )
        from_v = q / v - np.dot(weights, (p * values.x + q) / (total + v))
        return -float(value), -np.array([from_p * p, from_q * q, from_v * v])

    return objective


def expected_order_value(parameters: Parameters, x: Array, m_x: Array) -> Array:
    """The value to expect of an order (equation 5); without repeat orders the mean of all."""
    p, q, v = parameters.p, parameters.q, parameters.v
    return p * (v + x * m_x) / (p * x + q - 1)
