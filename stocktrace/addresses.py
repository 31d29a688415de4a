"""Addresses in settings: of the feed, of what we serve, and of a lake.

The functions that parse or check an address raise ``SettingsError`` if it is not valid. The URL of
a lake appears in reports and logs, so it cannot hold credentials: those belong in the variables of
the store.
"""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from stocktrace.errors import SettingsError

FINNHUB = "wss://ws.finnhub.io"
OFF = "off"
LOOPBACK = "127.0.0.1"

_LISTENER = re.compile(
    r"(?:(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):)?(?P<port>\d{1,5})", re.ASCII
)
# Each store that can hold a lake, with the options that its URL may have.
_LAKE_OPTIONS = {
    "s3": {"endpoint_override", "region", "scheme"},
    "gs": {"endpoint_override", "project_id", "scheme"},
    "abfs": {"blob_storage_authority", "dfs_storage_authority", "enable_tls"},
    "file": set[str](),
}


def parse_feed_url(url: str) -> str:
    """Return ``url`` if it is the address of a WebSocket, without a key."""
    if "token=" in url.lower() or "@" in url:
        raise SettingsError("Take the key out of the URL; it belongs in FINNHUB_API_KEY.")
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("ws", "wss") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # an invalid port or IPv6 address
        valid = False
    if not valid:
        raise SettingsError(f"{url!r} is not a WebSocket address. Write it like {FINNHUB}.")
    return url


def parse_listener(address: object) -> str:
    """Return ``address`` as ``HOST:PORT``, or ``off``."""
    text = str(address)
    if text == OFF:
        return text
    match = _LISTENER.fullmatch(text)
    if match is None or int(match["port"]) > 65535:
        raise SettingsError(
            f"{text!r} is not an address to listen on. Write it like 9464, 0.0.0.0:9464 or {OFF}."
        )
    return f"{match['host'] or LOOPBACK}:{match['port']}"


def _lake_pattern(scheme: str, options: set[str]) -> str:
    account = "([^\\s?@:]+@)?" if scheme == "abfs" else ""
    option = f"({'|'.join(sorted(options))})=[^\\s&]*"
    return f"{scheme}://{account}[^\\s?@]+" + (rf"(\?{option}(&{option})*)?" if options else "")


#: Matches the URLs that ``parse_lake_url`` accepts; a form checks it before it stores a secret.
LAKE_URL_PATTERN = f"^({'|'.join(_lake_pattern(*each) for each in _LAKE_OPTIONS.items())})$"


def is_lake_url(text: str) -> bool:
    """Return whether ``text`` is the URL of a lake, and not a path on this machine."""
    scheme, separator, _ = text.partition("://")
    return bool(separator) and scheme in _LAKE_OPTIONS


def parse_lake_url(url: str) -> str:
    """Return ``url`` without a trailing slash; empty means without a lake."""
    if not url:
        return url
    try:
        parts = urlsplit(url)
    except ValueError:  # an invalid IPv6 address
        parts = urlsplit("")
    known = _LAKE_OPTIONS.get(parts.scheme)
    if known is None or not (parts.path if parts.scheme == "file" else parts.netloc):
        # Not repeated in the message: it may contain a secret.
        raise SettingsError(
            "This is not the URL of a lake. Write it like s3://bucket/prefix, gs://…, abfs://… or "
            "file:///path."
        )
    # On Azure, container@account is an address.
    if parts.password or (parts.username and parts.scheme != "abfs"):
        raise SettingsError(
            "Take the credentials out of the URL of the lake; they belong in the variables of "
            "its store, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
        )
    if unknown := sorted(parse_qs(parts.query, keep_blank_values=True).keys() - known):
        raise SettingsError(
            f"Unknown option {unknown[0]} in the URL of the lake. Options of {parts.scheme}://: "
            f"{', '.join(sorted(known)) or 'none'}."
        )
    return url.rstrip("/")


def local_lake_path(path: Path) -> Path:
    """Return ``path`` if it is on this machine."""
    # In the URL of a lake, ``Path`` leaves one slash.
    if is_lake_url(str(path).replace(":/", "://", 1)):
        raise SettingsError(
            "The data folder must be on this machine. `stocktrace trades`, `bars` and `gaps` read "
            "a lake, --lake sends to it, and `stocktrace compact --lake` compacts it."
        )
    return path
