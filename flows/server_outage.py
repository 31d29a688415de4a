"""Calls that Prefect's server did not answer: counted, and logged when they begin and end."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from stocktrace.text import count_of

log = logging.getLogger("stocktrace.flow")


@dataclass(slots=True)
class ServerOutage:
    """The number of failed calls of one kind: ``Prefect cannot <action>``."""

    action: str
    failures: int = 0
    _is_down: bool = False

    def on_failure(self, error: Exception, *, silently: bool = False) -> None:
        """Count a call that failed. Recording does not depend on it."""
        self.failures += 1
        if not self._is_down and not silently:
            log.warning(
                "Prefect cannot %s (%s); recording continues", self.action, type(error).__name__
            )
        self._is_down = True

    def on_success(self) -> None:
        """End the outage, if there was one."""
        if self._is_down:
            calls = count_of(self.failures, "call")
            log.info("Prefect can %s again; %s failed", self.action, calls)
        self._is_down = False
