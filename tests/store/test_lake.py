"""What goes to the lake: whole, once, compared, and never in the way of a capture."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pytest

import stocktrace
from stocktrace.cli import run
from stocktrace.clock import Clock
from stocktrace.errors import LakeError
from stocktrace.intervals import CoverageInterval
from stocktrace.maintenance.compact import compact_lake
from stocktrace.maintenance.convert import convert_segments
from stocktrace.record.recovery import recover
from stocktrace.sessions.report import SessionReport
from stocktrace.simulator import SyntheticMarket
from stocktrace.store import conversion, outbox
from stocktrace.store.arrow_schema import TRADE_SCHEMA
from stocktrace.store.conversion import write_window_file
from stocktrace.store.coverage import write_coverage
from stocktrace.store.lake import Lake, without_secrets
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId
from stocktrace.units import epoch_ms
from tests.cloud import CountingProxy, Store, counting, s3
from tests.conftest import NOON, SESSION, WINDOW, Studio, played, published, tree
from tests.tables import put, table_of

TICKERS = ("AAPL", "7203", "BINANCE:BTCUSDT")
MARKET = SyntheticMarket(seed=3, rate=900.0, trades=300)


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    """The folder of a lake on this machine."""
    return tmp_path / "lake"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with s3(tmp_path_factory.mktemp("s3")) as store:
        yield store


@pytest.fixture
def store(running: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    for name, text in running.env.items():
        monkeypatch.setenv(name, text)
    return running


def capture(studio: Studio, lake: str, **given: Any) -> SessionReport:
    with studio.exchange(MARKET) as exchange:
        return studio.record(exchange, TICKERS, played(exchange), lake=lake, **given)


def of_lake(files: list[str]) -> list[str]:
    """Those of a data folder's files that belong into a lake."""
    kept = (path for path in files if path.endswith((".parquet", ".json")))
    return [path for path in kept if path.startswith(("parquet/", "coverage/", "sessions/"))]


def rows(place: str | Path) -> list[dict[str, Any]]:
    table = stocktrace.read_trades(TICKERS, data_dir=place, backend="pyarrow")
    return list(table.to_pylist())


# --- a capture with a lake -------------------------------------------------------------------


def test_a_capture_leaves_in_the_lake_what_it_published_and_nothing_to_be_sent(
    studio: Studio, lake: Path
) -> None:
    report = capture(studio, f"file://{lake}", roll_size="10KB")
    assert (report.state, report.upload_error) == ("complete", "") or report.state == "interrupted"
    assert len(report.windows) > 1
    assert tree(lake) == of_lake(studio.files())
    for name in tree(lake):
        assert (lake / name).read_bytes() == (studio.data_dir / name).read_bytes()
    assert not (studio.data_dir / "outbox").exists() or not tree(studio.data_dir / "outbox")
    assert published(lake) == published(studio.data_dir)


def test_a_capture_without_a_lake_makes_no_outbox(studio: Studio) -> None:
    capture(studio, "")
    assert not (studio.data_dir / "outbox").exists()


def test_a_lake_that_cannot_be_used_does_not_harm_the_capture_and_is_reported(
    studio: Studio, lake: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lake.write_text("a file where the folder should be")
    report = capture(studio, f"file://{lake}", roll_size="10KB")
    assert report.balanced
    assert report.books.recorded == 300
    assert f"The lake file://{lake} cannot be used" in report.upload_error
    assert "run `stocktrace recover`" in report.upload_error
    assert studio.report().upload_error == report.upload_error
    assert studio.events("unsent")
    assert report.upload_error in caplog.text
    assert tree(studio.data_dir / "outbox" / report.session) == of_lake(studio.files())

    lake.unlink()
    (recovered,) = recover(Layout(studio.data_dir))  # the report tells where to
    assert recovered.upload_error == ""
    assert studio.report().upload_error == ""
    assert tree(lake) == of_lake(studio.files())
    assert published(lake) == published(studio.data_dir)
    assert recover(Layout(studio.data_dir)) == []


def test_the_command_line_says_that_files_wait_and_exits_1(
    studio: Studio, lake: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lake.write_text("")
    capture(studio, f"file://{lake}")
    folder = str(studio.data_dir)
    assert run(["convert", "--data-dir", folder]) == 1
    assert "cannot be used" in capsys.readouterr().err
    assert run(["recover", "--data-dir", folder]) == 1
    lake.unlink()
    assert run(["convert", "--data-dir", folder]) == 0
    assert tree(lake) == of_lake(studio.files())


def test_what_waits_is_sent_with_the_next_window(studio: Studio, lake: Path) -> None:
    layout = Layout(studio.data_dir, lake=f"file://{lake}")
    capture(studio, "", roll_size="10KB")
    session = studio.report().session
    first, second, *_ = sorted(layout.dataset.rglob(f"{session}*.parquet"))
    outbox.add_to_outbox(layout, session, first)
    lake.write_text("")
    with pytest.raises(LakeError):
        outbox.send_outbox(layout, session)
    lake.unlink()
    outbox.add_to_outbox(layout, session, second)
    assert outbox.send_outbox(layout, session).files == 2
    assert len(tree(lake)) == 2


@pytest.mark.parametrize(
    "place",
    [
        "stocktrace.store.conversion._delete_segment",
        "stocktrace.record.publish.send_pending",
    ],
)
def test_a_capture_killed_between_publishing_and_sending_is_in_the_lake_after_recovery(
    studio: Studio, lake: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(place, die)
        with pytest.raises(KeyboardInterrupt):
            capture(studio, f"file://{lake}")
    assert not tree(lake)
    layout = Layout(studio.data_dir)
    # The tape is archived after the segments are deleted.
    failed = convert_segments(layout).failed
    assert [text.partition(": ")[2] for text in failed] == (
        ["run `stocktrace recover`."] if layout.plain_tapes() else []
    )
    recover(layout)
    assert tree(lake) == of_lake(studio.files())
    assert published(lake) == published(studio.data_dir)
    assert sum(map(len, published(lake).values())) == 300


def test_a_report_that_is_replaced_while_it_is_linked_is_sent(
    studio: Studio, lake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = Layout(studio.data_dir, lake=f"file://{lake}")
    capture(studio, "")
    session = studio.report().session
    link, failures = os.link, iter([FileNotFoundError(2, "No such file or directory")])

    def link_replaced_file(source: Path, target: Path) -> None:
        if error := next(failures, None):
            raise error
        link(source, target)

    monkeypatch.setattr(os, "link", link_replaced_file)
    outbox.add_to_outbox(layout, session, layout.report(session))
    assert outbox.send_outbox(layout, session).files == 1
    with pytest.raises(FileNotFoundError):
        outbox.add_to_outbox(layout, session, layout.report("of no session"))


def test_compacting_a_day_keeps_the_files_to_be_sent(studio: Studio, lake: Path) -> None:
    layout = Layout(studio.data_dir, lake=f"file://{lake}")
    capture(studio, "")
    session = studio.report().session
    files = sorted(layout.dataset.rglob(f"{session}*.parquet"))
    for path in files:
        outbox.add_to_outbox(layout, session, path)
        path.unlink()
    assert outbox.send_outbox(layout, session).files == len(files)
    assert sum(map(len, published(lake).values())) == 300


# --- reading ---------------------------------------------------------------------------------


def test_a_lake_is_read_like_a_data_folder(studio: Studio, lake: Path) -> None:
    url = f"file://{lake}"
    capture(studio, url, roll_size="10KB")
    assert len(rows(url)) == 300
    assert rows(url) == rows(studio.data_dir)
    assert stocktrace.scan(TICKERS, data_dir=url).count_rows() == 300
    for place in (url, studio.data_dir):
        bars = stocktrace.read_bars(TICKERS, "1s", data_dir=place)
        gaps = stocktrace.read_gaps(data_dir=place)
        if place == url:
            there = bars, gaps
    assert there[0].equals(bars)
    assert there[1].equals(gaps)


def test_other_readers_get_all_of_it_numeric_tickers_as_text(studio: Studio, lake: Path) -> None:
    import duckdb

    capture(studio, f"file://{lake}")
    query = f"select distinct symbol from read_parquet('{lake}/parquet/*/*.parquet')"
    assert sorted(duckdb.execute(query).fetchall()) == [(ticker,) for ticker in sorted(TICKERS)]


def test_the_command_line_reads_a_lake(
    studio: Studio, lake: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"file://{lake}"
    capture(studio, url)
    assert run(["trades", "7203", "--data-dir", url]) == 0
    assert "7203" in capsys.readouterr().out
    assert run(["bars", "7203", "--data-dir", url]) == 0
    assert run(["gaps", "--data-dir", url]) == 0
    assert "connecting" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["compact", "convert", "verify", "sessions"])
def test_a_lake_is_not_a_data_folder(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([command, "--data-dir", "s3://bucket/prefix"]) == 2
    assert "read a lake" in capsys.readouterr().err


def test_a_session_of_another_machine_runs_as_long_as_its_report_says_so(
    tmp_path: Path, lake: Path
) -> None:
    layout = Layout(tmp_path / "data", lake=f"file://{lake}")
    for state, session in (("running", SESSION), ("complete", SESSION.replace("3f", "4f"))):
        path = layout.report(session)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"session": session, "state": state}))
        outbox.add_to_outbox(layout, session, path)
        outbox.send_outbox(layout, session)
    found = Lake.open(layout.lake)
    began, now = datetime(2026, 11, 23, 14, 29, 58, tzinfo=UTC), datetime.now(UTC)
    later = max(now, began) + timedelta(hours=1)
    assert found.running_sessions(began, later) == [SESSION]
    assert found.running_sessions(began, later, ended=[SESSION]) == []
    # It began after the time that is asked for, or its report is older than a window can be.
    assert found.running_sessions(began - timedelta(hours=1), began) == []
    assert found.running_sessions(now + timedelta(days=1, minutes=1), later) == []


# --- the outbox ------------------------------------------------------------------------------


@pytest.fixture
def layout(tmp_path: Path, lake: Path) -> Layout:
    found = Layout(tmp_path / "data", lake=f"file://{lake}")
    for name in (f"sessions/{SESSION}.json", "coverage/date=2026-11-23/one.parquet"):
        (found.root / name).parent.mkdir(parents=True)
        (found.root / name).write_text(name)
    return found


def test_adding_a_file_again_replaces_the_older_one(layout: Layout, lake: Path) -> None:
    path = layout.report(SESSION)
    outbox.add_to_outbox(layout, SESSION, path)
    path.unlink()
    path.write_text("newer")
    outbox.add_to_outbox(layout, SESSION, path)
    outbox.add_to_outbox(layout, SESSION, path)
    assert [found.read_text() for found in outbox.pending_uploads(layout, SESSION)] == ["newer"]
    assert outbox.send_outbox(layout, SESSION) == outbox.SentFiles(1, 5)
    assert (lake / "sessions" / path.name).read_text() == "newer"
    assert not layout.outbox(SESSION).exists()


def test_a_file_system_without_hard_links_keeps_copies(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    outbox.add_to_outbox(layout, SESSION, layout.report(SESSION))
    (kept,) = outbox.pending_uploads(layout, SESSION)
    assert kept.read_text() == layout.report(SESSION).read_text()
    assert kept.stat().st_ino != layout.report(SESSION).stat().st_ino


def test_the_report_is_sent_after_all_files_that_it_names(
    layout: Layout, lake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in (layout.report(SESSION), *layout.root.rglob("one.parquet")):
        outbox.add_to_outbox(layout, SESSION, path)
    put = Lake.put

    def refuse(self: Lake, source: Path, key: str) -> int:
        if key.endswith(".parquet"):
            raise LakeError("no")
        return put(self, source, key)

    monkeypatch.setattr(Lake, "put", refuse)
    with pytest.raises(LakeError):
        outbox.send_outbox(layout, SESSION)
    assert tree(lake) == []
    assert len(outbox.pending_uploads(layout, SESSION)) == 2


def test_files_to_send_without_a_lake_are_an_error(layout: Layout) -> None:
    outbox.add_to_outbox(layout, SESSION, layout.report(SESSION))
    with pytest.raises(LakeError, match=r"has 1 file to send, but no lake is set"):
        outbox.send_outbox(Layout(layout.root), SESSION)


# --- the store -------------------------------------------------------------------------------


class Memory(pafs.FileSystemHandler):  # type: ignore[misc]
    """A store that keeps files in memory, and gives back ``wrong`` if that is set."""

    def __init__(self, wrong: bytes | None = None) -> None:
        self.kept: dict[str, bytes] = {}
        self.wrong = wrong

    def get_type_name(self) -> str:
        return "memory"

    def normalize_path(self, path: str) -> str:
        return path

    def create_dir(self, path: str, recursive: bool) -> None:
        pass

    def open_output_stream(self, path: str, metadata: object) -> pa.NativeFile:
        sink = pa.BufferOutputStream()
        kept = self.kept

        class Sink:
            closed = False

            def write(self, data: Any) -> int:
                return int(sink.write(data) or len(data))

            def flush(self) -> None:
                pass

            def close(self) -> None:
                self.closed = True
                kept[path] = sink.getvalue().to_pybytes()

        return pa.PythonFile(Sink(), "w")

    def open_input_file(self, path: str) -> pa.NativeFile:
        return pa.BufferReader(self.kept[path] if self.wrong is None else self.wrong)

    def move(self, source: str, target: str) -> None:
        self.kept[target] = self.kept.pop(source)

    def _not_asked(self, *_: object) -> None:
        raise NotImplementedError

    get_file_info = get_file_info_selector = delete_dir = delete_dir_contents = _not_asked
    delete_root_dir_contents = delete_file = copy_file = open_input_stream = _not_asked
    open_append_stream = _not_asked


def test_a_file_that_comes_back_different_is_not_published(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"as it is")
    store = Memory(wrong=b"as it was")
    lake = Lake("memory://", pafs.PyFileSystem(store), "root")
    with pytest.raises(LakeError, match=r"one in .* has other content"):
        lake.put(tmp_path / "one", "one")
    assert list(store.kept) == ["root/.one.tmp"]


def test_where_a_file_shows_before_it_is_whole_it_is_moved_to_its_name(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"as it is")
    store = Memory()
    lake = Lake("memory://", pafs.PyFileSystem(store), "root")
    for _ in range(2):
        assert lake.put(tmp_path / "one", "a/one") == 8
        assert store.kept == {"root/a/one": b"as it is"}


def test_an_s3_store_takes_a_capture_and_gives_it_back(studio: Studio, store: Store) -> None:
    url = store.url("captured")
    report = capture(studio, url, roll_size="10KB")
    assert report.upload_error == ""
    assert rows(url) == rows(studio.data_dir)
    names = [
        info.path.removeprefix("lake/captured/")
        for info in store.client().get_file_info(pafs.FileSelector("lake/captured", recursive=True))
        if info.type == pafs.FileType.File
    ]
    assert sorted(names) == of_lake(studio.files())
    assert stocktrace.read_bars("AAPL", "1s", data_dir=url).equals(
        stocktrace.read_bars("AAPL", "1s", data_dir=studio.data_dir)
    )


def test_an_error_about_credentials_does_not_contain_them(
    studio: Studio, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "anothersecretthatmustnotleak")
    report = capture(studio, store.url("refused"))
    assert "cannot be used" in report.upload_error
    for path in studio.data_dir.rglob("*"):
        if stat.S_ISREG(path.stat().st_mode):
            assert b"mustnotleak" not in path.read_bytes(), path


def test_the_error_of_a_store_is_reported_without_credentials() -> None:
    environment = {
        "AWS_SECRET_ACCESS_KEY": "s3cret",
        "AWS_ACCESS_KEY_ID": "whose",
        "AZURE_STORAGE_ACCOUNT_KEY": "azure",
        "AWS_REGION": "us-east-1",
        "GOOGLE_APPLICATION_CREDENTIALS": "",
        "AWS_SESSION_TOKEN": "in",
    }
    text = "no s3cret of whose in azure, us-east-1"
    assert without_secrets(text, environment) == "no *** of *** in ***, us-east-1"


def test_a_converted_file_is_in_the_outbox_before_its_csv_is_deleted(
    studio: Studio, lake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[bool, bool]] = []
    delete = conversion._delete_segment

    def watch(layout: Layout, segment: Path, window: WindowId) -> None:
        name = layout.window_file(window).relative_to(layout.root)
        seen.append(((layout.outbox(window.session) / name).exists(), segment.exists()))
        delete(layout, segment, window)

    monkeypatch.setattr(conversion, "_delete_segment", watch)
    capture(studio, f"file://{lake}")
    assert seen
    assert set(seen) == {(True, True)}


# --- requests --------------------------------------------------------------------------------


@pytest.fixture
def counted(store: Store) -> Iterator[tuple[Store, CountingProxy]]:
    with counting(store) as counted:
        yield counted


def kinds(proxy: CountingProxy) -> Counter[str]:
    """The requests since the last call: of a list, of a range, of an upload."""
    requests, proxy.requests = proxy.requests, []
    names = ("LIST" if "list-type" in line else line.split(" ")[0] for line in requests)
    return Counter(names)


def test_sending_an_object_takes_two_requests(
    tmp_path: Path, counted: tuple[Store, CountingProxy]
) -> None:
    store, proxy = counted
    layout = Layout(tmp_path / "data", lake=store.url("sent"))
    tickers = [f"T{number}" for number in range(50)]
    for ticker in tickers:
        put(layout, ticker, WindowId(SESSION, WINDOW), table_of([(NOON // 10**6, 1.5, 2.0, "1")]))
    path = layout.window_file(WindowId(SESSION, WINDOW))
    outbox.add_to_outbox(layout, SESSION, path)
    assert outbox.send_outbox(layout, SESSION).size == path.stat().st_size
    assert kinds(proxy) == {"PUT": 1, "GET": 1}
    table = stocktrace.read_trades(tickers, data_dir=layout.lake, backend="pyarrow")
    assert table["symbol"].to_pylist() == tickers


def test_an_object_of_over_ten_megabytes_takes_a_request_for_each_ten_and_four_more(
    tmp_path: Path, counted: tuple[Store, CountingProxy]
) -> None:
    store, proxy = counted
    path = tmp_path / "large"
    path.write_bytes(os.urandom((10 << 20) + 1))
    assert Lake.open(store.url("sent")).put(path, "large") == path.stat().st_size
    assert kinds(proxy) == {"PUT": 2, "POST": 2, "HEAD": 1, "GET": 1}


def test_bars_of_a_date_of_many_take_few_requests(
    tmp_path: Path, counted: tuple[Store, CountingProxy]
) -> None:
    store, proxy = counted
    layout = Layout(tmp_path / "data", lake=store.url("many"))
    tickers = [f"T{number:02}" for number in range(30)]
    for number in range(250):
        record_day(layout, date(2026, 3, 18) + timedelta(number), tickers)
    outbox.send_outbox(layout, SESSION)
    day = date(2026, 9, 1)
    kinds(proxy)
    bars = stocktrace.read_bars(tickers, "1h", date=day, data_dir=layout.lake, backend="pyarrow")
    requests = kinds(proxy)
    assert bars["trade_count"].to_pylist() == [3] * 30
    assert bars["gap_seconds"].to_pylist() == [0.0] * 30
    assert requests.keys() == {"LIST", "GET"}
    assert requests.total() == 8, requests


def test_a_compacted_date_of_four_sessions_with_gaps_takes_few_requests(
    tmp_path: Path, counted: tuple[Store, CountingProxy]
) -> None:
    store, proxy = counted
    layout = Layout(tmp_path / "data", lake=store.url("four"))
    tickers = [f"T{number:02}" for number in range(30)]
    day = date(2026, 9, 1)
    for number in range(4):
        record_day(layout, day, tickers, f"{number}f9a1c", listened_s=600)
    for beside in (-1, 1):
        record_day(layout, day + timedelta(beside), tickers, with_session=False)
    outbox.send_outbox(layout, SESSION)
    given: dict[str, Any] = {"date": day, "data_dir": layout.lake, "backend": "pyarrow"}
    before = stocktrace.read_bars(tickers, "1h", **given)
    assert before["trade_count"].to_pylist() == [12] * 30
    assert before["gap_seconds"].to_pylist() == [3000.0] * 30
    gaps = stocktrace.read_gaps(data_dir=layout.lake)

    kinds(proxy)
    result = compact_lake(layout, layout.lake, day, clock=Clock(wall=lambda: NOON))
    assert [(done.date, done.files) for done in result.done] == [(str(day), 4)]
    assert result.failed == []
    requests = kinds(proxy)
    # The lake is listed twice; the lease is taken, and renewed twice. The files of trades and those
    # of coverage are listed (coverage again before they are deleted), read, and deleted.
    assert requests == {
        "LIST": 2 + 3 + 1 + 3,
        "GET": 3 + (4 + 1) + (4 + 1),
        "PUT": 3 + 1 + 1 + 9,
        "HEAD": 9,
        "DELETE": 9,
    }
    assert stocktrace.read_bars(tickers, "1h", **given).equals(before)
    assert kinds(proxy) == {"LIST": 5, "GET": 4}
    assert stocktrace.read_gaps(data_dir=layout.lake).equals(gaps)
    assert compact_lake(layout, layout.lake, day, clock=Clock(wall=lambda: NOON)).done == []


def test_bars_with_gaps_take_few_requests(
    tmp_path: Path, counted: tuple[Store, CountingProxy]
) -> None:
    store, proxy = counted
    layout = Layout(tmp_path / "data", lake=store.url("gaps"))
    tickers = [f"T{number:02}" for number in range(30)]
    for number in range(3):
        record_day(layout, date(2026, 8, 31) + timedelta(number), tickers, listened_s=600)
    outbox.send_outbox(layout, SESSION)
    given: dict[str, Any] = {"date": date(2026, 9, 1), "data_dir": layout.lake}
    kinds(proxy)
    bars = stocktrace.read_bars(tickers, "1h", backend="pyarrow", **given)
    assert bars["gap_seconds"].to_pylist() == [3000.0] * 30
    # The report of the day before was sent a moment ago, so its coverage is looked for.
    assert kinds(proxy) == {"LIST": 6, "GET": 4}


def record_day(
    layout: Layout,
    day: date,
    tickers: list[str],
    digits: str = "3f9a1c",
    *,
    listened_s: int = 3600,
    with_session: bool = True,
) -> None:
    """Publish a window of a day, later with coverage and report; all is to be sent."""
    session, begin = (
        f"{day:%Y%m%d}T150000Z_{digits:0>6}",
        epoch_ms(datetime.combine(day, time(15), UTC)),
    )
    window = WindowId(session, f"{day:%Y%m%d}T150000Z_00001")
    trades = table_of([(begin + 60_000 * minute, 1.5, 2.0, "1") for minute in range(3)])
    tables = [trades.add_column(0, "symbol", pa.repeat(ticker, 3)) for ticker in tickers]
    path = layout.window_file(window)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_window_file(path, window, [pa.concat_tables(tables).cast(TRADE_SCHEMA)], 90)
    outbox.add_to_outbox(layout, SESSION, path)
    # The reports of those before were sent long before.
    if day < date(2026, 8, 31) or not with_session:
        return
    listened = begin * 10**6, (begin + listened_s * 1000) * 10**6, ""
    intervals = [CoverageInterval(ticker, *listened) for ticker in tickers]
    (path,) = write_coverage(replace(layout, lake=""), session, intervals)
    outbox.add_to_outbox(layout, SESSION, path)
    report = layout.report(session)
    report.parent.mkdir(exist_ok=True)
    report.write_text(json.dumps({"session": session, "state": "complete"}))
    outbox.add_to_outbox(layout, SESSION, report)
