from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stocktrace.errors import TickerError, UsageError
from stocktrace.trade import COLUMNS, TICKER_BYTES, Trade, is_ticker, parse_tickers

# FINNHUB.md, "Symbols".
SYMBOLS = [
    "AAPL",
    "BRK.B",
    "AC.TO",
    "1810.HK",
    "^GSPC",
    "BINANCE:BTCUSDT",
    "OANDA:EUR_USD",
    "FXCM:EUR/USD",
    "IC MARKETS:1",
    "FHFX:EUR-USD",
]


def test_columns_are_in_their_order() -> None:
    assert COLUMNS == ("symbol", "ts_event", "ts_recv", "price", "volume", "conditions")


def test_a_trade_has_no_conditions_by_default() -> None:
    assert Trade("AAPL", 1.5, 2, 3.0) == Trade("AAPL", 1.5, 2, 3.0, None)


def test_a_trade_cannot_be_changed() -> None:
    trade = Trade("AAPL", 1.5, 2, 3.0)
    with pytest.raises(AttributeError):
        trade.p = 2.0  # type: ignore[misc]


@pytest.mark.parametrize("symbol", SYMBOLS)
def test_every_kind_of_symbol_is_a_ticker(symbol: str) -> None:
    assert is_ticker(symbol)


@pytest.mark.parametrize("symbol", ["..", "CON", "A/B", "A:B", "A-B", "^", "A" * TICKER_BYTES])
def test_a_name_that_is_awkward_for_files_is_a_ticker_too(symbol: str) -> None:
    assert is_ticker(symbol)


@pytest.mark.parametrize(
    "symbol",
    ["", " ", " A", "A ", "A\n", "A\tB", "A\0B", "Ä", "A,B", "A*", "A" * (TICKER_BYTES + 1)],
)
def test_other_characters_do_not_make_a_ticker(symbol: str) -> None:
    assert not is_ticker(symbol)


def test_the_length_of_a_ticker_is_that_of_its_encoded_folder() -> None:
    assert is_ticker(":" * (TICKER_BYTES // 3))
    assert not is_ticker(":" * (TICKER_BYTES // 3 + 1))


def test_tickers_keep_their_order_and_each_comes_once() -> None:
    assert parse_tickers(["MSFT,AAPL", " AAPL ", "IC MARKETS:1,,MSFT", ""]) == (
        "MSFT",
        "AAPL",
        "IC MARKETS:1",
    )


@pytest.mark.parametrize("words", [(), ("",), (" , ,",)])
def test_an_empty_list_of_tickers_is_refused(words: tuple[str, ...]) -> None:
    with pytest.raises(TickerError) as told:
        parse_tickers(words)
    assert str(told.value) == ("Name at least one ticker, such as AAPL or BINANCE:BTCUSDT.")


def test_a_word_that_is_not_a_ticker_is_named() -> None:
    with pytest.raises(UsageError) as told:
        parse_tickers(["AAPL", "MS*FT"])
    assert str(told.value) == (
        "'MS*FT' is not a ticker: use letters, digits and . : _ - / ^ "
        "(at most about 200), as in AAPL or BINANCE:BTCUSDT."
    )


@given(st.lists(st.sampled_from(SYMBOLS), min_size=1))
def test_tickers_can_be_separated_by_commas_or_be_separate_words(symbols: list[str]) -> None:
    assert parse_tickers([",".join(symbols)]) == parse_tickers(symbols)
    assert parse_tickers(symbols) == tuple(dict.fromkeys(symbols))
