from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stocktrace.errors import ConversionError
from stocktrace.store import dataset
from stocktrace.store.checksum import hash_tables
from stocktrace.store.compaction import compact_date, finish_swap
from stocktrace.store.dataset import (
    PublishedRows,
    day_files,
    files_in_order,
    find_published,
    hash_windows,
    list_published,
    retry_on_compaction,
    window_files,
)
from stocktrace.store.footer import read_windows
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId
from stocktrace.store.source import FolderSource, read_rows, tickers_of_date
from tests.conftest import NOON, SESSION
from tests.opened import opened_below
from tests.tables import put, table_of

DATE, NEXT = "2026-11-23", "2026-11-24"
OTHER = "20261123T150000Z_aaaaaa"
T = NOON // 10**6
FIRST, SECOND, LATE, FOREIGN = (
    WindowId(SESSION, "20261123T143000Z_00001"),
    WindowId(SESSION, "20261123T144000Z_00002"),
    WindowId(SESSION, "20261124T000000Z_00003"),
    WindowId(OTHER, "20261123T150000Z_00001"),
)
#: The prices of each window, by ticker.
WINDOWS = {
    FIRST: {"AAPL": [1.0, 2.0], "MSFT": [3.0]},
    SECOND: {"AAPL": [4.0]},
    LATE: {"7203": [5.0, 5.0]},
    FOREIGN: {"AAPL": [6.0], "7203": [7.0]},
}


@pytest.fixture(params=[False, True], ids=["windows", "compacted"])
def published(request: pytest.FixtureRequest, layout: Layout) -> Layout:
    """Four windows of two sessions and two dates; both dates are compacted, or none."""
    for window, tickers in WINDOWS.items():
        for ticker, prices in tickers.items():
            put(layout, ticker, window, table_of([(T, price, 1.0, "") for price in prices]))
    if request.param:
        compact(layout)
    return layout


def compact(layout: Layout) -> None:
    for date in (DATE, NEXT):
        assert compact_date(layout, date) is not None
        assert finish_swap(layout, date)


def prices_of(rows: PublishedRows, *tickers: str) -> list[float]:
    return [price for table in rows.read(tickers) for price in table["price"].to_pylist()]


def test_the_rows_of_a_window_are_found_in_its_file_or_in_those_of_the_date(
    published: Layout,
) -> None:
    compacted = bool(day_files(published.date_folder(DATE)))
    for window, tickers in WINDOWS.items():
        rows = find_published(published, window)
        assert rows is not None
        assert rows.is_compacted is compacted
        name = "day-00001.parquet" if compacted else f"{window.stem}.parquet"
        assert rows.paths == (published.date_folder(window.date) / name,)
        assert prices_of(rows) == [price for name in sorted(tickers) for price in tickers[name]]
        assert rows.count_trades() == {name: len(prices) for name, prices in tickers.items()}
        assert rows.content == hash_tables(rows.read())
        for ticker in ("AAPL", "MSFT", "7203", "IBM"):
            assert prices_of(rows, ticker) == tickers.get(ticker, [])


@pytest.mark.parametrize(
    "window",
    [
        WindowId(OTHER, "20261123T143000Z_00002"),
        WindowId(SESSION, "20261123T143001Z_00001"),
        WindowId(SESSION, "20261125T143000Z_00001"),
    ],
)
def test_a_window_that_is_not_published_is_not_found(published: Layout, window: WindowId) -> None:
    assert find_published(published, window) is None


def test_windows_are_listed_by_date_and_session(published: Layout) -> None:
    assert [*list_published(published, [NEXT, DATE])] == [FIRST, SECOND, FOREIGN, LATE]
    assert [*list_published(published, [DATE])] == [FIRST, SECOND, FOREIGN]
    assert [*list_published(published, [DATE, NEXT], SESSION)] == [FIRST, SECOND, LATE]
    assert list_published(published, [DATE], OTHER) == {FOREIGN: find_published(published, FOREIGN)}
    assert list_published(published, ["2026-11-22"]) == {}
    assert list_published(published, []) == {}


def test_files_of_other_sessions_and_dates_are_not_opened(layout: Layout) -> None:
    for window in WINDOWS:
        put(layout, "AAPL", window, table_of([(T, 1.0, 1.0, "")]))
    folder = layout.date_folder(DATE)
    with opened_below([layout.dataset]) as opened:
        assert [*list_published(layout, [DATE], OTHER)] == [FOREIGN]
        assert find_published(layout, FOREIGN) is not None
    assert opened - {folder, layout.dataset} == {layout.window_file(FOREIGN)}


def test_late_windows_are_read_after_the_files_of_their_date(layout: Layout) -> None:
    folder = layout.date_folder(DATE)
    folder.mkdir(parents=True)
    names = [
        "day-00002.parquet",
        "day-00002-002.parquet",
        "day-00002-010.parquet",
        f"{FIRST.stem}.parquet",
        f"{FOREIGN.stem}.parquet",
    ]
    for name in reversed(names):
        (folder / name).touch()
    assert [path.name for path in files_in_order(folder)] == names
    assert [path.name for path in day_files(folder)] == names[:3]
    assert [path.name for path in window_files(layout, DATE)] == names[3:]
    assert [path.name for path in window_files(layout, DATE, OTHER)] == names[4:]


def test_windows_are_hashed_by_their_rows(published: Layout) -> None:
    for date in (DATE, NEXT):
        wanted = {
            window: rows.content for window, rows in list_published(published, [date]).items()
        }
        assert hash_windows(files_in_order(published.date_folder(date))) == wanted


def test_rows_of_a_window_that_the_footer_does_not_name_are_hashed_too(layout: Layout) -> None:
    put(layout, "AAPL", FIRST, table_of([(T, 1.0, 1.0, "")]))
    path = layout.window_file(FIRST)
    with pq.ParquetFile(path) as file:
        table, facts = file.read(), file.metadata.metadata
    numbers = pa.array([7], pa.int32())
    changed = table.set_column(7, table.schema.field(7), numbers)
    with pq.ParquetWriter(path, table.schema, store_schema=False) as writer:
        writer.write_table(pa.concat_tables([table, changed]))
        writer.add_key_value_metadata(facts)
    (content,) = read_windows(path).values()
    assert hash_windows([path]) == {FIRST: content, WindowId(SESSION, "_00007"): content}


def test_a_file_that_is_not_ours_is_an_error(layout: Layout) -> None:
    put(layout, "AAPL", FIRST, table_of([(T, 1.0, 1.0, "")]))
    path = layout.window_file(FIRST)
    path.write_bytes(path.read_bytes()[:-1])
    for read in (
        lambda: find_published(layout, FIRST),
        lambda: list_published(layout, [DATE]),
        lambda: hash_windows([path]),
    ):
        with pytest.raises(ConversionError, match="cannot be read"):
            read()


# --- beside a compaction ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "read",
    [
        lambda layout: [*list_published(layout, [DATE, NEXT])],
        lambda layout: find_published(layout, SECOND).content,  # type: ignore[union-attr]
        lambda layout: read_rows(FolderSource(layout), [DATE, NEXT], ["price"]).num_rows,
        lambda layout: sorted(tickers_of_date(FolderSource(layout), DATE)),
    ],
    ids=["list", "find", "rows", "tickers"],
)
@pytest.mark.parametrize("at", range(1, 5))
def test_a_date_that_is_compacted_meanwhile_is_read_again(
    layout: Layout, monkeypatch: pytest.MonkeyPatch, read: Callable[[Layout], Any], at: int
) -> None:
    """The files that were listed are gone when the first, the second … of them is opened."""
    for window in WINDOWS:
        put(layout, "AAPL", window, table_of([(T, 1.0, 1.0, "")]))
    wanted, opened = read(layout), 0
    whole = pq.ParquetFile.__init__

    def opening(self: pq.ParquetFile, *given: Any, **options: Any) -> None:
        nonlocal opened
        opened += 1
        if opened == at:
            compact(layout)
        whole(self, *given, **options)

    monkeypatch.setattr(pq.ParquetFile, "__init__", opening)
    assert read(layout) == wanted


def test_a_folder_that_is_replaced_while_it_is_listed_is_listed_again(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A listing of a folder that is deleted meanwhile ends early, without an error."""
    for window in WINDOWS:
        put(layout, "AAPL", window, table_of([(T, 1.0, 1.0, "")]))
    folder = layout.date_folder(DATE)
    iterdir, listed = Path.iterdir, 0

    def list_and_compact(self: Path) -> Iterator[Path]:
        nonlocal listed
        paths = iterdir(self)
        if self == folder:
            listed += 1
            if listed == 1:
                compact(layout)
        return paths

    monkeypatch.setattr(Path, "iterdir", list_and_compact)
    assert [path.name for path in files_in_order(folder)] == ["day-00001.parquet"]
    assert listed > 1


def test_a_reader_gives_up_when_files_are_missing_again_and_again() -> None:
    attempts = []

    def read() -> int:
        attempts.append(1)
        if len(attempts) < failing:
            raise FileNotFoundError
        return 1

    failing = dataset._ATTEMPTS
    assert retry_on_compaction(read) == 1
    attempts.clear()
    failing += 1
    with pytest.raises(FileNotFoundError):
        retry_on_compaction(read)


def test_a_date_without_a_folder_has_no_files(layout: Layout) -> None:
    folder = layout.date_folder(DATE)
    assert (files_in_order(folder), day_files(folder), window_files(layout, DATE)) == ([], (), [])
    put(layout, "AAPL", FIRST, table_of([(T, 1.0, 1.0, "")]))
    shutil.rmtree(folder)
    assert find_published(layout, FIRST) is None
    assert hash_windows([]) == {}
