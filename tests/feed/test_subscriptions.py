from __future__ import annotations

from typing import cast

import pytest

from stocktrace.feed import protocol
from stocktrace.feed.socket import BatchSocket
from stocktrace.feed.subscriptions import (
    ANSWER_TIMEOUT_S,
    RefusalProbe,
    Subscription,
    find_named_ticker,
    is_symbol_error,
)
from tests.feed.conftest import Hands


class Sent(list[str]):
    """A socket that keeps what is sent."""

    def send(self, text: str) -> None:
        self.append(text)


@pytest.fixture
def sent() -> Sent:
    return Sent()


@pytest.fixture
def subscription(sent: Sent) -> Subscription:
    socket = cast("BatchSocket", sent)
    return Subscription(socket, Hands().clock())


def test_only_what_changed_is_asked_for(subscription: Subscription, sent: Sent) -> None:
    subscription.change(("A", "B", "C"))
    sent.clear()
    assert subscription.change(("D", "B")) == (["D"], ["A", "C"])
    assert sent == [protocol.unsubscribe("A"), protocol.unsubscribe("C"), protocol.subscribe("D")]
    assert subscription.tickers == ("D", "B")
    assert subscription.change(("B", "D")) == ([], [])
    assert len(sent) == 3


def test_a_suspect_that_was_removed_is_not_subscribed_again(
    subscription: Subscription,
) -> None:
    subscription.change(("A", "B"))
    assert subscription.probe.add_error("Invalid symbol", subscription.tickers, 0.0) is None
    assert subscription.probe.is_active
    subscription.change(("B",))
    asked = [subscription.probe.next_suspect(ANSWER_TIMEOUT_S * (step + 1)) for step in range(2)]
    assert asked == ["B", None]
    assert subscription.probe.add_error("Invalid symbol B", subscription.tickers, 9.0) == "B"


# --- which ticker does an error mean? ------------------------------------------------------------

TICKERS = ("AAPL", "BAD", "MSFT")


def test_a_ticker_that_the_error_names_is_the_one():
    assert find_named_ticker("Invalid symbol FX:EURUSD", ("AAPL", "FX:EURUSD")) == "FX:EURUSD"
    assert RefusalProbe().add_error("Invalid symbol BAD", TICKERS, 0.0) == "BAD"


def test_an_error_about_something_else_makes_no_suspects():
    probe = RefusalProbe()
    assert not is_symbol_error("Internal error")
    assert probe.add_error("Internal error", TICKERS, 0.0) is None
    assert probe.next_suspect(10.0) is None


def test_the_one_whose_request_is_answered_by_an_error_is_refused():
    probe = RefusalProbe()
    assert probe.add_error("Invalid symbol", TICKERS, 0.0) is None
    assert probe.next_suspect(ANSWER_TIMEOUT_S / 2) is None, (
        "errors of the first requests may still come"
    )
    assert probe.next_suspect(ANSWER_TIMEOUT_S) == "AAPL"
    assert probe.next_suspect(ANSWER_TIMEOUT_S * 1.5) is None, "its answer has time to come"
    assert probe.next_suspect(ANSWER_TIMEOUT_S * 2) == "BAD"
    assert probe.add_error("Invalid symbol", TICKERS, ANSWER_TIMEOUT_S * 2.2) == "BAD"
    assert probe.next_suspect(ANSWER_TIMEOUT_S * 3) == "MSFT"
    assert probe.next_suspect(ANSWER_TIMEOUT_S * 4) is None
    assert probe.add_error("something", TICKERS, ANSWER_TIMEOUT_S * 5) is None


def test_a_ticker_that_trades_is_not_asked_for_again():
    probe = RefusalProbe()
    probe.add_error("Subscribing to too many symbols", TICKERS, 0.0)
    assert probe.is_active
    probe.traded(["AAPL", "TSLA"])
    probe.traded({"MSFT"})
    assert probe.next_suspect(ANSWER_TIMEOUT_S) == "BAD"
    assert probe.next_suspect(ANSWER_TIMEOUT_S * 2) is None
    assert not probe.is_active


def test_a_ticker_that_traded_before_the_error_is_neither_asked_for_nor_refused():
    probe = RefusalProbe({"AAPL": 1})
    probe.traded(["MSFT"])
    assert probe.add_error("Invalid symbol", TICKERS, 0.0) is None
    assert probe.next_suspect(ANSWER_TIMEOUT_S) == "BAD"
    assert probe.next_suspect(ANSWER_TIMEOUT_S * 2) is None
    assert probe.add_error("Invalid symbol AAPL", TICKERS, ANSWER_TIMEOUT_S * 2) is None


def test_a_ticker_whose_trade_becomes_known_late_is_not_refused():
    already_traded: set[str] = set()
    probe = RefusalProbe(already_traded)
    probe.add_error("Invalid symbol", TICKERS, 0.0)
    already_traded.add("AAPL")
    assert probe.next_suspect(ANSWER_TIMEOUT_S) == "BAD"
    already_traded.add("BAD")
    assert probe.add_error("Internal error", TICKERS, ANSWER_TIMEOUT_S) is None
    assert probe.next_suspect(ANSWER_TIMEOUT_S * 2) == "MSFT"


def test_an_error_after_a_trade_of_the_ticker_asked_for_means_another():
    probe = RefusalProbe()
    probe.add_error("Invalid symbol", TICKERS, 0.0)
    assert probe.next_suspect(ANSWER_TIMEOUT_S) == "AAPL"
    probe.traded(["AAPL"])
    assert probe.add_error("Invalid symbol", TICKERS, ANSWER_TIMEOUT_S) is None
    assert probe.next_suspect(ANSWER_TIMEOUT_S * 2) == "BAD"


def test_a_second_error_before_the_first_question_changes_nothing():
    probe = RefusalProbe()
    assert probe.add_error("Invalid symbol", TICKERS, 0.0) is None
    assert probe.add_error("Invalid symbol", TICKERS, 0.1) is None
    asked = [probe.next_suspect(ANSWER_TIMEOUT_S * (step + 1)) for step in range(4)]
    assert asked == [*TICKERS, None]


def test_the_tickers_that_were_added_last_are_suspected_first():
    probe = RefusalProbe()
    probe.subscribed(["MSFT", "GONE"], 0.0)
    probe.add_error("Subscribing to too many symbols", TICKERS, 0.1)
    asked = [probe.next_suspect(0.1 + ANSWER_TIMEOUT_S * (step + 1)) for step in range(4)]
    assert asked == ["MSFT", "AAPL", "BAD", None]


def test_an_error_after_more_tickers_were_added_may_mean_any_of_them():
    probe = RefusalProbe()
    probe.add_error("Invalid symbol", ("AAPL", "MSFT"), 0.0)
    assert probe.next_suspect(ANSWER_TIMEOUT_S) == "AAPL"
    probe.subscribed(["BAD"], ANSWER_TIMEOUT_S)
    assert probe.add_error("Invalid symbol", TICKERS, ANSWER_TIMEOUT_S) is None, (
        "it may be that of BAD"
    )
    assert probe.next_suspect(ANSWER_TIMEOUT_S * 1.5) is None
    assert probe.next_suspect(ANSWER_TIMEOUT_S * 2) == "BAD"
    assert probe.add_error("Invalid symbol", TICKERS, ANSWER_TIMEOUT_S * 2) == "BAD"
    assert [probe.next_suspect(ANSWER_TIMEOUT_S * step) for step in (3, 4, 5)] == [
        "AAPL",
        "MSFT",
        None,
    ]


def test_a_named_ticker_is_no_longer_a_suspect():
    probe = RefusalProbe()
    probe.add_error("Invalid symbol", TICKERS, 0.0)
    assert probe.add_error("Invalid symbol AAPL", TICKERS, 0.1) == "AAPL"
    assert probe.next_suspect(ANSWER_TIMEOUT_S) == "BAD"


def test_a_removed_ticker_is_not_asked_for_again():
    probe = RefusalProbe()
    probe.add_error("Invalid symbol", TICKERS, 0.0)
    probe.unsubscribed(["BAD"])
    asked = [probe.next_suspect(ANSWER_TIMEOUT_S * (step + 1)) for step in range(3)]
    assert asked == ["AAPL", "MSFT", None]


def test_54_a_ticker_is_refused_once_until_it_is_subscribed_again():
    probe = RefusalProbe()
    errors = [probe.add_error("Invalid symbol BAD", TICKERS, 0.0) for _ in range(3)]
    assert errors == ["BAD", None, None]
    probe.subscribed(["BAD"], 1.0)
    assert probe.add_error("Invalid symbol BAD", TICKERS, 1.0) == "BAD"


def test_an_error_about_something_else_is_not_the_answer_to_a_question():
    probe = RefusalProbe()
    probe.add_error("Invalid symbol", TICKERS, 0.0)
    assert probe.next_suspect(ANSWER_TIMEOUT_S) == "AAPL"
    assert probe.add_error("Internal error", TICKERS, ANSWER_TIMEOUT_S) is None
    assert probe.add_error("Invalid symbol", TICKERS, ANSWER_TIMEOUT_S) == "AAPL"
