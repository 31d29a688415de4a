from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stocktrace.store.decoded_batch import DecodedRead, TickerCodes
from stocktrace.store.tape import TapeFrames
from stocktrace.trade import Trade
from stocktrace.trade_columns import TradeColumns
from tests.conftest import NOON

CODES = st.sampled_from([None, (), ("1",), ("1", "12")])
TICKERS = st.sampled_from(["AAPL", "MSFT", "BINANCE:BTCUSDT", ""])
TRADES = st.builds(
    Trade, TICKERS, st.floats(allow_nan=False), st.integers(0, 10**13), st.floats(0, 1e9), CODES
)
MESSAGES = st.lists(st.lists(TRADES, max_size=5), max_size=8)


@given(MESSAGES, MESSAGES)
def test_each_row_returns_its_trade_and_its_frame(
    first: list[list[Trade]], second: list[list[Trade]]
) -> None:
    numbering = TickerCodes()  # of one window: the second read knows the numbers of the first
    for messages in (first, second):
        frames = [b"%d" % at for at in range(len(messages))]
        read = DecodedRead([TapeFrames(NOON, frames)], TradeColumns.of(messages), numbering)
        arrived = [(trade, frames[at]) for at, some in enumerate(messages) for trade in some]
        rows = range(len(read))
        back = sorted(rows, key=lambda row: read.place[row])
        assert [(read.trade(row), read.frames_of(np.array([row]))[0]) for row in back] == arrived


@given(MESSAGES)
def test_each_ticker_has_its_rows_together_and_in_the_order_of_arrival(
    messages: list[list[Trade]],
) -> None:
    read = DecodedRead([TapeFrames(NOON, [b""] * len(messages))], TradeColumns.of(messages))
    trades = [trade for message in messages for trade in message]
    assert {ticker: [read.trade(row) for row in rows] for ticker, rows in read.ticker_rows} == {
        ticker: [trade for trade in trades if trade.s == ticker]
        for ticker in {trade.s for trade in trades}
    }
    assert [row for _, rows in read.ticker_rows for row in rows] == list(range(len(trades)))


@given(st.lists(MESSAGES.filter(bool), min_size=1, max_size=4))
def test_each_row_knows_when_its_frame_arrived(pieces: list[list[list[Trade]]]) -> None:
    arrivals = [TapeFrames(NOON + at, [b"%d" % at] * len(some)) for at, some in enumerate(pieces)]
    read = DecodedRead(arrivals, TradeColumns.of([message for some in pieces for message in some]))
    back = sorted(range(len(read)), key=lambda row: read.place[row])
    assert [
        (read.stamp_of(row), read.frames_of(np.array([row]))[0], read.trade(row)) for row in back
    ] == [
        (NOON + at, b"%d" % at, trade)
        for at, some in enumerate(pieces)
        for message in some
        for trade in message
    ]


def test_more_tickers_than_16_bits_can_number_are_sorted() -> None:
    names = [f"T{at}" for at in range(40_000)]
    trades = [Trade(name, float(at), at, 1.0) for at, name in enumerate(names)]
    read = DecodedRead([TapeFrames(NOON, [b"", b""])], TradeColumns.of([trades, trades]))
    assert len(read.ticker_rows) == len(names)
    for ticker, rows in (read.ticker_rows[0], read.ticker_rows[-1]):
        assert [read.trade(row) for row in rows] == [trades[names.index(ticker)]] * 2
