"""The URL of a lake: which there are. It stands in reports and logs: nothing secret may be in it.

Credentials belong into the variables of the store.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from stocktrace.errors import SettingsError

# The stores that a lake can be in, and what can be asked of them.
_OPTIONS = {
    "s3": {"endpoint_override", "region", "scheme"},
    "gs": {"endpoint_override", "project_id", "scheme"},
    "abfs": {"blob_storage_authority", "dfs_storage_authority", "enable_tls"},
    "file": set[str](),
}


def _pattern(scheme: str, options: set[str]) -> str:
    account = "([^\\s?@:]+@)?" if scheme == "abfs" else ""
    one = f"({'|'.join(sorted(options))})=[^\\s&]*"
    return f"{scheme}://{account}[^\\s?@]+" + (rf"(\?{one}(&{one})*)?" if options else "")


#: What a form can tell to be none, before a run is made: a secret is not written down even there.
PATTERN = f"^({'|'.join(_pattern(*each) for each in _OPTIONS.items())})$"


def is_lake(text: str) -> bool:
    """Whether ``text`` is the URL of a lake, and no path of this machine."""
    scheme, mark, _ = text.partition("://")
    return bool(mark) and scheme in _OPTIONS


def lake_url(url: str) -> str:
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
    known = _OPTIONS.get(parts.scheme)
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


def local_path(path: Path) -> Path:
    """``path``, if it is one of this machine.

    Raises:
        SettingsError: it is a lake's URL (of which a path has one slash).
    """
    if is_lake(str(path).replace(":/", "://", 1)):
        raise SettingsError(
            "The data folder is one of this machine. A lake is read by `stocktrace trades`, `bars` "
            "and `gaps` and sent to with --lake; it is not changed, and not compacted."
        )
    return path
