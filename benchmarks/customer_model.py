"""The customer model at size: full builds, floors, and nights that change one in a hundred."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any

import psycopg

from benchmarks import floors, nights, shop
from kundenkreis import night as tasks

_SINGLE_COLOUR_NIGHTS = 2  # each colour's first build is a full one
_FULL_BUILD = (*nights.GROUPS["lifecycle"], *nights.GROUPS["RFM"])

Progress = Callable[[str], None]
Known = dict[str, Any] | None


def measure(
    dsn: str, customers: int, nights_count: int, repeats: int, progress: Progress, known: Known
) -> dict[str, Any]:
    """Run the nights and the floors.

    Args:
        dsn: a fresh warehouse.
        customers: persons of the generated shop.
        nights_count: nights in a row; at least three, so that one is not a colour's first.
        repeats: how often floors and what is compared with them run; the fastest counts.
        known: what an earlier run found on this warehouse, whose nights are gone on with; None for
            a fresh one.

    Returns:
        ``shop`` (what was generated), ``nights`` (seconds per task and group), ``full_build``,
        ``rfm`` and ``customer_360`` (each ours and floor), ``gates`` (of the last night).

    Raises:
        FloorDiffers: a floor gives another result than the models.
    """
    if known is None:
        progress(f"generates {customers:,} persons")
        shop.create_history(dsn, customers)
    found = known or {"shop": _describe_shop(dsn), "nights": []}
    settings = nights.default_settings()
    for number in range(len(found["nights"]), nights_count):
        as_of_date = shop.add_night(dsn, customers, number) if number else shop.LAST_DAY
        progress(f"night {number + 1} of {nights_count}")
        run = nights.run_context(dsn, as_of_date, settings)
        built = nights.build(run)
        if number == 0:
            progress("lifecycle and RFM in full, and their floor")
            found["full_build"] = _beside_floor(
                run, built, _FULL_BUILD, ("lifecycle", "rfm"), repeats
            )
        if number == nights_count - 1:
            progress("the gates")
            found["gates"] = nights.gates(run, built.schema)
            progress("RFM and customer_360, and their floors")
            found["rfm"] = _beside_floor(run, built, nights.GROUPS["RFM"], ("rfm",), repeats)
            found["customer_360"] = _beside_floor(
                run, built, nights.GROUPS["customer_360"], ("customer_360",), repeats
            )
        found["nights"].append(_night(nights.publish(run, built), number))
    return found


def _beside_floor(
    run: tasks.RunContext,
    built: nights.Night,
    models: Iterable[str],
    floor: tuple[str, ...],
    repeats: int,
) -> dict[str, Any]:
    """The models, alone in one dbt call, and the floor, alone in one session, by turns.

    The time of the models is from the beginning of the first to the end of the last; dbt's parsing
    is left out.
    """
    ours, theirs = [], []
    nodes: tuple[nights.Node, ...] = ()
    for _ in range(repeats):
        _settle(run.dsn)
        nodes = nights.build_alone(run, built.schema, models)
        ours.append(nights.span_seconds(nodes))
        _settle(run.dsn)
        theirs.append(floors.run(run.dsn, floor, run.as_of_date, built.schemas))
    compared = floors.compare(run.dsn, floor, built.schemas)
    _drop_floor(run.dsn)
    return {
        "seconds": min(ours),
        "floor_seconds": min(theirs),
        "all_seconds": ours,
        "all_floor_seconds": theirs,
        "models": {node.name: node.seconds for node in nodes},
        "compared": [asdict(comparison) for comparison in compared],
    }


def _night(built: nights.Night, number: int) -> dict[str, Any]:
    return {
        "as_of_date": built.as_of_date.isoformat(),
        "schema": built.schema,
        "is_first_of_its_colour": number < _SINGLE_COLOUR_NIGHTS,
        "tasks": built.tasks,
        "groups": built.seconds_by_group(),
        "models": {node.name: node.seconds for node in built.nodes if node.kind == "model"},
    }


def _describe_shop(dsn: str) -> dict[str, int]:
    with psycopg.connect(dsn) as connection:
        row = connection.execute(
            "select (select count(*) from benchmark.persons),"
            " (select count(*) from raw_files.customers), (select count(*) from raw_files.orders),"
            " (select count(*) from raw_files.consent_events)"
        ).fetchone()
    assert row is not None
    return dict(zip(("persons", "accounts", "orders", "consent_events"), row, strict=True))


def _settle(dsn: str) -> None:
    """Write out what came before, so that neither side pays for it."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("checkpoint")


def _drop_floor(dsn: str) -> None:
    """Leave the floors' tables to no night."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("drop schema floor cascade")
