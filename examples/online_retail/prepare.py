"""Turns UCI's `Online Retail.xlsx` into the gzip CSV that this example reads."""

from __future__ import annotations

import csv
import gzip
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from python_calamine import CalamineWorkbook

COLUMNS = (
    "InvoiceNo", "StockCode", "Description", "Quantity",
    "InvoiceDate", "UnitPrice", "CustomerID", "Country",
)  # fmt: skip


def prepare(workbook: Path, data: Path) -> Path:
    """Write ``online_retail/online_retail.csv.gz`` below the data folder and return its path."""
    target = data / "online_retail" / "online_retail.csv.gz"
    target.parent.mkdir(parents=True, exist_ok=True)
    rows = CalamineWorkbook.from_path(str(workbook)).get_sheet_by_index(0).iter_rows()
    if tuple(next(iter(rows))) != COLUMNS:
        sys.exit(f"{workbook}: the first row should be {', '.join(COLUMNS)}.")
    with gzip.open(target, "wt", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows([_cell(value) for value in row] for row in rows)
    return target


def _cell(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))  # a workbook has only one kind of number
    if isinstance(value, datetime):
        return value.isoformat(sep=" ")
    return str(value)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: prepare.py 'Online Retail.xlsx' DATA_FOLDER")
    sys.stdout.write(f"{prepare(Path(sys.argv[1]), Path(sys.argv[2]))}\n")
