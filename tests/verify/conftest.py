"""A capture with something in it to verify."""

from __future__ import annotations

from stocktrace.simulator import Simulator
from tests.conftest import Scenario, all_of, connected, frame


def cut_off(exchange: Simulator) -> Scenario:
    """A trade comes, and the connection is lost and made again."""
    yield connected
    exchange.send_raw(frame(("AAPL", 1)))
    yield all_of(exchange)
    exchange.drop_all()
    yield lambda status: status.reconnects == 1 and status.connected
