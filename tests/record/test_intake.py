from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stocktrace.marks import (
    ConnectedMark,
    DisconnectedMark,
    Mark,
    OpeningMark,
    SubscriptionMark,
)
from stocktrace.record.intake import Intake, OpenWindow, TickerQueue
from stocktrace.settings import Settings
from stocktrace.store.decoded_batch import DecodedRead
from stocktrace.store.layout import Layout
from stocktrace.store.tape import TapeFrames, TapeReader
from stocktrace.trade import Trade
from stocktrace.trade_columns import TradeColumns
from tests.conftest import NOON, SESSION, frame, tree
from tests.sampling import sizes

SECOND = 10**9


MakeIntake = Callable[..., Intake]


@pytest.fixture
def intake(tmp_path: Path) -> Iterator[MakeIntake]:
    """Makes intakes, and closes their tapes."""
    made: list[Intake] = []

    def make(**changes: Any) -> Intake:
        limits = {"max_pending_rows_per_ticker": 100, "max_pending_rows": 1000, "batch_rows": 1000}
        settings = Settings.model_construct(**{**limits, **changes})
        made.append(Intake(Layout(tmp_path), SESSION, settings, NOON))
        return made[-1]

    yield make
    for each in made:
        for recording in each.windows:
            recording.tape.close()


def waiting(at: Intake, recording: OpenWindow | None = None) -> dict[str, list[float]]:
    """Takes what waits of a window; the prices by ticker."""
    first = at.windows[0]
    found = {
        ticker: [
            read.price[row] for read, rows in queue.take(recording or first)[0] for row in rows
        ]
        for ticker, queue in at.queues.items()
    }
    return {ticker: prices for ticker, prices in found.items() if prices}


def take_in(at: Intake, stamp: int, frames: list[bytes]) -> None:
    """A read, and the moment after which it is decoded."""
    at.add_frames(stamp, frames)
    at.decode()


def burst(price: float) -> bytes:
    return frame(*[("A", price)] * 40)


def tape_of(recording: OpenWindow) -> list[TapeFrames | Mark]:
    return list(TapeReader(recording.tape.path))


def test_a_read_is_on_the_tape_before_anything_else_happens_to_it(
    intake: MakeIntake, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = intake()
    seen: list[list[TapeFrames | Mark]] = []

    def decode(frames: object) -> None:
        seen.append(tape_of(at.current))
        raise ZeroDivisionError

    monkeypatch.setattr("stocktrace.feed.protocol.decode", decode)
    with pytest.raises(ZeroDivisionError):
        take_in(at, NOON + 1, [b"anything"])
    assert seen[0][-1] == TapeFrames(NOON + 1, [b"anything"])


def test_trades_wait_by_ticker_in_the_order_of_arrival(intake: MakeIntake) -> None:
    at = intake()
    take_in(at, NOON, [frame(("A", 1), ("B", 2), ("A", 3)), frame(("A", 4))])
    take_in(at, NOON + 1, [frame(("B", 5))])
    assert (at.pending_rows, dict(at.received)) == (5, {"A": 3, "B": 2})
    assert waiting(at) == {"A": [1.0, 3.0, 4.0], "B": [2.0, 5.0]}
    assert at.current.spilled == set()


def test_a_read_is_on_the_tape_at_once_and_in_the_queues_when_it_is_time_to_flush(
    intake: MakeIntake,
) -> None:
    at = intake()
    at.add_frames(NOON, [frame(("A", 1))])
    at.add_frames(NOON + SECOND // 2, [burst(2)])
    assert tape_of(at.current)[1:] == [
        TapeFrames(NOON, [frame(("A", 1))]),
        TapeFrames(NOON + SECOND // 2, [burst(2)]),
    ]
    assert (at.pending_rows, at.received["A"], at.wake.is_set()) == (0, 0, False)
    at.add_frames(NOON + SECOND * 3 // 4, [frame(("A", 3))])
    assert at.wake.is_set()
    assert waiting(at) == {"A": [1.0] + [2.0] * 40 + [3.0]}
    assert at.last_trade_at == {"A": NOON + SECOND * 3 // 4}


def test_reads_are_decoded_after_a_second_even_if_the_flush_is_later(
    intake: MakeIntake,
) -> None:
    at = intake(flush_interval=60.0)
    at.add_frames(NOON, [frame(("A", 1))])
    at.add_frames(NOON + SECOND, [frame(("A", 2))])
    assert (at.pending_rows, at.wake.is_set()) == (2, False)
    at.tick(NOON + 60 * SECOND)
    assert at.wake.is_set()


def test_time_without_trades_wakes_nobody(intake: MakeIntake) -> None:
    at = intake()
    at.tick(NOON + 60 * SECOND)
    assert not at.wake.is_set()


@pytest.mark.parametrize("stamp", [NOON, NOON + 2 * SECOND])
def test_reads_are_held_only_briefly_whatever_the_clock_does(
    intake: MakeIntake, stamp: int
) -> None:
    at = intake()
    at.add_frames(NOON + SECOND, [burst(1)])
    at.add_frames(stamp, [burst(2)])
    assert at.received["A"] == 80
    assert at.last_trade_at == {"A": stamp}


def test_reads_are_held_up_to_a_size(intake: MakeIntake) -> None:
    at = intake(max_pending_rows_per_ticker=10**6, max_pending_rows=10**6)
    reads = 0
    while not at.pending_rows:
        at.add_frames(NOON, [burst(1)] * 20)
        reads += 1
        assert reads < 100
    assert reads > 1
    assert at.pending_rows == reads * 20 * 40


def test_time_alone_fills_the_queues(intake: MakeIntake) -> None:
    at = intake()
    at.add_frames(NOON, [burst(1)])
    at.tick(NOON + 1)
    assert waiting(at) == {"A": [1.0] * 40}


def test_reads_held_at_the_end_of_a_window_belong_to_it(intake: MakeIntake) -> None:
    at = intake()
    at.add_frames(NOON, [burst(1)])
    at.add_frames(NOON + 600 * SECOND, [burst(2)])
    first, second = at.windows
    assert first.counts.books.trades == 40
    at.tick(NOON + 601 * SECOND)
    assert second.counts.books.trades == 40
    assert (waiting(at, first), waiting(at, second)) == ({"A": [1.0] * 40}, {"A": [2.0] * 40})


def test_a_refused_row_is_kept_with_the_time_of_its_own_read(intake: MakeIntake) -> None:
    at = intake(max_pending_rows_per_ticker=1000)
    at.add_frames(NOON, [burst(1)])
    at.add_frames(NOON + 1, [burst(2), b"nonsense"])
    at.add_frames(NOON + 2, [burst(3)])
    at.tick(NOON + 3)
    assert [one.stamp for one in at.current.counts.refused_rows] == [NOON + 1]
    assert waiting(at) == {"A": [1.0] * 40 + [2.0] * 40 + [3.0] * 40}


def test_a_new_tape_begins_with_the_state_of_the_connection(intake: MakeIntake) -> None:
    at = intake()
    at.add_mark(ConnectedMark(NOON + 1, ("A",)))
    at.tick(NOON + 600 * SECOND)
    first, second = at.windows
    assert tape_of(first) == [
        OpeningMark(NOON, session=SESSION, connected=False, tickers=()),
        ConnectedMark(NOON + 1, ("A",)),
    ]
    assert tape_of(second) == [
        OpeningMark(NOON + 600 * SECOND, session=SESSION, connected=True, tickers=("A",))
    ]


def test_marks_change_the_state_of_the_connection(intake: MakeIntake) -> None:
    at = intake()
    at.add_mark(ConnectedMark(NOON + 1, ("A", "B")))
    at.add_mark(SubscriptionMark(NOON + 2, added=("C",), removed=("A",)))
    at.add_mark(DisconnectedMark(NOON + 3, "TCP ended"))
    at.tick(NOON + 600 * SECOND)
    (opening,) = tape_of(at.current)
    assert isinstance(opening, OpeningMark)
    assert (opening.connected, opening.tickers) == (False, ("B", "C"))
    assert at.last_data_at == NOON + 1


def test_a_tick_rolls_without_frames_and_wakes_the_recorder(intake: MakeIntake) -> None:
    at = intake()
    at.tick(NOON + 599 * SECOND)
    assert (len(at.windows), at.wake.is_set()) == (1, False)
    at.tick(NOON + 600 * SECOND)
    assert (len(at.windows), at.wake.is_set()) == (2, True)
    assert [each.spec.name for each in at.windows] == [
        "20261123T143000Z_00001",
        "20261123T144000Z_00002",
    ]


def test_a_frame_goes_to_the_window_of_its_own_time(intake: MakeIntake) -> None:
    at = intake()
    take_in(at, NOON, [frame(("A", 1))])
    take_in(at, NOON + 600 * SECOND, [frame(("A", 2))])
    first, second = at.windows
    assert waiting(at, first) == {"A": [1.0]}
    assert at.queues["A"].rows == 1
    assert waiting(at, second) == {"A": [2.0]}
    assert (first.counts.books.frames, second.counts.books.frames) == (1, 1)


def test_a_large_tape_rolls_with_the_next_frame(intake: MakeIntake, tmp_path: Path) -> None:
    at = intake(roll_size=200)
    for n in range(6):
        take_in(at, NOON + n, [frame(("A", n + 1))])
    assert len(at.windows) > 2
    assert all(each.tape.size < 400 for each in at.windows)
    names = [each.spec.name for each in at.windows]
    assert tree(tmp_path) == [f"tape/{SESSION}/{name}.tape" for name in names]
    found = [price for each in list(at.windows) for price in waiting(at, each).get("A", [])]
    assert found == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]


def test_a_clock_that_steps_back_over_midnight_reopens_nothing(
    intake: MakeIntake, tmp_path: Path
) -> None:
    at = intake()
    midnight = NOON - NOON % (86_400 * SECOND) + 86_400 * SECOND
    for stamp in (midnight - 1, midnight, midnight - 1):
        at.add_frames(stamp, [frame(("A", 1))])
    dates = [each.id.date for each in at.windows]
    assert dates == ["2026-11-23", "2026-11-23", "2026-11-24", "2026-11-23"]
    assert len(tree(tmp_path)) == 4


def test_a_full_queue_spills_its_ticker_for_the_window_and_no_other(intake: MakeIntake) -> None:
    at = intake(max_pending_rows_per_ticker=3)
    for n in range(5):
        take_in(at, NOON + n, [frame(("A", n + 1))])
    take_in(at, NOON, [frame(("B", 9))])
    assert at.current.spilled == {"A"}
    assert (at.received["A"], at.current.counts.books.trades) == (5, 6)
    assert waiting(at) == {"A": [1.0, 2.0, 3.0], "B": [9.0]}
    take_in(at, NOON, [frame(("A", 6))])
    assert waiting(at) == {}, "a ticker that spilled is had from the tape"
    take_in(at, NOON + 600 * SECOND, [frame(("A", 7))])
    assert at.current.spilled == set()


def test_a_frame_larger_than_a_queue_spills_whole(intake: MakeIntake) -> None:
    at = intake(max_pending_rows_per_ticker=3)
    take_in(at, NOON, [frame(*(("A", n + 1) for n in range(4)))])
    assert at.current.spilled == {"A"}
    assert waiting(at) == {}


def test_at_the_total_limit_the_next_ticker_spills(intake: MakeIntake) -> None:
    at = intake(max_pending_rows=3)
    take_in(at, NOON, [frame(("A", 1), ("B", 2), ("C", 3), ("D", 4))])
    assert at.current.spilled == {"D"}
    assert at.pending_rows == 3


def test_the_recorder_is_woken_when_a_batch_waits(intake: MakeIntake) -> None:
    at = intake(batch_rows=3)
    take_in(at, NOON, [frame(("A", 1), ("B", 2))])
    assert not at.wake.is_set()
    take_in(at, NOON, [frame(("C", 3))])
    assert at.wake.is_set()


def test_the_recorder_is_woken_before_too_many_rows_wait_however_large_a_batch_may_be(
    intake: MakeIntake,
) -> None:
    at = intake(batch_rows=10, max_pending_rows=6)
    take_in(at, NOON, [frame(("A", 1), ("B", 2))])
    assert not at.wake.is_set()
    take_in(at, NOON, [frame(("C", 3))])
    assert at.wake.is_set()
    assert at.current.spilled == set()


def test_batches_of_many_tickers_are_larger_except_for_the_first_of_a_window(
    intake: MakeIntake,
) -> None:
    at = intake(batch_rows=10, max_pending_rows=100_000, roll_interval=600.0)
    tickers = [(f"T{number}", 1.0) for number in range(1250)]
    take_in(at, NOON, [frame(*tickers)])
    assert at.batch_scale == 1  # its files are created, which takes long
    at.windows[0].has_segments = True
    assert at.batch_scale == 2
    at.tick(NOON + 600 * SECOND)
    assert at.batch_scale == 1


def test_control_and_nonsense_are_counted_and_kept(intake: MakeIntake) -> None:
    at = intake()
    take_in(
        at,
        NOON,
        [b'{"type":"ping"}', b"nonsense", b'{"type":"error","msg":"no"}', frame(("A", 1))],
    )
    books = at.current.counts.books
    assert (books.frames, books.trade_frames, books.control, books.undecodable) == (4, 1, 2, 1)
    assert at.current.counts.errors == {"no": 1}
    (refused,) = at.current.counts.refused_rows
    assert (refused.stamp, refused.frame, refused.row) == (NOON, b"nonsense", None)


def test_a_mark_is_written_among_the_frames(intake: MakeIntake) -> None:
    at = intake()
    at.add_frames(NOON, [b'{"type":"ping"}'])
    at.add_mark(DisconnectedMark(NOON + 1, "test"))
    assert tape_of(at.current)[1:] == [
        TapeFrames(NOON, [b'{"type":"ping"}']),
        DisconnectedMark(NOON + 1, "test"),
    ]


@pytest.mark.parametrize("count", sizes(4_000, 40_000))
def test_a_queue_between_two_threads_loses_nothing_and_keeps_the_order(
    intake: MakeIntake, count: int
) -> None:
    at = intake()
    queue = TickerQueue("A", 100)
    recording = at.current
    spilled, found = list[int](), list[int]()
    done = threading.Event()

    def produce() -> None:
        for n in range(count):
            trade = Trade("A", 1.0, n, 1.0)
            if not queue.put(
                recording,
                DecodedRead([TapeFrames(NOON, [b""])], TradeColumns.of([[trade]])),
                range(1),
            ):
                spilled.append(n)
        done.set()

    def consume() -> None:
        last = False
        while not last:
            last = done.is_set()
            found.extend(
                read.ts_event[row] for read, rows in queue.take(recording)[0] for row in rows
            )

    threads = [threading.Thread(target=work) for work in (produce, consume)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert found == sorted(found)
    assert sorted(found + spilled) == list(range(count))
    assert queue.rows == 0


def test_a_window_whose_decoding_failed_spills(
    intake: MakeIntake, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = intake()
    at.add_mark(ConnectedMark(NOON, ("A", "B")))
    take_in(at, NOON, [frame(("A", 1), ("C", 1))])

    def decode(frames: object) -> None:
        raise MemoryError

    monkeypatch.setattr("stocktrace.feed.protocol.decode", decode)
    with pytest.raises(MemoryError):
        take_in(at, NOON + 1, [frame(("B", 2))])
    assert at.current.spilled == {"A", "B"}  # nobody asked for C
