"""The probe finds the ticker that an error means but does not name."""

from __future__ import annotations

from stocktrace.feed.subscriptions import (
    ANSWER_TIMEOUT_S,
    RefusalProbe,
    is_symbol_error,
    ticker_named_in,
)

TICKERS = ("AAPL", "BAD", "MSFT")


def probe(*traded: str) -> RefusalProbe:
    return RefusalProbe(lambda ticker: ticker in traded)


def test_a_ticker_that_the_error_names_is_the_one():
    assert ticker_named_in("Invalid symbol FX:EURUSD", ("AAPL", "FX:EURUSD")) == "FX:EURUSD"
    assert probe().add_error("Invalid symbol BAD", TICKERS, 0.0) == "BAD"


def test_an_error_about_something_else_suspects_nobody():
    one = probe()
    assert not is_symbol_error("Internal error")
    assert one.add_error("Internal error", TICKERS, 0.0) is None
    assert one.next_question(10.0) is None


def test_the_one_whose_request_is_answered_by_an_error_is_refused():
    one = probe()
    assert one.add_error("Invalid symbol", TICKERS, 0.0) is None
    assert one.next_question(ANSWER_TIMEOUT_S / 2) is None, (
        "errors of the first requests may still come"
    )
    assert one.next_question(ANSWER_TIMEOUT_S) == "AAPL"
    assert one.next_question(ANSWER_TIMEOUT_S * 1.5) is None, "its answer has time to come"
    assert one.next_question(ANSWER_TIMEOUT_S * 2) == "BAD"
    assert one.add_error("Invalid symbol", TICKERS, ANSWER_TIMEOUT_S * 2.2) == "BAD"
    assert one.next_question(ANSWER_TIMEOUT_S * 3) == "MSFT"
    assert one.next_question(ANSWER_TIMEOUT_S * 4) is None
    assert one.add_error("something", TICKERS, ANSWER_TIMEOUT_S * 5) is None


def test_a_ticker_that_traded_is_not_asked_for_again():
    one = probe("AAPL", "MSFT")
    one.add_error("Subscribing to too many symbols", TICKERS, 0.0)
    assert one.next_question(ANSWER_TIMEOUT_S) == "BAD"
    assert one.next_question(ANSWER_TIMEOUT_S * 2) is None


def test_a_second_error_before_the_first_question_changes_nothing():
    one = probe()
    assert one.add_error("Invalid symbol", TICKERS, 0.0) is None
    assert one.add_error("Invalid symbol", TICKERS, 0.1) is None
    asked = [one.next_question(ANSWER_TIMEOUT_S * (step + 1)) for step in range(4)]
    assert asked == [*TICKERS, None]


def test_those_asked_for_last_are_suspected_first():
    one = probe()
    one.subscribed(["MSFT", "GONE"], 0.0)
    one.add_error("Subscribing to too many symbols", TICKERS, 0.1)
    asked = [one.next_question(0.1 + ANSWER_TIMEOUT_S * (step + 1)) for step in range(4)]
    assert asked == ["MSFT", "AAPL", "BAD", None]


def test_an_error_after_more_was_asked_for_is_not_taken_for_the_answer_of_another():
    one = probe()
    one.add_error("Invalid symbol", ("AAPL", "MSFT"), 0.0)
    assert one.next_question(ANSWER_TIMEOUT_S) == "AAPL"
    one.subscribed(["BAD"], ANSWER_TIMEOUT_S)
    assert one.add_error("Invalid symbol", TICKERS, ANSWER_TIMEOUT_S) is None, (
        "it may be that of BAD"
    )
    assert one.next_question(ANSWER_TIMEOUT_S * 1.5) is None
    assert one.next_question(ANSWER_TIMEOUT_S * 2) == "BAD"
    assert one.add_error("Invalid symbol", TICKERS, ANSWER_TIMEOUT_S * 2) == "BAD"
    assert [one.next_question(ANSWER_TIMEOUT_S * step) for step in (3, 4, 5)] == [
        "AAPL",
        "MSFT",
        None,
    ]


def test_a_named_ticker_is_a_suspect_no_more():
    one = probe()
    one.add_error("Invalid symbol", TICKERS, 0.0)
    assert one.add_error("Invalid symbol AAPL", TICKERS, 0.1) == "AAPL"
    assert one.next_question(ANSWER_TIMEOUT_S) == "BAD"


def test_a_ticker_that_is_not_wanted_any_more_is_not_asked_for_again():
    one = probe()
    one.add_error("Invalid symbol", TICKERS, 0.0)
    one.unsubscribed(["BAD"])
    asked = [one.next_question(ANSWER_TIMEOUT_S * (step + 1)) for step in range(3)]
    assert asked == ["AAPL", "MSFT", None]
