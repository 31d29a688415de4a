"""Decodes frames that are spelled alike into columns, without an object for each trade.

A server spells all its trades with the same members, in the same order, without spaces. Then the
colons after the names mark the values, and numpy and pyarrow take the values of many frames at
once: 0.4 µs a trade, compared with 0.75 µs through objects (docs/performance.md).

Nothing is assumed: each byte between two values is compared with the expected one, each text is
read by a JSON decoder (once, however often it occurs), and a number must consist of digits with at
most one point among them. For frames with anything else, the result is ``None``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from stocktrace.trade_columns import Codes, TradeColumns

# The text around the trades of a frame; recordings have two forms (docs/finnhub.md).
_FRAMES = ((b'{"data":[', b'}],"type":"trade"}\n'), (b'{"type":"trade","data":[', b"}]}\n"))
_MEMBERS = ("cpstv", "pstv")
# Masks for the four bytes `,"p"` as a number: the quotes, the first byte, the name.
_QUOTES, _QUOTED = 0xFF00FF00, int.from_bytes(b'\0"\0"', "little")
_FIRST, _NAME = 0xFF, 16
# A byte minus "0" is below ten for digits only.
_TEN = np.uint8(10)
# A float64 (IEEE 754 double) and an int64 always hold fifteen digits.
_DIGITS = 15
# Bounds of the cache of decoded tickers and lists of codes.
_MAX_TEXTS, _MAX_TEXT_BYTES = 1 << 14, 256

Positions = npt.NDArray[np.int64]


def decode_columns(
    frames: Sequence[bytes], sizes: range = range(sys.maxsize)
) -> TradeColumns | None:
    """Return the trades in ``frames``, if all are spelled alike and valid.

    ``sizes``: total bytes for which to try.
    """
    text = b"\n".join([*frames, b""])
    if len(text) not in sizes or text.count(b"\n") != len(frames):
        return None
    around = next((form for form in _FRAMES if text.startswith(form[0])), None)
    # Without backslashes, a quote begins or ends a text and is never part of one.
    if around is None or b"\\" in text or not text.isascii():
        return None
    try:
        return _parse(text, *around)
    except (pa.ArrowInvalid, msgspec.DecodeError):
        return None


def _parse(text: bytes, head: bytes, tail: bytes) -> TradeColumns | None:
    lines = np.flatnonzero(np.frombuffer(text, np.uint8) == ord("\n")) + 1
    begins = np.concatenate(([0], lines[:-1])) + len(head)
    tails = lines - len(tail)
    if (
        (tails < begins).any()
        or not _matches_at(text, begins - len(head), head)
        or not _matches_at(text, tails, tail)
    ):
        return None
    colons, members = _colon_positions(text)
    if "".join(sorted(members)) not in _MEMBERS:
        return None
    firsts = np.searchsorted(colons[:, 0], begins)
    counts = np.diff(firsts, append=len(colons))
    if not counts.all() or (colons[firsts, 0] != begins + len('{"p"')).any():
        return None
    # A trade ends where the next one begins, or its frame ends.
    ends = np.append(colons[1:, 0] - len('},{"p"'), tails[-1])
    between = _text_values(text, 3, "S3")[ends] == b"},{"
    lasts = firsts + counts - 1
    between[lasts] = True
    if not between.all():
        return None
    ends[lasts] = tails
    return _decode_rows(text, counts, members, colons, ends)


def _colon_positions(text: bytes) -> tuple[Positions, str]:
    """Return the colons after the names, one row per trade, and the names; "" if they differ."""
    colons = np.flatnonzero(np.frombuffer(text, np.uint8) == ord(":"))
    before = _text_values(text, 4, "<u4")[colons - 4]
    names = before & _QUOTES == _QUOTED  # of one letter: not those of the frame
    colons, before = colons[names], before[names]
    begins = np.flatnonzero(before & _FIRST == ord("{"))
    width = int(begins[1]) if len(begins) > 1 else len(before)
    if not width or len(before) % width:
        return colons, ""
    before = before.reshape(-1, width)
    spelled = before[0]
    first = spelled & _FIRST
    if (before != spelled).any() or first[0] != ord("{") or (first[1:] != ord(",")).any():
        return colons, ""
    return colons.reshape(-1, width), "".join(chr(name >> _NAME & 0xFF) for name in spelled)


def _decode_rows(
    text: bytes, counts: Positions, members: str, colons: Positions, ends: Positions
) -> TradeColumns | None:
    """Decode the values between each colon and the next name or the trade's end."""
    count, width = colons.shape
    edges = np.empty((count, 2 * width), np.int32)
    edges[:, 0::2] = colons + 1
    edges[:, 1:-1:2] = colons[:, 1:] - len(',"p"')
    edges[:, -1] = ends
    offsets = pa.py_buffer(np.append(edges.ravel(), np.int32(len(text))))
    pieces = pa.StringArray.from_buffers(2 * width * count, offsets, pa.py_buffer(text))
    places = np.arange(0, 2 * width * count, 2 * width, dtype=np.int32)

    def values(names: str) -> pa.StringArray:
        return pieces.take(np.concatenate([places + 2 * members.index(name) for name in names]))

    numbers = values("ptv")
    if not _are_json_numbers(numbers):
        return None
    ticker, tickers = _distinct_values(values("s"))
    codes, lists = np.zeros(count, np.int32), ["null"]
    if "c" in members:
        codes, lists = _distinct_values(values("c"))
    if max(map(len, (*tickers, *lists))) > _MAX_TEXT_BYTES:
        return None
    return TradeColumns(
        counts,
        ticker,
        list(map(_decode_ticker, tickers)),
        numbers[count : 2 * count].cast(pa.int64()).to_numpy(),
        numbers[:count].cast(pa.float64()).to_numpy(),
        numbers[2 * count :].cast(pa.float64()).to_numpy(),
        codes,
        list(map(_decode_codes, lists)),
    )


def _distinct_values(texts: pa.StringArray) -> tuple[npt.NDArray[np.int32], list[str]]:
    """Return the index of each text among the distinct ones, and these."""
    encoded = texts.dictionary_encode()
    return encoded.indices.to_numpy(), encoded.dictionary.to_pylist()


def _are_json_numbers(texts: pa.StringArray) -> bool:
    """Return ``True`` if all are JSON numbers of few digits, perhaps with a point."""
    _, offsets, buffer = texts.buffers()
    edges = np.frombuffer(offsets, np.int32, len(texts) + 1)
    letters = np.frombuffer(buffer, np.uint8, edges[-1])
    sizes = np.diff(edges)
    if not sizes.all() or sizes.max() > _DIGITS:
        return False
    digits = np.count_nonzero(letters - np.uint8(ord("0")) < _TEN)
    if digits + np.count_nonzero(letters == ord(".")) != len(letters):
        return False
    first, last = letters[edges[:-1]], letters[edges[1:] - 1]
    if (first == ord(".")).any() or (last == ord(".")).any():
        return False
    zeros = np.flatnonzero((first == ord("0")) & (sizes > 1))
    return bool((letters[edges[zeros] + 1] == ord(".")).all())


_decode_ticker: Callable[[str], str] = lru_cache(_MAX_TEXTS)(msgspec.json.Decoder(str).decode)
_decode_codes: Callable[[str], Codes] = lru_cache(_MAX_TEXTS)(msgspec.json.Decoder(Codes).decode)


def _matches_at(text: bytes, places: Positions, word: bytes) -> bool:
    """Return ``True`` if ``text`` has ``word`` at all ``places``."""
    return bool((_text_values(text, len(word), f"S{len(word)}")[places] == word).all())


def _text_values(text: bytes, size: int, dtype: str) -> npt.NDArray[Any]:
    """View ``text`` as an array of the ``size`` bytes from each place on."""
    return np.ndarray((len(text) - size + 1,), dtype, text, strides=(1,))
