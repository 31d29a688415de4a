from __future__ import annotations

import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from stocktrace.store.quarantine import Quarantine, Refused
from tests.conftest import NOON, tree

ROWS = st.none() | st.dictionaries(st.text(max_size=5), st.floats(allow_nan=False) | st.text())
REFUSED = st.builds(Refused, st.integers(0, 2**63 - 1), st.binary(), ROWS, st.text())
ONE = Refused(NOON, b'{"type":1}', None, "no trades and no known type")


@given(REFUSED)
def test_what_was_refused_is_one_line_that_can_be_read_back(refused: Refused) -> None:
    line = refused.line()
    assert line.count("\n") == 1
    assert Refused.parse(line) == refused


def test_a_line_says_reason_row_frame_and_time() -> None:
    row = {"s": "AAPL", "p": -1.0}
    assert json.loads(Refused(NOON, b'{"type":"trade"}', row, "price: not above 0").line()) == {
        "reason": "price: not above 0",
        "row": row,
        "frame": '{"type":"trade"}',
        "ts_recv": NOON,
    }


def test_a_frame_that_is_no_text_is_kept_all_the_same() -> None:
    line = Refused(NOON, b"\xff\x00", None, "not JSON").line()
    assert json.loads(line) == {
        "reason": "not JSON",
        "row": None,
        "frame_base64": "/wA=",
        "ts_recv": NOON,
    }


def test_the_file_is_published_when_it_is_sealed(tmp_path: Path) -> None:
    quarantine = Quarantine(tmp_path / "quarantine" / "w.jsonl")
    quarantine.put([])
    assert tree(tmp_path) == []
    quarantine.put([ONE])
    quarantine.put([ONE, ONE])
    assert tree(tmp_path) == ["quarantine/w.jsonl.open"]
    quarantine.seal()
    assert tree(tmp_path) == ["quarantine/w.jsonl"]
    assert (tmp_path / "quarantine" / "w.jsonl").read_text() == 3 * ONE.line()


def test_without_a_row_there_is_no_file_not_even_one_of_an_earlier_attempt(tmp_path: Path) -> None:
    (tmp_path / "w.jsonl").write_text("old")
    (tmp_path / "w.jsonl.open").write_text("older")
    Quarantine(tmp_path / "w.jsonl").seal()
    assert tree(tmp_path) == []


def test_what_an_attempt_that_died_left_is_not_kept_twice(tmp_path: Path) -> None:
    (tmp_path / "w.jsonl").write_text("old")
    (tmp_path / "w.jsonl.open").write_text("older")
    quarantine = Quarantine(tmp_path / "w.jsonl")
    quarantine.put([ONE])
    quarantine.seal()
    assert tree(tmp_path) == ["w.jsonl"]
    assert (tmp_path / "w.jsonl").read_text() == ONE.line()
