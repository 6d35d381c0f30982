"""Rights of the persons behind the rows: erasure, a copy of what is held, retention.

`raw_rows` says where sources keep persons, `places` finds them everywhere else by columns;
`erasure`, `export` and `retention` stand upon both, and so does the `blocklist` that keeps an
erased person from coming back. None of it imports Airflow.
"""
