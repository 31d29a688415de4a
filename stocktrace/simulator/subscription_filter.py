"""Cutting frames to what a connection subscribed to, and moving their times. Pure.

A frame of which every trade is wanted goes out as it stands, byte for byte; of another one only
the wanted trades go, each as its own text stands. What is no trade frame (control, odd, broken)
concerns everybody.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from typing import NamedTuple

import msgspec


class FramePiece(NamedTuple):
    """A frame, the symbol of each of its trades; ``None``: not a frame of trades."""

    frame: bytes
    symbols: tuple[str, ...] | None

    @property
    def trades(self) -> int:
        """How many trades the frame holds."""
        return len(self.symbols or ())


class _Named(msgspec.Struct, gc=False):
    s: str


class _Symbols(msgspec.Struct, gc=False):
    type: str
    data: list[_Named] = []


class _DataRows(msgspec.Struct, gc=False):
    data: list[msgspec.Raw]


_decode_lines = msgspec.json.Decoder(_Symbols).decode_lines
_decode_rows = msgspec.json.Decoder(_DataRows).decode
_ODD = (msgspec.DecodeError, UnicodeError, RecursionError)


def split_frames(frames: Sequence[bytes]) -> list[FramePiece]:
    """The frames with their symbols; one pass over all of them unless one is odd."""
    try:
        lines = _decode_lines(b"\n".join(frames))
    except _ODD:
        lines = []
    if len(lines) == len(frames):
        return [FramePiece(*named) for named in zip(frames, map(_symbols, lines), strict=True)]
    return [_piece(frame) for frame in frames]


def _piece(frame: bytes) -> FramePiece:
    try:
        lines = _decode_lines(frame)
    except _ODD:
        return FramePiece(frame, None)
    return FramePiece(frame, _symbols(lines[0]) if len(lines) == 1 else None)


def _symbols(line: _Symbols) -> tuple[str, ...] | None:
    return tuple([row.s for row in line.data]) if line.type == "trade" and line.data else None


def filter_piece(piece: FramePiece, wanted: Container[str]) -> FramePiece | None:
    """What of ``piece`` goes to a connection that wants these symbols, if anything does."""
    if piece.symbols is None:
        return piece
    keep = [symbol in wanted for symbol in piece.symbols]
    if all(keep):
        return piece
    if not any(keep):
        return None
    rows = _decode_rows(piece.frame).data
    wanted_rows = [bytes(row) for row, kept in zip(rows, keep, strict=True) if kept]
    symbols = tuple(symbol for symbol in piece.symbols if symbol in wanted)
    return FramePiece(b'{"data":[' + b",".join(wanted_rows) + b'],"type":"trade"}', symbols)


def shift_times(frame: bytes, move: Callable[[int], int]) -> bytes:
    """``frame`` with ``move`` applied to the ``t`` (UNIX ms) of each trade; odd ones stand."""
    try:
        message = msgspec.json.decode(frame)
    except _ODD:
        return frame
    rows = message.get("data") if isinstance(message, dict) else None
    timed = [row for row in rows if _has_time(row)] if isinstance(rows, list) else []
    for row in timed:
        row["t"] = move(row["t"])
    return msgspec.json.encode(message) if timed else frame


def _has_time(row: object) -> bool:
    return isinstance(row, dict) and type(row.get("t")) is int
