"""Who may be at a data folder at the same time: one that compacts, or many that compare.

And who may be at a session's windows: one that publishes, or many that read its tapes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from stocktrace.errors import StoreError
from stocktrace.store import lock
from stocktrace.store.layout import Layout


@contextlib.contextmanager
def alone(layout: Layout) -> Iterator[None]:
    """Nobody else compacts, and nobody verifies, meanwhile.

    Raises:
        StoreError: somebody does.
    """
    with _guarded(layout, lock.held(layout.compaction, {"what": "compaction"})):
        yield


@contextlib.contextmanager
def undisturbed(layout: Layout) -> Iterator[None]:
    """Nobody compacts meanwhile.

    Raises:
        StoreError: somebody does.
    """
    with _guarded(layout, lock.shared(layout.compaction)):
        yield


@contextlib.contextmanager
def publishing(layout: Layout, session: str) -> Iterator[None]:
    """Nobody else publishes or rebuilds windows of a session, or reads its tapes; waits for them.

    A capture that was cancelled may still publish a window when its session is recovered. The lock
    is that of the folder of tapes, which leaves no file behind, and not that of the session: the
    capture holds that one while others publish for it.
    """
    with _tapes(layout, session, exclusive=True):
        yield


@contextlib.contextmanager
def reading(layout: Layout, session: str) -> Iterator[None]:
    """Nobody replaces the tapes of a session meanwhile; waits until that is so."""
    with _tapes(layout, session, exclusive=False):
        yield


@contextlib.contextmanager
def _tapes(layout: Layout, session: str, *, exclusive: bool) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(FileNotFoundError):  # without tapes there is nothing to rebuild
            stack.enter_context(lock.folder(layout.tapes(session), exclusive=exclusive))
        yield


@contextlib.contextmanager
def _guarded(layout: Layout, guard: contextlib.AbstractContextManager[None]) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(guard)
        except BlockingIOError:
            raise StoreError(
                f"Another process compacts or verifies {layout.root}: try again when it has ended."
            ) from None
        yield
