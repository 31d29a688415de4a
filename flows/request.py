"""What is asked of a capture, from words to values; knows nothing of Prefect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Self

from stocktrace.errors import UsageError
from stocktrace.settings import Settings, parse_duration, parse_until
from stocktrace.trade import parse_tickers


@dataclass(frozen=True, slots=True)
class Request:
    """A capture that nothing is wrong with: exactly one of ``lasting`` and ``until`` is given."""

    tickers: tuple[str, ...]
    lasting: float | None
    until: datetime | None
    settings: Settings

    @classmethod
    def of(
        cls,
        tickers: Sequence[str],
        lasting: str | None = None,
        until: str | None = None,
        **settings: str | None,
    ) -> Self:
        """The request in these words; ``settings`` are given as ``Settings.load`` takes them.

        Raises:
            UsageError: something is wrong with it; nothing was made or changed.
        """
        if (lasting is None) == (until is None):
            raise UsageError(
                "Say how long: lasting (--for 30m) or until (--until 16:00), one of them."
            )
        request = cls(
            parse_tickers(tickers),
            None if lasting is None else parse_duration(lasting),
            None if until is None else parse_until(until, datetime.now().astimezone()),
            Settings.load(**settings),
        )
        request.settings.key()
        return request
