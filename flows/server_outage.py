"""Calls that Prefect's server did not answer: counted, and logged when they begin and end."""

from __future__ import annotations

import logging

from stocktrace.text import count_of

log = logging.getLogger("stocktrace.flow")


class ServerOutage:
    """The failed calls of one kind: ``Prefect cannot <action>``."""

    def __init__(self, action: str) -> None:
        self._action = action
        self._is_down = False
        #: The number of failed calls.
        self.failures = 0

    def on_failure(self, error: Exception, *, silently: bool = False) -> None:
        """Count a call that failed. Recording does not depend on it."""
        self.failures += 1
        if not self._is_down and not silently:
            log.warning(
                "Prefect cannot %s (%s); recording continues", self._action, type(error).__name__
            )
        self._is_down = True

    def on_success(self) -> None:
        """End the outage, if there was one."""
        if self._is_down:
            failed = count_of(self.failures, "call")
            log.info("Prefect can %s again; %s failed", self._action, failed)
        self._is_down = False
