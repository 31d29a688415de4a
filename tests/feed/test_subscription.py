from __future__ import annotations

from typing import cast

import pytest

from stocktrace.feed import protocol
from stocktrace.feed.socket import BatchSocket
from stocktrace.feed.subscriptions import ANSWER_TIMEOUT_S, Subscription
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
    subscription.begin(("A", "B", "C"))
    sent.clear()
    assert subscription.change(("D", "B")) == (["D"], ["A", "C"])
    assert sent == [protocol.unsubscribe("A"), protocol.unsubscribe("C"), protocol.subscribe("D")]
    assert subscription.tickers == ("D", "B")
    assert subscription.change(("B", "D")) == ([], [])
    assert len(sent) == 3


def test_a_suspect_that_was_removed_is_not_subscribed_again(
    subscription: Subscription,
) -> None:
    subscription.begin(("A", "B"))
    assert subscription.probe.add_error("Invalid symbol", subscription.tickers, 0.0) is None
    assert subscription.probe.is_active
    subscription.change(("B",))
    asked = [subscription.probe.next_suspect(ANSWER_TIMEOUT_S * (step + 1)) for step in range(2)]
    assert asked == ["B", None]
    assert subscription.probe.add_error("Invalid symbol B", subscription.tickers, 9.0) == "B"
