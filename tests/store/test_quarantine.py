from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stocktrace.store import files
from stocktrace.store import quarantine as module
from stocktrace.store.quarantine import (
    QuarantinedRow,
    QuarantineEncoder,
    QuarantineWriter,
    parse_quarantine,
)
from tests.conftest import NOON, tree

ROWS = st.none() | st.dictionaries(st.text(max_size=5), st.floats(allow_nan=False) | st.text())
REFUSED = st.builds(QuarantinedRow, st.integers(0, 2**63 - 1), st.binary(), ROWS, st.text())
ONE = QuarantinedRow(NOON, b'{"type":1}', None, "no trades and no known type")


@given(REFUSED)
def test_a_quarantined_row_is_one_line_that_can_be_read_back(refused: QuarantinedRow) -> None:
    line = refused.line()
    assert line.count("\n") == 1
    assert list(parse_quarantine([line])) == [refused]


@given(
    st.lists(
        st.builds(
            QuarantinedRow, st.just(NOON), st.sampled_from([b"a", b"\xff", b""]), ROWS, st.just("r")
        )
    )
)
def test_what_is_written_is_read_back_whichever_lines_have_the_frames(
    some: list[QuarantinedRow],
) -> None:
    assert list(parse_quarantine(QuarantineEncoder().encode(some))) == some


def test_a_line_says_reason_row_frame_and_time() -> None:
    row = {"s": "AAPL", "p": -1.0}
    assert json.loads(
        QuarantinedRow(NOON, b'{"type":"trade"}', row, "price: not above 0").line()
    ) == {
        "reason": "price: not above 0",
        "row": row,
        "frame": '{"type":"trade"}',
        "ts_recv_ns": NOON,
    }


def test_the_first_row_of_a_frame_has_the_frame_and_the_others_its_id() -> None:
    one, other = (QuarantinedRow(NOON, frame, {"s": "A"}, "price") for frame in (b"one", b"other"))
    lines = [json.loads(line) for line in QuarantineEncoder().encode([one, other, one, other])]
    assert [line.get("frame") for line in lines] == ["one", "other", None, None]
    ids = [line["frame_id"] for line in lines]
    assert ids[:2] == ids[2:]
    assert lines[2] == {
        "reason": "price", "row": {"s": "A"}, "frame_id": ids[0], "ts_recv_ns": NOON,
    }  # fmt: skip


def test_a_frame_that_could_not_be_read_has_its_own_line() -> None:
    assert list(QuarantineEncoder().encode([ONE, ONE])) == [ONE.line()] * 2


def test_after_many_frames_a_frame_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_IDS", 2)
    some = [QuarantinedRow(NOON, b"%d" % n, {}, "price") for n in (1, 2, 1, 3, 1)]
    lines = list(QuarantineEncoder().encode(some))
    assert ['"frame":' in line for line in lines] == [True, True, False, True, True]
    assert list(parse_quarantine(lines)) == some


def test_lines_that_repeat_the_frame_are_read() -> None:
    some = [QuarantinedRow(NOON, b"one", {"s": "A"}, "price"), ONE] * 2
    lines = [each.line() for each in some]
    assert not any("frame_id" in line for line in lines)
    assert list(parse_quarantine(lines)) == some


def test_a_line_whose_frame_is_not_above_is_an_error() -> None:
    some = [QuarantinedRow(NOON, frame, {}, "price") for frame in (b"one", b"other", b"one")]
    lines = list(QuarantineEncoder().encode(some))
    with pytest.raises(ValueError, match=r"^line 2: its frame is not in a line above"):
        list(parse_quarantine(lines[1:]))


def test_a_frame_with_many_invalid_rows_is_stored_once(tmp_path: Path) -> None:
    row = {"p": "1.5", "s": "AAPL", "t": "1609459200000", "v": "2", "c": ["1"]}
    frame = json.dumps({"data": [row] * 2000, "type": "trade"}).encode()
    quarantine = QuarantineWriter(tmp_path / "w.jsonl")
    quarantine.add(
        QuarantinedRow(NOON, frame, row, "price is missing or not a number") for _ in range(2000)
    )
    quarantine.add([QuarantinedRow(NOON, frame, row, "another batch")])
    quarantine.seal()
    written = (tmp_path / "w.jsonl").read_bytes()
    assert written.count(b"\n") == 2001
    # In a JSON text each quote of the frame is two bytes.
    assert len(written) <= 2 * len(frame) + 2001 * 250


def test_quarantined_rows_are_written_in_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    def append(path: Path, piece: bytes) -> None:
        sizes.append(len(piece))
        write(path, piece)

    write = files.append
    monkeypatch.setattr(files, "append", append)
    monkeypatch.setattr(module, "_CHUNK_BYTES", 1000)
    quarantine = QuarantineWriter(tmp_path / "w.jsonl")
    some = [QuarantinedRow(NOON, b"frame %d" % n, {"p": n}, "price") for n in range(100)]
    quarantine.add(some)
    quarantine.seal()
    assert len(sizes) > 5
    assert max(sizes) < 1000 + len(some[-1].line("0" * 32))
    assert list(parse_quarantine((tmp_path / "w.jsonl").read_text().splitlines())) == some


def test_a_frame_that_is_not_utf_8_is_kept() -> None:
    line = QuarantinedRow(NOON, b"\xff\x00", None, "not JSON").line()
    assert json.loads(line) == {
        "reason": "not JSON",
        "row": None,
        "frame_base64": "/wA=",
        "ts_recv_ns": NOON,
    }


def test_the_file_is_published_when_it_is_sealed(tmp_path: Path) -> None:
    quarantine = QuarantineWriter(tmp_path / "quarantine" / "w.jsonl")
    quarantine.add([])
    assert tree(tmp_path) == []
    quarantine.add([ONE])
    quarantine.add([ONE, ONE])
    assert tree(tmp_path) == ["quarantine/w.jsonl.open"]
    quarantine.seal()
    assert tree(tmp_path) == ["quarantine/w.jsonl"]
    assert (tmp_path / "quarantine" / "w.jsonl").read_text() == 3 * ONE.line()


def test_a_file_with_more_rows_is_kept(tmp_path: Path) -> None:
    """Its tape was larger than the one from which the window is rebuilt."""
    (tmp_path / "w.jsonl").write_text("old\n")
    (tmp_path / "w.jsonl.open").write_text("older\n")
    QuarantineWriter(tmp_path / "w.jsonl").seal()
    assert tree(tmp_path) == ["w.jsonl"]


def test_rows_of_a_crashed_attempt_are_not_kept_twice(tmp_path: Path) -> None:
    (tmp_path / "w.jsonl").write_text("old")
    (tmp_path / "w.jsonl.open").write_text("older")
    quarantine = QuarantineWriter(tmp_path / "w.jsonl")
    quarantine.add([ONE])
    quarantine.seal()
    assert tree(tmp_path) == ["w.jsonl"]
    assert (tmp_path / "w.jsonl").read_text() == ONE.line()
