"""The task `predict` of the night, on a warehouse; prints one line of JSON.

Arguments: the warehouse's URI, the as-of date, the schema that is being built.
"""

import json
import sys
import time
from datetime import date

from memory import peak_bytes

begun = time.perf_counter()
from benchmarks import nights  # noqa: E402
from kundenkreis import night  # noqa: E402

dsn, as_of_date, schema = sys.argv[1], date.fromisoformat(sys.argv[2]), sys.argv[3]
run = nights.run_context(dsn, as_of_date, nights.default_settings())
imported = time.perf_counter()

summary = night.predict(run, schema)
fitted = time.perf_counter()

print(
    json.dumps(
        {
            "version": "",
            "import_seconds": imported - begun,
            "load_seconds": 0,
            "fit_seconds": fitted - imported,
            "memory_bytes": peak_bytes(),
            "orders": summary["orders"]["parameters"],
            "values": summary["order_value"]["parameters"],
        }
    )
)
