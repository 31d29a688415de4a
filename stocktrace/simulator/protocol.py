"""Finnhub's side of the conversation: what a client's message does to its subscriptions. Pure.

A subscribe that succeeds is not answered (FINNHUB.md, "Connection"); only refusals are.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from stocktrace.trade import is_ticker

PING = b'{"type":"ping"}'


class _Command(msgspec.Struct):
    type: Literal["subscribe", "unsubscribe"]
    symbol: str


class _Typed(msgspec.Struct):
    type: str


_decode = msgspec.json.Decoder(_Command).decode
_type_of = msgspec.json.Decoder(_Typed).decode


def error_frame(text: str) -> bytes:
    """The frame in which Finnhub complains."""
    return msgspec.json.encode({"msg": text, "type": "error"})


def is_error(frame: bytes) -> bool:
    """Whether ``frame`` is one in which Finnhub complains."""
    try:
        return _type_of(frame).type == "error"
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return False


TOO_MANY_SYMBOLS = error_frame("Subscribing to too many symbols")
# What Finnhub answers here is not known; an error frame is what clients must survive anyway.
INVALID_MESSAGE = error_frame("Invalid message")


@dataclass(slots=True)
class Subscriptions:
    """The symbols of one connection, in the order in which they were asked for.

    ``limit`` is how many there may be; 0: any number.
    """

    limit: int = 50
    unknown: Collection[str] = frozenset()
    names_invalid: bool = True
    symbols: dict[str, None] = field(default_factory=dict)

    def receive(self, message: str | bytes) -> bytes | None:
        """Obey a client's message; the error frame that answers it, or nothing."""
        if isinstance(message, bytes):  # a binary message; all of the protocol is text
            return INVALID_MESSAGE
        try:
            command = _decode(message)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            return INVALID_MESSAGE
        if command.type == "unsubscribe":
            self.symbols.pop(command.symbol, None)
            return None
        return self._subscribe(command.symbol)

    def _subscribe(self, symbol: str) -> bytes | None:
        if not is_ticker(symbol) or symbol in self.unknown:
            named = f" {symbol}" if self.names_invalid else ""
            return error_frame(f"Invalid symbol{named}")
        if self.limit and symbol not in self.symbols and len(self.symbols) >= self.limit:
            return TOO_MANY_SYMBOLS
        self.symbols[symbol] = None
        return None
