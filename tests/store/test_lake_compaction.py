"""A lake that is compacted: at any moment, its readers see each trade once."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pytest

from stocktrace.clock import Clock
from stocktrace.errors import ConversionError, LakeError
from stocktrace.intervals import CoverageInterval
from stocktrace.store import compaction
from stocktrace.store import lake as lake_module
from stocktrace.store.coverage import read_coverage_files, write_coverage
from stocktrace.store.footer import read_windows
from stocktrace.store.lake import Lake
from stocktrace.store.lake_compaction import (
    LEASE_S,
    MergedDate,
    delete_replaced,
    hold_lease,
    merge_lake_coverage,
    merge_lake_date,
)
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId, day_number
from stocktrace.store.source import read_rows
from stocktrace.store.trade_file import FileFormat
from stocktrace.units import NS_PER_SECOND
from tests.conftest import NOON, SESSION, tree
from tests.sampling import SAMPLED, Pick
from tests.tables import put, table_of

DATE = "2026-11-23"
OTHER = "20261123T150000Z_aaaaaa"
FOLDER = f"parquet/date={DATE}"
DAY = f"{FOLDER}/day-00001.parquet"
NEXT = f"{FOLDER}/day-00002.parquet"


class Killed(BaseException):
    """The process is no more."""


class Store(pafs.FileSystemHandler):  # type: ignore[misc]
    """A store on this disk: files appear when they are closed; the request after ``last`` kills."""

    def __init__(self, last: int = 10**6) -> None:
        self.disk = pafs.LocalFileSystem()
        self.left = last
        self.on_read: Callable[[str], None] = lambda _: None

    def _request(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Killed

    def get_type_name(self) -> str:
        return "store"

    def normalize_path(self, path: str) -> str:
        return path

    def get_file_info(self, paths: list[str]) -> Any:
        self._request()
        return self.disk.get_file_info(paths)

    def get_file_info_selector(self, selector: pafs.FileSelector) -> Any:
        self._request()
        return self.disk.get_file_info(selector)

    def create_dir(self, path: str, recursive: bool) -> None:
        self._request()
        self.disk.create_dir(path, recursive=recursive)

    def open_output_stream(self, path: str, metadata: object) -> pa.NativeFile:
        written = pa.BufferOutputStream()
        request = self._request

        class Sink:
            closed = False

            def write(self, data: Any) -> int:
                return int(written.write(data) or len(data))

            def flush(self) -> None:
                pass

            def close(self) -> None:
                self.closed = True
                request()
                Path(path).parent.mkdir(parents=True, exist_ok=True)
                Path(path).write_bytes(written.getvalue())

        return pa.PythonFile(Sink(), "w")

    def open_input_file(self, path: str) -> pa.NativeFile:
        self._request()
        self.on_read(path)
        return pa.BufferReader(Path(path).read_bytes())

    def move(self, source: str, target: str) -> None:
        self._request()
        Path(source).replace(target)

    def delete_file(self, path: str) -> None:
        self._request()
        self.disk.delete_file(path)

    def _not_asked(self, *_: object) -> None:
        raise NotImplementedError

    delete_dir = delete_dir_contents = delete_root_dir_contents = copy_file = _not_asked
    open_input_stream = open_append_stream = _not_asked


@dataclass
class World:
    """A lake on this disk, by its real name and behind a ``Store``."""

    root: Path
    scratch: Path

    def lake(self, store: Store | None = None) -> Lake:
        files = pafs.PyFileSystem(store or Store())
        return Lake("store://lake", files, str(self.root))

    def publish(self, number: int, *prices: float, session: str = SESSION) -> WindowId:
        window = WindowId(session, f"20261123T14{30 + number}00Z_{number + 1:05}")
        for ticker in ("AAPL", "7203"):
            rows = [(NOON // 10**6 + at, price, 1.0, "1") for at, price in enumerate(prices)]
            put(Layout(self.root), ticker, window, table_of(rows))
        return window

    def prices(self, lake: Lake | None = None) -> dict[str, list[float]]:
        table = read_rows(lake or self.lake(), [DATE], ["symbol", "price"])
        found: dict[str, list[float]] = {}
        for row in table.to_pylist():
            found.setdefault(row["symbol"], []).append(row["price"])
        return found

    def compact(self, store: Store | None = None) -> MergedDate:
        self.scratch.mkdir()
        try:
            with hold_lease(self.lake(store)) as lease:
                merged = merge_lake_date(lease, DATE, self.scratch)
                delete_replaced(lease, merged)
                return merged
        finally:
            shutil.rmtree(self.scratch)

    def expire_leases(self) -> None:
        for path in self.root.glob("compacting/*"):
            os.utime(path, (0, 0))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "lake", tmp_path / "scratch")


def both(*prices: float) -> dict[str, list[float]]:
    return {"AAPL": list(prices), "7203": list(prices)}


def test_the_files_of_a_date_become_one_with_the_rows_in_order(world: World) -> None:
    windows = [world.publish(0, 1.0, 2.0), world.publish(1, 3.0)]
    windows += [world.publish(0, 9.0, session=OTHER)]
    assert world.lake().uncompacted_dates("parquet") == {DATE}
    done = world.compact().done
    assert done is not None
    assert (done.files, done.rows) == (3, 8)
    assert tree(world.root) == [DAY]
    assert list(read_windows(world.root / DAY)) == windows
    assert world.prices() == both(1.0, 2.0, 3.0, 9.0)
    assert world.lake().uncompacted_dates("parquet") == set()
    before = (world.root / DAY).read_bytes()
    assert world.compact() == MergedDate(None, [])
    assert (world.root / DAY).read_bytes() == before


def test_a_late_window_is_read_and_the_next_run_merges_it(world: World) -> None:
    world.publish(0, 1.0)
    world.publish(2, 5.0)
    world.compact()
    world.publish(1, 3.0)
    assert sorted(world.prices()["AAPL"]) == [1.0, 3.0, 5.0]
    assert world.lake().uncompacted_dates("parquet") == {DATE}
    world.compact()
    assert tree(world.root) == [NEXT]
    assert world.prices() == both(1.0, 3.0, 5.0)


def test_a_window_that_is_sent_again_is_not_read_twice(world: World) -> None:
    world.publish(0, 1.0)
    world.publish(1, 3.0)
    world.compact()
    world.publish(1, 3.0)
    assert world.prices() == both(1.0, 3.0)
    assert world.compact().done is None
    assert tree(world.root) == [DAY]


@pytest.mark.parametrize("has_late_window", [False, True])
def test_a_window_that_is_sent_again_with_other_rows_is_an_error_and_stays(
    world: World, has_late_window: bool
) -> None:
    world.publish(0, 1.0)
    world.publish(1, 3.0)
    world.compact()
    world.publish(1, 4.0)
    if has_late_window:
        world.publish(2, 5.0)
    before = tree(world.root)
    with pytest.raises(ConversionError, match="have different rows: delete the wrong one"):
        world.compact()
    assert tree(world.root) == before
    assert world.prices() == both(1.0, 3.0, *([5.0] if has_late_window else []))


def test_damaged_rows_are_an_error_and_stay(world: World) -> None:
    window = world.publish(0, 1.0)
    path = Layout(world.root).window_file(window)
    damaged = bytearray(path.read_bytes())
    damaged[80] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(ConversionError):
        world.compact()
    assert tree(world.root) == [str(path.relative_to(world.root))]


# --- killed ----------------------------------------------------------------------------------


def new_ones(world: World) -> None:
    world.publish(0, 1.0, 2.0)
    world.publish(1, 3.0, 4.0)
    world.publish(2, 5.0)


def late_one(world: World) -> None:
    world.publish(0, 1.0, 2.0)
    world.publish(2, 5.0)
    world.compact()
    world.publish(1, 3.0, 4.0)


#: Which files there are, whether the day is in parts, and whether a file appears when it is whole.
CASES = list(itertools.product([new_ones, late_one], [False, True], [True, False]))
OFTEN = [(new_ones, False, False), (late_one, False, True)]


@pytest.mark.parametrize(
    ("prepare", "is_in_parts", "store_has_whole_files"),
    [pytest.param(*each, marks=() if each in OFTEN else pytest.mark.slow) for each in CASES],
)
@SAMPLED
def test_killed_at_any_request_readers_see_each_trade_once_and_the_next_run_finishes(
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    prepare: Callable[[World], None],
    is_in_parts: bool,
    store_has_whole_files: bool,
    pick: Pick,
) -> None:
    if store_has_whole_files:
        monkeypatch.setattr(lake_module, "_ATOMIC_UPLOADS", {"py::store"})
    monkeypatch.setattr(compaction, "DATE_FORMAT", FileFormat(3, 2))
    if is_in_parts:
        monkeypatch.setattr(compaction, "MAX_BYTES", 1)
    prepare(world)
    wanted = {name: [1.0, 2.0, 3.0, 4.0, 5.0] for name in ("7203", "AAPL")}

    def kill(last: int) -> tuple[World, int]:
        """Compact a copy of the lake until the request ``last``; gives the requests left."""
        copy = World(tmp_path / f"killed-{last}", tmp_path / "scratch")
        shutil.copytree(world.root, copy.root)
        store = Store(last)
        with contextlib.suppress(Killed):
            copy.compact(store)
        return copy, store.left

    whole, left = kill(1000)
    assert 10 < 1000 - left < 100
    assert (len(tree(whole.root)) > 1) == is_in_parts
    for last in pick(range(1000 - left)):
        killed, _ = kill(last)
        rows = {name: sorted(prices) for name, prices in killed.prices().items()}
        assert rows == wanted, last
        killed.expire_leases()
        killed.compact()
        assert killed.prices() == wanted, last
        names = [Path(name) for name in tree(killed.root)]
        assert len(names) == len(tree(whole.root)), (last, names)
        assert len(set(map(day_number, names))) == 1, (last, names)


# --- coverage --------------------------------------------------------------------------------


def record_coverage(world: World, session: str, *seconds: int) -> Path:
    """Write the coverage of a session that listened to the first of the seconds given."""
    start = NOON
    spans = [CoverageInterval("AAPL", start, start + seconds[0] * 10**9, "")]
    spans += [
        CoverageInterval("AAPL", start + begin * 10**9, start + end * 10**9, "reset by peer")
        for begin, end in itertools.pairwise(seconds)
    ]
    (path,) = write_coverage(Layout(world.root), session, spans)
    return path


def coverage(world: World) -> list[dict[str, Any]]:
    lake = world.lake()
    tables = read_coverage_files(lake.coverage_files([DATE]), lake.files)
    return sorted(pa.concat_tables(tables).to_pylist(), key=str)


def merge_coverage(world: World, store: Store | None = None) -> None:
    try:
        with hold_lease(world.lake(store)) as lease:
            merge_lake_coverage(lease, DATE, world.scratch)
    finally:
        shutil.rmtree(world.scratch, ignore_errors=True)


def test_killed_while_coverage_is_merged_readers_see_each_interval_once(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lake_module, "_ATOMIC_UPLOADS", {"py::store"})
    record_coverage(world, SESSION, 10, 20)
    merge_coverage(world)
    record_coverage(world, OTHER, 5, 9)
    record_coverage(world, SESSION, 15, 20, 30)  # it was recovered again
    wanted = coverage(world)
    assert [row["session"] for row in wanted] == [SESSION] * 3 + [OTHER] * 2
    for last in itertools.count():
        killed = World(tmp_path / f"killed-{last}", tmp_path / "scratch")
        shutil.copytree(world.root, killed.root)
        store = Store(last)
        with contextlib.suppress(Killed):
            merge_coverage(killed, store)
        assert coverage(killed) == wanted, last
        killed.expire_leases()
        merge_coverage(killed)
        assert coverage(killed) == wanted, last
        assert len(tree(killed.root / "coverage")) == 1, last
        if store.left >= 0:
            break
    assert last > 10


def test_coverage_that_is_sent_while_it_is_merged_stays(world: World) -> None:
    record_coverage(world, SESSION, 10, 20)
    store = Store()

    def send_again(path: str) -> None:
        if path.endswith(f"{SESSION}.parquet"):
            os.utime(record_coverage(world, SESSION, 15, 20, 30), (1, 1))

    store.on_read = send_again
    before = record_coverage(world, SESSION, 10, 20).read_bytes()
    merge_coverage(world, store)
    assert len(tree(world.root / "coverage")) == 2
    assert len(coverage(world)) == 3
    assert Layout(world.root).coverage(SESSION, DATE).read_bytes() != before


# --- at the same time ------------------------------------------------------------------------


def test_a_reader_that_listed_the_date_before_lists_it_again(world: World) -> None:
    new_ones(world)
    store = Store()

    def compact_before_the_first_read(_: str) -> None:
        store.on_read = lambda _: None
        world.compact()

    store.on_read = compact_before_the_first_read
    assert world.prices(world.lake(store)) == both(1.0, 2.0, 3.0, 4.0, 5.0)
    assert tree(world.root) == [DAY]


def test_a_listing_in_several_answers_is_that_of_one_moment(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lake_module, "_ATOMIC_UPLOADS", {"py::store"})
    monkeypatch.setattr(lake_module, "_PAGE_FILES", 2)
    monkeypatch.setattr(compaction, "DATE_FORMAT", FileFormat(3, 2))
    monkeypatch.setattr(compaction, "MAX_BYTES", 1)
    new_ones(world)
    store, list_files = Store(), Store.get_file_info_selector

    def miss_a_part(self: Store, selector: pafs.FileSelector) -> Any:
        """Answer as if the second part had been sent after its page was listed."""
        monkeypatch.setattr(Store, "get_file_info_selector", list_files)
        world.compact()
        infos = self.get_file_info_selector(selector)
        return [info for info in infos if "-002" not in info.path]

    monkeypatch.setattr(Store, "get_file_info_selector", miss_a_part)
    found = world.lake(store).trade_files(DATE)
    assert [Path(file.path).name for file in found] == [
        "day-00001.parquet", *(f"day-00001-00{part}.parquet" for part in (2, 3, 4, 5)),
    ]  # fmt: skip


def test_one_process_compacts_a_lake_until_its_lease_expires(world: World) -> None:
    world.publish(0, 1.0)
    with hold_lease(world.lake()):
        with pytest.raises(LakeError, match=r"Another process compacts the lake store:"):
            world.compact()
        world.expire_leases()
        assert world.compact().done is not None
    assert tree(world.root) == [DAY]


def test_whoever_is_slower_than_its_lease_neither_sends_nor_deletes(world: World) -> None:
    window = world.publish(0, 1.0)
    seconds, store = [0.0], Store()
    clock = Clock(lambda: int(seconds[0] * NS_PER_SECOND), lambda: 0.0)

    def suspend(path: str) -> None:
        seconds[0] = LEASE_S / 2 if path.startswith(str(world.root / "parquet")) else 0.0

    store.on_read = suspend
    world.scratch.mkdir()
    with hold_lease(world.lake(store), clock) as lease:
        lease.check()
        with pytest.raises(LakeError, match="this machine was suspended: compact it again"):
            merge_lake_date(lease, DATE, world.scratch)
        with pytest.raises(LakeError, match="suspended"):
            delete_replaced(lease, MergedDate(None, world.lake().trade_files(DATE)))
    path = Layout(world.root).window_file(window)
    assert tree(world.root) == [str(path.relative_to(world.root))]
