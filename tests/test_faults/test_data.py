"""Stories 15 to 18, 32, 37 to 40, 53 and 54: what a server can send, and how fast."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from stocktrace.feed import subscriptions
from stocktrace.record.journal import ERROR_BURST
from stocktrace.sessions.report import MAX_ERROR_TEXTS
from stocktrace.sessions.status import CaptureStatus
from stocktrace.simulator import Fault, ScriptedSource, Simulator, SyntheticMarket
from stocktrace.simulator.client_link import ClientLink
from stocktrace.simulator.frames import FramePiece, malformed_frames
from stocktrace.store import validation
from stocktrace.store.names import decode_ticker, encode_ticker
from stocktrace.store.quarantine import parse_quarantine
from tests.conftest import (
    Scenario,
    Studio,
    all_of,
    connected,
    frame,
    played,
    published,
    sent,
    taped,
    trades,
)
from tests.test_faults.conftest import (
    all_sent,
    events,
    findings,
    numbered,
    record,
    recorded,
    snapshot,
)


def files_published(data_dir: Path, count: int) -> Callable[[CaptureStatus], bool]:
    return lambda _: len(list(data_dir.glob("parquet/*/[!.]*.parquet"))) >= count


@pytest.mark.parametrize(
    "faults",
    [
        [Fault("duplicate-rows", times=2)],
        [Fault("duplicate-rows", times=3)],
        [Fault("duplicate", times=2)],
        [Fault("duplicate", times=3)],
        [Fault("duplicate-rows", times=2), Fault("duplicate", times=3, after_trades=200)],
    ],
    ids=["x2 in a frame", "x3 in a frame", "x2 in the next", "x3 in the next", "both"],
)
def test_15_duplicates_and_equal_trades_are_all_kept(studio: Studio, faults: list[Fault]) -> None:
    market = SyntheticMarket(flat_out=True, trades=500)
    with studio.exchange(market, faults, settle=0.05) as exchange:
        report = record(studio, exchange, played(exchange), ["AAPL", "MSFT"])
    truth = sent(all_sent(exchange))
    assert published(studio.data_dir) == truth
    assert report.books.trades == report.books.recorded == sum(map(len, truth.values())) >= 1000
    # The market has equal prints of its own: they come as often as they were sent.
    assert max(Counter(truth["AAPL"]).values()) > max(fault.times for fault in faults)
    assert findings(studio.data_dir) == []


def test_16_late_and_disordered_trades_keep_their_order_across_rolls(studio: Studio) -> None:
    seen: dict[str, tuple[int, bytes]] = {}

    def scenario(exchange: Simulator) -> Scenario:
        for count in (2, 4, 6):
            yield files_published(studio.data_dir, count)
            now = snapshot(studio.data_dir / "parquet", "[!.]*.parquet")
            assert {name: now[name] for name in seen} == seen
            seen.update(now)
        exchange.mute()
        yield lambda status: status.trades >= exchange.sent_trades

    faults = [Fault("out-of-order"), Fault("late", seconds=600.0)]
    with studio.exchange(SyntheticMarket(rate=500), faults, settle=0.05) as exchange:
        report = record(
            studio, exchange, scenario(exchange), ["AAPL", "MSFT"], roll_interval="300ms",
            flush_interval="50ms",
        )  # fmt: skip
    truth = sent(all_sent(exchange))
    assert published(studio.data_dir) == truth
    times = [row[0] for row in truth["AAPL"]]
    assert times != sorted(times)
    assert max(times) - min(times) > 590_000
    assert len(report.windows) >= 3
    assert seen.items() <= snapshot(studio.data_dir / "parquet").items()


def test_17_a_late_trade_leaves_published_files_alone(studio: Studio) -> None:
    before: dict[str, tuple[int, bytes]] = {}

    def scenario(exchange: Simulator) -> Scenario:
        yield connected
        exchange.send_raw(frame(("AAPL", 1)))
        yield files_published(studio.data_dir, 1)
        before.update(snapshot(studio.data_dir / "parquet"))
        hour_ago = int(time.time() - 3600) * 1000
        exchange.send_raw(frame(("AAPL", 2), t=hour_ago))
        yield files_published(studio.data_dir, 2)

    with studio.exchange() as exchange:
        record(studio, exchange, scenario(exchange), roll_interval="200ms", flush_interval="20ms")
    assert before
    assert before.items() <= snapshot(studio.data_dir / "parquet").items()
    assert [row[1] for row in published(studio.data_dir)["AAPL"]] == [1, 2]
    assert findings(studio.data_dir) == []


def test_18_a_restart_on_the_same_day_keeps_the_rows_of_both(studio: Studio) -> None:
    with studio.exchange(ScriptedSource(numbered(10)), settle=0.05) as exchange:
        record(studio, exchange, played(exchange))
    before = snapshot(studio.data_dir / "parquet")
    with studio.exchange(ScriptedSource(numbered(10, begin=11)), settle=0.05) as exchange:
        record(studio, exchange, played(exchange))
    assert before.items() <= snapshot(studio.data_dir / "parquet").items()
    assert published(studio.data_dir) == {"AAPL": recorded(range(1, 21))}
    assert findings(studio.data_dir) == []


def test_32_a_slow_schema_blocks_nothing_and_loses_nothing(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = validation.find_failures

    def slow(rows):
        begin = time.perf_counter()
        found = check(rows)
        time.sleep(49 * (time.perf_counter() - begin))
        return found

    def scenario(exchange: Simulator) -> Scenario:
        # Whatever waits behind it, the feed has taken all and the tape holds it.
        yield all_of(exchange)
        monkeypatch.setattr(validation, "find_failures", check)

    monkeypatch.setattr(validation, "find_failures", slow)
    market = SyntheticMarket(flat_out=True, trades=60_000)
    with studio.exchange(market, settle=0.05) as exchange:
        report = record(
            studio, exchange, scenario(exchange), ["AAPL", "MSFT", "NVDA"],
            batch_rows=500, max_pending_rows_per_ticker=2_000, max_pending_rows=5_000,
            flush_interval="10ms",
        )  # fmt: skip
    assert report.reconnects == 0
    assert max(status.backlog for status in studio.statuses) <= 5_000
    assert report.spilled
    assert published(studio.data_dir) == sent(all_sent(exchange))
    assert report.balanced
    assert findings(studio.data_dir) == []


def test_37_any_name_is_stored_reversibly_and_inside_the_folder(studio: Studio) -> None:
    names = ["BINANCE:BTCUSDT", "A/B", "A:B", "A-B", "A B", "..", "...", "../../up", "CON", "nul",
             "com1.x", "^GSPC", "IC MARKETS:1", "7203", "a", "A", "L" * 200]  # fmt: skip
    script = [(n, frame((name, n), (name, n + 0.5))) for n, name in enumerate(names, 1)]
    outside = snapshot(studio.data_dir.parent)
    with studio.exchange(ScriptedSource(script), settle=0.05) as exchange:
        report = record(studio, exchange, played(exchange), names)
    assert published(studio.data_dir) == sent(frame for _, frame in script)
    assert set(published(studio.data_dir)) == set(names)
    folders = {encode_ticker(name) for name in names}
    assert sorted(map(decode_ticker, folders)) == sorted(names)
    assert len({name.lower() for name in folders}) == len(names) - 1  # a and A alone meet
    new = set(snapshot(studio.data_dir.parent)) - set(outside)
    assert all(name.startswith("data/") and ".." not in Path(name).parts for name in new)
    assert report.books.quarantined == 0
    assert findings(studio.data_dir) == []


@pytest.mark.parametrize("named", [True, False], ids=["named", "unnamed"])
def test_38_one_bad_symbol_of_fifty_is_found_and_the_others_recorded(
    studio: Studio, monkeypatch: pytest.MonkeyPatch, named: bool
) -> None:
    monkeypatch.setattr(subscriptions, "ANSWER_TIMEOUT_S", 0.3)
    good = [f"S{n}" for n in range(49)]
    tickers = [*good[:20], "FX:BAD", *good[20:]]

    def scenario(exchange: Simulator) -> Scenario:
        yield lambda _: bool(events(studio.data_dir, "refused"))
        yield lambda status: len(status.per_ticker) == 49
        exchange.mute()
        yield lambda status: status.trades >= exchange.sent_trades

    with studio.exchange(
        SyntheticMarket(rate=1000, tickers=tuple(good)),
        settle=0.05,
        unknown_symbols=frozenset({"FX:BAD"}),
        names_invalid_symbol=named,
        symbol_limit=50,
    ) as exchange:
        report = record(studio, exchange, scenario(exchange), tickers)
    assert list(report.refused) == ["FX:BAD"]
    assert published(studio.data_dir) == sent(all_sent(exchange))
    assert set(published(studio.data_dir)) == set(good)
    assert report.reconnects == 0


@pytest.mark.parametrize("resubscribe", ["ignored", "doubled", "counted"])
def test_53_whatever_a_repeated_subscribe_means_nothing_is_doubled_and_nobody_blamed(
    studio: Studio, monkeypatch: pytest.MonkeyPatch, resubscribe: str
) -> None:
    """The suspects are asked for in turn, the one too many last."""
    monkeypatch.setattr(subscriptions, "ANSWER_TIMEOUT_S", 0.1)
    tickers = ["AAPL", "QUIET", "MSFT", "TOO.MANY"]

    def scenario(exchange: Simulator) -> Scenario:
        yield lambda _: bool(events(studio.data_dir, "refused"))
        exchange.act(lambda gateway: play(gateway.links[0], tickers))
        yield lambda status: status.trades >= exchange.sent_trades

    with studio.exchange(settle=None, symbol_limit=3, resubscribe=resubscribe) as exchange:
        report = record(studio, exchange, scenario(exchange), tickers)
    assert list(report.refused) == ["TOO.MANY"]
    assert {ticker: len(rows) for ticker, rows in published(studio.data_dir).items()} == {
        "AAPL": 1,
        "MSFT": 1,
        "QUIET": 1,
    }


def play(link: ClientLink, tickers: Sequence[str]) -> None:
    link.deliver([FramePiece(frame((ticker, 1.0)), (ticker,)) for ticker in tickers])


def test_38_a_ticker_that_traded_before_an_error_is_not_refused(studio: Studio) -> None:
    error = b'{"type":"error","msg":"Invalid symbol"}'

    def scenario(exchange: Simulator) -> Scenario:
        yield connected
        exchange.send_raw(frame(("AAPL", 1)))
        yield lambda status: status.trades == 1

        def some_ticker_is_refused(_: CaptureStatus) -> bool:
            exchange.send_raw(error)
            return bool(events(studio.data_dir, "refused"))

        yield some_ticker_is_refused

    with studio.exchange() as exchange:
        report = record(studio, exchange, scenario(exchange), ["AAPL", "MSFT"])
    assert list(report.refused) == ["MSFT"]


def test_54_a_flood_of_different_errors_is_counted_exactly_and_bounded(studio: Studio) -> None:
    flood = [b'{"type":"error","msg":"Error %d"}' % number for number in range(4000)]
    named = b'{"type":"error","msg":"Invalid symbol QUIET"}'

    def scenario(exchange: Simulator) -> Scenario:
        yield connected
        exchange.act(lambda gateway: gateway.links[0].send([*flood[:-1], *[named] * 1000]))
        exchange.send_raw(frame(("AAPL", 1)))
        yield trades(1)
        exchange.send_raw(flood[-1])
        exchange.send_raw(frame(("AAPL", 2)))
        yield trades(2)

    with studio.exchange() as exchange:
        report = record(studio, exchange, scenario(exchange), ["AAPL", "QUIET"])
    assert (report.state, report.reconnects) == ("interrupted", 0)
    assert sum(report.errors.values()) == report.books.control == len(flood) + 1000
    assert len(report.errors) == MAX_ERROR_TEXTS + 1
    assert report.errors["Error 7"] == 1
    logged = [event["times"] for event in events(studio.data_dir, "error")]
    assert sum(logged) == len(flood) + 1000
    assert ERROR_BURST < len(logged) < ERROR_BURST + 10
    assert len(events(studio.data_dir, "refused")) == 1
    assert published(studio.data_dir) == {"AAPL": recorded([1, 2])}
    assert findings(studio.data_dir) == []


def test_39_odd_frames_are_counted_and_kept_and_harm_no_trade(studio: Studio) -> None:
    with studio.exchange(
        ScriptedSource(numbered(20)), [Fault("malformed", after_trades=10)], settle=0.05
    ) as exchange:
        report = record(studio, exchange, played(exchange))
        frames = all_sent(exchange)
    odd = [*malformed_frames(), b"\x00\x01"]
    assert len(frames) == 20 + len(odd)
    books = report.books
    assert books.frames == len(frames)
    assert books.frames == books.trade_frames + books.control + books.undecodable
    assert published(studio.data_dir) == {"AAPL": recorded(range(1, 21))}
    assert taped(studio.data_dir, report.session) == frames
    # All that is neither control nor trade is in quarantine, byte for byte, with its reason.
    refused = [
        each
        for path in studio.data_dir.glob("quarantine/*.jsonl")
        for each in parse_quarantine(path.read_text().split("\n"))
    ]
    assert all(each.reason for each in refused)
    whole = [each for each in refused if each.row is None]
    assert len(whole) == books.undecodable > 20
    assert {each.frame for each in whole} <= set(odd)
    assert len(refused) - len(whole) == books.quarantined == 5
    assert sum(report.errors.values()) == 2
    assert (exchange.dials, report.reconnects) == (1, 0)
    assert report.balanced
    assert findings(studio.data_dir) == []


def test_40_one_bad_row_of_a_thousand_is_quarantined(studio: Studio) -> None:
    rows = [("AAPL", float(n)) for n in range(1, 1001)]
    script = [(n, frame(*rows[n * 10 : n * 10 + 10])) for n in range(100)]
    faults = [Fault("bad-row", after_trades=500)]
    with studio.exchange(ScriptedSource(script), faults, settle=0.05) as exchange:
        report = record(studio, exchange, played(exchange))
    books = report.books
    assert (books.trades, books.recorded, books.quarantined) == (1000, 999, 1)
    assert [row[1] for row in published(studio.data_dir)["AAPL"]] == [
        price for _, price in rows if price != 510
    ]
    (path,) = studio.data_dir.glob("quarantine/*.jsonl")
    (refused,) = parse_quarantine(path.read_text().split("\n"))
    assert (refused.row["p"], refused.row["t"]) == ("n/a", str(1_795_444_200_000))
    assert "price" in refused.reason
    assert refused.frame in all_sent(exchange)
    assert (exchange.dials, report.reconnects) == (1, 0)
    assert findings(studio.data_dir) == []


def test_40_a_row_that_only_the_schema_refuses_is_quarantined(studio: Studio) -> None:
    """A row that only the schema refuses: the price is a number, and none."""
    script = [(1, frame(("AAPL", 1), ("AAPL", -1), ("AAPL", 2)))]
    with studio.exchange(ScriptedSource(script), settle=0.05) as exchange:
        report = record(studio, exchange, played(exchange))
    assert (report.books.recorded, report.books.quarantined) == (2, 1)
    assert [row[1] for row in published(studio.data_dir)["AAPL"]] == [1, 2]
