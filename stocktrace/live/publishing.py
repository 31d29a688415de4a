"""Rolled windows that are published as Parquet while the capture runs."""

from __future__ import annotations

import logging
from typing import Protocol

from stocktrace.record.journal import SessionJournal
from stocktrace.record.publish import PublishedWindow
from stocktrace.record.recorder import SealedWindow
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId


class PublishFuture(Protocol):
    """A window that is being published: a future of this process, or Prefect's."""

    def done(self) -> bool:
        """Return whether ``result`` would return, or raise, at once."""

    def result(self) -> PublishedWindow:
        """Wait for the window, or raise why publishing failed."""


class Publisher(Protocol):
    """Publishes a rolled window in the background; called on the thread that called ``capture``."""

    def __call__(self, layout: Layout, part: WindowId, *, whole: bool) -> PublishFuture:
        """Begin to publish; see ``record.publish.publish_window``."""


class WindowPublishing:
    """Passes rolled windows to ``publisher`` and records the results; one thread."""

    def __init__(self, layout: Layout, publisher: Publisher, journal: SessionJournal) -> None:
        self._layout, self._publisher, self._journal = layout, publisher, journal
        self._results: dict[str, PublishFuture] = {}
        #: Why windows are not published.
        self.failures: list[Exception] = []

    def publish(self, sealed: SealedWindow) -> None:
        """Begin to publish a window."""
        whole = not sealed.spilled
        self._results[sealed.part.window] = self._publisher(self._layout, sealed.part, whole=whole)

    def collect_finished(self, *, wait: bool) -> None:
        """Record the windows that have been published, or ``wait`` for all."""
        for window, future in list(self._results.items()):
            if not wait and not future.done():
                continue
            del self._results[window]
            try:
                published = future.result()
            except Exception as error:  # noqa: BLE001 - the capture continues, and then fails
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
