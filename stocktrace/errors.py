"""Every exception that stocktrace raises on purpose.

    StocktraceError
    ├── UsageError: SettingsError, TickerError, MarketClosed
    ├── FeedError: PlanForbidden, TicksNotFound, InvalidResponse, ServerUnavailable, FeedStopped
    │   └── CannotConnect: KeyRefused, BadCertificate, WrongScheme, ProxyUnusable
    ├── KeyInUse, SessionNotRunning, SessionCrashed, ChangeTimeout, WireError
    └── StoreError: LayoutError, TapeError, DiskFull, ConversionError, LakeError

Attributes hold the facts. ``str()`` is one sentence for a person: what is wrong, and what to do.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

# The system's errors about a name, a permission or an address. All others are failures of the
# machine: a broken or full disk, a lost mount, a limit on open files.
_USAGE = frozenset(
    {
        *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR),
        *(errno.EEXIST, errno.ENAMETOOLONG, errno.EILSEQ, errno.ELOOP, errno.EINVAL),
        *(errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT),
    }
)


class StocktraceError(Exception):
    """Base class of all errors of this package."""


class UsageError(StocktraceError, ValueError):
    """The user can correct this; the message says how. Exit status 2.

    It is a ``ValueError`` because pydantic collects those from validators.
    """


class SettingsError(UsageError):
    """A setting is missing or wrong."""


class TickerError(UsageError):
    """A ticker that cannot be subscribed to or stored."""


class MarketClosed(UsageError):
    """The market has no session now; the message names the next one."""


class FeedError(StocktraceError):
    """The connection to Finnhub failed."""


class CannotConnect(FeedError):
    """The connection failed, and will fail in the same way until somebody changes something."""


@dataclass(eq=False)
class KeyRefused(CannotConnect):
    """The server refused the API key: HTTP 401 or 403 at the handshake, 401 from REST."""

    status: int

    def __str__(self) -> str:
        return (
            f"The server refused the API key (HTTP {self.status}). "
            "Check FINNHUB_API_KEY at https://finnhub.io/dashboard."
        )


@dataclass(eq=False)
class BadCertificate(CannotConnect):
    """The certificate of ``server`` cannot be verified: ``problem`` says why."""

    server: str
    problem: str
    remedy: str

    def __str__(self) -> str:
        return (
            f"The certificate of {self.server} cannot be verified ({self.problem}): {self.remedy}."
        )


@dataclass(eq=False)
class WrongScheme(CannotConnect):
    """The address of ``server`` must start with ``scheme``: one of the two uses TLS."""

    server: str
    scheme: str

    def __str__(self) -> str:
        speaks = "uses TLS" if self.scheme == "wss" else "does not use TLS"
        return (
            f"{self.server} {speaks}. Set STOCKTRACE_URL or --url to an address that starts with "
            f"{self.scheme}://."
        )


class ProxyUnusable(CannotConnect):
    """The proxy that the environment names refuses, or is not an HTTP proxy."""


class PlanForbidden(FeedError):
    """The plan of the API key does not include historical ticks: HTTP 403 from REST."""

    def __str__(self) -> str:
        return (
            "The plan of this API key has no historical ticks (HTTP 403); backfill and reconcile "
            "need them. See https://finnhub.io/pricing."
        )


class TicksNotFound(FeedError):
    """HTTP 404 from REST: it does not have the ticks of a ticker and date, or not yet."""


class InvalidResponse(FeedError):
    """A REST response that cannot be used, or holds less than it announced."""


class ServerUnavailable(FeedError):
    """REST did not answer, or answered with errors only, on every attempt."""


class FeedStopped(FeedError):
    """The feed's thread ended before the capture did; the reason is its ``__cause__``."""


@dataclass(eq=False)
class KeyInUse(StocktraceError):
    """Another capture uses the key; Finnhub allows one connection per key (FINNHUB.md, #158).

    ``place`` says where it runs, ``holder`` which one it is.
    """

    holder: str
    place: str = "on this host"

    def __str__(self) -> str:
        return (
            f"Another capture {self.place} already uses this API key ({self.holder}). "
            "Stop it first, or use a second key."
        )


class SessionNotRunning(StocktraceError):
    """The session is not running, or none is."""

    @classmethod
    def none(cls, root: Path) -> Self:
        """Return the error for a data folder without a running capture."""
        return cls(
            f"No capture is running in {root}. Start one with `stocktrace capture`, or name "
            "another data folder with --data-dir."
        )


@dataclass(eq=False)
class SessionCrashed(StocktraceError):
    """The process of a session ended without closing the session."""

    session: str

    def __str__(self) -> str:
        return (
            f"Session {self.session} crashed. Everything it received is on its tape. "
            "Run `stocktrace recover`."
        )


@dataclass(eq=False)
class ChangeTimeout(StocktraceError):
    """A running capture did not answer a request to change its tickers in time."""

    session: str
    within: float
    withdrawn: bool = field(kw_only=True)

    def __str__(self) -> str:
        if self.withdrawn:
            return (
                f"Session {self.session} did not accept the change within {self.within:g} s. "
                "The change was withdrawn; the tickers are as before."
            )
        return (
            f"Session {self.session} accepted the change, but did not report the result within "
            f"{self.within:g} s. See `stocktrace tickers list`."
        )


class WireError(StocktraceError):
    """A frame or trade that violates the protocol; ``str()`` is the reason."""


class StoreError(StocktraceError):
    """The disk failed, or a file on it is damaged."""


class LayoutError(StoreError):
    """A file name that does not follow the layout."""


class TapeError(StoreError):
    """A tape that cannot be read."""


@dataclass(eq=False)
class DiskFull(StoreError):
    """The disk is full, or below the required free space or the required number of inodes.

    ``free_inodes`` is set if inodes are what is missing: the disk can take no more files.
    """

    path: Path
    free_bytes: int
    free_inodes: int | None = None

    def __str__(self) -> str:
        left = f"{self.free_bytes / 1e6:.0f} MB"
        remedy = "Make room"
        if self.free_inodes is not None:
            left = f"{self.free_inodes:,} inodes (one for each file) and {left}"
            remedy = "Delete files that you do not need"
        return (
            f"The disk of {self.path} has only {left} left. {remedy}, then run "
            "`stocktrace recover`; nothing that was received is lost."
        )


class ConversionError(StoreError):
    """A written file does not equal its source, which is kept."""


class LakeError(StoreError):
    """The lake cannot be used, or holds different data; unsent files stay on this machine."""


def is_usage(error: Exception) -> bool:
    """Return whether a value from the user caused ``error``.

    If not, the machine failed, and the same value may work later.
    """
    from socket import gaierror  # slow to import, and needed after an error only

    if not isinstance(error, OSError) or isinstance(error, gaierror):
        return True
    return error.errno in _USAGE


def usage_or(
    kind: type[StocktraceError], error: Exception, usage: type[UsageError] = UsageError
) -> type[StocktraceError]:
    """Return the exception class to raise for ``error``: ``usage`` if the user caused it."""
    return usage if is_usage(error) else kind


def describe(error: BaseException, path: Path | None = None) -> str:
    """Return ``error`` in words, after the file that it is about: its own, or ``path``."""
    if isinstance(error, StocktraceError):
        return str(error)
    words, file = str(error) or type(error).__name__, None
    if isinstance(error, OSError) and error.strerror:
        words, file = error.strerror, error.filename
    return f"{file or path}: {words}" if file or path else words
