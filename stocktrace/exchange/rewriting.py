"""Faults that change what is played on its way to one client. No I/O; the clock is given."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import msgspec

from stocktrace.exchange.cut import Piece, cut, retimed
from stocktrace.exchange.faults import Fault
from stocktrace.exchange.protocol import Subscriptions

# Late prints are some among many (FAULTS.md, 16).
_LATE_EVERY = 10
# No client's parser of numbers takes it, and every JSON parser does.
_NO_PRICE = "n/a"
_MS_PER_SECOND = 1000


class Distortion:
    """The states that faults have brought one connection into; ``now`` is monotonic seconds."""

    def __init__(self, subscriptions: Subscriptions, now: Callable[[], float]) -> None:
        self._subscriptions = subscriptions
        self._now = now
        self._states: dict[int, Callable[[Piece], list[Piece]]] = {}
        self._number = 0

    def begin(self, fault: Fault) -> Callable[[], None]:
        """Another fault is at work; gives what ends it."""
        self._number += 1
        number = self._number
        self._states[number] = self._state(fault)
        return lambda: self._states.pop(number, None) and None

    def _state(self, fault: Fault) -> Callable[[Piece], list[Piece]]:
        if fault.kind == "mute":
            return lambda _: []
        if fault.kind == "silent":
            return self._without(fault.symbol or next(iter(self._subscriptions.symbols), ""))
        return Rewrite(fault, self._now)

    def _without(self, symbol: str) -> Callable[[Piece], list[Piece]]:
        def silent(piece: Piece) -> list[Piece]:
            part = cut(piece, self._subscriptions.symbols.keys() - {symbol})
            return [] if part is None else [part]

        return silent

    def __bool__(self) -> bool:
        return bool(self._states)

    def __call__(self, piece: Piece) -> list[Piece]:
        """What takes the place of ``piece``, which need not be a frame of trades."""
        pieces = [piece]
        for state in self._states.values():
            pieces = [
                after
                for each in pieces
                for after in (state(each) if each.symbols is not None else [each])
            ]
        return pieces


class Rewrite:
    """One fault that rewrites frames of trades, at work from now on."""

    def __init__(self, fault: Fault, now: Callable[[], float]) -> None:
        self._fault = fault
        self._now = now
        self._began = now()
        self._frames = 0
        self._way: Callable[[Piece, tuple[str, ...]], list[Piece]] = {
            "duplicate": lambda piece, _: [piece] * fault.times,
            "copies": self._copies,
            "out-of-order": lambda piece, names: [Piece(_frame(_rows(piece)[::-1]), names[::-1])],
            "late": lambda piece, _: [_older(piece, fault.by) if self._tenth else piece],
            "lag": lambda piece, _: [_older(piece, fault.by * (self._now() - self._began))],
            "bad-row": lambda piece, _: [_spoilt(piece) if self._frames == 1 else piece],
            "truncate": lambda piece, _: [Piece(piece.frame[:-10], None)],
        }[fault.kind]

    def __call__(self, piece: Piece) -> list[Piece]:
        """What takes the place of ``piece``."""
        self._frames += 1
        return self._way(piece, piece.symbols or ())

    @property
    def _tenth(self) -> bool:
        return self._frames % _LATE_EVERY == 1

    def _copies(self, piece: Piece, symbols: tuple[str, ...]) -> list[Piece]:
        times = self._fault.times
        return [Piece(_frame(_rows(piece) * times), symbols * times)]


def _older(piece: Piece, seconds: float) -> Piece:
    back = round(seconds * _MS_PER_SECOND)
    return Piece(retimed(piece.frame, lambda time: time - back), piece.symbols)


def _spoilt(piece: Piece) -> Piece:
    *rows, last = _rows(piece)
    spoilt = json.dumps({**json.loads(last), "p": _NO_PRICE}, separators=(",", ":")).encode()
    return Piece(_frame([*rows, spoilt]), (piece.symbols or ())[:-1])


class _Rows(msgspec.Struct, gc=False):
    data: list[msgspec.Raw]


_decode_rows = msgspec.json.Decoder(_Rows).decode


def _rows(piece: Piece) -> list[bytes]:
    """The text of each trade, as it stands."""
    return [bytes(row) for row in _decode_rows(piece.frame).data]


def _frame(rows: Sequence[bytes]) -> bytes:
    return b'{"data":[' + b",".join(rows) + b'],"type":"trade"}'
