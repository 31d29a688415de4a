"""Settings: a flag, else ``STOCKTRACE_<NAME>``, else the ``.env`` file, else the default here.

The API key comes from ``FINNHUB_API_KEY`` (environment or ``.env``) and from nowhere else: a flag
would show it in the list of processes.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from stocktrace.errors import SettingsError

_PREFIX = "STOCKTRACE_"
# The folder that deployments run in: prefect.yaml reads it, we do not.
_HOME = "STOCKTRACE_HOME"
FINNHUB = "wss://ws.finnhub.io"
FOREVER = "forever"

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h|d))+")
_PIECE = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SHORTEST_S, _LONGEST_S = 0.001, 366 * 86400.0
_SIZES = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([KMG]?B)?", re.IGNORECASE | re.ASCII)
_WALL_TIME = re.compile(
    r"(?P<hour>\d{1,2}):(?P<minute>\d{2})(?::(?P<second>\d{2}))?(?: +(?P<zone>\S+))?", re.ASCII
)
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
    elif _DURATION.fullmatch(str(text)):
        seconds = sum(float(number) * _UNITS[unit] for number, unit in _PIECE.findall(str(text)))
    else:
        raise SettingsError(f"{text!r} is no duration: write it like 30s, 10m or 1h30m.")
    if not _SHORTEST_S <= seconds <= _LONGEST_S:
        raise SettingsError(f"{text!r} is no duration to work with: between 1ms and 366d.")
    return seconds


def parse_keep(text: object) -> float | None:
    """Seconds to keep something; ``None`` for ``forever``, 0 for ``0`` or ``0s``.

    Raises:
        SettingsError: it is neither that nor a duration.
    """
    if text is None or text == FOREVER:
        return None
    if str(text) in ("0", "0.0", "0s", "0d"):
        return 0.0
    try:
        return parse_duration(text)
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


def parse_until(text: str, now: datetime) -> datetime:
    """The moment meant by ``text``; ``now`` is aware, in this machine's zone.

    ``16:00`` or ``16:00:30`` is today, in that zone; ``16:00 America/New_York`` is today in New
    York, whatever day it is here; else it is an ISO time like ``2026-11-23T16:00-05:00``.

    Raises:
        SettingsError: it is none, or has passed.
    """
    match = _WALL_TIME.fullmatch(text)
    try:
        if match is None:
            moment = datetime.fromisoformat(text)
            moment = moment if moment.tzinfo else _at_home(moment, now)
        elif match["zone"] is None:
            moment = _at_home(datetime.combine(now.date(), _time(match)), now)
        else:
            zone = _zone(match["zone"])
            moment = datetime.combine(now.astimezone(zone).date(), _time(match), zone)
    except SettingsError:
        raise
    except ValueError:
        raise SettingsError(
            f"{text!r} is no time: write it like 16:00, 16:00 America/New_York "
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


def _time(match: re.Match[str]) -> time:
    return time(int(match["hour"]), int(match["minute"]), int(match["second"] or 0))


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # OSError: the name of a folder of zones
        raise SettingsError(
            f"{name!r} is no time zone: use an IANA name like America/New_York."
        ) from None


def _at_home(moment: datetime, now: datetime) -> datetime:
    """``moment`` in the zone of ``now``; the offset from UTC may change between the two."""
    here = now.astimezone()
    if (now.tzname(), now.utcoffset()) == (here.tzname(), here.utcoffset()):
        return moment.astimezone()
    return moment.replace(tzinfo=now.tzinfo)


def _feed_url(url: str) -> str:
    if "token=" in url.lower() or "@" in url:
        raise SettingsError("Take the key out of the URL: it belongs into FINNHUB_API_KEY.")
    try:
        parts = urlsplit(url)
        sound = parts.scheme in ("ws", "wss") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port or an IPv6 address that is none
        sound = False
    if not sound:
        raise SettingsError(f"{url!r} is no WebSocket address: write it like {FINNHUB}.")
    return url


def _refuse_misspelt(names: Iterable[str]) -> None:
    """A variable that nothing reads would be a setting that is silently not made."""
    known = {f"{_PREFIX}{name.upper()}" for name in names} | {_HOME}
    for variable in sorted(os.environ):
        if variable.startswith(_PREFIX) and variable not in known:
            close = difflib.get_close_matches(variable, known, 1)
            hint = f"did you mean {close[0]}?" if close else "see `stocktrace capture --help`."
            raise SettingsError(f"There is no setting {variable}: {hint}")


Seconds = Annotated[float, BeforeValidator(parse_duration)]
Size = Annotated[int, BeforeValidator(parse_size)]
#: Seconds, or ``None``: forever.
Keep = Annotated[float | None, BeforeValidator(parse_keep)]


class Settings(BaseSettings):
    """Everything that can be set; each default has its unit in its type and its reason here."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX,
        env_file=".env",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        populate_by_name=True,
    )

    finnhub_api_key: SecretStr | None = Field(None, validation_alias="FINNHUB_API_KEY", repr=False)
    url: Annotated[str, AfterValidator(_feed_url)] = Field(
        FINNHUB, description="Address of the trade WebSocket."
    )
    data_dir: Path = Field(Path("data"), description="Folder that everything is written to.")

    # Freshness of the Parquet against 2 kB fixed cost a file: at 10 minutes 30 % (docs/storage.md),
    # which compaction takes away again.
    roll_every: Seconds = Field(600.0, description="Length of a window, aligned to the UTC day.")
    # About 1.5 million trades: what one conversion holds of a window stays small.
    roll_size: Size = Field(
        128_000_000, gt=0, description="A tape of this size ends its window, too."
    )
    # Each batch costs 4 ms whatever it holds; with the tape behind it, waiting risks nothing.
    flush_every: Seconds = Field(1.0, description="Longest wait of a trade for its CSV row.")
    # From here on a larger batch validates no faster (docs/performance.md).
    batch_rows: int = Field(50_000, ge=1, description="Trades that are validated at once.")
    # A trade in a queue takes about 300 bytes: 30 MB for one ticker, 150 MB for all.
    queue_rows: int = Field(
        100_000, ge=1, description="Trades that wait for one ticker; more are had from the tape."
    )
    backlog_rows: int = Field(
        500_000, ge=1, description="Trades that wait in all; more are had from the tape."
    )
    # Bounds what a power cut costs; a kill costs nothing, for the data is with the system by then.
    sync_every: Seconds = Field(1.0, description="Time between two syncs of the tape to disk.")
    min_free: Size = Field(
        200_000_000, description="Free space below which the capture ends in order."
    )

    # The tape is the truth, and data that comes only once is not deleted unasked; compressed, it
    # takes two and a half times what its trades do in Parquet (docs/storage.md).
    keep_tape: Keep = Field(None, description="How long tapes stay that verify, or forever.")
    # A second copy of what is in Parquet, that can be had from the tape byte by byte.
    keep_csv: Keep = Field(0.0, description="How long CSV stays that is published, or forever.")

    # Finnhub was seen to take 65 s; a dial that slow is better tried again (FINNHUB.md).
    handshake_within: Seconds = Field(12.0, description="Bound of a connection's handshake.")
    # The two together bound how late a dead connection is noticed: 16 s and a tick.
    ping_every: Seconds = Field(8.0, description="Time between two pings of ours.")
    pong_within: Seconds = Field(8.0, description="Time for any sign of life after a ping.")
    frame_within: Seconds = Field(10.0, description="Longest pause in the middle of a frame.")
    # Two of Finnhub's heartbeats of 60 s, and half of one.
    silence: Seconds = Field(150.0, description="Longest time without any frame.")
    backoff_base: Seconds = Field(1.0, description="First ceiling of the wait before a redial.")
    backoff_cap: Seconds = Field(60.0, description="Last ceiling of the wait before a redial.")
    # The server needs a moment to let go of the old socket (FINNHUB.md, #158).
    backoff_floor: Seconds = Field(1.0, description="Shortest wait before a redial.")
    stable_after: Seconds = Field(60.0, description="Life that makes a connection a success.")

    @classmethod
    def load(cls, **given: Any) -> Settings:
        """The settings, with those ``given`` (not ``None``) above all else.

        Raises:
            SettingsError: one is wrong; the sentence names it.
        """
        given = {name: value for name, value in given.items() if value is not None}
        unknown = given.keys() - cls.model_fields.keys()
        if unknown:
            raise SettingsError(f"There is no setting {', '.join(sorted(unknown))}.")
        _refuse_misspelt(cls.model_fields)
        try:
            return cls(**given)
        except (UnicodeDecodeError, OSError) as error:
            raise SettingsError(f"The file .env cannot be read: {error}.") from None
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            name = str(first["loc"][0]) if first["loc"] else "settings"
            where = f"--{name.replace('_', '-')}" if name in given else f"STOCKTRACE_{name.upper()}"
            raise SettingsError(f"{where}: {first['msg'].removeprefix('Value error, ')}") from None

    def key(self) -> str:
        """The API key.

        Raises:
            SettingsError: there is none.
        """
        key = self.finnhub_api_key.get_secret_value().strip() if self.finnhub_api_key else ""
        if not key:
            raise SettingsError(
                "Set FINNHUB_API_KEY, in the environment or in a .env file; "
                "a free key is at https://finnhub.io/register. Without one, try `stocktrace demo`."
            )
        if not key.isascii() or not key.isprintable() or " " in key:
            raise SettingsError("FINNHUB_API_KEY holds a blank or a character that no key has.")
        return key

    def public(self) -> dict[str, str | int | float]:
        """All settings but the key, for reports and logs."""
        return {
            name: value if isinstance(value, (int, float)) else str(value or FOREVER)
            for name, value in self
            if name != "finnhub_api_key"
        }
