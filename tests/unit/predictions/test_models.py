"""What must hold of both models for any shop: gradients, directions, extremes."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import integrate, optimize, special

from kundenkreis.predictions import bgnbd, gamma_gamma

Orders = bgnbd.Parameters

positive = st.floats(0.05, 20)
parameters_of_orders = st.builds(Orders, positive, st.floats(0.5, 500), positive, positive)
lengths = st.integers(1, 3000)


def one(*values: float) -> tuple[np.ndarray, ...]:
    return tuple(np.array([float(value)]) for value in values)


def _simulated(customers: int, seed: int = 7) -> tuple[bgnbd.OrderCounts, gamma_gamma.OrderValues]:
    """A shop that is as the models say: r .5, alpha 40 days, a .8, b 2.5; p 6, q 4, v 90."""
    random = np.random.default_rng(seed)
    T = random.integers(30, 700, customers)
    rate = random.gamma(0.5, 1 / 40, customers)
    loss = random.beta(0.8, 2.5, customers)
    groups = []
    for own_T, own_rate, own_loss in zip(T, rate, loss, strict=True):
        day, days = 0.0, []
        while True:
            day += random.exponential(1 / own_rate)
            if day > own_T:
                break
            days.append(int(day))
            if random.random() < own_loss:
                break
        distinct = sorted(set(days) - {0})
        groups.append((len(distinct), distinct[-1] if distinct else 0, own_T))
    x, t_x, T = np.array(groups, dtype=float).T
    repeat = x > 0
    scale = random.gamma(4, 1 / 90, customers)
    m_x = random.gamma(6 * np.maximum(x, 1), 1 / (scale * np.maximum(x, 1)))
    return (
        bgnbd.OrderCounts(x, t_x, T, np.ones(customers)),
        gamma_gamma.OrderValues(x[repeat], m_x[repeat], np.ones(repeat.sum())),
    )


COUNTS, VALUES = _simulated(4_000)


# Fitting


@settings(max_examples=25)
@given(st.lists(st.floats(-2, 4), min_size=4, max_size=4))
def test_the_gradient_of_bgnbd_is_that_of_its_likelihood(logarithms: list[float]) -> None:
    objective = bgnbd._objective(COUNTS.every(40))
    point = np.array(logarithms)
    numeric = optimize.approx_fprime(point, lambda at: objective(at)[0], 1e-7)
    np.testing.assert_allclose(objective(point)[1], numeric, rtol=2e-4, atol=2e-5)


@settings(max_examples=25)
@given(st.lists(st.floats(-1, 3), min_size=3, max_size=3))
def test_the_gradient_of_gamma_gamma_is_that_of_its_likelihood(logarithms: list[float]) -> None:
    objective = gamma_gamma._objective(VALUES)
    point = np.array(logarithms)
    numeric = optimize.approx_fprime(point, lambda at: objective(at)[0], 1e-7)
    np.testing.assert_allclose(objective(point)[1], numeric, rtol=2e-4, atol=2e-5)


def test_the_likelihood_is_the_papers_formula_written_out() -> None:
    """Equation 6, customer by customer, in plain floating point."""
    r, alpha, a, b = 0.4, 35.0, 0.7, 2.2
    x, t_x, T = np.array([0, 1, 3, 12.0]), np.array([0, 9, 80, 190.0]), np.array([5, 9, 200, 200.0])
    alive = (
        special.beta(a, b + x)
        / special.beta(a, b)
        * special.gamma(r + x)
        * alpha**r
        / (special.gamma(r) * (alpha + T) ** (r + x))
    )
    lost = (
        special.beta(a + 1, b + x - 1)
        / special.beta(a, b)
        * special.gamma(r + x)
        * alpha**r
        / (special.gamma(r) * (alpha + t_x) ** (r + x))
    )
    each = np.log(alive + np.where(x > 0, lost, 0))
    customers = np.array([3, 1, 2, 5.0])
    got = bgnbd.log_likelihood(Orders(r, alpha, a, b), bgnbd.OrderCounts(x, t_x, T, customers))
    assert got == pytest.approx(float(customers @ each), rel=1e-12)


def test_a_simulated_shop_gives_its_parameters_back() -> None:
    orders, _ = bgnbd.fit(COUNTS)
    value, _ = gamma_gamma.fit(VALUES)
    assert orders is not None
    assert value is not None
    # Same-day orders are one, which hides some orders of the quickest.
    assert (orders.r, orders.alpha) == pytest.approx((0.5, 40), rel=0.2)
    assert orders.a / (orders.a + orders.b) == pytest.approx(0.8 / 3.3, rel=0.15)
    assert value.p * value.v / (value.q - 1) == pytest.approx(6 * 90 / 3, rel=0.1)


def test_groups_fit_as_their_customers_do() -> None:
    table = np.stack([COUNTS.x, COUNTS.t_x, COUNTS.T], axis=1)
    groups, customers = np.unique(table, axis=0, return_counts=True)
    assert customers.max() > 1
    each, one_by_one = bgnbd.fit(COUNTS)
    grouped, fit = bgnbd.fit(bgnbd.OrderCounts(*groups.T, customers.astype(float)))
    assert each is not None
    assert grouped is not None
    assert fit.log_likelihood == pytest.approx(one_by_one.log_likelihood, abs=1e-5)
    assert grouped.alpha == pytest.approx(each.alpha, rel=1e-4)


def test_a_fit_that_begins_on_a_sample_ends_at_the_same_maximum(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, slow = bgnbd.fit(COUNTS)
    monkeypatch.setattr(bgnbd, "_SAMPLE_GROUPS", 800)
    warm, quick = bgnbd.fit(COUNTS)
    assert whole is not None
    assert warm is not None
    assert quick.evaluations < slow.evaluations
    assert quick.log_likelihood == pytest.approx(slow.log_likelihood, abs=1e-5)
    assert warm.b == pytest.approx(whole.b, rel=1e-3)


def test_values_without_a_mean_do_not_converge() -> None:
    m_x = np.exp(np.random.default_rng(1).standard_cauchy(500).clip(-12, 12))
    parameters, fit = gamma_gamma.fit(gamma_gamma.OrderValues(np.ones(500), m_x, np.ones(500)))
    assert parameters is None
    assert fit.problem is not None
    assert "to have a mean" in fit.problem or "runs away" in fit.problem


@pytest.mark.parametrize(
    ("x", "t_x", "T"),
    [
        ([0.0], [0.0], [0.0]),  # a single customer, on the first day
        ([3.0], [20.0], [30.0]),
        ([0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [10.0, 20.0, 30.0]),  # no repeat buyer
    ],
)
def test_data_that_decide_nothing_end_without_parameters_or_with_finite_ones(
    x: list[float], t_x: list[float], T: list[float]
) -> None:
    counts = bgnbd.OrderCounts(*map(np.array, (x, t_x, T)), np.ones(len(x)))
    parameters, fit = bgnbd.fit(counts)
    assert fit.converged is (parameters is not None)
    assert (fit.problem is None) is fit.converged
    if parameters is not None:
        assert np.isfinite(
            bgnbd.expected_orders(parameters, 365, *map(np.array, (x, t_x, T)))
        ).all()


# Scoring


@given(parameters_of_orders, st.integers(0, 2000), lengths, lengths, st.floats(1, 1000))
def test_scores_are_probabilities_and_finite_expectations(
    parameters: Orders, x: int, first: int, second: int, t: float
) -> None:
    t_x, T = (min(first, second) if x else 0, max(first, second))
    alive = bgnbd.probability_alive(parameters, *one(x, t_x, T))[0]
    expected = bgnbd.expected_orders(parameters, t, *one(x, t_x, T))[0]
    assert 0 <= alive <= 1
    assert x > 0 or alive == 1
    assert 0 <= expected < np.inf
    # Nobody orders faster than the rate that the data allow.
    assert expected <= (parameters.r + x) / (parameters.alpha + T) * t * (1 + 1e-9)


@given(parameters_of_orders, st.integers(0, 300), lengths, st.floats(1, 1000))
@example(Orders(0.5, 1.0, 0.5, 2.0), 101, 1, 19.0)  # where SciPy's 2F1 is infinite
def test_more_orders_up_to_now_promise_more(
    parameters: Orders, x: int, days: int, t: float
) -> None:
    """At the same recency, where the last order has just been made: no silence to explain."""
    t_x = days if x else 0
    fewer, more = (
        bgnbd.expected_orders_if_alive(parameters, t, *one(count, days))[0] for count in (x, x + 1)
    )
    assert more >= fewer * (1 - 1e-9)
    if x:
        fewer, more = (
            bgnbd.expected_orders(parameters, t, *one(count, t_x, days))[0] for count in (x, x + 1)
        )
        assert more >= fewer * (1 - 1e-9)


@given(parameters_of_orders, st.integers(1, 300), lengths, lengths)
def test_a_later_last_order_makes_it_likelier_to_be_alive(
    parameters: Orders, x: int, first: int, second: int
) -> None:
    T = 3000
    early, late = (
        bgnbd.probability_alive(parameters, *one(x, t_x, T))[0] for t_x in sorted((first, second))
    )
    assert late >= early


@given(parameters_of_orders, st.integers(0, 300), lengths, st.floats(1, 500), st.floats(1, 500))
def test_more_time_brings_more_orders(
    parameters: Orders, x: int, T: int, t: float, longer: float
) -> None:
    less, more = (
        bgnbd.expected_orders_if_alive(parameters, time, *one(x, T))[0] for time in (t, t + longer)
    )
    assert more >= less * (1 - 1e-9)


def _by_integral(parameters: Orders, t: float, x: float, T: float) -> float:
    """The expectation given alive, straight from the model's story."""
    a, b = parameters.a, parameters.b + x

    rate = (parameters.r + x) / (parameters.alpha + T)

    def orders_if_lost_with(p: float) -> float:
        growth = np.log1p(p * t / (parameters.alpha + T))
        # at p = 0: nobody is lost, orders come at the mean rate
        return float(-np.expm1(-(parameters.r + x) * growth) / p) if p > 0 else rate * t

    # The weight p^(a-1) (1-p)^(b-1) is singular at the ends; the quadrature knows it.
    total = integrate.quad(
        orders_if_lost_with,
        *(0, 1),
        weight="alg",
        wvar=(a - 1, b - 1),
        epsabs=0,
        epsrel=1e-9,
    )[0]
    return float(total / special.beta(a, b))


@pytest.mark.parametrize("a", [0.2, 0.7, 0.9999, 0.99999, 1.0, 1.00001, 1.0001, 1.3, 6.0])
@pytest.mark.parametrize("b", [1.5, 2.4, 9.0])
@pytest.mark.parametrize("x", [0, 1, 7, 40])
def test_the_expectation_is_the_integral_of_the_models_story(a: float, b: float, x: int) -> None:
    for r, alpha, T, t in ((0.24, 31, 272, 365), (2.5, 90, 10, 90), (0.1, 5, 0, 365)):
        parameters = Orders(r, alpha, a, b)
        got = bgnbd.expected_orders_if_alive(parameters, t, *one(x, T))[0]
        assert got == pytest.approx(_by_integral(parameters, t, x, T), rel=1e-6)


@pytest.mark.parametrize(("a", "b"), [(0.2, 0.6), (0.5, 0.5), (0.45, 0.56), (0.1, 0.2)])
def test_who_ordered_once_in_a_shop_that_loses_most(a: float, b: float) -> None:
    """a + b about 1 or below, where the closed form of x = 0 divides by nothing."""
    parameters = Orders(0.3, 30, a, b)
    got = bgnbd.expected_orders_if_alive(parameters, 365, *one(0, 100))[0]
    assert got == pytest.approx(_by_integral(parameters, 365, 0, 100), rel=1e-6)


@pytest.mark.parametrize("a", [0.79, 1.0, 1.5])
def test_thousands_of_orders_overflow_nothing(a: float) -> None:
    parameters = Orders(0.243, 31.0, a, 2.426)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        alive = bgnbd.probability_alive(parameters, *one(2000, 1999, 2000))[0]
        expected = bgnbd.expected_orders(parameters, 365, *one(2000, 2000, 2000))[0]
        silent = bgnbd.probability_alive(parameters, *one(2000, 100, 2000))[0]
    assert 0.9 < alive < 1
    # About one order a day, less what is lost on the way.
    assert 250 < expected < 365
    assert silent < 1e-100


@given(parameters_of_orders, st.integers(0, 500), lengths)
def test_the_next_order_comes_sooner_to_who_orders_more(parameters: Orders, x: int, T: int) -> None:
    later, sooner = (
        bgnbd.median_time_to_next_order(parameters, *one(count, T))[0] for count in (x, x + 1)
    )
    assert 0 < sooner < later
    # Half of the alive have ordered by then: the Lomax distribution's own words.
    share = 1 - ((parameters.alpha + T) / (parameters.alpha + T + sooner)) ** (parameters.r + x + 1)
    assert share == pytest.approx(0.5)


@given(
    st.builds(gamma_gamma.Parameters, positive, st.floats(1.05, 20), st.floats(1, 500)),
    st.integers(1, 500),
    st.floats(0, 1000),
)
def test_an_order_is_worth_between_the_shops_mean_and_the_customers_own(
    parameters: gamma_gamma.Parameters, x: int, m_x: float
) -> None:
    everybody = gamma_gamma.expected_order_value(parameters, *one(0, 0))[0]
    assert everybody == pytest.approx(parameters.p * parameters.v / (parameters.q - 1))
    expected = gamma_gamma.expected_order_value(parameters, *one(x, m_x))[0]
    low, high = sorted((everybody, m_x))
    assert low * (1 - 1e-9) <= expected <= high * (1 + 1e-9)
