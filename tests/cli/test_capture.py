"""What ``stocktrace capture`` and ``watch`` print, and how they end."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from stocktrace import cli
from stocktrace.errors import SessionCrashed
from stocktrace.live import key_lock
from stocktrace.sessions.report import SessionReport
from stocktrace.sessions.status import CaptureStatus
from stocktrace.simulator import Simulator, SyntheticMarket
from stocktrace.store import lock
from stocktrace.store.layout import Layout
from tests.cli.conftest import PATIENCE_S, STOCKTRACE, Said, capturing, ran, running
from tests.conftest import SESSION, Studio, brief, connected, published, sent, taped

Watch = Callable[..., tuple[int, str, str]]

# --- capture -------------------------------------------------------------------------------------


def test_capture_records_and_prints_the_books(quick: Studio, say: Callable[..., Said]) -> None:
    with quick.exchange(SyntheticMarket(rate=2000, trades=300), settle=0.1) as exchange:
        said = say(
            "capture", "AAPL", "BINANCE:BTCUSDT,OANDA:EUR_USD", "--for", "1.5s", "--url",
            exchange.url, "--data-dir", quick.data_dir, "--min-free-space", 0,
        )  # fmt: skip
        wanted = sent(exchange.connections[0].frames)
    assert said.status == 0, said.err
    count = sum(map(len, wanted.values()))
    assert published(quick.data_dir) == wanted
    assert f"{count} trades = {count} recorded + 0 quarantined; {count} in Parquet" in said.out
    assert "the books balance" in said.out
    assert "\x1b" not in said.out + said.err
    assert quick.key not in said.out + said.err


def test_json_is_the_report_and_nothing_else(quick: Studio, say: Callable[..., Said]) -> None:
    with quick.exchange() as exchange:
        said = say(
            "capture", "AAPL", "--for", "300ms", "--json", "--progress", "none", "--url",
            exchange.url, "--data-dir", quick.data_dir, "--min-free-space", 0,
        )  # fmt: skip
    assert said.status == 0, said.err
    printed = json.loads(said.out)
    (path,) = (quick.data_dir / "sessions").glob("*.json")
    assert printed == json.loads(path.read_text())
    assert printed["books"]["trades"] == 0
    assert printed["state"] == "complete"


def test_settings_come_from_the_flag_before_the_environment(
    quick: Studio, say: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    with quick.exchange() as exchange:
        monkeypatch.setenv("STOCKTRACE_URL", exchange.url)
        monkeypatch.setenv("STOCKTRACE_DATA_DIR", "elsewhere")
        monkeypatch.setenv("STOCKTRACE_MIN_FREE_SPACE", "0")
        monkeypatch.setenv("STOCKTRACE_ROLL_INTERVAL", "1h")
        said = say("capture", "AAPL", "--for", "300ms", "--json", "--data-dir", quick.data_dir)
    assert said.status == 0, said.err
    settings = json.loads(said.out)["settings"]
    assert (settings["roll_interval"], settings["data_dir"]) == (3600.0, str(quick.data_dir))
    assert not Path("elsewhere").exists()


def test_a_capture_that_never_connects_exits_1_with_the_reason(
    quick: Studio, say: Callable[..., Said]
) -> None:
    said = say(
        "capture", "AAPL", "--for", "3s", "--url", "ws://127.0.0.1:1", "--data-dir",
        quick.data_dir, "--min-free-space", 0,
    )  # fmt: skip
    assert said.status == 1
    last = said.err.splitlines()[-1]
    assert last.startswith("stocktrace: not connected at the end: cannot connect")
    assert "refused" in last


def test_a_key_that_is_refused_exits_1_with_a_sentence(
    quick: Studio, say: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FINNHUB_API_KEY", "wrong")
    with quick.exchange() as exchange:
        said = say(
            "capture", "AAPL", "--for", "30s", "--url", exchange.url, "--data-dir",
            quick.data_dir, "--min-free-space", 0,
        )  # fmt: skip
    assert said.status == 1
    assert said.err.splitlines()[-1] == (
        "stocktrace: The server refused the API key (HTTP 401). "
        "Check FINNHUB_API_KEY at https://finnhub.io/dashboard."
    )
    assert "Traceback" not in said.err


def test_a_key_in_use_exits_1_with_a_sentence(quick: Studio, say: Callable[..., Said]) -> None:

    with key_lock.acquire_key_lock(quick.key, "ws://127.0.0.1:1", SESSION):
        said = say(
            "capture", "AAPL", "--for", "1s", "--url", "ws://127.0.0.1:1", "--data-dir",
            quick.data_dir,
        )  # fmt: skip
    assert said.status == 1
    assert said.err == (
        "stocktrace: Another capture on this host already uses this API key "
        f"(session {SESSION}, process {os.getpid()}). Stop it first, or use a second key.\n"
    )
    assert not quick.data_dir.exists()


def test_a_full_disk_exits_1_with_a_sentence(quick: Studio, say: Callable[..., Said]) -> None:
    with quick.exchange() as exchange:
        said = say(
            "capture", "AAPL", "--for", "30s", "--url", exchange.url, "--data-dir",
            quick.data_dir, "--min-free-space", "1000000000GB",
        )  # fmt: skip
    assert said.status == 1
    assert re.search(r"stocktrace: The disk of .* has only \d+ MB left", said.err)


# --- signals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_a_signal_stops_a_capture_cleanly_and_publishes_everything(
    studio: Studio, number: signal.Signals
) -> None:
    market = SyntheticMarket(seed=5, rate=2000)
    with studio.exchange(market, settle=0.1) as exchange:
        with capturing(studio, exchange, "--json", "--roll-interval", "1s") as process:
            exchange.wait_for(lambda each: each.sent_trades > 1000, PATIENCE_S)
            process.send_signal(number)
            out, err = process.communicate(timeout=PATIENCE_S)
        frames = exchange.connections[0].frames
    assert process.returncode == 128 + number, err
    report = json.loads(out)
    assert (report["state"], report["reason"], report["unpublished"]) == (
        "interrupted", "interrupted", [],
    )  # fmt: skip
    kept = taped(studio.data_dir)
    assert kept == frames[: len(kept)]
    assert published(studio.data_dir) == sent(kept)
    assert report["books"]["recorded"] == sum(map(len, sent(kept).values())) > 500
    assert not [name for name in studio.files() if name.endswith((".open", ".csv", ".tape"))]
    assert "Traceback" not in err
    assert "\x1b" not in out + err


def test_a_second_signal_exits_at_once_and_the_tape_has_everything(studio: Studio) -> None:
    layout = Layout(studio.data_dir)
    with studio.exchange(SyntheticMarket(seed=5, rate=20_000), settle=0.5) as exchange:
        with capturing(studio, exchange) as process:
            exchange.wait_for(lambda each: each.sent_trades > 20_000, PATIENCE_S)
            (session,) = layout.all_sessions()
            with lock.publish_lock(layout, session):  # the capture cannot end: it waits to publish
                process.send_signal(signal.SIGINT)
                exchange.wait_for(lambda each: each.open_connections == 0, PATIENCE_S)
                process.send_signal(signal.SIGINT)
                _, err = process.communicate(timeout=PATIENCE_S)
        frames = exchange.connections[0].frames
    assert process.returncode == 130
    assert "Traceback" not in err
    assert SessionReport.read(layout.report(session)).state == "running"
    kept = taped(studio.data_dir)
    assert len(kept) > 100
    assert kept == frames[: len(kept)]


def test_a_process_shows_no_key_in_its_title_nor_in_its_threads(studio: Studio) -> None:
    with studio.exchange() as exchange, capturing(studio, exchange) as process:
        exchange.wait_for(lambda each: bool(each.subscriptions), PATIENCE_S)
        folder = Path("/proc") / str(process.pid)
        titles = [folder / "cmdline", folder / "comm", *folder.glob("task/*/comm")]
        shown = b"".join(path.read_bytes() for path in titles)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=PATIENCE_S)
    assert b"stocktrace" in shown
    assert studio.key.encode() not in shown
    assert studio.key not in out + err


# --- watch ---------------------------------------------------------------------------------------


@pytest.fixture
def watch(studio: Studio, capfd: pytest.CaptureFixture[str]) -> Watch:
    """Runs ``stocktrace watch`` in this process."""

    def watch(*words: str) -> tuple[int, str, str]:
        status = cli.run(["watch", *words, "--data-dir", str(studio.data_dir)])
        out, err = capfd.readouterr()
        return status, out, err

    return watch


@contextlib.contextmanager
def recorded(studio: Studio, exchange: Simulator) -> Iterator[None]:
    """A capture in another thread, up to the end of the block; there is a status in it."""
    up = threading.Event()

    def scenario() -> Iterator[Callable[[CaptureStatus], bool]]:
        yield connected
        up.set()
        yield lambda _: False

    def record() -> None:
        studio.record(exchange, scenario=scenario(), lasting=600.0)  # type: ignore[arg-type]

    thread = threading.Thread(target=record)
    thread.start()
    try:
        assert up.wait(PATIENCE_S)
        yield
    finally:
        studio.handle.stop("the test is through")
        thread.join(PATIENCE_S)


def test_a_capture_in_another_process_is_shown_until_it_ends(
    studio: Studio, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[CaptureStatus] = []

    def look(status: CaptureStatus) -> None:
        seen.append(status)
        if len(seen) == 2:
            studio.handle.stop("enough")

    monkeypatch.setattr(
        "stocktrace.cli.capture.make_progress", lambda _: contextlib.nullcontext(look)
    )
    with studio.exchange(SyntheticMarket(rate=2000)) as exchange, recorded(studio, exchange):
        status, out, err = watch()
    report = studio.report()
    assert status == 0
    assert [seen[0].state, seen[-1].state] == ["connected", "ended"]
    assert seen[0].trades <= seen[1].trades <= seen[-1].trades == report.books.trades
    assert out.startswith(f"session {report.session}: interrupted (enough)\n")
    assert f"{report.books.trades:,} trades = " in out
    assert "\x1b" not in out + err


def test_as_json_each_status_is_a_line_and_the_last_has_the_outcome(
    studio: Studio, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    printed: list[None] = []

    def flush() -> None:
        printed.append(None)
        if len(printed) == 2:
            studio.handle.stop("enough")

    monkeypatch.setattr("stocktrace.cli.output.flush", flush)
    with studio.exchange(SyntheticMarket(rate=2000)) as exchange, recorded(studio, exchange):
        status, out, _ = watch("--json")
    looks = [json.loads(line) for line in out.splitlines()]
    assert status == 0
    assert len(looks) > 2
    assert (looks[-1]["state"], looks[-1]["final_state"]) == ("ended", "interrupted")
    assert looks[-1]["trades"] == studio.report().books.trades
    assert {look["session"] for look in looks} == {studio.report().session}


def test_a_session_that_has_ended_is_summed_up_at_once(studio: Studio, watch: Watch) -> None:
    with studio.exchange() as exchange:
        report = studio.record(exchange, lasting=0.3)
    status, out, _ = watch(report.session, "--progress", "none")
    assert status == 0
    assert out.startswith(f"session {report.session}: complete ")


def test_a_capture_that_failed_exits_1(studio: Studio, watch: Watch) -> None:
    studio.record("ws://127.0.0.1:1", lasting=0.3)
    report = studio.report()
    assert report.state == "failed"
    status, out, _ = watch(report.session)
    assert status == 1
    assert "failed" in out.splitlines()[0]


def a_dead_one(studio: Studio) -> str:
    """The remains of a capture: its status says that it is connected, and nobody holds its lock."""
    with studio.exchange() as exchange:
        report = studio.record(exchange, scenario=brief())
    path = Layout(studio.data_dir).status(report.session)
    last = json.loads(path.read_text()) | {"state": "connected", "final_state": "running"}
    path.write_text(json.dumps(last))
    return report.session


def test_gaps_of_a_running_session_are_not_reported_as_zero(
    studio: Studio, capsys: pytest.CaptureFixture[str]
) -> None:
    with (
        studio.exchange(SyntheticMarket(seed=1, rate=100.0)) as exchange,
        recorded(studio, exchange),
    ):
        capsys.readouterr()
        assert cli.run(["gaps", "--data-dir", str(studio.data_dir)]) == 0
        out, err = capsys.readouterr()
    assert "0 gaps" not in out
    assert "is running. Its gaps are listed when it has ended" in err


def test_a_crashed_process_is_reported_with_what_to_do(studio: Studio, watch: Watch) -> None:
    session = a_dead_one(studio)
    status, out, err = watch(session, "--progress", "none")
    assert (status, out) == (1, "")
    assert err == (
        f"stocktrace: Session {session} crashed. Everything it received is on its tape. "
        "Run `stocktrace recover`.\n"
    )


def test_watch_without_a_running_capture_says_so(studio: Studio, watch: Watch) -> None:
    a_dead_one(studio)
    told = (
        f"stocktrace: No capture is running in {studio.data_dir}. Start one with `stocktrace "
        "capture`, or name another data folder with --data-dir.\n"
    )
    assert watch() == (1, "", told)


def test_a_crashed_session_is_listed_with_what_it_received_and_what_to_do(
    studio: Studio, capsys: pytest.CaptureFixture[str]
) -> None:
    session = a_dead_one(studio)
    layout = Layout(studio.data_dir)
    status = json.loads(layout.status(session).read_text())
    layout.status(session).write_text(json.dumps(status | {"trades": 1234}))
    report = SessionReport(session, ["AAPL"], datetime(2026, 11, 23, 14, 30, tzinfo=UTC))
    report.write(layout.report(session))  # as it was when the session began
    place, sentence = ["--data-dir", str(studio.data_dir)], str(SessionCrashed(session))
    assert cli.run(["sessions", *place]) == 0
    out, err = capsys.readouterr()
    row = dict(zip(*(line.split()[:2] for line in out.splitlines()), strict=True))
    assert row == {"session": session, "state": "crashed"}
    assert "1,234" in out.splitlines()[1].split()
    assert err == f"stocktrace: {sentence}\n"
    assert cli.run(["gaps", *place]) == 0
    assert capsys.readouterr().err == f"stocktrace: {sentence}\n"
    layout.status(session).unlink()  # then nobody has counted them
    assert cli.run(["sessions", *place]) == 0
    assert "?" in capsys.readouterr().out.splitlines()[1].split()
    assert cli.run(["sessions", "--csv", *place]) == 0
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert (row["state"], row["trades"]) == ("crashed", "")
    assert cli.run(["sessions", "--json", *place]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["state"], told["reason"]) == ("crashed", sentence)
    page = studio.data_dir / "page.html"
    assert cli.run(["report", session, "--out", str(page), *place]) == 0
    assert capsys.readouterr() == (f"{page}\n", f"stocktrace: {sentence}\n")


@pytest.mark.parametrize(
    ("session", "sentence"),
    [
        (SESSION, f"No status of session {SESSION}"),
        ("../../etc/passwd", "'../../etc/passwd' is not a session"),
    ],
)
def test_an_invalid_session_is_reported(
    studio: Studio, watch: Watch, session: str, sentence: str
) -> None:
    studio.data_dir.mkdir()
    status, out, err = watch(session)
    assert (status, out) == (2, "")
    assert sentence in err
    assert err.count("\n") == 1


def test_a_status_of_another_version_is_reported(studio: Studio, watch: Watch) -> None:
    path = Layout(studio.data_dir).status(SESSION)
    path.parent.mkdir(parents=True)
    path.write_text('{"session": 7}')
    status, _, err = watch(SESSION)
    assert status == 1
    assert f"{path} is not a status of this version" in err


def test_of_several_captures_the_latest_is_shown(studio: Studio, watch: Watch) -> None:
    layout = Layout(studio.data_dir)
    with studio.exchange() as exchange:
        report = studio.record(exchange, scenario=brief())
    earlier = "20200101T000000Z_000000"
    layout.status(earlier).write_bytes(layout.status(report.session).read_bytes())
    for session in (earlier, report.session):
        layout.ticker_requests(session).mkdir()  # as a capture does; a recovery has the lock alone
    with (
        lock.hold_lock(layout.lock(earlier), {"session": earlier}),
        lock.hold_lock(layout.lock(report.session), {"session": report.session}),
    ):
        status, out, _ = watch("--progress", "none")
    assert status == 0
    assert out.startswith(f"session {report.session}")


def test_ctrl_c_ends_watch_and_not_the_capture(studio: Studio) -> None:
    command = (*STOCKTRACE, "watch", "--json", "--data-dir", str(studio.data_dir))
    with studio.exchange() as exchange, recorded(studio, exchange):
        with running(*command) as process:
            assert process.stdout is not None
            first = json.loads(process.stdout.readline())
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=PATIENCE_S)
        assert studio.report().state == "running"
    assert process.returncode == 130
    assert err == f"stocktrace: Session {first['session']} is still running.\n"
    assert SessionReport.read(next(studio.data_dir.glob("sessions/*.json"))).state == "interrupted"


def test_a_reader_of_statuses_that_goes_away_is_not_a_failure(
    studio: Studio, tmp_path: Path
) -> None:
    command = f"{' '.join(STOCKTRACE)} watch --json --data-dir {studio.data_dir} | head -1"
    with studio.exchange() as exchange, recorded(studio, exchange):
        done = ran("bash", "-c", f"set -o pipefail; {command}", cwd=tmp_path)
    assert json.loads(done.stdout)["connected"] is True
    assert (done.returncode, done.stderr) == (0, "")
