"""All settings, and where their values come from.

In order of precedence: a flag, ``STOCKTRACE_<NAME>`` in the environment, the same in ``.env``,
``stocktrace.toml`` in the working folder, the default below.

The API key comes from ``FINNHUB_API_KEY`` in the environment or ``.env`` only: a flag would show it
in the list of processes. Whatever is missing or wrong raises ``SettingsError``, which names it.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from stocktrace import addresses
from stocktrace.addresses import FINNHUB, OFF
from stocktrace.errors import SettingsError, StocktraceError, describe, usage_or
from stocktrace.units import FOREVER, parse_duration, parse_keep, parse_patience, parse_size

SETTINGS_FILE = Path("stocktrace.toml")

_PREFIX = "STOCKTRACE_"
# The folder of deployments; prefect.yaml reads it, we do not.
_HOME = "STOCKTRACE_HOME"
_ENV_FILE = Path(".env")
_KEY = "finnhub_api_key"
_KEY_ALIASES = (_KEY, "api_key", "key", "token")
_TomlValue = str | int | float

# The text behind the validator is what `--help` calls such a value.
Seconds = Annotated[float, BeforeValidator(parse_duration), "DURATION"]
#: Seconds, or 0.
Patience = Annotated[float, BeforeValidator(parse_patience), "DURATION"]
#: Seconds, or ``None`` for "forever".
Keep = Annotated[float | None, BeforeValidator(parse_keep), "DURATION"]
Size = Annotated[int, BeforeValidator(parse_size), "SIZE"]
#: ``HOST:PORT``, or ``off``.
Listener = Annotated[str, BeforeValidator(addresses.parse_listener), "ADDRESS"]
Count = Annotated[int, Field(ge=1), "N"]


class Settings(BaseSettings):
    """All settings; each default has its reason in a comment."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX,
        env_file=_ENV_FILE,
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        populate_by_name=True,
    )

    finnhub_api_key: SecretStr | None = Field(None, validation_alias="FINNHUB_API_KEY", repr=False)
    data_dir: Annotated[Path, AfterValidator(addresses.local_lake_path), "PATH"] = Field(
        Path("data"), description="Folder for everything that is recorded."
    )
    # Empty: no lake (docs/decisions/0005-lake.md).
    lake: Annotated[str, AfterValidator(addresses.parse_lake_url), "URL"] = Field(
        "", description="Also send published files here: s3://, gs://, abfs:// or file://."
    )
    url: Annotated[str, AfterValidator(addresses.parse_feed_url), "URL"] = Field(
        FINNHUB, description="Address of the trade WebSocket."
    )
    # A second capture with the same key is usually a mistake, to be reported at once
    # (FINNHUB.md, #158).
    wait_for_key: Patience = Field(
        0.0, description="How long to wait for another capture with the same key to end."
    )
    # Without a host only this machine can connect, since nobody has to log in.
    metrics: Listener = Field(
        OFF, description='Serve /metrics (Prometheus) and /healthz on PORT or HOST:PORT, or "off".'
    )
    # Fresh Parquet against a fixed cost of 2 kB per file: 30 % at 10 minutes (docs/storage.md),
    # which compaction removes.
    roll_interval: Seconds = Field(600.0, description="Length of a window, aligned to the UTC day.")
    # About 1.5 million trades, so that the conversion of one window needs little memory.
    roll_size: Size = Field(
        128_000_000, gt=0, description="End a window early when its tape reaches this size."
    )
    # The tape is the truth, and data that you cannot download again is not deleted unasked.
    # Compressed, it takes 2.5 times as much space as its trades in Parquet (docs/storage.md).
    tape_retention: Keep = Field(None, description='How long to keep verified tapes, or "forever".')
    # A second copy of the Parquet data, which can be rebuilt from the tape byte by byte.
    csv_retention: Keep = Field(0.0, description='How long to keep published CSV, or "forever".')
    min_free_space: Size = Field(
        200_000_000, description="Stop cleanly when the disk has less free space than this."
    )

    # From here on: tuning, as `--help` shows it (`TUNING`).
    # A batch costs 4 ms whatever its size; with the tape behind it, waiting risks nothing.
    flush_interval: Seconds = Field(
        1.0, description="Maximum delay before a trade is written to CSV."
    )
    # A larger batch validates no faster (docs/performance.md).
    batch_rows: Count = Field(50_000, description="Maximum trades per validated batch.")
    # A queued trade takes about 300 bytes: 30 MB for one ticker, 150 MB for all.
    max_pending_rows_per_ticker: Count = Field(
        100_000, description="Maximum queued trades per ticker. Overflow is rebuilt from the tape."
    )
    max_pending_rows: Count = Field(
        500_000, description="Maximum queued trades. Overflow is rebuilt from the tape."
    )
    # Bounds the loss of a power cut. A killed process loses nothing: the system has the data.
    sync_interval: Seconds = Field(1.0, description="Time between two syncs of the tape to disk.")
    # Finnhub once took 65 s; trying again is better than waiting that long (FINNHUB.md).
    handshake_timeout: Seconds = Field(12.0, description="Maximum time for a handshake.")
    # Together, these two bound how late a lost connection is detected: 16 s and a tick.
    ping_interval: Seconds = Field(8.0, description="Time between two pings to the server.")
    pong_timeout: Seconds = Field(
        8.0, description="Reconnect if nothing arrives this long after a ping."
    )
    frame_timeout: Seconds = Field(
        10.0, description="Reconnect after a pause this long within a frame."
    )
    # Two and a half of Finnhub's heartbeats of 60 s.
    idle_timeout: Seconds = Field(150.0, description="Reconnect after this long without a frame.")
    backoff_base: Seconds = Field(
        1.0, description="Initial reconnect delay (upper bound, jittered)."
    )
    backoff_cap: Seconds = Field(
        60.0, description="Longest reconnect delay (upper bound, jittered)."
    )
    # The server needs a moment to release the old socket (FINNHUB.md, #158).
    backoff_floor: Seconds = Field(1.0, description="Shortest reconnect delay.")
    stable_after: Seconds = Field(
        60.0, description="A connection that lasts this long resets the backoff."
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        *_: PydanticBaseSettingsSource,
        **sources: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the sources in order of precedence; pydantic calls this."""
        file = InitSettingsSource(settings_cls, dict(read_settings_file(cls.model_fields)))
        names = ("init_settings", "env_settings", "dotenv_settings")
        return *(sources[name] for name in names), file

    @classmethod
    def load(cls, **given: Any) -> Settings:
        """Return the settings; those ``given``, unless ``None``, take precedence."""
        given = {name: value for name, value in given.items() if value is not None}
        if unknown := sorted(given.keys() - cls.model_fields.keys()):
            raise SettingsError(f"Unknown setting {', '.join(unknown)}.")
        _refuse_misspelt_variables(cls.model_fields)
        try:
            return cls(**given)
        except (UnicodeDecodeError, OSError) as error:
            raise usage_or(StocktraceError, error, SettingsError)(
                f"Cannot read {describe(error, _ENV_FILE)}."
            ) from None
        except ValidationError as error:
            raise SettingsError(_explain(error, given)) from None

    def key(self) -> str:
        """Return the API key, if it can be one."""
        key = self.finnhub_api_key.get_secret_value().strip() if self.finnhub_api_key else ""
        if not key:
            raise SettingsError(
                "Set FINNHUB_API_KEY in the environment or in a .env file. Get a free key at "
                "https://finnhub.io/register, or try `stocktrace demo` without one."
            )
        if not key.isascii() or not key.isprintable() or " " in key:
            raise SettingsError(
                "FINNHUB_API_KEY contains a space or a character that keys do not have."
            )
        return key

    def public(self) -> dict[str, str | int | float]:
        """Return all settings except the key, for reports and logs."""
        values = {name: FOREVER if value is None else value for name, value in self if name != _KEY}
        return {
            name: value if isinstance(value, (int, float)) else str(value)
            for name, value in values.items()
        }


#: The first setting that few users need to change; so are all after it.
TUNING = "flush_interval"


def read_settings_file(names: Collection[str]) -> dict[str, _TomlValue]:
    """Return the settings in ``stocktrace.toml``, all in ``names``; empty without such a file."""
    try:
        values = tomllib.loads(SETTINGS_FILE.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise usage_or(StocktraceError, error, SettingsError)(
            f"Cannot read {describe(error, SETTINGS_FILE)}."
        ) from None
    for name, value in values.items():
        if name not in names or name == _KEY:
            hint = (
                "The key belongs in FINNHUB_API_KEY, in the environment or in a .env file."
                if name.lower() in _KEY_ALIASES
                else _spelling_hint(name.lower().replace("-", "_"), names)
            )
            raise SettingsError(f"Unknown setting {name} in {SETTINGS_FILE}. {hint}")
        if isinstance(value, bool) or not isinstance(value, _TomlValue):
            raise SettingsError(
                f'{name} in {SETTINGS_FILE} must be a text or a number. Write it like "5m" or 10.'
            )
    return values


def _refuse_misspelt_variables(names: Collection[str]) -> None:
    """Refuse a variable with our prefix that nothing reads: it would be ignored silently."""
    known = {f"{_PREFIX}{name.upper()}" for name in names} | {_HOME}
    for variable in sorted(os.environ):
        if variable.startswith(_PREFIX) and variable not in known:
            raise SettingsError(f"Unknown setting {variable}. {_spelling_hint(variable, known)}")


def _spelling_hint(name: str, names: Collection[str]) -> str:
    close = difflib.get_close_matches(name, names, 1)
    return f"Did you mean {close[0]}?" if close else "See `stocktrace capture --help`."


def _explain(error: ValidationError, given: Collection[str]) -> str:
    """Return what is wrong with the first wrong setting, named as the user wrote it."""
    first = error.errors(include_url=False)[0]
    name = str(first["loc"][0]) if first["loc"] else "settings"
    where = f"{_PREFIX}{name.upper()}"
    if name in given:
        where = f"--{name.replace('_', '-')}"
    elif where not in os.environ and name in read_settings_file(Settings.model_fields):
        where = f"{name} in {SETTINGS_FILE}"
    message = first["msg"]
    if first["type"] == "value_error":  # ours, which is complete
        return f"{where}: {message.removeprefix('Value error, ')}"
    value = "the value" if name == _KEY else repr(first["input"])
    return f"{where}: {value} is not valid. {message}."
