"""What can be set on the simulated exchange; each default is what Finnhub does, or says why not."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from stocktrace.errors import SettingsError

#: It listens here and nowhere else: whoever can reach it may be sent anything.
HOST = "127.0.0.1"

#: What a second connection with the same key does to the first (FINNHUB.md, #158).
SecondConnection = Literal["kills-old", "kills-both", "refused-429", "both-live"]


@dataclass(frozen=True, slots=True)
class ExchangeSettings:
    """The behaviour of one simulated exchange; times are in seconds.

    Raises:
        SettingsError: a value that no exchange can have.
    """

    # A word that is no secret; a client must send it, as Finnhub's must.
    key: str = field(default="demo", repr=False)
    # 0: any free port, so that two exchanges never meet.
    port: int = 0
    # The free plan's 50 symbols a connection; None or 0: no limit.
    symbol_limit: int | None = 50
    # Finnhub's heartbeat; the first comes 0-60 s after the connect. 0: none.
    ping_period: float = 60.0
    # Subscribes arrive one by one: waiting until none came for this long lets a replay at full
    # speed lose nothing to their order. None: play from the start, whoever listens.
    settle: float | None = 0.3
    # What users report most often when a key is used twice.
    second_connection: SecondConnection = "kills-old"
    # Symbols that are answered by "Invalid symbol"; no others are.
    unknown_symbols: frozenset[str] = frozenset()
    # "Invalid symbol FX:EURUSD": the text names the symbol since 2026, did not before.
    names_invalid_symbol: bool = True
    # For the time of each connection's first heartbeat.
    seed: int = 1
    # Keep every frame sent, and connections that ended: for tests, not for hours of play.
    keep: bool = False

    def __post_init__(self) -> None:
        if not self.key:
            raise SettingsError("The exchange's key must not be empty.")
        if not 0 <= self.port <= 65535:
            raise SettingsError(f"{self.port} is no port: use 0 (any free one) to 65535.")
        if self.second_connection not in get_args(SecondConnection):
            names = ", ".join(get_args(SecondConnection))
            raise SettingsError(f"A second connection can be one of {names}.")
        if self.ping_period < 0 or (self.settle or 0) < 0 or (self.symbol_limit or 0) < 0:
            raise SettingsError("Periods and limits of the exchange must not be below 0.")
