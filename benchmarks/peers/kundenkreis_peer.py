"""`kundenkreis.predictions` as plain functions, on the customers of a file.

Prints one line of JSON. What the database does in the night is done here with numpy: customers with
the same orders in time become one group, and each customer's scores are those of the group.
"""

import json
import sys
import time

import numpy as np
from memory import peak_bytes

begun = time.perf_counter()
from kundenkreis.predictions import bgnbd, gamma_gamma  # noqa: E402

imported = time.perf_counter()
with np.load(sys.argv[1]) as data:
    x, t_x, T, m_x = (data[name] for name in ("frequency", "recency", "T", "monetary_value"))
loaded = time.perf_counter()

key = (x.astype(np.int64) << 40) | (t_x.astype(np.int64) << 20) | T.astype(np.int64)
_, first, of_customer, sizes = np.unique(
    key, return_index=True, return_inverse=True, return_counts=True
)
groups = bgnbd.OrderCounts(x[first], t_x[first], T[first], sizes.astype(float))
order_parameters, order_fit = bgnbd.fit(groups)
repeat = (x > 0) & (m_x > 0)
value_parameters, value_fit = gamma_gamma.fit(
    gamma_gamma.OrderValues(x[repeat], m_x[repeat], np.ones(int(repeat.sum())))
)
if order_parameters is None or value_parameters is None:
    sys.exit(f"no fit: {order_fit.problem}; {value_fit.problem}")
fitted = time.perf_counter()

expected = bgnbd.expected_orders(order_parameters, 365.0, groups.x, groups.t_x, groups.T)
worth = expected[of_customer] * gamma_gamma.expected_order_value(value_parameters, x, m_x)
ended = time.perf_counter()

print(
    json.dumps(
        {
            "version": "",
            "import_seconds": imported - begun,
            "load_seconds": loaded - imported,
            "fit_seconds": fitted - loaded,
            "score_seconds": ended - fitted,
            "memory_bytes": peak_bytes(),
            "orders": {name: getattr(order_parameters, name) for name in ("r", "alpha", "a", "b")},
            "values": {name: getattr(value_parameters, name) for name in ("p", "q", "v")},
            "expected_orders": float((expected * sizes).sum()),
            "expected_revenue": float(worth.sum()),
            "not_finite": int(np.count_nonzero(~np.isfinite(worth))),
        }
    )
)
