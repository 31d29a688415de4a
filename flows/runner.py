"""A runner of deployments whose SIGTERM ends its runs in order."""

from __future__ import annotations

import asyncio
from typing import Any

from prefect.runner import Runner


class DrainingRunner(Runner):
    """Prefect's, which on SIGTERM cancels its runs and waits for them (30 s), and then ends.

    That is what Prefect's own handler means to do; but called in the event loop its ``stop`` gives
    back a coroutine that nobody awaits (3.8.8), and the runs are killed when the process ends.
    """

    _draining: asyncio.Task[None] | None = None

    def handle_sigterm(self, *args: Any, **kwargs: Any) -> None:
        """Begin to stop; a second signal changes nothing."""
        del args, kwargs
        loop = asyncio.get_running_loop()  # a handler runs on the main thread, within its loop
        loop.call_soon_threadsafe(self._drain)

    def _drain(self) -> None:
        if self._draining is None:
            self._draining = asyncio.ensure_future(self.astop())
