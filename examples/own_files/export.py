"""Writes the exports of an invented shop, to try files on before your own are at hand.

``customers.csv``, ``orders.csv`` and ``newsletter.csv``: 300 people, the orders of 18 months up to
yesterday. The same day gives the same files. One order has a total that is no number.
"""

from __future__ import annotations

import argparse
import csv
import random
from collections.abc import Iterable, Sequence
from datetime import date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

PEOPLE = 300
DAYS = 540
FIRST_NAMES = ("Anna", "Ben", "Clara", "David", "Emma", "Felix", "Greta", "Hannes", "Ida", "Jonas")
LAST_NAMES = ("Albers", "Brandt", "Conrad", "Dietz", "Ebert", "Frank", "Graf", "Hahn", "Iven")
UNREADABLE = "about 40"


def main() -> None:
    """Write the three files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    yesterday = datetime.now(ZoneInfo("Europe/Berlin")).date() - timedelta(days=1)
    rng = random.Random(7)  # noqa: S311 (an invented shop)
    customers, orders, newsletter = _shop(rng, yesterday)
    _write(folder / "customers.csv", ("Customer", "Mail", "First", "Last", "Since"), customers)
    _write(folder / "orders.csv", ("Order", "Customer", "Date", "State", "Total"), orders)
    _write(folder / "newsletter.csv", ("Mail", "State", "Date"), newsletter)


Rows = list[tuple[str, ...]]


def _shop(rng: random.Random, last: date) -> tuple[Rows, Rows, Rows]:
    """Customers, orders by day, and newsletter sign-ups."""
    customers: Rows = []
    newsletter: Rows = []
    placed: list[tuple[date, str]] = []
    for number in range(1, PEOPLE + 1):
        key = f"C{number:04d}"
        since = last - timedelta(days=rng.randrange(20, DAYS))
        mail = f"customer{number}@example.com"
        names = (rng.choice(FIRST_NAMES), rng.choice(LAST_NAMES))
        customers.append((key, mail, *names, since.isoformat()))
        if number % 5:
            newsletter.append((mail, "confirmed", since.isoformat()))
        day = since + timedelta(days=rng.randrange(20))
        while day <= last and rng.random() < 0.85:
            placed.append((day, key))
            day += timedelta(days=rng.randrange(10, 80))
    orders: Rows = []
    for number, (day, key) in enumerate(sorted(placed), start=1):
        state = "paid" if rng.random() < 0.95 else "cancelled"
        total = f"{rng.randrange(1500, 15000) / 100:.2f}"
        orders.append((f"A{number:05d}", key, day.isoformat(), state, total))
    orders[9] = (*orders[9][:4], UNREADABLE)
    return customers, orders, newsletter


def _write(file: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    with file.open("w", newline="", encoding="utf-8") as output:
        csv.writer(output, lineterminator="\n").writerows([header, *rows])


if __name__ == "__main__":
    main()
