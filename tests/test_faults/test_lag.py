"""Stories 101 and 104: trades that are lost while the feed lags, and gaps while they last."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from stocktrace.query.coverage import read_coverage
from stocktrace.record import feed_lag, journal
from stocktrace.sessions.report import SessionReport
from stocktrace.sessions.status import CaptureStatus
from stocktrace.simulator import Fault, Simulator, SyntheticMarket
from stocktrace.store.layout import Layout
from stocktrace.store.tape import TapeFrames, TapeReader
from tests.conftest import Scenario, Studio, trades
from tests.relay import Relay, relaying
from tests.test_faults.conftest import all_sent, findings, record

# Only the relay may end the connection.
PATIENT: dict[str, Any] = {"ping_interval": "60s", "pong_timeout": "60s", "flush_interval": "20ms"}


@dataclass(slots=True)
class Outcome:
    """A capture over a slow link: its report, and the times of the missing trades (ms)."""

    report: SessionReport
    missing: list[int]
    lag_s: list[float]

    def check(self, lag: float) -> None:
        """Every missing trade is in the gap, which is not much longer than their time."""
        gap = self.report.gaps[-1]
        start, end = gap.start.timestamp() * 1000, gap.end.timestamp() * 1000
        assert len(self.missing) > 100
        assert start <= self.missing[0]
        assert self.missing[-1] <= end
        # A little of it arrived, whose trades are not in order.
        assert self.missing[0] - start < 1000 + 0.2 * lag * 1000
        assert (self.missing[-1] - self.missing[0]) / 1000 > lag
        assert max(self.lag_s) > lag


def event_times(frames: list[bytes]) -> Counter[int]:
    rows = [msgspec.json.decode(each).get("data") or [] for each in frames]
    return Counter(row["t"] for each in rows for row in each)


def behind(studio: Studio, rate: int, market: float, lag: float, *, severed: bool) -> Outcome:
    """Capture over a link of ``rate`` bytes a second until it is ``lag`` seconds behind."""

    def scenario(relay: Relay) -> Scenario:
        yield lambda status: status.feed_lag_s > lag
        if severed:
            relay.sever()
            yield lambda status: status.reconnects == 1
            count = studio.statuses[-1].trades
            yield lambda status: status.trades > count

    source = SyntheticMarket(rate=market, opening=1.0)
    with studio.exchange(source) as exchange, relaying(exchange.port, rate) as relay:
        report = record(
            studio, relay.url, scenario(relay), ("AAPL", "MSFT"), lasting=120.0, **PATIENT
        )
        sent = event_times(all_sent(exchange))
    tapes = Layout(studio.data_dir).session_tapes(report.session).values()
    entries = [entry for tape in tapes for entry in TapeReader(tape)]
    received = event_times(
        [frame for entry in entries if isinstance(entry, TapeFrames) for frame in entry.frames]
    )
    # What the simulator sent after the end is not missing.
    assert report.ended is not None
    end = max(gap.end for gap in report.gaps).timestamp() * 1000
    missing = sorted(at for at in (sent - received).elements() if at < end)
    return Outcome(report, missing, list(read_coverage(data_dir=studio.data_dir)["lag_s"]))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of all times of the lag."""
    for name in ("BEHIND_MS", "_MARK_INTERVAL_MS", "_AHEAD_MS"):
        monkeypatch.setattr(feed_lag, name, getattr(feed_lag, name) // 10)
    monkeypatch.setattr(journal, "LAG_WARNING_S", 0.5)


@pytest.mark.usefixtures("quick")
def test_101_trades_lost_on_a_slow_link_are_in_the_gap(studio: Studio) -> None:
    outcome = behind(studio, 30_000, 2500, 0.9, severed=True)
    outcome.check(0.3)
    report = outcome.report
    assert "; the feed was " in report.gaps[-1].reason
    assert [notice for notice in report.notices if "s behind: trades arrive" in notice]
    assert findings(studio.data_dir) == []


@pytest.mark.usefixtures("quick")
def test_101_trades_that_are_on_their_way_at_the_end_are_in_a_gap(studio: Studio) -> None:
    outcome = behind(studio, 30_000, 2500, 0.9, severed=False)
    outcome.check(0.3)
    assert outcome.report.gaps[-1].reason.endswith(" behind at the end")
    assert findings(studio.data_dir) == []


@pytest.mark.slow
@pytest.mark.parametrize("severed", [True, False], ids=["lost", "end"])
@pytest.mark.parametrize(("rate", "market", "lag"), [(100_000, 2500, 14.0), (125_000, 8000, 29.0)])
def test_101_a_lag_of_many_seconds(
    studio: Studio, rate: int, market: float, lag: float, severed: bool
) -> None:
    """100 kB/s, and 1 Mbit/s."""
    outcome = behind(studio, rate, market, lag, severed=severed)
    outcome.check(lag - 1)
    first = next(at for at, status in enumerate(studio.statuses) if status.notices)
    assert studio.statuses[first].elapsed_s < 60
    assert findings(studio.data_dir) == []


def away(exchange: Simulator, studio: Studio, seen: list[CaptureStatus]) -> Scenario:
    """Until the connection was lost, dials were refused, and one was not."""
    yield trades(1)
    exchange.inject(Fault("reset"))
    yield lambda status: status.open_gap is not None and status.state == "reconnecting"
    yield lambda status: status.retry is not None and status.retry.attempt > 2
    seen.append(studio.statuses[-1])
    yield lambda status: status.reconnects == 1


def test_104_a_gap_is_seen_while_it_lasts_and_has_the_cause_of_its_loss(studio: Studio) -> None:
    faults = [Fault("status", after_connections=number, status=503) for number in range(1, 6)]
    seen: list[CaptureStatus] = []
    with studio.exchange(SyntheticMarket(rate=500), faults) as exchange:
        report = record(
            studio, exchange, away(exchange, studio, seen), backoff_floor="200ms", backoff_cap="1s"
        )
    (status,) = seen
    (gap,) = report.outages
    open_gap = status.open_gap
    assert open_gap is not None
    assert (open_gap.start, status.all_outages, status.reconnects) == (gap.start, 1, 0)
    assert 0 < open_gap.seconds < gap.seconds
    assert status.connection.startswith("reconnecting for ")
    loss, failure = gap.reason.split("; then ")
    assert loss.startswith("connection lost: ")
    assert open_gap.reason == loss
    assert failure == "HTTP 503 at the handshake"
