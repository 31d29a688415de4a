"""Rolled windows that are published as Parquet while the capture runs."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
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

    def __call__(self, layout: Layout, window: WindowId, *, whole: bool) -> PublishFuture:
        """Begin to publish; see ``record.publish.publish_window``."""


@dataclass(slots=True)
class WindowPublishing:
    """Passes rolled windows to ``publisher`` and records the results; one thread."""

    layout: Layout
    publisher: Publisher
    journal: SessionJournal
    #: Why windows are not published.
    failures: list[Exception] = field(default_factory=list)
    _results: dict[str, PublishFuture] = field(default_factory=dict)

    @property
    def is_pending(self) -> bool:
        """Return whether windows are being published."""
        return bool(self._results)

    def publish(self, sealed: SealedWindow) -> None:
        """Begin to publish a window."""
        whole = not sealed.spilled
        self._results[sealed.window.window] = self.publisher(
            self.layout, sealed.window, whole=whole
        )

    def collect_finished(self) -> None:
        """Record the windows that have been published."""
        for window, future in list(self._results.items()):
            if not future.done():
                continue
            del self._results[window]
            try:
                published = future.result()
            except Exception as error:  # noqa: BLE001 - the capture continues, and then fails
                self.failures.append(error)
                text = f"window {window} is not published: {error}"
                self.journal.record("failure", text, logging.ERROR, window=window, error=str(error))
            else:
                self.journal.window_published(published)
