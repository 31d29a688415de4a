from __future__ import annotations

import json

import pytest

from stocktrace.simulator.frames import (
    FramePiece,
    filter_piece,
    shift_times,
    split_frames,
)
from tests.simulator.conftest import frame_of

MIXED = (
    b'{ "type":"trade","data":[{"c":null,"p":1.50,"s":"B:X","t":1,"v":1e-3},'
    b'{"p":2,"s":"AAPL","t":2,"v":3}]}'
)


def test_a_frame_of_wanted_trades_only_is_kept_byte_for_byte() -> None:
    (piece,) = split_frames([MIXED])
    assert filter_piece(piece, {"B:X", "AAPL", "MSFT"}) is piece
    assert (piece.frame, piece.trades) == (MIXED, 2)


def test_a_wanted_trade_keeps_its_text() -> None:
    (piece,) = split_frames([MIXED])
    assert filter_piece(piece, {"B:X"}) == FramePiece(
        b'{"data":[{"c":null,"p":1.50,"s":"B:X","t":1,"v":1e-3}],"type":"trade"}', ("B:X",)
    )
    assert filter_piece(piece, {"MSFT"}) is None


MALFORMED = [
    b'{"type":"ping"}',
    b'{"type":"trade"}',
    b'{"type":"trade","data":[]}',
    b'{"type":"trade","data":[{"p":1}]}',
    b"",
    b"null",
    b"{broken",
    b"\xff\xfe",
    b"[" * 5000,
    b'{"type":"ping"}\n{"type":"ping"}',
]


@pytest.mark.parametrize("frame", MALFORMED)
def test_a_malformed_frame_is_sent_to_everybody_and_harms_no_neighbour(frame: bytes) -> None:
    good = frame_of(("AAPL", 1))
    batch = split_frames([good, frame, good])
    assert batch == [
        FramePiece(good, ("AAPL",)),
        FramePiece(frame, None),
        FramePiece(good, ("AAPL",)),
    ]
    assert filter_piece(batch[1], set()) == FramePiece(frame, None)
    assert batch[1].trades == 0


def test_only_times_are_shifted() -> None:
    moved = json.loads(shift_times(MIXED, lambda t: t + 1000))
    expected = json.loads(MIXED)
    for row in expected["data"]:
        row["t"] += 1000
    assert moved == expected


@pytest.mark.parametrize("frame", [*MALFORMED, b'{"data":[1,{"t":"x"}]}'])
def test_a_frame_without_times_is_kept(frame: bytes) -> None:
    if frame != MALFORMED[3]:
        assert shift_times(frame, lambda t: t + 1) == frame
