"""The parameters that several flows have: each checked by Prefect's form before a run is made."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from stocktrace import end_time, settings, units

Ticker = Annotated[str, Field(pattern=r"^[A-Za-z0-9.:_\-/^][A-Za-z0-9.:_\-/^ ,]*$")]
Tickers = Annotated[list[Ticker], Field(min_length=1, examples=[["AAPL", "BINANCE:BTCUSDT"]])]
Duration = Annotated[str, Field(pattern=f"^{units.DURATION}$", examples=["30m"])]
Age = Annotated[str, Field(pattern=f"^{units.PATIENCE}$", examples=["7d"])]
Keep = Annotated[str, Field(pattern=f"^{units.KEEP}$", examples=["30d"])]
Until = Annotated[str, Field(pattern=end_time.PATTERN, examples=["close"])]
Date = Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$", examples=["2026-11-23"])]
# No "?" and no "@": a key in the address is refused before it is written anywhere.
Url = Annotated[str, Field(pattern=r"^wss?://[^\s?@]+$", examples=["wss://ws.finnhub.io"])]
LakeUrl = Annotated[str, Field(pattern=settings.LAKE_URL_PATTERN, examples=["s3://bucket/prefix"])]
