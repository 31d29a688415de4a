from __future__ import annotations

import json

import pytest

from stocktrace.exchange.cut import Piece, cut, pieces, retimed
from tests.exchange.conftest import frame_of

MIXED = (
    b'{ "type":"trade","data":[{"c":null,"p":1.50,"s":"B:X","t":1,"v":1e-3},'
    b'{"p":2,"s":"AAPL","t":2,"v":3}]}'
)


def test_a_frame_whose_trades_are_all_wanted_stands_byte_for_byte() -> None:
    (piece,) = pieces([MIXED])
    assert cut(piece, {"B:X", "AAPL", "MSFT"}) is piece
    assert (piece.frame, piece.trades) == (MIXED, 2)


def test_a_wanted_trade_keeps_its_text() -> None:
    (piece,) = pieces([MIXED])
    assert cut(piece, {"B:X"}) == Piece(
        b'{"data":[{"c":null,"p":1.50,"s":"B:X","t":1,"v":1e-3}],"type":"trade"}', ("B:X",)
    )
    assert cut(piece, {"MSFT"}) is None


ODD = [
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


@pytest.mark.parametrize("odd", ODD)
def test_an_odd_frame_goes_to_everybody_and_harms_no_neighbour(odd: bytes) -> None:
    good = frame_of(("AAPL", 1))
    batch = pieces([good, odd, good])
    assert batch == [Piece(good, ("AAPL",)), Piece(odd, None), Piece(good, ("AAPL",))]
    assert cut(batch[1], set()) == Piece(odd, None)
    assert batch[1].trades == 0


def test_times_are_moved_and_nothing_else() -> None:
    moved = json.loads(retimed(MIXED, lambda t: t + 1000))
    expected = json.loads(MIXED)
    for row in expected["data"]:
        row["t"] += 1000
    assert moved == expected


@pytest.mark.parametrize("odd", [*ODD, b'{"data":[1,{"t":"x"}]}'])
def test_a_frame_without_times_stands(odd: bytes) -> None:
    if odd != ODD[3]:
        assert retimed(odd, lambda t: t + 1) == odd
