"""Maximum likelihood by gradient, for both models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

# Of the mean log-likelihood by the logarithm of a parameter: one percent of a parameter moves the
# mean log-likelihood by less than a hundred-millionth.
_GRADIENT_TOLERANCE = 1e-7
# Rounding may stop the line search a little before; this is still good to four digits.
_GRADIENT_ACCEPTED = 1e-5
# Of data in units of their own mean. Beyond e^12, about 160,000, a parameter has run away: the data
# do not tell its size, and special functions lose their digits.
_LARGEST_LOGARITHM = 12.0


@dataclass(frozen=True)
class Fit:
    """How a fit went.

    Attributes:
        converged: whether its parameters may be used.
        log_likelihood: of all customers, where it ended.
        evaluations: of the likelihood over all data.
        problem: why it did not converge.
    """

    converged: bool
    log_likelihood: float
    evaluations: int
    problem: str | None


@dataclass(frozen=True)
class Minimum:
    """Where a minimisation ended; `point` holds logarithms of parameters."""

    converged: bool
    point: Array
    value: float
    evaluations: int
    inverse_hessian: Array
    problem: str | None


def minimise(
    objective: Callable[[Array], tuple[float, Array]],
    start: Array,
    inverse_hessian: Array | None = None,
) -> Minimum:
    """Minimise a function that returns its value and gradient, by BFGS.

    Args:
        objective: takes logarithms of parameters.
        start: where to begin.
        inverse_hessian: the curvature, where a smaller problem has shown it.
    """
    import numpy as np
    from scipy.optimize import minimize

    options: dict[str, object] = {"gtol": _GRADIENT_TOLERANCE, "maxiter": 500}
    if inverse_hessian is not None:
        options["hess_inv0"] = (inverse_hessian + inverse_hessian.T) / 2
    with np.errstate(all="ignore"):
        result = minimize(objective, start, jac=True, method="BFGS", options=options)
    steepest = float(np.max(np.abs(result.jac)))
    problem = None
    if not (np.isfinite(result.fun) and np.all(np.isfinite(result.x)) and np.isfinite(steepest)):
        problem = "the likelihood is not a number"
    elif float(np.max(np.abs(result.x))) > _LARGEST_LOGARITHM:
        problem = "a parameter runs away"
    elif steepest > _GRADIENT_ACCEPTED:
        problem = f"no maximum was found in {result.nit} steps (gradient {steepest:.1e})"
    return Minimum(
        problem is None, result.x, float(result.fun), int(result.nfev), result.hess_inv, problem
    )


def distinct_whole_numbers(numbers: NDArray[Any]) -> tuple[Array, NDArray[np.intp]]:
    """The distinct values, ascending, and for each number the position of its value.

    As ``numpy.unique``, for whole numbers from 0 that are not sorted for it but counted.
    """
    import numpy as np

    whole: Any = numbers.astype(np.intp)
    if whole.max(initial=0) > 50 * len(whole) + 1_000_000:  # too many numbers to count over
        found, positions = np.unique(whole, return_inverse=True)
        return found.astype(float), positions
    distinct = np.flatnonzero(np.bincount(whole))
    position = np.empty(int(whole.max(initial=0)) + 1, dtype=np.intp)
    position[distinct] = np.arange(len(distinct))
    return distinct.astype(float), position[whole]
