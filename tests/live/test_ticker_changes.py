"""Other tickers for a capture that runs: what is asked for, by several at once, and what comes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from stocktrace import cli
from stocktrace.errors import ChangeTimeout, SessionNotRunning
from stocktrace.live import ticker_changes
from stocktrace.live.control import CaptureControl, ChangeAction, ChangeRequest
from stocktrace.live.health import SILENT_S, StalenessMonitor
from stocktrace.live.ticker_changes import (
    ChangeOutcome,
    request_change,
    take_requests,
    write_answer,
)
from stocktrace.query.coverage import read_coverage
from stocktrace.sessions import catalog
from stocktrace.sessions.report import SessionReport
from stocktrace.simulator import Fault, Simulator
from stocktrace.store import lock
from stocktrace.store.layout import Layout
from tests.conftest import SESSION, Scenario, Studio, connected, frame, published, sent, trades
from tests.waiting import eventually

GOOD = '{"action": "add", "tickers": ["A"], "requested_by": "x"}'
ADD = ChangeRequest("add", ("TSLA",), "cli")
Steer = Callable[..., tuple[SessionReport, list[int]]]


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """Senders: they wait for the capture, which runs on the test's own thread."""
    with ThreadPoolExecutor(16) as pool:
        yield pool


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path / "data")
    layout.sessions.mkdir(parents=True)
    return layout


@contextlib.contextmanager
def alive(layout: Layout, session: str = SESSION) -> Iterator[Path]:
    """A session that holds its lock and takes what the test takes."""
    with (
        lock.hold_lock(layout.lock(session), {}),
        ticker_changes.open_inbox(layout, session) as inbox,
    ):
        yield inbox


def command(studio: Studio, *words: str) -> int:
    return cli.run(["tickers", *words, "--data-dir", str(studio.data_dir)])


@pytest.fixture
def steer(studio: Studio, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch) -> Steer:
    """Captures until the last of some commands is done, one after the other; their statuses."""
    monkeypatch.setattr("stocktrace.feed.subscriptions.ANSWER_TIMEOUT_S", 0.3)
    monkeypatch.setattr("stocktrace.live.ticker_changes.ANSWER_TIMEOUT_S", 0.3)
    monkeypatch.setattr("stocktrace.live.ticker_changes.EXPLANATION_TIMEOUT_S", 0.9)

    def steer(
        exchange: Simulator, *commands: str, tickers: Sequence[str] = ("AAPL",), **given: Any
    ) -> tuple[SessionReport, list[int]]:
        asked: list[Future[int]] = []

        def scenario() -> Scenario:
            yield connected
            for words in commands:
                asked.append(pool.submit(command, studio, *words.split()))
                yield lambda _: asked[-1].done()

        report = studio.record(exchange, tickers, scenario(), **given)
        return report, [each.result() for each in asked]

    return steer


def intervals(studio: Studio, ticker: str) -> list[tuple[str, str]]:
    rows = read_coverage(ticker, data_dir=studio.data_dir)
    return list(zip(rows["state"], rows["reason"], strict=True))


# --- the command line and a capture --------------------------------------------------------------


def test_an_added_ticker_is_captured_and_the_change_is_recorded_everywhere(
    studio: Studio, pool: ThreadPoolExecutor, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Future[int]] = []
    with studio.exchange() as exchange:

        def scenario() -> Scenario:
            yield connected
            asked.append(pool.submit(command, studio, "add", "tsla", "TSLA,NVDA", "AAPL"))
            yield lambda status: len(status.tickers) == 4
            exchange.send_raw(frame(("TSLA", 1), ("NVDA", 2), ("tsla", 3)))
            yield trades(3)
            yield lambda _: asked[0].done()

        report = studio.record(exchange, scenario=scenario())
    assert asked[0].result() == 0
    told = f"session {report.session}: +tsla +TSLA +NVDA; 4 tickers\n"
    assert capsys.readouterr().out == told
    assert report.tickers == ["AAPL", "tsla", "TSLA", "NVDA"]
    assert published(studio.data_dir) == sent([frame(("TSLA", 1), ("NVDA", 2), ("tsla", 3))])
    (change,) = report.changes
    assert (change.by, change.added, change.removed) == ("cli", ["tsla", "TSLA", "NVDA"], [])
    assert str(change) == f"{change.at:%Y-%m-%d %H:%M:%S} UTC, by cli: +tsla +TSLA +NVDA"
    (event,) = studio.events("retarget")
    assert (event["by"], event["added"], event["removed"]) == ("cli", change.added, [])
    coverage = read_coverage("TSLA", data_dir=studio.data_dir)
    assert list(coverage["state"]) == ["listening"]
    assert coverage["start"][0] >= change.at
    assert not list(studio.data_dir.glob("sessions/*.changes")), "nothing is left of it"


def test_the_coverage_of_a_removed_ticker_ends(
    studio: Studio, pool: ThreadPoolExecutor, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Future[int]] = []
    with studio.exchange() as exchange:

        def scenario() -> Scenario:
            yield connected
            asked.append(pool.submit(command, studio, "remove", "MSFT", "IBM"))
            yield lambda _: asked[0].done()
            exchange.wait_for(lambda each: each.subscriptions == ("AAPL",))

        report = studio.record(exchange, ("AAPL", "MSFT"), scenario())
    assert asked[0].result() == 0
    out = capsys.readouterr().out
    assert out == f"session {report.session}: -MSFT; 1 ticker\n  not captured before: IBM\n"
    assert report.tickers == ["AAPL"]
    ends = {
        ticker: read_coverage(ticker, data_dir=studio.data_dir)["end"].max()
        for ticker in ("AAPL", "MSFT")
    }
    assert ends["MSFT"] < ends["AAPL"]


def test_changes_of_several_senders_at_once_are_all_applied(
    studio: Studio, pool: ThreadPoolExecutor
) -> None:
    begun = tuple(f"OLD{n}" for n in range(6))
    words = [("add", f"NEW{n}") for n in range(8)] + [("remove", ticker) for ticker in begun[1:]]
    asked: list[Future[int]] = []
    with studio.exchange() as exchange:

        def scenario() -> Scenario:
            yield connected
            asked.extend(pool.submit(command, studio, *each) for each in words)
            studio.handle.request_change("HANDLE", "add")
            yield lambda _: all(each.done() for each in asked)

        report = studio.record(exchange, begun, scenario())
    assert {each.result() for each in asked} == {0}
    wanted = {"OLD0", "HANDLE", *(f"NEW{n}" for n in range(8))}
    assert set(report.tickers) == set(exchange.connections[0].subscriptions) == wanted
    assert sorted(change.by for change in report.changes) == ["cli"] * 13 + ["library"]


@pytest.mark.parametrize("named", [True, False])
def test_a_refusal_of_the_server_exits_with_status_1(
    studio: Studio, steer: Steer, capsys: pytest.CaptureFixture[str], *, named: bool
) -> None:
    odd = frozenset({"TSLA"})
    with studio.exchange(unknown_symbols=odd, names_invalid_symbol=named) as exchange:
        report, statuses = steer(exchange, "add TSLA NVDA", tickers=("AAPL", "MSFT"))
    text = f"Invalid symbol{' TSLA' if named else ''}"
    assert statuses == [1]
    out, err = capsys.readouterr()
    assert out == f"session {report.session}: +TSLA +NVDA; 4 tickers\n"
    assert err == f"stocktrace: The server refused TSLA: {text}\n"
    assert report.refused == {"TSLA": text}
    assert intervals(studio, "TSLA")[-1] == ("gap", f"subscription refused: {text}")
    assert intervals(studio, "NVDA") == [("listening", "")]


def test_the_ticker_over_the_limit_is_refused_and_served_when_there_is_room(
    studio: Studio, steer: Steer, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("add TSLA", "add TSLA", "set A B", "add TSLA")
    with studio.exchange(symbol_limit=3) as exchange:
        report, statuses = steer(exchange, *words, tickers=("A", "B", "C"))
    assert statuses == [1, 1, 0, 0]
    told = "stocktrace: The server refused TSLA: Subscribing to too many symbols\n"
    assert capsys.readouterr().err == told * 2
    assert (report.tickers, report.refused) == (["A", "B", "TSLA"], {})
    for ticker in ("A", "B", "C"):
        assert intervals(studio, ticker)[-1] == ("listening", ""), "only TSLA was refused"


def test_without_a_connection_a_change_is_kept_for_the_next(
    studio: Studio, pool: ThreadPoolExecutor, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Future[int]] = []
    with studio.exchange(faults=[Fault("status", status=503)]) as exchange:

        def scenario() -> Scenario:
            yield lambda _: True
            asked.append(pool.submit(command, studio, "set", "TSLA"))
            yield lambda _: asked[0].done()
            yield connected

        report = studio.record(exchange, ("AAPL",), scenario(), backoff_floor=2, backoff_base=0.01)
    assert asked[0].result() == 0
    assert "  not connected now: they will be subscribed when the connection is back\n" in (
        capsys.readouterr().out
    )
    assert report.tickers == ["TSLA"]
    assert exchange.connections[-1].subscriptions == ("TSLA",)


def test_not_all_tickers_can_be_removed(
    studio: Studio, steer: Steer, capsys: pytest.CaptureFixture[str]
) -> None:
    with studio.exchange() as exchange:
        report, statuses = steer(exchange, "remove AAPL")
    assert statuses == [1]
    sentence = "stocktrace: A capture needs at least one ticker: end it instead.\n"
    assert capsys.readouterr() == ("", sentence)
    assert (report.tickers, report.changes) == (["AAPL"], [])


def test_the_list_shows_since_when_and_who_asked(
    studio: Studio, steer: Steer, capsys: pytest.CaptureFixture[str]
) -> None:
    with studio.exchange() as exchange:
        report, _ = steer(exchange, "add TSLA", "list", "list --json", "add X --json")
    _, head, first, second, *rest = capsys.readouterr().out.splitlines()
    assert head.split() == ["ticker", "since", "by", "refused"]
    assert first.split() == ["AAPL", *f"{report.started:%Y-%m-%d %H:%M:%S}".split()]
    assert second.split() == ["TSLA", *f"{report.changes[0].at:%Y-%m-%d %H:%M:%S}".split(), "cli"]
    listed, added = map(json.loads, rest)
    assert (listed["session"], listed["tickers"]) == (report.session, ["AAPL", "TSLA"])
    assert (added["added"], added["captured"]) == (["X"], ["AAPL", "TSLA", "X"])


def test_a_sender_that_waits_when_the_capture_ends_is_answered(
    studio: Studio, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if it had not come to look for changes any more."""
    asked: list[Future[ChangeOutcome]] = []
    monkeypatch.setattr(
        "stocktrace.live.ticker_changes.TickerChanger.apply_changes", lambda _: None
    )
    with studio.exchange() as exchange:

        def scenario() -> Scenario:
            yield connected
            layout, session = Layout(studio.data_dir), studio.statuses[-1].session
            asked.append(pool.submit(request_change, layout, session, ADD, 60))
            yield lambda _: bool(list(layout.ticker_requests(session).glob("*.json")))

        studio.record(exchange, scenario=scenario())
        assert asked[0].result() == ChangeOutcome(error="The capture is ending.")
    assert not list(studio.data_dir.glob("sessions/*.changes"))


@pytest.mark.slow
def test_neither_a_killed_capture_nor_its_successor_applies_a_change(
    studio: Studio, tmp_path: Path
) -> None:
    """Each a process of its own."""
    layout = Layout(studio.data_dir)
    data = ["--data-dir", str(studio.data_dir)]
    environment = {**os.environ, "FINNHUB_API_KEY": studio.key}

    def stocktrace(*words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "stocktrace", *words, *data],
            env=environment,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    with studio.exchange() as exchange:
        first = stocktrace("capture", "AAPL", "--for", "60s", "--url", exchange.url)
        exchange.wait_for(lambda each: each.open_connections == 1, timeout=60)
        (session,) = eventually(lambda: catalog.running_captures(layout))
        adding = stocktrace("tickers", "add", "TSLA")
        out, err = adding.communicate(timeout=60)
        assert (adding.returncode, out, err) == (0, f"session {session}: +TSLA; 2 tickers\n", "")
        first.send_signal(signal.SIGSTOP)  # it is there and takes nothing
        late = stocktrace("tickers", "add", "LATE", "--session", session, "--wait", "60s")
        eventually(lambda: list(layout.ticker_requests(session).glob("*.json")))
        first.kill()
        first.communicate()
        out, err = late.communicate(timeout=60)
        sentence = f"Session {session} ended before it answered the change."
        assert (late.returncode, out, err) == (1, "", f"stocktrace: {sentence}\n")
        exchange.wait_for(lambda each: each.open_connections == 0, timeout=60)
        second = stocktrace("capture", "AAPL", "--for", "2s", "--url", exchange.url)
        second.communicate(timeout=60)
        assert second.returncode == 0
        assert [each.subscriptions for each in exchange.connections] == [
            ("AAPL", "TSLA"),
            ("AAPL",),
        ]
    recovered = SessionReport.read(layout.report(session))
    assert (recovered.state, recovered.tickers) == ("recovered", ["AAPL", "TSLA"])
    assert [change.added for change in recovered.changes] == [["TSLA"]]


# --- the folder ----------------------------------------------------------------------------------


def test_a_change_is_taken_once(layout: Layout, pool: ThreadPoolExecutor) -> None:
    with alive(layout) as inbox:
        sending = pool.submit(request_change, layout, SESSION, ADD, 60)
        taken = waited_for(inbox)
        assert [change for _, change in taken] == [ADD]
        assert list(take_requests(inbox)) == []
        write_answer(inbox, taken[0][0], ChangeOutcome(("TSLA",), ("TSLA",)))
        assert sending.result() == ChangeOutcome(("TSLA",), ("TSLA",))
        assert list(inbox.iterdir()) == []


def waited_for(inbox: Path) -> list[tuple[str, ChangeRequest]]:
    return list(eventually(lambda: list(take_requests(inbox))))


def test_changes_are_taken_in_the_order_in_which_they_were_sent(layout: Layout) -> None:
    with alive(layout) as inbox:
        for number in (3, 1, 2):
            text = json.dumps({"action": "add", "tickers": [f"T{number}"], "requested_by": "cli"})
            (inbox / f"{number:020}_00000000.json").write_text(text)
        assert [change.tickers for _, change in take_requests(inbox)] == [("T1",), ("T2",), ("T3",)]


def test_a_change_that_is_not_taken_is_withdrawn(layout: Layout) -> None:
    with alive(layout) as inbox:
        with pytest.raises(ChangeTimeout, match="The change was withdrawn"):
            request_change(layout, SESSION, ADD, 0.2)
        assert list(take_requests(inbox)) == []


def test_a_change_that_was_taken_and_not_answered_is_not_called_withdrawn(
    layout: Layout, pool: ThreadPoolExecutor
) -> None:
    with alive(layout) as inbox:
        sending = pool.submit(request_change, layout, SESSION, ADD, 1.0)
        waited_for(inbox)
        with pytest.raises(ChangeTimeout, match="accepted the change, but did not report"):
            sending.result()


def test_a_capture_that_crashes_before_it_answers_is_reported(
    layout: Layout, pool: ThreadPoolExecutor
) -> None:
    with contextlib.ExitStack() as process:
        inbox = process.enter_context(alive(layout))
        sending = pool.submit(request_change, layout, SESSION, ADD, 60)
        eventually(lambda: list(inbox.glob("*.json")))
        process.close()
    with pytest.raises(SessionNotRunning, match="ended before it answered the change"):
        sending.result()
    assert not inbox.exists()


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "no JSON",
        '{"action": "buy", "tickers": ["A"], "requested_by": ""}',
        '{"action": "add", "tickers": ["\\n"], "requested_by": ""}',
        '{"action": "add", "tickers": [], "requested_by": ""}',
    ],
)
def test_an_invalid_request_is_answered_and_changes_nothing(layout: Layout, text: str) -> None:
    with alive(layout) as inbox:
        (inbox / "1_x.json").write_text(text)
        (inbox / ".1_x.json.123.tmp").write_text("half a")
        (inbox / "1_y.json").write_text('{"action": "add", "tickers": ["A"], "requested_by": "x"}')
        assert [change.tickers for _, change in take_requests(inbox)] == [("A",)]
        answer = json.loads((inbox / "1_x.answer").read_text())
        assert answer["error"].startswith("It is not a valid change of tickers: ")


def test_requests_to_a_crashed_capture_are_removed_and_not_applied(layout: Layout) -> None:
    dead = layout.ticker_requests("20261122T142958Z_3f9a1c")
    dead.mkdir()
    (dead / "1_x.json").write_text(GOOD)
    other = "20261123T152958Z_3f9a1c"
    with alive(layout, other), alive(layout) as inbox:
        assert list(take_requests(inbox)) == []
        assert not dead.exists()
        assert layout.ticker_requests(other).exists(), "it lives"


# --- which capture -------------------------------------------------------------------------------


def test_without_a_running_capture_the_command_exits_with_status_1(
    layout: Layout, studio: Studio, capsys: pytest.CaptureFixture[str]
) -> None:
    sentence = (
        f"No capture is running in {layout.root}. Start one with `stocktrace capture`, or name "
        "another data folder with --data-dir."
    )
    for words in (["add", "TSLA"], ["remove", "TSLA"], ["set", "TSLA"], ["list"]):
        assert command(studio, *words) == 1
        assert capsys.readouterr() == ("", f"stocktrace: {sentence}\n")


def test_a_session_that_is_not_running_exits_with_status_1(
    layout: Layout, studio: Studio, capsys: pytest.CaptureFixture[str]
) -> None:
    layout.report(SESSION).write_text("{}")
    with lock.hold_lock(layout.lock(SESSION), {}):  # as a recovery does
        assert command(studio, "add", "TSLA", "--session", SESSION) == 1
    assert capsys.readouterr().err == f"stocktrace: Session {SESSION} is not running any more.\n"
    assert command(studio, "add", "TSLA", "--session", "../x") == 1
    sentence = f"Session ../x does not exist in {layout.root}: see `stocktrace sessions`."
    assert capsys.readouterr().err == f"stocktrace: {sentence}\n"


def test_one_of_several_running_captures_must_be_named(
    layout: Layout, studio: Studio, capsys: pytest.CaptureFixture[str]
) -> None:
    other = "20261123T152958Z_3f9a1c"
    with alive(layout), alive(layout, other):
        assert command(studio, "add", "TSLA") == 2
        sentence = (
            f"2 captures are running in {layout.root}. Name one with --session: {SESSION}, {other}."
        )
        assert capsys.readouterr().err == f"stocktrace: {sentence}\n"
        assert command(studio, "add", "TSLA", "--session", other, "--wait", "100ms") == 1
    assert f"Session {other} did not accept the change within 0.1 s" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["add"], "Name at least one ticker"),
        (["remove", "é"], "'é' is not a ticker"),
        (["set", "A", "--wait", "soon"], "'soon' is not a duration"),
    ],
)
def test_wrong_usage_is_status_2(
    layout: Layout,
    studio: Studio,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    sentence: str,
) -> None:
    assert command(studio, *words) == 2
    assert sentence in capsys.readouterr().err


# --- parts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("action", "tickers", "wanted"),
    [
        ("add", ["C", "A"], ("A", "B", "C")),
        ("remove", ["A", "X"], ("B",)),
        ("remove", ["A", "B"], ()),
        ("set", ["C", "A"], ("C", "A")),
    ],
)
def test_a_change_is_relative_to_what_is_captured(
    action: ChangeAction, tickers: Sequence[str], wanted: tuple[str, ...]
) -> None:
    handle = CaptureControl()
    handle.request_change(tickers, action)
    (change,) = handle.take_changes()
    assert change.apply_to(("A", "B")) == wanted
    assert list(handle.take_changes()) == []


def test_a_ticker_is_not_silent_before_it_was_added(studio: Studio) -> None:
    with studio.exchange() as exchange:

        def scenario() -> Scenario:
            yield connected
            studio.handle.request_change("BINANCE:BTCUSDT", "add")
            yield lambda status: len(status.tickers) == 2

        report = studio.record(exchange, ("BINANCE:ETHUSDT",), scenario())
    report.started -= timedelta(seconds=SILENT_S)
    journal: Any = type("Journal", (), {"report": report})
    intake: Any = type("Intake", (), {"last_trade_at": {}})
    monitor = StalenessMonitor(journal, intake, recorder=None)  # type: ignore[arg-type]
    now = int(report.changes[0].at.timestamp() * 1e9)
    assert set(monitor.silent_tickers(now)) == {"BINANCE:ETHUSDT"}
    assert set(monitor.silent_tickers(now + int((SILENT_S + 1) * 1e9))) == set(report.tickers)
