from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stocktrace.errors import LayoutError, TickerError
from stocktrace.store.layout import (
    Layout,
    Part,
    decode_ticker,
    encode_ticker,
    is_session,
    new_session,
)
from stocktrace.trade import is_ticker, parse_tickers
from tests.conftest import NOON, SESSION, WINDOW

PART = Part(SESSION, WINDOW)
ROOT = Path("/data")
# JSON and file systems know no half surrogate pairs.
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
FROM_FINNHUB = st.from_regex(r"[A-Za-z0-9.:_\-/^]([A-Za-z0-9.:_\-/^ ]*[A-Za-z0-9.:_\-/^])?")

STRANGE = [
    "A:B", "A/B", "A-B", "A_B", "A B", "a:b", "BRK.B", "^GSPC", "..", ".", "...", "-", "a..b", "a.",
    ".a", "CON", "con", "Con.x", "NUL", "COM1", "LPT9.csv", "CONX", "IC MARKETS:1", "FXCM:EUR/USD",
    "7203", "007", "NULL", "NA", "nan", "1e5", "~", "%41", "A%3AB", "A\\B", "A\x00B", "é", "日本",
    "symbol=A", "a=b", "a\nb", "__HIVE_DEFAULT_PARTITION__", "../../etc/passwd", "/etc/passwd",
]  # fmt: skip


@given(TEXT)
def test_any_text_survives_as_a_file_name(ticker: str) -> None:
    assert decode_ticker(encode_ticker(ticker)) == ticker


@given(FROM_FINNHUB.map(str.strip).filter(is_ticker))
def test_a_ticker_is_one_short_portable_name(ticker: str) -> None:
    name = encode_ticker(ticker)
    assert re.fullmatch(r"[A-Za-z0-9._\-^%~]+", name)
    assert len(f"symbol={name}".encode()) <= 255
    assert not name.startswith(".")
    assert not name.endswith(".")


@pytest.mark.parametrize("ticker", STRANGE)
def test_a_strange_ticker_stays_inside_the_data_folder(ticker: str) -> None:
    layout = Layout(ROOT)
    for path in (layout.csv(ticker, PART), layout.parquet(ticker, PART)):
        assert path.resolve() == path
        assert ROOT in path.parents
    assert decode_ticker(layout.csv(ticker, PART).parent.name) == ticker


def test_no_two_tickers_meet_in_one_name() -> None:
    names = [encode_ticker(ticker) for ticker in STRANGE]
    assert len(set(names)) == len(STRANGE)


def test_no_name_is_a_device_of_windows() -> None:
    device = re.compile(r"(CON|PRN|AUX|NUL|COM\d|LPT\d)(\..*)?", re.IGNORECASE)
    assert not [name for name in map(encode_ticker, STRANGE) if device.fullmatch(name)]


@pytest.mark.parametrize(
    ("ticker", "name"),
    [
        ("AAPL", "AAPL"),
        ("BINANCE:BTCUSDT", "BINANCE%3ABTCUSDT"),
        ("FXCM:EUR/USD", "FXCM%3AEUR%2FUSD"),
        ("IC MARKETS:1", "IC%20MARKETS%3A1"),
        ("BRK.B", "BRK.B"),
        ("^GSPC", "^GSPC"),
        ("CON", "%43ON"),
        ("con.x", "%63on.x"),
        (".", "%2E"),
        ("..", "%2E%2E"),
        ("A.", "A%2E"),
    ],
)
def test_names_on_disk_are_what_readers_of_hive_paths_decode(ticker: str, name: str) -> None:
    assert encode_ticker(ticker) == name


@pytest.mark.parametrize(
    "name", ["A:B", "a%3ab", "CON", ".", "..", "A.", "%41", "A%3aB", "A%", "%ZZ", "A B", "", "é"]
)
def test_a_folder_that_is_no_ticker_of_ours_is_an_error(name: str) -> None:
    with pytest.raises(LayoutError, match="is no ticker's folder"):
        decode_ticker(name)


@pytest.mark.parametrize("ticker", ["A" * 241, "é", "日本", "A\nB", " A", "A ", "", "A,B"])
def test_what_is_no_ticker_is_told(ticker: str) -> None:
    assert not is_ticker(ticker)


def test_a_ticker_of_200_letters_is_one() -> None:
    assert parse_tickers(["A" * 200]) == ("A" * 200,)
    with pytest.raises(TickerError, match="is no ticker"):
        parse_tickers(["AAPL", ":" * 81])


def test_a_session_has_a_name_of_its_own() -> None:
    one, other = new_session(NOON), new_session(NOON)
    assert one != other
    assert one.startswith("20261123T143000Z_")
    assert is_session(one)
    assert is_session(other)


@pytest.mark.parametrize(
    "name", ["", "x", "20261123T143000Z", "20261123T143000Z_XYZ123", SESSION[1:]]
)
def test_what_is_no_session_is_told(name: str) -> None:
    assert not is_session(name)


def test_every_name_is_read_back_by_the_grammar_that_wrote_it() -> None:
    layout = Layout(ROOT)
    for path in (
        layout.csv("A:B", PART),
        layout.open_csv("A:B", PART),
        layout.parquet("A:B", PART),
        layout.quarantine(PART),
    ):
        assert Part.parse(path) == PART
    assert layout.part_of_tape(layout.tape(PART)) == PART
    assert layout.part_of_tape(layout.archived_tape(PART)) == PART
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
            layout.parquet("A:B", PART),
            layout.anchor("2026-11-23"),
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
        f"d/parquet/date=2026-11-23/symbol=A%3AB/{SESSION}-{WINDOW}.parquet",
        "d/parquet/date=2026-11-23/symbol=~/anchor.parquet",
    ]


@pytest.mark.parametrize(
    "name",
    [
        "trades.csv",
        f"{SESSION}-{WINDOW}.txt",
        f"{SESSION}-{WINDOW}.csv.gz",
        f"{SESSION}.csv",
        f"{WINDOW}.csv",
        f"x{SESSION}-{WINDOW}.csv",
        f".{SESSION}-{WINDOW}.csv.12.tmp",
        f"{SESSION}-20261123T143000Z_1.csv",
    ],
)
def test_a_file_of_somebody_else_is_an_error_not_skipped(name: str) -> None:
    with pytest.raises(LayoutError, match="is no file of stocktrace"):
        Part.parse(ROOT / "csv" / "A" / name)


@pytest.mark.parametrize(
    "path", [f"tape/{SESSION}/x.tape", f"tape/x/{WINDOW}.tape", f"tape/{SESSION}/{WINDOW}.tape.gz"]
)
def test_a_tape_of_somebody_else_is_an_error_not_skipped(path: str) -> None:
    with pytest.raises(LayoutError, match="is no tape of stocktrace"):
        Layout(ROOT).part_of_tape(ROOT / path)


def test_segments_of_one_window_are_found_by_their_suffix(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    other = Part(SESSION, "20261123T143000Z_00002")
    for ticker, part in itertools.product(("A:B", "7203"), (PART, other)):
        for path in (layout.csv(ticker, part), layout.open_csv(ticker, part)):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    assert layout.open_segments(PART) == [layout.open_csv(t, PART) for t in ("7203", "A:B")]
    assert layout.sealed_segments(PART) == [layout.csv(t, PART) for t in ("7203", "A:B")]


def test_names_of_sessions_sort_as_they_began_within_a_second_too():
    second = 1_795_444_200_000_000_000
    names = [new_session(second + fraction * 1_000_000) for fraction in range(0, 1000, 7)]
    assert names == sorted(names)
    assert all(map(is_session, names))
