"""Buyers as BG/NBD and Gamma-Gamma assume them, of any number; the same every time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

# Days, as in the shop of the other parts.
_R, _ALPHA, _A, _B = 0.5, 30.0, 0.7, 12.0
# Euros.
_P, _Q, _V = 6.25, 4.0, 150.0
_DAYS = 1095
HOLDOUT_DAYS = 90
_MOST_ORDERS = 900


@dataclass(frozen=True)
class Buyers:
    """Sufficient statistics per customer, in days and euros; arrays of one length.

    Attributes:
        x: order days but the first.
        t_x: days from the first to the last order day.
        T: days from the first order day to the end.
        m_x: mean value of the orders but the first; 0 where there is none.
        known_x, known_t_x: the same as they were `HOLDOUT_DAYS` before the end; -1 for customers
            who had not ordered by then.
    """

    x: Array
    t_x: Array
    T: Array
    m_x: Array
    known_x: Array
    known_t_x: Array


def generate(customers: int) -> Buyers:
    """Draw the customers, seeded."""
    random = np.random.default_rng(20_261_031)
    T = np.floor(random.uniform(1, _DAYS + 1, customers))
    rate = random.gamma(_R, 1 / _ALPHA, customers)
    loss = random.beta(_A, _B, customers)
    known = T >= HOLDOUT_DAYS
    x, t_x = np.zeros(customers), np.zeros(customers)
    known_x, known_t_x = np.where(known, 0.0, -1.0), np.where(known, 0.0, -1.0)
    alive, moment = np.arange(customers), np.zeros(customers)
    for _ in range(_MOST_ORDERS):
        moment = moment + random.exponential(1 / rate[alive])
        kept = moment <= T[alive]
        alive, moment = alive[kept], moment[kept]
        # Several orders on a day are one order day.
        day = np.floor(moment)
        another = day > t_x[alive]
        buyers, days = alive[another], day[another]
        x[buyers] += 1
        t_x[buyers] = days
        early = days <= T[buyers] - HOLDOUT_DAYS
        known_x[buyers[early]] += 1
        known_t_x[buyers[early]] = days[early]
        stays = random.uniform(size=len(alive)) >= loss[alive]
        alive, moment = alive[stays], moment[stays]
        if not len(alive):
            break
    scale = random.gamma(_Q, 1 / _V, customers)
    total = random.gamma(np.maximum(_P * x, 1), 1 / scale)
    m_x = np.where(x > 0, np.round(total / np.maximum(x, 1), 4), 0.0)
    return Buyers(x, t_x, T, m_x, known_x, known_t_x)
