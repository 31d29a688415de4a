"""Marks: what happened to the connection of a session, one type per event.

The feed and the recorder make them, and the tape keeps each as a line ``#<name> <facts as JSON>``.
Coverage, the report and the audit log derive from them, live and again from the tape. All times are
UTC epoch ns.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar, get_args

import msgspec

from stocktrace.text import describe_lag


class Mark(msgspec.Struct, frozen=True, tag_field="mark"):
    """Something that happened at ``stamp``."""

    stamp: int

    @property
    def name(self) -> str:
        """The mark's name on the tape."""
        return str(self.__struct_config__.tag)

    @property
    def facts(self) -> dict[str, Any]:
        """All fields but the stamp, as built-in types."""
        facts: dict[str, Any] = msgspec.to_builtins(self)
        del facts["mark"], facts["stamp"]
        return facts


class OpeningMark(Mark, frozen=True, tag="tape", kw_only=True, omit_defaults=True):
    """The first line of each tape: the connection and its tickers as the window begins.

    ``imported`` describes the source of an imported session.
    """

    session: str = ""
    connected: bool
    tickers: tuple[str, ...]
    imported: dict[str, str] = {}


class ConnectedMark(Mark, frozen=True, tag="connected"):
    """The handshake is done, and all ``tickers`` have been subscribed."""

    tickers: tuple[str, ...]


class LagMark(Mark, frozen=True, tag="lag"):
    """The feed is ``lag`` (ns) behind: it has received the trades until ``stamp - lag``.

    Written when that begins, at most once a second while it changes, and with 0 when it ends.
    """

    lag: int


class DisconnectedMark(Mark, frozen=True, tag="disconnected", omit_defaults=True):
    """A connection that had been listening is lost; ``start`` and ``lag`` as of its ``GapMark``.

    ``start`` is 0 on tapes of older versions.
    """

    reason: str
    start: int = 0
    lag: int = 0


class GapMark(Mark, frozen=True, tag="gap", omit_defaults=True):
    """No trade could be received from ``start`` until now.

    ``start`` is the last sign of life before the disconnect, or ``lag`` (ns) earlier if the feed
    was that far behind then. ``stamp`` is when all tickers were subscribed again, or when the feed
    ended. Trades near both edges may have arrived anyway.
    """

    start: int
    reason: str
    lag: int = 0


_GapT = TypeVar("_GapT", GapMark, DisconnectedMark)


def begin_earlier(mark: _GapT, heard_until: int) -> _GapT:
    """Let a gap begin with the newest trade received, if there is one (epoch ns, or 0)."""
    lag = mark.start - heard_until
    if not heard_until or lag <= 0:
        return mark
    reason = f"{mark.reason}; the feed was {describe_lag(lag)} behind"
    return msgspec.structs.replace(mark, start=heard_until, lag=lag, reason=reason)


class PausedMark(Mark, frozen=True, tag="paused"):
    """The process did not run since ``start``, or the clock was set, while the feed listened."""

    start: int
    reason: str


class SubscriptionMark(Mark, frozen=True, tag="subscription"):
    """The tickers of a live connection changed."""

    added: tuple[str, ...]
    removed: tuple[str, ...]

    def change(self, tickers: Iterable[str]) -> tuple[str, ...]:
        """Return the tickers that are subscribed after it, if those before it are ``tickers``."""
        removed = set(self.removed)
        return (*(ticker for ticker in tickers if ticker not in removed), *self.added)


class RefusedMark(Mark, frozen=True, tag="refused"):
    """The server does not serve ``tickers``; ``text`` is its error message."""

    tickers: tuple[str, ...]
    text: str


class CoveredMark(Mark, frozen=True, tag="covered"):
    """In a merged session: a time span in which ``sources`` listened, or nobody for ``reason``."""

    ticker: str
    start: int
    end: int
    reason: str
    sources: str


class EndedMark(Mark, frozen=True, tag="ended"):
    """The feed stopped listening for good."""


class UnknownMark(Mark, frozen=True):
    """A mark of a newer version, or a damaged one: its facts are not the ones its name requires."""

    name: str
    facts: dict[str, Any] = {}

    @property
    def is_damaged(self) -> bool:
        """True if the name is a known one."""
        return self.name in _NAMES


_KnownMark = (
    OpeningMark
    | ConnectedMark
    | LagMark
    | DisconnectedMark
    | GapMark
    | PausedMark
    | SubscriptionMark
    | RefusedMark
    | CoveredMark
    | EndedMark
)
_NAMES = frozenset(kind.__struct_config__.tag for kind in get_args(_KnownMark))


def parse_mark(stamp: int, name: str, facts: dict[str, Any]) -> Mark:
    """Return the mark with this name and these facts; see ``UnknownMark``."""
    try:
        mark: Mark = msgspec.convert({**facts, "mark": name, "stamp": stamp}, _KnownMark)
    except msgspec.ValidationError:
        return UnknownMark(stamp, name, facts)
    return mark
