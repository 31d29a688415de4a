from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from stocktrace.errors import ConversionError, DiskFull, LayoutError, StoreError
from stocktrace.query.trades import read_trades
from stocktrace.store import compaction, conversion, files, footer, lock
from stocktrace.store.checksum import Content
from stocktrace.store.compaction import CompactedDate, compact_date, finish_swap
from stocktrace.store.dataset import files_in_order, hash_windows, list_published
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId, day_number, is_day_file
from stocktrace.store.trade_file import DATE_FORMAT, FileFormat
from stocktrace.trade import Trade
from tests.conftest import NOON, SESSION, published, tree
from tests.sampling import SAMPLED, Pick
from tests.store.conftest import Killed, Life, T

Seal = Callable[..., list[Path]]
Publish = Callable[..., Path]
DATE = "2026-11-23"
OTHER = "20261123T150000Z_aaaaaa"
FOLDER = f"parquet/date={DATE}"
DAY = f"{FOLDER}/day-00001.parquet"
STRANGE = ("AAPL", "BRK.B", "7203", "005930", "NaN", "FXCM:EUR/USD")


def window_of(number: int, session: str = SESSION, date: str = DATE) -> WindowId:
    day = date.replace("-", "")
    return WindowId(session, f"{day}T14{30 + number}00Z_{number + 1:05}")


@pytest.fixture
def publish(layout: Layout, seal: Seal) -> Publish:
    """Publishes a window in which each ticker has trades with the prices given; gives the file."""

    def publish(window: WindowId, *prices: float, tickers: Sequence[str] = ("AAPL",)) -> Path:
        seal(
            [
                Trade(ticker, price, T + at, 1.0, ("1",))
                for at, price in enumerate(prices)
                for ticker in tickers
            ],
            window,
            NOON,
        )
        converted = conversion.convert_window(layout, window)
        assert converted is not None
        return converted.path

    return publish


def compact(layout: Layout) -> CompactedDate | None:
    """Compact the date; nobody reads the old folder."""
    done = compact_date(layout, DATE)
    assert finish_swap(layout, DATE)
    return done


def prices(layout: Layout, ticker: str = "AAPL") -> list[float]:
    table = read_trades(ticker, data_dir=layout.root, backend="pyarrow")
    return list(table["price"].to_pylist())


# --- what comes of it ------------------------------------------------------------------------


def test_the_files_of_a_date_become_one_with_the_rows_in_order(
    layout: Layout, publish: Publish
) -> None:
    before = [publish(window_of(n), 10.0 * n + 1, 10.0 * n + 2).stat().st_size for n in range(3)]
    done = compact(layout)
    path = layout.root / DAY
    assert done == CompactedDate(DATE, (path,), 3, 6, sum(before), path.stat().st_size)
    assert tree(layout.root) == [DAY]
    assert prices(layout) == [1.0, 2.0, 11.0, 12.0, 21.0, 22.0]
    assert done.size < done.size_before / 2


def test_the_footer_of_a_compacted_file_lists_its_windows(layout: Layout, publish: Publish) -> None:
    windows: dict[WindowId, Content] = {}
    for number in range(3):
        windows |= footer.read_windows(publish(window_of(number), number + 1.0, tickers=STRANGE))
    compact(layout)
    path = layout.root / DAY
    assert footer.read_windows(path) == hash_windows([path]) == windows
    assert [window.number for window in windows] == [1, 2, 3]
    found = list_published(layout, [DATE])
    assert {window: rows.content for window, rows in found.items()} == windows
    assert all(rows.is_compacted for rows in found.values())


def test_compacting_what_is_compacted_changes_nothing(layout: Layout, publish: Publish) -> None:
    publish(window_of(0), 1.0)
    publish(window_of(1), 2.0)
    compact(layout)
    path = layout.root / DAY
    before = path.read_bytes()
    assert compact(layout) is None
    assert compact_date(layout, "2026-11-22") is None
    assert tree(layout.root) == [DAY]
    assert path.read_bytes() == before


def test_windows_of_a_later_recovery_are_merged_in_order(layout: Layout, publish: Publish) -> None:
    publish(window_of(0), 1.0)
    publish(window_of(2), 3.0)
    compact(layout)
    late = publish(window_of(1), 2.0)
    assert sorted(prices(layout)) == [1.0, 2.0, 3.0]
    done = compact(layout)
    assert done is not None
    assert (done.files, done.rows, done.paths[0].name) == (2, 3, "day-00002.parquet")
    assert prices(layout) == [1.0, 2.0, 3.0]
    assert not late.exists()


def test_late_trades_of_a_window_stay_in_the_order_of_arrival(layout: Layout, seal: Seal) -> None:
    late = [Trade("AAPL", price, T - price, 1.0) for price in (1, 3, 2)]
    seal(late, window_of(0), NOON)
    conversion.convert_window(layout, window_of(0))
    assert compact(layout) is not None
    assert prices(layout) == [1.0, 3.0, 2.0]


def test_two_sessions_of_a_date_follow_one_another_by_when_they_began(
    layout: Layout, publish: Publish
) -> None:
    publish(window_of(1, OTHER), 3.0)
    publish(window_of(2, SESSION), 2.0)
    publish(window_of(0, OTHER), 2.5)
    publish(window_of(0, SESSION), 1.0)
    before = prices(layout)
    compact(layout)
    assert prices(layout) == before == [1.0, 2.0, 2.5, 3.0]


def test_other_readers_get_the_same_trades(layout: Layout, publish: Publish) -> None:
    for number in range(3):
        publish(window_of(number), number + 1.0, tickers=STRANGE)
    before = published(layout.root)
    assert set(before) == set(STRANGE)
    compact(layout)
    assert published(layout.root) == before


def test_row_groups_are_cut_so_that_an_hour_can_be_read_by_itself(
    layout: Layout, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "DATE_FORMAT", FileFormat(DATE_FORMAT.zstd_level, 4))
    for number in range(5):
        publish(window_of(number), *(10.0 * number + at + 1 for at in range(3)))
    done = compact(layout)
    assert done is not None
    facts = pq.read_metadata(done.paths[0])
    assert [facts.row_group(at).num_rows for at in range(facts.num_row_groups)] == [4, 4, 4, 3]
    held = list_published(layout, [DATE])
    for number in (3, 0, 4, 2, 1):
        rows = pa.concat_tables(held[window_of(number)].read())
        assert rows["price"].to_pylist() == [10.0 * number + at + 1 for at in range(3)]


@pytest.fixture
def mixed(layout: Layout, publish: Publish) -> dict[str, list[float]]:
    """Windows of two sessions with tickers of different sizes; their prices in order."""
    wanted: dict[str, list[float]] = {"A": [], "LARGE": [], "Z": []}
    for session in (SESSION, OTHER):
        for number in range(4):
            some = [number + 1 + at / 64 for at in range(30)]
            tickers = ["LARGE", *(["A"] if number % 2 else ["Z"])]
            publish(window_of(number, session), *some, tickers=tickers)
            for ticker in tickers:
                wanted[ticker] += some
    return wanted


@pytest.mark.parametrize("rows", [1, 50, 100, 239, 240, 10_000])
def test_a_date_of_any_size_is_merged_some_rows_at_a_time_with_the_same_result(
    layout: Layout, mixed: dict[str, list[float]], monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    monkeypatch.setattr(compaction, "_SORT_ROWS", rows)
    for is_compacted in (False, True):
        sources = files_in_order(layout.date_folder(DATE))
        windows = list_published(layout, [DATE])
        contents = {window: windows[window].content for window in sorted(windows, key=str)}
        tables = list(compaction.merge_files(sources, contents))
        # A window of a ticker has 30 rows, which are read together.
        assert max(map(len, tables)) <= max(rows, 30)
        merged = pa.concat_tables(tables)
        assert merged["symbol"].to_pylist() == [name for name in mixed for _ in mixed[name]]
        assert merged["price"].to_pylist() == [price for name in mixed for price in mixed[name]]
        assert (compact(layout) is None) is is_compacted


@pytest.mark.parametrize("rows", [1, 10_000])
def test_a_large_date_becomes_several_files_and_one_again(
    layout: Layout,
    publish: Publish,
    mixed: dict[str, list[float]],
    monkeypatch: pytest.MonkeyPatch,
    rows: int,
) -> None:
    monkeypatch.setattr(compaction, "_SORT_ROWS", rows)
    monkeypatch.setattr(compaction, "DATE_FORMAT", FileFormat(DATE_FORMAT.zstd_level, 50))
    with monkeypatch.context() as patch:
        patch.setattr(compaction, "MAX_BYTES", 1)
        done = compact(layout)
    assert done is not None
    names = [path.name for path in files_in_order(layout.date_folder(DATE))]
    assert names == [path.name for path in done.paths]
    assert names[:3] == ["day-00001.parquet", "day-00001-002.parquet", "day-00001-003.parquet"]
    windows = footer.read_windows(done.paths[0])
    assert len(windows) == 8
    assert all(footer.read_windows(path) == windows for path in done.paths)
    assert hash_windows(done.paths) == windows
    assert {ticker: prices(layout, ticker) for ticker in mixed} == mixed
    held = list_published(layout, [DATE])
    assert held[window_of(1)].count_trades() == {"A": 30, "LARGE": 30}
    publish(window_of(9, OTHER), 99.0)
    again = compact(layout)
    assert again is not None
    assert (again.files, again.rows) == (len(names) + 1, done.rows + 1)
    assert tree(layout.root) == [f"{FOLDER}/day-00002.parquet"]
    assert {ticker: prices(layout, ticker) for ticker in mixed} == mixed


@pytest.mark.parametrize("number", [1, 99_999, 100_000])
@pytest.mark.parametrize("part", ["", "-002", "-1000"])
def test_the_name_of_a_dates_file_has_one_grammar(number: int, part: str) -> None:
    path = Path(f"day-{number:05}{part}.parquet")
    assert is_day_file(path)
    assert day_number(path) == number


@pytest.mark.parametrize(
    "name",
    ["day-1.parquet", "day-00001.csv", "Day-00001.parquet", "day-", "day-00001-2.parquet"],
)
def test_a_file_with_another_name_is_not_the_file_of_a_date(name: str) -> None:
    assert not is_day_file(Path(name))
    with pytest.raises(LayoutError):
        day_number(Path(name))


# --- what must not happen --------------------------------------------------------------------


def test_a_window_that_is_compacted_is_not_published_again(
    layout: Layout, publish: Publish, seal: Seal
) -> None:
    publish(window_of(0), 1.0)
    publish(window_of(1), 2.0)
    compact(layout)
    path = publish(window_of(1), 2.0)  # its segment came back, as from a backup
    assert is_day_file(path)
    assert tree(layout.root) == [DAY]
    seal([Trade("AAPL", 5.0, T, 1.0)], window_of(1), NOON)
    with pytest.raises(ConversionError, match="holds other rows of"):
        conversion.convert_window(layout, window_of(1))
    assert prices(layout) == [1.0, 2.0]


def test_a_damaged_file_stops_compaction_and_nothing_changes(
    layout: Layout, publish: Publish
) -> None:
    publish(window_of(0), 1.0)
    path = publish(window_of(1), *(float(n) for n in range(1, 300)))
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 3] ^= 4
    path.write_bytes(damaged)
    before = tree(layout.root)
    with pytest.raises(ConversionError):
        compact_date(layout, DATE)
    assert tree(layout.root) == before


def test_a_file_whose_rows_differ_from_its_footer_stops_compaction(
    layout: Layout, publish: Publish
) -> None:
    publish(window_of(0), 1.0)
    path = publish(window_of(1), 2.0, 3.0)
    with pq.ParquetFile(path) as file:
        table, facts = file.read(), file.metadata.metadata
    with pq.ParquetWriter(path, table.schema, store_schema=False) as writer:
        writer.write_table(table.take([1, 0]))
        writer.add_key_value_metadata(facts)
    before = tree(layout.root)
    with pytest.raises(ConversionError, match="do not match the hash in the footer"):
        compact_date(layout, DATE)
    assert tree(layout.root) == before


def test_a_file_with_the_name_of_another_window_stops_compaction(
    layout: Layout, publish: Publish
) -> None:
    path = publish(window_of(0), 1.0)
    path.rename(layout.window_file(window_of(1)))
    with pytest.raises(ConversionError, match="names another window"):
        compact_date(layout, DATE)


def test_a_file_that_is_written_wrongly_replaces_nothing(
    layout: Layout, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(window_of(0), 1.0, 2.0)
    publish(window_of(1), 3.0)
    before = tree(layout.root)
    write = pq.ParquetWriter.write_table
    reverse = lambda self, table, size: write(self, table.take([1, 0, 2]), size)  # noqa: E731
    monkeypatch.setattr(pq.ParquetWriter, "write_table", reverse)
    with pytest.raises(ConversionError, match="do not match the hash"):
        compact_date(layout, DATE)
    assert tree(layout.root) == before


def test_a_window_that_exists_twice_is_an_error(layout: Layout, publish: Publish) -> None:
    first = publish(window_of(0), 1.0)
    copy = first.read_bytes()
    compact(layout)
    first.write_bytes(copy)
    with pytest.raises(ConversionError, match="again: run `stocktrace verify`"):
        compact_date(layout, DATE)


def test_a_file_that_is_not_ours_stops_compaction_and_stays(
    layout: Layout, publish: Publish
) -> None:
    path = publish(window_of(0), 1.0)
    stranger = path.with_name("notes.txt")
    stranger.write_text("mine")
    with pytest.raises(StoreError, match=r"notes\.txt is not a file of stocktrace"):
        compact_date(layout, DATE)
    assert stranger.read_text() == "mine"
    assert path.exists()


def test_a_window_that_is_published_during_compaction_is_not_lost(
    layout: Layout, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(window_of(0), 1.0)
    publish(window_of(2), 3.0)
    check = compaction._check_written

    def late(*arguments: Any) -> None:
        publish(window_of(1), 2.0)
        check(*arguments)

    monkeypatch.setattr(compaction, "_check_written", late)
    assert compact_date(layout, DATE) is None
    assert prices(layout) == [1.0, 2.0, 3.0]
    assert not list(layout.root.glob("compacting/*"))
    monkeypatch.undo()
    done = compact(layout)
    assert done is not None
    assert done.files == 3


def test_a_conversion_waits_until_the_folders_are_swapped(layout: Layout, publish: Publish) -> None:
    publish(window_of(0), 1.0)
    with lock.lock_folder(layout.dataset, exclusive=True):
        late = threading.Thread(target=publish, args=(window_of(1), 2.0))
        late.start()
        late.join(0.1)
        assert late.is_alive()
    late.join(30)
    assert prices(layout) == [1.0, 2.0]


def test_no_window_is_being_published_while_the_folders_are_swapped(
    layout: Layout, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(window_of(0), 1.0)
    swap, folder = files.swap_folders, os.open(layout.dataset, os.O_RDONLY)

    def swap_alone(staged: Path, live: Path) -> None:
        with pytest.raises(BlockingIOError):  # as a conversion would share the lock
            fcntl.flock(folder, fcntl.LOCK_SH | fcntl.LOCK_NB)
        swap(staged, live)

    monkeypatch.setattr(files, "swap_folders", swap_alone)
    try:
        assert compact(layout) is not None
        fcntl.flock(folder, fcntl.LOCK_SH | fcntl.LOCK_NB)
    finally:
        os.close(folder)


def test_a_file_system_that_cannot_swap_is_an_error_and_nothing_changes(
    layout: Layout, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(window_of(0), 1.0)
    publish(window_of(1), 2.0)
    before = tree(layout.root)
    monkeypatch.setattr(files, "_swap", lambda _one, _other: errno.EXDEV)
    with pytest.raises(StoreError, match="cannot swap two folders"):
        compact_date(layout, DATE)
    assert tree(layout.root) == before


def test_missing_folders_cannot_be_swapped(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="No such file"):
        files.swap_folders(tmp_path / "one", tmp_path / "other")


def test_a_full_disk_is_told_and_nothing_changes(
    layout: Layout, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    publish(window_of(0), 1.0)
    publish(window_of(1), 2.0)
    before = tree(layout.root)
    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    with pytest.raises(DiskFull):
        compact_date(layout, DATE)
    assert tree(layout.root) == before


# --- killed ----------------------------------------------------------------------------------


def new_ones(layout: Layout, publish: Publish) -> None:
    """Publish windows that are not compacted."""
    publish(window_of(0), 1.0, 2.0, tickers=("AAPL", "7203"))
    publish(window_of(1), 3.0, 4.0, tickers=("AAPL", "7203"))
    publish(window_of(2), 5.0)


def late_one(layout: Layout, publish: Publish) -> None:
    """Publish two windows, compact them, and publish a late one."""
    publish(window_of(0), 1.0, 2.0, tickers=("AAPL", "7203"))
    publish(window_of(2), 5.0)
    compact(layout)
    publish(window_of(1), 3.0, 4.0, tickers=("AAPL", "7203"))


@pytest.mark.parametrize("prepare", [new_ones, late_one])
@pytest.mark.parametrize("max_bytes", [1, compaction.MAX_BYTES])
@SAMPLED
def test_killed_at_any_call_readers_see_each_trade_once_and_the_next_run_finishes(
    layout: Layout,
    publish: Publish,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    prepare: Callable[[Layout, Publish], None],
    max_bytes: int,
    pick: Pick,
) -> None:
    wanted = {"AAPL": [1.0, 2.0, 3.0, 4.0, 5.0], "7203": [1.0, 2.0, 3.0, 4.0]}
    monkeypatch.setattr(compaction, "MAX_BYTES", max_bytes)
    monkeypatch.setattr(compaction, "DATE_FORMAT", FileFormat(3, 2))
    prepare(layout, publish)

    def kill(last: int) -> tuple[Layout, int]:
        """Compact a copy of the folder until the call ``last``; gives the calls that were left."""
        copy = Layout(tmp_path / f"killed-{last}")
        shutil.copytree(layout.root / "parquet", copy.root / "parquet")
        with pytest.MonkeyPatch.context() as patch:
            life = Life(patch, last)
            with contextlib.suppress(Killed):
                compact(copy)
        return copy, life.left

    whole, left = kill(1000)
    assert 15 < 1000 - left < 200
    for last in pick(range(1000 - left)):
        killed, _ = kill(last)
        assert {name: sorted(prices(killed, name)) for name in wanted} == wanted, last
        found = published(killed.root)
        assert {name: sorted(row[1] for row in found[name]) for name in wanted} == wanted, last
        compact(killed)
        assert {name: prices(killed, name) for name in wanted} == wanted, last
        assert tree(killed.root) == tree(whole.root), last
        assert not list(killed.root.glob("compacting/*")), last


def test_an_incomplete_file_of_a_killed_run_is_deleted(layout: Layout, publish: Publish) -> None:
    late_one(layout, publish)
    staged = layout.compaction_staging(DATE)
    staged.mkdir(parents=True)
    (staged / "day-00002.parquet").write_bytes(b"PAR1 and no more")
    assert compact(layout) is not None
    assert tree(layout.root) == [f"{FOLDER}/day-00002.parquet"]
    assert prices(layout) == [1.0, 2.0, 3.0, 4.0, 5.0]


def test_an_old_folder_with_a_window_that_the_dataset_lacks_is_kept(
    layout: Layout, publish: Publish
) -> None:
    path = publish(window_of(0), 1.0)
    late = publish(window_of(1), 2.0)
    staged = layout.compaction_staging(DATE)
    staged.mkdir(parents=True)
    late.rename(staged / late.name)
    with pytest.raises(StoreError, match="does not: move the file there"):
        finish_swap(layout, DATE)
    assert (staged / late.name).exists()
    assert path.exists()


def test_70_the_files_of_a_date_are_on_the_disk_before_the_folders_are_swapped(
    layout: Layout, publish: Publish, disk_steps: list[str]
) -> None:
    publish(window_of(0), 1.0)
    disk_steps.clear()
    compact(layout)
    date = f"date={DATE}"
    assert disk_steps == [
        *("sync day-00001.parquet", f"sync {date}", f"swap {date}"),
        *("sync parquet", "sync compacting"),
    ]


# --- beside readers --------------------------------------------------------------------------


def test_the_old_folder_is_left_to_those_who_are_listing_it(
    layout: Layout, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setattr(compaction, "LISTING_S", 5.0)
    monkeypatch.setattr(time, "sleep", waited.append)
    names = {publish(window_of(number), 1.0).name for number in range(3)}
    with os.scandir(layout.date_folder(DATE)) as listing:
        assert compact_date(layout, DATE) is not None
        assert not finish_swap(layout, DATE, wait=False)
        listed = {entry.name for entry in listing}
    assert listed == names
    assert waited == []
    assert finish_swap(layout, DATE)
    assert 0 < waited[0] <= 5.0
    assert tree(layout.root) == [DAY]


def test_a_new_folder_that_was_never_swapped_is_deleted_at_once(
    layout: Layout, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "LISTING_S", 5.0)
    publish(window_of(0), 1.0)
    staged = layout.compaction_staging(DATE)
    for name in (None, "day-00001.parquet"):
        staged.mkdir(parents=True)
        if name is not None:
            (staged / name).touch()
        assert finish_swap(layout, DATE, wait=False)
        assert not staged.exists()


def test_nobody_waits_longer_because_the_clock_was_set_back(
    layout: Layout, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setattr(compaction, "LISTING_S", 5.0)
    publish(window_of(0), 1.0)
    compact_date(layout, DATE)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    monkeypatch.setattr(time, "sleep", waited.append)
    assert finish_swap(layout, DATE)
    assert waited == [5.0]


DATES = [f"2026-11-{day}" for day in range(10, 22)]
#: Of each date.
ROWS = 12


@pytest.fixture
def many(layout: Layout, publish: Publish) -> list[str]:
    """Dates with four windows of three trades each."""
    for date in DATES:
        for number in range(4):
            publish(window_of(number, date=date), 1.0, 2.0, 3.0)
    return DATES


def reading(read: Callable[[], int], stop: threading.Event, counts: list[int]) -> None:
    while not stop.is_set():
        counts.append(read())


@contextlib.contextmanager
def meanwhile(read: Callable[[], int]) -> Iterator[list[int]]:
    """Reads again and again, on another thread."""
    stop, counts = threading.Event(), list[int]()
    thread = threading.Thread(target=reading, args=(read, stop, counts))
    thread.start()
    try:
        yield counts
    finally:
        stop.set()
        thread.join(60)
    assert not thread.is_alive()


def test_our_reader_always_sees_the_same_count(layout: Layout, many: list[str]) -> None:
    """It does not need the old folder: it compares the inode before and after a listing."""

    def count() -> int:
        return len(read_trades("AAPL", data_dir=layout.root, columns=["price"], backend="pyarrow"))

    with meanwhile(count) as counts:
        for date in many:
            assert compact_date(layout, date) is not None
            assert finish_swap(layout, date)
    assert len(counts) > 1
    assert set(counts) == {ROWS * len(many)}


def count_by_polars(folder: Path) -> int:
    import polars as pl

    return int(pl.scan_parquet(folder).select(pl.len()).collect().item())


def test_a_hive_reader_sees_all_trades_once_or_gets_file_not_found(
    layout: Layout, many: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "LISTING_S", 5.0)
    gone = 0

    def count() -> int:
        nonlocal gone
        try:
            return count_by_polars(layout.dataset)
        except FileNotFoundError:
            gone += 1
            return ROWS * len(many)

    count()  # polars is imported
    with meanwhile(count) as counts:
        for date in many:
            assert compact_date(layout, date) is not None
            finish_swap(layout, date, wait=False)
    assert len(counts) > gone
    assert set(counts) == {ROWS * len(many)}


def test_a_reader_that_skips_vanished_files_sees_no_trade_twice_and_no_part_of_a_date(
    layout: Layout, many: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pyarrow and DuckDB look at each listed name, and skip names that are gone by then.

    If all names of a date are, they miss the date: no rename can prevent that (docs/reading.md).
    """
    monkeypatch.setattr(compaction, "LISTING_S", 5.0)

    def count() -> int:
        try:
            return int(ds.dataset(layout.dataset, partitioning="hive").count_rows())
        except FileNotFoundError:
            return ROWS * len(many)

    with meanwhile(count) as counts:
        for date in many:
            assert compact_date(layout, date) is not None
            finish_swap(layout, date, wait=False)
    assert ROWS * len(many) in counts
    assert all(each <= ROWS * len(many) and each % ROWS == 0 for each in counts)
