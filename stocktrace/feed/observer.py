"""Who is told of the feed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from stocktrace.gap import Gap


class FeedObserver(Protocol):
    """What is told of the feed; every call comes from the feed's thread, stamps are epoch ns."""

    def on_frames(self, stamp: int, frames: Sequence[bytes]) -> Iterable[str]:
        """Messages as received, all of one read; gives the texts of error frames so far."""

    def has_traded(self, ticker: str) -> bool:
        """Whether a trade of ``ticker`` ever came; asked when the server refuses one unnamed."""

    def on_refused(self, stamp: int, ticker: str, text: str) -> None:
        """The server does not serve ``ticker``; ``text`` is its word."""

    def on_tick(self, stamp: int) -> Iterable[str]:
        """Time passed without messages; gives the texts of error frames, too."""

    def on_connected(self, stamp: int, tickers: Sequence[str]) -> None:
        """The handshake is done and ``tickers`` have been asked for."""

    def on_disconnected(self, stamp: int, reason: str) -> None:
        """A connection that had listened is lost."""

    def on_gap(self, gap: Gap) -> None:
        """A loss is over, or the feed ends in the middle of one."""

    def on_subscription(self, stamp: int, added: Sequence[str], removed: Sequence[str]) -> None:
        """The tickers of a live connection have been changed."""

    def on_retry(self, stamp: int, reason: str, wait_s: float) -> None:
        """A dial failed or a connection was lost; the next dial is in ``wait_s``."""

    def on_notice(self, stamp: int, text: str) -> None:
        """Something that a person should know."""
