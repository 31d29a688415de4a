from __future__ import annotations

import json
import random
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stocktrace.feed import protocol
from stocktrace.feed.protocol import DecodedFrames, RefusedRow, decode
from stocktrace.trade import Trade
from stocktrace.trade_columns import TradeColumns

PING = b'{"type":"ping"}'
LIMIT = b'{"msg":"Subscribing to too many symbols","type":"error"}'
INVALID = b'{"msg":"Invalid symbol FX:EURUSD","type":"error"}'

# docs/finnhub.md, "Recorded frames".
RECORDED: dict[bytes, list[Trade]] = {
    b'{"data":[{"p":7296.89,"s":"BINANCE:BTCUSDT","t":1575526691134,"v":0.011467}],'
    b'"type":"trade"}': [Trade("BINANCE:BTCUSDT", 7296.89, 1575526691134, 0.011467)],
    b'{"data":[{"c":["1","8","24","12"],"p":122.1,"s":"TSLA","t":1672348887195,"v":1},'
    b'{"c":["1","24","12"],"p":129.575,"s":"AAPL","t":1672348887785,"v":1}],"type":"trade"}': [
        Trade("TSLA", 122.1, 1672348887195, 1.0, ("1", "8", "24", "12")),
        Trade("AAPL", 129.575, 1672348887785, 1.0, ("1", "24", "12")),
    ],
    b'{"data":[{"c":["1","12"],"p":164.07,"s":"AAPL","t":1680286542024,"v":1},'
    b'{"c":["1"],"p":164.07,"s":"AAPL","t":1680286542124,"v":100}],"type":"trade"}': [
        Trade("AAPL", 164.07, 1680286542024, 1.0, ("1", "12")),
        Trade("AAPL", 164.07, 1680286542124, 100.0, ("1",)),
    ],
    b'{"data":[{"c":["1","24","12"],"p":171.465,"s":"AAPL","t":1696250801554,"v":1},'
    b'{"c":null,"p":1731.1,"s":"BINANCE:ETHUSDT","t":1696250801782,"v":0.014}],'
    b'"type":"trade"}': [
        Trade("AAPL", 171.465, 1696250801554, 1.0, ("1", "24", "12")),
        Trade("BINANCE:ETHUSDT", 1731.1, 1696250801782, 0.014),
    ],
    b'{"type":"trade","data":[{"t":1787924136086,"p":317.775,"v":200,"c":["1","8"],"s":"AAPL"},'
    b'{"t":1787924136087,"p":317.77,"v":40,"c":["1"],"s":"AAPL"},'
    b'{"t":1787924136086,"p":317.775,"v":200,"c":["1","8"],"s":"AAPL"},'
    b'{"t":1787924136087,"p":317.77,"v":40,"c":["1"],"s":"AAPL"}]}': [
        Trade("AAPL", 317.775, 1787924136086, 200.0, ("1", "8")),
        Trade("AAPL", 317.77, 1787924136087, 40.0, ("1",)),
        Trade("AAPL", 317.775, 1787924136086, 200.0, ("1", "8")),
        Trade("AAPL", 317.77, 1787924136087, 40.0, ("1",)),
    ],
    b'{"data":[{"c":null,"p":1.098455,"s":"FHFX:EUR-USD","t":1641035471111,"v":0}],'
    b'"type":"trade"}': [Trade("FHFX:EUR-USD", 1.098455, 1641035471111, 0.0)],
}
GOOD, GOOD_TRADES = next(iter(RECORDED.items()))


BOM = "(decode using utf-8-sig)"  # as the json module says
LOSSY = "has more digits than float64 holds"


def said(messages: Sequence[Sequence[Trade]], *books: Any) -> DecodedFrames:
    return DecodedFrames(TradeColumns.of(messages), *books)


def control(*errors: str) -> DecodedFrames:
    return DecodedFrames(TradeColumns.of([[]]), control=1, errors=list(errors))


def odd(frame: bytes, reason: str) -> DecodedFrames:
    return DecodedFrames(
        TradeColumns.of([[]]), undecodable=1, refusals=[RefusedRow(frame, None, reason)]
    )


def exactly(*frames: bytes) -> DecodedFrames:
    """What the exact way makes of each frame."""
    decoded = DecodedFrames(TradeColumns.of([]))
    decoded.rows = TradeColumns.of([protocol._decode_exactly(frame, decoded) for frame in frames])
    return decoded


def frame_of(**members: str) -> bytes:
    """A frame of one trade, with these members instead, as JSON spells them; "" leaves one out."""
    row = {"s": '"AAPL"', "p": "1.5", "t": "1700000000000", "v": "100", "c": '["1"]'} | members
    inside = ",".join(f'"{name}":{text}' for name, text in row.items() if text)
    return f'{{"data":[{{{inside}}}],"type":"trade"}}'.encode()


def refused(**members: str) -> tuple[object, str]:
    """The row and the reason that a trade with these members is refused with."""
    frame = frame_of(**members)
    decoded = decode([frame])
    assert (decoded.rows.messages(), decoded.trade_frames) == ([[]], 1)
    assert decoded.refused_trades == len(decoded.refusals) == 1
    assert decoded.refusals[0].frame == frame
    return decoded.refusals[0].row, decoded.refusals[0].reason


def taken(**members: str) -> Trade:
    """The trade with these members."""
    decoded = decode([frame_of(**members)])
    assert decoded == DecodedFrames(decoded.rows, 1)
    [[trade]] = decoded.rows.messages()
    return trade


# --- what Finnhub sends ----------------------------------------------------------------------


@pytest.mark.parametrize("frame", RECORDED)
def test_a_recorded_frame_is_decoded(frame: bytes) -> None:
    assert decode([frame]) == said([RECORDED[frame]], 1, 0, 0)
    assert exactly(frame) == said([RECORDED[frame]], 1, 0, 0)


def test_all_recorded_frames_of_one_read_come_in_their_order() -> None:
    assert decode([*RECORDED, PING, *RECORDED]) == said(
        [*RECORDED.values(), [], *RECORDED.values()], 12, 1, 0
    )


def test_no_frames_are_nothing() -> None:
    assert decode([]) == said([], 0, 0, 0)


@pytest.mark.parametrize(
    "frame",
    [
        PING,
        b'{"type":"news","data":[{"headline":"x","datetime":1}]}',
        b'{"type":"pr","data":[{"headline":"x"}]}',
        b'{"type":"ping","data":null}',
        b' {"type" : "ping"}\r',
        b'{"type":"ping","x":NaN}',
        b'{"type":"ping","data":[{"s":"A","p":1,"t":1,"v":1}]}',
    ],
)
def test_a_control_frame_is_counted_and_holds_no_trades(frame: bytes) -> None:
    assert decode([frame]) == control()


@pytest.mark.parametrize(
    ("frame", "text"),
    [
        (LIMIT, "Subscribing to too many symbols"),
        (INVALID, "Invalid symbol FX:EURUSD"),
        (b'{"type":"error"}', ""),
        (b'{"type":"error","msg":null}', "None"),
        (b'{"type":"error","msg":{"code":7}}', "{'code': '7'}"),
        (b'{"type":"error","msg":"half \\ud83d"}', "half \\ud83d"),
        (b'{"type":"error","msg":"%s"}' % (b"x" * 5000), "x" * 197 + "..."),
    ],
)
def test_the_text_of_an_error_frame_is_returned(frame: bytes, text: str) -> None:
    assert decode([frame]) == control(text)


def test_members_are_read_by_name_and_unknown_ones_are_skipped() -> None:
    frame = b'{"x":[1,{"data":2}],"type":"trade","data":[{"x":"1","v":2,"t":3,"s":"A","p":4}]}'
    assert decode([frame]) == said([[Trade("A", 4.0, 3, 2.0)]], 1, 0, 0)


def test_a_trade_frame_may_be_empty() -> None:
    assert decode([b'{"type":"trade","data":[]}']) == said([[]], 1, 0, 0)


def test_equal_trades_are_all_kept() -> None:
    assert decode([GOOD] * 3) == said([GOOD_TRADES] * 3, 3, 0, 0)


# --- what it should not ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (b"", "not JSON: Expecting value: line 1 column 1 (char 0)"),
        (b"\xef\xbb\xbf{}", f"not JSON: Unexpected UTF-8 BOM {BOM}: line 1 column 1 (char 0)"),
        (b"\n", "not JSON: Expecting value: line 2 column 1 (char 1)"),
        (GOOD[:-10], "not JSON: Unterminated string starting at: line 1 column 78 (char 77)"),
        (b"null", "no trades and no known type"),
        (b"NaN", "no trades and no known type"),
        (b"[]", "no trades and no known type"),
        (b"17", "no trades and no known type"),
        (b'"ping"', "no trades and no known type"),
        (b"{}", "no trades and no known type"),
        (b'{"type":null}', "no trades and no known type"),
        (b'{"type":[]}', "no trades and no known type"),
        (b'{"type":{"a":1}}', "no trades and no known type"),
        (b'{"type":7}', "no trades and no known type"),
        (b'{"type":"trade"}', "no trades and no known type"),
        (b'{"type":"trade","data":null}', "no trades and no known type"),
        (b'{"type":"trade","data":{}}', "no trades and no known type"),
        (b'{"type":"quote","data":[]}', "unknown type quote"),
        (b'{"type":"\\udead"}', "unknown type \\udead"),
        (b'{"type":"%s"}' % (b"x" * 300), f"unknown type {'x' * 197}..."),
    ],
)  # fmt: skip
def test_an_invalid_message_is_kept_with_its_reason(frame: bytes, reason: str) -> None:
    assert decode([frame]) == odd(frame, reason)


def test_invalid_utf8_refuses_one_frame() -> None:
    broken = GOOD.replace(b"BINANCE", b"BIN\xffNCE")
    skipped = b'{"type":"ping","x":"\xff"}'
    reason = "not JSON: 'utf-8' codec can't decode byte 0xff in position %d: invalid start byte"
    assert decode([GOOD, broken, skipped, GOOD]) == said(
        [GOOD_TRADES, [], [], GOOD_TRADES],
        2,
        0,
        2,
        0,
        [RefusedRow(broken, None, reason % 30), RefusedRow(skipped, None, reason % 20)],
    )


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"s": ""}, "symbol is missing or not a text"),
        ({"s": "null"}, "symbol is missing or not a text"),
        ({"s": "7"}, "symbol is missing or not a text"),
        ({"s": '"\\ud800"'}, "symbol is missing or not a text"),
        ({"t": ""}, "time is missing or not a whole number of milliseconds"),
        ({"t": "null"}, "time is missing or not a whole number of milliseconds"),
        ({"t": '"1700000000000"'}, "time is missing or not a whole number of milliseconds"),
        ({"t": "1700000000000.5"}, "time is missing or not a whole number of milliseconds"),
        ({"t": "9223372036854775808"}, "time is missing or not a whole number of milliseconds"),
        ({"t": "1e19"}, "time is missing or not a whole number of milliseconds"),
        ({"t": "1e-7"}, "time is missing or not a whole number of milliseconds"),
        ({"t": "1e99999999999999999999"}, "time is missing or not a whole number of milliseconds"),
        ({"t": "true"}, "time is missing or not a whole number of milliseconds"),
        ({"t": "NaN"}, "time is missing or not a whole number of milliseconds"),
        ({"p": ""}, "price is missing or not a number"),
        ({"p": "null"}, "price is missing or not a number"),
        ({"p": '"1.5"'}, "price is missing or not a number"),
        ({"p": "true"}, "price is missing or not a number"),
        ({"p": "NaN"}, "price is missing or not a number"),
        ({"p": "Infinity"}, "price is missing or not a number"),
        ({"p": "-Infinity"}, "price is missing or not a number"),
        ({"p": "1e400"}, f"price 1e400 {LOSSY}"),
        ({"p": "-1e400"}, f"price -1e400 {LOSSY}"),
        ({"p": "1e-400"}, f"price 1e-400 {LOSSY}"),
        ({"p": "1e99999999999999999999"}, f"price 1e99999999999999999999 {LOSSY}"),
        ({"p": "1e-99999999999999999999"}, f"price 1e-99999999999999999999 {LOSSY}"),
        ({"v": ""}, "volume is missing or not a number"),
        ({"v": "null"}, "volume is missing or not a number"),
        ({"v": "[]"}, "volume is missing or not a number"),
        ({"v": "0.12345678901234567"}, f"volume 0.12345678901234567 {LOSSY}"),
        ({"c": '"1"'}, "conditions are not a list of texts"),
        ({"c": "{}"}, "conditions are not a list of texts"),
        ({"c": "[1]"}, "conditions are not a list of texts"),
        ({"c": '["1",null]'}, "conditions are not a list of texts"),
        ({"c": '["\\udfff"]'}, "conditions are not a list of texts"),
    ],
)  # fmt: skip
def test_a_trade_that_cannot_be_stored_is_refused_with_its_reason(
    members: dict[str, str], reason: str
) -> None:
    assert refused(**members)[1] == reason


@pytest.mark.parametrize("row", ["null", "7", '"AAPL"', "[]", "true"])
def test_an_element_that_is_not_a_trade_refuses_the_row_and_not_the_frame(row: str) -> None:
    frame = f'{{"data":[{row}],"type":"trade"}}'.encode()
    plain = {"null": "null", "7": "7", '"AAPL"': "AAPL", "[]": [], "true": True}[row]
    assert decode([frame]) == said([[]], 1, 0, 0, 1, [RefusedRow(frame, plain, "not an object")])


def test_any_json_writer_accepts_a_refused_row() -> None:
    row, _ = refused(p="NaN", x='["\\ud800",1.50,{"\\ud800":-0}]')
    assert row == {
        "s": "AAPL",
        "p": "nan",
        "t": "1700000000000",
        "v": "100",
        "c": ["1"],
        "x": ["\\ud800", "1.50", {"\\ud800": "-0"}],
    }
    assert msgspec.json.decode(msgspec.json.encode(row)) == row


@pytest.mark.parametrize(
    "price",
    [
        "123456789.123456789",
        "0.123456789012345678",
        "1.00000000000000001",
        "9007199254740993",
        "100000000000000000000001",
        "1.23456789012345e-320",
        "4e-324",
        "0." + "1" * 1_000_000,
        "1" * 1_000_000,
    ],
)
def test_a_price_that_float64_cannot_hold_is_refused_and_never_rounded(price: str) -> None:
    short = price if len(price) <= 200 else price[:197] + "..."
    row, reason = refused(p=price)
    assert reason == f"price {short} {LOSSY}"
    assert isinstance(row, dict)
    assert row["p"] == price


@pytest.mark.parametrize(
    ("text", "price"),
    [
        ("12345.678901234567", 12345.678901234567),
        ("9007199254740992", 9007199254740992.0),
        ("100.0000000000000000000", 100.0),
        ("1e2", 100.0),
        ("1.5E+3", 1500.0),
        ("5e-324", 5e-324),
        ("1.7976931348623157e308", 1.7976931348623157e308),
        ("0e99999999", 0.0),
        ("-0.0", 0.0),
        ("-37.63", -37.63),
        ("164.0601", 164.0601),
    ],
)
def test_a_price_that_float64_holds_is_accepted_however_it_is_spelled(
    text: str, price: float
) -> None:
    assert taken(p=text).p == price


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("1e12", 10**12),
        ("1.0", 1),
        ("1700000000000.000", 1_700_000_000_000),
        ("1.7e12", 1_700_000_000_000),
        ("9223372036854775807", 2**63 - 1),
        ("-9223372036854775808", -(2**63)),
        ("0e99999999", 0),
        ("-0", 0),
        ("0", 0),
    ],
)
def test_a_whole_number_of_milliseconds_is_a_time_however_it_is_spelled(
    text: str, time: int
) -> None:
    trade = taken(t=text)
    assert (trade.t, type(trade.t)) == (time, int)


@pytest.mark.parametrize(
    ("text", "conditions"),
    [("", None), ("null", None), ("[]", ()), ('["24","1","12"]', ("24", "1", "12"))],
)
def test_conditions_are_kept_as_received(text: str, conditions: tuple[str, ...] | None) -> None:
    assert taken(c=text).c == conditions


def test_both_halves_of_a_surrogate_pair_are_one_character() -> None:
    assert taken(s='"\\ud83d\\ude00"').s == "\U0001f600"


@pytest.mark.parametrize(
    "frame",
    [
        GOOD.replace(b",", b",\n"),
        b"\n" + GOOD,
        GOOD + b"\n",
        GOOD + b"\r\n",
        b'{"type":"trade","data":[\n{"s":"A","p":1,"t":1,"v":1}\n{"x":1}]}',
    ],
)
def test_a_frame_with_line_feeds_is_one_frame(frame: bytes) -> None:
    alone = decode([frame])
    assert len(alone.rows.counts) == 1
    assert decode([GOOD, frame, PING]) == exactly(GOOD, frame, PING)


@pytest.mark.parametrize(
    "frames",
    [
        [b'{"type":"ping"', b'} {"type":"ping"}'],
        [b'{"type":"ping"}{"type":"ping"}', b""],
        [b'{"type":"ping"}{"type":"ping"}', b" "],
        [PING[:-1], b"}", PING + PING],
        [GOOD[:-1], b"}" + GOOD],
    ],
)
def test_half_a_frame_is_not_made_whole_by_the_next_one(frames: list[bytes]) -> None:
    decoded = decode(frames)
    assert decoded == exactly(*frames)
    assert (decoded.rows.messages(), decoded.undecodable) == ([[]] * len(frames), len(frames))


@pytest.mark.parametrize("depth", [100, 500, 800, 1000, 10_000, 100_000])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"", b""),
        (b'{"x":', b"}"),
        (b'{"type":', b"}"),
        (b'{"type":"ping","x":', b"}"),
        (b'{"type":"error","msg":', b"}"),
        (b'{"type":"trade","data":[', b"]}"),
        (b'{"type":"trade","data":[{"s":"A","p":1,"t":1,"v":1,"c":', b"}]}"),
    ],
)
def test_deep_nesting_is_refused(depth: int, before: bytes, after: bytes) -> None:
    deep = before + b"[" * depth + b"]" * depth + after
    decoded = decode([GOOD, deep, GOOD])
    assert [decoded.rows.messages()[0], decoded.rows.messages()[2]] == [GOOD_TRADES, GOOD_TRADES]
    assert decoded.trade_frames + decoded.control + decoded.undecodable == 3
    for refusal in decoded.refusals:
        assert len(json.dumps(refusal.row)) < 300


def test_all_trades_of_a_frame_of_10_mb_are_decoded() -> None:
    symbol = "BINANCE:" + "X" * 200
    trades = [Trade(symbol, n / 100, 1_700_000_000_000 + n, n, ("1",)) for n in range(40_000)]
    frame = protocol.encode(trades)
    assert len(frame) > 10_000_000
    assert decode([frame]) == said([trades], 1, 0, 0)


@pytest.mark.parametrize(
    "text",
    [b"x" * 10_000_000, b"[" * 10_000_000, b'{"type":"' + b"x" * 10_000_000 + b'"}'],
    ids=["letters", "brackets", "unknown type"],
)
def test_10_mb_of_nonsense_is_one_refused_frame(text: bytes) -> None:
    decoded = decode([GOOD, text, PING])
    assert decoded.rows.messages() == [GOOD_TRADES, [], []]
    assert (decoded.trade_frames, decoded.control, decoded.undecodable) == (1, 1, 1)
    [refusal] = decoded.refusals
    assert refusal.frame is text
    assert len(refusal.reason) < 300


BAD = [
    b"",
    b"\xff",
    b"null",
    b"{",
    b'{"type":"x"}',
    frame_of(p="NaN"),
    frame_of(p="1e400"),
    b"}\n{",
]


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("at", [0, 500, 999])
def test_one_bad_frame_of_1000_leaves_999_unharmed_and_in_order(bad: bytes, at: int) -> None:
    """FAULTS 40."""
    trades = [Trade("AAPL", float(n), n, 1.0) for n in range(1000)]
    frames = [protocol.encode([trade]) for trade in trades]
    frames[at] = bad
    decoded = decode(frames)
    expected = [[trade] for trade in trades]
    expected[at] = []
    assert decoded.rows.messages() == expected
    assert [refusal.frame for refusal in decoded.refusals] == [bad]
    assert decoded.trade_frames + decoded.undecodable == 1000


def test_one_bad_trade_of_1000_in_a_frame_leaves_999_unharmed_and_in_order() -> None:
    trades = [Trade("AAPL", float(n), n, 1.0) for n in range(1000)]
    frame = protocol.encode(trades).replace(b'"p":500.0,', b'"p":null,')
    assert decode([frame]) == said(
        [trades[:500] + trades[501:]],
        1,
        0,
        0,
        1,
        [
            RefusedRow(
                frame,
                {"s": "AAPL", "p": None, "t": "500", "v": "1.0", "c": None},
                "price is missing or not a number",
            )
        ],
    )


# --- whatever it sends -----------------------------------------------------------------------

NUMBER = st.from_regex(
    r"-?(0|[1-9][0-9]{0,19})(\.[0-9]{1,19})?([eE][+-]?[0-9]{1,4})?", fullmatch=True
).map(str)
CALM_NUMBER = st.one_of(
    st.integers(-(10**15), 10**15).map(str), st.decimals(-(10**6), 10**6, places=4).map(str)
)
TEXT = st.one_of(
    st.sampled_from(["AAPL", "trade", "ping", "error", "news", "type", "", "\ud800", "\n", "1E5"]),
    st.text(st.characters(exclude_categories=()), max_size=6),
)
QUOTED = st.one_of(
    TEXT.map(json.dumps),
    TEXT.filter(lambda text: not any("\ud800" <= c <= "\udfff" for c in text)).map(
        lambda text: json.dumps(text, ensure_ascii=False)
    ),
)
CONSTANT = st.sampled_from(["null", "true", "false", "NaN", "Infinity", "-Infinity"])
SPACE = st.sampled_from(["", "", "", " ", "\n", "\r", "\t"])


def _joined(parts: list[str], space: str, ends: str) -> str:
    return f"{ends[0]}{space}{f'{space},'.join(parts)}{ends[1]}"


def arrays(element: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.builds(_joined, st.lists(element, max_size=4), SPACE, st.just("[]"))


def objects(pairs: Sequence[st.SearchStrategy[tuple[str, str]]]) -> st.SearchStrategy[str]:
    """Objects of some of these members, in any order, some of them twice."""
    members = st.lists(st.one_of(pairs), max_size=7).map(
        lambda found: [f'"{name}":{value}' for name, value in found]
    )
    return st.builds(_joined, members, SPACE, st.just("{}"))


JSON = st.recursive(
    st.one_of(NUMBER, QUOTED, CONSTANT),
    lambda inner: st.one_of(arrays(inner), objects([st.tuples(st.sampled_from("sptvcx"), inner)])),
    max_leaves=6,
)


def member(name: str, *values: st.SearchStrategy[str]) -> st.SearchStrategy[tuple[str, str]]:
    return st.tuples(st.just(name), st.one_of(*values))


CODES = arrays(st.sampled_from(['"1"', '"12"', '"\\u0031"', "1", "null"]))
ROW = st.one_of(
    objects(
        [
            member("s", QUOTED, QUOTED, JSON),
            member("p", CALM_NUMBER, NUMBER, JSON),
            member("t", CALM_NUMBER, NUMBER, JSON),
            member("v", CALM_NUMBER, NUMBER, JSON),
            member("c", CODES, st.just("null"), JSON),
        ]
    ),
    JSON,
)


def _row(symbol: str, price: str, time: str, volume: str, codes: str) -> str:
    return f'{{"s":{symbol},"p":{price},"t":{time},"v":{volume}{codes}}}'


# Sound but for a number now and then; without them hardly a frame would take the typed way.
CALM_ROW = st.builds(
    _row,
    st.text(max_size=6).map(json.dumps),
    st.one_of(CALM_NUMBER, CALM_NUMBER, CALM_NUMBER, NUMBER),
    st.integers(-(10**14), 10**14).map(str),
    CALM_NUMBER,
    st.sampled_from(["", ',"c":null', ',"c":["1","\\u0031"]', ',"c":[]']),
)
TYPES = [*['"trade"'] * 6, '"ping"', '"pr"']
CALM = st.builds(
    lambda kind, rows, more: f'{{"type":{kind},"data":[{",".join(rows)}]{more}}}'.encode(),
    st.sampled_from(TYPES),
    st.lists(CALM_ROW, max_size=2),
    st.one_of(st.just(""), st.just(""), JSON.map(',"x":{}'.format), QUOTED.map(',"msg":{}'.format)),
)
MESSAGE = st.one_of(
    arrays(ROW).map('{{"data":{},"type":"trade"}}'.format),
    objects(
        [
            member("type", st.sampled_from(['"trade"', '"ping"', '"error"', '"pr"']), JSON),
            member("data", arrays(ROW), JSON),
            member("msg", QUOTED, JSON),
            member("x", JSON),
        ]
    ),
    JSON,
)
FRAME = st.builds(lambda a, text, b: f"{a}{text}{b}".encode(), SPACE, MESSAGE, SPACE)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A recorded frame with a few accidents."""
    frame = bytearray(draw(st.sampled_from([*RECORDED, PING, LIMIT, INVALID])))
    for _ in range(draw(st.integers(1, 3))):
        begin = draw(st.integers(0, len(frame)))
        end = min(len(frame), begin + draw(st.integers(0, 4)))
        frame[begin:end] = draw(
            st.one_of(
                st.binary(max_size=3),
                st.sampled_from([b"", b"0", b"9" * 16, b"e-300", b"\n", b'"', b"[", b"}", b"\\u"]),
                st.sampled_from([bytes(frame[end:]), bytes(frame[:begin])]),
            )
        )
    return bytes(frame)


ANY = st.one_of(
    CALM, CALM, FRAME, mutated(), st.sampled_from([*RECORDED, PING]), st.binary(max_size=40)
)
SLOW_TO_MAKE = settings(suppress_health_check=[HealthCheck.too_slow])


@SLOW_TO_MAKE
@given(ANY)
def test_the_typed_and_the_exact_decoder_agree(frame: bytes) -> None:
    by_hand = exactly(frame)
    assert decode([frame]) == by_hand
    if (lines := protocol._typed_lines((frame,))) is not None:
        assert said([line.data for line in lines], 1) == by_hand


@SLOW_TO_MAKE
@given(st.lists(ANY, max_size=6))
def test_frames_of_one_read_are_decoded_as_if_each_came_alone(frames: list[bytes]) -> None:
    decoded = decode(frames)
    assert decoded == exactly(*frames)
    assert len(decoded.rows.messages()) == len(frames)
    assert len(frames) == decoded.trade_frames + decoded.control + decoded.undecodable
    rows = [refusal for refusal in decoded.refusals if refusal.row is not None]
    assert (len(rows), len(decoded.refusals)) == (
        decoded.refused_trades,
        decoded.refused_trades + decoded.undecodable,
    )
    for refusal in decoded.refusals:  # what the quarantine, the report and a terminal can take
        msgspec.json.encode([refusal.row, refusal.reason])
        refusal.reason.encode()
    msgspec.json.encode(decoded.errors)


@SLOW_TO_MAKE
@given(st.lists(ANY | st.sampled_from([LIMIT, INVALID, *RECORDED]), max_size=6))
def test_error_texts_are_those_that_decoding_finds(frames: list[bytes]) -> None:
    assert protocol.error_texts(frames) == decode(frames).errors


def test_only_error_frames_are_decoded_for_their_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[bytes] = []

    def noting(frames: Sequence[bytes]) -> DecodedFrames:
        decoded.extend(frames)
        return decode(frames)

    monkeypatch.setattr(protocol, "decode", noting)
    assert protocol.error_texts([*RECORDED, PING]) == []
    assert decoded == []
    assert protocol.error_texts([*RECORDED, LIMIT]) == ["Subscribing to too many symbols"]
    assert decoded == [LIMIT]


@SLOW_TO_MAKE
@given(st.lists(ANY, max_size=2), st.integers(0, 400), st.sampled_from(list(RECORDED)))
def test_many_frames_alike_are_decoded_as_if_each_came_alone(
    others: list[bytes], at: int, one: bytes
) -> None:
    frames = [one] * 400
    frames[at:at] = others
    assert sum(map(len, frames)) in protocol._BULK_THRESHOLD, "columns are tried"
    assert decode(frames) == exactly(*frames)


@SLOW_TO_MAKE
@given(NUMBER, NUMBER)
def test_no_number_is_ever_rounded(price: str, volume: str) -> None:
    [trades] = decode([frame_of(p=price, v=volume)]).rows.messages()
    for trade in trades:
        assert Decimal(repr(trade.p)) == Decimal(price)
        assert Decimal(repr(trade.v)) == Decimal(volume)


@SLOW_TO_MAKE
@given(st.integers(-(10**14), 10**14), st.integers(0, 12))
def test_fifteen_digits_always_fit(digits: int, places: int) -> None:
    text = f"{Decimal(digits).scaleb(-places):f}"
    assert taken(p=text).p == float(text)


@SLOW_TO_MAKE
@given(st.lists(st.binary(max_size=60), max_size=5))
def test_no_bytes_raise(frames: list[bytes]) -> None:
    assert len(decode(frames).rows.messages()) == len(frames)


def test_no_cut_of_a_recorded_frame_raises_or_invents_a_trade() -> None:
    for frame, trades in RECORDED.items():
        for end in range(len(frame)):
            assert decode([frame[:end]]).undecodable == 1
        assert decode([frame]).rows.messages() == [trades]


def test_random_bytes_in_frames_do_not_raise() -> None:
    chance = random.Random(1)
    for _ in range(3000):
        frame = bytearray(chance.choice([*RECORDED, PING]))
        for _ in range(chance.randint(1, 4)):
            frame[chance.randrange(len(frame))] = chance.randrange(256)
        decode([bytes(frame)])


# --- the other way ---------------------------------------------------------------------------

FLOATS = st.floats(allow_nan=False, allow_infinity=False)


@SLOW_TO_MAKE
@given(
    st.lists(
        st.builds(
            Trade,
            st.text(),
            FLOATS,
            st.integers(-(2**63), 2**63 - 1),
            FLOATS,
            st.none() | st.lists(st.text(), max_size=3).map(tuple),
        ),
        max_size=5,
    )
)
def test_what_is_encoded_is_decoded_to_the_same(trades: list[Trade]) -> None:
    assert decode([protocol.encode(trades)]) == said([trades], 1, 0, 0)


def test_a_frame_is_encoded_as_finnhub_spells_it() -> None:
    assert protocol.encode([Trade("AAPL", 1.5, 2, 3.0, ("1",))]) == (
        b'{"data":[{"s":"AAPL","p":1.5,"t":2,"v":3.0,"c":["1"]}],"type":"trade"}'
    )


@given(st.text())
def test_commands_name_one_symbol_whatever_it_is(symbol: str) -> None:
    assert json.loads(protocol.subscribe(symbol)) == {"type": "subscribe", "symbol": symbol}
    assert json.loads(protocol.unsubscribe(symbol)) == {"type": "unsubscribe", "symbol": symbol}


def test_a_command_is_compact() -> None:
    assert protocol.subscribe("AAPL") == '{"type":"subscribe","symbol":"AAPL"}'
    assert protocol.unsubscribe("AAPL") == '{"type":"unsubscribe","symbol":"AAPL"}'


@pytest.mark.parametrize(
    ("row", "frame"),
    [
        (
            {"s": "A", "p": "1.50", "t": "2", "v": "-3e1", "c": ["1"]},
            b'{"data":[{"s":"A","p":1.50,"t":2,"v":-3e1,"c":["1"]}],"type":"trade"}',
        ),
        (
            {"s": "7", "p": None, "t": "soon", "v": " 1", "x": "8"},
            b'{"data":[{"s":"7","p":null,"t":"soon","v":" 1","x":"8"}],"type":"trade"}',
        ),
        ({"p": "[" * 100_000}, b'{"data":[{"p":"%s"}],"type":"trade"}' % (b"[" * 100_000)),
        ({}, b'{"data":[{}],"type":"trade"}'),
        ("null", b'{"data":[{}],"type":"trade"}'),
        (["A"], b'{"data":[{}],"type":"trade"}'),
    ],
    ids=["numbers", "no numbers", "deep", "empty", "null", "list"],
)
def test_a_row_of_the_quarantine_is_made_a_frame_again(row: object, frame: bytes) -> None:
    assert protocol.frame_of(row) == frame


def test_what_a_quarantine_keeps_is_refused_again_for_the_same_reason() -> None:
    row, reason = refused(p="123456789.123456789", v="0.50")
    decoded = decode([protocol.frame_of(row)])
    assert [(refusal.row, refusal.reason) for refusal in decoded.refusals] == [(row, reason)]
