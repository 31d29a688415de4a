"""What is on disk, listed, printed and converted."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from stocktrace.errors import SessionCrashed
from stocktrace.sessions import summary
from stocktrace.sessions.report import SessionReport
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId
from stocktrace.store.source import FolderSource, tickers_of_date
from stocktrace.trade import Trade
from tests.cli.conftest import PART, Said, sealed
from tests.conftest import NOON, SESSION, Studio, tree

NEXT = WindowId(SESSION, "20261123T143100Z_00002")


def test_trades_are_printed_as_a_table(say: Callable[..., Said], data: Path) -> None:
    said = say("trades", "AAPL", "7203", "--data-dir", data)
    assert said.status == 0
    assert said.out == (
        "symbol  ts_event                       ts_recv                         "
        "  price  volume  conditions\n"
        "7203    2026-11-23 14:30:00.000+00:00  2026-11-23 14:30:00.000005+00:00"
        "    3.0     1.0\n"
        "AAPL    2026-11-23 14:30:00.000+00:00  2026-11-23 14:30:00.000005+00:00"
        "    1.5   100.0  1 12\n"
        "AAPL    2026-11-23 14:30:00.001+00:00  2026-11-23 14:30:00.000005+00:00"
        "    0.1    0.25\n"
    )


def test_trades_are_printed_as_csv(say: Callable[..., Said], data: Path) -> None:
    said = say("trades", "AAPL", "7203", "--csv", "--data-dir", data)
    rows = list(csv.DictReader(io.StringIO(said.out)))
    assert [(row["symbol"], float(row["price"]), row["conditions"]) for row in rows] == [
        ("7203", 3.0, ""),
        ("AAPL", 1.5, "1 12"),
        ("AAPL", 0.1, ""),
    ]


def test_trades_are_printed_as_json_one_per_line(say: Callable[..., Said], data: Path) -> None:
    said = say("trades", "AAPL", "--json", "--tail", 1, "--data-dir", data)
    assert json.loads(said.out) == {
        "symbol": "AAPL",
        "ts_event": "2026-11-23T14:30:00.001000Z",
        "ts_recv": "2026-11-23T14:30:00.000005Z",
        "price": 0.1,
        "volume": 0.25,
        "conditions": "",
    }


HEADER = ["symbol", "ts_event", "ts_recv", "price", "volume", "conditions"]


def test_no_trades_are_printed_as_a_header(say: Callable[..., Said], data: Path) -> None:
    said = say("trades", "AAPL", "--date", "2026-11-24", "--data-dir", data)
    assert (said.status, said.err) == (0, "")
    assert said.out.split() == HEADER


def recorded(data: Path, *tickers: str, session: str = SESSION) -> None:
    """Have ``data`` tell of a session that asked for ``tickers``."""
    report = SessionReport(
        session, list(tickers), datetime(2026, 11, 23, tzinfo=UTC), state="complete"
    )
    report.write(Layout(data).report(session))


RECORDED = "Recorded tickers: 7203, AAPL, BINANCE:BTCUSDT, MSFT."


@pytest.mark.parametrize("command", ["trades", "bars", "gaps"])
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["MSTF"], f"Unknown ticker 'MSTF'. {RECORDED} Did you mean MSFT?"),
        (["msft"], f"Unknown ticker 'msft'. {RECORDED} Did you mean MSFT?"),
        (["BTCUSDT"], f"Unknown ticker 'BTCUSDT'. {RECORDED} Did you mean BINANCE:BTCUSDT?"),
        (["ZZZ"], f"Unknown ticker 'ZZZ'. {RECORDED}"),
        (["ZZZ", "YY"], f"Unknown tickers 'ZZZ', 'YY'. {RECORDED}"),
        (["ZZZ,YY", "--date", "2026-11-24"], f"Unknown tickers 'ZZZ', 'YY'. {RECORDED}"),
        (["ZZZ", "--csv"], f"Unknown ticker 'ZZZ'. {RECORDED}"),
    ],
)
def test_a_ticker_that_was_never_recorded_is_reported_with_those_that_were(
    say: Callable[..., Said], data: Path, command: str, words: list[str], sentence: str
) -> None:
    recorded(data, "AAPL", "MSFT", "BINANCE:BTCUSDT")
    said = say(command, *words, "--data-dir", data)
    assert (said.status, said.out, said.err) == (1, "", f"stocktrace: {sentence}\n")


@pytest.mark.parametrize("command", ["trades", "bars", "gaps"])
def test_a_ticker_that_was_recorded_without_trades_is_not_unknown(
    say: Callable[..., Said], data: Path, command: str
) -> None:
    recorded(data, "MSFT")
    said = say(command, "MSFT", "--data-dir", data)
    assert (said.status, said.err) == (0, "")
    assert said.out.startswith("s")


def test_recorded_tickers_are_shown_and_unknown_ones_reported(
    say: Callable[..., Said], data: Path
) -> None:
    sentence = "stocktrace: Unknown ticker 'APPL'. Recorded tickers: 7203, AAPL. Did you mean AAPL?"
    for words in (
        ["trades", "--tail", "1"],
        ["bars"],
        ["bars", "--date", "2026-11-23", "--empty", "keep"],
    ):
        said = say(*words, "--json", "APPL", "AAPL", "--data-dir", data)
        assert (said.status, said.err) == (1, f"{sentence}\n")
        assert json.loads(said.out.splitlines()[-1])["symbol"] == "AAPL"


def test_an_unknown_ticker_does_not_replace_a_file(
    say: Callable[..., Said], data: Path, tmp_path: Path
) -> None:
    file = tmp_path / "out.parquet"
    file.write_text("of an earlier time")
    for command in ("trades", "bars", "gaps"):
        said = say(command, "APPL", "--parquet", file, "--data-dir", data)
        assert (said.status, said.err.count("Unknown ticker 'APPL'")) == (1, 1)
    assert file.read_text() == "of an earlier time"


def test_of_many_recorded_tickers_some_are_listed(say: Callable[..., Said], tmp_path: Path) -> None:
    recorded(tmp_path, *(f"T{number:04}" for number in range(5000)))
    assert say("gaps", "X", "--data-dir", tmp_path).err == (
        "stocktrace: Unknown ticker 'X'. Recorded tickers: T0000, T0001, T0002, T0003, T0004, "
        "T0005, T0006, T0007, T0008, T0009 and 4,990 more.\n"
    )


def test_an_empty_data_folder_is_reported(say: Callable[..., Said], tmp_path: Path) -> None:
    said = say("trades", "AAPL", "--data-dir", tmp_path)
    assert (said.status, said.err) == (
        1,
        f"stocktrace: Unknown ticker 'AAPL'. Nothing was recorded in {tmp_path} yet.\n",
    )


def test_a_lake_knows_its_tickers_too(say: Callable[..., Said], data: Path) -> None:
    lake = f"file://{data}"
    assert say("trades", "AAPL", "--data-dir", lake).status == 0
    said = say("trades", "APPL", "--data-dir", lake)
    assert (said.status, said.out) == (1, "")
    assert "Recorded tickers: 7203, AAPL. Did you mean AAPL?" in said.err
    recorded(data, "APPL")
    assert say("trades", "APPL", "--data-dir", lake).status == 0


def test_reports_are_only_read_for_tickers_without_rows(
    say: Callable[..., Said], data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And of a ticker that has no rows, only the sessions back to the last that asked for it."""
    read: list[str] = []
    reports = FolderSource.reports

    def counted(shelf: FolderSource, last: int | None = None) -> Iterator[bytes]:
        for text in reports(shelf, last):
            read.append(SessionReport.decode(text).session)
            yield text

    def listed(shelf: FolderSource, date: str) -> set[str]:
        read.append(date)
        return tickers_of_date(shelf, date)

    monkeypatch.setattr(FolderSource, "reports", counted)
    monkeypatch.setattr(summary, "tickers_of_date", listed)
    sessions = [f"2026112{day}T000000Z_00000{day}" for day in range(4, 8)]
    for session, ticker in zip(sessions, ("A", "MSFT", "B", "C"), strict=True):
        recorded(data, ticker, session=session)
    for command in ("trades", "bars"):
        assert say(command, "AAPL", "7203", "--data-dir", data).status == 0
    assert say("gaps", "--data-dir", data).status == 0
    assert read == []
    assert say("trades", "AAPL", "MSFT", "--data-dir", data).status == 0
    assert read == [*sessions[:0:-1]]


@pytest.mark.parametrize(
    ("words", "count"),
    [
        (("--date", "2026-11-23"), 2),
        (("--date", "2026-11-24"), 0),
        (("--start", "2026-11-23T14:30:00.001Z"), 1),
        (("--end", "2026-11-23T14:30:00.001Z"), 1),
        (("--tail", "1"), 1),
        (("--tail", "0"), 2),
    ],
)
def test_trades_are_chosen_by_time_and_number(
    say: Callable[..., Said], data: Path, words: tuple[str, ...], count: int
) -> None:
    said = say("trades", "AAPL", *words, "--csv", "--data-dir", data)
    assert said.status == 0
    assert len(said.out.splitlines()) == count + 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("trades",), "Name at least one ticker"),
        (("trades", "AAPL", "--date", "today"), "'today' is not a valid date"),
        (("trades", "AAPL", "--start", "soon"), "'soon' is not a valid time"),
        (("trades", "AAPL", "--date", "2026-11-23", "--end", "2026-11-24"), "not both"),
        (("trades", "AAPL", "--csv", "--json"), "Mutually exclusive"),
        (("trades", "AAPL", "--parquet"), "--parquet"),
        (("trades", "AAPL", "--tail=-1"), "--tail"),
        (("trades", "AAPL", "--tail", "x"), "--tail"),
    ],
)
def test_wrong_options_of_trades_are_reported(
    say: Callable[..., Said], data: Path, words: tuple[str, ...], sentence: str
) -> None:
    said = say(*words, "--data-dir", data)
    assert (said.status, said.out) == (2, "")
    assert sentence in said.err
    assert said.err.count("\n") == 1


def test_a_damaged_file_is_reported_and_not_shown(say: Callable[..., Said], data: Path) -> None:
    path = Layout(data).window_file(PART)
    path.write_bytes(path.read_bytes()[:-9])
    said = say("trades", "AAPL", "--data-dir", data)
    assert said.status == 1
    assert said.err.count("\n") == 1
    assert "Traceback" not in said.err
    assert said.out == ""


def test_sessions_are_listed(quick: Studio, say: Callable[..., Said]) -> None:
    with quick.exchange() as exchange:
        quick.record(exchange, lasting=0.3)
    dead = SessionReport(SESSION, ["AAPL", "MSFT"], quick.report().started)
    dead.write(quick.data_dir / "sessions" / f"{SESSION}.json")
    said = say("sessions", "--data-dir", quick.data_dir)
    assert said.status == 0
    states = [line.split()[1] for line in said.out.splitlines()]
    assert sorted(states) == ["complete", "crashed", "state"]
    said = say("sessions", "--json", "--data-dir", quick.data_dir)
    reports = [json.loads(line) for line in said.out.splitlines()]
    assert sorted(report["state"] for report in reports) == ["complete", "crashed"]


def test_a_report_that_is_damaged_is_named_and_the_others_are_listed(
    say: Callable[..., Said], data: Path
) -> None:
    folder = data / "sessions"
    folder.mkdir()
    (folder / "a.json").write_text('{"session": "a"')
    started = datetime(2026, 11, 23, tzinfo=UTC)
    SessionReport(SESSION, ["AAPL"], started).write(folder / "b.json")
    said = say("sessions", "--data-dir", data)
    assert said.status == 1
    assert SESSION in said.out
    died, damaged = said.err.splitlines()
    assert died == f"stocktrace: {SessionCrashed(SESSION)}"
    assert damaged.startswith(f"stocktrace: {folder / 'a.json'} is not a session report")


def test_an_empty_folder_has_no_sessions(say: Callable[..., Said], tmp_path: Path) -> None:
    told = "no sessions yet: record one with `stocktrace capture` or `stocktrace demo`\n"
    assert say("sessions", "--data-dir", tmp_path) == Said(0, told, "")


def test_convert_publishes_sealed_segments_once(say: Callable[..., Said], tmp_path: Path) -> None:
    sealed(tmp_path, *(Trade(name, 1.0, NOON // 10**6, 1.0) for name in ("A:B", "C")))
    assert say("convert", "--data-dir", tmp_path).out == "1 window converted, 2 trades\n"
    before = {name: (tmp_path / name).stat().st_mtime_ns for name in tree(tmp_path)}
    assert say("convert", "--data-dir", tmp_path) == Said(0, "0 windows converted, 0 trades\n", "")
    assert {name: (tmp_path / name).stat().st_mtime_ns for name in tree(tmp_path)} == before
    said = say("convert", "--json", "--data-dir", tmp_path)
    assert json.loads(said.out) == {"files": 0, "rows": 0, "failed": []}


def test_convert_names_a_torn_segment_exits_1_and_converts_the_rest(
    say: Callable[..., Said], tmp_path: Path
) -> None:
    layout = sealed(tmp_path, *(Trade(name, 1.0, NOON // 10**6, 1.0) for name in ("A", "B")))
    torn, whole = layout.csv("A", PART), layout.csv("B", NEXT)
    layout.csv("B", PART).rename(whole)
    text = torn.read_bytes()[:-3]
    torn.write_bytes(text)
    foreign = torn.with_name("mine.csv")
    foreign.write_text("x")
    said = say("convert", "--data-dir", tmp_path)
    assert said.status == 1
    assert said.out == "1 window converted, 1 trade\n"
    assert sorted(said.err.splitlines()) == [
        f"stocktrace: {torn} is truncated: the last line is incomplete.",
        f"stocktrace: {foreign} is not a file of stocktrace: move it out of the data folder.",
    ]
    assert torn.read_bytes() == text
    assert sorted(tree(tmp_path)) == sorted(
        [
            str(torn.relative_to(tmp_path)),
            str(foreign.relative_to(tmp_path)),
            str(layout.window_file(NEXT).relative_to(tmp_path)),
            str(layout.lock(SESSION).relative_to(tmp_path)),
        ]
    )
