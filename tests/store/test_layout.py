from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId, decode_ticker
from tests.conftest import SESSION, WINDOW
from tests.store.conftest import PART, STRANGE

ROOT = Path("/data")


@pytest.mark.parametrize("ticker", STRANGE)
def test_a_strange_ticker_stays_inside_the_data_folder(ticker: str) -> None:
    layout = Layout(ROOT)
    for path in (layout.csv(ticker, PART), layout.kept_csv(ticker, PART)):
        assert path.resolve() == path
        assert ROOT in path.parents
    assert decode_ticker(layout.csv(ticker, PART).parent.name) == ticker


def test_every_name_is_read_back_by_the_grammar_that_wrote_it() -> None:
    layout = Layout(ROOT)
    for path in (
        layout.csv("A:B", PART),
        layout.open_csv("A:B", PART),
        layout.window_file(PART),
        layout.quarantine(PART),
    ):
        assert WindowId.parse(path) == PART
    assert WindowId.of_tape(layout.tape(PART)) == PART
    assert WindowId.of_tape(layout.archived_tape(PART)) == PART
    assert layout.ticker_of_csv(layout.csv("A:B", PART)) == "A:B"


def test_the_data_folder_looks_as_documented() -> None:
    layout = Layout(Path("d"))
    assert [
        str(path)
        for path in (
            layout.tape(PART),
            layout.archived_tape(PART),
            layout.csv("A:B", PART),
            layout.open_csv("A:B", PART),
            layout.quarantine(PART),
            layout.report(SESSION),
            layout.lock(SESSION),
            layout.audit,
            layout.window_file(PART),
            layout.compaction_staging("2026-11-23"),
        )
    ] == [
        f"d/tape/{SESSION}/{WINDOW}.tape",
        f"d/tape/{SESSION}/{WINDOW}.tape.zst",
        f"d/csv/A%3AB/{SESSION}-{WINDOW}.csv",
        f"d/csv/A%3AB/{SESSION}-{WINDOW}.csv.open",
        f"d/quarantine/{SESSION}-{WINDOW}.jsonl",
        f"d/sessions/{SESSION}.json",
        f"d/sessions/{SESSION}.lock",
        "d/log/audit.jsonl",
        f"d/parquet/date=2026-11-23/{SESSION}-{WINDOW}.parquet",
        "d/compacting/date=2026-11-23",
    ]


def test_segments_of_one_window_are_found_by_their_suffix(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    other = WindowId(SESSION, "20261123T143000Z_00002")
    for ticker, part in itertools.product(("A:B", "7203"), (PART, other)):
        for path in (layout.csv(ticker, part), layout.open_csv(ticker, part)):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    assert layout.open_segments(PART) == [layout.open_csv(t, PART) for t in ("7203", "A:B")]
    assert layout.sealed_segments(PART) == [layout.csv(t, PART) for t in ("7203", "A:B")]


def test_sessions_are_those_with_tapes_or_a_report(tmp_path: Path) -> None:
    layout, other = Layout(tmp_path), f"{SESSION[:-1]}0"
    assert layout.all_sessions() == []
    (tmp_path / "tape" / SESSION).mkdir(parents=True)
    (tmp_path / "tape" / ".begun").mkdir()
    layout.sessions.mkdir()
    layout.report(other).touch()
    layout.status(f"{SESSION[:-1]}9").touch()
    assert set(layout.all_sessions()) == {SESSION, other}
    assert all(map(layout.has, layout.all_sessions()))
    assert layout.taped_sessions() == [SESSION]


def test_what_is_of_no_one_session_is_found(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    paths = (
        layout.tape(PART),
        layout.archived_tape(PART),
        layout.csv("A", PART),
        layout.open_csv("B", PART),
        layout.kept_csv("A", PART),
        layout.compaction_staging("2026-11-22") / "day-00001.parquet",
        layout.date_folder("2026-11-24") / "day-00001.parquet",
        layout.window_file(PART),
    )
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    tape, archived, sealed, unsealed, kept, staged, *_ = paths
    assert layout.plain_tapes() == layout.plain_tapes(SESSION) == [tape]
    assert layout.plain_tapes(f"{SESSION[:-1]}0") == []
    assert layout.archived_tapes() == [archived]
    assert layout.all_segments() == [sealed, unsealed]
    assert layout.sealed_segments() == [sealed]
    assert layout.kept_segments() == [kept]
    assert layout.compaction_leftovers() == [staged.parent]
    assert layout.dates() == ["2026-11-23", "2026-11-24"]
