"""What is usual, and how far from it is too far: robust bounds from earlier nights.

Medians and MADs, because a night that went wrong must not move what the next one is compared with
(Rousseeuw and Croux, Alternatives to the Median Absolute Deviation, 1993). Counts are compared on
a logarithmic scale: a shop grows and shrinks by factors.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from kundenkreis.quality import limits

# A MAD times this estimates the standard deviation of normal values.
_MAD_TO_DEVIATION = 1.4826


@dataclass(frozen=True)
class History:
    """What earlier nights measured, newest first; at most one value per day computed.

    Attributes:
        same_weekday: of nights that computed the same weekday.
        recent: of the nights before, whatever their weekday.
    """

    same_weekday: tuple[float, ...] = ()
    recent: tuple[float, ...] = ()


@dataclass(frozen=True)
class Bounds:
    """Where a value may lie; None: no bound on that side. `usual` is the median behind it."""

    least: float | None
    most: float | None
    usual: float
    runs: int

    def in_words(self, unit: str) -> str:
        """For example ``120 to 900 rows (usual: 310, of 9 runs)``."""
        between = [_number(side) for side in (self.least, self.most) if side is not None]
        text = " to ".join(between) if len(between) == 2 else ""
        text = text or (f"at least {_number(self.least)}" if self.least is not None else "")
        text = text or (f"at most {_number(self.most)}" if self.most is not None else "any")
        return f"{text} {unit} (usual: {_number(self.usual)}, of {self.runs} runs)"


@dataclass(frozen=True)
class Tolerance:
    """How far from usual is still tolerated.

    Attributes:
        deviations: of the median, on a logarithmic scale: a quiet day or a sale.
        chance: how seldom such a day itself, by chance, has fewer or more.
    """

    deviations: float
    chance: float


CRITICAL = Tolerance(limits.CRITICAL_DEVIATIONS, limits.CRITICAL_CHANCE)
WARNING = Tolerance(limits.WARNING_DEVIATIONS, limits.WARNING_CHANCE)


def count_bounds(history: Sequence[float], tolerance: Tolerance) -> Bounds:
    """Bounds of a count, from what it was.

    First so many deviations around the median of the logarithms; the deviation is never taken to be
    smaller than a quiet day or a sale makes it. Then, around that quietest and that busiest day,
    what chance does to counts (Poisson); of a small shop even nothing at all may be chance.

    Raises:
        statistics.StatisticsError: `history` is empty.
    """
    logs = [math.log1p(max(0.0, value)) for value in history]
    middle = statistics.median(logs)
    deviation = max(
        _MAD_TO_DEVIATION * statistics.median(abs(value - middle) for value in logs),
        limits.LEAST_DEVIATION,
    )
    quietest = max(0.0, math.expm1(middle - tolerance.deviations * deviation))
    busiest = math.expm1(middle + tolerance.deviations * deviation)
    least = _poisson_quantile(quietest, tolerance.chance)
    return Bounds(
        least=least if least > 0 else None,
        most=math.ceil(busiest + _normal_quantile(tolerance.chance) * math.sqrt(busiest)) + 1,
        usual=math.expm1(middle),
        runs=len(history),
    )


def _normal_quantile(chance: float) -> float:
    """How many standard deviations are exceeded as seldom as that."""
    return statistics.NormalDist().inv_cdf(1 - chance)


def _poisson_quantile(mean: float, chance: float) -> int:
    """The least count that a Poisson count of this mean does not fall below but by that chance."""
    if mean > 400:  # where exp(-mean) would vanish, and both distributions are as good as equal
        return math.floor(mean - _normal_quantile(chance) * math.sqrt(mean))
    count, probability = 0, math.exp(-mean)
    below = probability
    while below < chance:
        count += 1
        probability *= mean / count
        below += probability
    return count


def weekday_bounds(history: History, tolerance: Tolerance) -> Bounds | None:
    """Bounds of a count that depends on the weekday; None while nothing can be said.

    While there are few nights of the weekday, the nights before count whatever their weekday; one
    of them may have been a day of rest, so only an upper bound comes of them.
    """
    if len(history.same_weekday) >= limits.FEWEST_RUNS_OF_WEEKDAY:
        return count_bounds(history.same_weekday, tolerance)
    if len(history.recent) >= limits.FEWEST_RUNS_OF_ANY_DAY:
        found = count_bounds(history.recent, tolerance)
        return Bounds(None, found.most, found.usual, found.runs)
    return None


def usual(values: Sequence[float], fewest: int = limits.FEWEST_RUNS) -> float | None:
    """The median, or None where there are too few values for one."""
    return statistics.median(values) if len(values) >= fewest else None


def _number(value: float | None) -> str:
    if value is None:
        return "?"
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"
