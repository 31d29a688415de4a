from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stocktrace.errors import StoreError
from stocktrace.query import export
from stocktrace.query.export import RowBatches
from stocktrace.query.trades import read_trades, scan
from stocktrace.store import conversion
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId
from stocktrace.trade import COLUMNS, Trade
from tests.conftest import SESSION
from tests.store.conftest import PART, T

LATER = WindowId(SESSION, "20261123T144000Z_00002")


@pytest.fixture
def trades(layout: Layout, seal: Callable[..., list[Path]]) -> Callable[[], RowBatches]:
    """Two windows of two tickers, to be read as often as is asked."""
    for part, price in ((PART, 1.5), (LATER, 2.5)):
        some = [Trade("AAPL", price, T, 100.0, ("1", "12")), Trade("7203", price + 1, T, 0.25)]
        seal(some, part)
        conversion.convert_window(layout, part)
    return lambda: export.rows_of_trades(scan(["AAPL", "7203"], data_dir=layout.root))


def text(write: Callable[[RowBatches, Callable[[str], object]], None], rows: RowBatches) -> str:
    out = io.StringIO()
    write(rows, out.write)
    return out.getvalue()


def test_csv_has_what_reading_returns(layout: Layout, trades: Callable[[], RowBatches]) -> None:
    found = list(csv.DictReader(io.StringIO(text(export.write_csv, trades()))))
    assert [(row["symbol"], float(row["price"]), row["conditions"]) for row in found] == [
        ("7203", 2.5, ""),
        ("AAPL", 1.5, "1 12"),
        ("7203", 3.5, ""),
        ("AAPL", 2.5, "1 12"),
    ]
    assert {row["ts_event"] for row in found} == {"2026-11-23 14:30:00.000Z"}
    assert {row["ts_recv"] for row in found} == {"2026-11-23 14:30:00.000000Z"}
    assert list(found[0]) == list(COLUMNS)


def test_json_is_an_object_a_line(trades: Callable[[], RowBatches]) -> None:
    lines = text(export.write_json_lines, trades()).splitlines()
    assert [json.loads(line)["price"] for line in lines] == [2.5, 1.5, 3.5, 2.5]
    assert json.loads(lines[1]) == {
        "symbol": "AAPL",
        "ts_event": "2026-11-23T14:30:00.000000Z",
        "ts_recv": "2026-11-23T14:30:00.000000Z",
        "price": 1.5,
        "volume": 100.0,
        "conditions": "1 12",
    }


def test_json_has_all_digits_of_a_number_and_null_for_none() -> None:
    numbers = [0.1 + 0.2, 0.000012345678901234, 1e15 / 3, float("nan"), None]
    rows = pa.table({"price": pa.array(numbers, pa.float64())}).to_reader()
    found = [json.loads(line)["price"] for line in text(export.write_json_lines, rows).splitlines()]
    assert found == [*numbers[:3], None, None]


def test_parquet_equals_what_reading_returns(
    layout: Layout, trades: Callable[[], RowBatches], tmp_path: Path
) -> None:
    file = tmp_path / "out.parquet"
    file.write_text("of an earlier time")
    export.write_parquet(trades(), file)
    asked = read_trades(["7203", "AAPL"], backend="pyarrow", data_dir=layout.root)
    assert pq.read_table(file).sort_by("symbol").equals(asked)


def test_a_parquet_file_that_cannot_be_finished_does_not_appear(
    layout: Layout, trades: Callable[[], RowBatches], tmp_path: Path
) -> None:
    file = tmp_path / "out" / "out.parquet"
    file.parent.mkdir()
    file.write_text("of an earlier time")
    broken = layout.window_file(LATER)
    broken.write_bytes(broken.read_bytes()[:-9])
    with pytest.raises(StoreError, match=r"A file is damaged: .*Run `stocktrace verify`"):
        export.write_parquet(trades(), file)
    assert [path.name for path in file.parent.iterdir()] == ["out.parquet"]
    assert file.read_text() == "of an earlier time"


def test_a_day_that_is_compacted_while_it_is_read_is_an_error(
    layout: Layout, trades: Callable[[], RowBatches]
) -> None:
    del trades
    dataset = scan("AAPL", data_dir=layout.root)
    layout.window_file(PART).unlink()
    with pytest.raises(StoreError, match=r"A day was compacted while it was read\. Run"):
        text(export.write_csv, export.rows_of_trades(dataset))


@pytest.mark.parametrize(
    ("count", "prices"),
    [(0, [2.5, 1.5, 3.5, 2.5]), (1, [2.5]), (3, [1.5, 3.5, 2.5]), (9, [2.5, 1.5, 3.5, 2.5])],
)
def test_the_last_rows_are_the_last(
    trades: Callable[[], RowBatches], count: int, prices: list[float]
) -> None:
    assert export.to_frame(export.last_rows(trades(), count))["price"].tolist() == prices


def test_no_rows_are_a_header_in_csv_and_no_line_of_json(layout: Layout, tmp_path: Path) -> None:
    def nothing() -> RowBatches:
        return export.rows_of_trades(scan("MSFT", data_dir=layout.root))

    assert text(export.write_csv, nothing()) == ",".join(COLUMNS) + "\n"
    assert text(export.write_json_lines, nothing()) == ""
    export.write_parquet(nothing(), tmp_path / "none.parquet")
    assert pq.read_table(tmp_path / "none.parquet").num_rows == 0


def test_batches_are_written_one_after_another_and_never_all_held() -> None:
    """The writer has asked for no more than one batch beyond what it has written."""
    batches = [pa.record_batch({"n": pa.array([n] * 1000)}) for n in range(50)]
    asked, written = 0, 0

    def source() -> Iterator[pa.RecordBatch]:
        nonlocal asked
        for batch in batches:
            asked += 1
            assert asked - written <= 1
            yield batch

    def write(lines: str) -> None:
        nonlocal written
        written += lines[0] != "n"  # the header of CSV

    for form in (export.write_csv, export.write_json_lines):
        asked = written = 0
        form(pa.RecordBatchReader.from_batches(batches[0].schema, source()), write)
        assert written == len(batches)


def test_what_a_spreadsheet_takes_for_a_formula_is_left_as_it_is() -> None:
    rows = pa.table({"reason": ['=HYPERLINK("x")', "-1, +1"]}).to_reader()
    assert text(export.write_csv, rows) == 'reason\n"=HYPERLINK(""x"")"\n"-1, +1"\n'
