"""Who may be at a data folder at the same time: one that compacts, or many that compare."""

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
def _guarded(layout: Layout, guard: contextlib.AbstractContextManager[None]) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(guard)
        except BlockingIOError:
            raise StoreError(
                f"Another process compacts or verifies {layout.root}: try again when it has ended."
            ) from None
        yield
