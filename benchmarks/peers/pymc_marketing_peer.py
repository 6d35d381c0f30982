"""PyMC-Marketing, maximum a posteriori: BG/NBD and Gamma-Gamma on the customers of a file.

Prints one line of JSON. Runs in an environment of its own, so it imports nothing of this
repository.
"""

import contextlib
import json
import sys
import time

import numpy as np
from memory import peak_bytes

begun = time.perf_counter()
import pandas as pd  # noqa: E402
import pymc_marketing  # noqa: E402
from pymc_marketing import clv  # noqa: E402

imported = time.perf_counter()
with np.load(sys.argv[1]) as data:
    customers = pd.DataFrame({name: data[name] for name in data.files})
customers.insert(0, "customer_id", np.arange(len(customers)))
loaded = time.perf_counter()

with contextlib.redirect_stdout(sys.stderr):
    orders = clv.BetaGeoModel(data=customers[["customer_id", "frequency", "recency", "T"]])
    orders.fit(method="map")
    repeat = customers[customers["frequency"] > 0]
    values = clv.GammaGammaModel(data=repeat[["customer_id", "frequency", "monetary_value"]])
    values.fit(method="map")
    fitted = time.perf_counter()
    expected = orders.expected_purchases(future_t=365)
    value = values.expected_customer_spend(
        data=customers[["customer_id", "frequency", "monetary_value"]]
    )
    expected_orders = np.asarray(expected.mean(("chain", "draw")))
    worth = expected_orders * np.asarray(value.mean(("chain", "draw")))
ended = time.perf_counter()


def parameters(model, names):
    """The point estimates of a model."""
    return {name: float(model.fit_result[name].to_numpy().ravel()[0]) for name in names}


print(
    json.dumps(
        {
            "version": pymc_marketing.__version__,
            "import_seconds": imported - begun,
            "load_seconds": loaded - imported,
            "fit_seconds": fitted - loaded,
            "score_seconds": ended - fitted,
            "memory_bytes": peak_bytes(),
            "orders": parameters(orders, ("r", "alpha", "a", "b")),
            "values": parameters(values, ("p", "q", "v")),
            "expected_orders": float(expected_orders.sum()),
            "expected_revenue": float(worth.sum()),
            "not_finite": int(np.count_nonzero(~np.isfinite(worth))),
        }
    )
)
