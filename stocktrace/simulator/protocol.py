"""Finnhub's side of the protocol: what a client's message does to its subscriptions. No I/O.

Finnhub does not answer a subscribe that succeeds (FINNHUB.md, "Connection"), only refusals.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from stocktrace.simulator.settings import Resubscribe
from stocktrace.trade import is_ticker

PING = b'{"type":"ping"}'
#: What decoding a text that is not valid JSON, or not of the expected form, can raise.
DECODE_ERRORS = (msgspec.DecodeError, UnicodeError, RecursionError)


class _Command(msgspec.Struct):
    type: Literal["subscribe", "unsubscribe"]
    symbol: str


class _Typed(msgspec.Struct):
    type: str


_decode_command = msgspec.json.Decoder(_Command).decode
_decode_type = msgspec.json.Decoder(_Typed).decode


def error_frame(text: str) -> bytes:
    """Return an error frame as Finnhub sends it."""
    return msgspec.json.encode({"msg": text, "type": "error"})


def is_error(frame: bytes) -> bool:
    """Check whether ``frame`` is an error frame."""
    try:
        return _decode_type(frame).type == "error"
    except DECODE_ERRORS:
        return False


TOO_MANY_SYMBOLS = error_frame("Subscribing to too many symbols")
# Finnhub's real answer is not known. Clients must survive an error frame anyway.
INVALID_MESSAGE = error_frame("Invalid message")


@dataclass(slots=True)
class Subscriptions:
    """The symbols of one connection, in the order in which they were requested.

    ``limit`` is the maximum number of symbols; 0: no limit. ``resubscribe`` says what happens to a
    symbol that is subscribed again: nothing, its trades come twice, or it counts twice.
    """

    limit: int = 50
    unknown: Collection[str] = frozenset()
    names_invalid: bool = True
    resubscribe: Resubscribe = "ignored"
    #: Each with how often it was subscribed, at least 1.
    symbols: dict[str, int] = field(default_factory=dict)

    def receive(self, message: str | bytes) -> bytes | None:
        """Apply a client's message. Return the error frame that answers it, if any."""
        if isinstance(message, bytes):  # a binary message; the protocol is text only
            return INVALID_MESSAGE
        try:
            command = _decode_command(message)
        except DECODE_ERRORS:
            return INVALID_MESSAGE
        if command.type == "unsubscribe":
            self.symbols.pop(command.symbol, None)
            return None
        return self._subscribe(command.symbol)

    def _subscribe(self, symbol: str) -> bytes | None:
        if not is_ticker(symbol) or symbol in self.unknown:
            return error_frame(
                f"Invalid symbol {symbol}" if self.names_invalid else "Invalid symbol"
            )
        times = self.symbols.get(symbol, 0)
        if times and self.resubscribe == "ignored":
            return None
        used = sum(self.symbols.values()) if self.resubscribe == "counted" else len(self.symbols)
        is_counted = not times or self.resubscribe == "counted"
        if self.limit and is_counted and used >= self.limit:
            return TOO_MANY_SYMBOLS
        self.symbols[symbol] = times + 1
        return None

    def copies(self) -> list[Collection[str]]:
        """Return the symbols whose trades are sent, once for each time that they are sent."""
        if self.resubscribe != "doubled":
            return [self.symbols]
        return [
            {symbol for symbol, asked in self.symbols.items() if asked >= times}
            for times in range(1, max(self.symbols.values(), default=0) + 1)
        ]
