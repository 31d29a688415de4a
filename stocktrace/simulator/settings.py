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
class RestSettings:
    """The behaviour of the REST side, its known faults included (FINNHUB.md, "REST").

    Raises:
        SettingsError: a value that no exchange can have.
    """

    # False: the free plan, which has no ticks (403).
    premium: bool = True
    # Most rows a page, whatever is asked for.
    page_limit: int = 25_000
    # Requests a minute; the free plan's are 60.
    per_minute: int = 60
    # What a 429 or 5xx says of when to come again, in seconds; Finnhub mostly says nothing.
    retry_after: int | None = None
    # The first requests are answered by these; 0 ends the connection, 200 is no fault.
    statuses: tuple[int, ...] = ()
    # New York dates that are answered by 404, as all are until their end.
    not_loaded: frozenset[str] = frozenset()
    # Rows of zeros fill a page up to what was asked for (#295).
    padding: bool = False
    # Pages go on behind the total, the last one again and again (#296).
    endless: bool = False
    # One in so many ticks is not there; 0: all are.
    missing: int = 0
    # To one in so many comes one that the live feed never sent; 0: to none.
    extra: int = 0

    def __post_init__(self) -> None:
        if self.page_limit < 1 or self.per_minute < 1:
            raise SettingsError("A page has at least one row, and a minute one request.")
        if min(self.missing, self.extra) < 0:
            raise SettingsError("Missing and extra ticks must not be below 0.")


@dataclass(frozen=True, slots=True)
class SimulatorSettings:
    """The behaviour of one simulated exchange; times are in seconds.

    Raises:
        SettingsError: a value that no exchange can have.
    """

    # A word that is no secret; a client must send it, as Finnhub's must.
    key: str = field(default="demo", repr=False)
    # 0: any free port, so that two exchanges never meet.
    port: int = 0
    # The free plan's 50 symbols a connection; 0: no limit.
    symbol_limit: int = 50
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
    # Give what is played as ticks on REST, too. None: no REST; ticks stay in memory, so that this
    # is for tests, not for hours of play.
    rest: RestSettings | None = None
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
        if min(self.ping_period, self.settle or 0, self.symbol_limit) < 0:
            raise SettingsError("Periods and limits of the exchange must not be below 0.")
