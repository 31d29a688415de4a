"""Prefect's server when it does not answer: counted, told once, and told when it is over."""

from __future__ import annotations

import logging

log = logging.getLogger("stocktrace.flow")


class Outage:
    """What fails of one kind of call: ``cannot`` says what, ``again`` that it goes on."""

    def __init__(self, cannot: str, again: str) -> None:
        self._cannot, self._again = cannot, again
        self._away = False
        #: Calls that failed.
        self.failures = 0

    def failed(self, error: Exception, *, silently: bool = False) -> None:
        """A call failed; the capture goes on."""
        self.failures += 1
        if not self._away and not silently:
            log.warning("%s (%s); the capture goes on", self._cannot, type(error).__name__)
        self._away = True

    def answered(self) -> None:
        """A call did not fail."""
        if self._away:
            log.info("%s; it could not %d times", self._again, self.failures)
        self._away = False
