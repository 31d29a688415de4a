"""A thread of a capture: what kills it is kept, and raised on the thread that waits for it."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable

from stocktrace.errors import StocktraceError, StoreError, describe


class WorkerThread(threading.Thread):
    """A thread that keeps what killed it, and then calls ``wake`` (the control thread)."""

    def __init__(self, name: str, work: Callable[[], None], wake: Callable[[], None]) -> None:
        # A daemon: one that hangs in the system must not hold up the process's end.
        super().__init__(name=f"stocktrace-{name}", daemon=True)
        # What it logs belongs where the capture's does: to the flow run, under Prefect.
        self._context, self._work = contextvars.copy_context(), work
        self._wake = wake
        self.failure: BaseException | None = None

    def run(self) -> None:
        """Work."""
        try:
            self._context.run(self._work)
        except BaseException as error:  # noqa: BLE001 - kept, and raised by the control thread
            self.failure = error
            self._wake()


def chain_failure(failure: BaseException) -> StocktraceError:
    """``failure`` of another thread as an error of ours, to be raised on this one."""
    if isinstance(failure, StocktraceError):
        return failure
    words = describe(failure)
    if not isinstance(failure, OSError):
        words = f"{type(failure).__name__}: {words}"
    error = StoreError(f"The capture stopped: {words}")
    error.__cause__ = failure
    return error
