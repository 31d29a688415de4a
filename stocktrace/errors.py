"""Everything stocktrace raises on purpose.

    StocktraceError
    ├── UsageError            what the user asked for cannot be done: exit status 2
    │   ├── SettingsError     a setting is missing or wrong
    │   └── TickerError       a ticker that no file name or subscription can carry
    ├── FeedError             the connection
    │   ├── CannotConnect     another dial would end in the same way: final
    │   │   ├── KeyRefused    401 or 403 at the handshake, 401 of REST
    │   │   ├── BadCertificate  the server's certificate cannot be verified
    │   │   └── WrongScheme   ws:// where TLS is spoken, or wss:// where it is not
    │   ├── NotInPlan         403 of REST: the key is fine, its plan is not
    │   ├── NoSuchTicks       404 of REST: they are not there, or not yet
    │   ├── BadAnswer         an answer of REST that cannot be used
    │   ├── ServerAway        REST gives none, however often it is asked
    │   └── FeedStopped       the feed's thread died; the reason is its ``__cause__``
    ├── KeyInUse              another capture holds the same key
    ├── NotRunning            the capture that is meant does not run
    ├── Died                  its process is gone, and it did not end
    ├── NotTaken              a running capture did not answer in time
    ├── WireError             a frame that is not Finnhub's protocol (theirs, not ours)
    └── StoreError            the disk
        ├── LayoutError       a file name that is not of our grammar
        ├── TapeError         a tape that cannot be read on
        ├── DiskFull          no space, or too little to go on
        ├── ConversionError   a published file would not equal its source
        └── LakeError         the lake takes nothing, or something else than was sent

Facts are attributes; ``str()`` is one sentence for a person.
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Self

# The system's errors about a name, a permission or an address. Any other is a failure of the
# machine: a broken or full disk, a lost mount, a limit on open files.
_USAGE = frozenset(
    {
        *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR),
        *(errno.EEXIST, errno.ENAMETOOLONG, errno.EILSEQ, errno.ELOOP, errno.EINVAL),
        *(errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT),
    }
)


class StocktraceError(Exception):
    """Base of all errors of this package."""


class UsageError(StocktraceError, ValueError):
    """The user can mend it; the sentence says how. A ``ValueError``: those pydantic gathers."""


class SettingsError(UsageError):
    """A setting is missing or wrong."""


class TickerError(UsageError):
    """A ticker that cannot be subscribed to or stored."""


class MarketClosed(UsageError):
    """The market has no session now; the sentence tells the next one."""


class FeedError(StocktraceError):
    """The connection to the exchange."""


class CannotConnect(FeedError):
    """A dial failed, and another one would end in the same way until somebody changes something."""


class KeyRefused(CannotConnect):
    """The server refused the key at the handshake; trying again would not help."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status

    def __str__(self) -> str:
        return (
            f"The server refused the API key (HTTP {self.status}): "
            "check FINNHUB_API_KEY at https://finnhub.io/dashboard."
        )


class BadCertificate(CannotConnect):
    """The certificate of ``server`` cannot be verified: ``problem`` says why."""

    def __init__(self, server: str, problem: str, remedy: str) -> None:
        super().__init__(server, problem, remedy)
        self.server = server
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return (
            f"The certificate of {self.server} cannot be verified ({self.problem}): {self.remedy}."
        )


class WrongScheme(CannotConnect):
    """The address of ``server`` must begin with ``scheme``."""

    def __init__(self, server: str, scheme: str) -> None:
        super().__init__(server, scheme)
        self.server = server
        self.scheme = scheme

    def __str__(self) -> str:
        speaks = "speaks TLS" if self.scheme == "wss" else "does not speak TLS"
        return (
            f"{self.server} {speaks}: set STOCKTRACE_URL or --url to an address that begins with "
            f"{self.scheme}://."
        )


class PlanForbidden(FeedError):
    """The key may not ask for historical ticks: all of it would be refused."""

    def __str__(self) -> str:
        return (
            "The plan of this API key has no historical ticks (HTTP 403): to repair gaps and to "
            "reconcile takes a plan that has them, see https://finnhub.io/pricing."
        )


class TicksNotFound(FeedError):
    """The server has no ticks of a ticker and date, or has not loaded them yet."""


class InvalidResponse(FeedError):
    """What the server said cannot be used, or is less than it announced."""


class ServerUnavailable(FeedError):
    """The server did not answer, or only with errors, as often as it was asked."""


class FeedStopped(FeedError):
    """The feed ended before the capture did."""


class KeyInUse(StocktraceError):
    """One connection per key is all that Finnhub allows (FINNHUB.md, #158).

    ``place`` is where the other one runs, ``holder`` what is known of it.
    """

    def __init__(self, holder: str, place: str = "on this host") -> None:
        super().__init__(holder, place)
        self.holder = holder
        self.place = place

    def __str__(self) -> str:
        return (
            f"Another capture {self.place} already uses this API key ({self.holder}): "
            "stop it first, or use a second key."
        )


class SessionNotRunning(StocktraceError):
    """The capture that is meant does not run, or none does."""

    @classmethod
    def none(cls, root: Path) -> Self:
        """In the data folder ``root`` none does."""
        return cls(
            f"No capture runs in {root}: start one with `stocktrace capture`, or name the folder "
            "of one that runs with --data-dir."
        )


class SessionCrashed(StocktraceError):
    """The process of a session is gone, and it did not end."""

    def __init__(self, session: str) -> None:
        super().__init__(session)
        self.session = session

    def __str__(self) -> str:
        return (
            f"The process of session {self.session} died, so its books are not closed: what it "
            "received is on its tape, and `stocktrace recover` publishes it."
        )


class ChangeTimeout(StocktraceError):
    """A running capture did not tell in time what became of a change."""

    def __init__(self, session: str, within: float, *, withdrawn: bool) -> None:
        super().__init__(session, within)
        self.session = session
        self.within = within
        self.withdrawn = withdrawn

    def __str__(self) -> str:
        if self.withdrawn:
            return (
                f"Session {self.session} did not take the change within {self.within:g} s: "
                "it is withdrawn, nothing was changed."
            )
        return (
            f"Session {self.session} took the change, and did not tell within {self.within:g} s "
            "what became of it: see `stocktrace tickers list`."
        )


class WireError(StocktraceError):
    """A frame or trade that does not follow the protocol; ``str()`` is the reason."""


class StoreError(StocktraceError):
    """The disk, or what stands on it."""


class LayoutError(StoreError):
    """A file name that the layout did not write."""


class TapeError(StoreError):
    """A tape that cannot be read."""


class DiskFull(StoreError):
    """The file system has no room left, or less than the watermark."""

    def __init__(self, path: Path, free_bytes: int) -> None:
        super().__init__(path, free_bytes)
        self.path = path
        self.free_bytes = free_bytes

    def __str__(self) -> str:
        return (
            f"The disk of {self.path} has only {self.free_bytes / 1e6:.0f} MB left: "
            "make room, then run `stocktrace recover`; nothing that was received is lost."
        )


class ConversionError(StoreError):
    """What was written is not what was read; the source stays where it is."""


class LakeError(StoreError):
    """The lake cannot be used; what was to be sent waits on this machine."""


def is_usage(error: Exception) -> bool:
    """Return whether the value that the user gave caused the error.

    Another name or permission corrects it, so it is a ``UsageError``. If not, the machine failed,
    and the same value may work later.
    """
    from socket import gaierror  # costly to import, and needed only after an error

    if not isinstance(error, OSError) or isinstance(error, gaierror):
        return True
    return error.errno in _USAGE
