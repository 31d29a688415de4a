from __future__ import annotations

import re
import threading
from pathlib import Path

from stocktrace.dashboard.liveness import SessionLiveness
from stocktrace.sessions.catalog import read_session, running_captures
from stocktrace.sessions.status import CaptureStatus, StatusFile
from stocktrace.sessions.summary import SessionSummary
from stocktrace.simulator import Fault, ScriptedSource, synthetic_frames
from stocktrace.store.layout import Layout
from tests.conftest import Scenario, Studio, all_of, connected, frame, played
from tests.statuses import a_status


def of_many(trades: int = 0) -> CaptureStatus:
    tickers = tuple(f"T{n}" for n in range(500))
    return a_status(trades=trades, tickers=tickers, per_ticker=dict.fromkeys(tickers, trades))


def last_status(studio: Studio) -> CaptureStatus:
    return CaptureStatus.read(Layout(studio.data_dir).status(studio.report().session))


def test_a_status_is_read_as_it_was_written(tmp_path: Path) -> None:
    status = of_many(7)
    StatusFile(tmp_path / "s.status").write(status)
    assert CaptureStatus.read(tmp_path / "s.status") == status


def test_no_reader_ever_sees_half_a_status(tmp_path: Path) -> None:
    path, stop = tmp_path / "s.status", threading.Event()
    file = StatusFile(path)
    file.write(of_many())

    def keep_writing() -> None:
        trades = 0
        while not stop.is_set():
            trades += 1
            file.write(of_many(trades))

    writer = threading.Thread(target=keep_writing)
    writer.start()
    try:
        seen = []
        for _ in range(1000):
            status = CaptureStatus.read(path)
            assert set(status.per_ticker.values()) == {status.trades}
            seen.append(status.trades)
    finally:
        stop.set()
        writer.join()
    assert seen == sorted(seen)
    assert seen[-1] > seen[0], "it must have been written while it was read"


def test_a_status_that_cannot_be_written_is_reported_once_per_failure(
    tmp_path: Path,
) -> None:
    file = StatusFile(tmp_path / "away" / "s.status")
    sentence = file.write(of_many())
    assert sentence is not None
    assert sentence.startswith("the live status cannot be written: ")
    assert file.write(of_many()) is None
    (tmp_path / "away").mkdir()
    assert file.write(of_many()) is None
    (tmp_path / "away" / "s.status").unlink()
    (tmp_path / "away").rmdir()
    assert file.write(of_many()) == sentence


def test_a_capture_leaves_its_last_status_with_the_figures_of_its_report(studio: Studio) -> None:
    frames = list(synthetic_frames(("AAPL", "MSFT"), 3000, seed=3))
    frames.append((frames[-1][0], frame(("AAPL", -1.0), ("MSFT", -1.0), ("MSFT", -2.0))))
    with studio.exchange(ScriptedSource(frames)) as exchange:
        report = studio.record(exchange, ("AAPL", "MSFT"), played(exchange))
    status = last_status(studio)
    assert (status.state, status.final_state, status.reason) == (
        "ended",
        report.state,
        report.reason,
    )
    assert (status.trades, status.recorded, status.quarantined) == (3003, 3000, 3)
    assert status.quarantined_by_ticker == {"AAPL": 1, "MSFT": 2}
    assert (status.backlog, status.queued) == (0, {})
    assert status.latency == report.latency
    assert (status.rolled, status.published) == (len(report.windows),) * 2
    assert status.files == report.files == len(report.windows)
    assert status.written_at is not None
    assert report.ended is not None
    assert abs((status.written_at - report.ended).total_seconds()) < 60


def test_refused_and_recorded_rows_are_counted_before_the_window_ends(studio: Studio) -> None:
    rows = [("AAPL", 1.0), ("AAPL", -1.0), ("MSFT", 2.0)]
    with studio.exchange(ScriptedSource([(0, frame(*rows))])) as exchange:

        def scenario() -> Scenario:
            yield all_of(exchange)
            yield lambda status: (status.recorded, status.quarantined) == (2, 1)

        studio.record(exchange, ("AAPL", "MSFT"), scenario(), flush_interval="50ms")
    live = next(one for one in studio.statuses if one.quarantined)
    assert live.state == "connected"
    assert live.rolled == 0
    assert live.quarantined_by_ticker == {"AAPL": 1}


def test_104_an_open_gap_is_counted_and_timed_for_other_processes(studio: Studio) -> None:
    layout = Layout(studio.data_dir)
    seen: list[tuple[SessionSummary, SessionLiveness]] = []
    with studio.exchange() as exchange:

        def scenario() -> Scenario:
            yield connected
            exchange.inject(Fault("status", status=503, repeat=True))
            exchange.drop_all()
            yield lambda status: status.retry is not None and status.retry.attempt >= 2
            (session,) = running_captures(layout)
            summary = SessionSummary.of(layout, read_session(layout, session))
            seen.append((summary, SessionLiveness(layout, session)))

        studio.record(exchange, scenario=scenario(), backoff_floor="50ms", backoff_cap="50ms")
    ((summary, liveness),) = seen
    assert summary.state == "running"
    assert re.fullmatch(r"reconnecting for \d+ s, attempt \d+", summary.present_state)
    assert (summary.gaps, summary.outages, summary.reconnects) == (2, 1, 0)
    head, tiles = liveness.head(), liveness.tiles()
    assert (head["state"], tiles["gaps"], tiles["outages"]) == ("reconnecting", 2, 1)
    assert head["connection"] == summary.present_state
    assert tiles["gap_s"] == summary.gap_s
    assert 0 < head["open_gap_s"] <= tiles["gap_s"] + 0.1  # it is rounded


def test_a_lost_connection_shows_the_attempt_and_the_next_try(studio: Studio) -> None:
    with studio.exchange() as exchange:

        def scenario() -> Scenario:
            yield connected
            exchange.inject(Fault("status", status=503, repeat=True))
            exchange.drop_all()
            yield lambda status: status.retry is not None and status.retry.attempt >= 2
            exchange.clear_faults()
            yield lambda status: status.connected and status.outages == 1

        studio.record(
            exchange,
            scenario=scenario(),
            backoff_base="50ms",
            backoff_floor="50ms",
            backoff_cap="50ms",
        )
    lost = [one for one in studio.statuses if one.retry is not None]
    assert {one.state for one in lost} == {"reconnecting"}
    assert lost[-1].retry is not None
    assert lost[-1].retry.reason == "HTTP 503 at the handshake"
    assert lost[-1].last_error.startswith("HTTP 503 at the handshake; next try in ")
    back = [one for one in studio.statuses if one.state == "connected"][-1]
    assert (back.state, back.retry, back.reconnects) == ("connected", None, 1)
    assert (back.gaps, back.outages) == (2, 1)  # connecting is one, too
    assert back.gap_s > 0
