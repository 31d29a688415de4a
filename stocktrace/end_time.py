"""How the end of a capture is given: for how long, or until when.

The one place for it: the command line, the flow and the form of the flow's parameters ask here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from typing import Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from stocktrace.calendar import session_close, us_extended_session, us_regular_session
from stocktrace.errors import SettingsError, StocktraceError, UsageError, is_usage
from stocktrace.units import parse_duration

#: What is asked of the calendar, and the hours it is asked of.
CLOSES = {"close": us_regular_session, "extended close": us_extended_session}

_WALL_TIME = re.compile(
    r"(?P<tomorrow>tomorrow +)?(?P<hour>\d{1,2}):(?P<minute>\d{2})(?::(?P<second>\d{2}))?"
    r"(?: +(?P<zone>\S+))?",
    re.ASCII,
)
#: What a form can tell to be none, before a run is made.
PATTERN = (
    rf"^({'|'.join(CLOSES)}|(tomorrow )?\d{{1,2}}:\d{{2}}(:\d{{2}})?"
    r"( [A-Za-z_]+(/[A-Za-z0-9_+-]+)*)?|\d{4}-\d{2}-\d{2}[T ]\d{2}:.+)$"
)
HELP = (
    "When to end: close (of the US session, also on half days), 'extended close', 16:00 (of this "
    "machine), '16:00 America/New_York', 'tomorrow 00:00 UTC' or 2026-11-23T16:00-05:00."
)


@dataclass(frozen=True, slots=True)
class CaptureSpan:
    """For how long (seconds), or until when (aware): exactly one of them."""

    duration: float | None
    until: datetime | None

    @classmethod
    def of(cls, lasting: str | None, until: str | None, now: datetime | None = None) -> Self:
        """The span in these words, asked at ``now``: aware, and by default the present.

        Raises:
            SettingsError: a word is wrong, or the time has passed.
            MarketClosed: ``close`` was asked for, and there is none any more today.
            UsageError: both are given, or none.
        """
        if lasting is not None and until is None:
            return cls(parse_duration(lasting), None)
        if until is None or lasting is not None:
            raise UsageError(
                "Say how long: lasting (--for 30m) or until (--until 16:00), one of them."
            )
        return cls(None, parse_until(until, (now or datetime.now(UTC)).astimezone()))


def parse_until(text: str, now: datetime) -> datetime:
    """The moment meant by ``text``; ``now`` is aware, in this machine's zone.

    ``close`` and ``extended close`` are those of today's session in New York. ``16:00`` or
    ``16:00:30`` is today, in the zone of ``now``; ``16:00 America/New_York`` is today in New York,
    whatever day it is here; ``tomorrow`` before either means the day after; else it is an ISO time
    like ``2026-11-23T16:00-05:00``.

    Raises:
        SettingsError: it is none, or has passed.
        MarketClosed: the market has no session today, or it has closed.
    """
    if text in CLOSES:
        return session_close(now, CLOSES[text])
    match = _WALL_TIME.fullmatch(text)
    try:
        if match is None:
            moment = datetime.fromisoformat(text)
            moment = moment if moment.tzinfo else _local_time(moment, now)
        else:
            moment = _wall_time(match, now)
    except SettingsError:
        raise
    except ValueError:
        raise SettingsError(
            f"{text!r} is no time: write it like 16:00, 16:00 America/New_York, close "
            "or 2026-11-23T16:00-05:00."
        ) from None
    # Two times of one zone compare by what the clock on the wall says, which is twice the same
    # when summer time ends.
    if moment.astimezone(UTC) <= now.astimezone(UTC):
        raise SettingsError(
            f"{text} has passed (it is {now.astimezone(moment.tzinfo):%Y-%m-%d %H:%M:%S %Z}): "
            "give a later time, with its date if it is not today."
        )
    return moment


def _wall_time(match: re.Match[str], now: datetime) -> datetime:
    at = time(int(match["hour"]), int(match["minute"]), int(match["second"] or 0))
    later = timedelta(days=1 if match["tomorrow"] else 0)
    if match["zone"] is None:
        return _local_time(datetime.combine(now.date() + later, at), now)
    zone = _time_zone(match["zone"])
    return datetime.combine(now.astimezone(zone).date() + later, at, zone)


def _time_zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        if not is_usage(error):  # an OSError about the value is the name of a folder of zones
            raise StocktraceError(f"The time zone {name!r} cannot be read: {error}.") from error
        raise SettingsError(
            f"{name!r} is no time zone: use an IANA name like America/New_York."
        ) from None


def _local_time(moment: datetime, now: datetime) -> datetime:
    """``moment`` in the zone of ``now``; the offset from UTC may change between the two."""
    here = now.astimezone()
    if (now.tzname(), now.utcoffset()) == (here.tzname(), here.utcoffset()):
        return moment.astimezone()
    return moment.replace(tzinfo=now.tzinfo)
