"""Bounds and patience of a feed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from stocktrace.settings import Settings


@dataclass(frozen=True, slots=True)
class FeedPolicy:
    """Bounds and patience of a feed; seconds. The reasons stand beside the settings."""

    handshake_s: float
    ping_every_s: float
    pong_within_s: float
    frame_within_s: float
    silence_s: float
    backoff_base_s: float
    backoff_cap_s: float
    backoff_floor_s: float
    stable_s: float

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Those of ``settings``."""
        return cls(
            handshake_s=settings.handshake_within,
            ping_every_s=settings.ping_every,
            pong_within_s=settings.pong_within,
            frame_within_s=settings.frame_within,
            silence_s=settings.silence,
            backoff_base_s=settings.backoff_base,
            backoff_cap_s=settings.backoff_cap,
            backoff_floor_s=settings.backoff_floor,
            stable_s=settings.stable_after,
        )
