"""What people write: durations, times to keep something, sizes."""

from __future__ import annotations

import re
from datetime import timedelta

from stocktrace.errors import SettingsError

FOREVER = "forever"

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_UNIT = "|".join(_UNITS)
_NONE = rf"0+(?:\.0+)?(?:{_UNIT})?"
_PIECE = re.compile(rf"(\d+(?:\.\d+)?)({_UNIT})")
#: What the functions below take, for forms that check it before.
DURATION = rf"(?:\d+(?:\.\d+)?(?:{_UNIT}))+"
PATIENCE = rf"(?:{_NONE}|{DURATION})"
KEEP = rf"(?:{FOREVER}|{PATIENCE})"
_SHORTEST_S, _LONGEST_S = 0.001, 366 * 86400.0
_SIZES = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([KMG]?B)?", re.IGNORECASE | re.ASCII)
# More than any disk holds, and well within 64 bits.
_LARGEST = 10**18


def parse_duration(text: object) -> float:
    """Seconds in ``30s``, ``10m``, ``1h30m``, a number of seconds or a ``timedelta``.

    Raises:
        SettingsError: it is none.
    """
    if isinstance(text, timedelta):
        seconds = text.total_seconds()
    elif isinstance(text, (int, float)):
        seconds = float(text)
    elif re.fullmatch(DURATION, str(text)):
        seconds = sum(float(number) * _UNITS[unit] for number, unit in _PIECE.findall(str(text)))
    else:
        raise SettingsError(f"{text!r} is no duration: write it like 30s, 10m or 1h30m.")
    if not _SHORTEST_S <= seconds <= _LONGEST_S:
        raise SettingsError(f"{text!r} is no duration to work with: between 1ms and 366d.")
    return seconds


def parse_patience(text: object) -> float:
    """Seconds, as ``parse_duration`` has them; 0, too.

    Raises:
        SettingsError: it is none.
    """
    return 0.0 if re.fullmatch(_NONE, str(text)) else parse_duration(text)


def parse_keep(text: object) -> float | None:
    """Seconds to keep something; ``None`` for ``forever``, 0 for ``0s``.

    Raises:
        SettingsError: it is neither that nor a duration.
    """
    if text is None or text == FOREVER:
        return None
    try:
        return parse_patience(text)
    except SettingsError:
        raise SettingsError(
            f"{text!r} is no time to keep something: write it like 30d, 0s or {FOREVER}."
        ) from None


def parse_size(text: object) -> int:
    """Bytes in ``64MB``, ``1GB`` or a number.

    Raises:
        SettingsError: it is none.
    """
    match = _SIZE.fullmatch(str(text))
    if match is None:
        raise SettingsError(f"{text!r} is no size: write it like 64MB or 1GB.")
    size = float(match[1]) * _SIZES[(match[2] or "").upper()]
    if size > _LARGEST:
        raise SettingsError(f"{text!r} is no size of a file: at most {_LARGEST // 10**9} GB.")
    return int(size)
