"""Files: finding, reading, checking, casting, and choosing the file an order comes from."""

# ruff: noqa: DTZ001 (the times in files carry no zone; that is what is tested)
from __future__ import annotations

import gzip
import io
import zipfile
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from kundenkreis.errors import ConfigError, DataError
from kundenkreis.sources import files
from kundenkreis.sources.base import Run
from kundenkreis.sources.config import FileDataset
from kundenkreis.warehouse.releases import Quarantined

RUN = Run("files", "", "run", date(2026, 11, 22))
LINES = {
    "order_key": "order",
    "ordered_at": "at",
    "status": {"constant": "completed"},
    "currency": {"constant": "EUR"},
    "product_name": "product",
    "quantity": "quantity",
    "unit_price": "price",
}
HEADER = "order,at,product,quantity,price\n"


def dataset(**settings: Any) -> FileDataset:
    base = {"name": "shop", "entity": "order_lines", "path": "*.csv", "timezone": "UTC"}
    return FileDataset.model_validate({**base, "columns": LINES, **settings})


def read(folder: Path, what: FileDataset, content: bytes | str) -> tuple[list[dict[str, Any]], Any]:
    """Write one file, read it; returns its rows and its rejections."""
    data = content.encode() if isinstance(content, str) else content
    (folder / what.path[0].replace("*", "a")).write_bytes(data)
    (found,) = files.find_files(what, folder)
    table, _, rejections = files._read_file(what, found, RUN, folder, Quarantined())
    return pq.read_table(table).to_pylist(), rejections


def test_reads_lines_as_decimals_and_utc_times(tmp_path: Path) -> None:
    rows, rejections = read(
        tmp_path,
        dataset(timezone="Europe/Berlin"),
        HEADER + '1,2026-07-01 09:30:00,"Tea, green",3,0.1\n1,2026-07-01 09:30:00,Cup,1,2.505\n',
    )
    assert rejections == []
    assert [row["line_amount"] for row in rows] == [Decimal("0.3"), Decimal("2.505")]
    assert rows[0]["ordered_at"] == datetime(2026, 7, 1, 7, 30, tzinfo=UTC)
    assert rows[0]["product_name"] == "Tea, green"
    assert [row["row_number"] for row in rows] == [1, 2]
    assert rows[0]["customer_key"] is None


def test_equal_lines_are_all_kept(tmp_path: Path) -> None:
    rows, _ = read(tmp_path, dataset(), HEADER + "1,2026-01-01,Cup,1,2\n" * 3)
    assert len(rows) == 3


def test_rows_that_fail_are_rejected_with_field_and_rule_and_the_rest_stays(tmp_path: Path) -> None:
    rows, rejections = read(
        tmp_path,
        dataset(),
        HEADER
        + "1,2026-01-01,Cup,1,2\n"
        + "2,01.02.2026,Cup,1,2\n"
        + "3,2026-01-01,Cup,1,two\n"
        + ",2026-01-01,Cup,1,2\n"
        + "5,2026-01-01,Cup,,2\n"
        + "6,2026-01-01,Cup,1\n"
        + "7,2026-02-30,Cup,1,2\n"
        + "8,2026-01-01,Cup,1,2\n",
    )
    assert [row["order_key"] for row in rows] == ["1", "8"]
    assert [row["row_number"] for row in rows] == [1, 8]
    assert {r.record_key: r.reason_code for r in rejections} == {
        "a.csv:2": "invalid_ordered_at",
        "a.csv:3": "invalid_unit_price",
        "a.csv:4": "missing_order_key",
        "a.csv:5": "missing_line_amount",
        "a.csv:6": "ragged_row",
        "a.csv:7": "invalid_ordered_at",
    }
    price = next(r for r in rejections if r.reason_code == "invalid_unit_price")
    assert price.payload["cells"]["price"] == "two"
    assert "two" not in price.reason


def test_german_numbers_and_dates(tmp_path: Path) -> None:
    what = dataset(
        delimiter=";",
        decimal_separator=",",
        thousands_separator=".",
        date_formats=["%d.%m.%Y %H:%M", "%d.%m.%Y"],
        encoding="cp1252",
    )
    text = HEADER.replace(",", ";") + "1;1.2.2026 8:05;Gruen;2;1.234,50\n2;24.12.2026;Tüte;1;5\n"
    rows, rejections = read(tmp_path, what, text.encode("cp1252"))
    assert rejections == []
    assert rows[0]["line_amount"] == Decimal("2469")
    assert rows[0]["ordered_at"] == datetime(2026, 2, 1, 8, 5, tzinfo=UTC)
    assert rows[1]["product_name"] == "Tüte"


def test_a_point_is_no_decimal_point_where_the_comma_is(tmp_path: Path) -> None:
    what = dataset(delimiter=";", decimal_separator=",")
    header = HEADER.replace(",", ";")
    rows, rejections = read(
        tmp_path, what, header + "1;2026-01-01;x;1;1.25\n2;2026-01-01;x;1;1,25\n"
    )
    assert [row["order_key"] for row in rows] == ["2"]
    assert [r.reason_code for r in rejections] == ["invalid_unit_price"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "latin-1"])
def test_encodings(tmp_path: Path, encoding: str) -> None:
    content = (HEADER + "1,2026-01-01,Müsli,1,2\n").encode(encoding)
    rows, _ = read(tmp_path, dataset(encoding=encoding), content)
    assert rows[0]["product_name"] == "Müsli"


def test_a_cell_that_is_no_text_is_rejected_alone(tmp_path: Path) -> None:
    content = HEADER.encode() + b"1,2026-01-01,M\xfcsli,1,2\n2,2026-01-01,Cup,1,2\n"
    rows, rejections = read(tmp_path, dataset(), content)
    assert [row["order_key"] for row in rows] == ["2"]
    assert [(r.record_key, r.reason_code) for r in rejections] == [("a.csv:1", "invalid_encoding")]


def test_a_wrong_encoding_is_one_error(tmp_path: Path) -> None:
    content = HEADER.encode() + b"1,2026-01-01,M\xfcsli,1,2\n"
    with pytest.raises(DataError, match=r"a\.csv: its bytes are not ascii.*`encoding`"):
        read(tmp_path, dataset(encoding="ascii"), content)


def test_half_a_gzip_is_one_error(tmp_path: Path) -> None:
    lines = "".join(f"{i},2026-01-01,Cup{i},1,{i}.25\n" for i in range(20_000))
    packed = gzip.compress((HEADER + lines).encode())
    what = dataset(path="*.csv.gz")
    with pytest.raises(DataError, match=r"a\.csv\.gz: ends in the middle .* half a file"):
        read(tmp_path, what, packed[: len(packed) // 2])
    rows, _ = read(tmp_path, what, packed)
    assert len(rows) == 20_000


@pytest.mark.parametrize(
    "rest",
    [
        '2,2026-01-01,"Cup,1,2\n3,2026-01-01,Cup,1,2\n4,2026-01-01,Cup,1,2\n',
        '2,2026-01-01,Cup,1,"2\n3,2026-01-01,Cup,1,2\n',
    ],
)
def test_a_quote_that_is_never_closed_loads_nothing(tmp_path: Path, rest: str) -> None:
    with pytest.raises(DataError, match=r"a\.csv: the record in row 2 opens a quote"):
        read(tmp_path, dataset(), HEADER + "1,2026-01-01,Cup,1,2\n" + rest)


def test_line_breaks_inside_quotes_are_part_of_the_text(tmp_path: Path) -> None:
    content = HEADER + '1,2026-01-01,"Cup\nlarge",1,2\n'
    rows, rejections = read(tmp_path, dataset(), content)
    assert rows[0]["product_name"] == "Cup\nlarge"
    assert rejections == []


def test_half_a_csv_keeps_its_whole_rows(tmp_path: Path) -> None:
    rows, rejections = read(tmp_path, dataset(), HEADER + "1,2026-01-01,Cup,1,2\n2,2026-0")
    assert [row["order_key"] for row in rows] == ["1"]
    assert [r.reason_code for r in rejections] == ["ragged_row"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("order;at;product\n1;2;3\n", "has no column at, order, price, product, quantity"),
        (HEADER + "1,yesterday,Cup,1,2\n", r"none of its 1 rows can be used.*row 1.*ordered_at"),
        ("at,order,at,product,quantity,price\n2,1,2,3,4,5\n", "has the column at twice"),
    ],
)
def test_a_file_that_cannot_be_used_at_all(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(tmp_path, dataset(), content)


def test_a_header_alone_is_an_empty_file(tmp_path: Path) -> None:
    assert read(tmp_path, dataset(), HEADER) == ([], [])


def test_times_without_a_zone_need_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="dataset shop: its times carry no zone"):
        read(tmp_path, dataset(timezone=None), HEADER + "1,2026-01-01,Cup,1,2\n")
    rows, _ = read(tmp_path, dataset(timezone=None), HEADER + "1,2026-01-01T10:00:00+02:00,x,1,2\n")
    assert rows[0]["ordered_at"] == datetime(2026, 1, 1, 8, tzinfo=UTC)


def test_rows_without_order_keys_are_orders_of_their_own(tmp_path: Path) -> None:
    columns = {key: value for key, value in LINES.items() if key != "order_key"}
    rows, _ = read(tmp_path, dataset(columns=columns), HEADER + "1,2026-01-01,Cup,1,2\n" * 2)
    assert [row["order_key"] for row in rows] == [f"{rows[0]['content_hash']}-{i}" for i in (1, 2)]


def test_conditional_constant_joined_and_stripped_values(tmp_path: Path) -> None:
    columns = {
        **LINES,
        "order_key": {"concat": ["order", "product"], "separator": "/"},
        "customer_key": {"column": "quantity", "strip_suffix": ".0", "add_prefix": "c"},
        "product_key": {"column": "product", "values": {"Cup": "C1"}},
        "status": {
            "cases": [
                {"column": "order", "starts_with": "C", "value": "cancelled"},
                {"column": "product", "equals": "Test", "value": "test"},
            ],
            "otherwise": "completed",
        },
    }
    rows, _ = read(
        tmp_path,
        dataset(columns=columns),
        HEADER + "C1,2026-01-01,Cup,1.0,2\n2,2026-01-01,Test,10,2\n3,2026-01-01,Tea,2,2\n",
    )
    assert [row["status"] for row in rows] == ["cancelled", "test", "completed"]
    assert [row["customer_key"] for row in rows] == ["c1", "c10", "c2"]
    assert [row["product_key"] for row in rows] == ["C1", "Test", "Tea"]
    assert rows[0]["order_key"] == "C1/Cup"


def test_days_are_days_as_written_and_need_no_zone(tmp_path: Path) -> None:
    spend = dataset(
        entity="spend",
        timezone=None,
        date_formats=["%d.%m.%Y", "iso"],
        columns={
            "acquisition_source": "source",
            "spent_on": "day",
            "amount": "cost",
            "currency": {"constant": "EUR"},
        },
    )
    rows, rejections = read(
        tmp_path,
        spend,
        "source,day,cost\n"
        "Meta,2026-03-01,1.25\n"
        "Meta,02.03.2026,-1\n"
        # The account's own day, which ends later in Los Angeles.
        "Meta,2026-03-03T23:30:00-08:00,1\n"
        "Meta,2026-02-30,1\n"
        ",2026-03-04,1\n"
        "Meta,,1\n",
    )
    assert [(row["spent_on"], row["amount"], row["spend_key"]) for row in rows] == [
        (date(2026, 3, 1), Decimal("1.25"), "2026-03-01 meta"),
        (date(2026, 3, 2), Decimal(-1), "2026-03-02 meta"),
        (date(2026, 3, 3), Decimal(1), "2026-03-03 meta"),
    ]
    assert {rejection.record_key: rejection.reason_code for rejection in rejections} == {
        "a.csv:4": "invalid_spent_on",
        "a.csv:5": "missing_acquisition_source",
        "a.csv:6": "missing_spent_on",
    }


def test_parquet_with_typed_columns(tmp_path: Path) -> None:
    what = dataset(path="*.parquet", timezone="Europe/Berlin")
    table = pa.table(
        {
            "order": pa.array([1, 2]),
            "at": pa.array([datetime(2026, 1, 1, 12, 0, 0, 5)] * 2, pa.timestamp("ns")),
            "product": pa.array(["Cup", "Tea"]).dictionary_encode(),
            "quantity": pa.array([Decimal("1.5000000"), Decimal("0.0000002")]),
            "price": pa.array([0.1 + 0.2, 1e-7]),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    rows, rejections = read(tmp_path, what, (tmp_path / "a.parquet").read_bytes())
    assert rejections == []
    assert rows[0]["unit_price"] == Decimal("0.3")
    assert rows[1]["unit_price"] == Decimal("1E-7")
    assert rows[0]["ordered_at"] == datetime(2026, 1, 1, 11, 0, 0, 5, tzinfo=UTC)
    assert rows[1]["quantity"] == Decimal("2E-7")


def test_a_broken_parquet_file_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.parquet: cannot be read"):
        read(tmp_path, dataset(path="*.parquet"), b"PAR1 no")


def workbook(rows: list[list[Any]]) -> bytes:
    """The smallest XLSX that holds these cells; dates as serial numbers in a date style."""
    sheet = ""
    for row in rows:
        sheet += "<row>"
        for cell in row:
            if isinstance(cell, datetime):
                serial = (cell - datetime(1899, 12, 30)) / timedelta(days=1)
                sheet += f'<c s="1"><v>{serial!r}</v></c>'
            elif isinstance(cell, str):
                sheet += f'<c t="inlineStr"><is><t>{cell}</t></is></c>'
            else:
                sheet += f"<c><v>{cell!r}</v></c>"
        sheet += "</row>"
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    package = "http://schemas.openxmlformats.org/package/2006/relationships"
    parts = {
        "_rels/.rels": f'<Relationships xmlns="{package}"><Relationship Id="rId1"'
        f' Type="{office}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
        "xl/workbook.xml": f'<workbook xmlns="{main}" xmlns:r="{office}"><sheets>'
        '<sheet name="Orders" sheetId="1" r:id="rId1"/></sheets></workbook>',
        "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{package}"><Relationship Id="rId1"'
        f' Type="{office}/worksheet" Target="worksheets/sheet1.xml"/><Relationship Id="rId2"'
        f' Type="{office}/styles" Target="styles.xml"/></Relationships>',
        "xl/styles.xml": f'<styleSheet xmlns="{main}"><cellXfs><xf numFmtId="0"/>'
        '<xf numFmtId="22"/></cellXfs></styleSheet>',
        "xl/worksheets/sheet1.xml": f'<worksheet xmlns="{main}"><sheetData>{sheet}</sheetData>'
        "</worksheet>",
    }
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, text in parts.items():
            archive.writestr(name, text)
    return packed.getvalue()


def test_workbook(tmp_path: Path) -> None:
    content = workbook(
        [
            ["order", "at", "product", "quantity", "price"],
            [536365, datetime(2026, 1, 1, 12, 30), "Cup", 2, 0.1 + 0.2],
            [536366, "2026-01-02", "Tea", 1, "no"],
        ]
    )
    rows, rejections = read(tmp_path, dataset(path="*.xlsx", sheet="Orders"), content)
    assert [row["order_key"] for row in rows] == ["536365"]
    assert rows[0]["ordered_at"] == datetime(2026, 1, 1, 12, 30, tzinfo=UTC)
    assert rows[0]["line_amount"] == Decimal("0.6")
    assert [(r.record_key, r.reason_code) for r in rejections] == [
        ("a.xlsx:2", "invalid_unit_price")
    ]
    with pytest.raises(DataError, match=r"has no sheet 'Sales'\. It has: Orders"):
        read(tmp_path, dataset(path="*.xlsx", sheet="Sales"), content)


def test_a_broken_workbook_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.xlsx: is no readable workbook"):
        read(tmp_path, dataset(path="*.xlsx"), b"PK no")


# --------------------------------------------------------------------------- cells


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", "1"),
        ("-2.50", "-2.5"),
        ("+3", "3"),
        (".5", "0.5"),
        ("5.", "5"),
        ("007.1", "7.1"),
        ("0.1234567895", "0.12345679"),
        ("9999999999", "9999999999"),
        ("1.500000000000000000000000", "1.5"),
        ("99999999999", None),
        ("1e5", None),
        ("1,5", None),
        ("", None),
        (".", None),
        ("-", None),
        ("NaN", None),
        ("Infinity", None),
        ("0x1A", None),
        ("\u0661", None),
        ("1 000", None),
    ],
)
def test_decimals(text: str, value: str | None) -> None:
    values, bad = files.parse_decimals(pa.array([text]), pa.decimal128(19, 9), ".", "")
    assert values.to_pylist() == [None if value is None else Decimal(value)]
    assert bad.to_pylist() == [value is None]


@given(
    st.lists(
        st.decimals(
            min_value=Decimal(-(10**9)), max_value=Decimal(10**9), places=9, allow_nan=False
        )
    )
)
def test_decimals_are_exact(numbers: list[Decimal]) -> None:
    text = pa.array([f"{number:f}" for number in numbers], pa.string())
    values, bad = files.parse_decimals(text, pa.decimal128(19, 9), ".", "")
    assert values.to_pylist() == numbers
    assert not any(bad.to_pylist())


def test_the_repeated_hour_is_the_first_and_the_missing_hour_moves_forward() -> None:
    text = pa.array(["2026-10-25 02:30:00", "2026-03-29 02:30:00", None])
    values, bad = files.parse_times(text, ("iso",), ZoneInfo("Europe/Berlin"), "d")
    assert values.to_pylist() == [
        datetime(2026, 10, 25, 0, 30, tzinfo=UTC),
        datetime(2026, 3, 29, 1, 30, tzinfo=UTC),
        None,
    ]
    assert bad.to_pylist() == [False, False, False]


@given(st.lists(st.datetimes(datetime(1950, 1, 1), datetime(2100, 1, 1))))
def test_times_agree_with_python(moments: list[datetime]) -> None:
    zone = ZoneInfo("America/St_Johns")
    # Which of two hours is meant, or of a missing one, no text says: the first, and forward.
    whole = [moment.replace(microsecond=0, fold=0) for moment in moments]
    text = pa.array([moment.isoformat() for moment in whole], pa.string())
    values, _ = files.parse_times(text, ("iso",), zone, "d")
    assert values.to_pylist() == [m.replace(tzinfo=zone).astimezone(UTC) for m in whole]


# --------------------------------------------------------------------------- which file


@given(st.lists(st.sets(st.sampled_from("abcdef")), max_size=6))
def test_every_order_comes_from_exactly_the_latest_file_that_has_it(orders: list[set[str]]) -> None:
    lost = files.superseded([pa.array(sorted(keys), pa.string()) for keys in orders])
    kept = [keys - set(own.to_pylist()) for keys, own in zip(orders, lost, strict=True)]
    for key in set().union(*orders):
        holders = [index for index, keys in enumerate(orders) if key in keys]
        assert [index for index, keys in enumerate(kept) if key in keys] == holders[-1:]


def test_files_count_in_declared_order(tmp_path: Path) -> None:
    for name in ("b.csv", "a.csv", "late/0.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    what = dataset(path=["late/*.csv", "*.csv"])
    assert [file.name for file in files.find_files(what, tmp_path)] == ["0.csv", "a.csv", "b.csv"]
    what = dataset(path=["*.csv"], file_order="name_descending")
    assert [file.name for file in files.find_files(what, tmp_path)] == ["b.csv", "a.csv"]


def test_equal_content_counts_once(tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("same")
    found = files.find_files(dataset(), tmp_path)
    assert [file.name for file in files.distinct(found)] == ["b.csv"]


def test_paths_take_environment_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.csv").write_text("x")
    what = dataset(path="${SHOP_DATA}/a.csv")
    monkeypatch.delenv("SHOP_DATA", raising=False)
    with pytest.raises(ConfigError, match="the environment variable SHOP_DATA"):
        files.find_files(what, Path("/nowhere"))
    monkeypatch.setenv("SHOP_DATA", str(tmp_path))
    assert [file.name for file in files.find_files(what, Path("/nowhere"))] == ["a.csv"]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"dataset shop: path: there is no file none\.csv"):
        files.find_files(dataset(path="none.csv"), tmp_path)


# --------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"columns": {**LINES, "orderkey": "x"}}, "orderkey unknown"),
        ({"columns": {"order_key": "x"}}, "ordered_at, status, currency must be mapped"),
        ({"columns": {k: v for k, v in LINES.items() if k != "unit_price"}}, "map line_amount"),
        ({"encoding": "klingon"}, "is not an encoding"),
        ({"timezone": "Berlin"}, "is not a time zone"),
        ({"decimal_separator": ",", "thousands_separator": ","}, "must differ"),
        ({"columns": {**LINES, "currency": {"constant": "x", "column": "y"}}}, "exactly one of"),
        ({"columns": {**LINES, "currency": {"cases": [{"column": "a", "value": "b"}]}}}, "exactly"),
        ({"sheets": {}}, "Extra inputs"),
        (
            {
                "entity": "customers",
                "columns": {"customer_key": "id", "linked_source": {"constant": "web"}},
            },
            "map both linked_source and linked_customer_key, or neither",
        ),
    ],
)
def test_settings_say_what_is_wrong(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        dataset(**change)
