"""Rolled windows on their way to Parquet, while the capture goes on."""

from __future__ import annotations

import logging
from typing import Protocol

from stocktrace.record.journal import SessionJournal
from stocktrace.record.publish import PublishedWindow
from stocktrace.record.recorder import SealedWindow
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId


class PublishFuture(Protocol):
    """What is to come of a window's publishing: a future of this process, or Prefect's."""

    def done(self) -> bool:
        """Whether ``result`` would return, or raise, at once."""

    def result(self) -> PublishedWindow:
        """Wait for it, or raise why it failed."""


class Publisher(Protocol):
    """Publishes a rolled window in the background; called on the thread that called ``capture``."""

    def __call__(self, layout: Layout, part: WindowId, *, whole: bool) -> PublishFuture:
        """Begin; see ``publish``."""


class WindowPublishing:
    """Hands rolled windows to ``publisher`` and takes in what became of them; one thread."""

    def __init__(self, layout: Layout, publisher: Publisher, journal: SessionJournal) -> None:
        self._layout, self._publisher, self._journal = layout, publisher, journal
        self._results: dict[str, PublishFuture] = {}
        #: Why windows are not published.
        self.failures: list[Exception] = []

    def publish(self, sealed: SealedWindow) -> None:
        """Have a window published."""
        whole = not sealed.spilled
        self._results[sealed.part.window] = self._publisher(self._layout, sealed.part, whole=whole)

    def collect_finished(self, *, wait: bool) -> None:
        """Take in what was published meanwhile."""
        for window, result in list(self._results.items()):
            if not wait and not result.done():
                continue
            del self._results[window]
            try:
                published = result.result()
            except Exception as error:  # noqa: BLE001 - kept: the capture goes on, and then fails
                self.failures.append(error)
                self._journal.record(
                    "failure",
                    f"window {window} is not published: {error}",
                    logging.ERROR,
                    window=window,
                    error=str(error),
                )
                continue
            self._journal.window_published(published)
