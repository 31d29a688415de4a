from __future__ import annotations

import gzip
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard
from websockets.exceptions import ConnectionClosed

from stocktrace.errors import SettingsError, TapeError
from stocktrace.marks import DisconnectedMark, Mark
from stocktrace.simulator import (
    ScriptedSource,
    Simulator,
    SimulatorSettings,
    SyntheticMarket,
    TapeSource,
)
from stocktrace.store.tape import TapeFrames, TapeReader
from tests.simulator.conftest import SECOND, Dial, frame_of, numbered, prices

QUICK = SimulatorSettings(settle=0.01, keep=True)


def tape_text(steps: list[tuple[int, bytes]]) -> bytes:
    return b"".join(b"%d\t%s\n" % step for step in steps)


@pytest.fixture
def tape(tmp_path: Path) -> Path:
    path = tmp_path / "one.tape"
    path.write_bytes(tape_text(numbered(20)))
    return path


def test_a_tape_at_full_speed_arrives_complete_and_verbatim(dial: Dial, tape: Path) -> None:
    with Simulator(TapeSource(tape, speed=0), QUICK) as simulator:
        client = dial(simulator)
        client.subscribe("AAPL")
        assert client.frames(20) == [frame for _, frame in numbered(20)]
        simulator.wait_for(lambda simulator: simulator.finished.is_set())
        assert (simulator.sent_frames, simulator.sent_trades) == (20, 20)
        (connection,) = simulator.connections
        assert connection.frames == [frame for _, frame in numbered(20)]
        assert (connection.sent_frames, connection.sent_trades, connection.open) == (20, 20, True)


def test_a_large_script_is_sent_no_faster_than_it_is_read(dial: Dial) -> None:
    padding = "x" * 20_000
    script = ScriptedSource(
        [(n, b'{"type":"news","n":%d,"x":"%s"}' % (n, padding.encode())) for n in range(1000)]
    )
    with Simulator(script, SimulatorSettings(settle=0)) as simulator:
        client = dial(simulator)
        client.subscribe("AAPL")
        simulator.wait_for(lambda simulator: simulator.sent_frames > 0)
        assert not simulator.finished.is_set()  # 20 MB do not fit into the buffers
        assert [json.loads(frame)["n"] for frame in client.frames(1000)] == list(range(1000))
        assert simulator.finished.wait(5)


def test_play_waits_until_all_subscribes_have_come(dial: Dial) -> None:
    script = ScriptedSource([(1, frame_of(("A", 1), ("B", 2), ("C", 3)))])
    with Simulator(script, SimulatorSettings(settle=0.5)) as simulator:
        client = dial(simulator)
        client.subscribe("A", "B", "C")
        assert prices(client.trades(3)) == [1, 2, 3]


def test_a_pace_stretches_the_recorded_times(dial: Dial, tape: Path) -> None:
    with Simulator(TapeSource(tape, speed=100), SimulatorSettings(settle=0)) as simulator:
        client = dial(simulator)
        client.subscribe("AAPL")
        client.trades(1)
        begin = time.monotonic()
        assert prices(client.trades(19)) == list(range(2, 21))
        assert 0.15 < time.monotonic() - begin < 3


def test_without_settling_play_starts_before_a_client_listens() -> None:
    with Simulator(
        ScriptedSource(numbered(3), speed=1000), SimulatorSettings(settle=None)
    ) as simulator:
        assert simulator.finished.wait(5)
        assert simulator.sent_trades == 0


def test_with_a_pace_nothing_is_replayed_after_a_reconnect(dial: Dial) -> None:
    with Simulator(
        ScriptedSource(numbered(1000), speed=200), SimulatorSettings(settle=0)
    ) as simulator:
        first = dial(simulator)
        first.subscribe("AAPL")
        seen = prices(first.trades(3))
        simulator.drop_all()
        seen += first.remaining_prices()
        simulator.wait_for(lambda simulator: simulator.open_connections == 0)
        second = dial(simulator)
        second.subscribe("AAPL")
        simulator.wait_for(lambda simulator: simulator.sent_trades > len(seen))
        assert prices(second.trades(1))[0] > seen[-1]


def test_at_full_speed_play_waits_for_a_client(dial: Dial, tape: Path) -> None:
    with Simulator(TapeSource(tape, speed=0), QUICK) as simulator:
        dial(simulator)
        client = dial(simulator)
        assert not simulator.finished.is_set()
        client.subscribe("AAPL")
        assert prices(client.trades(20)) == list(range(1, 21))


@pytest.mark.parametrize("suffix", [".tape", ".tape.gz", ".tape.zst"])
def test_tapes_may_be_compressed(tmp_path: Path, suffix: str) -> None:
    pack: dict[str, Callable[[bytes], bytes]] = {
        ".tape": bytes,
        ".tape.gz": gzip.compress,
        ".tape.zst": zstandard.compress,
    }
    path = tmp_path / f"a{suffix}"
    path.write_bytes(pack[suffix](tape_text(numbered(2))))
    tape = TapeSource(path)
    tape.check()
    assert list(tape.entries(0, tuple)) == [
        TapeFrames(stamp, [frame]) for stamp, frame in numbered(2)
    ]


def test_the_tapes_of_a_folder_are_played_in_order_of_name(tmp_path: Path) -> None:
    steps = numbered(3)
    for name, step in zip(["b.tape", "c.tape", "a.tape"], steps, strict=True):
        (tmp_path / name).write_bytes(tape_text([step]))
    (tmp_path / "notes.txt").write_text("not a tape")
    stamps = [entry.stamp for entry in TapeSource(tmp_path).entries(0, tuple)]
    assert stamps == [3 * SECOND, 1 * SECOND, 2 * SECOND]


def test_times_moved_to_now_begin_with_the_play_and_follow_its_speed(tape: Path) -> None:
    tape.write_bytes(
        tape_text(
            [
                (10 * SECOND, frame_of(("A", 1), t=9_900)),
                (20 * SECOND, frame_of(("A", 2), t=19_900)),
            ]
        )
    )
    start = 1_000_000 * SECOND

    def times(**options: Any) -> list[int]:
        return [
            json.loads(frame)["data"][0]["t"]
            for entry in TapeSource(tape, times="now", **options).entries(start, tuple)
            if isinstance(entry, TapeFrames)
            for frame in entry.frames
        ]

    assert times() == [1_000_000_000 - 100, 1_000_010_000 - 100]
    assert times(speed=10) == [1_000_000_000 - 10, 1_000_001_000 - 10]
    now = time.time_ns() // 1_000_000
    assert all(now - 100 <= t <= now + 5000 for t in times(speed=0))


def test_a_recorded_disconnect_can_drop_every_connection(dial: Dial, tape: Path) -> None:
    steps = numbered(2)
    tape.write_bytes(
        tape_text(steps[:1])
        + b'1500000000\t#disconnected {"reason":"lost"}\n1500000000\t#connected {}\n'
        + tape_text(steps[1:])
    )
    assert all(isinstance(entry, TapeFrames) for entry in TapeSource(tape).entries(0, tuple))
    with Simulator(TapeSource(tape, speed=0, replay_disconnects=True), QUICK) as simulator:
        first = dial(simulator)
        first.subscribe("AAPL")
        assert prices(first.trades(1)) == [1]
        with pytest.raises(ConnectionClosed):
            first.frame()
        second = dial(simulator)
        second.subscribe("AAPL")
        assert prices(second.trades(1)) == [2]
        assert [connection.open for connection in simulator.connections] == [False, True]


def test_a_mark_in_a_script_drops_every_connection(dial: Dial) -> None:
    steps: list[tuple[int, bytes] | Mark] = [
        numbered(1)[0],
        DisconnectedMark(2 * SECOND, "lost"),
    ]
    with Simulator(ScriptedSource(steps), QUICK) as simulator:
        client = dial(simulator)
        client.subscribe("AAPL")
        assert prices(client.trades(1)) == [1]
        with pytest.raises(ConnectionClosed):
            client.frame()


def test_a_looping_source_starts_again(dial: Dial) -> None:
    with Simulator(ScriptedSource(numbered(3), loop=True), QUICK) as simulator:
        client = dial(simulator)
        client.subscribe("AAPL")
        assert prices(client.trades(7))[:7] == [1, 2, 3, 1, 2, 3, 1]
        assert not simulator.finished.is_set()


def test_heartbeats_continue_after_the_end(dial: Dial) -> None:
    with Simulator(ScriptedSource([]), SimulatorSettings(settle=0, ping_period=0.01)) as simulator:
        client = dial(simulator)
        client.subscribe("AAPL")
        assert simulator.finished.wait(5)
        assert client.frames(2) == [b'{"type":"ping"}'] * 2


def test_a_damaged_tape_is_played_and_reported(
    tape: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tape.write_bytes(b"no stamp\n" + tape_text(numbered(1)) + b"17")
    assert len(list(TapeSource(tape).entries(0, tuple))) == 1
    assert "one.tape is damaged: 2 truncated bytes and 1 invalid lines" in caplog.text


def test_a_missing_tape_is_reported(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.tape"):
        with pytest.raises(TapeError, match="No tape at"):
            Simulator(TapeSource(path)).start()


def test_a_speed_below_zero_is_refused(tape: Path) -> None:
    with pytest.raises(SettingsError):
        Simulator(TapeSource(tape, speed=-1)).start()


def test_an_endless_market_trades_what_clients_are_subscribed_to(dial: Dial) -> None:
    with Simulator(SyntheticMarket(rate=2000), SimulatorSettings(settle=0)) as simulator:
        client = dial(simulator)
        client.subscribe("AAPL")
        assert {trade["s"] for trade in client.trades(20)} == {"AAPL"}
        client.subscribe("OANDA:EUR_USD")
        simulator.wait_for(lambda simulator: len(simulator.subscriptions) == 2)
        seen: set[str] = set()
        while seen != {"AAPL", "OANDA:EUR_USD"}:
            trade = client.trades(1)[-1]
            seen.add(trade["s"])
            lag = time.time() * 1000 - trade["t"]
            assert 0 < lag < 5000


def test_the_frames_of_the_simulator_can_be_read_as_a_tape(dial: Dial, tmp_path: Path) -> None:
    market = SyntheticMarket(seed=3, trades=3000, flat_out=True, tickers=("AAPL", "MSFT"))
    with Simulator(market, SimulatorSettings(keep=True)) as simulator:
        client = dial(simulator)
        client.subscribe("AAPL", "MSFT")
        client.trades(3000)
        path = tmp_path / "recorded.tape"
        path.write_bytes(tape_text(list(enumerate(simulator.connections[0].frames))))
    assert (
        sum(len(entry.frames) for entry in TapeReader(path) if isinstance(entry, TapeFrames)) > 500
    )
