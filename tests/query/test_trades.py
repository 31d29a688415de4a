from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pytest

import stocktrace
from stocktrace.errors import StoreError, TickerError, UsageError
from stocktrace.store import conversion
from stocktrace.store.arrow_schema import FILE_SCHEMA
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId
from stocktrace.trade import Trade
from tests.conftest import NOON, SESSION
from tests.store.conftest import PART, T

Seal = Callable[..., list[Path]]
#: Tickers that a reader which guesses takes for something else: numbers, times, nothing.
STRANGE = [
    "AAPL", "BINANCE:BTCUSDT", "IC MARKETS:1", "FXCM:EUR/USD", "EUR/USD", "BRK.B", "7203", "005930",
    "007", "0", "00", "NULL", "NA", "nan", "NaN", "CON", "a..b", "..", ".", "^GSPC", "1e5", "-5",
    "inf", "TRUE", "true", "None", "2026-11-23", "2026/11/23", "2026-11-23T12:00", "12:30", "0x10",
    "0b11", "1_000", "-", "A" * 200,
]  # fmt: skip
NUMERIC = ["7203", "007", "0", "00", "005930"]
COLUMNS = ["symbol", "ts_event", "ts_recv", "price", "volume", "conditions"]


@pytest.fixture
def publish(layout: Layout, seal: Seal) -> Callable[..., None]:
    """Publishes a window of trades."""

    def publish(trades: list[Trade], part: WindowId = PART, stamp: int = NOON) -> None:
        seal(trades, part, stamp)
        conversion.convert_window(layout, part)

    return publish


# --- readers that know nothing of us ---------------------------------------------------------


def by_pyarrow(folder: Path) -> pa.Table:
    return ds.dataset(folder, partitioning="hive").to_table()


def by_pandas(folder: Path) -> pa.Table:
    return pa.Table.from_pandas(pd.read_parquet(folder), preserve_index=False)


def by_polars(folder: Path) -> pa.Table:
    import polars as pl

    return pl.scan_parquet(folder, hive_partitioning=True).collect().to_arrow()


def by_duckdb(folder: Path, pattern: str = "**/*.parquet") -> pa.Table:
    import duckdb

    relation = duckdb.sql(
        f"SELECT * FROM read_parquet('{folder}/{pattern}', hive_partitioning=true)"
    )
    assert relation is not None
    return relation.to_arrow_table()


def by_duckdb_and_a_narrow_pattern(folder: Path) -> pa.Table:
    return by_duckdb(folder, "date=2026-11-23/*.parquet")


READERS = [by_pyarrow, by_pandas, by_polars, by_duckdb, by_duckdb_and_a_narrow_pattern]
Read = Callable[[Path], pa.Table]


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("tickers", [STRANGE, NUMERIC, ["NaN"]], ids=["all", "numeric", "NaN"])
def test_other_readers_get_every_ticker_as_text(
    layout: Layout, publish: Callable[..., None], read: Read, tickers: list[str]
) -> None:
    trades = [Trade(ticker, 1.5, T + 7, 0.25, ("1", "12")) for ticker in tickers]
    publish(trades, stamp=NOON + 123_456_000)
    # A conversion or a compaction that runs does not disturb them.
    for name in ("converting/.one.parquet.tmp", "compacting/date=2026-11-23/day-00001.parquet"):
        path = layout.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"PAR1")
    table = read(layout.dataset)
    assert table.column_names == [*FILE_SCHEMA.names, "date"]
    assert {str(day) for day in table["date"].to_pylist()} == {"2026-11-23"}
    moment = dt.datetime(2026, 11, 23, 14, 30, tzinfo=dt.UTC)
    assert table.select(FILE_SCHEMA.names).cast(FILE_SCHEMA).to_pylist() == [
        {
            "symbol": ticker,
            "ts_event": moment.replace(microsecond=7000),
            "ts_recv": moment.replace(microsecond=123_456),
            "price": 1.5,
            "volume": 0.25,
            "conditions": "1 12",
            "session": SESSION,
            "window_number": 1,
        }
        for ticker in sorted(tickers)
    ]


@pytest.mark.parametrize("read", READERS)
def test_other_readers_get_documented_types(
    layout: Layout, publish: Callable[..., None], read: Read
) -> None:
    publish([Trade("7203", 1.5, T, 2.0)])
    schema = read(layout.dataset).schema
    texts = {schema.field(name).type for name in ("symbol", "conditions", "session")}
    assert texts in ({pa.string()}, {pa.large_string()})
    assert all(pa.types.is_timestamp(schema.field(name).type) for name in ("ts_event", "ts_recv"))
    assert all(schema.field(name).type == pa.float64() for name in ("price", "volume"))
    assert schema.field("window_number").type == pa.int32()


# --- our own ---------------------------------------------------------------------------------


def test_pandas_gets_columns_of_the_documented_types(
    layout: Layout, publish: Callable[..., None]
) -> None:
    publish([Trade("AAPL", 1.5, T, 2.0, ("1", "12")), Trade("AAPL", 1.25, T - 1, 2.0)])
    frame = stocktrace.read_trades("AAPL", data_dir=layout.root)
    assert {name: str(dtype) for name, dtype in frame.dtypes.items()} == {
        "symbol": "str",
        "ts_event": "datetime64[ms, UTC]",
        "ts_recv": "datetime64[us, UTC]",
        "price": "float64",
        "volume": "float64",
        "conditions": "str",
    }
    assert frame["price"].tolist() == [1.5, 1.25]
    assert frame["conditions"].tolist() == ["1 12", ""]


def test_each_backend_returns_the_same(layout: Layout, publish: Callable[..., None]) -> None:
    import polars as pl

    publish([Trade("AAPL", float(n), T + n, 1.0) for n in range(1, 4)])
    table = stocktrace.read_trades("AAPL", data_dir=layout.root, backend="pyarrow")
    assert isinstance(table, pa.Table)
    frame = stocktrace.read_trades("AAPL", data_dir=layout.root, backend="polars")
    assert isinstance(frame, pl.DataFrame)
    assert frame.to_dicts() == table.to_pylist()
    pandas = stocktrace.read_trades("AAPL", data_dir=layout.root)
    assert isinstance(pandas, pd.DataFrame)
    assert pandas["price"].tolist() == table["price"].to_pylist() == [1.0, 2.0, 3.0]


def prices(layout: Layout, *tickers: str, **question: Any) -> list[float]:
    table = stocktrace.read_trades(
        tickers or ("AAPL",), data_dir=layout.root, backend="pyarrow", **question
    )
    return table["price"].to_pylist()


def test_windows_and_days_come_in_the_order_of_arrival(
    layout: Layout, publish: Callable[..., None]
) -> None:
    day = 86_400 * 10**9
    windows = [
        ("20261123T143000Z_00001", 0),
        ("20261123T143000Z_00002", 1),
        ("20261124T000000Z_00003", day),
    ]
    for number, (window, later) in enumerate(windows):
        publish(
            [Trade("AAPL", 10.0 + number, T - number, 1.0)], WindowId(SESSION, window), NOON + later
        )
    assert prices(layout) == [10.0, 11.0, 12.0]


def test_tickers_are_in_the_requested_order(layout: Layout, publish: Callable[..., None]) -> None:
    publish(
        [Trade(ticker, price, T, 1.0) for ticker, price in (("A", 1.0), ("B", 2.0), ("C", 3.0))]
    )
    assert prices(layout, "C", "A") == [3.0, 1.0]
    assert prices(layout, "C,A") == [3.0, 1.0]


def test_a_time_of_the_exchange_or_of_receipt_cuts_start_inclusive_end_exclusive(
    layout: Layout, publish: Callable[..., None]
) -> None:
    publish([Trade("AAPL", float(n + 1), T + n, 1.0) for n in range(5)], stamp=NOON + 10**9)
    at = "2026-11-23T14:30:00.00{}Z".format
    assert prices(layout, start=at(1), end=at(3)) == [2.0, 3.0]
    assert prices(layout, start=at(3)) == [4.0, 5.0]
    assert prices(layout, end=at(1)) == [1.0]
    assert prices(layout, end="2026-11-23T14:30:01Z", by="ts_recv") == []
    assert len(prices(layout, start="2026-11-23T14:30:01Z", by="ts_recv")) == 5
    assert len(prices(layout, start="2026-11-23T14:30:01.000001Z", by="ts_recv")) == 0


def test_bounds_between_two_milliseconds_are_exact(
    layout: Layout, publish: Callable[..., None]
) -> None:
    publish([Trade("AAPL", float(n + 1), T + n, 1.0) for n in range(3)])
    half = dt.datetime(2026, 11, 23, 14, 30, 0, 500, dt.UTC)
    assert prices(layout, start=half) == [2.0, 3.0]
    assert prices(layout, end=half) == [1.0]


def test_a_time_without_a_zone_is_utc_and_any_zone_will_do(
    layout: Layout, publish: Callable[..., None]
) -> None:
    publish([Trade("AAPL", float(n + 1), T + 1000 * n, 1.0) for n in range(3)])
    assert prices(layout, start="2026-11-23T14:30:01") == [2.0, 3.0]
    assert prices(layout, start="2026-11-23T09:30:01-05:00") == [2.0, 3.0]
    assert prices(layout, start=dt.datetime(2026, 11, 23, 14, 30, 1)) == [2.0, 3.0]  # noqa: DTZ001


def test_a_trade_received_after_midnight_is_found_by_the_time_it_happened(
    layout: Layout, publish: Callable[..., None]
) -> None:
    midnight = NOON + int(9.5 * 3600) * 10**9
    publish(
        [Trade("AAPL", 1.0, midnight // 10**6 - 5, 1.0)],
        WindowId(SESSION, "20261124T000000Z_00002"),
        midnight,
    )
    assert prices(layout, start="2026-11-23T23:59:00Z", end="2026-11-24T00:00:00Z") == [1.0]
    assert prices(layout, date="2026-11-23") == []
    assert prices(layout, date="2026-11-24") == [1.0]
    assert prices(layout, date=dt.date(2026, 11, 24)) == [1.0]


def test_only_the_files_that_are_needed_are_opened(
    layout: Layout, publish: Callable[..., None]
) -> None:
    publish([Trade("AAPL", 1.0, T, 1.0)])
    later = layout.window_file(WindowId(SESSION, "20261130T143000Z_00001"))
    later.parent.mkdir(parents=True)
    later.write_bytes(b"broken")
    assert prices(layout, date="2026-11-23") == [1.0]
    assert prices(layout, end="2026-11-24T00:00:00Z") == [1.0]


def test_columns_are_returned_as_requested(layout: Layout, publish: Callable[..., None]) -> None:
    publish([Trade("AAPL", 1.5, T, 2.0)] * 2)
    read = stocktrace.read_trades
    assert list(read("AAPL", data_dir=layout.root).columns) == COLUMNS
    for wanted in (["price"], ["volume", "symbol", "price"], ["symbol"]):
        frame = read("AAPL", data_dir=layout.root, columns=wanted)
        assert list(frame.columns) == wanted
        assert len(frame) == 2
    with pytest.raises(UsageError, match=r"Unknown column 'size'\. Columns: symbol"):
        read("AAPL", data_dir=layout.root, columns=["price", "size"])


@pytest.mark.parametrize("backend", ["pandas", "pyarrow", "polars"])
def test_a_ticker_without_trades_is_an_empty_table_of_the_same_columns(
    layout: Layout, publish: Callable[..., None], backend: Any
) -> None:
    before = stocktrace.read_trades("MSFT", data_dir=layout.root, backend=backend)
    publish([Trade("AAPL", 1.5, T, 2.0)])
    after = stocktrace.read_trades("MSFT", data_dir=layout.root, backend=backend)
    there = stocktrace.read_trades("AAPL", data_dir=layout.root, backend=backend)
    for empty in (before, after):
        assert len(empty) == 0
        if backend == "pandas":
            assert empty.dtypes.equals(there.dtypes)
        else:
            assert empty.schema == there.schema


@pytest.mark.parametrize(
    ("question", "sentence"),
    [
        ({"start": "yesterday"}, "'yesterday' is not a valid time"),
        ({"date": "23.11.2026"}, "'23.11.2026' is not a valid date"),
        ({"date": "2026-11-23", "start": "2026-11-23"}, "Set date, or start and end, not both"),
        ({"backend": "excel"}, "not 'excel'"),
    ],
)
def test_wrong_arguments_are_refused(
    layout: Layout, question: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UsageError, match=sentence):
        stocktrace.read_trades("AAPL", data_dir=layout.root, **question)


def test_an_invalid_ticker_is_refused(layout: Layout) -> None:
    with pytest.raises(TickerError):
        stocktrace.read_trades("é", data_dir=layout.root)
    with pytest.raises(TickerError):
        stocktrace.read_trades([], data_dir=layout.root)


def test_the_data_folder_is_that_of_the_settings(
    layout: Layout, publish: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    publish([Trade("AAPL", 1.5, T, 2.0)])
    monkeypatch.setenv("STOCKTRACE_DATA_DIR", str(layout.root))
    assert stocktrace.read_trades("AAPL")["price"].tolist() == [1.5]


def test_a_damaged_page_is_an_error_and_not_other_numbers(
    layout: Layout, publish: Callable[..., None]
) -> None:
    publish([Trade("AAPL", float(n), T + n, 2.0) for n in range(1, 500)])
    path = layout.window_file(PART)
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(StoreError, match=r"cannot be read.* Run `stocktrace verify`"):
        stocktrace.read_trades("AAPL", data_dir=layout.root)
