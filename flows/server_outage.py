"""Prefect's server when it does not answer: counted, told once, and told when it is over."""

from __future__ import annotations

import logging

from stocktrace.text import count_of

log = logging.getLogger("stocktrace.flow")


class ServerOutage:
    """What fails of one kind of call: ``cannot`` says what, ``again`` that it is over."""

    def __init__(self, cannot: str, again: str) -> None:
        self._cannot, self._again = cannot, again
        self._away = False
        #: Calls that failed.
        self.failures = 0

    def on_failure(self, error: Exception, *, silently: bool = False) -> None:
        """A call failed; what is recorded does not depend on it."""
        self.failures += 1
        if not self._away and not silently:
            log.warning("%s (%s); recording goes on", self._cannot, type(error).__name__)
        self._away = True

    def on_success(self) -> None:
        """A call did not fail."""
        if self._away:
            log.info("%s; %s failed", self._again, count_of(self.failures, "call"))
        self._away = False
