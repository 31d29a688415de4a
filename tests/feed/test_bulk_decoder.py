from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from stocktrace.feed import bulk_decoder
from stocktrace.feed.protocol import DecodedFrames, _decode_exactly
from stocktrace.trade import Trade
from stocktrace.trade_columns import TradeColumns
from tests.sampling import SAMPLED, Pick

SLOW_TO_MAKE = settings(suppress_health_check=[HealthCheck.too_slow])

TICKERS = st.sampled_from(["AAPL", "BRK.B", "BINANCE:BTCUSDT", "7203", "a:b", ""])
CODES = st.none() | st.lists(st.sampled_from(["1", "12", "30", "", ",", "a:b", "p"]), max_size=3)
CENTS = st.integers(0, 10**13 - 1).map(lambda cents: cents / 100)
ROWS = st.fixed_dictionaries(
    {
        "c": CODES,
        "p": CENTS | st.integers(0, 10**15 - 1),
        "s": TICKERS,
        "t": st.integers(0, 10**15 - 1),
        "v": CENTS | st.integers(0, 10**15 - 1),
    }
)
MESSAGES = st.lists(st.lists(ROWS, min_size=1, max_size=4), min_size=1, max_size=5)
ORDERS = st.permutations("cpstv") | st.permutations("pstv")


def spelled(row: dict[str, Any], names: list[str]) -> dict[str, Any]:
    return {name: row[name] for name in names}


def framed(messages: list[list[dict[str, Any]]], *, type_first: bool = False) -> list[bytes]:
    frames = []
    for rows in messages:
        members = {"data": rows, "type": "trade"}
        if type_first:
            members = {"type": "trade", "data": rows}
        frames.append(json.dumps(members, separators=(",", ":")).encode())
    return frames


def exactly(frames: list[bytes]) -> list[list[Trade]] | None:
    """The trades by the exact way; ``None`` if anything else is in the frames."""
    decoded = DecodedFrames(TradeColumns.of([]))
    messages = [_decode_exactly(frame, decoded) for frame in frames]
    return messages if decoded == DecodedFrames(TradeColumns.of([]), len(frames)) else None


def given_back(frames: list[bytes]) -> list[list[Trade]]:
    rows = bulk_decoder.decode_columns(frames)
    assert rows is not None
    return rows.messages()


@SLOW_TO_MAKE
@given(MESSAGES, ORDERS, st.booleans())
def test_frames_that_are_spelled_alike_are_decoded(
    messages: list[list[dict[str, Any]]], names: list[str], type_first: bool
) -> None:
    frames = framed(
        [[spelled(row, names) for row in rows] for rows in messages], type_first=type_first
    )
    if any(b"e" in frame.replace(b"type", b"").replace(b"trade", b"") for frame in frames):
        return  # a number with an exponent is for another way
    assert given_back(frames) == exactly(frames)


FRAMES = framed(
    [
        [{"c": ["1", "12"], "p": 170.5, "s": "AAPL", "t": 1700000000000, "v": 100}] * 2,
        [{"c": None, "p": 0.25, "s": "BINANCE:BTCUSDT", "t": 1700000000001, "v": 0.001}],
    ]
)


@SLOW_TO_MAKE
@given(
    st.integers(0, 1),
    st.integers(0, len(FRAMES[0])),
    st.integers(0, 6),
    st.one_of(
        st.binary(max_size=3),
        st.text('0123456789.,:"{}[]cpstvenul -+\\\n', max_size=6).map(str.encode),
        st.sampled_from([b'{"c":', b',"p":', b'"x":1,', b'},{"c":', b"NaN", b"0x1", b"1e3"]),
    ),
)
@example(0, 0, 0, b" ")
def test_any_change_of_a_byte_is_noticed_or_harmless(
    which: int, begin: int, size: int, instead: bytes
) -> None:
    frames = list(FRAMES)
    frame = frames[which]
    frames[which] = frame[:begin] + instead + frame[begin + size :]
    rows = bulk_decoder.decode_columns(frames)
    if rows is not None:
        assert rows.messages() == exactly(frames)


@SAMPLED
def test_no_byte_of_a_frame_can_be_another_unseen(pick: Pick) -> None:
    likely = set(FRAMES[0])
    for at in range(len(FRAMES[0])):
        for byte in likely.union(pick(range(256))):
            frame = bytearray(FRAMES[0])
            frame[at] = byte
            frames = [bytes(frame), FRAMES[1]]
            rows = bulk_decoder.decode_columns(frames)
            if rows is not None:
                assert rows.messages() == exactly(frames)


def test_no_cut_of_a_frame_is_made_whole_by_the_next() -> None:
    both = b"".join(FRAMES)
    for at in range(len(both)):
        frames = [both[:at], both[at:]]
        rows = bulk_decoder.decode_columns(frames)
        assert rows is None or rows.messages() == exactly(frames)


@pytest.mark.parametrize(
    "number",
    [
        *("01", "00.5", ".5", "5.", "1..2", ".", "-1", "+1", "1e5", "1E5", " 1", "1 ", "", "1,2"),
        *("null", '"1"', "0x1", "1_0", "inf", "NaN", "true", "[1]"),
        *("1234567890123456", "0.12345678901234"),
    ],
)
@pytest.mark.parametrize("member", "ptv")
def test_a_number_that_is_not_plain_is_left_to_another_decoder(member: str, number: str) -> None:
    row = {"c": '["1"]', "p": "1.5", "s": '"A"', "t": "17", "v": "10"} | {member: number}
    inside = ",".join(f'"{name}":{value}' for name, value in row.items())
    assert (
        bulk_decoder.decode_columns([f'{{"data":[{{{inside}}}],"type":"trade"}}'.encode()]) is None
    )


@pytest.mark.parametrize("number", ["0", "0.0", "0.5", "10", "100.25", "123456789012345"])
def test_a_plain_number_is_decoded(number: str) -> None:
    frame = f'{{"data":[{{"p":{number},"s":"A","t":17,"v":{number}}}],"type":"trade"}}'.encode()
    assert given_back([frame]) == [[Trade("A", float(number), 17, float(number))]]


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [b""],
        [b"{}"],
        [b'{"type":"ping"}'],
        [b'{"data":[],"type":"trade"}'],
        [b'{"data":[{}],"type":"trade"}'],
        [FRAMES[0], b'{"type":"ping"}'],
        [FRAMES[0], b'{"data":[],"type":"trade"}', FRAMES[1]],
        [FRAMES[0], FRAMES[0].replace(b'"p":170.5,', b"")],
        [FRAMES[0].replace(b'"v":100', b'"v":100,"x":1')],
        [FRAMES[0].replace(b'"s":"AAPL"', b'"s":7')],
        [FRAMES[0].replace(b"AAPL", b"AA\\u0050L")],
        [FRAMES[0].replace(b"AAPL", "AÄPL".encode())],
        [FRAMES[0].replace(b"AAPL", b":X")],  # its colon stands behind a quote
        [FRAMES[0].replace(b'["1","12"]', b"[1,12]")],
        [FRAMES[0].replace(b'["1","12"]', b'["%s"]' % (b"1" * 256))],
        [FRAMES[0].replace(b"AAPL", b"A" * 256)],
        [b'{"data":[X"p":1,"s":"A","t":1,"v":2}],"type":"trade"}'],
        [FRAMES[0].replace(b'["1","12"]', b'{"1":"12"}')],
        [FRAMES[0].replace(b'"t":', b'"t": ')],
        [FRAMES[0].replace(b'"p":170.5,', b'"p":170.5,"p":170.5,')],
    ],
)
def test_frames_that_differ_or_are_invalid_are_left_to_another_decoder(frames: list[bytes]) -> None:
    assert bulk_decoder.decode_columns(frames) is None
