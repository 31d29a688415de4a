"""The settings of the simulator. Each default is what Finnhub does, or says why not."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, get_args

from stocktrace.errors import SettingsError

if TYPE_CHECKING:
    from stocktrace.simulator.tls import Authority

#: The only address it listens on: a client could otherwise be sent anything from anywhere.
HOST = "127.0.0.1"

#: What a second connection with the same key does to the first (FINNHUB.md, #158).
SecondConnection = Literal["kills-old", "kills-both", "refused-429", "both-live"]

#: What a symbol that is subscribed again means to the server; nobody knows what Finnhub does.
Resubscribe = Literal["ignored", "doubled", "counted"]


@dataclass(frozen=True, slots=True)
class RestSettings:
    """The behaviour of the REST side, its known faults included (FINNHUB.md, "REST").

    Raises:
        SettingsError: a value is invalid.
    """

    # False: the free plan, which has no ticks (403).
    premium: bool = True
    # Maximum rows a page, whatever limit the request has.
    page_limit: int = 25_000
    # Requests a minute; the free plan has 60.
    per_minute: int = 60
    # The Retry-After of a 429 or 5xx, in seconds; Finnhub mostly sends none.
    retry_after: int | None = None
    # The status of the first requests; 0 ends the connection, 200 means no fault.
    statuses: tuple[int, ...] = ()
    # New York dates that are answered by 404, as every date is until its end.
    not_loaded: frozenset[str] = frozenset()
    # Fill a page with rows of zeros up to the requested limit (#295).
    padding: bool = False
    # Repeat the last page for requests behind the total (#296).
    endless: bool = False
    # Leave out one tick in so many; 0: none.
    missing: int = 0
    # Add a tick that the live feed never sent to one in so many; 0: to none.
    extra: int = 0

    def __post_init__(self) -> None:
        if self.page_limit < 1 or self.per_minute < 1:
            raise SettingsError("page_limit and per_minute must be at least 1.")
        if min(self.missing, self.extra) < 0:
            raise SettingsError("missing and extra must not be below 0.")


@dataclass(frozen=True, slots=True)
class SimulatorSettings:
    """The behaviour of one simulator; times are in seconds.

    Raises:
        SettingsError: a value is invalid.
    """

    # The token that a client must send, as it must to Finnhub; not a secret.
    key: str = field(default="demo", repr=False)
    # 0: any free port, so that two simulators never collide.
    port: int = 0
    # Finnhub speaks TLS only. None: plain TCP, for which a client needs no certificate.
    tls: Authority | None = None
    # The free plan's 50 symbols a connection; 0: no limit.
    symbol_limit: int = 50
    # Finnhub's heartbeat; the first comes 0-60 s after the connect. 0: none.
    ping_period: float = 60.0
    # Subscribes arrive one by one: play starts when none came for this long, so that a replay at
    # full speed misses no ticker. None: play from the start, without waiting for a client.
    settle: float | None = 0.3
    # What users report most often when a key is used twice.
    second_connection: SecondConnection = "kills-old"
    # doubled: its trades are sent twice. counted: it uses another of the symbol_limit.
    resubscribe: Resubscribe = "ignored"
    # Symbols that are answered by "Invalid symbol"; no other ticker is.
    unknown_symbols: frozenset[str] = frozenset()
    # "Invalid symbol FX:EURUSD": the text names the symbol since 2026, before it did not.
    names_invalid_symbol: bool = True
    # Serve what is played as ticks on REST, too. None: no REST. Ticks stay in memory: for tests,
    # not for hours of play.
    rest: RestSettings | None = None
    # For the time of each connection's first heartbeat.
    seed: int = 1
    # Keep every frame sent, and connections that ended: for tests, not for hours of play.
    keep: bool = False

    def __post_init__(self) -> None:
        if not self.key:
            raise SettingsError("The simulator's key must not be empty.")
        if not 0 <= self.port <= 65535:
            raise SettingsError(
                f"{self.port} is not a port. Use 1 to 65535, or 0 for any free one."
            )
        for name, kind in (("second_connection", SecondConnection), ("resubscribe", Resubscribe)):
            value = getattr(self, name)
            if value not in get_args(kind):
                names = ", ".join(get_args(kind))
                raise SettingsError(f"{value!r} is not a valid {name}. Use one of {names}.")
        if min(self.ping_period, self.settle or 0, self.symbol_limit) < 0:
            raise SettingsError("ping_period, settle and symbol_limit must not be below 0.")
