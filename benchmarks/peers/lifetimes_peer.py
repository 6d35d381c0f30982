"""lifetimes: BG/NBD and Gamma-Gamma on the customers of a file; prints one line of JSON.

Runs in an environment of its own, so it imports nothing of this repository.
"""

import json
import sys
import time

import numpy as np
from memory import peak_bytes

begun = time.perf_counter()
import lifetimes  # noqa: E402
import pandas as pd  # noqa: E402

imported = time.perf_counter()
with np.load(sys.argv[1]) as data:
    customers = pd.DataFrame({name: data[name] for name in data.files})
loaded = time.perf_counter()

orders = lifetimes.BetaGeoFitter(penalizer_coef=0.0)
orders.fit(customers["frequency"], customers["recency"], customers["T"])
repeat = customers[customers["frequency"] > 0]
values = lifetimes.GammaGammaFitter(penalizer_coef=0.0)
values.fit(repeat["frequency"], repeat["monetary_value"])
fitted = time.perf_counter()

expected = orders.conditional_expected_number_of_purchases_up_to_time(
    365, customers["frequency"], customers["recency"], customers["T"]
)
value = values.conditional_expected_average_profit(
    customers["frequency"], customers["monetary_value"]
)
worth = (expected * value).to_numpy()
ended = time.perf_counter()

print(
    json.dumps(
        {
            "version": lifetimes.__version__,
            "import_seconds": imported - begun,
            "load_seconds": loaded - imported,
            "fit_seconds": fitted - loaded,
            "score_seconds": ended - fitted,
            "memory_bytes": peak_bytes(),
            "orders": {name: float(orders.params_[name]) for name in ("r", "alpha", "a", "b")},
            "values": {name: float(values.params_[name]) for name in ("p", "q", "v")},
            "expected_orders": float(np.sum(expected)),
            "expected_revenue": float(worth.sum()),
            "not_finite": int(np.count_nonzero(~np.isfinite(worth))),
        }
    )
)
