from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stocktrace import cli
from stocktrace.errors import UsageError
from stocktrace.importing import csv_source
from stocktrace.importing.adopt import adopt_session
from stocktrace.importing.column_mapping import ColumnMapping
from stocktrace.importing.csv_source import CsvSource
from stocktrace.importing.importer import import_file
from stocktrace.importing.jobs import plan_imports, run_imports
from stocktrace.query.coverage import read_coverage
from stocktrace.query.trades import read_trades
from stocktrace.sessions.report import SessionReport
from stocktrace.store import files, lock
from stocktrace.store.layout import Layout
from stocktrace.store.names import is_import
from stocktrace.store.quarantine import QuarantinedRow, parse_quarantine
from tests import remains
from tests.conftest import NOON, SESSION, Row, published, tree
from tests.dying import Run
from tests.remains import PRICES, problems
from tests.sampling import costly
from tests.waiting import eventually

T = NOON // 10**6
OURS = "symbol,ts_event,ts_recv,price,volume,conditions\n"
ROW = "AAPL,2026-11-23 14:30:00.123Z,2026-11-23 14:30:00.200300Z,1.5,100,1 24\n"


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "data")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "theirs"
    path.mkdir()
    return path


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def run(*words: str | Path, jobs: int | None = 1) -> int:
    """The command; with one job it works in this process."""
    many = () if jobs is None else ("--jobs", str(jobs))
    return cli.run(["import", *many, *map(str, words)])


def reports(layout: Layout) -> list[SessionReport]:
    return [SessionReport.read(path) for path in sorted(layout.sessions.glob("*.json"))]


def quarantined(layout: Layout) -> list[QuarantinedRow]:
    lines = [path.read_text() for path in sorted(layout.root.glob("quarantine/*.jsonl"))]
    return list(parse_quarantine("".join(lines).splitlines()))


# --- a file of others ------------------------------------------------------------------------


def test_our_own_csv_needs_no_column_mapping(layout: Layout, folder: Path) -> None:
    source = write(folder / "a.csv", OURS + ROW)
    assert run(source, "--data-dir", layout.root) == 0
    (trade,) = read_trades("AAPL", data_dir=layout.root).itertuples(index=False)
    assert (trade.price, trade.volume, trade.conditions) == (1.5, 100.0, "1 24")
    assert trade.ts_event.isoformat() == "2026-11-23T14:30:00.123000+00:00"
    assert trade.ts_recv.isoformat() == "2026-11-23T14:30:00.200300+00:00"
    assert source.read_text() == OURS + ROW
    assert problems(layout) == []


def test_imported_trades_are_never_passed_off_as_captured(layout: Layout, folder: Path) -> None:
    source = write(folder / "a.csv", OURS + ROW)
    run(source, "--data-dir", layout.root)
    (report,) = reports(layout)
    assert is_import(report.session)
    assert (report.state, report.reason) == ("imported", "imported from a.csv")
    assert report.settings["source"] == str(source)
    assert report.tickers == ["AAPL"]
    assert report.balanced
    assert read_coverage(data_dir=layout.root).empty  # nobody listened, at no moment


MASSIVE = """\
ticker,conditions,correction,exchange,id,participant_timestamp,price,sequence_number,sip_timestamp,size,tape,trf_id,trf_timestamp
MSFT,"12,37",0,11,1,1679990400018025984,276.16,1550,1679990400018381329,55,3,0,0
"""
BINANCE = "51175358,17.80180000,5.69000000,101.29224200,1583709433583,True,True\n"


@pytest.mark.parametrize(
    ("name", "text", "words", "ticker", "row"),
    [
        (
            "2023-03-28.csv.gz",
            MASSIVE,
            ["--preset", "massive"],
            "MSFT",
            (1679990400018, 276.16, 55.0, "12 37"),
        ),
        (
            "BTCUSDT-trades-2020-03-08.csv",
            BINANCE,
            ["--preset", "binance-spot", "--unit", "ms"],
            "BINANCE:BTCUSDT",
            (1583709433583, 17.8018, 5.69, ""),
        ),
        (
            "aapl.csv",
            "Time;Price;Size\n2026-11-23 09:30:00.5;1.25;7\n",
            [
                *("--column", "ts_event=Time", "--column", "price=Price"),
                *("--column", "volume=Size", "--delimiter", ";"),
                *("--timezone", "America/New_York", "--ticker", "AAPL"),
            ],
            "AAPL",
            (1795444200500, 1.25, 7.0, ""),
        ),
        (
            "x.csv",
            "symbol,ts_event,price,volume\nAAPL,1795444200.1239,1,2\n",
            ["--unit", "s"],
            "AAPL",
            (1795444200123, 1.0, 2.0, ""),
        ),
    ],
    ids=["massive", "binance", "local time", "fractions of seconds"],
)
def test_third_party_files_are_read_by_their_mapping(
    layout: Layout, folder: Path, name: str, text: str, words: list[str], ticker: str, row: Row
) -> None:
    source = folder / name
    if source.suffix == ".gz":
        source.write_bytes(gzip.compress(text.encode()))
    else:
        source.write_text(text)
    assert run(source, *words, "--data-dir", layout.root) == 0
    assert published(layout.root) == {ticker: [row]}
    assert problems(layout) == []


def test_a_refused_row_is_quarantined_and_can_be_requeued(
    layout: Layout, folder: Path, tmp_path: Path
) -> None:
    bad = [
        ROW.replace(",1.5,", ",abc,"),
        ROW.replace("14:30:00.123Z", "25:61"),
        ROW.replace(",1.5,", ",-2,"),
        "AAPL,1\n",
        ROW.replace(",1.5,", ",0.12345678901234567890,"),
    ]
    source = write(folder / "a.csv", OURS + ROW + "".join(bad) + ROW[:-20])
    assert run(source, "--data-dir", layout.root) == 0
    refused = quarantined(layout)
    assert sorted(one.reason for one in refused) == [
        "price 0.12345678901234567890 has more digits than float64 holds",
        "price is missing or not a number",
        "price: not above 0",
        "symbol is missing or not a text",
        "symbol is missing or not a text",
        "time is missing or not a whole number of milliseconds",
    ]
    texts = [one.frame.decode() for one in refused]
    for text in ("abc", "25:61", "-2", "AAPL,1", "0.12345678901234567890", "its line has no end"):
        assert any(text in frame for frame in texts), text
    (report,) = reports(layout)
    assert (report.books.recorded, report.books.quarantined) == (1, 6)
    assert problems(layout) == []
    (path,) = layout.root.glob("quarantine/*.jsonl")
    mended = write(tmp_path / path.name, path.read_text().replace("abc", "9.5"))
    assert cli.run(["requeue", str(mended), "--data-dir", str(layout.root)]) == 0
    assert sorted(row[1] for row in published(layout.root)["AAPL"]) == [1.5, 9.5]
    assert [one.state for one in reports(layout)] == ["imported", "imported"]


def test_the_same_content_is_imported_once_whatever_the_file_name(
    layout: Layout, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(folder / "a.csv", OURS + ROW)
    (folder / "b.csv.gz").write_bytes(gzip.compress((OURS + ROW).encode()))
    assert run(folder, "--data-dir", layout.root) == 0
    before = remains.snapshot(layout)
    assert run(folder, "--data-dir", layout.root) == 0
    assert "2 sources (2 known), 0 trades" in capsys.readouterr().out
    assert remains.snapshot(layout) == before
    assert len(published(layout.root)["AAPL"]) == 1


def test_the_same_content_with_another_mapping_is_refused(
    layout: Layout, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write(folder / "a.csv", OURS + ROW)
    run(source, "--data-dir", layout.root)
    assert run(source, "--ticker", "MSFT", "--data-dir", layout.root) == 1
    assert "with another mapping (ticker '{}')" in capsys.readouterr().err
    assert list(published(layout.root)) == ["AAPL"]


def test_a_wrong_unit_imports_nothing(
    layout: Layout, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write(folder / "a.csv", f"symbol,ts_event,price,volume\nAAPL,{T},1,2\n")
    assert run(source, "--unit", "s", "--data-dir", layout.root) == 1
    assert "Not one of the first 1 rows" in capsys.readouterr().err
    assert tree(layout.root) == []
    assert run(source, "--unit", "ms", "--data-dir", layout.root) == 0


@pytest.mark.parametrize(
    ("text", "words", "status", "sentence"),
    [
        ("a,b\n1,2\n", [], 1, "has no column 'symbol' for symbol"),
        ("", [], 0, "is empty"),
        (OURS, [], 0, "has no rows"),
        (OURS + ROW, ["--column", "Price"], 2, "is not a column mapping"),
        (OURS + ROW, ["--unit", "days"], 2, "is not a unit of time"),
        (OURS + ROW, ["--timezone", "New York"], 2, "is not a time zone"),
        (OURS + ROW, ["--preset", "taq"], 2, "Unknown preset 'taq'"),
        (OURS + ROW, ["--preset", "binance-spot"], 2, "Set the unit of its times"),
        (OURS + ROW, ["--ticker-from", "[A-Z"], 2, "is not a pattern"),
        (OURS + ROW, ["--ticker-from", "([A-Z]+)-x"], 1, "does not match"),
        (OURS + ROW, ["--delimiter", "::"], 2, "is not a delimiter"),
    ],
)
def test_a_source_that_cannot_be_imported_is_refused_in_a_sentence(
    layout: Layout,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    text: str,
    words: list[str],
    status: int,
    sentence: str,
) -> None:
    source = write(folder / "a.csv", text)
    assert run(source, *words, "--data-dir", layout.root) == status
    out, err = capsys.readouterr()
    assert sentence in out + err
    assert "Traceback" not in err
    assert published(layout.root) == {}


TEXT = OURS + ROW
NOT_CSV = {
    "in UTF-16": (TEXT.encode("utf-16"), "is written in UTF-16: convert it to UTF-8"),
    "in UTF-32": (TEXT.encode("utf-32"), "is written in UTF-32: convert it to UTF-8"),
    "in UTF-16 without a mark": (TEXT.encode("utf-16-le"), "its first line has NUL bytes"),
    "with the lines of an old Mac": (
        TEXT.replace("\n", "\r").encode(),
        "ends its lines with carriage returns alone",
    ),
    "with rows of an old Mac": (
        (OURS + (ROW * 3).replace("\n", "\r")).encode(),
        "ends its lines with carriage returns alone",
    ),
    "in zstd": (
        pa.compress(TEXT.encode() * 9, codec="zstd", asbytes=True),
        "is compressed with zstd",
    ),
    "in lz4": (pa.compress(TEXT.encode() * 9, codec="lz4", asbytes=True), "is compressed with lz4"),
    "in gzip": (gzip.compress(TEXT.encode()), "is compressed with gzip: decompress it"),
    "in zip": (b"PK\x03\x04" + bytes(99), "is compressed with zip"),
    "of NUL bytes": (bytes(4096), "its first line has NUL bytes"),
    "of one field": (b"x" * 200_000 + b"\n1\n", "is not CSV: its first line cannot be read"),
    "of many names": (b"name," * 40_000 + b"\n1\n", "Its columns: name, name"),
    "of an open quote": (
        b'symbol,ts_event,price,volume,"x\n' + ROW.encode() * 9,
        "is not CSV: CSV parse error",
    ),
}


@pytest.mark.parametrize(("kind", "jobs"), [*((kind, 1) for kind in NOT_CSV), ("in UTF-16", None)])
def test_a_file_that_cannot_be_read_is_named_and_the_others_are_imported(
    layout: Layout,
    folder: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    jobs: int | None,
) -> None:
    """Also by as many processes as there are cores."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    content, sentence = NOT_CSV[kind]
    for number in range(2):
        write(folder / f"{number}.csv", OURS + ROW * (number + 1))
    (folder / "0b.csv").write_bytes(content)
    assert run(folder, "--data-dir", layout.root, jobs=jobs) == 1
    out, err = capfd.readouterr()
    assert "3 sources (1 failed, 2 published), 3 trades" in out
    assert f"{folder / '0b.csv'} " in err
    assert sentence in err
    assert (err.count("\n"), len(err) < 1500) == (1, True), err
    assert len(published(layout.root)["AAPL"]) == 3
    assert problems(layout) == []


@pytest.mark.parametrize("name", ["a.csv.zst", "a.csv.bz2", "a.csv.xz", "a.csv.zip"])
def test_unsupported_compressed_csv_in_a_folder_is_reported(
    layout: Layout, folder: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    write(folder / "b.csv", TEXT)
    (folder / name).write_bytes(b"BZh9 and more")
    assert run(folder, "--data-dir", layout.root) == 1
    out, err = capsys.readouterr()
    assert "2 sources (1 failed, 1 published)" in out
    assert f"{folder / name} is compressed with bzip2" in err


def test_pipes_and_links_named_like_csv_are_reported(
    layout: Layout, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "empty.csv").mkdir()
    os.mkfifo(folder / "pipe.csv")
    (folder / "nowhere.csv").symlink_to("not there")
    (folder / "round.csv").symlink_to("round.csv")
    write(folder / "good.csv", TEXT)
    (folder / "link.csv").symlink_to("good.csv")
    wanted = {
        "empty.csv": "is a folder, not a CSV file.",
        "pipe.csv": "is a pipe, not a CSV file.",
        "nowhere.csv": "cannot be read to the end: No such file or directory.",
        "round.csv": "cannot be read to the end: Too many levels of symbolic links.",
    }
    for words in ([folder], sorted(folder.iterdir())):
        assert run(*words, "--data-dir", layout.root) == 1
        out, err = capsys.readouterr()
        assert sorted(err.splitlines()) == sorted(
            f"stocktrace: {folder / name} {sentence}" for name, sentence in wanted.items()
        )
        assert out.splitlines()[-1].startswith("6 sources (4 failed, ")
    assert len(published(layout.root)["AAPL"]) == 1


def test_a_folder_named_like_a_csv_file_is_a_folder(layout: Layout, folder: Path) -> None:
    parts = folder / "trades.csv"  # as Spark writes them
    parts.mkdir()
    write(parts / "part-0.csv", OURS + ROW)
    write(parts / "part-1.csv", OURS + ROW * 2)
    assert run(folder, "--data-dir", layout.root) == 0
    assert len(published(layout.root)["AAPL"]) == 3


def test_a_file_without_permission_and_an_unexpected_error_are_outcomes(
    layout: Layout, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A superuser may read everything, so the system's refusal is made here."""
    for name in "abc":
        write(folder / f"{name}.csv", OURS + ROW * (ord(name) - 96))
    opened = csv_source._open_source
    refusals = {"a.csv": PermissionError(13, "Permission denied"), "b.csv": KeyError("price")}

    def refuse(path: Path) -> object:
        if path.name in refusals:
            raise refusals[path.name]
        return opened(path)

    monkeypatch.setattr(csv_source, "_open_source", refuse)
    outcomes = list(
        run_imports(layout, plan_imports(layout, [folder]), ColumnMapping(), processes=1)
    )
    assert [(Path(one.source).name, one.state) for one in outcomes] == [
        ("a.csv", "failed"),
        ("b.csv", "failed"),
        ("c.csv", "published"),
    ]
    assert [one.reason for one in outcomes[:2]] == [
        f"{folder / 'a.csv'} cannot be read to the end: Permission denied.",
        f"{folder / 'b.csv'} cannot be published (KeyError: 'price').",
    ]


def test_a_folder_without_permission_is_reported(
    layout: Layout, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = folder / "closed"
    closed.mkdir()
    write(folder / "a.csv", TEXT)
    scandir = os.scandir

    def refuse(path: Any) -> Any:
        if Path(path) == closed:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    work = plan_imports(layout, [folder])
    monkeypatch.undo()
    assert [one.path for one in work] == [folder / "a.csv", closed]
    outcomes = list(run_imports(layout, work, ColumnMapping(), processes=1))
    assert [one.state for one in outcomes] == ["published", "failed"]


def test_a_file_name_that_is_not_text_is_imported_and_escaped_in_json(
    layout: Layout, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write(folder / os.fsdecode(b"caf\xe9.csv"), TEXT)
    assert run(source, "--json", "--data-dir", layout.root) == 0
    told = json.loads(capsys.readouterr().out)
    assert (Path(told["source"]).name, told["state"]) == (r"caf\udce9.csv", "published")
    (report,) = reports(layout)
    assert report.reason == r"imported from caf\udce9.csv"
    assert problems(layout) == []


def test_without_a_header_a_single_truncated_line_is_not_an_empty_file(
    layout: Layout, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write(folder / "a.csv", "AAPL,2026-11-23 14:30:00.123Z,1.5,10")
    names = "symbol,ts_event,price,volume"
    assert run(source, "--names", names, "--data-dir", layout.root) == 1
    assert "Not one of the first 1 rows" in capsys.readouterr().err


def test_a_truncated_archive_is_refused(
    layout: Layout, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = folder / "a.csv.gz"
    source.write_bytes(gzip.compress((OURS + ROW * 50).encode())[:-9])
    assert run(source, "--data-dir", layout.root) == 1
    assert "cannot be read to the end" in capsys.readouterr().err
    assert tree(layout.root) == []


def test_a_missing_source_is_a_usage_error(layout: Layout, folder: Path) -> None:
    assert run(folder / "none.csv", "--data-dir", layout.root) == 2
    assert run(folder, "--data-dir", layout.root) == 2
    with pytest.raises(UsageError):
        plan_imports(layout, [folder / "none"])


def test_a_dry_run_reports_and_changes_nothing(
    layout: Layout, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write(folder / "a.csv", OURS + ROW + ROW.replace(",1.5,", ",-1,"))
    assert run(source, "--dry-run", "--json", "--data-dir", layout.root) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["state"], told["rows"], told["quarantined"]) == ("possible", 1, 1)
    assert told["reason"] == "price: not above 0"
    assert not layout.root.exists()


def test_days_in_any_order_become_a_window_each(layout: Layout, folder: Path) -> None:
    days = [23, 21, 22, 21, 23]
    text = "".join(ROW.replace("11-23", f"11-{day}") for day in days)
    run(write(folder / "a.csv", OURS + text), "--data-dir", layout.root)
    found = [path.name[5:] for path in sorted(layout.dataset.glob("date=*"))]
    assert found == ["2026-11-21", "2026-11-22", "2026-11-23"]
    (report,) = reports(layout)
    assert len(report.windows) == 3
    assert problems(layout) == []


# --- our trades, exported as others would, and imported again ---------------------------------

PRICE = st.integers(1, 10**7).map(lambda cents: cents / 100)
TRADE = st.tuples(
    st.sampled_from(["AAPL", "BRK.B", "BINANCE:BTCUSDT", "007"]),
    st.integers(T - 10**9, T + 10**9),
    PRICE,
    st.floats(0, 1e9).map(lambda volume: float(f"{volume:.6g}")),
    st.lists(st.sampled_from(["1", "12", "37", "@"]), max_size=3),
)
FACTORS = {"ms": 1, "us": 10**3, "ns": 10**6}


@settings(max_examples=costly())
@given(
    trades=st.lists(TRADE, min_size=1, max_size=30),
    unit=st.sampled_from(["s", "ms", "us", "ns", "iso", "local"]),
    delimiter=st.sampled_from([",", ";", "\t", "|"]),
    named=st.booleans(),
    order=st.permutations(["symbol", "ts_event", "price", "volume", "conditions"]),
)
def test_an_export_in_any_format_can_be_imported(
    tmp_path_factory: pytest.TempPathFactory,
    trades: list[tuple[str, int, float, float, list[str]]],
    unit: str,
    delimiter: str,
    named: bool,
    order: list[str],
) -> None:
    root = tmp_path_factory.mktemp("round")
    zone = ZoneInfo("Asia/Tokyo" if unit == "local" else "UTC")

    def time(ms: int) -> str:
        if unit in FACTORS:
            return str(ms * FACTORS[unit])
        if unit == "s":
            return f"{ms // 1000}.{ms % 1000:03}"
        moment = datetime.fromtimestamp(ms // 1000, UTC).astimezone(zone)
        return f"{moment:%Y-%m-%d %H:%M:%S}.{ms % 1000:03}" + ("Z" if unit == "iso" else "")

    def line(trade: tuple[str, int, float, float, list[str]]) -> str:
        symbol, ms, price, volume, codes = trade
        texts = {
            "symbol": symbol,
            "ts_event": time(ms),
            "price": repr(price),
            "volume": repr(volume),
            "conditions": f'"{",".join(codes)}"',
        }
        return delimiter.join(texts[name] for name in order) + "\n"

    head = delimiter.join(f"their {name}" for name in order) + "\n"
    source = root / "export.csv"
    source.write_text((head if named else "") + "".join(map(line, trades)))
    mapping = ColumnMapping.of(
        [f"{name}=their {name}" for name in order],
        unit="iso" if unit == "local" else unit,
        names=None if named else ",".join(f"their {name}" for name in order),
        timezone=str(zone),
        delimiter=delimiter,
    )
    layout = Layout(root / "data")
    layout.root.mkdir()
    report = import_file(layout, CsvSource.of(source, mapping))
    assert report is not None
    assert report.balanced
    assert report.books.quarantined == 0
    wanted: dict[str, list[Row]] = {}
    for symbol, ms, price, volume, codes in trades:
        wanted.setdefault(symbol, []).append((ms, price, volume, " ".join(codes)))
    found = published(layout.root)
    assert {ticker: sorted(rows) for ticker, rows in found.items()} == {
        ticker: sorted(rows) for ticker, rows in wanted.items()
    }


# --- killed ----------------------------------------------------------------------------------

PROGRAM = """
import os, signal, sys
from pathlib import Path
from stocktrace.importing import importer
from stocktrace.importing.column_mapping import ColumnMapping
from stocktrace.importing.jobs import ImportJob, run_imports
from stocktrace.record.journal import SessionJournal
from stocktrace.store import files, parquet
from stocktrace.store.layout import Layout
from stocktrace.store.tape import TapeWriter

calls = 0
def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)

def later(whole, number):
    def once(*args, **kwargs):
        global calls
        calls += 1
        return die() if calls == number else whole(*args, **kwargs)
    return once

{patch}
jobs = [ImportJob(Path(sys.argv[2]))]
list(run_imports(Layout(Path(sys.argv[1])), jobs, ColumnMapping(), processes=1))
"""
DEATHS = {
    "in the trial": "importer.rebuild_window = die",
    "while the tapes are written": "TapeWriter.append = later(TapeWriter.append, 3)",
    "before the tapes are there": "importer.files.publish_file = die",
    "before the report": "SessionJournal.save = die",
    "before the first window": "importer.publish_window = die",
    "in a conversion": "parquet.pq.ParquetWriter.close = die",
    "before the second window": ("importer.publish_window = later(importer.publish_window, 2)"),
    "before the end": "importer.utc_datetime = die",
}


@pytest.mark.parametrize("death", DEATHS)
def test_an_import_killed_at_any_step_is_finished_by_the_next(
    layout: Layout, folder: Path, death: str, run_dying: Run
) -> None:
    text = OURS + "".join(ROW.replace("11-23", f"11-{day}") for day in (21, 22, 23))
    source = write(folder / "a.csv", text)
    program = PROGRAM.format(patch=DEATHS[death])
    assert run_dying(program, layout.root, source) == -signal.SIGKILL
    assert run(source, "--data-dir", layout.root) == 0
    assert len(published(layout.root)["AAPL"]) == 3
    (report,) = reports(layout)
    assert (report.state, report.balanced, report.unpublished) == ("imported", True, [])
    assert report.settings["source"] == str(source)
    assert problems(layout) == []
    assert [name for name in tree(layout.root) if name.endswith((".tmp", ".open", ".csv"))] == []
    assert source.read_text() == text


def test_a_parent_that_is_killed_leaves_no_process_behind(layout: Layout, folder: Path) -> None:
    for number in range(2):
        rows = (ROW.replace("00.123Z", f"{n % 60:02}.{n % 997:03}Z") for n in range(20_000))
        write(folder / f"{number}.csv", OURS + "".join(rows) + ROW * (number + 1))
    words = ["import", str(folder), "--jobs", "2", "--data-dir", str(layout.root)]
    parent = subprocess.Popen([sys.executable, "-m", "stocktrace", *words])
    staged = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
    eventually(lambda: list(layout.root.glob("tape/.*.tmp")), within=100)
    children = [int(pid) for pid in staged.read_text().split()]
    parent.kill()
    parent.wait()
    eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children), within=60)
    assert len(children) >= 2
    assert run(folder, "--data-dir", layout.root) == 0
    assert len(published(layout.root)["AAPL"]) == 40_003
    assert problems(layout) == []


# --- sessions of ours ------------------------------------------------------------------------


@pytest.mark.parametrize("make", [remains.dead, remains.whole])
def test_a_session_of_another_folder_is_imported_under_its_name(
    layout: Layout, folder: Path, make: Callable[[Path], Layout]
) -> None:
    other = make(folder / "data")
    before = remains.snapshot(other)
    assert run(other.root, "--data-dir", layout.root) == 0
    prices = {ticker: [row[1] for row in rows] for ticker, rows in published(layout.root).items()}
    assert prices == PRICES
    (report,) = reports(layout)
    assert (report.session, report.balanced) == (SESSION, True)
    told = SessionReport.read(other.report(SESSION))
    assert report.state == "recovered"
    assert report.settings == told.settings
    assert set(read_coverage(data_dir=layout.root)["session"]) == {SESSION}
    assert problems(layout) == []
    assert remains.snapshot(other) == before
    ours = remains.snapshot(layout)
    assert run(other.root, "--data-dir", layout.root) == 0
    assert remains.snapshot(layout) == ours


@pytest.mark.parametrize("step", ["the name", "the report", "the recovery"])
def test_a_killed_import_of_a_session_is_finished_by_the_next(
    layout: Layout, folder: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    other = remains.whole(folder / "data")
    layout.root.mkdir()
    target = {
        "the name": (files, "publish_file"),
        "the report": (sys.modules["stocktrace.importing.adopt"], "_copy_report"),
        "the recovery": (sys.modules["stocktrace.importing.adopt"], "recover_session"),
    }[step]
    with monkeypatch.context() as patch:
        patch.setattr(*target, interrupted)
        with pytest.raises(KeyboardInterrupt):
            adopt_session(layout, other, SESSION)
    assert run(other.root, "--data-dir", layout.root) == 0
    prices = {ticker: [row[1] for row in rows] for ticker, rows in published(layout.root).items()}
    assert prices == PRICES
    assert problems(layout) == []


def interrupted(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_running_sessions_and_those_without_tapes_are_not_imported(
    layout: Layout, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = remains.whole(folder / "data")
    with lock.hold_lock(other.lock(SESSION), {}):
        assert run(other.root, "--data-dir", layout.root) == 1
    assert "is running" in capsys.readouterr().err
    shutil.rmtree(other.tapes(SESSION))
    assert run(other.root, "--data-dir", layout.root) == 1
    assert "lacks tapes" in capsys.readouterr().err
    assert published(layout.root) == {}


def test_without_sources_crashed_sessions_are_published(layout: Layout) -> None:
    remains.dead(layout.root)
    assert run("--data-dir", layout.root) == 0
    assert problems(layout) == []
    assert run("--data-dir", layout.root) == 0


def test_several_processes_import_like_one(layout: Layout, folder: Path) -> None:
    for number in range(3):
        write(folder / f"{number}.csv", OURS + ROW * (number + 1))
    outcomes = list(
        run_imports(layout, plan_imports(layout, [folder]), ColumnMapping(), processes=2)
    )
    assert sorted(one.rows for one in outcomes) == [1, 2, 3]
    assert {one.state for one in outcomes} == {"published"}
    assert problems(layout) == []
