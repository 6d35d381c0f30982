"""`make bench`: runs the parts, prints the verdicts, writes docs/benchmarks.md."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

FULL_SIZE = 1_000_000
"""The size that the targets name; docs/ holds no figures of less."""

_PARTS = ("model", "predictions", "delivery")


def main() -> int:
    """Run what the arguments ask for; the results of each part are written when it ends."""
    arguments = _arguments()
    from benchmarks import machine, server
    from kundenkreis.settings import home, repository_root

    folder = home() / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    # What the night keeps outside the database (dbt's targets) must not mix with the product's.
    os.environ["KUNDENKREIS_HOME"] = str(folder)
    place = repository_root() / "docs" if arguments.customers >= FULL_SIZE else folder
    results = _known(place / "benchmarks.json")
    with server.running(folder, arguments.keep) as embedded:
        for name in arguments.parts:
            described = machine.describe(embedded.dsn(), server.settings())
            known = results.get(name) if arguments.more_nights else None
            database = f"bench_{name}"
            if known is None:
                dsn = server.fresh_warehouse(embedded, database)
            else:
                dsn = embedded.dsn(database)
            found = _measure(name, dsn, folder, arguments, known)
            results[name] = {**found, "machine": (known or {}).get("machine", described)}
            _write(results, place)
    _tell(results, place)
    return 0


def _measure(
    name: str,
    dsn: str,
    folder: Path,
    arguments: argparse.Namespace,
    known: dict[str, Any] | None,
) -> dict[str, Any]:
    from benchmarks import customer_model, delivery, predictions

    def progress(line: str) -> None:
        print(line, flush=True)

    if name == "model":
        return customer_model.measure(
            dsn, arguments.customers, arguments.nights, arguments.repeats, progress, known
        )
    if name == "delivery":
        return delivery.measure(dsn, folder, arguments.members, progress)
    return predictions.measure(dsn, folder, arguments.customers, progress)


def _write(results: dict[str, Any], place: Path) -> None:
    from benchmarks import report

    (place / "benchmarks.json").write_text(json.dumps(results, indent=1) + "\n")
    (place / "benchmarks.md").write_text(report.page(results))


def _tell(results: dict[str, Any], place: Path) -> None:
    from benchmarks import report

    for name, measured, target in report.verdicts(results):
        met = "met   " if measured <= target else "MISSED"
        print(f"{met} {name}: {measured:.3g}, at most {target:g}")
    print(f"Written: {place / 'benchmarks.md'}")
    if place.name != "docs":
        print(f"docs/benchmarks.md stays: it holds figures of {FULL_SIZE:,} customers or more.")


def _known(file: Path) -> dict[str, Any]:
    """Results of earlier runs, so that a run of one part keeps the other's."""
    known: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    return known


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--customers", type=int, default=FULL_SIZE)
    parser.add_argument("--members", type=int, default=100_000, help="of the first delivery")
    parser.add_argument(
        "--nights", type=int, default=4, help="in a row; the first two build in full"
    )
    parser.add_argument("--repeats", type=int, default=2, help="of what is beside a floor")
    parser.add_argument("--keep", action="store_true", help="keep the database of the last part")
    parser.add_argument(
        "--more-nights",
        action="store_true",
        help="go on with a kept warehouse of the part model, up to --nights in all",
    )
    parser.add_argument("parts", nargs="*", help=" ".join(_PARTS))
    arguments = parser.parse_args()
    arguments.parts = arguments.parts or list(_PARTS)
    if arguments.more_nights and arguments.parts != ["model"]:
        parser.error("--more-nights goes with the part model alone")
    unknown = [part for part in arguments.parts if part not in _PARTS]
    if unknown:
        parser.error(f"there is no part {', '.join(unknown)}; parts: {', '.join(_PARTS)}")
    return arguments


if __name__ == "__main__":
    raise SystemExit(main())
