"""The gates' limits in one place, each with its reason."""

from __future__ import annotations

# Beyond so many times what a source's setting `fresh_within_days` allows, it is no quiet time any
# more: the feed is dead.
STALE_CRITICAL_FACTOR = 3

# Raw tables accumulate, so a fall means that rows were lost. The median of the last runs is not
# moved by one bad night.
VOLUME_HISTORY_RUNS = 7
VOLUME_CRITICAL_SHARE = 0.7
VOLUME_WARNING_SHARE = 0.9
# Growth needs a history before it means anything, and a small table doubles easily.
VOLUME_GROWTH_FACTOR = 3
VOLUME_GROWTH_MIN_RUNS = 3
VOLUME_GROWTH_MIN_ROWS = 1_000

# What happened on the as-of day, against the days before (bounds.py). Fourteen runs of a weekday
# are a quarter of a year: a season long, and short enough to follow growth.
MEASURED_RUNS = 14
FEWEST_RUNS_OF_WEEKDAY = 4
FEWEST_RUNS_OF_ANY_DAY = 7
FEWEST_RUNS = 3
# In logarithms: a day differs from its like by a quarter without anything being wrong. Six of
# these are 22 % of a usual day, as between the years; one in ten thousand such days has fewer rows
# than the bound by chance. So a shop of 45 orders a day is stopped when it has none, one of 100
# when it has fewer than seven, and a smaller one never.
LEAST_DEVIATION = 0.25
CRITICAL_DEVIATIONS = 6
CRITICAL_CHANCE = 0.0001
WARNING_DEVIATIONS = 4
WARNING_CHANCE = 0.01
LEAST_MEANINGFUL_COUNT = 3
# A share or a median of fewer rows is chance.
FEWEST_ROWS_OF_A_DAY = 20
# Cents for euros are a hundredfold; no sale and no rise in prices is tenfold in a night.
AMOUNT_CRITICAL_FACTOR = 10
AMOUNT_WARNING_FACTOR = 3
# A field that fewer than one row in twenty fills comes and goes by chance.
FILLED_SHARE_CRITICAL_FACTOR = 0.5
FILLED_SHARE_MEANINGFUL = 0.05
# Few people order between midnight and six; a shift of some hours moves a third of a day there.
NIGHT_HOURS = 6
NIGHT_SHARE_CRITICAL_RISE = 0.25
NIGHT_SHARE_WARNING_RISE = 0.1

# Text read in the wrong encoding shows as pairs of characters that hardly any name has.
DAMAGED_TEXT_SHARE = 0.01
# Addresses of shops are checked by their checkout; a column that is none shifted.
NO_ADDRESS_SHARE = 0.05
# What is checked row by row at some cost is checked for the rows of a quarter of a year.
LATELY_DAYS = 100
# Plug-ins add statuses of their own, which do not count; a status column that shifted has no other.
UNKNOWN_STATUS_SHARE = 0.5
# Somebody clicks twice; a file that was exported twice doubles most of its rows.
SECOND_COPY_SHARE = 0.05
SECOND_COPY_ROWS = 20

# The marts against the publications before. Erasures and merges take few; a fault takes many.
MARTS_LOST_SHARE = 0.8
CONTACTABLE_LOST_SHARE = 0.5
# Below so many customers, orders or members a share means little.
MARTS_FEWEST = 50
REVENUE_JUMP_FACTOR = 3
# Who was known the night before changes stage when a day passes or an order comes: few do at once.
STAGE_CHANGES_SHARE = 0.3
STAGE_CHANGES_WITHIN_DAYS = 7
STAGE_SHARE_RISE = 0.15
RFM_SEGMENT_SHARE_RISE = 0.15
ONE_RFM_SEGMENT_SHARE = 0.95
UNPRICED_SHARE = 0.2
UNPRICED_DAYS = 30

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
