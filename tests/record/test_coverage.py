from __future__ import annotations

import errno
import os
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stocktrace.errors import StocktraceError
from stocktrace.intervals import CONNECTING, CoverageInterval
from stocktrace.marks import (
    ConnectedMark,
    DisconnectedMark,
    EndedMark,
    GapMark,
    LagMark,
    Mark,
    OpeningMark,
    PausedMark,
    RefusedMark,
    SubscriptionMark,
    UnknownMark,
    parse_mark,
)
from stocktrace.query.coverage import join_midnight_gaps, read_coverage, read_gaps
from stocktrace.record.coverage import CoverageBuilder
from stocktrace.record.recorder import Recorder
from stocktrace.record.recovery import recover
from stocktrace.record.tape_facts import read_tape_facts
from stocktrace.store.audit import AuditLog
from stocktrace.store.coverage import read_coverage_file, write_coverage
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId
from stocktrace.store.tape import TapeFrames, TapeReader, archive_tape
from stocktrace.units import NS_PER_DAY
from stocktrace.verify import verify
from tests.conftest import NOON, SESSION, Scenario, Studio, all_of, connected, frame, played, trades
from tests.remains import PARTS, write_tape

A, B = "AAPL", "MSFT"
S = 10**9
#: A mark, or the stamp of frames that came.
Entry = Mark | int


def told(*entries: Entry, end: int) -> list[CoverageInterval]:
    """The intervals of a session, by ticker and time."""
    coverage = CoverageBuilder()
    for entry in entries:
        if isinstance(entry, Mark):
            coverage.add(entry)
        else:
            coverage.data_received(entry)
    coverage.close(end)
    assert coverage.unreadable == 0
    return sorted(coverage.intervals, key=lambda one: (one.ticker, one.start))


def tape(stamp: int, *tickers: str, connected: bool = False) -> Mark:
    return OpeningMark(stamp, session=SESSION, connected=connected, tickers=tickers)


def connect(stamp: int, *tickers: str) -> Mark:
    return ConnectedMark(stamp, tuple(tickers))


def lose(stamp: int, reason: str = "lost") -> Mark:
    return DisconnectedMark(stamp, reason)


def gap(start: int, stamp: int, reason: str = "lost") -> Mark:
    return GapMark(stamp, start, reason)


def behind(stamp: int, lag: int) -> Mark:
    return LagMark(stamp * S, lag * S)


def change(stamp: int, added: Sequence[str] = (), removed: Sequence[str] = ()) -> Mark:
    return SubscriptionMark(stamp, tuple(added), tuple(removed))


# --- what is said ------------------------------------------------------------------------------


def test_before_the_first_connection_there_is_a_gap_that_says_so() -> None:
    assert told(tape(0, A), gap(0, 5, CONNECTING), connect(5, A), end=9) == [
        CoverageInterval(A, 0, 5, CONNECTING),
        CoverageInterval(A, 5, 9, ""),
    ]


#: A lag that grows from 3 to 14 s, while a session listens.
GROWING = [connect(S, A), *(behind(10 + lag, lag) for lag in range(3, 15))]


def lags(*entries: Entry, end: int) -> list[tuple[float, float, str, float]]:
    """The intervals of A in seconds: start, end, reason, lag."""
    return [
        (each.start / S, each.end / S, each.reason, each.lag_s)
        for each in told(tape(S, A), *entries, end=end * S)
    ]


def test_101_a_lag_is_in_the_coverage_and_cut_only_where_it_doubles_or_ends() -> None:
    assert lags(*GROWING, behind(30, 0), end=40) == [
        (1, 13, "", 0),
        (13, 16, "", 5),
        (16, 22, "", 11),
        (22, 30, "", 14),
        (30, 40, "", 0),
    ]


def test_101_a_gap_begins_with_the_newest_trade_received() -> None:
    loss = DisconnectedMark(25 * S, "lost", 10 * S, 14 * S)
    gap = GapMark(27 * S, 10 * S, "lost", 14 * S)
    assert lags(*GROWING, loss, gap, connect(27 * S, A), end=40) == [
        (1, 10, "", 0),
        (10, 27, "lost", 14),
        (27, 40, "", 0),
    ]
    assert lags(*GROWING, loss, end=30)[1:] == [(10, 30, "lost", 14)]


def test_101_whatever_is_on_its_way_at_the_end_or_in_a_crash_is_a_gap() -> None:
    reason = "the feed was 14.0 s behind at the end"
    assert lags(*GROWING, EndedMark(25 * S), end=25)[1:] == [(10, 25, reason, 14)]
    assert lags(*GROWING, 24 * S, end=25)[1:] == [(10, 25, reason, 14)]
    coverage = CoverageBuilder()
    for mark in (tape(S, A), *GROWING):
        coverage.add(mark)
    coverage.feed_crashed(26 * S, "disk full")
    coverage.close(27 * S)
    assert coverage.intervals[1:] == [CoverageInterval(A, 10 * S, 27 * S, "disk full", lag_s=14.0)]


def test_101_a_pause_of_the_process_begins_with_the_newest_trade_received() -> None:
    paused = PausedMark(40 * S, 30 * S, "stalled")
    assert lags(*GROWING, paused, behind(40, 0), end=41)[1:] == [
        (10, 40, "stalled", 0),
        (40, 41, "", 0),
    ]


def test_a_lag_of_an_earlier_connection_does_not_move_a_gap() -> None:
    marks = [*GROWING, lose(25 * S), gap(25 * S, 26 * S), connect(26 * S, A)]
    assert lags(*marks, end=30)[-1:] == [(26, 30, "", 0)]


def test_a_session_that_never_connected_is_one_gap() -> None:
    assert told(tape(0, A), end=9) == [CoverageInterval(A, 0, 9, CONNECTING)]


def test_a_gap_begins_with_the_last_sign_of_life_and_ends_with_the_next_connection() -> None:
    marks = (tape(0, A), connect(1, A), 3, lose(7), gap(3, 8), connect(8, A))
    assert told(*marks, end=9) == [
        CoverageInterval(A, 0, 1, CONNECTING),
        CoverageInterval(A, 1, 3, ""),
        CoverageInterval(A, 3, 8, "lost"),
        CoverageInterval(A, 8, 9, ""),
    ]


def test_a_gap_in_which_the_session_ended_begins_with_the_last_frames() -> None:
    assert told(tape(0, A), connect(1, A), 3, lose(7), end=9)[1:] == [
        CoverageInterval(A, 1, 3, ""),
        CoverageInterval(A, 3, 9, "lost"),
    ]


def test_a_disconnect_without_a_gap_mark_is_a_gap() -> None:
    assert told(tape(0, A), connect(1, A), 3, lose(7), connect(8, A), end=9)[2:] == [
        CoverageInterval(A, 3, 8, "lost"),
        CoverageInterval(A, 8, 9, ""),
    ]


def test_a_feed_that_crashed_listened_until_its_last_frames() -> None:
    coverage = CoverageBuilder()
    for mark in (tape(0, A), connect(1, A)):
        coverage.add(mark)
    coverage.feed_crashed(4, "the capture failed")
    coverage.close(9)
    assert coverage.intervals[1:] == [
        CoverageInterval(A, 1, 4, ""),
        CoverageInterval(A, 4, 9, "the capture failed"),
    ]


def test_a_feed_that_crashed_during_a_gap_keeps_the_reason() -> None:
    coverage = CoverageBuilder()
    for mark in (tape(0, A), connect(1, A), DisconnectedMark(7, "lost", 4)):
        coverage.add(mark)
    coverage.feed_crashed(4, "the capture failed")
    coverage.close(9)
    assert coverage.intervals[1:] == [
        CoverageInterval(A, 1, 4, ""),
        CoverageInterval(A, 4, 9, "lost"),
    ]


def test_a_gap_in_which_the_clock_was_set_back_uses_the_new_time() -> None:
    marks = (tape(0, A), connect(1, A), lose(100), gap(30, 40), connect(40, A))
    assert told(*marks, end=90)[1:] == [
        CoverageInterval(A, 1, 30, ""),
        CoverageInterval(A, 30, 40, "lost"),
        CoverageInterval(A, 40, 90, ""),
    ]


def test_a_gap_in_which_the_clock_was_set_back_before_all_data_is_a_gap_too() -> None:
    marks = (tape(90, A), connect(91, A), lose(100), gap(30, 40), connect(40, A))
    assert told(*marks, end=60) == [
        CoverageInterval(A, 30, 40, "lost"),
        CoverageInterval(A, 40, 60, ""),
        CoverageInterval(A, 90, 91, CONNECTING),
        CoverageInterval(A, 91, 100, ""),
    ]


def test_a_ticker_that_was_added_during_a_gap_has_a_gap_only_since_then() -> None:
    marks = (tape(0, A), connect(1, A), lose(5), change(7, [B]), gap(4, 8), connect(8, A, B))
    assert [one for one in told(*marks, end=9) if one.ticker == B] == [
        CoverageInterval(B, 7, 8, "lost"),
        CoverageInterval(B, 8, 9, ""),
    ]


def test_after_the_end_nothing_is_listened_to() -> None:
    assert told(tape(0, A), connect(1, A), EndedMark(5), end=9)[1:] == [
        CoverageInterval(A, 1, 5, "")
    ]


def test_an_added_ticker_begins_and_a_removed_one_ends() -> None:
    marks = (tape(0, A), connect(1, A), change(4, [B], [A]), change(6, [A]))
    assert told(*marks, end=9) == [
        CoverageInterval(A, 0, 1, CONNECTING),
        CoverageInterval(A, 1, 4, ""),
        CoverageInterval(A, 6, 9, ""),
        CoverageInterval(B, 4, 9, ""),
    ]


def test_a_ticker_that_is_added_twice_has_no_hole() -> None:
    assert told(tape(0, A), connect(1, A), change(4, [A]), end=9)[1:] == [
        CoverageInterval(A, 1, 9, "")
    ]


def test_tickers_may_change_while_there_is_no_connection() -> None:
    marks = (tape(0, A), connect(1, A), lose(3), gap(2, 5), connect(5, B))
    assert told(*marks, end=9)[1:] == [
        CoverageInterval(A, 1, 2, ""),
        CoverageInterval(A, 2, 5, "lost"),
        CoverageInterval(B, 5, 9, ""),
    ]


def test_a_pause_is_a_gap_of_those_that_were_listened_to() -> None:
    paused = PausedMark(6, 4, "suspended")
    assert told(tape(0, A), connect(1, A), paused, end=9)[1:] == [
        CoverageInterval(A, 1, 4, ""),
        CoverageInterval(A, 4, 6, "suspended"),
        CoverageInterval(A, 6, 9, ""),
    ]


def test_a_ticker_that_the_server_refuses_is_a_gap_and_others_are_not() -> None:
    refused = RefusedMark(2, (B,), "Invalid symbol B")
    assert told(tape(0, A, B), connect(1, A, B), refused, end=9) == [
        CoverageInterval(A, 0, 1, CONNECTING),
        CoverageInterval(A, 1, 9, ""),
        CoverageInterval(B, 0, 1, CONNECTING),
        CoverageInterval(B, 1, 2, ""),
        CoverageInterval(B, 2, 9, "subscription refused: Invalid symbol B"),
    ]


def test_the_first_line_of_a_later_tape_says_nothing_new() -> None:
    marks = (tape(0, A), connect(1, A), tape(5, A, connected=True))
    assert told(*marks, end=9)[1:] == [CoverageInterval(A, 1, 9, "")]


def test_if_the_first_tapes_are_missing_the_next_one_has_the_state_of_the_connection() -> None:
    assert told(tape(5, A, connected=True), end=9) == [CoverageInterval(A, 5, 9, "")]


@pytest.mark.parametrize(
    "facts",
    [
        {},
        {"start": "x", "reason": "r"},
        {"start": 1, "reason": None},
        {"tickers": "AAPL"},
        {"a": []},
    ],
)
@pytest.mark.parametrize("name", ["gap", "connected", "subscription", "disconnected", "refused"])
def test_a_damaged_mark_is_counted_and_changes_nothing(name: str, facts: dict[str, Any]) -> None:
    if name == "disconnected" and "start" in facts and facts["reason"]:
        facts = {**facts, "reason": 1}
    coverage = CoverageBuilder()
    coverage.add(tape(0, A))
    coverage.add(connect(1, A))
    coverage.add(parse_mark(4, name, facts))
    coverage.close(9)
    assert coverage.unreadable == 1
    assert coverage.intervals[1:] == [CoverageInterval(A, 1, 9, "")]


def test_an_unknown_mark_changes_nothing() -> None:
    assert told(tape(0, A), connect(1, A), UnknownMark(4, "something"), end=9)[1:] == [
        CoverageInterval(A, 1, 9, "")
    ]


def test_gaps_have_the_number_of_their_tickers() -> None:
    coverage = CoverageBuilder()
    for mark in (tape(0, A, B), connect(1, A, B), lose(3), gap(2, 5), connect(5, A, B)):
        coverage.add(mark)
    coverage.close(9)
    assert coverage.gaps() == {(0, 1, CONNECTING): 2, (2, 5, "lost"): 2}


# --- properties --------------------------------------------------------------------------------

TICKERS = st.lists(st.sampled_from([A, B, "7203"]), max_size=3, unique=True)
REASONS = st.sampled_from(["lost", "reset", "suspended"])
STEPS = st.lists(
    st.tuples(
        st.integers(0, 5),
        st.sampled_from(
            [
                "connected",
                "disconnected",
                "gap",
                "paused",
                "subscription",
                "refused",
                "tape",
                "heard",
            ]
        ),
        TICKERS,
        TICKERS,
        REASONS,
        st.integers(0, 8),
    ),
    max_size=25,
)


def entry_of(stamp: int, name: str, one: list[str], two: list[str], reason: str, ago: int) -> Entry:
    facts: dict[str, dict[str, Any]] = {
        "connected": {"tickers": one},
        "tape": {"tickers": one, "connected": bool(two)},
        "disconnected": {"reason": reason},
        "gap": {"start": stamp - ago, "reason": reason},
        "paused": {"start": stamp - ago, "reason": reason},
        "subscription": {"added": one, "removed": two},
        "refused": {"tickers": one, "text": reason},
    }
    return stamp if name == "heard" else parse_mark(stamp, name, facts[name])


@dataclass(slots=True)
class Asked:
    """The stretches in which each ticker is asked for, by a reading of the marks of its own."""

    stretches: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    since: dict[str, int] = field(default_factory=dict)

    def want(self, names: set[str], at: int) -> None:
        for ticker in self.since.keys() - names:
            begin = self.since.pop(ticker)
            if at > begin:
                self.stretches.setdefault(ticker, []).append((begin, at))
        for ticker in names - self.since.keys():
            self.since[ticker] = at

    def see(self, at: int, name: str, one: list[str], two: list[str]) -> None:
        if name == "connected":
            self.want(set(one), at)
        elif name == "subscription":
            kept = self.since.keys() - set(two)
            self.want(set(kept), at)
            self.want(kept | set(one), at)
        elif name == "tape" and not self.since and not self.stretches:
            self.want(set(one), at)


def joined(edges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Stretches in order, those that touch made one; none may overlap."""
    found: list[tuple[int, int]] = []
    for start, stop in edges:
        assert start < stop
        assert not found or found[-1][1] <= start
        begin = found.pop()[0] if found and found[-1][1] == start else start
        found.append((begin, stop))
    return found


@given(TICKERS, STEPS, st.integers(0, 5))
def test_whatever_happens_the_intervals_of_a_ticker_follow_one_another(
    tickers: list[str],
    steps: list[tuple[int, str, list[str], list[str], str, int]],
    rest: int,
) -> None:
    """From when it is asked for until it is given up or the session ends: no hole, no overlap."""
    now = NOON
    entries: list[Entry] = [tape(now, *tickers)]
    asked = Asked()
    asked.want(set(tickers), now)
    for wait, name, one, two, reason, ago in steps:
        now += wait
        entries.append(entry_of(now, name, one, two, reason, ago))
        asked.see(now, name, one, two)
    found = told(*entries, end=now + rest)
    asked.want(set(), now + rest)
    assert {one.ticker for one in found} == asked.stretches.keys()
    for ticker, stretches in asked.stretches.items():
        edges = [(one.start, one.end) for one in found if one.ticker == ticker]
        assert joined(edges) == joined(stretches)


@given(TICKERS.filter(bool), STEPS, st.integers(1, 5))
def test_coverage_from_the_tape_equals_live_coverage(
    tmp_path_factory: pytest.TempPathFactory,
    tickers: list[str],
    steps: list[tuple[int, str, list[str], list[str], str, int]],
    rest: int,
) -> None:
    now = NOON
    live = CoverageBuilder()
    entries: list[Mark | TapeFrames] = []
    for wait, name, one, two, reason, ago in [(0, "tape", tickers, [], "", 0), *steps]:
        now += wait
        entry = entry_of(now, name, one, two, reason, ago)
        if isinstance(entry, Mark):
            live.add(entry)
            entries.append(entry)
        else:
            live.data_received(entry)
            entries.append(TapeFrames(entry, (b"{}",)))
    ended = EndedMark(now + rest)
    live.add(ended)
    layout = Layout(tmp_path_factory.mktemp("data"))
    write_tape(layout, PARTS[0], [*entries, ended])
    facts = read_tape_facts(layout, SESSION)
    from_tape, last = facts.coverage, facts.last
    assert (from_tape.intervals, from_tape.reconnects) == (live.intervals, live.reconnects)
    gaps = [(one.start, one.end, one.reason) for one in live.intervals if one.reason]
    assert live.gaps() == Counter(gaps)
    assert CoverageBuilder.of(live.intervals).gaps() == live.gaps()
    assert last == ended.stamp


def test_spans_of_many_tickers_are_on_disk_as_the_intervals_of_each(tmp_path: Path) -> None:
    coverage = CoverageBuilder()
    near_midnight = NOON - NOON % NS_PER_DAY + NS_PER_DAY - 20_000
    for mark in (
        tape(near_midnight, B, A),
        connect(near_midnight + 10_000, B, A),
        gap(near_midnight + 19_000, near_midnight + 22_000),
        connect(near_midnight + 22_000, B, A, "7203"),
    ):
        coverage.add(mark)
    coverage.close(near_midnight + 30_000)
    files = []
    for name, written in (("spans", coverage.spans), ("intervals", coverage.intervals)):
        paths = write_coverage(Layout(tmp_path / name), SESSION, written)
        files.append([read_coverage_file(path) for path in paths])
    assert files[0] == files[1]
    found = pa.concat_tables(files[0]).to_pylist()
    assert len(found) == 6 + 5  # before midnight, and after it
    assert [row["symbol"] for row in files[0][1].to_pylist()] == ["7203", A, A, B, B]


# --- live --------------------------------------------------------------------------------------

QUICK: dict[str, Any] = {"backoff_base": "10ms", "backoff_floor": "10ms", "backoff_cap": "20ms"}


def rows(layout: Layout, session: str) -> list[tuple[str, int, int, str]]:
    table = read_coverage(session=session, data_dir=layout.root)
    found = zip(
        table["symbol"],
        table["start"].astype("int64"),
        table["end"].astype("int64"),
        table["reason"],
        strict=True,
    )
    return sorted((str(a), int(b), int(c), str(d)) for a, b, c, d in found)


def as_rows(intervals: Sequence[CoverageInterval]) -> list[tuple[str, int, int, str]]:
    return sorted((i.ticker, i.start // 1000, i.end // 1000, i.reason) for i in intervals)


def test_the_coverage_of_a_capture_equals_that_of_its_tapes(studio: Studio) -> None:
    def scenario() -> Scenario:
        yield connected
        exchange.send_raw(frame((A, 1)))
        yield trades(1)
        studio.handle.request_change([A, B])
        yield lambda status: status.tickers == (A, B)
        exchange.send_raw(frame((B, 2)))
        yield trades(2)
        exchange.drop_all()
        yield lambda status: status.reconnects == 1 and status.connected
        studio.handle.request_change([B])
        yield lambda status: status.tickers == (B,)

    with studio.exchange() as exchange:
        report = studio.record(exchange, [A], scenario(), roll_interval="1s", **QUICK)
    layout = Layout(studio.data_dir)
    facts = read_tape_facts(layout, report.session)
    coverage, last = facts.coverage, facts.last
    assert rows(layout, report.session) == as_rows(coverage.intervals)
    assert [row[3] == "" for row in rows(layout, report.session) if row[0] == B] == [
        True,
        False,
        True,
    ]
    assert last == max(one.end for one in coverage.intervals)


def test_the_time_in_which_the_rest_is_published_is_not_listened_to(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found by the soak: publishing can take minutes, and nobody reads the socket meanwhile."""
    published_at: list[int] = []

    def slow(source: Path, archived: Path) -> None:
        exchange.wait_for(lambda exchange: exchange.open_connections == 0)
        published_at.append(max(entry.stamp for entry in TapeReader(source)))
        archive_tape(source, archived)

    monkeypatch.setattr("stocktrace.record.publish.archive_tape", slow)

    def scenario() -> Scenario:
        yield connected
        exchange.send_raw(frame((A, 1)))
        yield all_of(exchange)

    with studio.exchange() as exchange:
        report = studio.record(exchange, [A], scenario())
    found = rows(Layout(studio.data_dir), report.session)
    assert report.ended is not None
    assert found[-1][3] == ""
    assert found[-1][2] == published_at[-1] // 1000
    assert found[-1][2] < report.ended.timestamp() * 1e6


def failing_write(suffix: str, after: int, taking: int) -> Any:
    """``os.write`` that fails at one write to a file, once, having taken some bytes."""
    write, seen = os.write, [0]

    def failing(descriptor: int, data: bytes) -> int:
        if Path(f"/proc/self/fd/{descriptor}").readlink().suffix == suffix:
            seen[0] += 1
            if seen[0] == after:
                return write(descriptor, bytes(data)[:taking])
            if seen[0] == after + 1:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data)

    return failing


def test_a_read_of_which_the_disk_took_half_is_not_counted_and_in_a_gap(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found by the soak: whole lines of it had stayed on the tape, and were in no books."""

    def scenario() -> Scenario:
        yield connected
        exchange.send_raw(frame((A, 1)))
        yield trades(1)
        two = frame((A, 2))
        # The next write has a line and a half taken before the disk is full.
        monkeypatch.setattr(os, "write", failing_write(".tape", 1, len(two) + 60))
        exchange.act(lambda gateway: gateway.links[0].send([two, frame((A, 3))]))
        yield trades(3)

    with studio.exchange() as exchange, pytest.raises(StocktraceError, match="Make room"):
        studio.record(exchange, [A], scenario())
    monkeypatch.undo()
    layout = Layout(studio.data_dir)
    recover(layout)
    (session,) = [path.name for path in layout.root.glob("tape/*")]
    assert list(verify(layout, session)) == []
    coverage = read_tape_facts(layout, session).coverage
    heard = max(
        entry.stamp
        for path in layout.session_tapes(session).values()
        for entry in TapeReader(path)
        if isinstance(entry, TapeFrames)
    )
    assert [(row[2], row[3]) for row in rows(layout, session)][-2:] == [
        (heard // 1000, ""),
        (rows(layout, session)[-1][2], "the capture failed"),
    ]
    assert coverage.intervals[-1].end == heard


def test_a_sync_that_is_due_when_the_last_tape_was_sealed_does_not_fail_the_capture(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    sealed, synced = threading.Event(), threading.Event()
    run, sync = Recorder.run, AuditLog.sync

    def sealed_and_waiting(recorder: Recorder) -> None:
        run(recorder)
        sealed.set()
        assert synced.wait(30)

    def noticed(audit: AuditLog) -> None:
        sync(audit)
        if sealed.is_set():
            synced.set()

    monkeypatch.setattr(Recorder, "run", sealed_and_waiting)
    monkeypatch.setattr(AuditLog, "sync", noticed)
    with studio.exchange() as exchange:
        report = studio.record(exchange, [A], played(exchange), sync_interval="5ms")
    assert report.state == "interrupted"


def test_a_day_can_be_read_by_itself(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    midnight = NOON - NOON % NS_PER_DAY + NS_PER_DAY
    write_coverage(
        layout,
        SESSION,
        [
            CoverageInterval(A, midnight - 5000, midnight + 7000, ""),
            CoverageInterval(A, midnight + 7000, midnight + 9000, "lost"),
        ],
    )
    assert len(read_coverage(date="2026-11-23", data_dir=tmp_path)) == 1
    assert len(read_coverage(date="2026-11-24", data_dir=tmp_path)) == 2
    (found,) = read_gaps(A, data_dir=tmp_path).to_dict("records")
    assert (found["session"], found["symbol"], found["reason"]) == (SESSION, A, "lost")
    assert (found["start"].value, found["end"].value) == (midnight + 7000, midnight + 9000)


def test_a_gap_over_midnight_of_two_tickers_is_one_gap(tmp_path: Path) -> None:
    layout, other = Layout(tmp_path), "OTHER"
    midnight = NOON - NOON % NS_PER_DAY + NS_PER_DAY
    lost = [
        CoverageInterval(each, midnight - 5000, midnight + NS_PER_DAY, "lost")
        for each in (A, other)
    ]
    alone = CoverageInterval(A, midnight + NS_PER_DAY, midnight + NS_PER_DAY + 5000, "paused")
    write_coverage(layout, SESSION, [*lost, alone])
    found = read_gaps(data_dir=tmp_path)
    assert len(found) == 5
    gaps = {
        (reason, tuple(sorted(tickers)), (end - start).total_seconds())
        for (_, start, end, reason), tickers in join_midnight_gaps(found).items()
    }
    assert gaps == {("lost", (A, other), 86400.000005), ("paused", (A,), 0.000005)}


def test_a_new_window_is_not_a_sign_of_life(tmp_path: Path) -> None:
    """It is written for what was read next, which a kill may have kept from the tape."""
    layout = Layout(tmp_path)
    write_tape(
        layout, PARTS[0], [tape(NOON, A), connect(NOON + 1, A), TapeFrames(NOON + 9, (b"{}",))]
    )
    write_tape(layout, WindowId(SESSION, PARTS[1].window), [tape(NOON + 99, A, connected=True)])
    facts = read_tape_facts(layout, SESSION)
    coverage, last = facts.coverage, facts.last
    assert (coverage.intervals[-1].end, last) == (NOON + 9, NOON + 9)
