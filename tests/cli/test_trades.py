"""What is on disk, listed, printed and converted."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from stocktrace.errors import Died
from stocktrace.report import Report
from stocktrace.store.layout import Layout
from stocktrace.trade import Trade
from tests.cli.conftest import PART, Said, sealed
from tests.conftest import NOON, SESSION, Studio, tree


def test_trades_are_printed_as_a_table(say: Callable[..., Said], data: Path) -> None:
    said = say("trades", "AAPL", "7203", "--data-dir", data)
    assert said.status == 0
    assert said.out == (
        "symbol  ts_event                       ts_recv                         "
        "  price  volume  conditions\n"
        "AAPL    2026-11-23 14:30:00.000+00:00  2026-11-23 14:30:00.000005+00:00"
        "    1.5   100.0  1 12\n"
        "AAPL    2026-11-23 14:30:00.001+00:00  2026-11-23 14:30:00.000005+00:00"
        "    0.1    0.25\n"
        "7203    2026-11-23 14:30:00.000+00:00  2026-11-23 14:30:00.000005+00:00"
        "    3.0     1.0\n"
    )


def test_trades_are_printed_as_csv(say: Callable[..., Said], data: Path) -> None:
    said = say("trades", "AAPL", "7203", "--csv", "--data-dir", data)
    rows = list(csv.DictReader(io.StringIO(said.out)))
    assert [(row["symbol"], float(row["price"]), row["conditions"]) for row in rows] == [
        ("AAPL", 1.5, "1 12"),
        ("AAPL", 0.1, ""),
        ("7203", 3.0, ""),
    ]


def test_trades_are_printed_as_json_one_a_line(say: Callable[..., Said], data: Path) -> None:
    said = say("trades", "AAPL", "--json", "--tail", 1, "--data-dir", data)
    assert json.loads(said.out) == {
        "symbol": "AAPL",
        "ts_event": "2026-11-23T14:30:00.001000Z",
        "ts_recv": "2026-11-23T14:30:00.000005Z",
        "price": 0.1,
        "volume": 0.25,
        "conditions": "",
    }


def test_trades_of_nothing_are_a_header(say: Callable[..., Said], data: Path) -> None:
    said = say("trades", "MSFT", "--data-dir", data)
    assert (said.status, said.err) == (0, "")
    assert said.out.split() == ["symbol", "ts_event", "ts_recv", "price", "volume", "conditions"]


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
        (("trades", "AAPL", "--date", "today"), "'today' is no date"),
        (("trades", "AAPL", "--start", "soon"), "'soon' is no time"),
        (("trades", "AAPL", "--date", "2026-11-23", "--end", "2026-11-24"), "not both"),
        (("trades", "AAPL", "--csv", "--json"), "Mutually exclusive"),
        (("trades", "AAPL", "--parquet"), "--parquet"),
        (("trades", "AAPL", "--tail=-1"), "--tail"),
        (("trades", "AAPL", "--tail", "x"), "--tail"),
    ],
)
def test_a_question_about_trades_that_makes_no_sense_is_told(
    say: Callable[..., Said], data: Path, words: tuple[str, ...], sentence: str
) -> None:
    said = say(*words, "--data-dir", data)
    assert (said.status, said.out) == (2, "")
    assert sentence in said.err
    assert said.err.count("\n") == 1


def test_a_damaged_file_is_told_and_not_shown(say: Callable[..., Said], data: Path) -> None:
    path = Layout(data).parquet("AAPL", PART)
    path.write_bytes(path.read_bytes()[:-9])
    said = say("trades", "AAPL", "--data-dir", data)
    assert said.status == 1
    assert said.err.count("\n") == 1
    assert "Traceback" not in said.err
    assert said.out == ""


def test_sessions_are_listed(quick: Studio, say: Callable[..., Said]) -> None:
    with quick.exchange() as exchange:
        quick.record(exchange, lasting=0.3)
    dead = Report(SESSION, ["AAPL", "MSFT"], quick.report().started)
    dead.write(quick.data_dir / "sessions" / f"{SESSION}.json")
    said = say("sessions", "--data-dir", quick.data_dir)
    assert said.status == 0
    states = [line.split()[1] for line in said.out.splitlines()]
    assert sorted(states) == ["complete", "dead", "state"]
    said = say("sessions", "--json", "--data-dir", quick.data_dir)
    reports = [json.loads(line) for line in said.out.splitlines()]
    assert sorted(report["state"] for report in reports) == ["complete", "dead"]


def test_a_report_that_is_damaged_is_named_and_the_others_are_listed(
    say: Callable[..., Said], data: Path
) -> None:
    folder = data / "sessions"
    folder.mkdir()
    (folder / "a.json").write_text('{"session": "a"')
    started = datetime(2026, 11, 23, tzinfo=UTC)
    Report(SESSION, ["AAPL"], started).write(folder / "b.json")
    said = say("sessions", "--data-dir", data)
    assert said.status == 1
    assert SESSION in said.out
    died, damaged = said.err.splitlines()
    assert died == f"stocktrace: {Died(SESSION)}"
    assert damaged.startswith(f"stocktrace: {folder / 'a.json'} is no report")


def test_an_empty_folder_has_no_sessions(say: Callable[..., Said], tmp_path: Path) -> None:
    told = "no sessions yet: record one with `stocktrace capture` or `stocktrace demo`\n"
    assert say("sessions", "--data-dir", tmp_path) == Said(0, told, "")


def test_convert_publishes_what_is_sealed_and_again_nothing(
    say: Callable[..., Said], tmp_path: Path
) -> None:
    sealed(tmp_path, *(Trade(name, 1.0, NOON // 10**6, 1.0) for name in ("A:B", "C")))
    assert say("convert", "--data-dir", tmp_path).out == "2 segments converted, 2 trades\n"
    before = {name: (tmp_path / name).stat().st_mtime_ns for name in tree(tmp_path)}
    assert say("convert", "--data-dir", tmp_path) == Said(0, "0 segments converted, 0 trades\n", "")
    assert {name: (tmp_path / name).stat().st_mtime_ns for name in tree(tmp_path)} == before
    said = say("convert", "--json", "--data-dir", tmp_path)
    assert json.loads(said.out) == {"files": 0, "rows": 0, "failed": []}


def test_convert_names_a_torn_segment_exits_1_and_converts_the_rest(
    say: Callable[..., Said], tmp_path: Path
) -> None:
    layout = sealed(tmp_path, *(Trade(name, 1.0, NOON // 10**6, 1.0) for name in ("A", "B")))
    torn = layout.csv("A", PART)
    text = torn.read_bytes()[:-3]
    torn.write_bytes(text)
    foreign = torn.with_name("mine.csv")
    foreign.write_text("x")
    said = say("convert", "--data-dir", tmp_path)
    assert said.status == 1
    assert said.out == "1 segment converted, 1 trade\n"
    assert sorted(said.err.splitlines()) == [
        f"stocktrace: {torn} is torn: its last line has no end.",
        f"stocktrace: {foreign} is no file of stocktrace: move it out of the data folder.",
    ]
    assert torn.read_bytes() == text
    assert sorted(tree(tmp_path)) == sorted(
        [
            str(torn.relative_to(tmp_path)),
            str(foreign.relative_to(tmp_path)),
            str(layout.parquet("B", PART).relative_to(tmp_path)),
            str(layout.lock(SESSION).relative_to(tmp_path)),
        ]
    )
