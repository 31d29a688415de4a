"""A thread of a capture, whose failure is raised on the thread that waits for it."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable

from stocktrace.errors import StocktraceError, StoreError, describe


class WorkerThread(threading.Thread):
    """Stores the exception that ends it, and calls ``wake`` then."""

    def __init__(self, name: str, work: Callable[[], object], wake: Callable[[], None]) -> None:
        # A daemon: a thread that hangs in a system call must not keep the process from ending.
        super().__init__(name=f"stocktrace-{name}", daemon=True)
        # Its messages belong to the capture's context: to the flow run, under Prefect.
        self._context, self._work = contextvars.copy_context(), work
        self._wake = wake
        self.failure: BaseException | None = None

    def run(self) -> None:
        """Run ``work``."""
        try:
            self._context.run(self._work)
        except BaseException as error:  # noqa: BLE001 - raised by the main thread
            self.failure = error
            self._wake()


def chain_failure(failure: BaseException) -> StocktraceError:
    """Return ``failure`` of another thread as an error to be raised on this one."""
    if isinstance(failure, StocktraceError):
        return failure
    words = describe(failure)
    if not isinstance(failure, OSError):
        words = f"{type(failure).__name__}: {words}"
    error = StoreError(f"The capture stopped: {words}")
    error.__cause__ = failure
    return error
