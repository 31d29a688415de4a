from __future__ import annotations

import gc
import itertools
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from stocktrace.errors import ConversionError, StoreError
from stocktrace.marks import OpeningMark
from stocktrace.record import publish as module
from stocktrace.record.publish import publish_window, rebuild_window
from stocktrace.sessions.report import Books
from stocktrace.simulator import synthetic_frames
from stocktrace.store import conversion, lock
from stocktrace.store.conversion import PublishedFile
from stocktrace.store.dataset import PublishedRows
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId
from stocktrace.store.quarantine import parse_quarantine
from stocktrace.store.segments import SegmentWriter
from stocktrace.store.tape import TapeWriter
from tests.conftest import NOON, SESSION, WINDOW, frame, published, sent, tree
from tests.opened import opened_below
from tests.tables import put, table_of

PART = WindowId(SESSION, WINDOW)
STEM = PART.stem
TAPE = f"tape/{SESSION}/{WINDOW}.tape"
ARCHIVED = f"{TAPE}.zst"
FINAL = f"parquet/date=2026-11-23/{STEM}.parquet"


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path)


def tape(layout: Layout, frames: Sequence[bytes], reads: int = 1, part: WindowId = PART) -> None:
    """A tape of ``frames``, ``reads`` to a read of the socket."""
    writer = TapeWriter(layout.tape(part))
    writer.append_mark(OpeningMark(NOON, session=SESSION, connected=True, tickers=()))
    for n in range(0, len(frames), reads):
        writer.append(NOON + n * 1000, frames[n : n + reads])
    writer.close()


def test_an_incomplete_window_is_rebuilt_from_its_tape(layout: Layout) -> None:
    frames = [frame(("A", 1), ("B", -1)), b'{"type":"ping"}', b"?", frame(("A", 2))]
    tape(layout, frames)
    done = publish_window(layout, PART, whole=False)
    assert done.rebuilt_window is not None
    assert done.rebuilt_window.books == Books(4, 2, 1, 1, trades=3, recorded=2, quarantined=1)
    size = layout.window_file(PART).stat().st_size
    assert done.file == PublishedFile(layout.window_file(PART), {"A": 2}, size)
    assert tree(layout.root) == [FINAL, f"quarantine/{STEM}.jsonl", ARCHIVED]
    assert published(layout.root) == {"A": sent([frames[0], frames[3]])["A"]}
    text = layout.quarantine(PART).read_text()
    reasons = {refused.reason.partition(":")[0] for refused in parse_quarantine(text.splitlines())}
    assert reasons == {"price", "not JSON"}


@pytest.mark.parametrize("reads", [1, 7, 5000])
def test_a_rebuild_returns_every_trade_that_was_sent(
    layout: Layout, monkeypatch: pytest.MonkeyPatch, reads: int
) -> None:
    monkeypatch.setattr(module, "_BATCH_BYTES", 5000)
    monkeypatch.setattr(module, "_BATCH_ROWS", 500)
    frames = [each for _, each in synthetic_frames(["A", "B:C", "OANDA:EUR_USD", "7"], 5000)]
    frames[100:100] = [b'{"type":"ping"}', b"?", b'{"type":"error","msg":"no"}']
    tape(layout, frames, reads)
    done = publish_window(layout, PART, whole=False)
    assert done.rebuilt_window is not None
    assert done.rebuilt_window.books.recorded == 5000
    assert done.rebuilt_window.errors == {"no": 1}
    wanted = [each for n, each in enumerate(frames) if n != 101]
    assert published(layout.root) == sent(wanted)


def test_a_published_window_leaves_nothing_in_memory_for_the_garbage_collector(
    layout: Layout,
) -> None:
    """A capture looks for reference cycles so rarely that a month of them would pile up."""
    tape(layout, [frame(("A", 1))])
    publish_window(layout, PART, whole=False)  # the first imports modules
    part = WindowId(PART.session, f"{PART.window[:-1]}2")
    tape(layout, [frame(("A", 2))], part=part)
    gc.collect()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        assert publish_window(layout, part, whole=False).file is not None
        gc.collect()
        # Other tests may have left threads that make garbage of other kinds.
        left = {type(each) for each in gc.garbage if type(each).__module__.startswith("pyarrow")}
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
    assert left == set()


def test_publishing_again_changes_nothing(layout: Layout) -> None:
    tape(layout, [frame(("A", 1))])
    publish_window(layout, PART, whole=False)
    before = {name: (layout.root / name).stat().st_mtime_ns for name in tree(layout.root)}
    again = publish_window(layout, PART)
    assert (again.file, again.rebuilt_window) == (None, None)
    once_more = publish_window(layout, PART, whole=False)
    assert once_more.rebuilt_window is not None
    assert once_more.rebuilt_window.books.recorded == 1
    after = {name: (layout.root / name).stat().st_mtime_ns for name in tree(layout.root)}
    assert after == before


def test_whatever_a_power_cut_left_of_segments_is_written_again_from_the_tape(
    layout: Layout,
) -> None:
    frames = [frame(("A", 1), ("B", 2), ("C", 3))]
    tape(layout, frames)
    rebuild_window(layout, PART)
    layout.csv("A", PART).write_bytes(b"")
    layout.csv("B", PART).write_bytes(bytes(layout.csv("B", PART).stat().st_size))
    layout.csv("C", PART).rename(layout.open_csv("C", PART))
    ghost = layout.csv("GHOST", PART)
    ghost.parent.mkdir(parents=True)
    ghost.write_text("its trades are not on the tape")
    done = publish_window(layout, PART, whole=False)
    assert done.rebuilt_window is not None
    assert {
        name: one.recorded for name, one in done.rebuilt_window.tickers.items()
    } == dict.fromkeys("ABC", 1)
    assert tree(layout.root) == [FINAL, ARCHIVED]
    assert published(layout.root) == sent(frames)


def test_segments_that_are_left_of_a_published_window_are_deleted_if_they_agree(
    layout: Layout,
) -> None:
    frames = [frame(("A", 1), ("B", 2), ("C", 3))]
    tape(layout, frames)
    rebuild_window(layout, PART)
    left = {ticker: layout.csv(ticker, PART).read_bytes() for ticker in "AC"}
    publish_window(layout, PART)
    before = layout.window_file(PART).stat().st_mtime_ns
    for ticker, text in left.items():
        layout.csv(ticker, PART).write_bytes(text)
    done = publish_window(layout, PART, whole=False)
    assert done.file is not None
    assert done.file.rows == {"A": 1, "B": 1, "C": 1}
    assert tree(layout.root) == [FINAL, ARCHIVED]
    assert layout.window_file(PART).stat().st_mtime_ns == before
    layout.csv("C", PART).write_bytes(left["C"].replace(b",3,", b",4,"))
    with pytest.raises(ConversionError, match="holds other rows"):
        publish_window(layout, PART)
    assert tree(layout.root) == [f"csv/C/{STEM}.csv", FINAL, ARCHIVED]


def test_duplicates_are_counted_when_their_window_is_published(layout: Layout) -> None:
    """Again, too: a retry of a window that was killed late counts the same."""
    tape(layout, [each for n in range(1, 41) for each in [frame(("A", n)), frame(("B", n))] * 2])
    assert publish_window(layout, PART, whole=False).duplicates == {"A": 40, "B": 40}
    assert publish_window(layout, PART).duplicates == {"A": 40, "B": 40}


def test_duplicates_of_many_tickers_are_counted_in_few_reads(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stocktrace.query.duplicates._TICKERS_READ", 3)
    names = "ABCDEFGH"
    sent = [frame(*((name, n) for name in names)) for n in range(1, 41)]
    once = [frame(("C2", n)) for n in range(1, 41)]
    tape(layout, [each for two in zip(sent, once, strict=True) for each in (*two, two[0])])
    reads: list[Sequence[str]] = []
    read = PublishedRows.read

    def counted(self: PublishedRows, tickers: Sequence[str]) -> Iterator[pa.Table]:
        reads.append(tickers)
        return read(self, tickers)

    monkeypatch.setattr(PublishedRows, "read", counted)
    counts = publish_window(layout, PART, whole=False).duplicates
    assert counts == dict.fromkeys(names, 40)
    assert reads == [["A", "B", "C"], ["D", "E", "F"], ["G", "H"]]


def test_publishing_a_window_opens_no_file_of_another_one(layout: Layout) -> None:
    others = [WindowId(SESSION, f"20261123T14{n}000Z_0000{n}") for n in range(2, 5)]
    others += [WindowId("20261123T100000Z_aaaaaa", "20261123T100000Z_00001")]
    for other in others:
        put(layout, "A", other, table_of([(NOON // 10**6, 1.0, 1.0, "")]))
    tape(layout, [frame(("A", 1))])
    with opened_below([layout.dataset]) as opened:
        publish_window(layout, PART, whole=False)
    assert layout.window_file(PART) in opened
    assert not opened & {layout.window_file(other) for other in others}


def test_an_open_segment_of_a_ticker_that_is_not_on_the_tape_is_deleted(layout: Layout) -> None:
    tape(layout, [frame(("A", 1))])
    ghost = layout.open_csv("GHOST", PART)
    ghost.parent.mkdir(parents=True)
    ghost.write_text("half")
    publish_window(layout, PART, whole=False)
    assert tree(layout.root) == [FINAL, ARCHIVED]


def test_an_archived_tape_can_be_rebuilt_from_too(layout: Layout) -> None:
    frames = [frame(("A", 1))]
    tape(layout, frames)
    publish_window(layout, PART, whole=False)
    layout.window_file(PART).unlink()
    publish_window(layout, PART, whole=False)
    assert published(layout.root) == sent(frames)


@pytest.mark.parametrize("second_is_whole", [False, True])
def test_66_a_window_that_is_published_twice_at_once_has_each_trade_once(
    layout: Layout, monkeypatch: pytest.MonkeyPatch, second_is_whole: bool
) -> None:
    monkeypatch.setattr(module, "_BATCH_BYTES", 1)
    monkeypatch.setattr(module, "_BATCH_ROWS", 1)
    frames = [frame(("A", n), ("B", n)) for n in range(1, 6)]
    tape(layout, frames)
    write, folder = SegmentWriter.write, lock.lock_folder
    at_work, go_on, writes = threading.Event(), threading.Event(), itertools.count(1)

    def writing(*arguments: Any) -> None:
        write(*arguments)
        if next(writes) == 3:
            at_work.set()
            assert go_on.wait(30)

    def asking(path: Path, *, exclusive: bool) -> AbstractContextManager[None]:
        if at_work.is_set() and path == layout.tapes(SESSION):
            go_on.set()
        return folder(path, exclusive=exclusive)

    monkeypatch.setattr(SegmentWriter, "write", writing)
    monkeypatch.setattr(lock, "lock_folder", asking)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(publish_window, layout, PART, whole=False)
        assert at_work.wait(30)
        second = pool.submit(publish_window, layout, PART, whole=second_is_whole)
        second.add_done_callback(lambda _: go_on.set())
        done = [each.result(60) for each in (first, second)]
    assert {
        one.rebuilt_window.books.recorded for one in done if one.rebuilt_window is not None
    } == {10}
    assert [one.file.rows for one in done if one.file is not None] == [{"A": 5, "B": 5}]
    assert published(layout.root) == sent(frames)
    assert tree(layout.root) == [FINAL, ARCHIVED]


def test_66_a_window_waits_for_a_process_that_publishes_another_of_its_session(
    layout: Layout,
) -> None:
    tape(layout, [frame(("A", 1))])
    program = (
        "import pathlib, sys\n"
        "from stocktrace.record.publish import publish_window\n"
        "from stocktrace.store import lock\n"
        "from stocktrace.store.layout import Layout\n"
        "from stocktrace.store.names import WindowId\n"
        "lock_folder = lock.lock_folder\n"
        "def lock_and_print(path, **options):\n"
        "    print(path.name, flush=True)\n"
        "    return lock_folder(path, **options)\n"
        "lock.lock_folder = lock_and_print\n"
        "layout = Layout(pathlib.Path(sys.argv[1]))\n"
        "publish_window(layout, WindowId(*sys.argv[2:]), whole=False)\n"
    )
    with lock.publish_lock(layout, SESSION):
        other = subprocess.Popen(
            [sys.executable, "-c", program, layout.root, SESSION, WINDOW],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert other.stdout is not None
        assert other.stdout.readline() == f"{SESSION}\n"
        assert tree(layout.root) == [TAPE]
    other.communicate(timeout=60)
    assert other.returncode == 0
    assert tree(layout.root) == [FINAL, ARCHIVED]


def test_a_window_without_a_tape_is_converted_without_a_lock(layout: Layout) -> None:
    tape(layout, [frame(("A", 1))])
    rebuild_window(layout, PART)
    layout.tape(PART).unlink()
    layout.tapes(SESSION).rmdir()
    publish_window(layout, PART)
    assert tree(layout.root) == [FINAL]


KILLS = {
    "writing": (SegmentWriter, "write"),
    "sealing": (SegmentWriter, "seal"),
    "archiving": (module, "archive_tape"),
    "converting": (conversion, "convert_window"),
    "writing the file": (conversion, "write_window_file"),
    "publishing": (Path, "replace"),
    "deleting a segment": (conversion, "_delete_segment"),
    "renaming": (Path, "rename"),
}


@pytest.mark.parametrize("step", KILLS)
@pytest.mark.parametrize("survives", [0, 1])
def test_killed_at_any_step_the_next_run_publishes_each_trade_once(
    layout: Layout, monkeypatch: pytest.MonkeyPatch, step: str, survives: int
) -> None:
    frames = [frame(("A", 1), ("B", 2), ("C", 3), ("D", -1)), frame(("A", 4))]
    tape(layout, frames)
    target, name = KILLS[step]
    whole: Any = getattr(target, name)
    left = [survives]

    def killed(*arguments: Any, **options: Any) -> Any:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return whole(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(target, name, killed)
        for _ in range(2):
            try:
                publish_window(layout, PART, whole=False)
            except KeyboardInterrupt:
                continue
    publish_window(layout, PART, whole=False)
    wanted = sent(frames)
    del wanted["D"]
    assert published(layout.root) == wanted
    assert tree(layout.root) == [FINAL, f"quarantine/{STEM}.jsonl", ARCHIVED]


def test_one_segment_that_cannot_be_converted_fails_the_window_and_all_stay(layout: Layout) -> None:
    tape(layout, [frame(("A", 1), ("B", 2))])
    rebuild_window(layout, PART)
    path = layout.csv("B", PART)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ConversionError, match="is truncated"):
        publish_window(layout, PART)
    assert tree(layout.root) == [*(f"csv/{name}/{STEM}.csv" for name in "AB"), TAPE]
    publish_window(layout, PART, whole=False)
    assert tree(layout.root) == [FINAL, ARCHIVED]


def test_a_tape_that_cannot_be_archived_is_reported_and_stays(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise OSError(5, "Input/output error")

    tape(layout, [frame(("A", 1))])
    monkeypatch.setattr(Path, "replace", broken)
    with pytest.raises(StoreError):
        publish_window(layout, PART)
    assert tree(layout.root) == [TAPE]


def test_lines_of_the_tape_that_are_damaged_do_not_harm_the_others(layout: Layout) -> None:
    frames = [frame(("A", 1)), frame(("A", 2)), frame(("A", 3))]
    tape(layout, frames)
    path = layout.tape(PART)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[2] = b"9" + lines[2][1:]  # one flipped bit: a receive time after 2262
    path.write_bytes(b"".join(lines) + lines[1][:-5])
    done = publish_window(layout, PART, whole=False)
    assert done.rebuilt_window is not None
    assert published(layout.root) == sent([frames[0], frames[2]])
