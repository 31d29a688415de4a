from __future__ import annotations

import contextlib
import errno
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stocktrace.errors import ConversionError, DiskFull, LayoutError, StoreError
from stocktrace.query.trades import read_trades
from stocktrace.store import (
    checksum,
    compaction,
    conversion,
    files,
    footer,
    lock,
    parquet,
    partition,
)
from stocktrace.store.compaction import CompactedDay, compact_day, finish_swap
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId, day_number, is_day_file
from stocktrace.store.parquet import RowRangeReader
from stocktrace.trade import Trade
from tests.conftest import NOON, SESSION, published, tree
from tests.store.conftest import T

Seal = Callable[..., list[Path]]
Publish = Callable[..., Path]
DATE = "2026-11-23"
OTHER = "20261123T150000Z_aaaaaa"
FOLDER = f"parquet/date={DATE}/symbol=AAPL"


def part_of(number: int, session: str = SESSION) -> WindowId:
    return WindowId(session, f"20261123T14{30 + number}00Z_{number + 1:05}")


@pytest.fixture
def publish(layout: Layout, seal: Seal) -> Publish:
    """Publishes windows of AAPL, whose trades have the prices given; gives the file."""

    def publish(part: WindowId, *prices: float, ticker: str = "AAPL") -> Path:
        trades = [Trade(ticker, price, T + at, 1.0, ("1",)) for at, price in enumerate(prices)]
        (segment,) = seal(trades, part, NOON)
        converted = conversion.publish_segment(layout, segment)
        assert converted is not None
        return converted.path

    return publish


def prices(layout: Layout, ticker: str = "AAPL") -> list[float]:
    table = read_trades(ticker, data_dir=layout.root, backend="pyarrow")
    return list(table["price"].to_pylist())


# --- what comes of it ------------------------------------------------------------------------


def test_the_files_of_a_day_become_one_with_the_rows_in_order(
    layout: Layout, publish: Publish
) -> None:
    before = [publish(part_of(n), 10.0 * n + 1, 10.0 * n + 2).stat().st_size for n in range(3)]
    done = compact_day(layout, "AAPL", DATE)
    path = layout.root / FOLDER / "day-00001.parquet"
    assert done == CompactedDay("AAPL", DATE, path, 3, 6, sum(before), path.stat().st_size)
    assert tree(layout.root) == [f"{FOLDER}/day-00001.parquet"]
    assert prices(layout) == [1.0, 2.0, 11.0, 12.0, 21.0, 22.0]
    assert done.size < done.size_before / 2


def test_the_footer_of_a_compacted_file_lists_its_windows(layout: Layout, publish: Publish) -> None:
    parts = [part_of(n) for n in range(3)]
    told = [footer.read_footer(publish(part, n + 1.0))["content"] for n, part in enumerate(parts)]
    compact_day(layout, "AAPL", DATE)
    (path,) = (layout.root / FOLDER).iterdir()
    found = footer.read_footer(path)
    assert footer.parse_windows(found["parts"]) == [
        (part, 1, content) for part, content in zip(parts, told, strict=True)
    ]
    assert found["content"] == checksum.content_hash(parquet.read_trade_file(path)).hexdigest()
    assert found["rows"] == "3"


def test_compacting_what_is_compacted_changes_nothing(layout: Layout, publish: Publish) -> None:
    publish(part_of(0), 1.0)
    publish(part_of(1), 2.0)
    compact_day(layout, "AAPL", DATE)
    (path,) = (layout.root / FOLDER).iterdir()
    before = path.read_bytes()
    assert compact_day(layout, "AAPL", DATE) is None
    assert compact_day(layout, "MSFT", DATE) is None
    assert tree(layout.root) == [str(path.relative_to(layout.root))]
    assert path.read_bytes() == before


def test_windows_of_a_later_recovery_are_merged_in_order(layout: Layout, publish: Publish) -> None:
    publish(part_of(0), 1.0)
    publish(part_of(2), 3.0)
    compact_day(layout, "AAPL", DATE)
    late = publish(part_of(1), 2.0)
    assert sorted(prices(layout)) == [1.0, 2.0, 3.0]
    done = compact_day(layout, "AAPL", DATE)
    assert done is not None
    assert (done.files, done.rows, done.path.name) == (2, 3, "day-00002.parquet")
    assert prices(layout) == [1.0, 2.0, 3.0]
    assert not late.exists()


def test_two_sessions_of_a_day_follow_one_another_by_when_they_began(
    layout: Layout, publish: Publish
) -> None:
    publish(part_of(1, OTHER), 3.0)
    publish(part_of(2, SESSION), 2.0)
    publish(part_of(0, OTHER), 2.5)
    publish(part_of(0, SESSION), 1.0)
    before = prices(layout)
    compact_day(layout, "AAPL", DATE)
    assert prices(layout) == before == [1.0, 2.0, 2.5, 3.0]


def test_other_readers_get_the_same_trades(layout: Layout, publish: Publish) -> None:
    for ticker in ("AAPL", "BRK.B", "7203", "FXCM:EUR/USD"):
        for number in range(3):
            publish(part_of(number), number + 1.0, ticker=ticker)
    before = published(layout.root)
    for ticker in before:
        assert compact_day(layout, ticker, DATE) is not None
    assert published(layout.root) == before


def test_row_groups_are_cut_so_that_an_hour_can_be_read_by_itself(
    layout: Layout, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "COMPACTED_ROW_GROUP", 4)
    for number in range(5):
        publish(part_of(number), *(10.0 * number + at + 1 for at in range(3)))
    done = compact_day(layout, "AAPL", DATE)
    assert done is not None
    facts = pq.read_metadata(done.path)
    assert [facts.row_group(at).num_rows for at in range(facts.num_row_groups)] == [4, 4, 4, 3]
    held = partition.list_window_rows(done.path.parent)
    with RowRangeReader(done.path) as file:
        for number in (3, 0, 4, 2, 1):
            rows = pa.Table.from_batches(file.rows(held[number].offset, held[number].rows))
            assert rows["price"].to_pylist() == [10.0 * number + at + 1 for at in range(3)]


@given(st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=5), min_size=1, max_size=6))
def test_a_list_of_windows_is_read_as_it_was_written(rows: list[list[int]]) -> None:
    parts = [
        (part_of(number, f"2026112{session % 10}T143000Z_3f9a1c"), count, f"{count:032x}")
        for session, counts in enumerate(rows)
        for number, count in enumerate(counts)
    ]
    assert footer.parse_windows(footer.format_windows(parts)) == parts


@pytest.mark.parametrize("number", [1, 99_999, 100_000])
def test_the_name_of_a_days_file_has_one_grammar(number: int) -> None:
    path = Path(f"day-{number:05}.parquet")
    assert is_day_file(path)
    assert day_number(path) == number


@pytest.mark.parametrize("name", ["day-1.parquet", "day-00001.csv", "Day-00001.parquet", "day-"])
def test_a_file_with_another_name_is_not_the_file_of_a_day(name: str) -> None:
    assert not is_day_file(Path(name))
    with pytest.raises(LayoutError):
        day_number(Path(name))


# --- what must not happen --------------------------------------------------------------------


def test_a_window_that_is_compacted_is_not_published_again(
    layout: Layout, publish: Publish, seal: Seal
) -> None:
    publish(part_of(0), 1.0)
    publish(part_of(1), 2.0)
    compact_day(layout, "AAPL", DATE)
    path = publish(part_of(1), 2.0)  # its segment came back, as from a backup
    assert is_day_file(path)
    assert tree(layout.root) == [f"{FOLDER}/day-00001.parquet"]
    (segment,) = seal([Trade("AAPL", 5.0, T, 1.0)], part_of(1), NOON)
    with pytest.raises(ConversionError, match="holds other rows than"):
        conversion.publish_segment(layout, segment)
    assert prices(layout) == [1.0, 2.0]


def test_a_damaged_file_stops_compaction_and_nothing_changes(
    layout: Layout, publish: Publish
) -> None:
    publish(part_of(0), 1.0)
    path = publish(part_of(1), *(float(n) for n in range(1, 300)))
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 3] ^= 4
    path.write_bytes(damaged)
    before = tree(layout.root)
    with pytest.raises(ConversionError):
        compact_day(layout, "AAPL", DATE)
    assert tree(layout.root) == before


def test_a_file_whose_rows_differ_from_its_footer_stops_compaction(
    layout: Layout, publish: Publish
) -> None:
    first, second = publish(part_of(0), 1.0), publish(part_of(1), 2.0)
    told = footer.read_footer(first)["content"]
    with pq.ParquetFile(second) as file, parquet.trade_writer(first) as other:
        other.write_table(file.read())
        other.add_key_value_metadata({"stocktrace.content": told})
    with pytest.raises(ConversionError, match="do not match the hash in the footer"):
        compact_day(layout, "AAPL", DATE)
    assert first.exists()
    assert second.exists()


def test_a_file_that_is_written_wrongly_replaces_nothing(
    layout: Layout, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(part_of(0), 1.0)
    publish(part_of(1), 2.0)
    before = tree(layout.root)
    write = pq.ParquetWriter.write_table
    reverse = lambda self, table, size: write(self, table.take([1, 0]), size)  # noqa: E731
    monkeypatch.setattr(pq.ParquetWriter, "write_table", reverse)
    with pytest.raises(ConversionError, match="does not hold the rows that were written"):
        compact_day(layout, "AAPL", DATE)
    assert tree(layout.root) == before


def test_a_window_that_exists_twice_is_an_error(layout: Layout, publish: Publish) -> None:
    first = publish(part_of(0), 1.0)
    copy = first.read_bytes()
    compact_day(layout, "AAPL", DATE)
    first.write_bytes(copy)
    with pytest.raises(ConversionError, match="twice"):
        compact_day(layout, "AAPL", DATE)


def test_a_file_that_is_not_ours_stops_compaction_and_stays(
    layout: Layout, publish: Publish
) -> None:
    path = publish(part_of(0), 1.0)
    stranger = path.with_name("notes.txt")
    stranger.write_text("mine")
    with pytest.raises(StoreError, match=r"notes\.txt is not a file of stocktrace"):
        compact_day(layout, "AAPL", DATE)
    assert stranger.read_text() == "mine"
    assert path.exists()


def test_a_window_that_is_published_during_compaction_is_not_lost(
    layout: Layout, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(part_of(0), 1.0)
    publish(part_of(2), 3.0)
    check = compaction._check_written

    def late(*arguments: Any) -> None:
        publish(part_of(1), 2.0)
        check(*arguments)

    monkeypatch.setattr(compaction, "_check_written", late)
    assert compact_day(layout, "AAPL", DATE) is None
    assert prices(layout) == [1.0, 2.0, 3.0]
    monkeypatch.undo()
    done = compact_day(layout, "AAPL", DATE)
    assert done is not None
    assert done.files == 3


def test_a_conversion_waits_until_the_folders_are_swapped(layout: Layout, publish: Publish) -> None:
    publish(part_of(0), 1.0)
    date = layout.root / "parquet" / f"date={DATE}"
    with lock.lock_folder(date, exclusive=True):
        late = threading.Thread(target=publish, args=(part_of(1), 2.0))
        late.start()
        late.join(0.1)
        assert late.is_alive()
    late.join(30)
    assert prices(layout) == [1.0, 2.0]


def test_a_file_system_that_cannot_swap_is_an_error_and_nothing_changes(
    layout: Layout, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(part_of(0), 1.0)
    publish(part_of(1), 2.0)
    before = tree(layout.root)
    monkeypatch.setattr(files, "_swap", lambda _one, _other: errno.EXDEV)
    with pytest.raises(StoreError, match="cannot swap two folders"):
        compact_day(layout, "AAPL", DATE)
    assert tree(layout.root) == before


def test_missing_folders_cannot_be_swapped(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="No such file"):
        files.swap_folders(tmp_path / "one", tmp_path / "other")


def test_a_full_disk_is_told_and_nothing_changes(
    layout: Layout, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    publish(part_of(0), 1.0)
    publish(part_of(1), 2.0)
    before = tree(layout.root)
    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    with pytest.raises(DiskFull):
        compact_day(layout, "AAPL", DATE)
    assert tree(layout.root) == before


# --- killed ----------------------------------------------------------------------------------


class Killed(BaseException):
    """The process is no more."""


class Life:
    """Counts the calls that change or sync something; from the given one on, none is made."""

    CALLS = ("mkdir", "open", "fsync", "unlink", "rmdir", "rename", "replace")

    def __init__(self, patch: pytest.MonkeyPatch, last: int) -> None:
        self.left = last
        for name in self.CALLS:
            patch.setattr(os, name, self._counted(getattr(os, name)))
        patch.setattr(files, "swap_folders", self._counted(files.swap_folders))
        for name in ("write_table", "add_key_value_metadata"):
            whole = self._counted(getattr(pq.ParquetWriter, name))
            patch.setattr(pq.ParquetWriter, name, whole)

    def _counted(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            self.left -= 1
            if self.left < 0:
                raise Killed
            return call(*arguments, **options)

        return counted


@pytest.fixture
def three(layout: Layout, publish: Publish) -> Layout:
    """Two windows that are one file, and a late one."""
    publish(part_of(0), 1.0, 2.0)
    publish(part_of(2), 5.0)
    compact_day(layout, "AAPL", DATE)
    publish(part_of(1), 3.0, 4.0)
    return layout


def test_killed_at_any_call_readers_see_each_trade_once_and_the_next_run_finishes(
    three: Layout, tmp_path: Path
) -> None:
    for last in range(200):
        layout = Layout(tmp_path / f"killed-{last}")
        shutil.copytree(three.root / "parquet", layout.root / "parquet")
        with pytest.MonkeyPatch.context() as patch:
            life = Life(patch, last)
            with contextlib.suppress(Killed):
                compact_day(layout, "AAPL", DATE)
        assert sorted(prices(layout)) == [1.0, 2.0, 3.0, 4.0, 5.0], last
        assert sorted(row[1] for row in published(layout.root)["AAPL"]) == [1, 2, 3, 4, 5], last
        compact_day(layout, "AAPL", DATE)
        assert prices(layout) == [1.0, 2.0, 3.0, 4.0, 5.0]
        assert tree(layout.root) == [f"{FOLDER}/day-00002.parquet"], last
        assert not list(layout.root.glob("compacting/*")), last
        if life.left >= 0:
            break
    assert 15 < last < 200


def test_an_incomplete_file_of_a_killed_run_is_deleted(three: Layout) -> None:
    staged = three.compaction_staging("AAPL", DATE)
    staged.mkdir(parents=True)
    (staged / "day-00002.parquet").write_bytes(b"PAR1 and no more")
    done = compact_day(three, "AAPL", DATE)
    assert done is not None
    assert tree(three.root) == [f"{FOLDER}/day-00002.parquet"]
    assert prices(three) == [1.0, 2.0, 3.0, 4.0, 5.0]


def test_an_old_folder_with_a_window_that_the_dataset_lacks_is_kept(
    layout: Layout, publish: Publish
) -> None:
    path = publish(part_of(0), 1.0)
    staged = layout.compaction_staging("AAPL", DATE)
    staged.mkdir(parents=True)
    shutil.copy(path, staged / f"{part_of(1).stem}.parquet")
    with pytest.raises(StoreError, match="does not: move the file there"):
        finish_swap(layout, "AAPL", DATE)
    assert (staged / f"{part_of(1).stem}.parquet").exists()


# --- beside readers --------------------------------------------------------------------------


@pytest.fixture
def many(layout: Layout, publish: Publish) -> list[str]:
    """Tickers with four windows of three trades each."""
    tickers = [f"T{number}" for number in range(12)]
    for ticker in tickers:
        for number in range(4):
            publish(part_of(number), 1.0, 2.0, 3.0, ticker=ticker)
    return tickers


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
    def count() -> int:
        return len(read_trades(many, data_dir=layout.root, columns=["price"], backend="pyarrow"))

    with meanwhile(count) as counts:
        for ticker in many:
            assert compact_day(layout, ticker, DATE) is not None
    assert len(counts) > 1
    assert set(counts) == {12 * len(many)}


def test_a_hive_reader_sees_all_trades_once_or_gets_file_not_found(
    layout: Layout, many: list[str]
) -> None:
    gone = 0

    def count() -> int:
        nonlocal gone
        try:
            return int(ds.dataset(layout.dataset, partitioning="hive").count_rows())
        except FileNotFoundError:
            gone += 1
            return 12 * len(many)

    with meanwhile(count) as counts:
        for ticker in many:
            assert compact_day(layout, ticker, DATE) is not None
    assert len(counts) > gone
    assert set(counts) == {12 * len(many)}
