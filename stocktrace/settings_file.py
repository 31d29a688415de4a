"""``stocktrace.toml`` in the working folder: settings by their names, ``roll_every = "5m"``."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Collection
from pathlib import Path

from stocktrace.errors import SettingsError, StocktraceError, is_usage

FILE = Path("stocktrace.toml")

# It has a place of its own, which nobody puts under version control.
_KEY = "finnhub_api_key"
_Value = str | int | float


def read(names: Collection[str]) -> dict[str, _Value]:
    """The settings in the file, of those called ``names``; none if there is no file.

    Raises:
        SettingsError: it cannot be read, or holds what is no setting.
    """
    try:
        found = tomllib.loads(FILE.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        kind = SettingsError if is_usage(error) else StocktraceError
        raise kind(f"The file {FILE} cannot be read: {error}.") from None
    for name, value in found.items():
        if name not in names or name == _KEY:
            raise SettingsError(f"There is no setting {name} in {FILE}: {_hint(name, names)}")
        if isinstance(value, bool) or not isinstance(value, _Value):
            raise SettingsError(f'{name} in {FILE} is no text or number: write it like "5m" or 10.')
    return found


def _hint(name: str, names: Collection[str]) -> str:
    if name.lower() in (_KEY, "api_key", "key", "token"):
        return "the key belongs into FINNHUB_API_KEY, in the environment or in a .env file."
    close = difflib.get_close_matches(name.lower().replace("-", "_"), names, 1)
    return f"did you mean {close[0]}?" if close else "see `stocktrace capture --help`."
