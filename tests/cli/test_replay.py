"""A session is played by the simulated exchange, and captured again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from stocktrace import cli
from stocktrace.cli.simulator import find_recording
from stocktrace.errors import StoreError, UsageError
from stocktrace.importing.merge import merge_sessions
from stocktrace.marks import DisconnectedMark, Mark
from stocktrace.sessions.report import SessionReport
from stocktrace.simulator import ScriptedSource, SyntheticMarket, TapeSource, synthetic_frames
from stocktrace.store import lock
from stocktrace.store.layout import Layout
from tests.conftest import NOON, SESSION, Scenario, Studio, frame, hurry, played, published, trades
from tests.importing.test_merge import OTHER, TICKERS, rows, stream, two
from tests.recorded import SECOND, listening, record

ODD = [
    b'{"type":"error","msg":"Subscribing to too many symbols"}',
    b'{"type":"ping"}',
    b"not JSON",
    frame(("AAPL", 1.5), ("AAPL", -1.0), c=None),
    frame(("AAPL", 1.5), ("AAPL", 1.5), c=["12", "1"], v=0.1),
]


@pytest.fixture
def studios(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Studio]:
    hurry(monkeypatch)
    return lambda name: Studio(tmp_path / name)


def session_of(data_dir: Path) -> str:
    (path,) = (data_dir / "sessions").glob("*.json")
    return path.stem


def replay(
    studio: Studio, data_dir: Path, tickers: list[str], *, replay_disconnects: bool = False
) -> SessionReport:
    """Capture what a session received."""
    tapes = find_recording(None, session_of(data_dir), data_dir)
    assert tapes is not None
    tape = TapeSource(tapes, speed=0, errors=False, replay_disconnects=replay_disconnects)
    with studio.exchange(tape) as exchange:
        return studio.record(exchange, tickers, played(exchange))


def test_a_capture_of_a_replay_records_the_same_trades(
    studios: Callable[[str], Studio],
) -> None:
    live, again = studios("live"), studios("again")
    market = [*synthetic_frames(["AAPL", "7203", "BINANCE:BTCUSDT"], 5000, seed=3)]
    steps = [*((NOON, one) for one in ODD), *market]
    with live.exchange(ScriptedSource(steps)) as exchange:
        live.record(exchange, TICKERS, played(exchange), roll_size=200_000)
    report = replay(again, live.data_dir, TICKERS)
    assert published(again.data_dir) == published(live.data_dir)
    assert sum(map(len, published(again.data_dir).values())) > 5000
    before = live.report()
    assert len(before.windows) > 1
    assert (report.state, report.balanced) == (before.state, True)
    for name in ("trades", "recorded", "quarantined", "undecodable"):
        assert getattr(report.books, name) == getattr(before.books, name)
    assert (report.errors, report.refused) == ({}, {})


def test_a_gap_of_the_session_is_skipped_or_replayed(studios: Callable[[str], Studio]) -> None:
    live, over, with_it = (studios(name) for name in ("live", "over", "with"))
    steps: list[tuple[int, bytes] | Mark] = [
        (NOON, frame(("AAPL", 1.0))),
        DisconnectedMark(NOON, "lost"),
        (NOON, frame(("AAPL", 2.0))),
    ]
    with live.exchange(ScriptedSource(steps)) as exchange:
        assert live.record(exchange, ["AAPL"], played(exchange)).reconnects == 1
    assert replay(over, live.data_dir, ["AAPL"]).reconnects == 0
    report = replay(with_it, live.data_dir, ["AAPL"], replay_disconnects=True)
    assert (report.reconnects, len(report.outages)) == (1, 1)
    for studio in (live, over, with_it):
        assert [price for _, price, *_ in published(studio.data_dir)["AAPL"]] == [1.0, 2.0]


def test_a_merged_session_can_be_replayed(tmp_path: Path, studios: Callable[[str], Studio]) -> None:
    into = Layout(tmp_path / "both")
    merge_sessions(into, *two(tmp_path))
    again = studios("again")
    replay(again, into.root, TICKERS)
    assert published(again.data_dir) == rows(stream(NOON))


@pytest.mark.parametrize("seed", range(2))
def test_a_session_of_a_made_up_market_is_replayed_in_order(
    studios: Callable[[str], Studio], seed: int
) -> None:
    live, again = studios("live"), studios("again")
    with live.exchange(SyntheticMarket(seed=seed, rate=5000.0)) as exchange:

        def scenario() -> Scenario:
            yield trades(2000)

        live.record(exchange, TICKERS, scenario())
    replay(again, live.data_dir, TICKERS)
    assert published(again.data_dir) == published(live.data_dir)


# --- what is to be played --------------------------------------------------------------------


def test_the_tapes_of_a_session_are_replayed_once_and_in_order(tmp_path: Path) -> None:
    """A clock that was set back names a later window earlier; a kill leaves a tape twice."""
    layout = Layout(tmp_path)
    windows = ["20261123T143000Z_00001", "20261123T142900Z_00002"]
    layout.tapes(SESSION).mkdir(parents=True)
    for window in windows:
        (layout.tapes(SESSION) / f"{window}.tape").write_bytes(b"")
    (layout.tapes(SESSION) / f"{windows[0]}.tape.zst").write_bytes(b"")
    found = find_recording(None, SESSION, tmp_path)
    assert found == [layout.tapes(SESSION) / f"{window}.tape" for window in windows]


def test_a_session_that_cannot_be_replayed_is_reported(tmp_path: Path) -> None:
    layout = record(tmp_path, SESSION, listening(TICKERS, NOON, NOON + 9 * SECOND, stream(NOON)))
    with pytest.raises(UsageError, match=f"No session {OTHER}"):
        find_recording(None, OTHER, tmp_path)
    with pytest.raises(UsageError, match=r"No session \.\./x"):
        find_recording(None, "../x", tmp_path)
    with pytest.raises(UsageError, match="not both"):
        find_recording(tmp_path, SESSION, tmp_path)
    with pytest.raises(UsageError, match="--session"):
        find_recording(tmp_path, None, tmp_path)
    with lock.hold_lock(layout.lock(SESSION), {}), pytest.raises(StoreError, match="is running"):
        find_recording(None, SESSION, tmp_path)
    for path in layout.tapes(SESSION).glob("*.zst"):
        path.unlink()
    with pytest.raises(StoreError, match="Some tapes of session"):
        find_recording(None, SESSION, tmp_path)


def test_the_simulator_exits_with_2_for_a_missing_session(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["simulator", "--session", OTHER, "--data-dir", str(tmp_path)]) == 2
    assert f"No session {OTHER}" in capsys.readouterr().err
