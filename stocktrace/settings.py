"""Settings: a flag, else ``STOCKTRACE_<NAME>``, else ``.env``, else ``stocktrace.toml``, else here.

The API key comes from ``FINNHUB_API_KEY`` (environment or ``.env``) and from nowhere else: a flag
would show it in the list of processes.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from stocktrace import settings_file
from stocktrace.errors import SettingsError, StocktraceError, is_usage
from stocktrace.lake_url import lake_url, local_path
from stocktrace.quantities import FOREVER, parse_duration, parse_keep, parse_patience, parse_size

_PREFIX = "STOCKTRACE_"
# The folder that deployments run in: prefect.yaml reads it, we do not.
_HOME = "STOCKTRACE_HOME"
FINNHUB = "wss://ws.finnhub.io"
OFF = "off"
LOOPBACK = "127.0.0.1"

_LISTENER = re.compile(
    r"(?:(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):)?(?P<port>\d{1,5})", re.ASCII
)


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


def _listener(address: object) -> str:
    """``HOST:PORT`` for what was given, or ``off``."""
    text = str(address)
    if text == OFF:
        return text
    match = _LISTENER.fullmatch(text)
    if match is None or int(match["port"]) > 65535:
        raise SettingsError(
            f"{text!r} is no address to listen on: write it like 9464, 0.0.0.0:9464 or {OFF}."
        )
    return f"{match['host'] or LOOPBACK}:{match['port']}"


def _refuse_misspelt(names: Iterable[str]) -> None:
    """A variable that nothing reads would be a setting that is silently not made."""
    known = {f"{_PREFIX}{name.upper()}" for name in names} | {_HOME}
    for variable in sorted(os.environ):
        if variable.startswith(_PREFIX) and variable not in known:
            close = difflib.get_close_matches(variable, known, 1)
            hint = f"did you mean {close[0]}?" if close else "see `stocktrace capture --help`."
            raise SettingsError(f"There is no setting {variable}: {hint}")


Seconds = Annotated[float, BeforeValidator(parse_duration)]
#: Seconds, perhaps none.
Patience = Annotated[float, BeforeValidator(parse_patience)]
Size = Annotated[int, BeforeValidator(parse_size)]
#: ``HOST:PORT``, or ``off``.
Listener = Annotated[str, BeforeValidator(_listener)]
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
    data_dir: Annotated[Path, AfterValidator(local_path)] = Field(
        Path("data"), description="Folder that everything is written to."
    )
    # An empty one is none. What is published here goes there, too (docs/decisions/0005-lake.md).
    lake: Annotated[str, AfterValidator(lake_url)] = Field(
        "", description="Store that published files are sent to: s3://, gs://, abfs://, file://."
    )
    # A second capture with a key is mostly a mistake, to be told at once (FINNHUB.md, #158).
    wait_for_key: Patience = Field(
        0.0, description="How long to wait for a capture with the same key to end, and take over."
    )

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

    # Without a host only this machine can ask: nobody has to log in.
    metrics: Listener = Field(
        OFF, description="PORT or HOST:PORT of /metrics (Prometheus) and /healthz, or off."
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
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """What goes before what; called by pydantic."""
        del file_secret_settings
        file = InitSettingsSource(settings_cls, dict(settings_file.read(cls.model_fields)))
        return init_settings, env_settings, dotenv_settings, file

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
            kind = SettingsError if is_usage(error) else StocktraceError
            raise kind(f"The file .env cannot be read: {error}.") from None
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            name = str(first["loc"][0]) if first["loc"] else "settings"
            where = f"STOCKTRACE_{name.upper()}"
            if name in given:
                where = f"--{name.replace('_', '-')}"
            elif where not in os.environ and name in settings_file.read(cls.model_fields):
                where = f"{name} in {settings_file.FILE}"
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
            name: value
            if isinstance(value, (int, float))
            else FOREVER
            if value is None
            else str(value)
            for name, value in self
            if name != "finnhub_api_key"
        }
