"""The end of a capture: a duration or an end time, as the command line and the flows accept it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from typing import Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from stocktrace.calendar import session_close, us_extended_session, us_regular_session
from stocktrace.errors import SettingsError, StocktraceError, UsageError, is_usage
from stocktrace.units import parse_duration

#: The words for the end of today's session in New York, and the hours they mean.
CLOSES = {"close": us_regular_session, "extended close": us_extended_session}

_WALL_TIME = re.compile(
    r"(?P<tomorrow>tomorrow +)?(?P<hour>\d{1,2}):(?P<minute>\d{2})(?::(?P<second>\d{2}))?"
    r"(?: +(?P<zone>\S+))?",
    re.ASCII,
)
#: The pattern with which a form rejects a text before it starts a run.
PATTERN = (
    rf"^({'|'.join(CLOSES)}|(tomorrow )?\d{{1,2}}:\d{{2}}(:\d{{2}})?"
    r"( [A-Za-z_]+(/[A-Za-z0-9_+-]+)*)?|\d{4}-\d{2}-\d{2}[T ]\d{2}:.+)$"
)
HELP = (
    "End time: close (of the US session, also on half days), 'extended close', 16:00 (local time), "
    "'16:00 America/New_York', 'tomorrow 00:00 UTC' or 2026-11-23T16:00-05:00."
)


@dataclass(frozen=True, slots=True)
class CaptureSpan:
    """A duration in seconds, or an end time (aware): exactly one of them."""

    duration: float | None
    until: datetime | None

    @classmethod
    def of(cls, duration: str | None, until: str | None, now: datetime | None = None) -> Self:
        """Parse a duration or an end time; ``now`` (aware) defaults to the present.

        Raises:
            UsageError: both are set, or neither; or as ``parse_until`` and ``parse_duration``.
        """
        if duration is not None and until is None:
            return cls(parse_duration(duration), None)
        if until is None or duration is not None:
            raise UsageError("Set a duration (--for 30m) or an end time (--until 16:00), not both.")
        return cls(None, parse_until(until, (now or datetime.now(UTC)).astimezone()))


def parse_until(text: str, now: datetime) -> datetime:
    """Parse an end time; ``now`` is aware, in this machine's time zone.

    ``close`` and ``extended close`` are those of today's session in New York. ``16:00`` or
    ``16:00:30`` is today, in the zone of ``now``; ``16:00 America/New_York`` is today in New York,
    whatever the date is here; ``tomorrow`` before either means the day after. Any other text is an
    ISO time like ``2026-11-23T16:00-05:00``.

    Raises:
        SettingsError: ``text`` is not a time, or the time has passed.
        MarketClosed: the market has no session today, or it has closed.
    """
    if text in CLOSES:
        return session_close(now, CLOSES[text])
    try:
        if match := _WALL_TIME.fullmatch(text):
            moment = _wall_time(match, now)
        else:
            moment = datetime.fromisoformat(text)
            moment = moment if moment.tzinfo else _local_time(moment, now)
    except SettingsError:
        raise
    except ValueError:
        raise SettingsError(
            f"{text!r} is not a time: write it like 16:00, 16:00 America/New_York, close "
            "or 2026-11-23T16:00-05:00."
        ) from None
    # Two times of one zone compare by local time, which repeats an hour when summer time ends.
    if moment.astimezone(UTC) <= now.astimezone(UTC):
        raise SettingsError(
            f"{text} has passed (it is {now.astimezone(moment.tzinfo):%Y-%m-%d %H:%M:%S %Z}): "
            "set a later time, with its date if it is not today."
        )
    return moment


def _wall_time(match: re.Match[str], now: datetime) -> datetime:
    at = time(int(match["hour"]), int(match["minute"]), int(match["second"] or 0))
    later = timedelta(days=1 if match["tomorrow"] else 0)
    if match["zone"] is None:
        return _local_time(datetime.combine(now.date() + later, at), now)
    zone = parse_time_zone(match["zone"])
    return datetime.combine(now.astimezone(zone).date() + later, at, zone)


def parse_time_zone(name: str) -> ZoneInfo:
    """Return a time zone by its IANA name.

    Raises:
        SettingsError: the zone does not exist; ``StocktraceError`` if its file cannot be read.
    """
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        if not is_usage(error):  # an OSError about the name means that it names a folder of zones
            raise StocktraceError(f"The time zone {name!r} cannot be read: {error}.") from error
        raise SettingsError(
            f"{name!r} is not a time zone: use an IANA name like America/New_York."
        ) from None


def _local_time(moment: datetime, now: datetime) -> datetime:
    """Return ``moment`` in the zone of ``now``, whose offset from UTC may change between them."""
    here = now.astimezone()
    if (now.tzname(), now.utcoffset()) == (here.tzname(), here.utcoffset()):
        return moment.astimezone()
    return moment.replace(tzinfo=now.tzinfo)
