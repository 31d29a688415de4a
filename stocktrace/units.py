"""Units of time and size: the conversions between them, and the texts in which people write them.

A time is an integer since the epoch (UTC): ns from the clock and on the tape, us on disk, ms in
Finnhub's messages. A name, or the docstring of the parameter, says which.

The functions that parse a text raise ``SettingsError`` if it is not valid or out of range.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from stocktrace.errors import SettingsError

MS_PER_SECOND = US_PER_MS = NS_PER_US = 1_000
US_PER_SECOND = NS_PER_MS = 1_000_000
NS_PER_SECOND = 1_000_000_000
SECONDS_PER_DAY = 86_400
MS_PER_DAY = SECONDS_PER_DAY * MS_PER_SECOND
US_PER_DAY = SECONDS_PER_DAY * US_PER_SECOND
NS_PER_DAY = SECONDS_PER_DAY * NS_PER_SECOND

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

FOREVER = "forever"

_SECONDS_PER_UNIT = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": float(SECONDS_PER_DAY)}
_UNIT = "|".join(_SECONDS_PER_UNIT)
_ZERO = rf"0+(?:\.0+)?(?:{_UNIT})?"
_PART = re.compile(rf"(\d+(?:\.\d+)?)({_UNIT})")
#: Patterns of the texts that the functions below accept, for forms that check them first.
DURATION = rf"(?:\d+(?:\.\d+)?(?:{_UNIT}))+"
PATIENCE = rf"(?:{_ZERO}|{DURATION})"
KEEP = rf"(?:{FOREVER}|{PATIENCE})"
_SHORTEST_S, _LONGEST_S = 0.001, 366.0 * SECONDS_PER_DAY
_SIZES = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([KMG]?B)?", re.IGNORECASE | re.ASCII)
# More than any disk holds, and well within 64 bits.
_LARGEST = 10**18


def utc_datetime(ns: int) -> datetime:
    """The time of ``ns`` since the epoch, cut to the microsecond."""
    return _EPOCH + timedelta(microseconds=ns // NS_PER_US)


def epoch_us(when: datetime) -> int:
    """Microseconds since the epoch; ``when`` is aware."""
    return (when - _EPOCH) // _MICROSECOND


def epoch_ns(when: datetime) -> int:
    """Nanoseconds since the epoch; ``when`` is aware."""
    return epoch_us(when) * NS_PER_US


def epoch_ms(when: datetime) -> int:
    """Milliseconds since the epoch, rounded down; ``when`` is aware."""
    return epoch_us(when) // US_PER_MS


def parse_duration(text: object) -> float:
    """Seconds in ``30s``, ``1h30m``, a number of seconds or a ``timedelta``: 1 ms to 366 days."""
    if isinstance(text, timedelta):
        seconds = text.total_seconds()
    elif isinstance(text, (int, float)):
        seconds = float(text)
    elif re.fullmatch(DURATION, str(text)):
        parts = _PART.findall(str(text))
        seconds = sum(float(number) * _SECONDS_PER_UNIT[unit] for number, unit in parts)
    else:
        raise SettingsError(f"{text!r} is not a duration: write it like 30s, 10m or 1h30m.")
    if not _SHORTEST_S <= seconds <= _LONGEST_S:
        raise SettingsError(f"{text!r} is not a duration between 1ms and 366d.")
    return seconds


def parse_patience(text: object) -> float:
    """Seconds, like ``parse_duration``, or 0."""
    return 0.0 if re.fullmatch(_ZERO, str(text)) else parse_duration(text)


def parse_keep(text: object) -> float | None:
    """Seconds to keep something: ``None`` for ``forever``, 0 for ``0s``."""
    if text is None or text == FOREVER:
        return None
    try:
        return parse_patience(text)
    except SettingsError:
        raise SettingsError(
            f"{text!r} is not a retention time: write it like 30d, 0s or {FOREVER}."
        ) from None


def parse_size(text: object) -> int:
    """Bytes in ``64MB``, ``1GB`` or a number."""
    match = _SIZE.fullmatch(str(text))
    if match is None:
        raise SettingsError(f"{text!r} is not a size: write it like 64MB or 1GB.")
    size = float(match[1]) * _SIZES[(match[2] or "").upper()]
    if size > _LARGEST:
        raise SettingsError(f"{text!r} is too large: use at most {_LARGEST // 10**9} GB.")
    return int(size)
