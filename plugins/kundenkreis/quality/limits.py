"""The gates' limits in one place, each with its reason."""

from __future__ import annotations

# A shop that takes orders every day and shows none for three nights has lost its feed; a small
# shop may be quiet for that long, so it is a warning.
STALE_ORDERS_DAYS = 3
STALE_CONTACTS_DAYS = 14

# Raw tables accumulate, so a large fall means that rows were lost. The median of the last runs
# is not moved by one bad night.
VOLUME_HISTORY_RUNS = 7
VOLUME_CRITICAL_SHARE = 0.5
VOLUME_WARNING_SHARE = 0.9
# Growth needs a history before it means anything, and a small table doubles easily.
VOLUME_GROWTH_FACTOR = 3
VOLUME_GROWTH_MIN_RUNS = 3
VOLUME_GROWTH_MIN_ROWS = 1_000

# One typo must not stop a night; a column that shifted must. So a share, and a number below
# which a share says nothing.
IMPLAUSIBLE_SHARE = 0.01
REJECTED_CRITICAL_SHARE = 0.05
REJECTED_CRITICAL_ROWS = 20
REJECTED_WARNING_SHARE = 0.01
REJECTED_WARNING_ROWS = 5

# No shop's order is older than the first web shops; a date before is an epoch or a swapped field.
EARLIEST_EVENT = "1990-01-01"

# Money is stored with four decimals; totals of many orders may differ by rounding of conversion.
RECONCILIATION_TOLERANCE = "0.01"

# Below this many members a percentage of change or of holdouts is noise.
SMALL_SEGMENT = 20
HOLDOUT_MIN_MEMBERS = 200

# Results stay in quality.gate_results; the pages of a quarter's nights are enough to look back.
DATA_DOCS_RUNS = 90
