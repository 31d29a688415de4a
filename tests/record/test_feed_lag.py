"""How far the feed is behind, from times that are honest, odd and wrong."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stocktrace.feed import protocol
from stocktrace.record.feed_lag import FeedLag
from stocktrace.store.decoded_batch import DecodedRead
from stocktrace.store.tape import TapeFrames
from stocktrace.trade import Trade
from tests.conftest import NOON

MS = 1_000_000
SECOND = 1000 * MS
START = NOON // MS


def read(received: float, *trades: tuple[str, float]) -> DecodedRead:
    """Trades of a ticker and a time each, in seconds since noon, as they were received."""
    rows = [Trade(ticker, 1.0, START + int(at * 1000), 1.0, None) for ticker, at in trades]
    frames = [protocol.encode(rows)] if rows else [b'{"type":"ping"}']
    arrivals = [TapeFrames(NOON + int(received * SECOND), frames)]
    return DecodedRead(arrivals, protocol.decode(frames).rows)


def feed(*reads: DecodedRead, opened: float = 0.0) -> FeedLag:
    lag = FeedLag()
    lag.connection_opened(NOON + int(opened * SECOND))
    for each in reads:
        lag.add(each)
    return lag


def steady(
    seconds: Iterable[float],
    delay: Callable[[float], float] = lambda _: 0.1,
    tickers: tuple[str, ...] = ("AAPL", "MSFT"),
) -> list[DecodedRead]:
    """A read a second with a trade of each ticker, ``delay`` after the trade."""
    return [read(at, *((ticker, at - delay(at)) for ticker in tickers)) for at in seconds]


def growing(at: float) -> float:
    """The delay of a link that takes half of what is sent."""
    return 0.1 + at / 2


def marks(reads: Iterable[DecodedRead], lag: FeedLag) -> list[tuple[float, float]]:
    """When a lag is marked (s after noon), and the lag (s)."""
    found = []
    for each in reads:
        lag.add(each)
        stamp = each.arrivals[-1].stamp
        if (ns := lag.due(stamp)) is not None:
            found.append(((stamp - NOON) / SECOND, round(ns / SECOND, 1)))
    return found


def test_101_a_growing_lag_is_measured_and_marked_once_a_second() -> None:
    lag = feed()
    found = marks(steady(range(11), growing), lag)
    assert lag.lag_ms == pytest.approx(5000, abs=5)
    # Half a second of tolerance; two seconds of lag that have lasted for one.
    assert found == [(at, at / 2 + 0.5) for at in (6, 7, 8, 9, 10)]


def test_101_whatever_is_on_its_way_at_the_loss_is_lost() -> None:
    lag = feed(*steady(range(11), growing))
    assert lag.due(NOON + 12 * SECOND, at_loss=True) == pytest.approx(7.5 * SECOND, abs=10 * MS)
    assert lag.due(NOON + 13 * SECOND, at_loss=True) is None  # once a loss


def test_a_feed_that_has_caught_up_says_so_once() -> None:
    lag = feed()
    reads = [*steady(range(11), growing), *steady(range(11, 14))]
    assert marks(reads, lag)[-2:] == [(10, 5.5), (11, 0)]
    assert lag.due(NOON + 14 * SECOND, at_loss=True) is None


def test_a_link_that_stalls_while_it_is_behind_is_marked_when_the_lag_has_grown() -> None:
    lag = feed()
    marks(steady(range(11), growing), lag)
    ticks = [lag.due(NOON + at * SECOND) for at in range(11, 100)]
    lags = [round(ns / SECOND, 1) for ns in ticks if ns is not None]
    assert lags == [7.5, 9.5, 12.5, 15.5, 19.5, 24.5, 30.5, 38.5, 48.5, 60.5, 75.5, 94.5]


@pytest.mark.parametrize("offset", [-86_000.0, -5.0, 0.0, 5.0, 900.0, 86_000.0])
def test_the_offset_of_a_clock_is_not_a_lag(offset: float) -> None:
    lag = feed()
    assert marks(steady(range(100), lambda _: offset + 0.1), lag) == []
    assert lag.due(NOON + 100 * SECOND, at_loss=True) is None


@given(st.floats(-1000, 1000), st.integers(0, 2**32))
def test_honest_delays_are_not_a_lag_whatever_the_offset(offset: float, seed: int) -> None:
    chance = random.Random(seed)
    lag = feed()
    assert marks(steady(range(30), lambda _: offset + chance.uniform(0.0, 1.5)), lag) == []


def test_a_clock_that_drifts_is_not_a_lag() -> None:
    lag = feed()
    # A day, at 8 s a day.
    assert marks(steady(range(0, 86_400, 60), lambda at: 0.1 + at * 9e-5), lag) == []


def test_16_late_trades_are_not_a_lag() -> None:
    lag = feed()
    late = [read(at, ("AAPL", at - 0.1), ("MSFT", at - 600)) for at in range(1, 20)]
    alone = [read(at + 0.5, ("MSFT", at - 90)) for at in range(20, 30)]
    between = steady(range(20, 30))
    both = [each for pair in zip(between, alone, strict=True) for each in pair]
    assert marks([*steady([0, 0.3, 0.6]), *late, *both], lag) == []


def test_the_first_trade_of_a_quiet_ticker_does_not_hide_a_lag() -> None:
    lag = feed(*steady(range(11), growing))
    lag.add(read(11, ("TSLA", 11 - growing(11)), ("BINANCE:BTCUSDT", 11 - growing(11))))
    assert lag.lag_ms == pytest.approx(5500, abs=10)
    for each in steady([12, 13, 14, 15], growing, ("BINANCE:BTCUSDT",)):
        lag.add(each)
    assert lag.lag_ms == pytest.approx(7500, abs=1000)


def test_each_venue_has_its_clock() -> None:
    lag = feed()
    # One is five seconds ahead and seldom trades.
    both = [
        read(at, ("AAPL", at - 0.1), *([("OANDA:EUR_USD", at + 5)] if at % 10 == 0 else []))
        for at in range(100)
    ]
    assert marks(both, lag) == []
    assert lag.due(NOON + 100 * SECOND, at_loss=True) is None


@pytest.mark.parametrize("first", [0, 20])
@pytest.mark.parametrize("ahead", [3.0, 3600.0, 80_000.0, 10**9])
def test_a_trade_from_the_future_does_not_make_or_hide_a_lag(first: int, ahead: float) -> None:
    reads = steady(range(first))
    reads += [read(first, ("AAPL", first + ahead)), *steady(range(first + 1, 50))]
    lag = feed()
    assert marks(reads, lag) == []
    late = steady(range(50, 70), lambda at: growing(at - 50))
    assert len(marks(late, lag)) > 10


def test_a_quiet_list_without_trades_on_their_way_is_not_behind() -> None:
    """A late trade is the last one: a heartbeat shows that nothing follows it."""
    reads = [*steady([0, 0.5, 1, 300]), read(600, ("AAPL", 510))]
    lag = feed(*reads)
    assert lag.lag_ms == pytest.approx(90_000, abs=200)
    lag.add(read(660))
    assert lag.due(NOON + 700 * SECOND, at_loss=True) is None


def test_a_lag_is_not_older_than_its_connection() -> None:
    lag = feed(*steady([0, 0.5, 1]))
    lag.connection_opened(NOON + 100 * SECOND)
    lag.add(read(104, ("AAPL", 20)))
    assert lag.due(NOON + 105 * SECOND, at_loss=True) == 5 * SECOND


def test_a_replay_of_an_old_recording_is_not_behind() -> None:
    lag = feed()
    assert marks(steady(range(50), lambda at: 1e8 + at), lag) == []


@pytest.mark.parametrize("step", [-3600.0, 40.0, 3600.0])
def test_a_step_of_our_clock_is_not_a_lag_and_hides_none(step: float) -> None:
    lag = feed(*steady(range(10)))
    lag.clock_stepped(step)

    def delay(at: float) -> float:
        return 0.1 + step + (at - 20 - step) / 2 if at > 20 + step else 0.1 + step

    assert marks(steady([at + step for at in range(10, 20)], delay), lag) == []
    found = marks(steady([at + step for at in range(20, 40)], delay), lag)
    assert found[-1][1] == pytest.approx(10.0, abs=0.2)


def test_invented_venues_are_bounded() -> None:
    lag = feed()
    for at in range(10):
        lag.add(read(at, *((f"V{at}-{number}:X", at - 0.1) for number in range(50))))
    assert len(lag._clocks) == 64
