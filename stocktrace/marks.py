"""Marks: what happened to the connection of a session, one type per event.

The feed and the recorder make them, and the tape keeps each as a line ``#<name> <facts as JSON>``.
Coverage, the report and the audit log derive from them, live and again from the tape. All times are
UTC epoch ns.
"""

from __future__ import annotations

from typing import Any, get_args

import msgspec


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


class DisconnectedMark(Mark, frozen=True, tag="disconnected"):
    """A connection that had been listening is lost."""

    reason: str


class GapMark(Mark, frozen=True, tag="gap"):
    """No trade could be received from ``start`` until now.

    ``start`` is the last sign of life before the disconnect. ``stamp`` is when all tickers were
    subscribed again, or when the feed ended. Trades near both edges may have arrived anyway.
    """

    start: int
    reason: str


class PausedMark(Mark, frozen=True, tag="paused"):
    """The process did not run since ``start``, or the clock was set, while the feed listened."""

    start: int
    reason: str


class SubscriptionMark(Mark, frozen=True, tag="subscription"):
    """The tickers of a live connection changed."""

    added: tuple[str, ...]
    removed: tuple[str, ...]


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
