"""Does somebody else use the key? (FINNHUB.md, #158.) Pure: told of each life, in seconds.

The server says nothing of it: it ends one of the two connections, or both, again and again.
"""

from __future__ import annotations

from dataclasses import dataclass

# Lives shorter than this, so many in a row, are hardly the network's doing.
SHORT_LIFE_S = 10.0
SHORT_LIVES = 3


@dataclass(slots=True)
class Rival:
    """Somebody else with the same key, as far as the lives of our connections tell."""

    _short_lives: int = 0

    def suspected(self, lived: float) -> str | None:
        """A connection ended that had lived for ``lived``; the suspicion, the moment it arises."""
        self._short_lives = self._short_lives + 1 if lived < SHORT_LIFE_S else 0
        if self._short_lives != SHORT_LIVES:
            return None
        return (
            f"{SHORT_LIVES} connections in a row ended within {SHORT_LIFE_S:g} s: "
            "is this API key in use elsewhere?"
        )
