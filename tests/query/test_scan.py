from __future__ import annotations

import datetime as dt
import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pytest

import stocktrace
from stocktrace import cli
from stocktrace.errors import UsageError
from stocktrace.query.criteria import TradeQuery
from stocktrace.query.trades import read_last_trades, read_query
from stocktrace.store import compaction, conversion, parquet, remote, source
from stocktrace.store.dataset import files_in_order
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId
from stocktrace.store.source import open_source
from stocktrace.store.trade_file import FileFormat
from stocktrace.trade import COLUMNS as COLUMNS_OF_TRADES
from stocktrace.trade import Trade
from tests.conftest import NOON, SESSION
from tests.store.conftest import T
from tests.tables import COLUMNS, put

HOUR_MS = 3_600_000
MIDNIGHT = T - 14 * HOUR_MS - HOUR_MS // 2
TICKERS = ["A", "B", "C", "D"]
ROWS = 4_000
ALL = 24 * ROWS
DATE = "2026-11-23"
#: pyarrow reads that much of the end at once.
FOOTER = 1 << 16


def an_hour(hour: int, rows: int = ROWS) -> pa.Table:
    """Trades that came in an hour, in the order of arrival, each a little after it happened."""
    dice = np.random.default_rng(hour)
    arrived = MIDNIGHT * 1000 + hour * HOUR_MS * 1000 + np.sort(dice.integers(0, 36 * 10**8, rows))
    happened = arrived // 1000 - dice.integers(0, 900, rows)
    numbers = [happened, arrived, dice.random(rows) + 100, dice.integers(1, 900, rows) / 1.0]
    return pa.table([*numbers, ["1 12"] * rows], COLUMNS.names).cast(COLUMNS)


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """A day of four tickers, compacted."""
    layout = Layout(tmp_path_factory.mktemp("day"))
    for hour in range(24):
        window = WindowId(SESSION, f"20261123T{hour:02}0000Z_{hour + 1:05}")
        for ticker in TICKERS:
            put(layout, ticker, window, an_hour(hour))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compaction, "DATE_FORMAT", FileFormat(1, ROWS))
        compaction.compact_date(layout, DATE)
    return layout


def day_file(day: Layout) -> Path:
    (path,) = day.date_folder(DATE).iterdir()
    return path


class Counting(pafs.FileSystemHandler):  # type: ignore[misc]
    """The local file system; counts what is read, by file."""

    def __init__(self) -> None:
        self.read: dict[str, int] = {}

    def get_type_name(self) -> str:
        return "counting"

    def open_input_file(self, path: str) -> pa.PythonFile:
        self.read.setdefault(path, 0)
        read = self.read

        class File(io.BytesIO):
            def read(self, size: int | None = -1, /) -> bytes:
                data = super().read(size)
                read[path] += len(data)
                return data

        return pa.PythonFile(File(Path(path).read_bytes()), mode="r")

    def get_file_info(self, paths: list[str]) -> list[pafs.FileInfo]:
        return list(pafs.LocalFileSystem().get_file_info(paths))

    def normalize_path(self, path: str) -> str:
        return path

    def _no(self, *_: object) -> Any:
        raise NotImplementedError

    get_file_info_selector = create_dir = delete_dir = delete_dir_contents = _no
    delete_root_dir_contents = delete_file = move = copy_file = open_input_stream = _no
    open_output_stream = open_append_stream = _no


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> Counting:
    counting = Counting()
    monkeypatch.setattr(remote, "_HOLE_BYTES", 0)
    monkeypatch.setattr(parquet, "_SMALL_BYTES", 0)
    monkeypatch.setattr(source.FolderSource, "files", pafs.PyFileSystem(counting))
    return counting


@pytest.fixture
def cost(counting: Counting, day: Layout) -> Callable[..., int]:
    """The bytes that a question costs."""

    def cost(*tickers: str, **question: Any) -> int:
        counting.read.clear()
        stocktrace.read_trades(tickers, data_dir=day.root, backend="pyarrow", **question)
        return sum(counting.read.values())

    return cost


# --- what is read ----------------------------------------------------------------------------


def test_one_ticker_costs_the_footer_and_its_row_groups(
    day: Layout, cost: Callable[..., int], counting: Counting
) -> None:
    everything = cost(*TICKERS, date=DATE)
    one = cost("B", date=DATE)
    assert list(counting.read) == [str(day_file(day))]
    assert 0.2 < one / everything < 0.3


def test_one_hour_costs_the_footer_and_the_row_groups_of_that_hour(
    day: Layout, cost: Callable[..., int]
) -> None:
    everything = cost(*TICKERS, date=DATE)
    size = day_file(day).stat().st_size
    hour = {"start": f"{DATE}T14:00Z", "end": f"{DATE}T15:00Z"}
    assert cost("B", **hour) < FOOTER + 2.5 * size / len(TICKERS) / 24
    assert cost("B", **hour, by="ts_recv") < FOOTER + 1.5 * size / len(TICKERS) / 24
    assert cost("B", **hour) / everything < 0.1


def test_late_trades_are_looked_for_in_the_footers_of_the_dates_beside(
    cost: Callable[..., int],
) -> None:
    assert cost("B", start="2026-11-24T06:00Z") <= FOOTER
    assert cost("B", end="2026-11-22T18:00Z") <= FOOTER


def test_one_column_costs_less_than_all(cost: Callable[..., int]) -> None:
    assert cost("B", columns=["ts_event"]) < cost("B") / 2


def test_a_query_over_a_scan_reads_no_more(day: Layout, counting: Counting) -> None:
    trades = stocktrace.scan(TICKERS, data_dir=day.root)
    start = dt.datetime(2026, 11, 23, 14, tzinfo=dt.UTC)
    within = (pc.field("symbol") == "B") & (pc.field("ts_event") >= start)
    table = trades.to_table(["price"], within & (pc.field("ts_event") < start.replace(hour=15)))
    assert 0.9 * ROWS < len(table) < 1.1 * ROWS
    size = day_file(day).stat().st_size
    assert sum(counting.read.values()) < FOOTER + 2.5 * size / len(TICKERS) / 24


def test_the_last_trades_cost_the_footer_and_the_last_row_group(
    day: Layout, counting: Counting
) -> None:
    size = day_file(day).stat().st_size
    for words in (["B"], ["B", "--tail", "300"], ["B", "--date", DATE], ["C", "--tail", "5"]):
        counting.read.clear()
        assert cli.run(["trades", *words, "--data-dir", str(day.root)]) == 0
        assert sum(counting.read.values()) < FOOTER + 1.5 * size / len(TICKERS) / 24


# --- what comes of it ------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["ts_event", "ts_recv"])
def test_skipping_row_groups_leaves_out_no_trade(day: Layout, by: Any) -> None:
    whole = stocktrace.read_trades("C", data_dir=day.root)
    assert len(whole) == ALL
    for start, end in (("13:59:59.950", "14:00:00.050"), ("02:00", "02:00:07"), ("00:00", "23:59")):
        first, last = f"{DATE}T{start}Z", f"{DATE}T{end}Z"
        found = stocktrace.read_trades("C", first, last, by=by, data_dir=day.root)
        wanted = whole[(whole[by] >= first) & (whole[by] < last)]
        assert found.equals(wanted.reset_index(drop=True))


@pytest.mark.parametrize("count", [1, 20, ROWS, ROWS + 1, 3 * ROWS + 7, 2 * ALL])
@pytest.mark.parametrize("bounds", [{}, {"end": f"{DATE}T14:00Z"}, {"start": f"{DATE}T23:59Z"}])
def test_the_last_trades_are_the_last_of_all(
    day: Layout, count: int, bounds: dict[str, Any]
) -> None:
    put(day, "C", WindowId(SESSION, "20261125T000000Z_00030"), an_hour(48, 30))
    query, source = TradeQuery.of(["A", "C"], **bounds), open_source(day.root)
    whole = read_query(source, query, COLUMNS_OF_TRADES)
    assert read_last_trades(source, query, count).equals(whole.slice(max(0, len(whole) - count)))
    shutil.rmtree(day.date_folder("2026-11-25"))


def test_duckdb_and_polars_query_a_scan(day: Layout) -> None:
    import duckdb
    import polars as pl

    trades = stocktrace.scan(["A", "C"], f"{DATE}T14:00Z", f"{DATE}T15:00Z", data_dir=day.root)
    wanted = trades.count_rows()
    found = duckdb.sql("SELECT symbol, date, count(*) FROM trades GROUP BY ALL ORDER BY 1")
    assert found is not None
    rows = found.fetchall()
    assert [row[:2] for row in rows] == [("A", DATE), ("C", DATE)]
    assert sum(row[2] for row in rows) == wanted
    lazy = pl.scan_pyarrow_dataset(trades).filter(pl.col("price") > 100.5).select(pl.len())
    assert lazy.collect().item() == trades.count_rows(filter=pc.field("price") > 100.5)


def test_a_scan_has_the_columns_of_a_trade_and_the_date_of_its_receipt(day: Layout) -> None:
    for ticker in ("A", "MISSING"):
        schema = stocktrace.scan(ticker, data_dir=day.root).schema
        assert schema.names == [
            "symbol", "ts_event", "ts_recv", "price", "volume", "conditions", "session",
            "window_number", "date",
        ]  # fmt: skip
    assert stocktrace.scan("MISSING", data_dir=day.root).count_rows() == 0


def test_wrong_arguments_are_refused(day: Layout) -> None:
    with pytest.raises(UsageError, match="by must be 'ts_event' or 'ts_recv'"):
        stocktrace.scan("A", by="ts_sent", data_dir=day.root)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="Set date, or start and end, not both"):
        stocktrace.scan("A", end="2026-11-23", date="2026-11-23", data_dir=day.root)


def test_a_trade_ahead_of_our_clock_is_found_on_the_day_it_says(
    layout: Layout, seal: Callable[..., list[Path]]
) -> None:
    """Our clock is some ms late at midnight: received on the 23rd, happened on the 24th."""
    before_midnight = NOON + int(9.5 * 3600) * 10**9 - 10**6
    part = WindowId(SESSION, "20261123T235900Z_00001")
    seal([Trade("A", 1.0, before_midnight // 10**6 + 3, 1.0)], part, before_midnight)
    conversion.convert_window(layout, part)
    read = stocktrace.read_trades
    assert len(read("A", "2026-11-24T00:00Z", "2026-11-24T00:01Z", data_dir=layout.root)) == 1
    assert len(read("A", "2026-11-24T00:00Z", by="ts_recv", data_dir=layout.root)) == 0
    assert len(read("A", date="2026-11-23", data_dir=layout.root)) == 1


def test_a_time_of_receipt_opens_no_file_of_another_date(
    layout: Layout, counting: Counting
) -> None:
    for date in ("20261122", "20261123", "20261124"):
        put(layout, "A", WindowId(SESSION, f"{date}T120000Z_00001"), an_hour(0, 10))
    stocktrace.read_trades("A", f"{DATE}T10:00Z", f"{DATE}T11:00Z", by="ts_recv",
                           data_dir=layout.root)  # fmt: skip
    assert [Path(path).parent.name for path in counting.read] == [f"date={DATE}"]


def test_a_file_deleted_between_listing_and_reading_is_looked_for_again(
    day: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def stale(folder: Path) -> list[Path]:
        nonlocal calls
        calls += 1
        return [folder / "gone.parquet"] if calls in (1, 2) else files_in_order(folder)

    monkeypatch.setattr(source, "files_in_order", stale)
    assert len(stocktrace.read_trades(["A", "B"], data_dir=day.root)) == 2 * ALL
