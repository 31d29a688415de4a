"""Settings: a flag, else ``STOCKTRACE_<NAME>``, else ``.env``, else ``stocktrace.toml``, else here.

The API key comes from ``FINNHUB_API_KEY`` (environment or ``.env``) and from nowhere else: a flag
would show it in the list of processes.
"""
# MERGED """``stocktrace.toml`` in the working folder: settings by their names, ``roll_interval = "5m"``."""
# MERGED """The URL of a lake: which there are. It stands in reports and logs: nothing secret may be in it.
#
# Credentials belong into the variables of the store.
# """

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qs, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from stocktrace.errors import SettingsError, StocktraceError, is_usage
from stocktrace.units import FOREVER, parse_duration, parse_keep, parse_patience, parse_size

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


SETTINGS_FILE = Path("stocktrace.toml")

# It has a place of its own, which nobody puts under version control.
_TOML_KEY = "finnhub_api_key"
_TomlValue = str | int | float


def read_settings_file(names: Collection[str]) -> dict[str, _TomlValue]:
    """The settings in the file, of those called ``names``; none if there is no file.

    Raises:
        SettingsError: it cannot be read, or holds what is no setting.
    """
    try:
        found = tomllib.loads(SETTINGS_FILE.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        kind = SettingsError if is_usage(error) else StocktraceError
        raise kind(f"The file {SETTINGS_FILE} cannot be read: {error}.") from None
    for name, value in found.items():
        if name not in names or name == _TOML_KEY:
            raise SettingsError(
                f"There is no setting {name} in {SETTINGS_FILE}: {_spelling_hint(name, names)}"
            )
        if isinstance(value, bool) or not isinstance(value, _TomlValue):
            raise SettingsError(
                f'{name} in {SETTINGS_FILE} is no text or number: write it like "5m" or 10.'
            )
    return found


def _spelling_hint(name: str, names: Collection[str]) -> str:
    if name.lower() in (_TOML_KEY, "api_key", "key", "token"):
        return "the key belongs into FINNHUB_API_KEY, in the environment or in a .env file."
    close = difflib.get_close_matches(name.lower().replace("-", "_"), names, 1)
    return f"did you mean {close[0]}?" if close else "see `stocktrace capture --help`."


# The stores that a lake can be in, and what can be asked of them.
_LAKE_OPTIONS = {
    "s3": {"endpoint_override", "region", "scheme"},
    "gs": {"endpoint_override", "project_id", "scheme"},
    "abfs": {"blob_storage_authority", "dfs_storage_authority", "enable_tls"},
    "file": set[str](),
}


def _lake_pattern(scheme: str, options: set[str]) -> str:
    account = "([^\\s?@:]+@)?" if scheme == "abfs" else ""
    one = f"({'|'.join(sorted(options))})=[^\\s&]*"
    return f"{scheme}://{account}[^\\s?@]+" + (rf"(\?{one}(&{one})*)?" if options else "")


#: What a form can tell to be none, before a run is made: a secret is not written down even there.
LAKE_URL_PATTERN = f"^({'|'.join(_lake_pattern(*each) for each in _LAKE_OPTIONS.items())})$"


def is_lake_url(text: str) -> bool:
    """Whether ``text`` is the URL of a lake, and no path of this machine."""
    scheme, mark, _ = text.partition("://")
    return bool(mark) and scheme in _LAKE_OPTIONS


def parse_lake_url(url: str) -> str:
    """``url`` as it was given, but for a slash at its end; empty: none.

    Raises:
        SettingsError: it is no lake's, or has credentials in it.
    """
    if not url:
        return url
    try:
        parts = urlsplit(url)
    except ValueError:  # an IPv6 address that is none
        parts = urlsplit("")
    known = _LAKE_OPTIONS.get(parts.scheme)
    if known is None or not (parts.path if parts.scheme == "file" else parts.netloc):
        raise SettingsError(
            "That is no lake: write it like s3://bucket/prefix, gs://…, abfs://… or file:///path."
        )
    # Of Azure, container@account is an address.
    if parts.password or (parts.username and parts.scheme != "abfs"):
        raise SettingsError(
            "Take the credentials out of the URL of the lake: they belong into the variables of "
            "its store, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
        )
    if unknown := sorted(parse_qs(parts.query, keep_blank_values=True).keys() - known):
        raise SettingsError(
            f"The URL of the lake has an option {unknown[0]}: of {parts.scheme}:// there are "
            f"{', '.join(sorted(known)) or 'none'}."
        )
    return url.rstrip("/")


def local_lake_path(path: Path) -> Path:
    """``path``, if it is one of this machine.

    Raises:
        SettingsError: it is a lake's URL (of which a path has one slash).
    """
    if is_lake_url(str(path).replace(":/", "://", 1)):
        raise SettingsError(
            "The data folder is one of this machine. A lake is read by `stocktrace trades`, `bars` "
            "and `gaps` and sent to with --lake; it is not changed, and not compacted."
        )
    return path


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
    data_dir: Annotated[Path, AfterValidator(local_lake_path)] = Field(
        Path("data"), description="Folder that everything is written to."
    )
    # An empty one is none. What is published here goes there, too (docs/decisions/0005-lake.md).
    lake: Annotated[str, AfterValidator(parse_lake_url)] = Field(
        "", description="Store that published files are sent to: s3://, gs://, abfs://, file://."
    )
    # A second capture with a key is mostly a mistake, to be told at once (FINNHUB.md, #158).
    wait_for_key: Patience = Field(
        0.0, description="How long to wait for a capture with the same key to end, and take over."
    )

    # Freshness of the Parquet against 2 kB fixed cost a file: at 10 minutes 30 % (docs/storage.md),
    # which compaction takes away again.
    roll_interval: Seconds = Field(600.0, description="Length of a window, aligned to the UTC day.")
    # About 1.5 million trades: what one conversion holds of a window stays small.
    roll_size: Size = Field(
        128_000_000, gt=0, description="A tape of this size ends its window, too."
    )
    # Each batch costs 4 ms whatever it holds; with the tape behind it, waiting risks nothing.
    flush_interval: Seconds = Field(1.0, description="Longest wait of a trade for its CSV row.")
    # From here on a larger batch validates no faster (docs/performance.md).
    batch_rows: int = Field(50_000, ge=1, description="Trades that are validated at once.")
    # A trade in a queue takes about 300 bytes: 30 MB for one ticker, 150 MB for all.
    max_pending_rows_per_ticker: int = Field(
        100_000, ge=1, description="Trades that wait for one ticker; more are had from the tape."
    )
    max_pending_rows: int = Field(
        500_000, ge=1, description="Trades that wait in all; more are had from the tape."
    )
    # Bounds what a power cut costs; a kill costs nothing, for the data is with the system by then.
    sync_interval: Seconds = Field(1.0, description="Time between two syncs of the tape to disk.")
    min_free_space: Size = Field(
        200_000_000, description="Free space below which the capture ends in order."
    )

    # Without a host only this machine can ask: nobody has to log in.
    metrics: Listener = Field(
        OFF, description="PORT or HOST:PORT of /metrics (Prometheus) and /healthz, or off."
    )

    # The tape is the truth, and data that comes only once is not deleted unasked; compressed, it
    # takes two and a half times what its trades do in Parquet (docs/storage.md).
    tape_retention: Keep = Field(None, description="How long tapes stay that verify, or forever.")
    # A second copy of what is in Parquet, that can be had from the tape byte by byte.
    csv_retention: Keep = Field(
        0.0, description="How long CSV stays that is published, or forever."
    )

    # Finnhub was seen to take 65 s; a dial that slow is better tried again (FINNHUB.md).
    handshake_timeout: Seconds = Field(12.0, description="Bound of a connection's handshake.")
    # The two together bound how late a dead connection is noticed: 16 s and a tick.
    ping_interval: Seconds = Field(8.0, description="Time between two pings of ours.")
    pong_timeout: Seconds = Field(8.0, description="Time for any sign of life after a ping.")
    frame_timeout: Seconds = Field(10.0, description="Longest pause in the middle of a frame.")
    # Two of Finnhub's heartbeats of 60 s, and half of one.
    idle_timeout: Seconds = Field(150.0, description="Longest time without any frame.")
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
        file = InitSettingsSource(settings_cls, dict(read_settings_file(cls.model_fields)))
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
            elif where not in os.environ and name in read_settings_file(cls.model_fields):
                where = f"{name} in {SETTINGS_FILE}"
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
