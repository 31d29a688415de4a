"""What is asked of a capture, from words to values; knows nothing of Prefect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Self

from stocktrace.end_time import CaptureSpan
from stocktrace.settings import Settings
from stocktrace.trade import parse_tickers


@dataclass(frozen=True, slots=True)
class CaptureRequest:
    """A capture that nothing is wrong with."""

    tickers: tuple[str, ...]
    span: CaptureSpan
    settings: Settings

    @classmethod
    def of(
        cls,
        tickers: Sequence[str],
        duration: str | None = None,
        until: str | None = None,
        now: datetime | None = None,
        **settings: str | None,
    ) -> Self:
        """The request in these words, asked at ``now``: aware, and by default the present.

        ``settings`` are given as ``Settings.load`` takes them.

        Raises:
            UsageError: something is wrong with it, or the market is closed (``MarketClosed``);
                nothing was made or changed.
        """
        span = CaptureSpan.of(duration, until, now)
        request = cls(parse_tickers(tickers), span, Settings.load(**settings))
        request.settings.key()
        return request
