from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stocktrace.errors import StoreError
from stocktrace.record.intake import Intake
from stocktrace.record.recorder import Recorder, SealedWindow
from stocktrace.sessions.report import Books
from stocktrace.settings import Settings
from stocktrace.store.layout import Layout
from stocktrace.store.quarantine import parse_quarantine
from stocktrace.store.segments import SegmentWriter
from tests.conftest import NOON, SESSION, Studio, connected, frame, trades, tree

SECOND = 10**9


class Desk:
    """An intake and its recorder, whose thread is started when a test wants it."""

    def __init__(self, folder: Path, flush_interval_s: float = 60.0, **limits: int) -> None:
        self.layout = Layout(folder)
        options: dict[str, Any] = {
            "max_pending_rows_per_ticker": 1000,
            "max_pending_rows": 1000,
            "batch_rows": 1000,
            **limits,
        }
        settings = Settings.model_construct(flush_interval=flush_interval_s, **options)
        self.intake = Intake(self.layout, SESSION, settings, NOON)
        self.sealed: list[SealedWindow] = []
        self.news = threading.Condition()
        self.recorder = Recorder(self.layout, self.intake, settings, self._on_sealed)
        self.thread = threading.Thread(target=self.recorder.run)

    def take_in(self, stamp: int, *frames: bytes) -> None:
        """A read, and the moment after which it is decoded."""
        self.intake.add_frames(stamp, frames)
        self.intake.decode()

    def _on_sealed(self, sealed: SealedWindow) -> None:
        with self.news:
            self.sealed.append(sealed)
            self.news.notify_all()

    def wait_for(self, happened: Callable[[], bool]) -> None:
        with self.news:
            assert self.news.wait_for(happened, 10), "it did not happen in 10 s"

    def end(self) -> list[SealedWindow]:
        self.recorder.finish()
        if not self.thread.ident:
            self.thread.start()
        self.thread.join(10)
        assert not self.thread.is_alive()
        return self.sealed

    def rows(self) -> dict[str, int]:
        """Rows on disk by file."""
        return {
            str(path.relative_to(self.layout.root)): len(path.read_text().splitlines()) - 1
            for path in sorted(self.layout.root.glob("csv/*/*"))
        }


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path)
    yield desk
    desk.end()


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set when a batch has been written."""
    done = threading.Event()
    write = SegmentWriter.write

    def writing(self: SegmentWriter, batch: Any) -> None:
        write(self, batch)
        done.set()

    monkeypatch.setattr(SegmentWriter, "write", writing)
    return done


def csv(ticker: str, window: str = "20261123T143000Z_00001", suffix: str = "") -> str:
    return f"csv/{ticker}/{SESSION}-{window}.csv{suffix}"


def test_rows_that_wait_at_the_end_are_written_and_sealed_with_their_books(desk: Desk) -> None:
    desk.take_in(NOON, frame(("A", 1), ("B", -1), ("A", 2)), b'{"type":"ping"}', b"?")
    (sealed,) = desk.end()
    assert sealed.books == Books(3, 1, 1, 1, trades=3, recorded=2, quarantined=1)
    shares = {t: (one.trades, one.recorded, one.quarantined) for t, one in sealed.tickers.items()}
    assert shares == {"A": (2, 2, 0), "B": (1, 0, 1)}
    assert sealed.spilled == frozenset()
    assert desk.rows() == {csv("A"): 2}
    text = desk.layout.quarantine(sealed.window).read_text()
    refused = list(parse_quarantine(text.splitlines()))
    assert [(each.frame, each.reason) for each in refused] == [
        (b"?", "not JSON: Expecting value: line 1 column 1 (char 0)"),
        (frame(("A", 1), ("B", -1), ("A", 2)), "price: not above 0"),
    ]


def test_a_refused_row_without_a_ticker_is_in_the_books_too(desk: Desk) -> None:
    desk.take_in(NOON, b'{"type":"trade","data":[7,{"s":"A"},{"s":null}]}')
    (sealed,) = desk.end()
    assert sealed.books == Books(1, 1, trades=3, quarantined=3)
    assert {name: one.quarantined for name, one in sealed.tickers.items()} == {"": 2, "A": 1}


def test_a_session_without_frames_seals_an_empty_window(desk: Desk) -> None:
    (sealed,) = desk.end()
    assert sealed.books == Books()
    assert desk.rows() == {}


def test_a_batch_is_written_as_soon_as_it_is_large_enough(
    tmp_path: Path, written: threading.Event
) -> None:
    desk = Desk(tmp_path, batch_rows=3)
    desk.thread.start()
    desk.take_in(NOON, frame(("A", 1), ("B", 2), ("A", 3)))
    assert written.wait(10), "flush_interval is a minute: only the batch can have woken it"
    assert desk.rows() == {csv("A", suffix=".open"): 2, csv("B", suffix=".open"): 1}
    desk.end()


def test_a_smaller_batch_is_written_when_it_is_due(
    tmp_path: Path, written: threading.Event
) -> None:
    desk = Desk(tmp_path, flush_interval_s=0.01)
    desk.thread.start()
    desk.take_in(NOON, frame(("A", 1)))
    assert written.wait(10)
    assert desk.rows() == {csv("A", suffix=".open"): 1}
    desk.end()


def test_two_windows_in_flight_are_kept_apart_and_sealed_in_their_order(desk: Desk) -> None:
    for n, later in enumerate((0, 600, 1200)):
        desk.take_in(NOON + later * SECOND, frame(("A", n + 1), ("B", n + 1)))
    desk.thread.start()
    desk.intake.wake.set()
    desk.wait_for(lambda: len(desk.sealed) == 2)
    windows = ["20261123T143000Z_00001", "20261123T144000Z_00002", "20261123T145000Z_00003"]
    assert [sealed.window.window for sealed in desk.sealed] == windows[:2]
    desk.end()
    assert [sealed.window.window for sealed in desk.sealed] == windows
    assert desk.rows() == {csv(ticker, window): 1 for ticker in "AB" for window in windows}
    assert [sealed.books.recorded for sealed in desk.sealed] == [2, 2, 2]
    assert desk.intake.pending_rows == 0


def test_frames_that_come_while_a_window_is_sealed_belong_to_the_next(desk: Desk) -> None:
    def on_sealed(sealed: SealedWindow) -> None:
        if len(desk.sealed) == 0:
            desk.take_in(NOON + 600 * SECOND + 1, frame(("A", 3)))
        desk._on_sealed(sealed)

    desk.recorder.on_sealed = on_sealed
    desk.take_in(NOON, frame(("A", 1)))
    desk.take_in(NOON + 600 * SECOND, frame(("A", 2)))
    desk.thread.start()
    desk.intake.wake.set()
    desk.wait_for(lambda: len(desk.sealed) == 1)
    desk.end()
    assert [sealed.books.recorded for sealed in desk.sealed] == [1, 2]


def test_spilled_tickers_stay_open_for_the_rebuild(tmp_path: Path) -> None:
    desk = Desk(tmp_path, max_pending_rows_per_ticker=2)
    desk.take_in(NOON, frame(("A", 1), ("B", 1)))
    desk.take_in(NOON, frame(("A", 2), ("A", 3)))
    (sealed,) = desk.end()
    assert sealed.spilled == {"A"}
    assert desk.rows() == {csv("A", suffix=".open"): 1, csv("B"): 1}


def test_a_sealed_window_has_its_tape_closed_and_synced(desk: Desk) -> None:
    tape = desk.intake.current.tape
    desk.end()
    assert tape._closed
    assert tree(desk.layout.root) == [f"tape/{SESSION}/20261123T143000Z_00001.tape"]


# --- what kills it ---------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["write", "seal"])
def test_an_error_in_the_recorder_ends_the_capture_and_is_raised_chained(
    studio: Studio, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("a bug in the recorder")

    monkeypatch.setattr(SegmentWriter, method, broken)
    with studio.exchange() as exchange:

        def scenario() -> Iterator[Any]:
            yield connected
            exchange.send_raw(frame(("AAPL", 1)))
            yield trades(1)
            if method == "write":
                yield lambda _: False

        with pytest.raises(StoreError, match="The capture stopped: ZeroDivisionError") as caught:
            studio.record(exchange, scenario=scenario(), flush_interval=0.01)  # type: ignore[arg-type]
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert any(name.startswith("tape/") for name in studio.files())
    assert any(name.endswith(".json") for name in studio.files())
