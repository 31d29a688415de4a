"""Stories 71 and 72: tapes and frames that would take any amount of memory, files or time."""

from __future__ import annotations

import gzip
import json
import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import zstandard

from stocktrace.marks import ConnectedMark, OpeningMark, PausedMark, SubscriptionMark
from stocktrace.query.coverage import read_gaps
from stocktrace.record.intake import Intake, WindowCounts
from stocktrace.record.publish import rebuild_window, replay_tape
from stocktrace.record.recovery import recover
from stocktrace.record.tape_repair import TapeHole, repair_tape
from stocktrace.settings import Settings
from stocktrace.simulator import Simulator
from stocktrace.store import tape as tape_module
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId
from stocktrace.store.tape import TapeFrames, TapeReader, TapeWriter
from tests.conftest import (
    NOON,
    SESSION,
    Scenario,
    Studio,
    connected,
    frame,
    published,
    taped,
    trades,
)
from tests.test_faults.conftest import (
    PART,
    SECOND,
    crashed_session,
    events,
    findings,
    record,
    recorded,
    report_of,
)

# --- 71: holes ---------------------------------------------------------------------------------


def punch(tape: Path, begin: int, size: int) -> None:
    """Make a hole of zeros in a file, as a power cut does."""
    with tape.open("rb+") as file:
        file.seek(begin)
        file.write(bytes(size))


FRAMES = [frame(*[("AAPL", n + 1)] * 8) for n in range(400)]


@pytest.mark.parametrize("size", [4096, 1 << 16])
def test_71_a_hole_in_a_tape_is_a_gap_and_what_follows_is_recovered(
    tmp_path: Path, size: int, caplog: pytest.LogCaptureFixture
) -> None:
    tape = crashed_session(tmp_path, FRAMES)
    whole = tape.read_bytes()
    begin = 40_000
    punch(tape, begin, size)
    lost = whole[:begin].count(b"\n") - 2, whole[: begin + size].count(b"\n") - 2
    recover(Layout(tmp_path))
    before = [float(n + 1) for n in range(lost[0])]
    after = [float(n + 1) for n in range(lost[1] + 1, 400)]
    assert published(tmp_path)["AAPL"] == [
        row for price in (*before, *after) for row in recorded([price] * 8)
    ]
    report = report_of(tmp_path)
    words = f"a hole of {size:,} zero bytes in the tape"
    (gap,) = report.gaps
    assert gap.reason == words
    assert gap.seconds == lost[1] - lost[0] + 2  # frames are a second apart
    assert list(read_gaps(data_dir=tmp_path)["reason"]) == [words]
    assert words in report.notices[0]
    assert words in caplog.text
    assert [event["zeros"] for event in events(tmp_path, "hole")] == [size]
    aside = Layout(tmp_path).tapes(SESSION) / f"{PART.window}.torn"
    first, last = whole[:begin].rpartition(b"\n")[2], whole[begin + size :].partition(b"\n")[0]
    assert aside.read_bytes() == first + last + b"\n"
    assert findings(tmp_path) == []


def lines(tape: Path) -> list[bytes]:
    return tape.read_bytes().split(b"\n")


def test_71_a_hole_at_the_beginning_or_the_end_of_a_window_reaches_to_its_edge(
    tmp_path: Path,
) -> None:
    tape = crashed_session(tmp_path, FRAMES[:3])
    punch(tape, 0, tape.read_bytes().index(b"\n") + 5)
    (hole,) = repair_tape(tape, NOON - SECOND)
    assert hole == TapeHole(NOON - SECOND, NOON, hole.zeros)
    text = tape.read_bytes()
    punch(tape, len(text) - 10, 10)
    (hole,) = repair_tape(tape, NOON, NOON + 60 * SECOND)
    assert hole == TapeHole(NOON + SECOND, NOON + 60 * SECOND, 10)
    assert list(TapeReader(tape))[-1] == PausedMark(hole.end, hole.start, hole.reason)


def test_71_zeros_at_the_end_of_the_last_tape_are_a_torn_end(tmp_path: Path) -> None:
    tape = crashed_session(tmp_path, FRAMES[:3])
    text = tape.read_bytes()
    tape.write_bytes(text[:-20] + bytes(1 << 21))
    assert repair_tape(tape, NOON) == []
    kept = text[:-20].rpartition(b"\n")[0] + b"\n"
    assert tape.read_bytes() == kept
    assert tape.with_suffix(".torn").read_bytes() == text[len(kept) : -20]


def test_71_several_holes_are_several_gaps_and_a_second_repair_changes_nothing(
    tmp_path: Path,
) -> None:
    tape = crashed_session(tmp_path, FRAMES[:9])
    size = len(FRAMES[0]) + 21
    begin = tape.read_bytes().index(FRAMES[0])
    punch(tape, begin + 2 * size, 10)
    punch(tape, begin + 6 * size, size)
    holes = repair_tape(tape, NOON)
    assert [(hole.zeros, hole.start, hole.end) for hole in holes] == [
        (10, NOON + SECOND, NOON + 3 * SECOND),
        (size, NOON + 5 * SECOND, NOON + 8 * SECOND),
    ]
    text = tape.read_bytes()
    assert repair_tape(tape, NOON) == []
    assert tape.read_bytes() == text


def test_71_a_frame_with_zero_bytes_is_not_a_hole(tmp_path: Path) -> None:
    odd = b"\0" * 5000
    tape = TapeWriter(tmp_path / "a.tape")
    tape.append(NOON, [odd, FRAMES[0]])
    tape.close()
    assert repair_tape(tape.path, NOON) == []
    reader = TapeReader(tape.path)
    assert list(reader) == [TapeFrames(NOON, [odd, FRAMES[0]])]
    assert reader.invalid_lines == 0


def test_71_a_hole_that_nobody_repaired_is_reported_by_verify(tmp_path: Path) -> None:
    """As in a tape that was archived with it."""
    layout = Layout(tmp_path)
    tape = crashed_session(tmp_path, FRAMES[:3])
    recover(layout)
    archived = layout.archived_tape(WindowId(SESSION, PART.window))
    text = zstandard.decompress(archived.read_bytes(), 1 << 20)
    archived.write_bytes(zstandard.compress(text[:-50] + bytes(10) + text[-40:]))
    assert not tape.exists()
    assert f"{archived}: has 1 line that cannot be read" in findings(tmp_path)


# --- 71: memory --------------------------------------------------------------------------------


def peak_of_reading(tape: Path) -> tuple[int, TapeReader]:
    """The bytes that reading took at once."""
    reader = TapeReader(tape)
    tracemalloc.start()
    try:
        for _ in reader:
            pass
        return tracemalloc.get_traced_memory()[1], reader
    finally:
        tracemalloc.stop()


def zeros(size: int) -> Iterator[bytes]:
    for _ in range(size >> 20):
        yield bytes(1 << 20)


def one_line(size: int) -> Iterator[bytes]:
    for _ in range(size >> 20):
        yield b"x" * (1 << 20)


def equal_stamps(size: int) -> Iterator[bytes]:
    line = b"%d\t%s\n" % (NOON, b"x" * 4000)
    for _ in range(size // len(line) // 256):
        yield line * 256


QUICK_CASES = [(zeros, ".zst"), (one_line, ""), (equal_stamps, ".gz")]
ALL_CASES = [
    (contents, suffix)
    for contents in (zeros, one_line, equal_stamps)
    for suffix in ("", ".gz", ".zst")
]


@pytest.mark.parametrize(
    ("contents", "suffix"),
    [
        pytest.param(*case, marks=() if case in QUICK_CASES else pytest.mark.slow)
        for case in ALL_CASES
    ],
)
def test_71_a_tape_of_any_size_is_read_in_bounded_memory(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    contents: Callable[[int], Iterator[bytes]],
    suffix: str,
) -> None:
    """With all bounds a 16th of ours, and 32 MiB."""
    for name in ("_MAX_LINE_BYTES", "_MAX_READ_BYTES", "_COMPRESSED_BYTES", "_CHUNK_BYTES"):
        monkeypatch.setattr(tape_module, name, getattr(tape_module, name) >> 4)
    tape = tmp_path / f"a.tape{suffix}"
    with ExitStack() as stack:
        out: Any = stack.enter_context(
            gzip.GzipFile(tape, "wb", 1) if suffix == ".gz" else tape.open("wb")
        )
        if suffix == ".zst":
            out = stack.enter_context(zstandard.ZstdCompressor(1).stream_writer(out))
        for piece in contents(1 << 25):
            out.write(piece)
    peak, reader = peak_of_reading(tape)
    assert peak < 1 << 24
    assert reader.damage is None


# --- 72: tickers that nobody asked for, and bad rows -------------------------------------------

OTHERS = [
    {"c": None, "p": 1.0, "s": f"OTHER{n}", "t": NOON // 10**6, "v": 1} for n in range(20_000)
]


def frame_with(*rows: object) -> bytes:
    return json.dumps({"data": rows, "type": "trade"}, separators=(",", ":")).encode()


def good(price: float) -> dict[str, object]:
    return {"c": ["1"], "p": price, "s": "AAPL", "t": NOON // 10**6, "v": 100}


def test_72_trades_of_tickers_that_nobody_asked_for_are_counted_and_stay_on_the_tape(
    studio: Studio,
) -> None:
    flood = frame_with(good(1.5), *OTHERS, good(2.5), {"s": "X" * 20_000, "p": "bad"})

    def scenario(exchange: Simulator) -> Scenario:
        yield connected
        exchange.send_raw(flood)
        exchange.send_raw(frame(("AAPL", 3.5)))
        yield trades(3)

    with studio.exchange() as exchange:
        report = record(studio, exchange, scenario(exchange))
    assert report.balanced
    assert report.books.unrequested == 20_000
    assert report.books.trades == 4
    assert report.per_ticker.keys() == {"AAPL", ""}
    names = "OTHER0, OTHER1, OTHER2"
    (notice,) = report.notices
    assert notice == (
        f"trades of tickers that nobody asked for were received, such as {names}: they are "
        "counted, and kept on the tape only"
    )
    assert published(studio.data_dir) == {"AAPL": recorded([1.5, 2.5, 3.5])}
    assert taped(studio.data_dir) == [flood, frame(("AAPL", 3.5))]
    assert [path.name for path in (studio.data_dir / "csv").iterdir()] == ["AAPL"]
    assert (studio.data_dir / "sessions" / f"{report.session}.json").stat().st_size < 10_000
    assert findings(studio.data_dir) == []


def test_72_a_recovery_counts_the_same_whatever_the_tape_says_about_tickers(
    tmp_path: Path,
) -> None:
    """A ticker belongs to a window from its first subscription there, also after its removal."""
    tape = TapeWriter(Layout(tmp_path).tape(PART))
    tape.append_mark(OpeningMark(NOON, connected=False, tickers=("AAPL",)))
    tape.append_mark(ConnectedMark(NOON, ("AAPL",)))
    both = frame(("AAPL", 1.0), ("MSFT", 2.0))
    tape.append(NOON, [both])
    tape.append_mark(SubscriptionMark(NOON, ("MSFT",), ("AAPL",)))
    tape.append(NOON, [both, both])
    tape.close()
    recover(Layout(tmp_path))
    report = report_of(tmp_path)
    assert report.books.unrequested == 1
    assert {name: books.recorded for name, books in report.per_ticker.items()} == {
        "AAPL": 3,
        "MSFT": 2,
    }
    assert report.balanced
    assert findings(tmp_path) == []


def test_72_live_and_recovered_counts_of_a_ticker_that_is_added_agree(tmp_path: Path) -> None:
    """What is held when a ticker is added was received before it."""
    intake = Intake(Layout(tmp_path), SESSION, Settings.load(), NOON, ("AAPL",))
    both = frame(("AAPL", 1.0), ("MSFT", 2.0))
    intake.add_frames(NOON, [both])
    intake.add_mark(SubscriptionMark(NOON + 1, ("MSFT",), ()))
    intake.add_frames(NOON + 2, [both])
    intake.decode()
    live, tape = intake.current.counts, intake.current.tape
    tape.close()
    again = WindowCounts()
    assert sum(len(read) for read in replay_tape(tape.path, again)) == 3
    assert live.books == again.books
    assert (live.books.unrequested, live.received) == (1, {"AAPL": 2, "MSFT": 1})
    assert live.others == again.others == ["MSFT"]


def cost_of(folder: Path, rows: Iterable[object]) -> tuple[float, int]:
    """The CPU seconds of a window with these rows in one frame, and the bytes that it writes."""
    layout = Layout(folder)
    crashed_session(folder, [frame_with(*rows)])
    began = time.process_time()
    rebuild_window(layout, PART)
    cost = time.process_time() - began
    written = [path for path in folder.rglob("*") if path.suffix in (".csv", ".jsonl")]
    return cost, sum(path.stat().st_size for path in written)


def text_price(price: float) -> dict[str, object]:
    return {**good(price), "p": str(price)}


def below_zero(price: float) -> dict[str, object]:
    return good(-price)


@pytest.mark.parametrize("bad", [text_price, below_zero])
def test_72_bad_rows_cost_in_proportion_to_their_number(
    tmp_path: Path, bad: Callable[[float], dict[str, object]]
) -> None:
    few, _ = min(cost_of(tmp_path / f"few-{n}", map(bad, range(1, 1_001))) for n in range(3))
    many, size = min(cost_of(tmp_path / f"many-{n}", map(bad, range(1, 8_001))) for n in range(2))
    assert many < 24 * few  # 64 times if each looked at all others
    assert size < 6 * sum(len(frame_with(bad(price))) for price in range(1, 8_001))
