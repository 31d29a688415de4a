"""Frames that have killed clients (FAULTS.md, 39): control, unknown, broken, too much.

None of them holds a trade that can be recorded.
"""

from __future__ import annotations

_BIG_BYTES = 10_000_000
_DEEP = b'{"type":"trade","data":' + b"[" * 5_000 + b"]" * 5_000 + b"}"

_FRAMES = (
    b'{"type":"ping"}',
    b'{"msg":"Subscribing to too many symbols","type":"error"}',
    b'{"type":"error"}',
    b'{"type":"news","data":[{"headline":"\xe2\x82\xac 5","id":1}]}',
    b'{"type":"pr","data":[]}',
    b'{"type":"halt","data":[{"s":"AAPL"}]}',
    b'{"type":"trade"}',
    b'{"type":"trade","data":null}',
    b'{"type":"trade","data":[]}',
    b'{"type":"trade","data":[null]}',
    b'{"data":[{"c":["1"],"p":NaN,"s":"AAPL","t":1,"v":1}],"type":"trade"}',
    b'{"data":[{"c":["1"],"p":1e999,"s":"AAPL","t":1700000000000,"v":1}],"type":"trade"}',
    b'{"data":[{"c":["1"],"p":1,"s":"AAPL","t":99999999999999999999,"v":1}],"type":"trade"}',
    b'{"data":[{"c":["1"],"p":1,"t":1700000000000,"v":1}],"type":"trade"}',
    b"null",
    b"true",
    b"-1",
    b'"trade"',
    b"[]",
    b"{}",
    b"",
    b" ",
    b"\n",
    b"# 1",
    b"{",
    b'{"type":"trade","data":[{"s":"AAPL"',
    b'{"type":"news","data":"\xff\xfe"}',
    b"\xff",
    b'{"type":"\\ud800"}',
    b"\x00",
    b'{"type":"ping"}{"type":"ping"}',
    b'{"type":"ping"}\n{"type":"ping"}',
    b"1" * 5_000,
    _DEEP,
)


def malformed_frames() -> list[bytes]:
    """All of them, to be sent as text frames, whatever they hold."""
    return [*_FRAMES, b'{"type":"news","data":"' + b"x" * _BIG_BYTES + b'"}']
