"""Frames on their way to one client: filtered by subscription, moved in time, changed by faults.

No I/O; the clock is an argument. A frame of which every trade is wanted is sent byte for byte;
of any other frame only the wanted trades are sent, each with its original text. A frame that
does not hold trades (control, malformed) is sent to every client.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Iterable, Sequence
from itertools import count, zip_longest
from typing import NamedTuple

import msgspec

from stocktrace.simulator.faults import Fault
from stocktrace.simulator.protocol import DECODE_ERRORS, Subscriptions
from stocktrace.units import MS_PER_SECOND

# One frame in so many is late: late prints are some among many (FAULTS.md, 16).
_LATE_PERIOD = 10
# Every JSON parser accepts it, and no client can use it as a number.
_BAD_PRICE = "n/a"


class FramePiece(NamedTuple):
    """A frame and the symbol of each of its trades; ``None``: not a frame of trades."""

    frame: bytes
    symbols: tuple[str, ...] | None

    @property
    def trades(self) -> int:
        """Number of trades in the frame."""
        return len(self.symbols or ())


class _Symbol(msgspec.Struct, gc=False):
    s: str


class _Symbols(msgspec.Struct, gc=False):
    type: str
    data: list[_Symbol] = []


class _Rows(msgspec.Struct, gc=False):
    data: list[msgspec.Raw]


_decode_lines = msgspec.json.Decoder(_Symbols).decode_lines
_decode_rows = msgspec.json.Decoder(_Rows).decode


def split_frames(frames: Sequence[bytes]) -> list[FramePiece]:
    """Return the frames with their symbols; one pass over all of them unless one is malformed."""
    try:
        lines = _decode_lines(b"\n".join(frames))
    except DECODE_ERRORS:
        lines = []
    if len(lines) == len(frames):
        return [
            FramePiece(frame, _symbols_of(line)) for frame, line in zip(frames, lines, strict=True)
        ]
    if len(frames) == 1:
        return [FramePiece(frames[0], None)]
    return [piece for frame in frames for piece in split_frames([frame])]


def _symbols_of(line: _Symbols) -> tuple[str, ...] | None:
    return tuple([row.s for row in line.data]) if line.type == "trade" and line.data else None


def filter_piece(piece: FramePiece, wanted: Container[str]) -> FramePiece | None:
    """Return the part of ``piece`` that a client with these symbols is sent, if any."""
    if piece.symbols is None:
        return piece
    is_wanted = [symbol in wanted for symbol in piece.symbols]
    if all(is_wanted):
        return piece
    if not any(is_wanted):
        return None
    return _join_rows([row for row in _rows_of(piece) if row[1] in wanted])


def _rows_of(piece: FramePiece) -> list[tuple[bytes, str | None]]:
    """Return the original text and the symbol of each trade; ``None``: not a trade."""
    rows = map(bytes, _decode_rows(piece.frame).data)
    return list(zip_longest(rows, piece.symbols or ()))


def _join_rows(rows: Iterable[tuple[bytes, str | None]]) -> FramePiece:
    texts, symbols = zip(*rows, strict=True)
    frame = b'{"data":[' + b",".join(texts) + b'],"type":"trade"}'
    return FramePiece(frame, tuple(symbol for symbol in symbols if symbol is not None))


def shift_times(frame: bytes, shift: Callable[[int], int]) -> bytes:
    """Apply ``shift`` to the ``t`` (UNIX ms) of each trade. A malformed frame is not changed."""
    try:
        message = msgspec.json.decode(frame)
    except DECODE_ERRORS:
        return frame
    rows = message.get("data") if isinstance(message, dict) else None
    timed_rows = [row for row in rows if _has_time(row)] if isinstance(rows, list) else []
    for row in timed_rows:
        row["t"] = shift(row["t"])
    return msgspec.json.encode(message) if timed_rows else frame


def _has_time(row: object) -> bool:
    return isinstance(row, dict) and type(row.get("t")) is int


Transform = Callable[[FramePiece], list[FramePiece]]


class FaultTransforms:
    """The states that faults have brought one connection into; ``now`` is monotonic seconds."""

    def __init__(self, subscriptions: Subscriptions, now: Callable[[], float]) -> None:
        self._subscriptions = subscriptions
        self._now = now
        self._states: list[Transform] = []

    def begin(self, fault: Fault) -> Callable[[], None]:
        """Apply another fault from now on. Return the function that ends it."""
        transform = self._transform_of(fault)
        self._states.append(transform)
        return lambda: self._states.remove(transform)

    def _transform_of(self, fault: Fault) -> Transform:
        """Return the function that makes of a frame of trades what is sent instead."""
        began, numbers = self._now(), count()
        silent = fault.symbol or next(iter(self._subscriptions.symbols), "")
        transforms: dict[str, Transform] = {
            "mute": lambda _: [],
            "silent": lambda piece: self._without(silent, piece),
            "duplicate": lambda piece: [piece] * fault.times,
            "duplicate-rows": lambda piece: [_join_rows(_rows_of(piece) * fault.times)],
            "out-of-order": lambda piece: [_join_rows(_rows_of(piece)[::-1])],
            "late": lambda piece: [
                piece if next(numbers) % _LATE_PERIOD else _delay(piece, fault.delay_s)
            ],
            "lag": lambda piece: [_delay(piece, fault.delay_s * (self._now() - began))],
            "bad-row": lambda piece: [piece if next(numbers) else _with_bad_price(piece)],
            "truncate": lambda piece: [FramePiece(piece.frame[:-10], None)],
        }
        return transforms[fault.kind]

    def _without(self, symbol: str, piece: FramePiece) -> list[FramePiece]:
        part = filter_piece(piece, self._subscriptions.symbols.keys() - {symbol})
        return [] if part is None else [part]

    def __bool__(self) -> bool:
        return bool(self._states)

    def __call__(self, piece: FramePiece) -> list[FramePiece]:
        """Return what is sent instead of ``piece``, which need not be a frame of trades."""
        pieces = [piece]
        for transform in self._states:
            pieces = [
                result
                for piece in pieces
                for result in (transform(piece) if piece.symbols is not None else [piece])
            ]
        return pieces


def _delay(piece: FramePiece, seconds: float) -> FramePiece:
    delay_ms = round(seconds * MS_PER_SECOND)
    return FramePiece(shift_times(piece.frame, lambda time: time - delay_ms), piece.symbols)


def _with_bad_price(piece: FramePiece) -> FramePiece:
    *rows, (last, _) = _rows_of(piece)
    bad_row = json.dumps({**json.loads(last), "p": _BAD_PRICE}, separators=(",", ":")).encode()
    return _join_rows([*rows, (bad_row, None)])


_MALFORMED = (
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
    b'{"type":"trade","data":' + b"[" * 5_000 + b"]" * 5_000 + b"}",
)


def malformed_frames() -> list[bytes]:
    """Return frames that have crashed clients (FAULTS.md, 39): control, unknown, broken, huge.

    They are sent as text frames. None of them holds a trade that can be recorded.
    """
    return [*_MALFORMED, b'{"type":"news","data":"' + b"x" * 10_000_000 + b'"}']
