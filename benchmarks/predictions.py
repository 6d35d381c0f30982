"""Customer value at size: ours through the database, ours as functions, and two peers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import psycopg

from benchmarks import buyers as generated
from benchmarks import nights, shop
from kundenkreis.predictions import bgnbd
from kundenkreis.settings import repository_root

PEERS = {"lifetimes": "0.11.3", "pymc-marketing": "0.19.2"}
"""Packages and versions that are measured beside ours; none is a dependency."""

_WARM_UP_CUSTOMERS = 1_000
_STATISTICS = "int_value_statistics"

Progress = Callable[[str], None]


def measure(dsn: str, folder: Path, customers: int, progress: Progress) -> dict[str, Any]:
    """Fit and score the same customers by each.

    Args:
        dsn: a fresh warehouse.
        folder: for the peers' environments and the file of customers.
        customers: how many; all of them have ordered.

    Returns:
        ``customers``, ``groups`` (distinct orders in time), and ``runs``: per program its seconds
        by part, peak memory, parameters, log-likelihood and expectations.
    """
    progress(f"generates {customers:,} buyers")
    drawn = generated.generate(customers)
    file, small = folder / "buyers.npz", folder / "buyers_few.npz"
    _write(file, drawn, customers)
    _write(small, drawn, min(customers, _WARM_UP_CUSTOMERS))
    runs = {"database": _in_database(dsn, drawn, progress)}
    progress("kundenkreis, as functions")
    runs["functions"] = run_peer(Path(sys.executable), "kundenkreis_peer.py", file)
    for package, package_version in PEERS.items():
        progress(f"{package} {package_version}")
        python = environment(folder / "peers" / package, f"{package}=={package_version}")
        script = f"{package.replace('-', '_')}_peer.py"
        # The first run of an environment compiles, which no later one does.
        run_peer(python, script, small)
        runs[package] = run_peer(python, script, file)
    groups = np.unique(np.stack([drawn.x, drawn.t_x, drawn.T]), axis=1).shape[1]
    everybody = bgnbd.OrderCounts(drawn.x, drawn.t_x, drawn.T, np.ones(customers))
    for run in runs.values():
        # One yardstick for all: priors and tolerances differ, the likelihood does not.
        parameters = bgnbd.Parameters(**run["orders"])
        run["log_likelihood"] = bgnbd.log_likelihood(parameters, everybody)
    return {"customers": customers, "groups": int(groups), "runs": runs}


def _write(file: Path, drawn: generated.Buyers, customers: int) -> None:
    columns = {
        "frequency": drawn.x,
        "recency": drawn.t_x,
        "T": drawn.T,
        "monetary_value": drawn.m_x,
    }
    np.savez(file, **{name: column[:customers] for name, column in columns.items()})


def environment(folder: Path, requirement: str) -> Path:
    """An environment that holds one package; returns its interpreter."""
    python, marker = folder / "bin" / "python", folder / "installed"
    if not marker.exists() or marker.read_text() != requirement:
        uv = str(Path(sys.executable).parent / "uv")
        subprocess.run(
            [uv, "venv", "--quiet", "--clear", "--python", sys.executable, folder], check=True
        )
        subprocess.run(
            [
                uv,
                "pip",
                "install",
                "--quiet",
                "--python",
                python,
                "--compile-bytecode",
                requirement,
            ],
            check=True,
        )
        marker.write_text(requirement)
    return python


def run_peer(
    python: Path,
    script: str,
    *arguments: object,
    folder: Path | None = None,
    variables: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Any]:
    """Run a program of `peers` by itself; its wall time is that of the whole process.

    Args:
        folder: where it runs. variables: of its environment.

    Returns:
        What it printed; its own ``seconds``, where it measured a part, replace those.
    """
    root = repository_root()
    inherited = {**os.environ, "PYTHONPATH": f"{root / 'plugins'}:{root}"}
    begun = time.perf_counter()
    completed = subprocess.run(
        [python, root / "benchmarks" / "peers" / script, *map(str, arguments)],
        env={**inherited, **variables},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - begun
    if completed.returncode:
        raise RuntimeError(f"{script} failed: {completed.stderr[-2000:]}")
    return {"seconds": seconds, **json.loads(completed.stdout.splitlines()[-1])}


def _in_database(dsn: str, drawn: generated.Buyers, progress: Progress) -> dict[str, Any]:
    """As in the night: the task `predict` in a process of its own, then customer_value by dbt."""
    progress("kundenkreis, in the database")
    shop.create_tables(dsn)
    run = nights.run_context(dsn, shop.LAST_DAY, nights.default_settings())
    # A night of an empty shop makes what `predict` reads, wherever it belongs.
    built = nights.build(run)
    _fill_statistics(dsn, built.schemas[_STATISTICS], drawn)
    result = run_peer(Path(sys.executable), "night_peer.py", dsn, shop.LAST_DAY, built.schema)
    (model,) = nights.build_alone(run, built.schema, ["customer_value"])
    expected = _expectations(dsn, built.schemas["customer_value"], shop.LAST_DAY)
    return {
        **result,
        "seconds": result["seconds"] + model.seconds,
        "score_seconds": model.seconds,
        **expected,
    }


def _fill_statistics(dsn: str, schema: str, drawn: generated.Buyers) -> None:
    known = drawn.known_x >= 0
    before, nothing = np.where(known, drawn.known_x, 0), np.array(None)
    columns: dict[str, Any] = {
        "repeat_order_days": drawn.x.astype(int),
        "days_to_last_order": drawn.t_x.astype(int),
        "days_observed": drawn.T.astype(int),
        "mean_repeat_order_value": np.where(drawn.x > 0, drawn.m_x, nothing),
        "calibration_repeat_order_days": np.where(known, before.astype(int), nothing),
        "calibration_days_to_last_order": np.where(known, drawn.known_t_x.astype(int), nothing),
        "calibration_days_observed": np.where(
            known, (drawn.T - generated.HOLDOUT_DAYS).astype(int), nothing
        ),
        "holdout_order_days": (drawn.x + 1 - np.where(known, before + 1, 0)).astype(int),
    }
    lists = [column.tolist() for column in columns.values()]
    table = f"{schema}.{_STATISTICS}"
    statement = f"copy {table} (customer_id, {', '.join(columns)}) from stdin"
    with psycopg.connect(dsn) as connection, connection.cursor() as cursor:
        # A table of the same columns instead of the view over the orders, of which there are none.
        cursor.execute(f"create table {schema}.drawn as select * from {table}".encode())
        cursor.execute(f"drop view {table}".encode())
        cursor.execute(f"alter table {schema}.drawn rename to {_STATISTICS}".encode())
        with cursor.copy(statement.encode()) as copy:
            for number, row in enumerate(zip(*lists, strict=True)):
                copy.write_row((f"{number:032x}", *row))
        cursor.execute(f"analyze {table}".encode())


def _expectations(dsn: str, schema: str, day: date) -> dict[str, Any]:
    with psycopg.connect(dsn) as connection:
        row = connection.execute(
            "select sum(expected_orders_365d), sum(clv_365d), count(*) filter (where clv_365d is"
            f" null) from {schema}.customer_value where as_of_date = %s",
            (day,),
        ).fetchone()
    assert row is not None
    return {
        "expected_orders": float(row[0]),
        "expected_revenue": float(row[1]),
        "not_finite": row[2],
    }
