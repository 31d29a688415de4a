"""Finnhub's side of the protocol: what a client's message does to its subscriptions. No I/O.

Finnhub does not answer a subscribe that succeeds (FINNHUB.md, "Connection"), only refusals.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Literal

import msgspec

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

    ``limit`` is the maximum number of symbols; 0: no limit.
    """

    limit: int = 50
    unknown: Collection[str] = frozenset()
    names_invalid: bool = True
    symbols: dict[str, None] = field(default_factory=dict)

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
        if self.limit and symbol not in self.symbols and len(self.symbols) >= self.limit:
            return TOO_MANY_SYMBOLS
        self.symbols[symbol] = None
        return None
