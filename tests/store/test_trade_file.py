from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stocktrace.errors import ConversionError
from stocktrace.store import trade_file
from stocktrace.store.arrow_schema import FILE_SCHEMA
from stocktrace.store.checksum import Content
from stocktrace.store.footer import has_wrong_statistics, read_windows
from stocktrace.store.names import WindowId
from stocktrace.store.trade_file import (
    DATE_FORMAT,
    WINDOW_FORMAT,
    Bounds,
    FileFormat,
    TradeFileReader,
    cut_row_groups,
    with_texts,
    write_trade_files,
)
from tests.conftest import SESSION, WINDOW
from tests.sampling import costly
from tests.store.conftest import T

WINDOWS = {WindowId(SESSION, WINDOW): Content(0, "")}
SMALL = FileFormat(1, 8)
OTHER = "20261123T150000Z_aaaaaa"
#: Names that a reader of CSV, JSON or Hive paths takes for something else.
ODD = ["007", "1e5", "7203", "NA", "NULL", "NaN", "None", "nan", "null", "true"]

#: Rows of a ticker: how many, the session and the number of the window, the minute.
Rows = tuple[str, int, str, int, int]


def table_of(rows: Iterable[Rows]) -> pa.Table:
    """Rows one millisecond apart; the prices number them."""
    columns: dict[str, list[Any]] = {name: [] for name in FILE_SCHEMA.names}
    price = 0
    for ticker, count, session, window, minute in rows:
        for at in range(count):
            price += 1
            time = T + minute * 60_000 + at
            values = (ticker, time, time * 1000, price, 1.0, f"{at % 3} 12", session, window)
            for column, value in zip(columns.values(), values, strict=True):
                column.append(value)
    return pa.table(columns).cast(FILE_SCHEMA)


def tickers_of(counts: dict[str, int]) -> pa.Table:
    """Rows of sorted tickers in one window."""
    return table_of((ticker, counts[ticker], SESSION, 1, 0) for ticker in sorted(counts))


def write(path: Path, *tables: pa.Table, form: FileFormat = WINDOW_FORMAT) -> Path:
    rows = sum(map(len, tables))
    assert write_trade_files([path], tables, lambda: WINDOWS, rows=rows, form=form) == [path]
    return path


def groups_of(path: Path) -> list[tuple[str, str, int]]:
    """The first ticker, the last and the number of rows of each row group."""
    with pq.ParquetFile(path) as file:
        groups = [file.read_row_group(at, ["symbol"]) for at in range(file.num_row_groups)]
    texts = [group["symbol"].to_pylist() for group in groups]
    return [(each[0], each[-1], len(each)) for each in texts]


@dataclass
class Counting:
    """Counts the row groups that are read."""

    read: list[int] = field(default_factory=list)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counting:
    counting = Counting()
    whole = pq.ParquetFile.read_row_groups

    def noting(self: pq.ParquetFile, groups: Sequence[int], *given: Any, **options: Any) -> Any:
        counting.read += groups
        return whole(self, groups, *given, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_groups", noting)
    return counting


def read(path: Path, **options: Any) -> list[float]:
    """The prices of the rows that match."""
    with TradeFileReader(path) as file:
        table = file.read(["price"], **options)
    assert table.column_names == ["price"]
    return list(table["price"].to_pylist())


# --- row groups ------------------------------------------------------------------------------


@pytest.fixture
def low(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small tickers share a row group up to 4 rows."""
    monkeypatch.setattr(trade_file, "_SHARED_ROWS", (4, 4))


@pytest.mark.usefixtures("low")
def test_small_tickers_share_a_row_group_and_large_ones_are_cut(tmp_path: Path) -> None:
    counts = {"A": 1, "B": 2, "C": 1, "D": 3, "E": 20, "F": 1, "G": 5, "H": 1}
    path = write(tmp_path / "a.parquet", tickers_of(counts), form=SMALL)
    assert groups_of(path) == [
        ("A", "C", 4), ("D", "D", 3), ("E", "E", 8), ("E", "E", 8), ("E", "E", 4), ("F", "F", 1),
        ("G", "G", 5), ("H", "H", 1),
    ]  # fmt: skip


@pytest.mark.usefixtures("low")
@given(st.lists(st.integers(1, 30), min_size=1, max_size=12), st.data())
def test_a_row_group_holds_small_tickers_whole(counts: list[int], data: st.DataObject) -> None:
    whole = tickers_of({f"T{at:02}": count for at, count in enumerate(counts)})
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=4)))
    edges = itertools.pairwise([0, *cuts, len(whole)])
    tables = [whole.slice(begin, end - begin) for begin, end in edges]
    groups = list(cut_row_groups(tables, len(whole), SMALL))
    assert pa.concat_tables(groups).equals(whole)
    assert all(0 < len(group) <= SMALL.group_rows for group in groups)
    in_groups: Counter[str] = Counter()
    for group in groups:
        in_groups.update(set(group["symbol"].to_pylist()))
    for group in groups:  # only the rest of a large ticker is beside others
        first, *others = dict.fromkeys(group["symbol"].to_pylist())
        assert all(in_groups[ticker] == 1 for ticker in others)
        assert not others or in_groups[first] == 1 or counts[int(first[1:])] > SMALL.group_rows
    # However the rows came, few groups are small.
    assert len(groups) <= 2 + 2 * len(whole) // 4


def test_rows_become_files_of_so_many_bytes(tmp_path: Path) -> None:
    names = [tmp_path / f"{at}.parquet" for at in range(100)]
    table = tickers_of({"A": 20, "B": 20})
    written = write_trade_files(
        iter(names), [table], lambda: WINDOWS, rows=40, form=SMALL, max_bytes=600
    )
    assert written == names[: len(written)]
    assert 1 < len(written) < 6
    assert [read_windows(path) for path in written] == [WINDOWS] * len(written)
    assert list(itertools.chain(*map(read, written))) == [n + 1.0 for n in range(40)]
    assert write_trade_files(
        iter(names), [table], lambda: WINDOWS, rows=40, form=SMALL, max_bytes=1 << 20
    ) == [names[0]]


def test_no_rows_are_no_file(tmp_path: Path) -> None:
    empty = FILE_SCHEMA.empty_table()
    for tables in ([], [empty]):
        paths = [tmp_path / "a.parquet"]
        assert write_trade_files(paths, tables, lambda: WINDOWS, rows=0, form=SMALL) == []
    assert not list(tmp_path.iterdir())


def date_of_many_tickers() -> tuple[Iterator[pa.Table], int, dict[WindowId, Content]]:
    """5,000 tickers in 39 windows of a date: rows, their number, and the windows."""
    tickers = [f"TICKER{at:05}" for at in range(5000)]
    windows = [
        WindowId(SESSION, f"20261123T{14 + at // 6}{at % 6}000Z_{at + 1:05}") for at in range(39)
    ]
    rows = len(tickers) * len(windows) * 2
    numbers = np.repeat(np.arange(1, 40, dtype=np.int32), 2)

    def tables() -> Iterator[pa.Table]:
        for some in (tickers[at : at + 500] for at in range(0, 5000, 500)):
            count = len(some) * len(numbers)
            times = T + np.tile(np.arange(len(numbers)) * 300_000, len(some))
            columns = {
                "symbol": np.repeat(some, len(numbers)),
                "ts_event": times,
                "ts_recv": times * 1000,
                "price": np.ones(count),
                "volume": np.ones(count),
                "conditions": [""] * count,
                "session": [SESSION] * count,
                "window_number": np.tile(numbers, len(some)),
            }
            yield pa.table(columns).cast(FILE_SCHEMA)

    return tables(), rows, {window: Content(rows // 39, "0" * 32) for window in windows}


def test_the_footer_of_5000_tickers_and_39_windows_is_below_64_kb(tmp_path: Path) -> None:
    tables, rows, windows = date_of_many_tickers()
    path = tmp_path / "a.parquet"
    write_trade_files([path], tables, lambda: windows, rows=rows, form=DATE_FORMAT)
    facts = pq.read_metadata(path)
    assert facts.num_rows == rows == 390_000
    assert facts.serialized_size < 64_000
    assert 30 <= facts.num_row_groups <= 64
    assert read_windows(path) == windows


# --- reading ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("low")
def test_only_row_groups_that_can_have_the_tickers_are_read(
    tmp_path: Path, counted: Counting
) -> None:
    counts = {"A": 2, "B": 2, "C": 4, "D": 20, "F": 2, "G": 2}
    path = write(tmp_path / "a.parquet", tickers_of(counts), form=SMALL)
    assert [(first, last) for first, last, _ in groups_of(path)] == [
        ("A", "B"), ("C", "C"), ("D", "D"), ("D", "D"), ("D", "D"), ("F", "G"),
    ]  # fmt: skip
    counted.read.clear()
    for tickers, groups, found in (
        (["B"], [0], 2),
        (["C"], [1], 4),
        (["D"], [2, 3, 4], 20),
        (["G", "A"], [0, 5], 4),
        (["E", "0", "Z"], [], 0),
        (["AA"], [0], 0),
        (list(counts), [0, 1, 2, 3, 4, 5], 32),
        ([], [0, 1, 2, 3, 4, 5], 32),
    ):
        assert len(read(path, tickers=tickers)) == found
        assert counted.read == groups, tickers
        counted.read.clear()


def test_only_row_groups_that_can_have_the_times_are_read(
    tmp_path: Path, counted: Counting
) -> None:
    rows = [("A", 8, SESSION, number + 1, number) for number in range(5)]
    path = write(tmp_path / "a.parquet", table_of(rows), form=SMALL)
    minute = 60_000
    for bounds, groups, found in (
        ({"ts_event": (T + minute, T + 2 * minute)}, [1], 8),
        ({"ts_event": (T + minute + 1, T + 2 * minute + 1)}, [1, 2], 8),
        ({"ts_recv": (None, (T + minute) * 1000)}, [0], 8),
        ({"ts_recv": ((T + 4 * minute + 7) * 1000, None)}, [4], 1),
        ({"ts_event": (T + 8, T + minute)}, [], 0),
        ({"ts_event": (T, None), "ts_recv": (None, (T + 1) * 1000)}, [0], 1),
        ({"ts_event": (None, None)}, [0, 1, 2, 3, 4], 40),
    ):
        assert len(read(path, bounds=bounds)) == found
        assert counted.read == groups, bounds
        counted.read.clear()


@pytest.mark.parametrize(
    ("begin", "end", "columns"),
    [
        (T, None, {"price"}),
        (T, T + 60_008, {"price"}),
        (T + 1, None, {"price", "ts_event"}),
        (None, T + 60_007, {"price", "ts_event"}),
    ],
)
def test_times_that_all_rows_of_the_row_groups_have_are_not_read(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    begin: int | None,
    end: int | None,
    columns: set[str],
) -> None:
    rows = [("A", 8, SESSION, number + 1, number) for number in range(2)]
    path = write(tmp_path / "a.parquet", table_of(rows), form=SMALL)
    whole, asked = pq.ParquetFile.read_row_groups, set[str]()

    def reading(self: pq.ParquetFile, groups: Any, names: Any, **options: Any) -> pa.Table:
        asked.update(names)
        return whole(self, groups, names, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_groups", reading)
    with TradeFileReader(path) as file:
        table = file.read(["price"], bounds={"ts_event": (begin, end)})
    assert len(table) == 16 - len(columns - {"price"})
    assert asked == columns


def test_few_rows_of_a_row_group_do_not_keep_the_others_in_memory(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", tickers_of({"A": 3000, "B": 10, "C": 3000}))
    with TradeFileReader(path) as file:
        table = file.read(["ts_event", "price"], tickers=["B"])
    assert len(table) == 10
    assert sum(column.chunk(0).buffers()[1].size for column in table.columns) < 1000


@pytest.fixture
def sessions(tmp_path: Path) -> Path:
    """Windows of two sessions."""
    rows = [
        (ticker, 3, session, number, number)
        for ticker in ("A", "B")
        for session in (SESSION, OTHER)
        for number in (1, 2)
    ]
    return write(tmp_path / "a.parquet", table_of(rows))


def test_rows_are_chosen_by_session_and_window(sessions: Path) -> None:
    second: Bounds = {"window_number": (2, 3)}
    assert read(sessions, session=OTHER) == [7, 8, 9, 10, 11, 12, 19, 20, 21, 22, 23, 24]
    assert read(sessions, session=OTHER, bounds=second) == [10, 11, 12, 22, 23, 24]
    assert read(sessions, session=SESSION, bounds=second, tickers=["B"]) == [16, 17, 18]
    assert read(sessions, session="20261123T150000Z_bbbbbb") == []
    assert read(sessions, bounds={"price": (3, 5)}) == [3, 4]


def test_all_columns_come_back_and_texts_are_dictionaries_until_they_are_asked_for(
    sessions: Path,
) -> None:
    with TradeFileReader(sessions) as file:
        assert file.rows == 24
        table = file.read(tickers=["B"], session=OTHER)
        assert file.count_trades() == {"A": 12, "B": 12}
        whole = pa.Table.from_batches(file.batches())
    assert {name for name in table.column_names if pa.types.is_dictionary(table[name].type)} == {
        "symbol", "conditions", "session",
    }  # fmt: skip
    texts = with_texts([table], FILE_SCHEMA.names)
    assert texts.schema == FILE_SCHEMA
    assert texts.equals(whole.slice(18))
    assert with_texts([], ["price", "symbol"]).schema.names == ["price", "symbol"]


@pytest.mark.usefixtures("low")
@pytest.mark.parametrize("rows", [1, 7, 9, 1000])
def test_rows_are_the_same_however_many_are_decoded_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counted: Counting, rows: int
) -> None:
    table = tickers_of({"A": 3, "B": 20, "C": 1, "D": 9})
    path = write(tmp_path / "a.parquet", table, form=SMALL)
    monkeypatch.setattr(trade_file, "_READ_ROWS", rows)
    with TradeFileReader(path) as file:
        assert with_texts([file.read()], FILE_SCHEMA.names).equals(table)
        assert file.count_trades() == {"A": 3, "B": 20, "C": 1, "D": 9}
    assert read(path, tickers=["A", "D"]) == [1, 2, 3, *range(25, 34)]


@pytest.mark.usefixtures("low")
def test_the_heads_of_a_file_are_some_rows_of_large_tickers_and_all_of_small_ones(
    tmp_path: Path,
) -> None:
    path = write(tmp_path / "a.parquet", tickers_of({"A": 2, "B": 2, "C": 30, "D": 1}), form=SMALL)
    with TradeFileReader(path) as file:
        tables = list(file.read_heads(5, ["symbol", "price"]))
    assert [table["price"].to_pylist() for table in tables] == [
        [1, 2, 3, 4], [5, 6, 7, 8, 9], [35],
    ]  # fmt: skip
    assert tables[0]["symbol"].to_pylist() == ["A", "A", "B", "B"]


def test_tickers_that_look_like_numbers_or_nothing_stay_text(tmp_path: Path) -> None:
    import duckdb
    import polars as pl

    path = write(tmp_path / "a.parquet", tickers_of(dict.fromkeys(ODD, 2)))
    for at, ticker in enumerate(ODD):
        assert read(path, tickers=[ticker]) == [2 * at + 1, 2 * at + 2]
    with TradeFileReader(path) as file:
        assert file.count_trades() == dict.fromkeys(ODD, 2)
    query = f"select symbol from '{path}' where symbol = '7203'"
    assert duckdb.execute(query).fetchall() == [("7203",)] * 2
    assert pl.read_parquet(path)["symbol"].unique().sort().to_list() == ODD


def test_the_statistics_of_every_row_group_are_those_of_its_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", tickers_of({"A": 3, "B": 20, "C": 1}), form=SMALL)
    assert not has_wrong_statistics(path)
    facts = pq.read_metadata(path)
    for at in range(facts.num_row_groups):
        group = facts.row_group(at)
        columns = [group.column(number) for number in range(group.num_columns)]
        has = {column.path_in_schema for column in columns if column.is_stats_set}
        assert has == {"symbol", "ts_event", "ts_recv"}


def test_a_file_without_statistics_is_not_ours(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(tickers_of({"A": 1}), path, write_statistics=False, store_schema=False)
    assert has_wrong_statistics(path)
    with pytest.raises(ConversionError, match="has no statistics"):
        read(path, tickers=["A"])
    assert read(path) == [1]


@pytest.mark.parametrize("change", ["rename_columns", "drop_columns", "nothing"])
def test_a_file_with_other_columns_is_refused(tmp_path: Path, change: str) -> None:
    path, table = tmp_path / "a.parquet", tickers_of({"A": 1})
    changed: dict[str, Callable[[], pa.Table]] = {
        "rename_columns": lambda: table.rename_columns(["ticker", *table.column_names[1:]]),
        "drop_columns": lambda: table.drop_columns(["symbol"]),
        "nothing": lambda: pa.table({}),
    }
    pq.write_table(changed[change](), path)
    with pytest.raises(ConversionError, match="unexpected columns"), TradeFileReader(path):
        pass


TICKERS = st.one_of(st.sampled_from(ODD), st.text(st.characters(codec="utf-8"), min_size=1))


@settings(max_examples=costly())
@given(
    st.dictionaries(TICKERS, st.integers(1, 20), min_size=1, max_size=8),
    st.integers(1, 9),
    st.integers(1, 60),
    st.lists(TICKERS, max_size=2),
)
def test_what_is_written_comes_back(
    tmp_path_factory: pytest.TempPathFactory,
    counts: dict[str, int],
    group_rows: int,
    shared: int,
    others: list[str],
) -> None:
    path, table = tmp_path_factory.mktemp("data") / "a.parquet", tickers_of(counts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trade_file, "_SHARED_ROWS", (shared, shared))
        write(path, table, form=FileFormat(1, group_rows))
    with TradeFileReader(path) as file:
        assert file.rows == len(table)
        assert file.count_trades() == counts
        assert pa.Table.from_batches(file.batches()).equals(table)
        assert with_texts([file.read()], FILE_SCHEMA.names).equals(table)
        for wanted in ([ticker] for ticker in counts):
            mask = pa.array([symbol in wanted for symbol in table["symbol"].to_pylist()])
            found = with_texts([file.read(tickers=wanted)], FILE_SCHEMA.names)
            assert found.equals(table.filter(mask))
        wanted = [*others, min(counts)]
        mask = pa.array([symbol in wanted for symbol in table["symbol"].to_pylist()])
        found = with_texts([file.read(tickers=wanted)], FILE_SCHEMA.names)
        assert found.equals(table.filter(mask))
    assert not has_wrong_statistics(path)
