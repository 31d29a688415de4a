from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stocktrace.errors import SettingsError
from stocktrace.feed.protocol import decode
from stocktrace.simulator import SyntheticMarket, synthetic_frames
from stocktrace.simulator.market import OPENING_BELL, Crypto, Forex, Stock, instrument
from stocktrace.store.tape import TapeFrames
from stocktrace.trade import Trade, is_ticker
from tests.sampling import costly

TICKERS = ("AAPL", "BINANCE:BTCUSDT", "OANDA:EUR_USD", "MSFT")


def trades_of(frames: list[tuple[int, bytes]]) -> list[Trade]:
    decoded = decode([frame for _, frame in frames])
    assert (decoded.undecodable, decoded.refused_trades) == (0, 0)
    return [trade for message in decoded.rows.messages() for trade in message]


@pytest.fixture(scope="module")
def frames() -> list[tuple[int, bytes]]:
    return list(synthetic_frames(TICKERS, 20_000, seed=1, rate=100))


@pytest.fixture(scope="module")
def trades(frames: list[tuple[int, bytes]]) -> list[Trade]:
    return trades_of(frames)


def test_the_same_seed_makes_the_same_market(frames: list[tuple[int, bytes]]) -> None:
    assert frames == list(synthetic_frames(TICKERS, 20_000, seed=1, rate=100))
    assert frames[:9] != list(synthetic_frames(TICKERS, 50, seed=2, rate=100))[:9]


def test_a_market_has_the_requested_number_of_trades(trades: list[Trade]) -> None:
    assert len(trades) == 20_000
    assert (
        trades_of(list(synthetic_frames(["A"], 1)))
        == trades_of(list(synthetic_frames(["A"], 7)))[:1]
    )
    assert list(synthetic_frames([], 10)) == []
    assert list(synthetic_frames(["A"], 0)) == []


def test_frames_are_sent_in_order_18_milliseconds_to_seconds_apart(
    frames: list[tuple[int, bytes]],
) -> None:
    gaps = [(after - before) / 1e6 for (before, _), (after, _) in pairwise(frames)]
    assert min(gaps) >= 1
    assert sum(gap < 18 for gap in gaps) < len(gaps) / 50
    quiet = list(synthetic_frames(["A"], 500, rate=0.5))
    assert max(after - before for (before, _), (after, _) in pairwise(quiet)) > 5e9
    assert frames[0][0] > OPENING_BELL


def test_a_trade_happens_20_to_150_milliseconds_before_its_frame_is_sent(
    frames: list[tuple[int, bytes]],
) -> None:
    messages = decode([frame for _, frame in frames]).rows.messages()
    lags = [
        stamp / 1e6 - trade.t
        for (stamp, _), message in zip(frames, messages, strict=True)
        for trade in message
    ]
    assert min(lags) >= 20
    assert sorted(lags)[len(lags) * 99 // 100] <= 150
    assert max(lags) < 250


def test_frames_are_bursty_and_mixed(frames: list[tuple[int, bytes]]) -> None:
    messages = decode([frame for _, frame in frames]).rows.messages()
    sizes = [len(message) for message in messages]
    mean = sum(sizes) / len(sizes)
    variance = sum((size - mean) ** 2 for size in sizes) / len(sizes)
    assert variance > 1.5 * mean  # the two would be equal in a Poisson market
    assert min(sizes) == 1
    assert max(sizes) >= 20
    assert any(len({trade.s for trade in message}) == 4 for message in messages)
    assert any(a.t > b.t for message in messages for a, b in pairwise(message))
    assert any(a == b for message in messages for a, b in pairwise(message))


def test_the_opening_is_busier_than_the_long_run(
    frames: list[tuple[int, bytes]], trades: list[Trade]
) -> None:
    first = trades[0].t
    rates = Counter((trade.t - first) // 20_000 for trade in trades)
    assert rates[0] / 20 > 130
    assert sum(rates[n] for n in range(4, 8)) / 80 == pytest.approx(115, rel=0.3)


def test_the_first_tickers_are_the_busiest(trades: list[Trade]) -> None:
    counts = Counter(trade.s for trade in trades)
    assert [symbol for symbol, _ in counts.most_common()] == list(TICKERS)


def test_stocks_have_ticks_lots_and_codes(trades: list[Trade]) -> None:
    stock = [trade for trade in trades if trade.s == "AAPL"]
    whole_cents = [math.isclose(trade.p * 100, round(trade.p * 100)) for trade in stock]
    assert 0.9 < sum(whole_cents) / len(stock) < 1
    for trade in stock:
        assert trade.c
        assert trade.v >= 1
        assert trade.v == int(trade.v)
        assert ("12" in trade.c) == (trade.v < 100)
    assert {"1", "8", "12", "24"} <= {code for trade in stock for code in trade.c or ()}
    assert max(abs(a.p - b.p) for a, b in pairwise(stock)) < 0.2


def test_crypto_has_fractional_volumes_and_null_codes(frames: list[tuple[int, bytes]]) -> None:
    rows = [frame for _, frame in frames if b"BINANCE" in frame]
    assert any(b'{"c":null,"p":' in row for row in rows)
    crypto = [trade for trade in trades_of(frames) if trade.s == "BINANCE:BTCUSDT"]
    assert all(trade.v > 0 and round(trade.v, 6) == trade.v for trade in crypto)


def test_forex_is_price_updates_without_codes(frames: list[tuple[int, bytes]]) -> None:
    assert any(b'{"p":' in frame for _, frame in frames)
    forex = [trade for trade in trades_of(frames) if trade.s == "OANDA:EUR_USD"]
    assert all(trade.v == 0 and trade.c is None for trade in forex)
    assert all(round(trade.p, 5) == trade.p for trade in forex)


@pytest.mark.parametrize(
    ("ticker", "kind"),
    [
        ("AAPL", Stock),
        ("BRK.B", Stock),
        ("^GSPC", Stock),
        ("1810.HK", Stock),
        ("BINANCE:BTCUSDT", Crypto),
        ("COINBASE:BTC-USD", Crypto),
        ("OANDA:EUR_USD", Forex),
        ("FXCM:EUR/USD", Forex),
        ("IC MARKETS:1", Forex),
        ("FHFX:EUR-USD", Forex),
    ],
)
def test_the_kind_of_an_instrument_follows_from_its_ticker(ticker: str, kind: type) -> None:
    assert type(instrument(ticker)) is kind


@settings(max_examples=costly())
@given(st.from_regex(r"[A-Za-z0-9.:_/^-]{1,20}", fullmatch=True).filter(is_ticker))
def test_any_ticker_can_be_traded(ticker: str) -> None:
    trades = trades_of(list(synthetic_frames([ticker], 20)))
    assert len(trades) == 20
    assert {trade.s for trade in trades} == {ticker}
    assert all(trade.p > 0 for trade in trades)


def test_time_passes_without_tickers() -> None:
    tickers: list[tuple[str, ...]] = [()]
    play = SyntheticMarket(rate=100).entries(OPENING_BELL, lambda: tickers[0])
    assert next(play) == TapeFrames(OPENING_BELL, ())
    silent = next(play)
    assert silent.frames == ()
    assert silent.stamp > OPENING_BELL
    tickers[0] = ("AAPL",)
    assert b'"AAPL"' in next(play).frames[0]


def test_a_ticker_keeps_its_price_while_others_come_and_go() -> None:
    tickers: list[tuple[str, ...]] = [("AAPL",)]
    play = SyntheticMarket(rate=100).entries(OPENING_BELL, lambda: tickers[0])

    def price() -> float:
        return decode([next(play).frames[0]]).rows.messages()[0][0].p

    next(play)
    before = price()
    tickers[0] = ("MSFT",)
    price()
    tickers[0] = ("AAPL",)
    assert abs(price() - before) < 1


@pytest.mark.parametrize("market", [SyntheticMarket(rate=0), SyntheticMarket(opening=0)])
def test_a_market_without_a_rate_is_refused(market: SyntheticMarket) -> None:
    with pytest.raises(SettingsError):
        market.check()
    assert (market.speed, market.loop) == (1.0, False)
