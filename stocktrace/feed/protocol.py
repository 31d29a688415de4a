"""Finnhub's messages, both ways. Pure: no socket, no file, no clock.

docs/finnhub.md lists the frames ("Messages"). Any other frame is counted and kept, and does not
affect the trades around it. ``decode`` has three decoders with the same results, which property
tests compare. ``bulk_decoder`` takes many frames that are spelled alike. The typed decoder takes
all frames in one call of msgspec. The exact decoder looks at each member of each trade. The first
two return ``None`` for a frame that they do not expect; the exact one explains it.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Annotated, Any, Literal, TypeGuard

import msgspec

from stocktrace.errors import WireError
from stocktrace.feed import bulk_decoder
from stocktrace.trade import Trade
from stocktrace.trade_columns import TradeColumns


@dataclass(frozen=True, slots=True)
class RefusedRow:
    """A trade that cannot be stored, or an unreadable frame (``row`` is ``None``)."""

    frame: bytes
    row: Any
    reason: str


@dataclass(slots=True)
class DecodedFrames:
    """The contents of some frames.

    ``rows`` are their trades, with a count for each frame, ``errors`` the texts of error frames.
    frames = ``trade_frames`` + ``control`` + ``undecodable``.
    """

    rows: TradeColumns
    trade_frames: int = 0
    control: int = 0
    undecodable: int = 0
    refused_trades: int = 0
    refusals: list[RefusedRow] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


class _Message(msgspec.Struct, gc=False):
    type: Literal["trade"]
    data: Annotated[list[Trade], msgspec.Meta(min_length=1)]


_decode_lines = msgspec.json.Decoder(_Message).decode_lines
# Bytes of frames for which the bulk decoder is used. Its fixed cost pays from about 500 trades on,
# and it takes up to twenty times the memory of the text.
_BULK_THRESHOLD = range(1 << 15, 1 << 23)
_CONTROL = frozenset({"ping", "news", "pr"})
_ERROR = b'"error"'

# Digits become "0", exponents "0e0", the point disappears, and all else becomes a space: sixteen
# digits in a row are then sixteen zeros. A float64 always holds fifteen (IEEE 754 double), unless
# an exponent makes the number too small; such numbers are left to the exact decoder, too.
_DIGITS = bytes(
    48 if byte in b"0123456789+-" else 101 if byte in b"eE" else 32 for byte in range(256)
)
_LONG = b"0" * 16
_EXPONENT = b"0e0"
# Every long number has eight digits in a row of every second character; a time in milliseconds
# does not.
_NUMBER = bytes(48 if byte in b"0123456789." else 32 for byte in range(256))
_HALF = b"0" * 8
# Levels of nesting that are kept of a refused row; its frame is kept in full.
_MAX_LEVELS = 16
# Characters of the server's text that a message quotes.
_MAX_QUOTE = 200
# Any other text stays a text, and is refused with a reason.
_JSON_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")


def decode(frames: Sequence[bytes]) -> DecodedFrames:
    """Decode ``frames``; never raises, whatever the server sends."""
    rows = bulk_decoder.decode_columns(frames, _BULK_THRESHOLD)
    if rows is not None:
        return DecodedFrames(rows, len(frames))
    lines = _typed_lines(frames)
    if lines is not None:
        return DecodedFrames(TradeColumns.of([line.data for line in lines]), len(lines))
    # A few frames are unusual: decode those exactly.
    decoded = DecodedFrames(TradeColumns.of([]))
    decoded.rows = TradeColumns.of([_decode_one(frame, decoded) for frame in frames])
    return decoded


def error_texts(frames: Sequence[bytes]) -> list[str]:
    """Return the texts of the error frames in ``frames``; other frames are not decoded."""
    text = b"".join(frames)
    # A search for one byte costs almost nothing, and member names of trades contain no "o".
    if b"o" not in text or _ERROR not in text:
        return []
    return decode([frame for frame in frames if _ERROR in frame]).errors


def _typed_lines(frames: Sequence[bytes]) -> list[_Message] | None:
    """Decode all messages in one typed call, if all of them hold valid trades."""
    text = b"\n".join(frames)
    if not _single_lines(frames) or _has_unusual_number(text):
        return None
    try:
        text.decode()  # the decoder does not check members that it skips
        lines = _decode_lines(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return lines if len(lines) == len(frames) else None


def _single_lines(frames: Sequence[bytes]) -> bool:
    """Return ``True`` if each frame is one line and one object."""
    # `}`, line feed, `{` occurs between two objects only, never within one. A search for one byte
    # costs almost nothing, for these three in a row 0.7 ns a byte.
    return (
        {frame[:1] for frame in frames} == {b"{"}
        and {frame[-1:] for frame in frames} == {b"}"}
        and b"\n" not in b"".join(frames)
    )


def _has_unusual_number(text: bytes) -> bool:
    """Return ``True`` if ``text`` may have a number that a float64 cannot hold."""
    # Two tests that nearly always suffice, at a third of the cost: a number is too small only with
    # a minus in its exponent, and every second one of sixteen characters makes eight.
    if b"-" not in text and _HALF not in text[::2].translate(_NUMBER):
        return False
    digits = text.translate(_DIGITS, b".")
    return _LONG in digits or _EXPONENT in digits


def _decode_one(frame: bytes, into: DecodedFrames) -> list[Trade]:
    """Return the trades of one frame; add everything else to ``into``."""
    lines = _typed_lines((frame,))
    if lines is None:
        return _decode_exactly(frame, into)
    into.trade_frames += 1
    return lines[0].data


def _decode_exactly(frame: bytes, into: DecodedFrames) -> list[Trade]:
    try:
        message = json.loads(frame.decode(), parse_float=_Number, parse_int=_Number)
    except (ValueError, RecursionError) as error:
        return _refuse_frame(frame, f"not JSON: {_shortened(error)}", into)
    kind = message.get("type") if isinstance(message, dict) else None
    if kind == "trade" and isinstance(message.get("data"), list):
        trades: list[Trade] = []
        into.trade_frames += 1
        for row in message["data"]:
            try:
                trades.append(_trade(row))
            except WireError as error:
                into.refused_trades += 1
                plain = "null" if row is None else _plain(row)  # None means the whole frame
                into.refusals.append(RefusedRow(frame, plain, str(error)))
        return trades
    if kind == "trade" or not isinstance(kind, str) or isinstance(kind, _Number):
        return _refuse_frame(frame, "no trades and no known type", into)
    if kind == "error":
        into.errors.append(_shortened(_plain(message.get("msg", ""))))
    elif kind not in _CONTROL:
        return _refuse_frame(frame, f"unknown type {_shortened(kind)}", into)
    into.control += 1
    return []


def _refuse_frame(frame: bytes, reason: str, into: DecodedFrames) -> list[Trade]:
    into.undecodable += 1
    into.refusals.append(RefusedRow(frame, None, reason))
    return []


class _Number(str):
    """A JSON number as text, so that no digit is lost before it is checked."""

    __slots__ = ()


def _trade(row: Any) -> Trade:
    """Return the trade in one element of ``data``; a ``WireError`` says what is wrong with it."""
    if not isinstance(row, dict):
        raise WireError("not an object")
    symbol, codes = row.get("s"), row.get("c")
    if not _is_text(symbol):
        raise WireError("symbol is missing or not a text")
    time = _int64(row.get("t"))
    price, volume = _float64("price", row.get("p")), _float64("volume", row.get("v"))
    if codes is not None and not (isinstance(codes, list) and all(map(_is_text, codes))):
        raise WireError("conditions are not a list of texts")
    return Trade(symbol, price, time, volume, None if codes is None else tuple(codes))


def _int64(number: object) -> int:
    with contextlib.suppress(InvalidOperation):
        if isinstance(number, _Number):
            value = Decimal(number)
            if -(2**63) <= value < 2**63 and value == value.to_integral_value():
                return int(value)
    raise WireError("time is missing or not a whole number of milliseconds")


def _float64(name: str, number: object) -> float:
    """Return ``number`` if a float64 holds all of it."""
    if not isinstance(number, _Number):
        raise WireError(f"{name} is missing or not a number")
    value = float(number)
    with contextlib.suppress(InvalidOperation):
        if math.isfinite(value) and Decimal(repr(value)) == Decimal(number):
            return value
    raise WireError(f"{name} {_shortened(number)} has more digits than float64 holds")


def _is_text(value: object) -> TypeGuard[str]:
    """Return ``True`` for Unicode text; JSON can also spell half of a surrogate pair."""
    return (
        isinstance(value, str)
        and not isinstance(value, _Number)
        and not any("\ud800" <= character <= "\udfff" for character in value)
    )


def _plain(value: Any, levels: int = _MAX_LEVELS) -> Any:
    """``value`` as every JSON writer accepts it: numbers as text, valid Unicode, few levels."""
    if isinstance(value, str):
        return _complete_text(value)
    if isinstance(value, (dict, list)) and not levels:
        return "..."
    if isinstance(value, dict):
        return {_complete_text(key): _plain(member, levels - 1) for key, member in value.items()}
    if isinstance(value, list):
        return [_plain(member, levels - 1) for member in value]
    return str(value) if isinstance(value, float) else value  # JSON has no NaN


def _complete_text(text: str) -> str:
    """Escape halves of surrogate pairs."""
    return str(text) if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def _shortened(value: object) -> str:
    text = _complete_text(str(value))
    return text if len(text) <= _MAX_QUOTE else text[: _MAX_QUOTE - 3] + "..."


def subscribe(symbol: str) -> str:
    """Return the message that subscribes ``symbol``."""
    return _command("subscribe", symbol)


def unsubscribe(symbol: str) -> str:
    """Return the message that unsubscribes ``symbol``."""
    return _command("unsubscribe", symbol)


def _command(kind: str, symbol: str) -> str:
    return _json({"type": kind, "symbol": symbol})


def encode(trades: Sequence[Trade]) -> bytes:
    """Return the frame in which a server sends ``trades``."""
    return msgspec.json.encode({"data": trades, "type": "trade"})


def frame_of(row: Any, numbers: Collection[str] = ("p", "t", "v")) -> bytes:
    """Return the frame with one row, valid or not, as a quarantine or a CSV file has it.

    The texts of the members ``numbers`` become numbers where JSON allows it, all digits kept.
    """
    members = []
    for name, value in row.items() if isinstance(row, dict) else ():
        if name in numbers and isinstance(value, str) and _JSON_NUMBER.fullmatch(value):
            text = value
        else:
            is_short = isinstance(value, (str, tuple)) and len(value) <= _MAX_QUOTE
            text = _cached_json(value) if is_short else _json(value)
        members.append(f"{_cached_json(name)}:{text}")
    return f'{{"data":[{{{",".join(members)}}}],"type":"trade"}}'.encode()


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


_cached_json = lru_cache(1 << 16)(_json)
