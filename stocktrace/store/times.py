"""Texts of times as numbers, exactly: nothing is rounded by way of a float."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal, InvalidOperation

import pyarrow as pa
import pyarrow.compute as pc

_NS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
_INT64 = 2**63


def epoch_ns(texts: pa.StringArray, unit: str, zone: str) -> pa.Int64Array:
    """Nanoseconds since the epoch (UTC); null where a text tells none.

    ``unit`` is that of numbers (``s``, ``ms``, ``us``, ``ns``), or ``iso`` for text like
    ``2026-11-23 14:30:00.123``, which is of ``zone`` if it has no offset from UTC. An hour that
    summer time skips or repeats tells none without one.
    """
    if unit == "iso":
        return _iso(texts, zone)
    try:
        return pc.multiply_checked(texts.cast(pa.int64()), _NS[unit])
    except pa.ArrowInvalid:  # fractions, or something odd
        return pa.array([_exactly(text, _NS[unit]) for text in texts.to_pylist()], pa.int64())


def _exactly(text: str, factor: int) -> int | None:
    try:
        number = int(Decimal(text) * factor)
    except (InvalidOperation, ValueError, OverflowError):
        return None
    return number if -_INT64 <= number < _INT64 else None


def _iso(texts: pa.StringArray, zone: str) -> pa.Int64Array:
    def zoned() -> pa.Array:
        return texts.cast(pa.timestamp("ns", "UTC"))

    def naive() -> pa.Array:
        return pc.assume_timezone(texts.cast(pa.timestamp("ns")), zone)

    for whole in (zoned, naive):
        found = _if_all(whole)
        if found is not None:
            return found
    if len(texts) == 1:
        return pa.nulls(1, pa.int64())
    # A few of them are odd, or some have an offset and some have none: find them by halves.
    half = len(texts) // 2
    return pa.concat_arrays([_iso(texts[:half], zone), _iso(texts[half:], zone)])


def _if_all(whole: Callable[[], pa.Array]) -> pa.Int64Array | None:
    try:
        return whole().cast(pa.int64())
    except pa.ArrowInvalid:
        return None
