"""All faults at random: whatever the server does, the books balance and nothing is lost."""

from __future__ import annotations

import pytest

from stocktrace.simulator import SyntheticMarket
from stocktrace.simulator.faults import random_faults
from tests.conftest import Scenario, Studio, taped
from tests.test_faults.conftest import findings, record


@pytest.mark.parametrize(
    "seed", [1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (2, 3, 4))]
)
def test_a_capture_in_chaos_keeps_what_it_received(studio: Studio, seed: int) -> None:
    def scenario() -> Scenario:
        yield lambda status: status.reconnects >= 5

    faults = random_faults(seed, pace=0.3, connections=500, tls=studio.authority is not None)
    market = SyntheticMarket(seed=seed, rate=1000)
    with studio.exchange(market, faults, settle=None) as exchange:
        report = record(
            studio, exchange, scenario(), ["AAPL", "MSFT", "BINANCE:BTCUSDT"], lasting=90.0,
            handshake_timeout="300ms", frame_timeout="300ms", roll_interval="1s",
            flush_interval="100ms",
        )  # fmt: skip
        sent = [connection.frames for connection in exchange.connections]
    assert report.reconnects >= 5
    # What was kept is, connection by connection, a beginning of what was sent on it.
    kept = taped(studio.data_dir, report.session)
    assert len(kept) > 20
    for frames in sent:
        count = next(
            (at for at, pair in enumerate(zip(kept, frames, strict=False)) if pair[0] != pair[1]),
            min(len(kept), len(frames)),
        )
        kept = kept[count:]
    assert kept == []
    assert report.balanced
    assert len(report.outages) >= report.reconnects - 1
    assert findings(studio.data_dir) == []
