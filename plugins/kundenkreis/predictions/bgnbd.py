"""BG/NBD: how often a customer will order again, and whether they still do.

While a customer is alive, orders come at random with a rate of their own, and after each order the
customer is lost with a probability of their own. The rates are Gamma(r, alpha) distributed, the
probabilities Beta(a, b).

Source: P. Fader, B. Hardie, K. L. Lee, "Counting Your Customers" the Easy Way: An Alternative to
the Pareto/NBD Model, Marketing Science 24 (2005), 275-284 (equations 6, 7 and 10); P(alive) from
B. Hardie, Computing P(alive) Using the BG/NBD Model (2008), http://brucehardie.com/notes/021/.

Names are those of the paper: ``x`` repeat orders, ``t_x`` time from the first to the last order,
``T`` time from the first order to the end of the observation, all in one unit of time, which is
also alpha's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kundenkreis.predictions.fitting import Fit, distinct_whole_numbers, minimise

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

# A fit begins on about this many groups; the rest only corrects it.
_SAMPLE_GROUPS = 20_000
# Nearer to a = 1 the expectation, which is smooth there, is 0/0 and is interpolated.
_NEAR_ONE = 1e-4
# A part of b that changes no digit that anybody reads.
_BESIDE = 1e-9
# Below it the expectation of x = 0 is a difference of large terms and is integrated.
_SMALL_C = 0.05


@dataclass(frozen=True)
class Parameters:
    """The four parameters; alpha in the unit of time of the data."""

    r: float
    alpha: float
    a: float
    b: float


@dataclass(frozen=True)
class OrderCounts:
    """Sufficient statistics: how many customers share the same (x, t_x, T). Arrays of one length.

    Attributes:
        x: repeat orders, whole numbers.
        t_x: time from the first to the last order; 0 where x is 0.
        T: time from the first order to the end; at least t_x.
        customers: how many customers, at least 1.
    """

    x: Array
    t_x: Array
    T: Array
    customers: Array

    def every(self, step: int) -> OrderCounts:
        """Every step-th group."""
        return OrderCounts(self.x[::step], self.t_x[::step], self.T[::step], self.customers[::step])


def fit(counts: OrderCounts) -> tuple[Parameters | None, Fit]:
    """Maximise the likelihood.

    Returns:
        The parameters, None where the fit did not converge, and how the fit went.
    """
    import numpy as np

    # In units of the mean observation every parameter is of the order of one.
    scale = float(np.average(counts.T, weights=counts.customers)) or 1.0
    scaled = OrderCounts(counts.x, counts.t_x / scale, counts.T / scale, counts.customers)
    start, inverse_hessian = np.log([0.5, 0.2, 1.0, 2.5]), None
    step = len(scaled.x) // _SAMPLE_GROUPS
    if step > 1:
        # The sample's solution and curvature leave a few evaluations of everything.
        sampled = minimise(_objective(scaled.every(step)), start)
        if sampled.converged:
            start, inverse_hessian = sampled.point, sampled.inverse_hessian
    result = minimise(_objective(scaled), start, inverse_hessian)
    # One unit of time more or less shifts the log-likelihood by a constant.
    shift = float(np.dot(counts.customers, counts.x)) * float(np.log(scale))
    customers = float(counts.customers.sum())
    outcome = Fit(
        result.converged, -result.value * customers - shift, result.evaluations, result.problem
    )
    if not result.converged:
        return None, outcome
    r, alpha, a, b = (float(value) for value in np.exp(result.point))
    return Parameters(r, alpha * scale, a, b), outcome


def log_likelihood(parameters: Parameters, counts: OrderCounts) -> float:
    """The log-likelihood of all customers (equation 6)."""
    import numpy as np

    logarithms = np.log([parameters.r, parameters.alpha, parameters.a, parameters.b])
    return -float(_objective(counts)(logarithms)[0]) * float(counts.customers.sum())


def _objective(counts: OrderCounts) -> Any:
    """The negative mean log-likelihood and its gradient, by the logarithms of the parameters."""
    import numpy as np
    from scipy.special import digamma, expit, gammaln

    # Special functions are the cost; they depend on x alone, which has few values.
    x, of_x = distinct_whole_numbers(counts.x)
    customers_of_x = np.bincount(of_x, weights=counts.customers)
    customers = float(counts.customers.sum())
    weights = counts.customers / customers
    weights_of_x = customers_of_x / customers
    has_repeated = counts.x > 0

    def objective(logarithms: Array) -> tuple[float, Array]:
        r, alpha, a, b = np.exp(logarithms)
        log_end, log_last = np.log(alpha + counts.T), np.log(alpha + counts.t_x)
        # ln of lost over alive: A4 - A3 of the authors' note on the BG/NBD in a spreadsheet.
        penalty = np.log(a) - np.log(b + np.maximum(x, 1) - 1)
        odds = np.where(
            has_repeated, penalty[of_x] + (r + counts.x) * (log_end - log_last), -np.inf
        )
        lost = expit(odds)
        # ln(1 + e^odds), exact for odds of any size
        softplus = np.maximum(odds, 0) + np.log1p(np.exp(-np.abs(odds)))
        by_group = softplus - (r + counts.x) * log_end
        by_x = gammaln(r + x) + gammaln(b + x) - gammaln(a + b + x)
        constant = r * np.log(alpha) - gammaln(r) + gammaln(a + b) - gammaln(b)
        value = np.dot(weights, by_group) + np.dot(weights_of_x, by_x) + constant
        lost_of_x = np.bincount(of_x, weights=weights * lost)
        shared = np.dot(weights_of_x, digamma(a + b) - digamma(a + b + x))
        mean_log = np.dot(weights, log_end - lost * (log_end - log_last))
        mean_inverse = (r + counts.x) * (
            (1 - lost) / (alpha + counts.T) + lost / (alpha + counts.t_x)
        )
        gradient = np.array(
            [
                np.dot(weights_of_x, digamma(r + x)) - digamma(r) + np.log(alpha) - mean_log,
                r / alpha - np.dot(weights, mean_inverse),
                shared + lost_of_x.sum() / a,
                shared
                + np.dot(weights_of_x, digamma(b + x))
                - digamma(b)
                - np.dot(lost_of_x, 1 / (b + np.maximum(x, 1) - 1)),
            ]
        )
        return -float(value), -gradient * np.array([r, alpha, a, b])

    return objective


def probability_alive(parameters: Parameters, x: Array, t_x: Array, T: Array) -> Array:
    """P(alive) at T; 1 for who has ordered once, because one is lost only after a repeat order.

    Arrays broadcast against each other; values from 0 to 1.
    """
    import numpy as np
    from scipy.special import expit

    r, alpha, a, b = parameters.r, parameters.alpha, parameters.a, parameters.b
    odds = (
        np.log(a)
        - np.log(b + np.maximum(x, 1) - 1)
        + (r + x) * (np.log(alpha + T) - np.log(alpha + t_x))
    )
    return np.asarray(np.where(x > 0, expit(-odds), 1.0))


def expected_orders(parameters: Parameters, t: float, x: Array, t_x: Array, T: Array) -> Array:
    """Orders to expect in the time t after T (equation 10), for arrays of one length."""
    import numpy as np

    # Given alive, the expectation knows only x and T, so it is computed once for each pair.
    distinct_x, of_x = distinct_whole_numbers(x)
    distinct_T, of_T = np.unique(T, return_inverse=True)
    pairs, of_pair = distinct_whole_numbers(of_x * len(distinct_T) + of_T)
    pair_x, pair_T = np.divmod(pairs.astype(int), len(distinct_T))
    if_alive = expected_orders_if_alive(parameters, t, distinct_x[pair_x], distinct_T[pair_T])
    return np.asarray(if_alive[of_pair] * probability_alive(parameters, x, t_x, T))


def expected_orders_if_alive(parameters: Parameters, t: float, x: Array, T: Array) -> Array:
    """Orders to expect in the time t after T of who is alive at T."""
    import numpy as np

    a = parameters.a
    if abs(a - 1) < _NEAR_ONE:
        low, high = (
            _expected_if_alive(_with_a(parameters, end), t, x, T)
            for end in (1 - _NEAR_ONE, 1 + _NEAR_ONE)
        )
        return np.asarray(low + (high - low) * (a - 1 + _NEAR_ONE) / (2 * _NEAR_ONE))
    return _expected_if_alive(parameters, t, x, T)


def _with_a(parameters: Parameters, a: float) -> Parameters:
    return Parameters(parameters.r, parameters.alpha, a, parameters.b)


def _expected_if_alive(parameters: Parameters, t: float, x: Array, T: Array) -> Array:
    """Equation 10 in Euler's form of the hypergeometric function.

    (1-z)^(r+x) 2F1(r+x, b+x; c; z) = (1-z)^(a-1) 2F1(a+b-1-r, a-1; c; z) with c = a+b+x-1: x is
    left in c alone, so that nothing overflows for customers with thousands of orders.
    """
    import numpy as np
    from scipy.special import hyp2f1

    r, alpha, a, b = parameters.r, parameters.alpha, parameters.a, parameters.b
    z = t / (alpha + T + t)
    c = a + b + x - 1
    usual = c > _SMALL_C
    safe = np.where(usual, c, 1.0)
    series = hyp2f1(a + b - 1 - r, a - 1, safe, z)
    # SciPy's function is wrong at some whole a+b-1-r (1.17: infinite); right beside them it is not.
    failed = ~np.isfinite(series)
    if failed.any():
        beside = a + b * (1 + _BESIDE) - 1 - r
        series[failed] = hyp2f1(beside, a - 1, safe[failed], z[failed])
    expected = -safe / (a - 1) * np.expm1((a - 1) * np.log1p(-z) + np.log(series))
    if not usual.all():
        expected[~usual] = _integrated(parameters, t, x[~usual], T[~usual])
    return np.asarray(np.maximum(expected, 0.0))


def _integrated(parameters: Parameters, t: float, x: Array, T: Array) -> Array:
    """The same as an integral over the probability of loss p, by Gauss-Jacobi quadrature.

    Given alive, p is Beta(a, b+x) and the rate Gamma(r+x, alpha+T), so that the expectation is
    that of (1 - ((alpha+T) / (alpha+T+pt))^(r+x)) / p. Only x = 0 comes here.
    """
    import numpy as np
    from scipy.special import roots_jacobi

    r, alpha, a, b = parameters.r, parameters.alpha, parameters.a, parameters.b
    nodes, weights = roots_jacobi(64, b - 1, a - 1)
    p, weights = (nodes + 1) / 2, weights / weights.sum()
    growth = np.log1p(np.outer(t / (alpha + T), p))
    return np.asarray((-np.expm1(-(r + x)[:, None] * growth) / p) @ weights)


def median_time_to_next_order(parameters: Parameters, x: Array, T: Array) -> Array:
    """Time after T within which half of those who are alive order again.

    Given alive, the rate is Gamma(r+x, alpha+T), so that the wait is Lomax distributed: its median
    always exists, its mean does not where r+x is at most 1. Infinite where it exceeds all numbers.
    """
    import numpy as np

    with np.errstate(over="ignore"):
        wait = (parameters.alpha + T) * np.expm1(np.log(2.0) / (parameters.r + x))
    return np.asarray(wait)
