"""Input may hold anything: readers return no wrong row and raise only errors of ours.

Each reader is compared with a slow and plain one that is written here, on bytes that are arbitrary,
or valid and then cut, joined, flipped and mixed.
"""

from __future__ import annotations

import base64
import csv
import io
import itertools
import json
import math
import re
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import example, given
from hypothesis import strategies as st

from stocktrace.errors import ConversionError, LayoutError, TapeError
from stocktrace.feed import protocol
from stocktrace.marks import Mark, UnknownMark
from stocktrace.simulator import synthetic_frames
from stocktrace.store import conversion, footer, segments
from stocktrace.store.arrow_schema import TRADE_SCHEMA
from stocktrace.store.dataset import hash_windows
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId, decode_ticker, encode_ticker, is_session
from stocktrace.store.segments import HEADER, SegmentWriter
from stocktrace.store.tape import LATEST_NS, TapeFrames, TapeReader, parse_line
from stocktrace.store.trade_file import TradeFileReader
from stocktrace.trade import Trade, is_ticker
from tests.conftest import NOON, SESSION, WINDOW, frame
from tests.remains import ENTRIES, PARTS, write_tape
from tests.store.conftest import PART, batch_of

FRAMES = [
    frame(("AAPL", 1.5), ("BINANCE:BTCUSDT", 7296.89)),
    frame(("AAPL", 0.1), c=None, v=0.011467),
    b'{"type":"ping"}',
    b'{"msg":"Invalid symbol X","type":"error"}',
    *(one for _, one in synthetic_frames(["AAPL", "MSFT"], 40, seed=2)),
]


@st.composite
def mutations(draw: st.DrawFn, wholes: list[bytes]) -> bytes:
    """One of ``wholes``, damaged; sometimes anything at all."""
    data = bytearray(draw(st.sampled_from(wholes)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        match draw(st.integers(0, 5)):
            case 0 if data:
                data[at] ^= 1 << draw(st.integers(0, 7))
            case 1:
                del data[at : at + draw(st.integers(1, 40))]
            case 2:
                data[at:at] = draw(st.binary(max_size=12))
            case 3:
                data[at:at] = data[at : at + draw(st.integers(1, 60))]
            case 4:
                del data[at:]
            case _:
                data[at:at] = draw(
                    st.sampled_from([b"\n", b"\r", b"\t", b"#", b'"', b"\\", b"\0", b",", b"9" * 30,
                                     b"\xff", b"null", b"NaN", b"[[[[", b"1e999", b"-"])
                )  # fmt: skip
    return bytes(data)


# --- frames ------------------------------------------------------------------------------------


class Exact(str):
    """A JSON number, as it is written."""

    __slots__ = ()


def is_text(value: Any) -> bool:
    """Unicode; JSON can spell half a surrogate pair, too."""
    if not isinstance(value, str) or isinstance(value, Exact):
        return False
    return not any("\ud800" <= character <= "\udfff" for character in value)


def number_of(value: Any) -> Decimal:
    """A JSON number that a float64 holds exactly."""
    if not isinstance(value, Exact):
        raise TypeError
    number = Decimal(value)
    if not number.is_finite() or math.isinf(float(number)):
        raise ValueError
    return number


def trade_of(row: Any) -> Trade | None:
    """The trade in a row, by a plain reading; ``None`` if it is to be refused."""
    try:
        price, volume, moment = number_of(row["p"]), number_of(row["v"]), Decimal(row["t"])
        codes = row.get("c")
        sound = (
            isinstance(row["t"], Exact)
            and is_text(row["s"])
            and (codes is None or (isinstance(codes, list) and all(map(is_text, codes))))
            and all(Decimal(repr(float(number))) == number for number in (price, volume))
            and moment == moment.to_integral_value()
            and -(2**63) <= moment < 2**63
        )
    except (TypeError, ValueError, KeyError, AttributeError, InvalidOperation, OverflowError):
        return None
    listed = None if codes is None else tuple(codes) if isinstance(codes, list) else ()
    return Trade(row["s"], float(price), int(moment), float(volume), listed) if sound else None


def by_plain_reading(data: bytes) -> list[Trade]:
    try:
        message = json.loads(data.decode(), parse_float=Exact, parse_int=Exact)
    except (ValueError, RecursionError):
        return []
    if not isinstance(message, dict) or message.get("type") != "trade":
        return []
    rows = message.get("data")
    if not isinstance(rows, list):
        return []
    return [trade for trade in map(trade_of, rows) if trade is not None]


@given(st.lists(mutations(FRAMES) | st.binary(max_size=60), max_size=6))
@example([b'{"type":"trade","data":[{"s":"A","p":1,"t":1,"v":1}],"data":[]}'])
@example([b"[" * 100_000])
@example([b'{"a":' * 50_000])
def test_any_frames_decode_to_the_trades_of_a_plain_reading(
    frames: list[bytes],
) -> None:
    decoded = protocol.decode(frames)
    assert len(decoded.rows.counts) == len(frames)
    assert decoded.trade_frames + decoded.control + decoded.undecodable == len(frames)
    for message, one in zip(decoded.rows.messages(), frames, strict=True):
        assert message == by_plain_reading(one)
    for refusal in decoded.refusals:
        assert refusal.frame in frames
        json.dumps(refusal.row)


# --- names -------------------------------------------------------------------------------------

NAMES = [f"{SESSION}-{WINDOW}.csv", f"{SESSION}-{WINDOW}.parquet", f"{WINDOW}.tape.zst", SESSION,
         "BINANCE%3ABTCUSDT", "IC%20MARKETS%3A1"]  # fmt: skip
TEXTS = st.one_of(
    st.text(max_size=40),
    mutations([name.encode() for name in NAMES]).map(lambda data: data.decode(errors="replace")),
)


def ours(read: Callable[[], Any]) -> Any:
    """Return the result of ``read``, or ``None`` if it raises an error of ours."""
    try:
        return read()
    except LayoutError:
        return None


@given(TEXTS)
def test_a_file_name_is_parsed_and_written_again_or_refused(name: str) -> None:
    ticker = ours(lambda: decode_ticker(name))
    if ticker is not None:
        assert encode_ticker(ticker) == name
    path = Path("/data/csv/A") / name.replace("/", "_")
    part = ours(lambda: WindowId.parse(path))
    if part is not None:
        endings = (".csv", ".csv.open", ".parquet", ".parquet.open", ".jsonl", ".jsonl.open")
        assert path.name in {part.stem + ending for ending in endings}
        assert is_session(part.session)
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", part.date)
    layout = Layout(Path("/data"))
    tape = layout.tapes(SESSION) / name.replace("/", "_")
    of_tape = ours(lambda: WindowId.of_tape(tape))
    if of_tape is not None:
        assert tape in {layout.tape(of_tape), layout.archived_tape(of_tape)}


@given(TEXTS, TEXTS)
def test_two_tickers_never_share_a_name_and_stay_in_their_folder(one: str, other: str) -> None:
    if not all(text and is_text(text) for text in (one, other)):
        return
    assert (encode_ticker(one) == encode_ticker(other)) == (one == other)
    path = Layout(Path("/data")).csv(one, PART)
    assert path.parent.parent == Path("/data/csv")
    assert path.resolve() == path


# --- tapes -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all examples: each writes the same file again."""
    return tmp_path_factory.mktemp("fuzz")


def tape_texts() -> list[bytes]:
    import tempfile

    found = []
    with tempfile.TemporaryDirectory() as name:
        layout = Layout(Path(name))
        for part, entries in zip(PARTS, ENTRIES, strict=True):
            odd = [*entries, TapeFrames(NOON, (b"a\nb", b"#x", b"")), UnknownMark(NOON, "end")]
            found.append(write_tape(layout, part, odd).read_bytes())
    return found


TAPES = tape_texts()


def lines_by_plain_reading(data: bytes) -> tuple[list[tuple[int, Any]], int, int]:
    """Entries (a frame, or a mark's name and facts), invalid lines, bytes of a torn one."""
    *lines, torn = data.split(b"\n")
    entries: list[tuple[int, Any]] = []
    bad = 0
    for line in lines:
        match = re.fullmatch(rb"([0-9]{1,19})\t(.*)", line, re.DOTALL)
        if match is None or int(match[1]) > LATEST_NS:
            bad += 1
            continue
        stamp, payload = int(match[1]), match[2]
        if not payload.startswith(b"#"):
            entries.append((stamp, payload))
            continue
        name, _, rest = payload[1:].partition(b" ")
        try:
            if name == b"raw":
                entries.append((stamp, base64.b64decode(rest, validate=True)))
            else:
                entries.append((stamp, (name.decode(), {**json.loads(rest)})))
        except (ValueError, TypeError, RecursionError):
            bad += 1
    return entries, bad, len(torn)


def read_tape(path: Path) -> tuple[list[tuple[int, Any]], TapeReader]:
    reader = TapeReader(path)
    found: list[tuple[int, Any]] = []
    for entry in reader:
        if isinstance(entry, Mark):
            found.append((entry.stamp, (entry.name, json.loads(json.dumps(entry.facts)))))
        else:
            found += [(entry.stamp, one) for one in entry.frames]
    return found, reader


def is_reading_of(entry: tuple[int, Any], line: tuple[int, Any]) -> bool:
    """Whether an entry is what a line says; a known mark leaves out facts that it does not know."""
    if repr(entry) == repr(line):  # NaN in a mark is not equal to itself
        return True
    (stamp, (name, facts)), (line_stamp, (line_name, line_facts)) = entry, line
    known = {key: line_facts[key] for key in facts}
    return bool((stamp, name, facts) == (line_stamp, line_name, known))


@given(mutations(TAPES) | st.binary(max_size=200))
@example(b"1\t#x " + b"[" * 100_000 + b"\n")
@example(b"1\t#x []\n2\t#x 5\n3\t#x null\n")
@example(b"9223372036854775808\tx\n9223372036854775807\ty\n")
def test_any_tape_is_read_as_by_a_plain_reading(folder: Path, data: bytes) -> None:
    path = folder / "a.tape"
    path.write_bytes(data)
    wanted, bad, torn = lines_by_plain_reading(data)
    found, reader = read_tape(path)
    assert len(found) == len(wanted)
    for entry, plain in zip(found, wanted, strict=True):
        assert is_reading_of(entry, plain), (entry, plain)
    assert (reader.invalid_lines, reader.torn_bytes, reader.damage) == (bad, torn, None)
    for line in data.split(b"\n"):
        try:
            parse_line(line)
        except TapeError:
            continue


ARCHIVES = [zstandard.ZstdCompressor(write_checksum=True).compress(text * 20) for text in TAPES]


@given(mutations(ARCHIVES) | st.binary(max_size=200))
def test_a_damaged_archive_yields_only_lines_that_were_on_it(folder: Path, data: bytes) -> None:
    path = folder / "a.tape.zst"
    path.write_bytes(data)
    found, reader = read_tape(path)
    if reader.damage is None and not reader.torn_bytes and not reader.invalid_lines:
        wholes = [read_entries(text * 20) for text in TAPES]
        # A tape that was written twice into one file is two tapes: zstandard has frames.
        assert found in (
            [],
            *wholes,
            *(one + other for one, other in itertools.product(wholes, wholes)),
        )


def read_entries(text: bytes) -> list[tuple[int, Any]]:
    return lines_by_plain_reading(text)[0]


# --- segments ----------------------------------------------------------------------------------


def segment_texts() -> list[bytes]:
    import tempfile

    trades = [
        Trade("AAPL", 0.1 + n, NOON // 10**6 + n, 100.0, ("1", "12")[: n % 3]) for n in range(5)
    ]
    with tempfile.TemporaryDirectory() as name:
        layout = Layout(Path(name))
        writer = SegmentWriter(layout, PART)
        writer.write(batch_of(trades))
        writer.seal()
        whole = layout.csv("AAPL", PART).read_bytes()
    return [whole, HEADER]


SEGMENTS = segment_texts()
STAMP = re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d(:\d\d(\.\d{1,9})?)?Z")


def row_of(fields: list[str]) -> tuple[Any, ...] | None:
    """Return a line's row by a plain reading, ``None`` if it is not valid."""
    if len(fields) != 6:
        return None
    try:
        event, received = (moment_of(text) for text in fields[1:3])
        return (fields[0], event, received, float(fields[3]), float(fields[4]), fields[5])
    except ValueError:
        return None


def moment_of(text: str) -> datetime:
    return datetime.fromisoformat(text.strip().replace(" ", "T")).astimezone(UTC)


@given(mutations(SEGMENTS) | st.binary(max_size=200).map(lambda rest: HEADER + rest))
@example(HEADER + b"AAPL,2026-11-23 14:30:00.123Z,2026-11-23 14:30:00.123456Z,1.5,100,1\r\n")
@example(HEADER + b"\n\n")
@example(HEADER + b"AAPL,,,,,\n")
def test_any_segment_is_read_line_by_line_or_refused(folder: Path, data: bytes) -> None:
    path = folder / "a.csv"
    path.write_bytes(data)
    try:
        rows = [row for table in segments.read_segments([path]) for row in table.to_pylist()]
    except ConversionError:
        return
    assert data.startswith(HEADER)
    assert data.endswith(b"\n")
    # pyarrow takes a carriage return, too, for a line's end, and passes over empty lines.
    text = data[len(HEADER) :].decode(errors="replace").replace("\r\n", "\n").replace("\r", "\n")
    lines = [line for line in text.split("\n") if line]
    fields = list(csv.reader(io.StringIO("\n".join(lines)), quoting=csv.QUOTE_NONE))
    wanted = [row_of(each) for each in fields]
    assert [tuple(row.values()) for row in rows] == wanted or any_is_nan(rows)


def any_is_nan(rows: list[dict[str, Any]]) -> bool:
    return any(math.isnan(row["price"]) or math.isnan(row["volume"]) for row in rows)


@given(mutations(SEGMENTS))
def test_any_segment_is_published_with_all_its_rows_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    layout = Layout(tmp_path_factory.mktemp("data"))
    segment = layout.csv("AAPL", PART)
    segment.parent.mkdir(parents=True)
    segment.write_bytes(data)
    try:
        rows = [row for table in segments.read_segments([segment]) for row in table.to_pylist()]
        converted = conversion.convert_window(layout, PART)
    except ConversionError:
        assert segment.read_bytes() == data
        assert not list(layout.dataset.rglob("*.parquet"))
        return
    assert converted is not None
    with TradeFileReader(converted.path) as file:
        found = file.read(TRADE_SCHEMA.names).to_pylist()
    assert repr(found) == repr(rows)
    assert rows


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    layout = Layout(tmp_path_factory.mktemp("data"))
    segment = layout.csv("AAPL", PART)
    segment.parent.mkdir(parents=True)
    segment.write_bytes(SEGMENTS[0])
    converted = conversion.convert_window(layout, PART)
    assert converted is not None
    return converted.path.read_bytes()


@given(st.data())
def test_any_parquet_file_returns_its_rows_or_an_error_of_ours(
    folder: Path, published: bytes, data: st.DataObject
) -> None:
    path = folder / "a.parquet"
    path.write_bytes(data.draw(mutations([published])))
    try:
        found = hash_windows([path])
        told = footer.read_windows(path)
        wrong = footer.has_wrong_statistics(path)
        with TradeFileReader(path) as file:
            rows = file.read(["price"], tickers=["AAPL"])["price"].to_pylist()
    except ConversionError:
        return
    path.write_bytes(published)
    if found == told and told.keys() == {PART} and not wrong:
        assert found == hash_windows([path])
        assert len(rows) == found[PART].rows


def test_a_ticker_is_one_by_the_same_rule_everywhere() -> None:
    assert not is_ticker("A B ")
